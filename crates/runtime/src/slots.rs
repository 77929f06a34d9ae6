//! Slots of linear memories, recycled.
//!
//! The engine reserves address space for each memory of each instance, makes a part of it accessible, maps an
//! image there, and gives all of it up with the instance. Done literally that is four kernel calls and a
//! thousand page-table entries for an instance that may live for microseconds. So a slot that is given up stays
//! as it is, only its private pages go back, and the next memory that wants the same layout finds it ready:
//! what the engine asks for is compared with what is there, and only differences reach the kernel.
//!
//! An image stays in a slot only for the same memory of the same program, which will ask for it again: the engine says
//! nothing for a memory that has none, so anybody else gets the slot with the image cleared.

use abi::{Backing, Commit, Error, Protection, Span};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

/// A reservation at least this long is a slot; shorter mappings come and go with the kernel.
pub const SLOT_BYTES_MIN: u64 = 1 << 30;

/// The most slots that are kept for later. Beyond it, address space and page tables go back.
const SPARE_MAX: usize = 64;

/// What slots need from below: regions at places that are ours.
pub trait Regions {
    /// Takes address space.
    fn take(&mut self, length: u64) -> Option<Span>;
    /// Gives address space back and ends what is mapped there.
    fn release(&mut self, span: Span) -> Result<(), Error>;
    /// Declares a region, its pages taken at first touch.
    fn map(&mut self, span: Span, backing: Backing, protection: Protection) -> Result<(), Error>;
    /// Changes access.
    fn protect(&mut self, span: Span, protection: Protection) -> Result<(), Error>;
    /// Gives private pages back.
    fn reset(&mut self, span: Span) -> Result<(), Error>;
}

impl Regions for &crate::System {
    fn take(&mut self, length: u64) -> Option<Span> {
        self.take_space(length)
    }

    fn release(&mut self, span: Span) -> Result<(), Error> {
        self.unmap(span)
    }

    fn map(&mut self, span: Span, backing: Backing, protection: Protection) -> Result<(), Error> {
        crate::System::map(self, span, backing, protection, Commit::OnTouch).map(drop)
    }

    fn protect(&mut self, span: Span, protection: Protection) -> Result<(), Error> {
        crate::System::protect(self, span, protection)
    }

