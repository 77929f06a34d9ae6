//! What can be wrong with a manifest, and where.

use crate::quote::Quote;
use crate::units::{ByteCount, UnitError};
use crate::{Name, NameError};
use std::fmt;
use std::io;
use std::path::PathBuf;

/// A place in a manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Counted from 1.
    pub line: u32,
    /// In characters, counted from 1.
    pub column: u32,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Where.
    pub at: Position,
    /// What.
    pub wrong: Wrong,
}

/// What is wrong. Each message's first line names it, further lines say what would be right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    /// Not TOML.
    #[error("this is not TOML: {message}{}", after(.text))]
    Syntax {
        /// What was expected, in the parser's words.
        message: String,
        /// What is there instead; may be nothing.
        text: String,
    },
    /// A key that nobody reads.
    #[error("{of} has no key {}{}\nits keys are {}", Quote(.key), meant(*.nearest), list(.known))]
    UnknownKey {
        /// What is there.
        key: String,
        /// In which table.
        of: String,
        /// What may have been meant.
        nearest: Option<&'static str>,
        /// All there are.
        known: &'static [&'static str],
    },
    /// A key that must be there.
    #[error("{of} has no `{key}`\nwrite, for example: {example}")]
    Missing {
        /// Which.
        key: &'static str,
        /// In which table.
        of: String,
        /// A line that could stand there.
        example: &'static str,
    },
    /// A value of another type.
    #[error("{} is {found}, and `{key}` must be {wanted}", Quote(.text))]
    Type {
        /// Whose value.
        key: String,
        /// What is there.
        text: String,
        /// What that is.
        found: &'static str,
        /// What belongs there.
        wanted: &'static str,
    },
    /// A number that is too small or too large.
    #[error("{} is not in the range of `{key}`\nwrite a number from {min} to {max}", Quote(.text))]
    Range {
        /// Whose value.
        key: String,
        /// What is there.
        text: String,
        /// The smallest.
        min: u32,
        /// The largest.
        max: u32,
    },
    /// None of a few words.
    #[error("{} is nothing that `{key}` can be{}\nwrite {}", Quote(.text), meant(*.nearest), list(.known))]
    Choice {
        /// Whose value.
        key: String,
        /// What is there.
        text: String,
        /// What may have been meant.
        nearest: Option<&'static str>,
        /// All there are.
        known: Vec<&'static str>,
    },
    /// A size, a duration, a part of a CPU.
    #[error("{}: {error}", Quote(.text))]
    Unit {
        /// What is there.
        text: String,
        /// Why it is none.
        error: UnitError,
    },
    /// Not a name.
    #[error("{} cannot be the name of {of}\n{NameError}", Quote(.text))]
    Name {
        /// What is there.
        text: String,
        /// What it would name.
        of: &'static str,
    },
    /// A file's stem is to be the name, and cannot.
    #[error("the name of {of} would be {}, after its file, and cannot be\ngive it another: name = \"…\"; {NameError}", Quote(.stem))]
    Stem {
        /// Of the file.
        stem: String,
        /// What it would name.
        of: &'static str,
    },
    /// Two of one name.
    #[error("there is {what} {} already, in line {}\ngive one of them another name", Quote(.name), .first.line)]
    Twice {
        /// With an article.
        what: &'static str,
        /// Their name.
        name: String,
        /// The other one.
        first: Position,
    },
    /// An empty text.
    #[error("`{0}` is empty\nwrite {1}, or leave the line out")]
    Empty(String, &'static str),
    /// In what programs and Linux read as C strings.
    #[error("{} holds a NUL character, which no program could read", Quote(.0))]
    Nul(String),
    /// In an environment.
    #[error("{} cannot be the name of a variable\na name is not empty and has no `=` in it", Quote(.0))]
    Variable(String),
    /// A system that does nothing.
    #[error("there is no domain in it\nwrite one: [domains.some-name]")]
    NoDomains,
    /// A domain that does nothing.
    #[error("the domain `{0}` has no program\nwrite one: [[domains.{0}.programs]]")]
    NoPrograms(Name),
    /// A program to start that is not there.
    #[error("there is no program {} in the domain `{domain}`{}\na program can start those of its own domain", Quote(.name), meant(.nearest.as_ref().map(Name::as_str)))]
    Start {
        /// What is there.
        name: String,
        /// In which.
        domain: Name,
        /// What may have been meant.
        nearest: Option<Name>,
    },
    /// A program to start, named again.
    #[error("{} stands in `start` twice", Quote(.0))]
    StartTwice(String),
    /// What says nothing about a program that only others start.
    #[error(
        "`{key}` says nothing about a program with `instances = 0`\nwho starts it says with what it begins; leave the line out"
    )]
    OnlyStarted {
        /// What.
        key: &'static str,
    },
    /// A program that never runs.
    #[error("nothing starts `{0}`: its `instances` is 0, and it is in no `start`")]
    NeverStarted(Name),
    /// A program to start, and no process that it could be.
    #[error(
        "no process of `{domain}` is left for `{program}` to be started: it may have {processes}\nset its `processes` higher"
    )]
    NoProcessLeft {
        /// In which.
        domain: Name,
        /// Which.
        program: Name,
        /// What it may have.
        processes: u32,
    },
    /// A program to start, and no memory for it.
    #[error(
        "`{program}`, with its stack and what runs it, may use {wanted}, and the other programs of `{domain}` leave {left}: it could not be started\ngive the domain more, or the programs less"
    )]
    NoMemoryLeft {
        /// In which.
        domain: Name,
        /// Which.
        program: Name,
        /// What it may use.
        wanted: ByteCount,
        /// What is left.
        left: ByteCount,
    },
    /// More instances of programs than processes.
    #[error(
        "the programs of `{domain}` are {wanted} processes, and it may have {processes}\nset its `processes` to {wanted} or more"
    )]
    Processes {
        /// Which.
        domain: Name,
        /// The sum of its programs' instances.
        wanted: u64,
        /// What it may have.
        processes: u32,
    },
    /// Fewer than a program begins with.
    #[error(
        "`descriptors` is {count}, and its streams and directories alone are {at_least}\nset it to {at_least} or more"
    )]
    Descriptors {
        /// What it may have.
        count: u32,
        /// What it begins with.
        at_least: u64,
    },
    /// Several processes, and what each gets of the memory is not said.
    #[error(
        "the domain `{domain}` has several processes: each program needs a `memory` of its own\nof {quota} in all; write, for example: memory = \"32MiB\""
    )]
    MemoryOfEach {
        /// Which.
        domain: Name,
        /// What they share.
        quota: ByteCount,
    },
    /// More memory promised than the domain has.
    #[error(
        "the programs of `{domain}` may use {promised}, and the domain {quota}\ngive the domain more, or the programs less"
    )]
    MemoryOfDomain {
        /// Which.
        domain: Name,
        /// The programs' sum.
        promised: ByteCount,
        /// The domain's.
        quota: ByteCount,
    },
    /// More CPU time than the domain's CPUs have.
    #[error("{} is more than the domain can use with `cpus = {cpus}`\nwrite at most \"{cpus}00%\", or set the domain's `cpus` higher", Quote(.text))]
    Budget {
        /// What is there.
        text: String,
        /// The domain's.
        cpus: u32,
    },
    /// More memory promised than the machine has.
    #[error(
        "with the domain `{domain}` the memory of all is {promised}, and the machine has {machine}\ngive the domains less, or the machine more"
    )]
    MemoryOfMachine {
        /// The first that does not fit.
        domain: Name,
        /// The sum up to and with it.
        promised: ByteCount,
        /// What there is.
        machine: ByteCount,
    },
    /// More CPUs than the machine has.
    #[error("the domain `{domain}` wants {cpus} CPUs, and the machine has {machine}")]
    Cpus {
        /// Which.
        domain: Name,
        /// What it wants.
        cpus: u32,
        /// What there is.
        machine: u32,
    },
    /// More processes than a domain of the machine can have.
    #[error(
        "the domain `{domain}` may have {processes} processes, and in a machine of Selkis' own kernel {max} is the most\nset its `processes` lower, or move programs to another domain; without --vm there can be more"
    )]
    ProcessesOfMachine {
        /// Which.
        domain: Name,
        /// What it may have.
        processes: u32,
        /// The most.
        max: u32,
    },
    /// More programs than a domain can be given.
    #[error(
        "`{program}` would be program {count} of the domain `{domain}`, and {max} is the most\nmove it to another domain"
    )]
    ProgramsOfDomain {
        /// Which.
        domain: Name,
        /// The first too many.
        program: Name,
        /// Its number, counted from 1.
        count: usize,
        /// The most.
        max: usize,
    },
    /// A program's file.
    #[error("there is no file {}, nor a program of that name\npaths begin in the manifest's folder; `selkis programs` lists the names", Quote(.0))]
    NoFile(String),
    /// A program's file is something else.
    #[error("{} is not a file: name a WebAssembly file", Quote(.0))]
    NotAFile(String),
    /// A directory to grant.
    #[error("there is no directory {}\npaths begin in the manifest's folder", Quote(.0))]
    NoDirectory(String),
    /// A directory to grant is something else.
    #[error("{} is not a directory\ngrant the directory that it is in", Quote(.0))]
    NotADirectory(String),
    /// There, and out of reach.
    #[error("cannot look at {}: {}", Quote(.0), .1)]
    OutOfReach(String, io::ErrorKind),
}

