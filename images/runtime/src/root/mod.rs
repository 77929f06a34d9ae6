//! A system's root: the same executable, when the boot module describes a system. It runs no program and sets no engine up. It starts
//! the system's domains and the processes in them, hears what they write and how they end, and talks with the process on the host
//! that has the clients. What is done when is the `supervisor`'s to say, as on Linux.

pub mod child;
mod host;
mod memory;
mod trace;

use crate::machine::{clock, hardware_samples};
use crate::report::Report;
use crate::wire::VirtioConsole;
use crate::{gate, report};
use abi::{BootInfo, CpuRecord, Request};
use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use bundle::{Seed, Start};
use child::{Child, Ground, Heard};
use control::{Cpu, End, How, Phase, Request as Asked};
use host::Host;
use runtime::System;
use supervisor::relay::{FromRoot, Power, Relay, ToRoot};
use supervisor::{
    Attention, DomainId, DomainLink, DomainSetup, Effect, Event, News, ProgramSetup, Restart, Setup,
    Supervisor,
};
use trace::Tracer;
use wasi::entropy::Generator;
use wasi::provider::Entropy;

/// The event of the console.
const HOST_EVENT: u32 = 0;
/// The events of domains: several may share one.
const CHILD_EVENTS: core::ops::Range<u32> = 1..64;
/// What waits to be told. What happens beyond that is not.
const NEWS_MAX: usize = 1024;

/// Runs the system to its end, and for as long as the host has clients that look at it.
pub fn run(
    system: &'static System,
    boot: &'static BootInfo,
    description: bundle::System,
) -> Result<Report, Report> {
    clock::start(boot, None);
    let failed = |reason: String| Report::not_started("the system", reason);
    let mut root = Root::new(system, boot, description).map_err(failed)?;
    root.run().map_err(failed)?;
    let status = if root.is_balanced { 0 } else { report::STATUS_FAILED };
    Ok(Report::exited("the system", status))
}

struct Root {
    ground: Ground,
    description: bundle::System,
    entropy: Generator,
    host: Host,
    relay: Relay,
    supervisor: Supervisor,
    /// By [`DomainId`]: those that run.
    children: Vec<Option<Child>>,
    /// What each has had of the root's time, in all its runs.
    attention: Vec<Attention>,
    news: VecDeque<News>,
    /// The host knows that everything has ended.
    told_end: bool,
    /// What the root holds without any.
    capabilities: u64,
    /// While somebody traces.
    tracer: Option<Tracer>,
    /// Everything that ended domains had has come back.
    is_balanced: bool,
}

impl Root {
    fn new(
        system: &'static System,
        boot: &'static BootInfo,
        description: bundle::System,
    ) -> Result<Self, String> {
        let console = VirtioConsole::find(system, boot, HOST_EVENT)?.ok_or("it has no virtio console")?;
        let entropy = Generator::new(Some(&description.seed.0), &hardware_samples())
            .map_err(|error| format!("{error}"))?;
        let setup = Setup {
            name: description.name.clone(),
            platform: control::Platform::Machine,
            started_unix_ns: Some(clock::epoch_ns()),
            log_bytes_max: description.log_bytes_max as usize,
            domains: description.domains.iter().map(setup).collect(),
        };
        let ground = Ground { system, boot };
        Ok(Self {
            capabilities: ground.capabilities(),
            ground,
            entropy,
            host: Host::new(console),
            relay: Relay::default(),
            supervisor: Supervisor::new(setup),
            children: description.domains.iter().map(|_| None).collect(),
            attention: vec![Attention::new(description.domains.len()); description.domains.len()],
            description,
            news: VecDeque::new(),
            told_end: false,
            tracer: None,
            is_balanced: true,
        })
    }

    /// Until the host wants no more.
    fn run(&mut self) -> Result<(), String> {
        self.tell(Event::Begin);
        loop {
            self.hear_host()?;
            self.hear_children();
            if self.supervisor.deadline_ns().is_some_and(|deadline_ns| clock::monotonic_ns() >= deadline_ns) {
                self.tell(Event::Time);
            }
            let trace_ns = self.trace();
            self.say()?;
            if self.relay.power() == Power::Off {
                return Ok(());
            }
            let deadline_ns = self.supervisor.deadline_ns().unwrap_or(Request::NEVER);
            let deadline_ns = deadline_ns.min(trace_ns).min(self.hear_again_ns());
            let events = gate::wait(self.ground.system, deadline_ns);
            if events & 1 << HOST_EVENT != 0 {
                self.host.on_event()?;
            }
            for (index, child) in self.children.iter_mut().enumerate() {
                if let Some(child) = child.as_mut().filter(|_| events & 1 << event_of(index) != 0) {
                    child.has_called = true;
                }
            }
        }
    }

