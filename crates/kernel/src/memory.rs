//! A domain's memory: regions over its address space, frames against its quota.

use crate::machine::{Access, Cache, Frame, Machine, Mapping, Owner, Page};
use crate::region::{Edit, Region, Regions, Source};
use abi::{Commit, Error, PAGE_SIZE, Protection, Span};
use alloc::vec::Vec;

/// How many pages of the boot module one touch maps, aligned to as many: they cost no frame, and a touch is
/// seldom alone.
const AROUND_PAGES: u64 = 16;

/// Pages that may be in the lower half: addresses below 2^47 are canonical.
pub(crate) const LOWER_HALF: (Page, Page) = (Page::containing(0), Page::containing(1 << 47));

/// An address space and what it costs.
#[derive(Debug)]
pub(crate) struct Space {
    pub regions: Regions,
    /// Where the domain may map.
    pub window: Span,
    /// Where the boot module is mapped.
    pub module: Span,
    /// The frames taken: private pages, commitments, DMA memory, page tables.
    pub used: u64,
    /// The most that `used` may be.
    pub quota: u64,
    /// The page that the kernel writes upcalls to: it stays as it is.
    pub pinned: Option<Page>,
    /// Frames of device memory that the domain may only read.
    pub sealed: Vec<(Frame, u64)>,
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

impl Space {
    /// Declares a region in the place of whatever was there.
    pub fn map<M: Machine>(&mut self, machine: &mut M, region: Region) -> Result<(), Error> {
        self.vacate(machine, region.first, region.end, Edit::Replace)?;
        self.occupy(machine, region).inspect_err(|_| self.remove_tables(machine, region.first))
    }

    /// Declares a region of contiguous, zeroed frames in the place of whatever was there. Answers with the first of them.
    pub fn map_dma<M: Machine>(
        &mut self,
        machine: &mut M,
        (first, end): (Page, Page),
        protection: Protection,
        commit: Commit,
    ) -> Result<Frame, Error> {
        self.vacate(machine, first, end, Edit::Replace)?;
        let pages = end.since(first);
        let mapped = self.allocate_dma(machine, pages).and_then(|frame| {
            let region = Region { first, end, source: Source::Dma(frame), protection, commit };
            self.occupy(machine, region).inspect_err(|_| machine.free_run(frame, pages))?;
            Ok(frame)
        });
        mapped.inspect_err(|_| self.remove_tables(machine, first))
    }

    /// Changes the access to regions that cover all of `first..end`.
    pub fn protect<M: Machine>(
        &mut self,
        machine: &mut M,
        (first, end): (Page, Page),
        protection: Protection,
    ) -> Result<(), Error> {
        self.check_unpinned(first, end)?;
        if !self.regions.cover(first, end) {
            return Err(Error::NotMapped);
        }
        let is_device = |region: &Region| !region.source.is_private();
        if protection == Protection::ReadExecute
            && self.regions.overlapping(first, end).any(|region| is_device(&region))
        {
            return Err(Error::Protection);
        }
        self.regions.admit(first, end, Edit::Protect)?;
        self.regions.protect(first, end, protection);
        let mut at = first;
        while let Some((page, mapping)) = machine.next_mapping(at, end) {
            machine.protect(page, self.effective(mapping.frame, mapping.owner, protection, page));
            at = page.offset(1);
        }
        Ok(())
    }

    /// Gives the private pages in `first..end` back. What is committed stays charged.
    pub fn reset<M: Machine>(&mut self, machine: &mut M, first: Page, end: Page) -> Result<(), Error> {
        self.check_unpinned(first, end)?;
        self.drop_private(machine, first, end);
        Ok(())
    }

    /// Ends what is mapped in `first..end`.
    pub fn unmap<M: Machine>(&mut self, machine: &mut M, first: Page, end: Page) -> Result<(), Error> {
        self.vacate(machine, first, end, Edit::Remove)?;
        self.remove_tables(machine, first);
        Ok(())
    }

