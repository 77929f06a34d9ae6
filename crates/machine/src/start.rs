//! From the loader's tables to ring 3.

use crate::acpi;
use crate::apic::{self, IoApic, LocalApic};
use crate::boot::Boot;
use crate::clock::Clock;
use crate::cpu::{physical_end, time_stamp};
use crate::descriptors::{self, Stacks};
use crate::devices;
use crate::dispatch;
use crate::features;
use crate::frames;
use crate::log::{self, log};
use crate::madt;
use crate::mapper::Mapper;
use crate::memory;
use crate::paging::{DIRECT, KernelTables, PageSizes, Window, bits};
use crate::percpu::{self, Cpu};
use crate::power;
use crate::ranges::{RangeKind, Ranges};
use crate::selftest::{self, SelfTest};
use crate::separate;
use crate::smp::{self, LoaderMemory};
use crate::symbols;
use crate::tlb;
use crate::vectors::Vectors;
use crate::x86::X86;
use abi::PAGE_SIZE;
use abi::boot::status;
use core::arch::asm;
use core::ptr::addr_of_mut;
use kernel::{BootModule, Kernel, Level, Machine as _};

/// What is carried from the loader's tables to the kernel's own.
struct Start {
    boot: &'static mut Boot,
    begin_tsc: u64,
    early: Early,
    mapper: Mapper,
    stacks: Stacks,
}

/// Memory for what there must be before frames are counted: from the beginning of the largest range that is within reach of 32-bit
/// code, as the other CPUs start in.
struct Early {
    base: u64,
    next: u64,
    end: u64,
}

impl Early {
    const END: u64 = 1 << 32;

    fn new(ranges: &Ranges) -> Self {
        let free = ranges.as_slice().iter().filter(|range| range.kind == RangeKind::Free);
        let within = free.map(|range| (range.base, range.end.min(Self::END)));
        let largest = within.max_by_key(|(base, end)| end.saturating_sub(*base));
        let (base, end) = largest.unwrap_or((0, 0));
        Self { base, next: base, end }
    }

    fn take(&mut self, count: u64) -> Option<u64> {
        let first = self.next;
        self.next = first.checked_add(count.checked_mul(PAGE_SIZE)?).filter(|&next| next <= self.end)?;
        Some(first)
    }
}

/// Builds the kernel's tables and goes on under them.
pub fn on_loader_tables(boot: &'static mut Boot) -> ! {
    let begin_tsc = time_stamp();
    features::turn_on();
    boot.ranges.exclude(physical_end(), u64::MAX);
    let Some(start) = build(boot, begin_tsc) else {
        log!(Error, "there is too little memory for the kernel's page tables");
        power::stop_at_once(status::START_FAILED)
    };
    static mut START: Option<Start> = None;
    // SAFETY: 1. `START` is only used here, once; 2. the tables map the image, where this code, its constants and its variables are, as
    // the loader did; 3. the new stack is mapped, and nothing on the old one is used again.
    unsafe {
        let place = addr_of_mut!(START);
        place.write(Some(start));
        let Some(start) = (*place).as_ref() else { unreachable!() };
        asm!(
            "mov cr3, {tables}",
            "mov rsp, {stack}",
            "xor ebp, ebp",
            "call {next}",
            tables = in(reg) start.mapper.tables.root(),
            stack = in(reg) start.stacks.main,
            in("rdi") place,
            next = sym on_own_tables,
            options(noreturn)
        )
    }
}

/// Builds the tables: RAM, the image with one protection for each part, and stacks with a hole below each.
fn build(boot: &'static mut Boot, begin_tsc: u64) -> Option<Start> {
    const DATA: u64 = bits::WRITE | bits::NO_EXECUTE;
    const HUGE_PAGES: u32 = 1 << 26;
    let mut early = Early::new(&boot.ranges);
    let take = &mut |count| early.take(count);
    let mut tables = KernelTables::new(take, Window(boot.offset))?;
    let has_huge = crate::cpu::cpuid(0x8000_0001, 0).edx & HUGE_PAGES != 0;
    let sizes = if has_huge { PageSizes::Huge } else { PageSizes::Large };
    // Ranges that touch are mapped together: their pages are larger.
    for ranges in boot.ranges.as_slice().chunk_by(|one, next| one.end == next.base) {
        if let [first, ..] = ranges
            && let [.., last] = ranges
        {
            tables.map(take, DIRECT + first.base, first.base..last.end, DATA, sizes)?;
        }
    }
    let image = symbols::image();
    let delta = image.text.start - boot.kernel;
    for (part, flags) in [(image.text, 0), (image.rodata, bits::NO_EXECUTE), (image.data, DATA)] {
        let physical = part.start - delta..part.end - delta;
        tables.map(take, part.start, physical, flags, PageSizes::Small)?;
    }
    let mut mapper = Mapper::new(tables, take)?;
    let stacks = mapper.stacks(take)?;
    Some(Start { boot, begin_tsc, early, mapper, stacks })
}

