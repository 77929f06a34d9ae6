use core::fmt;

use crate::{Kind, PAYLOAD_BYTES_MAX, Process, VERSION};

/// Why a stream cannot be understood, or a frame cannot be made. A stream is lost after its first error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// A frame begins with a byte that is no kind that this side may be sent.
    UnknownKind(u8),
    /// A payload of this length, in bytes, is longer than any may be.
    TooLong {
        /// The frame's kind.
        kind: Kind,
        /// The payload's length, in bytes.
        length: usize,
    },
    /// A frame of this kind cannot have a payload of this length, in bytes.
    WrongLength {
        /// The frame's kind.
        kind: Kind,
        /// The payload's length, in bytes.
        length: usize,
    },
    /// A frame of a process is nobody's, or one that is nobody's is a process's.
    WrongProcess {
        /// The frame's kind.
        kind: Kind,
        /// Whose it says it is.
        process: Process,
    },
    /// A frame is of a process that there is not. For who keeps the processes: decoders do not.
    NoSuchProcess(Process),
    /// A frame where it may not stand: before `Hello` or another `Hello`, input after its end.
    OutOfOrder(Kind),
    /// The first frame is a `Hello`, but not one of ours.
    NotSelkis,
    /// The guest speaks this version, and not [`VERSION`].
    WrongVersion(u32),
    /// The program ended for a reason that is not among [`crate::Cause`]'s.
    UnknownCause(u8),
    /// What a process does is not among [`crate::State`]'s.
    UnknownState(u8),
    /// What is in a frame of this kind does not fit together.
    Damaged(Kind),
    /// More bytes of a stream were sent than was granted.
    OverCredit,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::UnknownKind(code) => {
                write!(f, "the console link carries a frame of unknown kind {code:#04x}")
            }
            Self::TooLong { kind, length } => {
                write!(
                    f,
                    "a {kind:?} frame of {length} bytes on the console link; {PAYLOAD_BYTES_MAX} is the most"
                )
            }
            Self::WrongLength { kind, length } => {
                write!(f, "a {kind:?} frame on the console link cannot be {length} bytes long")
            }
            Self::WrongProcess { kind, process } => {
                write!(f, "a {kind:?} frame of {process} on the console link")
            }
            Self::NoSuchProcess(process) => {
                write!(f, "the console link speaks of {process}, which there is not")
            }
            Self::OutOfOrder(kind) => write!(f, "a {kind:?} frame out of order on the console link"),
            Self::NotSelkis => write!(f, "what answers on the console link is not a Selkis machine"),
            Self::WrongVersion(theirs) => write!(
                f,
                "the machine speaks version {theirs} of the console link, this command version {VERSION}: \
                 build the image and the command from the same source"
            ),
            Self::UnknownCause(code) => write!(f, "the program ended for an unknown cause, {code}"),
            Self::UnknownState(code) => write!(f, "a process is in an unknown state, {code}"),
            Self::Damaged(kind) => write!(f, "a {kind:?} frame on the console link is damaged"),
            Self::OverCredit => {
                write!(f, "more bytes of a stream came over the console link than were granted")
            }
        }
    }
}

impl core::error::Error for Error {}
