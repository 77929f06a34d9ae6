//! A CPU budget, kept by the parent: a domain that has used what it may is stopped until it may go on.
//!
//! The allowance grows all the time and is never more than [`PERIOD_NS`] worth of it, so that what was not used is not saved
//! up. While there is some left, the domain cannot use it up sooner than all its virtual CPUs together can.

use super::running::cpu_ns;
use crate::gate::now_ns;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Signal, pidfd_send_signal};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

/// How much time the allowance is for, at most: Linux's own period for this (`cpu.max`).
const PERIOD_NS: i64 = 100_000_000;
/// It is not looked sooner than after this: Linux takes as long to stop a process.
const LOOK_NS: i64 = 1_000_000;
/// It does nothing but sums.
const STACK_BYTES: usize = 64 << 10;

/// Holds a process to its budget until it ends. Dropped when it has.
#[derive(Debug)]
pub struct Throttle(Option<JoinHandle<()>>);

impl Throttle {
    /// `process` and `number` name the same one, which runs on so many virtual CPUs and is not waited for before this is dropped.
    pub fn start(process: Arc<OwnedFd>, number: u32, budget_permille: u32, vcpus: u32) -> io::Result<Self> {
        let builder = Builder::new().name(format!("budget-{number}")).stack_size(STACK_BYTES);
        let thread = builder.spawn(move || {
            hold(&process, number, i64::from(budget_permille.max(1)), i64::from(vcpus.max(1)));
        })?;
        Ok(Self(Some(thread)))
    }
}

impl Drop for Throttle {
    fn drop(&mut self) {
        // The process has ended, so this does as well.
        let _ = self.0.take().map(JoinHandle::join);
    }
}

fn hold(process: &OwnedFd, number: u32, budget_permille: i64, vcpus: i64) {
    let full_ns = PERIOD_NS * budget_permille / 1000;
    let mut allowance = Allowance { left_ns: full_ns, looked_ns: now_ns(), used_ns: 0 };
    let mut wait_ns = LOOK_NS;
    while has_time_passed(process, wait_ns) {
        let Some(used_ns) = cpu_ns(number) else { return };
        allowance.look(now_ns(), used_ns, budget_permille);
        wait_ns = (allowance.left_ns / vcpus).max(LOOK_NS);
        if allowance.left_ns <= 0 {
            // If these fail it has ended.
            let _ = pidfd_send_signal(process, Signal::STOP);
            let until_full_ns = (full_ns - allowance.left_ns) * 1000 / budget_permille;
            let ended = !has_time_passed(process, until_full_ns);
            let _ = pidfd_send_signal(process, Signal::CONT);
            if ended {
                return;
            }
            wait_ns = LOOK_NS;
        }
    }
}

/// What a domain may use at once.
#[derive(Debug)]
struct Allowance {
    left_ns: i64,
    looked_ns: u64,
    used_ns: u64,
}

impl Allowance {
    fn look(&mut self, now_ns: u64, used_ns: u64, budget_permille: i64) {
        let passed_ns = now_ns.saturating_sub(self.looked_ns) as i64;
        let used_now_ns = used_ns.saturating_sub(self.used_ns) as i64;
        let more_ns = passed_ns.saturating_mul(budget_permille) / 1000 - used_now_ns;
        self.left_ns = self.left_ns.saturating_add(more_ns).min(PERIOD_NS * budget_permille / 1000);
        (self.looked_ns, self.used_ns) = (now_ns, used_ns);
    }
}

/// Waits, and answers whether the time passed before the process ended.
fn has_time_passed(process: &OwnedFd, time_ns: i64) -> bool {
    let time = Timespec { tv_sec: time_ns / 1_000_000_000, tv_nsec: time_ns % 1_000_000_000 };
    let mut entry = [PollFd::new(process, PollFlags::IN)];
    // A signal may end the wait early: then it is looked early.
    !matches!(poll(&mut entry, Some(&time)), Ok(count) if count > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_allowance_grows_is_used_and_is_not_saved_up() {
        let mut allowance = Allowance { left_ns: 0, looked_ns: 0, used_ns: 0 };
        allowance.look(10_000_000, 2_000_000, 500);
        assert_eq!(allowance.left_ns, 3_000_000);
        allowance.look(20_000_000, 12_000_000, 500);
        assert_eq!(allowance.left_ns, -2_000_000);
        allowance.look(100_000_000_000, 12_000_000, 500);
        assert_eq!(allowance.left_ns, 50_000_000);
    }
}
