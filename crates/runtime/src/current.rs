//! The process that a virtual CPU runs, as upcalls see it: without locks, and without the heap.

use crate::meter::{self, Meter};
use crate::slots::Owner;
use crate::trap::Frames;
use crate::{Limits, Program, System, Usage, Vcpu, heap, process, trap};
use abi::{Request, Span};
use core::alloc::Layout;
use core::ptr::{NonNull, null_mut};
use core::sync::atomic::{
    AtomicBool, AtomicPtr, AtomicU8, AtomicU32, AtomicU64, AtomicUsize,
    Ordering::{Acquire, Relaxed, Release},
};

/// Why a process has to end, when it is not its own doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Stop {
    /// Its time is over.
    TimedOut = 1,
    /// Somebody asked for it.
    Cancelled = 2,
    /// It touched a page and there was no memory for it.
    OutOfMemory = 3,
    /// It has used the CPU time that it may.
    CpuTime = 4,
    /// What the library OS holds for it is more than it may be.
    HostMemory = 5,
}

/// The one of this number.
fn stop_of(number: u8) -> Option<Stop> {
    [Stop::TimedOut, Stop::Cancelled, Stop::OutOfMemory, Stop::CpuTime, Stop::HostMemory]
        .into_iter()
        .find(|stop| *stop as u8 == number)
}

/// What upcalls need to know of a process. It lives as long as the process and does not move.
pub(crate) struct Control {
    /// What it runs, and where.
    pub program: Option<&'static Program>,
    pub stack: Span,
    /// When its time is over, on the kernel's clock.
    deadline_ns: AtomicU64,
    /// The CPU time that it had had before its turn.
    cpu_before_ns: AtomicU64,
    /// When its turn would have begun if others had had nothing of it, as far as the kernel was asked.
    cpu_since_ns: AtomicU64,
    /// How much CPU time it may have.
    cpu_ns_max: u64,
    /// When it was made.
    began_ns: u64,
    /// A [`Stop`], or 0.
    stop: AtomicU8,
    /// It is in a function of ours that it called.
    in_host_function: AtomicBool,
    /// Instructions that may still be stepped over.
    pub steps: AtomicU64,
    /// Until when.
    pub steps_until_ns: AtomicU64,
    /// How often it could not be preempted since it was given a virtual CPU.
    pub retries: AtomicU64,
    /// When it first wanted a page of the reserve, on the kernel's clock; [`Request::NEVER`]: it has not.
    pub short_since_ns: AtomicU64,
    /// Where the function of ours whose return was caught goes back to.
    pub returns_to: AtomicU64,
    /// Where it was preempted, until the thunk has taken note of it.
    pub preempted_at: AtomicU64,
    /// It is coming to its end, by itself: nobody makes it end any more, and it gives way where it can.
    over: AtomicBool,
    /// What was allocated in its time and not given back, in bytes: in two's complement, for it may give back what others allocated.
    host_bytes: AtomicU64,
    /// How much that may be.
    host_bytes_max: u64,
    /// How much its tables may take beside that and their length.
    growing_tables_bytes_max: u64,
    /// What is allocated now is not for it.
    uncharged: AtomicBool,
    /// The last that it was refused, if that was much.
    refusal: Refusal,
    /// Its linear memories and tables, in bytes.
    memory_bytes: AtomicU64,
    /// How long its tables are together.
    table_elements: AtomicU64,
    /// Its open descriptors.
    descriptors: AtomicU64,
    /// How much of its stack was in use where it ended.
    stack_bytes: AtomicU64,
    /// Where that was.
    pub frames: Frames,
    /// How many slots it has asked for.
    memories: AtomicU32,
    /// The engine's thread-local pointers while it does not run.
    engine: [AtomicPtr<u8>; 2],
}

