//! Random events against a model of processes: what the supervisor wants can be done, and what it says is so.

use control::*;
use proptest::prelude::*;
use std::collections::BTreeMap;
use supervisor::*;

const LOG_BYTES_MAX: usize = 2000;
const POLICIES: [Restart; 4] = [Restart::Never, Restart::OnFailure, Restart::Always, Restart::Always];

/// What happens next. Numbers choose among what is there.
#[derive(Clone, Debug)]
enum Step {
    Pass { ms: u64 },
    ToDeadline,
    Start(usize),
    End(usize, End),
    Write(usize, Stream, Vec<u8>),
    Measure(usize, u64),
    Kill(usize, How),
    Follow(Vec<usize>),
    Read(usize),
    Nonsense(usize),
}

fn how() -> impl Strategy<Value = How> {
    prop::sample::select(vec![How::Gracefully, How::AtOnce])
}

fn step() -> impl Strategy<Value = Step> {
    let number = || 0..8usize;
    let end = prop_oneof![
        prop::sample::select(vec![0, 0, 1, 134]).prop_map(|status| End::Exited { status }),
        Just(End::Broken { how: "SIGKILL".into() }),
    ];
    let text = prop::collection::vec(prop::sample::select(b"ab\n\xff".to_vec()), 0..90);
    let stream = prop::sample::select(vec![Stream::Output, Stream::Error]);
    prop_oneof![
        2 => (0..15_000u64).prop_map(|ms| Step::Pass { ms }),
        3 => Just(Step::ToDeadline),
        5 => number().prop_map(Step::Start),
        5 => (number(), end).prop_map(|(number, end)| Step::End(number, end)),
        5 => (number(), stream, text).prop_map(|(number, stream, text)| Step::Write(number, stream, text)),
        1 => (number(), 0..1000u64).prop_map(|(number, bytes)| Step::Measure(number, bytes)),
        1 => (number(), how()).prop_map(|(number, how)| Step::Kill(number, how)),
        1 => prop::collection::vec(number(), 1..3).prop_map(Step::Follow),
        5 => number().prop_map(Step::Read),
        1 => number().prop_map(Step::Nonsense),
    ]
}

/// A process, as the model has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Process {
    Starting,
    Running,
}

/// Someone who follows logs: what has been heard of each program.
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
    processes: Vec<Option<Process>>,
    /// When each program was started last, and how long the last wait was.
    waits: Vec<(u64, u64)>,
    killed: Vec<bool>,
    /// Told to end gracefully, then.
    told_ns: Vec<Option<u64>>,
    followers: Vec<Follower>,
    kills: Vec<(Answer, Vec<DomainId>)>,
}

fn setup(policies: &[Restart]) -> Setup {
    let domain = |(index, restart): (usize, &Restart)| DomainSetup {
        name: format!("d{index}"),
        memory_quota_bytes: 1 << 20,
        program: "p".into(),
        restart: *restart,
    };
    Setup {
        name: "s".into(),
        platform: Platform::Hosted,
        started_unix_ns: None,
        log_bytes_max: LOG_BYTES_MAX,
        domains: policies.iter().enumerate().map(domain).collect(),
    }
}

