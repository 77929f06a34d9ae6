//! What requests are answered.

use control::*;
use supervisor::*;

fn supervisor(domains: &[(&str, &str, Restart)]) -> Supervisor {
    let domain = |(name, program, restart): &(&str, &str, Restart)| DomainSetup {
        name: (*name).into(),
        memory_quota_bytes: 64 << 20,
        program: (*program).into(),
        restart: *restart,
    };
    Supervisor::new(Setup {
        name: "s".into(),
        platform: Platform::Hosted,
        started_unix_ns: Some(5),
        log_bytes_max: 1 << 20,
        domains: domains.iter().map(domain).collect(),
    })
}

/// All are running.
fn running(domains: &[(&str, &str, Restart)]) -> Supervisor {
    let mut supervisor = supervisor(domains);
    supervisor.handle(Event::Begin, 0);
    for id in supervisor.ids() {
        supervisor.handle(Event::Started { domain: id, process_id: None }, 0);
    }
    supervisor
}

fn three() -> Supervisor {
    running(&[
        ("alice", "web", Restart::Never),
        ("bob", "web", Restart::Always),
        ("web", "job", Restart::OnFailure),
    ])
}

fn replies(supervisor: &mut Supervisor, request: Request) -> (Vec<Reply>, Progress) {
    let (mut answer, _) = supervisor.ask(request, 1);
    let mut replies = Vec::new();
    loop {
        match supervisor.next_reply(&mut answer) {
            Progress::Reply(reply) => replies.push(reply),
            end => return (replies, end),
        }
    }
}

fn write(supervisor: &mut Supervisor, domain: usize, text: &str) {
    let domain = DomainId(domain);
    supervisor.handle(Event::Wrote { domain, stream: Stream::Output, bytes: text.as_bytes() }, 1);
}

/// What a log says, without the system's own lines.
fn log(supervisor: &mut Supervisor, which: Selector, from: From) -> Vec<String> {
    let (replies, end) = replies(supervisor, Request::Log { which, from, follow: Follow::No });
    assert_eq!(end, Progress::Done);
    assert!(matches!(replies.last(), Some(Reply::LogEnd(_))), "{replies:?}");
    let pieces = replies.iter().filter_map(|reply| match reply {
        Reply::Log(piece) => Some(piece),
        _ => None,
    });
    let lines = pieces.flat_map(|piece| piece.lines.iter().map(move |line| (piece, line)));
    let text = |(piece, line): (&LogPiece, &Line)| {
        format!("{} {}", piece.program, String::from_utf8_lossy(&line.bytes))
    };
    lines.filter(|(_, line)| line.stream != Stream::Event).map(text).collect()
}

fn named(name: &str) -> Selector {
    Selector::Named(name.into())
}

#[test]
fn names_select() {
    let mut supervisor = three();
    (0..3).for_each(|id| write(&mut supervisor, id, &format!("{id}\n")));
    let mut select = |name| log(&mut supervisor, named(name), From::Start);
    assert_eq!(select("alice"), ["alice/web 0"]);
    assert_eq!(select("bob/web"), ["bob/web 1"]);
    assert_eq!(select("job"), ["web/job 2"]);
    assert_eq!(select("web"), ["web/job 2"], "a domain's name goes before a program's");
    assert_eq!(log(&mut supervisor, Selector::All, From::Start), ["alice/web 0", "bob/web 1", "web/job 2"]);
}

#[test]
fn other_names_are_refused_with_those_that_are_there() {
    let mut supervisor = running(&[("a", "web", Restart::Never), ("b", "web", Restart::Never)]);
    let name = |domain: &str| ProgramName { domain: domain.into(), program: "web".into() };
    let all = vec![name("a"), name("b")];
    let mut refusal = |asked: &str| {
        let request = Request::Kill { which: named(asked), how: How::AtOnce };
        let (replies, end) = replies(&mut supervisor, request);
        assert_eq!(end, Progress::Done);
        replies
    };
    let ambiguous = Refusal::Ambiguous { asked: "web".into(), matching: all.clone() };
    assert_eq!(refusal("web"), [Reply::Refused(ambiguous)]);
    for asked in ["c", "", "/", "a/", "a/x", "a/web/x", "A"] {
        let unknown = Refusal::NoSuchName { asked: asked.into(), known: all.clone() };
        assert_eq!(refusal(asked), [Reply::Refused(unknown)]);
    }
}

#[test]
fn lines_of_several_programs_are_in_their_order() {
    let mut supervisor = three();
    write(&mut supervisor, 0, "1\n2\n");
    write(&mut supervisor, 1, "3\n");
    write(&mut supervisor, 0, "4\n");
    let all = ["alice/web 1", "alice/web 2", "bob/web 3", "alice/web 4"];
    assert_eq!(log(&mut supervisor, Selector::All, From::Start), all);
    assert_eq!(log(&mut supervisor, Selector::All, From::Last(3)), all[1..]);
    assert_eq!(log(&mut supervisor, Selector::All, From::Last(0)), [""; 0]);
    assert_eq!(log(&mut supervisor, Selector::All, From::Last(u64::MAX)), all);
    assert_eq!(log(&mut supervisor, named("alice"), From::Last(2)), [all[1], all[3]]);
}