impl Control {
    pub fn new(program: Option<&'static Program>, stack: Span, limits: Limits, began_ns: u64) -> Self {
        Self {
            program,
            stack,
            deadline_ns: AtomicU64::new(limits.deadline_ns),
            cpu_before_ns: AtomicU64::new(0),
            cpu_since_ns: AtomicU64::new(Request::NEVER),
            cpu_ns_max: limits.cpu_ns_max,
            began_ns,
            stop: AtomicU8::new(0),
            in_host_function: AtomicBool::new(false),
            steps: AtomicU64::new(0),
            steps_until_ns: AtomicU64::new(0),
            retries: AtomicU64::new(0),
            short_since_ns: AtomicU64::new(Request::NEVER),
            returns_to: AtomicU64::new(0),
            preempted_at: AtomicU64::new(0),
            over: AtomicBool::new(false),
            host_bytes: AtomicU64::new(0),
            host_bytes_max: limits.host_bytes_max,
            growing_tables_bytes_max: limits.growing_tables_bytes_max,
            uncharged: AtomicBool::new(false),
            refusal: Refusal::new(),
            memory_bytes: AtomicU64::new(0),
            table_elements: AtomicU64::new(0),
            descriptors: AtomicU64::new(0),
            stack_bytes: AtomicU64::new(0),
            frames: Frames::new(),
            memories: AtomicU32::new(0),
            engine: [const { AtomicPtr::new(null_mut()) }; 2],
        }
    }

    /// Why it has to end, if it does.
    pub fn stop_wanted(&self) -> Option<Stop> {
        stop_of(self.stop.load(Relaxed))
    }

    /// Makes it end; the first reason stays.
    pub fn want_stop(&self, stop: Stop) {
        let _ = self.stop.compare_exchange(0, stop as u8, Relaxed, Relaxed);
    }

    /// Makes it end if its time is over.
    pub fn look_at_time(&self, system: &System, now_ns: u64) {
        if now_ns >= self.deadline_ns.load(Relaxed) {
            self.want_stop(Stop::TimedOut);
        }
        // By the clock its CPU time is over sooner than in truth.
        if now_ns >= self.cpu_deadline_ns() && self.settle(system) >= self.cpu_deadline_ns() {
            self.want_stop(Stop::CpuTime);
        }
    }

    /// When [`Control::look_at_time`] has something to do, if it goes on running.
    pub fn end_ns(&self) -> u64 {
        self.deadline_ns().min(self.cpu_deadline_ns())
    }

    fn cpu_deadline_ns(&self) -> u64 {
        match self.cpu_ns_max {
            Request::NEVER => Request::NEVER,
            max_ns => {
                let left_ns = max_ns.saturating_sub(self.cpu_before_ns.load(Relaxed));
                self.cpu_since_ns.load(Relaxed).saturating_add(left_ns)
            }
        }
    }

    /// Takes off its turn what others have had of it, and answers with the time.
    pub(crate) fn settle(&self, system: &System) -> u64 {
        let (now_ns, taken_ns) = seat().meter.ask(system);
        self.cpu_since_ns.fetch_add(taken_ns, Relaxed);
        self.cpu_since_ns.fetch_min(now_ns, Relaxed);
        now_ns
    }

    /// The CPU time that its turn has had, with what others have had since it was settled last.
    pub(crate) fn had_ns(&self, now_ns: u64) -> u64 {
        now_ns.saturating_sub(self.cpu_since_ns.load(Relaxed))
    }

    /// Its turn is accounted for.
    pub(crate) fn close_turn(&self) {
        self.cpu_since_ns.store(Request::NEVER, Relaxed);
    }

    /// When its time is over, running or not.
    pub fn deadline_ns(&self) -> u64 {
        self.deadline_ns.load(Relaxed)
    }

    /// What it has used, having been on virtual CPUs as `usage` says.
    pub fn usage(&self, system: &System, usage: Usage) -> Usage {
        Usage {
            memory_bytes: self.memory_bytes.load(Relaxed),
            host_bytes: self.host_bytes().saturating_sub_unsigned(self.table_bytes()).max(0).cast_unsigned(),
            table_elements: self.table_elements.load(Relaxed),
            descriptors: self.descriptors.load(Relaxed),
            stack_bytes: self.stack_bytes.load(Relaxed),
            time_ns: system.now_ns().saturating_sub(self.began_ns),
            ..usage
        }
    }

