//! Whole systems: `selkis up`, and what its control socket answers.

use crate::fetch::fetch;
use crate::guests;
use crate::processes::{children, ends_within, only_child, pidfd, stop};
use crate::runner::{On, Platform, Scenario};
use crate::selkis::{Context, Output};
use crate::system::{Guest, Up, manifest, runtime_folder};
use crate::verdict::{Failed, Verdict, check, check_eq};
use control::{
    End, Follow, From, How, LogEnd, ProgramName, Refusal, Reply, Request, Selector, State, Stream,
};
use rustix::process::{Signal, pidfd_send_signal};
use serde_json::Value;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

const HOSTED: On = On::Only(Platform::Hosted);

pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "up-to-the-end", on: On::All, run: to_the_end },
    Scenario { name: "up-fails", on: On::All, run: fails },
    Scenario { name: "up-mistakes", on: HOSTED, run: mistakes },
    Scenario { name: "up-restarts", on: On::All, run: restarts },
    Scenario { name: "up-restarts-what-was-killed", on: HOSTED, run: restarts_what_was_killed },
    Scenario { name: "up-kill", on: On::All, run: kill },
    Scenario { name: "up-kill-what-does-not-listen", on: HOSTED, run: kill_what_does_not_listen },
    Scenario { name: "up-shutdown", on: On::All, run: shutdown },
    Scenario { name: "up-log", on: On::All, run: log },
    Scenario { name: "up-log-overflows", on: On::All, run: log_overflows },
    Scenario { name: "up-ps-log-kill", on: On::All, run: ps_log_kill },
    Scenario { name: "up-metrics", on: On::All, run: metrics },
    Scenario { name: "up-signals", on: On::All, run: signals },
    Scenario { name: "up-signal-again", on: HOSTED, run: signal_again },
    Scenario { name: "up-dies", on: On::All, run: dies },
    Scenario { name: "up-twice", on: On::All, run: twice },
    Scenario { name: "up-hostile-clients", on: On::All, run: hostile_clients },
    Scenario { name: "up-output-unread", on: On::All, run: output_unread },
    Scenario { name: "up-idle", on: HOSTED, run: idle },
    Scenario { name: "up-exhausts-its-memory", on: On::Machines, run: exhausts_its_memory },
    Scenario { name: "up-a-hundred-ends", on: On::Machines, run: a_hundred_ends },
];

const NEVER: &str = "";
const ON_FAILURE: &str = "restart = \"on-failure\"";
const ALWAYS: &str = "restart = \"always\"";

fn spinning(domain: &str) -> Guest<'_> {
    Guest::new(domain, "ready-spin")
}

fn named(name: &str) -> Selector {
    Selector::Named(name.into())
}

fn name(domain: &str, program: &str) -> ProgramName {
    ProgramName { domain: domain.into(), program: program.into() }
}

/// Three domains, one of them with a real program: when all have ended for good, the system does.
fn to_the_end(context: &Context) -> Verdict {
    let quickjs = fetch("quickjs.wasm")?;
    let lines = format!("arguments = [\"-e\", \"console.log(6*7)\"]\nname = \"js\"\nfile = {quickjs:?}");
    let text = format!(
        "name = \"three\"\n[domains.real]\nmemory = \"128MiB\"\n[[domains.real.programs]]\n{lines}\n\
         [domains.early]\nmemory = \"64MiB\"\n[[domains.early.programs]]\nfile = \"exit.wat\"\n\
         [domains.late]\nmemory = \"64MiB\"\n[[domains.late.programs]]\nfile = \"ready-spin.wat\"\n"
    );
    for guest in ["exit", "ready-spin"] {
        context.file(&format!("{guest}.wat"), guests::text(guest)?)?;
    }
    let mut up = Up::start_manifest(context, context.file("file.toml", text)?, "three")?;
    up.until_ended(&["real", "early"])?;
    let real = up.program("real")?;
    check_eq("the end of the real one", real.last_end, Some(End::Exited { status: 0 }))?;
    check_eq("its state", real.state, State::Ended)?;
    check_eq("what it wrote", up.output("real")?, "42\n")?;
    up.until_written("late")?;
    check_eq("the late one's state", up.program("late")?.state, State::Running)?;
    up.ask(&Request::Kill { which: named("late"), how: How::Gracefully })?;
    let socket = up.socket();
    up.finish()?.exits(0)?.ends_well()?;
    check(!socket.exists(), || "the socket is left".into())?;
    let good = manifest(context, "good", &[Guest::new("a", "exit"), Guest::new("b", "sleep")])?;
    up_once(context, good, &["--quiet"])?.exits(0)?.writes("")?.ends_well()?;
    Ok(())
}

