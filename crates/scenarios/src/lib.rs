//! The scenario tests: what a user does with the `selkis` command, with the same assertions hosted and in QEMU.
//!
//! ```text
//! cargo test -p scenarios --test scenarios -- [--platform hosted|vm|vm-2|vm-4] [--soak] [FILTER]…
//! ```
//! Each prints a line; the last line says how many passed and failed, and so does the exit status. The command to test is
//! `$SELKIS_BIN`, or the one in `$SELKIS_LIB`; real programs come from `$SELKIS_FETCH`. `$SELKIS_SOAK` is as `--soak`.
#![deny(unsafe_code)]

mod damage;
mod fetch;
mod guests;
mod launcher;
mod processes;
mod runner;
mod scenarios;
mod selkis;
mod system;
mod verdict;

use clap::{Parser, ValueEnum};
use runner::{Depth, Platform, Selection};
use std::env;
use std::process::ExitCode;

/// Runs the scenario tests of Selkis
#[derive(Parser)]
#[command(name = "scenarios", version)]
struct Arguments {
    /// Only on this platform; may be given for each
    #[arg(long, value_enum)]
    platform: Vec<Platform>,
    /// Everything, where the ordinary run takes a part: all 1,000 damaged modules and artifacts
    #[arg(long)]
    soak: bool,
    /// Show what would run
    #[arg(long)]
    list: bool,
    /// How many run at the same time
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Only scenarios whose names contain one of these
    filter: Vec<String>,
}

/// What the test executable does.
pub fn main() -> ExitCode {
    // Started under other names, this is what stands before QEMU and damages its boot module, or launches the library OS.
    if let Some(ended) = damage::stand_in_for_qemu().or_else(launcher::stand_in_for_selkis) {
        return ended;
    }
    let arguments = Arguments::parse();
    let soak = arguments.soak || env::var_os("SELKIS_SOAK").is_some();
    let depth = if soak { Depth::Soak } else { Depth::Ordinary };
    let platforms = match (arguments.platform.as_slice(), depth) {
        ([], Depth::Ordinary) => vec![Platform::Hosted, Platform::Vm, Platform::Vm2],
        ([], Depth::Soak) => Platform::value_variants().to_vec(),
        (chosen, _) => chosen.to_vec(),
    };
    let selection = Selection { platforms, filter: arguments.filter, depth };
    if arguments.list {
        runner::list(&scenarios::all(), &selection);
        return ExitCode::SUCCESS;
    }
    runner::run(&scenarios::all(), &selection, arguments.jobs.max(1))
}
