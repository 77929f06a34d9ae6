//! Upcalls, as Linux signals: faults, the timer, Ctrl-C.
//!
//! A handler turns Linux's saved context into `abi`'s, calls the library OS's upcall function on it, and puts it
//! back; returning from the handler is the resume. Handlers run on a stack of their own, because the
//! interrupted code may have run out of its own.

use crate::vcpus::{self, Vcpu};
use crate::{gate, wire};
use abi::upcall::Kind;
use abi::{Context, Request};
use std::io;
use std::sync::atomic::Ordering::*;

/// For the timer of a virtual CPU. Not one that a shell or a terminal sends.
fn tick_signal() -> libc::c_int {
    libc::SIGRTMIN() + 3
}

/// What a CPU does wrong, as signals, and what asks for an end.
const FAULTS: [libc::c_int; 5] = [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGTRAP];
const ENDS: [libc::c_int; 3] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP];

/// An event has been raised: something has come over the wire to the root (fcntl(2), O_ASYNC), or another virtual CPU says so.
pub(crate) const EVENT: libc::c_int = libc::SIGIO;

/// All but faults: while a handler runs they wait.
fn interruptions() -> impl Iterator<Item = libc::c_int> {
    ENDS.into_iter().chain([tick_signal(), EVENT])
}

/// Signal frames with AVX-512 state take 3.5 KiB; the library OS's handler goes on at a stack of its own.
const STACK_BYTES: usize = 64 << 10;
/// Below the handlers' stack: running out of it is a fault, not somebody else's memory overwritten.
const GUARD_BYTES: usize = abi::PAGE_SIZE as usize;

type Upcall = extern "C" fn(kind: u64, context: &mut Context, stack: u64) -> u64;

/// Says which function takes the upcalls of a virtual CPU. It is handed the context itself, for the upcall page stays as it is, and goes on at `stack`
/// by itself.
pub(crate) fn set_upcall(vcpu: &Vcpu, entry: u64, stack: u64) {
    vcpu.upcall_stack.store(stack, Release);
    vcpu.upcall.store(entry as usize as *mut (), Release);
}

/// Arms a virtual CPU's timer, on the monotonic clock.
pub(crate) fn set_timer(vcpu: &Vcpu, deadline_ns: u64) {
    let value = match deadline_ns {
        Request::NEVER => libc::timespec { tv_sec: 0, tv_nsec: 0 },
        // A time of 0 would disarm.
        _ => libc::timespec {
            tv_sec: (deadline_ns / 1_000_000_000) as libc::time_t,
            tv_nsec: (deadline_ns % 1_000_000_000).max(1) as libc::c_long,
        },
    };
    let interval = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    let setting = libc::itimerspec { it_interval: interval, it_value: value };
    // SAFETY: the timer was made by `ThreadSignals::install` and lives until the library OS has ended there.
    unsafe {
        libc::timer_settime(
            vcpu.timer.load(Acquire),
            libc::TIMER_ABSTIME,
            &raw const setting,
            std::ptr::null_mut(),
        )
    };
}

/// Signals as the library OS needs them, for the process and on the thread that made this, the first virtual CPU; dropped, they are as before.
pub(crate) struct Guard {
    actions: Vec<(libc::c_int, libc::sigaction)>,
    thread: ThreadSignals,
}

impl Guard {
    /// Sets handlers up, and what the first virtual CPU needs.
    pub fn install() -> io::Result<Self> {
        let mut guard = Self { actions: Vec::new(), thread: ThreadSignals::prepare(vcpus::first())? };
        for signal in FAULTS.into_iter().chain(interruptions()) {
            guard.handle(signal)?;
        }
        guard.thread.unblock(interruptions())?;
        wire::announce(EVENT)?;
        Ok(guard)
    }

