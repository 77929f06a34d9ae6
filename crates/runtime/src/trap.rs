//! Faults and ends: what an upcall does to the process that it interrupted.
//!
//! Nothing is unwound in the upcall. It edits the interrupted context, so that the process goes on in a
//! thunk on its own stack, and there the engine's trap handler leaves the program.
//!
//! - A fault in a program's code is a trap of the program, if the engine knows the instruction.
//! - To end a program that is running, the thunk is handed a trap site that the engine knows: that of the trap helper, a
//!   module that was made to trap once. The engine then leaves the frames of whatever was running. This is sound only
//!   where the instruction pointer lies in a function of the program. In the engine's functions the upcall has the return to the
//!   program come by here first (`way_back`); in trampolines, and where a return address is not to be found, it lets
//!   single steps go on; a host function's own check ends the process. A copy or a fill of the program's memory on the way is cut short:
//!   nobody will look at it.

use crate::current::{self, Control};
use crate::preempt::{self, FLAG_TRAP};
use crate::{Program, Stop, System, Vcpu};
use abi::upcall::{Area, Kind};
use abi::{Context, PAGE_SIZE, Request, Span};
use alloc::vec::Vec;
use core::arch::naked_asm;
use core::sync::atomic::{
    AtomicPtr, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

/// How long until what had to wait is tried again, in nanoseconds.
pub(crate) const RETRY_NS: u64 = 1_000_000;

/// How many instructions are stepped over before an end waits for another tick: enough for the way out of the launcher's functions and of the engine's.
pub(crate) const STEPS_MAX: u64 = 2_000;
/// The same before a preemption does, which is not worth as much: meanwhile nobody gets on.
const STEPS_TO_SWITCH_MAX: u64 = 200;
/// And how long they may take, in nanoseconds, where a step is slower still: in an emulator.
const STEPS_NS_MAX: u64 = 2_000_000;

/// The most frames that a backtrace keeps.
pub const FRAMES_MAX: usize = 48;

/// Exception vectors (Intel SDM volume 3, table 6-1).
const VECTOR_DEBUG: u64 = 1;
const VECTOR_GENERAL_PROTECTION: u64 = 13;
const VECTOR_PAGE_FAULT: u64 = 14;

/// What the handler of an upcall says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Go on with the context as it is now.
    Resume,
    /// A fault of our own: nothing can go on.
    Fatal,
}

/// The frames of the trap that a process is about to end with. They are the process's: until [`take_frames`] it may be preempted, for the engine
/// goes on in the trampoline by which it had entered the program.
pub(crate) struct Frames {
    addresses: [AtomicU64; FRAMES_MAX],
    count: AtomicU64,
    /// How many there were in all.
    depth: AtomicU64,
}

impl Frames {
    pub const fn new() -> Self {
        Self {
            addresses: [const { AtomicU64::new(0) }; FRAMES_MAX],
            count: AtomicU64::new(0),
            depth: AtomicU64::new(0),
        }
    }

    /// The frame at this depth, from the innermost, is at this address.
    pub fn put(&self, depth: usize, ip: u64) {
        if let Some(place) = self.addresses.get(depth) {
            place.store(ip, Relaxed);
        }
    }

    /// So many were put.
    pub fn end(&self, depth: usize) {
        self.count.store(depth.min(FRAMES_MAX) as u64, Relaxed);
        self.depth.store(depth as u64, Relaxed);
    }
}

type EngineHandler = extern "C" fn(ip: usize, fp: usize, has_address: bool, address: usize);

static ENGINE_HANDLER: AtomicPtr<()> = AtomicPtr::new(core::ptr::null_mut());
static HELPER_TEXT: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];
static HELPER_SITE: AtomicU64 = AtomicU64::new(0);

pub(crate) fn set_engine_handler(handler: EngineHandler) {
    ENGINE_HANDLER.store(handler as *mut (), Release);
}

/// Says where the trap helper's code lies: the next trap there is the site that ends programs.
pub fn set_helper(helper: &Program) {
    HELPER_TEXT[0].store(helper.text().base, Relaxed);
    HELPER_TEXT[1].store(helper.text().length, Release);
}