    pub fn set_memory(&self, bytes: u64, table_elements: u64) {
        self.memory_bytes.store(bytes, Relaxed);
        self.table_elements.store(table_elements, Relaxed);
    }

    /// What its tables take, which lie in the heap, and are counted as its own memory.
    fn table_bytes(&self) -> u64 {
        self.table_elements.load(Relaxed).saturating_mul(process::TABLE_ELEMENT_BYTES)
    }

    pub(crate) fn host_bytes(&self) -> i64 {
        self.host_bytes.load(Relaxed).cast_signed()
    }

    /// Makes it end, while it runs. It may be alone, and then nobody looks if no tick comes.
    fn want_stop_soon(&self, stop: Stop) {
        if self.stop_wanted().is_none() {
            self.want_stop(stop);
            if let Some(system) = System::get() {
                tick_by(system, system.now_ns().saturating_add(trap::RETRY_NS));
            }
        }
    }

    /// Charges it for an allocation, if it may have it. What goes beyond its allowance by little is granted, since not everybody can be told no,
    /// and then it ends.
    fn charge(&self, bytes: usize) -> bool {
        if self.uncharged.load(Relaxed) {
            return true;
        }
        let total = self.host_bytes().saturating_add_unsigned(bytes as u64);
        if total > self.host_bytes_max.cast_signed() && !self.may_go_beyond(total, bytes) {
            return false;
        }
        self.host_bytes.store(total.cast_unsigned(), Relaxed);
        true
    }

    /// Whether it may have so much in all, with a block of `bytes`, which is more than its allowance without tables.
    #[cold]
    fn may_go_beyond(&self, total: i64, bytes: usize) -> bool {
        let tables = self.table_bytes();
        let growing = tables.saturating_mul(GROWING_TABLES).min(self.growing_tables_bytes_max);
        let allowed = self.host_bytes_max.saturating_add(tables).saturating_add(growing);
        let beyond = total.saturating_sub_unsigned(allowed);
        if beyond > 0 {
            if bytes > heap::SMALL_BYTES || beyond > heap::BEYOND_BYTES_MAX {
                return false;
            }
            self.want_stop_soon(Stop::HostMemory);
        }
        true
    }

    /// Its program had so much on the stack where it ended.
    pub fn set_stack_bytes(&self, bytes: u64) {
        self.stack_bytes.store(bytes, Relaxed);
    }

    /// It is coming to its end.
    pub fn is_over(&self) -> bool {
        self.over.load(Relaxed)
    }

    pub fn is_in_host_function(&self) -> bool {
        self.in_host_function.load(Relaxed)
    }

    /// Whether it is in no function of ours: in its own code, or in the engine's.
    fn is_in_engine(&self) -> bool {
        !self.is_in_host_function() && !self.is_over() && !self.uncharged.load(Relaxed)
    }
}

/// Much memory that a process was refused, in a function of the engine's that its program has called.
struct Refusal {
    /// A [`Stop`], or 0.
    stop: AtomicU8,
    /// What was to become longer, if anything was, and its size and alignment.
    block: AtomicPtr<u8>,
    layout: [AtomicUsize; 2],
}

impl Refusal {
    const fn new() -> Self {
        Self {
            stop: AtomicU8::new(0),
            block: AtomicPtr::new(null_mut()),
            layout: [const { AtomicUsize::new(0) }; 2],
        }
    }
}

/// While a table grows, there is the old one and room for twice as much: so often its length beside the old one.
const GROWING_TABLES: u64 = 2;

/// What a virtual CPU knows of the process that it runs. Others write to [`Seat::due_ns`] alone, and make it look then.
pub(crate) struct Seat {
    /// The process; null while the scheduler runs.
    control: AtomicPtr<Control>,
    /// When the scheduler wants the virtual CPU back, whatever the process does: others want it.
    due_ns: AtomicU64,
    /// The scheduler is to have the virtual CPU as soon as the process can be left.
    switch_wanted: AtomicBool,
    /// An event has come, which nobody has looked at.
    event_pending: AtomicBool,
    /// For when the tick is asked for. What is due later is asked for when that tick has come: asking is a request.
    tick_ns: AtomicU64,
    /// The engine's two thread-local pointers.
    engine: [AtomicPtr<u8>; 2],
    meter: Meter,
    /// While no process runs.
    loading: Loading,
}

