//! Devices as the virtio drivers want them: registers, memory for DMA, configuration space.

use abi::boot::DeviceRecord;
use abi::{Backing, Commit, PAGE_SIZE, Protection, Request, Span};
use core::arch::asm;
use core::sync::atomic::{Ordering, fence};
use runtime::System;
use virtio::{DmaMemory, PciFunction, Registers};

/// A mapped window of registers.
pub struct Window {
    base: usize,
    length: usize,
}

impl Window {
    /// Maps window `index` of a device; `None` if it has none or the kernel refuses.
    pub fn map(system: &System, record: &DeviceRecord, index: u32) -> Option<Self> {
        let window = record.windows.get(index as usize)?;
        if window.length == 0 {
            return None;
        }
        let lead = window.base % PAGE_SIZE;
        let length = (lead + window.length).next_multiple_of(PAGE_SIZE);
        let span = Span::new(system.take_space(length)?.base, length);
        let backing = Backing::Device { device: record.handle, window: index };
        system.map(span, backing, Protection::ReadWrite, Commit::Now).ok()?;
        Some(Self { base: (span.base + lead) as usize, length: window.length as usize })
    }
}

macro_rules! volatile {
    ($read:ident, $write:ident, $type:ty) => {
        fn $read(&self, offset: usize) -> $type {
            assert!(offset + size_of::<$type>() <= self.length);
            // SAFETY: inside of the mapping, which stays for ever; the drivers align their accesses.
            unsafe { ((self.base + offset) as *const $type).read_volatile() }
        }

        fn $write(&self, offset: usize, value: $type) {
            assert!(offset + size_of::<$type>() <= self.length);
            // SAFETY: as for reading.
            unsafe { ((self.base + offset) as *mut $type).write_volatile(value) }
        }
    };
}

impl Registers for Window {
    fn length(&self) -> usize {
        self.length
    }

    volatile!(read8, write8, u8);
    volatile!(read16, write16, u16);
    volatile!(read32, write32, u32);
}

/// Memory for one device's DMA.
pub struct Dma {
    base: usize,
    length: usize,
    physical: u64,
}

impl Dma {
    /// Takes `length` bytes for a device; `None` if there are none in one piece.
    pub fn take(system: &System, record: &DeviceRecord, length: usize) -> Option<Self> {
        let span = system.take_space((length as u64).next_multiple_of(PAGE_SIZE))?;
        let backing = Backing::Dma { device: record.handle };
        let physical = system.map(span, backing, Protection::ReadWrite, Commit::Now).ok()?;
        Some(Self { base: span.base as usize, length: span.length as usize, physical })
    }

    fn check(&self, offset: usize, bytes: usize) {
        assert!(offset.checked_add(bytes).is_some_and(|end| end <= self.length));
    }
}

macro_rules! dma_read {
    ($read:ident, $type:ty) => {
        fn $read(&self, offset: usize) -> $type {
            self.check(offset, size_of::<$type>());
            // SAFETY: inside of the mapping, aligned by the drivers; volatile, because the device writes it too.
            unsafe { ((self.base + offset) as *const $type).read_volatile() }
        }
    };
}

macro_rules! dma_write {
    ($write:ident, $type:ty) => {
        fn $write(&self, offset: usize, value: $type) {
            self.check(offset, size_of::<$type>());
            // SAFETY: as for reading.
            unsafe { ((self.base + offset) as *mut $type).write_volatile(value) }
        }
    };
}

impl DmaMemory for Dma {
    fn physical(&self) -> u64 {
        self.physical
    }

    fn length(&self) -> usize {
        self.length
    }

    dma_read!(read16, u16);
    dma_read!(read32, u32);
    dma_write!(write16, u16);
    dma_write!(write32, u32);
    dma_write!(write64, u64);

    fn copy_out(&self, offset: usize, into: &mut [u8]) {
        self.check(offset, into.len());
        // SAFETY: both ranges are valid and apart.
        unsafe { copy(into.as_mut_ptr() as usize, self.base + offset, into.len()) };
    }

    fn copy_in(&self, offset: usize, bytes: &[u8]) {
        self.check(offset, bytes.len());
        // SAFETY: both ranges are valid and apart.
        unsafe { copy(self.base + offset, bytes.as_ptr() as usize, bytes.len()) };
    }

    fn barrier(&self) {
        fence(Ordering::SeqCst);
    }
}

/// Copies by words, then the rest by bytes: an emulated CPU makes a step of each.
///
/// # Safety
/// Both ranges are mapped and do not overlap. One may be memory that a device or another domain changes at the same time: that is no undefined
/// behaviour for an instruction, as it would be for a slice.
pub unsafe fn copy(to: usize, from: usize, bytes: usize) {
    // SAFETY: the caller's.
    unsafe {
        asm!(
            "rep movsq", "mov rcx, {rest}", "rep movsb",
            rest = in(reg) bytes % 8,
            inout("rcx") bytes / 8 => _, inout("rsi") from => _, inout("rdi") to => _,
            options(nostack, preserves_flags),
        );
    }
}

/// A PCI function.
pub struct Function<'a> {
    /// The kernel's way.
    pub system: &'a System,
    /// Which.
    pub record: &'a DeviceRecord,
}

impl PciFunction for Function<'_> {
    type Window = Window;

    fn read_config(&self, offset: u8) -> u32 {
        let request = Request::ReadConfig { device: self.record.handle, offset: u32::from(offset) };
        self.system.kernel().call(request).map_or(u32::MAX, |value| value as u32)
    }

    fn write_config(&self, offset: u8, value: u32) {
        let request = Request::WriteConfig { device: self.record.handle, offset: u32::from(offset), value };
        // What the kernel keeps for itself the drivers do not need to change.
        let _ = self.system.kernel().call(request);
    }

    fn window(&self, bar: u8) -> Option<Window> {
        Window::map(self.system, self.record, u32::from(bar))
    }
}

/// Reads a register of the real-time clock, whose ports must be open.
pub fn read_cmos(register: u8) -> u8 {
    let value;
    // SAFETY: ports 0x70 (index) and 0x71 (data) are ours; if they were not, the CPU would raise #GP.
    unsafe {
        asm!("out 0x70, al", "in al, 0x71", inout("al") register => value, options(nomem, nostack, preserves_flags));
    }
    value
}
