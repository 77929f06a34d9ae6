//! The library OS under tests that interrupt programs: one at every instruction, or many at random moments.
//!
//! The same engine hooks, scheduler, WASI and way to the kernel as in `images/runtime`, whose modules are used where they lie; hosted only. The
//! plan's arguments say what to do:
//!
//! ```text
//! NAME kill|preempt|migrate SECTION FIRST STRIDE
//! NAME storm COUNT ROUNDS SEED
//! ```
//! First: the program, which may start itself (`family`), is run once for each instruction number FIRST, FIRST + STRIDE, … of its section SECTION, and
//! then for those of the sections after it. A section begins with a call of `step.begin`, and ends with the next or with the program, so that the runs
//! that step furthest are short. From there on it executes so many instructions, its own and ours alike, with the trap flag set, which is gone when it is
//! suspended; and there it is killed, or preempted by a scheduler that spoils all vector registers. A program that was killed before it has called
//! `step.end` must end so, and `step.end` has it wait for that if it comes so far; one that was preempted in its own code must have had two turns and not
//! notice, and traps if it does. With `migrate` it is preempted in the same way, and goes on on another virtual CPU, for a companion has this one. After
//! each run heap, address space, slots and processes must be what they were. It goes on until no section is left; the last line on standard error says how
//! many there were.
//!
//! Second: COUNT processes of a program that never ends run at once, until all have been killed, ROUNDS times; then too all must be back.
#![no_std]
#![no_main]
#![allow(unsafe_code)]

extern crate alloc;

#[allow(dead_code)]
#[path = "../../runtime/src/children.rs"]
mod children;
#[allow(dead_code)]
#[path = "../../runtime/src/cpu.rs"]
mod cpu;
#[allow(dead_code)]
#[path = "../../runtime/src/entry.rs"]
mod entry;
mod family;
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
mod storm;
mod subject;
#[allow(dead_code)]
#[path = "../../runtime/src/waiting.rs"]
mod waiting;

use abi::upcall::Kind;
use abi::{BootInfo, Context};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use bundle::Bundle;
use runtime::trap::{self, Verdict};
use runtime::{Program, System, program};
use spin::Once;
use step::Act;

/// What is to be done.
#[derive(Clone, Copy)]
enum Test {
    Steps(Act, [u64; 3]),
    Storm([u64; 3]),
}

static TEST: Once<Test> = Once::new();

/// The kernel's upcall.
fn upcall(kind: Kind, context: &mut Context) -> Verdict {
    match TEST.get() {
        Some(Test::Steps(..)) => step::upcall(kind, context),
        Some(Test::Storm(_)) => storm::upcall(kind, context),
        None => trap::upcall(kind, context),
    }
}

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
    let test = Test::from_words(&plan.arguments).ok_or("the plan's arguments say no test")?;
    let program = Box::leak(Box::new(load(bundle.artifacts[plan.artifact as usize])?));
    let launcher = launcher::open(services);
    match *TEST.call_once(|| test) {
        Test::Steps(act, numbers) => step::run(system, launcher, &engine, program, plan, act, numbers),
        Test::Storm(numbers) => storm::run(system, launcher, &engine, program, numbers),
    }
}

impl Test {
    fn from_words(words: &[Vec<u8>]) -> Option<Self> {
        let words: Vec<&str> =
            words.iter().map(|word| str::from_utf8(word)).collect::<Result<_, _>>().ok()?;
        let [_, what, numbers @ ..] = words.as_slice() else { return None };
        let numbers: Vec<u64> = numbers.iter().map(|word| word.parse()).collect::<Result<_, _>>().ok()?;
        match (*what, numbers.as_slice()) {
            ("kill", &[section, first, stride]) => Some(Self::Steps(Act::Kill, [section, first, stride])),
            ("preempt", &[section, first, stride]) => {
                Some(Self::Steps(Act::Preempt, [section, first, stride]))
            }
            ("migrate", &[section, first, stride]) => {
                Some(Self::Steps(Act::Migrate, [section, first, stride]))
            }
            ("storm", &[count, rounds, seed]) => Some(Self::Storm([count, rounds, seed])),
            _ => None,
        }
    }
}
