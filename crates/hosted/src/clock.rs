//! Linux's clocks and its random generator, for WASI.

use rustix::rand::{GetRandomFlags, getrandom};
use rustix::time::{ClockId, Timespec, clock_getres, clock_gettime};
use std::io;
use wasi::Result;
use wasi::provider::{Clock, ClockKind};

/// The clocks of this machine; CPU time is this process's.
#[derive(Clone, Copy, Debug)]
pub struct LinuxClock;

impl Clock for LinuxClock {
    fn monotonic_ns(&mut self) -> Result<u64> {
        Ok(nanoseconds(clock_gettime(ClockId::Monotonic)))
    }

    fn wall_ns(&mut self) -> Result<u64> {
        Ok(nanoseconds(clock_gettime(ClockId::Realtime)))
    }

    fn cpu_ns(&mut self) -> Result<u64> {
        Ok(nanoseconds(clock_gettime(ClockId::ProcessCPUTime)))
    }

    fn resolution_ns(&mut self, which: ClockKind) -> Result<u64> {
        let id = match which {
            ClockKind::Wall => ClockId::Realtime,
            ClockKind::Monotonic => ClockId::Monotonic,
            ClockKind::Cpu => ClockId::ProcessCPUTime,
        };
        Ok(nanoseconds(clock_getres(id)).max(1))
    }
}

/// Nanoseconds in a time; what lies before the epoch is the epoch.
pub(crate) fn nanoseconds(time: Timespec) -> u64 {
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let fraction = u64::try_from(time.tv_nsec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(fraction)
}

/// A seed for a random generator: waits, early in the machine's life, until Linux has enough entropy for it.
///
/// # Errors
/// If Linux has no random generator or does not let this process use it.
pub fn seed() -> io::Result<[u8; 32]> {
    let mut seed = [0; 32];
    // Up to 256 bytes come whole, unless a signal comes before (getrandom(2)).
    let count = rustix::io::retry_on_intr(|| getrandom(&mut seed, GetRandomFlags::empty()))?;
    if count == seed.len() { Ok(seed) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}
