//! What a process that reaches a limit does to itself, and to nobody else; and what is told of it.

use crate::guests;
use crate::runner::{On, Scenario};
use crate::selkis::Context;
use crate::system::{Up, runtime_folder};
use crate::verdict::{Failed, Verdict, check, check_eq};
use control::{End, Reply, Request, Selector, State};
use rustix::process::Signal;
use serde_json::Value;
use std::fs;

pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "limit-descriptors", on: On::Both, run: descriptors },
    Scenario { name: "limit-tables", on: On::Both, run: tables },
    Scenario { name: "limit-memory-in-a-start-function", on: On::Both, run: start_function },
    Scenario { name: "limit-of-one-program-of-a-file", on: On::All, run: one_of_a_file },
    Scenario { name: "limit-stack", on: On::Both, run: stack },
    Scenario { name: "limit-log-rate", on: On::All, run: log_rate },
    Scenario { name: "limits-of-one-are-nothing-to-others", on: On::All, run: nothing_to_others },
    Scenario { name: "limits-of-a-whole-domain", on: On::All, run: of_a_whole_domain },
    Scenario { name: "crash-of-a-run", on: On::Both, run: crash_of_a_run },
    Scenario { name: "crash-reports", on: On::All, run: crash_reports },
];

/// Beside its streams and its directory.
fn descriptors(context: &Context) -> Verdict {
    const NO_MORE_DESCRIPTORS: u32 = 33; // EMFILE
    let folder = context.folder().join("granted");
    fs::create_dir(&folder)?;
    for (option, opened) in [("5", 1u32), ("100", 96), ("1024", 1020)] {
        let directory = format!("{}::/granted", folder.display());
        let command = context.guest("opens")?.options(["--descriptors", option, "--dir", &directory]);
        let expected = [opened.to_le_bytes(), NO_MORE_DESCRIPTORS.to_le_bytes()].concat();
        command.run()?.exits(7)?.ends_well()?.writes(expected)?;
    }
    let directory = format!("{}::/granted", folder.display());
    let none = context.guest("opens")?.options(["--descriptors", "3", "--dir", &directory]).run()?;
    none.exits(125)?.ends_well()?.writes("")?.says(&["4 descriptors", "it may have 3", "--descriptors"])?;
    Ok(())
}

/// All tables of a program have one limit together; at its start it must keep to it as well.
fn tables(context: &Context) -> Verdict {
    for (option, elements) in [("1000", 1000u32), ("250", 200)] {
        let output = context.guest("tables")?.options(["--table-elements", option]).run()?;
        output.exits(134)?.ends_well()?.writes(elements.to_le_bytes())?;
        output.says(&[
            "unreachable",
            "beyond_its_limit",
            &format!("table elements {elements} of {option}"),
        ])?;
    }
    // If nobody says otherwise: a function of the engine's that goes through a table is soon through.
    let output = context.guest("tables")?.run()?;
    output.exits(134)?.ends_well()?.says(&["table elements 1048500 of 1048576"])?;
    let output = context.guest("traps")?.options(["--table-elements", "1"]).run()?;
    output.exits(125)?.ends_well()?.says(&["tables of 2 elements", "may have 1", "--table-elements"])?;
    Ok(())
}

/// Who is refused memory before `_start` has begun all the same, and ends as it ends.
fn start_function(context: &Context) -> Verdict {
    let run = |what: &str, options: &[&str]| {
        context.guest("start-grows")?.arguments([what]).options(["--memory", "1MiB"]).options(options).run()
    };
    run("t", &[])?.exits(134)?.ends_well()?.says(&["unreachable", " 0: traps_at_its_start"])?;
    let output = run("e", &[])?;
    output.exits(3)?.ends_well()?;
    check_eq("standard error", output.errors(), "")?;
    run("s", &["--timeout", "100ms"])?.exits(124)?.ends_well()?.says(&["its time is over"])?;
    Ok(())
}