    fn handle(&mut self, signal: libc::c_int) -> io::Result<()> {
        // SAFETY: zeroed, a `sigaction` is plain data; the handler has the signature that SA_SIGINFO asks for. While one
        // of ours runs the others that are not faults wait, and a fault in it ends the process.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_signal as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            for blocked in interruptions() {
                libc::sigaddset(&raw mut action.sa_mask, blocked);
            }
            let mut old: libc::sigaction = std::mem::zeroed();
            if libc::sigaction(signal, std::ptr::null(), &raw mut old) != 0 {
                return Err(io::Error::last_os_error());
            }
            // Whoever starts a job in the background lets it ignore the terminal's Ctrl-C.
            if ENDS.contains(&signal) && old.sa_sigaction == libc::SIG_IGN {
                return Ok(());
            }
            if libc::sigaction(signal, &raw const action, std::ptr::null_mut()) != 0 {
                return Err(io::Error::last_os_error());
            }
            self.actions.push((signal, old));
        }
        Ok(())
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // A tick that is on its way comes no later than the return from `timer_delete`, and finds nothing to do.
        vcpus::all().for_each(|vcpu| vcpu.upcall.store(std::ptr::null_mut(), Release));
        wire::hang_up();
        // Before the handlers go: until here no tick is kept back, to come when nobody handles it any more.
        self.thread.end_interruptions();
        for (signal, action) in &self.actions {
            // SAFETY: puts back what `install` found.
            unsafe { libc::sigaction(*signal, action, std::ptr::null_mut()) };
        }
    }
}

/// What a virtual CPU's thread needs to be interrupted: a stack for handlers, a timer. Dropped, all is as before.
pub(crate) struct ThreadSignals {
    /// Its number may be 0, which is a null pointer: Linux counts from there.
    timer: Option<libc::timer_t>,
    old_stack: libc::stack_t,
    stack: *mut libc::c_void,
    /// What the thread had blocked; `None` unless that has been changed.
    old_mask: Option<libc::sigset_t>,
}

impl ThreadSignals {
    /// Sets the calling thread up, which is another virtual CPU than the first: what asks for an end goes to that one.
    pub fn install(vcpu: &Vcpu) -> io::Result<Self> {
        let mut signals = Self::prepare(vcpu)?;
        signals.block(ENDS)?;
        signals.unblock([tick_signal(), EVENT])?;
        Ok(signals)
    }

    fn prepare(vcpu: &Vcpu) -> io::Result<Self> {
        // SAFETY: a new mapping; then calls that write to values on our own stack. The zeroed C structures are
        // all-zero-valid plain data.
        unsafe {
            let stack = map_stack()?;
            let mut old_stack: libc::stack_t = std::mem::zeroed();
            let new_stack = libc::stack_t { ss_sp: stack, ss_flags: 0, ss_size: STACK_BYTES };
            let mut signals = Self { timer: None, old_stack, stack, old_mask: None };
            if libc::sigaltstack(&raw const new_stack, &raw mut old_stack) != 0 {
                return Err(io::Error::last_os_error());
            }
            signals.old_stack = old_stack;
            signals.timer = Some(make_timer(vcpu)?);
            Ok(signals)
        }
    }

    /// Lets signals through, and faults, that whoever started this process may have blocked: with faults blocked Linux kills
    /// instead of asking, and with the tick blocked no time is ever over.
    fn unblock(&mut self, signals: impl IntoIterator<Item = libc::c_int>) -> io::Result<()> {
        self.change_mask(libc::SIG_UNBLOCK, FAULTS.into_iter().chain(signals))
    }

    fn block(&mut self, signals: impl IntoIterator<Item = libc::c_int>) -> io::Result<()> {
        self.change_mask(libc::SIG_BLOCK, signals.into_iter())
    }

    fn change_mask(
        &mut self,
        how: libc::c_int,
        signals: impl Iterator<Item = libc::c_int>,
    ) -> io::Result<()> {
        // SAFETY: zeroed, a `sigset_t` is plain data; the calls write to it and to our own stack.
        unsafe {
            let mut changed: libc::sigset_t = std::mem::zeroed();
            for signal in signals {
                libc::sigaddset(&raw mut changed, signal);
            }
            let mut old: libc::sigset_t = std::mem::zeroed();
            match libc::pthread_sigmask(how, &raw const changed, &raw mut old) {
                0 => _ = self.old_mask.get_or_insert(old),
                error => return Err(io::Error::from_raw_os_error(error)),
            }
        }
        Ok(())
    }

