//! The virtual CPUs of a library OS: a thread of Linux each, with a timer, a set of events, and a place for upcalls of its own.
//!
//! The first is the thread that called [`launch`](crate::launch()). The threads of the others are there before the process is confined, which could
//! not make any later; each waits until the library OS makes a virtual CPU of it and says where it starts.
//!
//! What signal handlers use here neither allocates nor locks.

use crate::signals::ThreadSignals;
use abi::{Error, Handle, Request, VCPUS_MAX};
use std::arch::naked_asm;
use std::cell::Cell;
use std::io;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU64, Ordering::*};
use std::sync::mpsc;
use std::thread::{Builder, JoinHandle};

/// A virtual CPU. The library OS may be written anew in one process again and again: they are the same ones each time.
pub(crate) struct Vcpu {
    /// Events that nobody has taken.
    pending: AtomicU64,
    /// A descriptor that is readable while an event is pending; -1: it is not there.
    wake: AtomicI32,
    pub thread: AtomicI32,
    pub timer: AtomicPtr<libc::c_void>,
    /// Where upcalls go, if that is not null, and on which stack.
    pub upcall: AtomicPtr<()>,
    pub upcall_stack: AtomicU64,
    /// The library OS has its handle.
    is_made: AtomicBool,
    /// Where it starts, once that is not 0, and with what.
    entry: AtomicU64,
    stack: AtomicU64,
    argument: AtomicU64,
}

static VCPUS: [Vcpu; VCPUS_MAX] = [const { Vcpu::new() }; VCPUS_MAX];

/// The threads that have not started are to end.
static CLOSES: AtomicBool = AtomicBool::new(false);

/// Raised beside the library OS's own events: where to start has been said, or that it is over.
const START: u64 = 1 << 63;

thread_local! {
    /// Which virtual CPU this thread is, if it is one. Neither made nor dropped at any time, so handlers can look at it.
    static OWN: Cell<Option<usize>> = const { Cell::new(None) };
}

/// Handles of virtual CPUs, and of events behind them, are this and their number.
const VCPU_HANDLES: u32 = 2;
const EVENT_HANDLES: u32 = 0x1000;
/// The events of a virtual CPU.
const EVENTS: u32 = 64;

impl Vcpu {
    const fn new() -> Self {
        Self {
            pending: AtomicU64::new(0),
            wake: AtomicI32::new(-1),
            thread: AtomicI32::new(0),
            timer: AtomicPtr::new(std::ptr::null_mut()),
            upcall: AtomicPtr::new(std::ptr::null_mut()),
            upcall_stack: AtomicU64::new(0),
            is_made: AtomicBool::new(false),
            entry: AtomicU64::new(0),
            stack: AtomicU64::new(0),
            argument: AtomicU64::new(0),
        }
    }

    /// Makes the calling thread that virtual CPU, whose timer and handlers are for [`ThreadSignals`] to set up.
    fn begin(&'static self, number: usize) -> io::Result<()> {
        // SAFETY: makes a new descriptor.
        let wake = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if wake < 0 {
            return Err(io::Error::last_os_error());
        }
        self.pending.store(0, Release);
        self.is_made.store(number == 0, Release);
        self.entry.store(0, Release);
        self.upcall.store(std::ptr::null_mut(), Release);
        // SAFETY: asks for a number.
        self.thread.store(unsafe { libc::gettid() }, Release);
        self.wake.store(wake, Release);
        OWN.set(Some(number));
        Ok(())
    }

    /// The calling thread, which was this one, is none any more.
    fn end(&self) {
        OWN.set(None);
        self.is_made.store(false, Release);
        // SAFETY: closes the descriptor of `begin`, which nobody waits on any more.
        unsafe { libc::close(self.wake.swap(-1, AcqRel)) };
    }

    /// A descriptor that is readable while an event is pending; -1 if there is no such virtual CPU.
    pub fn wake_descriptor(&self) -> RawFd {
        self.wake.load(Acquire)
    }

