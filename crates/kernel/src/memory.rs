//! A domain's memory: regions over its address space, frames against its quota.

use crate::capability::Place;
use crate::machine::{Access, Cache, Change, Found, Frame, Machine, Mapping, Owner, Page, Walk};
use crate::region::{Edit, Region, Regions, Share, Source};
use crate::vcpu::VCPUS_MAX;
use abi::{Commit, Error, Marks, PAGE_SIZE, Protection, Request, Span, mark};

/// How many pages of an object one touch maps, aligned to as many: they cost no frame, and a touch is seldom alone.
const AROUND_PAGES: u64 = 16;
/// The most entries of page tables that are looked at before the kernel looks at interrupts again. More than lie beside the ends of a walk
/// in tables that others need as well: so each piece comes further than the one before.
pub(crate) const PIECE_ENTRIES: usize = 2048 * Walk::PAGE_ENTRIES;
/// How many regions can be moved up in their list in the time of one entry, and how many can be looked at.
pub(crate) const MOVES_PER_ENTRY: usize = 4;
pub(crate) const LOOKS_PER_ENTRY: usize = 16;
/// Frames that wait for the CPUs to forget them before they are free.
const LIMBO_MAX: usize = 64;

/// Pages that may be in the lower half: addresses below 2^47 are canonical.
pub(crate) const LOWER_HALF: (Page, Page) = (Page::containing(0), Page::containing(1 << 47));

/// An address space and what it costs.
pub(crate) struct Space<M: Machine> {
    pub regions: Regions,
    pub tables: M::Space,
    /// Where the domain may map.
    pub window: Span,
    /// The frames taken: private pages, commitments, DMA memory, page tables; what the kernel keeps about the domain; what its domains may
    /// take.
    pub used: u64,
    /// The most that `used` may be.
    pub quota: u64,
    /// The pages that the kernel writes upcalls to, by virtual CPU: they stay as they are.
    pub pinned: [Option<Page>; VCPUS_MAX],
    /// Page faults that were resolved.
    pub touches: u64,
    /// The capability whose regions are ended, as long as that is half done.
    pub leaving: Option<Place>,
}

/// Why a request was not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// For good.
    Error(Error),
    /// It was served in part, and is to be made again. If it names pages: only for those from here on.
    Again(Option<Page>),
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

/// Frames that were unmapped and that some CPU may still reach.
struct Limbo {
    frames: [Frame; LIMBO_MAX],
    count: usize,
}

/// What became of a touch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Touch {
    /// The page is there now.
    Resolved(Mapping),
    /// The access is allowed, and there is no frame for it.
    OutOfMemory,
    /// The domain declared nothing there that allows it.
    Denied,
}

impl Limbo {
    const fn new() -> Self {
        Self { frames: [Frame::new(0); LIMBO_MAX], count: 0 }
    }

    const fn is_full(&self) -> bool {
        self.count == LIMBO_MAX
    }

    /// Takes the frame of a page, or of a table, that was unmapped.
    fn add(&mut self, frame: Frame) {
        self.frames[self.count] = frame;
        self.count += 1;
    }

    /// Frees them, when every CPU has forgotten them.
    fn free<M: Machine>(&mut self, machine: &M, tables: &mut M::Space) {
        machine.flush(tables);
        for frame in &self.frames[..self.count] {
            machine.free_run(*frame, 1);
        }
        self.count = 0;
    }
}

impl<M: Machine> Space<M> {
    /// Declares a region in the place of whatever was there.
    pub fn map(&mut self, machine: &M, region: Region) -> Result<(), Refusal> {
        self.vacate(machine, region.first, region.end, Edit::Replace)?;
        Ok(self.occupy(machine, region).inspect_err(|_| self.trim(machine, region.first, region.end))?)
    }

