//! A root and a domain in which native code says whatever it likes, as fast as it can: others are heard, and users answered.

use control::*;
use link::{Frame, Process};
use supervisor::*;

/// Of the hostile domain; the other has one.
const PROCESSES: u32 = 1000;
/// What a root hears of a domain before others have their turn.
const TURN_BYTES: usize = 16 << 10;
/// What a line and what a frame costs a root, as the simulated clock has it.
const EACH_NS: u64 = 500;
const SECOND_NS: u64 = 1_000_000_000;

/// A root with two domains, on a clock of its own.
struct Root {
    supervisor: Supervisor,
    links: [DomainLink; 2],
    attention: [Attention; 2],
    now_ns: u64,
    /// What was heard of each, in bytes, and how long that took.
    heard: [(u64, u64); 2],
}

fn setup() -> Setup {
    let domain = |name: &str, instances| DomainSetup {
        name: name.into(),
        memory_quota_bytes: 64 << 20,
        children: 0,
        programs: vec![ProgramSetup { name: "p".into(), instances, restart: Restart::Never }],
    };
    Setup {
        name: "s".into(),
        platform: Platform::Machine,
        started_unix_ns: None,
        log_bytes_max: 256 << 10,
        domains: vec![domain("hostile", PROCESSES), domain("polite", 1)],
    }
}

fn bytes(process: Process, frame: Frame<'_>) -> Vec<u8> {
    [frame.head(process).unwrap().as_ref(), frame.body()].concat()
}

impl Root {
    /// All run.
    fn new() -> Self {
        let setup = setup();
        let link = |(index, domain): (usize, &DomainSetup)| {
            DomainLink::new(DomainId(index), domain.processes(), domain.children)
        };
        let links: Vec<DomainLink> = setup.domains.iter().enumerate().map(link).collect();
        let mut root = Self {
            links: links.try_into().unwrap(),
            supervisor: Supervisor::new(setup),
            attention: [Attention::new(2); 2],
            now_ns: 0,
            heard: [(0, 0); 2],
        };
        root.tell(Event::Begin);
        for index in 0..2 {
            root.hear(index, &bytes(Process::NONE, Frame::Hello));
            root.tell(Event::DomainStarted { domain: DomainId(index), process_id: None });
            let mut started = Vec::new();
            while root.links[index].is_busy() {
                let count = root.links[index].unsent().len();
                root.links[index].sent(count);
            }
            for number in 0..root.supervisor.system().domains[index].programs.len() as u32 {
                started.extend(bytes(Process(number), Frame::Started));
            }
            root.hear(index, &started);
        }
        root.heard = [(0, 0); 2];
        root
    }

    fn tell(&mut self, event: Event<'_>) {
        let effects = self.supervisor.handle(event, self.now_ns);
        self.carry_out(effects);
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::StartProcess(id, program) => self.links[id.domain.0].start(id, program),
                Effect::EndProcess(id) => self.links[id.domain.0].end(id),
                Effect::Measure(id) => self.links[id.0].measure(),
                _ => {}
            }
        }
    }

    /// Hears this of a domain, however long it takes.
    fn hear(&mut self, index: usize, bytes: &[u8]) {
        let (supervisor, now_ns) = (&mut self.supervisor, self.now_ns);
        let mut effects = Vec::new();
        let mut events = 0;
        let mut tell = |event: Event<'_>| {
            events += 1;
            effects.extend(supervisor.handle(event, now_ns));
        };
        self.links[index].take(bytes, &mut tell).unwrap();
        self.carry_out(effects);
        let lines = bytes.iter().filter(|byte| **byte == b'\n').count() as u64;
        let took_ns = (events + lines) * EACH_NS;
        self.now_ns += took_ns;
        self.attention[index].took(took_ns, self.now_ns);
        self.heard[index].0 += bytes.len() as u64;
        self.heard[index].1 += took_ns;
    }

    /// Hears a domain that has always more to say, if its time has come.
    fn turn(&mut self, index: usize, endless: &mut impl Iterator<Item = u8>) {
        if self.attention[index].due_ns() <= self.now_ns {
            let turn: Vec<u8> = endless.take(TURN_BYTES).collect();
            self.hear(index, &turn);
        }
    }

    /// Waits until it may hear a domain again.
    fn wait(&mut self, index: usize) {
        self.now_ns = self.now_ns.max(self.attention[index].due_ns());
    }
}

