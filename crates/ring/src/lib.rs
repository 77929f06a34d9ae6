//! Bytes between two domains, through memory that both map: a ring in each direction.
//!
//! Each ring has one writer and one reader. Positions count bytes since the beginning, modulo 2^32; each is stored by one side and
//! read by the other. The memory is the other side's as well, and it may store anything there at any time: so each side
//! keeps its own position to itself and only publishes it, and looks at the other's anew each time. A position that cannot be
//! is [`Broken`], for good. What is copied is bytes that nobody believes yet.
//!
//! # Who is told when
//! Beside the memory there is a bell on each side (a channel's signal, which is not lost when nobody waits for it yet). It costs a
//! request and a switch, so it is rung when the other side wants it only:
//! - Who reads less, or writes less, than it wanted has [asked to be told](Reader::read), looked once more after that, and found nothing more to do. Now
//!   it may wait for its bell.
//! - Who has read or written looks whether the other side has asked, after its position is out. If so, it takes the
//!   question away and rings.
//!
//! A store and the look that follows must not change places, on either side: [`Memory::barrier`]. Then either the look sees the other's store, or the other's look sees
//! ours. A side that asks and is not heard must be a side whose last look found what was there.
#![no_std]
#![deny(unsafe_code)]

#[cfg(test)]
extern crate std;

mod memory;
mod pair;
mod ring;
#[cfg(test)]
mod tests;

pub use memory::Memory;
pub use pair::{Pair, Shape, Side};
pub use ring::{Bell, Broken, Reader, Writer};