    /// The events that nobody has taken.
    pub fn pending(&self) -> u64 {
        self.pending.load(Acquire)
    }

    /// Raises events and ends a wait.
    pub fn raise(&self, events: u64) {
        self.pending.fetch_or(events, AcqRel);
        let one = 1u64;
        // SAFETY: writes eight bytes from the stack to the event descriptor; if that is full it is readable already.
        unsafe { libc::write(self.wake_descriptor(), (&raw const one).cast(), 8) };
    }

    /// Has its thread make an upcall.
    pub fn interrupt(&self, signal: libc::c_int) {
        // SAFETY: names a thread of this process.
        unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), self.thread.load(Acquire), signal) };
    }

    /// Takes the pending events.
    pub fn take_pending(&self) -> u64 {
        let pending = self.pending.swap(0, AcqRel);
        if pending != 0 {
            let mut count = 0u64;
            // SAFETY: reads eight bytes to the stack; not blocking.
            unsafe { libc::read(self.wake_descriptor(), (&raw mut count).cast(), 8) };
        }
        pending
    }

    /// [`Request::Wait`]
    pub fn wait(&self, deadline_ns: u64) -> u64 {
        loop {
            let pending = self.take_pending();
            let now_ns = crate::gate::now_ns();
            if pending != 0 || now_ns >= deadline_ns {
                return pending;
            }
            let left = deadline_ns - now_ns;
            let timeout = libc::timespec {
                tv_sec: (left / 1_000_000_000).min(i64::MAX as u64 / 2) as libc::time_t,
                tv_nsec: (left % 1_000_000_000) as libc::c_long,
            };
            let mut wake = libc::pollfd { fd: self.wake_descriptor(), events: libc::POLLIN, revents: 0 };
            // SAFETY: one descriptor, a time-out on the stack. A signal ends the wait, and then we look again; an event
            // that a signal raised just before made the descriptor readable, so it is not missed.
            unsafe { libc::ppoll(&raw mut wake, 1, &raw const timeout, std::ptr::null()) };
        }
    }
}

/// The first virtual CPU, whether a library OS runs or not.
pub(crate) fn first() -> &'static Vcpu {
    &VCPUS[0]
}

/// The one that the calling thread is.
pub(crate) fn own() -> Option<&'static Vcpu> {
    OWN.get().map(|number| &VCPUS[number])
}

/// All that are there.
pub(crate) fn all() -> impl Iterator<Item = &'static Vcpu> {
    VCPUS.iter().filter(|vcpu| vcpu.wake_descriptor() >= 0)
}

/// The handle of a virtual CPU.
pub(crate) const fn handle(number: usize) -> Handle {
    Handle::new(VCPU_HANDLES + number as u32, 1)
}

/// The virtual CPU of this handle, if the library OS has it.
fn find(wanted: Handle) -> Result<(usize, &'static Vcpu), Error> {
    let named = VCPUS.iter().enumerate().find(|(number, _)| handle(*number) == wanted);
    named.filter(|(_, vcpu)| vcpu.is_made.load(Acquire)).ok_or(Error::StaleHandle)
}

/// The calling thread, which this handle must name.
pub(crate) fn find_own(wanted: Handle) -> Result<&'static Vcpu, Error> {
    let (number, vcpu) = find(wanted)?;
    if OWN.get() == Some(number) { Ok(vcpu) } else { Err(Error::NoRight) }
}

/// [`Request::CreateVcpu`]: one of the threads that wait.
pub(crate) fn create() -> Result<u64, Error> {
    let waits = |vcpu: &Vcpu| vcpu.wake_descriptor() >= 0 && !vcpu.is_made.swap(true, AcqRel);
    let number = VCPUS.iter().position(waits).ok_or(Error::TableFull)?;
    Ok(handle(number).raw())
}

