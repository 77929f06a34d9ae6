//! Quotas that a domain's process puts on itself, before it is confined: afterwards it could not lift them.
//!
//! Memory is `RLIMIT_DATA` (getrlimit(2)): Linux adds up the pages of all private mappings that are writable, and refuses
//! the mapping, or the change of protection, that would be one page too many. So it holds to the page, and is known when
//! the memory is asked for, not when it is touched: the library OS gets `Error::NoMemory`, and a program's `memory.grow` fails.
//! Address space that is reserved without access is free.

use super::{Quotas, Share};
use rustix::process::{Resource, Rlimit, getrlimit, setpriority_process, setrlimit};
use std::fs::File;
use std::io::{self, Write};

/// Puts the quotas on this process; those of the CPU are the control group's whose `door` this is.
pub fn apply(quotas: &Quotas, door: Option<File>) -> io::Result<()> {
    // The launcher's own memory is not the domain's.
    let bytes = quotas.memory_bytes.saturating_add(data_bytes()?);
    setrlimit(Resource::Data, Rlimit { current: Some(bytes), maximum: Some(bytes) })?;
    // What ends it by a signal is told by the parent; its memory is its own business.
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    // All its processes have their files open in this one, and how many each may have is said elsewhere (`descriptors`).
    let files = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: files.maximum, ..files })?;
    match door {
        Some(mut door) => door.write_all(b"0"),
        None => Ok(setpriority_process(None, nice(quotas.cpu_share))?),
    }
}

/// What counts against `RLIMIT_DATA` at present (proc(5), `status`).
fn data_bytes() -> io::Result<u64> {
    let text = std::fs::read_to_string("/proc/self/status")?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmData:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.map(|kib| kib << 10).ok_or_else(|| io::Error::other("/proc/self/status does not tell VmData"))
}

/// The most that a process can yield (setpriority(2)).
const NICE_MAX: i32 = 19;
/// By which a step of niceness divides a process's weight (sched(7)).
const NICE_STEP: f64 = 1.25;

/// The heaviest domain is not nice, so that it fares as any other process of the user does.
fn nice(share: Share) -> i32 {
    let ratio = f64::from(share.heaviest.max(1)) / f64::from(share.weight.max(1));
    (ratio.ln() / NICE_STEP.ln()).round().clamp(0.0, f64::from(NICE_MAX)) as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_become_niceness() {
        let nice = |weight, heaviest| nice(Share { weight, heaviest });
        assert_eq!((nice(100, 100), nice(10_000, 10_000), nice(200, 100)), (0, 0, 0));
        assert_eq!((nice(100, 125), nice(100, 200), nice(100, 1000)), (1, 3, 10));
        assert_eq!((nice(1, 10_000), nice(0, 0), nice(0, 100)), (NICE_MAX, 0, NICE_MAX));
    }

    #[test]
    fn linux_tells_how_much_is_writable() {
        const MORE: usize = 64 << 20;
        let before = data_bytes().unwrap();
        let more = std::hint::black_box(Vec::<u8>::with_capacity(MORE));
        assert!(data_bytes().unwrap() >= before + MORE as u64);
        drop(more);
    }
}
