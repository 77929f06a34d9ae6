//! What a library OS (the guest) and who started it (the host: the `selkis` command, or a system's root) say to each
//! other, over the one byte stream between them.
//!
//! There is one stream of bytes in each direction, reliable and in order: a virtserialport in QEMU, a ring between two
//! domains of a machine, a socket between two processes of Linux. The standard streams of all processes of the guest, their
//! beginning and end and the runtime's own words travel in it, so they are cut into frames. Both ends link this crate:
//! it encodes, it decodes, it does no I/O, allocates nothing, and never waits. It is not a raw console: for that, leave
//! the bytes as they are.
//!
//! # A frame
//! ```text
//! byte 0      kind
//! bytes 1-3   length of the payload, little-endian, 0 to 65,536
//! bytes 4-7   whose it is: a process's number, little-endian; 0xffff_ffff if it is nobody's
//! then        the payload
//! ```
//!
//! | kind | name | from | payload |
//! |---|---|---|---|
//! | 0x01 | [`StdinData`](Kind::StdinData) | host | bytes; no more than was granted |
//! | 0x02 | [`StdinEnd`](Kind::StdinEnd) | host | nothing; no `StdinData` comes after it |
//! | 0x03 | [`Cancel`](Kind::Cancel) | host | nothing |
//! | 0x04 | [`StdoutClosed`](Kind::StdoutClosed) | host | nothing |
//! | 0x05 | [`StderrClosed`](Kind::StderrClosed) | host | nothing |
//! | 0x06 | [`StdoutCredit`](Kind::StdoutCredit) | host | how many bytes more the guest may send, u32, little-endian |
//! | 0x07 | [`StderrCredit`](Kind::StderrCredit) | host | the same for standard error |
//! | 0x08 | [`Start`](Kind::Start) | host | which program of the plan, u32, little-endian |
//! | 0x09 | [`Shutdown`](Kind::Shutdown) | host, nobody's | nothing |
//! | 0x0a | [`Measure`](Kind::Measure) | host, nobody's | nothing; each living process is answered for by a `Usage` |
//! | 0x0b | [`Freed`](Kind::Freed) | host | nothing; the `Exit` of a process that was `Spawned` has been heard |
//! | 0x81 | [`Hello`](Kind::Hello) | guest, nobody's | "SELK", then the version as u32, little-endian; the first frame, and only the first |
//! | 0x82 | [`Stdout`](Kind::Stdout) | guest | bytes |
//! | 0x83 | [`Stderr`](Kind::Stderr) | guest | bytes |
//! | 0x84 | [`StdinCredit`](Kind::StdinCredit) | guest | how many bytes more the host may send, u32, little-endian |
//! | 0x85 | [`Exit`](Kind::Exit) | guest | status u8, [`Cause`] u8, then text in UTF-8; the process's last frame |
//! | 0x86 | [`Log`](Kind::Log) | guest, nobody's | text in UTF-8 |
//! | 0x87 | [`Usage`](Kind::Usage) | guest | memory in bytes, the library OS's for it, CPU time in nanoseconds, switches, migrations, each u64, little-endian; [`State`] u8 |
//! | 0x88 | [`Started`](Kind::Started) | guest | nothing; the first frame of a process that was told to `Start`, unless it cannot |
//! | 0x89 | [`Crash`](Kind::Crash) | guest | [`CrashHead`], then [`CrashBody`]; only before the `Exit` of a process that failed |
//! | 0x8a | [`Throttled`](Kind::Throttled) | guest | nothing; the process has to wait, for it writes faster than it may. Once at most |
//! | 0x8b | [`Spawned`](Kind::Spawned) | guest | which program of the plan, u32, and which process started it, u32, little-endian; the first frame of a process that was not told to `Start` |
//!
//! # Processes
//! A guest runs what its plan says. Either that is one program, which runs at once as [`Process::FIRST`], and the guest is
//! over when that is. Or it begins a process when it hears `Start`, and is over when it hears `Shutdown` or the stream
//! ends. The host gives processes their numbers. One that is in use is free again when the host has heard `Exit`; what the
//! host said to a process before that may come after its end, and the guest ignores it.
//!
//! A process can start others, and the guest gives those their numbers, from some that are for this alone: it tells the host, and asks
//! nothing. One that is in use is free again when the guest has heard `Freed`. So no number means two processes at a time to either
//! end, and a guest whose processes start others without end has to wait for a host that does not listen.
//! Nobody writes to the standard input of such a process.
//!
//! # Flow
//! Each process has its own streams, and each of them is counted for itself, anew with each `Start`. The host sends no byte
//! of standard input that the guest has not asked for ([`Credit`]). So the guest can read everything that comes at once
//! and still needs no more memory than it granted, and `Cancel` is never stuck behind input that nobody reads. In the
//! other direction it is the same, for each of the two streams, except that each begins with a credit of
//! [`OUTPUT_BYTES_MAX`]: a reader of output that does not read makes the process's writes wait, and `Exit` is never stuck
//! behind them. When nobody reads a process's output any more, the host says so, and throws away what still comes; the
//! process's writes fail from then on. Who writes data frames should make them large (16 KiB to 64 KiB).
//!
//! The other frames are free. Those of a process are few, because the host asked for them; of `Log` the host keeps what it
//! has room for.
//!
//! # Trust
//! Each end decodes what the other sent as if it were hostile: an unknown kind, a length that is too long or wrong for its
//! kind, a process where none may be, or a frame out of order is an [`Error`]. There is no way to find the next frame in
//! a stream after that, so a decoder goes on giving the same error. A decoder keeps nothing but the frame that it is in:
//! whether there is such a process, and whether a stream keeps to its credit ([`Credit::charge`], [`Input`]), is for who
//! keeps the processes to find.
#![no_std]

mod crash;
mod credit;
mod decode;
mod encode;
mod error;
mod frame;
mod process;

pub use crash::{CallFrame, Crash, CrashBody, CrashHead, FRAMES_MAX, Limits, Measure};
pub use credit::{Credit, Input};
pub use decode::{FromGuest, FromHost, GuestDecoder, HostDecoder};
pub use encode::{Frame, Head, split_body};
pub use error::Error;
pub use frame::{Cause, Kind};
pub use process::{Process, State, Usage};

/// Goes up with every change of the frames. Both ends must agree exactly.
pub const VERSION: u32 = 5;

/// The most that a process may have sent of an output stream without its reader having taken it, in bytes.
pub const OUTPUT_BYTES_MAX: u32 = 256 << 10;

/// The longest payload, in bytes.
pub const PAYLOAD_BYTES_MAX: usize = 64 << 10;

/// The longest text of an `Exit`, in bytes.
pub const EXIT_TEXT_BYTES_MAX: usize = PAYLOAD_BYTES_MAX - 2;

/// How many of the processes that others had started may have failed, in a domain, before their numbers come again like those of others:
/// so many the host remembers.
pub const FAILED_CHILDREN_MAX: usize = 32;

/// The size of a frame without its payload, in bytes.
pub const HEADER_BYTES: usize = 8;

/// The payload of `Hello` begins with this, so that a stream of something else is told from an older version.
pub(crate) const HELLO_MAGIC: [u8; 4] = *b"SELK";
