//! A whole system as a user writes it down: domains with their quotas, and the programs in them.
//!
//! A manifest is a TOML file. [`System::read`] answers a system in which every name, size and limit is one that can be kept,
//! or every mistake that is in the file, each with its place. Whether a machine is large enough and the files are
//! there is asked afterwards ([`System::check`], [`System::check_files`]), for the answer depends on where and when.
//!
//! ```toml
//! name = "tenants"                # default: the file's name without `.toml`
//! mitigations = "on"              # what a CPU could leak between domains is scrubbed; or "off". With --vm: hosted that is for Linux
//!
//! [domains.alice]                 # a tenant: it can reach nothing of another's
//! memory = "64MiB"                # all that it may use; needed
//! cpu-share = 100                 # its weight when CPUs are short, 1 to 10000; default 100
//! cpu-budget = "50%"              # of one CPU, at most; default: no limit
//! cpus = 1                        # how many CPUs its processes may run on at a time, 1 to 16; default 1
//! processes = 16                  # how many processes it may have, started ones too; with --vm at most 1920; default 16
//!
//! [[domains.alice.programs]]
//! name = "web"                    # default: the file's name without `.wasm`
//! file = "python.wasm"            # from the manifest's folder, or a name that `selkis programs` lists; needed
//! instances = 1                   # so many processes of it; default 1; 0 of one that only others start
//! start = ["worker"]              # programs of this domain that it may start, as often as there are processes left; default: none
//! arguments = ["-c", "print(1)"]
//! environment = { LANG = "C" }
//! directories = [{ path = "docs", name = "/docs", access = "read-only" }]    # name: default the path; access: default "read-write"
//! memory = "32MiB"                # of each process of it; default for a domain's only process: the domain's
//! timeout = "10s"                 # default: none
//! cpu-time = "2s"                 # ended when it has used so much; default: no limit
//! stack = "512KiB"                # for its own calls, 16KiB to 512KiB; default 512KiB
//! table-elements = 100000         # in all its tables; default 1048576, and no more than fits into its memory
//! descriptors = 64                # open at a time, streams and directories too; default 1024
//! log-rate = "1MiB/s"             # written in a second; who writes faster waits; or "unlimited". This is the default
//! restart = "on-failure"          # "never" (default), "on-failure", "always"
//!
//! [[domains.alice.programs]]      # only started by others, who say what each begins with
//! file = "worker.wasm"
//! instances = 0
//! memory = "1MiB"
//! ```
#![deny(unsafe_code)]

mod check;
mod mistake;
mod name;
mod quote;
mod read;
mod start;
mod table;
pub mod units;

pub use bundle::{Access, Children, PROGRAMS_MAX};
pub use check::Machine;
pub use mistake::{Mistake, Mistakes, Position, ReadError, Wrong};
pub use name::{Name, NameError};
pub use read::{CPU_SHARE_MAX, CPUS_MAX, PROCESSES_MAX, TEXT_BYTES_MAX};
pub use table::nearest;

use std::path::PathBuf;
use std::time::Duration;
use units::{ByteCount, CpuBudget};

/// A system: what its manifest says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct System {
    /// What its socket and its clients call it.
    pub name: Name,
    /// Whether the CPU's state is scrubbed when it goes from one domain to another.
    pub mitigations: Mitigations,
    /// In the order of the file; no two have one name.
    pub domains: Vec<Domain>,
    /// The manifest's own path, as it was given.
    pub path: PathBuf,
}

/// Protection against what CPUs leak between domains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mitigations {
    /// All that the CPU says it needs.
    On,
    /// None: for domains that trust each other.
    Off,
}

/// A tenant: the unit of protection and of quotas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Domain {
    /// What clients call it.
    pub name: Name,
    /// All memory that it may use, its programs' and its library OS's.
    pub memory: ByteCount,
    /// Its weight against other domains that want the same CPU, 1 to [`CPU_SHARE_MAX`].
    pub cpu_share: u32,
    /// How much CPU time it gets at most, even if nobody else wants it.
    pub cpu_budget: Option<CpuBudget>,
    /// How many CPUs it may run on at a time, 1 to [`CPUS_MAX`].
    pub cpus: u32,
    /// How many processes it may have at a time, 1 to [`PROCESSES_MAX`].
    pub processes: u32,
    /// In the order of the file, no two of one name; at least one, at most [`PROGRAMS_MAX`], with at most `processes` instances.
    pub programs: Vec<Program>,
    /// Where the manifest names it.
    pub at: Position,
}

impl Domain {
    /// What is left for processes that its programs start; nothing if none of them may.
    pub fn children(&self) -> Children {
        if self.programs.iter().all(|program| program.start.is_empty()) {
            return Children::NONE;
        }
        let own = self.programs.iter().map(|program| program.instances).fold(0, u32::saturating_add);
        let own_memory = |program: &Program| program.process_bytes().saturating_mul(program.instances.into());
        let promised = self.programs.iter().map(own_memory).fold(0, u64::saturating_add);
        Children {
            first_number: own,
            processes_max: self.processes.saturating_sub(own),
            memory_bytes_max: self
                .memory
                .0
                .saturating_sub(promised.saturating_add(Children::LIBRARY_OS_BYTES)),
        }
    }
}

/// A program and what it may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// What clients call it.
    pub name: Name,
    /// As the manifest has it: see [`System::place_of`].
    pub file: PathBuf,
    /// Where the manifest names the file.
    pub file_at: Position,
    /// How many processes of it there are from the beginning; 0 of one that only others start.
    pub instances: u32,
    /// The programs that it may start, by their places in [`Domain::programs`].
    pub start: Vec<usize>,
    /// Without the program's own name. None holds a NUL.
    pub arguments: Vec<String>,
    /// Names (not empty, without `=`) and values. None holds a NUL.
    pub environment: Vec<(String, String)>,
    /// What it may touch; no two of one name.
    pub directories: Vec<Directory>,
    /// How much memory each instance may use.
    pub memory: ByteCount,
    /// When an instance is ended, counted from its first instruction.
    pub timeout: Option<Duration>,
    /// When it is ended, in CPU time.
    pub cpu_time: Option<Duration>,
    /// The stack of its own code, whole pages.
    pub stack: ByteCount,
    /// How long its tables may be together.
    pub table_elements: Option<u32>,
    /// How many descriptors it may have open: never less than it begins with.
    pub descriptors: u32,
    /// How much it may write to its output streams in a second, if that has a limit.
    pub log_rate: Option<ByteCount>,
    /// What is done when an instance has ended.
    pub restart: Restart,
    /// Where the manifest begins with it.
    pub at: Position,
}

impl Program {
    /// What each instance, or a process of it that another starts, may take of its domain's memory at least.
    pub(crate) const fn process_bytes(&self) -> u64 {
        Children::process_bytes(self.memory.0, self.stack.0)
    }
}

/// A directory that a program may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directory {
    /// As the manifest has it: see [`System::place_of`].
    pub path: PathBuf,
    /// What the program calls it; the path, unless the manifest says otherwise.
    pub name: String,
    /// What the program may do there.
    pub access: Access,
    /// Where the manifest names the path.
    pub at: Position,
}

/// What is done when a program has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restart {
    /// Nothing.
    Never,
    /// It is started again unless its exit status was 0.
    OnFailure,
    /// It is started again.
    Always,
}