    /// Resolves a touch of `page`: zeros, the boot module's page, or a private copy of it.
    pub fn touch<M: Machine>(&mut self, machine: &mut M, page: Page, access: Access) -> Touch {
        let Some(region) = self.regions.find(page).copied() else { return Touch::Denied };
        if !access.allowed_by(region.protection) {
            return Touch::Denied;
        }
        let now = machine.mapping(page);
        if let Some(mapping) = now.filter(|mapping| access.allowed_by(mapping.protection)) {
            // The CPU remembered an older entry.
            machine.protect(page, mapping.protection);
            return Touch::Resolved(mapping);
        }
        let source = region.source.offset(page.since(region.first));
        let wants_private = match source {
            Source::Zero => true,
            Source::Module(_) => access == Access::Write,
            Source::Device(_) | Source::Dma(_) => false,
        };
        if wants_private {
            return self.touch_private(machine, page, &region, source);
        }
        self.touch_shared(machine, page, &region, access)
    }

    /// Gives everything back: regions, private pages, tables.
    pub fn end<M: Machine>(&mut self, machine: &mut M) {
        let (first, end) = LOWER_HALF;
        self.pinned = None;
        self.clear(machine, first, end);
        self.regions.remove(first, end);
        self.remove_tables(machine, first);
    }

    /// Makes `first..end` a hole. Its tables stay.
    fn vacate<M: Machine>(
        &mut self,
        machine: &mut M,
        first: Page,
        end: Page,
        edit: Edit,
    ) -> Result<(), Error> {
        self.check_unpinned(first, end)?;
        self.regions.admit(first, end, edit)?;
        self.clear(machine, first, end);
        self.regions.remove(first, end);
        Ok(())
    }

    /// Declares a region in a hole.
    fn occupy<M: Machine>(&mut self, machine: &mut M, region: Region) -> Result<(), Error> {
        let charge = region.charge(region.pages());
        self.charge(charge)?;
        self.commit_tables(machine, &region).inspect_err(|_| self.used -= charge)?;
        self.regions.insert(region);
        Ok(())
    }

    /// Takes and zeroes contiguous frames for `pages` pages, uncharged: the region charges.
    fn allocate_dma<M: Machine>(&self, machine: &mut M, pages: u64) -> Result<Frame, Error> {
        if pages > self.quota - self.used {
            return Err(Error::NoMemory);
        }
        let first = machine.allocate_run(pages).ok_or(Error::NoMemory)?;
        (0..pages).for_each(|count| machine.zero(first.offset(count)));
        Ok(first)
    }

    fn touch_private<M: Machine>(
        &mut self,
        machine: &mut M,
        page: Page,
        region: &Region,
        source: Source,
    ) -> Touch {
        let charge = u64::from(region.charges_on_touch());
        if self.add_tables(machine, page).and_then(|()| self.charge(charge)).is_err() {
            return Touch::OutOfMemory;
        }
        let Some(frame) = machine.allocate() else {
            self.used -= charge;
            return Touch::OutOfMemory;
        };
        match source {
            Source::Module(original) => machine.copy(original, frame),
            _ => machine.zero(frame),
        }
        let mapping = Mapping { frame, protection: region.protection, owner: Owner::Page };
        machine.map(page, mapping, Cache::Normal);
        Touch::Resolved(mapping)
    }

    fn touch_shared<M: Machine>(
        &mut self,
        machine: &mut M,
        page: Page,
        region: &Region,
        access: Access,
    ) -> Touch {
        if self.add_tables(machine, page).is_err() {
            return Touch::OutOfMemory;
        }
        let source_of = |page: Page| region.source.offset(page.since(region.first));
        let Some(mapping) = self.shared_mapping(page, region, access) else { return Touch::Denied };
        match source_of(page) {
            Source::Module(_) => self.map_around(machine, page, region, access),
            Source::Device(_) => machine.map(page, mapping, Cache::Device),
            _ => machine.map(page, mapping, Cache::Normal),
        }
        Touch::Resolved(mapping)
    }

    /// Maps the page of the boot module that was touched, and its neighbours that share its last table.
    fn map_around<M: Machine>(&self, machine: &mut M, page: Page, region: &Region, access: Access) {
        let around = page.align_down(AROUND_PAGES);
        let mut at = around.max(region.first);
        while at < around.offset(AROUND_PAGES).min(region.end) {
            if machine.mapping(at).is_none()
                && let Some(mapping) = self.shared_mapping(at, region, access)
            {
                machine.map(at, mapping, Cache::Normal);
            }
            at = at.offset(1);
        }
    }