fn fails(context: &Context) -> Verdict {
    let lines = "arguments = [\"3\"]\nname = \"job\"";
    let guests = [
        Guest::new("good", "exit"),
        Guest::with("bad", "exit", lines),
        Guest::with("worse", "traps", "arguments = [\"d\"]"),
    ];
    let manifest = manifest(context, "lines", &guests)?;
    let output = up_once(context, manifest, &[])?;
    output.exits(1)?.ends_well()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    for line in [
        "good/exit: started",
        "good/exit: exit status 0",
        "bad/job: exit status 3",
        "worse/traps: exit status 134",
    ] {
        check(text.lines().any(|other| other == line), || output.failed(&format!("no line {line:?}")).0)?;
    }
    let words = "worse/traps:     selkis: traps.wat: ";
    check(text.contains(words), || output.failed("it is not told what it died of").0)
}

fn up_once(context: &Context, manifest: impl AsRef<Path>, options: &[&str]) -> Verdict<Output> {
    let command = context.up(manifest.as_ref()).options(options);
    command.variable("XDG_RUNTIME_DIR", runtime_folder(context)?).run()
}

/// Each is told with its place, and nothing is started.
fn mistakes(context: &Context) -> Verdict {
    let told = |text: &str, parts: &[&str]| {
        let output = up_once(context, context.file("wrong.toml", text)?, &[])?;
        output.exits(125)?.writes("")?.ends_well()?.says(parts)?;
        Ok::<(), Failed>(())
    };
    let domain = "[domains.a]\nmemory = \"64MiB\"\n[[domains.a.programs]]\n";
    told(&format!("{domain}fiel = \"x.wat\"\n"), &["wrong.toml:4:", "fiel", "file"])?;
    told(&format!("{domain}file = \"nothing.wat\"\n"), &["wrong.toml:4:", "nothing.wat"])?;
    told(
        "[domains.a]\nmemory = \"900000GiB\"\n[[domains.a.programs]]\nfile = \"wrong.toml\"\n",
        &["memory"],
    )?;
    let two = "[domains.a]\nmemory = \"64MiB\"\nprocesses = 1\n[[domains.a.programs]]\nname = \"one\"\nfile = \"wrong.toml\"\nmemory = \"1MiB\"\n[[domains.a.programs]]\nname = \"two\"\nfile = \"wrong.toml\"\nmemory = \"1MiB\"\n";
    told(two, &["wrong.toml:1:", "2 processes"])?;
    told(&format!("{domain}file = \"wrong.toml\"\n"), &["wrong.toml"])?;
    up_once(context, "nowhere.toml", &[])?.exits(125)?.says(&["nowhere.toml"])?;
    Ok(())
}

/// With a longer wait each time, by its policy.
fn restarts(context: &Context) -> Verdict {
    let guests = [
        Guest::with("failing", "exit", "restart = \"on-failure\"\narguments = [\"5\"]"),
        Guest::with("always", "exit", ALWAYS),
        Guest::with("satisfied", "exit", ON_FAILURE),
        Guest::with("never", "exit", NEVER),
    ];
    let mut up = Up::start(context, &guests)?;
    let mut waits = [Vec::new(), Vec::new()];
    while waits.iter().any(|waits| waits.len() < 4) {
        let event = up.next()?;
        if event["event"] != "ended" {
            continue;
        }
        let wait_ms = event["restart_after_ns"].as_u64().map(|ns| ns / 1_000_000);
        match event["domain"].as_str() {
            Some("failing") => waits[0].extend(wait_ms),
            Some("always") => waits[1].extend(wait_ms),
            _ => check_eq("what follows", &event["next"], &Value::from("nothing"))?,
        }
    }
    waits.iter().try_for_each(|waits| check_eq("waits in ms", &waits[..4], [100, 200, 400, 800]))?;
    let failing = up.program("failing")?;
    check(failing.restarts >= 3, || format!("{failing:?}"))?;
    check_eq("its end", failing.last_end, Some(End::Exited { status: 5 }))?;
    check_eq("restarts of the satisfied", up.program("satisfied")?.restarts, 0)?;
    up.end(Signal::INT)?.exits(130)?.ends_well()?;
    Ok(())
}

