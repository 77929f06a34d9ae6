//! Random events against a model of domains and processes: what the supervisor wants can be done, and what it says is so.

use control::*;
use proptest::prelude::*;
use std::collections::BTreeMap;
use supervisor::*;

const LOG_BYTES_MAX: usize = 2000;
/// Of each domain: its programs' instances and policies.
const DOMAINS: [&[(u32, Restart)]; 4] = [
    &[(1, Restart::Never)],
    &[(1, Restart::Always)],
    &[(1, Restart::OnFailure), (2, Restart::Always)],
    &[(1, Restart::Never), (1, Restart::OnFailure)],
];

/// What happens next. Numbers choose among what is there.
#[derive(Clone, Debug)]
enum Step {
    Pass { ms: u64 },
    ToDeadline,
    StartDomain(usize),
    EndDomain(usize, End),
    EndAsWanted(usize),
    Start(usize),
    End(usize, End),
    Write(usize, Stream, Vec<u8>),
    Measure(usize, u64),
    Kill(usize, How),
    KillDomain(usize, How),
    Follow(Vec<usize>),
    Read(usize),
    Nonsense(usize),
}

fn how() -> impl Strategy<Value = How> {
    prop::sample::select(vec![How::Gracefully, How::AtOnce])
}

fn end() -> impl Strategy<Value = End> {
    prop_oneof![
        prop::sample::select(vec![0, 0, 1, 134]).prop_map(|status| End::Exited { status }),
        Just(End::Broken { how: "SIGKILL".into() }),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let number = || 0..8usize;
    let text = prop::collection::vec(prop::sample::select(b"ab\n\xff".to_vec()), 0..90);
    let stream = prop::sample::select(vec![Stream::Output, Stream::Error]);
    prop_oneof![
        2 => (0..15_000u64).prop_map(|ms| Step::Pass { ms }),
        3 => Just(Step::ToDeadline),
        5 => number().prop_map(Step::StartDomain),
        1 => (number(), end()).prop_map(|(number, end)| Step::EndDomain(number, end)),
        4 => number().prop_map(Step::EndAsWanted),
        6 => number().prop_map(Step::Start),
        5 => (number(), end()).prop_map(|(number, end)| Step::End(number, end)),
        5 => (number(), stream, text).prop_map(|(number, stream, text)| Step::Write(number, stream, text)),
        1 => (number(), 0..1000u64).prop_map(|(number, bytes)| Step::Measure(number, bytes)),
        1 => (number(), how()).prop_map(|(number, how)| Step::Kill(number, how)),
        1 => (number(), how()).prop_map(|(number, how)| Step::KillDomain(number, how)),
        1 => prop::collection::vec(number(), 1..3).prop_map(Step::Follow),
        5 => number().prop_map(Step::Read),
        1 => number().prop_map(Step::Nonsense),
    ]
}

/// A domain or a process that there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Alive {
    Starting,
    Running,
}

/// A domain, as the model has it.
#[derive(Clone, Debug, Default)]
struct Domain {
    alive: Option<Alive>,
    /// When it was told to end.
    told_ns: Option<u64>,
    is_forced: bool,
}

/// A process, as the model has it.
#[derive(Clone, Debug, Default)]
struct Process {
    alive: Option<Alive>,
    /// Since when it is alive.
    since_ns: u64,
    last_wait_ns: u64,
    /// When and how a user wanted it to end for the first time, and how in the end.
    killed: Option<(u64, How)>,
    /// Its domain was told in this run.
    is_told: bool,
}

/// Someone who follows logs: what has been heard of each process.
struct Follower {
    answer: Answer,
    heard: BTreeMap<ProgramName, u64>,
    /// When the last line came.
    last_ns: u64,
    end: Option<LogEnd>,
}

struct World {
    supervisor: Supervisor,
    now_ns: u64,
    domains: Vec<Domain>,
    processes: BTreeMap<ProcessId, Process>,
    followers: Vec<Follower>,
    kills: Vec<(Answer, Vec<ProcessId>)>,
}

