//! The machine under the kernel: [`kernel::Machine`] on real frames, tables, clocks and controllers.

use crate::acpi::{self, SoftOff};
use crate::apic::{DEVICE_VECTORS, IoApic, KICK_VECTOR};
use crate::clock::Clock;
use crate::log;
use crate::mapper::Mapper;
use crate::memory;
use crate::mitigations::Mitigations;
use crate::paging::DIRECT;
use crate::pci::{self, Masked};
use crate::percpu;
use crate::selftest::SelfTest;
use crate::serial;
use crate::space::Space;
use crate::tlb::{self, Relax};
use crate::vectors::Vectors;
use abi::boot::{BootInfo, DeviceKind};
use abi::{Error, PAGE_SIZE, Protection};
use alloc::vec::Vec;
use core::arch::asm;
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};
use kernel::{Cache, Change, Device, Found, Frame, Machine, Mapping, Page, Shootdowns, Walk};
use spin::mutex::TicketMutex;

const VECTORS: usize = (DEVICE_VECTORS.end - DEVICE_VECTORS.start) as usize;

/// How the machine reaches a device that a domain has.
pub enum Hardware {
    /// A PCI function and its MSI-X table.
    Pci(pci::Address, Option<pci::Table>),
    /// Something with one interrupt line, by global system interrupt.
    Line(u32),
    /// The clock's ports, from the first.
    Ports(u8, u8),
}

/// The whole machine.
pub struct X86 {
    /// Time.
    pub clock: Clock,
    /// For what is not RAM.
    pub mapper: TicketMutex<Mapper, Relax>,
    /// The interrupt controllers besides the CPUs' own.
    pub io_apics: Vec<IoApic>,
    /// The devices, by [`Device::number`].
    pub hardware: Vec<Hardware>,
    /// The root of the ACPI tables, or 0.
    pub rsdp: u64,
    /// ACPI's table of interrupt controllers and CPUs.
    pub madt: Option<&'static [u8]>,
    /// What is done between domains.
    pub mitigations: Mitigations,
    /// Ring 3's vector registers.
    pub vectors: Vectors,
    /// Checks of all tables, if the command line asks for them.
    pub self_test: Option<SelfTest>,
}

/// Where each device vector comes from: the device in the upper half and its line, plus 1, in the lower; 0: from nowhere.
struct Routes([AtomicU64; VECTORS]);

static ROUTES: Routes = Routes([const { AtomicU64::new(0) }; VECTORS]);

impl Routes {
    /// The slot of a route, which is made if there is none.
    fn find_or_add(&self, device: usize, line: u32) -> Option<usize> {
        let route = (device as u64) << 32 | (u64::from(line) + 1);
        let take = |slot: &AtomicU64| {
            let before = slot.compare_exchange(0, route, Ordering::AcqRel, Ordering::Acquire);
            before.is_ok() || before == Err(route)
        };
        self.0.iter().position(take)
    }

    fn get(&self, slot: usize) -> Option<(usize, u32)> {
        let route = self.0.get(slot)?.load(Ordering::Acquire);
        (route != 0).then_some(((route >> 32) as usize, route as u32 - 1))
    }
}

impl X86 {
    /// A machine without devices yet.
    pub fn new(clock: Clock, mapper: Mapper, mitigations: Mitigations, vectors: Vectors) -> Self {
        Self {
            clock,
            mapper: TicketMutex::new(mapper),
            io_apics: Vec::new(),
            hardware: Vec::new(),
            rsdp: 0,
            madt: None,
            mitigations,
            vectors,
            self_test: None,
        }
    }

    /// Which device's interrupt a vector is.
    pub fn route(&self, vector: u8) -> Option<(usize, u32)> {
        ROUTES.get(usize::from(vector.checked_sub(DEVICE_VECTORS.start)?))
    }