/// `x`, `y` or `z`
fn list(words: &[&str]) -> String {
    match words {
        [] => String::new(),
        [only] => format!("`{only}`"),
        [first @ .., last] => {
            let first: Vec<String> = first.iter().map(|word| format!("`{word}`")).collect();
            format!("{} or `{last}`", first.join(", "))
        }
    }
}

fn meant(nearest: Option<&str>) -> String {
    nearest.map(|word| format!("; did you mean `{word}`?")).unwrap_or_default()
}

fn after(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(", and this is {}", Quote(text)) }
}

/// How many mistakes are kept; of more, only their number.
const KEPT_MAX: usize = 100;

/// All that is wrong with a manifest, in the order of its lines; at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistakes {
    path: PathBuf,
    list: Vec<Mistake>,
    /// How many more there are than `list` holds.
    dropped: usize,
}

impl Mistakes {
    /// Sorts them. `Ok` when there are none.
    pub(crate) fn none_of(path: PathBuf, mut list: Vec<Mistake>) -> Result<(), Self> {
        list.sort_by_key(|mistake| mistake.at);
        let dropped = list.len().saturating_sub(KEPT_MAX);
        list.truncate(KEPT_MAX);
        if list.is_empty() { Ok(()) } else { Err(Self { path, list, dropped }) }
    }

    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = &Mistake> {
        self.list.iter()
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        let count = self.list.len() + self.dropped;
        if count > 1 {
            writeln!(f, "there are {count} mistakes in {path}")?;
        }
        for (index, Mistake { at, wrong }) in self.list.iter().enumerate() {
            let end = if index == 0 { "" } else { "\n" };
            write!(f, "{end}{path}:{at}: {}", wrong.to_string().replace('\n', "\n    "))?;
        }
        match self.dropped {
            0 => Ok(()),
            more => write!(f, "\nand {more} more"),
        }
    }
}

impl std::error::Error for Mistakes {}

/// Why there is no system to a path.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Not there, not readable.
    #[error("cannot read `{path}`: {error}", path = .0.display(), error = .1)]
    Open(PathBuf, io::Error),
    /// Nobody writes that much.
    #[error("`{path}` is longer than a manifest can be ({max})", path = .0.display(), max = ByteCount(crate::TEXT_BYTES_MAX as u64))]
    TooLong(PathBuf),
    /// Bytes that are no text.
    #[error("{path}:{at}: this is not UTF-8, as TOML must be", path = .0.display(), at = .1)]
    NotUtf8(PathBuf, Position),
    /// What it says cannot be.
    #[error(transparent)]
    Mistakes(#[from] Mistakes),
}
