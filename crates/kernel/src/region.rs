//! The region table: what a domain declared about each part of its address space.

use crate::capability::Place;
use crate::machine::{Frame, Page};
use abi::{Commit, Error, PAGE_SIZE, Protection};
use alloc::vec::Vec;

/// The most regions that a domain can have. Bounds the time to insert into its table.
pub(crate) const REGIONS_MAX: usize = abi::REGIONS_MAX as usize;

/// Pages `first..end` with one source and one protection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Region {
    pub first: Page,
    pub end: Page,
    pub source: Source,
    pub protection: Protection,
    pub commit: Commit,
}

/// Where the first contents of a region's pages come from. Those with a frame or page: of the region's first page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    Zero,
    /// Frames of an object, and the capability by which they are mapped.
    Memory(Frame, Share, Place),
    /// A device's memory, and the capability.
    Device(Frame, Place),
    /// Contiguous frames that belong to the region.
    Dma(Frame),
}

/// What writing to an object's pages does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Share {
    /// It makes a private copy.
    Copied,
    /// It is not allowed.
    ReadOnly,
    /// Everyone sees it.
    Written,
}

impl Source {
    /// The source of the page `count` further on.
    pub fn offset(self, count: u64) -> Self {
        match self {
            Self::Zero => Self::Zero,
            Self::Memory(frame, sharing, by) => Self::Memory(frame.offset(count), sharing, by),
            Self::Device(frame, by) => Self::Device(frame.offset(count), by),
            Self::Dma(frame) => Self::Dma(frame.offset(count)),
        }
    }

    /// The capability that it hangs on.
    pub fn capability(self) -> Option<Place> {
        match self {
            Self::Memory(_, _, by) | Self::Device(_, by) => Some(by),
            Self::Zero | Self::Dma(_) => None,
        }
    }
}

impl Region {
    pub fn pages(&self) -> u64 {
        self.end.since(self.first)
    }

    /// How many frames of the quota are taken by declaring `pages` of it, touched or not.
    pub fn charge(&self, pages: u64) -> u64 {
        match (self.source, self.commit) {
            (Source::Device(..) | Source::Memory(_, Share::ReadOnly | Share::Written, _), _) => 0,
            (Source::Dma(_), _) | (_, Commit::Now) => pages,
            (_, Commit::OnTouch) => 0,
        }
    }

    /// Whether a private frame is charged when it is first needed (and not when the region was declared).
    pub fn charges_on_touch(&self) -> bool {
        self.commit == Commit::OnTouch
    }

    fn continues(&self, next: &Self) -> bool {
        self.end == next.first
            && self.protection == next.protection
            && self.commit == next.commit
            && self.source.offset(self.pages()) == next.source
    }
}

/// What is to be done to a part of the address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Edit {
    /// A new region takes the place of what is there.
    Replace,
    /// What is there goes.
    Remove,
    /// What is there changes.
    Protect,
}

/// More while regions are split, before what lies between is taken out; and while a change is made in pieces, one by each virtual CPU.
const SPLITS: usize = 2 + crate::vcpu::VCPUS_MAX;

/// Regions that do not overlap, in order of address. Takes all its memory when it is made.
#[derive(Debug)]
pub(crate) struct Regions {
    sorted: Vec<Region>,
    count_max: usize,
}

impl Regions {
    /// A table for so many regions.
    pub fn new(count_max: usize) -> Result<Self, Error> {
        let mut sorted = Vec::new();
        sorted.try_reserve_exact(count_max + SPLITS).map_err(|_| Error::NoMemory)?;
        Ok(Self { sorted, count_max })
    }

    /// The frames that a table for so many regions takes.
    pub const fn frames(count_max: usize) -> u64 {
        (((count_max + SPLITS) * size_of::<Region>()) as u64).div_ceil(PAGE_SIZE)
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.sorted.len()
    }

    /// The last region that begins before `before` and hangs on this capability.
    pub fn by_capability(&self, place: Place, before: Page) -> Option<&Region> {
        let rest = &self.sorted[..self.sorted.partition_point(|region| region.first < before)];
        rest.iter().rfind(|region| region.source.capability() == Some(place))
    }

    /// The region that `page` lies in.
    pub fn find(&self, page: Page) -> Option<&Region> {
        let region = self.sorted.get(self.first_ending_after(page))?;
        (region.first <= page).then_some(region)
    }

