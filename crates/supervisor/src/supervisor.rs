//! All domains together.

use crate::event::{DomainId, DomainSetup, Effect, Event, Notice, Setup};
use crate::life::Life;
use crate::log::{Log, Sequence};
use alloc::string::ToString;
use alloc::vec::Vec;
use control::{Cpu, Domain, How, Memory, Phase, Platform, Program, ProgramName, System, Usage};
use serde::{Deserialize, Serialize};

/// The root's logic. Times are in nanoseconds since the system started, and never go back.
#[derive(Debug)]
pub struct Supervisor {
    setup: Setup,
    tasks: Vec<Task>,
    sequence: Sequence,
    cpus: Vec<Cpu>,
    shutdown: Option<How>,
}

/// A domain with its program.
#[derive(Debug)]
pub(crate) struct Task {
    pub(crate) life: Life,
    pub(crate) log: Log,
    process_id: Option<u32>,
    /// Of the runs that have ended.
    past: Usage,
    /// Of this run.
    current: Usage,
}

/// How a system that has ended has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// Every program ended with status 0, or was ended by a user.
    Succeeded,
    /// Some did not.
    Failed,
}

impl Supervisor {
    /// Before anything is started.
    pub fn new(setup: Setup) -> Self {
        let task = |(index, domain): (usize, &DomainSetup)| Task {
            life: Life::new(DomainId(index), domain.restart),
            log: Log::new(setup.log_bytes_max),
            process_id: None,
            past: Usage::default(),
            current: Usage::default(),
        };
        let tasks = setup.domains.iter().enumerate().map(task).collect();
        Self { setup, tasks, sequence: Sequence::default(), cpus: Vec::new(), shutdown: None }
    }

    /// Takes note of what has happened: what is to be done now. An event that cannot be (of a domain that was not started, say)
    /// changes nothing.
    pub fn handle(&mut self, event: Event<'_>, now_ns: u64) -> Vec<Effect> {
        let mut effects = Vec::new();
        match event {
            Event::Begin => self.each_life(|life| life.begin(now_ns, &mut effects)),
            Event::Time => self.each_life(|life| life.time(now_ns, &mut effects)),
            Event::Shutdown(how) => {
                self.shutdown = Some(how);
                self.each_life(|life| life.kill(how, now_ns, &mut effects));
            }
            Event::Started { domain, process_id } => self.with(domain, |task, _| {
                if task.life.is_alive() {
                    task.process_id = process_id;
                }
                task.life.started(now_ns, &mut effects);
            }),
            Event::Ended(id, end) => self.with(id, |task, sequence| {
                if task.life.is_alive() {
                    task.log.close(now_ns, sequence);
                    task.close_account();
                }
                task.life.ended(end, now_ns, &mut effects);
            }),
            Event::Wrote { domain, stream, bytes } => {
                self.with(domain, |task, sequence| task.log.write(stream, bytes, now_ns, sequence));
            }
            Event::Measured(id, usage) => self.with(id, |task, _| task.measured(usage)),
            Event::MeasuredCpus(cpus) => self.cpus = cpus,
        }
        self.note(&effects, now_ns);
        effects
    }

    /// When [`Event::Time`] is to come at the latest.
    pub fn deadline_ns(&self) -> Option<u64> {
        self.tasks.iter().filter_map(|task| task.life.deadline_ns()).min()
    }

    /// What the system is doing.
    pub fn phase(&self) -> Phase {
        if self.tasks.iter().all(|task| task.life.is_over()) {
            Phase::Ended
        } else if self.shutdown.is_some() {
            Phase::Ending
        } else {
            Phase::Up
        }
    }

    /// How it has done; final when the phase is [`Phase::Ended`].
    pub fn outcome(&self) -> Outcome {
        let failed = |task: &Task| {
            task.life.state() == control::State::Ended
                && task.life.last_end.as_ref().is_some_and(|(end, _)| !end.is_success())
        };
        if self.tasks.iter().any(failed) { Outcome::Failed } else { Outcome::Succeeded }
    }

    pub(crate) fn platform(&self) -> Platform {
        self.setup.platform
    }

