//! `selkis trace`, against a machine that is not there.

use crate::fake::{Answer, Ended, Machine, Then, list, nothing};
use control::{
    Cpu, Platform, Reply, Request, System, TraceAccess, TraceDomain, TraceEvent, TraceOutcome, TracePiece,
    TraceRecord,
};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;

const ALICE: TraceDomain = TraceDomain::Named(0);

fn record(at_ns: u64, cpu: u16, domain: TraceDomain, event: TraceEvent) -> TraceRecord {
    TraceRecord { at_ns, cpu, domain, vcpu: Some(3), event }
}

/// Alice runs on CPU 0, asks and sleeps; Dave's on CPU 1, of which records are lost.
fn piece() -> Reply {
    let request = |number, outcome| TraceEvent::Request { number, outcome };
    let address = 0x1000;
    let records = vec![
        record(1_000_000_500, 0, ALICE, TraceEvent::Switch),
        record(1_000_001_000, 1, TraceDomain::Named(1), TraceEvent::Switch),
        record(1_000_002_000, 0, ALICE, request(9, TraceOutcome::Answered(7))),
        record(1_000_003_000, 0, ALICE, request(30, TraceOutcome::Refused(2))),
        record(1_000_004_000, 0, ALICE, TraceEvent::Touch { address, access: TraceAccess::Write }),
        record(1_000_005_000, 1, TraceDomain::Named(1), request(99, TraceOutcome::NoReturn)),
        record(1_000_006_000, 0, ALICE, request(8, TraceOutcome::Sleeps)),
        record(1_000_006_500, 0, TraceDomain::Root, TraceEvent::Made),
        TraceRecord {
            vcpu: None,
            ..record(1_000_007_000, 0, TraceDomain::Nobody, TraceEvent::Idle { until_ns: None })
        },
    ];
    Reply::Trace(TracePiece { records, lost: vec![0, 12] })
}

fn on_machine(name: &str) -> Machine {
    let own_name = name.to_owned();
    Machine::new().start_stepwise(name, move |request, say| {
        let Reply::List(system) = list(&own_name) else { unreachable!() };
        let system = System { platform: Platform::Machine, cpus: vec![Cpu::default(); 2], ..system };
        let (replies, then): Answer = match request {
            Request::List => (vec![Reply::List(system)], Then::Waits),
            _ => (vec![piece(), Reply::TraceEnd], Then::Waits),
        };
        replies.into_iter().for_each(say);
        then
    })
}

fn traced(words: &[&str]) -> Ended {
    let machine = on_machine("tenants");
    let ended = machine.run(&[&["trace"], words].concat());
    assert_eq!((ended.status, machine.requests()), (Some(0), vec![Request::Trace]), "{}", ended.error);
    ended
}

#[test]
fn people_get_a_line_for_each_record() {
    let expected = "          TIME  CPU  DOMAIN  EVENT       WHAT
… 12 records of CPU 1 are lost
   1.000000500    0  alice   switch
   1.000001000    1  dave    switch
   1.000002000    0  alice   request     request=now outcome=answered answer=7
   1.000003000    0  alice   request     request=signal outcome=refused error=stale-handle
   1.000004000    0  alice   touch       address=0x1000 access=write
   1.000005000    1  dave    request     request=request-99 outcome=no-return
   1.000006000    0  alice   request     request=wait outcome=sleeps
   1.000006500    0  (root)  made
   1.000007000    0          idle        until_ns=null
";
    let ended = traced(&[]);
    assert_eq!(ended.output, expected);
    assert_eq!(ended.error, "selkis: 9 records, 12 lost because nobody read them in time\n");
    let alice = traced(&["--domain", "alice", "--cpu", "0", "-f"]);
    assert_eq!(alice.output.lines().count(), 1 + 5, "{}", alice.output);
    assert_eq!(alice.error, "selkis: 5 records, 0 lost because nobody read them in time\n");
    let root = traced(&["--domain", "(root)", "--for", "20s"]).output;
    assert!(root.ends_with("(root)  made\n"), "{root}");
}

