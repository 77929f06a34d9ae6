//! Faults and ends: what an upcall does to the process that it interrupted.
//!
//! Nothing is unwound in the upcall. It edits the interrupted context, so that the process goes on in a
//! thunk on its own stack, and there the engine's trap handler leaves the program.
//!
//! - A fault in a program's code is a trap of the program, if the engine knows the instruction.
//! - To end a program that is running, the thunk is handed a trap site that the engine knows: that of the trap helper, a
//!   module that was made to trap once. The engine then leaves the frames of whatever was running. This is sound only
//!   where the instruction pointer lies in a function of the program; in trampolines and in our own code the upcall lets
//!   single steps go on until it does, or until the host function's own check ends the process. A copy or a fill
//!   of the program's memory on the way is cut short: nobody will look at it.

use crate::{Program, System};
use abi::upcall::{Area, Kind};
use abi::{Context, Request, Span};
use alloc::vec::Vec;
use core::sync::atomic::{
    AtomicBool, AtomicPtr, AtomicU8, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

/// How long until an end that had to wait is tried again, in nanoseconds.
const RETRY_NS: u64 = 1_000_000;

/// How many instructions are stepped over before the end waits for another tick: enough for the way out of the
/// engine's own functions, and at most some milliseconds.
const STEPS_MAX: u64 = 2_000;

/// The most frames that a backtrace keeps.
pub const FRAMES_MAX: usize = 48;

/// The trap flag, which makes each instruction raise a debug exception (Intel SDM volume 1, 3.4.3.3).
const FLAG_TRAP: u64 = 1 << 8;

/// Exception vectors (Intel SDM volume 3, table 6-1).
const VECTOR_DEBUG: u64 = 1;
const VECTOR_GENERAL_PROTECTION: u64 = 13;
const VECTOR_PAGE_FAULT: u64 = 14;

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
}

/// What the handler of an upcall says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Go on with the context as it is now.
    Resume,
    /// A fault of our own: nothing can go on.
    Fatal,
}

/// Asks whoever reads the platform's events whether somebody wants the program to end.
pub type PollCancel = fn() -> bool;

/// What upcalls need to know, without locks: of the one process that runs.
struct Running {
    active: AtomicBool,
    /// It waits: whoever waits for it looks at events itself.
    suspended: AtomicBool,
    stop: AtomicU8,
    deadline_ns: AtomicU64,
    program: AtomicPtr<Program>,
    stack_base: AtomicU64,
    stack_top: AtomicU64,
    frames: [AtomicU64; FRAMES_MAX],
    frame_count: AtomicU64,
    /// Instructions that may still be stepped over.
    steps: AtomicU64,
}

static RUNNING: Running = Running {
    active: AtomicBool::new(false),
    suspended: AtomicBool::new(false),
    stop: AtomicU8::new(0),
    deadline_ns: AtomicU64::new(u64::MAX),
    program: AtomicPtr::new(core::ptr::null_mut()),
    stack_base: AtomicU64::new(0),
    stack_top: AtomicU64::new(0),
    frames: [const { AtomicU64::new(0) }; FRAMES_MAX],
    frame_count: AtomicU64::new(0),
    steps: AtomicU64::new(0),
};

type EngineHandler = extern "C" fn(ip: usize, fp: usize, has_address: bool, address: usize);

static ENGINE_HANDLER: AtomicPtr<()> = AtomicPtr::new(core::ptr::null_mut());
static HELPER_TEXT: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];
static HELPER_SITE: AtomicU64 = AtomicU64::new(0);
static POLL_CANCEL: AtomicPtr<()> = AtomicPtr::new(core::ptr::null_mut());

pub(crate) fn set_engine_handler(handler: EngineHandler) {
    ENGINE_HANDLER.store(handler as *mut (), Release);
}

