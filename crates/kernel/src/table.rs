//! Where objects are: tables of slots that each CPU can lock by themselves.

use crate::machine::Machine;
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};
use spin::Once;
use spin::mutex::{TicketMutex, TicketMutexGuard};

/// A lock whose waiters do meanwhile what other CPUs ask of them.
pub(crate) type Lock<T, M> = TicketMutex<T, <M as Machine>::Relax>;

/// Which object of kind `K`. The generation keeps an old name from reaching the slot's next object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Id<K> {
    index: u32,
    generation: u32,
    kind: PhantomData<K>,
}

/// The kinds, as types without values.
pub mod kind {
    macro_rules! kinds {
        ($($kind:ident)*) => {
            $(
                /// A kind of object.
                #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
                pub enum $kind {}
            )*
        };
    }
    kinds!(Domain Vcpu Memory Channel);
}

/// Names a domain.
pub type DomainId = Id<kind::Domain>;
/// Names a virtual CPU.
pub type VcpuId = Id<kind::Vcpu>;
/// Names a memory.
pub(crate) type MemoryId = Id<kind::Memory>;
/// Names a channel.
pub(crate) type ChannelId = Id<kind::Channel>;

/// Slots in one piece of a table.
const CHUNK: usize = 32;

struct Slot<T> {
    generation: u32,
    value: Option<T>,
}

type Chunk<T, M> = Box<[Lock<Slot<T>, M>]>;

/// Objects of one kind. Grows by pieces, which stay.
pub(crate) struct Table<K, T, M: Machine> {
    chunks: Vec<Once<Chunk<T, M>>>,
    kind: PhantomData<fn() -> K>,
}

/// An object that is locked.
pub(crate) struct Guard<'t, T> {
    slot: TicketMutexGuard<'t, Slot<T>>,
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // `Table::lock` makes guards of full slots only.
        self.slot.value.as_ref().unwrap_or_else(|| unreachable!())
    }
}

impl<T> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.slot.value.as_mut().unwrap_or_else(|| unreachable!())
    }
}

impl<K> Id<K> {
    /// Which slot.
    pub(crate) fn index(&self) -> u32 {
        self.index
    }

    /// As a number that no other object of its kind ever has, and that is not 0.
    pub(crate) fn number(&self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }
}

impl<K: Copy, T, M: Machine> Table<K, T, M> {
    /// A table for at most `slots_max` objects (rounded up); `None` if there is no memory for it.
    pub fn new(slots_max: usize) -> Option<Self> {
        let mut chunks = Vec::new();
        chunks.try_reserve_exact(slots_max.div_ceil(CHUNK)).ok()?;
        chunks.resize_with(slots_max.div_ceil(CHUNK), Once::new);
        Some(Self { chunks, kind: PhantomData })
    }

    /// Locks an object; `None` if it is no more.
    pub fn lock(&self, id: Id<K>) -> Option<Guard<'_, T>> {
        let slot = self.slot(id.index as usize)?.lock();
        (slot.generation == id.generation && slot.value.is_some()).then_some(Guard { slot })
    }

    /// Adds the object that `make` makes, knowing its name. `None` if the table is full, or there is no memory to grow it. Callers are kept
    /// apart by a lock of theirs.
    pub fn insert(&self, make: impl FnOnce(Id<K>) -> T) -> Option<Id<K>> {
        for index in 0..self.chunks.len() * CHUNK {
            self.grow(index / CHUNK)?;
            let Some(slot) = self.slot(index) else { continue };
            let mut slot = slot.lock();
            if slot.value.is_none() && slot.generation != u32::MAX {
                slot.generation += 1;
                let id = Id { index: index as u32, generation: slot.generation, kind: PhantomData };
                slot.value = Some(make(id));
                return Some(id);
            }
        }
        None
    }

    /// Takes an object out.
    pub fn remove(&self, id: Id<K>) -> Option<T> {
        let mut slot = self.slot(id.index as usize)?.lock();
        if slot.generation == id.generation { slot.value.take() } else { None }
    }

    /// The names of all objects, one at a time: what comes and goes meanwhile may be among them or not.
    pub fn ids(&self) -> impl Iterator<Item = Id<K>> + '_ {
        let slots = self.chunks.iter().filter_map(Once::get).flat_map(|chunk| chunk.iter());
        slots.enumerate().filter_map(|(index, slot)| {
            let slot = slot.lock();
            slot.value.as_ref()?;
            Some(Id { index: index as u32, generation: slot.generation, kind: PhantomData })
        })
    }

    fn slot(&self, index: usize) -> Option<&Lock<Slot<T>, M>> {
        self.chunks.get(index / CHUNK)?.get()?.get(index % CHUNK)
    }

    fn grow(&self, chunk: usize) -> Option<()> {
        let make = || {
            let mut slots = Vec::new();
            slots.try_reserve_exact(CHUNK).map_err(|_| ())?;
            slots.resize_with(CHUNK, || Lock::<_, M>::new(Slot { generation: 0, value: None }));
            Ok::<_, ()>(slots.into_boxed_slice())
        };
        self.chunks.get(chunk)?.try_call_once(make).ok().map(drop)
    }
}
