//! The three standard streams of this process, for WASI, and waiting for them.

use crate::gate;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, fstat};
use rustix::io::Errno as LinuxErrno;
use std::os::fd::BorrowedFd;
use wasi::provider::{Input, Output, OutputStream, Stream, StreamSet, Streams, Terminal, Wait};
use wasi::{Errno, Result, Stopped};

/// What a pipe that `poll` calls writable takes without blocking (pipe(7): PIPE_BUF).
const PIPE_BYTES: usize = 4096;

/// Descriptors 0, 1 and 2.
#[derive(Debug)]
pub struct LinuxStreams {
    input: Kind,
    output: Kind,
    error: Kind,
}

/// How a stream behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A regular file: never blocks.
    File,
    /// All else: asked before it is used.
    Pipe,
}

impl LinuxStreams {
    /// Looks at what the three streams are.
    pub fn new() -> Self {
        let kind = |stream| match fstat(descriptor(stream)).map(|stat| FileType::from_raw_mode(stat.st_mode))
        {
            Ok(FileType::RegularFile) => Kind::File,
            _ => Kind::Pipe,
        };
        Self { input: kind(Stream::Input), output: kind(Stream::Output), error: kind(Stream::Error) }
    }
}

impl Default for LinuxStreams {
    fn default() -> Self {
        Self::new()
    }
}

impl Streams for LinuxStreams {
    fn read(&mut self, into: &mut [u8]) -> Result<Input> {
        if self.input == Kind::Pipe && !is_ready(Stream::Input)? {
            return Ok(Input::NotReady);
        }
        match rustix::io::read(descriptor(Stream::Input), into) {
            Ok(0) => Ok(Input::End),
            Ok(count) => Ok(Input::Bytes(count)),
            // Somebody else who has the stream open was faster, or a signal came: ask again.
            Err(LinuxErrno::AGAIN | LinuxErrno::INTR) => Ok(Input::NotReady),
            Err(error) => Err(errno(error).into()),
        }
    }

    fn write(&mut self, to: OutputStream, bytes: &[u8]) -> Result<Output> {
        let kind = match to {
            OutputStream::Output => self.output,
            OutputStream::Error => self.error,
        };
        let bytes = match kind {
            Kind::File => bytes,
            Kind::Pipe if is_ready(to.into())? => &bytes[..bytes.len().min(PIPE_BYTES)],
            Kind::Pipe => return Ok(Output::NotReady),
        };
        match rustix::io::write(descriptor(to.into()), bytes) {
            Ok(count) => Ok(Output::Bytes(count)),
            Err(LinuxErrno::AGAIN | LinuxErrno::INTR) => Ok(Output::NotReady),
            Err(error) => Err(errno(error).into()),
        }
    }

    fn terminal(&mut self, stream: Stream) -> Result<Terminal> {
        Ok(if rustix::termios::isatty(descriptor(stream)) { Terminal::Yes } else { Terminal::No })
    }
}

/// Waits with `poll(2)`; ends early when the process is being ended.
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
            if !ready.is_empty() || left_ns == Some(0) {
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
    if poll(&mut entries, timeout.as_ref()).is_err() {
        // EINTR: whoever waits looks again. Nothing else can be wrong with these arguments but memory.
        return StreamSet::NONE;
    }
    asked()
        .zip(&entries)
        .filter(|(_, entry)| !entry.revents().is_empty())
        .fold(StreamSet::NONE, |ready, (stream, _)| ready.union(StreamSet::of(stream)))
}

fn is_ready(stream: Stream) -> Result<bool, Errno> {
    match poll(&mut [entry(stream)], Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) {
        Ok(count) => Ok(count > 0),
        Err(LinuxErrno::INTR) => Ok(false),
        Err(error) => Err(errno(error)),
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
