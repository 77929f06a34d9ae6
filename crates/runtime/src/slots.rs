//! Slots of linear memories, recycled.
//!
//! The engine reserves address space for each memory of each instance, makes a part of it accessible, maps an
//! image there, and gives all of it up with the instance. Done literally that is four kernel calls and a
//! thousand page-table entries for an instance that may live for microseconds. So a slot that is given up stays
//! as it is, only its private pages go back, and the next memory that wants the same layout finds it ready:
//! what the engine asks for is compared with what is there, and only differences reach the kernel.
//!
//! Pages that go back are touched again by the next instance, at the price of a fault each. So a slot that serves the same
//! memory again and again has a *resident window*, whose pages stay and are written back to what a fresh instance finds;
//! writing sixteen pages costs less than giving up and faulting in two. The window is committed, so that writing it back
//! cannot fail.
//!
//! Layout and image stay in a slot only for the same memory of the same program, which will ask for them again, and only if
//! there is an image: then the memory has a length from the start. Of a memory that starts without any the engine says
//! nothing, and so it must find nothing.

use abi::{Backing, Error, Protection, Span};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

/// A reservation at least this long is a slot; shorter mappings come and go with the kernel.
pub const SLOT_BYTES_MIN: u64 = 1 << 30;

/// The most slots that are kept for later. Beyond it, address space and page tables go back.
const SPARE_MAX: usize = 64;

/// The most that a resident window takes: a memory of one WebAssembly page has all of it resident.
const RESIDENT_BYTES_MAX: u64 = 64 << 10;
/// How much of the stack below an image is resident.
const RESIDENT_STACK_BYTES: u64 = 8 << 10;
/// A slot that the same memory has used so often gets a resident window.
const RELEASES_UNTIL_RESIDENT: u32 = 2;

/// What slots need from below: regions at places that are ours.
pub trait Regions {
    /// Takes address space.
    fn take(&mut self, length: u64) -> Option<Span>;
    /// Gives address space back in which nothing is mapped.
    fn give_back(&mut self, span: Span);
    /// Gives address space back and ends what is mapped there.
    fn release(&mut self, span: Span) -> Result<(), Error>;
    /// Declares a region, its pages taken at first touch.
    fn map(&mut self, span: Span, backing: Backing, protection: Protection) -> Result<(), Error>;
    /// Changes access.
    fn protect(&mut self, span: Span, protection: Protection) -> Result<(), Error>;
    /// Gives private pages back.
    fn reset(&mut self, span: Span) -> Result<(), Error>;
    /// Declares a region of zeros, read-write, whose pages are taken now.
    fn commit(&mut self, span: Span) -> Result<(), Error>;
    /// Writes zeros to the committed `span`, and its part of the image to where that lies.
    fn write_back(&mut self, span: Span, image: Option<Image>);
}

/// What is in a memory from the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Image {
    /// Where it is in the boot module.
    pub source: u64,
    /// Where it lies in the slot.
    pub span: Span,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    span: Span,
    /// Which memory of which program it is, or was.
    owner: Owner,
    /// The stretch that can be read and written; the rest of the slot allows nothing.
    accessible: Span,
    /// What the owner made accessible at first, before the memory grew.
    first_accessible: Span,
    /// Where what was ever accessible to this instance ends; the slot's base if nothing was.
    reach: u64,
    image: Option<Image>,
    /// The part of `first_accessible` whose pages stay.
    resident: Option<Span>,
    /// How often it was given up by this owner.
    releases: u32,
}

/// A memory of a program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    /// The program's number.
    pub program: u64,
    /// How many slots the same instance has taken before.
    pub memory: u32,
}

/// All slots: in use, by address, and spare, the last given up at the end.
#[derive(Debug, Default)]
pub struct Slots {
    used: BTreeMap<u64, Slot>,
    spare: Vec<Slot>,
    /// Of instances that are no process's.
    next_owner: Owner,
}

impl Slots {
    /// The slots that are acquired from now on, for nobody else, are the memories of an instance of `program`, in order.
    pub fn begin(&mut self, program: u64) {
        self.next_owner = Owner { program, memory: 0 };
    }

    /// A slot of `length` bytes that allows no access and is all zeros, or has the layout and the image that its owner
    /// is about to ask for.
    pub fn acquire(&mut self, length: u64, regions: impl Regions) -> Result<u64, Error> {
        let owner = self.next_owner;
        self.next_owner.memory += 1;
        self.acquire_for(owner, length, regions)
    }