    /// Declares a region of contiguous, zeroed frames in the place of whatever was there. Answers with the first of them.
    pub fn map_dma(
        &mut self,
        machine: &M,
        (first, end): (Page, Page),
        protection: Protection,
        commit: Commit,
    ) -> Result<Frame, Refusal> {
        let pages = end.since(first);
        if pages > Request::MEMORY_BYTES_MAX / PAGE_SIZE {
            return Err(Error::BadRange.into());
        }
        self.vacate(machine, first, end, Edit::Replace)?;
        let mapped = self.allocate_run(machine, pages).and_then(|frame| {
            let region = Region { first, end, source: Source::Dma(frame), protection, commit };
            self.occupy(machine, region).inspect_err(|_| machine.free_run(frame, pages))?;
            Ok(frame)
        });
        Ok(mapped.inspect_err(|_| self.trim(machine, first, end))?)
    }

    /// Changes the access to regions that cover all of `first..end`.
    pub fn protect(
        &mut self,
        machine: &M,
        (first, end): (Page, Page),
        protection: Protection,
    ) -> Result<(), Refusal> {
        self.check_unpinned(first, end)?;
        if !self.regions.cover(first, end) {
            return Err(Error::NotMapped.into());
        }
        for region in self.regions.overlapping(first, end) {
            check_protection(region.source, protection)?;
        }
        self.regions.admit(first, end, Edit::Protect)?;
        let mut walk = Walk::new((first, end), PIECE_ENTRIES);
        let Self { tables, regions, .. } = self;
        machine.walk(tables, &mut walk, &mut |found| match found {
            Found::Page(page, mapping, _) => {
                Some(Change::Protect(effective(machine, regions, (page, mapping), protection)))
            }
            Found::Table(_) => Some(Change::Keep),
        });
        // What was done keeps; the rest is asked for again.
        self.regions.protect(first, walk.at, protection);
        machine.flush(&mut self.tables);
        rest_of(&walk)
    }

    /// Gives the private pages in `first..end` back. What is committed stays charged.
    pub fn reset(&mut self, machine: &M, first: Page, end: Page) -> Result<(), Refusal> {
        self.check_unpinned(first, end)?;
        let mut walk = Walk::new((first, end), PIECE_ENTRIES);
        self.drop_pages(machine, &mut walk, Drop::Private);
        rest_of(&walk)
    }

    /// Reads the marks of pages from `first` on, one byte for each: few enough for one piece.
    pub fn read_marks(&mut self, machine: &M, first: Page, marks: Marks, bytes: &mut [u8]) {
        let end = first.offset(bytes.len() as u64);
        let mut walk = Walk { marks, ..Walk::new((first, end), usize::MAX) };
        let Self { tables, pinned, .. } = self;
        machine.walk(tables, &mut walk, &mut |found| {
            if let Found::Page(page, mapping, noted) = found {
                let private = if mapping.owner == Owner::Page { mark::PRIVATE } else { 0 };
                let written = if pinned.contains(&Some(page)) { mark::ACCESSED | mark::DIRTY } else { 0 };
                bytes[page.since(first) as usize] = noted | private | written;
            }
            Some(Change::Keep)
        });
        machine.flush(tables);
    }

    /// Ends what is mapped in `first..end`.
    pub fn unmap(&mut self, machine: &M, first: Page, end: Page) -> Result<(), Refusal> {
        self.vacate(machine, first, end, Edit::Remove)
    }

    /// Ends every region that hangs on a capability; `entries` is what is left of the piece. Upcall pages never do.
    pub fn unmap_capability(
        &mut self,
        machine: &M,
        place: Place,
        entries: &mut usize,
    ) -> Result<(), Refusal> {
        // One that somebody left half done comes first: so there is one at a time.
        for place in self.leaving.into_iter().chain([place]) {
            self.leaving = Some(place);
            // The last first, as few others move up in the list.
            let mut before = LOWER_HALF.1;
            while let Some(&Region { first, end, .. }) = self.regions.by_capability(place, before) {
                self.remove(machine, (first, end), Edit::Remove, entries)?;
                before = first;
            }
            self.leaving = None;
        }
        Ok(())
    }

