//! Processes that others have started: what is heard, told and kept of them.

use control::*;
use supervisor::*;

const PARENT: ProcessId = of(0);
const FIRST: ProcessId = of(2);
const SECOND: ProcessId = of(3);

const fn of(number: u32) -> ProcessId {
    ProcessId { domain: DomainId(0), number }
}

/// A domain with two processes of its own, which both run, and room for two more.
fn supervisor() -> Supervisor {
    with_room(2)
}

/// The same with room for so many.
fn with_room(children: usize) -> Supervisor {
    let program = |(name, instances): &(&str, u32)| ProgramSetup {
        name: String::from(*name),
        instances: *instances,
        restart: Restart::Never,
    };
    let mut supervisor = Supervisor::new(Setup {
        name: "s".into(),
        platform: Platform::Hosted,
        started_unix_ns: None,
        log_bytes_max: 1 << 20,
        domains: vec![DomainSetup {
            name: "d".into(),
            memory_quota_bytes: 1 << 20,
            programs: [("parent", 1), ("worker", 0), ("other", 1)].iter().map(program).collect(),
            children,
        }],
    });
    supervisor.handle(Event::Begin, 0);
    supervisor.handle(Event::DomainStarted { domain: DomainId(0), process_id: None }, 0);
    for id in [of(0), of(1)] {
        supervisor.handle(Event::Started(id), 0);
    }
    supervisor
}

fn spawn(supervisor: &mut Supervisor, process: ProcessId) -> Vec<Effect> {
    supervisor.handle(Event::Spawned { process, program: 1, parent: 0 }, 1)
}

fn end(supervisor: &mut Supervisor, process: ProcessId, status: u8) -> Vec<Effect> {
    if status != 0 && status != 130 {
        let limits = Measure { used: 0, max: None };
        let limits = CrashLimits {
            memory_bytes: limits,
            host_bytes: limits,
            table_elements: limits,
            cpu_ns: limits,
            time_ns: limits,
            stack_bytes: limits,
            descriptors: limits,
            log_bytes: limits,
        };
        let crash = Crash { reason: "why".into(), backtrace: Vec::new(), depth: 0, limits };
        supervisor.handle(Event::Crashed(process, crash), 2);
    }
    supervisor.handle(Event::Ended(process, End::Exited { status }), 2)
}

/// The names that are listed, with their states.
fn listed(supervisor: &Supervisor) -> Vec<(String, State)> {
    let domain = supervisor.system().domains.remove(0);
    domain.programs.into_iter().map(|program| (program.name, program.state)).collect()
}

fn own() -> Vec<(String, State)> {
    vec![("parent".into(), State::Running), ("other".into(), State::Running)]
}

fn with(children: &[(&str, State)]) -> Vec<(String, State)> {
    own().into_iter().chain(children.iter().map(|(name, state)| (String::from(*name), *state))).collect()
}

/// All lines of a log.
fn log(supervisor: &mut Supervisor, which: &str) -> Vec<String> {
    let request =
        Request::Log { which: Selector::Named(which.into()), from: From::Start, follow: Follow::No };
    let (mut answer, _) = supervisor.ask(request, 3);
    let mut lines = Vec::new();
    while let Progress::Reply(reply) = supervisor.next_reply(&mut answer) {
        if let Reply::Log(piece) = reply {
            let text = |line: &Line| format!("{} {}", piece.program, String::from_utf8_lossy(&line.bytes));
            lines.extend(piece.lines.iter().map(text));
        }
    }
    lines
}

/// The names of those of whose end there is a report.
fn reports(supervisor: &mut Supervisor) -> Vec<String> {
    let (mut answer, _) = supervisor.ask(Request::Crashes { which: Selector::All }, 3);
    let mut names = Vec::new();
    while let Progress::Reply(Reply::Crash(report)) = supervisor.next_reply(&mut answer) {
        names.push(report.program.program);
    }
    names
}

