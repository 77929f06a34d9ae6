//! From the loader's tables to ring 3.

use crate::acpi;
use crate::apic::{self, IoApic, LocalApic};
use crate::boot::Boot;
use crate::clock::Clock;
use crate::cpu::{cpuid, read_msr, time_stamp, write_msr};
use crate::descriptors::{Descriptors, KERNEL_CODE, KERNEL_DATA, OWN_STACKS};
use crate::devices;
use crate::frames::Frames;
use crate::heap;
use crate::mapper::{self, Mapper};
use crate::paging::{DIRECT, PageSizes, STACKS, Tables, bits};
use crate::percpu::Cpu;
use crate::power;
use crate::ranges::RangeKind;
use crate::symbols;
use crate::trap;
use crate::x86::X86;
use crate::{log, report, serial};
use abi::PAGE_SIZE;
use abi::boot::status;
use core::arch::asm;
use core::ptr::addr_of_mut;
use kernel::{BootModule, Kernel, Machine as _};

/// Pages of the kernel's stack, and of each stack for exceptions that need their own.
const STACK_PAGES: u64 = 16;
const OWN_STACK_PAGES: u64 = 4;

/// What is carried from the loader's tables to the kernel's own.
struct Start {
    boot: &'static Boot,
    begin_tsc: u64,
    frames: Frames,
    tables: Tables,
    stack: u64,
    own_stacks: [u64; OWN_STACKS.len()],
}

/// Builds the kernel's tables and goes on under them.
pub fn on_loader_tables(boot: &'static Boot) -> ! {
    let begin_tsc = time_stamp();
    let mut frames = Frames::new(boot.offset);
    let free = boot.ranges.as_slice().iter().filter(|range| range.kind == RangeKind::Free);
    free.for_each(|range| frames.add(range));
    enable_protections();
    let Some(start) = build(boot, begin_tsc, frames) else {
        report!("kernel: there is too little memory for the kernel's page tables");
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
            tables = in(reg) start.tables.root(),
            stack = in(reg) start.stack,
            in("rdi") place,
            next = sym on_own_tables,
            options(noreturn)
        )
    }
}

/// Turns on what the tables need and what guards the kernel from itself.
fn enable_protections() {
    const EFER: u32 = 0xc000_0080;
    const EFER_SYSTEM_CALL: u64 = 1;
    const EFER_NO_EXECUTE: u64 = 1 << 11;
    const CR0_MONITOR: u64 = 1 << 1;
    const CR0_EMULATE: u64 = 1 << 2;
    const CR0_TASK_SWITCHED: u64 = 1 << 3;
    const CR0_NUMERIC_ERROR: u64 = 1 << 5;
    const CR0_WRITE_PROTECT: u64 = 1 << 16;
    // Physical address extension, machine checks, global pages, FXSAVE, and SIMD exceptions.
    const CR4_ALWAYS: u64 = 1 << 5 | 1 << 6 | 1 << 7 | 1 << 9 | 1 << 10;
    // SAFETY: the bits are those of SDM volume 3, section 2.5: none of them changes what mapped code means. The protections
    // concern ring 3's pages, of which there are none yet.
    unsafe {
        write_msr(EFER, read_msr(EFER) | EFER_NO_EXECUTE | EFER_SYSTEM_CALL);
        asm!(
            "mov {scratch}, cr0",
            "and {scratch}, {clear}",
            "or {scratch}, {set}",
            "mov cr0, {scratch}",
            "mov cr4, {cr4}",
            scratch = out(reg) _,
            clear = in(reg) !(CR0_EMULATE | CR0_TASK_SWITCHED),
            set = in(reg) CR0_MONITOR | CR0_NUMERIC_ERROR | CR0_WRITE_PROTECT,
            cr4 = in(reg) CR4_ALWAYS | optional_protections(),
            options(nostack)
        );
    }
}

/// Bits of CR4 for what this CPU has: SMEP, SMAP, UMIP, XSAVE.
fn optional_protections() -> u64 {
    let (features, more) = (cpuid(1, 0), cpuid(7, 0));
    let bit = |register: u32, from: u32, to: u32| u64::from(register >> from & 1) << to;
    bit(more.ebx, 7, 20) | bit(more.ebx, 20, 21) | bit(more.ecx, 2, 11) | bit(features.ecx, 26, 18)
}

