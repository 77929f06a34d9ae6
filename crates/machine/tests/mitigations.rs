//! What is done between domains, for CPUs that say this and that of themselves.

#[path = "../src/mitigations.rs"]
mod mitigations;

use mitigations::{ARCH_CAPABILITIES, Facts, Mitigations};

const NOTHING: Mitigations = Mitigations { predictors: false, buffers: false, cache: false };
const ALL: Mitigations = Mitigations { predictors: true, buffers: true, cache: true };
const OFFERS: u32 = 1 << 10 | 1 << 26 | 1 << 28 | ARCH_CAPABILITIES;

fn intel(capabilities: u64) -> Mitigations {
    Mitigations::choose(Facts { leaf_7_edx: OFFERS, capabilities, ..Facts::default() })
}

#[test]
fn a_cpu_without_anything_gets_nothing() {
    assert_eq!(Mitigations::choose(Facts::default()), NOTHING);
}

#[test]
fn a_cpu_that_leaks_gets_all() {
    assert_eq!(intel(0), ALL);
}

#[test]
fn what_the_cpu_does_not_need_is_left_out() {
    const MDS_NO: u64 = 1 << 5;
    assert_eq!(intel(1), Mitigations { cache: false, ..ALL });
    assert_eq!(intel(1 << 3), Mitigations { cache: false, ..ALL });
    assert_eq!(intel(MDS_NO), Mitigations { buffers: false, ..ALL });
    assert_eq!(intel(MDS_NO | 1 << 17), ALL, "stale data of memory-mapped I/O");
    assert_eq!(intel(MDS_NO | 1 << 17 | 0b111 << 13), Mitigations { buffers: false, ..ALL });
    assert_eq!(intel(MDS_NO | 1 << 28), ALL, "register file");
    assert_eq!(intel(MDS_NO | 1 << 28 | 1 << 27), Mitigations { buffers: false, ..ALL });
}

#[test]
fn amd_has_a_barrier_of_its_own() {
    let facts = Facts { leaf_8000_0008_ebx: 1 << 12, ..Facts::default() };
    assert_eq!(Mitigations::choose(facts), Mitigations { predictors: true, ..NOTHING });
}
