//! The wire of a library OS to its root: one end of a pair of stream sockets, which does not block.

use crate::launch::{buffer, bytes};
use crate::streams::poll_with_events;
use bundle::services::{RawBuffer, RawBytes, Readiness};
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

/// What stands for [`bundle::services::WireGone`].
const GONE: i64 = -1;

/// Whoever uses it reads it, however long that takes: it is there until the library OS has ended.
static WIRE: RwLock<Option<OwnedFd>> = RwLock::new(None);

/// While this lives, the library OS has its wire.
#[derive(Debug)]
pub(crate) struct Laid(());

/// Gives the library OS this end.
pub(crate) fn lay(socket: Option<OwnedFd>) -> io::Result<Laid> {
    if let Some(socket) = &socket {
        rustix::io::ioctl_fionbio(socket, true)?;
    }
    set_wire(socket);
    Ok(Laid(()))
}

impl Drop for Laid {
    fn drop(&mut self) {
        hang_up();
    }
}

/// From now on this thread gets `signal` when something happens on the wire, if there is one: so a program that runs is interrupted.
pub(crate) fn announce(signal: libc::c_int) -> io::Result<()> {
    let wire = wire();
    let Some(socket) = wire.as_ref().map(AsRawFd::as_raw_fd) else { return Ok(()) };
    // SAFETY: the socket is open, and the structure lies on our own stack.
    unsafe {
        let owner = FOwnerEx { kind: F_OWNER_TID, thread: libc::gettid() };
        let set = libc::fcntl(socket, F_SETOWN_EX, &raw const owner) == 0
            && libc::fcntl(socket, F_SETSIG, signal) == 0
            && libc::fcntl(socket, libc::F_SETFL, libc::O_NONBLOCK | libc::O_ASYNC) == 0;
        if set { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

/// The library OS has ended: no signal comes of the wire any more. (A confined process may not take [`announce`] back.)
pub(crate) fn hang_up() {
    set_wire(None);
}

/// `struct f_owner_ex` and its kin (Linux, include/uapi/asm-generic/fcntl.h), which the libc crate has not for every library.
#[repr(C)]
struct FOwnerEx {
    kind: libc::c_int,
    thread: libc::pid_t,
}
const F_OWNER_TID: libc::c_int = 0;
const F_SETOWN_EX: libc::c_int = 15;
const F_SETSIG: libc::c_int = 10;

fn wire() -> RwLockReadGuard<'static, Option<OwnedFd>> {
    WIRE.read().unwrap_or_else(PoisonError::into_inner)
}

fn set_wire(socket: Option<OwnedFd>) {
    *WIRE.write().unwrap_or_else(PoisonError::into_inner) = socket;
}

/// [`bundle::services::Services::wire_read`]
pub(crate) extern "C" fn read(into: RawBuffer) -> i64 {
    // SAFETY: the library OS borrowed the buffer exclusively, for the length of the call.
    let into = unsafe { buffer(into) };
    match wire().as_ref().map(|wire| rustix::io::read(wire, &mut *into)) {
        Some(Ok(0)) if !into.is_empty() => GONE,
        Some(result) => answer(result),
        None => GONE,
    }
}

/// [`bundle::services::Services::wire_write`]
pub(crate) extern "C" fn write(parts: &[RawBytes; 2]) -> i64 {
    // SAFETY: the library OS borrowed the bytes for the length of the call.
    let parts = parts.map(|part| IoSlice::new(unsafe { bytes(part) }));
    // Rust has Linux ignore SIGPIPE when a process starts, so a reader that has gone is an error.
    wire().as_ref().map_or(GONE, |wire| answer(rustix::io::writev(wire, &parts)))
}

fn answer(result: rustix::io::Result<usize>) -> i64 {
    match result {
        Ok(count) => count as i64,
        Err(Errno::AGAIN | Errno::INTR) => 0,
        Err(_) => GONE,
    }
}

/// [`bundle::services::Services::wire_wait`]
pub(crate) extern "C" fn wait(wanted: Readiness, deadline_ns: u64) -> Readiness {
    let wire = wire();
    let Some(wire) = wire.as_ref() else { return wanted };
    let asked = [(Readiness::READ, PollFlags::IN), (Readiness::WRITE, PollFlags::OUT)];
    let asked = asked.into_iter().filter(|(readiness, _)| wanted.has(*readiness));
    let flags = asked.clone().fold(PollFlags::empty(), |all, (_, flags)| all | flags);
    // As with streams: what is not asked about must not end the wait by an error.
    let mut entries = Vec::with_capacity(2);
    if !flags.is_empty() {
        entries.push(PollFd::from_borrowed_fd(wire.as_fd(), flags));
    }
    poll_with_events(&mut entries, Some(deadline_ns.saturating_sub(crate::gate::now_ns())));
    let found = entries.first().filter(|_| !flags.is_empty()).map_or(PollFlags::empty(), PollFd::revents);
    let is_over = found.intersects(PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL);
    asked
        .filter(|(_, flags)| is_over || found.intersects(*flags))
        .fold(Readiness::NONE, |ready, (readiness, _)| ready.union(readiness))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bundle::services::{Services, WireGone};
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    const READ: Readiness = Readiness::READ;
    const BOTH: Readiness = READ.union(Readiness::WRITE);

    extern "C" fn nothing(_: &bundle::services::RawExchange) -> usize {
        0
    }

    extern "C" fn nobody_hears(_: RawBytes) {}

    fn services() -> Services {
        let version = Services::VERSION;
        let crash = nobody_hears;
        Services { version, call: nothing, wire_read: read, wire_write: write, wire_wait: wait, crash }
    }

    #[test]
    fn bytes_go_both_ways_and_nothing_blocks() {
        let services = services();
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let _laid = lay(Some(ours.into())).unwrap();
        let mut into = [0; 8];
        assert_eq!(services.read_wire(&mut into), Ok(0));
        assert_eq!(services.wait_for_wire(READ, 0), Readiness::NONE);
        assert_eq!(services.wait_for_wire(BOTH, u64::MAX), Readiness::WRITE);
        theirs.write_all(b"down").unwrap();
        assert_eq!(services.wait_for_wire(READ, u64::MAX), READ);
        assert_eq!(services.read_wire(&mut into), Ok(4));
        assert_eq!(&into[..4], b"down");
        assert_eq!(services.write_wire([b"u", b"p"]), Ok(2));
        theirs.read_exact(&mut into[..2]).unwrap();
        assert_eq!(&into[..2], b"up");
        // Nobody reads: there is room for so much, and then for nothing.
        let piece = [7; 1 << 16];
        while services.write_wire([&piece, &piece]).unwrap() > 0 {}
        assert_eq!(services.wait_for_wire(BOTH, 0), Readiness::NONE);
        theirs.set_nonblocking(true).unwrap();
        let mut drained = vec![0; 1 << 16];
        while theirs.read(&mut drained).is_ok() {}
        assert_eq!(services.wait_for_wire(BOTH, u64::MAX), Readiness::WRITE);
    }

    #[test]
    fn a_wire_whose_other_end_is_gone_is_ready_to_say_so() {
        let services = services();
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let _laid = lay(Some(ours.into())).unwrap();
        theirs.write_all(b"last").unwrap();
        drop(theirs);
        let mut into = [0; 8];
        assert_eq!(services.read_wire(&mut into), Ok(4), "what came before is heard");
        assert_eq!(services.wait_for_wire(BOTH, u64::MAX), BOTH);
        assert_eq!(services.read_wire(&mut into), Err(WireGone));
        assert_eq!(services.write_wire([b"x", b""]), Err(WireGone));
        // Not asked about, it does not end a wait either.
        assert_eq!(services.wait_for_wire(Readiness::NONE, 0), Readiness::NONE);
    }

    #[test]
    fn without_a_wire_it_is_gone() {
        let services = services();
        assert_eq!(services.read_wire(&mut [0; 8]), Err(WireGone));
        assert_eq!(services.write_wire([b"x", b""]), Err(WireGone));
        assert_eq!(services.wait_for_wire(BOTH, u64::MAX), BOTH);
    }
}