/// Builds the tables: RAM, the image with one protection for each part, and stacks with a hole below each.
fn build(boot: &'static Boot, begin_tsc: u64, mut frames: Frames) -> Option<Start> {
    const DATA: u64 = bits::WRITE | bits::NO_EXECUTE;
    const HUGE_PAGES: u32 = 1 << 26;
    let mut tables = Tables::new(&mut frames, boot.offset)?;
    let sizes = if cpuid(0x8000_0001, 0).edx & HUGE_PAGES != 0 { PageSizes::Huge } else { PageSizes::Large };
    for range in boot.ranges.as_slice() {
        tables.map_kernel(&mut frames, DIRECT + range.base, range.base..range.end, DATA, sizes)?;
    }
    let image = symbols::image();
    let delta = image.text.start - boot.kernel;
    for (part, flags) in [(image.text, 0), (image.rodata, bits::NO_EXECUTE), (image.data, DATA)] {
        let physical = part.start - delta..part.end - delta;
        tables.map_kernel(&mut frames, part.start, physical, flags, PageSizes::Small)?;
    }
    let mut next = STACKS;
    let mut stack = |pages: u64| {
        let first = frames.allocate_run(pages)?.address();
        let base = next + PAGE_SIZE;
        next = base + pages * PAGE_SIZE;
        tables.map_kernel(&mut frames, base, first..first + pages * PAGE_SIZE, DATA, PageSizes::Small)?;
        Some(next)
    };
    let main = stack(STACK_PAGES)?;
    let mut own_stacks = [0; OWN_STACKS.len()];
    for end in &mut own_stacks {
        *end = stack(OWN_STACK_PAGES)?;
    }
    Some(Start { boot, begin_tsc, frames, tables, stack: main, own_stacks })
}

extern "C" fn on_own_tables(start: &'static mut Option<Start>) -> ! {
    let Some(start) = start.take() else { unreachable!() };
    let Start { boot, begin_tsc, mut frames, mut tables, stack, own_stacks } = start;
    frames.set_offset(DIRECT);
    tables.set_offset(DIRECT);
    let loaders = boot.ranges.as_slice().iter().filter(|range| range.kind == RangeKind::Loader);
    loaders.for_each(|range| frames.add(range));
    read_options(boot);

    static mut CPU: Cpu = Cpu::new();
    static mut DESCRIPTORS: Descriptors = Descriptors::new();
    // SAFETY: this runs once, on one CPU. The two references to the descriptors are used one after the other: the CPU reads the tables
    // on its own, and the only later change is to the bytes of the port bitmap.
    let (cpu, descriptors) = unsafe {
        (*addr_of_mut!(DESCRIPTORS)).load(stack, own_stacks);
        (&mut *addr_of_mut!(CPU), &mut *addr_of_mut!(DESCRIPTORS))
    };
    cpu.kernel_stack = stack;
    cpu.has_smap = u8::from(optional_protections() >> 21 & 1 != 0);
    cpu.install();
    start_system_calls();
    apic::mask_pics();
    if frames.allocate_run(heap::BYTES / PAGE_SIZE).map(|first| give_heap(first.address())).is_none() {
        stop_with("there is too little memory for the kernel's heap");
    }
    start_vectors(&mut frames);

    let mut mapper_next = mapper::FIRST;
    let mut mapper = Mapper { tables: &mut tables, frames: &mut frames, next: &mut mapper_next };
    let Some(apic) = LocalApic::start(|address| mapper.registers(address, PAGE_SIZE)) else {
        stop_with("there is too little memory to map the interrupt controller");
    };
    let Ok(clock) = Clock::start(apic, begin_tsc) else {
        stop_with("there is no clock: neither CPUID tells the counter's rate, nor does the PIT answer");
    };
    let mut machine = X86::new(frames, tables, clock, apic, descriptors);
    machine.mapper_next = mapper_next;
    machine.rsdp = boot.rsdp;
    machine.self_test = boot.arguments().any(|argument| argument == "selftest");
    start_io_apics(&mut machine);
    run(machine, boot)
}

/// Starts the domain and enters it.
#[inline(never)]
fn run(mut machine: X86, boot: &'static Boot) -> ! {
    let devices = devices::find(&mut machine, boot);
    log!("kernel: {} frames free, {} devices", machine.free_count(), devices.len());
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
    let (kernel, context) = match kernel::start(machine, module, devices, clock) {
        Ok(started) => started,
        Err(error) => stop_with(error),
    };
    static mut KERNEL: Option<Kernel<X86>> = None;
    // SAFETY: 1. this runs once, on one CPU; 2. the entries take the pointer only after ring 3 was entered, when the
    // reference here is not used any more; 3. the stack that `enter_ring_3` begins anew holds nothing that is needed.
    unsafe {
        let place = addr_of_mut!(KERNEL);
        place.write(Some(kernel));
        let Some(kernel) = (*place).as_mut() else { unreachable!() };
        if kernel.machine.self_test {
            let this = run as *const () as u64;
            if symbols::name_of(this)
                .is_none_or(|(name, offset)| name != "machine::start::run" || offset != 0)
            {
                stop_with(format_args!("the names of functions are wrong: {:?}", symbols::name_of(this)));
            }
            match kernel.machine.check_tables() {
                Ok(pages) => log!("kernel: {pages} pages are mapped as they should be"),
                Err(wrong) => stop_with(format_args!("the page tables are wrong: {wrong}")),
            }
        }
        if boot.arguments().any(|argument| argument == "selftest=panic") {
            panic!("asked for by the command line");
        }
        kernel.machine.flush();
        let cpu = crate::percpu::this();
        (*cpu).kernel = kernel;
        trap::enter_ring_3(&context, (*cpu).kernel_stack)
    }
}