    /// The same, for a process's instance.
    pub fn acquire_for(
        &mut self,
        owner: Owner,
        length: u64,
        mut regions: impl Regions,
    ) -> Result<u64, Error> {
        let fits = |slot: &Slot| slot.span.length == length;
        let spare = self
            .spare
            .iter()
            .rposition(|slot| fits(slot) && slot.owner == owner)
            .or_else(|| self.spare.iter().rposition(|slot| fits(slot) && slot.image.is_none()))
            .or_else(|| self.spare.iter().rposition(fits));
        let mut slot = match spare {
            Some(index) => self.spare.remove(index),
            None => {
                let span = regions.take(length).ok_or(Error::NoMemory)?;
                regions
                    .map(span, Backing::Zero, Protection::None)
                    .inspect_err(|_| regions.give_back(span))?;
                Slot::new(span, owner)
            }
        };
        if slot.owner != owner {
            slot.strip(&mut regions).inspect_err(|_| _ = regions.release(slot.span))?;
            slot = Slot::new(slot.span, owner);
        }
        self.used.insert(slot.span.base, slot);
        Ok(slot.span.base)
    }

    /// How many are in use.
    pub fn used_count(&self) -> usize {
        self.used.len()
    }

    /// Whether `address` lies in a slot that is in use.
    pub fn contain(&self, address: u64) -> bool {
        self.used
            .range(..=address)
            .next_back()
            .is_some_and(|(_, slot)| slot.span.contains(Span::new(address, 1)))
    }

    /// Changes access to `span` within a slot.
    pub fn protect(
        &mut self,
        span: Span,
        protection: Protection,
        mut regions: impl Regions,
    ) -> Result<(), Error> {
        let slot = self.slot(span)?;
        if protection != Protection::ReadWrite {
            regions.protect(span, protection)?;
            // The engine hides memories from their end; anything else would leave two stretches.
            if slot.accessible.contains(span) && slot.accessible.end() == span.end() {
                slot.accessible.length -= span.length;
            }
            return Ok(());
        }
        if slot.accessible.contains(span) {
            return Ok(());
        }
        regions.protect(span, Protection::ReadWrite)?;
        if slot.reach == slot.span.base {
            slot.first_accessible = span;
        }
        slot.reach = slot.reach.max(span.base + span.length);
        slot.accessible = if slot.accessible.end() == Some(span.base) && slot.accessible.length != 0 {
            Span::new(slot.accessible.base, slot.accessible.length + span.length)
        } else {
            span
        };
        Ok(())
    }

    /// Maps the image at `source` to `span`, read-write, unless it is there already.
    pub fn map_image(&mut self, source: u64, span: Span, mut regions: impl Regions) -> Result<(), Error> {
        let slot = self.slot(span)?;
        let image = Image { source, span };
        if slot.image == Some(image) {
            return Ok(());
        }
        slot.forget(&mut regions)?;
        regions.map(span, Backing::Image { source }, Protection::ReadWrite)?;
        slot.image = Some(image);
        Ok(())
    }

    /// Replaces `span` by zeros.
    pub fn clear(
        &mut self,
        span: Span,
        protection: Protection,
        mut regions: impl Regions,
    ) -> Result<(), Error> {
        let slot = self.slot(span)?;
        slot.forget(&mut regions)?;
        regions.map(span, Backing::Zero, protection)
    }

    /// Gives a slot up: it is cleared at once, its layout waits for the next owner.
    pub fn release(&mut self, base: u64, mut regions: impl Regions) -> Result<(), Error> {
        let mut slot = self.used.remove(&base).ok_or(Error::NotMapped)?;
        if self.spare.len() == SPARE_MAX {
            return regions.release(slot.span);
        }
        if slot.renew(&mut regions).is_err() {
            // What is left in it nobody is to find.
            return regions.release(slot.span);
        }
        self.spare.push(slot);
        Ok(())
    }

    /// Gives back the resident windows of the slots that are spare. Whether there were any.
    pub fn give_back_pages(&mut self, mut regions: impl Regions) -> bool {
        let mut were_any = false;
        for slot in self.spare.iter_mut().filter(|slot| slot.resident.is_some()) {
            if slot.strip(&mut regions).is_ok() {
                *slot = Slot::new(slot.span, slot.owner);
                were_any = true;
            }
        }
        were_any
    }

    fn slot(&mut self, span: Span) -> Result<&mut Slot, Error> {
        let (_, slot) = self.used.range_mut(..=span.base).next_back().ok_or(Error::NotMapped)?;
        if slot.span.contains(span) { Ok(slot) } else { Err(Error::NotMapped) }
    }
}

