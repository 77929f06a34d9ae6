//! The machine under the kernel: [`kernel::Machine`] on real frames, tables, clocks and controllers.

use crate::acpi::{self, SoftOff};
use crate::apic::{DEVICE_VECTORS, IoApic, LocalApic};
use crate::clock::Clock;
use crate::descriptors::Descriptors;
use crate::frames::Frames;
use crate::mapper::Mapper;
use crate::paging::{DIRECT, Tables, bits};
use crate::pci::{self, Masked};
use crate::registers::Registers;
use crate::serial;
use crate::symbols;
use abi::boot::{BootInfo, DeviceKind};
use abi::{Error, PAGE_SIZE, Protection};
use alloc::vec;
use alloc::vec::Vec;
use core::arch::asm;
use core::fmt;
use kernel::{Cache, Device, Frame, Machine, Mapping, Page};

/// Pages that are forgotten one by one before all are.
const STALE_MAX: usize = 16;
const VECTORS: usize = (DEVICE_VECTORS.end - DEVICE_VECTORS.start) as usize;

/// How the machine reaches a device that the domain has.
pub enum Hardware {
    /// A PCI function and its MSI-X table.
    Pci(pci::Address, Option<Registers>),
    /// Something with one interrupt line, by global system interrupt.
    Line(u32),
    /// The clock's ports, from the first.
    Ports(u8, u8),
}

/// The whole machine, one CPU of it.
pub struct X86 {
    /// Free memory.
    pub frames: Frames,
    /// The one set of tables.
    pub tables: Tables,
    /// The next free address for [`Mapper`].
    pub mapper_next: u64,
    /// Time.
    pub clock: Clock,
    /// This CPU's interrupt controller.
    pub apic: LocalApic,
    /// The others.
    pub io_apics: Vec<IoApic>,
    /// The devices, by [`Device::number`].
    pub hardware: Vec<Hardware>,
    /// Where each device vector comes from.
    pub routes: Vec<Option<(usize, u32)>>,
    /// This CPU's tables.
    pub descriptors: &'static mut Descriptors,
    /// The root of the ACPI tables, or 0.
    pub rsdp: u64,
    /// Whether the command line asked to check the page tables.
    pub self_test: bool,
    stale: Stale,
}

/// Pages whose entries changed since ring 3 ran.
#[derive(Default)]
struct Stale {
    pages: [u64; STALE_MAX],
    count: usize,
}

/// A mapping that must not be.
#[derive(Clone, Copy)]
pub struct WrongMapping {
    /// Where.
    pub address: u64,
    /// What holds for it ([`bits`]).
    pub flags: u64,
    /// Which rule it breaks.
    pub rule: &'static str,
}

impl fmt::Display for WrongMapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at {:#x} (flags {:#x}): {}", self.address, self.flags, self.rule)
    }
}

impl X86 {
    /// A machine without devices yet.
    pub fn new(
        frames: Frames,
        tables: Tables,
        clock: Clock,
        apic: LocalApic,
        descriptors: &'static mut Descriptors,
    ) -> Self {
        Self {
            frames,
            tables,
            mapper_next: 0,
            clock,
            apic,
            io_apics: Vec::new(),
            hardware: Vec::new(),
            routes: vec![None; VECTORS],
            descriptors,
            rsdp: 0,
            self_test: false,
            stale: Stale::default(),
        }
    }