    fn reset(&mut self, span: Span) -> Result<(), Error> {
        crate::System::reset(self, span)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Image {
    source: u64,
    span: Span,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    span: Span,
    /// The stretch that can be read and written; the rest of the slot allows nothing.
    accessible: Span,
    image: Option<Image>,
    /// Taken from the spares and not laid out yet: what is accessible is the last owner's wish.
    inherited: Inherited,
    /// Which memory of which program it is, or was.
    owner: Owner,
}

/// A memory of a program: the program's number and how many slots came before in the same instantiation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Owner {
    program: u64,
    memory: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Inherited {
    No,
    Yes,
}

/// All slots: in use, by address, and spare, the last given up at the end.
#[derive(Debug, Default)]
pub struct Slots {
    used: BTreeMap<u64, Slot>,
    spare: Vec<Slot>,
    next_owner: Owner,
}

impl Slots {
    /// The slots that are acquired from now on are the memories of an instance of `program`, in order.
    pub fn begin(&mut self, program: u64) {
        self.next_owner = Owner { program, memory: 0 };
    }

    /// A slot of `length` bytes that allows no access (or what the last owner left, until the first
    /// [`Slots::protect`]), all zeros, or with the image that its owner is about to ask for.
    pub fn acquire(&mut self, length: u64, mut regions: impl Regions) -> Result<u64, Error> {
        let owner = self.next_owner;
        self.next_owner.memory += 1;
        let fits = |slot: &Slot| slot.span.length == length;
        let spare = self
            .spare
            .iter()
            .rposition(|slot| fits(slot) && slot.owner == owner)
            .or_else(|| self.spare.iter().rposition(|slot| fits(slot) && slot.image.is_none()))
            .or_else(|| self.spare.iter().rposition(fits));
        let mut slot = match spare {
            Some(index) => Slot { inherited: Inherited::Yes, ..self.spare.remove(index) },
            None => {
                let span = regions.take(length).ok_or(Error::NoMemory)?;
                regions.map(span, Backing::Zero, Protection::None)?;
                let accessible = Span::new(span.base, 0);
                Slot { span, accessible, image: None, inherited: Inherited::No, owner }
            }
        };
        if slot.owner != owner {
            slot.owner = owner;
            slot.drop_image(&mut regions)?;
        }
        self.used.insert(slot.span.base, slot);
        Ok(slot.span.base)
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
        if slot.inherited == Inherited::Yes {
            slot.inherited = Inherited::No;
            return slot.lay_out(span, &mut regions);
        }
        if slot.accessible.contains(span) {
            return Ok(());
        }
        regions.protect(span, Protection::ReadWrite)?;
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
        slot.drop_image(&mut regions)?;
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
        slot.image = None;
        regions.map(span, Backing::Zero, protection)
    }

    /// Gives a slot up: its private pages go back at once, its layout waits for the next owner.
    pub fn release(&mut self, base: u64, mut regions: impl Regions) -> Result<(), Error> {
        let slot = self.used.remove(&base).ok_or(Error::NotMapped)?;
        if self.spare.len() == SPARE_MAX {
            return regions.release(slot.span);
        }
        if slot.accessible.length != 0 {
            regions.reset(slot.accessible)?;
        }
        self.spare.push(slot);
        Ok(())
    }

    fn slot(&mut self, span: Span) -> Result<&mut Slot, Error> {
        let (_, slot) = self.used.range_mut(..=span.base).next_back().ok_or(Error::NotMapped)?;
        if slot.span.contains(span) { Ok(slot) } else { Err(Error::NotMapped) }
    }
}

impl Slot {
    /// Puts zeros where the image is.
    fn drop_image(&mut self, regions: &mut impl Regions) -> Result<(), Error> {
        let Some(image) = self.image.take() else { return Ok(()) };
        let open = self.accessible.contains(image.span);
        regions.map(image.span, Backing::Zero, if open { Protection::ReadWrite } else { Protection::None })
    }

    /// Makes `span`, and nothing else, accessible in a slot that has a last owner's layout.
    fn lay_out(&mut self, span: Span, regions: &mut impl Regions) -> Result<(), Error> {
        let old = self.accessible;
        if old == span {
            return Ok(());
        }
        self.accessible = span;
        if old.base == span.base && old.length > span.length {
            let rest = Span::new(span.base + span.length, old.length - span.length);
            return regions.protect(rest, Protection::None);
        }
        if old.length != 0 && !span.contains(old) {
            regions.protect(old, Protection::None)?;
        }
        regions.protect(span, Protection::ReadWrite)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOT: u64 = 4 << 30;
    const PAGE: u64 = 4096;

    /// Remembers, for each page that was ever named, what it is and allows; and counts calls.
    #[derive(Default)]
    struct Fake {
        next: u64,
        pages: BTreeMap<u64, (Backing, Protection)>,
        calls: usize,
    }

    impl Fake {
        fn pages(span: Span) -> impl Iterator<Item = u64> {
            // Slots are large; what the tests look at is near their start.
            (span.base..span.base + span.length.min(64 * PAGE)).step_by(PAGE as usize)
        }

        fn at(&self, address: u64) -> (Backing, Protection) {
            self.pages[&address]
        }
    }

    impl Regions for &mut Fake {
        fn take(&mut self, length: u64) -> Option<Span> {
            self.next += SLOT;
            Some(Span::new(self.next, length))
        }
        fn release(&mut self, span: Span) -> Result<(), Error> {
            self.calls += 1;
            Fake::pages(span).for_each(|page| _ = self.pages.remove(&page));
            Ok(())
        }
        fn map(&mut self, span: Span, backing: Backing, protection: Protection) -> Result<(), Error> {
            self.calls += 1;
            for page in Fake::pages(span) {
                let backing = match backing {
                    Backing::Image { source } => Backing::Image { source: source + page - span.base },
                    other => other,
                };
                self.pages.insert(page, (backing, protection));
            }
            Ok(())
        }
        fn protect(&mut self, span: Span, protection: Protection) -> Result<(), Error> {
            self.calls += 1;
            for page in Fake::pages(span) {
                self.pages.get_mut(&page).expect("mapped").1 = protection;
            }
            Ok(())
        }
        fn reset(&mut self, _: Span) -> Result<(), Error> {
            self.calls += 1;
            Ok(())
        }
    }

    /// What the engine does for an instance: reserve, make accessible, map an image.
    fn instance(slots: &mut Slots, fake: &mut Fake, pages: u64, image: Option<u64>) -> u64 {
        slots.begin(image.unwrap_or(1));
        let base = slots.acquire(SLOT, &mut *fake).unwrap();
        slots.protect(Span::new(base, pages * PAGE), Protection::ReadWrite, &mut *fake).unwrap();
        if let Some(source) = image {
            slots.map_image(source, Span::new(base + PAGE, 2 * PAGE), &mut *fake).unwrap();
        }
        base
    }

    #[test]
    fn the_same_layout_costs_one_call() {
        let (mut slots, mut fake) = (Slots::default(), Fake::default());
        let base = instance(&mut slots, &mut fake, 16, Some(0x7000));
        slots.release(base, &mut fake).unwrap();
        let before = fake.calls;
        assert_eq!(instance(&mut slots, &mut fake, 16, Some(0x7000)), base);
        slots.release(base, &mut fake).unwrap();
        assert_eq!(fake.calls - before, 1, "only the reset");
    }

    #[test]
    fn another_layout_sees_nothing_of_the_last() {
        for (first, second) in [(16, 4), (4, 16), (16, 16)] {
            let images = [None, Some(0x7000), Some(0x9000)];
            for (old, new) in images.into_iter().flat_map(|old| images.map(|new| (old, new))) {
                let (mut slots, mut fake) = (Slots::default(), Fake::default());
                let base = instance(&mut slots, &mut fake, first, old);
                slots.release(base, &mut fake).unwrap();
                assert_eq!(instance(&mut slots, &mut fake, second, new), base);
                for page in 0..32 {
                    let (backing, protection) = fake.at(base + page * PAGE);
                    let expected = if page < second { Protection::ReadWrite } else { Protection::None };
                    assert_eq!(protection, expected, "page {page} of {second} after {first}");
                    let in_image = (1..3).contains(&page).then_some(new).flatten();
                    let expected = match in_image {
                        Some(source) => Backing::Image { source: source + (page - 1) * PAGE },
                        None => Backing::Zero,
                    };
                    assert_eq!(backing, expected, "page {page}");
                }
            }
        }
    }

    #[test]
    fn growth_is_kept_and_then_taken_back() {
        let (mut slots, mut fake) = (Slots::default(), Fake::default());
        let base = instance(&mut slots, &mut fake, 4, None);
        slots.protect(Span::new(base + 4 * PAGE, 4 * PAGE), Protection::ReadWrite, &mut fake).unwrap();
        slots.release(base, &mut fake).unwrap();
        assert_eq!(instance(&mut slots, &mut fake, 4, None), base);
        assert_eq!(fake.at(base + 3 * PAGE).1, Protection::ReadWrite);
        assert_eq!(fake.at(base + 4 * PAGE).1, Protection::None);
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