    /// From now on nothing comes that did not before.
    fn end_interruptions(&mut self) {
        // SAFETY: deletes the timer of `prepare`, once, and puts back what was blocked.
        unsafe {
            if let Some(timer) = self.timer.take() {
                libc::timer_delete(timer);
            }
            if let Some(mask) = self.old_mask.take() {
                libc::pthread_sigmask(libc::SIG_SETMASK, &raw const mask, std::ptr::null_mut());
            }
        }
    }
}

impl Drop for ThreadSignals {
    fn drop(&mut self) {
        self.end_interruptions();
        // SAFETY: puts back what `prepare` found; nothing runs on the handlers' stack here.
        unsafe {
            libc::sigaltstack(&raw const self.old_stack, std::ptr::null_mut());
            unmap_stack(self.stack);
        }
    }
}

/// The handlers' stack, with its guard below the address that this answers.
fn map_stack() -> io::Result<*mut libc::c_void> {
    // SAFETY: a new mapping, of which all but the first page is made usable.
    unsafe {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let all = libc::mmap(std::ptr::null_mut(), GUARD_BYTES + STACK_BYTES, libc::PROT_NONE, flags, -1, 0);
        if all == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let stack = all.byte_add(GUARD_BYTES);
        if libc::mprotect(stack, STACK_BYTES, libc::PROT_READ | libc::PROT_WRITE) != 0 {
            let error = io::Error::last_os_error();
            unmap_stack(stack);
            return Err(error);
        }
        Ok(stack)
    }
}

/// # Safety
/// [`map_stack`] made it, and nothing runs on it.
unsafe fn unmap_stack(stack: *mut libc::c_void) {
    // SAFETY: as the caller says.
    unsafe { libc::munmap(stack.byte_sub(GUARD_BYTES), GUARD_BYTES + STACK_BYTES) };
}

fn make_timer(vcpu: &Vcpu) -> io::Result<libc::timer_t> {
    // SAFETY: a zeroed `sigevent` is plain data, and the timer's name is written to our own stack.
    unsafe {
        let mut event: libc::sigevent = std::mem::zeroed();
        event.sigev_notify = libc::SIGEV_THREAD_ID;
        event.sigev_signo = tick_signal();
        event.sigev_notify_thread_id = vcpu.thread.load(Acquire);
        let mut timer: libc::timer_t = std::ptr::null_mut();
        if libc::timer_create(libc::CLOCK_MONOTONIC, &raw mut event, &raw mut timer) != 0 {
            return Err(io::Error::last_os_error());
        }
        vcpu.timer.store(timer, Release);
        Ok(timer)
    }
}

/// What was interrupted may be between a system call and its look at `errno`, so that is left as it was.
extern "C" fn on_signal(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the address is that of this thread's `errno`, which is there as long as the thread.
    unsafe {
        let errno = *libc::__errno_location();
        take(signal, info, context);
        *libc::__errno_location() = errno;
    }
}

/// # Safety
/// The arguments are those of a handler with SA_SIGINFO.
unsafe fn take(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: Linux passes a valid `siginfo_t` and `ucontext_t` to a handler with SA_SIGINFO, and they are ours until it
    // returns.
    let (info, context) = unsafe { (&*info, &mut *context.cast::<libc::ucontext_t>()) };
    let own = vcpus::own();
    if ENDS.contains(&signal) {
        gate::raise(gate::EVENT_CANCEL);
        let first = vcpus::first();
        if !own.is_some_and(|own| std::ptr::eq(own, first)) {
            return first.interrupt(EVENT);
        }
    }
    let kind = match signal {
        signal if FAULTS.contains(&signal) => Kind::Fault,
        signal if ENDS.contains(&signal) || signal == EVENT => Kind::Event,
        _ => Kind::Tick,
    };
    let own = own.filter(|own| !own.upcall.load(Acquire).is_null());
    let Some(own) = own else {
        if kind == Kind::Fault {
            die(signal, context);
        }
        return;
    };
    // SAFETY: the library OS registered a function of this type (`images/runtime`, `entry_hosted`).
    let upcall: Upcall = unsafe { std::mem::transmute(own.upcall.load(Acquire)) };
    let mut saved = to_abi(signal, info, context);
    if upcall(kind as u64, &mut saved, own.upcall_stack.load(Acquire)) != 0 {
        die(signal, context);
    }
    from_abi(&saved, context);
}

