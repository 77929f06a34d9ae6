//! Processes that a command has started.

use crate::selkis::Running;
use crate::verdict::{Failed, Verdict, check};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::fs;
use std::os::fd::OwnedFd;
use std::thread;
use std::time::{Duration, Instant};

/// The processes that the command's first thread has started and not waited for.
pub fn children(running: &Running) -> Verdict<Vec<i32>> {
    let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", running.pid()))?;
    Ok(children.split_whitespace().map(str::parse).collect::<Result<_, _>>()?)
}

/// The one that it has, when those that are about to end have gone.
pub fn only_child(running: &Running) -> Verdict<(i32, OwnedFd)> {
    let limit = Instant::now() + Duration::from_secs(10);
    loop {
        match children(running)?[..] {
            [number] => return Ok((number, pidfd(number)?)),
            ref others => check(Instant::now() < limit, || format!("children: {others:?}"))?,
        }
        thread::yield_now();
    }
}

/// A name of the process that stays its own.
pub fn pidfd(number: i32) -> Verdict<OwnedFd> {
    let pid = Pid::from_raw(number).ok_or_else(|| Failed("no child".into()))?;
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}

/// Stops it, as Ctrl-Z does, and waits until it stands.
pub fn stop(number: i32, process: &OwnedFd) -> Verdict {
    pidfd_send_signal(process, Signal::STOP)?;
    let limit = Instant::now() + Duration::from_secs(10);
    // The third field of proc_pid_stat(5), after the name in parentheses.
    while !fs::read_to_string(format!("/proc/{number}/stat"))?.contains(") T ") {
        check(Instant::now() < limit, || format!("process {number} does not stop"))?;
        thread::yield_now();
    }
    Ok(())
}

/// Whether it ends in this time.
pub fn ends_within(process: &OwnedFd, seconds: i64) -> Verdict<bool> {
    let mut entries = [PollFd::new(process, PollFlags::IN)];
    let limit = Timespec { tv_sec: seconds, tv_nsec: 0 };
    Ok(poll(&mut entries, Some(&limit))? == 1)
}
