//! A domain's process, as its parent sees it.

use super::Domain;
use super::group::Group;
use super::handover::{self, Given};
use super::throttle::Throttle;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::Arc;

/// What a shell adds to a signal's number to make it a status.
const STATUS_SIGNAL: u8 = 128;

/// The process of a domain. Dropping it kills the domain.
#[derive(Debug)]
pub struct Running {
    child: Child,
    wire: Option<UnixStream>,
    /// Stays this process's name, unlike its number.
    process: Arc<OwnedFd>,
    /// Keeps the quotas of the CPU; where there is none, the process itself and `throttle` do.
    group: Option<Group>,
    throttle: Option<Throttle>,
    end: Option<End>,
}

/// How a domain ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// As `selkis run` would have ended: the program's own, or one that says why there is none.
    pub status: u8,
    /// Why.
    pub reason: Reason,
    /// What it used in all.
    pub usage: Usage,
}

/// Why a domain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It came to its own end; what there was to say is in its standard error.
    Exited,
    /// Linux could give it no more memory within its quota.
    Memory,
    /// It made a system call that a domain does not need.
    ForbiddenCall,
    /// This signal came.
    Signal(i32),
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exited => f.write_str("it came to its own end"),
            Self::Memory => f.write_str("it used up its memory"),
            Self::ForbiddenCall => f.write_str("it made a system call that a domain may not make"),
            Self::Signal(number) => write!(f, "signal {number} ended it"),
        }
    }
}

/// What a domain uses of the machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Time on CPUs since it was started, in nanoseconds.
    pub cpu_ns: u64,
    /// Memory of its own at present, in bytes: what it does not share with other domains.
    pub memory_bytes: u64,
}

impl Domain {
    /// Starts the domain as the child that `command` makes, which has to call [`super::serve`]; standard output and error are
    /// the command's to set. The domain ends when the calling thread does.
    ///
    /// # Errors
    /// If Linux does not let this process make one, or there are too many directories.
    pub fn start(&self, command: &mut Command) -> io::Result<Running> {
        let group = Group::new(&self.quotas);
        let door = group.as_ref().map(Group::door).transpose()?;
        let Given { socket, wire } = handover::give(self, door.as_ref())?;
        let mut child = command.stdin(Stdio::from(socket)).spawn()?;
        let process = match pidfd_open(Pid::from_child(&child), PidfdFlags::empty()) {
            Ok(process) => Arc::new(process),
            Err(error) => {
                child.kill().and_then(|()| child.wait())?;
                return Err(error.into());
            }
        };
        let mut running = Running { child, wire: Some(wire), process, group, throttle: None, end: None };
        let budget = self.quotas.cpu_budget_permille.filter(|budget| *budget < 1000 * self.plan.vcpus);
        if let (Some(budget_permille), None) = (budget, &running.group) {
            let process = Arc::clone(&running.process);
            let throttle = Throttle::start(process, running.id(), budget_permille, self.plan.vcpus)?;
            running.throttle = Some(throttle);
        }
        Ok(running)
    }
}

impl Running {
    /// Its process number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The parent's end of the wire, over which root and library OS speak, if nobody has taken it yet.
    pub fn take_wire(&mut self) -> Option<UnixStream> {
        self.wire.take()
    }

    /// Its standard output, if the command made a pipe of it and nobody has taken that yet.
    pub fn take_output(&mut self) -> Option<ChildStdout> {
        self.child.stdout.take()
    }

    /// The same for standard error.
    pub fn take_errors(&mut self) -> Option<ChildStderr> {
        self.child.stderr.take()
    }

    /// Ends it at once.
    pub fn kill(&self) -> io::Result<()> {
        self.group.iter().for_each(Group::lift_budget);
        Ok(pidfd_send_signal(&self.process, Signal::KILL)?)
    }

    /// What it uses; of the CPU alone once it has ended.
    pub fn usage(&self) -> Usage {
        if let Some(end) = &self.end {
            return end.usage;
        }
        Usage { cpu_ns: cpu_ns(self.id()).unwrap_or(0), memory_bytes: memory_bytes(self.id()).unwrap_or(0) }
    }

    /// How it ended, if it has.
    pub fn try_wait(&mut self) -> io::Result<Option<&End>> {
        let mut entry = [PollFd::new(&self.process, PollFlags::IN)];
        let now = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
        if self.end.is_none() && rustix::io::retry_on_intr(|| poll(&mut entry, Some(&now)))? == 0 {
            return Ok(None);
        }
        self.wait().map(Some)
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> io::Result<&End> {
        if self.end.is_none() {
            rustix::io::retry_on_intr(|| poll(&mut [PollFd::new(&self.process, PollFlags::IN)], None))?;
            // While nobody has taken its status its number is still its own.
            self.throttle = None;
            let usage = self.usage();
            let (status, mut reason) = why(self.child.wait()?);
            if self.group.take().is_some_and(|group| group.was_out_of_memory()) {
                reason = Reason::Memory;
            }
            self.end = Some(End { status, reason, usage });
        }
        self.end.as_ref().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

/// Readable when the domain has ended.
impl AsFd for Running {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.process.as_fd()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.end.is_none() {
            // It may have ended already, and then there is nothing else to do.
            let _ = self.kill();
            let _ = self.wait();
        }
    }
}

fn why(status: ExitStatus) -> (u8, Reason) {
    if let Some(code) = status.code() {
        return (code as u8, Reason::Exited);
    }
    let signal = status.signal().unwrap_or(0);
    let reason = if signal == libc::SIGSYS { Reason::ForbiddenCall } else { Reason::Signal(signal) };
    (STATUS_SIGNAL + signal as u8, reason)
}

/// The CPU clock of a process (clock_getcpuclockid(3)).
pub(super) fn cpu_ns(process: u32) -> Option<u64> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: both calls write to values on our own stack.
    unsafe {
        let mut clock = 0;
        if libc::clock_getcpuclockid(process as libc::pid_t, &raw mut clock) != 0
            || libc::clock_gettime(clock, &raw mut time) != 0
        {
            return None;
        }
    }
    Some(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}

/// The pages of a process that are no file's (proc(5), `statm`: resident, less the shared ones). Linux counts them in
/// batches: it may be some dozens behind.
fn memory_bytes(process: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{process}/statm")).ok()?;
    let mut pages = text.split(' ').skip(1).map(|word| word.parse::<u64>().ok());
    Some(pages.next()??.saturating_sub(pages.next()??) * abi::PAGE_SIZE)
}
