//! The state of a system.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use serde::{Deserialize, Serialize};

/// A system and all that is in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct System {
    /// From its manifest.
    pub name: String,
    /// Where it runs.
    pub platform: Platform,
    /// What it is doing.
    pub phase: Phase,
    /// How long it has been up: the time of this answer.
    pub uptime_ns: u64,
    /// When it started, in nanoseconds since 1970, if somebody knows.
    pub started_unix_ns: Option<u64>,
    /// By number. Empty where the CPUs are somebody else's (hosted).
    pub cpus: Vec<Cpu>,
    /// In the manifest's order.
    pub domains: Vec<Domain>,
}

/// Where a system runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Platform {
    /// As processes of another system.
    Hosted,
    /// On a machine of its own.
    Machine,
}

/// What a system is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// It runs.
    Up,
    /// It was told to end, and its programs are.
    Ending,
    /// Every program has ended for good.
    Ended,
}

/// What one CPU has done since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cpu {
    /// Time in domains.
    pub run_ns: u64,
    /// Time halted.
    pub idle_ns: u64,
    /// From one domain to another.
    pub switches: u64,
    /// Of all kinds.
    pub interrupts: u64,
    /// What happens on it is noted down now, for `selkis trace`.
    pub traced: bool,
}

/// A domain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Domain {
    /// From the manifest.
    pub name: String,
    /// Which process of the platform it is, while it is one (hosted).
    pub process_id: Option<u32>,
    /// What it may have of memory.
    pub memory_quota_bytes: u64,
    /// What it uses and has used, of all its runs together.
    pub usage: Usage,
    /// In the manifest's order, each a process; a program with several instances is several.
    pub programs: Vec<Program>,
}

/// What a domain uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Memory, now and at most.
    pub memory: Memory,
    /// CPU time.
    pub cpu_ns: u64,
    /// What was counted.
    pub counters: Counters,
}

/// Memory of a domain or a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// Held now, without what is shared with other domains. On a machine: its frames.
    pub used_bytes: u64,
    /// The most that was held at a time, as far as it was looked at.
    pub peak_bytes: u64,
}

/// Events of a domain; `None`: the platform does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// How often a CPU went over to it.
    pub switches: Option<u64>,
    /// Page faults, the kernel's to resolve.
    pub faults: Option<u64>,
    /// Upcalls.
    pub upcalls: Option<u64>,
    /// Requests to the kernel.
    pub requests: Option<u64>,
}

/// A program as a process of its domain, or one of a program's instances.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// Its name in its domain: `web`, or `web/0` where it has several instances.
    pub name: String,
    /// What it is doing.
    pub state: State,
    /// When it was started last.
    pub started_ns: Option<u64>,
    /// How it ended last.
    pub last_end: Option<End>,
    /// When.
    pub ended_ns: Option<u64>,
    /// How often it was started again.
    pub restarts: u64,
    /// What it uses and has used, of all its runs together.
    pub usage: ProcessUsage,
    /// Its log.
    pub log: LogSize,
}

/// What a process uses, as its domain's library OS says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessUsage {
    /// Its linear memories, now and at most.
    pub memory: Memory,
    /// Memory of the library OS that serves it, now, in bytes.
    pub host_bytes: u64,
    /// CPU time.
    pub cpu_ns: u64,
    /// How often the library OS went over to it.
    pub switches: u64,
    /// How often on another virtual CPU than the last time.
    pub migrations: u64,
}

/// What a program is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It is being started.
    Starting,
    /// It runs.
    Running,
    /// It was told to end and has not yet.
    Stopping,
    /// It has ended and is started again then.
    Backoff {
        /// When.
        until_ns: u64,
    },
    /// It has ended for good, by itself.
    Ended,
    /// It was ended for good, by a user.
    Stopped,
}

impl State {
    /// One word.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Backoff { .. } => "backoff",
            Self::Ended => "ended",
            Self::Stopped => "stopped",
        }
    }
}

/// How a program ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum End {
    /// With an exit status: its own, or one of those that `selkis run --help` lists.
    Exited {
        /// 0 to 255.
        status: u8,
    },
    /// Its domain broke or was broken: how, in words.
    Broken {
        /// As in `SIGKILL`.
        how: String,
    },
    /// It did not come to run: why, in words.
    NotStarted {
        /// One line.
        why: String,
    },
}

impl End {
    /// Did it do what it was to do?
    pub const fn is_success(&self) -> bool {
        matches!(self, Self::Exited { status: 0 })
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited { status } => write!(f, "exit status {status}"),
            Self::Broken { how } => write!(f, "broken: {how}"),
            Self::NotStarted { why } => write!(f, "not started: {why}"),
        }
    }
}

/// A program's log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogSize {
    /// Lines since the start, with those that the system wrote about the program.
    pub lines: u64,
    /// Bytes that the program has written since the start.
    pub bytes: u64,
    /// Of the lines, those that are gone for want of room.
    pub lines_dropped: u64,
}
