//! The life of one program: a state machine that is told of each step.

use crate::backoff::Backoff;
use crate::event::{DomainId, Effect, Next, Notice, Restart};
use alloc::vec::Vec;
use control::{End, How, State};

/// How long a program that was told to end may take, before it is ended by force.
pub const GRACE_NS: u64 = 5_000_000_000;

/// A program's life so far.
#[derive(Clone, Debug)]
pub struct Life {
    id: DomainId,
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
    /// It was started. [`Effect::Start`] is out, and its end has not been heard of.
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
    /// It was told to, and is ended by force at this time.
    Told { force_ns: u64 },
    /// It was ended by force.
    Forced,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Itself,
    User,
}

impl Life {
    /// Before its beginning.
    pub fn new(id: DomainId, policy: Restart) -> Self {
        Self {
            id,
            policy,
            backoff: Backoff::default(),
            step: Step::Idle,
            started_ns: None,
            last_end: None,
            restarts: 0,
        }
    }

    /// What `ps` shows.
    pub fn state(&self) -> State {
        match self.step {
            Step::Idle => State::Starting,
            Step::Alive { stop: Stop::Told { .. } | Stop::Forced, .. } => State::Stopping,
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

    /// When [`Self::time`] has something to do.
    pub fn deadline_ns(&self) -> Option<u64> {
        match self.step {
            Step::Waiting { until_ns } => Some(until_ns),
            Step::Alive { stop: Stop::Told { force_ns }, .. } => Some(force_ns),
            _ => None,
        }
    }

    /// Starts it for the first time.
    pub fn begin(&mut self, now_ns: u64, effects: &mut Vec<Effect>) {
        if self.step == Step::Idle {
            self.start(now_ns, effects);
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
                match (how, *stop) {
                    (How::Gracefully, Stop::No) => {
                        *stop = Stop::Told { force_ns: now_ns.saturating_add(GRACE_NS) }
                    }
                    (How::AtOnce, Stop::No | Stop::Told { .. }) => *stop = Stop::Forced,
                    (How::Gracefully, Stop::Told { .. }) | (_, Stop::Forced) => return,
                }
                effects.push(Effect::Notice(self.id, Notice::Stopping(how)));
                effects.push(Effect::End(self.id, how));
            }
            Step::Idle | Step::Waiting { .. } => {
                self.step = Step::Over(By::User);
                effects.push(Effect::Notice(self.id, Notice::Cancelled));
            }
            Step::Over(_) => {}
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
                self.start(now_ns, effects);
            }
            Step::Alive { stop, .. } => {
                *stop = Stop::Forced;
                effects.push(Effect::Notice(self.id, Notice::Overdue));
                effects.push(Effect::End(self.id, How::AtOnce));
            }
            Step::Idle | Step::Over(_) => {}
        }
    }

    fn start(&mut self, now_ns: u64, effects: &mut Vec<Effect>) {
        self.step = Step::Alive { running: Running::NotYet, stop: Stop::No };
        // If it does not come to run, it has run for no time.
        self.started_ns = Some(now_ns);
        effects.push(Effect::Start(self.id));
    }
}