    fn shared_mapping(&self, page: Page, region: &Region, access: Access) -> Option<Mapping> {
        let frame = match region.source.offset(page.since(region.first)) {
            Source::Module(frame) | Source::Device(frame) | Source::Dma(frame) => frame,
            Source::Zero => return None,
        };
        let protection = self.effective(frame, Owner::Elsewhere, region.protection, page);
        access.allowed_by(protection).then_some(Mapping { frame, protection, owner: Owner::Elsewhere })
    }

    /// What a page table entry for `frame` may allow when the region allows `protection`.
    fn effective(&self, frame: Frame, owner: Owner, protection: Protection, page: Page) -> Protection {
        if owner == Owner::Page || protection != Protection::ReadWrite {
            return protection;
        }
        let sealed =
            || self.sealed.iter().any(|&(first, count)| frame.since(first).is_some_and(|at| at < count));
        match self.regions.find(page).map(|region| region.source) {
            Some(Source::Dma(_)) => protection,
            Some(Source::Device(_)) if !sealed() => protection,
            _ => Protection::Read,
        }
    }

    /// Takes all frames and charges of `first..end` back; leaves the regions' entries.
    fn clear<M: Machine>(&mut self, machine: &mut M, first: Page, end: Page) {
        self.drop_private(machine, first, end);
        let mut at = first;
        while let Some((page, _)) = machine.next_mapping(at, end) {
            machine.unmap(page);
            at = page.offset(1);
        }
        for region in self.regions.overlapping(first, end) {
            self.used -= region.charge(region.pages());
            if let Source::Dma(frame) = region.source {
                machine.free_run(frame, region.pages());
            }
        }
    }

    fn drop_private<M: Machine>(&mut self, machine: &mut M, first: Page, end: Page) {
        let mut at = first;
        while let Some((page, mapping)) = machine.next_mapping(at, end) {
            at = page.offset(1);
            if mapping.owner == Owner::Page {
                machine.unmap(page);
                machine.free_run(mapping.frame, 1);
                let charged = self.regions.find(page).is_some_and(Region::charges_on_touch);
                self.used -= u64::from(charged);
            }
        }
    }

    fn check_unpinned(&self, first: Page, end: Page) -> Result<(), Error> {
        match self.pinned {
            Some(page) if first <= page && page < end => Err(Error::Busy),
            _ => Ok(()),
        }
    }

    fn charge(&mut self, frames: u64) -> Result<(), Error> {
        if frames > self.quota - self.used {
            return Err(Error::NoMemory);
        }
        self.used += frames;
        Ok(())
    }

    /// The tables of a committed region, so that touching it needs none.
    fn commit_tables<M: Machine>(&mut self, machine: &mut M, region: &Region) -> Result<(), Error> {
        if region.commit == Commit::OnTouch {
            return Ok(());
        }
        const TABLE_PAGES: u64 = 512;
        let mut at = region.first;
        while at < region.end {
            self.add_tables(machine, at)?;
            at = at.align_down(TABLE_PAGES).offset(TABLE_PAGES);
        }
        Ok(())
    }

    fn add_tables<M: Machine>(&mut self, machine: &mut M, page: Page) -> Result<(), Error> {
        for _ in 0..machine.missing_tables(page) {
            self.charge(1)?;
            let Some(frame) = machine.allocate() else {
                self.used -= 1;
                return Err(Error::NoMemory);
            };
            machine.zero(frame);
            machine.add_table(page, frame);
        }
        Ok(())
    }

    /// Takes back the tables of the hole that `page` lies in.
    fn remove_tables<M: Machine>(&mut self, machine: &mut M, page: Page) {
        let (first, end) = self.regions.hole(page, LOWER_HALF);
        self.used -= machine.remove_tables(first, end);
    }
}

/// A span of whole pages, as pages.
pub(crate) fn pages_of(span: Span) -> Result<(Page, Page), Error> {
    if !span.is_pages() {
        return Err(Error::BadRange);
    }
    let first = Page::containing(span.base);
    Ok((first, first.offset(span.length / PAGE_SIZE)))
}