#[test]
fn scripts_get_an_object_for_each() {
    let ended = traced(&["--json"]).output();
    let objects: Vec<Value> = ended.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(objects.len(), 10);
    assert_eq!(objects[0], json!({ "event": "lost", "cpu": 1, "records": 12 }));
    assert_eq!(
        objects[4],
        json!({
            "at_ns": 1_000_003_000, "at_unix_ns": 1_000_000_001_000_003_000u64, "cpu": 0, "domain": "alice", "vcpu": 3,
            "event": "request", "request": "signal", "outcome": "refused", "error": "stale-handle",
        })
    );
    assert_eq!((&objects[9]["domain"], &objects[9]["vcpu"]), (&Value::Null, &Value::Null));
}

/// Slices of what ran, even where only one domain is wanted, whose time ends with another's beginning.
#[test]
fn perfetto_gets_its_own_format() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("trace.json");
    for (words, names) in
        [(&[][..], &["alice", "dave"][..]), (&["--domain", "dave"], &["dave"]), (&["--cpu", "0"], &["alice"])]
    {
        let file = ["--chrome", "-o", path.to_str().unwrap()];
        assert_eq!(traced(&[&file[..], words].concat()).output, "");
        let trace: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        let events = trace["traceEvents"].as_array().unwrap();
        let of = |kind: &'static str| events.iter().filter(move |event| event["ph"] == kind);
        let slices: BTreeSet<&str> = of("X").map(|slice| slice["name"].as_str().unwrap()).collect();
        assert_eq!(slices, names.iter().copied().collect(), "{words:?}");
        for slice in of("X").filter(|slice| slice["name"] == "alice") {
            assert_eq!(
                (&slice["ts"], &slice["dur"], &slice["tid"]),
                (&json!(1_000_000.5), &json!(6.5), &json!(0))
            );
        }
        let requests = of("i").filter(|event| event["cat"] == "request");
        assert!(requests.filter(|event| event["name"].is_string()).count() > 0);
        let processes: Vec<&Value> = of("M").map(|event| &event["args"]["name"]).collect();
        assert!(
            processes.contains(&&json!("CPUs")) && processes.contains(&&json!(names[0])),
            "{processes:?}"
        );
    }
}

#[test]
fn what_cannot_be_traced_is_told_with_a_way_out() {
    let hosted = Machine::new().start("tenants", nothing);
    let error = hosted.run(&["trace"]).refusal();
    for part in ["runs on Linux", "up --vm", "perf trace -p 77", "strace -f -p 77"] {
        assert!(error.contains(part), "{error}");
    }
    assert_eq!(hosted.requests(), []);
    let machine = on_machine("tenants");
    let error = machine.run(&["trace", "--domain", "alcie"]).refusal();
    assert!(error.contains("did you mean `alice`?"), "{error}");
    let error = machine.run(&["trace", "--cpu", "2"]).refusal();
    assert!(error.contains("no CPU 2") && error.contains("0 to 1"), "{error}");
    let unwritable = machine.run(&["trace", "-o", "/nonexistent/trace.json"]);
    assert!(unwritable.error.contains("cannot write `/nonexistent/trace.json`"), "{}", unwritable.error);
    assert_eq!(machine.requests(), []);
    for wrong in [&["trace", "-f", "--for", "1s"][..], &["trace", "--json", "--chrome"]] {
        assert_eq!(machine.run(wrong).status, Some(2), "{wrong:?}");
    }
}

/// A level that there is not is told before anything is done.
#[test]
fn a_level_of_the_log_is_one_of_four() {
    let machine = Machine::new();
    for command in
        [&["run", "--vm", "x.wasm"][..], &["up", "--vm", "x.toml"], &["image", "x.wasm", "-o", "x.img"]]
    {
        let ended = machine.run(&[command, &["--kernel-log", "loud"]].concat());
        assert_eq!(ended.status, Some(2), "{command:?}");
        assert!(ended.error.contains("[possible values: error, warn, info, debug]"), "{}", ended.error);
    }
}