/// The order of Linux's registers, next to ours.
fn registers(context: &mut Context) -> [(libc::c_int, &mut u64); 18] {
    [
        (libc::REG_RAX, &mut context.rax),
        (libc::REG_RBX, &mut context.rbx),
        (libc::REG_RCX, &mut context.rcx),
        (libc::REG_RDX, &mut context.rdx),
        (libc::REG_RSI, &mut context.rsi),
        (libc::REG_RDI, &mut context.rdi),
        (libc::REG_RBP, &mut context.rbp),
        (libc::REG_RSP, &mut context.rsp),
        (libc::REG_R8, &mut context.r8),
        (libc::REG_R9, &mut context.r9),
        (libc::REG_R10, &mut context.r10),
        (libc::REG_R11, &mut context.r11),
        (libc::REG_R12, &mut context.r12),
        (libc::REG_R13, &mut context.r13),
        (libc::REG_R14, &mut context.r14),
        (libc::REG_R15, &mut context.r15),
        (libc::REG_RIP, &mut context.rip),
        (libc::REG_EFL, &mut context.rflags),
    ]
}

fn to_abi(signal: libc::c_int, info: &libc::siginfo_t, context: &libc::ucontext_t) -> Context {
    let saved = &context.uc_mcontext.gregs;
    let mut out = Context::default();
    for (index, register) in registers(&mut out) {
        *register = saved[index as usize] as u64;
    }
    if FAULTS.contains(&signal) {
        out.vector = saved[libc::REG_TRAPNO as usize] as u64;
        out.error = saved[libc::REG_ERR as usize] as u64;
        // SAFETY: `si_addr` is the field of the signals in FAULTS.
        out.address = unsafe { info.si_addr() } as u64;
    }
    out
}

fn from_abi(saved: &Context, context: &mut libc::ucontext_t) {
    let mut saved = *saved;
    for (index, register) in registers(&mut saved) {
        context.uc_mcontext.gregs[index as usize] = *register as i64;
    }
}

