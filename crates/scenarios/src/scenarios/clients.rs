//! What `selkis ps` and `top` say of systems that really run. (`systems` has `log` and `kill`.)

use crate::fetch::fetch;
use crate::runner::{On, Platform, Scenario};
use crate::selkis::{Context, Run};
use crate::system::{Guest, Up, runtime_folder};
use crate::verdict::{Verdict, check, check_eq};
use serde_json::Value;
use std::path::Path;

const HOSTED: On = On::Only(Platform::Hosted);

pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "look-at-tenants", on: HOSTED, run: tenants },
    Scenario { name: "look-at-states", on: HOSTED, run: states },
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