impl Slot {
    fn new(span: Span, owner: Owner) -> Self {
        let nothing = Span::new(span.base, 0);
        Self {
            span,
            owner,
            accessible: nothing,
            first_accessible: nothing,
            reach: span.base,
            image: None,
            resident: None,
            releases: 0,
        }
    }

    /// Makes it what a fresh instance of the same owner finds.
    fn renew(&mut self, regions: &mut impl Regions) -> Result<(), Error> {
        if self.image.is_none() {
            self.strip(regions)?;
            *self = Self::new(self.span, self.owner);
            return Ok(());
        }
        self.releases = self.releases.saturating_add(1);
        if self.releases == RELEASES_UNTIL_RESIDENT
            && let Some(window) = self.window()
        {
            if regions.commit(window).is_err() {
                // What was there is gone all the same.
                self.strip(regions)?;
                *self = Self::new(self.span, self.owner);
                return Ok(());
            }
            self.resident = Some(window);
        }
        if let Some(window) = self.resident {
            regions.write_back(window, self.image);
        }
        let base = self.accessible.base;
        let kept = self.resident.unwrap_or(Span::new(base, 0));
        for (base, end) in [(base, kept.base), (kept.base + kept.length, self.reach)] {
            if base < end {
                regions.reset(Span::new(base, end - base))?;
            }
        }
        let first_end = self.first_accessible.base + self.first_accessible.length;
        if first_end < self.reach {
            regions.protect(Span::new(first_end, self.reach - first_end), Protection::None)?;
        }
        self.accessible = self.first_accessible;
        self.reach = first_end;
        Ok(())
    }

    /// Puts zeros that allow no access where anything else was; all pages go back.
    fn strip(&self, regions: &mut impl Regions) -> Result<(), Error> {
        if self.reach == self.span.base {
            return Ok(());
        }
        let base = self.first_accessible.base;
        regions.map(Span::new(base, self.reach - base), Backing::Zero, Protection::None)
    }

    /// The window for this owner: all of a small memory; of a larger one what surely is touched, the image and the end
    /// of the stack, which linkers put just below it.
    fn window(&self) -> Option<Span> {
        let (all, image) = (self.first_accessible, self.image?.span);
        if all.length <= RESIDENT_BYTES_MAX {
            return Some(all);
        }
        let base = image.base.saturating_sub(RESIDENT_STACK_BYTES).max(all.base);
        let window = Span::new(base, (image.base + image.length - base).min(RESIDENT_BYTES_MAX));
        Some(window).filter(|window| all.contains(*window))
    }

