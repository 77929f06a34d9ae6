//! A priority queue of small numbers, from which any of them can be taken.
//!
//! Processes wait in two: for a CPU, by how much of it they have had, and for a time, by when it is. A slot is made for a number when its process
//! is made ([`Queue::reserve`]), so that nothing is allocated when processes are switched.

use alloc::collections::TryReserveError;
use alloc::vec::Vec;

/// A queue; the smallest key is the first, and among equals whoever came first.
#[derive(Debug, Default)]
pub struct Queue {
    /// A binary heap.
    entries: Vec<Entry>,
    /// Where each number stands in `entries`, or [`ABSENT`].
    places: Vec<u32>,
    arrivals: u64,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    key: u64,
    arrival: u64,
    number: u32,
}

const ABSENT: u32 = u32::MAX;

impl Queue {
    /// Takes the memory for [`Queue::reserve`], if there is as much.
    pub fn try_reserve(&mut self, number: u32) -> Result<(), TryReserveError> {
        let length = number as usize + 1;
        self.places.try_reserve(length.saturating_sub(self.places.len()))?;
        self.entries.try_reserve(length.saturating_sub(self.entries.len()))
    }

    /// Sees to it that `number` can be put in without an allocation.
    pub fn reserve(&mut self, number: u32) {
        let length = number as usize + 1;
        if self.places.len() < length {
            self.places.resize(length, ABSENT);
            self.entries.reserve(length - self.entries.len());
        }
    }

    /// Puts `number` in, or changes its key. It must have been reserved.
    pub fn put(&mut self, number: u32, key: u64) {
        self.take(number);
        self.arrivals += 1;
        let place = self.entries.len();
        self.entries.push(Entry { key, arrival: self.arrivals, number });
        self.places[number as usize] = place as u32;
        self.rise(place);
    }

    /// Takes `number` out; whether it was in.
    pub fn take(&mut self, number: u32) -> bool {
        let Some(&place) = self.places.get(number as usize).filter(|place| **place != ABSENT) else {
            return false;
        };
        let place = place as usize;
        self.places[number as usize] = ABSENT;
        let last = self.entries.len() - 1;
        self.entries.swap_remove(place);
        if place < last {
            self.places[self.entries[place].number as usize] = place as u32;
            self.rise(place);
            self.sink(place);
        }
        true
    }

    /// The first, with its key.
    pub fn first(&self) -> Option<(u32, u64)> {
        self.entries.first().map(|entry| (entry.number, entry.key))
    }

    /// Takes the first out.
    pub fn take_first(&mut self) -> Option<(u32, u64)> {
        let first = self.first()?;
        self.take(first.0);
        Some(first)
    }

    /// Whether nobody is in it.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn is_before(&self, one: usize, other: usize) -> bool {
        let order = |place: usize| (self.entries[place].key, self.entries[place].arrival);
        order(one) < order(other)
    }

    fn exchange(&mut self, one: usize, other: usize) {
        self.entries.swap(one, other);
        for place in [one, other] {
            self.places[self.entries[place].number as usize] = place as u32;
        }
    }

    fn rise(&mut self, mut place: usize) {
        while place > 0 && self.is_before(place, (place - 1) / 2) {
            self.exchange(place, (place - 1) / 2);
            place = (place - 1) / 2;
        }
    }

    fn sink(&mut self, mut place: usize) {
        loop {
            let children = (2 * place + 1..=2 * place + 2).filter(|child| *child < self.entries.len());
            let Some(first) =
                children.reduce(|one, other| if self.is_before(other, one) { other } else { one })
            else {
                return;
            };
            if !self.is_before(first, place) {
                return;
            }
            self.exchange(first, place);
            place = first;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeSet;

    #[test]
    fn it_is_what_a_sorted_set_is() {
        let mut random = 7u64;
        let mut below = |limit: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % limit
        };
        let (mut queue, mut model) = (Queue::default(), BTreeSet::new());
        let mut keys = [None; 50];
        (0..50).for_each(|number| queue.reserve(number));
        for arrival in 0..20_000 {
            let number = below(50) as u32;
            let known = &mut keys[number as usize];
            match below(3) {
                0 | 1 => {
                    let key = below(20);
                    if let Some((key, arrival)) = known.replace((key, arrival)) {
                        assert!(model.remove(&(key, arrival, number)));
                    }
                    model.insert((key, arrival, number));
                    queue.put(number, key);
                }
                _ => {
                    let was_in = known.take();
                    assert_eq!(queue.take(number), was_in.is_some());
                    if let Some((key, arrival)) = was_in {
                        model.remove(&(key, arrival, number));
                    }
                }
            }
            let first = model.first().map(|&(key, _, number)| (number, key));
            assert_eq!((queue.first(), queue.is_empty()), (first, first.is_none()));
        }
        while let Some((key, _, number)) = model.pop_first() {
            assert_eq!(queue.take_first(), Some((number, key)));
        }
        assert_eq!(queue.take_first(), None);
        assert!(!queue.take(1000), "never reserved");
    }
}
