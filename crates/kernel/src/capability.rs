//! Capabilities: what a domain's handles stand for, and what was derived from what.

use crate::table::{ChannelId, DomainId, MemoryId, VcpuId};
use abi::boot::DEVICES_MAX;
use abi::{Error, Handle, PAGE_SIZE, Rights};
use alloc::vec::Vec;

/// What a capability can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Object {
    Domain(DomainId),
    Vcpu(VcpuId),
    Machine,
    /// By index into the kernel's devices.
    Device(usize),
    Memory(MemoryId),
    Channel(ChannelId, Side),
    /// A bit of a virtual CPU.
    Event(VcpuId, u32),
}

/// One of the two ends of a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    First,
    Second,
}

impl Side {
    pub const fn other(self) -> Self {
        match self {
            Self::First => Self::Second,
            Self::Second => Self::First,
        }
    }

    pub const fn index(self) -> usize {
        self as usize
    }
}

/// Where a capability is: a slot of a domain's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub domain: DomainId,
    pub slot: u32,
}

/// A capability, and its neighbours in the tree of what was derived from what. Children are a list.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Capability {
    pub object: Object,
    pub rights: Rights,
    /// `None`: its object came into being with it, and ends with it.
    pub parent: Option<Place>,
    /// How many were above it when it was made.
    pub depth: u8,
    pub first_child: Option<Place>,
    pub next: Option<Place>,
    pub previous: Option<Place>,
    pub notice: Notice,
    pub below: Below,
    pub mapped: Mapped,
}

/// How far the taking back of a capability is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Notice {
    None,
    /// It is being revoked, and its holder did not ask which.
    Untold,
    Told,
    /// It is being taken: its handle is stale already.
    Ending,
}

/// What is to become of all that is below a capability. Unless it stays, nothing more comes there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Below {
    Stays,
    /// It is being taken.
    Goes,
    /// Its holders are told, and a virtual CPU of this one's holder waits until nothing is left.
    Awaited,
}

/// In whose regions a capability may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Mapped {
    Nowhere,
    /// Its holder's.
    Here,
    /// Those of domains that its holder made, too.
    Elsewhere,
}

impl Capability {
    /// A capability that no other knows of yet.
    pub const fn new(object: Object, rights: Rights) -> Self {
        Self {
            object,
            rights,
            parent: None,
            depth: 0,
            first_child: None,
            next: None,
            previous: None,
            notice: Notice::None,
            below: Below::Stays,
            mapped: Mapped::Nowhere,
        }
    }
}

#[derive(Debug)]
struct Slot {
    generation: u32,
    held: Option<Capability>,
}

/// A domain's table. Its size is fixed when it is made.
#[derive(Debug)]
pub(crate) struct Capabilities {
    slots: Vec<Slot>,
    count: usize,
    /// No slot before this one is free.
    free_from: usize,
    /// How many there are to each device by which it can be told what to do: with [`Rights::MAP`], and with [`Rights::CONTROL`].
    reach: [[u32; 2]; DEVICES_MAX],
}

impl Capabilities {
    /// A table that can hold `slots_max` capabilities.
    pub fn new(slots_max: usize) -> Result<Self, Error> {
        let mut slots = Vec::new();
        slots.try_reserve_exact(slots_max).map_err(|_| Error::NoMemory)?;
        Ok(Self { slots, count: 0, free_from: 0, reach: [[0; 2]; DEVICES_MAX] })
    }

    /// The frames that a table for so many takes.
    pub const fn frames(slots_max: usize) -> u64 {
        ((slots_max * size_of::<Slot>()) as u64).div_ceil(PAGE_SIZE)
    }

    /// How many capabilities it holds.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Takes a capability in.
    pub fn insert(&mut self, capability: Capability) -> Result<(u32, Handle), Error> {
        let is_free = |slot: &Slot| slot.held.is_none() && slot.generation != u32::MAX;
        let free = self.slots[self.free_from..].iter().position(is_free).map(|at| self.free_from + at);
        let index = match free {
            Some(index) => index,
            None if self.slots.len() < self.slots.capacity() => {
                self.slots.push(Slot { generation: 1, held: None });
                self.slots.len() - 1
            }
            None => return Err(Error::TableFull),
        };
        self.free_from = index + 1;
        self.count += 1;
        self.count_reach(&capability, |count| *count += 1);
        let slot = &mut self.slots[index];
        slot.held = Some(capability);
        Ok((index as u32, Handle::new(index as u32, slot.generation)))
    }

    /// What `handle` names, if it allows `needed`, and where.
    pub fn find(&self, handle: Handle, needed: Rights) -> Result<(u32, &Capability), Error> {
        let (slot, held) = self.find_ending(handle)?;
        if held.notice == Notice::Ending {
            return Err(Error::StaleHandle);
        }
        if held.rights.allow(needed) { Ok((slot, held)) } else { Err(Error::NoRight) }
    }

