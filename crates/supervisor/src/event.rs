//! What the supervisor is told, and what it wants done.

use alloc::string::String;
use alloc::vec::Vec;
use control::{Cpu, Crash, End, How, Platform, ProcessUsage, Stream, Usage};
use core::fmt;
use serde::{Deserialize, Serialize};

/// A system as the manifest describes it.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Its name.
    pub name: String,
    /// Where it runs.
    pub platform: Platform,
    /// The time zero, in nanoseconds since 1970, if it is known.
    pub started_unix_ns: Option<u64>,
    /// How much memory the log of a process may take at most, with what it costs to keep: less if there are many.
    pub log_bytes_max: usize,
    /// In the manifest's order.
    pub domains: Vec<DomainSetup>,
}

/// A domain, with the programs that it runs.
#[derive(Clone, Debug)]
pub struct DomainSetup {
    /// Its name.
    pub name: String,
    /// What it may have of memory.
    pub memory_quota_bytes: u64,
    /// In the order of its plan.
    pub programs: Vec<ProgramSetup>,
    /// How many numbers it has for processes that its programs start: those after the numbers of its own.
    pub children: usize,
}

impl DomainSetup {
    /// How many processes it has of its own: all instances of all programs.
    pub fn processes(&self) -> usize {
        self.programs.iter().map(|program| program.instances as usize).sum()
    }
}

/// A program of a domain. Each of its instances is a process.
#[derive(Clone, Debug)]
pub struct ProgramSetup {
    /// Its name.
    pub name: String,
    /// How many there are; 0 of a program that only others start.
    pub instances: u32,
    /// When one is started again.
    pub restart: Restart,
}

/// When a process that has ended by itself is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restart {
    /// Never.
    Never,
    /// Unless it ended with status 0.
    OnFailure,
    /// However it ended.
    Always,
}

impl Restart {
    pub(crate) fn wants(self, end: &End) -> bool {
        match self {
            Self::Never => false,
            Self::OnFailure => !end.is_success(),
            Self::Always => true,
        }
    }
}

/// A domain, by its place in [`Setup::domains`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DomainId(pub usize);

/// A process, whether it is alive or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProcessId {
    /// Where it runs.
    pub domain: DomainId,
    /// Its number there: the instances of the first program, then those of the next; then those that programs have started.
    pub number: u32,
}

/// Something that has happened.
#[derive(Clone, Debug)]
pub enum Event<'a> {
    /// The system begins.
    Begin,
    /// What [`Effect::StartDomain`] asked for is done: its processes can be started.
    DomainStarted {
        /// Which.
        domain: DomainId,
        /// The number of its process, where domains are processes.
        process_id: Option<u32>,
    },
    /// The domain has ended, or could not be started; nothing more comes of it nor of its processes. One for each
    /// [`Effect::StartDomain`].
    DomainEnded(DomainId, End),
    /// What runs the domain has something to say. It concerns all that live in it, and is kept once.
    DomainWrote {
        /// Which.
        domain: DomainId,
        /// What.
        bytes: &'a [u8],
    },
    /// What [`Effect::StartProcess`] asked for is done: the process runs.
    Started(ProcessId),
    /// A process runs that another one there has started.
    Spawned {
        /// Which: one of those numbers that is free, and the next one if it was never used.
        process: ProcessId,
        /// Its program's place in the plan.
        program: u32,
        /// The number of who started it.
        parent: u32,
    },
    /// What its library OS says of a process that fails; [`Event::Ended`] follows.
    Crashed(ProcessId, Crash),
    /// The process has to wait, for it writes faster than it may.
    Throttled(ProcessId),
    /// The process has ended, and its domain goes on; nothing more comes of it.
    Ended(ProcessId, End),
    /// The process has written.
    Wrote {
        /// Which.
        process: ProcessId,
        /// Where.
        stream: Stream,
        /// What.
        bytes: &'a [u8],
    },
    /// What the domain uses, of this run alone. The last before its end counts for good.
    DomainMeasured(DomainId, Usage),
    /// The same of a process.
    Measured(ProcessId, ProcessUsage),
    /// What the machine's CPUs have done, by number.
    MeasuredCpus(Vec<Cpu>),
    /// Time has passed: [`crate::Supervisor::deadline_ns`] is there.
    Time,
    /// The whole system is to end.
    Shutdown(How),
}

/// Something to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Start the domain: an [`Event::DomainEnded`] comes of it sooner or later, and an [`Event::DomainStarted`] before if it came
    /// to run.
    StartDomain(DomainId),
    /// End the domain, which was started and has not ended. May come twice, the second time [`How::AtOnce`].
    EndDomain(DomainId, How),
    /// Start the program of this place in its domain's plan as this process, in its domain, which runs: an [`Event::Started`] comes
    /// of it, unless it ends before; and an [`Event::Ended`], unless the domain does.
    StartProcess(ProcessId, u32),
    /// End the process, which was started and has not ended; its domain goes on.
    EndProcess(ProcessId),
    /// Measure the domain, which was started and has not ended, and its processes: an [`Event::DomainMeasured`], and an
    /// [`Event::Measured`] for each that runs.
    Measure(DomainId),
    /// Tell whoever looks on.
    Notice(ProcessId, Notice),
}

/// What there is to tell about a process. As text it goes on after its name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Notice {
    /// It runs; so often it had run before.
    Started {
        /// 0 for the first time.
        restarts: u64,
    },
    /// It was told to end.
    Stopping(How),
    /// It did not end when it was told to.
    Overdue,
    /// It has ended.
    Ended {
        /// How.
        end: End,
        /// What follows.
        next: Next,
    },
    /// It was waiting to be started again, and is not.
    Cancelled,
}

/// What follows the end of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Next {
    /// Nothing, by its policy.
    Nothing,
    /// Nothing: it was told to end.
    Stopped,
    /// It is started again after this time.
    Restart {
        /// From now.
        after_ns: u64,
    },
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Started { restarts: 0 } => f.write_str("started"),
            Self::Started { restarts } => write!(f, "started again (restart {restarts})"),
            Self::Stopping(How::Gracefully) => f.write_str("told to end"),
            Self::Stopping(How::AtOnce) => f.write_str("ended by force"),
            Self::Overdue => f.write_str("did not end when told to; ended by force"),
            Self::Cancelled => f.write_str("not started again: told to end"),
            Self::Ended { end, next: Next::Restart { after_ns } } => {
                write!(f, "{end}; starts again in {}", Time(*after_ns))
            }
            Self::Ended { end, next: Next::Stopped } => write!(f, "stopped: {end}"),
            Self::Ended { end, next: Next::Nothing } => write!(f, "{end}"),
        }
    }
}

/// In milliseconds up to ten seconds, then in seconds.
struct Time(u64);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 / 1_000_000 {
            ms if ms < 10_000 => write!(f, "{ms} ms"),
            ms => write!(f, "{}.{} s", ms / 1000, ms % 1000 / 100),
        }
    }
}