impl Seat {
    pub const fn new() -> Self {
        Self {
            control: AtomicPtr::new(null_mut()),
            due_ns: AtomicU64::new(Request::NEVER),
            switch_wanted: AtomicBool::new(false),
            event_pending: AtomicBool::new(false),
            tick_ns: AtomicU64::new(Request::NEVER),
            engine: [const { AtomicPtr::new(null_mut()) }; 2],
            meter: Meter::new(),
            loading: Loading::new(),
        }
    }

    /// The process that runs.
    fn process(&self) -> Option<&'static Control> {
        // SAFETY: `run` stores a control that outlives the time for which it is stored.
        unsafe { self.control.load(Acquire).as_ref() }
    }

    /// When the scheduler wants the virtual CPU back.
    pub fn due_ns(&self) -> u64 {
        self.due_ns.load(Relaxed)
    }

    /// Says when. The virtual CPU does not notice by itself.
    pub fn set_due_ns(&self, due_ns: u64) {
        self.due_ns.store(due_ns, Relaxed);
    }
}

fn seat() -> &'static Seat {
    &Vcpu::current().seat
}

/// The process that runs.
pub(crate) fn get() -> Option<&'static Control> {
    seat().process()
}

/// The engine's thread-local pointer number `slot`.
pub(crate) fn engine_pointer(slot: usize) -> &'static AtomicPtr<u8> {
    &seat().engine[slot]
}

/// Which memory the process that runs asks for next, if one runs.
pub(crate) fn next_memory() -> Option<Owner> {
    let current = get()?;
    let program = current.program.map_or(0, |program| program.text().base);
    Some(Owner { program, memory: current.memories.fetch_add(1, Relaxed) })
}

/// A process's turn.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Turn {
    /// When it begins.
    pub began_ns: u64,
    /// The CPU time that the process has had before.
    pub cpu_ns: u64,
}

/// Makes `control` the process that runs, for as long as `operation` takes. Until when others leave it the virtual CPU, the seat says.
pub(crate) fn run<T>(system: &System, control: &Control, turn: Turn, operation: impl FnOnce() -> T) -> T {
    let Turn { began_ns, cpu_ns } = turn;
    let seat = seat();
    seat.meter.begin(system, began_ns);
    control.cpu_before_ns.store(cpu_ns, Relaxed);
    control.cpu_since_ns.store(began_ns, Relaxed);
    control.retries.store(0, Relaxed);
    seat.switch_wanted.store(false, Relaxed);
    for (own, engine) in control.engine.iter().zip(&seat.engine) {
        engine.store(own.load(Relaxed), Relaxed);
    }
    seat.control.store(core::ptr::from_ref(control).cast_mut(), Release);
    // Whoever wanted something before that was heard by nobody: so everything is looked at after it.
    if seat.event_pending.load(Acquire) {
        seat.switch_wanted.store(true, Relaxed);
    }
    let mut wanted_ns = seat.due_ns().min(control.end_ns());
    if control.stop_wanted().is_some() || seat.switch_wanted.load(Relaxed) {
        // Who has to end or to go finds out by itself in less than that, as a rule.
        wanted_ns = wanted_ns.min(began_ns.saturating_add(trap::RETRY_NS));
    }
    tick_by(system, wanted_ns);
    let answer = operation();
    seat.control.store(null_mut(), Release);
    for (own, engine) in control.engine.iter().zip(&seat.engine) {
        own.store(engine.swap(null_mut(), Relaxed), Relaxed);
    }
    answer
}

/// The CPU time of a turn, which has just ended.
pub(crate) fn had_ns(system: &System, control: &Control, turn: Turn) -> u64 {
    let now_ns = system.now_ns();
    let is_short = now_ns.saturating_sub(turn.began_ns) < meter::SHORT_NS;
    control.had_ns(if is_short { now_ns } else { control.settle(system) })
}

/// The virtual CPU has slept.
pub(crate) fn has_slept() {
    seat().meter.forget();
}

