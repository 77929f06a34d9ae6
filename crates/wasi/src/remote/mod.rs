//! The providers carried over one function.
//!
//! Somebody without files of their own (the library OS, hosted) uses a [`Remote`] as its
//! [`Host`](crate::provider::Host); every call becomes one [`Exchange`] that a [`Transport`] carries to
//! somebody who has them, and who [`serve`]s it from a host of their own. Both sides are compiled from the
//! same source, so the encoding is nobody else's business: postcard for small fixed data, and bytes in bulk
//! (contents, paths) beside it, borrowed, not copied.
//!
//! Carrying a call allocates nothing, on either side.

mod client;
mod message;
mod server;
#[cfg(test)]
mod tests;

pub use client::Remote;
pub use server::serve;

use crate::Result;

/// The most bytes in [`Exchange::request`].
pub const REQUEST_BYTES_MAX: usize = 64;
/// The most bytes that go into [`Exchange::reply`].
pub const REPLY_BYTES_MAX: usize = 128;

/// One call: four buffers. The one who answers reads `request` and `outgoing`, and fills `reply` and
/// `incoming`.
#[derive(Debug)]
pub struct Exchange<'a> {
    /// What is asked: encoded, at most [`REQUEST_BYTES_MAX`].
    pub request: &'a [u8],
    /// Bytes that go along: what to write; a path; two paths.
    pub outgoing: [&'a [u8]; 2],
    /// Where the encoded answer goes: at least [`REPLY_BYTES_MAX`].
    pub reply: &'a mut [u8],
    /// Where bytes that come back go: what was read.
    pub incoming: &'a mut [u8],
}

/// The way to the other side.
pub trait Transport {
    /// Carries one call there and back; answers how many bytes of `reply` were filled. It fails only where
    /// there is no answer: what the other side could not do is part of the reply.
    fn call(&mut self, exchange: Exchange<'_>) -> Result<usize>;
}