extern "C" fn on_own_tables(start: &'static mut Option<Start>) -> ! {
    let Some(start) = start.take() else { unreachable!() };
    let Start { boot, begin_tsc, early, mut mapper, stacks } = start;
    mapper.tables.set_window(Window::OWN);
    read_options(boot);
    tlb::start(mapper.tables.root(), features::has_identifiers());
    descriptors::fill_interrupts();
    static mut FIRST: Cpu = Cpu::new(0);
    // SAFETY: this runs once, on one CPU.
    let first = unsafe { &mut *addr_of_mut!(FIRST) };
    first.prepare(&stacks);
    let first: &'static Cpu = first;
    first.install();
    first.announce();
    features::turn_on_rest();
    apic::mask_pics();
    if count_frames(boot, early).is_none() {
        stop_with("there is too little memory to count it");
    }
    let vectors = Vectors::start();
    let wants_mitigations = boot.arguments().all(|argument| argument != "mitigations=off");
    let mitigations = if wants_mitigations { separate::find() } else { separate::nothing() };
    let Some(apic) = LocalApic::start(|address| mapper.registers(address, PAGE_SIZE)) else {
        stop_with("there is too little memory to map the interrupt controller");
    };
    percpu::this().set_apic(apic);
    let Ok(clock) = Clock::start(apic, begin_tsc) else {
        stop_with("there is no clock: neither CPUID tells the counter's rate, nor does the PIT answer");
    };
    log::set_clock(clock.parameters);
    let mut machine = X86::new(clock, mapper, mitigations, vectors);
    machine.rsdp = boot.rsdp;
    if boot.arguments().any(|argument| argument == "selftest") {
        machine.self_test = Some(SelfTest::default());
    }
    start_io_apics(&mut machine);
    if smp::start(&mut machine, boot) == LoaderMemory::Free {
        memory::POOL.lock().release();
    }
    run(machine, boot)
}

/// Gives the free memory to [`memory::POOL`], which keeps its own account in a piece of it.
fn count_frames(boot: &mut Boot, mut early: Early) -> Option<()> {
    let count = frames::words_needed(boot.ranges.as_slice());
    let storage = early.take((count as u64 * 8).div_ceil(PAGE_SIZE))?;
    // SAFETY: taken out of free memory, which is mapped at `DIRECT`, for ever; whole words that nobody else refers to.
    let storage = unsafe { core::slice::from_raw_parts_mut((DIRECT + storage) as *mut u64, count) };
    boot.ranges.exclude(early.base, early.next);
    let mut pool = memory::POOL.lock();
    pool.begin(storage, boot.ranges.as_slice());
    Some(())
}

/// Starts the first domain and enters it.
#[inline(never)]
fn run(mut machine: X86, boot: &'static Boot) -> ! {
    let devices = devices::find(&mut machine, boot);
    log!(Info, "{} frames free, {} devices", machine.free_count(), devices.len());
    let module = boot.module.filter(|module| module.length > 0).map(|module| {
        let rest = module.length.next_multiple_of(PAGE_SIZE) - module.length;
        let at = (DIRECT + module.base) as *mut u8;
        // SAFETY: the loader put the module there, and it was kept out of free memory with the rest of its last page. It is mapped at
        // `DIRECT` and nobody writes to it after this.
        let bytes = unsafe {
            at.add(module.length as usize).write_bytes(0, rest as usize);
            core::slice::from_raw_parts(at, module.length as usize)
        };
        BootModule { address: module.base, bytes }
    });
    let clock = machine.clock.parameters;
    let kernel = match kernel::start(machine, module, devices, clock) {
        Ok(kernel) => kernel,
        Err(error) => stop_with(error),
    };
    static mut KERNEL: Option<Kernel<X86>> = None;
    // SAFETY: this runs once, on one CPU, and nothing else names it.
    let kernel = unsafe { &*(*addr_of_mut!(KERNEL)).insert(kernel) };
    if let Some(test) = &kernel.machine.self_test {
        if !selftest::check_names(run as *const () as u64, "machine::start::run") {
            stop_with("the names of functions are wrong");
        }
        match test.check_tables() {
            Ok(pages) => log!(Info, "{pages} pages are mapped as they should be"),
            Err(wrong) => stop_with(format_args!("the page tables are wrong: {wrong}")),
        }
    }
    if boot.arguments().any(|argument| argument == "selftest=panic") {
        panic!("asked for by the command line");
    }
    percpu::this().kernel.set(kernel);
    smp::let_others_in(kernel);
    if boot.arguments().any(|argument| argument == "selftest=iret") {
        dispatch::begin_with(|context| context.rip = 1 << 63);
    }
    dispatch::begin()
}

/// Says why the machine does not start.
pub fn refuse(boot: &Boot, reason: &str) -> ! {
    read_options(boot);
    // Not through the log: what it knows of the clock and of CPUs may lie under the module.
    crate::serial::write_line(format_args!("kernel: {reason}"));
    power::stop_at_once(status::START_FAILED)
}

fn stop_with(reason: impl core::fmt::Display) -> ! {
    log!(Error, "{reason}");
    power::stop_at_once(status::START_FAILED)
}

fn read_options(boot: &Boot) {
    for argument in boot.arguments() {
        match argument {
            "exit=isa-debug" => power::use_debug_exit(),
            _ => match argument.strip_prefix("log=").map(|word| (word, Level::named(word))) {
                Some((_, Some(level))) => log::set_level(level),
                Some((word, None)) => {
                    log!(Warn, "log={word} names no level: error, warn, info or debug");
                }
                None => (),
            },
        }
    }
}

fn start_io_apics(machine: &mut X86) {
    let mapper = machine.mapper.get_mut();
    machine.madt = if machine.rsdp == 0 { None } else { acpi::madt(mapper, machine.rsdp) };
    let listed = || machine.madt.into_iter().flat_map(madt::io_apics);
    let default = madt::IoApicRecord { address: apic::IO_DEFAULT, first_interrupt: 0 };
    let default = listed().next().is_none().then_some(default);
    for record in listed().chain(default) {
        let registers = mapper.registers(record.address, PAGE_SIZE);
        let found = registers.and_then(|registers| IoApic::start(registers, record.first_interrupt));
        machine.io_apics.extend(found);
    }
}
