//! The life of one process: a state machine that is told of each step.

use crate::backoff::Backoff;
use crate::event::{Effect, Next, Notice, ProcessId, Restart};
use alloc::vec::Vec;
use control::{End, How, State};

/// How long what was told to end may take, before it is ended by force.
pub const GRACE_NS: u64 = 5_000_000_000;

/// A process's life so far, through all its runs.
#[derive(Clone, Debug)]
pub struct Life {
    id: ProcessId,
    program: u32,
    policy: Restart,
    backoff: Backoff,
    step: Step,
    /// What `ps` shows.
    pub started_ns: Option<u64>,
    /// How it ended last, and when.
    pub last_end: Option<(End, u64)>,
    /// How often it was started again.
    pub restarts: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Not yet started.
    Idle,
    /// It is to be started as soon as its domain runs.
    Due,
    /// It was started. [`Effect::StartProcess`] is out, and its end has not been heard of.
    Alive { running: Running, stop: Stop },
    /// It has ended and is started again at this time.
    Waiting { until_ns: u64 },
    /// Nothing follows.
    Over(By),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Running {
    NotYet,
    Yes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    /// Nobody wants it to end.
    No,
    /// A user does; the domain has been told, or not yet. Its time is over then.
    Wanted { how: How, told: Told, force_ns: u64 },
    /// Its time is over.
    Overdue,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    NotYet,
    Yes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Itself,
    User,
}

/// What a living process has to do with its domain's end by force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Force {
    /// It wants to live, or has time to end.
    Spare,
    /// It is to end at once: the domain may be ended for it if nobody else is hurt.
    Allow,
    /// It does not end otherwise.
    Demand,
}

impl Life {
    /// Before its beginning.
    pub fn new(id: ProcessId, program: u32, policy: Restart) -> Self {
        Self {
            id,
            program,
            policy,
            backoff: Backoff::default(),
            step: Step::Idle,
            started_ns: None,
            last_end: None,
            restarts: 0,
        }
    }

    /// Of one that runs already: another process has started it.
    pub fn spawned(id: ProcessId, program: u32, now_ns: u64) -> Self {
        let step = Step::Alive { running: Running::Yes, stop: Stop::No };
        Self { step, started_ns: Some(now_ns), ..Self::new(id, program, Restart::Never) }
    }

    /// What `ps` shows.
    pub fn state(&self) -> State {
        match self.step {
            Step::Idle | Step::Due => State::Starting,
            Step::Alive { stop: Stop::Wanted { .. } | Stop::Overdue, .. } => State::Stopping,
            Step::Alive { running: Running::NotYet, .. } => State::Starting,
            Step::Alive { running: Running::Yes, .. } => State::Running,
            Step::Waiting { until_ns } => State::Backoff { until_ns },
            Step::Over(By::Itself) => State::Ended,
            Step::Over(By::User) => State::Stopped,
        }
    }

    /// Does nothing follow?
    pub fn is_over(&self) -> bool {
        matches!(self.step, Step::Over(_))
    }

    /// Was it started, and has not ended?
    pub fn is_alive(&self) -> bool {
        matches!(self.step, Step::Alive { .. })
    }

    /// Does it run, as far as is known?
    pub fn is_running(&self) -> bool {
        matches!(self.step, Step::Alive { running: Running::Yes, .. })
    }

    /// Does it wait for its domain?
    pub fn is_due(&self) -> bool {
        self.step == Step::Due
    }

    /// How it wants its domain to end; `None` if it is not alive.
    pub fn force(&self) -> Option<Force> {
        match self.step {
            Step::Alive { stop: Stop::Overdue, .. } => Some(Force::Demand),
            Step::Alive { stop: Stop::Wanted { how: How::AtOnce, .. }, .. } => Some(Force::Allow),
            Step::Alive { .. } => Some(Force::Spare),
            _ => None,
        }
    }

    /// When [`Self::time`] has something to do.
    pub fn deadline_ns(&self) -> Option<u64> {
        match self.step {
            Step::Waiting { until_ns } => Some(until_ns),
            Step::Alive { stop: Stop::Wanted { force_ns, .. }, .. } => Some(force_ns),
            _ => None,
        }
    }

    /// It is to be started for the first time.
    pub fn begin(&mut self) {
        if self.step == Step::Idle {
            self.step = Step::Due;
        }
    }