    /// Puts zeros where the image and the resident window are; the pages go back.
    fn forget(&mut self, regions: &mut impl Regions) -> Result<(), Error> {
        let image = self.image.take().map(|image| image.span);
        for span in [image, self.resident.take()].into_iter().flatten() {
            regions.map(span, Backing::Zero, Protection::ReadWrite)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOT: u64 = 4 << 30;
    const PAGE: u64 = 4096;
    /// Slots are large; what the tests look at is this near their start.
    const LOOKED_AT: u64 = 64;

    /// What is in a page.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Content {
        Zero,
        Image(u64),
        Dirty,
    }

    #[derive(Clone, Copy, Debug)]
    struct Page {
        backing: Backing,
        protection: Protection,
        content: Content,
        committed: bool,
    }

    /// Remembers what is in each page that was ever named and what it allows; and counts calls.
    #[derive(Default)]
    struct Fake {
        next: u64,
        pages: BTreeMap<u64, Page>,
        calls: usize,
        commits_refused: bool,
        maps_refused: bool,
        /// What was taken and not given back.
        taken: Vec<u64>,
    }

    impl Fake {
        fn pages(span: Span) -> impl Iterator<Item = u64> {
            (span.base..span.base + span.length.min(LOOKED_AT * PAGE)).step_by(PAGE as usize)
        }

        fn fresh(backing: Backing) -> Content {
            match backing {
                Backing::Image { source } => Content::Image(source),
                _ => Content::Zero,
            }
        }

        fn at(&self, address: u64) -> Page {
            self.pages[&address]
        }

        /// An instance writes to every page that it can reach.
        fn scribble(&mut self) {
            let open = self.pages.values_mut().filter(|page| page.protection == Protection::ReadWrite);
            open.for_each(|page| page.content = Content::Dirty);
        }
    }

    impl Regions for &mut Fake {
        fn take(&mut self, length: u64) -> Option<Span> {
            self.next += SLOT;
            self.taken.push(self.next);
            Some(Span::new(self.next, length))
        }
        fn give_back(&mut self, span: Span) {
            assert!(Fake::pages(span).all(|page| !self.pages.contains_key(&page)), "nothing is mapped");
            self.taken.retain(|base| *base != span.base);
        }
        fn release(&mut self, span: Span) -> Result<(), Error> {
            self.calls += 1;
            self.taken.retain(|base| *base != span.base);
            Fake::pages(span).for_each(|page| _ = self.pages.remove(&page));
            Ok(())
        }
        fn map(&mut self, span: Span, backing: Backing, protection: Protection) -> Result<(), Error> {
            self.calls += 1;
            if self.maps_refused {
                return Err(Error::TableFull);
            }
            for page in Fake::pages(span) {
                let backing = match backing {
                    Backing::Image { source } => Backing::Image { source: source + page - span.base },
                    other => other,
                };
                let content = Fake::fresh(backing);
                self.pages.insert(page, Page { backing, protection, content, committed: false });
            }
            Ok(())
        }
        fn protect(&mut self, span: Span, protection: Protection) -> Result<(), Error> {
            self.calls += 1;
            for page in Fake::pages(span) {
                self.pages.get_mut(&page).expect("mapped").protection = protection;
            }
            Ok(())
        }
        fn reset(&mut self, span: Span) -> Result<(), Error> {
            self.calls += 1;
            for page in Fake::pages(span) {
                let page = self.pages.get_mut(&page).expect("mapped");
                page.content = Fake::fresh(page.backing);
            }
            Ok(())
        }
        fn commit(&mut self, span: Span) -> Result<(), Error> {
            if self.commits_refused {
                Fake::pages(span).for_each(|page| _ = self.pages.remove(&page));
                return Err(Error::NoMemory);
            }
            self.map(span, Backing::Zero, Protection::ReadWrite)?;
            for page in Fake::pages(span) {
                self.pages.get_mut(&page).expect("mapped").committed = true;
            }
            Ok(())
        }
        fn write_back(&mut self, span: Span, image: Option<Image>) {
            for address in Fake::pages(span) {
                let page = self.pages.get_mut(&address).expect("mapped");
                assert!(page.committed && page.protection == Protection::ReadWrite, "cannot fail");
                page.content = match image {
                    Some(image) if image.span.contains(Span::new(address, PAGE)) => {
                        Content::Image(image.source + address - image.span.base)
                    }
                    _ => Content::Zero,
                };
            }
        }
    }

    /// What the engine does for an instance: reserve, make accessible, map an image of two pages.
    fn instance(slots: &mut Slots, fake: &mut Fake, pages: u64, image: Option<u64>) -> u64 {
        slots.begin(image.unwrap_or(pages));
        let base = slots.acquire(SLOT, &mut *fake).unwrap();
        if pages == 0 {
            return base;
        }
        slots.protect(Span::new(base, pages * PAGE), Protection::ReadWrite, &mut *fake).unwrap();
        if let Some(source) = image {
            slots.map_image(source, Span::new(base + PAGE, 2 * PAGE), &mut *fake).unwrap();
        }
        base
    }

    /// An instance finds its own pages fresh, and nothing beyond.
    fn assert_fresh(fake: &Fake, base: u64, pages: u64, image: Option<u64>) {
        for page in 0..LOOKED_AT {
            let found = fake.at(base + page * PAGE);
            let expected = if page < pages { Protection::ReadWrite } else { Protection::None };
            assert_eq!(found.protection, expected, "page {page} of {pages}");
            let in_image = (1..3).contains(&page).then_some(image).flatten();
            let expected =
                in_image.map_or(Content::Zero, |source| Content::Image(source + (page - 1) * PAGE));
            assert_eq!(found.content, expected, "page {page} of {pages}");
        }
    }

    #[test]
    fn resident_windows_of_spare_slots_can_be_had_back() {
        let (mut slots, mut fake) = (Slots::default(), Fake::default());
        let used = instance(&mut slots, &mut fake, 16, Some(0x9000));
        for _ in 0..4 {
            let base = instance(&mut slots, &mut fake, 16, Some(0x7000));
            slots.release(base, &mut fake).unwrap();
        }
        let committed = |fake: &Fake| fake.pages.values().filter(|page| page.committed).count();
        assert_ne!(committed(&fake), 0);
        assert!(slots.give_back_pages(&mut fake));
        assert_eq!(committed(&fake), 0);
        assert!(!slots.give_back_pages(&mut fake), "there are no more");
        assert_fresh(&fake, used, 16, Some(0x9000));
        let base = instance(&mut slots, &mut fake, 16, Some(0x7000));
        assert_fresh(&fake, base, 16, Some(0x7000));
    }

    #[test]
    fn the_same_layout_costs_one_call_and_then_none() {
        let (mut slots, mut fake) = (Slots::default(), Fake::default());
        let mut calls = Vec::new();
        for _ in 0..5 {
            let before = fake.calls;
            let base = instance(&mut slots, &mut fake, 16, Some(0x7000));
            assert_fresh(&fake, base, 16, Some(0x7000));
            fake.scribble();
            slots.release(base, &mut fake).unwrap();
            calls.push(fake.calls - before);
        }
        assert_eq!(calls[1..], [1, 0, 0, 0], "the window's commit, and from then on nothing");
    }

    #[test]
    fn nobody_sees_anything_of_the_one_before() {
        let mut random = 1u64;
        let mut below = |limit: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % limit
        };
        for history in 0..500 {
            let (mut slots, mut fake) = (Slots::default(), Fake::default());
            for _ in 0..12 {
                fake.commits_refused = history % 5 == 0;
                // A program's memory always starts with the same size and image.
                let programs =
                    [(4, Some(0x7000)), (20, Some(0x9000)), (16, Some(0xb000)), (16, None), (0, None)];
                let (pages, image) = programs[below(programs.len() as u64) as usize];
                for _ in 0..=below(4) {
                    let base = instance(&mut slots, &mut fake, pages, image);
                    assert_fresh(&fake, base, pages, image);
                    let grown = below(8);
                    let growth = Span::new(base + pages * PAGE, grown * PAGE);
                    if grown != 0 {
                        slots.protect(growth, Protection::ReadWrite, &mut fake).unwrap();
                    }
                    fake.scribble();
                    if grown != 0 && below(3) == 0 {
                        slots.protect(growth, Protection::None, &mut fake).unwrap();
                    }
                    slots.release(base, &mut fake).unwrap();
                }
            }
        }
    }

