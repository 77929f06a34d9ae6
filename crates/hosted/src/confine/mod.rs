//! Gives up what this process may do in Linux and a library OS does not need, for good.
//!
//! What stays: memory of its own, its timer and its signals, the descriptors that are open, and the granted directories
//! (Landlock, landlock(7)). What goes: every other file, every other system call (seccomp, seccomp(2)), capabilities,
//! whatever an executed file could give back (`no_new_privs`), and being looked into by other processes of the user.
//!
//! Landlock and seccomp may be missing, or forbidden by whoever runs the container that this is in: then the rest
//! is given up all the same, and [`missing`] says what could not be.

mod filter;

use crate::files::Grant;
use crate::launch::LaunchError;
use bundle::Access;
use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, PathBeneath, Ruleset, RulesetAttr, RulesetCreated,
    RulesetCreatedAttr, RulesetError, Scope,
};
use rustix::process::DumpableBehavior;
use rustix::thread::{CapabilitySet, CapabilitySets};
use std::io;

/// Rights that Linux has had longer are all denied; of later ones those that this build knows.
const LANDLOCK: ABI = ABI::V7;
/// The first version of Landlock with which a file can be renamed to another directory.
const LANDLOCK_MIN: i64 = 2;

/// The first version that knows of truncation (landlock(7)).
const LANDLOCK_TRUNCATE: i64 = 3;

/// Something of Linux's that this machine does not have, or does not let this process use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// Files outside of the granted directories can be opened.
    Landlock,
    /// Files that were granted to be read can be emptied.
    Truncate,
    /// All system calls can be made.
    Seccomp,
}

impl std::fmt::Display for Missing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Landlock => {
                "this Linux has no Landlock: only the library OS keeps a domain from files that it was not granted"
            }
            Self::Truncate => {
                "this Linux's Landlock is older than 6.2: only the library OS keeps a domain from emptying files that it may read"
            }
            Self::Seccomp => "this Linux has no seccomp filters: a domain's process can make any system call",
        })
    }
}

/// What a confined process here would keep for want of means to give it up.
pub fn missing() -> Vec<Missing> {
    let landlock = match landlock_version() {
        ..LANDLOCK_MIN => Some(Missing::Landlock),
        LANDLOCK_MIN..LANDLOCK_TRUNCATE => Some(Missing::Truncate),
        LANDLOCK_TRUNCATE.. => None,
    };
    let seccomp = (!filter::is_available()).then_some(Missing::Seccomp);
    landlock.into_iter().chain(seccomp).collect()
}

/// Why a process could not be confined.
#[derive(Debug)]
pub enum ConfineError {
    /// Landlock is there and does not do what it should.
    Landlock(RulesetError),
    /// Linux refused something: what, and why.
    Linux(&'static str, io::Error),
}

impl std::fmt::Display for ConfineError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Landlock(error) => write!(f, "cannot confine files to the granted directories: {error}"),
            Self::Linux(what, error) => write!(f, "cannot {what}: {error}"),
        }
    }
}

impl std::error::Error for ConfineError {}

/// All that is left to a process: made while it can still look around, [closed](Self::close) when it has what it needs.
#[derive(Debug)]
pub struct Cell {
    files: Option<RulesetCreated>,
    capabilities: CapabilitySet,
}

impl Cell {
    /// A cell with these directories in it.
    pub fn new(grants: &[Grant]) -> Result<Self, ConfineError> {
        let files = match landlock_version() {
            LANDLOCK_MIN.. => Some(rules(grants).map_err(ConfineError::Landlock)?),
            _ => None,
        };
        // In a directory that it was granted, a program can do what the user can who granted it: whom file modes do
        // not stop, they do not stop there either.
        let capabilities = match grants {
            [] => CapabilitySet::empty(),
            _ => CapabilitySet::DAC_OVERRIDE | CapabilitySet::DAC_READ_SEARCH | CapabilitySet::FOWNER,
        };
        Ok(Self { files, capabilities })
    }

    /// Confines the process, of which the calling thread must be the only one. There is no way back. `make_threads` makes others when that is
    /// all that is left to do: they inherit what was given up, and afterwards nobody can make one.
    pub fn close<T>(self, make_threads: impl FnOnce() -> Result<T, LaunchError>) -> Result<T, LaunchError> {
        self.give_up_rights().map_err(LaunchError::Confine)?;
        let threads = make_threads()?;
        if filter::is_available() {
            let failed = |error| LaunchError::Confine(ConfineError::Linux("give up system calls", error));
            filter::install().map_err(failed)?;
        }
        Ok(threads)
    }

    fn give_up_rights(self) -> Result<(), ConfineError> {
        // `rustix` looks up where Linux's own clock code lies when it is first asked for the time; later it could not.
        let _ = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let failed = |what| move |error: rustix::io::Errno| ConfineError::Linux(what, error.into());
        rustix::thread::set_no_new_privs(true).map_err(failed("give up gaining rights"))?;
        rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
            .map_err(failed("hide from other processes"))?;
        let had = rustix::thread::capabilities(None).map_err(failed("look at the capabilities"))?;
        let kept = CapabilitySets {
            effective: had.effective & self.capabilities,
            permitted: had.permitted & self.capabilities,
            inheritable: CapabilitySet::empty(),
        };
        rustix::thread::set_capabilities(None, kept).map_err(failed("give up capabilities"))?;
        if let Some(files) = self.files {
            files.restrict_self().map_err(ConfineError::Landlock)?;
        }
        Ok(())
    }
}

/// Everything that Landlock can deny is denied, but in the granted directories what was granted.
fn rules(grants: &[Grant]) -> Result<RulesetCreated, RulesetError> {
    let rules = Ruleset::default()
        .handle_access(AccessFs::from_all(LANDLOCK))?
        .handle_access(AccessNet::from_all(LANDLOCK))?
        .scope(Scope::from_all(LANDLOCK))?
        .create()?;
    grants.iter().try_fold(rules, |rules, grant| {
        rules.add_rule(PathBeneath::new(&grant.directory, allowed(grant.access)))
    })
}

/// What the providers of files do in a directory (`crate::files`): neither executing nor making devices, pipes or sockets.
fn allowed(access: Access) -> BitFlags<AccessFs> {
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    match access {
        Access::ReadOnly => read,
        Access::ReadWrite => {
            read | AccessFs::WriteFile
                | AccessFs::Truncate
                | AccessFs::RemoveFile
                | AccessFs::RemoveDir
                | AccessFs::MakeReg
                | AccessFs::MakeDir
                | AccessFs::MakeSym
                | AccessFs::Refer
        }
    }
}

/// Negative if there is no Landlock (landlock_create_ruleset(2), `LANDLOCK_CREATE_RULESET_VERSION`).
fn landlock_version() -> i64 {
    const VERSION: u32 = 1;
    // SAFETY: asks for a number; there is no structure to read.
    unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<u8>(), 0usize, VERSION) }
}
