//! Pages of a virtual CPU that are given up, one at a time, when the domain has no others left and our own code needs one to come to an end there.
//!
//! Who gets one ends, and has the next turn until it has. What it was given comes back with it, and is taken again before another begins: so with one
//! virtual CPU there is always one. With several, processes elsewhere may be faster, and end by that.

use crate::System;
use abi::{Backing, Commit, Error, PAGE_SIZE, Protection, Span};
use core::sync::atomic::{
    AtomicU8, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

/// What a host function may touch on its way out: its stack, its answers in the program's memory, tables for both.
const PAGES: u8 = 16;
/// In place of a count: somebody is taking pages or giving one up.
const CHANGES: u8 = u8::MAX;

/// The pages of a virtual CPU, where pages can run out.
#[derive(Debug)]
pub(crate) struct Reserve {
    /// Where they are; 0 if there never were any.
    base: AtomicU64,
    /// How many, from there; or [`CHANGES`].
    held: AtomicU8,
}

impl Reserve {
    pub const BYTES: u64 = PAGES as u64 * PAGE_SIZE;

    /// None.
    pub const fn new() -> Self {
        Self { base: AtomicU64::new(0), held: AtomicU8::new(0) }
    }

    /// Whether it ever was held.
    pub fn is_there(&self) -> bool {
        self.base.load(Relaxed) != 0
    }

    pub fn is_whole(&self) -> bool {
        self.held.load(Acquire) == PAGES
    }

    /// Takes it from the quota.
    pub fn hold(&self, system: &System) -> Result<(), Error> {
        let span = system.map_new(Self::BYTES, Protection::ReadWrite, Commit::Now)?;
        self.base.store(span.base, Relaxed);
        self.held.store(PAGES, Release);
        Ok(())
    }

    /// Takes again what was given up, as far as there is memory.
    pub fn renew(&self, system: &System) {
        let take = |held: u8, pages: u8| {
            let span = Span::new(self.page(held).base, u64::from(pages) * PAGE_SIZE);
            system.map(span, Backing::Zero, Protection::ReadWrite, Commit::Now).is_ok()
        };
        if let Some(held) = self.begin(|held| held < PAGES) {
            let missing = PAGES - held;
            let taken = match take(held, missing) {
                true => missing,
                false => (0..missing).take_while(|more| take(held + more, 1)).count() as u8,
            };
            self.held.store(held + taken, Release);
        }
    }

    /// Gives a page up. Whether there was one.
    pub fn spend(&self, system: &System) -> bool {
        let Some(held) = self.begin(|held| held > 0) else { return false };
        // The address space stays ours.
        let given_up = system.unmap_page(self.page(held - 1));
        self.held.store(held - u8::from(given_up), Release);
        given_up
    }

    /// Begins to change how many there are, if it is so of the count, and nobody else does.
    fn begin(&self, is_so: impl Fn(u8) -> bool) -> Option<u8> {
        let held = self.held.load(Relaxed);
        let is_free = self.is_there() && held != CHANGES && is_so(held);
        is_free.then(|| self.held.compare_exchange(held, CHANGES, Acquire, Relaxed).ok()).flatten()
    }

    fn page(&self, number: u8) -> Span {
        Span::new(self.base.load(Relaxed) + u64::from(number) * PAGE_SIZE, PAGE_SIZE)
    }
}
