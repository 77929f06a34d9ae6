//! The three standard streams of this process, for WASI, and waiting for them.

use crate::gate;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, fstat};
use rustix::io::{Errno as LinuxErrno, ReadWriteFlags};
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::BorrowedFd;
use wasi::provider::{Input, Output, OutputStream, Stream, StreamSet, Streams, Terminal, Wait};
use wasi::{Errno, Result, Stopped};

/// What a pipe that `poll` calls writable takes without blocking (pipe(7): PIPE_BUF).
const PIPE_BYTES: usize = 4096;

/// Descriptors 0, 1 and 2.
#[derive(Debug)]
pub struct LinuxStreams {
    /// By number.
    kinds: [Kind; 3],
}

/// How a stream is used without blocking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A regular file: it never blocks.
    File,
    /// By calls that say not to wait (`RWF_NOWAIT`, preadv2(2)): pipes, sockets, `/dev/null` on current kernels.
    Prompt,
    /// By asking `poll(2)` first: terminals, and everything on kernels without those calls.
    Asked,
}

impl Kind {
    fn of(stream: Stream) -> Self {
        match fstat(descriptor(stream)).map(|stat| FileType::from_raw_mode(stat.st_mode)) {
            Ok(FileType::RegularFile) => Self::File,
            _ => Self::Prompt,
        }
    }

    /// Reads what is there; `None` if this stream does not know the calls that do not wait.
    fn read(self, into: &mut [u8]) -> Option<rustix::io::Result<usize>> {
        let stream = descriptor(Stream::Input);
        match self {
            Self::File => Some(rustix::io::read(stream, into)),
            Self::Asked => Some(is_ready(Stream::Input).and_then(|()| rustix::io::read(stream, into))),
            Self::Prompt => known(rustix::io::preadv2(
                stream,
                &mut [IoSliceMut::new(into)],
                AT_POSITION,
                ReadWriteFlags::NOWAIT,
            )),
        }
    }

    /// Writes what fits; `None` as for [`Kind::read`].
    fn write(self, to: Stream, bytes: &[u8]) -> Option<rustix::io::Result<usize>> {
        let stream = descriptor(to);
        match self {
            Self::File => Some(rustix::io::write(stream, bytes)),
            Self::Asked => {
                let bytes = &bytes[..bytes.len().min(PIPE_BYTES)];
                Some(is_ready(to).and_then(|()| rustix::io::write(stream, bytes)))
            }
            Self::Prompt => known(rustix::io::pwritev2(
                stream,
                &[IoSlice::new(bytes)],
                AT_POSITION,
                ReadWriteFlags::NOWAIT,
            )),
        }
    }
}

/// The offset that means the descriptor's own position (preadv2(2)).
const AT_POSITION: u64 = u64::MAX;

fn known(result: rustix::io::Result<usize>) -> Option<rustix::io::Result<usize>> {
    match result {
        Err(LinuxErrno::OPNOTSUPP | LinuxErrno::NOSYS | LinuxErrno::INVAL | LinuxErrno::SPIPE) => None,
        result => Some(result),
    }
}

impl LinuxStreams {
    /// Looks at what the three streams are.
    pub fn new() -> Self {
        Self { kinds: [Stream::Input, Stream::Output, Stream::Error].map(Kind::of) }
    }

    /// Does something with a stream, in the way that it knows.
    fn with(
        &mut self,
        stream: Stream,
        mut act: impl FnMut(Kind) -> Option<rustix::io::Result<usize>>,
    ) -> rustix::io::Result<usize> {
        let kind = &mut self.kinds[stream as usize];
        match act(*kind) {
            // Not without waiting, says the call; if `poll` says otherwise, it is believed, or whoever waits would
            // come back at once.
            Some(Err(LinuxErrno::AGAIN)) if *kind == Kind::Prompt => {}
            Some(result) => return result,
            None => *kind = Kind::Asked,
        }
        act(Kind::Asked).unwrap_or(Err(LinuxErrno::IO))
    }
}

impl Default for LinuxStreams {
    fn default() -> Self {
        Self::new()
    }
}

impl Streams for LinuxStreams {
    fn read(&mut self, into: &mut [u8]) -> Result<Input> {
        match self.with(Stream::Input, |kind| kind.read(into)) {
            Ok(0) => Ok(Input::End),
            Ok(count) => Ok(Input::Bytes(count)),
            // EINTR: a signal came; whoever waits looks why.
            Err(LinuxErrno::AGAIN | LinuxErrno::INTR) => Ok(Input::NotReady),
            Err(error) => Err(errno(error).into()),
        }
    }

