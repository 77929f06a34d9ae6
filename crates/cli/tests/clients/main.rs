//! `selkis ps`, `top`, `log`, `trace` and `kill`, run as a user does, against systems that are not there.

mod fake;
mod terminal;
mod trace;

use control::{Follow, From, How, LogEnd, Refusal, Reply, Request, Selector, Stream};
use fake::{Machine, Then, clock, list, nothing, piece};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;
use std::sync::Mutex;
use std::sync::mpsc;

const TABLE: &str = "\
DOMAIN  PROGRAM  STATE       PID            MEMORY    CPU  RESTARTS      SINCE  LAST END
alice   clock    running      77    3 MiB / 64 MiB  2.00s         0  1m00s ago  —
dave    dice     backoff 2s    —  0 bytes / 64 MiB  2.00s         4     3s ago  exit status 3
";

#[test]
fn ps_shows_the_only_system() {
    let machine = Machine::new().start("tenants", nothing).leave_socket("dead");
    let table = machine.run(&["ps"]).output();
    assert_eq!(table, TABLE);
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(lines(&machine.run(&["ps", "dave"]).output()).len(), 2);
    assert!(lines(&machine.run(&["ps", "alice/clock"]).output())[1].starts_with("alice"));
    let error = machine.run(&["ps", "clokc"]).refusal();
    assert_eq!(
        lines(&error)[0],
        "selkis: error: nothing in the system is called `clokc`; did you mean `clock`?"
    );
    assert_eq!(lines(&error)[1].trim(), "there are: alice/clock, dave/dice");
}

#[test]
fn ps_writes_json_for_scripts() {
    let machine = Machine::new().start("tenants", nothing);
    let system: Value = serde_json::from_str(&machine.run(&["ps", "dave", "--json"]).output()).unwrap();
    assert_eq!(system["system"], "tenants");
    assert_eq!(system["domains"].as_array().unwrap().len(), 1);
    let program = &system["domains"][0]["programs"][0];
    assert_eq!(
        (&program["state"], &program["restart_at_ns"]),
        (&json!("backoff"), &json!(63_000_000_000u64))
    );
    assert_eq!((&program["exit_status"], &program["restarts"]), (&json!(3), &json!(4)));
}

#[test]
fn where_no_system_runs_it_is_said_how_to_start_one() {
    let machine = Machine::new().leave_socket("dead");
    for command in [&["ps"][..], &["top", "--json"], &["log"], &["trace"], &["kill", "x"], &["kill", "--all"]]
    {
        let error = machine.run(command).refusal();
        assert!(error.starts_with("selkis: error: no system is running\n"), "{error}");
        assert!(error.contains("selkis up systems/tenants.toml"), "{error}");
    }
    let error = machine.run(&["ps", "--system", "dead"]).refusal();
    assert!(error.contains("no system `dead` is running, nor any other"), "{error}");
}

#[test]
fn of_several_systems_one_must_be_named() {
    let machine = Machine::new().start("one", nothing).start("other", nothing);
    let error = machine.run(&["ps"]).refusal();
    assert!(error.contains("several systems are running"), "{error}");
    assert!(error.contains("--system one or --system other"), "{error}");
    let json = machine.run(&["ps", "--json", "--system", "other"]).output();
    assert_eq!(serde_json::from_str::<Value>(&json).unwrap()["system"], "other");
    let error = machine.run(&["ps", "--system", "othr"]).refusal();
    assert!(error.contains("no system `othr` is running; did you mean `other`?"), "{error}");
    assert_eq!(machine.run(&["ps", "--system", "No Name"]).status, Some(2));
}

#[test]
fn a_folder_that_others_can_enter_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let machine = Machine::new().start("tenants", nothing);
    let folder = machine.folder().join("selkis");
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o777)).unwrap();
    assert!(machine.run(&["ps"]).refusal().contains("must be a folder that only you can enter"));
}

#[test]
fn who_speaks_something_else_is_told_apart() {
    for (words, message) in [
        (&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], "does not speak the protocol"),
        (&[8, 0, 0, 0, b'S', b'L', b'K', b'C', 99, 0, 0, 0], "speaks version 99"),
        (b"", "the connection to the system `odd` was lost"),
    ] {
        let error = Machine::new().start_stranger("odd", words.to_vec()).run(&["ps"]).refusal();
        assert!(error.contains(message), "{error}");
    }
}

#[test]
fn log_writes_both_streams_as_they_were_written() {
    let answer = |_: &Request| {
        let replies = [
            piece(Stream::Event, &["started"]),
            piece(Stream::Output, &["one\x1b[31m", "two"]),
            piece(Stream::Error, &["bad"]),
        ];
        ([&replies[..], &[Reply::LogEnd(LogEnd::Newest)]].concat(), Then::Waits)
    };
    let machine = Machine::new().start("tenants", answer);
    let ended = machine.run(&["log", "alice", "-n", "5"]);
    assert_eq!(ended.status, Some(0));
    assert_eq!((ended.output.as_str(), ended.error.as_str()), ("one\x1b[31m\ntwo\n", "— started\nbad\n"));
    let which = Selector::Named("alice".to_owned());
    assert_eq!(machine.requests(), [Request::Log { which, from: From::Last(5), follow: Follow::No }]);
    let all = machine.run(&["log", "-t"]).output;
    assert_eq!(all.lines().next(), Some("2001-09-09T01:46:41.500Z alice/clock | one\x1b[31m"));
    assert_eq!(
        machine.requests()[1],
        Request::Log { which: Selector::All, from: From::Start, follow: Follow::No }
    );
    let lines: Vec<Value> = machine
        .run(&["log", "--json"])
        .output()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(
        lines[1],
        json!({
            "domain": "alice", "program": "clock", "at_ns": 1_500_000_000, "at_unix_ns": 1_000_000_001_500_000_000u64,
            "stream": "output", "text": "one\x1b[31m", "end": "newline",
        })
    );
    assert_eq!((lines.len(), &lines[3]["stream"]), (4, &json!("error")));
}

