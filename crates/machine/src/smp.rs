//! The other CPUs: finding them, starting them, and what they do before the kernel has work for them.
//!
//! The Limine protocol hands them over in long mode. Otherwise firmware's tables name them, and two interrupts start each in
//! real mode ([`crate::trampoline`]). One at a time, and none is waited for longer than [`WAIT_NS`].

use crate::apic::LocalApic;
use crate::boot::Boot;
use crate::cpu::{self, cpuid, wait_for_interrupt};
use crate::dispatch;
use crate::entry;
use crate::features;
use crate::limine;
use crate::log::log;
use crate::madt;
use crate::mapper::take_frames;
use crate::memory;
use crate::paging::{DIRECT, ENTRIES, KernelTables, PageSizes, Window};
use crate::percpu::{self, CPUS_MAX, Cpu};
use crate::tlb;
use crate::trampoline::{self, Way};
use crate::tsc::{self, Verdict};
use crate::vectors::Vectors;
use crate::x86::X86;
use abi::PAGE_SIZE;
use alloc::vec::Vec;
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};
use kernel::{Frame, Kernel};
use spin::Once;

/// How long a CPU may take to come, in nanoseconds.
const WAIT_NS: u64 = 1_000_000_000;
/// The pause after a reset: of the 10 ms of the specification (Intel MultiProcessor Specification 1.4, section B.4) no CPU with long mode
/// needs any.
const RESET_NS: u64 = 10_000;
/// How long the first of the two interrupts that start it gets (the same).
const STEP_NS: u64 = 200_000;

/// What all CPUs have alike.
static LIKE_FIRST: Once<(Vectors, LocalApic)> = Once::new();
/// The state of the CPU that is waited for: it takes it away when it comes.
static EXPECTED: AtomicPtr<Cpu> = AtomicPtr::new(ptr::null_mut());
/// For the CPU that is started: its state.
static MAILBOX: AtomicU64 = AtomicU64::new(0);
static KERNEL: AtomicPtr<Kernel<X86>> = AtomicPtr::new(ptr::null_mut());

/// Whether all that the loader's memory is needed for is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoaderMemory {
    /// It is free.
    Free,
    /// A CPU may still run there.
    Used,
}

/// Starts the other CPUs, as many as the command line lets.
pub fn start(machine: &mut X86, boot: &Boot) -> LoaderMemory {
    let wanted = boot.arguments().filter_map(|argument| argument.strip_prefix("cpus=")?.parse().ok()).next();
    let limit = wanted.unwrap_or(CPUS_MAX).clamp(1, CPUS_MAX);
    if boot.cpus.1 > 0 {
        return take_over(machine, boot, limit);
    }
    if limit > 1 {
        let others = find_others(machine);
        if !others.is_empty() {
            start_others(machine, boot, &others, limit);
        }
    }
    LoaderMemory::Free
}

/// Calls the CPUs that the loader holds. Those beyond the limit are parked where they need none of its memory.
fn take_over(machine: &mut X86, boot: &Boot, limit: usize) -> LoaderMemory {
    let me = percpu::this().apic.get().id();
    let mut left = 0;
    prepare(machine);
    for info in limine::cpus(boot).filter(|info| info.apic_id() != me) {
        let cpu = if percpu::count() < limit { new_cpu(machine) } else { None };
        let parked = entry::parked();
        info.go(entry::limine_cpu_entry as *const () as u64, cpu.map_or(0, |cpu| cpu as u64));
        let has_come = match cpu {
            Some(cpu) => welcome(machine, cpu, info.apic_id()),
            None => wait_until(machine, WAIT_NS, || entry::parked() != parked),
        };
        left += usize::from(!has_come);
    }
    if left > 0 {
        log!(Warn, "{left} CPUs of the loader's did not come");
    }
    if left == 0 { LoaderMemory::Free } else { LoaderMemory::Used }
}

