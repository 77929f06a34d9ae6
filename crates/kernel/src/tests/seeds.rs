//! What the fuzzer begins with: small things that domains do, of which it makes longer and stranger ones.
//!
//! Bytes are as [`super::choose`] reads them: of a handle 0 is the newest that fits; of a place, `A` and `B` are fixed and `R` is the
//! first region; of a map, the fourth says protection, commitment and backing.

use super::action::Act::*;
use super::action::{Step, step};

/// Places: the first page of an area, the page after, another area, one whose tables are shared with none.
const A: u8 = 0x00;
const A1: u8 = 0x01;
const B: u8 = 0x40;
const FAR: u8 = 0x50;
/// Places by region: the first's beginning, its second page, its middle, its end; and the last region's beginning.
const R: u8 = 0x80;
const R_SECOND: u8 = 0xa0;
const R_MIDDLE: u8 = 0xb0;
const R_END: u8 = 0xd0;
/// Lengths in pages, and as long as the region.
const ONE: u8 = 0;
const FOUR: u8 = 7;
const MANY: u8 = 11;
const BIG: u8 = 12;
const MOST: u8 = 13;
const WHOLE: u8 = 0x80;
/// Protection.
const RW: u8 = 0;
const RO: u8 = 1;
const NO_ACCESS: u8 = 3;
const NOW: u8 = 4;
/// Backing.
const IMAGE: u8 = 0;
const DEVICE: u8 = 1 << 3;
const DMA: u8 = 2 << 3;
const MEMORY: u8 = 3 << 3;
const PRIVATE: u8 = MEMORY | 0x40;
const ZERO: u8 = 6 << 3;
/// Accesses; `EACH` page of a sweep.
const READ: u8 = 0;
const WRITE: u8 = 1;
const EACH: u8 = 0x80;
/// Marks that are taken away when they are read.
const CLEAR: u8 = 1;
/// Of whoever asks, and of another.
const OWN: u8 = 0;
const CHILD: u8 = 3;
/// A deadline that never comes, and one that has passed.
const NEVER: u8 = 0xc0;
const PASSED: u8 = 0;
/// A child with one virtual CPU, 400 frames, 24 capabilities, 30 regions, 2 virtual CPUs, 7 objects and 2 domains.
const SPAWN: [u8; 6] = [0, 100, 0xf7, 0x5d, 1, 1];
/// The same with hardly any frames; with a budget of 5 ms; held to CPU 1.
const POOR: [u8; 6] = [0, 6, 0xf7, 0x5d, 1, 1];
const SHORT: [u8; 6] = [0, 100, 0xf7, 0x5d, 0x0d, 2];
const HELD: [u8; 6] = [0, 100, 0xf7, 0x5d, 0x21, 2];

