//! The library OS with another composition root: it measures the program of the plan instead of running it once.
//!
//! The same engine hooks, slots, WASI and way to the kernel as in `images/runtime`, whose modules are used where they
//! lie. Hosted, the plan's arguments say what to measure; `crates/bench` writes them and reads the answers:
//!
//! ```text
//! NAME instances MILLISECONDS        fresh instance, `_start`, end, over and over
//! NAME time COUNT ARGUMENT…          how long each of so many runs takes
//! NAME idle COUNT                    memory of instances whose `_start` has returned
//! NAME shared COUNT                  CPU time of two processes at once, and of one after the other
//! NAME switches COUNT                from one of two processes that give way to the other
//! NAME runaways COUNT                from when a process's time is over until nothing of it is left
//! NAME processes COUNT               so many processes, one after the other
//! NAME children COUNT                the same, started and waited for by a program
//! ```
//! The last five are processes of the scheduler ([`processes`]); the others are instances on the first stack.
//! Answers are lines on standard error. What the program writes to standard output the launcher throws away.
//!
//! In a machine it is a system's root and each of its domains ([`batches`]), and QEMU counts.
#![no_std]
#![no_main]
#![allow(unsafe_code)]

extern crate alloc;

#[allow(dead_code)]
#[path = "../../runtime/src/allowance.rs"]
mod allowance;
mod batches;
#[path = "../../runtime/src/children.rs"]
mod children;
#[allow(dead_code)]
#[path = "../../runtime/src/console/mod.rs"]
mod console;
#[allow(dead_code)]
#[path = "../../runtime/src/cpu.rs"]
mod cpu;
#[allow(dead_code)]
#[path = "../../runtime/src/domain.rs"]
mod domain;
#[allow(dead_code)]
#[path = "../../runtime/src/entry.rs"]
mod entry;
mod family;
#[allow(dead_code)]
#[path = "../../runtime/src/gate.rs"]
mod gate;
mod hosted;
#[path = "../../runtime/src/launcher.rs"]
mod launcher;
#[allow(dead_code)]
#[path = "../../runtime/src/machine/mod.rs"]
mod machine;
mod measure;
#[allow(dead_code)]
#[path = "../../runtime/src/nursery.rs"]
mod nursery;
mod processes;
#[allow(dead_code)]
#[path = "../../runtime/src/programs.rs"]
mod programs;
#[allow(dead_code)]
#[path = "../../runtime/src/report.rs"]
mod report;
#[allow(dead_code)]
#[path = "../../runtime/src/root/mod.rs"]
mod root;
#[allow(dead_code)]
#[path = "../../runtime/src/waiting.rs"]
mod waiting;
#[allow(dead_code, unused_imports)]
#[path = "../../runtime/src/wire/mod.rs"]
mod wire;

use abi::BootInfo;
use alloc::format;
use alloc::string::{String, ToString};
use bundle::Module;
use measure::Subject;
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
    let module = Module::parse(entry::module(boot)).map_err(|error| format!("the boot module: {error}"))?;
    let bundle = match module {
        Module::System(description) => return batches::run_root(system, boot, &description),
        Module::Programs(bundle) => bundle,
    };
    if boot.services != 0
        && let Some(what) = hosted::processes(&bundle.plan.programs[0].arguments)?
    {
        return hosted::run_processes(system, boot, bundle, what);
    }
    let engine = program::engine(system, cpu::has_feature).map_err(|error| error.to_string())?;
    // A plan has a program, and every other is the same with other arguments.
    let plan = &bundle.plan.programs[0];
    let artifact = bundle.artifacts[plan.artifact as usize];
    let program = Program::load(&engine, artifact, cpu::has_feature).map_err(|error| error.to_string())?;
    let subject = Subject { system, engine: &engine, program: &program };
    match boot.services {
        0 => batches::run_domain(system, boot, &subject, &bundle),
        _ => hosted::run(boot, &subject, &plan.arguments),
    }
}