/// A domain that takes all memory that it may, again and again, ends alone each time; another goes on as if nothing was.
fn exhausts_its_memory(context: &Context) -> Verdict {
    let greedy = Guest::with("greedy", "grow", ALWAYS);
    let mut up = Up::start(context, &[spinning("bystander"), greedy])?;
    up.until("bystander", "started")?;
    up.until_written("bystander")?;
    for _ in 0..4 {
        let ended = up.until("greedy", "ended")?;
        check_eq("its status", &ended["status"], &Value::from(137))?;
    }
    check_eq("bystander", up.program("bystander")?.state, State::Running)?;
    check_eq("restarts of the bystander", up.program("bystander")?.restarts, 0)?;
    up.end(Signal::INT)?.exits(130)?.ends_well()?;
    Ok(())
}

/// Of many domains at once, by themselves and by force. After each the root looks whether the kernel has given all back that the
/// domain had, to the byte and to the capability; if not, the machine does not stop with 0, and `up` says so.
fn a_hundred_ends(context: &Context) -> Verdict {
    let names: Vec<String> = (0..18).map(|number| format!("d{number}")).collect();
    let guest = |(number, name): (usize, &'_ String)| match number % 3 {
        0 => ("ready-spin", name.clone()),
        1 => ("exit", name.clone()),
        _ => ("traps", name.clone()),
    };
    let programs: Vec<(&str, String)> = names.iter().enumerate().map(guest).collect();
    let guests: Vec<Guest<'_>> =
        programs.iter().map(|(program, name)| Guest::with(name, program, ALWAYS)).collect();
    let mut up = Up::start(context, &guests)?;
    let mut ends = 0;
    while ends < 94 {
        ends += usize::from(up.next()?["event"] == "ended");
    }
    for name in names.iter().step_by(3) {
        up.ask(&Request::Kill { which: named(name), how: How::AtOnce })?;
    }
    up.end(Signal::INT)?.exits(130)?.ends_well()?;
    Ok(())
}

/// By somebody else than the system: SIGKILL to its process.
fn restarts_what_was_killed(context: &Context) -> Verdict {
    let mut up = Up::start(context, &[Guest::with("victim", "ready-spin", ON_FAILURE)])?;
    for restart in 0..3 {
        let started = up.until("victim", "started")?;
        check_eq("restarts", &started["restarts"], &Value::from(restart))?;
        let (_, process) = only_child(up.process())?;
        pidfd_send_signal(&process, Signal::KILL)?;
        let ended = up.until("victim", "ended")?;
        check_eq(
            "how it ended",
            (&ended["reason"], &ended["next"]),
            (&Value::from("SIGKILL"), &Value::from("restart")),
        )?;
    }
    up.end(Signal::INT)?.exits(130)?;
    Ok(())
}

/// What a user kills stays so, and nothing else is touched.
fn kill(context: &Context) -> Verdict {
    let guests = [
        Guest::with("graceful", "ready-spin", ALWAYS),
        Guest::with("at-once", "ready-spin", ALWAYS),
        Guest::with("waiting", "exit", "restart = \"on-failure\"\narguments = [\"1\"]"),
        spinning("bystander"),
    ];
    let mut up = Up::start(context, &guests)?;
    let mut ended = 0;
    while ended < 5 {
        let event = up.next()?;
        ended += usize::from(event["domain"] == "waiting" && event["event"] == "ended");
    }
    let kill = |which: &str, how| up.ask(&Request::Kill { which: named(which), how });
    check_eq(
        "the first kill",
        kill("graceful", How::Gracefully)?,
        Reply::Killed(vec![name("graceful", "ready-spin")]),
    )?;
    check_eq("its end", up.program("graceful")?.last_end, Some(End::Exited { status: 130 }))?;
    check_eq(
        "the second",
        kill("at-once/ready-spin", How::AtOnce)?,
        Reply::Killed(vec![name("at-once", "ready-spin")]),
    )?;
    let end = up.program("at-once")?.last_end;
    let how = context.on("SIGKILL", "killed").into();
    check_eq("its end", end, Some(End::Broken { how }))?;
    check_eq("the third", kill("waiting", How::Gracefully)?, Reply::Killed(vec![name("waiting", "exit")]))?;
    for domain in ["graceful", "at-once", "waiting"] {
        check_eq("state", up.program(domain)?.state, State::Stopped)?;
    }
    check_eq("bystander", up.program("bystander")?.state, State::Running)?;
    let refused = kill("graceful", How::AtOnce)?;
    check_eq(
        "a kill of the dead",
        refused,
        Reply::Refused(Refusal::NotRunning(vec![name("graceful", "ready-spin")])),
    )?;
    let Reply::Refused(unknown) = kill("nobody", How::AtOnce)? else {
        return Err(Failed("nobody was killed".into()));
    };
    check(unknown.to_string().contains("bystander/ready-spin"), || unknown.to_string())?;
    kill("bystander", How::AtOnce)?;
    up.finish()?.exits(0)?.ends_well()?;
    Ok(())
}

