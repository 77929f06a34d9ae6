//! What a domain is told when it starts.

use crate::{Handle, Span};

/// What the first instruction of a domain finds at the address in `rdi`, in a page that it can only read. The kernel
/// lays it out for the first domain, whoever makes another domain for that one.
/// `rsp` holds the end of a stack of [`BootInfo::STACK_BYTES`] bytes with a guard page below; the other registers are zero.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct BootInfo {
    /// [`BootInfo::MAGIC`].
    pub magic: u64,
    /// [`BootInfo::VERSION`]: both sides must agree exactly.
    pub version: u32,
    /// How many of `devices` are there.
    pub device_count: u32,
    /// Bare metal: 0, requests go by the `syscall` instruction. Hosted: the address of an [`Gate`].
    pub gate: u64,
    /// Bare metal: 0. Hosted: the address of the table of host services; its layout is not the kernel's.
    pub services: u64,
    /// Where the domain may map. Everything else is taken.
    pub window: Span,
    /// The boot module, mapped read-only: a [`ModuleHeader`] and whatever else the loader of the domain put there.
    pub module: Span,
    /// Memory quota, in bytes.
    pub quota_bytes: u64,
    /// Time-stamp counter to nanoseconds; all zero if the counter cannot be used, then ask [`crate::Request::Now`].
    pub clock: ClockParameters,
    /// The domain itself: its address space, its quotas.
    pub space: Handle,
    /// Its virtual CPU.
    pub vcpu: Handle,
    /// The machine, if the domain may stop it.
    pub machine: Handle,
    /// The memory that `module` maps, if the domain may map it elsewhere or hand it on.
    pub module_memory: Handle,
    /// One end of a channel to whoever started the domain, if there is one.
    pub parent: Handle,
    /// Devices that the domain was given.
    pub devices: [DeviceRecord; DEVICES_MAX],
}

/// The most devices that a [`BootInfo`] can list.
pub const DEVICES_MAX: usize = 32;

/// Requests when hosted: `gate(registers, value)` answers with an error's code, or 0 and the value.
pub type Gate = extern "C" fn(registers: &crate::Registers, value: &mut u64) -> u64;

impl BootInfo {
    /// "SELKIS!\0", little-endian.
    pub const MAGIC: u64 = u64::from_le_bytes(*b"SELKIS!\0");
    /// Goes up with every change of this crate's layouts.
    pub const VERSION: u32 = 2;
    /// Size of the first stack.
    pub const STACK_BYTES: u64 = 256 << 10;
}

/// `ns = base_ns + ((tsc - base_tsc) * multiplier >> shift)`, on the same clock as [`crate::Request::Now`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ClockParameters {
    /// Counter at `base_ns`.
    pub base_tsc: u64,
    /// Nanoseconds at `base_tsc`.
    pub base_ns: u64,
    /// Fixed-point nanoseconds for each count; 0: there is no usable counter.
    pub multiplier: u64,
    /// Of the product, to the right.
    pub shift: u64,
}

impl ClockParameters {
    /// Parameters for a counter of `tsc_hz` that stood at `base_tsc` at time `base_ns`.
    pub const fn new(tsc_hz: u64, base_tsc: u64, base_ns: u64) -> Self {
        let multiplier = ((1_000_000_000u128 << 32) / tsc_hz as u128) as u64;
        Self { base_tsc, base_ns, multiplier, shift: 32 }
    }

    /// The time at `tsc`, in nanoseconds.
    pub const fn nanoseconds(&self, tsc: u64) -> u64 {
        let ticks = tsc.saturating_sub(self.base_tsc) as u128;
        self.base_ns + ((ticks * self.multiplier as u128) >> self.shift) as u64
    }

    /// The first counter value at or after `ns`.
    pub const fn ticks(&self, ns: u64) -> u64 {
        let since = ns.saturating_sub(self.base_ns) as u128;
        let ticks = (since << self.shift).div_ceil(self.multiplier as u128);
        let ticks = if ticks > u64::MAX as u128 { u64::MAX } else { ticks as u64 };
        self.base_tsc.saturating_add(ticks)
    }
}

/// One device that the domain was given.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct DeviceRecord {
    /// Names it in requests.
    pub handle: Handle,
    /// What it is.
    pub kind: DeviceKind,
    /// For [`DeviceKind::Pci`]: vendor id in the low half, device id in the high half (offset 0 of the configuration space).
    pub identity: u32,
    /// For [`DeviceKind::Pci`]: class, subclass, interface and revision (offset 8 of the configuration space).
    pub class: u32,
    /// How many interrupts it has.
    pub interrupt_count: u32,
    /// Its memory: for PCI the BARs by number; else the first. Physical address and length; length 0: none, or ports.
    /// What is mapped is whole pages: a window that begins inside of a page is found at that offset in its mapping. Pages that hold
    /// a function's MSI-X table can only be read.
    pub windows: [Span; 6],
}

