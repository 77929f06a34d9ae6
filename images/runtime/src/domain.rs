//! The processes of this domain: which begin, which end, and what is told of them.

use crate::console::{self, Command};
use crate::entry;
use crate::programs::{self, Programs};
use crate::report::Report;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use bundle::{Begin, Bundle, ProgramPlan};
use link::Process;
use runtime::process::Wait;
use runtime::{Activity, Ending, Platform, ProcessId, Stop, System, Usage, scheduler};
use wasi::provider::Host;

/// What is outside of the domain. Where nothing else is said, the console leads there.
pub trait Outside {
    /// What a process stands on.
    type Host: Host + Send + 'static;

    /// What a process of this program is to stand on.
    fn host(&mut self, process: Process, program: &ProgramPlan) -> Result<Self::Host, String>;

    /// How much of our memory the files may take that a process of this program writes.
    fn files_bytes_max(&self, _program: &ProgramPlan) -> u64 {
        0
    }

    /// Sleeps until something happens, or until `deadline_ns`. If there is one process alone, it waits for `alone`; the answer is what it
    /// is woken with.
    fn sleep(&mut self, system: &System, deadline_ns: u64, alone: Option<Wait>) -> u64;

    /// Takes note of events.
    fn look(&mut self, system: &System) {
        console::look(system);
    }

    /// The next thing that is wanted of us.
    fn command(&mut self) -> Option<Command> {
        console::with(console::Console::command).flatten()
    }

    /// Whether nobody wants anything any more.
    fn is_gone(&self) -> bool {
        console::with(|console| console.is_broken()).unwrap_or(true)
    }

    /// A process begins.
    fn begun(&mut self, process: Process, id: ProcessId, program: &ProgramPlan) {
        console::with(|console| console.begin(process, id, program.log_bytes_per_s));
    }

    /// What a process uses, or has used.
    fn tell_usage(&self, process: Process, usage: Usage, state: link::State) {
        let Usage { memory_bytes, host_bytes, cpu_ns, switches, migrations, .. } = usage;
        let usage = link::Usage { memory_bytes, host_bytes, cpu_ns, switches, migrations, state };
        console::with(|console| console.tell_usage(process, usage));
    }

    /// How much a process has written, as far as that is counted.
    fn written(&self, process: Process) -> u64 {
        console::with(|console| console.written(process)).unwrap_or(0)
    }

    /// A process has ended.
    fn ended(&mut self, process: Process, report: &Report) {
        console::ended(process, report);
    }
}

/// What is to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Processes may begin.
    GoesOn,
    /// When the last has ended, that is all.
    Ends,
}

struct Domain<O: Outside> {
    system: &'static System,
    outside: O,
    programs: Programs<O::Host>,
    processes: BTreeMap<Process, Entry>,
    names: BTreeMap<ProcessId, Process>,
    begin: Begin,
    phase: Phase,
    /// How the first process of a plan that begins at once has ended.
    status: u8,
}

#[derive(Clone, Copy)]
struct Entry {
    id: ProcessId,
    program: u32,
}

/// Runs the bundle's programs as its plan says, and answers with the status of the first.
pub fn run<O: Outside>(system: &'static System, bundle: Bundle<'static>, mut outside: O) -> u8 {
    let begin = bundle.plan.begin;
    let first = bundle.plan.programs[0].name.clone();
    let vcpus = bundle.plan.vcpus;
    let programs = Programs::new(system, bundle).map_err(|error| format!("{error}"));
    // One process alone has no use for more than one.
    let started = programs.and_then(|programs| match begin {
        Begin::AtOnce => Ok(programs),
        Begin::WhenTold => entry::start_vcpus(system, vcpus)
            .map(|()| programs)
            .map_err(|error| format!("the domain cannot have {vcpus} virtual CPUs ({error:?})")),
    });
    let programs = match started {
        Ok(programs) => programs,
        Err(error) => {
            scheduler::close(system);
            let report = Report::not_started(&first, error);
            match begin {
                Begin::AtOnce => outside.ended(Process::FIRST, &report),
                Begin::WhenTold => console::log(&report.message()),
            }
            return report.status;
        }
    };
    let (processes, names) = (BTreeMap::new(), BTreeMap::new());
    let phase = Phase::GoesOn;
    let mut domain = Domain { system, outside, programs, processes, names, begin, phase, status: 0 };
    if begin == Begin::AtOnce {
        domain.begin_process(Process::FIRST, 0);
        domain.phase = Phase::Ends;
    }
    scheduler::run(system, &mut domain);
    scheduler::close(system);
    domain.status
}

