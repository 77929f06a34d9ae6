//! What `poll` found.

use rustix::event::{PollFd, Timespec, poll};
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::time::Duration;

/// Descriptors on which something has happened.
#[derive(Debug, Default)]
pub struct Ready(Vec<RawFd>);

impl Ready {
    /// Waits until something happens, or so long. A signal ends it as well.
    pub fn wait(entries: &mut [PollFd<'_>], time: Option<Duration>) -> io::Result<Self> {
        let time = time.map(|time| Timespec {
            tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: time.subsec_nanos().into(),
        });
        match poll(entries, time.as_ref()) {
            Err(rustix::io::Errno::INTR) => return Ok(Self::default()),
            result => result?,
        };
        let ready = entries.iter().filter(|entry| !entry.revents().is_empty());
        let mut ready: Vec<RawFd> = ready.map(|entry| entry.as_fd().as_raw_fd()).collect();
        ready.sort_unstable();
        Ok(Self(ready))
    }

    /// Is this one of them? A descriptor that was opened since may have got the number of one that was: who asks must be able to
    /// find out that there is nothing.
    pub fn has(&self, descriptor: &impl AsFd) -> bool {
        self.0.binary_search(&descriptor.as_fd().as_raw_fd()).is_ok()
    }
}