    /// Resolves a touch of `page`: zeros, an object's page, or a private copy of it.
    pub fn touch(&mut self, machine: &M, page: Page, access: Access) -> Touch {
        let Some(region) = self.regions.find(page).copied() else { return Touch::Denied };
        if !access.allowed_by(region.protection) {
            return Touch::Denied;
        }
        let now = machine.mapping(&self.tables, page);
        if let Some(mapping) = now.filter(|mapping| access.allowed_by(mapping.protection)) {
            // The CPU remembered an older entry.
            machine.protect(&mut self.tables, page, mapping.protection);
            machine.flush(&mut self.tables);
            return Touch::Resolved(mapping);
        }
        let source = region.source.offset(page.since(region.first));
        let wants_private = match source {
            Source::Zero => true,
            Source::Memory(_, Share::Copied, _) => access == Access::Write,
            Source::Memory(..) | Source::Device(..) | Source::Dma(_) => false,
        };
        let touched = if wants_private {
            self.touch_private(machine, page, &region, source)
        } else {
            self.touch_shared(machine, page, &region, access)
        };
        self.touches += u64::from(matches!(touched, Touch::Resolved(_)));
        touched
    }

    /// Gives everything back: regions, private pages, tables.
    pub fn end(&mut self, machine: &M) -> Result<(), Refusal> {
        self.pinned = [None; VCPUS_MAX];
        let mut entries = PIECE_ENTRIES;
        // The last first: no other moves up in the list.
        while let Some(&Region { first, end, .. }) = self.regions.last() {
            self.remove(machine, (first, end), Edit::Remove, &mut entries)?;
        }
        Ok(())
    }

    /// Whether a page is a device's.
    pub fn is_device(&self, page: Page) -> bool {
        self.regions.find(page).is_some_and(|region| matches!(region.source, Source::Device(..)))
    }

    /// Takes frames of the quota for something that is no region.
    pub fn charge(&mut self, frames: u64) -> Result<(), Error> {
        if frames > self.quota - self.used {
            return Err(Error::NoMemory);
        }
        self.used += frames;
        Ok(())
    }

    /// Gives such frames back.
    pub fn discharge(&mut self, frames: u64) {
        self.used -= frames;
    }

    /// Takes and zeroes contiguous frames, uncharged.
    pub fn allocate_run(&self, machine: &M, pages: u64) -> Result<Frame, Error> {
        if pages > Request::MEMORY_BYTES_MAX / PAGE_SIZE {
            return Err(Error::BadRange);
        }
        if pages > self.quota - self.used {
            return Err(Error::NoMemory);
        }
        let first = machine.allocate_run(pages).ok_or(Error::NoMemory)?;
        (0..pages).for_each(|count| machine.zero(first.offset(count)));
        Ok(first)
    }

    /// Makes `first..end` a hole.
    fn vacate(&mut self, machine: &M, first: Page, end: Page, edit: Edit) -> Result<(), Refusal> {
        self.check_unpinned(first, end)?;
        self.regions.admit(first, end, edit)?;
        self.remove(machine, (first, end), edit, &mut { PIECE_ENTRIES })
    }

    /// The same when nothing is in the way; `entries` is what is left of the piece. Tables go that lie in the hole that there is
    /// then, or, if something takes the place, in this part of it.
    fn remove(
        &mut self,
        machine: &M,
        (first, end): (Page, Page),
        edit: Edit,
        entries: &mut usize,
    ) -> Result<(), Refusal> {
        let mut walk = Walk::new((first, end), *entries);
        if edit == Edit::Remove {
            walk.hole = self.regions.hole((first, end), LOWER_HALF);
        } else {
            walk.hole = (first, end);
        }
        self.drop_pages(machine, &mut walk, Drop::All);
        *entries = walk.entries.saturating_sub(Walk::PAGE_ENTRIES);
        if !walk.is_over() {
            // The whole is asked for again: what is a hole by then is passed quickly.
            return Err(Refusal::Again(None));
        }
        self.clear(machine, first, end);
        let moved = self.regions.remove(first, end);
        *entries = entries.saturating_sub(moved / MOVES_PER_ENTRY);
        Ok(())
    }

