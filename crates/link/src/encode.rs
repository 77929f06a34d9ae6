use crate::frame::PAYLOAD_HEAD_BYTES_MAX;
use crate::{
    Cause, CrashHead, Error, HEADER_BYTES, HELLO_MAGIC, Kind, PAYLOAD_BYTES_MAX, Process, Usage, VERSION,
};

/// A frame to send: its [`head`](Frame::head), then its [`body`](Frame::body), with nothing copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// [`Kind::StdinData`]
    StdinData(&'a [u8]),
    /// [`Kind::StdinEnd`]
    StdinEnd,
    /// [`Kind::Cancel`]
    Cancel,
    /// [`Kind::StdoutClosed`]
    StdoutClosed,
    /// [`Kind::StderrClosed`]
    StderrClosed,
    /// [`Kind::StdoutCredit`]
    StdoutCredit {
        /// How many bytes more may come.
        bytes: u32,
    },
    /// [`Kind::StderrCredit`]
    StderrCredit {
        /// How many bytes more may come.
        bytes: u32,
    },
    /// [`Kind::Start`]
    Start {
        /// Which of the plan's programs, from 0.
        program: u32,
    },
    /// [`Kind::Shutdown`]
    Shutdown,
    /// [`Kind::Measure`]
    Measure,
    /// [`Kind::Freed`]
    Freed,
    /// [`Kind::Hello`], with our [`VERSION`]
    Hello,
    /// [`Kind::Stdout`]
    Stdout(&'a [u8]),
    /// [`Kind::Stderr`]
    Stderr(&'a [u8]),
    /// [`Kind::StdinCredit`]
    StdinCredit {
        /// How many bytes more may come.
        bytes: u32,
    },
    /// [`Kind::Exit`]
    Exit {
        /// What the `selkis` command exits with.
        status: u8,
        /// Why.
        cause: Cause,
        /// For the user; empty if there is nothing to say.
        message: &'a str,
    },
    /// [`Kind::Log`]
    Log(&'a str),
    /// [`Kind::Usage`]
    Usage(Usage),
    /// [`Kind::Started`]
    Started,
    /// [`Kind::Crash`]
    Crash {
        /// The numbers.
        head: CrashHead,
        /// A [`CrashBody`](crate::CrashBody)'s bytes.
        body: &'a [u8],
    },
    /// [`Kind::Throttled`]
    Throttled,
    /// [`Kind::Spawned`]
    Spawned {
        /// Which of the plan's programs, from 0.
        program: u32,
        /// Who started it.
        parent: Process,
    },
}

/// Everything of a frame before its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    bytes: [u8; HEADER_BYTES + PAYLOAD_HEAD_BYTES_MAX],
    length: usize,
}

impl<'a> Frame<'a> {
    /// The bytes before the body, of a frame of `process`. [`Error::TooLong`] if the body is longer than a frame can hold:
    /// see [`split_body`]; [`Error::WrongProcess`] if such a frame must be a process's and is nobody's, or the reverse.
    pub fn head(&self, process: Process) -> Result<Head, Error> {
        let kind = self.kind();
        kind.check_process(process)?;
        let mut bytes = [0; HEADER_BYTES + PAYLOAD_HEAD_BYTES_MAX];
        let head_bytes = kind.shape().head_bytes;
        let length = head_bytes + self.body().len();
        if length > PAYLOAD_BYTES_MAX {
            return Err(Error::TooLong { kind, length });
        }
        let [low, middle, high, _] = (length as u32).to_le_bytes();
        bytes[..4].copy_from_slice(&[kind as u8, low, middle, high]);
        bytes[4..HEADER_BYTES].copy_from_slice(&process.0.to_le_bytes());
        let payload = &mut bytes[HEADER_BYTES..];
        match *self {
            Self::Hello => {
                payload[..4].copy_from_slice(&HELLO_MAGIC);
                payload[4..8].copy_from_slice(&VERSION.to_le_bytes());
            }
            Self::StdinCredit { bytes } | Self::StdoutCredit { bytes } | Self::StderrCredit { bytes } => {
                payload[..4].copy_from_slice(&bytes.to_le_bytes())
            }
            Self::Start { program } => payload[..4].copy_from_slice(&program.to_le_bytes()),
            Self::Spawned { program, parent } => {
                payload[..4].copy_from_slice(&program.to_le_bytes());
                payload[4..8].copy_from_slice(&parent.0.to_le_bytes());
            }
            Self::Usage(usage) => payload[..Usage::BYTES].copy_from_slice(&usage.to_bytes()),
            Self::Crash { head, .. } => payload[..CrashHead::BYTES].copy_from_slice(&head.to_bytes()),
            Self::Exit { status, cause, .. } => payload[..2].copy_from_slice(&[status, cause as u8]),
            _ => {}
        }
        Ok(Head { bytes, length: HEADER_BYTES + head_bytes })
    }

    /// The bytes after the head; may be empty.
    pub fn body(&self) -> &'a [u8] {
        match *self {
            Self::StdinData(bytes) | Self::Stdout(bytes) | Self::Stderr(bytes) => bytes,
            Self::Crash { body, .. } => body,
            Self::Exit { message, .. } => message.as_bytes(),
            Self::Log(text) => text.as_bytes(),
            Self::StdinEnd
            | Self::Cancel
            | Self::StdoutClosed
            | Self::StderrClosed
            | Self::Start { .. }
            | Self::Shutdown
            | Self::Measure
            | Self::Hello
            | Self::StdinCredit { .. }
            | Self::StdoutCredit { .. }
            | Self::StderrCredit { .. }
            | Self::Usage(_)
            | Self::Started
            | Self::Throttled
            | Self::Spawned { .. }
            | Self::Freed => &[],
        }
    }

    fn kind(&self) -> Kind {
        match self {
            Self::StdinData(_) => Kind::StdinData,
            Self::StdinEnd => Kind::StdinEnd,
            Self::Cancel => Kind::Cancel,
            Self::StdoutClosed => Kind::StdoutClosed,
            Self::StderrClosed => Kind::StderrClosed,
            Self::StdoutCredit { .. } => Kind::StdoutCredit,
            Self::StderrCredit { .. } => Kind::StderrCredit,
            Self::Start { .. } => Kind::Start,
            Self::Shutdown => Kind::Shutdown,
            Self::Measure => Kind::Measure,
            Self::Hello => Kind::Hello,
            Self::Stdout(_) => Kind::Stdout,
            Self::Stderr(_) => Kind::Stderr,
            Self::StdinCredit { .. } => Kind::StdinCredit,
            Self::Exit { .. } => Kind::Exit,
            Self::Log(_) => Kind::Log,
            Self::Usage(_) => Kind::Usage,
            Self::Started => Kind::Started,
            Self::Crash { .. } => Kind::Crash,
            Self::Throttled => Kind::Throttled,
            Self::Spawned { .. } => Kind::Spawned,
            Self::Freed => Kind::Freed,
        }
    }
}

impl AsRef<[u8]> for Head {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// As much of `bytes` as one data frame can hold, and the rest.
pub fn split_body(bytes: &[u8]) -> (&[u8], &[u8]) {
    bytes.split_at(bytes.len().min(PAYLOAD_BYTES_MAX))
}
