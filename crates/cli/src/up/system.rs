//! The domains and who decides about them.

use super::process::Process;
use super::ready::Ready;
use control::{End, Follow, From, How, Phase, ProgramName, Reply, Request, Selector, Stream, metrics};
use hosted::domain::Domain;
use manifest::{Restart, System as Manifest};
use rustix::event::PollFd;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use supervisor::{
    Answer, DomainId, DomainSetup, Effect, Event, Next, Notice, Outcome, Progress, Setup, Supervisor,
};

/// For each program, what its log may take of this process's memory.
const LOG_BYTES_MAX: usize = 1 << 20;

/// How many lines before an end may be told with it.
const LAST_WORDS_MAX: u64 = 12;

/// Something that has happened to a program.
#[derive(Debug)]
pub struct News {
    /// When, since the system started.
    pub at_ns: u64,
    /// To which program.
    pub name: ProgramName,
    /// What.
    pub notice: Notice,
    /// If it failed: what it said last, line by line.
    pub last_words: Vec<Vec<u8>>,
}

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
            log_bytes_max: LOG_BYTES_MAX,
            domains: manifest.domains.iter().map(domain).collect(),
        };
        Self {
            started: Instant::now(),
            supervisor: Supervisor::new(setup),
            processes: domains.into_iter().map(Process::new).collect(),
            news: Vec::new(),
        }
    }

    /// Starts everything.
    pub fn begin(&mut self) {
        self.tell(Event::Begin);
    }

    /// Ends everything.
    pub fn shutdown(&mut self, how: How) {
        self.tell(Event::Shutdown(how));
    }

    /// Takes in what has happened since.
    pub fn advance(&mut self, ready: &Ready) {
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
    }

    /// What to wait for.
    pub fn wait_for<'a>(&'a self, entries: &mut Vec<PollFd<'a>>) {
        self.processes.iter().for_each(|process| process.wait_for(entries));
    }

    /// How long to wait at most.
    pub fn time_left(&self) -> Option<Duration> {
        let deadline_ns = self.supervisor.deadline_ns()?;
        Some(Duration::from_nanos(deadline_ns.saturating_sub(self.now_ns())))
    }

    /// What it is doing.
    pub fn phase(&self) -> Phase {
        self.supervisor.phase()
    }

    /// How it has done.
    pub fn outcome(&self) -> Outcome {
        self.supervisor.outcome()
    }

    /// Takes a client's request.
    pub fn ask(&mut self, request: Request) -> Answer {
        if request == Request::List {
            self.measure();
        }
        let (answer, effects) = self.supervisor.ask(request, self.now_ns());
        self.carry_out(effects);
        answer
    }

    /// The next part of an answer.
    pub fn next_reply(&self, answer: &mut Answer) -> Progress {
        self.supervisor.next_reply(answer)
    }

    /// For Prometheus.
    pub fn metrics(&mut self) -> String {
        self.measure();
        metrics(&self.supervisor.system(self.now_ns()))
    }

    /// What has happened since this was called last.
    pub fn take_news(&mut self) -> Vec<News> {
        std::mem::take(&mut self.news)
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
                    let last_words = match &notice {
                        Notice::Ended { next: Next::Stopped, .. } => Vec::new(),
                        Notice::Ended { end, .. } if !end.is_success() => self.last_words(id),
                        _ => Vec::new(),
                    };
                    let name = self.supervisor.name(id);
                    self.news.push(News { at_ns: self.now_ns(), name, notice, last_words });
                }
            }
        }
    }

    /// What the program wrote to standard error in the run that has just ended, the last of it.
    fn last_words(&mut self, id: DomainId) -> Vec<Vec<u8>> {
        let which = Selector::Named(self.supervisor.name(id).to_string());
        let request = Request::Log { which, from: From::Last(LAST_WORDS_MAX), follow: Follow::No };
        let (mut answer, _) = self.supervisor.ask(request, self.now_ns());
        let mut lines = Vec::new();
        while let Progress::Reply(reply) = self.supervisor.next_reply(&mut answer) {
            if let Reply::Log(piece) = reply {
                lines.extend(piece.lines);
            }
        }
        // That it has ended stands there last, and that it was started before all that it wrote.
        let of_this_run = lines.into_iter().rev().skip(1).take_while(|line| line.stream != Stream::Event);
        let errors = of_this_run.filter(|line| line.stream == Stream::Error).map(|line| line.bytes);
        let mut words: Vec<Vec<u8>> = errors.collect();
        words.reverse();
        words
    }

    fn now_ns(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
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