/// A process that cannot react is ended by force when its time to end is over.
fn kill_what_does_not_listen(context: &Context) -> Verdict {
    let mut up = Up::start(context, &[spinning("deaf")])?;
    up.until("deaf", "started")?;
    up.until_written("deaf")?;
    let (number, process) = only_child(up.process())?;
    stop(number, &process)?;
    let started = Instant::now();
    let reply = up.ask(&Request::Kill { which: Selector::All, how: How::Gracefully })?;
    check_eq("reply", reply, Reply::Killed(vec![name("deaf", "ready-spin")]))?;
    let took = started.elapsed().as_secs();
    check((5..15).contains(&took), || format!("it took {took} s"))?;
    up.until("deaf", "overdue")?;
    up.finish()?.exits(0)?;
    Ok(())
}

fn shutdown(context: &Context) -> Verdict {
    let mut up = Up::start(context, &[spinning("a"), Guest::with("b", "ready-spin", ALWAYS)])?;
    up.until("b", "started")?;
    let mut follower = up.client()?;
    follower.ask(&Request::Log { which: Selector::All, from: From::Start, follow: Follow::Yes })?;
    check_eq("reply", up.ask(&Request::Shutdown { how: How::Gracefully })?, Reply::ShutDown)?;
    let (pieces, end) = follower.log()?;
    check_eq("the log's end", end, LogEnd::Ended)?;
    let mut events = pieces.iter().flat_map(|piece| &piece.lines).filter(|line| line.stream == Stream::Event);
    let last = events.next_back().map(|line| String::from_utf8_lossy(&line.bytes).into_owned());
    check_eq("the last line", last.as_deref(), Some("stopped: exit status 130"))?;
    up.finish()?.exits(0)?.ends_well()?;
    Ok(())
}

/// What is there, what comes, and the end of it.
fn log(context: &Context) -> Verdict {
    let guests = [
        Guest::with("args", "arguments", "arguments = [\"x\\ny\"]"),
        Guest::with("loud", "traps", "arguments = [\"d\"]"),
        spinning("late"),
    ];
    let mut up = Up::start(context, &guests)?;
    up.until_ended(&["args", "loud"])?;
    up.until_written("late")?;
    let mut follower = up.client()?;
    follower.ask(&Request::Log { which: named("late"), from: From::Start, follow: Follow::Yes })?;
    check_eq("output", up.output("args")?, "arguments.wat\0x\ny\0\n")?;
    let mut client = up.client()?;
    let request = |count| Request::Log { which: named("loud"), from: From::Last(count), follow: Follow::No };
    for count in [0, 1, 2, 1000] {
        client.ask(&request(count))?;
        let (pieces, end) = client.log()?;
        check_eq("end", end, LogEnd::Ended)?;
        let lines: Vec<_> = pieces.into_iter().flat_map(|piece| piece.lines).collect();
        check(lines.len() as u64 <= count, || format!("{count} lines were asked for: {lines:?}"))?;
        if count == 1000 {
            let streams: Vec<_> = lines.iter().map(|line| line.stream).collect();
            check_eq(
                "first and last",
                (streams.first(), streams.last()),
                (Some(&Stream::Event), Some(&Stream::Event)),
            )?;
            check(streams.contains(&Stream::Error), || format!("no error in {lines:?}"))?;
        }
    }
    up.ask(&Request::Kill { which: named("late"), how: How::Gracefully })?;
    let (pieces, end) = follower.log()?;
    check_eq("the follower's end", end, LogEnd::Ended)?;
    let lines: Vec<_> = pieces.into_iter().flat_map(|piece| piece.lines).collect();
    check_eq(
        "its first line",
        lines.first().map(|line| (line.stream, &line.bytes[..])),
        Some((Stream::Event, &b"started"[..])),
    )?;
    check(lines.iter().any(|line| line.bytes == b"ready"), || format!("not what it wrote: {lines:?}"))?;
    up.finish()?.exits(1)?;
    Ok(())
}

