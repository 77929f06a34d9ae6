use crate::crash::{BODY_BYTES_MAX, CrashHead};
use crate::{EXIT_TEXT_BYTES_MAX, Error, PAYLOAD_BYTES_MAX, Process, Usage};

/// What a frame is: its first byte. Kinds with the top bit set come from the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Bytes of standard input.
    StdinData = 0x01,
    /// Standard input has ended.
    StdinEnd = 0x02,
    /// The user wants the process to end (Ctrl-C).
    Cancel = 0x03,
    /// Nobody reads standard output any more (`EPIPE`).
    StdoutClosed = 0x04,
    /// Nobody reads standard error any more (`EPIPE`).
    StderrClosed = 0x05,
    /// The host has room for more standard output.
    StdoutCredit = 0x06,
    /// The host has room for more standard error.
    StderrCredit = 0x07,
    /// A process is to begin.
    Start = 0x08,
    /// The library OS is to end, with all that it runs.
    Shutdown = 0x09,
    /// The host asks what the processes use.
    Measure = 0x0a,
    /// The host has heard of the end of a process that the guest had given its number.
    Freed = 0x0b,
    /// The guest is there, and speaks a version.
    Hello = 0x81,
    /// Bytes of standard output.
    Stdout = 0x82,
    /// Bytes of standard error.
    Stderr = 0x83,
    /// The guest has room for more standard input.
    StdinCredit = 0x84,
    /// The process has ended.
    Exit = 0x85,
    /// Words of the runtime, not of the program.
    Log = 0x86,
    /// What a process uses.
    Usage = 0x87,
    /// The process runs: its instance is being made.
    Started = 0x88,
    /// What a process that failed has used, and where it was.
    Crash = 0x89,
    /// The process writes faster than it may, and has to wait.
    Throttled = 0x8a,
    /// A process runs that another one of the guest has started.
    Spawned = 0x8b,
}

/// Who sends a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sender {
    Host,
    Guest,
}

/// How a payload is laid out: a head of fixed size, then a body that may be there or not.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub head_bytes: usize,
    pub body_bytes_max: usize,
}

/// The longest head of a payload: that of `Crash`.
pub(crate) const PAYLOAD_HEAD_BYTES_MAX: usize = CrashHead::BYTES;

impl Kind {
    pub(crate) fn from_code(code: u8, sender: Sender) -> Result<Self, Error> {
        Ok(match (sender, code) {
            (Sender::Host, 0x01) => Self::StdinData,
            (Sender::Host, 0x02) => Self::StdinEnd,
            (Sender::Host, 0x03) => Self::Cancel,
            (Sender::Host, 0x04) => Self::StdoutClosed,
            (Sender::Host, 0x05) => Self::StderrClosed,
            (Sender::Host, 0x06) => Self::StdoutCredit,
            (Sender::Host, 0x07) => Self::StderrCredit,
            (Sender::Host, 0x08) => Self::Start,
            (Sender::Host, 0x09) => Self::Shutdown,
            (Sender::Host, 0x0a) => Self::Measure,
            (Sender::Host, 0x0b) => Self::Freed,
            (Sender::Guest, 0x81) => Self::Hello,
            (Sender::Guest, 0x82) => Self::Stdout,
            (Sender::Guest, 0x83) => Self::Stderr,
            (Sender::Guest, 0x84) => Self::StdinCredit,
            (Sender::Guest, 0x85) => Self::Exit,
            (Sender::Guest, 0x86) => Self::Log,
            (Sender::Guest, 0x87) => Self::Usage,
            (Sender::Guest, 0x88) => Self::Started,
            (Sender::Guest, 0x89) => Self::Crash,
            (Sender::Guest, 0x8a) => Self::Throttled,
            (Sender::Guest, 0x8b) => Self::Spawned,
            _ => return Err(Error::UnknownKind(code)),
        })
    }

    pub(crate) const fn shape(self) -> Shape {
        let (head_bytes, body_bytes_max) = match self {
            Self::StdinEnd
            | Self::Cancel
            | Self::StdoutClosed
            | Self::StderrClosed
            | Self::Shutdown
            | Self::Measure
            | Self::Freed
            | Self::Started
            | Self::Throttled => (0, 0),
            Self::StdinCredit | Self::StdoutCredit | Self::StderrCredit | Self::Start => (4, 0),
            Self::Hello | Self::Spawned => (8, 0),
            Self::Usage => (Usage::BYTES, 0),
            Self::Crash => (CrashHead::BYTES, BODY_BYTES_MAX),
            Self::Exit => (2, EXIT_TEXT_BYTES_MAX),
            Self::StdinData | Self::Stdout | Self::Stderr | Self::Log => (0, PAYLOAD_BYTES_MAX),
        };
        Shape { head_bytes, body_bytes_max }
    }

    /// Whether a frame of this kind may be that process's.
    pub(crate) fn check_process(self, process: Process) -> Result<(), Error> {
        let is_nobodys = matches!(self, Self::Hello | Self::Log | Self::Shutdown | Self::Measure);
        if is_nobodys == (process == Process::NONE) {
            Ok(())
        } else {
            Err(Error::WrongProcess { kind: self, process })
        }
    }

    /// The header of a frame of this kind: how long the body is, if the payload's `length` is one it can have.
    pub(crate) fn body_bytes(self, length: usize) -> Result<usize, Error> {
        if length > PAYLOAD_BYTES_MAX {
            return Err(Error::TooLong { kind: self, length });
        }
        let shape = self.shape();
        match length.checked_sub(shape.head_bytes) {
            Some(body) if body <= shape.body_bytes_max => Ok(body),
            _ => Err(Error::WrongLength { kind: self, length }),
        }
    }
}

/// Why a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Cause {
    /// It returned or called for its exit; the status is its own.
    Exited = 0,
    /// It did what WebAssembly forbids: out of bounds, unreachable, stack overflow.
    Trapped = 1,
    /// Its time was up.
    TimedOut = 2,
    /// The user ended it.
    Cancelled = 3,
    /// It wanted more memory than it was given or the machine has.
    OutOfMemory = 4,
    /// Its first instruction was never reached; the text says why.
    FailedToStart = 5,
}

impl Cause {
    pub(crate) fn from_code(code: u8) -> Result<Self, Error> {
        Ok(match code {
            0 => Self::Exited,
            1 => Self::Trapped,
            2 => Self::TimedOut,
            3 => Self::Cancelled,
            4 => Self::OutOfMemory,
            5 => Self::FailedToStart,
            _ => return Err(Error::UnknownCause(code)),
        })
    }
}
