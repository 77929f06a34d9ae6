//! The kernel boundary, served by Linux: each request of `abi` by the system calls that come nearest.
//!
//! Everything here can run in a signal handler: no allocation, no lock.

use crate::{signals, vcpus};
use abi::{Backing, Commit, Error, Handle, Protection, Registers, Request, Span};
use std::io;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicPtr, Ordering::*};

/// The address space's handle.
pub const SPACE: Handle = Handle::new(1, 1);
/// The first virtual CPU's handle.
pub const VCPU: Handle = vcpus::handle(0);

/// The event of the first virtual CPU that says that somebody wants the program to end (Ctrl-C).
pub const EVENT_CANCEL: u64 = 1;

/// Pages of the module that are a file's, from its start.
#[derive(Clone, Copy, Debug)]
pub struct FileRange {
    /// Where they are mapped.
    pub span: Span,
    /// The file.
    pub file: RawFd,
}

struct State {
    window: Span,
    module: Span,
    ranges: Vec<FileRange>,
}

static STATE: AtomicPtr<State> = AtomicPtr::new(std::ptr::null_mut());

/// While this lives, [`call`] serves a library OS, whose first virtual CPU is the thread that made this.
pub(crate) struct Door(#[allow(dead_code, reason = "it ends with this")] vcpus::First);

/// Makes [`call`] serve a library OS with this window and module.
pub(crate) fn install(window: Span, module: Span, ranges: Vec<FileRange>) -> io::Result<Door> {
    let first = vcpus::First::begin()?;
    STATE.store(Box::into_raw(Box::new(State { window, module, ranges })), Release);
    Ok(Door(first))
}

impl Drop for Door {
    fn drop(&mut self) {
        let state = STATE.swap(std::ptr::null_mut(), AcqRel);
        if !state.is_null() {
            // SAFETY: `install` made it with `Box::into_raw`, and `swap` gave it to us alone; no library OS runs any more.
            drop(unsafe { Box::from_raw(state) });
        }
    }
}

/// A descriptor that is readable while an event of the first virtual CPU is pending: for whoever waits for other descriptors as well. -1
/// if no library OS runs.
pub fn wake_descriptor() -> RawFd {
    vcpus::first().wake_descriptor()
}

/// Raises an event of the first virtual CPU and ends its wait. Safe in a signal handler.
pub fn raise(event: u64) {
    vcpus::first().raise(event);
}

/// Whether somebody wants the program to end.
pub fn is_pending() -> bool {
    vcpus::first().pending() & EVENT_CANCEL != 0
}

/// Whether there is anything for the first virtual CPU to look at.
pub(crate) fn has_news() -> bool {
    vcpus::first().pending() != 0
}

/// The function behind [`abi::boot::BootInfo::gate`].
pub(crate) extern "C" fn call(registers: &Registers, value: &mut u64) -> u64 {
    match Request::decode(*registers).and_then(serve) {
        Ok(answer) => {
            *value = answer;
            0
        }
        Err(error) => error.code(),
    }
}

fn serve(request: Request) -> Result<u64, Error> {
    let state = STATE.load(Acquire);
    // SAFETY: set before the library OS starts and removed after it has ended.
    let state = unsafe { state.as_ref() }.ok_or(Error::Unsupported)?;
    match request {
        Request::Map { space, span, backing, protection, commit } => {
            check(space, SPACE)?;
            inside(state.window, span)?;
            map(state, span, backing, protection, commit)
        }
        Request::Protect { space, span, protection } => {
            check(space, SPACE)?;
            protect(state, span, protection)
        }
        Request::Reset { space, span } => {
            check(space, SPACE)?;
            inside(state.window, span)?;
            reset(span)
        }
        Request::Unmap { space, span } => {
            check(space, SPACE)?;
            inside(state.window, span)?;
            map_anonymous(span, Protection::None, Commit::OnTouch)
        }
        Request::SetUpcall { vcpu, page: _, entry, stack } => {
            signals::set_upcall(vcpus::find_own(vcpu)?, entry, stack);
            Ok(0)
        }
        Request::SetTimer { vcpu, deadline_ns } => {
            signals::set_timer(vcpus::find_own(vcpu)?, deadline_ns);
            Ok(0)
        }
        Request::Wait { vcpu, deadline_ns } => Ok(vcpus::find_own(vcpu)?.wait(deadline_ns)),
        Request::Now { vcpu } => {
            vcpus::find_own(vcpu)?;
            Ok(now_ns())
        }
        Request::CpuTime { vcpu } => {
            vcpus::find_own(vcpu)?;
            Ok(clock_ns(libc::CLOCK_THREAD_CPUTIME_ID))
        }
        Request::CreateVcpu { domain } => {
            check(domain, SPACE)?;
            vcpus::create()
        }
        Request::Start { vcpu, entry, stack, argument } => vcpus::start(vcpu, entry, stack, argument),
        Request::CreateEvent { vcpu, event } => vcpus::create_event(vcpu, event),
        Request::Signal { target } => vcpus::signal(target),
        Request::Print { space, text } => {
            check(space, SPACE)?;
            print(text)
        }
        Request::Stop { machine: _, status } => {
            // SAFETY: ends the process at once; the library OS asks for this only when it cannot go on.
            unsafe { libc::_exit(i32::from(status)) }
        }
        // Linux restores the context when the handler returns, devices are Linux's, and so are other domains: processes of the launcher.
        // What Linux notes of pages is in files of /proc, which confinement has taken away.
        _ => Err(Error::Unsupported),
    }
}

fn check(handle: Handle, expected: Handle) -> Result<(), Error> {
    if handle == expected { Ok(()) } else { Err(Error::StaleHandle) }
}

fn inside(window: Span, span: Span) -> Result<(), Error> {
    if span.is_pages() && window.contains(span) { Ok(()) } else { Err(Error::BadRange) }
}

fn flags(protection: Protection) -> i32 {
    match protection {
        Protection::None => libc::PROT_NONE,
        Protection::Read => libc::PROT_READ,
        Protection::ReadWrite => libc::PROT_READ | libc::PROT_WRITE,
        Protection::ReadExecute => libc::PROT_READ | libc::PROT_EXEC,
    }
}

fn map(
    state: &State,
    span: Span,
    backing: Backing,
    protection: Protection,
    commit: Commit,
) -> Result<u64, Error> {
    let source = match backing {
        Backing::Zero => return map_anonymous(span, protection, commit),
        Backing::Image { source } => Span::new(source, span.length),
        Backing::Device { .. } | Backing::Dma { .. } | Backing::Memory { .. } => {
            return Err(Error::Unsupported);
        }
    };
    let range = state.ranges.iter().find(|range| range.span.contains(source)).ok_or(Error::NotMapped)?;
    let offset = (source.base - range.span.base) as libc::off_t;
    mmap(span, flags(protection), libc::MAP_NORESERVE, range.file, offset)
}

fn map_anonymous(span: Span, protection: Protection, commit: Commit) -> Result<u64, Error> {
    let commit = match commit {
        Commit::OnTouch => libc::MAP_NORESERVE,
        Commit::Now => libc::MAP_POPULATE,
    };
    mmap(span, flags(protection), libc::MAP_ANONYMOUS | commit, -1, 0)
}

fn mmap(span: Span, prot: i32, flags: i32, file: RawFd, offset: libc::off_t) -> Result<u64, Error> {
    let flags = flags | libc::MAP_PRIVATE | libc::MAP_FIXED;
    // SAFETY: the span lies in the library OS's window (the callers checked), which is its own to lay out.
    let address = unsafe {
        libc::mmap(span.base as usize as *mut libc::c_void, span.length as usize, prot, flags, file, offset)
    };
    if address == libc::MAP_FAILED { Err(Error::NoMemory) } else { Ok(0) }
}

fn protect(state: &State, span: Span, protection: Protection) -> Result<u64, Error> {
    if state.module.contains(span) {
        if protection == Protection::ReadWrite || !span.is_pages() {
            return Err(Error::Protection);
        }
    } else {
        inside(state.window, span)?;
    }
    let address = span.base as usize as *mut libc::c_void;
    // SAFETY: in the window the library OS may do as it likes; in the module it can only read and execute.
    let failed = unsafe { libc::mprotect(address, span.length as usize, flags(protection)) } != 0;
    if failed { Err(Error::NoMemory) } else { Ok(0) }
}

fn reset(span: Span) -> Result<u64, Error> {
    let address = span.base as usize as *mut libc::c_void;
    // SAFETY: drops private pages in the window, as the library OS asked.
    let failed = unsafe { libc::madvise(address, span.length as usize, libc::MADV_DONTNEED) } != 0;
    if failed { Err(Error::NotMapped) } else { Ok(0) }
}

/// Linux's monotonic clock, which is the kernel's clock here.
pub fn now_ns() -> u64 {
    clock_ns(libc::CLOCK_MONOTONIC)
}

/// One of the clocks that exist on every Linux.
fn clock_ns(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes to `time` alone.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

fn print(text: Span) -> Result<u64, Error> {
    if text.length > Request::PRINT_BYTES_MAX {
        return Err(Error::BadRange);
    }
    let address = text.base as usize as *const libc::c_void;
    // SAFETY: Linux checks the address itself, and answers EFAULT.
    unsafe { libc::write(libc::STDERR_FILENO, address, text.length as usize) };
    Ok(0)
}