/// [`Request::Start`]
pub(crate) fn start(wanted: Handle, entry: u64, stack: u64, argument: u64) -> Result<u64, Error> {
    let (number, vcpu) = find(wanted)?;
    if number == 0 || vcpu.entry.load(Acquire) != 0 {
        return Err(Error::Busy);
    }
    vcpu.stack.store(stack, Relaxed);
    vcpu.argument.store(argument, Relaxed);
    vcpu.entry.store(entry, Release);
    vcpu.raise(START);
    Ok(0)
}

/// [`Request::CreateEvent`]
pub(crate) fn create_event(vcpu: Handle, event: u32) -> Result<u64, Error> {
    let (number, _) = find(vcpu)?;
    // The last is ours.
    if event >= EVENTS - 1 {
        return Err(Error::Malformed);
    }
    Ok(Handle::new(EVENT_HANDLES + number as u32 * EVENTS + event, 1).raw())
}

/// [`Request::Signal`]: the event is there for its next wait, and an upcall is made for it.
pub(crate) fn signal(target: Handle) -> Result<u64, Error> {
    let place = target.index().checked_sub(EVENT_HANDLES).filter(|_| target.generation() == 1);
    let place = place.ok_or(Error::StaleHandle)?;
    let (number, event) = (place / EVENTS, place % EVENTS);
    let (_, vcpu) = find(handle(number as usize)).map_err(|_| Error::StaleHandle)?;
    vcpu.raise(1 << event);
    vcpu.interrupt(crate::signals::EVENT);
    Ok(0)
}

/// The calling thread, as the first virtual CPU.
pub(crate) struct First(());

impl First {
    pub fn begin() -> io::Result<Self> {
        VCPUS[0].begin(0)?;
        Ok(Self(()))
    }
}

impl Drop for First {
    fn drop(&mut self) {
        VCPUS[0].end();
    }
}

/// The threads of the others. Dropped, when the library OS has ended, they have as well.
pub(crate) struct Others(Vec<JoinHandle<()>>);

/// They run on stacks of the library OS's; on their own they only wait.
const THREAD_STACK_BYTES: usize = 64 << 10;

impl Others {
    /// Starts the threads of `count` virtual CPUs besides the first. They wait.
    pub fn start(count: usize) -> io::Result<Self> {
        if count > 0 {
            // One heap for all threads: another would take address space, and memory of the domain's.
            // SAFETY: sets a parameter of the C library's heap.
            unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
        }
        CLOSES.store(false, Release);
        let mut others = Self(Vec::new());
        let (ready, is_ready) = mpsc::channel();
        for number in (1..VCPUS_MAX).take(count) {
            let ready = ready.clone();
            let builder = Builder::new().name(format!("vcpu-{number}")).stack_size(THREAD_STACK_BYTES);
            others.0.push(builder.spawn(move || serve(number, &ready))?);
        }
        // If one of them fails, the rest end with this.
        others.0.iter().try_for_each(|_| is_ready.recv().map_err(io::Error::other)?)?;
        Ok(others)
    }
}

impl Drop for Others {
    fn drop(&mut self) {
        CLOSES.store(true, Release);
        VCPUS[1..].iter().filter(|vcpu| vcpu.wake_descriptor() >= 0).for_each(|vcpu| vcpu.raise(START));
        for thread in self.0.drain(..) {
            // It does not panic; if it did it has ended all the same.
            let _ = thread.join();
        }
    }
}

/// A virtual CPU's thread.
fn serve(number: usize, ready: &mpsc::Sender<io::Result<()>>) {
    let vcpu = &VCPUS[number];
    let signals = vcpu.begin(number).and_then(|()| ThreadSignals::install(vcpu));
    let signals = match signals {
        Ok(signals) => signals,
        Err(error) => {
            let _ = ready.send(Err(error));
            return vcpu.end();
        }
    };
    let _ = ready.send(Ok(()));
    let entry = loop {
        match vcpu.entry.load(Acquire) {
            0 if CLOSES.load(Acquire) => break 0,
            0 => _ = vcpu.wait(Request::NEVER),
            entry => break entry,
        }
    };
    if entry != 0 {
        // SAFETY: the library OS has asked for this: `images/runtime` has such a function there, and the stack for it.
        unsafe { call_on(vcpu.argument.load(Relaxed), entry, vcpu.stack.load(Relaxed)) };
    }
    vcpu.upcall.store(std::ptr::null_mut(), Release);
    drop(signals);
    vcpu.end();
}

