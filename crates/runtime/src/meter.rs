//! How much of the time that passes a virtual CPU runs. Others have the rest, and no process pays for it.
//!
//! The kernel knows, but to ask it is a request, which costs more than a switch. So a short turn is charged by the clock alone. At the end of a longer one, and
//! before a process ends for its CPU time, the kernel is asked, and what others have had since it was asked last comes off.

use crate::System;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A turn that was shorter counts as it passed on the clock, in nanoseconds: whoever gets the CPU in between has it for longer, as a rule.
pub(crate) const SHORT_NS: u64 = 100_000;

/// How old the last answer may be when a turn begins, in nanoseconds: what others have had since it, before that turn, comes off the turn.
const FRESH_NS: u64 = 1_000_000;

/// What a virtual CPU knows of this. Upcalls may ask while the code that they interrupt does.
pub(crate) struct Meter {
    /// How much time had passed in which it had not run, when the kernel was asked last. While it does not sleep this grows only by what others have.
    away_ns: AtomicU64,
    /// When that was; 0: it has slept since.
    asked_ns: AtomicU64,
}

impl Meter {
    pub const fn new() -> Self {
        Self { away_ns: AtomicU64::new(0), asked_ns: AtomicU64::new(0) }
    }

    /// A turn begins at `now_ns`. What passed without a turn comes off none.
    pub fn begin(&self, system: &System, now_ns: u64) {
        if now_ns.saturating_sub(self.asked_ns.load(Relaxed)) >= FRESH_NS {
            self.away_ns.store(now_ns.saturating_sub(system.cpu_time_ns()), Relaxed);
            self.asked_ns.store(now_ns, Relaxed);
        }
    }

    /// Asks the kernel: the time, and how much others have had since it was asked last.
    pub fn ask(&self, system: &System) -> (u64, u64) {
        let now_ns = system.now_ns();
        let away_ns = now_ns.saturating_sub(system.cpu_time_ns());
        self.asked_ns.store(now_ns, Relaxed);
        (now_ns, away_ns.saturating_sub(self.away_ns.fetch_max(away_ns, Relaxed)))
    }

    /// The virtual CPU has slept.
    pub fn forget(&self) {
        self.asked_ns.store(0, Relaxed);
    }
}