/// What is too much for the first program of a file may be little for the next.
fn one_of_a_file(context: &Context) -> Verdict {
    const IMPORTS: usize = 20_000;
    let import = "(import \"wasi_snapshot_preview1\" \"sched_yield\" (func (result i32)))\n";
    let text = format!("(module {} (func (export \"_start\")))", import.repeat(IMPORTS));
    context.file("imports.wat", text)?;
    let mut text = String::from("[domains.crowd]\nmemory = \"128MiB\"\n");
    for (name, memory) in [("small", "1MiB"), ("large", "64MiB")] {
        let lines = format!("name = \"{name}\"\nfile = \"imports.wat\"\nmemory = \"{memory}\"\n");
        text += &format!("[[domains.crowd.programs]]\n{lines}");
    }
    let mut up = Up::start_manifest(context, context.file("crowd.toml", text)?, "crowd")?;
    for (name, status) in [("small", 125), ("large", 0)] {
        check_eq(name, &up.until_program(name, "ended")?["status"], &Value::from(status))?;
    }
    up.finish()?.exits(1)?.ends_well()?;
    Ok(())
}

/// Whatever size it has, it ends where it ends, in the program's own calls and in those of the host.
fn stack(context: &Context) -> Verdict {
    let mut depths = Vec::new();
    for option in ["16KiB", "512KiB"] {
        for guest in ["recursion", "recursion-host"] {
            let output = context.guest(guest)?.options(["--stack", option]).run()?;
            output.exits(134)?.ends_well()?.says(&["call stack exhausted"])?;
            let errors = output.errors();
            let more = errors.split("… and ").nth(1).and_then(|rest| rest.split(' ').next());
            let more = more.and_then(|more| more.parse::<u64>().ok());
            depths.push(more.ok_or_else(|| output.failed("how deep it was is not told"))?);
        }
    }
    check(depths[2] > 10 * depths[0] && depths[3] > 10 * depths[1], || format!("depths: {depths:?}"))?;
    let refused = context.guest("recursion")?.options(["--stack", "1KiB"]).run()?;
    refused.exits(2)?.says(&["--stack", "16KiB to 512KiB"])?;
    Ok(())
}

/// A manifest of one domain, of programs that have each a name, a guest, and lines.
fn crowd(context: &Context, programs: &[(&str, &str, &str)]) -> Verdict<Up> {
    let mut text = String::from("[domains.crowd]\nmemory = \"128MiB\"\n");
    for (name, guest, lines) in programs {
        context.file(&format!("{guest}.wat"), guests::text(guest)?)?;
        text += &format!(
            "[[domains.crowd.programs]]\nname = \"{name}\"\nfile = \"{guest}.wat\"\nmemory = \"8MiB\"\n{lines}\n"
        );
    }
    Up::start_manifest(context, context.file("crowd.toml", text)?, "crowd")
}

/// Who writes without end waits, and is told of; in the same time its neighbour writes what it likes.
fn log_rate(context: &Context) -> Verdict {
    const BYTES_PER_S: u64 = 1 << 10;
    let mut up = crowd(context, &[("slow", "yes", "log-rate = \"1KiB/s\""), ("fast", "yes", "")])?;
    up.until_program("fast", "started")?;
    let is_told = |up: &Up| {
        let mut client = up.client()?;
        let which = Selector::Named("crowd/slow".into());
        client.ask(&Request::Log { which, from: control::From::Start, follow: control::Follow::Yes })?;
        loop {
            let Reply::Log(piece) = client.reply()? else { return Err(Failed("the log ended".into())) };
            let told = piece.lines.iter().find(|line| line.bytes.ends_with(b"faster than its log-rate"));
            if let Some(line) = told {
                return Ok(line.stream);
            }
        }
    };
    check_eq("where it is told", is_told(&up)?, control::Stream::Event)?;
    up.until_listed(|system| {
        let [slow, fast] = &system.domains[0].programs[..] else { return Err(Failed(format!("{system:?}"))) };
        // A second's worth at once, and then as the time passes.
        let bytes_max = BYTES_PER_S + BYTES_PER_S * system.uptime_ns.div_ceil(1_000_000_000);
        check(slow.log.bytes <= bytes_max, || {
            format!("{} bytes in {} ns", slow.log.bytes, system.uptime_ns)
        })?;
        check_eq("their states", (slow.state, fast.state), (State::Running, State::Running))?;
        Ok(slow.log.bytes > 3 * BYTES_PER_S && fast.log.bytes > 16 * BYTES_PER_S)
    })?;
    up.end(Signal::INT)?.exits(130)?.ends_well()?;
    Ok(())
}