    #[test]
    fn growth_is_kept_and_then_taken_back() {
        let (mut slots, mut fake) = (Slots::default(), Fake::default());
        let base = instance(&mut slots, &mut fake, 4, Some(0x7000));
        slots.protect(Span::new(base + 4 * PAGE, 4 * PAGE), Protection::ReadWrite, &mut fake).unwrap();
        slots.release(base, &mut fake).unwrap();
        assert_eq!(instance(&mut slots, &mut fake, 4, Some(0x7000)), base);
        assert_eq!(fake.at(base + 3 * PAGE).protection, Protection::ReadWrite);
        assert_eq!(fake.at(base + 4 * PAGE).protection, Protection::None);
    }

    #[test]
    fn what_is_refused_takes_no_address_space() {
        let (mut slots, mut fake) = (Slots::default(), Fake::default());
        fake.maps_refused = true;
        assert_eq!(slots.acquire(SLOT, &mut fake), Err(Error::TableFull));
        assert_eq!(fake.taken, [], "a new slot that cannot be mapped");
        fake.maps_refused = false;
        let base = instance(&mut slots, &mut fake, 4, Some(0x7000));
        slots.release(base, &mut fake).unwrap();
        assert_eq!(fake.taken, [base]);
        fake.maps_refused = true;
        assert_eq!(slots.acquire(SLOT, &mut fake), Err(Error::TableFull));
        assert_eq!((slots.spare.len(), &fake.taken[..]), (0, &[][..]), "one that cannot be stripped");
        fake.maps_refused = false;
        let base = instance(&mut slots, &mut fake, 4, None);
        fake.maps_refused = true;
        slots.release(base, &mut fake).unwrap();
        assert_eq!((slots.spare.len(), &fake.taken[..]), (0, &[][..]), "one that cannot be renewed");
    }

    #[test]
    fn spares_are_bounded() {
        let (mut slots, mut fake) = (Slots::default(), Fake::default());
        let bases: Vec<u64> = (0..SPARE_MAX + 3).map(|_| instance(&mut slots, &mut fake, 1, None)).collect();
        for base in bases {
            slots.release(base, &mut fake).unwrap();
        }
        assert_eq!((slots.spare.len(), slots.used.len()), (SPARE_MAX, 0));
    }
}
