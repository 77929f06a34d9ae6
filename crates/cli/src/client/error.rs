//! Why a system could not be looked into.

use super::escape::escaped;
use crate::sockets::SocketError;
use control::{FrameError, Names, ProgramName, Refusal};
use manifest::Name;
use std::fmt;
use std::io;
use std::path::PathBuf;

/// Each message's first line says what failed, further lines are the way out.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Where they listen.
    #[error(transparent)]
    Sockets(#[from] SocketError),
    /// There is none.
    #[error("no system is running\nstart one, for example: selkis up systems/tenants.toml")]
    NoSystem,
    /// There are several.
    #[error("several systems are running\nsay which of them: --system {}", list(.0, " or --system "))]
    Several(Vec<Name>),
    /// There are others, or none.
    #[error("no system `{asked}` is running{}", others(.running, .asked))]
    NoSuchSystem {
        /// As on the command line.
        asked: Name,
        /// Those that are.
        running: Vec<Name>,
    },
    /// Not by its absence.
    #[error("cannot reach the system at {path}: {error}", path = .0.display(), error = .1)]
    Connect(PathBuf, io::Error),
    /// In the middle.
    #[error(
        "the connection to the system `{0}` was lost: it has ended, or was ended\n`selkis ps` shows what is running"
    )]
    Lost(String),
    /// It is stuck, or stopped.
    #[error("the system `{0}` does not answer")]
    Silent(String),
    /// Reading or writing.
    #[error("cannot speak with the system `{0}`: {1}")]
    Stream(String, io::Error),
    /// Not our words.
    #[error("cannot understand the system `{0}`: {1}\nwas it started by another version of selkis?")]
    Frame(String, FrameError),
    /// An answer to something else.
    #[error("the system `{0}` answers what was not asked\nwas it started by another version of selkis?")]
    Unexpected(String),
    /// It says no.
    #[error("{}", Said(.0))]
    Refused(Refusal),
    /// For `trace`.
    #[error(
        "the system `{system}` runs on Linux, and `trace` shows what Selkis' own kernel does\nrun it with `up --vm`; of Linux's \
         kernel, ask Linux: {}",
        linux_tools(*.process)
    )]
    NotOurKernel {
        /// Which.
        system: String,
        /// Of a domain, if one runs.
        process: Option<u32>,
    },
    /// For `trace`.
    #[error("the machine has no CPU {asked}\nits CPUs are 0 to {}", .cpus.saturating_sub(1))]
    NoSuchCpu {
        /// As on the command line.
        asked: u16,
        /// How many there are.
        cpus: usize,
    },
    /// For `top`.
    #[error(
        "`top` draws on a terminal, and standard output is none\nfor a script there are: selkis ps, selkis top --json"
    )]
    NoTerminal,
    /// For `top`.
    #[error("cannot draw on the terminal: {0}")]
    Terminal(io::Error),
}

fn others(running: &[Name], asked: &Name) -> String {
    if running.is_empty() {
        return ", nor any other\nstart one, for example: selkis up systems/tenants.toml".to_owned();
    }
    let nearest = manifest::nearest(asked.as_str(), running.iter().map(Name::as_str));
    let meant = nearest.map(|name| format!("; did you mean `{name}`?")).unwrap_or_default();
    format!("{meant}\nthere are: {}", list(running, ", "))
}

/// What shows the system calls of a process.
fn linux_tools(process: Option<u32>) -> String {
    let process = process.map_or_else(|| "PID".to_owned(), |process| process.to_string());
    format!("perf trace -p {process}, or strace -f -p {process}; `selkis ps` shows the PIDs")
}

fn list(names: &[Name], separator: &str) -> String {
    names.iter().map(Name::as_str).collect::<Vec<_>>().join(separator)
}

/// A refusal with what may have been meant.
struct Said<'a>(&'a Refusal);

impl fmt::Display for Said<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Refusal::NoSuchName { asked, known } = self.0 else {
            return write!(f, "{}", escaped(&self.0.to_string()));
        };
        write!(f, "nothing in the system is called `{}`", escaped(asked))?;
        if let Some(meant) = meant(asked, known) {
            write!(f, "; did you mean `{}`?", escaped(&meant))?;
        }
        write!(f, "\nthere are: {}", escaped(&Names(known).to_string()))
    }
}

fn meant(asked: &str, known: &[ProgramName]) -> Option<String> {
    let whole: Vec<String> = known.iter().map(ProgramName::to_string).collect();
    let parts = known.iter().flat_map(|name| [name.domain.as_str(), name.program.as_str()]);
    let candidates: Vec<&str> = match asked.contains('/') {
        true => whole.iter().map(String::as_str).collect(),
        false => parts.collect(),
    };
    manifest::nearest(asked, candidates.into_iter()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(asked: &str) -> String {
        let name =
            |domain: &str, program: &str| ProgramName { domain: domain.into(), program: program.into() };
        let known = vec![name("alice", "clock"), name("bob", "primes")];
        ClientError::Refused(Refusal::NoSuchName { asked: asked.into(), known }).to_string()
    }

    #[test]
    fn what_may_have_been_meant_is_said() {
        let first = |text: String| text.lines().next().unwrap().to_owned();
        assert_eq!(
            refused("alcie"),
            "nothing in the system is called `alcie`; did you mean `alice`?\nthere are: alice/clock, bob/primes"
        );
        assert!(first(refused("prime")).ends_with("did you mean `primes`?"));
        assert!(first(refused("bob/prime")).ends_with("did you mean `bob/primes`?"));
        assert_eq!(first(refused("zzz\u{1b}")), "nothing in the system is called `zzz\\u{1b}`");
    }
}