/// A program that writes without end, followed by one who does not read: nobody else notices, memory stays, and the follower
/// hears how much it has missed.
fn log_overflows(context: &Context) -> Verdict {
    let loud = Guest::with("loud", "yes", "log-rate = \"unlimited\"");
    let mut up = Up::start(context, &[loud, spinning("quiet")])?;
    up.until("quiet", "started")?;
    let mut follower = up.client()?;
    follower.ask(&Request::Log { which: named("loud"), from: From::Start, follow: Follow::Yes })?;
    let limit = Instant::now() + Duration::from_secs(60);
    loop {
        let asked = Instant::now();
        let size = up.program("loud")?.log;
        check(asked.elapsed() < Duration::from_secs(5), || format!("a list took {:?}", asked.elapsed()))?;
        if size.lines_dropped > context.on(1_000_000, 100_000) {
            break;
        }
        check(Instant::now() < limit, || format!("it does not write: {size:?}"))?;
    }
    up.ask(&Request::Kill { which: named("loud"), how: How::Gracefully })?;
    let (pieces, end) = follower.log()?;
    check_eq("the follower's end", end, LogEnd::Ended)?;
    let heard: u64 = pieces.iter().map(|piece| piece.lines.len() as u64 + piece.lines_dropped).sum();
    check_eq("lines heard or missed", heard, up.program("loud")?.log.lines)?;
    check(pieces.iter().any(|piece| piece.lines_dropped > 0), || "nothing was missed".into())?;
    check_eq("state of the other", up.program("quiet")?.state, State::Running)?;
    let output = up.end(Signal::TERM)?;
    output.exits(130)?;
    check(output.peak_bytes < 100 << 20, || format!("`up` used {} bytes", output.peak_bytes))
}

/// What a user types beside a running system.
fn ps_log_kill(context: &Context) -> Verdict {
    let guests = [
        Guest::with("alice", "ready-spin", "name = \"web\""),
        Guest::with("bob", "arguments", "arguments = [\"hello\"]"),
    ];
    let selkis = |words: &[&str]| {
        let command = context.command().options(words.iter());
        command.variable("XDG_RUNTIME_DIR", runtime_folder(context)?).start()
    };
    selkis(&["ps"])?.finish()?.exits(1)?.says(&["no system is running"])?;
    let mut up = Up::start(context, &guests)?;
    up.until("bob", "ended")?;
    up.until_written("alice")?;
    let ps = || {
        let output = selkis(&["ps", "--json"])?.finish()?;
        output.exits(0)?;
        Ok::<Value, Failed>(serde_json::from_slice(&output.stdout)?)
    };
    let (_, process) = only_child(up.process())?;
    let listed = ps()?;
    let program = |listed: &Value, domain: usize| listed["domains"][domain]["programs"][0].clone();
    check_eq("alice's state", &program(&listed, 0)["state"], &Value::from("running"))?;
    check_eq("bob's exit status", &program(&listed, 1)["exit_status"], &Value::from(0))?;
    check(listed["domains"][0]["memory_used_bytes"].as_u64() > Some(0), || listed.to_string())?;
    let table = selkis(&["ps"])?.finish()?;
    let table = String::from_utf8_lossy(&table.exits(0)?.stdout).into_owned();
    check(table.contains("alice") && table.contains("running"), || table.clone())?;
    selkis(&["log", "bob"])?.finish()?.exits(0)?.writes("arguments.wat\0hello\0")?;
    let mut follower = selkis(&["log", "alice/web", "--follow"])?;
    check_eq("a followed line", follower.read_line()?, String::from("ready"))?;
    selkis(&["kill", "nobody"])?.finish()?.exits(1)?.says(&["nobody", "alice/web"])?;
    selkis(&["kill", "alice"])?.finish()?.exits(0)?.ends_well()?;
    // The domain ends when its last process has, and the machine with the system, when that has said so.
    check(ends_within(&process, 10)?, || "it is killed, and has not ended".into())?;
    follower.finish()?.exits(0)?.ends_well()?;
    up.finish()?.exits(0)?.ends_well()?;
    Ok(())
}