    /// Traces while somebody wants to know, and tells who waits. Answers when it is to be called again at the latest.
    fn trace(&mut self) -> u64 {
        if !self.relay.is_tracing() {
            self.tracer = None;
            return Request::NEVER;
        }
        let tracer = match self.tracer.take().map_or_else(|| Tracer::begin(&self.ground), Ok) {
            Ok(tracer) => self.tracer.insert(tracer),
            Err(why) => {
                self.relay.feed(|trace| trace.next = Some(Err(why.clone())));
                return Request::NEVER;
            }
        };
        for (index, child) in self.children.iter().enumerate() {
            if let Some(child) = child {
                tracer.know(child.number, index);
            }
        }
        let now_ns = clock::monotonic_ns();
        if now_ns < tracer.due_ns {
            return tracer.due_ns;
        }
        let still_waiting = self.relay.feed(|trace| tracer.fill(trace));
        tracer.due_ns = now_ns + trace::INTERVAL_NS;
        if still_waiting { tracer.due_ns } else { Request::NEVER }
    }

    fn hear_host(&mut self) -> Result<(), String> {
        while let Some(message) = self.host.hear()? {
            if let ToRoot::Ask { request: Asked::List, .. } = message {
                self.measure_cpus();
            }
            let effects = self.relay.take(message, &mut self.supervisor, clock::monotonic_ns());
            self.carry_out(effects);
        }
        Ok(())
    }

    /// Hears those that have called and whose time has come.
    fn hear_children(&mut self) {
        for id in self.supervisor.domain_ids() {
            self.hear_child(id);
        }
    }

    /// When the next of those is to be heard.
    fn hear_again_ns(&self) -> u64 {
        let children = self.children.iter().zip(&self.attention);
        let calling = children.filter(|(child, _)| child.as_ref().is_some_and(|child| child.has_called));
        calling.map(|(_, attention)| attention.due_ns()).min().unwrap_or(Request::NEVER)
    }

    fn hear_child(&mut self, id: DomainId) {
        let Some(child) = self.children[id.0].as_mut().filter(|child| child.has_called) else { return };
        let (supervisor, now_ns) = (&mut self.supervisor, clock::monotonic_ns());
        let system = self.ground.system;
        if self.attention[id.0].due_ns() > now_ns && !child.has_ended() {
            return;
        }
        let began_ns = system.cpu_time_ns();
        let mut effects = Vec::new();
        let mut tell = |event: Event<'_>| effects.extend(supervisor.handle(event, now_ns));
        let heard = child.hear(&mut tell);
        child.has_called = matches!(heard, Heard::Part);
        self.carry_out(effects);
        let took_ns = system.cpu_time_ns().saturating_sub(began_ns);
        self.attention[id.0].took(took_ns, clock::monotonic_ns());
        if let Heard::End(end) = heard {
            self.ended(id, end);
        }
    }

    /// A domain is over: what it had is taken back, and whether all of it came is looked at.
    fn ended(&mut self, id: DomainId, end: End) {
        let Some(child) = self.children[id.0].take() else { return };
        let usage = child.usage();
        let missing_bytes = child.take_back();
        let running = self.children.iter().flatten().count() as u64;
        let tracing = self.tracer.as_ref().map_or(0, Tracer::capabilities);
        let expected = self.capabilities + running * Child::CAPABILITIES + tracing;
        let extra = self.ground.capabilities().wrapping_sub(expected);
        if (missing_bytes, extra) != (0, 0) {
            self.is_balanced = false;
            let name = &self.description.domains[id.0].name;
            let lost = format!("selkis: {missing_bytes} bytes and {extra} capabilities of {name} are lost\n");
            gate::print(&lost);
        }
        if let Some(usage) = usage {
            self.tell(Event::DomainMeasured(id, usage));
        }
        self.tell(Event::DomainEnded(id, end));
    }

