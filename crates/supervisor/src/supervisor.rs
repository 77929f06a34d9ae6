//! All domains together.

use crate::domain::{Domain, Process};
use crate::event::{DomainId, Effect, Event, Notice, ProcessId, Setup};
use crate::log::Sequence;
use crate::room::LogBytes;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use control::{Cpu, How, Phase, Platform, ProgramName, System};
use serde::{Deserialize, Serialize};

/// How long an answer waits for what domains say about their processes; then it has what was said last.
pub const MEASURE_NS: u64 = 250_000_000;

/// What stands in the log of a process that writes too fast.
const THROTTLED: &str = "has to wait: it writes faster than its log-rate";

/// The root's logic. Times are in nanoseconds since the system started, and never go back.
#[derive(Debug)]
pub struct Supervisor {
    setup: Setup,
    domains: Vec<Domain>,
    sequence: Sequence,
    cpus: Vec<Cpu>,
    shutdown: Option<How>,
    /// The latest that was told.
    now_ns: u64,
    /// Until when it is waited for what processes use.
    measured_by_ns: Option<u64>,
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
        let numbered = setup.domains.iter().enumerate();
        let log_bytes = LogBytes::new(&setup.domains, setup.log_bytes_max);
        let domains = numbered.map(|(index, domain)| Domain::new(DomainId(index), domain, log_bytes));
        Self {
            domains: domains.collect(),
            setup,
            sequence: Sequence::default(),
            cpus: Vec::new(),
            shutdown: None,
            now_ns: 0,
            measured_by_ns: None,
        }
    }

    /// Takes note of what has happened: what is to be done now. An event that cannot be (of a process that was not started, say)
    /// changes nothing.
    pub fn handle(&mut self, event: Event<'_>, now_ns: u64) -> Vec<Effect> {
        self.now_ns = now_ns;
        let mut effects = Vec::new();
        match event {
            Event::Begin => {
                self.processes_mut().for_each(|process| process.life.begin());
                self.settle(&mut effects);
            }
            Event::Time => self.time(&mut effects),
            Event::Shutdown(how) => {
                self.shutdown = Some(how);
                let all: Vec<ProcessId> = self.ids().collect();
                self.kill_into(&all, how, &mut effects);
                if how == How::AtOnce {
                    self.domains.iter_mut().for_each(|domain| domain.hasten(&mut effects));
                }
            }
            Event::DomainStarted { domain, process_id } => self.with_domain(domain, |domain, _| {
                domain.started(process_id);
                domain.settle(now_ns, &mut effects);
            }),
            Event::DomainEnded(id, end) => self.with_domain(id, |domain, sequence| {
                if domain.is_alive() {
                    domain.ended(&end, now_ns, sequence, &mut effects);
                    domain.settle(now_ns, &mut effects);
                }
            }),
            Event::DomainWrote { domain, bytes } => self.with_domain(domain, |domain, sequence| {
                if domain.is_alive() {
                    domain.wrote(bytes, now_ns, sequence);
                }
            }),
            Event::Started(id) => {
                self.with(id, |process, _| process.life.started(now_ns, &mut effects));
            }
            Event::Spawned { process: ProcessId { domain: id, number }, program, parent } => {
                let setup = self.setup.domains.get(id.0);
                let program = setup.and_then(|setup| Some((program, setup.programs.get(program as usize)?)));
                let domain = self.domains.get_mut(id.0);
                if let Some(((program, setup), domain)) = program.zip(domain) {
                    domain.spawned(number, (program, &setup.name), parent, now_ns, &mut self.sequence);
                }
            }
            Event::Crashed(id, crash) => self.with(id, |process, _| process.crashed(crash)),
            Event::Throttled(id) => self.with(id, |process, sequence| {
                if process.life.is_alive() {
                    process.log.note(THROTTLED, now_ns, sequence);
                }
            }),
            Event::Ended(id, end) => {
                self.with_domain(id.domain, |domain, sequence| {
                    domain.process_ended(id.number, end, "", now_ns, sequence, &mut effects);
                    domain.settle(now_ns, &mut effects);
                });
            }
            Event::Wrote { process, stream, bytes } => {
                self.with(process, |process, sequence| process.log.write(stream, bytes, now_ns, sequence));
            }
            Event::DomainMeasured(id, usage) => self.with_domain(id, |domain, _| {
                if domain.is_alive() {
                    domain.account.measured(usage);
                }
            }),
            Event::Measured(id, usage) => self.with(id, |process, _| {
                if process.life.is_alive() {
                    process.account.measured(usage);
                    process.is_asked = false;
                }
            }),
            Event::MeasuredCpus(cpus) => self.cpus = cpus,
        }
        self.note(&mut effects);
        effects
    }

    /// When [`Event::Time`] is to come at the latest.
    pub fn deadline_ns(&self) -> Option<u64> {
        let measured_by_ns = self.measured_by_ns.filter(|_| self.is_measuring());
        self.domains.iter().filter_map(Domain::deadline_ns).chain(measured_by_ns).min()
    }

    /// What the system is doing.
    pub fn phase(&self) -> Phase {
        if self.domains.iter().all(Domain::is_over) {
            Phase::Ended
        } else if self.shutdown.is_some() {
            Phase::Ending
        } else {
            Phase::Up
        }
    }

    /// How it has done; final when the phase is [`Phase::Ended`].
    pub fn outcome(&self) -> Outcome {
        let failed = |process: &Process| {
            process.life.state() == control::State::Ended
                && process.life.last_end.as_ref().is_some_and(|(end, _)| !end.is_success())
        };
        if self.domains.iter().flat_map(Domain::own).any(failed) {
            Outcome::Failed
        } else {
            Outcome::Succeeded
        }
    }

    pub(crate) fn platform(&self) -> Platform {
        self.setup.platform
    }

    /// The state of everything.
    pub fn system(&self) -> System {
        System {
            name: self.setup.name.clone(),
            platform: self.setup.platform,
            phase: self.phase(),
            uptime_ns: self.now_ns,
            started_unix_ns: self.setup.started_unix_ns,
            cpus: self.cpus.clone(),
            domains: self.setup.domains.iter().zip(&self.domains).map(crate::status::domain).collect(),
        }
    }

    /// The process by its whole name.
    pub fn name(&self, id: ProcessId) -> ProgramName {
        ProgramName {
            domain: self.setup.domains[id.domain.0].name.clone(),
            program: self.process(id).name.clone(),
        }
    }

    /// What is called so whose no process it is: what the domain's library OS says.
    pub(crate) fn domain_name(&self, id: DomainId) -> ProgramName {
        ProgramName { domain: self.setup.domains[id.0].name.clone(), program: String::new() }
    }

    pub(crate) fn domain(&self, id: DomainId) -> &Domain {
        &self.domains[id.0]
    }

    /// Every domain.
    pub fn domain_ids(&self) -> impl Iterator<Item = DomainId> + use<> {
        (0..self.domains.len()).map(DomainId)
    }

    /// Every process, also those that are not alive.
    pub fn ids(&self) -> impl Iterator<Item = ProcessId> {
        let of = |(index, domain): (usize, &Domain)| {
            let domain_id = DomainId(index);
            (0..domain.processes.len() as u32).map(move |number| ProcessId { domain: domain_id, number })
        };
        self.domains.iter().enumerate().flat_map(of)
    }

    /// Has all be measured for an answer: whether it waits is [`Self::is_measuring`]'s to say.
    pub(crate) fn measure(&mut self, now_ns: u64) -> Vec<Effect> {
        self.now_ns = now_ns;
        if !self.is_measuring() {
            self.measured_by_ns = Some(now_ns.saturating_add(MEASURE_NS));
        }
        for process in self.processes_mut() {
            process.is_asked = process.life.is_running();
        }
        let alive = self.domain_ids().filter(|id| self.domains[id.0].is_alive());
        alive.map(Effect::Measure).collect()
    }

    /// Does some process owe its figures?
    pub(crate) fn is_measuring(&self) -> bool {
        self.measured_by_ns.is_some() && self.processes().any(|process| process.is_asked)
    }

    /// Kills processes for a user.
    pub(crate) fn kill(&mut self, ids: &[ProcessId], how: How, now_ns: u64) -> Vec<Effect> {
        self.now_ns = now_ns;
        let mut effects = Vec::new();
        self.kill_into(ids, how, &mut effects);
        self.note(&mut effects);
        effects
    }

    pub(crate) fn process(&self, id: ProcessId) -> &Process {
        &self.domains[id.domain.0].processes[id.number as usize]
    }

    /// All are told before anything follows: what is to end at once together can be ended with its domain.
    fn kill_into(&mut self, ids: &[ProcessId], how: How, effects: &mut Vec<Effect>) {
        let now_ns = self.now_ns;
        for id in ids {
            self.with(*id, |process, _| process.life.kill(how, now_ns, effects));
        }
        self.settle(effects);
    }

    fn time(&mut self, effects: &mut Vec<Effect>) {
        let now_ns = self.now_ns;
        if self.measured_by_ns.is_some_and(|by_ns| by_ns <= now_ns) {
            self.measured_by_ns = None;
            self.processes_mut().for_each(|process| process.is_asked = false);
        }
        self.domains.iter_mut().for_each(|domain| domain.time(now_ns, effects));
        self.settle(effects);
    }

    fn settle(&mut self, effects: &mut Vec<Effect>) {
        let now_ns = self.now_ns;
        self.domains.iter_mut().for_each(|domain| domain.settle(now_ns, effects));
    }

    fn processes(&self) -> impl Iterator<Item = &Process> {
        self.domains.iter().flat_map(|domain| &domain.processes)
    }

    fn processes_mut(&mut self) -> impl Iterator<Item = &mut Process> {
        self.domains.iter_mut().flat_map(|domain| &mut domain.processes)
    }

    fn with_domain(&mut self, id: DomainId, act: impl FnOnce(&mut Domain, &mut Sequence)) {
        if let Some(domain) = self.domains.get_mut(id.0) {
            act(domain, &mut self.sequence);
        }
    }

    fn with(&mut self, id: ProcessId, act: impl FnOnce(&mut Process, &mut Sequence)) {
        self.with_domain(id.domain, |domain, sequence| {
            if let Some(process) = domain.processes.get_mut(id.number as usize) {
                act(process, sequence);
            }
        });
    }

    /// What is told about a process stands in its log as well; of one that another has started only there.
    fn note(&mut self, effects: &mut Vec<Effect>) {
        let now_ns = self.now_ns;
        for effect in &*effects {
            if let Effect::Notice(id, notice) = effect {
                self.with(*id, |process, sequence| process.note(notice, now_ns, sequence));
            }
        }
        effects.retain(|effect| match effect {
            Effect::Notice(id, _) => !self.domains[id.domain.0].is_child(id.number),
            _ => true,
        });
    }
}

impl Process {
    fn note(&mut self, notice: &Notice, now_ns: u64, sequence: &mut Sequence) {
        self.log.note(&notice.to_string(), now_ns, sequence);
    }
}
