//! A domain on several virtual CPUs.

use crate::guests;
use crate::runner::{On, Platform, Scenario};
use crate::selkis::Context;
use crate::system::{Guest, Up, manifest as manifest_of};
use crate::verdict::{Verdict, check, check_eq};
use control::{End, How, Program, Request, Selector, State};
use rustix::process::Signal;
use serde_json::Value;
use std::fs;

pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "cpus-share-processes", on: On::Several, run: share },
    Scenario { name: "cpus-end-at-any-moment", on: On::Several, run: end_at_any_moment },
    Scenario { name: "cpus-four", on: On::Only(Platform::Vm2), run: four },
    Scenario { name: "cpus-hold-shares", on: On::Only(Platform::Vm2), run: hold_shares },
    Scenario { name: "cpus-too-many", on: On::Both, run: too_many },
];

const GUESTS: [&str; 4] = ["ready-spin", "traps", "sleep", "exit"];

/// A manifest of one domain, which has so many CPUs, and these programs: name, file, lines.
fn manifest(cpus: u32, programs: &[(&str, &str, &str)]) -> String {
    let mut text = format!("[domains.all]\nmemory = \"256MiB\"\ncpus = {cpus}\nprocesses = 32\n");
    for (name, file, lines) in programs {
        text += &format!(
            "[[domains.all.programs]]\nname = \"{name}\"\nfile = \"{file}.wat\"\nmemory = \"4MiB\"\n{lines}\n"
        );
    }
    text
}

fn start(context: &Context, manifest: String) -> Verdict<Up> {
    for guest in GUESTS {
        context.file(&format!("{guest}.wat"), guests::text(guest)?)?;
    }
    Up::start_manifest(context, context.file("cpus.toml", manifest)?, "cpus")
}

/// All get on, each on either virtual CPU; one that runs on the other is ended, by whoever asks, by its time and by its CPU time; and who
/// sleeps is woken.
fn share(context: &Context) -> Verdict {
    let wanted = [
        ("spin", "ready-spin", "instances = 3"),
        ("limited", "ready-spin", "cpu-time = \"300ms\""),
        ("timed", "ready-spin", "timeout = \"2s\""),
        ("sleeps", "sleep", ""),
        ("traps", "traps", "arguments = [\"d\"]"),
    ];
    let mut up = start(context, manifest(2, &wanted))?;
    let mut left = vec![("limited", 124), ("timed", 124), ("sleeps", 0), ("traps", 134)];
    while !left.is_empty() {
        let next = up.next()?;
        let is_it = |(name, _): &(&str, i32)| next["program"] == *name && next["event"] == "ended";
        if let Some(place) = left.iter().position(is_it) {
            let (name, status) = left.remove(place);
            check_eq(name, &next["status"], &Value::from(status))?;
        }
    }
    let has_moved = |program: &Program| program.usage.migrations > 0 && program.usage.cpu_ns > 0;
    let domain = up.until_domain(|domain| domain.programs[..3].iter().all(has_moved))?;
    for spin in &domain.programs[..3] {
        check_eq("its state", (spin.state, spin.restarts), (State::Running, 0))?;
    }
    for number in 0..3 {
        let which = Selector::Named(format!("all/spin/{number}"));
        up.ask(&Request::Kill { which, how: How::Gracefully })?;
        let end = up.until_program(&format!("spin/{number}"), "ended")?;
        check_eq("its end", &end["status"], &Value::from(130))?;
    }
    up.finish()?.ends_well()?;
    Ok(())
}