#[test]
fn of_many_that_have_failed_the_newest_are_kept() {
    const ALL: u32 = 100;
    let mut supervisor = with_room(ALL as usize);
    for number in 2..2 + ALL {
        spawn(&mut supervisor, of(number));
    }
    // Those of higher numbers have failed first; who has its place again is not one of them.
    for number in (2..2 + ALL).rev() {
        end(&mut supervisor, of(number), 134);
        end(&mut supervisor, of(number), 134);
    }
    let kept =
        |numbers: std::ops::Range<u32>| numbers.map(|number| format!("worker/{number}")).collect::<Vec<_>>();
    assert_eq!(reports(&mut supervisor), kept(2..34));
    assert_eq!(listed(&supervisor).len(), 2 + 32);
    spawn(&mut supervisor, of(33));
    assert_eq!(reports(&mut supervisor), kept(2..33));
    spawn(&mut supervisor, of(40));
    end(&mut supervisor, of(40), 134);
    assert_eq!(reports(&mut supervisor), [kept(2..33), kept(40..41)].concat());
    spawn(&mut supervisor, of(41));
    // With their domain all of its processes fail.
    for number in 50..90 {
        spawn(&mut supervisor, of(number));
    }
    supervisor.handle(Event::DomainEnded(DomainId(0), End::Exited { status: 1 }), 4);
    let own = ["parent", "other"].map(String::from);
    assert_eq!(reports(&mut supervisor), [own.to_vec(), kept(58..90)].concat());
}

#[test]
fn a_child_is_seen_while_it_lives_and_when_it_has_failed() {
    let mut supervisor = supervisor();
    assert_eq!(spawn(&mut supervisor, FIRST), []);
    assert_eq!(spawn(&mut supervisor, SECOND), []);
    supervisor.handle(Event::Wrote { process: FIRST, stream: Stream::Output, bytes: b"words\n" }, 1);
    let both = [("worker/2", State::Running), ("worker/3", State::Running)];
    assert_eq!(listed(&supervisor), with(&both));
    // Of its end nothing is told to those who look on, and nothing follows.
    assert_eq!(end(&mut supervisor, FIRST, 0), []);
    assert_eq!(end(&mut supervisor, SECOND, 134), []);
    assert_eq!(listed(&supervisor), with(&[("worker/3", State::Ended)]));
    // Who asks for what is not there is told what is to be seen.
    let nobody = Request::Kill { which: Selector::Named("nobody".into()), how: How::Gracefully };
    let (mut refused, _) = supervisor.ask(nobody, 3);
    let Progress::Reply(Reply::Refused(Refusal::NoSuchName { known, .. })) =
        supervisor.next_reply(&mut refused)
    else {
        panic!("not refused")
    };
    assert_eq!(
        known.iter().map(|name| &name.program[..]).collect::<Vec<_>>(),
        ["parent", "other", "worker/3"]
    );
    let lines = ["started by parent", "words", "exit status 0"].map(|line| format!("d/worker/2 {line}"));
    assert_eq!(log(&mut supervisor, "worker/2"), lines);
    let (mut crashes, _) = supervisor.ask(Request::Crashes { which: Selector::All }, 3);
    let Progress::Reply(Reply::Crash(report)) = supervisor.next_reply(&mut crashes) else {
        panic!("no report")
    };
    assert_eq!(report.program.to_string(), "d/worker/3");
    assert_eq!(supervisor.next_reply(&mut crashes), Progress::Reply(Reply::CrashEnd));
    // It was for its parent to hear.
    for id in [of(0), of(1)] {
        end(&mut supervisor, id, 0);
    }
    supervisor.handle(Event::DomainEnded(DomainId(0), End::Exited { status: 0 }), 4);
    assert_eq!((supervisor.phase(), supervisor.outcome()), (Phase::Ended, Outcome::Succeeded));
}