/// A fault that is not a program's: ours, or the library OS's.
fn die(signal: libc::c_int, context: &libc::ucontext_t) -> ! {
    let mut line = [0u8; 160];
    let at = context.uc_mcontext.gregs[libc::REG_RIP as usize];
    let address = context.uc_mcontext.gregs[libc::REG_CR2 as usize];
    let length = {
        use std::io::Write;
        let mut rest = &mut line[..];
        let _ =
            writeln!(rest, "selkis: the library OS failed: signal {signal} at {at:#x}, address {address:#x}");
        160 - rest.len()
    };
    // SAFETY: writes from the stack, then ends the process: there is no state to trust any more.
    unsafe {
        libc::write(libc::STDERR_FILENO, line.as_ptr().cast(), length);
        libc::_exit(125)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::vcpus::First;
    use std::sync::atomic::AtomicUsize;

    static UPCALLS: AtomicUsize = AtomicUsize::new(0);

    extern "C" fn count(_: u64, _: &mut Context, _: u64) -> u64 {
        UPCALLS.fetch_add(1, AcqRel);
        0
    }

    extern "C" fn spoil_errno(_: u64, _: &mut Context, _: u64) -> u64 {
        // SAFETY: this thread's own.
        unsafe { *libc::__errno_location() = libc::EXDEV };
        0
    }

    #[test]
    fn a_handler_leaves_errno_alone() {
        let _alone = alone();
        let _first = First::begin().unwrap();
        let guard = Guard::install().unwrap();
        set_upcall(vcpus::first(), spoil_errno as *const () as u64, 0);
        // SAFETY: raises a signal that has a handler; the address is that of this thread's `errno`.
        unsafe {
            *libc::__errno_location() = libc::EINTR;
            libc::raise(tick_signal());
            assert_eq!(*libc::__errno_location(), libc::EINTR);
        }
        drop(guard);
    }

    #[test]
    fn an_end_that_is_ignored_stays_ignored_and_no_other_signal() {
        let _alone = alone();
        let action = |signal: libc::c_int| {
            // SAFETY: written to our own stack.
            unsafe {
                let mut action: libc::sigaction = std::mem::zeroed();
                libc::sigaction(signal, std::ptr::null(), &raw mut action);
                action.sa_sigaction
            }
        };
        // SAFETY: sets signals to be ignored, and back at the end.
        let ignore = |signal| unsafe { libc::signal(signal, libc::SIG_IGN) };
        let (interrupt, fault) = (ignore(libc::SIGINT), ignore(libc::SIGFPE));
        let _first = First::begin().unwrap();
        let guard = Guard::install().unwrap();
        assert_eq!(action(libc::SIGINT), libc::SIG_IGN);
        assert_eq!(action(libc::SIGTERM), on_signal as *const () as usize);
        assert_eq!(action(libc::SIGFPE), on_signal as *const () as usize);
        drop(guard);
        assert_eq!((action(libc::SIGINT), action(libc::SIGFPE)), (libc::SIG_IGN, libc::SIG_IGN));
        // SAFETY: puts back what was there.
        unsafe {
            libc::signal(libc::SIGINT, interrupt);
            libc::signal(libc::SIGFPE, fault);
        }
    }

    #[test]
    fn nothing_can_be_touched_below_the_stack_of_the_handlers() {
        let _alone = alone();
        let _first = First::begin().unwrap();
        let guard = Guard::install().unwrap();
        let bottom = guard.thread.stack as usize;
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let below = maps.lines().find_map(|line| {
            let (range, rest) = line.split_once(' ')?;
            let (start, end) = range.split_once('-')?;
            let number = |text| usize::from_str_radix(text, 16).unwrap();
            (number(start)..number(end)).contains(&(bottom - 1)).then_some(rest)
        });
        assert!(below.is_some_and(|rest| rest.starts_with("---p")), "{below:?}");
        drop(guard);
    }

    fn blocked() -> libc::sigset_t {
        // SAFETY: the mask is written to our own stack.
        unsafe {
            let mut mask: libc::sigset_t = std::mem::zeroed();
            libc::pthread_sigmask(libc::SIG_BLOCK, std::ptr::null(), &raw mut mask);
            mask
        }
    }

    /// What is called in here happens one after the other: signals are the whole process's.
    pub fn alone() -> std::sync::MutexGuard<'static, ()> {
        static LOCK: std::sync::Mutex<()> = std::sync::Mutex::new(());
        LOCK.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    #[test]
    fn signals_that_a_parent_blocked_come_and_are_blocked_again_afterwards() {
        let _alone = alone();
        // SAFETY: blocks signals of this thread, and raises one in it.
        unsafe {
            let mut all: libc::sigset_t = std::mem::zeroed();
            libc::sigfillset(&raw mut all);
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, std::ptr::null_mut());
            let _first = First::begin().unwrap();
            let guard = Guard::install().unwrap();
            set_upcall(vcpus::first(), count as *const () as u64, 0);
            for (number, signal) in FAULTS.into_iter().chain([tick_signal()]).enumerate() {
                UPCALLS.store(0, Release);
                libc::raise(signal);
                assert_eq!(UPCALLS.load(Acquire), 1, "signal {signal}, number {number}");
            }
            let mask = blocked();
            assert_eq!(libc::sigismember(&raw const mask, libc::SIGUSR1), 1, "not ours to let through");
            drop(guard);
            let mask = blocked();
            for signal in FAULTS.into_iter().chain(interruptions()) {
                assert_eq!(libc::sigismember(&raw const mask, signal), 1, "signal {signal}");
            }
        }
    }
}
