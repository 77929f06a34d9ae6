//! What WASI stands on, as traits: whoever runs a program brings these.
//!
//! A [`Host`] gathers them. No call of [`Clock`], [`Entropy`], [`Streams`] or [`Files`] waits for
//! something that may never come; [`Wait`] is where a process sleeps, or in [`Children`] for a child. Every call may answer
//! [`Error::Stopped`](crate::Error::Stopped), and the process then ends without seeing another result.

mod children;
mod files;
mod path;

pub use children::{Child, ChildCause, ChildEnd, ChildLimits, ChildState, Children, Spawn, Strings};
pub use files::{
    Appended, Create, Entry, Expect, FileAccess, FileKind, Files, Follow, Handle, Open, Opened, SetTime,
    Stat, Sync, Times, Truncate, Visit,
};
pub use path::{LINK_BYTES_MAX, NAME_BYTES_MAX, PATH_BYTES_MAX, Path};

use crate::{Result, Stopped};
use serde::{Deserialize, Serialize};

/// Everything that a process of WASI is given, in one value.
pub trait Host {
    /// The time.
    fn clock(&mut self) -> &mut dyn Clock;
    /// Random bytes.
    fn entropy(&mut self) -> &mut dyn Entropy;
    /// The standard streams.
    fn streams(&mut self) -> &mut dyn Streams;
    /// The granted directories.
    fn files(&mut self) -> &mut dyn Files;
    /// The way to sleep.
    fn wait(&mut self) -> &mut dyn Wait;
    /// Other processes; `None` if the process is given none to start.
    fn children(&mut self) -> Option<&mut dyn Children> {
        None
    }
}

/// A host whose five are values of their own.
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "each is what the trait of its bound says")]
pub struct Providers<C, E, S, F, W> {
    pub clock: C,
    pub entropy: E,
    pub streams: S,
    pub files: F,
    pub wait: W,
}

impl<C: Clock, E: Entropy, S: Streams, F: Files, W: Wait> Host for Providers<C, E, S, F, W> {
    fn clock(&mut self) -> &mut dyn Clock {
        &mut self.clock
    }

    fn entropy(&mut self) -> &mut dyn Entropy {
        &mut self.entropy
    }

    fn streams(&mut self) -> &mut dyn Streams {
        &mut self.streams
    }

    fn files(&mut self) -> &mut dyn Files {
        &mut self.files
    }

    fn wait(&mut self) -> &mut dyn Wait {
        &mut self.wait
    }
}

/// Time.
pub trait Clock {
    /// Nanoseconds since some moment; never goes back.
    fn monotonic_ns(&mut self) -> Result<u64>;
    /// Nanoseconds since 1970-01-01 00:00 UTC.
    fn wall_ns(&mut self) -> Result<u64>;
    /// Nanoseconds of CPU time that the process has used.
    fn cpu_ns(&mut self) -> Result<u64>;
    /// The smallest step of a clock, in nanoseconds; never 0.
    fn resolution_ns(&mut self, which: ClockKind) -> Result<u64>;
}

/// Names a clock of [`Clock`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClockKind {
    /// [`Clock::wall_ns`]
    Wall,
    /// [`Clock::monotonic_ns`]
    Monotonic,
    /// [`Clock::cpu_ns`]
    Cpu,
}

/// Random bytes, fit for keys.
pub trait Entropy {
    /// Fills all of `into`.
    fn fill(&mut self, into: &mut [u8]) -> Result<()>;
}

/// Standard input, output and error. These calls never wait.
pub trait Streams {
    /// Takes what has arrived on standard input, at most `into.len()` bytes; `into` is not empty.
    fn read(&mut self, into: &mut [u8]) -> Result<Input>;
    /// Hands over some bytes of `bytes`, which is not empty. If nobody reads the other end any more: `EPIPE`.
    fn write(&mut self, to: OutputStream, bytes: &[u8]) -> Result<Output>;
    /// Whether a person may sit at the other end.
    fn terminal(&mut self, stream: Stream) -> Result<Terminal>;
}

/// What [`Streams::read`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Input {
    /// So many bytes, more than 0.
    Bytes(usize),
    /// There will be no more.
    End,
    /// Nothing yet: [`Wait`] for [`StreamSet::INPUT`].
    NotReady,
}

/// What [`Streams::write`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Output {
    /// So many bytes are on their way, more than 0.
    Bytes(usize),
    /// There is no room: [`Wait`] for the stream.
    NotReady,
}

/// One of the three standard streams; the number is the descriptor that programs know it by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[repr(u8)]
pub enum Stream {
    /// Standard input.
    Input = 0,
    /// Standard output.
    Output = 1,
    /// Standard error.
    Error = 2,
}

/// One of the two that can be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[repr(u8)]
pub enum OutputStream {
    /// Standard output.
    Output = 1,
    /// Standard error.
    Error = 2,
}

impl From<OutputStream> for Stream {
    fn from(stream: OutputStream) -> Self {
        match stream {
            OutputStream::Output => Self::Output,
            OutputStream::Error => Self::Error,
        }
    }
}

/// Whether a stream is a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Terminal {
    /// It is.
    Yes,
    /// It is a pipe, a file, a socket.
    No,
}

/// A set of standard streams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamSet(u8);

impl StreamSet {
    /// No stream.
    pub const NONE: Self = Self(0);
    /// Standard input.
    pub const INPUT: Self = Self::of(Stream::Input);
    /// Standard output.
    pub const OUTPUT: Self = Self::of(Stream::Output);
    /// Standard error.
    pub const ERROR: Self = Self::of(Stream::Error);

    /// The set of one stream.
    pub const fn of(stream: Stream) -> Self {
        Self(1 << stream as u8)
    }

    /// The streams in either.
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The streams in both.
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Whether `stream` is in it.
    pub const fn has(self, stream: Stream) -> bool {
        self.0 & Self::of(stream).0 != 0
    }

    /// Whether no stream is in it.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// How a process waits. It never spins.
pub trait Wait {
    /// Sleeps until a stream of `streams` is ready or the monotonic clock has come to `deadline_ns` (`None`:
    /// never), and answers with those that are ready: reading, or writing, would not say `NotReady`. A stream
    /// whose other end is closed is ready. An empty answer means that the deadline has passed; one that has
    /// passed already asks which are ready now.
    fn wait(&mut self, streams: StreamSet, deadline_ns: Option<u64>) -> Result<StreamSet, Stopped>;
    /// Called when a program enters any WASI function, and between the pieces of a long one. Returns at once.
    fn checkpoint(&mut self) -> Result<(), Stopped>;
    /// Called when the program leaves any WASI function that it has entered, however that ended.
    fn leave(&mut self) -> Result<(), Stopped> {
        Ok(())
    }
    /// Lets others run, if any want to (`sched_yield`).
    fn give_way(&mut self) -> Result<(), Stopped>;
}
