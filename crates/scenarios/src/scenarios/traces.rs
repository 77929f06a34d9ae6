//! What a machine's kernel says it does: `selkis trace`, and its log.

use crate::guests;
use crate::runner::{On, Platform, Scenario};
use crate::selkis::{Context, Running};
use crate::system::{Guest, Up, runtime_folder};
use crate::verdict::{Failed, Verdict, check, check_eq};
use rustix::process::Signal;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "trace-a-machine", on: On::Machines, run: a_machine },
    Scenario { name: "trace-needs-a-machine", on: On::Only(Platform::Hosted), run: hosted },
    Scenario { name: "mitigations-reach-the-kernel", on: On::Only(Platform::Vm), run: mitigations },
];

fn selkis(context: &Context, words: &[&str]) -> Verdict<Running> {
    context.command().options(words).variable("XDG_RUNTIME_DIR", runtime_folder(context)?).start()
}

fn json(line: &str) -> Verdict<Value> {
    Ok(serde_json::from_str(line)?)
}

/// Whether each CPU of the system is traced.
fn traced(context: &Context) -> Verdict<Vec<bool>> {
    let output = selkis(context, &["ps", "--json"])?.finish()?;
    let system = json(&String::from_utf8_lossy(&output.exits(0)?.stdout))?;
    let cpus = system["cpus"].as_array().map_or(&[][..], Vec::as_slice);
    check(!cpus.is_empty(), || system.to_string())?;
    Ok(cpus.iter().map(|cpu| cpu["traced"] == true).collect())
}

/// Two domains, one of which writes all the time and one that only computes: with a CPU of its own, it runs before it is traced and ever after.
fn a_machine(context: &Context) -> Verdict {
    let mut up = Up::start(context, &[Guest::new("loud", "yes"), Guest::new("busy", "ready-spin")])?;
    up.until("loud", "started")?;
    up.until_written("loud")?;
    up.until_written("busy")?;
    check(traced(context)?.iter().all(|traced| !traced), || "it is traced unasked".into())?;

    let mut follower = selkis(context, &["trace", "--follow", "--json"])?;
    let mut wanted: BTreeSet<(&str, &str)> = [
        ("loud", "switch"),
        ("busy", "switch"),
        ("(root)", "switch"),
        ("loud", "request"),
        ("(root)", "request"),
    ]
    .into();
    let limit = Instant::now() + Duration::from_secs(60);
    let mut last_ns = 0;
    while !wanted.is_empty() {
        let record = json(&follower.read_line()?)?;
        let names = (record["domain"].as_str(), record["event"].as_str());
        wanted.retain(|(domain, event)| names != (Some(domain), Some(event)));
        if record["event"] == "request" {
            check(record["request"].is_string() && record["outcome"].is_string(), || record.to_string())?;
        }
        last_ns = record["at_ns"].as_u64().unwrap_or(last_ns);
        check(Instant::now() < limit, || format!("{wanted:?} did not come in {last_ns} ns"))?;
    }
    check(traced(context)?.iter().all(|traced| *traced), || "it is not traced".into())?;
    follower.signal(Signal::INT)?;
    // Its pipe is read to the end.
    follower.finish()?.exits(0)?;
    while traced(context)?.iter().any(|traced| *traced) {
        check(Instant::now() < limit, || "it is traced when the client has left".into())?;
    }

    let file = context.folder().join("trace.json");
    let path = file.to_string_lossy().into_owned();
    selkis(context, &["trace", "--chrome", "--output", &path, "--for", "2s"])?
        .finish()?
        .exits(0)?
        .says(&["lost"])?;
    let trace = json(&fs::read_to_string(&file)?)?;
    let events = trace["traceEvents"].as_array().ok_or_else(|| Failed("no events".into()))?;
    let slices = events.iter().filter(|event| event["ph"] == "X");
    let names: BTreeSet<&str> = slices.filter_map(|slice| slice["name"].as_str()).collect();
    check(names.contains("loud") && names.contains("busy"), || format!("{names:?} ran"))?;

    let output = selkis(context, &["trace", "--domain", "busy", "--for", "1s"])?.finish()?;
    let table = String::from_utf8_lossy(&output.exits(0)?.stdout).into_owned();
    check(table.contains("busy    switch"), || table.clone())?;
    check(!table.contains("loud"), || table.clone())?;
    up.end(Signal::INT)?.exits(130)?;
    Ok(())
}

fn hosted(context: &Context) -> Verdict {
    let mut up = Up::start(context, &[Guest::new("busy", "ready-spin")])?;
    up.until("busy", "started")?;
    let output = selkis(context, &["trace"])?.finish()?;
    output.exits(1)?.says(&["runs on Linux", "up --vm", "strace -f -p"])?;
    check_eq("what it wrote", output.stdout.len(), 0)?;
    up.end(Signal::INT)?.exits(130)?;
    Ok(())
}

/// What a manifest says of them is what the kernel does.
fn mitigations(context: &Context) -> Verdict {
    context.file("exit.wat", guests::text("exit")?)?;
    for (choice, does) in [
        ("", "nothing, the CPU offers nothing that it needs"),
        ("mitigations = \"on\"\n", "nothing, the CPU offers nothing that it needs"),
        ("mitigations = \"off\"\n", "nothing, as the command line says"),
    ] {
        let domain = "[domains.a]\nmemory = \"64MiB\"\n[[domains.a.programs]]\nfile = \"exit.wat\"\n";
        let manifest = context.file("mitigations.toml", format!("{choice}{domain}"))?;
        let up = context.up(manifest).options(["--kernel-log", "info"]);
        let output = up.variable("XDG_RUNTIME_DIR", runtime_folder(context)?).run()?;
        output.exits(0)?;
        let said = output.errors();
        let told = said.lines().filter_map(|line| Some(line.split_once("between domains: ")?.1.trim_end()));
        check_eq(choice, told.collect::<Vec<_>>(), vec![does])?;
    }
    Ok(())
}
