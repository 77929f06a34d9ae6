//! A sorted map that never allocates except to insert, and says so when it cannot.

use super::memory::{list_for, make_room};
use crate::Errno;
use alloc::vec::Vec;
use core::borrow::Borrow;

/// How many entries a page has room for. The first page of a map grows to it.
const PAGE_ENTRIES: usize = 64;
/// Two pages that follow each other hold more than this together, or they are merged.
const PAIR_ENTRIES_MIN: usize = PAGE_ENTRIES * 3 / 4;

/// Entries in the order of their keys, in pages: a list of lists, none of them empty. Finding takes logarithmic
/// time; inserting and removing move what is behind in one page, and now and then the list of pages.
#[derive(Debug)]
pub(super) struct Sorted<K, V> {
    pages: Vec<Vec<(K, V)>>,
}

/// Where a key is, or would be.
enum Place {
    There { page: usize, at: usize },
    Between { page: usize, at: usize },
}

impl<K, V> Default for Sorted<K, V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K, V> Sorted<K, V> {
    pub const fn new() -> Self {
        Self { pages: Vec::new() }
    }

    pub fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }

    pub fn len(&self) -> usize {
        self.pages.iter().map(Vec::len).sum()
    }

    #[cfg(test)]
    fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.pages.iter().flatten().map(|(key, value)| (key, value))
    }

    /// The last entry, taken out.
    pub fn pop(&mut self) -> Option<(K, V)> {
        let page = self.pages.last_mut()?;
        let entry = page.pop();
        if page.is_empty() {
            self.pages.pop();
        }
        entry
    }

    pub fn last_key(&self) -> Option<&K> {
        Some(&self.pages.last()?.last()?.0)
    }
}