    /// The state of everything.
    pub fn system(&self, now_ns: u64) -> System {
        System {
            name: self.setup.name.clone(),
            platform: self.setup.platform,
            phase: self.phase(),
            uptime_ns: now_ns,
            started_unix_ns: self.setup.started_unix_ns,
            cpus: self.cpus.clone(),
            domains: self.setup.domains.iter().zip(&self.tasks).map(domain).collect(),
        }
    }

    /// The domain's program by its whole name.
    pub fn name(&self, id: DomainId) -> ProgramName {
        let DomainSetup { name, program, .. } = &self.setup.domains[id.0];
        ProgramName { domain: name.clone(), program: program.clone() }
    }

    /// Every domain.
    pub fn ids(&self) -> impl Iterator<Item = DomainId> + use<> {
        (0..self.tasks.len()).map(DomainId)
    }

    /// Kills programs for a user.
    pub(crate) fn kill(&mut self, ids: &[DomainId], how: How, now_ns: u64) -> Vec<Effect> {
        let mut effects = Vec::new();
        for id in ids {
            self.with(*id, |task, _| task.life.kill(how, now_ns, &mut effects));
        }
        self.note(&effects, now_ns);
        effects
    }

    pub(crate) fn task(&self, id: DomainId) -> &Task {
        &self.tasks[id.0]
    }

    fn each_life(&mut self, act: impl FnMut(&mut Life)) {
        self.tasks.iter_mut().map(|task| &mut task.life).for_each(act);
    }

    fn with(&mut self, id: DomainId, act: impl FnOnce(&mut Task, &mut Sequence)) {
        if let Some(task) = self.tasks.get_mut(id.0) {
            act(task, &mut self.sequence);
        }
    }

    /// What is told about a program stands in its log as well.
    fn note(&mut self, effects: &[Effect], now_ns: u64) {
        for effect in effects {
            if let Effect::Notice(id, notice) = effect {
                self.with(*id, |task, sequence| task.note(notice, now_ns, sequence));
            }
        }
    }
}

impl Task {
    fn note(&mut self, notice: &Notice, now_ns: u64, sequence: &mut Sequence) {
        self.log.note(&notice.to_string(), now_ns, sequence);
    }

    fn measured(&mut self, usage: Usage) {
        if self.life.is_alive() {
            let peak_bytes =
                self.current.memory.peak_bytes.max(usage.memory.peak_bytes).max(usage.memory.used_bytes);
            self.current = Usage { memory: Memory { peak_bytes, ..usage.memory }, ..usage };
        }
    }

    fn close_account(&mut self) {
        let mut total = self.usage();
        total.memory.used_bytes = 0;
        self.past = total;
        self.current = Usage::default();
        self.process_id = None;
    }

    fn usage(&self) -> Usage {
        let (past, current) = (&self.past, &self.current);
        let sum = |one: Option<u64>, other: Option<u64>| match (one, other) {
            (Some(one), Some(other)) => Some(one.saturating_add(other)),
            (one, other) => one.or(other),
        };
        Usage {
            memory: Memory {
                used_bytes: current.memory.used_bytes,
                peak_bytes: past.memory.peak_bytes.max(current.memory.peak_bytes),
            },
            cpu_ns: past.cpu_ns.saturating_add(current.cpu_ns),
            counters: control::Counters {
                switches: sum(past.counters.switches, current.counters.switches),
                faults: sum(past.counters.faults, current.counters.faults),
                upcalls: sum(past.counters.upcalls, current.counters.upcalls),
                requests: sum(past.counters.requests, current.counters.requests),
            },
        }
    }
}

fn domain((setup, task): (&DomainSetup, &Task)) -> Domain {
    let life = &task.life;
    let program = Program {
        name: setup.program.clone(),
        state: life.state(),
        started_ns: life.started_ns,
        last_end: life.last_end.as_ref().map(|(end, _)| end.clone()),
        ended_ns: life.last_end.as_ref().map(|(_, at_ns)| *at_ns),
        restarts: life.restarts,
        log: task.log.size(),
    };
    Domain {
        name: setup.name.clone(),
        process_id: task.process_id,
        memory_quota_bytes: setup.memory_quota_bytes,
        usage: task.usage(),
        programs: alloc::vec![program],
    }
}