    /// Declares a region in a hole.
    fn occupy(&mut self, machine: &M, region: Region) -> Result<(), Error> {
        let charge = region.charge(region.pages());
        self.charge(charge)?;
        self.commit_tables(machine, &region).inspect_err(|_| self.used -= charge)?;
        self.regions.insert(region);
        Ok(())
    }

    fn touch_private(&mut self, machine: &M, page: Page, region: &Region, source: Source) -> Touch {
        let charge = u64::from(region.charges_on_touch());
        if self.add_tables(machine, page).and_then(|()| self.charge(charge)).is_err() {
            return Touch::OutOfMemory;
        }
        let Some(frame) = machine.allocate() else {
            self.used -= charge;
            return Touch::OutOfMemory;
        };
        match source {
            Source::Memory(original, ..) => machine.copy(original, frame),
            _ => machine.zero(frame),
        }
        let mapping = Mapping { frame, protection: region.protection, owner: Owner::Page };
        machine.map(&mut self.tables, page, mapping, Cache::Normal);
        machine.flush(&mut self.tables);
        Touch::Resolved(mapping)
    }

    fn touch_shared(&mut self, machine: &M, page: Page, region: &Region, access: Access) -> Touch {
        if self.add_tables(machine, page).is_err() {
            return Touch::OutOfMemory;
        }
        let Some(mapping) = self.shared_mapping(machine, page, region, access) else { return Touch::Denied };
        match region.source {
            Source::Memory(..) => self.map_around(machine, (page, mapping), region, access),
            Source::Device(..) => machine.map(&mut self.tables, page, mapping, Cache::Device),
            _ => machine.map(&mut self.tables, page, mapping, Cache::Normal),
        }
        machine.flush(&mut self.tables);
        Touch::Resolved(mapping)
    }

    /// Maps the page of an object that was touched, and its neighbours that share its last table.
    fn map_around(&mut self, machine: &M, (page, mapping): (Page, Mapping), region: &Region, access: Access) {
        machine.map(&mut self.tables, page, mapping, Cache::Normal);
        let around = page.align_down(AROUND_PAGES);
        let (first, end) = (around.max(region.first), around.offset(AROUND_PAGES).min(region.end));
        // What holds for one page of an object holds for all that are in one region.
        if let Some(mapping) = self.shared_mapping(machine, first, region, access) {
            machine.map_absent(&mut self.tables, first, mapping, end.since(first));
        }
    }

    fn shared_mapping(&self, machine: &M, page: Page, region: &Region, access: Access) -> Option<Mapping> {
        let frame = match region.source.offset(page.since(region.first)) {
            Source::Memory(frame, ..) | Source::Device(frame, _) | Source::Dma(frame) => frame,
            Source::Zero => return None,
        };
        let mapping = Mapping { frame, protection: region.protection, owner: Owner::Elsewhere };
        let protection = effective(machine, &self.regions, (page, mapping), region.protection);
        access.allowed_by(protection).then_some(Mapping { protection, ..mapping })
    }

    /// Takes the charges and contiguous frames of `first..end` back, where no page is mapped any more; leaves the regions' entries.
    fn clear(&mut self, machine: &M, first: Page, end: Page) {
        for region in self.regions.overlapping(first, end) {
            self.used -= region.charge(region.pages());
            if let Source::Dma(frame) = region.source {
                machine.free_run(frame, region.pages());
            }
        }
    }

    /// Ends mappings, as far as the walk comes.
    fn drop_pages(&mut self, machine: &M, walk: &mut Walk, what: Drop) {
        let Self { tables, regions, used, .. } = self;
        let (mut limbo, mut region) = (Limbo::new(), None::<&Region>);
        loop {
            machine.walk(tables, walk, &mut |found| {
                let (frame, charge) = match found {
                    _ if limbo.is_full() => return None,
                    Found::Page(page, Mapping { frame, owner: Owner::Page, .. }, _) => {
                        let last = region.filter(|region| region.first <= page && page < region.end);
                        region = last.or_else(|| regions.find(page));
                        (frame, region.is_some_and(Region::charges_on_touch))
                    }
                    Found::Page(..) if what == Drop::Private => return Some(Change::Keep),
                    Found::Page(..) => return Some(Change::Unmap),
                    Found::Table(frame) => (frame, true),
                };
                limbo.add(frame);
                *used -= u64::from(charge);
                Some(Change::Unmap)
            });
            let goes_on = limbo.is_full();
            limbo.free(machine, tables);
            if !goes_on {
                return;
            }
        }
    }