    /// How ACPI powers this machine off, if it does.
    pub fn soft_off(&self) -> Option<SoftOff> {
        if self.rsdp == 0 { None } else { acpi::soft_off(&mut self.mapper.lock(), self.rsdp) }
    }

    fn address_of(&self, frame: Frame) -> *mut u8 {
        (DIRECT + frame.address()) as *mut u8
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
// only the domains and their devices use besides; volatile or byte-wise copies are all that is done with it.
impl Machine for X86 {
    type Relax = Relax;
    type Space = Space;

    fn cpu_count(&self) -> usize {
        percpu::count()
    }

    fn kick(&self, cpu: usize) {
        if let Some(cpu) = percpu::shared(cpu) {
            percpu::this().apic.get().send(cpu.apic_id(), KICK_VECTOR);
        }
    }

    fn shootdowns(&self, cpu: usize) -> Shootdowns {
        percpu::shared(cpu).map_or_else(Shootdowns::default, |cpu| cpu.mailbox.counts())
    }

    fn separate(&self) {
        self.mitigations.separate();
    }

    fn allocate(&self) -> Option<Frame> {
        memory::allocate()
    }

    fn allocate_run(&self, count: u64) -> Option<Frame> {
        memory::allocate_run(count)
    }

    fn free_run(&self, first: Frame, count: u64) {
        memory::free_run(first, count);
    }

    fn free_count(&self) -> u64 {
        memory::free_count()
    }

    fn zero(&self, frame: Frame) {
        // SAFETY: see above. By words: a machine that counts instructions counts each store.
        unsafe {
            asm!("rep stosq", inout("rdi") self.address_of(frame) => _, inout("rcx") PAGE_SIZE / 8 => _, in("rax") 0u64, options(nostack, preserves_flags))
        }
    }

    fn copy(&self, from: Frame, to: Frame) {
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

    fn write(&self, frame: Frame, offset: usize, bytes: &[u8]) {
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

    fn write_words(&self, frame: Frame, index: usize, words: &[u64]) {
        assert!(index + words.len() <= PAGE_SIZE as usize / 8);
        for (at, &word) in words.iter().enumerate() {
            // SAFETY: see above; the word lies in the frame.
            unsafe { self.address_of(frame).cast::<u64>().add(index + at).write_volatile(word) }
        }
    }

    fn publish(&self, frame: Frame, info: &BootInfo) {
        const { assert!(size_of::<BootInfo>() <= PAGE_SIZE as usize) }
        // SAFETY: see above; it fits, and a frame is aligned enough.
        unsafe { self.address_of(frame).cast::<BootInfo>().write(*info) }
    }

    fn create_space(&self) -> Option<Space> {
        let space = Space::new(tlb::kernel_root())?;
        if let Some(test) = &self.self_test {
            test.add(space.root);
        }
        Some(space)
    }

    fn destroy_space(&self, mut space: Space) {
        tlb::leave_everywhere(&mut space);
        if let Some(test) = &self.self_test {
            test.remove(space.root);
        }
        memory::free_run(Frame::containing(space.root), 1);
    }

    fn activate(&self, space: &mut Space) {
        tlb::activate(space);
    }

    fn missing_tables(&self, space: &Space, page: Page) -> u64 {
        space.missing_tables(page)
    }

    fn add_table(&self, space: &mut Space, page: Page, frame: Frame) {
        space.add_table(page, frame);
    }

    fn map(&self, space: &mut Space, page: Page, mapping: Mapping, cache: Cache) {
        space.map(page, mapping, cache);
    }

    fn map_absent(&self, space: &mut Space, first: Page, mapping: Mapping, count: u64) {
        space.map_absent(first, mapping, count);
    }

    fn mapping(&self, space: &Space, page: Page) -> Option<Mapping> {
        space.mapping(page)
    }

    fn walk(&self, space: &mut Space, walk: &mut Walk, visit: &mut dyn FnMut(Found) -> Option<Change>) {
        space.walk(walk, visit);
    }

    fn mark_written(&self, space: &mut Space, page: Page) {
        space.mark_written(page);
    }

    fn protect(&self, space: &mut Space, page: Page, protection: Protection) {
        space.protect(page, protection);
    }

    fn flush(&self, space: &mut Space) {
        tlb::flush(space);
    }

    fn is_sealed(&self, frame: Frame) -> bool {
        let mut tables = self.hardware.iter().filter_map(|hardware| match hardware {
            Hardware::Pci(_, table) => table.as_ref(),
            Hardware::Line(_) | Hardware::Ports(..) => None,
        });
        tables.any(|table| table.reaches(frame.address()))
    }

    fn open_ports(&self, space: &mut Space, device: &Device) {
        debug_assert!(device.record.kind == DeviceKind::RealTimeClock);
        if let Hardware::Ports(first, last) = self.hardware[device.number] {
            space.open_ports(first..=last);
            tlb::flush(space);
        }
    }

    fn close_ports(&self, space: &mut Space, device: &Device) {
        if let Hardware::Ports(first, last) = self.hardware[device.number] {
            space.close_ports(first..=last);
            tlb::flush(space);
        }
    }

    fn fresh_vectors(&self, area: Frame) {
        // SAFETY: a frame that the kernel keeps for this.
        unsafe { self.vectors.fresh(self.address_of(area)) }
    }

    fn save_vectors(&self, area: Frame) {
        // SAFETY: a frame that the kernel keeps for this; it saves what it loaded, in the same place.
        unsafe { self.vectors.save(self.address_of(area)) }
    }

    fn load_vectors(&self, area: Frame) {
        // SAFETY: a frame that the kernel keeps for this, fresh or saved.
        unsafe { self.vectors.load(self.address_of(area)) }
    }

    fn now_ns(&self) -> u64 {
        self.clock.now_ns()
    }

    fn set_alarm(&self, deadline_ns: u64) {
        self.clock.set_alarm(deadline_ns);
    }

    fn connect(&self, device: &Device, line: u32) -> Result<(), Error> {
        // Interrupts of devices are addressed by 8 bits: a CPU beyond leaves them to the first.
        let here = percpu::this().apic.get().id();
        let target = u8::try_from(here).ok().or_else(|| u8::try_from(percpu::shared(0)?.apic_id()).ok());
        let target = target.ok_or(Error::Unsupported)?;
        let vector = || {
            let slot = ROUTES.find_or_add(device.number, line).ok_or(Error::TableFull)?;
            Ok(DEVICE_VECTORS.start + slot as u8)
        };
        match self.hardware[device.number] {
            Hardware::Pci(_, Some(table)) => pci::route(table, line, vector()?, target),
            Hardware::Line(interrupt) => {
                let mut inputs = self.io_apics.iter().filter_map(|apic| Some((apic, apic.input(interrupt)?)));
                let (apic, input) = inputs.next().ok_or(Error::Unsupported)?;
                apic.route(input, vector()?, target);
            }
            Hardware::Pci(_, None) | Hardware::Ports(..) => return Err(Error::Unsupported),
        }
        self.set_masked(device, line, Masked::No);
        Ok(())
    }

    fn mask(&self, device: &Device, line: u32) {
        self.set_masked(device, line, Masked::Yes);
    }

    fn unmask(&self, device: &Device, line: u32) {
        self.set_masked(device, line, Masked::No);
    }

    fn read_config(&self, device: &Device, offset: u8) -> u32 {
        match self.hardware[device.number] {
            Hardware::Pci(address, _) => address.read(offset),
            _ => u32::MAX,
        }
    }

    fn write_config(&self, device: &Device, offset: u8, value: u32) {
        if let Hardware::Pci(address, _) = self.hardware[device.number] {
            address.write(offset, value);
        }
    }

    fn print(&self, text: &[u8]) {
        serial::write(text);
    }

    fn log(&self, level: kernel::Level, text: fmt::Arguments<'_>) {
        log::write(level, text);
    }
}