pub const SEEDS: &[&[Step]] = &[
    // Private copies of a memory, beside pages that are still shared.
    &[
        step(0, CreateMemory, [OWN, 0, MANY, 0, 0, 0]),
        step(0, Map, [OWN, A, 10, PRIVATE | RW, 0, 1]),
        step(0, Touch, [R_SECOND, WRITE, 0, 0, 0, 0]),
        step(0, Touch, [R, READ, 0, 0, 0, 0]),
        step(0, Sweep, [R, WHOLE, EACH | WRITE, 0, 0, 0]),
        step(0, Reset, [OWN, R_SECOND, FOUR, 0, 0, 0]),
        step(0, Touch, [R_SECOND, READ, 0, 0, 0, 0]),
        step(0, Unmap, [OWN, R_MIDDLE, ONE, 0, 0, 0]),
    ],
    // The same, paid for at once.
    &[
        step(0, CreateMemory, [OWN, 0, MANY, 0, 0, 0]),
        step(0, Map, [OWN, FAR, FOUR, PRIVATE | RW | NOW, 0, 0]),
        step(0, Sweep, [R, WHOLE, EACH | WRITE, 0, 0, 0]),
        step(0, Reset, [OWN, R, ONE, 0, 0, 0]),
        step(0, Protect, [OWN, R_SECOND, ONE, RO, 0, 0]),
    ],
    // Regions that continue each other, and are split, changed and joined again.
    &[
        step(0, Map, [OWN, A, FOUR, ZERO | RW, 0, 0]),
        step(0, Map, [OWN, R_END, FOUR, ZERO | RW, 0, 0]),
        step(0, Map, [OWN, R_END, FOUR, ZERO | RW | NOW, 0, 0]),
        step(0, Sweep, [R, WHOLE, EACH | WRITE, 0, 0, 0]),
        step(0, Protect, [OWN, R_MIDDLE, ONE, RO, 0, 0]),
        step(0, Protect, [OWN, R_MIDDLE, ONE, RW, 0, 0]),
        step(0, Unmap, [OWN, R_SECOND, ONE, 0, 0, 0]),
    ],
    // One memory in many places, then taken back.
    &[
        step(0, CreateMemory, [OWN, 0, MANY, 0, 0, 0]),
        step(0, Derive, [0, 0, 0, 0, 0, 0]),
        step(0, Map, [OWN, A, FOUR, MEMORY | RW, 0, 0]),
        step(0, Map, [OWN, R_END, FOUR, MEMORY | RW, 0, 2]),
        step(0, Map, [OWN, FAR, FOUR, PRIVATE | RW, 0, 2]),
        step(0, Map, [OWN, B, MANY, MEMORY | RW, 0, 0]),
        step(0, Sweep, [R, WHOLE, WRITE, 0, 0, 0]),
        step(0, Revoke, [0, PASSED, 0, 0, 0, 0]),
    ],
    // What is cut out of what was mapped to be read.
    &[
        step(0, Map, [OWN, A, FOUR, IMAGE | RW, 0x80, 0]),
        step(0, Map, [OWN, FAR, FOUR, IMAGE | RW, 0x81, 0]),
        step(0, Map, [OWN, B, ONE, IMAGE | RW, 0xa1, 0]),
        step(0, Sweep, [R, WHOLE, EACH | WRITE, 0, 0, 0]),
    ],
    // More than is done at once.
    &[
        step(0, Map, [OWN, FAR, MOST, ZERO | RW, 0, 0]),
        step(0, Sweep, [FAR, MOST, EACH | WRITE, 0, 0, 0]),
        step(0, Protect, [OWN, FAR, MOST, RO, 0, 0]),
        step(0, Alarm, [0; 6]),
        step(0, Protect, [OWN, FAR, MOST, RO, 0, 0]),
        step(0, Unmap, [OWN, FAR, MOST, 0, 0, 0]),
        step(0, Unmap, [OWN, FAR, MOST, 0, 0, 0]),
    ],
    // What CPUs note of pages, read and cleared.
    &[
        step(0, Map, [OWN, A, FOUR, IMAGE | RW, 0x80, 0]),
        step(0, Map, [OWN, B, ONE, ZERO | RW, 0, 0]),
        step(0, Sweep, [A, FOUR, EACH | READ, 0, 0, 0]),
        step(0, Touch, [A1, WRITE, 0, 0, 0, 0]),
        step(0, ReadMarks, [OWN, A, FOUR, CLEAR, B, 0]),
        step(0, Protect, [OWN, A1, ONE, RO, 0, 0]),
        step(0, Sweep, [A, FOUR, EACH | READ, 0, 0, 0]),
        step(0, ReadMarks, [OWN, A, MOST, CLEAR, A, 0]),
    ],
    // Upcalls, and the page that they go to.
    &[
        step(0, Map, [OWN, B, FOUR, ZERO | RW, 0, 0]),
        step(0, SetUpcall, [OWN, B, 0, 0, 0, 0]),
        step(0, SetTimer, [OWN, 0x41, 0, 0, 0, 0]),
        step(0, Pass, [10, 0, 0, 0, 0, 0]),
        step(0, Alarm, [0; 6]),
        step(0, Resume, [OWN, 0, 0, 0, 0, 0]),
        step(0, Reset, [OWN, B, ONE, 0, 0, 0]),
        step(0, Protect, [OWN, B, ONE, NO_ACCESS, 0, 0]),
        step(0, Fault, [A1, 0, 0, 0, 0, 0]),
        step(0, Resume, [OWN, 1, 0, 0, 0, 0]),
    ],
    // A device's interrupts and memory.
    &[
        step(0, Listen, [0, 0, 0, 2, 0, 1]),
        step(0, Listen, [1, 1, 0, 2, 0, 2]),
        step(0, Interrupt, [0, 0, 0, 0, 0, 0]),
        step(0, Listen, [1, 1, 0, 2, 0, 3]),
        step(0, Acknowledge, [1, 1, 0, 0, 0, 0]),
        step(0, Map, [OWN, A, FOUR, DEVICE | RW, 1, 1]),
        step(0, Sweep, [R, WHOLE, EACH | WRITE, 0, 0, 0]),
        step(0, Map, [OWN, FAR, FOUR, DMA | RW, 1, 0]),
        step(0, Unmap, [OWN, 0x71, ONE, 0, 0, 0]),
        step(0, WriteConfig, [1, 4, 4, 0, 0, 0]),
    ],
    // A device that is lent, and taken back.
    &[
        step(0, Spawn, SPAWN),
        step(0, Grant, [2, 0, 0, CHILD, 0, 0]),
        step(0, Grant, [3, 0, 0, CHILD, 0, 0]),
        step(1, OpenPorts, [0, 0, 0, 0, 0, 0]),
        step(1, OpenPorts, [1, 0, 0, 0, 0, 0]),
        step(1, Listen, [1, 1, 0, 2, 0, 2]),
        step(1, Listen, [0, 1, 0, 2, 0, 2]),
        step(1, Map, [OWN, A, FOUR, DEVICE | RW, 1, 1]),
        step(1, Map, [OWN, B, FOUR, DEVICE | RW, 0, 1]),
        step(1, Sweep, [R, WHOLE, EACH | WRITE, 0, 0, 0]),
        step(1, Interrupt, [0, 0, 0, 0, 0, 0]),
        step(1, Derive, [1, 1, 2, 0, 0, 0]),
        step(1, Release, [0; 6]),
        step(0, Revoke, [1, PASSED, 0, 0, 0, 0]),
        step(0, Revoke, [2, PASSED, 0, 0, 0, 0]),
        step(0, Listen, [1, 1, 0, 2, 0, 2]),
        step(0, Listen, [0, 1, 0, 2, 0, 2]),
    ],
    // A channel between two, and the end of one side.
    &[
        step(0, Spawn, SPAWN),
        step(0, CreateChannel, [OWN, 0, FOUR, 0, 0, 0]),
        step(0, OtherEnd, [0; 6]),
        step(0, Grant, [0, 0, 0, CHILD, 0, 0]),
        step(0, Map, [OWN, A, FOUR, MEMORY | RW, 1, 0]),
        step(1, Map, [OWN, A, FOUR, PRIVATE | RW, 0, 0]),
        step(1, Sweep, [R, WHOLE, EACH | WRITE, 0, 0, 0]),
        step(1, Listen, [0, 0, 0, 1, 0, 3]),
        step(0, Signal, [1, 0, 0, 0, 0, 0]),
        step(1, Wait, [OWN, NEVER, 0, 0, 0, 0]),
        step(1, Release, [0; 6]),
        step(0, Signal, [1, 0, 0, 0, 0, 0]),
        step(0, Release, [1, 0, 0, 0, 0, 0]),
    ],
    // Revocation of what others have derived further, by one who waits for it.
    &[
        step(0, CreateMemory, [OWN, 0, FOUR, 0, 0, 0]),
        step(0, Derive, [0; 6]),
        step(0, Spawn, SPAWN),
        step(0, Grant, [3, 0, 0, CHILD, 0, 0]),
        step(1, Derive, [0; 6]),
        step(1, Derive, [1, 0, 0, 0, 0, 0]),
        step(0, Revoke, [0, NEVER, 0, 0, 0, 0]),
        step(1, NextRevoked, [OWN, 0, 0, 0, 0, 0]),
        step(1, Derive, [0; 6]),
        step(1, Release, [0; 6]),
        step(1, Release, [0; 6]),
        step(1, Release, [0; 6]),
    ],
    // So much that it is taken in pieces, while its holder goes on; and given back so.
    &[
        step(0, Spawn, SPAWN),
        step(0, CreateMemory, [OWN, 0, BIG, 0, 0, 0]),
        step(0, Grant, [0, 0, 0, CHILD, 0, 0]),
        step(1, Derive, [0; 6]),
        step(1, Map, [OWN, A, BIG, PRIVATE | RO, 1, 0]),
        step(1, Map, [OWN, R_END, BIG, PRIVATE | RO, 1, 0]),
        step(1, Map, [OWN, R_END + 1, BIG, PRIVATE | RO, 1, 0]),
        step(1, Map, [OWN, R_END + 2, BIG, PRIVATE | RO, 1, 0]),
        step(1, Sweep, [R, WHOLE, READ, 0, 0, 0]),
        step(1, Sweep, [R + 1, WHOLE, READ, 0, 0, 0]),
        step(1, Sweep, [R + 2, WHOLE, READ, 0, 0, 0]),
        step(1, Sweep, [R + 3, WHOLE, READ, 0, 0, 0]),
        step(1, Release, [1, 0, 0, 0, 0, 0]),
        step(1, Alarm, [0; 6]),
        step(0, Revoke, [0, PASSED, 0, 0, 0, 0]),
        step(1, Map, [OWN, B, ONE, IMAGE | RO, R, 0]),
        step(1, Release, [1, 0, 0, 0, 0, 0]),
    ],
    // The same by several virtual CPUs of one domain, one of which gives back what the others wait for.
    &[
        step(0, CreateVcpu, [OWN, 0, 0, 0, 0, 0]),
        step(0, Start, [0, A, 0, 0, 0, 0]),
        step(0, CreateMemory, [OWN, 0, FOUR, 0, 0, 0]),
        step(0, Derive, [0; 6]),
        step(0, Derive, [0; 6]),
        step(0, Revoke, [0, NEVER, 0, 0, 0, 0]),
        step(1, Revoke, [1, 0x50, 0, 0, 0, 0]),
        step(1, Pass, [12, 0, 0, 0, 0, 0]),
        step(1, Alarm, [0; 6]),
    ],
    // Domains in domains, and the end of those between.
    &[
        step(0, Spawn, SPAWN),
        step(1, Spawn, POOR),
        step(2, Map, [OWN, A, MANY, ZERO | RW, 0, 0]),
        step(2, Sweep, [R, WHOLE, EACH | WRITE, 0, 0, 0]),
        step(2, CreateMemory, [OWN, 0, MANY, 0, 0, 0]),
        step(1, CreateVcpu, [CHILD, 0, 0, 0, 0, 0]),
        step(1, End, [OWN, 7, 0, 0, 0, 0]),
        step(0, End, [CHILD, 7, 0, 0, 0, 0]),
        step(2, Alarm, [0; 6]),
        step(0, End, [CHILD, 7, 0, 0, 0, 0]),
    ],
    // What one maps into another's memory, by a capability of its own.
    &[
        step(0, Spawn, SPAWN),
        step(0, CreateMemory, [OWN, 0, MANY, 0, 0, 0]),
        step(0, Map, [CHILD, A, FOUR, MEMORY | RW, 0, 0]),
        step(0, Map, [CHILD, FAR, FOUR, PRIVATE | RW | NOW, 0, 0]),
        step(1, Sweep, [R, WHOLE, EACH | WRITE, 0, 0, 0]),
        step(0, Protect, [CHILD, R, ONE, RO, 0, 0]),
        step(0, Release, [0; 6]),
    ],
    // Budgets, and CPUs that not everybody may use.
    &[
        step(0, Spawn, SHORT),
        step(0, Spawn, HELD),
        step(0, Wait, [OWN, NEVER, 0, 0, 0, 0]),
        step(1, Pass, [12, 0, 0, 0, 0, 0]),
        step(1, Alarm, [0; 6]),
        step(2, Alarm, [0; 6]),
        step(0, Alarm, [0; 6]),
        step(1, Pass, [13, 0, 0, 0, 0, 0]),
        step(1, Alarm, [0; 6]),
        step(2, Wait, [OWN, 0x50, 0, 0, 0, 0]),
    ],
    // CPUs that are traced into a memory that is copied, and goes.
    &[
        step(0, CreateMemory, [OWN, 0, FOUR, 0, 0, 0]),
        step(0, Derive, [0; 6]),
        step(0, Trace, [0, 0, 0, 0, 0, 0]),
        step(0, Map, [OWN, A, FOUR, PRIVATE | RW, 0, 0]),
        step(0, Touch, [A, WRITE, 0, 0, 0, 0]),
        step(0, Trace, [0, 1, 1, 0, 0, 0]),
        step(1, Alarm, [0; 6]),
        step(0, Release, [0; 6]),
        step(0, Wait, [OWN, 0x50, 0, 0, 0, 0]),
        step(0, Release, [0; 6]),
    ],
    // No frame when one is needed.
    &[
        step(0, Map, [OWN, FAR, FOUR, ZERO | RW, 0, 0]),
        step(0, Starve, [0; 6]),
        step(0, Touch, [FAR, WRITE, 0, 0, 0, 0]),
        step(0, Starve, [1, 0, 0, 0, 0, 0]),
        step(0, Map, [OWN, A, MANY, DMA | RW | NOW, 0, 0]),
        step(0, Starve, [1, 0, 0, 0, 0, 0]),
        step(0, Map, [OWN, A, MANY, ZERO | RW | NOW, 0, 0]),
        step(0, Spawn, SPAWN),
        step(0, Starve, [0; 6]),
        step(0, CreateVcpu, [CHILD, 0, 0, 0, 0, 0]),
        step(0, Starve, [0; 6]),
        step(0, CreateMemory, [OWN, 0, MANY, 0, 0, 0]),
    ],
];
