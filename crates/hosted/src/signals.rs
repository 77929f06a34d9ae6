//! Upcalls, as Linux signals: faults, the timer, Ctrl-C.
//!
//! A handler turns Linux's saved context into `abi`'s, calls the library OS's upcall function on it, and puts it
//! back; returning from the handler is the resume. Handlers run on a stack of their own, because the
//! interrupted code may have run out of its own.

use crate::gate;
use abi::upcall::Kind;
use abi::{Context, Request};
use std::io;
use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicU64, Ordering::*};

/// For the timer of the virtual CPU. Not one that a shell or a terminal sends.
fn tick_signal() -> libc::c_int {
    libc::SIGRTMIN() + 3
}

/// What a CPU does wrong, as signals, and what asks for an end.
const FAULTS: [libc::c_int; 5] = [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGTRAP];
const ENDS: [libc::c_int; 2] = [libc::SIGINT, libc::SIGTERM];

/// Signal frames with AVX-512 state take 3.5 KiB; the handler itself may walk a program's functions.
const STACK_BYTES: usize = 256 << 10;

type Upcall = extern "C" fn(kind: u64, context: &mut Context) -> u64;

static UPCALL: AtomicPtr<()> = AtomicPtr::new(std::ptr::null_mut());
static PAGE: AtomicU64 = AtomicU64::new(0);
static THREAD: AtomicI32 = AtomicI32::new(0);
static TIMER: AtomicPtr<libc::c_void> = AtomicPtr::new(std::ptr::null_mut());

/// Says which function takes upcalls; `page` is the upcall page.
pub(crate) fn set_upcall(page: u64, entry: u64) {
    PAGE.store(page, Release);
    UPCALL.store(entry as usize as *mut (), Release);
}

/// Arms the virtual CPU's timer, on the monotonic clock.
pub(crate) fn set_timer(deadline_ns: u64) {
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
    // SAFETY: the timer was made by `Guard::install` and lives until the library OS has ended.
    unsafe {
        libc::timer_settime(
            TIMER.load(Acquire),
            libc::TIMER_ABSTIME,
            &raw const setting,
            std::ptr::null_mut(),
        )
    };
}

/// Signals as the library OS needs them, on the thread that made this; dropped, they are as before.
pub(crate) struct Guard {
    actions: Vec<(libc::c_int, libc::sigaction)>,
    /// Its number may be 0, which is a null pointer: Linux counts from there.
    timer: Option<libc::timer_t>,
    old_stack: libc::stack_t,
    stack: *mut libc::c_void,
}

impl Guard {
    /// Sets handlers, the handlers' stack and the timer up.
    pub fn install() -> io::Result<Self> {
        // SAFETY: a new mapping; then calls that write to values on our own stack. The zeroed C structures are
        // all-zero-valid plain data.
        unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let prot = libc::PROT_READ | libc::PROT_WRITE;
            let stack = libc::mmap(std::ptr::null_mut(), STACK_BYTES, prot, flags, -1, 0);
            if stack == libc::MAP_FAILED {
                return Err(io::Error::last_os_error());
            }
            let mut old_stack: libc::stack_t = std::mem::zeroed();
            let new_stack = libc::stack_t { ss_sp: stack, ss_flags: 0, ss_size: STACK_BYTES };
            let mut guard = Self { actions: Vec::new(), timer: None, old_stack, stack };
            if libc::sigaltstack(&raw const new_stack, &raw mut old_stack) != 0 {
                return Err(io::Error::last_os_error());
            }
            guard.old_stack = old_stack;
            THREAD.store(libc::gettid(), Release);
            guard.timer = Some(make_timer()?);
            for signal in FAULTS.into_iter().chain(ENDS).chain([tick_signal()]) {
                guard.handle(signal)?;
            }
            Ok(guard)
        }
    }

    fn handle(&mut self, signal: libc::c_int) -> io::Result<()> {
        // SAFETY: zeroed, a `sigaction` is plain data; the handler has the signature that SA_SIGINFO asks for. While one
        // of ours runs the others that are not faults wait, and a fault in it ends the process.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_signal as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            for blocked in ENDS.into_iter().chain([tick_signal()]) {
                libc::sigaddset(&raw mut action.sa_mask, blocked);
            }
            let mut old: libc::sigaction = std::mem::zeroed();
            if libc::sigaction(signal, &raw const action, &raw mut old) != 0 {
                return Err(io::Error::last_os_error());
            }
            self.actions.push((signal, old));
        }
        Ok(())
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // SAFETY: puts back what `install` found; nothing runs on the handlers' stack here.
        unsafe {
            // A tick that is on its way comes no later than the return from `timer_delete`, and finds nothing to do.
            UPCALL.store(std::ptr::null_mut(), Release);
            if let Some(timer) = self.timer {
                libc::timer_delete(timer);
            }
            for (signal, action) in &self.actions {
                libc::sigaction(*signal, action, std::ptr::null_mut());
            }
            libc::sigaltstack(&raw const self.old_stack, std::ptr::null_mut());
            libc::munmap(self.stack, STACK_BYTES);
        }
    }
}

fn make_timer() -> io::Result<libc::timer_t> {
    // SAFETY: a zeroed `sigevent` is plain data, and the timer's name is written to our own stack.
    unsafe {
        let mut event: libc::sigevent = std::mem::zeroed();
        event.sigev_notify = libc::SIGEV_THREAD_ID;
        event.sigev_signo = tick_signal();
        event.sigev_notify_thread_id = THREAD.load(Acquire);
        let mut timer: libc::timer_t = std::ptr::null_mut();
        if libc::timer_create(libc::CLOCK_MONOTONIC, &raw mut event, &raw mut timer) != 0 {
            return Err(io::Error::last_os_error());
        }
        TIMER.store(timer, Release);
        Ok(timer)
    }
}

extern "C" fn on_signal(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: Linux passes a valid `siginfo_t` and `ucontext_t` to a handler with SA_SIGINFO, and they are ours until it
    // returns.
    let (info, context) = unsafe { (&*info, &mut *context.cast::<libc::ucontext_t>()) };
    if ENDS.contains(&signal) {
        gate::raise(gate::EVENT_CANCEL);
        // SAFETY: both calls only name threads of this process.
        unsafe {
            if libc::gettid() != THREAD.load(Acquire) {
                libc::syscall(libc::SYS_tgkill, libc::getpid(), THREAD.load(Acquire), tick_signal());
                return;
            }
        }
    }
    let kind = match signal {
        signal if FAULTS.contains(&signal) => Kind::Fault,
        signal if ENDS.contains(&signal) => Kind::Event,
        _ => Kind::Tick,
    };
    let upcall = UPCALL.load(Acquire);
    if upcall.is_null() {
        if kind == Kind::Fault {
            die(signal, context);
        }
        return;
    }
    // SAFETY: the library OS registered a function of this type (`images/runtime`, `entry_hosted`).
    let upcall: Upcall = unsafe { std::mem::transmute(upcall) };
    let mut saved = to_abi(signal, info, context);
    if upcall(kind as u64, &mut saved) != 0 {
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
