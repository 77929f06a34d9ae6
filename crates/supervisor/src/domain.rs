//! A domain with its processes: it is started for them, and ended when none is left.

use crate::event::{DomainId, DomainSetup, Effect, ProcessId, ProgramSetup};
use crate::life::{Force, GRACE_NS, Life};
use crate::log::{Log, Sequence};
use crate::usage::Account;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use control::{End, How, ProcessUsage, Usage};

/// A domain.
#[derive(Debug)]
pub struct Domain {
    id: DomainId,
    step: Step,
    pub process_id: Option<u32>,
    pub account: Account<Usage>,
    /// By their numbers.
    pub processes: Vec<Process>,
}

/// A process of a domain.
#[derive(Debug)]
pub struct Process {
    /// With the instance, if its program has several.
    pub name: String,
    pub life: Life,
    pub log: Log,
    pub account: Account<ProcessUsage>,
    /// What it uses was asked for, and not yet said.
    pub is_asked: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// There is none.
    Down,
    /// [`Effect::StartDomain`] is out.
    Starting,
    /// It runs.
    Up,
    /// It was told to end, for there is nothing left to do, and is ended by force at this time.
    Ending { force_ns: u64 },
    /// It was ended by force.
    Forced,
}

impl Domain {
    /// Before its beginning.
    pub fn new(id: DomainId, setup: &DomainSetup, log_bytes_max: usize) -> Self {
        let instances = (0..).zip(&setup.programs).flat_map(|(number, program)| {
            (0..program.instances).map(move |instance| (number, program, instance))
        });
        let process = |(number, (program, setup, instance)): (u32, (u32, &ProgramSetup, u32))| Process {
            name: match setup.instances {
                1 => setup.name.clone(),
                _ => format!("{}/{instance}", setup.name),
            },
            life: Life::new(ProcessId { domain: id, number }, program, setup.restart),
            log: Log::new(log_bytes_max),
            account: Account::default(),
            is_asked: false,
        };
        let processes = (0..).zip(instances).map(process).collect();
        Self { id, step: Step::Down, process_id: None, account: Account::default(), processes }
    }

    /// Is there one, as far as is known?
    pub fn is_alive(&self) -> bool {
        self.step != Step::Down
    }

    /// Does nothing follow?
    pub fn is_over(&self) -> bool {
        self.step == Step::Down && self.processes.iter().all(|process| process.life.is_over())
    }

    /// When [`Self::time`] has something to do.
    pub fn deadline_ns(&self) -> Option<u64> {
        let own = match self.step {
            Step::Ending { force_ns } => Some(force_ns),
            _ => None,
        };
        self.processes.iter().filter_map(|process| process.life.deadline_ns()).chain(own).min()
    }

    /// It runs.
    pub fn started(&mut self, process_id: Option<u32>) {
        if self.step == Step::Starting {
            self.step = Step::Up;
        }
        if self.is_alive() {
            self.process_id = process_id;
        }
    }

    /// It is there no more, and with it no process is.
    pub fn ended(&mut self, end: &End, now_ns: u64, sequence: &mut Sequence, effects: &mut Vec<Effect>) {
        let step = core::mem::replace(&mut self.step, Step::Down);
        self.process_id = None;
        self.account.close();
        let end = broken(end);
        for process in &mut self.processes {
            if step == Step::Starting {
                process.life.not_started(end.clone(), now_ns, effects);
            }
            process.ended(end.clone(), now_ns, sequence, effects);
        }
    }

    /// Time has passed.
    pub fn time(&mut self, now_ns: u64, effects: &mut Vec<Effect>) {
        self.processes.iter_mut().for_each(|process| process.life.time(now_ns, effects));
        if let Step::Ending { force_ns } = self.step
            && force_ns <= now_ns
        {
            self.force(effects);
        }
    }

    /// Does what follows from what its processes want.
    pub fn settle(&mut self, now_ns: u64, effects: &mut Vec<Effect>) {
        match self.step {
            Step::Down if self.processes.iter().any(|process| process.life.is_due()) => {
                self.step = Step::Starting;
                effects.push(Effect::StartDomain(self.id));
            }
            Step::Starting | Step::Up if self.is_left() => {
                self.step = Step::Ending { force_ns: now_ns.saturating_add(GRACE_NS) };
                effects.push(Effect::EndDomain(self.id, How::Gracefully));
            }
            Step::Up if self.is_to_be_forced() => self.force(effects),
            Step::Up => {
                for process in &mut self.processes {
                    process.life.end(effects);
                    process.life.start(now_ns, effects);
                }
            }
            Step::Down | Step::Starting | Step::Ending { .. } | Step::Forced => {}
        }
    }

    /// Ends it now, whatever it does; nothing is asked of it any more.
    pub fn hasten(&mut self, effects: &mut Vec<Effect>) {
        if let Step::Ending { .. } = self.step {
            self.force(effects);
        }
    }

    fn force(&mut self, effects: &mut Vec<Effect>) {
        self.step = Step::Forced;
        effects.push(Effect::EndDomain(self.id, How::AtOnce));
    }

    /// Is there nothing that it will do?
    fn is_left(&self) -> bool {
        self.processes.iter().all(|process| process.life.is_over())
    }

    /// Does a process not end otherwise, or are all that live to end at once?
    fn is_to_be_forced(&self) -> bool {
        let mut wishes = self.processes.iter().filter_map(|process| process.life.force()).peekable();
        let all_allow = wishes.peek().is_some() && wishes.clone().all(|wish| wish != Force::Spare);
        all_allow || wishes.any(|wish| wish == Force::Demand)
    }
}

impl Process {
    /// If it is alive, it has ended.
    pub fn ended(&mut self, end: End, now_ns: u64, sequence: &mut Sequence, effects: &mut Vec<Effect>) {
        if self.life.is_alive() {
            self.log.close(now_ns, sequence);
            self.account.close();
            self.is_asked = false;
            self.life.ended(end, now_ns, effects);
        }
    }
}

/// What the end of a domain is to a process in it.
fn broken(end: &End) -> End {
    match end {
        End::Exited { status } => End::Broken { how: format!("its domain ended with status {status}") },
        End::Broken { .. } | End::NotStarted { .. } => end.clone(),
    }
}
