//! What the process of a domain does.

use super::handover::{self, Handover};
use super::{Confinement, limits};
use crate::confine::Cell;
use crate::files::LinuxFiles;
use crate::host::linux_host;
use crate::launch::{Launch, LaunchError, launch};
use crate::streams::LinuxStreams;
use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};
use std::io;
use std::os::fd::AsFd;
use wasi::entropy::{Generator, NoSource};

/// Why a domain could not be run.
#[derive(Debug)]
pub enum ServeError {
    /// Standard input is not what [`super::Domain::start`] makes.
    NotStarted,
    /// The parent has ended.
    Orphan,
    /// Linux refused something: what, and why.
    Linux(&'static str, io::Error),
    /// There are no random numbers.
    Entropy(NoSource),
    /// The library OS did not start.
    Launch(LaunchError),
}

impl std::fmt::Display for ServeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotStarted => f.write_str("only `selkis up` can start a domain"),
            Self::Orphan => f.write_str("the process that started this domain has ended"),
            Self::Linux(what, error) => write!(f, "cannot {what}: {error}"),
            Self::Entropy(error) => error.fmt(f),
            Self::Launch(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ServeError {}

impl From<LaunchError> for ServeError {
    fn from(error: LaunchError) -> Self {
        Self::Launch(error)
    }
}

/// Runs the domain that this process was [started](super::Domain::start) as; answers with the status to exit with. For
/// `main` to call before it opens anything.
pub fn serve() -> Result<u8, ServeError> {
    let stdin = io::stdin();
    close_inherited();
    let Handover { parent, null, domain, wire, door } =
        handover::take(stdin.as_fd()).ok_or(ServeError::NotStarted)?;
    leash(parent)?;
    rustix::stdio::dup2_stdin(&null)
        .map_err(|error| ServeError::Linux("close standard input", error.into()))?;
    drop(null);
    limits::apply(&domain.quotas, door)
        .map_err(|error| ServeError::Linux("keep the domain's quotas", error))?;
    let seed = crate::clock::seed().map_err(|error| ServeError::Linux("get random numbers", error))?;
    let entropy = Generator::new(Some(&seed), &[]).map_err(ServeError::Entropy)?;
    let cell = match domain.confinement {
        Confinement::Confined => Some(Cell::new(&domain.grants).map_err(LaunchError::Confine)?),
        Confinement::Unconfined => None,
    };
    let ended = launch(Launch {
        runtime: domain.runtime,
        plan: domain.plan,
        artifacts: domain.artifacts,
        trap_helper: domain.trap_helper,
        host: Box::new(linux_host(LinuxStreams::new(), LinuxFiles::new(domain.grants), entropy)),
        wire: Some(wire),
        cell,
    })?;
    Ok(ended.status)
}

/// Has Linux kill this process when the thread that started it ends.
fn leash(parent: u32) -> Result<(), ServeError> {
    set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|error| ServeError::Linux("be put on a leash", error.into()))?;
    // It may have ended before that; then nobody would ever send the signal.
    match getppid().map(Pid::as_raw_nonzero) {
        Some(holder) if holder.get() as u32 == parent => Ok(()),
        _ => Err(ServeError::Orphan),
    }
}

/// Whatever else the parent had open, and did not mean for its children.
fn close_inherited() {
    const FIRST: u32 = libc::STDERR_FILENO as u32 + 1;
    // SAFETY: nobody has opened anything here yet, so nobody loses anything.
    let closed = unsafe { libc::syscall(libc::SYS_close_range, FIRST, u32::MAX, 0) } == 0;
    if !closed {
        // Before Linux 5.9, one by one (close_range(2)).
        let most = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        for descriptor in FIRST..most.map_or(FIRST, |most| most.min(1 << 20) as u32) {
            // SAFETY: the same.
            unsafe { libc::close(descriptor as libc::c_int) };
        }
    }
}