/// Each reaches its limit again and again; who does nothing of that goes on, and nothing is lost on the way.
fn nothing_to_others(context: &Context) -> Verdict {
    const ROUNDS: u64 = 4;
    const OFFENDERS: &[(&str, &str, &str)] = &[
        ("recursion", "recursion", "restart = \"always\"\nstack = \"64KiB\""),
        ("asks", "recursion-host", "restart = \"always\""),
        ("memory", "grow", "restart = \"always\""),
        ("tables", "tables", "restart = \"always\""),
        (
            "files",
            "opens",
            "restart = \"always\"\ndirectories = [{ path = \"granted\", name = \"/granted\" }]",
        ),
        ("traps", "traps", "restart = \"always\"\narguments = [\"d\"]"),
        ("throws", "uncaught", "restart = \"always\"\narguments = [\"throw\"]"),
    ];
    fs::create_dir(context.folder().join("granted"))?;
    let programs = [OFFENDERS, &[("writes", "yes", "log-rate = \"1KiB/s\""), ("calm", "ready-spin", "")]];
    let mut up = crowd(context, &programs.concat())?;
    up.until_program("calm", "started")?;
    up.until_written("crowd/calm")?;
    let offenders = OFFENDERS.len();
    let until_rounds = |rounds| {
        up.until_domain(|domain| {
            domain.programs[..offenders].iter().all(|program| program.restarts >= rounds)
        })
    };
    let before = until_rounds(1)?;
    let after = until_rounds(ROUNDS)?;
    for calm in &after.programs[offenders..] {
        check_eq(&calm.name, (calm.state, calm.restarts), (State::Running, 0))?;
    }
    check_eq("the domain's process", after.process_id, before.process_id)?;
    let statuses: Vec<_> = after.programs[..offenders]
        .iter()
        .map(|program| match program.last_end {
            Some(End::Exited { status }) => status,
            _ => 255,
        })
        .collect();
    check_eq("how they ended", statuses, vec![134, 134, 0, 134, 7, 134, 134])?;
    // Each run takes megabytes, and gives them back; what is kept for later runs is kept after the first.
    let grown = after.usage.memory.used_bytes.saturating_sub(before.usage.memory.used_bytes);
    check(grown < 12 << 20, || format!("{grown} bytes more after {ROUNDS} rounds"))?;
    up.end(Signal::INT)?.exits(130)?.ends_well()?;
    Ok(())
}

/// Two that take all memory of their domain, and files, descriptors and whatever else they get; a third does not notice, and when they have
/// been killed the domain has no more than what it keeps for the next.
fn of_a_whole_domain(context: &Context) -> Verdict {
    fs::create_dir(context.folder().join("granted"))?;
    for guest in ["ready-spin", "grows-then-opens"] {
        context.file(&format!("{guest}.wat"), guests::text(guest)?)?;
    }
    let greedy = "file = \"grows-then-opens.wat\"\nrestart = \"always\"\ndirectories = [{ path = \"granted\", name = \"/granted\" }]";
    let text = format!(
        "[domains.crowd]\nmemory = \"48MiB\"\n\
         [[domains.crowd.programs]]\nname = \"calm\"\nfile = \"ready-spin.wat\"\nmemory = \"1MiB\"\n\
         [[domains.crowd.programs]]\nname = \"greedy\"\nmemory = \"18MiB\"\n{greedy}\n\
         [[domains.crowd.programs]]\nname = \"hog\"\nmemory = \"29MiB\"\n{greedy}\n"
    );
    let mut up = Up::start_manifest(context, context.file("crowd.toml", text)?, "crowd")?;
    up.until_program("calm", "started")?;
    up.until_written("crowd/calm")?;
    for (program, rounds) in [("greedy", 2), ("hog", 2)] {
        for _ in 0..rounds {
            let ended = up.until_program(program, "ended")?;
            let status = ended["status"].as_u64();
            check([7, 125, 137].map(Some).contains(&status), || {
                let words = crashes(context, program).map(|reports| format!("{reports:?}"));
                format!("{ended}: {}", words.unwrap_or_else(|failed| failed.0))
            })?;
        }
    }
    for program in ["greedy", "hog"] {
        let which = Selector::Named(format!("crowd/{program}"));
        up.ask(&Request::Kill { which, how: control::How::Gracefully })?;
    }
    let domain = up.first_domain()?;
    let calm = &domain.programs[0];
    check_eq("the calm one", (calm.state, calm.restarts), (State::Running, 0))?;
    check(calm.usage.host_bytes < 64 << 10, || format!("{} bytes are held for it", calm.usage.host_bytes))?;
    let used = domain.usage.memory.used_bytes;
    check(used < 24 << 20, || format!("the domain still uses {used} bytes"))?;
    up.end(Signal::INT)?.exits(130)?.ends_well()?;
    Ok(())
}

