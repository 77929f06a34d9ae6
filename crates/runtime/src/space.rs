//! Which parts of the window are free.

use abi::Span;
use alloc::vec::Vec;

/// Free address space, as spans in ascending order that do not touch.
#[derive(Debug)]
pub struct Space {
    free: Vec<Span>,
}

impl Space {
    /// All of `window` is free.
    pub fn new(window: Span) -> Self {
        Self { free: Vec::from([window]) }
    }

    /// How much is free.
    pub fn free_bytes(&self) -> u64 {
        self.free.iter().map(|span| span.length).sum()
    }

    /// Takes `length` bytes, the lowest that fit. `None` if there is no such stretch.
    pub fn take(&mut self, length: u64) -> Option<Span> {
        let index = self.free.iter().position(|span| span.length >= length)?;
        let span = &mut self.free[index];
        let taken = Span::new(span.base, length);
        span.base += length;
        span.length -= length;
        if span.length == 0 {
            self.free.remove(index);
        }
        Some(taken)
    }

    /// The same, at a multiple of `alignment`, which is a power of two.
    pub fn take_aligned(&mut self, length: u64, alignment: u64) -> Option<Span> {
        let within = |span: &Span| {
            let before = span.base.checked_next_multiple_of(alignment)? - span.base;
            (span.length.checked_sub(before)? >= length).then_some(before)
        };
        let (index, before) =
            self.free.iter().enumerate().find_map(|(index, span)| Some((index, within(span)?)))?;
        let free = self.free[index];
        let taken = Span::new(free.base + before, length);
        let behind = Span::new(taken.base + length, free.length - before - length);
        let left = [Span::new(free.base, before), behind].into_iter().filter(|span| span.length != 0);
        self.free.splice(index..=index, left);
        Some(taken)
    }

    /// Gives back what [`Space::take`] gave, in whole or in part.
    pub fn give_back(&mut self, span: Span) {
        let index = self.free.partition_point(|free| free.base < span.base);
        self.free.insert(index, span);
        self.join(index);
        if index > 0 {
            self.join(index - 1);
        }
    }

    fn join(&mut self, index: usize) {
        if let Some(&next) = self.free.get(index + 1)
            && self.free[index].end() == Some(next.base)
        {
            self.free[index].length += next.length;
            self.free.remove(index + 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_aligned_leaves_both_sides_free() {
        let mut space = Space::new(Span::new(0x1000, 0x10_0000));
        let first = space.take_aligned(0x4000, 0x8000).unwrap();
        assert_eq!(first, Span::new(0x8000, 0x4000));
        assert_eq!(space.take(0x7000), Some(Span::new(0x1000, 0x7000)), "what was before it");
        assert_eq!(space.take_aligned(0x8000, 0x8000), Some(Span::new(0x1_0000, 0x8000)));
        assert_eq!(space.take_aligned(0x8000, 1 << 40), None);
        space.give_back(first);
        assert_eq!(
            space.take_aligned(0x8000, 0x8000),
            Some(Span::new(0x8000, 0x8000)),
            "with what was behind it"
        );
    }

    #[test]
    fn what_is_given_back_is_one_span_again() {
        let window = Span::new(0x1000, 0x10_0000);
        let mut space = Space::new(window);
        let mut taken: Vec<Span> = (1..20).map(|pages| space.take(pages * 0x1000).unwrap()).collect();
        for window in taken.windows(2) {
            assert_eq!(window[0].end(), Some(window[1].base), "lowest first, no overlap");
        }
        assert_eq!(space.take(0x10_0000), None);
        // In an order that has every case: neighbours below, above, both, none.
        for index in [3, 5, 4, 0, 1, 2] {
            let length = taken.len();
            space.give_back(taken.remove((index * 7) % length));
        }
        while let Some(span) = taken.pop() {
            space.give_back(span);
        }
        assert_eq!(space.free, [window]);
    }
}
