//! The domains as processes of this one, and who decides about them.

use super::backend::Backend;
use super::process::Process;
use super::ready::Ready;
use crate::failure::Failure;
use control::{End, How, Phase, Request};
use hosted::domain::Domain;
use manifest::{Restart, System as Manifest};
use rustix::event::PollFd;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use supervisor::{Answer, DomainSetup, Effect, Event, News, Outcome, Progress, Setup, Supervisor};

/// What the logs of all programs may take of this process's memory together,
const LOGS_BYTES_MAX: usize = 64 << 20;
/// what one of them may take if they are few,
const LOG_BYTES_MAX: usize = 1 << 20;
/// and what each may in any case.
const LOG_BYTES_MIN: usize = 64 << 10;

/// A system of processes.
pub struct System {
    started: Instant,
    supervisor: Supervisor,
    processes: Vec<Process>,
    news: Vec<News>,
}

impl System {
    /// Before its beginning. `domains` are those of the manifest, in its order.
    pub fn new(manifest: &Manifest, domains: Vec<Domain>) -> Self {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).ok();
        let setup = Setup {
            name: manifest.name.to_string(),
            platform: control::Platform::Hosted,
            started_unix_ns: since_1970.and_then(|time| u64::try_from(time.as_nanos()).ok()),
            log_bytes_max: (LOGS_BYTES_MAX / domains.len().max(1)).clamp(LOG_BYTES_MIN, LOG_BYTES_MAX),
            domains: manifest.domains.iter().map(domain).collect(),
        };
        Self {
            started: Instant::now(),
            supervisor: Supervisor::new(setup),
            processes: domains.into_iter().map(Process::new).collect(),
            news: Vec::new(),
        }
    }

    fn measure(&mut self) {
        for id in self.supervisor.ids() {
            if let Some(usage) = self.processes[id.0].usage() {
                self.tell(Event::Measured(id, usage));
            }
        }
    }

    fn tell(&mut self, event: Event<'_>) {
        let effects = self.supervisor.handle(event, self.now_ns());
        self.carry_out(effects);
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Start(id) => match self.processes[id.0].start() {
                    Ok(process_id) => self.tell(Event::Started { domain: id, process_id: Some(process_id) }),
                    Err(error) => self.tell(Event::Ended(id, End::NotStarted { why: error.to_string() })),
                },
                Effect::End(id, how) => self.processes[id.0].end(how),
                Effect::Notice(id, notice) => {
                    let news = self.supervisor.news(id, notice, self.now_ns());
                    self.news.push(news);
                }
            }
        }
    }

    fn now_ns(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

impl Backend for System {
    type Answer = Answer;

    fn begin(&mut self) {
        self.tell(Event::Begin);
    }

    fn shutdown(&mut self, how: How) {
        self.tell(Event::Shutdown(how));
    }

    fn advance(&mut self, ready: &Ready) -> Result<(), Failure> {
        for id in self.supervisor.ids() {
            let now_ns = self.now_ns();
            let supervisor = &mut self.supervisor;
            let mut take = |stream, bytes: &[u8]| {
                supervisor.handle(Event::Wrote { domain: id, stream, bytes }, now_ns);
            };
            self.processes[id.0].read(ready, &mut take);
            if let Some((end, usage)) = self.processes[id.0].take_end(ready, &mut take) {
                self.tell(Event::Measured(id, usage));
                self.tell(Event::Ended(id, end));
            }
        }
        if self.time_left().is_some_and(|left| left.is_zero()) {
            self.tell(Event::Time);
        }
        Ok(())
    }

    fn wait_for<'a>(&'a self, entries: &mut Vec<PollFd<'a>>) {
        self.processes.iter().for_each(|process| process.wait_for(entries));
    }

    fn time_left(&self) -> Option<Duration> {
        let deadline_ns = self.supervisor.deadline_ns()?;
        Some(Duration::from_nanos(deadline_ns.saturating_sub(self.now_ns())))
    }

    fn outcome(&self) -> Option<Outcome> {
        (self.supervisor.phase() == Phase::Ended).then(|| self.supervisor.outcome())
    }

    fn ask(&mut self, request: Request) -> Answer {
        if request == Request::List {
            self.measure();
        }
        let (answer, effects) = self.supervisor.ask(request, self.now_ns());
        self.carry_out(effects);
        answer
    }

    fn next_reply(&mut self, answer: &mut Answer) -> Progress {
        self.supervisor.next_reply(answer)
    }

    fn forget(&mut self, _answer: Answer) {}

    fn take_news(&mut self) -> Vec<News> {
        std::mem::take(&mut self.news)
    }

    fn close(&mut self) -> Result<(), Failure> {
        Ok(())
    }
}

fn domain(wanted: &manifest::Domain) -> DomainSetup {
    let program = wanted.programs.first().expect("a domain of a manifest has a program");
    DomainSetup {
        name: wanted.name.to_string(),
        memory_quota_bytes: wanted.memory.0,
        program: program.name.to_string(),
        restart: match program.restart {
            Restart::Never => supervisor::Restart::Never,
            Restart::OnFailure => supervisor::Restart::OnFailure,
            Restart::Always => supervisor::Restart::Always,
        },
    }
}