/// Asks for a tick at `deadline_ns` or earlier.
pub(crate) fn tick_by(system: &System, deadline_ns: u64) {
    let tick_ns = &seat().tick_ns;
    if deadline_ns >= tick_ns.load(Relaxed) {
        return;
    }
    tick_ns.store(deadline_ns, Relaxed);
    let mut wanted_ns = deadline_ns;
    loop {
        system.set_timer(wanted_ns);
        // A tick that came in between may have asked for an earlier one, whose place this one has taken.
        let asked_ns = tick_ns.load(Relaxed);
        if asked_ns >= wanted_ns {
            return;
        }
        wanted_ns = asked_ns;
    }
}

/// The tick has come, or may have: none is asked for any more.
pub(crate) fn tick_came() {
    seat().tick_ns.store(Request::NEVER, Relaxed);
}

/// When the scheduler wants the virtual CPU back.
pub(crate) fn due_ns() -> u64 {
    seat().due_ns()
}

/// Whether the scheduler wants the virtual CPU as soon as possible.
pub fn is_switch_wanted() -> bool {
    seat().switch_wanted.load(Relaxed)
}

pub(crate) fn want_switch() {
    seat().switch_wanted.store(true, Relaxed);
}

/// An event has come. What happens outside is told to the first virtual CPU; any other was only to look again at what it runs.
pub(crate) fn event_came() {
    let vcpu = Vcpu::current();
    if vcpu.number() == 0 {
        vcpu.seat.event_pending.store(true, Release);
        vcpu.seat.switch_wanted.store(true, Relaxed);
    }
}

/// Whether an event has come since the last time.
pub(crate) fn take_event() -> bool {
    seat().event_pending.swap(false, Acquire)
}

/// Why the process that runs has to end, if it does.
pub fn stop_wanted() -> Option<Stop> {
    get().and_then(Control::stop_wanted)
}

/// Whether a process runs, and not the scheduler.
pub fn is_running() -> bool {
    get().is_some()
}

/// Makes the process that runs end; the first reason stays.
pub fn want_stop(stop: Stop) {
    if let Some(current) = get() {
        current.want_stop_soon(stop);
    }
}

/// So many descriptors of the process that runs are open.
pub fn set_descriptors(count: usize) {
    if let Some(current) = get() {
        current.descriptors.store(count as u64, Relaxed);
    }
}

/// Charges the process that runs for an allocation, or what is done without one; whether it may have it.
pub(crate) fn charge(bytes: usize) -> bool {
    let seat = seat();
    seat.process().map_or_else(|| seat.loading.charge(bytes), |current| current.charge(bytes))
}

/// There is no memory for an allocation: `stop` says why.
pub(crate) fn refused(stop: Stop, wanted: Layout) {
    let Some(current) = get() else { return };
    let is_large = wanted.size() > heap::SMALL_BYTES && current.is_in_engine();
    current.refusal.stop.store(if is_large { stop as u8 } else { 0 }, Relaxed);
    current.refusal.block.store(null_mut(), Relaxed);
}

/// What was refused just now was to replace this block.
pub(crate) fn refused_to_replace(block: *mut u8, layout: Layout) {
    let Some(current) = get() else { return };
    let Refusal { block: place, layout: [size, align], .. } = &current.refusal;
    place.store(block, Relaxed);
    size.store(layout.size(), Relaxed);
    align.store(layout.align(), Relaxed);
}

/// What the process that runs was refused just now in a function of the engine's, if that was much: it has to end, and is to. With the block
/// that was to become longer.
pub(crate) fn take_refusal() -> Option<Option<(NonNull<u8>, Layout)>> {
    let current = get().filter(|current| current.is_in_engine())?;
    let refusal = &current.refusal;
    let stop = stop_of(refusal.stop.swap(0, Relaxed))?;
    current.want_stop_soon(stop);
    let [size, align] = refusal.layout.each_ref().map(|part| part.load(Relaxed));
    let block = NonNull::new(refusal.block.swap(null_mut(), Relaxed));
    Some(block.zip(Layout::from_size_align(size, align).ok()))
}