    fn check_unpinned(&self, first: Page, end: Page) -> Result<(), Error> {
        let pinned = self.pinned.iter().flatten().any(|&page| first <= page && page < end);
        if pinned { Err(Error::Busy) } else { Ok(()) }
    }

    /// The tables of a committed region, so that touching it needs none: all or none, for they may be many.
    fn commit_tables(&mut self, machine: &M, region: &Region) -> Result<(), Error> {
        if region.commit == Commit::OnTouch {
            return Ok(());
        }
        const TABLE_PAGES: u64 = 512;
        let after = |at: &Page| Some(at.align_down(TABLE_PAGES).offset(TABLE_PAGES));
        let mut parts = core::iter::successors(Some(region.first), after).take_while(|at| *at < region.end);
        let mut missing = 0;
        for at in parts.clone() {
            // One of a higher level is counted where the first of those below it is.
            let is_new = |level| at == region.first || at == at.align_down(TABLE_PAGES.pow(level + 1));
            missing +=
                (0..machine.missing_tables(&self.tables, at)).filter(|level| is_new(*level as u32)).count();
        }
        if missing as u64 > self.quota - self.used {
            return Err(Error::NoMemory);
        }
        parts.try_for_each(|at| self.add_tables(machine, at))
    }

    fn add_tables(&mut self, machine: &M, page: Page) -> Result<(), Error> {
        for _ in 0..machine.missing_tables(&self.tables, page) {
            self.charge(1)?;
            let Some(frame) = machine.allocate() else {
                self.used -= 1;
                return Err(Error::NoMemory);
            };
            machine.zero(frame);
            machine.add_table(&mut self.tables, page, frame);
        }
        Ok(())
    }

    /// Takes back the tables of the hole that `first..end` lies in.
    fn trim(&mut self, machine: &M, first: Page, end: Page) {
        let hole = self.regions.hole((first, end), LOWER_HALF);
        self.drop_pages(machine, &mut Walk { hole, ..Walk::new((first, end), usize::MAX) }, Drop::All);
    }
}

/// Asks for the rest of a walk.
fn rest_of(walk: &Walk) -> Result<(), Refusal> {
    if walk.is_over() { Ok(()) } else { Err(Refusal::Again(Some(walk.at))) }
}

/// What the entry of a page may allow when its region is to allow `protection`.
fn effective<M: Machine>(
    machine: &M,
    regions: &Regions,
    (page, mapping): (Page, Mapping),
    protection: Protection,
) -> Protection {
    if mapping.owner == Owner::Page || protection != Protection::ReadWrite {
        return protection;
    }
    match regions.find(page).map(|region| region.source) {
        Some(Source::Dma(_) | Source::Memory(_, Share::Written, _)) => protection,
        Some(Source::Device(..)) if !machine.is_sealed(mapping.frame) => protection,
        _ => Protection::Read,
    }
}

/// Which mappings go.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Drop {
    /// Private pages.
    Private,
    /// All.
    All,
}

/// Whether a region of `source` may ever have this protection.
pub(crate) fn check_protection(source: Source, protection: Protection) -> Result<(), Error> {
    let allowed = match (protection, source) {
        (Protection::ReadExecute, source) => matches!(source, Source::Zero | Source::Memory(..)),
        (Protection::ReadWrite, source) => !matches!(source, Source::Memory(_, Share::ReadOnly, _)),
        _ => true,
    };
    if allowed { Ok(()) } else { Err(Error::Protection) }
}

/// A span of whole pages, as pages.
pub(crate) fn pages_of(span: Span) -> Result<(Page, Page), Error> {
    if !span.is_pages() {
        return Err(Error::BadRange);
    }
    let first = Page::containing(span.base);
    Ok((first, first.offset(span.length / PAGE_SIZE)))
}
