//! What a CPU remembers of address spaces, against a TLB that never forgets by itself.

#[path = "../src/slots.rs"]
mod slots;

use slots::{Entries, SLOTS, Slots};
use std::collections::HashMap;

/// Spaces change, run, and are told of changes; what the TLB holds under the identifier that runs must always be of the space that
/// runs, as it is.
#[test]
fn nothing_stale_is_ever_kept() {
    let mut state = 0x5e1f_1c4a_0b5e_55edu64;
    let mut random = |end: u64| {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        state.wrapping_mul(0x2545_f491_4f6c_dd1d) % end
    };
    let mut slots = Slots::new();
    // By identifier: whose entries the TLB holds, of which generation.
    let mut tlb: HashMap<u64, (u64, u64)> = HashMap::new();
    let mut generations: HashMap<u64, u64> = HashMap::new();
    let (mut running, mut kept) = (None, 0);
    for _ in 0..100_000 {
        // Old spaces end and new ones come, under new numbers.
        let space = 1 + generations.len() as u64 / 3 + random(2 * SLOTS as u64);
        let generation = *generations.entry(space).or_insert(0);
        match random(4) {
            0 => {
                generations.insert(space, generation + 1);
                if let Some((number, identifier)) = running.filter(|(number, _)| *number == space) {
                    slots.forgot(number, generation + 1);
                    tlb.insert(identifier, (number, generation + 1));
                }
            }
            1 => running = None,
            _ => {
                let (identifier, entries) = slots.enter(space, generation);
                assert!((1..=SLOTS as u64).contains(&identifier));
                match entries {
                    Entries::Keep => {
                        kept += 1;
                        assert_eq!(tlb[&identifier], (space, generation));
                    }
                    Entries::Forget => _ = tlb.insert(identifier, (space, generation)),
                }
                running = Some((space, identifier));
            }
        }
    }
    assert!(kept > 1_000, "only {kept} were kept");
}
