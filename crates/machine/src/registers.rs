//! Memory-mapped device registers.

/// 32-bit registers of a device, mapped uncached for the kernel and never unmapped.
#[derive(Clone, Copy, Debug)]
pub struct Registers(*mut u32);

// SAFETY: a device does not care which CPU talks to it; who may is decided by who holds the value.
unsafe impl Send for Registers {}
// SAFETY: as above; each access is one that the device takes whole.
unsafe impl Sync for Registers {}

impl Registers {
    /// Registers at a virtual address.
    ///
    /// # Safety
    /// As many bytes as will be used by offset must be mapped there, uncached, for ever, and belong to a device.
    pub const unsafe fn new(address: u64) -> Self {
        Self(address as *mut u32)
    }

    /// Reads the register at `offset`, in bytes, a multiple of 4.
    pub fn read(self, offset: usize) -> u32 {
        // SAFETY: `new` was promised that this is mapped.
        unsafe { self.0.byte_add(offset).read_volatile() }
    }

    /// Writes the register at `offset`, in bytes, a multiple of 4.
    pub fn write(self, offset: usize, value: u32) {
        // SAFETY: `new` was promised that this is mapped, and that it is a device's: no memory of Rust changes.
        unsafe { self.0.byte_add(offset).write_volatile(value) }
    }
}
