//! Which address space each CPU runs, and how CPUs are made to forget what they remember of one.
//!
//! A CPU that changes a space asks those that run it, by an interrupt, and waits until all have answered. They answer in the
//! interrupt, or, since interrupts are off in the kernel, while they spin for a lock or for answers of their own ([`Relax`]). A CPU that
//! does not run the space is not asked: without process-context identifiers it forgot the space when it left it; with them it
//! forgets when it comes back ([`crate::slots`]).
//!
//! All that is done to one space is done under the kernel's lock for it, so a CPU that begins to run it sees the last generation.

use crate::apic::SHOOTDOWN_VECTOR;
use crate::percpu::{self, Cpu};
use crate::slots::{Entries, Slots};
use crate::space::{STALE_MAX, Space, Stale};
use core::arch::asm;
use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use kernel::Shootdowns;

/// How a CPU waits for another: it answers others meanwhile.
#[derive(Debug)]
pub struct Relax;

impl spin::RelaxStrategy for Relax {
    fn relax() {
        serve();
        core::hint::spin_loop();
    }
}

/// What a CPU asks of others, and what it is asked.
pub struct Mailbox {
    /// The number of the space that this CPU runs; 0: the kernel's tables alone. Only this CPU writes it, after it has left the one before.
    active: AtomicU64,
    /// The CPUs that ask something of this one, as bits.
    asked: AtomicU64,
    /// The CPUs that have not answered this one, as bits. The fields below are theirs to read as long.
    waiting: AtomicU64,
    space: AtomicU64,
    generation: AtomicU64,
    pages: [AtomicU64; STALE_MAX],
    /// How many pages are to be forgotten; above [`STALE_MAX`]: all, or [`LEAVE`].
    count: AtomicUsize,
    ports: [AtomicU64; 2],
    /// How often this CPU was asked, and how often it asked.
    answered: AtomicU64,
    asks: AtomicU64,
}

/// For [`Mailbox::count`]: run the kernel's tables alone.
const LEAVE: usize = usize::MAX;

impl Mailbox {
    /// Nothing is asked.
    pub const fn new() -> Self {
        Self {
            active: AtomicU64::new(0),
            asked: AtomicU64::new(0),
            waiting: AtomicU64::new(0),
            space: AtomicU64::new(0),
            generation: AtomicU64::new(0),
            pages: [const { AtomicU64::new(0) }; STALE_MAX],
            count: AtomicUsize::new(0),
            ports: [const { AtomicU64::new(0) }; 2],
            answered: AtomicU64::new(0),
            asks: AtomicU64::new(0),
        }
    }

    /// What was asked and answered.
    pub fn counts(&self) -> Shootdowns {
        Shootdowns { asked: self.asks.load(Relaxed), served: self.answered.load(Relaxed) }
    }

    /// The number of the space that this CPU runs, or 0.
    pub fn active(&self) -> u64 {
        self.active.load(Acquire)
    }
}

/// The tables that map the kernel alone, for `cr3`.
pub static KERNEL_ROOT: AtomicU64 = AtomicU64::new(0);
static HAS_IDENTIFIERS: AtomicBool = AtomicBool::new(false);

/// The tables to run when there is no space, and whether CR4 has turned process-context identifiers on.
pub fn start(kernel_root: u64, has_identifiers: bool) {
    KERNEL_ROOT.store(kernel_root, Relaxed);
    HAS_IDENTIFIERS.store(has_identifiers, Relaxed);
}

/// The tables that map the kernel alone.
pub fn kernel_root() -> u64 {
    KERNEL_ROOT.load(Relaxed)
}

/// See [`kernel::Machine::activate`].
pub fn activate(space: &mut Space) {
    /// In `cr3`: what is remembered under the identifier stays.
    const KEEP: u64 = 1 << 63;
    let cpu = percpu::this();
    space.cpus |= 1 << cpu.number;
    set_ports(cpu, space.ports);
    if cpu.shared.mailbox.active.load(Relaxed) == space.number {
        return;
    }
    let mut root = space.root;
    if HAS_IDENTIFIERS.load(Relaxed) {
        let (identifier, entries) = with_slots(cpu, |slots| slots.enter(space.number, space.generation));
        root |= identifier | if entries == Entries::Keep { KEEP } else { 0 };
    }
    load_root(root);
    // After the old tables are left: who reads another number may free them.
    cpu.shared.mailbox.active.store(space.number, Release);
}

/// See [`kernel::Machine::flush`].
pub fn flush(space: &mut Space) {
    let stale = core::mem::take(&mut space.stale);
    if stale.count > 0 || stale.ports {
        space.generation += 1;
        forget_everywhere(space, &stale.pages, stale.count);
    }
}

