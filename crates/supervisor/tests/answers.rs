//! What requests are answered.

use control::*;
use supervisor::*;

/// A domain's name, and the names, instances and policies of its programs.
type Domain<'a> = (&'a str, &'a [(&'a str, u32, Restart)]);

fn supervisor(domains: &[Domain<'_>]) -> Supervisor {
    let program = |(name, instances, restart): &(&str, u32, Restart)| ProgramSetup {
        name: (*name).into(),
        instances: *instances,
        restart: *restart,
    };
    let domain = |(name, programs): &Domain<'_>| DomainSetup {
        name: (*name).into(),
        memory_quota_bytes: 64 << 20,
        children: 0,
        programs: programs.iter().map(program).collect(),
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
fn running(domains: &[Domain<'_>]) -> Supervisor {
    let mut supervisor = supervisor(domains);
    supervisor.handle(Event::Begin, 0);
    for domain in supervisor.domain_ids() {
        supervisor.handle(Event::DomainStarted { domain, process_id: None }, 0);
    }
    let ids: Vec<ProcessId> = supervisor.ids().collect();
    for id in ids {
        supervisor.handle(Event::Started(id), 0);
    }
    supervisor
}

/// Three domains with a program each.
fn three() -> Supervisor {
    running(&[
        ("alice", &[("web", 1, Restart::Never)]),
        ("bob", &[("web", 1, Restart::Always)]),
        ("web", &[("job", 1, Restart::OnFailure)]),
    ])
}

/// One domain with three processes of two programs.
fn crowd() -> Supervisor {
    running(&[("alice", &[("web", 2, Restart::Always), ("job", 1, Restart::OnFailure)])])
}

/// The only process of a domain.
fn only(domain: usize) -> ProcessId {
    of(domain, 0)
}

fn of(domain: usize, number: u32) -> ProcessId {
    ProcessId { domain: DomainId(domain), number }
}

fn exit(status: u8) -> End {
    End::Exited { status }
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
    write_as(supervisor, only(domain), text);
}

fn write_as(supervisor: &mut Supervisor, process: ProcessId, text: &str) {
    supervisor.handle(Event::Wrote { process, stream: Stream::Output, bytes: text.as_bytes() }, 1);
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
    let mut supervisor =
        running(&[("a", &[("web", 1, Restart::Never)]), ("b", &[("web", 1, Restart::Never)])]);
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
fn instances_have_numbers_and_a_common_name() {
    let mut supervisor = crowd();
    (0..3).for_each(|number| write_as(&mut supervisor, of(0, number), &format!("{number}\n")));
    let mut select = |name| log(&mut supervisor, named(name), From::Start);
    assert_eq!(select("alice"), ["alice/web/0 0", "alice/web/1 1", "alice/job 2"]);
    assert_eq!(select("alice/web"), ["alice/web/0 0", "alice/web/1 1"]);
    assert_eq!(select("web"), ["alice/web/0 0", "alice/web/1 1"]);
    assert_eq!(select("web/1"), ["alice/web/1 1"]);
    assert_eq!(select("alice/job"), ["alice/job 2"]);
}

#[test]
fn a_kill_is_answered_when_the_process_has_ended() {
    let mut supervisor = crowd();
    let request = || Request::Kill { which: named("job"), how: How::Gracefully };
    let (mut answer, effects) = supervisor.ask(request(), 10);
    let stopping = Effect::Notice(of(0, 2), Notice::Stopping(How::Gracefully));
    assert_eq!(effects, [stopping, Effect::EndProcess(of(0, 2))]);
    assert_eq!(supervisor.next_reply(&mut answer), Progress::NotYet);
    let (_, effects) = supervisor.ask(request(), 20);
    assert_eq!(effects, [], "it was told");
    let effects = supervisor.handle(Event::Ended(of(0, 2), exit(130)), 30);
    let ended = Notice::Ended { end: exit(130), next: Next::Stopped };
    assert_eq!(effects, [Effect::Notice(of(0, 2), ended)], "the domain goes on");
    let killed = Reply::Killed(vec![supervisor.name(of(0, 2))]);
    assert_eq!(supervisor.next_reply(&mut answer), Progress::Reply(killed));
    assert_eq!(supervisor.next_reply(&mut answer), Progress::Done);
    assert_eq!(supervisor.deadline_ns(), None);
}

/// The domain of what does not end is ended, and what was not to end is started again, by its policy.
#[test]
fn who_does_not_end_is_ended_with_its_domain() {
    let mut supervisor = crowd();
    let (mut answer, _) = supervisor.ask(Request::Kill { which: named("web/0"), how: How::Gracefully }, 10);
    assert_eq!(supervisor.deadline_ns(), Some(10 + GRACE_NS));
    let now_ns = 10 + GRACE_NS;
    let effects = supervisor.handle(Event::Time, now_ns);
    let overdue = Effect::Notice(of(0, 0), Notice::Overdue);
    assert_eq!(effects, [overdue, Effect::EndDomain(DomainId(0), How::AtOnce)]);
    assert_eq!(supervisor.next_reply(&mut answer), Progress::NotYet);
    supervisor.handle(Event::DomainEnded(DomainId(0), End::Broken { how: "SIGKILL".into() }), now_ns);
    assert!(matches!(supervisor.next_reply(&mut answer), Progress::Reply(Reply::Killed(_))));
    let states = |supervisor: &Supervisor| -> Vec<State> {
        supervisor.system().domains[0].programs.iter().map(|program| program.state).collect()
    };
    let until_ns = now_ns + FIRST_NS;
    let backoff = State::Backoff { until_ns };
    assert_eq!(states(&supervisor), [State::Stopped, backoff, backoff]);
    let effects = supervisor.handle(Event::Time, until_ns);
    assert_eq!(effects, [Effect::StartDomain(DomainId(0))]);
    let effects = supervisor.handle(Event::DomainStarted { domain: DomainId(0), process_id: None }, until_ns);
    assert_eq!(effects, [Effect::StartProcess(of(0, 1), 0), Effect::StartProcess(of(0, 2), 1)]);
}

/// At once means by force if nobody else is hurt.
#[test]
fn a_domain_is_ended_at_once_if_all_in_it_are() {
    let mut supervisor = crowd();
    let mut ask = |name, how| supervisor.ask(Request::Kill { which: named(name), how }, 10).1;
    let notice = |number, how| Effect::Notice(of(0, number), Notice::Stopping(how));
    let effects = ask("web", How::AtOnce);
    let told = [0, 1].map(|number| Effect::EndProcess(of(0, number)));
    assert_eq!(effects[..2], [0, 1].map(|number| notice(number, How::AtOnce)));
    assert_eq!(effects[2..], told, "the job goes on");
    assert_eq!(ask("job", How::Gracefully), [notice(2, How::Gracefully), Effect::EndProcess(of(0, 2))]);
    let effects = ask("alice", How::AtOnce);
    assert_eq!(effects, [notice(2, How::AtOnce), Effect::EndDomain(DomainId(0), How::AtOnce)]);
}

#[test]
fn a_domain_ends_with_its_last_program_and_not_before() {
    let mut supervisor = crowd();
    let effects = supervisor.handle(Event::Ended(of(0, 0), exit(0)), 1);
    let next = Next::Restart { after_ns: FIRST_NS };
    assert_eq!(effects, [Effect::Notice(of(0, 0), Notice::Ended { end: exit(0), next })]);
    let effects = supervisor.handle(Event::Time, 1 + FIRST_NS);
    assert_eq!(effects, [Effect::StartProcess(of(0, 0), 0)], "in the same domain");
    supervisor.handle(Event::Ended(of(0, 2), exit(0)), 2 + FIRST_NS);
    supervisor.ask(Request::Kill { which: named("web/0"), how: How::Gracefully }, 2 + FIRST_NS);
    supervisor.handle(Event::Ended(of(0, 0), exit(130)), 3 + FIRST_NS);
    supervisor.handle(Event::Ended(of(0, 1), exit(0)), 4 + FIRST_NS);
    let (mut answer, effects) =
        supervisor.ask(Request::Kill { which: named("web/1"), how: How::Gracefully }, 9);
    let cancelled = Effect::Notice(of(0, 1), Notice::Cancelled);
    assert_eq!(effects, [cancelled, Effect::EndDomain(DomainId(0), How::Gracefully)]);
    assert!(matches!(supervisor.next_reply(&mut answer), Progress::Reply(Reply::Killed(_))));
    assert_eq!(supervisor.phase(), Phase::Up, "the domain is still there");
    assert_eq!(supervisor.deadline_ns(), Some(9 + GRACE_NS));
    let effects = supervisor.handle(Event::Time, 9 + GRACE_NS);
    assert_eq!(effects, [Effect::EndDomain(DomainId(0), How::AtOnce)], "it does not listen");
    assert_eq!(supervisor.handle(Event::DomainEnded(DomainId(0), exit(0)), 10 + GRACE_NS), []);
    assert_eq!((supervisor.phase(), supervisor.deadline_ns()), (Phase::Ended, None));
}

#[test]
fn a_domain_that_cannot_be_started_is_tried_again_after_a_while() {
    let mut supervisor = supervisor(&[("a", &[("p", 1, Restart::Always), ("q", 1, Restart::Never)])]);
    let start = [Effect::StartDomain(DomainId(0))];
    assert_eq!(supervisor.handle(Event::Begin, 0), start);
    let end = End::NotStarted { why: "no room".into() };
    let effects = supervisor.handle(Event::DomainEnded(DomainId(0), end.clone()), 0);
    let notice = |number, next| Effect::Notice(of(0, number), Notice::Ended { end: end.clone(), next });
    assert_eq!(effects, [notice(0, Next::Restart { after_ns: FIRST_NS }), notice(1, Next::Nothing)]);
    assert_eq!(supervisor.handle(Event::Time, FIRST_NS), start);
    let effects = supervisor.handle(Event::DomainEnded(DomainId(0), end.clone()), FIRST_NS);
    assert_eq!(effects, [notice(0, Next::Restart { after_ns: 2 * FIRST_NS })]);
}

/// Once, whoever of it is meant.
#[test]
fn what_a_domain_says_is_told_with_the_logs_of_those_in_it() {
    let mut supervisor =
        running(&[("alice", &[("web", 2, Restart::Always)]), ("bob", &[("job", 1, Restart::Never)])]);
    write_as(&mut supervisor, of(0, 0), "before\n");
    supervisor.handle(Event::DomainWrote { domain: DomainId(0), bytes: b"out of order\n" }, 2);
    write_as(&mut supervisor, of(0, 1), "after\n");
    let all = ["alice/web/0 before", "alice out of order", "alice/web/1 after"];
    assert_eq!(log(&mut supervisor, named("alice"), From::Start), all);
    assert_eq!(log(&mut supervisor, Selector::All, From::Last(2)), all[1..]);
    assert_eq!(log(&mut supervisor, named("web/1"), From::Start), all[1..]);
    assert_eq!(log(&mut supervisor, named("bob"), From::Start), [""; 0]);
    let mut supervisor = crowd();
    supervisor.handle(Event::Ended(of(0, 1), exit(0)), 1);
    supervisor.handle(Event::DomainWrote { domain: DomainId(0), bytes: b"out of order\n" }, 2);
    let end = End::Broken { how: "SIGKILL".into() };
    supervisor.handle(Event::DomainEnded(DomainId(0), end.clone()), 3);
    let ended = Notice::Ended { end, next: Next::Nothing };
    assert_eq!(supervisor.news(of(0, 2), ended, 3).last_words, [b"out of order"]);
}

#[test]
fn a_shutdown_is_answered_when_all_have_ended() {
    let mut supervisor = three();
    supervisor.handle(Event::Ended(only(2), exit(1)), 1);
    assert!(matches!(supervisor.system().domains[2].programs[0].state, State::Backoff { .. }));
    let (mut answer, effects) = supervisor.ask(Request::Shutdown { how: How::AtOnce }, 2);
    let ended: Vec<_> = effects.iter().filter(|effect| matches!(effect, Effect::EndDomain(..))).collect();
    let at_once = |domain| Effect::EndDomain(DomainId(domain), How::AtOnce);
    let gracefully = Effect::EndDomain(DomainId(2), How::Gracefully);
    assert_eq!(ended, [&at_once(0), &at_once(1), &gracefully, &at_once(2)]);
    assert_eq!(supervisor.phase(), Phase::Ending);
    for id in [0, 1, 2] {
        assert_eq!(supervisor.next_reply(&mut answer), Progress::NotYet);
        supervisor.handle(Event::DomainEnded(DomainId(id), End::Broken { how: "SIGKILL".into() }), 3);
    }
    assert_eq!(supervisor.next_reply(&mut answer), Progress::Reply(Reply::ShutDown));
    assert_eq!((supervisor.phase(), supervisor.outcome()), (Phase::Ended, Outcome::Succeeded));
}

#[test]
fn a_program_that_failed_for_good_is_the_systems_failure() {
    let mut supervisor =
        running(&[("a", &[("p", 1, Restart::Never)]), ("b", &[("p", 1, Restart::OnFailure)])]);
    supervisor.handle(Event::Ended(only(1), exit(0)), 1);
    supervisor.handle(Event::DomainEnded(DomainId(1), exit(0)), 1);
    assert_eq!(supervisor.phase(), Phase::Up);
    supervisor.handle(Event::Ended(only(0), exit(3)), 1);
    supervisor.handle(Event::DomainEnded(DomainId(0), exit(0)), 1);
    assert_eq!((supervisor.phase(), supervisor.outcome()), (Phase::Ended, Outcome::Failed));
}

#[test]
fn accounts_add_up_over_runs() {
    let mut supervisor = running(&[("a", &[("p", 1, Restart::Always)])]);
    let usage = |used_bytes, cpu_ns, faults| Usage {
        memory: Memory { used_bytes, peak_bytes: 0 },
        cpu_ns,
        counters: Counters { faults, ..Counters::default() },
    };
    let own = |used_bytes, cpu_ns, switches| ProcessUsage {
        memory: Memory { used_bytes, peak_bytes: 0 },
        cpu_ns,
        switches,
        ..ProcessUsage::default()
    };
    let domain = DomainId(0);
    supervisor.handle(Event::DomainMeasured(domain, usage(100, 5, Some(1))), 1);
    supervisor.handle(Event::DomainMeasured(domain, usage(50, 7, Some(2))), 2);
    supervisor.handle(Event::Measured(only(0), own(10, 4, 9)), 2);
    supervisor.handle(Event::DomainEnded(domain, exit(0)), 3);
    supervisor.handle(Event::DomainMeasured(domain, usage(9999, 9999, None)), 4);
    supervisor.handle(Event::Measured(only(0), own(9999, 9999, 9999)), 4);
    supervisor.handle(Event::Time, 3 + FIRST_NS);
    supervisor.handle(Event::DomainStarted { domain, process_id: None }, 4 + FIRST_NS);
    supervisor.handle(Event::Started(only(0)), 4 + FIRST_NS);
    supervisor.handle(Event::DomainMeasured(domain, usage(30, 1, Some(5))), 5 + FIRST_NS);
    supervisor.handle(Event::Measured(only(0), own(3, 1, 1)), 5 + FIRST_NS);
    let domain = supervisor.system().domains.remove(0);
    assert_eq!(domain.usage.memory, Memory { used_bytes: 30, peak_bytes: 100 });
    assert_eq!((domain.usage.cpu_ns, domain.usage.counters.faults), (8, Some(7)));
    let program = &domain.programs[0];
    assert_eq!(program.usage.memory, Memory { used_bytes: 3, peak_bytes: 10 });
    assert_eq!((program.usage.cpu_ns, program.usage.switches), (5, 10));
    let broken = End::Broken { how: "its domain ended with status 0".into() };
    assert_eq!((program.restarts, &program.last_end), (1, &Some(broken)));
}

/// What a library OS says of a process that fails.
fn crash(reason: &str) -> Crash {
    let measure = Measure { used: 1, max: None };
    Crash {
        reason: reason.into(),
        backtrace: Vec::new(),
        depth: 0,
        limits: CrashLimits {
            memory_bytes: measure,
            host_bytes: measure,
            table_elements: measure,
            cpu_ns: measure,
            time_ns: measure,
            stack_bytes: measure,
            descriptors: measure,
            log_bytes: measure,
        },
    }
}

fn crashes(supervisor: &mut Supervisor, which: Selector) -> Vec<CrashReport> {
    let (mut replies, end) = replies(supervisor, Request::Crashes { which });
    assert_eq!((replies.pop(), end), (Some(Reply::CrashEnd), Progress::Done));
    let report = |reply| match reply {
        Reply::Crash(report) => *report,
        other => panic!("{other:?}"),
    };
    replies.into_iter().map(report).collect()
}

/// Of each process the last, with what it wrote in that run; of what succeeds or a user ends, none.
#[test]
fn of_each_process_the_last_crash_is_kept() {
    let mut supervisor = crowd();
    assert_eq!(crashes(&mut supervisor, Selector::All), []);
    for (run, reason) in (0..).zip(["first", "second"]) {
        let at_ns = 10 + run * (FIRST_NS + 10);
        let wrote = Event::Wrote { process: of(0, 0), stream: Stream::Output, bytes: reason.as_bytes() };
        supervisor.handle(wrote, at_ns);
        supervisor.handle(Event::Throttled(of(0, 0)), at_ns);
        supervisor.handle(Event::Crashed(of(0, 0), crash(reason)), at_ns);
        supervisor.handle(Event::Ended(of(0, 0), exit(134)), at_ns);
        supervisor.handle(Event::Time, at_ns + FIRST_NS);
        supervisor.handle(Event::Started(of(0, 0)), at_ns + FIRST_NS);
    }
    let now_ns = 30 + 3 * FIRST_NS;
    supervisor.handle(Event::Ended(of(0, 2), exit(0)), now_ns);
    let reports = crashes(&mut supervisor, Selector::All);
    let [report] = &reports[..] else { panic!("{reports:?}") };
    assert_eq!((report.program.to_string(), &report.end), ("alice/web/0".into(), &exit(134)));
    assert_eq!((&report.crash, report.restarts), (&Some(crash("second")), 1));
    let lines: Vec<&[u8]> = report.last_lines.iter().map(|line| &line.bytes[..]).collect();
    assert_eq!(lines, [b"second"]);
    assert_eq!(crashes(&mut supervisor, Selector::Named("job".into())), []);
    // What is said of a process that a user ends is nothing to keep.
    supervisor.ask(Request::Kill { which: Selector::Named("web/1".into()), how: How::Gracefully }, now_ns);
    supervisor.handle(Event::Crashed(of(0, 1), crash("killed")), now_ns);
    supervisor.handle(Event::Ended(of(0, 1), exit(130)), now_ns);
    assert_eq!(crashes(&mut supervisor, Selector::All).len(), 1);
}

/// Then nobody says anything of the processes; but the domain had last words.
#[test]
fn a_broken_domain_is_a_crash_of_each_process_in_it() {
    let mut supervisor = crowd();
    supervisor.handle(Event::Wrote { process: of(0, 0), stream: Stream::Output, bytes: b"x\ny" }, 5);
    supervisor.handle(Event::DomainWrote { domain: DomainId(0), bytes: b"the library OS failed" }, 6);
    let broken = End::Broken { how: "SIGSEGV".into() };
    supervisor.handle(Event::DomainEnded(DomainId(0), broken.clone()), 7);
    let reports = crashes(&mut supervisor, Selector::All);
    assert_eq!(reports.len(), 3);
    for report in &reports {
        assert_eq!((&report.end, &report.crash, report.at_ns), (&broken, &None, 7));
        assert_eq!(report.domain_words, "the library OS failed");
    }
    let lines: Vec<&[u8]> = reports[0].last_lines.iter().map(|line| &line.bytes[..]).collect();
    assert_eq!(lines, [b"x", b"y"]);
}

/// A list is answered when all have said what they use; if one does not, after a while.
#[test]
fn a_list_has_figures_of_now() {
    let mut supervisor = crowd();
    supervisor.handle(Event::Ended(of(0, 2), exit(0)), 1);
    let (mut answer, effects) = supervisor.ask(Request::List, 10);
    assert_eq!(effects, [Effect::Measure(DomainId(0))]);
    let usage = |switches| ProcessUsage { switches, ..ProcessUsage::default() };
    supervisor.handle(Event::Measured(of(0, 0), usage(7)), 11);
    assert_eq!(supervisor.next_reply(&mut answer), Progress::NotYet);
    assert_eq!(supervisor.deadline_ns(), Some(10 + MEASURE_NS));
    supervisor.handle(Event::Measured(of(0, 1), usage(8)), 12);
    let Progress::Reply(Reply::List(system)) = supervisor.next_reply(&mut answer) else { panic!("no list") };
    let switches: Vec<u64> =
        system.domains[0].programs.iter().map(|program| program.usage.switches).collect();
    assert_eq!((switches, system.uptime_ns), (vec![7, 8, 0], 12));
    assert_eq!(supervisor.next_reply(&mut answer), Progress::Done);
    let (mut answer, _) = supervisor.ask(Request::List, 20);
    supervisor.handle(Event::Time, 20 + MEASURE_NS);
    assert!(matches!(supervisor.next_reply(&mut answer), Progress::Reply(Reply::List(_))));
    let (mut answer, _) = supervisor.ask(Request::List, 30 + MEASURE_NS);
    supervisor.handle(Event::DomainEnded(DomainId(0), exit(0)), 40 + MEASURE_NS);
    assert!(matches!(supervisor.next_reply(&mut answer), Progress::Reply(Reply::List(_))));
}

/// What `up` prints and the log keeps.
#[test]
fn notices_read_as_sentences() {
    let ended = |end, next| Notice::Ended { end, next }.to_string();
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