/// Says how to find out, in an upcall, whether the program should end.
pub fn set_poll_cancel(poll: PollCancel) {
    POLL_CANCEL.store(poll as *mut (), Release);
}

/// Says where the trap helper's code lies: the next trap there is the site that ends programs.
pub fn set_helper(helper: &Program) {
    HELPER_TEXT[0].store(helper.text().base, Relaxed);
    HELPER_TEXT[1].store(helper.text().length, Release);
}

/// From now until [`leave`], upcalls are for this process.
pub(crate) fn enter(system: &System, program: &'static Program, stack: Span, deadline_ns: u64) {
    RUNNING.stop.store(0, Relaxed);
    RUNNING.frame_count.store(0, Relaxed);
    RUNNING.deadline_ns.store(deadline_ns, Relaxed);
    RUNNING.program.store(core::ptr::from_ref(program).cast_mut(), Relaxed);
    RUNNING.stack_base.store(stack.base, Relaxed);
    RUNNING.stack_top.store(stack.base + stack.length, Relaxed);
    RUNNING.active.store(true, Release);
    system.set_timer(deadline_ns);
    look_at_events();
}

/// The process is over.
pub(crate) fn leave() {
    RUNNING.active.store(false, Release);
}

/// The process waits until [`resume`]: there is nothing to end, and whoever waits for it looks at events.
pub(crate) fn suspend() {
    RUNNING.suspended.store(true, Release);
}

/// The process goes on.
pub(crate) fn resume() {
    RUNNING.suspended.store(false, Release);
    look_at_events();
}

/// Looks at the events that came when no upcall was for the process.
fn look_at_events() {
    if cancel_polled() {
        want_stop(Stop::Cancelled);
    }
    if stop_wanted().is_some()
        && let Some(system) = System::get()
    {
        system.set_timer(system.now_ns() + RETRY_NS);
    }
}

/// Why the process has to end, if it does.
pub fn stop_wanted() -> Option<Stop> {
    match RUNNING.stop.load(Relaxed) {
        1 => Some(Stop::TimedOut),
        2 => Some(Stop::Cancelled),
        3 => Some(Stop::OutOfMemory),
        _ => None,
    }
}

/// Makes the process end; the first reason stays.
pub fn want_stop(stop: Stop) {
    let _ = RUNNING.stop.compare_exchange(0, stop as u8, Relaxed, Relaxed);
}

/// When the process's time is over, on the kernel's clock.
pub fn deadline_ns() -> u64 {
    RUNNING.deadline_ns.load(Relaxed)
}

/// The code addresses of the last trap's frames, innermost first.
pub(crate) fn take_frames() -> Vec<u64> {
    let count = RUNNING.frame_count.swap(0, Relaxed) as usize;
    RUNNING.frames[..count].iter().map(|frame| frame.load(Relaxed)).collect()
}

/// The kernel's upcall. Edits `context`, which is what goes on afterwards.
pub fn upcall(kind: Kind, context: &mut Context) -> Verdict {
    match kind {
        Kind::Fault => fault(context),
        Kind::Tick | Kind::Event | Kind::Revocation => {
            interrupt(context);
            Verdict::Resume
        }
    }
}

/// The area of the upcall page that [`upcall`]'s context lies in.
pub const fn area(kind: Kind) -> Area {
    match kind {
        Kind::Fault => Area::Fault,
        Kind::Tick | Kind::Event | Kind::Revocation => Area::Tick,
    }
}

fn fault(context: &mut Context) -> Verdict {
    let helper = Span::new(HELPER_TEXT[0].load(Relaxed), HELPER_TEXT[1].load(Acquire));
    let at = Span::new(context.rip, 1);
    if context.vector == VECTOR_DEBUG && context.rflags & FLAG_TRAP != 0 {
        step(context);
        return Verdict::Resume;
    }
    if helper.contains(at) {
        HELPER_SITE.store(context.rip, Release);
        enter_trap(context, context.rip);
        return Verdict::Resume;
    }
    let Some(program) = running_program() else { return Verdict::Fatal };
    if context.out_of_memory != 0 {
        return out_of_memory(context, program);
    }
    if program.text().contains(at) {
        enter_trap(context, context.rip);
        return Verdict::Resume;
    }
    Verdict::Fatal
}

