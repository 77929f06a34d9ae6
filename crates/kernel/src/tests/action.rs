//! What hostile domains do: an action and the bytes that choose among what there is when it is done.
//!
//! Every list of steps is an input and a part of one is one too. What a byte means depends on the state, so that most steps are about
//! something that exists: a handle that fits, a region and what lies around it.

use super::{BASE, UPCALL_PAGE};
use abi::{PAGE_SIZE, Span};

/// One step: on which CPU, what, and with what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    pub cpu: u8,
    pub act: Act,
    pub with: [u8; 6],
}

/// As failing inputs are printed.
pub const fn step(cpu: u8, act: Act, with: [u8; 6]) -> Step {
    Step { cpu, act, with }
}

macro_rules! acts {
    ($($(#[$doc:meta])* $act:ident)*) => {
        /// What is done.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Act {
            $($(#[$doc])* $act,)*
        }

        impl Act {
            pub const ALL: &[Self] = &[$(Self::$act),*];
        }
    };
}

// Requests have their own names.
acts! {
    Map Protect Reset Unmap SetUpcall Resume SetTimer Wait Now Listen Acknowledge ReadConfig WriteConfig OpenPorts Print Stop Derive Grant
    Release Revoke NextRevoked CreateDomain CreateVcpu Start End CreateMemory CreateChannel OtherEnd CreateEvent Signal Inspect
    Trace ReadMarks CpuTime
    /// Registers without sense.
    Raw
    /// A domain with what it needs to run.
    Spawn
    /// An access that the domain may make.
    Touch
    /// One to each page of a span.
    Sweep
    /// Any exception.
    Fault
    /// A write to the domain's memory.
    Poke
    Alarm
    /// An interrupt of a device.
    Interrupt
    /// Time goes by.
    Pass
    /// The machine has no frame, once.
    Starve
}

impl Act {
    /// Those that the others need before they come to much.
    pub const FREQUENT: &[Self] = {
        use Act::*;
        &[
            Map,
            Map,
            Map,
            Touch,
            Touch,
            Touch,
            Touch,
            Protect,
            Unmap,
            Reset,
            Spawn,
            Grant,
            Grant,
            Derive,
            Revoke,
            Release,
            CreateMemory,
            CreateChannel,
            Listen,
            Interrupt,
            Alarm,
            Pass,
            Wait,
        ]
    };
}

/// Where domains map: pages that share tables, pages that do not, and what they begin with.
const AREAS: [u64; 8] =
    [BASE, BASE, BASE, BASE + (1 << 21) - 2 * PAGE_SIZE, UPCALL_PAGE, SCRATCH, 0x1000_1000, 0x7100_0000_0000];
pub const SCRATCH: u64 = BASE + (1 << 30);
const PAGES: [u64; 16] = [1, 1, 1, 1, 2, 2, 3, 4, 8, 16, 17, 64, 513, 2100, 0, 1 << 36];
/// From here on, a byte for a place names a region, and one for a length has to do with it.
const BY_REGION: u8 = 0x80;

/// Few pages, so that one step meets what another did.
pub fn fixed(at: u8) -> u64 {
    AREAS[usize::from(at >> 4 & 7)] + u64::from(at & 3) * PAGE_SIZE
}

/// Bytes, in pages.
pub fn length(size: u8) -> u64 {
    PAGES[usize::from(size & 15)].wrapping_mul(PAGE_SIZE)
}

/// A span at, in or beside one of `regions`, which are spans too; or anywhere.
pub fn span(regions: &[Span], at: u8, size: u8) -> Span {
    let count = regions.len().max(1);
    let chosen = regions.get(usize::from(at & 0x0f) % count).filter(|_| at >= BY_REGION);
    let Some(&Span { base, length: whole }) = chosen else { return Span::new(fixed(at), length(size)) };
    let half = (whole / 2).next_multiple_of(PAGE_SIZE);
    let base = match at >> 4 & 7 {
        0 | 1 => base,
        2 => base + PAGE_SIZE,
        3 => base + half,
        4 => base + whole - PAGE_SIZE,
        5 => base + whole,
        6 => base.saturating_sub(PAGE_SIZE),
        _ => base.saturating_sub(half),
    };
    let end = chosen.and_then(|region| region.end()).unwrap_or(base);
    let length = match size {
        ..BY_REGION => length(size),
        0x80..0xa0 => whole,
        0xa0..0xc0 => end.saturating_sub(base),
        0xc0..0xd0 => half,
        0xd0..0xe0 => whole - PAGE_SIZE,
        _ => whole + PAGE_SIZE,
    };
    Span::new(base, length)
}
