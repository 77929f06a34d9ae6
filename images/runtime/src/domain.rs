//! The processes of this domain: which begin, which end, and what is told of them.

use crate::allowance::{self, Allowance};
use crate::children::{self, Family, Key, Name, Request, WithChildren};
use crate::console::{self, Command, Origin};
use crate::entry;
use crate::nursery::Nursery;
use crate::programs::{Programs, StartError};
use crate::report::Report;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use bundle::{Begin, Bundle, ProgramPlan};
use link::Process;
use runtime::process::{Made, Wait};
use runtime::{Activity, Ending, Platform, ProcessId, System, Usage, scheduler};
use wasi::Errno;
use wasi::provider::{Child, Host};

/// What is outside of the domain. Where nothing else is said, the console leads there.
pub trait Outside {
    /// What a process stands on.
    type Host: Host + Send + 'static;

    /// What a process of this program is to stand on, which may take so much of our memory for files that it writes.
    fn host(
        &mut self,
        process: Process,
        program: &ProgramPlan,
        files_bytes_max: u64,
    ) -> Result<Self::Host, String>;

    /// How much that is for one that no other starts.
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

    /// Whether so much waits to be said that nobody is to add to it who need not.
    fn is_behind(&self) -> bool {
        console::with(console::Console::is_behind).unwrap_or(false)
    }

    /// Has a process begin.
    fn begin(&mut self, process: Process, made: Made, program: &ProgramPlan, origin: Origin) -> ProcessId {
        let mut made = Some(made);
        let begun = console::with(|console| {
            // What it writes at once, on another virtual CPU, waits for the console.
            let id = made.take()?.start();
            console.begin(process, id, program.log_bytes_per_s, origin);
            Some(id)
        });
        begun.flatten().or_else(|| made.map(Made::start)).expect("it is started with a console or without")
    }

    /// What a process uses.
    fn tell_usage(&self, process: Process, usage: link::Usage) {
        console::with(|console| console.tell_usage(process, usage));
    }

    /// How much a process has written, as far as that is counted.
    fn written(&self, process: Process) -> u64 {
        console::with(|console| console.written(process)).unwrap_or(0)
    }

    /// A process has ended; and what it had used, if it had begun and somebody wants to know.
    fn ended(&mut self, process: Process, usage: Option<link::Usage>, report: &Report) {
        console::ended(process, usage, report);
    }
}

/// How long those are served that want others, in nanoseconds, before whoever is ready has a turn.
const SERVED_NS: u64 = 1_000_000;

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
    programs: Programs<WithChildren<O::Host>>,
    processes: BTreeMap<Process, Entry>,
    names: BTreeMap<ProcessId, Process>,
    /// Where processes come from that others start.
    nursery: Nursery,
    begin: Begin,
    phase: Phase,
    /// How the first process of a plan that begins at once has ended.
    status: u8,
}

struct Entry {
    id: ProcessId,
    plan: Arc<ProgramPlan>,
    allowance: Allowance,
    /// If it may start others.
    key: Option<Key>,
    /// If another has started it, with what it was promised of memory.
    child: Option<(Name, u64)>,
}

