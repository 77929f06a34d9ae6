//! Which address spaces one CPU's TLB may remember under which process-context identifier (Intel SDM volume 3, section 4.10.1).
//!
//! Pure logic. Every space has a number that is never used again, and a generation that goes up with every change that a CPU must not
//! remember. A CPU that runs a space is told of each change; one that does not is not told, and forgets when it comes back.

/// How many spaces a CPU remembers besides the one that it runs: few, since each costs a place in a TLB of some thousand entries.
pub const SLOTS: usize = 8;

/// A space that may be remembered, as it was then; number 0 is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Slot {
    space: u64,
    generation: u64,
}

/// What to do with what the TLB holds under an identifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entries {
    /// It is all true.
    Keep,
    /// Forget it.
    Forget,
}

/// The identifiers of one CPU: 1 to [`SLOTS`].
#[derive(Clone, Copy, Debug)]
pub struct Slots {
    slots: [Slot; SLOTS],
    /// The next one to be used for another space.
    next: usize,
}

impl Slots {
    /// Nothing is remembered.
    pub const fn new() -> Self {
        Self { slots: [Slot { space: 0, generation: 0 }; SLOTS], next: 0 }
    }

    /// The CPU begins to run a space. Answers the identifier to run it under.
    pub fn enter(&mut self, space: u64, generation: u64) -> (u64, Entries) {
        let wanted = Slot { space, generation };
        let found = self.slots.iter().position(|slot| slot.space == space);
        let at = found.unwrap_or_else(|| {
            let at = self.next;
            self.next = (at + 1) % SLOTS;
            at
        });
        let before = core::mem::replace(&mut self.slots[at], wanted);
        (at as u64 + 1, if before == wanted { Entries::Keep } else { Entries::Forget })
    }

    /// The CPU runs this space and has just forgotten all that was changed up to this generation.
    pub fn forgot(&mut self, space: u64, generation: u64) {
        if let Some(slot) = self.slots.iter_mut().find(|slot| slot.space == space) {
            slot.generation = generation;
        }
    }
}