/// Calls `entry(argument)` on another stack.
///
/// # Safety
/// There is such a function, and the stack, which ends there at a multiple of 16, is its own.
#[unsafe(naked)]
unsafe extern "C" fn call_on(argument: u64, entry: u64, stack: u64) {
    naked_asm!("push rbp", "mov rbp, rsp", "mov rsp, rdx", "call rsi", "mov rsp, rbp", "pop rbp", "ret")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_wait_are_made_once_and_start_where_they_are_told() {
        let _alone = crate::signals::tests::alone();
        static SEEN: AtomicU64 = AtomicU64::new(0);
        extern "C" fn entry(argument: u64) {
            SEEN.store(argument + u64::from(own().is_some()), Release);
            first().raise(1 << 5);
        }
        let _first = First::begin().unwrap();
        let others = Others::start(2).unwrap();
        assert_eq!(find(handle(1)).err(), Some(Error::StaleHandle), "nobody has asked for it");
        let [one, two] = [create().unwrap(), create().unwrap()].map(Handle::from_raw);
        assert_eq!((one, two, create()), (handle(1), handle(2), Err(Error::TableFull)));
        let mut stack = vec![0u128; 4096];
        let end = stack.as_mut_ptr_range().end as u64;
        let entry = entry as *const () as u64;
        assert_eq!(start(handle(0), entry, end, 1), Err(Error::Busy));
        assert_eq!(start(one, entry, end, 41), Ok(0));
        assert!(start(one, entry, end, 41).is_err(), "it runs, or has ended");
        assert_eq!(first().wait(Request::NEVER), 1 << 5);
        assert_eq!(SEEN.load(Acquire), 42);
        assert_eq!(find_own(two).err(), Some(Error::NoRight));
        drop(others);
        assert_eq!(all().count(), 1);
    }

    #[test]
    fn the_clock_of_its_cpu_time_stands_while_it_sleeps() {
        let _alone = crate::signals::tests::alone();
        let _door = crate::gate::install(abi::Span::new(0, 0), abi::Span::new(0, 0), Vec::new()).unwrap();
        let cpu_time_ns = |number| {
            let mut value = 0;
            let request = Request::CpuTime { vcpu: handle(number) };
            (crate::gate::call(&request.encode(), &mut value), value)
        };
        let (ok, first_ns) = cpu_time_ns(0);
        assert!(ok == 0 && first_ns > 0);
        first().wait(crate::gate::now_ns() + 500_000_000);
        let (_, slept_ns) = cpu_time_ns(0);
        assert!((first_ns..first_ns + 400_000_000).contains(&slept_ns), "{first_ns} has become {slept_ns}");
        while cpu_time_ns(0).1 < slept_ns + 5_000_000 {}
        assert_eq!(cpu_time_ns(1).0, Error::StaleHandle.code());
    }

    #[test]
    fn a_signalled_event_is_taken_once_by_whose_it_is() {
        let _alone = crate::signals::tests::alone();
        let _first = First::begin().unwrap();
        let event = Handle::from_raw(create_event(handle(0), 3).unwrap());
        assert_eq!(create_event(handle(0), EVENTS - 1), Err(Error::Malformed));
        assert_eq!(create_event(handle(4), 3), Err(Error::StaleHandle));
        let signals = ThreadSignals::install(first()).unwrap();
        let guard = crate::signals::Guard::install().unwrap();
        assert_eq!((signal(event), signal(event)), (Ok(0), Ok(0)));
        assert_eq!((first().wait(Request::NEVER), first().wait(0)), (1 << 3, 0));
        assert_eq!(signal(handle(0)), Err(Error::StaleHandle), "no event");
        drop((guard, signals));
    }
}