    fn write(&mut self, to: OutputStream, bytes: &[u8]) -> Result<Output> {
        match self.with(to.into(), |kind| kind.write(to.into(), bytes)) {
            Ok(count) => Ok(Output::Bytes(count)),
            Err(LinuxErrno::AGAIN | LinuxErrno::INTR) => Ok(Output::NotReady),
            Err(error) => Err(errno(error).into()),
        }
    }

    fn terminal(&mut self, stream: Stream) -> Result<Terminal> {
        Ok(if rustix::termios::isatty(descriptor(stream)) { Terminal::Yes } else { Terminal::No })
    }
}

/// Waits with `poll(2)`; ends early when the process is being ended, or another virtual CPU wants the first one.
#[derive(Clone, Copy, Debug)]
pub struct LinuxWait;

impl Wait for LinuxWait {
    fn wait(&mut self, streams: StreamSet, deadline_ns: Option<u64>) -> Result<StreamSet, Stopped> {
        loop {
            self.checkpoint()?;
            let now_ns = gate::now_ns();
            let left_ns = deadline_ns.map(|deadline_ns| deadline_ns.saturating_sub(now_ns));
            let ready = poll_streams(streams, left_ns);
            self.checkpoint()?;
            if !ready.is_empty() || left_ns == Some(0) || gate::has_news() {
                return Ok(ready);
            }
        }
    }

    fn checkpoint(&mut self) -> Result<(), Stopped> {
        if gate::is_pending() { Err(Stopped) } else { Ok(()) }
    }

    fn give_way(&mut self) -> Result<(), Stopped> {
        self.checkpoint()?;
        rustix::thread::sched_yield();
        Ok(())
    }
}

/// Which of `streams` are ready, at the latest after `left_ns`; none as well if a signal or an event came.
fn poll_streams(streams: StreamSet, left_ns: Option<u64>) -> StreamSet {
    let all = [Stream::Input, Stream::Output, Stream::Error];
    // poll(2) ignores an entry that asks for nothing, but for errors; those of a stream that is not asked
    // about would end the wait, so only the others are handed over.
    let mut entries: Vec<PollFd<'_>> = Vec::with_capacity(all.len() + 1);
    let asked = || all.into_iter().filter(|stream| streams.has(*stream));
    entries.extend(asked().map(entry));
    poll_with_events(&mut entries, left_ns);
    asked()
        .zip(&entries)
        .filter(|(_, entry)| !entry.revents().is_empty())
        .fold(StreamSet::NONE, |ready, (stream, _)| ready.union(StreamSet::of(stream)))
}

/// Waits for `entries`, at the latest for `left_ns`; ends early if a signal or an event comes. Adds an entry of its own behind
/// them, and has room for it without an allocation if they have.
pub(crate) fn poll_with_events(entries: &mut Vec<PollFd<'_>>, left_ns: Option<u64>) {
    let wake = gate::wake_descriptor();
    if wake >= 0 {
        // SAFETY: the event descriptor stays open for as long as the library OS runs, and only a running
        // library OS waits.
        let wake = unsafe { BorrowedFd::borrow_raw(wake) };
        entries.push(PollFd::from_borrowed_fd(wake, PollFlags::IN));
    }
    let timeout = left_ns.map(|ns| Timespec {
        tv_sec: i64::try_from(ns / 1_000_000_000).unwrap_or(i64::MAX),
        tv_nsec: (ns % 1_000_000_000) as i64,
    });
    // EINTR leaves every entry without an answer: whoever waits looks again. Nothing else can be wrong with these arguments
    // but memory.
    let _ = poll(entries, timeout.as_ref());
}

/// `EAGAIN` if the stream would block.
fn is_ready(stream: Stream) -> rustix::io::Result<()> {
    match poll(&mut [entry(stream)], Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))? {
        0 => Err(LinuxErrno::AGAIN),
        _ => Ok(()),
    }
}

fn entry(stream: Stream) -> PollFd<'static> {
    let flags = match stream {
        Stream::Input => PollFlags::IN,
        Stream::Output | Stream::Error => PollFlags::OUT,
    };
    PollFd::from_borrowed_fd(descriptor(stream), flags)
}

fn descriptor(stream: Stream) -> BorrowedFd<'static> {
    // SAFETY: Rust's runtime sees to it that 0, 1 and 2 are open when the process starts, and nobody here
    // closes them.
    unsafe { BorrowedFd::borrow_raw(stream as i32) }
}

fn errno(error: LinuxErrno) -> Errno {
    crate::files::errno(error.raw_os_error())
}
