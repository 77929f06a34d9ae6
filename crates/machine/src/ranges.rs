//! The machine's RAM, as a loader lists it: in any order, perhaps not in whole pages, perhaps twice.

use abi::PAGE_SIZE;

/// The most ranges of memory that are kept, besides the boot module's; what a firmware lists beyond them is not used.
pub const RANGES_MAX: usize = 128;

/// What a range of physical memory holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RangeKind {
    /// Nothing.
    Free,
    /// The loader's own data, free once the kernel has taken what it needs.
    Loader,
    /// The boot module.
    Module,
}

/// A range of RAM in whole pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// First byte.
    pub base: u64,
    /// One past the last byte.
    pub end: u64,
    /// What it holds.
    pub kind: RangeKind,
}

/// Ranges of RAM, sorted by address, without overlaps.
pub struct Ranges {
    /// One more than the most: there is always room for the module.
    list: [Range; RANGES_MAX + 1],
    count: usize,
}

impl Ranges {
    /// None.
    pub const fn new() -> Self {
        Self { list: [Range { base: 0, end: 0, kind: RangeKind::Free }; RANGES_MAX + 1], count: 0 }
    }

    /// All of them.
    pub fn as_slice(&self) -> &[Range] {
        &self.list[..self.count]
    }

    /// Adds the whole pages of `base..base + length`. Where a range is listed already this one takes its place.
    pub fn add(&mut self, base: u64, length: u64, kind: RangeKind) {
        let end = base.saturating_add(length) / PAGE_SIZE * PAGE_SIZE;
        let Some(base) = base.checked_next_multiple_of(PAGE_SIZE).filter(|&base| base < end) else { return };
        self.exclude(base, end);
        self.insert(Range { base, end, kind });
    }

    /// Takes every page out that `base..end` touches.
    pub fn exclude(&mut self, base: u64, end: u64) {
        let base = base / PAGE_SIZE * PAGE_SIZE;
        let end = end.checked_next_multiple_of(PAGE_SIZE).unwrap_or(u64::MAX);
        let mut index = 0;
        while index < self.count {
            let range = self.list[index];
            if range.base >= end || range.end <= base {
                index += 1;
                continue;
            }
            self.list.copy_within(index + 1..self.count, index);
            self.count -= 1;
            self.insert(Range { end: base, ..range });
            self.insert(Range { base: end, ..range });
        }
    }

    /// Puts a range in its place, if it is one and there is room.
    fn insert(&mut self, range: Range) {
        let room = if range.kind == RangeKind::Module { self.list.len() } else { RANGES_MAX };
        if range.base >= range.end || self.count >= room {
            return;
        }
        let at = self.as_slice().partition_point(|other| other.base < range.base);
        self.list.copy_within(at..self.count, at + 1);
        self.list[at] = range;
        self.count += 1;
    }
}