/// Of a program that ends itself nothing more is said; of others, where they were and what they had used.
fn crash_of_a_run(context: &Context) -> Verdict {
    let output = context.guest("traps")?.arguments(["d"]).options(["--memory", "1MiB"]).run()?;
    let parts = ["trap: integer divide by zero", " 0: divides_by_zero", "used: memory 64 KiB of 1 MiB, CPU "];
    output.exits(134)?.ends_well()?.says(&parts)?;
    let output = context.guest("spin")?.options(["--timeout", "100ms"]).run()?;
    output.exits(124)?.ends_well()?.says(&["its time is over", " 0: function 0 +0x", " of 100 ms"])?;
    let output = context.guest("exit")?.arguments(["3"]).run()?;
    output.exits(3)?.writes("")?;
    check_eq("standard error", output.errors(), "")
}

/// `selkis crash` of this, for scripts.
pub fn crashes(context: &Context, name: &str) -> Verdict<Vec<Value>> {
    let command = context.command().options(["crash", name, "--json"]);
    let output = command.variable("XDG_RUNTIME_DIR", runtime_folder(context)?).run()?;
    output.exits(0)?.ends_well()?;
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn crash_reports(context: &Context) -> Verdict {
    let mut up = crowd(
        context,
        &[
            ("traps", "traps", "arguments = [\"d\"]\ndescriptors = 9"),
            ("fails", "exit", "arguments = [\"3\"]"),
            ("late", "ready-spin", "timeout = \"200ms\""),
            ("good", "exit", ""),
            ("calm", "ready-spin", ""),
        ],
    )?;
    up.until_program("calm", "started")?;
    up.until_domain(|domain| domain.programs[..4].iter().all(|program| program.state == State::Ended))?;
    let reports = crashes(context, "crowd")?;
    let names: Vec<_> = reports.iter().map(|report| report["program"].as_str().unwrap_or_default()).collect();
    check_eq("who has failed", names, ["traps", "fails", "late"])?;
    let [traps, fails, late] = &reports[..] else { return Err(Failed(format!("{reports:?}"))) };
    check_eq("its reason", &traps["reason"], &Value::from("trap: integer divide by zero"))?;
    check_eq("where it was", &traps["backtrace"][0]["name"], &Value::from("divides_by_zero"))?;
    check_eq("its depth", &traps["depth"], &Value::from(2))?;
    check_eq(
        "its memory",
        &traps["limits"]["memory_bytes"],
        &serde_json::json!({ "used": 65536 + 2 * 8, "max": 8 << 20 }),
    )?;
    check_eq(
        "its descriptors",
        &traps["limits"]["descriptors"],
        &serde_json::json!({ "used": 3, "max": 9 }),
    )?;
    check_eq("its status", &fails["exit_status"], &Value::from(3))?;
    check_eq("its reason", &fails["reason"], &Value::from("exit status 3"))?;
    check_eq("the late one's status", &late["exit_status"], &Value::from(124))?;
    check_eq("what it wrote", &late["last_lines"][0]["text"], &Value::from("ready"))?;
    check(late["limits"]["time_ns"]["used"].as_u64() >= Some(200_000_000), || format!("{late}"))?;
    // If it was in a function of WASI then, that has ended it, and there is no backtrace.
    let place = &late["backtrace"][0]["function"];
    check(place.is_u64() || late["depth"] == 0, || format!("{late}"))?;
    let output = context.command().options(["crash", "traps"]);
    let output = output.variable("XDG_RUNTIME_DIR", runtime_folder(context)?).run()?;
    let text = String::from_utf8_lossy(&output.exits(0)?.stdout).into_owned();
    for part in ["crowd/traps: exit status 134", "  trap: integer divide by zero", "   0: divides_by_zero"] {
        check(text.contains(part), || output.failed(&format!("expected {part:?}")).0)?;
    }
    // Who has not failed has no report.
    check_eq("reports on the calm one", crashes(context, "calm")?.len(), 0)?;
    up.end(Signal::INT)?.exits(130)?.ends_well()?;
    Ok(())
}
