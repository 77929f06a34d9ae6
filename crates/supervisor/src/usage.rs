//! What is used, over all runs.

use control::{Counters, Memory, ProcessUsage, Usage};

/// What was used in the runs that have ended, and in this one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Account<T> {
    past: T,
    current: T,
}

/// Something that is measured.
pub trait Measure: Copy + Default {
    /// Its memory.
    fn memory(&mut self) -> &mut Memory;
    /// Adds everything else of another run.
    fn add(&mut self, other: &Self);
}

impl<T: Measure> Account<T> {
    /// This run has used so much so far.
    pub fn measured(&mut self, mut usage: T) {
        let memory = usage.memory();
        let seen_bytes = self.current.memory().peak_bytes;
        memory.peak_bytes = memory.peak_bytes.max(memory.used_bytes).max(seen_bytes);
        self.current = usage;
    }

    /// This run is over.
    pub fn close(&mut self) {
        let mut past = self.total();
        past.memory().used_bytes = 0;
        *self = Self { past, current: T::default() };
    }

    /// All runs together.
    pub fn total(&self) -> T {
        let (mut past, mut total) = (self.past, self.current);
        total.add(&past);
        let memory = total.memory();
        memory.peak_bytes = memory.peak_bytes.max(past.memory().peak_bytes);
        total
    }
}

impl Measure for Usage {
    fn memory(&mut self) -> &mut Memory {
        &mut self.memory
    }

    fn add(&mut self, other: &Self) {
        let sum = |one: Option<u64>, other: Option<u64>| match (one, other) {
            (Some(one), Some(other)) => Some(one.saturating_add(other)),
            (one, other) => one.or(other),
        };
        let (counters, others) = (self.counters, other.counters);
        self.cpu_ns = self.cpu_ns.saturating_add(other.cpu_ns);
        self.counters = Counters {
            switches: sum(counters.switches, others.switches),
            faults: sum(counters.faults, others.faults),
            upcalls: sum(counters.upcalls, others.upcalls),
            requests: sum(counters.requests, others.requests),
        };
    }
}

impl Measure for ProcessUsage {
    fn memory(&mut self) -> &mut Memory {
        &mut self.memory
    }

    fn add(&mut self, other: &Self) {
        // What the library OS holds for it goes with it.
        self.cpu_ns = self.cpu_ns.saturating_add(other.cpu_ns);
        self.switches = self.switches.saturating_add(other.switches);
        self.migrations = self.migrations.saturating_add(other.migrations);
    }
}
