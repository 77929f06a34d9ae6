//! The library OS with another composition root: it measures the program of the plan instead of running it once.
//!
//! The same engine hooks, slots, WASI and way to the kernel as in `images/runtime`, whose modules are used where they
//! lie; hosted only. The plan's arguments say what to measure; `crates/bench` writes them and reads the answers:
//!
//! ```text
//! NAME instances MILLISECONDS        fresh instance, `_start`, end, over and over
//! NAME time COUNT ARGUMENT…          how long each of so many runs takes
//! NAME idle COUNT                    memory of instances whose `_start` has returned
//! ```
//! Answers are lines on standard error. What the program writes to standard output the launcher throws away.
#![no_std]
#![no_main]
#![allow(unsafe_code)]

extern crate alloc;

#[allow(dead_code)]
#[path = "../../runtime/src/cpu.rs"]
mod cpu;
#[allow(dead_code)]
#[path = "../../runtime/src/entry.rs"]
mod entry;
#[allow(dead_code)]
#[path = "../../runtime/src/gate.rs"]
mod gate;
#[path = "../../runtime/src/launcher.rs"]
mod launcher;
mod measure;
#[allow(dead_code)]
#[path = "../../runtime/src/report.rs"]
mod report;

use abi::BootInfo;
use alloc::format;
use alloc::string::String;
use bundle::Bundle;
use runtime::trap::upcall;
use runtime::{Program, System, program};

fn main(system: &'static System, boot: &'static BootInfo) -> u8 {
    match run(system, boot) {
        Ok(()) => 0,
        Err(reason) => {
            gate::print(&format!("selkis-bench-runtime: {reason}\n"));
            report::STATUS_FAILED
        }
    }
}

fn run(system: &'static System, boot: &'static BootInfo) -> Result<(), String> {
    if boot.services == 0 {
        return Err(String::from("this library OS measures hosted only"));
    }
    let services = launcher::services(boot).ok_or("the launcher is of another version")?;
    let launcher = launcher::open(services);
    let bundle = Bundle::parse(entry::module(boot)).map_err(|error| format!("the boot module: {error}"))?;
    let engine = program::engine(system, cpu::has_feature).map_err(|error| format!("{error}"))?;
    // A plan has a program.
    let plan = &bundle.plan.programs[0];
    let artifact = bundle.artifacts[plan.artifact as usize];
    let program = Program::load(&engine, artifact, cpu::has_feature).map_err(|error| format!("{error}"))?;
    measure::run(system, launcher, &engine, &program, &plan.arguments)
}