impl<O: Outside> Domain<O> {
    /// Begins a process, of which nothing is heard if there is one of that number: no root asks for it.
    fn begin_process(&mut self, process: Process, program: u32) {
        if self.processes.contains_key(&process) {
            return;
        }
        let Err(reason) = self.try_begin(process, program) else { return };
        let name = self.programs.plan(program).map_or("a program", |plan| plan.name.as_str());
        let report = Report::not_started(name, reason);
        self.over(process, &report);
    }

    fn try_begin(&mut self, process: Process, program: u32) -> Result<(), String> {
        let plan = self.programs.plan(program).ok_or_else(|| format!("there is no program {program}"))?;
        let host = self.outside.host(process, plan)?;
        let files_bytes_max = self.outside.files_bytes_max(plan);
        let id = self.programs.start(program, host, files_bytes_max)?;
        self.processes.insert(process, Entry { id, program });
        self.names.insert(id, process);
        if let Some(plan) = self.programs.plan(program) {
            self.outside.begun(process, id, plan);
        }
        Ok(())
    }

    fn over(&mut self, process: Process, report: &Report) {
        if self.begin == Begin::AtOnce {
            self.status = report.status;
        }
        self.outside.ended(process, report);
    }

    fn stop(&self, process: Process) {
        if let Some(entry) = self.processes.get(&process) {
            self.system.processes().lock().stop(self.system, entry.id, Stop::Cancelled);
        }
    }

    fn end(&mut self) {
        self.phase = Phase::Ends;
        self.processes.keys().for_each(|process| self.stop(*process));
    }

    fn measure(&self) {
        for (process, entry) in &self.processes {
            let seen = self.system.processes().lock().look_at(self.system, entry.id);
            match seen {
                Some((usage, Activity::Runs)) => {
                    self.outside.tell_usage(*process, usage, link::State::Runnable)
                }
                Some((usage, Activity::Waits)) => {
                    self.outside.tell_usage(*process, usage, link::State::Waiting)
                }
                None => {}
            }
        }
    }
}

impl<O: Outside> Platform for Domain<O> {
    fn look(&mut self) {
        self.outside.look(self.system);
        while let Some(command) = self.outside.command() {
            match command {
                Command::Start(process, program) if self.phase == Phase::GoesOn => {
                    self.begin_process(process, program);
                }
                Command::Start(process, program) => {
                    let name = self.programs.plan(program).map_or("a program", |plan| plan.name.as_str());
                    let report = Report::cancelled(name);
                    self.over(process, &report);
                }
                Command::Cancel(process) => self.stop(process),
                Command::Measure => self.measure(),
                Command::Shutdown => self.end(),
            }
        }
        if self.phase == Phase::GoesOn && self.outside.is_gone() {
            self.end();
        }
    }

    fn sleep(&mut self, deadline_ns: u64) {
        let id = match self.processes.values().next() {
            Some(entry) if self.processes.len() == 1 => Some(entry.id),
            _ => None,
        };
        let alone = id.and_then(|id| self.system.processes().lock().wait_of(id));
        let answer = self.outside.sleep(self.system, deadline_ns, alone);
        if let Some(id) = id.filter(|_| answer != 0) {
            self.system.processes().lock().wake(self.system, id, answer);
        }
    }

    fn ended(&mut self, id: ProcessId, ending: Ending, usage: Usage) {
        entry::HEAP.renew_reserve();
        let Some(process) = self.names.remove(&id) else { return };
        let Some(entry) = self.processes.remove(&process) else { return };
        let Some(plan) = self.programs.plan(entry.program) else { return };
        let host_bytes_max = programs::host_bytes_max(plan, self.outside.files_bytes_max(plan));
        let report = Report::ended(plan, ending, usage, host_bytes_max, self.outside.written(process));
        if self.begin == Begin::WhenTold {
            self.outside.tell_usage(process, usage, link::State::Stopping);
        }
        self.over(process, &report);
    }

    fn is_over(&self) -> bool {
        self.phase == Phase::Ends && self.processes.is_empty()
    }
}