/// No CPU runs the space when this returns.
pub fn leave_everywhere(space: &mut Space) {
    space.stale = Stale::default();
    forget_everywhere(space, &[0; STALE_MAX], LEAVE);
}

fn forget_everywhere(space: &mut Space, pages: &[u64; STALE_MAX], count: usize) {
    let cpu = percpu::this();
    let request = &cpu.shared.mailbox;
    request.space.store(space.number, Relaxed);
    request.generation.store(space.generation, Relaxed);
    for (place, &page) in request.pages.iter().zip(&pages[..count.min(STALE_MAX)]) {
        place.store(page, Relaxed);
    }
    request.count.store(count, Relaxed);
    for (place, ports) in request.ports.iter().zip(space.ports) {
        place.store(ports, Relaxed);
    }
    carry_out(cpu, request);
    let me = 1 << cpu.number;
    let runs =
        |&number: &usize| percpu::shared(number).is_some_and(|other| other.mailbox.active() == space.number);
    let others = bits(space.cpus & !me).filter(runs).fold(0, |others, number| others | 1 << number);
    space.cpus = space.cpus & me | others;
    if others == 0 {
        return;
    }
    request.asks.fetch_add(u64::from(others.count_ones()), Relaxed);
    request.waiting.store(others, Release);
    for other in bits(others).filter_map(percpu::shared) {
        other.mailbox.asked.fetch_or(me, AcqRel);
        cpu.apic.get().send(other.apic_id(), SHOOTDOWN_VECTOR);
    }
    while request.waiting.load(Acquire) != 0 {
        <Relax as spin::RelaxStrategy>::relax();
    }
}

/// Does what other CPUs ask of this one.
pub fn serve() {
    let cpu = percpu::this();
    let mailbox = &cpu.shared.mailbox;
    if mailbox.asked.load(Relaxed) == 0 {
        return;
    }
    for asking in bits(mailbox.asked.swap(0, AcqRel)).filter_map(percpu::shared) {
        carry_out(cpu, &asking.mailbox);
        mailbox.answered.fetch_add(1, Relaxed);
        asking.mailbox.waiting.fetch_and(!(1 << cpu.number), AcqRel);
    }
}

fn carry_out(cpu: &Cpu, request: &Mailbox) {
    let space = request.space.load(Relaxed);
    if cpu.shared.mailbox.active.load(Relaxed) != space {
        return;
    }
    let count = request.count.load(Relaxed);
    if count == LEAVE {
        load_root(kernel_root());
        cpu.shared.mailbox.active.store(0, Release);
        set_ports(cpu, [0; 2]);
        return;
    }
    // SAFETY: forgetting what the TLB holds makes the CPU read the tables again, and changes nothing else. The kernel's own
    // mappings, which are global, do not change.
    unsafe {
        if count > STALE_MAX {
            asm!("mov {scratch}, cr3", "mov cr3, {scratch}", scratch = out(reg) _, options(nostack, preserves_flags));
        } else {
            for page in &request.pages[..count] {
                asm!("invlpg [{}]", in(reg) page.load(Relaxed), options(nostack, preserves_flags));
            }
        }
    }
    if HAS_IDENTIFIERS.load(Relaxed) {
        with_slots(cpu, |slots| slots.forgot(space, request.generation.load(Relaxed)));
    }
    set_ports(cpu, [0, 1].map(|word| request.ports[word].load(Relaxed)));
}

fn set_ports(cpu: &Cpu, ports: [u64; 2]) {
    if cpu.ports.replace(ports) != ports {
        // SAFETY: the entries do not nest and interrupts are off, so this is the only reference that lives.
        unsafe { (*cpu.descriptors.get()).open_ports(ports) }
    }
}

fn with_slots<R>(cpu: &Cpu, change: impl FnOnce(&mut Slots) -> R) -> R {
    let mut slots = cpu.slots.get();
    let result = change(&mut slots);
    cpu.slots.set(slots);
    result
}

fn load_root(root: u64) {
    // SAFETY: the upper half of all tables is the kernel's, so what runs here stays mapped. Only ring 3 uses the lower half.
    unsafe { asm!("mov cr3, {}", in(reg) root, options(nostack, preserves_flags)) }
}

/// The root that this CPU has loaded.
pub fn loaded_root() -> u64 {
    let root: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mov {}, cr3", out(reg) root, options(nomem, nostack, preserves_flags)) }
    root & crate::paging::bits::ADDRESS
}

fn bits(mut set: u64) -> impl Iterator<Item = usize> {
    core::iter::from_fn(move || {
        let lowest = (set != 0).then(|| set.trailing_zeros() as usize)?;
        set &= set - 1;
        Some(lowest)
    })
}
