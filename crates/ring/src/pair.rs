//! Two rings in one memory, one in each direction.

use crate::memory::Memory;
use crate::ring::{Place, Reader, WORDS_BYTES, Writer};

/// How much fits into each direction, in bytes: powers of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// What the maker of the memory writes.
    pub down: u32,
    /// What the other side writes.
    pub up: u32,
}

/// Which side of the memory this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Who made it.
    Maker,
    /// Who was given it.
    Other,
}

/// One side's ends of both rings.
#[derive(Debug)]
pub struct Pair<M> {
    /// What the other side writes.
    pub reader: Reader<M>,
    /// What it reads.
    pub writer: Writer<M>,
}

impl Shape {
    /// What both rings take in the memory, in bytes.
    pub const fn bytes(self) -> usize {
        2 * WORDS_BYTES + self.down as usize + self.up as usize
    }
}

impl<M: Memory + Clone> Pair<M> {
    /// The ends that are `side`'s, in memory of at least [`Shape::bytes`] bytes that was zero when it was made.
    ///
    /// # Panics
    /// If the shape is not one of powers of two: a constant of both sides, not input.
    pub fn new(memory: M, shape: Shape, side: Side) -> Self {
        assert!(shape.down.is_power_of_two() && shape.up.is_power_of_two());
        let down = Place { words: 0, bytes: 2 * WORDS_BYTES, capacity: shape.down };
        let up = Place { words: WORDS_BYTES, bytes: down.bytes + shape.down as usize, capacity: shape.up };
        let (reads, writes) = match side {
            Side::Maker => (up, down),
            Side::Other => (down, up),
        };
        Self { reader: Reader::new(memory.clone(), reads), writer: Writer::new(memory, writes) }
    }
}
