//! The library OS under a test that interrupts a program at every instruction.
//!
//! The same engine hooks, scheduler, WASI and way to the kernel as in `images/runtime`, whose modules are used where they lie; hosted only. The
//! plan's arguments say what to do:
//!
//! ```text
//! NAME kill|preempt FIRST STRIDE
//! ```
//! The program is run once for each instruction number FIRST, FIRST + STRIDE, … after it has called `step.begin`, its own and ours alike: it executes so
//! many with the trap flag set, and there it is killed, or preempted by a scheduler that spoils all vector registers. A program that was killed before
//! it has called `step.end` must end so, and `step.end` has it wait for that if it comes so far; one that was preempted in its own code must have had two turns and not notice, and traps if it does. After each run
//! heap, address space, slots and processes must be what they were. It goes on until the program ends before the number is reached; the last line on
//! standard error says how far that was.
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
#[allow(dead_code)]
#[path = "../../runtime/src/launcher.rs"]
mod launcher;
#[allow(dead_code)]
#[path = "../../runtime/src/report.rs"]
mod report;
mod step;
#[allow(dead_code)]
#[path = "../../runtime/src/waiting.rs"]
mod waiting;

use abi::BootInfo;
use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use bundle::Bundle;
use runtime::{Program, System, program, trap};
use step::upcall;

fn main(system: &'static System, boot: &'static BootInfo) -> u8 {
    match run(system, boot) {
        Ok(line) => {
            gate::print(&line);
            0
        }
        Err(reason) => {
            gate::print(&format!("selkis-step-runtime: {reason}\n"));
            report::STATUS_FAILED
        }
    }
}

fn run(system: &'static System, boot: &'static BootInfo) -> Result<String, String> {
    if boot.services == 0 {
        return Err(String::from("this library OS steps hosted only"));
    }
    let services = launcher::services(boot).ok_or("the launcher is of another version")?;
    let bundle = Bundle::parse(entry::module(boot)).map_err(|error| format!("the boot module: {error}"))?;
    entry::register_upcalls(system, boot).map_err(|error| format!("no upcalls: {error:?}"))?;
    let engine = program::engine(system, cpu::has_feature).map_err(|error| format!("{error}"))?;
    let load =
        |artifact| Program::load(&engine, artifact, cpu::has_feature).map_err(|error| format!("{error}"));
    let helper: &'static Program = Box::leak(Box::new(load(bundle.trap_helper)?));
    trap::set_helper(helper);
    helper.spring(&engine).map_err(|error| format!("{error}"))?;
    let plan = &bundle.plan.programs[0];
    let program = Box::leak(Box::new(load(bundle.artifacts[plan.artifact as usize])?));
    step::run(system, launcher::open(services), &engine, program, &plan.arguments)
}