    /// The regions that have pages in `first..end`, each cut to it.
    pub fn overlapping(&self, first: Page, end: Page) -> impl Iterator<Item = Region> + '_ {
        let from = self.first_ending_after(first);
        self.sorted[from..].iter().take_while(move |region| region.first < end).map(move |region| {
            let cut = region.first.max(first);
            let source = region.source.offset(cut.since(region.first));
            Region { first: cut, end: region.end.min(end), source, ..*region }
        })
    }

    /// Whether every page of `first..end` lies in a region.
    pub fn cover(&self, first: Page, end: Page) -> bool {
        let mut at = first;
        for region in self.overlapping(first, end) {
            if region.first != at {
                return false;
            }
            at = region.end;
        }
        at == end
    }

    /// The hole that there is once `first..end` lies in no region.
    pub fn hole(&self, (first, end): (Page, Page), bounds: (Page, Page)) -> (Page, Page) {
        let before = self.sorted[..self.sorted.partition_point(|region| region.first < first)].last();
        let behind = self.sorted.get(self.first_ending_after(end));
        let from = before.map_or(bounds.0, |region| region.end.min(first));
        (from, behind.map_or(bounds.1, |region| region.first.max(end)))
    }

    /// The last of them.
    pub fn last(&self) -> Option<&Region> {
        self.sorted.last()
    }

    /// Makes sure that an edit of `first..end` has room in the table.
    pub fn admit(&self, first: Page, end: Page, edit: Edit) -> Result<(), Error> {
        let split = |page: Page| usize::from(self.find(page).is_some_and(|region| region.first < page));
        let (from, to) = self.between(first, end);
        let (added, removed) = match edit {
            Edit::Replace => (1, to - from),
            Edit::Remove => (0, to - from),
            Edit::Protect => (0, 0),
        };
        let after = self.sorted.len() + split(first) + split(end) + added - removed;
        if after <= self.count_max { Ok(()) } else { Err(Error::TableFull) }
    }

    /// Takes `first..end` out of every region. Needs [`Regions::admit`]. Answers how many others moved up.
    pub fn remove(&mut self, first: Page, end: Page) -> usize {
        let (from, to) = self.isolate(first, end);
        self.sorted.drain(from..to);
        self.sorted.len() - from
    }

    /// Adds a region where there is none. Needs [`Regions::admit`].
    pub fn insert(&mut self, region: Region) {
        let at = self.first_ending_after(region.first);
        self.sorted.insert(at, region);
        self.merge(at, at + 1);
    }

    /// Changes the protection of `first..end`. Needs [`Regions::admit`].
    pub fn protect(&mut self, first: Page, end: Page, protection: Protection) {
        let (from, to) = self.isolate(first, end);
        for region in &mut self.sorted[from..to] {
            region.protection = protection;
        }
        self.merge(from, to);
    }

    fn first_ending_after(&self, page: Page) -> usize {
        self.sorted.partition_point(|region| region.end <= page)
    }

    /// Splits regions so that some begin at `first` and end at `end`; answers which lie between.
    fn isolate(&mut self, first: Page, end: Page) -> (usize, usize) {
        self.split(first);
        self.split(end);
        self.between(first, end)
    }

    /// Which regions have pages in `first..end`.
    fn between(&self, first: Page, end: Page) -> (usize, usize) {
        (self.first_ending_after(first), self.sorted.partition_point(|region| region.first < end))
    }

    fn split(&mut self, page: Page) {
        let at = self.first_ending_after(page);
        let Some(region) = self.sorted.get_mut(at).filter(|region| region.first < page) else { return };
        let source = region.source.offset(page.since(region.first));
        let second = Region { first: page, source, ..*region };
        region.end = page;
        self.sorted.insert(at + 1, second);
    }

    /// Joins the regions `from..to` and their neighbours where they continue each other.
    fn merge(&mut self, from: usize, to: usize) {
        let join = |next: &mut Region, previous: &mut Region| {
            let joined = previous.continues(next);
            if joined {
                previous.end = next.end;
            }
            joined
        };
        // One pass over everything when there is much to join: removing one by one would be quadratic.
        if to - from > 2 {
            return self.sorted.dedup_by(join);
        }
        for at in (from.saturating_sub(1)..to).rev() {
            if let Some([previous, next]) = self.sorted.get_mut(at..at + 2)
                && join(next, previous)
            {
                self.sorted.remove(at + 1);
            }
        }
    }

    /// How many it can hold.
    #[cfg(test)]
    pub fn count_max(&self) -> usize {
        self.count_max
    }

    #[cfg(test)]
    pub fn iter(&self) -> impl Iterator<Item = &Region> {
        self.sorted.iter()
    }
}
