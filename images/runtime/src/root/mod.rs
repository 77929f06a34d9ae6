//! A system's root: the same executable, when the boot module describes a system. It runs no program and sets no engine up. It starts
//! a domain for each program of the system, hears what they write and how they end, and talks with the process on the host
//! that has the clients. What is done when is the `supervisor`'s to say, as on Linux.

mod child;
mod host;
mod memory;

use crate::machine::wire::VirtioConsole;
use crate::machine::{clock, hardware_samples};
use crate::report::Report;
use crate::{gate, report};
use abi::{BootInfo, CpuRecord, Request};
use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use bundle::{Seed, Start};
use child::{Child, Ground, Heard};
use control::{Cpu, End, How, Phase, Request as Asked};
use host::Host;
use link::Cause;
use runtime::System;
use supervisor::relay::{FromRoot, Power, Relay, ToRoot};
use supervisor::{DomainId, DomainSetup, Effect, Event, News, Restart, Setup, Supervisor};
use wasi::entropy::Generator;
use wasi::provider::Entropy;

/// The event of the console.
const HOST_EVENT: u32 = 0;
/// The events of domains: several may share one.
const CHILD_EVENTS: core::ops::Range<u32> = 1..64;
/// For each program, what its log may take.
const LOG_BYTES_MAX: usize = 256 << 10;
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
    Ok(Report { status, cause: Cause::Exited, message: String::new() })
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
    news: VecDeque<News>,
    /// The host knows that everything has ended.
    told_end: bool,
    /// What the root holds without any.
    capabilities: u64,
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
            log_bytes_max: LOG_BYTES_MAX,
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
            description,
            news: VecDeque::new(),
            told_end: false,
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
            self.say()?;
            if self.relay.power() == Power::Off {
                return Ok(());
            }
            let has_called = self.children.iter().flatten().any(|child| child.has_called);
            let deadline_ns =
                if has_called { 0 } else { self.supervisor.deadline_ns().unwrap_or(Request::NEVER) };
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

    fn hear_host(&mut self) -> Result<(), String> {
        while let Some(message) = self.host.hear()? {
            if let ToRoot::Ask { request: Asked::List, .. } = message {
                self.measure();
            }
            let effects = self.relay.take(message, &mut self.supervisor, clock::monotonic_ns());
            self.carry_out(effects);
        }
        Ok(())
    }

    /// Hears those that have called.
    fn hear_children(&mut self) {
        for id in self.supervisor.ids() {
            let Some(child) = self.children[id.0].as_mut().filter(|child| child.has_called) else { continue };
            let (supervisor, now_ns) = (&mut self.supervisor, clock::monotonic_ns());
            let mut write = |stream, bytes: &[u8]| {
                supervisor.handle(Event::Wrote { domain: id, stream, bytes }, now_ns);
            };
            match child.hear(&mut write) {
                Heard::All => child.has_called = false,
                Heard::Part => {}
                Heard::End(end) => self.ended(id, end),
            }
        }
    }

    /// A domain is over: what it had is taken back, and whether all of it came is looked at.
    fn ended(&mut self, id: DomainId, end: End) {
        let Some(child) = self.children[id.0].take() else { return };
        let usage = child.usage();
        let missing_bytes = child.take_back();
        let running = self.children.iter().flatten().count() as u64;
        let expected = self.capabilities + running * Child::CAPABILITIES;
        let extra = self.ground.capabilities().wrapping_sub(expected);
        if (missing_bytes, extra) != (0, 0) {
            self.is_balanced = false;
            let name = self.supervisor.name(id);
            let lost = format!("selkis: {missing_bytes} bytes and {extra} capabilities of {name} are lost\n");
            gate::print(&lost);
        }
        if let Some(usage) = usage {
            self.tell(Event::Measured(id, usage));
        }
        self.tell(Event::Ended(id, end));
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
                Effect::Start(id) => match self.start(id) {
                    Ok(()) => self.tell(Event::Started { domain: id, process_id: None }),
                    Err(why) => self.tell(Event::Ended(id, End::NotStarted { why })),
                },
                Effect::End(id, how) => self.end(id, how),
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
        let child = Child::start(&self.ground, domain, image, &start, event_of(id.0));
        self.children[id.0] = Some(child.map_err(child::explain)?);
        Ok(())
    }

    fn end(&mut self, id: DomainId, how: How) {
        match (&mut self.children[id.0], how) {
            (Some(child), How::Gracefully) => child.cancel(),
            (Some(child), How::AtOnce) => {
                let (supervisor, now_ns) = (&mut self.supervisor, clock::monotonic_ns());
                // What it had written by then is kept.
                child.hear(&mut |stream, bytes| {
                    supervisor.handle(Event::Wrote { domain: id, stream, bytes }, now_ns);
                });
                self.ended(id, End::Broken { how: String::from("killed") });
            }
            (None, _) => {}
        }
    }

    fn measure(&mut self) {
        for id in self.supervisor.ids() {
            if let Some(usage) = self.children[id.0].as_ref().and_then(Child::usage) {
                self.tell(Event::Measured(id, usage));
            }
        }
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
    }
}

fn setup(domain: &bundle::system::Domain) -> DomainSetup {
    use bundle::system::Restart as Wanted;
    let program = &domain.programs[0];
    DomainSetup {
        name: domain.name.clone(),
        memory_quota_bytes: domain.memory_bytes,
        program: program.name.clone(),
        restart: match program.restart {
            Wanted::Never => Restart::Never,
            Wanted::OnFailure => Restart::OnFailure,
            Wanted::Always => Restart::Always,
        },
    }
}