/// The code addresses of the frames of the process's trap, innermost first, and how many there were in all.
pub(crate) fn take_frames() -> (Vec<u64>, u32) {
    let Some(Control { frames, .. }) = current::get() else { return (Vec::new(), 0) };
    let count = frames.count.swap(0, Relaxed) as usize;
    let addresses = frames.addresses[..count].iter().map(|address| address.load(Relaxed)).collect();
    (addresses, u32::try_from(frames.depth.swap(0, Relaxed)).unwrap_or(u32::MAX))
}

/// The kernel's upcall. Edits `context`, which is what goes on afterwards.
pub fn upcall(kind: Kind, context: &mut Context) -> Verdict {
    match kind {
        Kind::Fault => fault(context),
        Kind::Tick | Kind::Event | Kind::Revocation => {
            interrupt(kind, context);
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
    if context.vector == VECTOR_DEBUG {
        // A step of ours: nothing else raises this exception. If it was over an instruction that loads the flags (`preempt`), the trap flag is gone.
        context.rflags &= !FLAG_TRAP;
        if let (Some(current), Some(system)) = (current::get(), System::get()) {
            act(current, system, context);
        }
        return Verdict::Resume;
    }
    if context.rip == caught as *const () as u64
        && let (Some(current), Some(system)) = (current::get(), System::get())
    {
        context.rip = current.returns_to.load(Relaxed);
        context.rflags &= !FLAG_TRAP;
        step_for(current, system.now_ns(), STEPS_MAX);
        act(current, system, context);
        return Verdict::Resume;
    }
    if helper.contains(at) {
        HELPER_SITE.store(context.rip, Release);
        enter_trap(context, context.rip);
        return Verdict::Resume;
    }
    let Some(current) = current::get() else {
        // The scheduler, as it begins or ends a process.
        let goes_on = |system: &System| system.give_back_pages() || system.spend_reserve();
        let short = context.out_of_memory != 0;
        return if short && System::get().is_some_and(goes_on) { Verdict::Resume } else { Verdict::Fatal };
    };
    let in_program = current.program.filter(|program| program.text().contains(at));
    match in_program {
        _ if context.out_of_memory != 0 => out_of_memory(context, current, in_program),
        Some(_) => {
            enter_trap(context, context.rip);
            Verdict::Resume
        }
        None => Verdict::Fatal,
    }
}

fn out_of_memory(context: &mut Context, current: &Control, in_program: Option<&Program>) -> Verdict {
    if System::get().is_some_and(System::give_back_pages) {
        return Verdict::Resume;
    }
    if in_program.is_some_and(|program| program.functions().contains(Span::new(context.rip, 1))) {
        current.want_stop(Stop::OutOfMemory);
        enter_trap(context, HELPER_SITE.load(Acquire));
        return Verdict::Resume;
    }
    out_of_memory_in_host(context, current)
}

/// For how long a process that ends waits for a page that others have taken of its virtual CPU's reserve, in nanoseconds. They run on other virtual CPUs, and
/// end soon if they go on taking.
const SHORT_NS_MAX: u64 = 2_000_000_000;

/// No page was left when our own code touched the process's memory or stack. A long copy ends here; for anything else
/// the reserve is given up. The program ends as soon as it goes on.
fn out_of_memory_in_host(context: &mut Context, current: &Control) -> Verdict {
    let Some(system) = System::get() else { return Verdict::Fatal };
    if is_copy_into_memory(system, context) {
        context.rcx = 0;
    } else {
        // Without a page of the reserve it touches that page again and again.
        if spend(current, system).is_err_and(|short_ns| short_ns > SHORT_NS_MAX) {
            return Verdict::Fatal;
        }
    }
    current.want_stop(Stop::OutOfMemory);
    current.steps.store(STEPS_MAX, Relaxed);
    current::tick_by(system, system.now_ns() + RETRY_NS);
    Verdict::Resume
}

/// Gives a page of the reserve up for the process; or for how long it has needed what there is not, in nanoseconds.
fn spend(current: &Control, system: &System) -> Result<(), u64> {
    let now_ns = system.now_ns();
    let since_ns = current.short_since_ns.fetch_min(now_ns, Relaxed).min(now_ns);
    if system.spend_reserve() { Ok(()) } else { Err(now_ns - since_ns) }
}

/// A tick or something else: if the process has to end or others want the virtual CPU, that is done here if it can be, and else as soon as it can.
fn interrupt(kind: Kind, context: &mut Context) {
    match kind {
        Kind::Tick => current::tick_came(),
        Kind::Event | Kind::Revocation | Kind::Fault => current::event_came(),
    }
    let (Some(current), Some(system)) = (current::get(), System::get()) else { return };
    let now_ns = match kind {
        // Perhaps the first virtual CPU wants to know what it has had.
        Kind::Event if Vcpu::current().number() != 0 => current.settle(system),
        _ => system.now_ns(),
    };
    current.look_at_time(system, now_ns);
    if now_ns >= current::due_ns() {
        current::want_switch();
    }
    step_for(current, now_ns, steps_for(current));
    act(current, system, context);
}

/// How often a preemption waits for another tick before it steps: mostly that tick comes in a better place, and steps are slow.
const RETRIES: u64 = 3;
/// By how much the time between them grows in the end, as a power of two: where all is slow, the code in between has to get on as well.
const RETRIES_SLOWER_MAX: u64 = 4;

/// From now on so many steps may be made.
fn step_for(current: &Control, now_ns: u64, steps: u64) {
    current.steps.store(steps, Relaxed);
    current.steps_until_ns.store(now_ns + STEPS_NS_MAX, Relaxed);
}

/// How many steps may be made now to get to a better place.
fn steps_for(current: &Control) -> u64 {
    if current.stop_wanted().is_some() {
        return STEPS_MAX;
    }
    if !current::is_switch_wanted() {
        return 0;
    }
    let retries = current.retries.load(Relaxed);
    current.retries.store(retries + 1, Relaxed);
    if retries < RETRIES { 0 } else { STEPS_TO_SWITCH_MAX }
}

/// How long until the next try.
fn retry_ns(current: &Control) -> u64 {
    let slower = current.retries.load(Relaxed).saturating_sub(RETRIES).min(RETRIES_SLOWER_MAX);
    if current.stop_wanted().is_some() { RETRY_NS } else { RETRY_NS << slower }
}

/// Ends the process or leaves it, if either is wanted and can be here; or goes one instruction on.
fn act(current: &Control, system: &System, context: &mut Context) {
    if current.is_over() {
        if !current::is_switch_wanted() {
            current::tick_by(system, current::due_ns());
        }
        return;
    }
    let in_program = current.program.filter(|program| program.text().contains(Span::new(context.rip, 1)));
    if current.stop_wanted().is_some() {
        if in_program.is_some_and(|program| program.functions().contains(Span::new(context.rip, 1))) {
            return enter_trap(context, HELPER_SITE.load(Acquire));
        }
        cut_short(system, context);
    } else if !current::is_switch_wanted() {
        return current::tick_by(system, current::due_ns().min(current.end_ns()));
    } else if current.is_in_host_function() {
        return current::tick_by(system, current.end_ns());
    } else if in_program.is_some() || is_copy_into_memory(system, context) {
        return preempt::divert(current, context);
    }
    let (left, now_ns) = (current.steps.load(Relaxed), system.now_ns());
    let may_step = left != 0 && now_ns < current.steps_until_ns.load(Relaxed);
    // A host function looks on its way out.
    if current.is_in_host_function() {
        return current::tick_by(system, now_ns + retry_ns(current));
    }
    match way_back(current, context) {
        WayBack::Jumps => return current::tick_by(system, now_ns + RETRY_JUMP_NS),
        WayBack::Unknown if may_step => {}
        WayBack::Caught | WayBack::Unknown => return current::tick_by(system, now_ns + retry_ns(current)),
    }
    current.steps.store(left - 1, Relaxed);
    context.rflags |= FLAG_TRAP;
}

/// How an engine's function goes on with the program.
enum WayBack {
    /// By [`caught`].
    Caught,
    /// It leaves the program, or goes on where that catches an exception: there is no return to catch.
    Jumps,
    /// The context is in none, or on its first or last instructions.
    Unknown,
}

/// How long until the next look at a function that jumps: such a program is in its own code for a short time only.
const RETRY_JUMP_NS: u64 = 50_000;

/// Has the engine's function that the context is in return to [`caught`], if it returns. What is replaced is the return to the
/// trampoline by which the program has called it: where the engine walks the stack it begins behind that, so it does not see it.
fn way_back(current: &Control, context: &Context) -> WayBack {
    let has_frame = is_ours(context.rip) && context.rbp >= context.rsp;
    let Some(program) = current.program.filter(|_| has_frame) else { return WayBack::Unknown };
    let is_in = |span: Span, address| span.contains(Span::new(address, 1));
    let mut outwards = frames(current, context.rbp);
    let is_last = |(_, [_, address]): &(u64, [u64; 2])| {
        *address == caught as *const () as u64 || is_in(program.text(), *address)
    };
    let Some((frame, [_, return_address])) = outwards.find(is_last) else { return WayBack::Unknown };
    if return_address == caught as *const () as u64 {
        return WayBack::Caught;
    }
    // Else it is mostly a return of the program's own: the function has no frame yet or no longer, or this is the thunk of a preemption. Or the
    // program's first function, or one that it leaves by a tail call, has a trampoline with nobody of the program's behind it: they are stepped out of.
    let is_to_trampoline = !is_in(program.functions(), return_address)
        && outwards.next().is_some_and(|(_, [_, address])| is_in(program.functions(), address));
    // What lies behind the return is looked at, and that may be on a page for which there is no table yet.
    let is_beside_page = (return_address + 1) % PAGE_SIZE <= 1;
    if !is_to_trampoline || is_beside_page {
        return WayBack::Unknown;
    }
    if never_returns(return_address) {
        return WayBack::Jumps;
    }
    current.returns_to.store(return_address, Relaxed);
    // SAFETY: a function of ours that has called keeps its frame pointer, so this is where it will take its return address from; and what it
    // finds there instead goes on at the one that was there: until then there is no other, for the engine does not call the program back.
    unsafe { ((frame + 8) as usize as *mut u64).write(caught as *const () as u64) };
    WayBack::Caught
}

/// Whether the compiler knows that nothing returns here.
fn never_returns(return_address: u64) -> bool {
    // UD2 (Intel SDM volume 2).
    const TRAP: [u8; 2] = [0x0f, 0x0b];
    // SAFETY: it is in the program's code, which stays, can be read, and does not end with a call.
    let code = unsafe { (return_address as usize as *const [u8; 2]).read_unaligned() };
    code == TRAP
}

/// Where a function goes whose return was caught, with all that it returns: the fault leads to [`fault`], which knows what it would have gone back to.
#[unsafe(naked)]
extern "C" fn caught() {
    naked_asm!("ud2")
}

/// Whether this is code of the library OS, and not the launcher's, which keeps no frame pointers.
fn is_ours(ip: u64) -> bool {
    unsafe extern "C" {
        // The linker's (lld: "_etext is the first location after the last executable section").
        static __executable_start: u8;
        static _etext: u8;
    }
    (&raw const __executable_start as u64..&raw const _etext as u64).contains(&ip)
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

/// Makes the context go on in [`thunk`], below everything that is on its stack.
fn enter_trap(context: &mut Context, site: u64) {
    let has_address = matches!(context.vector, VECTOR_PAGE_FAULT | VECTOR_GENERAL_PROTECTION);
    context.rdi = site;
    context.rsi = context.rbp;
    context.rdx = u64::from(has_address);
    context.rcx = context.address;
    context.r8 = context.rip;
    context.rip = enter_thunk as *const () as u64;
    context.rsp = (context.rsp - 128) & !15;
}

/// Begins [`thunk`] as if by a call; the return address, which is never used, says so to who walks the stack. The upcall cannot put it there: that page may
/// be missing.
#[unsafe(naked)]
extern "C" fn enter_thunk() {
    naked_asm!("push 0", "jmp {thunk}", thunk = sym thunk)
}

/// Runs on the process's own stack.
extern "C" fn thunk(site: u64, frame: u64, has_address: u64, address: u64, ip: u64) -> ! {
    leave(site, ip, frame, (has_address != 0).then_some(address));
    panic!("the engine does not know the trap at {ip:#x}");
}

/// Keeps the backtrace, which begins at `ip`, and lets the engine leave the program, with the trap at `site`. Returns if the engine runs none.
fn leave(site: u64, ip: u64, frame: u64, address: Option<u64>) {
    keep_frames(ip, frame);
    let handler = ENGINE_HANDLER.load(Acquire);
    assert!(!handler.is_null(), "a trap before the engine was there");
    // SAFETY: only `set_engine_handler` stores here, and it stores an `EngineHandler`.
    let handler: EngineHandler = unsafe { core::mem::transmute(handler) };
    handler(site as usize, frame as usize, address.is_some(), address.unwrap_or_default() as usize);
}

/// There was no memory for something that can be told neither no nor why: the process that runs ends, if it was the engine that asked for
/// much, in one of the functions that a program calls without knowing. What these hold that can grow so long is one list: that of where the
/// stack and the tables hold exceptions, which is made anew for each collection. Returns if it was somebody else.
pub fn leave_engine() {
    let Some(block) = current::take_refusal() else { return };
    if let Some((block, layout)) = block {
        // SAFETY: it was to be replaced and could not, so it is the heap's, of this layout; whose it was, a list on this stack, is not looked
        // at again, for nothing below goes on but the process's end.
        unsafe { alloc::alloc::dealloc(block.as_ptr(), layout) };
    }
    let frame: u64;
    // SAFETY: reads a register.
    unsafe { core::arch::asm!("mov {}, rbp", out(reg) frame, options(nomem, nostack, preserves_flags)) };
    let site = HELPER_SITE.load(Acquire);
    leave(site, site, frame, None);
}

/// The frames of the process's stack from this one outwards, as far as they stay there and go upwards: where each lies, the next one, and the
/// return address.
fn frames(current: &Control, first: u64) -> impl Iterator<Item = (u64, [u64; 2])> + use<> {
    let (base, top) = (current.stack.base, current.stack.base + current.stack.length);
    let read = move |frame: u64| {
        if frame < base || frame + 16 > top || !frame.is_multiple_of(8) {
            return None;
        }
        // SAFETY: both words lie on the process's own stack, above what is in use, so they are mapped; they are compared, and a
        // return address is replaced only where every function keeps its frame pointer.
        let words @ [next, _] = unsafe { *(frame as usize as *const [u64; 2]) };
        (next > frame).then_some((frame, words))
    };
    core::iter::successors(read(first), move |(_, [next, _])| read(*next))
}

/// Keeps what is in the program of the frames from this one outwards.
fn keep_frames(ip: u64, frame: u64) {
    let Some(current) = current::get() else { return };
    let text = current.program.map_or(Span::new(0, 0), Program::text);
    let outwards = frames(current, frame).map(|(_, [next, return_address])| (return_address, next));
    let (mut depth, mut end) = (0, frame);
    for (ip, frame) in core::iter::once((ip, frame)).chain(outwards) {
        let ip = if ip == caught as *const () as u64 { current.returns_to.load(Relaxed) } else { ip };
        if text.contains(Span::new(ip, 1)) {
            current.frames.put(depth, ip);
            depth += 1;
            end = frame;
        }
    }
    current.set_stack_bytes(end - frame);
    current.frames.end(depth);
}

/// Registers the upcall of this virtual CPU with the kernel.
pub fn register(system: &System, page: u64, entry: u64, stack: u64) -> Result<(), abi::Error> {
    preempt::start();
    system.kernel().call(Request::SetUpcall { vcpu: system.vcpu(), page, entry, stack }).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_over_an_instruction_that_loads_the_flags_is_a_step() {
        for rflags in [FLAG_TRAP | 2, 2] {
            let mut context = Context { vector: VECTOR_DEBUG, rflags, rip: 0x1000, ..Context::default() };
            assert_eq!(upcall(Kind::Fault, &mut context), Verdict::Resume);
            assert_eq!((context.rflags, context.rip), (2, 0x1000));
        }
        let mut context = Context { vector: VECTOR_PAGE_FAULT, ..Context::default() };
        assert_eq!(upcall(Kind::Fault, &mut context), Verdict::Fatal, "nobody runs");
    }
}