/// The numbers of the other CPUs, by firmware's tables.
fn find_others(machine: &mut X86) -> Vec<u32> {
    let me = percpu::this().apic.get().id();
    let mut others = Vec::new();
    let mut add = |id: u32| {
        if id != me && others.len() < CPUS_MAX && !others.contains(&id) {
            others.push(id);
        }
    };
    match machine.madt {
        Some(table) => madt::cpus(table).for_each(&mut add),
        None if has_several_by_itself() => {
            if let Some(table) = mp_table(machine) {
                madt::mp_cpus(table).for_each(&mut add);
            }
        }
        None => (),
    }
    others
}

/// Whether CPUID says that there is more than one logical processor in this package (SDM volume 2, CPUID leaf 1): looking for the old
/// table costs more than all the rest of the start.
fn has_several_by_itself() -> bool {
    const SEVERAL: u32 = 1 << 28;
    let leaf = cpuid(1, 0);
    leaf.edx & SEVERAL != 0 && leaf.ebx >> 16 & 0xff > 1
}

/// The MP configuration table: the pointer to it is in the last KiB below 640 KiB or in the BIOS's memory (section 4.1).
fn mp_table(machine: &mut X86) -> Option<&'static [u8]> {
    const AREAS: [(u64, usize); 2] = [(0x9_fc00, 0x400), (0xf_0000, 0x1_0000)];
    const HEADER_BYTES: usize = 44;
    let mapper = machine.mapper.get_mut();
    let address = AREAS.into_iter().find_map(|(base, length)| madt::mp_table(mapper.bytes(base, length)?))?;
    let length = madt::mp_length(mapper.bytes(address, HEADER_BYTES)?)?;
    mapper.bytes(address, length)
}

fn start_others(machine: &mut X86, boot: &Boot, others: &[u32], limit: usize) {
    let Some(page) = boot.low_page else {
        return log!(Warn, "there is no memory below 1 MiB that {} more CPUs could start in", others.len());
    };
    let mut apic = percpu::this().apic.get();
    if others.iter().any(|&id| !apic.reaches(id))
        && let Some(wide) = apic.widen()
    {
        percpu::this().set_apic(wide);
        apic = wide;
    }
    prepare(machine);
    let tables = StartTables::new(page);
    let (Some(tables), Some(at)) = (tables, machine.mapper.get_mut().page(page)) else {
        return log!(Warn, "there is too little memory to start {} more CPUs", others.len());
    };
    let way = Way {
        root: tables.root,
        entry: entry::cpu_entry as *const () as u64,
        mailbox: MAILBOX.as_ptr() as u64,
    };
    // SAFETY: `low_page` is RAM below 1 MiB that is nobody's, and mapped.
    unsafe { trampoline::write(at, page as u32, &way) }
    let mut all_came = true;
    for &id in others.iter().take(limit - 1) {
        if !apic.reaches(id) {
            log!(Warn, "CPU with APIC number {id} is out of reach");
            continue;
        }
        let Some(cpu) = new_cpu(machine) else {
            log!(Warn, "there is too little memory for the CPU with APIC number {id}");
            continue;
        };
        MAILBOX.store(cpu as u64, Ordering::Release);
        apic.send_init(id);
        wait_until(machine, RESET_NS, || false);
        let start_page = (page / PAGE_SIZE) as u8;
        apic.send_start(id, start_page);
        if !wait_until(machine, STEP_NS, has_come) {
            apic.send_start(id, start_page);
        }
        all_came &= welcome(machine, cpu, id);
        MAILBOX.store(0, Ordering::Release);
    }
    // One that comes later walks the tables until it finds the mailbox empty.
    if all_came {
        tables.free();
    }
}

/// Tables for the way from real mode: the kernel's half, and one page below 1 MiB at its own address.
struct StartTables {
    root: u32,
    frames: Vec<u64>,
}

impl StartTables {
    fn new(page: u64) -> Option<Self> {
        let mut frames = Vec::new();
        let take = &mut |count| {
            let first = take_frames(count)?;
            frames.push(first);
            Some(first)
        };
        let mut tables = KernelTables::new(take, Window::OWN)?;
        let root = u32::try_from(tables.root()).ok()?;
        Window::OWN.copy(tlb::kernel_root(), tables.root(), ENTRIES / 2..ENTRIES);
        tables.map(take, page, page..page + PAGE_SIZE, 0, PageSizes::Small)?;
        Some(Self { root, frames })
    }

