//! A domain with its processes: it is started for them, and ended when none is left.

use crate::crash::{self, Words};
use crate::event::{DomainId, DomainSetup, Effect, ProcessId, ProgramSetup};
use crate::life::{Force, GRACE_NS, Life};
use crate::log::{Log, Sequence};
use crate::room::LogBytes;
use crate::usage::Account;
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use control::{Crash, CrashReport, End, How, ProcessUsage, ProgramName, State, Stream, Usage};
use link::FAILED_CHILDREN_MAX;

/// A domain.
#[derive(Debug)]
pub struct Domain {
    id: DomainId,
    step: Step,
    pub process_id: Option<u32>,
    pub account: Account<Usage>,
    /// What its library OS said in this run, the last of it.
    words: Words,
    /// What it said in all runs: kept once, however many processes it concerns.
    pub log: Log,
    /// By their numbers.
    pub processes: Vec<Process>,
    /// How many of them are its own: those after them were started by others, living or not.
    own: usize,
    /// How many of those there can be.
    children_max: usize,
    log_bytes: LogBytes,
    /// Children of which a report is kept, the first that has failed first.
    failed: VecDeque<u32>,
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
    /// What its library OS says of the end that is to come.
    crash: Option<Crash>,
    /// How it failed last.
    pub report: Option<Box<CrashReport>>,
    kind: Kind,
    /// Another one, if a child has taken the place of another.
    pub generation: u64,
}