/// Frames without end.
fn endless(process: Process, frame: Frame<'_>) -> impl Iterator<Item = u8> + use<> {
    bytes(process, frame).into_iter().cycle()
}

/// Neither what belongs to nobody nor what belongs to a process takes more than its part of the root's time; what another domain says
/// meanwhile is heard at once, and so is what a user wants.
#[test]
fn a_domain_that_never_stops_has_its_part_of_the_roots_time() {
    let lines = "\n".repeat(link::PAYLOAD_BYTES_MAX);
    for (process, frame) in [
        (Process::NONE, Frame::Log(&lines)),
        (Process(7), Frame::Stdout(lines.as_bytes())),
        (Process(7), Frame::Throttled),
    ] {
        let mut root = Root::new();
        let mut noise = endless(process, frame);
        let began_ns = root.now_ns;
        let mut answered = 0;
        while root.now_ns < began_ns + 5 * SECOND_NS {
            root.turn(0, &mut noise);
            let before_ns = root.now_ns;
            assert!(root.attention[1].due_ns() <= root.now_ns, "the other one waits");
            root.hear(1, &bytes(Process(0), Frame::Stdout(b"here\n")));
            let which = Selector::Named("polite".into());
            let request = Request::Log { which, from: From::Last(1), follow: Follow::No };
            let (mut answer, _) = root.supervisor.ask(request, root.now_ns);
            let Progress::Reply(Reply::Log(piece)) = root.supervisor.next_reply(&mut answer) else {
                panic!("no answer")
            };
            assert_eq!(piece.lines[0].bytes, b"here");
            assert!(root.now_ns - before_ns < 3 * EACH_NS);
            answered += 1;
            root.wait(0);
        }
        let time_ns = root.now_ns - began_ns;
        // An eighth, and what it had not used of a second.
        assert!(
            root.heard[0].1 <= (time_ns + SECOND_NS) / 8 + TURN_BYTES as u64 * EACH_NS,
            "{:?}",
            root.heard
        );
        assert!(root.heard[0].0 > 0 && answered > 20);
    }
}

/// What a library OS says concerns all of its processes, and is kept once: a line costs the same whether there is one or there are a thousand.
#[test]
fn what_a_domain_says_is_kept_once() {
    let mut root = Root::new();
    let logs = |root: &Root| -> Vec<LogSize> {
        root.supervisor.system().domains[0].programs.iter().map(|program| program.log).collect()
    };
    let before = logs(&root);
    assert_eq!(before.len(), PROCESSES as usize);
    let lines = "\n".repeat(link::PAYLOAD_BYTES_MAX);
    root.hear(0, &bytes(Process::NONE, Frame::Log(&lines)));
    assert_eq!(logs(&root), before, "it is no process's");
    let which = Selector::Named("hostile/p/500".into());
    let request = Request::Log { which, from: From::Start, follow: Follow::No };
    let (mut answer, _) = root.supervisor.ask(request, root.now_ns);
    let mut told = 0;
    while let Progress::Reply(reply) = root.supervisor.next_reply(&mut answer) {
        if let Reply::Log(piece) = reply
            && piece.program.program.is_empty()
        {
            told += piece.lines_dropped + piece.lines.len() as u64;
        }
    }
    assert_eq!(told, link::PAYLOAD_BYTES_MAX as u64);
}

/// When a domain breaks with all that lived in it, its last words are told of each, and not looked up by the name of each.
#[test]
fn a_thousand_ends_at_once_are_told_with_their_last_words() {
    let mut root = Root::new();
    root.links[0].take_last_words(b"gone\n", &mut |event| _ = root.supervisor.handle(event, root.now_ns));
    let end = End::Broken { how: "SIGSEGV".into() };
    let effects = root.supervisor.handle(Event::DomainEnded(DomainId(0), end), root.now_ns);
    let notices = effects.into_iter().filter_map(|effect| match effect {
        Effect::Notice(id, notice) => Some((id, notice)),
        _ => None,
    });
    let mut told = 0;
    for (id, notice) in notices {
        assert_eq!(root.supervisor.news(id, notice, root.now_ns).last_words, [b"gone"]);
        told += 1;
    }
    assert_eq!(told, PROCESSES);
}