    fn free(self) {
        self.frames.iter().for_each(|&frame| memory::free_run(Frame::containing(frame), 1));
    }
}

fn prepare(machine: &X86) {
    LIKE_FIRST.call_once(|| (machine.vectors, percpu::this().apic.get()));
}

/// State and stacks for the next CPU.
fn new_cpu(machine: &mut X86) -> Option<*mut Cpu> {
    const FRAMES: u64 = (size_of::<Cpu>() as u64).div_ceil(PAGE_SIZE);
    let frames = take_frames(FRAMES)?;
    let stacks = machine.mapper.get_mut().stacks(&mut take_frames)?;
    let cpu = (DIRECT + frames) as *mut Cpu;
    // SAFETY: frames that were just taken and are never given back; they are large enough and aligned.
    unsafe {
        cpu.write(Cpu::new(percpu::count()));
        (*cpu).prepare(&stacks);
    }
    EXPECTED.store(cpu, Ordering::Release);
    Some(cpu)
}

/// Whether the CPU that is waited for has come.
fn has_come() -> bool {
    EXPECTED.load(Ordering::Acquire).is_null()
}

/// Waits for a CPU that was told to come, and takes it among those that run the kernel if its clock is right. Answers whether it has come.
fn welcome(machine: &X86, cpu: *mut Cpu, id: u32) -> bool {
    let number = percpu::count();
    let is_late = || EXPECTED.swap(ptr::null_mut(), Ordering::AcqRel) == cpu;
    if !wait_until(machine, WAIT_NS, has_come) && is_late() {
        log!(Warn, "the CPU with APIC number {id} did not start");
        return false;
    }
    match tsc::compare() {
        Verdict::Same => log!(Info, "CPU {number} has APIC number {id}"),
        Verdict::Corrected(ahead) => {
            log!(Warn, "CPU {number} (APIC number {id}): its counter was {ahead} ahead and was set");
        }
        Verdict::Refused(ahead) => {
            log!(Warn, "the CPU with APIC number {id} is not used: its counter is {ahead} ahead");
            return true;
        }
    }
    // It is about to say so itself.
    wait_until(machine, WAIT_NS, || percpu::count() > number)
}

fn wait_until(machine: &X86, limit_ns: u64, mut done: impl FnMut() -> bool) -> bool {
    let end = machine.clock.now_ns() + limit_ns;
    loop {
        if done() {
            return true;
        }
        if machine.clock.now_ns() >= end {
            return false;
        }
        core::hint::spin_loop();
    }
}

/// A new CPU, on the kernel's tables and its own stack.
pub extern "C" fn on_new_cpu(cpu: *mut Cpu) -> ! {
    features::turn_on();
    // SAFETY: made for this CPU, which is the only one that uses it from now on, and for ever.
    let state = unsafe { &*cpu };
    state.install();
    features::turn_on_rest();
    if let Some((vectors, apic)) = LIKE_FIRST.get() {
        vectors.turn_on();
        state.set_apic(apic.start_like());
    }
    // One that comes too late is not waited for any more.
    let is_expected =
        EXPECTED.compare_exchange(cpu, ptr::null_mut(), Ordering::AcqRel, Ordering::Acquire).is_ok();
    if !is_expected || !tsc::answer() {
        cpu::halt()
    }
    state.announce();
    // The interrupt comes when there is a kernel; none is lost, since they are off but for the sleep.
    while KERNEL.load(Ordering::Acquire).is_null() {
        wait_for_interrupt();
        dispatch::forget_arrived();
    }
    state.kernel.set(KERNEL.load(Ordering::Acquire));
    dispatch::begin()
}

/// There is a kernel: the other CPUs enter it.
pub fn let_others_in(kernel: &'static Kernel<X86>) {
    KERNEL.store(ptr::from_ref(kernel).cast_mut(), Ordering::Release);
    for number in 1..percpu::count() {
        kernel::Machine::kick(&kernel.machine, number);
    }
}
