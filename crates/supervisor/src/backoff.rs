//! How long a process waits before it is started again.

/// After the first end.
pub const FIRST_NS: u64 = 100_000_000;
/// At most. Each end after a short run doubles the time: 100 ms, 200 ms … 51.2 s, 60 s.
pub const MAX_NS: u64 = 60_000_000_000;
/// A run that lasted so long was no part of a series: after it the first time holds again.
pub const STABLE_NS: u64 = 10_000_000_000;

/// Counts the ends of a series.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backoff {
    short_runs: u32,
}

impl Backoff {
    /// A run has ended that lasted so long: how long to wait.
    pub fn after_run(&mut self, ran_ns: u64) -> u64 {
        if ran_ns >= STABLE_NS {
            self.short_runs = 0;
        }
        let factor = 1u64.checked_shl(self.short_runs).unwrap_or(u64::MAX);
        self.short_runs = self.short_runs.saturating_add(1);
        FIRST_NS.saturating_mul(factor).min(MAX_NS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    #[test]
    fn the_time_doubles_up_to_its_most() {
        let mut backoff = Backoff::default();
        let waits: Vec<u64> = (0..12).map(|_| backoff.after_run(STABLE_NS - 1) / 1_000_000).collect();
        assert_eq!(waits, [100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 51_200, 60_000, 60_000]);
    }

    #[test]
    fn a_stable_run_begins_a_new_series() {
        let mut backoff = Backoff::default();
        for _ in 0..100 {
            backoff.after_run(0);
        }
        assert_eq!(backoff.after_run(STABLE_NS), FIRST_NS);
        assert_eq!(backoff.after_run(0), 2 * FIRST_NS);
    }
}