fn out_of_memory(context: &mut Context, program: &Program) -> Verdict {
    let at = Span::new(context.rip, 1);
    if program.text().contains(at) {
        if program.functions_if_known().is_none() {
            // The heap is not in use, for this is the program's code; but it may be full.
            System::get().map(System::spend_reserve);
        }
        if program.functions().contains(at) {
            want_stop(Stop::OutOfMemory);
            enter_trap(context, HELPER_SITE.load(Acquire));
            return Verdict::Resume;
        }
    }
    out_of_memory_in_host(context)
}

/// No page was left when our own code touched the process's memory or stack. A long copy ends here; for anything else
/// the reserve is given up. The program ends as soon as it goes on.
fn out_of_memory_in_host(context: &mut Context) -> Verdict {
    let Some(system) = System::get() else { return Verdict::Fatal };
    if is_copy_into_memory(system, context) {
        context.rcx = 0;
    } else if !system.spend_reserve() {
        return Verdict::Fatal;
    }
    want_stop(Stop::OutOfMemory);
    RUNNING.steps.store(STEPS_MAX, Relaxed);
    system.set_timer(system.now_ns() + RETRY_NS);
    Verdict::Resume
}

/// A tick or an event: if the program has to end and can end here, it does; else a tick tries again soon.
fn interrupt(context: &mut Context) {
    let (Some(program), Some(system)) = (running_program(), System::get()) else { return };
    let now_ns = system.now_ns();
    if now_ns >= deadline_ns() {
        want_stop(Stop::TimedOut);
    }
    if RUNNING.suspended.load(Acquire) {
        return;
    }
    // In our own code the platform may be in use: the host function that was interrupted looks when it is done.
    let in_program = program.text().contains(Span::new(context.rip, 1));
    if in_program && cancel_polled() {
        want_stop(Stop::Cancelled);
    }
    match stop_wanted() {
        None if in_program => system.set_timer(deadline_ns()),
        None => system.set_timer(now_ns + RETRY_NS),
        Some(_) => {
            if in_program {
                // The heap is not in use: the program's code does not use it. From here on steps can ask.
                program.functions();
            }
            RUNNING.steps.store(STEPS_MAX, Relaxed);
            step(context);
        }
    }
}

/// Ends the program if it is in one of its functions, or goes one instruction on.
fn step(context: &mut Context) {
    context.rflags &= !FLAG_TRAP;
    let (Some(program), Some(system), Some(_)) = (running_program(), System::get(), stop_wanted()) else {
        // It has ended meanwhile.
        return;
    };
    let functions = program.functions_if_known();
    if functions.is_some_and(|functions| functions.contains(Span::new(context.rip, 1))) {
        return enter_trap(context, HELPER_SITE.load(Acquire));
    }
    let left = RUNNING.steps.load(Relaxed);
    if left == 0 || functions.is_none() {
        return system.set_timer(system.now_ns() + RETRY_NS);
    }
    RUNNING.steps.store(left - 1, Relaxed);
    cut_short(system, context);
    context.rflags |= FLAG_TRAP;
}

/// If the context is in a repeated copy or fill of a linear memory, this makes it the last repetition.
fn cut_short(system: &System, context: &mut Context) {
    if context.rcx > 1 && is_copy_into_memory(system, context) {
        context.rcx = 1;
    }
}

