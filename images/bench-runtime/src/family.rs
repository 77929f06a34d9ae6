//! Measurement of a program that starts others, hosted: by the whole of what runs a domain's programs, but without a root that hears of it.

use crate::console::{Command, Origin};
use crate::domain::{self, Outside};
use crate::gate;
use crate::launcher::Launcher;
use crate::processes::{Host, host};
use crate::report::Report;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use bundle::{Bundle, Children, ProgramPlan, Startable};
use core::cell::Cell;
use link::{Process, Usage};
use runtime::process::{Made, Wait};
use runtime::{ProcessId, System};

/// Runs the bundle's first program, which starts itself `count` times, one after the other: how long each takes, in nanoseconds.
pub fn run(
    system: &'static System,
    launcher: Launcher,
    mut bundle: Bundle<'static>,
    count: u64,
) -> Result<u64, String> {
    let itself = Startable { name: String::from("itself"), program: 0 };
    bundle.plan.programs[0].start = Vec::from([itself]);
    bundle.plan.children = Children { first_number: 1, processes_max: 1, memory_bytes_max: 1 << 40 };
    let began_ns = Rc::new(Cell::new(None));
    let outside = Nobody { system, launcher, freed: Vec::new(), began_ns: Rc::clone(&began_ns) };
    let status = domain::run(system, bundle, outside);
    let began_ns = began_ns.get().filter(|_| status == 0);
    let began_ns = began_ns.ok_or_else(|| format!("the program ended with status {status}"))?;
    Ok((system.now_ns() - began_ns) / count)
}

/// Hears of every end at once.
struct Nobody {
    system: &'static System,
    launcher: Launcher,
    /// Those whose end was heard of.
    freed: Vec<Process>,
    /// When the first child was started.
    began_ns: Rc<Cell<Option<u64>>>,
}

impl Outside for Nobody {
    type Host = Host;

    fn host(&mut self, _: Process, _: &ProgramPlan, _: u64) -> Result<Host, String> {
        Ok(host(self.launcher))
    }

    fn sleep(&mut self, system: &System, deadline_ns: u64, _: Option<Wait>) -> u64 {
        // Then somebody may wait for a number.
        if self.freed.is_empty() {
            gate::wait(system, deadline_ns);
        }
        0
    }

    fn look(&mut self, _: &System) {}

    fn command(&mut self) -> Option<Command> {
        self.freed.pop().map(Command::Freed)
    }

    fn is_gone(&self) -> bool {
        false
    }

    fn begin(&mut self, process: Process, made: Made, _: &ProgramPlan, _: Origin) -> ProcessId {
        if process != Process::FIRST && self.began_ns.get().is_none() {
            self.began_ns.set(Some(self.system.now_ns()));
        }
        made.start()
    }

    fn tell_usage(&self, _: Process, _: Usage) {}

    fn written(&self, _: Process) -> u64 {
        0
    }

    fn ended(&mut self, process: Process, _: Option<Usage>, _: &Report) {
        if process != Process::FIRST {
            self.freed.push(process);
        }
    }
}