/// Many processes end, each at a moment of its own, again and again on either virtual CPU; and all that they had comes back.
fn end_at_any_moment(context: &Context) -> Verdict {
    let limits: Vec<String> = (1..=4)
        .map(|step| format!("instances = 3\nrestart = \"always\"\ncpu-time = \"{}us\"", step * 730))
        .collect();
    let mut wanted = vec![("traps", "traps", "instances = 3\nrestart = \"always\"\narguments = [\"b\"]")];
    let names = ["a", "b", "c", "d"];
    wanted.extend(names.iter().zip(&limits).map(|(name, lines)| (*name, "ready-spin", lines.as_str())));
    wanted.push(("spin", "ready-spin", "instances = 2"));
    let mut up = start(context, manifest(2, &wanted))?;
    up.until("all", "started")?;
    let has_restarted = |program: &Program| program.restarts >= 4 || program.name.starts_with("spin");
    let domain = up.until_domain(|domain| domain.programs.iter().all(has_restarted))?;
    for program in &domain.programs {
        let expected = match program.name.split('/').next() {
            Some("traps") => Some(End::Exited { status: 134 }),
            Some("spin") => None,
            _ => Some(End::Exited { status: 124 }),
        };
        check_eq(&program.name, &program.last_end, &expected)?;
    }
    // In the machine, what had not come back would be its exit status.
    up.end(Signal::INT)?.exits(130)?.ends_well()?;
    Ok(())
}

/// More of them than this machine may have.
fn four(context: &Context) -> Verdict {
    for guest in GUESTS {
        context.file(&format!("{guest}.wat"), guests::text(guest)?)?;
    }
    let wanted = [("spin", "ready-spin", "instances = 6"), ("exit", "exit", "instances = 4")];
    let path = context.file("cpus.toml", manifest(4, &wanted))?;
    let command = context.command().options(["up", "--vm", "--cpus=4"]).options([path]);
    let mut up = Up::start_command(context, command, "cpus")?;
    up.until("all", "started")?;
    let is_done = |program: &Program| match program.name.starts_with("spin") {
        true => program.usage.migrations > 0,
        false => program.last_end.is_some(),
    };
    let domain = up.until_domain(|domain| domain.programs.iter().all(is_done))?;
    let ends: Vec<_> = domain.programs[6..].iter().map(|program| program.last_end.clone()).collect();
    check_eq("their ends", ends, vec![Some(End::Exited { status: 0 }); 4])?;
    up.end(Signal::INT)?.exits(130)?.ends_well()?;
    Ok(())
}

/// Five shares of two CPUs go to four domains that would take a whole one each: the fair part of each is not a number of CPUs, so they must
/// change places. How unequal they are sinks with time if it is by a slice now and then, and does not if somebody is left out.
fn hold_shares(context: &Context) -> Verdict {
    let [a, b, c, d] = ["a", "b", "c", "d"].map(|domain| Guest::new(domain, "ready-spin"));
    let path = manifest_of(context, "shares", &[a, b, c, d])?;
    let text = fs::read_to_string(&path)?.replace("[domains.d]", "[domains.d]\ncpu-share = 200");
    let mut up = Up::start_manifest(context, context.file("shares.toml", text)?, "shares")?;
    up.until("d", "started")?;
    up.until_listed(|system| {
        let parts = system.domains.iter().zip([1, 1, 1, 2]);
        let had: Vec<u64> = parts.map(|(domain, share)| domain.usage.cpu_ns / share).collect();
        let (least, most) = (had.iter().min().unwrap_or(&0), had.iter().max().unwrap_or(&0));
        Ok(*least >= 1_000_000_000 && most - least <= least / 10)
    })?;
    up.end(Signal::INT)?.exits(130)?.ends_well()?;
    Ok(())
}

/// What cannot be is told with its line.
fn too_many(context: &Context) -> Verdict {
    for (cpus, why) in [(17, "`17` is not in the range of `cpus`"), (16, "the domain `all` wants 16 CPUs")] {
        let path = context.file("cpus.toml", manifest(cpus, &[("exit", "exit", "")]))?;
        let output = context.up(path).run()?;
        output.exits(125)?;
        let place = if cpus == 17 { "cpus.toml:3:8:" } else { "cpus.toml:1:10:" };
        let text = String::from_utf8_lossy(&output.stderr);
        check(text.contains(place) && text.contains(why), || text.to_string())?;
    }
    Ok(())
}
