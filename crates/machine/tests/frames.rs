//! The free frames, against a list of booleans. The rest of the crate exists on the bare machine only.

#[path = "../src/frames.rs"]
mod frames;
#[allow(dead_code, reason = "tests/ranges.rs uses the rest")]
#[path = "../src/ranges.rs"]
mod ranges;

use abi::PAGE_SIZE;
use frames::{Pool, words_needed};
use ranges::{Range, RangeKind};

fn random(state: &mut u64, end: u64) -> u64 {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    state.wrapping_mul(0x2545_f491_4f6c_dd1d) % end
}

fn range(first: u64, end: u64, kind: RangeKind) -> Range {
    Range { base: first * PAGE_SIZE, end: end * PAGE_SIZE, kind }
}

/// What holds for a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Nowhere,
    Loader,
    Free,
    Taken,
}
use State::{Free, Loader, Nowhere, Taken};

fn has_run(model: &[State], count: u64) -> bool {
    model.chunk_by(|a, b| a == b).any(|run| run[0] == Free && run.len() as u64 >= count)
}

/// Takes from the model what the pool has taken.
fn check_taken(model: &mut [State], taken: Option<u64>, count: u64) -> Option<u64> {
    assert_eq!(taken.is_some(), has_run(model, count), "a run of {count}");
    let first = taken?;
    let frames = &mut model[first as usize..(first + count) as usize];
    assert!(frames.iter().all(|state| *state == Free), "{count} frames from {first}");
    frames.fill(Taken);
    taken
}

#[test]
fn every_free_frame_is_found_and_no_other() {
    // Pieces that touch are one run to the model, so there are holes between them; the third begins and ends inside of a word.
    let ranges = [
        range(0, 60, RangeKind::Free),
        range(61, 250, RangeKind::Module),
        range(251, 271, RangeKind::Free),
        range(300, 700, RangeKind::Loader),
        range(5000, 6000, RangeKind::Free),
    ];
    for seed in 1..60 {
        let state = &mut (seed * 0x9e37_79b9_7f4a_7c15);
        let mut model = vec![Nowhere; 6000];
        for range in ranges {
            let kind = match range.kind {
                RangeKind::Free => Free,
                RangeKind::Loader => Loader,
                RangeKind::Module => continue,
            };
            model[(range.base / PAGE_SIZE) as usize..(range.end / PAGE_SIZE) as usize].fill(kind);
        }
        model[0] = Nowhere;
        let mut storage = vec![0xdead_beef_dead_beef; words_needed(&ranges)];
        let mut pool = Pool::new();
        pool.begin(&mut storage, &ranges);
        let mut held: Vec<(u64, u64)> = Vec::new();
        for step in 0..2_000 {
            match random(state, 8) {
                0..3 => {
                    let mut frames = [0; 40];
                    let wanted = random(state, 41) as usize;
                    let count = pool.take_some(&mut frames[..wanted]);
                    let free = model.iter().filter(|state| **state == Free).count();
                    assert_eq!(count, wanted.min(free));
                    for &frame in &frames[..count] {
                        check_taken(&mut model, Some(frame), 1);
                        held.push((frame, 1));
                    }
                }
                3..5 => {
                    let count = 1 + random(state, 150);
                    held.extend(
                        check_taken(&mut model, pool.take_run(count), count).map(|first| (first, count)),
                    );
                }
                _ if !held.is_empty() => {
                    let (first, count) = held.swap_remove(random(state, held.len() as u64) as usize);
                    // Sometimes a part comes back first.
                    let part = if random(state, 2) == 0 { count } else { random(state, count) };
                    for (first, count) in [(first, part), (first + part, count - part)] {
                        pool.give(first, count);
                        model[first as usize..(first + count) as usize].fill(Free);
                    }
                }
                _ => (),
            }
            if step == 700 {
                pool.release();
                model.iter_mut().filter(|state| **state == Loader).for_each(|state| *state = Free);
            }
            assert_eq!(pool.free_count(), model.iter().filter(|state| **state == Free).count() as u64);
        }
    }
}

#[test]
fn nothing_and_too_much_is_no_run() {
    let ranges = [range(10, 20, RangeKind::Free)];
    let mut storage = vec![u64::MAX; words_needed(&ranges)];
    let mut pool = Pool::new();
    assert_eq!(pool.take_some(&mut [0; 4]), 0);
    pool.begin(&mut storage, &ranges);
    assert_eq!((pool.take_run(0), pool.take_run(11), pool.take_run(u64::MAX)), (None, None, None));
    assert_eq!(pool.take_run(10), Some(10));
    assert_eq!(pool.take_some(&mut [0; 4]), 0);
}

#[test]
#[should_panic(expected = "free already")]
fn giving_twice_is_noticed() {
    let ranges = [range(10, 20, RangeKind::Free)];
    let mut storage = vec![0; words_needed(&ranges)];
    let mut pool = Pool::new();
    pool.begin(&mut storage, &ranges);
    let frame = pool.take_run(1).unwrap();
    pool.give(frame, 1);
    pool.give(frame, 1);
}

#[test]
#[should_panic(expected = "never taken")]
fn giving_what_is_not_ours_is_noticed() {
    let ranges = [range(10, 20, RangeKind::Free)];
    let mut storage = vec![0; words_needed(&ranges)];
    let mut pool = Pool::new();
    pool.begin(&mut storage, &ranges);
    pool.give(15, 1);
}
