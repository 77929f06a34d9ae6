//! The CPUs that a hosted system keeps to.

use crate::failure::Failure;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Some of those that this process may use.
#[derive(Debug)]
pub struct Cpus(CpuSet);

impl Cpus {
    /// The first `count`.
    pub fn choose(count: u32) -> Result<Self, Failure> {
        let all = sched_getaffinity(None).map_err(|error| Failure::Affinity(error.into()))?;
        let mut chosen = CpuSet::new();
        let there = (0..CpuSet::MAX_CPU).filter(|cpu| all.is_set(*cpu));
        there.take(count as usize).for_each(|cpu| chosen.set(cpu));
        match chosen.count() {
            there if there < count => Err(Failure::TooManyCpus { asked: count, there }),
            _ => Ok(Self(chosen)),
        }
    }

    /// From now on this thread, and all that it starts, runs on no other.
    pub fn keep_to(self) -> Result<(), Failure> {
        sched_setaffinity(None, &self.0).map_err(|error| Failure::Affinity(error.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_no_more_than_there_are() {
        let there = sched_getaffinity(None).unwrap().count();
        assert_eq!(Cpus::choose(1).unwrap().0.count(), 1);
        assert_eq!(Cpus::choose(there).unwrap().0.count(), there);
        let error = Cpus::choose(there + 1).unwrap_err().to_string();
        assert!(error.contains("--cpus") && error.contains("--vm"), "{error}");
    }
}