    /// Maps what is not RAM.
    pub fn mapper(&mut self) -> Mapper<'_> {
        Mapper { tables: &mut self.tables, frames: &mut self.frames, next: &mut self.mapper_next }
    }

    /// Which device's interrupt a vector is.
    pub fn route(&self, vector: u8) -> Option<(usize, u32)> {
        *self.routes.get(usize::from(vector.checked_sub(DEVICE_VECTORS.start)?))?
    }

    /// How ACPI powers this machine off, if it does.
    pub fn soft_off(&mut self) -> Option<SoftOff> {
        let rsdp = self.rsdp;
        if rsdp == 0 { None } else { acpi::soft_off(&mut self.mapper(), rsdp) }
    }

    /// Makes the CPU forget the entries that changed.
    pub fn flush(&mut self) {
        let Stale { pages, count } = &mut self.stale;
        // SAFETY: forgetting what the TLB holds makes the CPU read the tables again, and changes nothing else. The kernel's
        // own mappings, which are global, do not change here.
        unsafe {
            if *count > STALE_MAX {
                asm!("mov cr3, {}", in(reg) self.tables.root(), options(nostack, preserves_flags));
            } else {
                for page in &pages[..*count] {
                    asm!("invlpg [{}]", in(reg) *page, options(nostack, preserves_flags));
                }
            }
        }
        *count = 0;
    }

    /// Walks the live page tables: nothing writable is executable, ring 3 reaches nothing of the upper half and the
    /// kernel maps nothing for itself in the lower, only the image's code is executable for the kernel and it is not writable by any
    /// address. Answers how many pages there are.
    pub fn check_tables(&self) -> Result<usize, WrongMapping> {
        let image = symbols::image();
        let (mut count, mut wrong) = (0, None);
        self.tables.visit(&mut |address, length, flags| {
            let (writable, user) = (flags & bits::WRITE != 0, flags & bits::USER != 0);
            let executable = flags & bits::NO_EXECUTE == 0;
            let upper = address >= DIRECT;
            let code = image.text.contains(&address);
            let constant = image.rodata.contains(&address);
            let rules = [
                (writable && executable, "writable and executable"),
                (upper && user, "the kernel's half is open to ring 3"),
                (!upper && !user, "the kernel has a page in the domain's half"),
                (upper && executable && !code, "executable, and not the kernel's code"),
                (writable && (code || constant), "the kernel's code or constants are writable"),
                ((code || constant) && length != PAGE_SIZE, "the kernel's image in a large page"),
            ];
            count += 1;
            for (broken, rule) in rules {
                if broken {
                    wrong = Some(WrongMapping { address, flags, rule });
                }
            }
        });
        match wrong {
            Some(wrong) => Err(wrong),
            None => Ok(count),
        }
    }

    fn address_of(&self, frame: Frame) -> *mut u8 {
        (DIRECT + frame.address()) as *mut u8
    }

    fn forget(&mut self, page: Page) {
        let Stale { pages, count } = &mut self.stale;
        if let Some(slot) = pages.get_mut(*count) {
            *slot = page.address();
        }
        *count = (*count + 1).min(STALE_MAX + 1);
    }

    fn set_masked(&self, device: &Device, line: u32, masked: Masked) {
        match self.hardware[device.number] {
            Hardware::Pci(_, Some(table)) => pci::set_masked(table, line, masked),
            Hardware::Line(interrupt) => {
                for apic in &self.io_apics {
                    match (apic.input(interrupt), masked) {
                        (Some(input), Masked::Yes) => apic.mask(input),
                        (Some(input), Masked::No) => apic.unmask(input),
                        (None, _) => (),
                    }
                }
            }
            Hardware::Pci(_, None) | Hardware::Ports(..) => (),
        }
    }
}

// Frames that the kernel names are RAM that it allocated, or the boot module's: mapped at `DIRECT` for ever, and no Rust
// object lies in them (but the module's bytes, which are never written). So all accesses below are to memory that
// only the domain and its devices use besides; volatile or byte-wise copies are all that is done with it.
impl Machine for X86 {
    fn allocate(&mut self) -> Option<Frame> {
        self.frames.allocate()
    }

    fn allocate_run(&mut self, count: u64) -> Option<Frame> {
        self.frames.allocate_run(count)
    }

    fn free_run(&mut self, first: Frame, count: u64) {
        self.frames.free_run(first, count);
    }

    fn free_count(&self) -> u64 {
        self.frames.free_count()
    }

    fn zero(&mut self, frame: Frame) {
        // SAFETY: see above. By words: a machine that counts instructions counts each store.
        unsafe {
            asm!("rep stosq", inout("rdi") self.address_of(frame) => _, inout("rcx") PAGE_SIZE / 8 => _, in("rax") 0u64, options(nostack, preserves_flags))
        }
    }

    fn copy(&mut self, from: Frame, to: Frame) {
        // SAFETY: see above; two frames do not overlap.
        unsafe {
            asm!("rep movsq", inout("rsi") self.address_of(from) => _, inout("rdi") self.address_of(to) => _, inout("rcx") PAGE_SIZE / 8 => _, options(nostack, preserves_flags))
        }
    }

    fn read(&self, frame: Frame, offset: usize, bytes: &mut [u8]) {
        assert!(offset + bytes.len() <= PAGE_SIZE as usize);
        // SAFETY: see above; the bytes lie in the frame.
        unsafe {
            bytes.as_mut_ptr().copy_from_nonoverlapping(self.address_of(frame).add(offset), bytes.len())
        }
    }

