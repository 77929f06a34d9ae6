//! Counters of two CPUs, some of them off by a known number.

#[path = "../src/counters.rs"]
mod counters;

use counters::{Round, ahead};

/// Rounds of `each` (how long the question and the answer took), by counters that differ by `offset`.
fn rounds(offset: i64, each: &[(u64, u64)]) -> Vec<Round> {
    let mut now = 1_000_000_000u64;
    let round = |&(question, answer): &(u64, u64)| {
        let asked = now;
        now += question + answer + 17;
        let answered = (asked + question).wrapping_add_signed(offset);
        Round { asked, answer: answered, heard: asked + question + answer }
    };
    each.iter().map(round).collect()
}

#[test]
fn equal_counters_are_possible() {
    assert_eq!(ahead(&rounds(0, &[(100, 90), (5_000, 3), (0, 0)])), None);
    assert_eq!(ahead(&[]), None);
}

#[test]
fn an_offset_that_shows_is_measured_by_the_quickest_round() {
    for offset in [-1_000_000_000, -200_000, -500, 300, 1 << 50] {
        let found = ahead(&rounds(offset, &[(90_000, 10), (100, 120), (10, 100_000)])).unwrap();
        assert!(found.abs_diff(offset) <= 110, "{offset}: {found}");
    }
}

#[test]
fn one_impossible_round_is_enough() {
    assert!(ahead(&rounds(50, &[(1_000, 1_000), (10, 20)])).is_some());
}
