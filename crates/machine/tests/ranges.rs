//! The list of RAM, against a set of pages. The rest of the crate exists on the bare machine only.

#[path = "../src/ranges.rs"]
mod ranges;

use abi::PAGE_SIZE;
use ranges::{RANGES_MAX, Range, RangeKind, Ranges};

fn spans(ranges: &Ranges) -> Vec<(u64, u64)> {
    ranges.as_slice().iter().map(|range| (range.base, range.end)).collect()
}

#[test]
fn only_whole_pages_are_memory() {
    let mut ranges = Ranges::new();
    ranges.add(0x1001, 0x1fff, RangeKind::Free);
    ranges.add(0x5800, 0x1000, RangeKind::Free);
    ranges.add(0x8800, 0x1fff, RangeKind::Free);
    assert_eq!(spans(&ranges), [(0x2000, 0x3000), (0x9000, 0xa000)]);
}

#[test]
fn the_end_of_the_address_space_is_no_trap() {
    let mut ranges = Ranges::new();
    ranges.add(u64::MAX - 10, 5, RangeKind::Free);
    ranges.add(u64::MAX - 10, u64::MAX, RangeKind::Free);
    assert_eq!(spans(&ranges), []);
    ranges.add(0x1000, u64::MAX, RangeKind::Free);
    ranges.exclude(0x5000, u64::MAX);
    assert_eq!(spans(&ranges), [(0x1000, 0x5000)]);
}

#[test]
fn a_full_list_has_room_for_the_module() {
    let mut ranges = Ranges::new();
    for index in 0..2 * RANGES_MAX as u64 {
        ranges.add(index * 0x10_000, 0x8000, RangeKind::Free);
    }
    assert_eq!(ranges.as_slice().len(), RANGES_MAX);
    let module = Range { base: 0x1_2000, end: 0x1_4000, kind: RangeKind::Module };
    ranges.add(module.base, module.end - module.base, module.kind);
    assert!(ranges.as_slice().contains(&module));
}

/// Adds and takes out at random, and compares with what each page holds.
#[test]
fn every_page_is_listed_once() {
    const PAGES: u64 = 64;
    let mut state = 0x5e1f_1c4a_0b5e_55edu64;
    let mut random = |end: u64| {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        state.wrapping_mul(0x2545_f491_4f6c_dd1d) % end
    };
    for _ in 0..2_000 {
        let mut ranges = Ranges::new();
        let mut model = [None; PAGES as usize];
        for _ in 0..8 {
            let base = random(PAGES * PAGE_SIZE);
            let end = base + random(PAGES * PAGE_SIZE - base);
            let add = [Some(RangeKind::Free), Some(RangeKind::Loader), None][random(3) as usize];
            match add {
                Some(kind) => ranges.add(base, end - base, kind),
                None => ranges.exclude(base, end),
            }
            for (page, holds) in (0..).zip(&mut model) {
                let (first, behind) = (page * PAGE_SIZE, (page + 1) * PAGE_SIZE);
                let touched = base.max(first) < end.min(behind);
                let whole = base <= first && behind <= end;
                match add {
                    Some(_) if whole => *holds = add,
                    None if touched => *holds = None,
                    _ => (),
                }
            }
        }
        assert!(ranges.as_slice().is_sorted_by(|one, next| one.end <= next.base), "{:?}", ranges.as_slice());
        for (page, holds) in (0..).zip(model) {
            let address = page * PAGE_SIZE;
            let found = ranges.as_slice().iter().find(|range| (range.base..range.end).contains(&address));
            assert_eq!(found.map(|range| range.kind), holds, "page {page}");
        }
    }
}