#[test]
fn a_kill_is_answered_when_the_program_has_ended() {
    let mut supervisor = three();
    let request = || Request::Kill { which: named("bob"), how: How::Gracefully };
    let (mut answer, effects) = supervisor.ask(request(), 10);
    let notice = |how| Effect::Notice(DomainId(1), Notice::Stopping(how));
    assert_eq!(effects, [notice(How::Gracefully), Effect::End(DomainId(1), How::Gracefully)]);
    assert_eq!(supervisor.next_reply(&mut answer), Progress::NotYet);
    let (_, effects) = supervisor.ask(request(), 20);
    assert_eq!(effects, [], "it was told");
    assert_eq!(supervisor.deadline_ns(), Some(10 + GRACE_NS));
    let effects = supervisor.handle(Event::Time, 10 + GRACE_NS);
    let overdue = Effect::Notice(DomainId(1), Notice::Overdue);
    assert_eq!(effects, [overdue, Effect::End(DomainId(1), How::AtOnce)]);
    assert_eq!(supervisor.next_reply(&mut answer), Progress::NotYet);
    supervisor.handle(Event::Ended(DomainId(1), End::Broken { how: "SIGKILL".into() }), 99);
    let killed = Reply::Killed(vec![supervisor.name(DomainId(1))]);
    assert_eq!(supervisor.next_reply(&mut answer), Progress::Reply(killed));
    assert_eq!(supervisor.next_reply(&mut answer), Progress::Done);
    assert_eq!(supervisor.deadline_ns(), None, "always is not for the killed");
    assert_eq!(supervisor.system(99).domains[1].programs[0].state, State::Stopped);
}

#[test]
fn a_shutdown_is_answered_when_all_have_ended() {
    let mut supervisor = three();
    supervisor.handle(Event::Ended(DomainId(2), End::Exited { status: 1 }), 1);
    assert!(matches!(supervisor.system(1).domains[2].programs[0].state, State::Backoff { .. }));
    let (mut answer, effects) = supervisor.ask(Request::Shutdown { how: How::AtOnce }, 2);
    let ended: Vec<_> = effects.iter().filter(|effect| matches!(effect, Effect::End(..))).collect();
    assert_eq!(ended, [&Effect::End(DomainId(0), How::AtOnce), &Effect::End(DomainId(1), How::AtOnce)]);
    assert_eq!(supervisor.phase(), Phase::Ending);
    for id in [0, 1] {
        assert_eq!(supervisor.next_reply(&mut answer), Progress::NotYet);
        supervisor.handle(Event::Ended(DomainId(id), End::Broken { how: "SIGKILL".into() }), 3);
    }
    assert_eq!(supervisor.next_reply(&mut answer), Progress::Reply(Reply::ShutDown));
    assert_eq!((supervisor.phase(), supervisor.outcome()), (Phase::Ended, Outcome::Succeeded));
}

#[test]
fn a_program_that_failed_for_good_is_the_systems_failure() {
    let mut supervisor = running(&[("a", "p", Restart::Never), ("b", "p", Restart::OnFailure)]);
    supervisor.handle(Event::Ended(DomainId(1), End::Exited { status: 0 }), 1);
    assert_eq!(supervisor.phase(), Phase::Up);
    supervisor.handle(Event::Ended(DomainId(0), End::Exited { status: 3 }), 1);
    assert_eq!((supervisor.phase(), supervisor.outcome()), (Phase::Ended, Outcome::Failed));
}

#[test]
fn accounts_add_up_over_runs() {
    let mut supervisor = running(&[("a", "p", Restart::Always)]);
    let usage = |used_bytes, cpu_ns, faults| Usage {
        memory: Memory { used_bytes, peak_bytes: 0 },
        cpu_ns,
        counters: Counters { faults, ..Counters::default() },
    };
    supervisor.handle(Event::Measured(DomainId(0), usage(100, 5, Some(1))), 1);
    supervisor.handle(Event::Measured(DomainId(0), usage(50, 7, Some(2))), 2);
    supervisor.handle(Event::Ended(DomainId(0), End::Exited { status: 0 }), 3);
    supervisor.handle(Event::Measured(DomainId(0), usage(9999, 9999, None)), 4);
    supervisor.handle(Event::Time, 3 + FIRST_NS);
    supervisor.handle(Event::Started { domain: DomainId(0), process_id: None }, 4 + FIRST_NS);
    supervisor.handle(Event::Measured(DomainId(0), usage(30, 1, Some(5))), 5 + FIRST_NS);
    let domain = supervisor.system(9 + FIRST_NS).domains.remove(0);
    assert_eq!(domain.usage.memory, Memory { used_bytes: 30, peak_bytes: 100 });
    assert_eq!((domain.usage.cpu_ns, domain.usage.counters.faults), (8, Some(7)));
    assert_eq!(domain.programs[0].restarts, 1);
    assert_eq!(domain.programs[0].last_end, Some(End::Exited { status: 0 }));
}

/// What `up` prints and the log keeps.
#[test]
fn notices_read_as_sentences() {
    let ended = |end, next| Notice::Ended { end, next }.to_string();
    let exit = |status| End::Exited { status };
    assert_eq!(ended(exit(0), Next::Nothing), "exit status 0");
    let restart = Next::Restart { after_ns: 100_000_000 };
    assert_eq!(ended(exit(3), restart), "exit status 3; starts again in 100 ms");
    let restart = Next::Restart { after_ns: MAX_NS };
    let broken = End::Broken { how: "SIGSEGV".into() };
    assert_eq!(ended(broken, restart), "broken: SIGSEGV; starts again in 60.0 s");
    assert_eq!(ended(exit(130), Next::Stopped), "stopped: exit status 130");
    assert_eq!(Notice::Started { restarts: 0 }.to_string(), "started");
}

#[test]
fn what_runs_on_linux_is_not_traced() {
    let refused = (vec![Reply::Refused(Refusal::NotOurKernel)], Progress::Done);
    assert_eq!(replies(&mut three(), Request::Trace), refused);
}