/// Statuses of [`crate::Request::Stop`] that the kernel stops the machine with itself. A domain's own may be the same: one
/// that wants every status told apart reports it through a device, and stops the machine with one that it chose for this.
pub mod status {
    /// No domain could be started: the boot module is missing, cut or malformed, or there is too little memory.
    pub const START_FAILED: u8 = 125;
    /// The domain raised an exception that could not be delivered to it.
    pub const DOMAIN_ENDED: u8 = 126;
    /// The kernel met what must not happen.
    pub const PANIC: u8 = 127;
}

/// The kinds of device that a kernel hands out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u32)]
pub enum DeviceKind {
    /// No device.
    #[default]
    None = 0,
    /// A PCI function.
    Pci = 1,
    /// A virtio device behind memory-mapped registers (virtio 1.2, section 4.2).
    VirtioMmio = 2,
    /// The real-time clock's two ports, 0x70 and 0x71 (MC146818).
    RealTimeClock = 3,
}

/// The first bytes of a boot module. The kernel (or the hosted launcher) reads this and the domain's image, an
/// ELF executable; the rest of the module is the domain's own business.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct ModuleHeader {
    /// [`ModuleHeader::MAGIC`].
    pub magic: u64,
    /// Bytes in the whole module, header included: shows a module that was cut short.
    pub length: u64,
    /// Where the executable begins, a multiple of the page size; length 0 if it is not part of the module (hosted).
    pub image: Span,
}

impl ModuleHeader {
    /// "SELKMOD\0", little-endian.
    pub const MAGIC: u64 = u64::from_le_bytes(*b"SELKMOD\0");
    /// Size of a header, in bytes.
    pub const BYTES: usize = 32;

    /// The header as it lies in the module.
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        let words = [self.magic, self.length, self.image.base, self.image.length];
        for (field, word) in bytes.chunks_exact_mut(8).zip(words) {
            field.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// The header of `module`, checked: the magic is there, nothing is missing at the end, the image lies inside.
    pub fn parse(module: &[u8]) -> Option<Self> {
        let word = |index: usize| {
            let bytes = module.get(index * 8..index * 8 + 8)?;
            Some(u64::from_le_bytes(bytes.try_into().ok()?))
        };
        let header = Self { magic: word(0)?, length: word(1)?, image: Span::new(word(2)?, word(3)?) };
        let whole = Span::new(0, header.length);
        let sound = header.magic == Self::MAGIC
            && header.length <= module.len() as u64
            && header.length >= Self::BYTES as u64
            && (header.image.length == 0 || header.image.base.is_multiple_of(crate::PAGE_SIZE))
            && whole.contains(header.image);
        sound.then_some(header)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boot_info_fits_its_page() {
        assert!(size_of::<BootInfo>() <= crate::PAGE_SIZE as usize);
        assert!(size_of::<crate::UpcallPage>() <= crate::PAGE_SIZE as usize);
    }

    #[test]
    fn clock_goes_there_and_back() {
        let clock = ClockParameters::new(2_596_120_000, 1_000_000, 77);
        for ns in [77, 78, 1_000, 1_000_000_007, 3_600_000_000_000] {
            let tsc = clock.ticks(ns);
            assert!(clock.nanoseconds(tsc) >= ns && clock.nanoseconds(tsc) <= ns + 1);
        }
        assert_eq!(clock.ticks(u64::MAX), u64::MAX);
    }

    #[test]
    fn module_header_is_checked() {
        let header = ModuleHeader { magic: ModuleHeader::MAGIC, length: 8192, image: Span::new(4096, 100) };
        let mut module = [0u8; 8192];
        module[..32].copy_from_slice(&header.to_bytes());
        assert_eq!(ModuleHeader::parse(&module), Some(header));
        assert_eq!(ModuleHeader::parse(&module[..8191]), None, "cut short");
        assert_eq!(ModuleHeader::parse(&module[..31]), None);
        module[16] = 1;
        assert_eq!(ModuleHeader::parse(&module), None, "image not on a page");
        module[0] ^= 1;
        assert_eq!(ModuleHeader::parse(&module), None, "magic");
    }
}
