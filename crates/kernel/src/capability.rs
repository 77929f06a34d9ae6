//! The capability table: what a domain's handles stand for.

use abi::{Error, Handle, Rights};
use alloc::vec::Vec;

/// What a capability can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Object {
    Space,
    Vcpu,
    Machine,
    /// By index into the kernel's devices.
    Device(usize),
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    generation: u32,
    held: Option<(Object, Rights)>,
}

/// Handles to objects and rights. Its size is fixed when it is made.
#[derive(Debug)]
pub(crate) struct Capabilities {
    slots: Vec<Slot>,
}

impl Capabilities {
    /// A table that can hold `slots_max` capabilities.
    pub fn new(slots_max: usize) -> Result<Self, Error> {
        let mut slots = Vec::new();
        slots.try_reserve_exact(slots_max).map_err(|_| Error::NoMemory)?;
        Ok(Self { slots })
    }

    /// Makes a handle for `object`.
    pub fn insert(&mut self, object: Object, rights: Rights) -> Result<Handle, Error> {
        let free = self.slots.iter().position(|slot| slot.held.is_none() && slot.generation != u32::MAX);
        let index = match free {
            Some(index) => index,
            None if self.slots.len() < self.slots.capacity() => {
                self.slots.push(Slot { generation: 1, held: None });
                self.slots.len() - 1
            }
            None => return Err(Error::TableFull),
        };
        let slot = &mut self.slots[index];
        slot.held = Some((object, rights));
        Ok(Handle::new(index as u32, slot.generation))
    }

    /// What `handle` names, if it allows `needed`.
    pub fn find(&self, handle: Handle, needed: Rights) -> Result<Object, Error> {
        let slot = self.slots.get(handle.index() as usize).ok_or(Error::StaleHandle)?;
        let (object, rights) = slot.held.ok_or(Error::StaleHandle)?;
        if slot.generation != handle.generation() {
            return Err(Error::StaleHandle);
        }
        if rights.allow(needed) { Ok(object) } else { Err(Error::NoRight) }
    }

    /// Takes every capability away. Handles made before stay stale for ever: a slot's generation only goes up,
    /// and a slot whose generations are used up is not used again.
    pub fn revoke_all(&mut self) {
        for slot in &mut self.slots {
            if slot.held.take().is_some() {
                slot.generation = slot.generation.saturating_add(1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_handle_never_reaches_the_next_object() {
        let mut table = Capabilities::new(2).unwrap();
        let old = table.insert(Object::Device(0), Rights::ALL).unwrap();
        assert_eq!(table.find(old, Rights::MAP), Ok(Object::Device(0)));
        table.revoke_all();
        assert_eq!(table.find(old, Rights::NONE), Err(Error::StaleHandle));
        let new = table.insert(Object::Device(1), Rights::MAP).unwrap();
        assert_eq!(old.index(), new.index());
        assert_eq!(table.find(old, Rights::NONE), Err(Error::StaleHandle));
        assert_eq!(table.find(new, Rights::MAP), Ok(Object::Device(1)));
        assert_eq!(table.find(new, Rights::CONTROL), Err(Error::NoRight));
    }

    #[test]
    fn forged_handles_name_nothing() {
        let mut table = Capabilities::new(1).unwrap();
        let real = table.insert(Object::Space, Rights::ALL).unwrap();
        for raw in [0, 1, u64::MAX, real.raw() + 1, real.raw() ^ 1 << 32, real.raw() | 1 << 63] {
            assert_eq!(table.find(Handle::from_raw(raw), Rights::NONE), Err(Error::StaleHandle), "{raw:#x}");
        }
        assert_eq!(table.insert(Object::Vcpu, Rights::ALL), Err(Error::TableFull));
    }

    #[test]
    fn a_slot_without_generations_left_is_not_used() {
        let mut table = Capabilities::new(1).unwrap();
        table.insert(Object::Space, Rights::ALL).unwrap();
        table.slots[0].generation = u32::MAX - 1;
        table.revoke_all();
        assert_eq!(table.insert(Object::Space, Rights::ALL), Err(Error::TableFull));
    }
}