fn stop_with(reason: impl core::fmt::Display) -> ! {
    report!("kernel: {reason}");
    power::stop_at_once(status::START_FAILED)
}

fn read_options(boot: &Boot) {
    for argument in boot.arguments() {
        match argument {
            "log=info" => serial::be_chatty(),
            "exit=isa-debug" => power::use_debug_exit(),
            _ => (),
        }
    }
}

fn give_heap(physical: u64) {
    // SAFETY: the frames were just allocated, are mapped at `DIRECT`, and are never given back.
    unsafe { crate::HEAP.give(DIRECT + physical) }
}

/// SDM volume 3, section 5.8.8.
fn start_system_calls() {
    const STAR: u32 = 0xc000_0081;
    const LONG_STAR: u32 = 0xc000_0082;
    const FLAG_MASK: u32 = 0xc000_0084;
    /// Trap, interrupt, direction, I/O privilege, nested task, alignment check: off in the kernel.
    const FLAGS_OFF: u64 = 1 << 8 | 1 << 9 | 1 << 10 | 3 << 12 | 1 << 14 | 1 << 18;
    // SAFETY: the segments are those of `Descriptors`, and the entry is the one that is made for it.
    unsafe {
        write_msr(STAR, u64::from(KERNEL_DATA) << 48 | u64::from(KERNEL_CODE) << 32);
        write_msr(LONG_STAR, trap::system_call_entry as *const () as u64);
        write_msr(FLAG_MASK, FLAGS_OFF);
    }
}

/// Gives ring 3 the vector state that the CPU has, in its initial configuration: nothing that firmware left in it.
fn start_vectors(frames: &mut Frames) {
    const XSAVE: u32 = 1 << 26;
    const X87_SSE: u64 = 0b11;
    const AVX: u64 = 1 << 2;
    const AVX_512: u64 = 0b111 << 5;
    // FXSAVE layout (SDM volume 1, table 10-2): control words as after a reset; no part of the extended state is present, so
    // all of it is initialised.
    const CONTROL: (usize, u16) = (0, 0x037f);
    const MXCSR: (usize, u32) = (24, 0x1f80);
    let Some(area) = frames.allocate() else { stop_with("there is too little memory for the vector state") };
    let at = (DIRECT + area.address()) as *mut u8;
    // SAFETY: the frame is ours and larger than the legacy area and the header, which is all that is read as nothing else is present. XCR0 gets
    // only parts that CPUID lists, in combinations that are allowed.
    unsafe {
        at.write_bytes(0, PAGE_SIZE as usize);
        at.add(CONTROL.0).cast::<u16>().write(CONTROL.1);
        at.add(MXCSR.0).cast::<u32>().write(MXCSR.1);
        if cpuid(1, 0).ecx & XSAVE != 0 {
            let has = u64::from(cpuid(0xd, 0).eax);
            let avx_512 = if has & (AVX | AVX_512) == AVX | AVX_512 { AVX_512 } else { 0 };
            let enabled = X87_SSE | has & AVX | avx_512;
            asm!("xsetbv", in("ecx") 0, in("eax") enabled as u32, in("edx") 0, options(nostack, nomem));
            asm!("xrstor64 [{}]", in(reg) at, in("eax") u32::MAX, in("edx") u32::MAX, options(nostack));
        } else {
            asm!("fxrstor64 [{}]", in(reg) at, options(nostack));
        }
    }
    frames.free_run(area, 1);
}

fn start_io_apics(machine: &mut X86) {
    let rsdp = machine.rsdp;
    let mut records =
        if rsdp == 0 { alloc::vec::Vec::new() } else { acpi::io_apics(&mut machine.mapper(), rsdp) };
    if records.is_empty() {
        records.push(acpi::IoApicRecord { address: apic::IO_DEFAULT, first_interrupt: 0 });
    }
    for record in records {
        let registers = machine.mapper().registers(record.address, PAGE_SIZE);
        let found = registers.and_then(|registers| IoApic::start(registers, record.first_interrupt));
        machine.io_apics.extend(found);
    }
}