impl<K: Ord, V> Sorted<K, V> {
    fn find<Q: Ord + ?Sized>(&self, key: &Q) -> Place
    where
        K: Borrow<Q>,
    {
        let ends_before = |page: &Vec<(K, V)>| page.last().is_some_and(|(last, _)| last.borrow() < key);
        let page = self.pages.partition_point(ends_before);
        match self.pages.get(page) {
            Some(entries) => match entries.binary_search_by(|(other, _)| other.borrow().cmp(key)) {
                Ok(at) => Place::There { page, at },
                Err(at) => Place::Between { page, at },
            },
            None => {
                let page = page.saturating_sub(1);
                Place::Between { page, at: self.pages.get(page).map_or(0, Vec::len) }
            }
        }
    }

    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        match self.find(key) {
            Place::There { page, at } => Some(&self.pages[page][at].1),
            Place::Between { .. } => None,
        }
    }

    pub fn get_mut<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        match self.find(key) {
            Place::There { page, at } => Some(&mut self.pages[page][at].1),
            Place::Between { .. } => None,
        }
    }

    /// Adds an entry, or gives the one with this key another value. `ENOSPC` if there is no memory: then nothing has
    /// changed.
    pub fn insert(&mut self, key: K, value: V) -> Result<(), Errno> {
        let (page, at) = match self.find(&key) {
            Place::There { page, at } => {
                self.pages[page][at].1 = value;
                return Ok(());
            }
            Place::Between { page, at } => (page, at),
        };
        let Some(entries) = self.pages.get_mut(page) else {
            let mut first = Vec::new();
            make_room(&mut first)?;
            make_room(&mut self.pages)?;
            first.push((key, value));
            self.pages.push(first);
            return Ok(());
        };
        if entries.len() < PAGE_ENTRIES {
            make_room(entries)?;
            entries.insert(at, (key, value));
            return Ok(());
        }
        let mut new = list_for(PAGE_ENTRIES)?;
        make_room(&mut self.pages)?;
        let entries = &mut self.pages[page];
        if at == PAGE_ENTRIES {
            // Behind all others: what is made in order fills its pages.
            new.push((key, value));
        } else {
            new.extend(entries.drain(PAGE_ENTRIES / 2..));
            match at.checked_sub(PAGE_ENTRIES / 2) {
                Some(at) => new.insert(at, (key, value)),
                None => entries.insert(at, (key, value)),
            }
        }
        self.pages.insert(page + 1, new);
        Ok(())
    }

    pub fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let Place::There { page, at } = self.find(key) else { return None };
        let (_, value) = self.pages[page].remove(at);
        if self.pages[page].is_empty() {
            self.pages.remove(page);
        } else {
            self.merge(page);
        }
        if page > 0 {
            self.merge(page - 1);
        }
        Some(value)
    }

    /// Moves the entries behind page `left` into it, if they are few. Every page that has another behind it was full
    /// once, or was made for as many: there is room.
    fn merge(&mut self, left: usize) {
        if let Some([first, second]) = self.pages.get_mut(left..left.saturating_add(2))
            && first.len() + second.len() <= PAIR_ENTRIES_MIN
            && first.capacity() >= PAIR_ENTRIES_MIN
        {
            first.append(second);
            self.pages.remove(left + 1);
        }
    }

    /// The entries whose keys are larger than `key`.
    pub fn after<'s>(&'s self, key: &K) -> impl Iterator<Item = (&'s K, &'s V)> + use<'s, K, V> {
        let (page, at) = match self.find(key) {
            Place::There { page, at } => (page, at + 1),
            Place::Between { page, at } => (page, at),
        };
        let first = self.pages.get(page).map_or(&[][..], |entries| &entries[at..]);
        let rest = self.pages.get(page + 1..).unwrap_or_default();
        first.iter().chain(rest.iter().flatten()).map(|(key, value)| (key, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeMap;
    use core::ops::Bound;
    use proptest::prelude::*;

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Insert(u16),
        /// From here upwards, so many.
        InsertMany(u16, u16),
        Remove(u16),
        RemoveMany(u16, u16),
        Pop,
    }

    fn step() -> impl Strategy<Value = Step> {
        let key = 0..2000u16;
        prop_oneof![
            4 => key.clone().prop_map(Step::Insert),
            1 => (key.clone(), 0..300u16).prop_map(|(from, count)| Step::InsertMany(from, count)),
            4 => key.clone().prop_map(Step::Remove),
            1 => (key, 0..300u16).prop_map(|(from, count)| Step::RemoveMany(from, count)),
            1 => Just(Step::Pop),
        ]
    }

    fn apply(step: Step, sorted: &mut Sorted<u16, u16>, model: &mut BTreeMap<u16, u16>) {
        match step {
            Step::Insert(key) => {
                sorted.insert(key, key).unwrap();
                model.insert(key, key);
            }
            Step::InsertMany(from, count) => {
                (from..from + count).for_each(|key| apply(Step::Insert(key), sorted, model));
            }
            Step::Remove(key) => assert_eq!(sorted.remove(&key), model.remove(&key)),
            Step::RemoveMany(from, count) => {
                (from..from + count).for_each(|key| apply(Step::Remove(key), sorted, model));
            }
            Step::Pop => assert_eq!(sorted.pop(), model.pop_last()),
        }
    }

    proptest! {
        #[test]
        fn it_does_what_a_btree_does_and_wastes_little(steps in prop::collection::vec(step(), 1..60)) {
            let (mut sorted, mut model) = (Sorted::new(), BTreeMap::new());
            for step in steps {
                apply(step, &mut sorted, &mut model);
                prop_assert!(sorted.iter().eq(model.iter()));
                prop_assert_eq!(sorted.last_key(), model.keys().last());
                prop_assert_eq!(sorted.is_empty(), model.is_empty());
                for key in (0..2100).step_by(37) {
                    prop_assert_eq!(sorted.get(&key), model.get(&key));
                    let behind = model.range((Bound::Excluded(key), Bound::Unbounded));
                    prop_assert!(sorted.after(&key).eq(behind));
                }
                prop_assert!(sorted.pages.iter().all(|page| !page.is_empty() && page.len() <= PAGE_ENTRIES));
                let room: usize = sorted.pages.iter().map(Vec::capacity).sum();
                prop_assert!(room <= 3 * model.len() + 2 * PAGE_ENTRIES, "{} for {}", room, model.len());
            }
        }
    }
}
