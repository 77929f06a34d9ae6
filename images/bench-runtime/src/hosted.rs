//! Measurements as a process of Linux: the launcher takes no time off.

use crate::launcher::{self, Launcher, LauncherHost};
use crate::measure::{Measurement, Ready, Subject, Unscheduled};
use crate::{entry, processes};
use abi::BootInfo;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use bundle::Bundle;
use runtime::System;
use wasi::provider::{OutputStream, Providers, Streams};

/// How many instances are made between two looks at the clock.
const BATCH: u64 = 64;

/// Does what `arguments` say; see the crate's first lines.
pub fn run(boot: &'static BootInfo, subject: &Subject<'_>, arguments: &[Vec<u8>]) -> Result<(), String> {
    let launcher = open(boot)?;
    let words = words(arguments)?;
    let what = match words.as_slice() {
        [_, "instances", milliseconds] => What::Instances { nanoseconds: number(milliseconds)? * 1_000_000 },
        [_, "time", count, ..] => What::Time { count: number(count)?, arguments: &arguments[3..] },
        [_, "idle", count] => What::Idle { count: number(count)? },
        _ => return Err(String::from("the plan's arguments say nothing to measure")),
    };
    let host = || Ok(host(launcher));
    subject.measure(host, Told { launcher, what })
}

/// What is to be measured of processes, if anything.
pub fn processes(arguments: &[Vec<u8>]) -> Result<Option<processes::What>, String> {
    let words = words(arguments)?;
    let [_, what, count] = words.as_slice() else { return Ok(None) };
    Ok(Some(match *what {
        "shared" => processes::What::Shared { count: number(count)? },
        "switches" => processes::What::Switches { count: number(count)? },
        "runaways" => processes::What::Runaways { count: number(count)? },
        "processes" => processes::What::Processes { count: number(count)? },
        "children" => processes::What::Children { count: number(count)? },
        _ => return Ok(None),
    }))
}

/// Measures that, in the first program of the bundle.
pub fn run_processes(
    system: &'static System,
    boot: &'static BootInfo,
    bundle: Bundle<'static>,
    what: processes::What,
) -> Result<(), String> {
    entry::register_upcalls(system, boot).map_err(|error| format!("no upcalls: {error:?}"))?;
    processes::run(system, open(boot)?, bundle, what)
}

fn open(boot: &'static BootInfo) -> Result<Launcher, String> {
    Ok(launcher::open(launcher::services(boot).ok_or("the launcher is of another version")?))
}

fn words(arguments: &[Vec<u8>]) -> Result<Vec<&str>, String> {
    let words: Option<Vec<&str>> = arguments.iter().map(|word| core::str::from_utf8(word).ok()).collect();
    words.ok_or_else(|| String::from("the plan's arguments are no text"))
}

fn number(word: &str) -> Result<u64, String> {
    word.parse().map_err(|_| format!("{word} is no number"))
}

fn host(launcher: Launcher) -> LauncherHost<Launcher, Launcher, Unscheduled> {
    Providers { clock: launcher, entropy: launcher, streams: launcher, files: launcher, wait: Unscheduled }
}

/// A measurement that is told to the launcher, line by line.
struct Told<'a> {
    launcher: Launcher,
    what: What<'a>,
}

enum What<'a> {
    Instances { nanoseconds: u64 },
    Time { count: u64, arguments: &'a [Vec<u8>] },
    Idle { count: u64 },
}

impl Measurement for Told<'_> {
    fn of<T>(mut self, ready: &Ready<'_, T>) -> Result<(), String> {
        match self.what {
            What::Instances { nanoseconds } => self.instances(ready, nanoseconds),
            What::Time { count, arguments } => self.time(ready, count, arguments),
            What::Idle { count } => self.idle(ready, count),
        }
    }
}

impl Told<'_> {
    fn say(&mut self, line: &str) -> Result<(), String> {
        let said = self.launcher.write(OutputStream::Error, line.as_bytes());
        said.map(|_| ()).map_err(|_| String::from("nobody reads the measurements"))
    }

    fn instances<T>(&mut self, ready: &Ready<'_, T>, nanoseconds: u64) -> Result<(), String> {
        // The first touches what stays.
        ready.start(&[])?;
        let begin_ns = ready.system.now_ns();
        let mut count = 0u64;
        let elapsed_ns = loop {
            for _ in 0..BATCH {
                ready.start(&[])?;
            }
            count += BATCH;
            let elapsed_ns = ready.system.now_ns() - begin_ns;
            if elapsed_ns >= nanoseconds {
                break elapsed_ns;
            }
        };
        let rate = u128::from(count) * 1_000_000_000 / u128::from(elapsed_ns);
        self.say(&format!("instances_per_second {rate}\n"))
    }

    fn time<T>(&mut self, ready: &Ready<'_, T>, count: u64, arguments: &[Vec<u8>]) -> Result<(), String> {
        for _ in 0..count {
            let begin_ns = ready.system.now_ns();
            drop(ready.start(arguments)?);
            let elapsed_ns = ready.system.now_ns() - begin_ns;
            self.say(&format!("nanoseconds {elapsed_ns}\n"))?;
        }
        Ok(())
    }

    fn idle<T>(&mut self, ready: &Ready<'_, T>, count: u64) -> Result<(), String> {
        ready.start(&[])?;
        self.say("begin\n")?;
        let alive: Result<Vec<_>, String> = (0..count).map(|_| ready.start(&[])).collect();
        let alive = alive?;
        self.say(&format!("alive {count}\n"))?;
        drop(alive);
        Ok(())
    }
}