    /// Says what there is to say, as far as the host reads.
    fn say(&mut self) -> Result<(), String> {
        while self.host.flush()? {
            let news = self.news.pop_front().map(FromRoot::News);
            let next = news.or_else(|| self.relay.next(&self.supervisor));
            let is_over = self.supervisor.phase() == Phase::Ended && !self.told_end;
            let Some(message) = next.or_else(|| is_over.then(|| FromRoot::Ended(self.supervisor.outcome())))
            else {
                return Ok(());
            };
            self.told_end |= matches!(message, FromRoot::Ended(_));
            self.host.say(&message);
        }
        Ok(())
    }

    fn tell(&mut self, event: Event<'_>) {
        let effects = self.supervisor.handle(event, clock::monotonic_ns());
        self.carry_out(effects);
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::StartDomain(domain) => match self.start(domain) {
                    Ok(()) => self.tell(Event::DomainStarted { domain, process_id: None }),
                    Err(why) => self.tell(Event::DomainEnded(domain, End::NotStarted { why })),
                },
                Effect::EndDomain(id, how) => self.end(id, how),
                Effect::StartProcess(id, program) => self.say_to(id.domain, |link| link.start(id, program)),
                Effect::EndProcess(id) => self.say_to(id.domain, |link| link.end(id)),
                Effect::Measure(id) => self.measure(id),
                Effect::Notice(id, notice) => {
                    let news = self.supervisor.news(id, notice, clock::monotonic_ns());
                    if self.news.len() < NEWS_MAX {
                        self.news.push_back(news);
                    }
                }
            }
        }
    }

    fn start(&mut self, id: DomainId) -> Result<(), String> {
        let mut seed = Seed([0; 32]);
        self.entropy.fill(&mut seed.0).map_err(|error| format!("no random numbers: {error:?}"))?;
        let start = Start { epoch_ns: clock::epoch_ns(), seed };
        let (domain, image) = (&self.description.domains[id.0], &self.description.image);
        let link = DomainLink::new(id, setup(domain).processes(), domain.children as usize);
        let child = Child::start(&self.ground, domain, image, &start, event_of(id.0), link);
        self.children[id.0] = Some(child.map_err(child::explain)?);
        Ok(())
    }

    fn end(&mut self, id: DomainId, how: How) {
        match (&mut self.children[id.0], how) {
            (Some(_), How::Gracefully) => self.say_to(id, DomainLink::shut_down),
            (Some(child), How::AtOnce) => {
                let (supervisor, now_ns) = (&mut self.supervisor, clock::monotonic_ns());
                let mut effects = Vec::new();
                // What it had written by then is kept.
                child.hear_rest(&mut |event| effects.extend(supervisor.handle(event, now_ns)));
                self.ended(id, End::Broken { how: String::from("killed") });
                self.carry_out(effects);
            }
            (None, _) => {}
        }
    }

    /// Says something to a domain that runs.
    fn say_to(&mut self, id: DomainId, something: impl FnOnce(&mut DomainLink)) {
        let Some(child) = &mut self.children[id.0] else { return };
        something(&mut child.link);
        // If it cannot be told, it is looked at.
        child.has_called |= child.say().is_err();
    }

    fn measure(&mut self, id: DomainId) {
        self.say_to(id, DomainLink::measure);
        if let Some(usage) = self.children[id.0].as_ref().and_then(Child::usage) {
            self.tell(Event::DomainMeasured(id, usage));
        }
    }

    fn measure_cpus(&mut self) {
        let cpus = (0..).map_while(|number| self.ground.cpu(number)).map(cpu).collect();
        self.tell(Event::MeasuredCpus(cpus));
    }
}

/// The event of a domain, by its place.
fn event_of(index: usize) -> u32 {
    CHILD_EVENTS.start + index as u32 % CHILD_EVENTS.len() as u32
}

fn cpu(record: CpuRecord) -> Cpu {
    Cpu {
        run_ns: record.run_ns,
        idle_ns: record.now_ns.saturating_sub(record.run_ns),
        switches: record.domain_switches,
        interrupts: record.interrupts,
        traced: record.traced != 0,
    }
}

fn setup(domain: &bundle::system::Domain) -> DomainSetup {
    use bundle::system::Restart as Wanted;
    DomainSetup {
        name: domain.name.clone(),
        memory_quota_bytes: domain.memory_bytes,
        children: domain.children as usize,
        programs: domain
            .programs
            .iter()
            .map(|program| ProgramSetup {
                name: program.name.clone(),
                instances: program.instances,
                restart: match program.restart {
                    Wanted::Never => Restart::Never,
                    Wanted::OnFailure => Restart::OnFailure,
                    Wanted::Always => Restart::Always,
                },
            })
            .collect(),
    }
}
