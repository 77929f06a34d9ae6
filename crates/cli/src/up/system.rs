//! The domains as processes of this one, and who decides about them.

use super::backend::Backend;
use super::process::Process;
use super::ready::Ready;
use crate::failure::Failure;
use control::{End, How, Phase, Request};
use hosted::domain::Domain;
use manifest::{Restart, System as Manifest};
use rustix::event::PollFd;
use rustix::time::{ClockId, clock_gettime};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use supervisor::{
    Answer, Attention, DomainId, DomainSetup, Effect, Event, News, Outcome, ProgramSetup, Progress, Setup,
    Supervisor,
};

/// What the log of a process may take of this process's memory, if they are few.
const LOG_BYTES_MAX: usize = 1 << 20;

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
        let wanted: Vec<DomainSetup> = manifest.domains.iter().map(domain).collect();
        let processes: Vec<[usize; 2]> =
            wanted.iter().map(|domain| [domain.processes(), domain.children]).collect();
        let setup = Setup {
            name: manifest.name.to_string(),
            platform: control::Platform::Hosted,
            started_unix_ns: since_1970.and_then(|time| u64::try_from(time.as_nanos()).ok()),
            log_bytes_max: LOG_BYTES_MAX,
            domains: wanted,
        };
        let attention = Attention::new(domains.len());
        let numbered = (0..).map(DomainId).zip(domains).zip(processes);
        Self {
            started: Instant::now(),
            supervisor: Supervisor::new(setup),
            processes: numbered
                .map(|((id, domain), processes)| Process::new(id, domain, processes, attention))
                .collect(),
            news: Vec::new(),
        }
    }

    fn measure(&mut self, id: DomainId) {
        self.processes[id.0].measure_processes();
        if let Some(usage) = self.processes[id.0].usage() {
            self.tell(Event::DomainMeasured(id, usage));
        }
    }

    fn tell(&mut self, event: Event<'_>) {
        let effects = self.supervisor.handle(event, self.now_ns());
        self.carry_out(effects);
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::StartDomain(domain) => match self.processes[domain.0].start() {
                    Ok(process_id) => {
                        self.tell(Event::DomainStarted { domain, process_id: Some(process_id) });
                    }
                    Err(error) => {
                        let end = End::NotStarted { why: error.to_string() };
                        self.tell(Event::DomainEnded(domain, end));
                    }
                },
                Effect::EndDomain(id, how) => self.processes[id.0].end(how),
                Effect::StartProcess(id, program) => {
                    self.processes[id.domain.0].start_process(id, program);
                }
                Effect::EndProcess(id) => self.processes[id.domain.0].end_process(id),
                Effect::Measure(id) => self.measure(id),
                Effect::Notice(id, notice) => {
                    let news = self.supervisor.news(id, notice, self.now_ns());
                    self.news.push(news);
                }
            }
        }
    }

    /// Hears a domain, and takes note of how long that takes of this thread's CPU time.
    fn hear(&mut self, id: DomainId, ready: &Ready) {
        if !self.processes[id.0].is_ready(ready) {
            return;
        }
        let (began_ns, now_ns) = (cpu_ns(), self.now_ns());
        let supervisor = &mut self.supervisor;
        let mut effects = Vec::new();
        let mut tell = |event: Event<'_>| effects.extend(supervisor.handle(event, now_ns));
        self.processes[id.0].advance(ready, now_ns, &mut tell);
        self.carry_out(effects);
        let took_ns = cpu_ns().saturating_sub(began_ns);
        let now_ns = self.now_ns();
        self.processes[id.0].took(took_ns, now_ns);
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
        for id in self.supervisor.domain_ids() {
            self.hear(id, ready);
            let now_ns = self.now_ns();
            let supervisor = &mut self.supervisor;
            let mut effects = Vec::new();
            let mut tell = |event: Event<'_>| effects.extend(supervisor.handle(event, now_ns));
            let end = self.processes[id.0].take_end(ready, &mut tell);
            self.carry_out(effects);
            if let Some((end, usage)) = end {
                self.tell(Event::DomainMeasured(id, usage));
                self.tell(Event::DomainEnded(id, end));
            }
        }
        if self.supervisor.deadline_ns().is_some_and(|deadline_ns| deadline_ns <= self.now_ns()) {
            self.tell(Event::Time);
        }
        Ok(())
    }

    fn wait_for<'a>(&'a self, entries: &mut Vec<PollFd<'a>>) {
        let now_ns = self.now_ns();
        self.processes.iter().for_each(|process| process.wait_for(now_ns, entries));
    }

    fn time_left(&self) -> Option<Duration> {
        let now_ns = self.now_ns();
        let due_ns = self.processes.iter().filter_map(|process| process.due_ns(now_ns));
        let deadline_ns = due_ns.chain(self.supervisor.deadline_ns()).min()?;
        Some(Duration::from_nanos(deadline_ns.saturating_sub(now_ns)))
    }

    fn outcome(&self) -> Option<Outcome> {
        (self.supervisor.phase() == Phase::Ended).then(|| self.supervisor.outcome())
    }

    fn ask(&mut self, request: Request) -> Answer {
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

/// What this thread has had of CPUs (clock_gettime(2)).
fn cpu_ns() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// A domain as its root is to know it.
pub fn domain(wanted: &manifest::Domain) -> DomainSetup {
    DomainSetup {
        name: wanted.name.to_string(),
        memory_quota_bytes: wanted.memory.0,
        programs: wanted.programs.iter().map(program).collect(),
        children: wanted.children().numbers() as usize,
    }
}

fn program(wanted: &manifest::Program) -> ProgramSetup {
    ProgramSetup {
        name: wanted.name.to_string(),
        instances: wanted.instances,
        restart: match wanted.restart {
            Restart::Never => supervisor::Restart::Never,
            Restart::OnFailure => supervisor::Restart::OnFailure,
            Restart::Always => supervisor::Restart::Always,
        },
    }
}
