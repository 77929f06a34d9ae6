//! Requests and replies.

use crate::crash::CrashReport;
use crate::status::System;
use crate::trace::TracePiece;
use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use serde::{Deserialize, Serialize};

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// The state of everything; answered by [`Reply::List`].
    List,
    /// What programs have written; answered by [`Reply::Log`]s and a [`Reply::LogEnd`].
    Log {
        /// Whose.
        which: Selector,
        /// From which line on.
        from: From,
        /// Whether to stay for what is written later. Who follows and wants no more closes the connection.
        follow: Follow,
    },
    /// Ends programs, which are not restarted then, whatever their policy; answered by [`Reply::Killed`] when they have ended.
    Kill {
        /// Which.
        which: Selector,
        /// How.
        how: How,
    },
    /// Ends the whole system; answered by [`Reply::ShutDown`] when all programs have ended.
    Shutdown {
        /// How.
        how: How,
    },
    /// What happens on the CPUs from now on; answered by [`Reply::Trace`]s. Who wants no more closes the connection: the machine notes
    /// nothing down while nobody asks.
    Trace,
    /// How programs failed last; answered by a [`Reply::Crash`] for each that has, and a [`Reply::CrashEnd`].
    Crashes {
        /// Whose.
        which: Selector,
    },
}

/// Which programs are meant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Selector {
    /// All.
    All,
    /// `domain` (all of its programs), `domain/program` (all of its instances), `domain/program/instance`; or without the domain
    /// if only one has a program of that name. A domain's name goes before a program's.
    Named(String),
}

/// From which line on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum From {
    /// The oldest that is kept.
    Start,
    /// So many before the newest, of all programs that are selected together; 0: only what comes.
    Last(u64),
}

/// Whether to stay for what comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Follow {
    /// Answer with what is there.
    No,
    /// Until no selected program can write any more.
    Yes,
}

/// How a program is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum How {
    /// Asked to, and at once if it has not ended after a while.
    Gracefully,
    /// Without being asked.
    AtOnce,
}

/// What the system answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// To [`Request::List`].
    List(System),
    /// To [`Request::Log`]: some lines. More may follow.
    Log(LogPiece),
    /// To [`Request::Log`]: there are no more.
    LogEnd(LogEnd),
    /// To [`Request::Kill`]: these have ended, and were running or waiting to be restarted.
    Killed(Vec<ProgramName>),
    /// To [`Request::Shutdown`]: everything has ended.
    ShutDown,
    /// To [`Request::Trace`]: some of what has happened. More follows.
    Trace(TracePiece),
    /// To [`Request::Trace`]: every program has ended for good.
    TraceEnd,
    /// To [`Request::Crashes`]: a program that has failed. More may follow.
    Crash(Box<CrashReport>),
    /// To [`Request::Crashes`]: there are no more.
    CrashEnd,
    /// To any: it cannot be done.
    Refused(Refusal),
}

/// A process's whole name; shown as `domain/program`, or `domain/program/instance` where the program has several. Without a program it
/// is what the domain's library OS goes by in a log, shown as `domain`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ProgramName {
    /// The domain that it runs in.
    pub domain: String,
    /// Its name there, with the instance; or nothing.
    pub program: String,
}

impl fmt::Display for ProgramName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.program.as_str() {
            "" => f.write_str(&self.domain),
            program => write!(f, "{}/{program}", self.domain),
        }
    }
}

/// Some lines of one program, or of a domain's library OS, which follow each other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogPiece {
    /// Whose.
    pub program: ProgramName,
    /// How many lines stood before these that the client has not got and will not: there was no more room for them.
    pub lines_dropped: u64,
    /// Oldest first.
    pub lines: Vec<Line>,
}

/// A line, or a part of a long one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// When its last byte came.
    pub at_ns: u64,
    /// Where it was written.
    pub stream: Stream,
    /// As written, without the newline; any bytes.
    pub bytes: Vec<u8>,
    /// What comes after it.
    pub end: LineEnd,
}

/// Where a line was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stream {
    /// The program's standard output.
    Output,
    /// Its standard error.
    Error,
    /// By the system, about the program: that it started, how it ended.
    Event,
}

/// What comes after the bytes of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LineEnd {
    /// A newline, which is not among the bytes.
    Newline,
    /// More of the same line, which was too long for one piece.
    Cut,
    /// Nothing: the program ended, or began anew.
    End,
}

/// Why a log has no more lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogEnd {
    /// That was all, and nobody wanted to stay.
    Newest,
    /// The programs have ended for good.
    Ended,
}

/// Why something was not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// Nothing is called so.
    NoSuchName {
        /// What was asked for.
        asked: String,
        /// All there is.
        known: Vec<ProgramName>,
    },
    /// Programs of several domains are.
    Ambiguous {
        /// What was asked for.
        asked: String,
        /// All that are meant by it.
        matching: Vec<ProgramName>,
    },
    /// None of those that are meant could be ended: they have, for good.
    NotRunning(Vec<ProgramName>),
    /// The answer would be longer than a frame may be.
    TooLong,
    /// More clients are connected than are served at a time.
    TooManyClients,
    /// The system runs on another's kernel, which is not ours to trace.
    NotOurKernel,
    /// The machine cannot trace: why, in words.
    CannotTrace(String),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuchName { asked, known } => {
                write!(f, "nothing here is called `{asked}`\nthere are: {}", Names(known))
            }
            Self::Ambiguous { asked, matching } => {
                write!(f, "`{asked}` is in several domains\nname one of {}", Names(matching))
            }
            Self::NotRunning(names) => write!(f, "it has ended: {}", Names(names)),
            Self::TooLong => f.write_str("the answer is too long"),
            Self::TooManyClients => f.write_str("too many are connected already: try again later"),
            Self::NotOurKernel => {
                f.write_str("the system runs on Linux: there is no kernel of Selkis to trace")
            }
            Self::CannotTrace(why) => write!(f, "the machine cannot trace: {why}"),
        }
    }
}

impl core::error::Error for Refusal {}

/// Names for a message, separated by commas: the first of them, and how many others there are.
pub struct Names<'a>(pub &'a [ProgramName]);

/// More do not help whoever reads it.
const NAMES_MAX: usize = 20;

impl fmt::Display for Names<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.0.iter().take(NAMES_MAX);
        for (index, name) in shown.enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            write!(f, "{separator}{name}")?;
        }
        match self.0.len().saturating_sub(NAMES_MAX) {
            0 => Ok(()),
            others => write!(f, " and {others} others"),
        }
    }
}