#[test]
fn what_its_parent_ends_has_not_failed() {
    let mut supervisor = supervisor();
    spawn(&mut supervisor, FIRST);
    end(&mut supervisor, FIRST, 130);
    assert_eq!(listed(&supervisor), own());
    // What its domain's end ends has.
    spawn(&mut supervisor, FIRST);
    supervisor.handle(Event::DomainEnded(DomainId(0), End::Broken { how: "SIGKILL".into() }), 3);
    assert_eq!(listed(&supervisor)[2], ("worker/2".into(), State::Ended));
}

#[test]
fn a_user_ends_a_child_or_all_of_a_program() {
    let mut supervisor = supervisor();
    spawn(&mut supervisor, FIRST);
    spawn(&mut supervisor, SECOND);
    let kill = |name: &str| Request::Kill { which: Selector::Named(name.into()), how: How::Gracefully };
    let (mut answer, effects) = supervisor.ask(kill("worker/2"), 2);
    assert_eq!(effects, [Effect::EndProcess(FIRST)]);
    assert_eq!(supervisor.next_reply(&mut answer), Progress::NotYet);
    end(&mut supervisor, FIRST, 130);
    // Another has its place already.
    spawn(&mut supervisor, FIRST);
    let killed = ProgramName { domain: "d".into(), program: "worker/2".into() };
    assert_eq!(supervisor.next_reply(&mut answer), Progress::Reply(Reply::Killed(vec![killed])));
    let (_, effects) = supervisor.ask(kill("d/worker"), 3);
    assert_eq!(effects, [Effect::EndProcess(FIRST), Effect::EndProcess(SECOND)]);
    // One that does not end takes its domain with it.
    let deadline_ns = supervisor.deadline_ns().unwrap();
    assert_eq!(deadline_ns, 3 + GRACE_NS);
    let effects = supervisor.handle(Event::Time, deadline_ns);
    assert_eq!(effects, [Effect::EndDomain(DomainId(0), How::AtOnce)]);
}

#[test]
fn a_log_is_one_childs_and_not_of_the_next_in_its_place() {
    let mut supervisor = supervisor();
    spawn(&mut supervisor, FIRST);
    let follow =
        Request::Log { which: Selector::Named("worker/2".into()), from: From::Start, follow: Follow::Yes };
    let (mut answer, _) = supervisor.ask(follow, 1);
    assert!(matches!(supervisor.next_reply(&mut answer), Progress::Reply(Reply::Log(_))));
    assert_eq!(supervisor.next_reply(&mut answer), Progress::NotYet);
    end(&mut supervisor, FIRST, 0);
    spawn(&mut supervisor, FIRST);
    supervisor.handle(Event::Wrote { process: FIRST, stream: Stream::Output, bytes: b"new\n" }, 2);
    assert_eq!(supervisor.next_reply(&mut answer), Progress::Reply(Reply::LogEnd(LogEnd::Ended)));
    let lines = ["started by parent", "new"].map(|line| format!("d/worker/2 {line}"));
    assert_eq!(log(&mut supervisor, "worker/2"), lines);
}

#[test]
fn what_cannot_be_changes_nothing() {
    let mut supervisor = supervisor();
    let spawned = |number, program| Event::Spawned { process: of(number), program, parent: 0 };
    // A process of the manifest, a number with a gap before it, a program that is not there, a domain that is not there.
    for event in [spawned(1, 1), spawned(3, 1), spawned(2, 9)] {
        supervisor.handle(event, 1);
    }
    supervisor.handle(
        Event::Spawned { process: ProcessId { domain: DomainId(7), number: 2 }, program: 1, parent: 0 },
        1,
    );
    assert_eq!(listed(&supervisor), own());
    for id in [FIRST, SECOND, FIRST, of(4)] {
        spawn(&mut supervisor, id);
    }
    let both = [("worker/2", State::Running), ("worker/3", State::Running)];
    assert_eq!(listed(&supervisor), with(&both), "no more than there is room for, and none twice");
    let parent = supervisor.name(PARENT).to_string();
    assert_eq!(parent, "d/parent");
}
