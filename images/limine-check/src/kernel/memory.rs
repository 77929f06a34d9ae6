//! The memory map, and the direct map made from it.

use super::expect::Expected;
use super::protocol::{self, MEMORY_MAP};
use super::responses::Facts;
use super::state::EntryState;
use super::walk::{self, Leaf};
use crate::check;

const PAGE: u64 = 4096;
const FIRST_4_GIB: u64 = 4 << 30;

/// Types of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Kind {
    Usable = 0,
    AcpiReclaimable = 2,
    AcpiNvs = 3,
    BootloaderReclaimable = 5,
    ExecutableAndModules = 6,
    ReservedMapped = 8,
}

/// An entry of the map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub base: u64,
    pub end: u64,
    pub kind: u64,
}

/// The map as it is given.
#[derive(Clone, Copy)]
pub struct Map {
    list: u64,
    count: u64,
}

impl Map {
    pub fn given() -> Self {
        Self { count: MEMORY_MAP.word(1), list: MEMORY_MAP.word(2) }
    }

    /// Where the structure of an entry is.
    fn place(self, index: u64) -> u64 {
        protocol::read(self.list + 8 * index)
    }

    pub fn entries(self) -> impl DoubleEndedIterator<Item = Entry> + Clone {
        (0..self.count).map(move |index| {
            let at = self.place(index);
            let base = protocol::read(at);
            Entry { base, end: base + protocol::read(at + 8), kind: protocol::read(at + 16) }
        })
    }

    /// Whether memory is covered by entries of one of the kinds that a predicate accepts.
    pub fn covers(self, base: u64, end: u64, accept: impl Fn(u64) -> bool) -> bool {
        let mut reached = base;
        for entry in self.entries().filter(|entry| accept(entry.kind)) {
            if entry.base <= reached && reached < entry.end {
                reached = entry.end;
            }
        }
        reached >= end
    }
}

/// Checks the map's promises and the direct map.
pub fn check(facts: &Facts, expected: &Expected, state: &EntryState) {
    check_map(facts, expected);
    check_tables(facts, state);
    for entry in facts.map.entries().filter(|entry| entry.kind == Kind::Usable as u64) {
        check_is_memory(facts.hhdm + entry.base);
        check_is_memory(facts.hhdm + entry.end - 8);
    }
}

fn check_map(facts: &Facts, expected: &Expected) {
    let map = facts.map;
    let is_exclusive = |kind: u64| kind == Kind::Usable as u64 || kind == Kind::BootloaderReclaimable as u64;
    let mut last = 0;
    let (mut overlaps, mut touching_usable, mut usable) = (0, 0, 0);
    for (index, entry) in map.entries().enumerate() {
        check!(entry.base >= last, "entry {index} is not in order: {entry:x?}");
        check!(entry.base < entry.end, "entry {index} is empty: {entry:x?}");
        check!(entry.kind <= 8 && (entry.kind != 8 || facts.revision >= 4), "entry {index} is {entry:x?}");
        last = entry.base;
        let others =
            || map.entries().enumerate().filter(|(other, _)| *other != index).map(|(_, other)| other);
        let overlapped = others().any(|other| other.base < entry.end && entry.base < other.end);
        overlaps += u64::from(overlapped);
        if is_exclusive(entry.kind) {
            check!((entry.base | entry.end) % PAGE == 0, "entry {index} is not aligned: {entry:x?}");
            check!(!overlapped, "entry {index} overlaps another: {entry:x?}");
        }
        if entry.kind == Kind::Usable as u64 {
            usable += entry.end - entry.base;
            touching_usable += u64::from(others().any(|other| other.kind == 0 && other.base == entry.end));
            check!(entry.base > 0 || facts.revision >= 3, "page 0 is usable");
        }
    }
    check!(usable > 32 << 20, "only {usable} bytes are usable");
    let is = |word: &str| if expected.says(word) { "yes" } else { "no" };
    check!(
        (touching_usable > 0) == expected.says("map_fragmented"),
        "fragmented? should be {}",
        is("map_fragmented")
    );
    check!(
        (overlaps > 0) == expected.says("map_overlapping"),
        "overlapping? should be {}",
        is("map_overlapping")
    );
    let descends = map.place(0) > map.place(map.count - 1);
    check!(descends == expected.says("map_reversed"), "reversed? should be {}", is("map_reversed"));
}

/// The direct map contains what the revision says, all of it, and nothing else.
fn check_tables(facts: &Facts, state: &EntryState) {
    let mut direct_bytes = 0;
    walk::leaves(
        state.cr3,
        facts.hhdm,
        &mut |table| {
            facts.check_kind(table, PAGE, Kind::BootloaderReclaimable, "a page table");
        },
        &mut |leaf| {
            if facts.image_virtual <= leaf.address {
                return facts.check_image_page(leaf);
            }
            if leaf.address < facts.hhdm {
                check!(facts.revision == 0 && leaf.address == leaf.physical, "what is this: {leaf:x?}");
                return check_direct_leaf(facts, leaf);
            }
            check!(leaf.address - facts.hhdm == leaf.physical, "not the direct map: {leaf:x?}");
            direct_bytes += leaf.bytes;
            check_direct_leaf(facts, leaf);
        },
    );
    let expected = expected_bytes(facts);
    check!(direct_bytes == expected, "the direct map has {direct_bytes:#x} bytes, not {expected:#x}");
}

fn check_direct_leaf(facts: &Facts, leaf: Leaf) {
    check!(leaf.writable && leaf.executable && !leaf.user, "wrong rights: {leaf:x?}");
    let from = if facts.revision <= 2 { leaf.physical.max(FIRST_4_GIB) } else { leaf.physical };
    let end = leaf.physical + leaf.bytes;
    let covered = from >= end || facts.map.covers(from, end, |kind| is_mapped(facts.revision, kind));
    check!(covered, "mapped, but not to be mapped: {leaf:x?}");
}

/// Whether the direct map contains memory of this kind.
fn is_mapped(revision: u64, kind: u64) -> bool {
    match (revision, kind) {
        (0, _) => true,
        (1 | 2, 1 | 4) => false,
        (1 | 2, _) => true,
        (3, 0 | 5 | 6 | 7) => true,
        (3, _) => false,
        (_, 1 | 4) => false,
        _ => true,
    }
}

/// How much the direct map should contain: the union of all that is mapped, in whole pages.
fn expected_bytes(facts: &Facts) -> u64 {
    let first = if facts.revision <= 2 { FIRST_4_GIB } else { 0 };
    let (mut total, mut reached) = (first, first);
    for entry in facts.map.entries().filter(|entry| is_mapped(facts.revision, entry.kind)) {
        let (base, end) = (entry.base / PAGE * PAGE, entry.end.next_multiple_of(PAGE));
        total += end.saturating_sub(base.max(reached));
        reached = reached.max(end);
    }
    total
}

fn check_is_memory(address: u64) {
    let word = address as *mut u64;
    for pattern in [0x5e1c_15aa_55aa_55ff, !0x5e1c_15aa_55aa_55ff] {
        // SAFETY: usable memory: nobody uses it, and the direct map has been checked to contain it.
        let read = unsafe {
            word.write_volatile(pattern);
            word.read_volatile()
        };
        check!(read == pattern, "usable memory at {address:#x} keeps nothing");
    }
}
