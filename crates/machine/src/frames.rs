//! Free frames.
//!
//! Memory that was never used is handed out in order of address, so that starting costs nothing for each page.
//! What is given back goes to two lists that live in the free frames themselves: single frames, and runs (which keep
//! their length, so that contiguous memory can be used again). Runs are not joined with their neighbours.

use crate::ranges::{RANGES_MAX, Range};
use abi::PAGE_SIZE;
use kernel::Frame;

/// The runs that are looked at for one that is long enough.
const RUNS_SEARCHED: usize = 64;

/// The free frames of the machine.
pub struct Frames {
    /// What is added to a physical address to reach it.
    offset: u64,
    fresh: [(u64, u64); RANGES_MAX],
    fresh_count: usize,
    /// The first range of `fresh` that has frames left.
    at: usize,
    /// Heads of the lists: physical addresses; 0 ends a list (frame 0 is never free).
    singles: u64,
    runs: u64,
    free: u64,
}

impl Frames {
    /// No frames. `offset` is where physical memory is mapped now.
    pub const fn new(offset: u64) -> Self {
        Self { offset, fresh: [(0, 0); RANGES_MAX], fresh_count: 0, at: 0, singles: 0, runs: 0, free: 0 }
    }

    /// Adds a range that was never used.
    pub fn add(&mut self, range: &Range) {
        let base = range.base.max(PAGE_SIZE);
        if base >= range.end || self.fresh_count == RANGES_MAX {
            return;
        }
        self.fresh[self.fresh_count] = (base, range.end);
        self.fresh_count += 1;
        self.free += (range.end - base) / PAGE_SIZE;
    }

    /// Physical memory is mapped elsewhere from now on.
    pub fn set_offset(&mut self, offset: u64) {
        self.offset = offset;
    }

    /// How many frames are free.
    pub fn free_count(&self) -> u64 {
        self.free
    }

    /// One frame, contents undefined.
    pub fn allocate(&mut self) -> Option<Frame> {
        if self.singles != 0 {
            let address = self.singles;
            self.singles = self.load(address, 0);
            self.free -= 1;
            return Some(Frame::containing(address));
        }
        self.allocate_fresh(1).or_else(|| self.allocate_from_runs(1))
    }

    /// `count` contiguous frames, contents undefined.
    pub fn allocate_run(&mut self, count: u64) -> Option<Frame> {
        match count {
            0 => None,
            1 => self.allocate(),
            _ => self.allocate_from_runs(count).or_else(|| self.allocate_fresh(count)),
        }
    }

    /// Gives `count` frames back.
    pub fn free_run(&mut self, first: Frame, count: u64) {
        let address = first.address();
        match count {
            0 => return,
            1 => {
                self.store(address, 0, self.singles);
                self.singles = address;
            }
            _ => {
                self.store(address, 0, self.runs);
                self.store(address, 1, count);
                self.runs = address;
            }
        }
        self.free += count;
    }

    fn allocate_fresh(&mut self, count: u64) -> Option<Frame> {
        while self.at < self.fresh_count && self.fresh[self.at].0 == self.fresh[self.at].1 {
            self.at += 1;
        }
        let bytes = count.checked_mul(PAGE_SIZE)?;
        let ranges = &mut self.fresh[self.at..self.fresh_count];
        let (base, _) = ranges.iter_mut().find(|(base, end)| end - base >= bytes)?;
        let address = *base;
        *base += bytes;
        self.free -= count;
        Some(Frame::containing(address))
    }

    fn allocate_from_runs(&mut self, count: u64) -> Option<Frame> {
        let mut before = None;
        let mut run = self.runs;
        for _ in 0..RUNS_SEARCHED {
            if run == 0 {
                return None;
            }
            let (next, length) = (self.load(run, 0), self.load(run, 1));
            if length < count {
                before = Some(run);
                run = next;
                continue;
            }
            match before {
                Some(before) => self.store(before, 0, next),
                None => self.runs = next,
            }
            self.free -= length;
            self.free_run(Frame::containing(run).offset(count), length - count);
            return Some(Frame::containing(run));
        }
        None
    }

    fn load(&self, address: u64, word: usize) -> u64 {
        // SAFETY: a frame on a list is RAM that is mapped at `offset`, and nobody else's while it is free.
        unsafe { ((self.offset + address) as *const u64).add(word).read() }
    }

    fn store(&mut self, address: u64, word: usize, value: u64) {
        // SAFETY: as for `load`; the frame was given back, so nothing else refers to it.
        unsafe { ((self.offset + address) as *mut u64).add(word).write(value) }
    }
}
