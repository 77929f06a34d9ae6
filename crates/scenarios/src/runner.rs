//! Picks scenarios, runs them a few at a time, says how they went.

use crate::selkis::Context;
use crate::verdict::{Failed, Verdict};
use clap::ValueEnum;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

/// Where a program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Platform {
    /// As a Linux process.
    Hosted,
    /// On Selkis' own kernel, in QEMU.
    Vm,
    /// The same with two CPUs.
    #[value(name = "vm-2")]
    Vm2,
    /// And with four, which is for soaks: where all of them are emulated they stand in each other's way.
    #[value(name = "vm-4")]
    Vm4,
}

/// How much of what could be tried is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// What fits into every run: a part of the damaged inputs, chosen by a fixed seed.
    Ordinary,
    /// All of it.
    Soak,
}

/// What a scenario is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum On {
    /// Hosted and in the machine, with the same assertions.
    Both,
    /// The same, and in machines with several CPUs as well.
    All,
    /// Hosted and in machines with several CPUs: it wants two.
    Several,
    /// In machines: it is about something that Linux does not have.
    Machines,
    /// One: it is about something that the other does not have.
    Only(Platform),
}

/// A test.
#[derive(Clone, Copy)]
pub struct Scenario {
    /// What it is called.
    pub name: &'static str,
    /// Where it runs.
    pub on: On,
    /// Does it.
    pub run: fn(&Context) -> Verdict,
}

/// Which scenarios are to run.
#[derive(Debug)]
pub struct Selection {
    /// Where.
    pub platforms: Vec<Platform>,
    /// Parts of names; empty: all.
    pub filter: Vec<String>,
    /// How much.
    pub depth: Depth,
}

impl Platform {
    fn name(self) -> &'static str {
        match self {
            Self::Hosted => "hosted",
            Self::Vm => "vm",
            Self::Vm2 => "vm-2",
            Self::Vm4 => "vm-4",
        }
    }
}

impl Selection {
    fn pick<'a>(&self, scenarios: &'a [Scenario]) -> Vec<(&'a Scenario, Platform)> {
        let is_wanted = |scenario: &Scenario| {
            self.filter.is_empty() || self.filter.iter().any(|part| scenario.name.contains(part.as_str()))
        };
        let runs_on = |scenario: &Scenario, platform| match scenario.on {
            On::Both => matches!(platform, Platform::Hosted | Platform::Vm),
            On::All => true,
            On::Several => platform != Platform::Vm,
            On::Machines => platform != Platform::Hosted,
            On::Only(only) => only == platform,
        };
        let mut picked = Vec::new();
        for platform in &self.platforms {
            let fitting =
                scenarios.iter().filter(|scenario| is_wanted(scenario) && runs_on(scenario, *platform));
            picked.extend(fitting.map(|scenario| (scenario, *platform)));
        }
        picked
    }
}

/// Prints what would run.
pub fn list(scenarios: &[Scenario], selection: &Selection) {
    for (scenario, platform) in selection.pick(scenarios) {
        println!("{:<6} {}", platform.name(), scenario.name);
    }
}

/// What became of a scenario.
enum Outcome {
    Passed,
    Skipped(&'static str),
    Failed(String),
}

impl Scenario {
    fn run(&self, platform: Platform, depth: Depth) -> Outcome {
        let verdict = Context::new(platform, depth).and_then(|context| {
            (self.run)(&context)?;
            Ok(context.skipped())
        });
        match verdict {
            Ok(None) => Outcome::Passed,
            Ok(Some(why)) => Outcome::Skipped(why),
            Err(Failed(reason)) => Outcome::Failed(reason),
        }
    }
}

/// Runs them, `jobs` at a time, in order.
pub fn run(scenarios: &[Scenario], selection: &Selection, jobs: usize) -> ExitCode {
    let picked = selection.pick(scenarios);
    let next = AtomicUsize::new(0);
    let (failed, skipped) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let output = Mutex::new(());
    let work = || {
        while let Some((scenario, platform)) = picked.get(next.fetch_add(1, Ordering::Relaxed)) {
            let started = Instant::now();
            let outcome = scenario.run(*platform, selection.depth);
            let seconds = started.elapsed().as_secs_f64();
            let _one_at_a_time = output.lock();
            let (word, count, reason) = match &outcome {
                Outcome::Passed => ("ok", None, ""),
                Outcome::Skipped(why) => ("skip", Some(&skipped), *why),
                Outcome::Failed(reason) => ("FAIL", Some(&failed), reason.as_str()),
            };
            println!("{word:<4} {:<6} {:<32} {seconds:6.1} s", platform.name(), scenario.name);
            reason.lines().for_each(|line| println!("       {line}"));
            if let Some(count) = count {
                count.fetch_add(1, Ordering::Relaxed);
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(work);
        }
    });
    let (failed, skipped) = (failed.into_inner(), skipped.into_inner());
    let passed = picked.len() - failed - skipped;
    match skipped {
        0 => println!("{passed} passed, {failed} failed"),
        _ => println!("{passed} passed, {failed} failed, {skipped} skipped"),
    }
    // A filter that fits nothing must not look like success.
    if failed == 0 && passed != 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
