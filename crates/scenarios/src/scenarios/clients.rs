//! What `selkis ps` and `top` say of systems that really run. (`systems` has `log` and `kill`.)

use crate::fetch::fetch;
use crate::runner::{On, Platform, Scenario};
use crate::selkis::{Context, Run};
use crate::system::{Guest, Up, manifest, runtime_folder};
use crate::verdict::{Verdict, check, check_eq};
use rustix::process::Signal;
use serde_json::Value;
use std::path::Path;

const HOSTED: On = On::Only(Platform::Hosted);

pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "look-at-tenants", on: HOSTED, run: tenants },
    Scenario { name: "look-at-states", on: On::All, run: states },
    Scenario { name: "look-at-four-cpus", on: On::Only(Platform::Vm2), run: four_cpus },
];

/// A command that looks into the scenario's systems.
fn look<'a>(context: &'a Context, words: &[&str]) -> Verdict<Run<'a>> {
    Ok(context.command().options(words).variable("XDG_RUNTIME_DIR", runtime_folder(context)?))
}

/// What it writes.
fn shown(context: &Context, words: &[&str]) -> Verdict<String> {
    let output = look(context, words)?.run()?;
    output.exits(0)?.ends_well()?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A domain, as scripts see it.
fn domain(context: &Context, name: &str) -> Verdict<Value> {
    let system: Value = serde_json::from_str(&shown(context, &["ps", name, "--json"])?)?;
    Ok(system["domains"][0].clone())
}

/// The example that the README starts.
fn tenants(context: &Context) -> Verdict {
    for program in ["python.wasm", "quickjs.wasm", "rg.wasm"] {
        fetch(program)?;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("two folders deep");
    let mut up = Up::start_manifest(context, root.join("systems/tenants.toml"), "tenants")?;
    up.until_ended(&["carol"])?;
    for domain in ["alice", "bob", "dave"] {
        up.until_written(domain)?;
    }
    let lines = |text: String| text.lines().map(str::to_owned).collect::<Vec<_>>();
    let search = lines(shown(context, &["log", "carol"])?);
    check(search.iter().any(|line| line.starts_with("/systems/tenants.toml:")), || format!("{search:?}"))?;
    let table = lines(shown(context, &["ps"])?);
    check_eq("lines of ps", table.len(), 7)?;
    let alice = domain(context, "alice")?;
    check_eq("Alice's clock", alice["programs"][0]["state"].as_str(), Some("running"))?;
    check(alice["process_id"].is_u64(), || format!("{alice}"))?;
    let (used, quota) = (alice["memory_used_bytes"].as_u64(), alice["memory_quota_bytes"].as_u64());
    check(used > Some(0) && used <= quota, || format!("{alice}"))?;
    check_eq("what kill says", shown(context, &["kill", "--all"])?.as_str(), "ended the system tenants\n")?;
    up.finish()?.exits(0)?.ends_well()?;
    Ok(())
}

/// What ended how is what `ps` says.
fn states(context: &Context) -> Verdict {
    let guests = [
        Guest::new("good", "exit"),
        Guest::with("bad", "exit", "arguments = [\"3\"]"),
        Guest::with("again", "exit", "arguments = [\"4\"]\nrestart = \"on-failure\""),
        Guest::new("runs", "ready-spin"),
    ];
    let mut up = Up::start(context, &guests)?;
    up.until_ended(&["good", "bad", "again"])?;
    for (name, state, status) in [("good", "ended", 0), ("bad", "ended", 3)] {
        let program = &domain(context, name)?["programs"][0];
        check_eq(
            name,
            (program["state"].as_str(), program["exit_status"].as_u64()),
            (Some(state), Some(status)),
        )?;
    }
    let again = &domain(context, "again")?["programs"][0];
    check_eq("its status", again["exit_status"].as_u64(), Some(4))?;
    check_eq("what runs", domain(context, "runs")?["programs"][0]["state"].as_str(), Some("running"))?;
    let used: Value = serde_json::from_str(&shown(context, &["top", "--json", "--interval", "300ms"])?)?;
    let busiest = &used["domains"][0];
    check_eq("the busiest", busiest["name"].as_str(), Some("runs"))?;
    check(busiest["cpu_percent"].as_f64() > Some(0.0), || format!("{busiest}"))?;
    let wrong = look(context, &["ps", "goood"])?.run()?;
    wrong.exits(1)?.writes("")?.says(&["did you mean `good`?"])?;
    look(context, &["ps", "--system", "other"])?.run()?.exits(1)?.says(&["there are: system"])?;
    check_eq(
        "what kill says",
        shown(context, &["kill", "--all", "--now"])?.as_str(),
        "ended the system system\n",
    )?;
    up.finish()?.exits(1)?;
    look(context, &["ps"])?.run()?.exits(1)?.says(&["no system is running", "selkis up"])?;
    Ok(())
}

/// Four domains that want a CPU each, and some that end, on more CPUs than this machine may have.
fn four_cpus(context: &Context) -> Verdict {
    let spinning = ["a", "b", "c", "d"];
    let mut guests: Vec<_> = spinning.iter().map(|name| Guest::new(name, "ready-spin")).collect();
    guests.push(Guest::with("good", "exit", "restart = \"always\""));
    guests.push(Guest::with("bad", "exit", "arguments = [\"3\"]"));
    let path = manifest(context, "system", &guests)?;
    let command = context.command().options(["up", "--vm", "--cpus=4"]).options([path]);
    let mut up = Up::start_command(context, command, "system")?;
    up.until_ended(&["bad"])?;
    for name in spinning {
        up.until_written(name)?;
    }
    // It has come and gone before, and is back.
    up.until_listed(|system| Ok(system.domains.iter().any(|domain| domain.programs[0].restarts > 1)))?;
    let listed: Value = serde_json::from_str(&shown(context, &["ps", "--json"])?)?;
    check_eq("CPUs", listed["cpus"].as_array().map(Vec::len), Some(4))?;
    for (number, name) in spinning.iter().enumerate() {
        let found = &listed["domains"][number];
        let state = (found["name"].as_str(), found["programs"][0]["state"].as_str());
        check_eq("what spins", state, (Some(*name), Some("running")))?;
        let (used, quota) = (found["memory_used_bytes"].as_u64(), found["memory_quota_bytes"].as_u64());
        check(used > Some(0) && used <= quota, || found.to_string())?;
    }
    let bad = &listed["domains"][5]["programs"][0];
    check_eq("what ended", (bad["state"].as_str(), bad["exit_status"].as_u64()), (Some("ended"), Some(3)))?;
    let table = shown(context, &["ps"])?;
    check_eq(
        "lines that say running",
        table.lines().filter(|line| line.contains("running")).count() >= 4,
        true,
    )?;
    let used: Value = serde_json::from_str(&shown(context, &["top", "--json", "--interval", "1s"])?)?;
    for name in spinning {
        let domains = used["domains"].as_array().map_or(&[][..], Vec::as_slice);
        let has_run = |domain: &Value| domain["name"] == name && domain["cpu_percent"].as_f64() > Some(0.0);
        check(domains.iter().any(has_run), || format!("{name} has not run: {used}"))?;
    }
    // The root compares what each domain leaves; what had not come back would be the machine's exit status.
    up.end(Signal::INT)?.exits(130)?.ends_well()?;
    Ok(())
}