/// Runs the bundle's programs as its plan says, and answers with the status of the first.
pub fn run<O: Outside>(system: &'static System, bundle: Bundle<'static>, mut outside: O) -> u8 {
    let begin = bundle.plan.begin;
    let first = bundle.plan.programs[0].name.clone();
    let vcpus = bundle.plan.vcpus;
    let nursery = Nursery::new(bundle.plan.children);
    children::with(|families| families.limit(bundle.plan.children.processes_max));
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
                Begin::AtOnce => outside.ended(Process::FIRST, None, &report),
                Begin::WhenTold => console::log(&report.message()),
            }
            return report.status;
        }
    };
    let (processes, names) = (BTreeMap::new(), BTreeMap::new());
    let phase = Phase::GoesOn;
    let mut domain = Domain { system, outside, programs, processes, names, nursery, begin, phase, status: 0 };
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
        self.over(process, None, &report);
    }

    fn try_begin(&mut self, process: Process, program: u32) -> Result<(), String> {
        let plan = self.programs.plan(program).ok_or_else(|| format!("there is no program {program}"))?;
        let plan = Arc::clone(plan);
        let allowance = Allowance::own(&plan, self.outside.files_bytes_max(&plan));
        let begun = self.begin_by(process, plan, allowance, Origin::Told);
        begun.map(drop).map_err(|error| format!("{error}"))
    }

    /// Begins a process by this plan.
    fn begin_by(
        &mut self,
        process: Process,
        plan: Arc<ProgramPlan>,
        allowance: Allowance,
        origin: Origin,
    ) -> Result<ProcessId, StartError> {
        if !self.system.has_reserves() {
            return Err(StartError::Memory(abi::Error::NoMemory));
        }
        let host = self.outside.host(process, &plan, allowance.files_bytes);
        let host = host.map_err(StartError::Program)?;
        let may_start = !plan.start.is_empty();
        let key = may_start.then(|| children::with(|families| families.add(process, Arc::clone(&plan))));
        let host = WithChildren { host, family: key.map(Family) };
        let made = self.programs.make(&plan, host, allowance);
        let made = made.inspect_err(|_| {
            // It has none yet.
            let _ = key.map(|key| children::with(|families| families.remove(self.system, key)));
        })?;
        let id = self.outside.begin(process, made, &plan, origin);
        if let Some(key) = key {
            children::with(|families| families.begun(key, id));
        }
        self.processes.insert(process, Entry { id, plan, allowance, key, child: None });
        self.names.insert(id, process);
        Ok(id)
    }

    /// Begins a process for another.
    fn spawn(&mut self, request: &Request) -> Result<Child, Errno> {
        let parent = children::with(|families| {
            families.parent(request.parent).map(|(plan, process)| (Arc::clone(plan), process))
        });
        // It may have ended meanwhile, or be about to.
        let (parent_plan, parent) = parent.ok_or(Errno::Canceled)?;
        let program = request.program;
        let plan = Arc::clone(self.programs.plan(program).ok_or(Errno::Noexec)?);
        // What an instance takes is found out by loading: not for whom there is no memory in any case.
        self.nursery.check(allowance::least(&plan, children::memory_bytes_max(&plan, request)))?;
        if !self.system.has_reserves() || !entry::HEAP.has_reserve() {
            return Err(Errno::Nomem);
        }
        let functions_bytes = self.nursery.load(program, || self.programs.load(program))?;
        let plan = Arc::new(children::plan(&plan, &parent_plan, request));
        let allowance = Allowance::of_child(&plan, self.outside.files_bytes_max(&plan), functions_bytes);
        let promised_bytes = allowance.promise(&plan);
        self.nursery.check(promised_bytes)?;
        let process = self.nursery.admit(promised_bytes)?;
        let origin = Origin::Spawned { program, parent };
        match self.begin_by(process, plan, allowance, origin) {
            Ok(id) => {
                let family = self.processes.get(&process).and_then(|entry| entry.key);
                let name =
                    children::with(|families| families.spawned(self.system, request.parent, id, family));
                if let Some(entry) = self.processes.get_mut(&process) {
                    entry.child = name.map(|name| (name, promised_bytes));
                }
                name.map(|(_, child)| child).ok_or(Errno::Canceled)
            }
            Err(error) => {
                self.nursery.refuse(process, promised_bytes);
                Err(match error {
                    StartError::Program(_) => Errno::Noexec,
                    StartError::Directory(..) => Errno::Io,
                    StartError::Descriptors(..) => Errno::Mfile,
                    StartError::Memory(_) => Errno::Nomem,
                })
            }
        }
    }

    /// Whether processes may begin for others. A plan that begins at once is to be over with its first process, which ends as it likes.
    fn may_spawn(&self) -> bool {
        self.phase == Phase::GoesOn || self.begin == Begin::AtOnce
    }

    fn over(&mut self, process: Process, usage: Option<link::Usage>, report: &Report) {
        let usage = match self.begin {
            Begin::AtOnce => {
                self.status = report.status;
                None
            }
            Begin::WhenTold => usage,
        };
        self.outside.ended(process, usage, report);
    }

    fn stop(&self, process: Process) {
        if let Some(entry) = self.processes.get(&process) {
            children::with(|families| families.stop(self.system, entry.id, entry.key));
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
                    self.outside.tell_usage(*process, told(usage, link::State::Runnable));
                }
                Some((usage, Activity::Waits)) => {
                    self.outside.tell_usage(*process, told(usage, link::State::Waiting));
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
                    self.over(process, None, &report);
                }
                Command::Cancel(process) => self.stop(process),
                Command::Freed(process) => self.nursery.free(process),
                Command::Measure => self.measure(),
                Command::Shutdown => self.end(),
            }
        }
        if self.phase == Phase::GoesOn && self.outside.is_gone() {
            self.end();
        }
        // There may be a number again, or somebody who hears of it.
        self.serve();
    }

    fn serve(&mut self) {
        // Who asks meanwhile has this called again, and what happens meanwhile is looked at before that.
        let count = children::with(|families| families.requests());
        if count == 0 {
            return;
        }
        let first_ns = self.system.now_ns();
        let mut ran_ns = self.system.cpu_time_ns();
        for _ in 0..count {
            if !self.nursery.has_number() || self.outside.is_behind() {
                return;
            }
            let Some(request) = children::with(|families| families.next_request()) else { return };
            let answer = if self.may_spawn() { self.spawn(&request) } else { Err(Errno::Canceled) };
            let id = children::with(|families| {
                let id = families.id(request.parent);
                families.answer(self.system, request, answer);
                id
            });
            let until_ns = self.system.cpu_time_ns();
            if let Some(id) = id {
                self.system.processes().lock().charge(id, until_ns.saturating_sub(ran_ns));
            }
            if self.system.now_ns().saturating_sub(first_ns) >= SERVED_NS {
                return self.system.ask();
            }
            ran_ns = until_ns;
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
        let Entry { plan, allowance, key, child, .. } = entry;
        let written = self.outside.written(process);
        let report = Report::ended(&plan, ending, usage, allowance.host_bytes, written);
        if let Some(key) = key {
            children::with(|families| families.remove(self.system, key));
        }
        if let Some((child, promised_bytes)) = child {
            let end = children::end_of(report.cause, report.status);
            self.nursery.leave(process, promised_bytes, end);
            children::with(|families| families.ended(self.system, child, end));
        }
        self.over(process, Some(told(usage, link::State::Stopping)), &report);
    }

    fn is_over(&self) -> bool {
        self.phase == Phase::Ends && self.processes.is_empty()
    }
}

/// As the root is told.
fn told(usage: Usage, state: link::State) -> link::Usage {
    let Usage { memory_bytes, host_bytes, cpu_ns, switches, migrations, .. } = usage;
    link::Usage { memory_bytes, host_bytes, cpu_ns, switches, migrations, state }
}
