//! What the machine and the host's `selkis` command say to each other, over the one byte stream between them.
//!
//! A machine has one console: one stream of bytes in each direction, reliable and in order (a
//! virtserialport in QEMU). Standard input, output and error, cancelling, the runtime's own words and the exit status all
//! travel in it, so they are cut into frames. Both ends link this crate: it encodes, it decodes, it does
//! no I/O, allocates nothing, and never waits. It is not a raw console: for that, leave the bytes as they are.
//!
//! # A frame
//! ```text
//! byte 0      kind
//! bytes 1-3   length of the payload, little-endian, 0 to 65,536
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
//! | 0x81 | [`Hello`](Kind::Hello) | guest | "SELK", then the version as u32, little-endian; the first frame, and only the first |
//! | 0x82 | [`Stdout`](Kind::Stdout) | guest | bytes |
//! | 0x83 | [`Stderr`](Kind::Stderr) | guest | bytes |
//! | 0x84 | [`StdinCredit`](Kind::StdinCredit) | guest | how many bytes more the host may send, u32, little-endian |
//! | 0x85 | [`Exit`](Kind::Exit) | guest | status u8, [`Cause`] u8, then text in UTF-8; the last frame |
//! | 0x86 | [`Log`](Kind::Log) | guest | text in UTF-8 |
//!
//! # Flow
//! The host sends no byte of standard input that the guest has not asked for ([`Credit`]). So the guest can read
//! everything that comes at once and still needs no more memory than it granted, and `Cancel` is never stuck behind
//! input that nobody reads. In the other direction it is the same, for each of the two streams, except that each begins
//! with a credit of [`OUTPUT_BYTES_MAX`]: a reader of output that does not read makes the guest's writes
//! wait, and `Exit` is never stuck behind them. (`Log` counts as standard error; `Exit` is free.) When nobody reads the program's output any more, the host says so, and
//! throws away what still comes; the guest's writes fail from then on. Who writes data frames should make them large (16 KiB to 64 KiB).
//!
//! # Trust
//! Each end decodes what the other sent as if it were hostile: an unknown kind, a length that is too long or wrong
//! for its kind, a frame out of order, or input without credit is an [`Error`]. There is no way to find the next
//! frame in a stream after that, so a decoder goes on giving the same error.
#![no_std]

mod credit;
mod decode;
mod encode;
mod error;
mod frame;

pub use credit::Credit;
pub use decode::{FromGuest, FromHost, GuestDecoder, HostDecoder};
pub use encode::{Frame, Head, split_body};
pub use error::Error;
pub use frame::{Cause, Kind};

/// Goes up with every change of the frames. Both ends must agree exactly.
pub const VERSION: u32 = 2;

/// The most that the guest may have sent of an output stream without its reader having taken it, in bytes.
pub const OUTPUT_BYTES_MAX: u32 = 256 << 10;

/// The longest payload, in bytes.
pub const PAYLOAD_BYTES_MAX: usize = 64 << 10;

/// The size of a frame without its payload, in bytes.
pub const HEADER_BYTES: usize = 4;

/// The payload of `Hello` begins with this, so that a stream of something else is told from an older version.
pub(crate) const HELLO_MAGIC: [u8; 4] = *b"SELK";