/// The second line is only written when the first was read: what is followed comes at once.
#[test]
fn log_follows_until_the_programs_have_ended() {
    let (tell, was_read) = mpsc::channel();
    let was_read = Mutex::new(was_read);
    let machine = Machine::new().start_stepwise("tenants", move |request, say| {
        if *request == Request::List {
            say(list("tenants"));
            return Then::Waits;
        }
        say(piece(Stream::Output, &["first"]));
        was_read.lock().unwrap().recv().unwrap();
        say(piece(Stream::Output, &["second"]));
        say(Reply::LogEnd(LogEnd::Ended));
        Then::Waits
    });
    let mut child = machine.selkis(&["log", "alice", "-f"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert_eq!(lines.next().unwrap(), "first");
    tell.send(()).unwrap();
    assert_eq!(lines.next().unwrap(), "second");
    assert_eq!((lines.next(), child.wait().unwrap().code()), (None, Some(0)));
    let which = Selector::Named("alice".to_owned());
    assert_eq!(machine.requests(), [Request::Log { which, from: From::Start, follow: Follow::Yes }]);
}

#[test]
fn a_connection_that_breaks_is_told() {
    let machine = Machine::new().start("tenants", |_| (vec![piece(Stream::Output, &["first"])], Then::Ends));
    let ended = machine.run(&["log", "alice", "-f"]);
    assert_eq!((ended.status, ended.output.as_str()), (Some(1), "first\n"));
    assert!(ended.error.contains("the connection to the system `tenants` was lost"), "{}", ended.error);
    let machine = Machine::new().start("tenants", |_| (Vec::new(), Then::Ends));
    assert!(machine.run(&["kill", "alice"]).refusal().contains("was lost"));
}

#[test]
fn who_has_read_enough_ends_log_in_silence() {
    let many = vec!["a line"; 1000];
    let answer = move |_: &Request| (vec![piece(Stream::Output, &many); 200], Then::Waits);
    let machine = Machine::new().start("tenants", answer);
    let mut child =
        machine.selkis(&["log", "-f"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let mut error = String::new();
    child.stderr.take().unwrap().read_to_string(&mut error).unwrap();
    assert_eq!((child.wait().unwrap().code(), error.as_str()), (Some(0), ""));
}

#[test]
fn kill_says_what_has_ended() {
    let answer = |request: &Request| match request {
        Request::Kill { .. } => (vec![Reply::Killed(vec![clock()])], Then::Waits),
        _ => (vec![Reply::ShutDown], Then::Ends),
    };
    let machine = Machine::new().start("tenants", answer);
    assert_eq!(machine.run(&["kill", "alice"]).output(), "ended alice/clock\n");
    let json: Value =
        serde_json::from_str(&machine.run(&["kill", "alice", "--now", "--json"]).output()).unwrap();
    assert_eq!(json, json!({ "system": false, "programs": [{ "domain": "alice", "program": "clock" }] }));
    assert_eq!(machine.run(&["kill", "--all"]).output(), "ended the system tenants\n");
    let which = || Selector::Named("alice".to_owned());
    assert_eq!(
        machine.requests(),
        [
            Request::Kill { which: which(), how: How::Gracefully },
            Request::Kill { which: which(), how: How::AtOnce },
            Request::Shutdown { how: How::Gracefully },
        ]
    );
    for wrong in [&["kill"][..], &["kill", "alice", "--all"]] {
        assert_eq!(machine.run(wrong).status, Some(2), "{wrong:?}");
    }
}

#[test]
fn what_a_system_refuses_is_told() {
    let refused = |refusal: Refusal| {
        let answer = move |_: &Request| (vec![Reply::Refused(refusal.clone())], Then::Waits);
        Machine::new().start("tenants", answer).run(&["kill", "alcie"]).refusal()
    };
    let known = vec![clock()];
    let error = refused(Refusal::NoSuchName { asked: "alcie".to_owned(), known: known.clone() });
    assert!(error.contains("did you mean `alice`?"), "{error}");
    assert!(refused(Refusal::NotRunning(known)).contains("it has ended: alice/clock"));
    let answer = |_: &Request| (vec![Reply::ShutDown], Then::Waits);
    let error = Machine::new().start("tenants", answer).run(&["kill", "alice"]).refusal();
    assert!(error.contains("answers what was not asked"), "{error}");
}

#[test]
fn top_needs_a_terminal_or_a_script() {
    let machine = Machine::new().start("tenants", nothing);
    assert!(machine.run(&["top"]).refusal().contains("selkis ps"));
    let json: Value =
        serde_json::from_str(&machine.run(&["top", "--json", "--interval", "10ms"]).output()).unwrap();
    assert_eq!(json["domains"][0]["name"], "alice");
    assert_eq!(json["domains"][0]["cpu_percent"], 0.0);
}

#[test]
fn every_command_has_an_example() {
    let machine = Machine::new();
    for command in ["ps", "top", "log", "trace", "kill"] {
        let help = machine.run(&[command, "--help"]).output();
        assert!(help.contains(&format!("Examples:\n  selkis {command}")), "{help}");
    }
}