fn metrics(context: &Context) -> Verdict {
    let mut up = Up::start(context, &[spinning("busy")])?;
    up.until("busy", "started")?;
    let get = |request: &str| {
        let mut stream = up.connect()?;
        stream.write_all(request.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok::<String, Failed>(answer)
    };
    let cpu_seconds = || {
        let answer = get("GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
        check(answer.starts_with("HTTP/1.0 200 OK\r\n"), || answer.clone())?;
        let state = "selkis_program_state{domain=\"busy\",program=\"ready-spin\",state=\"running\"} 1\n";
        check(answer.contains(state), || answer.clone())?;
        let figure = |name: &str| {
            let line =
                answer.lines().find_map(|line| line.strip_prefix(&format!("{name}{{domain=\"busy\"}} ")));
            line.and_then(|text| text.parse::<f64>().ok())
                .ok_or_else(|| Failed(format!("no {name} in\n{answer}")))
        };
        check(figure("selkis_domain_memory_bytes")? > 0.0, || answer.clone())?;
        check(figure("selkis_domain_faults_total")? > 0.0, || answer.clone())?;
        figure("selkis_domain_cpu_seconds_total")
    };
    let limit = Instant::now() + Duration::from_secs(30);
    let first = cpu_seconds()?;
    while cpu_seconds()? <= first {
        check(Instant::now() < limit, || "its CPU time does not grow".into())?;
    }
    for (request, status) in [
        ("GET / HTTP/1.0\r\n\r\n", "404"),
        ("DELETE /metrics HTTP/1.0\r\n\r\n", "405"),
        ("HELLO\r\n\r\n", "400"),
    ] {
        let answer = get(request)?;
        check(answer.starts_with(&format!("HTTP/1.0 {status} ")), || answer.clone())?;
    }
    up.end(Signal::INT)?.exits(130)?;
    Ok(())
}

/// Everything ends with it, in order, and nothing is left.
fn signals(context: &Context) -> Verdict {
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let guests = [spinning("a"), Guest::with("b", "ready-spin", ALWAYS), Guest::with("c", "yes", ALWAYS)];
        let mut up = Up::start(context, &guests)?;
        up.until("c", "started")?;
        let processes = children(up.process())?.into_iter().map(pidfd).collect::<Verdict<Vec<_>>>()?;
        // One for each domain, or QEMU.
        check_eq("processes", processes.len(), context.on(3, 1))?;
        let socket = up.socket();
        let started = Instant::now();
        let output = up.end(signal)?;
        output.exits(130)?.ends_well()?;
        check(started.elapsed() < Duration::from_secs(4), || format!("it took {:?}", started.elapsed()))?;
        let ended = String::from_utf8_lossy(&output.stdout)
            .lines()
            .filter(|line| line.contains("\"stopped\""))
            .count();
        check_eq("programs that were told to end", ended, 3)?;
        for process in &processes {
            check(ends_within(process, 0)?, || "a domain outlived `up`".into())?;
        }
        check(!socket.exists(), || "the socket is left".into())?;
    }
    Ok(())
}

/// Two signals together are one wish; who presses Ctrl-C again later does not want to wait.
fn signal_again(context: &Context) -> Verdict {
    let mut up = Up::start(context, &[spinning("prompt")])?;
    up.until("prompt", "started")?;
    up.process().signal(Signal::INT)?;
    let output = up.end(Signal::TERM)?;
    output.exits(130)?;
    check(!String::from_utf8_lossy(&output.stdout).contains("at-once"), || output.failed("by force").0)?;
    let mut up = Up::start(context, &[spinning("deaf")])?;
    up.until("deaf", "started")?;
    up.until_written("deaf")?;
    let (number, process) = only_child(up.process())?;
    stop(number, &process)?;
    let started = Instant::now();
    up.process().signal(Signal::INT)?;
    up.until("deaf", "stopping")?;
    // A person's second press, not a part of the first.
    std::thread::sleep(Duration::from_secs(1));
    up.end(Signal::INT)?.exits(130)?;
    check(started.elapsed() < Duration::from_secs(4), || format!("it took {:?}", started.elapsed()))
}

/// Killed with no chance to clean up, `up` takes its domains with it; its socket does not stand in the next one's way.
fn dies(context: &Context) -> Verdict {
    let mut up = Up::start(context, &[spinning("a"), spinning("b")])?;
    up.until("b", "started")?;
    let processes = children(up.process())?.into_iter().map(pidfd).collect::<Verdict<Vec<_>>>()?;
    let socket = up.socket();
    let output = up.end(Signal::KILL)?;
    check(output.was_ended_by(Signal::KILL), || output.failed("expected that SIGKILL ends it").0)?;
    for process in &processes {
        check(ends_within(process, 10)?, || "a domain outlived `up`".into())?;
    }
    check(socket.exists(), || "there is nothing stale to replace".into())?;
    let mut up = Up::start(context, &[spinning("a")])?;
    up.until("a", "started")?;
    check_eq("state", up.program("a")?.state, State::Running)?;
    up.end(Signal::INT)?.exits(130)?;
    Ok(())
}

/// Of one name there is one; and nobody listens where others could.
fn twice(context: &Context) -> Verdict {
    let guests = [spinning("a")];
    let mut up = Up::start(context, &guests)?;
    up.until("a", "started")?;
    let again = manifest(context, "system", &guests)?;
    up_once(context, &again, &[])?.exits(125)?.says(&["`system` is running already"])?;
    check_eq("the first one", up.program("a")?.state, State::Running)?;
    up.end(Signal::INT)?.exits(130)?;
    let folder = runtime_folder(context)?.join("selkis");
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755))?;
    up_once(context, &again, &[])?.exits(125)?.says(&["only you can enter"])?;
    Ok(())
}