/// Whether the context is in a repeated copy or fill that writes to a linear memory.
fn is_copy_into_memory(system: &System, context: &Context) -> bool {
    // F3, perhaps REX.W (48), then MOVS (A4, A5) or STOS (AA, AB): Intel SDM volume 2.
    const REPEAT: u8 = 0xf3;
    const REX_W: u8 = 0x48;
    const STRING_OPERATIONS: [u8; 4] = [0xa4, 0xa5, 0xaa, 0xab];
    // SAFETY: the context was about to execute what is there, and code is mapped so that it can be read; a byte is
    // looked at only if the ones before it make it part of the instruction.
    let byte = |offset: u64| unsafe { ((context.rip + offset) as usize as *const u8).read() };
    if byte(0) != REPEAT {
        return false;
    }
    let operation = if byte(1) == REX_W { byte(2) } else { byte(1) };
    STRING_OPERATIONS.contains(&operation)
        && system.slots().try_lock().is_some_and(|slots| slots.contain(context.rdi))
}

fn running_program() -> Option<&'static Program> {
    if !RUNNING.active.load(Acquire) {
        return None;
    }
    // SAFETY: `enter` stored a `&'static Program`.
    Some(unsafe { &*RUNNING.program.load(Relaxed) })
}

fn cancel_polled() -> bool {
    let poll = POLL_CANCEL.load(Acquire);
    if poll.is_null() {
        return false;
    }
    // SAFETY: only `set_poll_cancel` stores here, and it stores a `PollCancel`.
    let poll: PollCancel = unsafe { core::mem::transmute(poll) };
    poll()
}

/// Makes the context go on in [`thunk`], below everything that is on its stack.
fn enter_trap(context: &mut Context, site: u64) {
    let has_address = matches!(context.vector, VECTOR_PAGE_FAULT | VECTOR_GENERAL_PROTECTION);
    context.rflags &= !FLAG_TRAP;
    context.rdi = site;
    context.rsi = context.rbp;
    context.rdx = u64::from(has_address);
    context.rcx = context.address;
    context.r8 = context.rip;
    context.rip = thunk as *const () as u64;
    // As if by a call: 16-byte aligned, then the return address, which is never used.
    context.rsp = ((context.rsp - 128) & !15) - 8;
}

/// Runs on the process's own stack: keeps the backtrace, then lets the engine leave the program.
extern "C" fn thunk(site: u64, frame: u64, has_address: u64, address: u64, ip: u64) -> ! {
    keep_frames(ip, frame);
    let handler = ENGINE_HANDLER.load(Acquire);
    assert!(!handler.is_null(), "a trap before the engine was there");
    // SAFETY: only `set_engine_handler` stores here, and it stores an `EngineHandler`.
    let handler: EngineHandler = unsafe { core::mem::transmute(handler) };
    handler(site as usize, frame as usize, has_address != 0, address as usize);
    panic!("the engine does not know the trap at {ip:#x}");
}

/// Walks the frame pointers, as far as they stay on the process's stack and go upwards.
fn keep_frames(ip: u64, frame: u64) {
    let (base, top) = (RUNNING.stack_base.load(Relaxed), RUNNING.stack_top.load(Relaxed));
    let (mut ip, mut frame) = (ip, frame);
    let mut count = 0;
    while count < FRAMES_MAX {
        RUNNING.frames[count].store(ip, Relaxed);
        count += 1;
        if frame < base || frame > top - 16 || !frame.is_multiple_of(8) {
            break;
        }
        // SAFETY: both words lie on the process's own stack, above what is in use, so they are mapped; whatever
        // they hold is only compared.
        let [next, return_address] = unsafe { *(frame as usize as *const [u64; 2]) };
        if next <= frame {
            break;
        }
        (ip, frame) = (return_address, next);
    }
    RUNNING.frame_count.store(count as u64, Relaxed);
}

/// Registers the upcall with the kernel.
pub fn register(system: &System, page: u64, entry: u64, stack: u64) -> Result<(), abi::Error> {
    system.kernel().call(Request::SetUpcall { vcpu: system.vcpu(), page, entry, stack }).map(drop)
}