    fn write(&mut self, frame: Frame, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= PAGE_SIZE as usize);
        // SAFETY: see above; the bytes lie in the frame.
        unsafe { self.address_of(frame).add(offset).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) }
    }

    fn read_words(&self, frame: Frame, index: usize, words: &mut [u64]) {
        assert!(index + words.len() <= PAGE_SIZE as usize / 8);
        for (at, word) in words.iter_mut().enumerate() {
            // SAFETY: see above; the word lies in the frame.
            *word = unsafe { self.address_of(frame).cast::<u64>().add(index + at).read_volatile() };
        }
    }

    fn write_words(&mut self, frame: Frame, index: usize, words: &[u64]) {
        assert!(index + words.len() <= PAGE_SIZE as usize / 8);
        for (at, &word) in words.iter().enumerate() {
            // SAFETY: see above; the word lies in the frame.
            unsafe { self.address_of(frame).cast::<u64>().add(index + at).write_volatile(word) }
        }
    }

    fn publish(&mut self, frame: Frame, info: &BootInfo) {
        const { assert!(size_of::<BootInfo>() <= PAGE_SIZE as usize) }
        // SAFETY: see above; it fits, and a frame is aligned enough.
        unsafe { self.address_of(frame).cast::<BootInfo>().write(*info) }
    }

    fn missing_tables(&self, page: Page) -> u64 {
        self.tables.missing_tables(page)
    }

    fn add_table(&mut self, page: Page, frame: Frame) {
        self.tables.add_table(page, frame);
    }

    fn remove_tables(&mut self, first: Page, end: Page) -> u64 {
        let removed = self.tables.remove_tables(&mut self.frames, first, end);
        if removed > 0 {
            // The CPU also remembers tables, under whatever address it walked through them.
            self.stale.count = STALE_MAX + 1;
            self.flush();
        }
        removed
    }

    fn map(&mut self, page: Page, mapping: Mapping, cache: Cache) {
        let is_new = self.tables.mapping(page).is_none();
        self.tables.map(page, mapping, cache);
        if !is_new {
            self.forget(page);
        }
    }

    fn mapping(&self, page: Page) -> Option<Mapping> {
        self.tables.mapping(page)
    }

    fn next_mapping(&self, from: Page, end: Page) -> Option<(Page, Mapping)> {
        self.tables.next_mapping(from, end)
    }

    fn protect(&mut self, page: Page, protection: Protection) {
        self.tables.protect(page, protection);
        self.forget(page);
    }

    fn unmap(&mut self, page: Page) {
        self.tables.unmap(page);
        self.forget(page);
    }

    fn now_ns(&self) -> u64 {
        self.clock.now_ns()
    }

    fn set_alarm(&mut self, deadline_ns: u64) {
        self.clock.set_alarm(deadline_ns);
    }

    fn connect(&mut self, device: &Device, line: u32) -> Result<(), Error> {
        let slot = self.routes.iter().position(Option::is_none).ok_or(Error::TableFull)?;
        let vector = DEVICE_VECTORS.start + slot as u8;
        match self.hardware[device.number] {
            Hardware::Pci(_, Some(table)) => pci::route(table, line, vector, self.apic.id()),
            Hardware::Line(interrupt) => {
                let mut inputs = self.io_apics.iter().filter_map(|apic| Some((apic, apic.input(interrupt)?)));
                let (apic, input) = inputs.next().ok_or(Error::Unsupported)?;
                apic.route(input, vector, self.apic.id());
            }
            Hardware::Pci(_, None) | Hardware::Ports(..) => return Err(Error::Unsupported),
        }
        self.routes[slot] = Some((device.number, line));
        self.set_masked(device, line, Masked::No);
        Ok(())
    }

    fn mask(&mut self, device: &Device, line: u32) {
        self.set_masked(device, line, Masked::Yes);
    }

    fn unmask(&mut self, device: &Device, line: u32) {
        self.set_masked(device, line, Masked::No);
    }

    fn read_config(&mut self, device: &Device, offset: u8) -> u32 {
        match self.hardware[device.number] {
            Hardware::Pci(address, _) => address.read(offset),
            _ => u32::MAX,
        }
    }

    fn write_config(&mut self, device: &Device, offset: u8, value: u32) {
        if let Hardware::Pci(address, _) = self.hardware[device.number] {
            address.write(offset, value);
        }
    }

    fn open_ports(&mut self, device: &Device) {
        debug_assert!(device.record.kind == DeviceKind::RealTimeClock);
        if let Hardware::Ports(first, last) = self.hardware[device.number] {
            (first..=last).for_each(|port| self.descriptors.open_port(port));
        }
    }

    fn print(&mut self, text: &[u8]) {
        serial::write(text);
    }
}
