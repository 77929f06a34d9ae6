//! The command lines.

use clap::{ArgGroup, Args};
use manifest::Name;
use manifest::units::parse_duration;
use std::path::PathBuf;
use std::time::Duration;

/// For `--help`.
pub const PS_EXAMPLES: &str = "\
Examples:
  selkis ps
  selkis ps alice                       one domain; alice/clock: one program; alice/web/0: one instance
  selkis ps --json | jq -r '.domains[] | select(.cpu_ns > 60e9) | .name'";

/// For `--help`.
pub const TOP_EXAMPLES: &str = "\
Examples:
  selkis top                            q or Ctrl-C ends it
  selkis top --json --interval 5s       what was used in five seconds, for a script";

/// For `--help`.
pub const LOG_EXAMPLES: &str = "\
Examples:
  selkis log alice                      all that is kept of what its programs wrote
  selkis log alice/clock -f -n 10       the last ten lines, and what comes
  selkis log bob > out.txt 2> err.txt   streams apart, bytes as they were written
  selkis log -f --json | jq -r 'select(.stream == \"error\") | .text'";

/// For `--help`.
pub const CRASH_EXAMPLES: &str = "\
Examples:
  selkis crash                          how each program that failed did so last
  selkis crash alice/web                cause, backtrace, limits and what was used, its last lines
  selkis crash --json | jq -r '.[] | select(.reason == \"trap: call stack exhausted\") | .program'";

/// For `--help`.
pub const TRACE_EXAMPLES: &str = "\
Examples:
  selkis trace --for 2s                 switches, requests, interrupts of two seconds
  selkis trace -f --domain alice        what Alice's domain does, until Ctrl-C
  selkis trace --chrome -o trace.json   for https://ui.perfetto.dev: a track for each CPU and domain
  selkis trace --json | jq -r 'select(.event == \"request\") | .request' | sort | uniq -c";

/// For `--help`.
pub const KILL_EXAMPLES: &str = "\
Examples:
  selkis kill bob                       ends Bob's programs; they are not started again
  selkis kill alice/clock --now         without asking it first
  selkis kill --all                     ends the whole system";

/// Which system is meant, and for whom the answer is.
#[derive(Args, Debug)]
pub struct Target {
    /// The system's name; needed only if several are running
    #[arg(long, value_name = "NAME")]
    pub system: Option<Name>,

    /// Write JSON, for a script
    #[arg(long)]
    pub json: bool,
}

/// `selkis ps`
#[derive(Args, Debug)]
pub struct PsArguments {
    /// DOMAIN, PROGRAM, DOMAIN/PROGRAM, or one process of it as `ps` shows it: DOMAIN/PROGRAM/NUMBER [default: all]
    pub name: Option<String>,

    #[command(flatten)]
    pub target: Target,
}

/// `selkis top`
#[derive(Args, Debug)]
pub struct TopArguments {
    /// How long to look before each figure: 500ms, 2s
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "1s")]
    pub interval: Duration,

    #[command(flatten)]
    pub target: Target,
}

/// `selkis log`
#[derive(Args, Debug)]
pub struct LogArguments {
    /// DOMAIN, PROGRAM, DOMAIN/PROGRAM, or one process of it as `ps` shows it: DOMAIN/PROGRAM/NUMBER [default: all]
    pub name: Option<String>,

    /// Stay, and write what comes, until the programs have ended for good
    #[arg(short, long)]
    pub follow: bool,

    /// Only so many lines before now [default: all that are kept]
    #[arg(short = 'n', long, value_name = "LINES")]
    pub lines: Option<u64>,

    /// Begin each line with the time when it was written, in UTC
    #[arg(short, long)]
    pub time: bool,

    #[command(flatten)]
    pub target: Target,
}

/// `selkis crash`
#[derive(Args, Debug)]
pub struct CrashArguments {
    /// DOMAIN, PROGRAM, DOMAIN/PROGRAM, or one process of it as `ps` shows it: DOMAIN/PROGRAM/NUMBER [default: all]
    pub name: Option<String>,

    #[command(flatten)]
    pub target: Target,
}

/// `selkis trace`
#[derive(Args, Debug)]
pub struct TraceArguments {
    /// Until Ctrl-C, or until the programs have ended for good
    #[arg(short, long, conflicts_with = "time")]
    pub follow: bool,

    /// For how long: 500ms, 2s [default: 1s]
    #[arg(long = "for", value_name = "DURATION", value_parser = parse_duration)]
    pub time: Option<Duration>,

    /// Only what happens on this CPU
    #[arg(long, value_name = "NUMBER")]
    pub cpu: Option<u16>,

    /// Only what this domain does, or what happens to it; `(root)` is the one above all
    #[arg(long, value_name = "NAME")]
    pub domain: Option<String>,

    /// Where to write it [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,

    /// As Perfetto and Chrome open it
    #[arg(long, conflicts_with = "json")]
    pub chrome: bool,

    #[command(flatten)]
    pub target: Target,
}

/// `selkis kill`
#[derive(Args, Debug)]
#[command(group = ArgGroup::new("which").required(true).args(["name", "all"]))]
pub struct KillArguments {
    /// DOMAIN, PROGRAM, DOMAIN/PROGRAM, or one process of it as `ps` shows it: DOMAIN/PROGRAM/NUMBER
    pub name: Option<String>,

    /// Everything, and the system itself
    #[arg(long)]
    pub all: bool,

    /// At once, instead of asking first and waiting a while
    #[arg(long)]
    pub now: bool,

    #[command(flatten)]
    pub target: Target,
}