/// Where a process comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// The manifest.
    Own,
    /// Another process has started it. Its end is for that one to hear: nothing follows, and nothing is told unasked.
    Child,
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
    pub fn new(id: DomainId, setup: &DomainSetup, log_bytes: LogBytes) -> Self {
        let instances = (0..).zip(&setup.programs).flat_map(|(number, program)| {
            (0..program.instances).map(move |instance| (number, program, instance))
        });
        let process = |(number, (program, setup, instance)): (u32, (u32, &ProgramSetup, u32))| Process {
            name: match setup.instances {
                1 => setup.name.clone(),
                _ => format!("{}/{instance}", setup.name),
            },
            life: Life::new(ProcessId { domain: id, number }, program, setup.restart),
            log: Log::new(log_bytes.own),
            account: Account::default(),
            is_asked: false,
            crash: None,
            report: None,
            kind: Kind::Own,
            generation: 0,
        };
        let processes: Vec<Process> = (0..).zip(instances).map(process).collect();
        Self {
            id,
            step: Step::Down,
            process_id: None,
            account: Account::default(),
            words: Words::default(),
            log: Log::new(log_bytes.own),
            own: processes.len(),
            processes,
            children_max: setup.children,
            log_bytes,
            failed: VecDeque::new(),
        }
    }

    /// Those that the manifest names.
    pub fn own(&self) -> &[Process] {
        &self.processes[..self.own]
    }

    /// Was it started by another?
    pub fn is_child(&self, number: u32) -> bool {
        number as usize >= self.own
    }

    /// A process runs that another one has started, of a program of that name and place.
    pub fn spawned(
        &mut self,
        number: u32,
        (program, name): (u32, &str),
        parent: u32,
        now_ns: u64,
        sequence: &mut Sequence,
    ) {
        let place = number as usize;
        let is_possible = self.is_alive()
            && self.is_child(number)
            && place - self.own < self.children_max
            && place <= self.processes.len()
            && self.processes.get(place).is_none_or(|before| before.life.is_over());
        if !is_possible {
            return;
        }
        let mut child = Process {
            name: format!("{name}/{number}"),
            life: Life::spawned(ProcessId { domain: self.id, number }, program, now_ns),
            log: Log::new(self.log_bytes.child),
            account: Account::default(),
            is_asked: false,
            crash: None,
            report: None,
            kind: Kind::Child,
            generation: self.processes.get(place).map_or(0, |before| before.generation + 1),
        };
        let parent = self.processes.get(parent as usize).map_or("", |parent| parent.name.as_str());
        child.log.note(&format!("started by {parent}"), now_ns, sequence);
        self.failed.retain(|failed| *failed != number);
        match self.processes.get_mut(place) {
            Some(before) => *before = child,
            None => self.processes.push(child),
        }
    }

    /// A process has ended, if it was alive. Of how children have failed the newest is kept: there can be many.
    pub fn process_ended(
        &mut self,
        number: u32,
        end: End,
        words: &str,
        now_ns: u64,
        sequence: &mut Sequence,
        effects: &mut Vec<Effect>,
    ) {
        let Some(process) = self.processes.get_mut(number as usize) else { return };
        let was_alive = process.life.is_alive();
        process.ended(end, words, now_ns, sequence, effects);
        if !was_alive || process.kind == Kind::Own || process.report.is_none() {
            return;
        }
        self.failed.push_back(number);
        if self.failed.len() > FAILED_CHILDREN_MAX
            && let Some(first) = self.failed.pop_front()
        {
            self.processes[first as usize].report = None;
        }
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
        let words = self.words.take();
        self.log.close(now_ns, sequence);
        for number in 0..self.processes.len() {
            if step == Step::Starting {
                self.processes[number].not_started(end.clone(), &words, now_ns, effects);
            }
            self.process_ended(number as u32, end.clone(), &words, now_ns, sequence, effects);
        }
    }

    /// Its library OS has something to say.
    pub fn wrote(&mut self, bytes: &[u8], now_ns: u64, sequence: &mut Sequence) {
        self.words.add(bytes);
        self.log.write(Stream::Error, bytes, now_ns, sequence);
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
    /// Is it to be seen? A child that has done its work is not, though its log is there until another has its place.
    pub fn is_listed(&self) -> bool {
        self.kind == Kind::Own || self.life.state() != State::Ended || self.report.is_some()
    }

    /// What its library OS says of its end.
    pub fn crashed(&mut self, crash: Crash) {
        self.crash = Some(crash).filter(|_| self.life.is_alive());
    }

    /// If it is alive, it has ended; `words` are its library OS's, if that has.
    fn ended(
        &mut self,
        end: End,
        words: &str,
        now_ns: u64,
        sequence: &mut Sequence,
        effects: &mut Vec<Effect>,
    ) {
        if self.life.is_alive() {
            self.log.close(now_ns, sequence);
            let last_lines = crash::last_lines(&self.log, self.life.started_ns.unwrap_or(0));
            let crash = self.crash.take();
            if let Some(crash) = &crash {
                self.log.write(Stream::Error, crash::details(crash).as_bytes(), now_ns, sequence);
            }
            self.account.close();
            self.is_asked = false;
            if self.has_failed(&end, crash.as_ref()) {
                self.report =
                    Some(Box::new(CrashReport { last_lines, crash, ..self.report_on(&end, words, now_ns) }));
            }
            self.life.ended(end, now_ns, effects);
        }
    }

    /// Has it, in ending like this?
    fn has_failed(&self, end: &End, crash: Option<&Crash>) -> bool {
        // What a user ends has not; nor what its parent ends.
        let was_ended = self.life.state() == State::Stopping
            || self.kind == Kind::Child && crash.is_none() && matches!(end, End::Exited { .. });
        !end.is_success() && !was_ended
    }

    /// The domain that it waited for was not started.
    fn not_started(&mut self, end: End, words: &str, now_ns: u64, effects: &mut Vec<Effect>) {
        if self.life.is_due() {
            self.report = Some(Box::new(self.report_on(&end, words, now_ns)));
        }
        self.life.not_started(end, now_ns, effects);
    }

    /// Without what it has written, and its domain's name, which is not known here.
    fn report_on(&self, end: &End, words: &str, now_ns: u64) -> CrashReport {
        CrashReport {
            program: ProgramName { domain: String::new(), program: self.name.clone() },
            at_ns: now_ns,
            restarts: self.life.restarts,
            end: end.clone(),
            crash: None,
            domain_words: String::from(words),
            last_lines: Vec::new(),
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