    /// Its domain runs: starts it if it waits for that.
    pub fn start(&mut self, now_ns: u64, effects: &mut Vec<Effect>) {
        if self.step == Step::Due {
            self.step = Step::Alive { running: Running::NotYet, stop: Stop::No };
            // If it does not come to run, it has run for no time.
            self.started_ns = Some(now_ns);
            effects.push(Effect::StartProcess(self.id, self.program));
        }
    }

    /// It runs.
    pub fn started(&mut self, now_ns: u64, effects: &mut Vec<Effect>) {
        if let Step::Alive { running: running @ Running::NotYet, .. } = &mut self.step {
            *running = Running::Yes;
            self.started_ns = Some(now_ns);
            effects.push(Effect::Notice(self.id, Notice::Started { restarts: self.restarts }));
        }
    }

    /// It has ended.
    pub fn ended(&mut self, end: End, now_ns: u64, effects: &mut Vec<Effect>) {
        let Step::Alive { stop, .. } = self.step else { return };
        let ran_ns = self.started_ns.map_or(0, |started_ns| now_ns.saturating_sub(started_ns));
        self.over(end, stop, ran_ns, now_ns, effects);
    }

    /// Its domain, for which it waited, could not be started.
    pub fn not_started(&mut self, end: End, now_ns: u64, effects: &mut Vec<Effect>) {
        if self.step == Step::Due {
            self.over(end, Stop::No, 0, now_ns, effects);
        }
    }

    fn over(&mut self, end: End, stop: Stop, ran_ns: u64, now_ns: u64, effects: &mut Vec<Effect>) {
        let next = if stop != Stop::No {
            Next::Stopped
        } else if self.policy.wants(&end) {
            Next::Restart { after_ns: self.backoff.after_run(ran_ns) }
        } else {
            Next::Nothing
        };
        self.step = match next {
            Next::Nothing => Step::Over(By::Itself),
            Next::Stopped => Step::Over(By::User),
            Next::Restart { after_ns } => Step::Waiting { until_ns: now_ns.saturating_add(after_ns) },
        };
        self.last_end = Some((end.clone(), now_ns));
        effects.push(Effect::Notice(self.id, Notice::Ended { end, next }));
    }

    /// A user wants it to end. Who asks again asks for more: after graceful comes at once.
    pub fn kill(&mut self, how: How, now_ns: u64, effects: &mut Vec<Effect>) {
        match &mut self.step {
            Step::Alive { stop, .. } => {
                *stop = match (*stop, how) {
                    (Stop::No, how) => {
                        Stop::Wanted { how, told: Told::NotYet, force_ns: now_ns.saturating_add(GRACE_NS) }
                    }
                    (Stop::Wanted { how: How::Gracefully, told, force_ns }, How::AtOnce) => {
                        Stop::Wanted { how, told, force_ns }
                    }
                    (Stop::Wanted { .. } | Stop::Overdue, _) => return,
                };
                effects.push(Effect::Notice(self.id, Notice::Stopping(how)));
            }
            Step::Idle | Step::Due | Step::Waiting { .. } => {
                self.step = Step::Over(By::User);
                effects.push(Effect::Notice(self.id, Notice::Cancelled));
            }
            Step::Over(_) => {}
        }
    }

    /// The domain goes on: has it end this process, if that is wanted and has not been said.
    pub fn end(&mut self, effects: &mut Vec<Effect>) {
        if let Step::Alive { stop: Stop::Wanted { told: told @ Told::NotYet, .. }, .. } = &mut self.step {
            *told = Told::Yes;
            effects.push(Effect::EndProcess(self.id));
        }
    }

    /// Time has passed.
    pub fn time(&mut self, now_ns: u64, effects: &mut Vec<Effect>) {
        if self.deadline_ns().is_none_or(|deadline_ns| deadline_ns > now_ns) {
            return;
        }
        match &mut self.step {
            Step::Waiting { .. } => {
                self.restarts += 1;
                self.step = Step::Due;
            }
            Step::Alive { stop, .. } => {
                *stop = Stop::Overdue;
                effects.push(Effect::Notice(self.id, Notice::Overdue));
            }
            Step::Idle | Step::Due | Step::Over(_) => {}
        }
    }
}