fn setup() -> Setup {
    let program = |(number, (instances, restart)): (usize, &(u32, Restart))| ProgramSetup {
        name: format!("p{number}"),
        instances: *instances,
        restart: *restart,
    };
    let domain = |(number, programs): (usize, &&[(u32, Restart)])| DomainSetup {
        name: format!("d{number}"),
        memory_quota_bytes: 1 << 20,
        children: 0,
        programs: programs.iter().enumerate().map(program).collect(),
    };
    Setup {
        name: "s".into(),
        platform: Platform::Hosted,
        started_unix_ns: None,
        log_bytes_max: LOG_BYTES_MAX,
        domains: DOMAINS.iter().enumerate().map(domain).collect(),
    }
}

impl World {
    fn new() -> Self {
        let supervisor = Supervisor::new(setup());
        let mut world = Self {
            now_ns: 0,
            domains: vec![Domain::default(); DOMAINS.len()],
            processes: supervisor.ids().map(|id| (id, Process::default())).collect(),
            supervisor,
            followers: Vec::new(),
            kills: Vec::new(),
        };
        assert_eq!(world.processes.len(), 7);
        world.tell(Event::Begin);
        world
    }

    fn tell(&mut self, event: Event<'_>) {
        let effects = self.supervisor.handle(event, self.now_ns);
        self.carry_out(effects);
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::StartDomain(id) => {
                    let domain = &mut self.domains[id.0];
                    assert_eq!(domain.alive, None, "started while it is alive");
                    *domain = Domain { alive: Some(Alive::Starting), ..Domain::default() };
                }
                Effect::EndDomain(id, How::Gracefully) => {
                    let domain = &mut self.domains[id.0];
                    assert!(domain.alive.is_some() && domain.told_ns.is_none() && !domain.is_forced);
                    domain.told_ns = Some(self.now_ns);
                    assert!(self.of(id).all(|(_, process)| process.alive.is_none()), "somebody is at work");
                }
                Effect::EndDomain(id, How::AtOnce) => self.force(id),
                Effect::StartProcess(id, program) => {
                    let domain = &self.domains[id.domain.0];
                    let is_ready = domain.alive == Some(Alive::Running) && domain.told_ns.is_none();
                    assert!(is_ready && !domain.is_forced, "there is no domain for it");
                    let name = self.supervisor.name(id).program;
                    assert_eq!(name.split('/').next(), Some(&*format!("p{program}")));
                    let process = self.processes.get_mut(&id).unwrap();
                    assert_eq!((process.alive, process.killed), (None, None));
                    *process =
                        Process { alive: Some(Alive::Starting), since_ns: self.now_ns, ..process.clone() };
                }
                Effect::EndProcess(id) => {
                    assert!(!self.domains[id.domain.0].is_forced);
                    let process = self.processes.get_mut(&id).unwrap();
                    assert!(process.alive.is_some() && process.killed.is_some(), "nobody wants that");
                    assert!(!std::mem::replace(&mut process.is_told, true), "told twice");
                }
                Effect::Measure(id) => assert!(self.domains[id.0].alive.is_some()),
                Effect::Notice(id, notice) => self.hear(id, &notice),
            }
        }
        self.check();
    }

    /// Only what does not end otherwise is ended by force, or what is to end at once.
    fn force(&mut self, id: DomainId) {
        let now_ns = self.now_ns;
        let is_overdue = |since_ns: u64| now_ns >= since_ns + GRACE_NS;
        let living: Vec<&Process> =
            self.of(id).map(|(_, process)| process).filter(|process| process.alive.is_some()).collect();
        let is_stuck =
            living.iter().any(|process| process.killed.is_some_and(|(since_ns, _)| is_overdue(since_ns)));
        let all_at_once = living.iter().all(|process| matches!(process.killed, Some((_, How::AtOnce))))
            && !living.is_empty();
        let domain = &self.domains[id.0];
        assert!(domain.alive.is_some() && !domain.is_forced);
        let is_late = domain.told_ns.is_some_and(is_overdue);
        assert!(is_stuck || all_at_once || is_late, "{domain:?} {living:?}");
        self.domains[id.0].is_forced = true;
    }

    fn hear(&mut self, id: ProcessId, notice: &Notice) {
        let process = self.processes.get_mut(&id).unwrap();
        match notice {
            Notice::Ended { next: Next::Restart { after_ns }, .. } => {
                // Waits grow within a series, up to the most, and begin anew after a stable run.
                let expected = match self.now_ns - process.since_ns >= STABLE_NS || process.last_wait_ns == 0
                {
                    true => FIRST_NS,
                    false => (2 * process.last_wait_ns).min(MAX_NS),
                };
                assert_eq!(*after_ns, expected);
                process.last_wait_ns = *after_ns;
            }
            Notice::Overdue => {
                let (killed_ns, _) = process.killed.expect("overdue, and was never told");
                assert!(self.now_ns >= killed_ns + GRACE_NS);
            }
            _ => {}
        }
    }

    fn of(&self, id: DomainId) -> impl Iterator<Item = (&ProcessId, &Process)> {
        self.processes.iter().filter(move |(process, _)| process.domain == id)
    }

    fn program(&self, id: ProcessId) -> Program {
        self.supervisor.system().domains[id.domain.0].programs[id.number as usize].clone()
    }

    /// What holds at all times.
    fn check(&self) {
        let system = self.supervisor.system();
        let mut is_over = self.domains.iter().all(|domain| domain.alive.is_none());
        for (id, process) in &self.processes {
            let program = &system.domains[id.domain.0].programs[id.number as usize];
            let domain = &self.domains[id.domain.0];
            let says_alive = matches!(program.state, State::Starting | State::Running | State::Stopping);
            match process.alive {
                Some(_) => assert!(says_alive, "{program:?}"),
                None if says_alive => {
                    assert_eq!(program.state, State::Starting, "{program:?}");
                    let is_on_its_way = domain.alive == Some(Alive::Starting) || domain.is_forced;
                    assert!(is_on_its_way, "nobody starts {program:?} in {domain:?}");
                }
                None => {}
            }
            assert!(program.usage.memory.peak_bytes >= program.usage.memory.used_bytes);
            assert!(process.alive.is_some() || program.usage.memory.used_bytes == 0, "{program:?}");
            if let State::Backoff { until_ns } = program.state {
                assert_eq!(process.killed, None);
                assert!(self.supervisor.deadline_ns().is_some_and(|deadline_ns| deadline_ns <= until_ns));
            }
            is_over &= matches!(program.state, State::Ended | State::Stopped);
        }
        for (index, domain) in system.domains.iter().enumerate() {
            let alive = self.domains[index].alive;
            let process_id = (alive == Some(Alive::Running)).then_some(index as u32);
            assert_eq!(domain.process_id, process_id, "{domain:?}");
            assert!(domain.usage.memory.peak_bytes >= domain.usage.memory.used_bytes);
            assert!(alive.is_some() || domain.usage.memory.used_bytes == 0, "{domain:?}");
        }
        assert_eq!(system.phase == Phase::Ended, is_over);
    }

    fn id(&self, number: usize) -> ProcessId {
        *self.processes.keys().nth(number % self.processes.len()).unwrap()
    }

    fn step(&mut self, step: Step) {
        let count = self.domains.len();
        match step {
            Step::Pass { ms } => self.now_ns += ms * 1_000_000,
            Step::ToDeadline => {
                let Some(deadline_ns) = self.supervisor.deadline_ns() else { return };
                self.now_ns = self.now_ns.max(deadline_ns);
                self.tell(Event::Time);
                let next_ns = self.supervisor.deadline_ns().unwrap_or(u64::MAX);
                assert!(next_ns > self.now_ns, "time came and nothing moved");
            }
            Step::StartDomain(number) => self.start_domain(DomainId(number % count)),
            Step::EndDomain(number, end) => self.end_domain(DomainId(number % count), end),
            Step::EndAsWanted(number) => {
                let domain = &self.domains[number % count];
                if domain.told_ns.is_some() || domain.is_forced {
                    self.end_domain(DomainId(number % count), End::Exited { status: 0 });
                }
            }
            Step::Start(number) => self.start(self.id(number)),
            Step::End(number, end) => self.end(self.id(number), end),
            Step::Write(number, stream, bytes) => {
                let process = self.id(number);
                if self.processes[&process].alive.is_some() {
                    self.tell(Event::Wrote { process, stream, bytes: &bytes });
                }
                self.tell(Event::DomainWrote { domain: process.domain, bytes: &bytes });
            }
            Step::Measure(number, used_bytes) => {
                let memory = Memory { used_bytes, peak_bytes: 0 };
                let usage = Usage { memory, cpu_ns: used_bytes, ..Usage::default() };
                self.tell(Event::DomainMeasured(DomainId(number % count), usage));
                let usage =
                    ProcessUsage { memory, cpu_ns: used_bytes, switches: 1, ..ProcessUsage::default() };
                self.tell(Event::Measured(self.id(number), usage));
            }
            Step::Kill(number, how) => {
                let id = self.id(number);
                self.kill(self.supervisor.name(id).to_string(), vec![id], how);
            }
            Step::KillDomain(number, how) => {
                let id = DomainId(number % count);
                let ids = self.of(id).map(|(id, _)| *id).collect();
                self.kill(format!("d{}", id.0), ids, how);
            }
            Step::Follow(numbers) => self.follow(&numbers),
            Step::Read(number) => self.read(number),
            Step::Nonsense(number) => self.nonsense(number),
        }
    }

    /// Events that cannot be change nothing.
    fn nonsense(&mut self, number: usize) {
        let before = self.supervisor.system();
        let id = DomainId(number % (self.domains.len() + 1));
        if self.domains.get(id.0).is_none_or(|domain| domain.alive.is_none()) {
            self.tell(Event::DomainStarted { domain: id, process_id: Some(1) });
            self.tell(Event::DomainEnded(id, End::Exited { status: 0 }));
        }
        let process = ProcessId { domain: id, number: number as u32 };
        if self.processes.get(&process).is_none_or(|process| process.alive.is_none()) {
            self.tell(Event::Started(process));
            self.tell(Event::Ended(process, End::Exited { status: 0 }));
        }
        self.tell(Event::Begin);
        assert_eq!(self.supervisor.system(), System { uptime_ns: self.now_ns, ..before });
    }

    fn start_domain(&mut self, domain: DomainId) {
        if self.domains[domain.0].alive == Some(Alive::Starting) {
            self.domains[domain.0].alive = Some(Alive::Running);
            self.tell(Event::DomainStarted { domain, process_id: Some(domain.0 as u32) });
        }
    }

    fn end_domain(&mut self, id: DomainId, end: End) {
        let now_ns = self.now_ns;
        let Some(alive) = self.domains[id.0].alive.take() else { return };
        for (_, process) in self.processes.iter_mut().filter(|(process, _)| process.domain == id) {
            match process.alive.take() {
                Some(_) => process.is_told = false,
                // Those that waited for it have run for no time.
                None => process.since_ns = now_ns,
            }
        }
        let end = match alive {
            Alive::Running => end,
            Alive::Starting => End::NotStarted { why: "no reason".into() },
        };
        self.tell(Event::DomainEnded(id, end));
    }

    fn start(&mut self, id: ProcessId) {
        let process = self.processes.get_mut(&id).unwrap();
        if process.alive == Some(Alive::Starting) {
            (process.alive, process.since_ns) = (Some(Alive::Running), self.now_ns);
            self.tell(Event::Started(id));
        }
    }

    fn end(&mut self, id: ProcessId, end: End) {
        let process = self.processes.get_mut(&id).unwrap();
        if process.alive.take().is_some() {
            process.is_told = false;
            self.tell(Event::Ended(id, end));
        }
    }

    fn kill(&mut self, named: String, ids: Vec<ProcessId>, how: How) {
        let is_over = |id: &ProcessId| matches!(self.program(*id).state, State::Ended | State::Stopped);
        let left: Vec<ProcessId> = ids.into_iter().filter(|id| !is_over(id)).collect();
        for id in &left {
            let process = self.processes.get_mut(id).unwrap();
            let (since_ns, before) = process.killed.unwrap_or((self.now_ns, how));
            let how = if before == How::AtOnce { before } else { how };
            process.killed = Some((since_ns, how));
        }
        let request = Request::Kill { which: Selector::Named(named), how };
        let (mut answer, effects) = self.supervisor.ask(request, self.now_ns);
        self.carry_out(effects);
        if left.is_empty() {
            let progress = self.supervisor.next_reply(&mut answer);
            let is_refused = matches!(progress, Progress::Reply(Reply::Refused(Refusal::NotRunning(_))));
            assert!(is_refused, "{progress:?}");
        } else {
            self.kills.push((answer, left));
        }
    }

    fn follow(&mut self, numbers: &[usize]) {
        let which = match numbers {
            [number] => Selector::Named(self.supervisor.name(self.id(*number)).to_string()),
            _ => Selector::All,
        };
        let request = Request::Log { which, from: From::Start, follow: Follow::Yes };
        let (answer, effects) = self.supervisor.ask(request, self.now_ns);
        assert_eq!(effects, []);
        self.followers.push(Follower { answer, heard: BTreeMap::new(), last_ns: 0, end: None });
    }

    fn read(&mut self, number: usize) {
        let count = self.followers.len().max(1);
        if let Some(follower) = self.followers.get_mut(number % count) {
            follower.read(&self.supervisor);
        }
    }

    /// Everything ends, and everybody who waits hears of it.
    fn finish(mut self) {
        for process in self.processes.values_mut() {
            process.killed.get_or_insert((self.now_ns, How::Gracefully));
        }
        self.tell(Event::Shutdown(How::Gracefully));
        while let Some(deadline_ns) = self.supervisor.deadline_ns() {
            self.now_ns = self.now_ns.max(deadline_ns);
            self.tell(Event::Time);
        }
        for id in self.supervisor.domain_ids() {
            assert!(self.domains[id.0].alive.is_none() || self.domains[id.0].is_forced);
            self.end_domain(id, End::Broken { how: "SIGKILL".into() });
        }
        assert_eq!((self.supervisor.phase(), self.supervisor.deadline_ns()), (Phase::Ended, None));
        for (mut answer, ids) in self.kills {
            let names: Vec<ProgramName> = ids.into_iter().map(|id| self.supervisor.name(id)).collect();
            assert_eq!(self.supervisor.next_reply(&mut answer), Progress::Reply(Reply::Killed(names)));
            assert_eq!(self.supervisor.next_reply(&mut answer), Progress::Done);
        }
        for mut follower in self.followers {
            while follower.read(&self.supervisor) != Progress::Done {}
            assert_eq!(follower.end, Some(LogEnd::Ended));
            for id in self.supervisor.ids() {
                let name = self.supervisor.name(id);
                let system = self.supervisor.system();
                let size = system.domains[id.domain.0].programs[id.number as usize].log;
                if let Some(heard) = follower.heard.get(&name) {
                    assert_eq!(*heard, size.lines, "{name}: lines heard or counted as dropped");
                }
            }
        }
    }
}

impl Follower {
    fn read(&mut self, supervisor: &Supervisor) -> Progress {
        let progress = supervisor.next_reply(&mut self.answer);
        match &progress {
            Progress::Reply(Reply::Log(piece)) => {
                assert!(piece.lines_dropped > 0 || !piece.lines.is_empty(), "nothing is said");
                *self.heard.entry(piece.program.clone()).or_default() +=
                    piece.lines_dropped + piece.lines.len() as u64;
                for line in &piece.lines {
                    assert!(line.at_ns >= self.last_ns, "in the order in which they were written");
                    assert!(line.bytes.len() <= LINE_BYTES_MAX && !line.bytes.contains(&b'\n'));
                    self.last_ns = line.at_ns;
                }
            }
            Progress::Reply(Reply::LogEnd(end)) => self.end = Some(*end),
            Progress::Reply(other) => panic!("{other:?}"),
            Progress::NotYet | Progress::Done => {}
        }
        progress
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    #[test]
    fn whatever_happens(steps in prop::collection::vec(step(), 0..400)) {
        let mut world = World::new();
        for step in steps {
            world.step(step);
        }
        world.finish();
    }
}