    /// What `handle` names or did name until it began to be taken, and where.
    pub fn find_ending(&self, handle: Handle) -> Result<(u32, &Capability), Error> {
        let slot = self.slots.get(handle.index() as usize);
        let slot = slot.filter(|slot| slot.generation == handle.generation());
        let held = slot.and_then(|slot| slot.held.as_ref()).ok_or(Error::StaleHandle)?;
        Ok((handle.index(), held))
    }

    /// The capability in a slot.
    pub fn slot(&mut self, slot: u32) -> Option<&mut Capability> {
        self.slots.get_mut(slot as usize)?.held.as_mut()
    }

    /// The handle of what is in a slot.
    #[cfg(test)]
    pub fn handle(&self, slot: u32) -> Handle {
        Handle::new(slot, self.slots[slot as usize].generation)
    }

    /// All that it holds: slot, handle, capability.
    #[cfg(test)]
    pub fn iter(&self) -> impl Iterator<Item = (u32, Handle, &Capability)> {
        let slots = (0..).zip(&self.slots);
        slots.filter_map(|(at, slot)| Some((at, Handle::new(at, slot.generation), slot.held.as_ref()?)))
    }

    /// How many it can hold.
    #[cfg(test)]
    pub fn slots_max(&self) -> usize {
        self.slots.capacity()
    }

    /// Takes a capability out. Handles made before stay stale for ever: a slot's generation only goes up, and a slot whose
    /// generations are used up is not used again.
    pub fn remove(&mut self, slot: u32) -> Option<Capability> {
        let at = self.slots.get_mut(slot as usize)?;
        let held = at.held.take()?;
        at.generation = at.generation.saturating_add(1);
        self.count -= 1;
        self.free_from = self.free_from.min(slot as usize);
        self.count_reach(&held, |count| *count -= 1);
        Some(held)
    }

    /// The last slot that holds a capability, in a table that takes none in any more: the slots behind it are given up.
    pub fn last(&mut self) -> Option<u32> {
        while self.slots.pop_if(|slot| slot.held.is_none()).is_some() {}
        self.slots.len().checked_sub(1).map(|index| index as u32)
    }

    /// Whether there are capabilities to a device with [`Rights::MAP`], and with [`Rights::CONTROL`].
    pub fn reach(&self, device: usize) -> [bool; 2] {
        self.reach[device].map(|count| count > 0)
    }

    fn count_reach(&mut self, held: &Capability, change: impl Fn(&mut u32)) {
        let Object::Device(index) = held.object else { return };
        for (count, right) in self.reach[index].iter_mut().zip([Rights::MAP, Rights::CONTROL]) {
            if held.rights.allow(right) {
                change(count);
            }
        }
    }

    /// Takes the notice of a capability that is being revoked and that this did not name before.
    pub fn take_notice(&mut self) -> Option<Handle> {
        let untold = |slot: &Slot| slot.held.as_ref().is_some_and(|held| held.notice == Notice::Untold);
        let index = self.slots.iter().position(untold)?;
        let slot = &mut self.slots[index];
        if let Some(held) = &mut slot.held {
            held.notice = Notice::Told;
        }
        Some(Handle::new(index as u32, slot.generation))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(index: usize, rights: Rights) -> Capability {
        Capability::new(Object::Device(index), rights)
    }

    #[test]
    fn a_stale_handle_never_reaches_the_next_object() {
        let mut table = Capabilities::new(2).unwrap();
        let (slot, old) = table.insert(device(0, Rights::ALL)).unwrap();
        assert_eq!(table.find(old, Rights::MAP).map(|(_, held)| held.object), Ok(Object::Device(0)));
        table.remove(slot);
        assert!(table.find(old, Rights::NONE).is_err());
        let (_, new) = table.insert(device(1, Rights::MAP)).unwrap();
        assert_eq!(old.index(), new.index());
        assert_eq!(table.find(old, Rights::NONE).err(), Some(Error::StaleHandle));
        assert_eq!(table.find(new, Rights::MAP).map(|(_, held)| held.object), Ok(Object::Device(1)));
        assert_eq!(table.find(new, Rights::CONTROL).err(), Some(Error::NoRight));
    }

    #[test]
    fn forged_handles_name_nothing() {
        let mut table = Capabilities::new(1).unwrap();
        let (_, real) = table.insert(device(0, Rights::ALL)).unwrap();
        for raw in [0, 1, u64::MAX, real.raw() + 1, real.raw() ^ 1 << 32, real.raw() | 1 << 63] {
            let found = table.find(Handle::from_raw(raw), Rights::NONE);
            assert_eq!(found.err(), Some(Error::StaleHandle), "{raw:#x}");
        }
        assert_eq!(table.insert(device(1, Rights::ALL)).err(), Some(Error::TableFull));
    }

    #[test]
    fn a_slot_without_generations_left_is_not_used() {
        let mut table = Capabilities::new(1).unwrap();
        table.insert(device(0, Rights::ALL)).unwrap();
        table.slots[0].generation = u32::MAX - 1;
        table.remove(0);
        assert_eq!(table.insert(device(0, Rights::ALL)).err(), Some(Error::TableFull));
    }
}
