//! What the supervisor is told, and what it wants done.

use alloc::string::String;
use alloc::vec::Vec;
use control::{Cpu, End, How, Platform, Stream, Usage};
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
    /// How much memory the log of each program may take, with what it costs to keep.
    pub log_bytes_max: usize,
    /// In the manifest's order.
    pub domains: Vec<DomainSetup>,
}

/// A domain, with the one program that it runs.
#[derive(Clone, Debug)]
pub struct DomainSetup {
    /// Its name.
    pub name: String,
    /// What it may have of memory.
    pub memory_quota_bytes: u64,
    /// Its program's name.
    pub program: String,
    /// When the program is started again.
    pub restart: Restart,
}

/// When a program that has ended by itself is started again.
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

/// Something that has happened.
#[derive(Clone, Debug)]
pub enum Event<'a> {
    /// The system begins.
    Begin,
    /// What [`Effect::Start`] asked for is done: the domain runs.
    Started {
        /// Which.
        domain: DomainId,
        /// The number of its process, where domains are processes.
        process_id: Option<u32>,
    },
    /// The domain has ended, or could not be started; nothing more comes of it. One for each [`Effect::Start`].
    Ended(DomainId, End),
    /// The program has written.
    Wrote {
        /// Whose program.
        domain: DomainId,
        /// Where.
        stream: Stream,
        /// What.
        bytes: &'a [u8],
    },
    /// What the domain uses, of this run alone. The last before its end counts for good.
    Measured(DomainId, Usage),
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
    /// Start the domain: an [`Event::Ended`] comes of it sooner or later, and an [`Event::Started`] before if it came to run.
    Start(DomainId),
    /// End the domain, which was started and has not ended. May come twice, the second time [`How::AtOnce`].
    End(DomainId, How),
    /// Tell whoever looks on.
    Notice(DomainId, Notice),
}

/// What there is to tell about a program. As text it goes on after its name.
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

/// What follows the end of a program.
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