/// Gives credit for what is no longer allocated.
pub(crate) fn credit(bytes: usize) {
    let seat = seat();
    let account = match seat.process() {
        Some(current) if current.uncharged.load(Relaxed) => return,
        Some(current) => &current.host_bytes,
        None => &seat.loading.bytes,
    };
    account.store(account.load(Relaxed).wrapping_sub(bytes as u64), Relaxed);
}

/// Does something that allocates for all, or for a process that must be able to end: little, and not charged to the process that runs.
pub fn uncharged<T>(operation: impl FnOnce() -> T) -> T {
    let Some(current) = get() else { return operation() };
    let before = current.uncharged.swap(true, Relaxed);
    let answer = operation();
    current.uncharged.store(before, Relaxed);
    answer
}

/// Whether what is allocated now is charged to a process.
pub(crate) fn is_charged() -> bool {
    get().is_some_and(|current| !current.uncharged.load(Relaxed))
}

/// What is loaded while no process runs.
struct Loading {
    /// What was allocated, in two's complement.
    bytes: AtomicU64,
    bytes_max: AtomicU64,
    /// It was told no.
    refused: AtomicBool,
}

impl Loading {
    const fn new() -> Self {
        Self {
            bytes: AtomicU64::new(0),
            bytes_max: AtomicU64::new(u64::MAX),
            refused: AtomicBool::new(false),
        }
    }

    fn charge(&self, bytes: usize) -> bool {
        let total = self.bytes.load(Relaxed).cast_signed().saturating_add_unsigned(bytes as u64);
        let beyond = total.saturating_sub_unsigned(self.bytes_max.load(Relaxed));
        if beyond > 0 && (bytes > heap::SMALL_BYTES || beyond > heap::BEYOND_BYTES_MAX) {
            self.refused.store(true, Relaxed);
            return false;
        }
        self.bytes.store(total.cast_unsigned(), Relaxed);
        true
    }
}

/// Does something for a program, for which so much may be allocated, while no process runs; and whether that was too little.
pub fn load<T>(bytes_max: u64, operation: impl FnOnce() -> T) -> (T, bool) {
    let loading = &seat().loading;
    loading.bytes.store(0, Relaxed);
    loading.refused.store(false, Relaxed);
    loading.bytes_max.store(bytes_max, Relaxed);
    let answer = operation();
    loading.bytes_max.store(u64::MAX, Relaxed);
    (answer, loading.refused.load(Relaxed))
}

/// The process that runs is coming to its end: see [`Control::is_over`].
pub(crate) fn begin_end() {
    if let Some(current) = get() {
        current.over.store(true, Relaxed);
    }
}

/// When the time of the process that runs is over, on the kernel's clock.
pub fn deadline_ns() -> u64 {
    get().map_or(Request::NEVER, Control::deadline_ns)
}

/// Makes the process that runs end if its time is over.
pub fn look_at_time(system: &System) {
    if let Some(current) = get() {
        current.look_at_time(system, system.now_ns());
    }
}

/// The CPU time of the process that runs, in nanoseconds.
pub fn cpu_ns(system: &System) -> u64 {
    get().map_or(0, |current| {
        let now_ns = current.settle(system);
        current.cpu_before_ns.load(Relaxed) + current.had_ns(now_ns)
    })
}

/// How much CPU time the process that runs may still have, in nanoseconds; `None` if there is no limit.
pub fn cpu_left_ns(system: &System) -> Option<u64> {
    let max_ns = get()?.cpu_ns_max;
    (max_ns != Request::NEVER).then(|| max_ns.saturating_sub(cpu_ns(system)))
}

/// The process enters a function of ours: from now until [`leave_host_function`] it is not preempted.
pub fn enter_host_function() {
    if let Some(current) = get() {
        current.in_host_function.store(true, Relaxed);
    }
}

/// The process is about to go on with its own code; whether the scheduler wants the virtual CPU first.
#[must_use]
pub fn leave_host_function() -> bool {
    if let Some(current) = get() {
        current.in_host_function.store(false, Relaxed);
    }
    is_switch_wanted()
}