/// Whatever a client says or does not, others are served.
fn hostile_clients(context: &Context) -> Verdict {
    let mut up = Up::start(context, &[spinning("a")])?;
    up.until("a", "started")?;
    let greeting = control::GREETING;
    let frame = |length: u32, payload: &[u8]| [&greeting[..], &length.to_le_bytes(), payload].concat();
    for bytes in [
        Vec::new(),
        vec![0; 100],
        vec![0xff; 10_000],
        vec![b'A'; 100_000],
        greeting[..5].to_vec(),
        frame(u32::MAX, b""),
        frame(5000, b"x"),
        frame(3, b"\xff\xff\xff"),
        frame(0, b""),
    ] {
        let mut stream = up.connect()?;
        // It may be cut off before it has said all.
        let _ = stream.write_all(&bytes);
        check_eq("state", up.program("a")?.state, State::Running)?;
    }
    // Who stays and says nothing takes a place, of which there are 64.
    let silent = (0..64).map(|_| up.connect()).collect::<Verdict<Vec<_>>>()?;
    check_eq("one too many", up.ask(&Request::List)?, Reply::Refused(Refusal::TooManyClients))?;
    drop(silent);
    let limit = Instant::now() + Duration::from_secs(10);
    while up.program("a").is_err() {
        check(Instant::now() < limit, || "the places stay taken".into())?;
    }
    up.end(Signal::INT)?.exits(130)?.ends_well()?;
    Ok(())
}

/// The system goes on when nobody reads what `up` prints, and when nobody can.
fn output_unread(context: &Context) -> Verdict {
    let guests = [Guest::with("a", "exit", ALWAYS), spinning("b")];
    let up = Up::start(context, &guests)?;
    let limit = Instant::now() + Duration::from_secs(30);
    while up.program("a").map_or(0, |program| program.restarts) < 3 {
        check(Instant::now() < limit, || "it does not go on".into())?;
        std::thread::yield_now();
    }
    up.end(Signal::INT)?.exits(130)?;
    let mut up = Up::start(context, &guests)?;
    up.until("b", "started")?;
    up.process().close_output();
    while up.program("a")?.restarts < 3 {
        check(Instant::now() < limit, || "it does not go on without a reader".into())?;
        std::thread::yield_now();
    }
    up.end(Signal::INT)?.exits(130)?.ends_well()?;
    Ok(())
}

/// While nothing happens, `up` does nothing: followers, clients, a program that waits.
fn idle(context: &Context) -> Verdict {
    let mut up = Up::start(context, &[spinning("a"), Guest::with("b", "exit", ON_FAILURE)])?;
    up.until("b", "ended")?;
    let mut follower = up.client()?;
    follower.ask(&Request::Log { which: Selector::All, from: From::Start, follow: Follow::Yes })?;
    let _silent = up.connect()?;
    up.program("a")?;
    let before = up.process().cpu_time()?;
    std::thread::sleep(Duration::from_secs(3));
    let took = up.process().cpu_time()? - before;
    check(took < Duration::from_millis(50), || format!("it took {took:?} of the CPU"))?;
    up.end(Signal::INT)?.exits(130)?;
    Ok(())
}