impl World {
    fn new() -> Self {
        let count = POLICIES.len();
        let mut world = Self {
            supervisor: Supervisor::new(setup(&POLICIES)),
            now_ns: 0,
            processes: vec![None; count],
            waits: vec![(0, 0); count],
            killed: vec![false; count],
            told_ns: vec![None; count],
            followers: Vec::new(),
            kills: Vec::new(),
        };
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
                Effect::Start(id) => {
                    assert_eq!(self.processes[id.0], None, "started while it is alive");
                    assert!(!self.killed[id.0], "started after it was killed");
                    self.processes[id.0] = Some(Process::Starting);
                    self.waits[id.0].0 = self.now_ns;
                }
                Effect::End(id, how) => {
                    assert!(self.processes[id.0].is_some(), "nothing to end");
                    assert!(self.killed[id.0], "nobody wants that");
                    if how == How::Gracefully {
                        assert_eq!(self.told_ns[id.0], None, "told twice");
                        self.told_ns[id.0] = Some(self.now_ns);
                    }
                }
                Effect::Notice(id, Notice::Ended { next: Next::Restart { after_ns }, .. }) => {
                    self.check_wait(id, after_ns);
                }
                Effect::Notice(id, Notice::Overdue) => {
                    let told_ns = self.told_ns[id.0].expect("overdue, and was never told");
                    assert!(self.now_ns >= told_ns + GRACE_NS);
                }
                Effect::Notice(..) => {}
            }
        }
        self.check();
    }

    /// Waits grow within a series, up to the most, and begin anew after a stable run.
    fn check_wait(&mut self, id: DomainId, after_ns: u64) {
        let (started_ns, last_wait_ns) = self.waits[id.0];
        let expected = match self.now_ns - started_ns >= STABLE_NS || last_wait_ns == 0 {
            true => FIRST_NS,
            false => (2 * last_wait_ns).min(MAX_NS),
        };
        assert_eq!(after_ns, expected);
        self.waits[id.0].1 = after_ns;
    }

    /// What holds at all times.
    fn check(&mut self) {
        let system = self.supervisor.system(self.now_ns);
        for (index, domain) in system.domains.iter().enumerate() {
            let program = &domain.programs[0];
            let alive = self.processes[index].is_some();
            let says_alive = matches!(program.state, State::Starting | State::Running | State::Stopping);
            assert_eq!(alive, says_alive, "{program:?}");
            let process_id = matches!(self.processes[index], Some(Process::Running)).then_some(index as u32);
            assert_eq!(domain.process_id, process_id, "{program:?}");
            assert!(domain.usage.memory.peak_bytes >= domain.usage.memory.used_bytes);
            assert!(alive || domain.usage.memory.used_bytes == 0, "{domain:?}");
            if let State::Backoff { until_ns } = program.state {
                assert!(!self.killed[index]);
                assert!(self.supervisor.deadline_ns().is_some_and(|deadline_ns| deadline_ns <= until_ns));
            }
        }
        let all_over = system
            .domains
            .iter()
            .all(|domain| matches!(domain.programs[0].state, State::Ended | State::Stopped));
        assert_eq!(system.phase == Phase::Ended, all_over);
    }

    fn step(&mut self, step: Step) {
        let count = self.processes.len();
        match step {
            Step::Pass { ms } => self.now_ns += ms * 1_000_000,
            Step::ToDeadline => {
                let Some(deadline_ns) = self.supervisor.deadline_ns() else { return };
                self.now_ns = self.now_ns.max(deadline_ns);
                self.tell(Event::Time);
                let next_ns = self.supervisor.deadline_ns().unwrap_or(u64::MAX);
                assert!(next_ns > self.now_ns, "time came and nothing moved");
            }
            Step::Start(number) => {
                let id = number % count;
                if self.processes[id] == Some(Process::Starting) {
                    self.processes[id] = Some(Process::Running);
                    self.waits[id].0 = self.now_ns;
                    self.tell(Event::Started { domain: DomainId(id), process_id: Some(id as u32) });
                }
            }
            Step::End(number, end) => self.end(number % count, end),
            Step::Write(number, stream, bytes) => {
                let id = number % count;
                if self.processes[id].is_some() {
                    self.tell(Event::Wrote { domain: DomainId(id), stream, bytes: &bytes });
                }
            }
            Step::Measure(number, used_bytes) => {
                let memory = Memory { used_bytes, peak_bytes: 0 };
                let usage = Usage { memory, cpu_ns: used_bytes, ..Usage::default() };
                self.tell(Event::Measured(DomainId(number % count), usage));
            }
            Step::Kill(number, how) => self.kill(number % count, how),
            Step::Follow(numbers) => self.follow(&numbers),
            Step::Read(number) => self.read(number),
            // Events that cannot be change nothing.
            Step::Nonsense(number) => {
                let before = self.supervisor.system(self.now_ns);
                let id = DomainId(number % (count + 1));
                if self.processes.get(id.0).is_none_or(Option::is_none) {
                    self.tell(Event::Started { domain: id, process_id: Some(1) });
                    self.tell(Event::Ended(id, End::Exited { status: 0 }));
                    assert_eq!(self.supervisor.system(self.now_ns), before);
                }
                self.tell(Event::Begin);
            }
        }
    }

    fn end(&mut self, id: usize, end: End) {
        if let Some(process) = self.processes[id].take() {
            let end = match process {
                Process::Running => end,
                Process::Starting => End::NotStarted { why: "no reason".into() },
            };
            self.tell(Event::Ended(DomainId(id), end));
        }
    }

    fn kill(&mut self, id: usize, how: How) {
        let over = matches!(
            self.supervisor.system(self.now_ns).domains[id].programs[0].state,
            State::Ended | State::Stopped
        );
        self.killed[id] |= !over;
        let which = Selector::Named(format!("d{id}"));
        let (mut answer, effects) = self.supervisor.ask(Request::Kill { which, how }, self.now_ns);
        self.carry_out(effects);
        if over {
            let progress = self.supervisor.next_reply(&mut answer);
            assert!(
                matches!(progress, Progress::Reply(Reply::Refused(Refusal::NotRunning(_)))),
                "{progress:?}"
            );
        } else {
            self.kills.push((answer, vec![DomainId(id)]));
        }
    }

    fn follow(&mut self, numbers: &[usize]) {
        let count = self.processes.len();
        let which = match numbers {
            [number] => Selector::Named(format!("d{}/p", number % count)),
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
        self.killed.fill(true);
        self.tell(Event::Shutdown(How::Gracefully));
        while let Some(deadline_ns) = self.supervisor.deadline_ns() {
            self.now_ns = self.now_ns.max(deadline_ns);
            self.tell(Event::Time);
        }
        for id in 0..self.processes.len() {
            self.end(id, End::Broken { how: "SIGKILL".into() });
        }
        assert_eq!((self.supervisor.phase(), self.supervisor.deadline_ns()), (Phase::Ended, None));
        for (mut answer, ids) in self.kills {
            let names: Vec<ProgramName> = ids.into_iter().map(|id| self.supervisor.name(id)).collect();
            assert_eq!(self.supervisor.next_reply(&mut answer), Progress::Reply(Reply::Killed(names)));
            assert_eq!(self.supervisor.next_reply(&mut answer), Progress::Done);
        }
        let system = self.supervisor.system(self.now_ns);
        for mut follower in self.followers {
            while follower.read(&self.supervisor) != Progress::Done {}
            assert_eq!(follower.end, Some(LogEnd::Ended));
            for domain in &system.domains {
                let size = domain.programs[0].log;
                let name = ProgramName { domain: domain.name.clone(), program: "p".into() };
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
