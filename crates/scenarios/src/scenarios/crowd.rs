//! Several processes in one domain.

use crate::guests;
use crate::processes::only_child;
use crate::runner::{On, Platform, Scenario};
use crate::selkis::Context;
use crate::system::Up;
use crate::verdict::{Failed, Verdict, check, check_eq};
use control::{Domain, End, How, Program, Reply, Request, Selector, State};
use rustix::process::{Signal, pidfd_send_signal};
use serde_json::Value;

pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "crowd-in-a-domain", on: On::All, run: in_a_domain },
    Scenario { name: "crowd-of-a-thousand", on: On::All, run: of_a_thousand },
    Scenario { name: "crowd-without-a-page", on: On::All, run: without_a_page },
    Scenario { name: "crowd-breaks-together", on: On::Only(Platform::Hosted), run: breaks_together },
    Scenario { name: "crowd-hears-last-words", on: On::Only(Platform::Hosted), run: last_words },
];

/// Two instances that never give way, a program that fails again and again, one that is done at once.
const CROWD: &str = r#"
[domains.crowd]
memory = "128MiB"
[[domains.crowd.programs]]
name = "spin"
file = "ready-spin.wat"
instances = 2
memory = "16MiB"
restart = "always"
[[domains.crowd.programs]]
name = "fails"
file = "traps.wat"
arguments = ["d"]
memory = "16MiB"
restart = "on-failure"
[[domains.crowd.programs]]
name = "done"
file = "exit.wat"
memory = "16MiB"
"#;

fn start(context: &Context) -> Verdict<Up> {
    for guest in ["ready-spin", "traps", "exit"] {
        context.file(&format!("{guest}.wat"), guests::text(guest)?)?;
    }
    Up::start_manifest(context, context.file("crowd.toml", CROWD)?, "crowd")
}

/// A thousand processes that all want the CPU: each has it, a wrong name is answered in a line that can be read, one ends and the others go on.
fn of_a_thousand(context: &Context) -> Verdict {
    for guest in ["ready-spin", "child"] {
        context.file(&format!("{guest}.wat"), guests::text(guest)?)?;
    }
    // Hosted, what could be written of a stack counts.
    let text = "[domains.crowd]\nmemory = \"1100MiB\"\nprocesses = 1000\n[[domains.crowd.programs]]\nname = \"spin\"\n\
                file = \"ready-spin.wat\"\ninstances = 1000\nmemory = \"64KiB\"\n\
                [domains.neighbour]\nmemory = \"8MiB\"\n[[domains.neighbour.programs]]\nfile = \"child.wat\"\narguments = [\"z\"]\n";
    let mut up = Up::start_manifest(context, context.file("crowd.toml", text)?, "crowd")?;
    up.until_program("spin/999", "started")?;
    let has_run = |program: &Program| program.usage.cpu_ns > 0 && program.state == State::Running;
    up.until_domain(|domain| domain.programs.iter().all(has_run))?;
    let which = |name: &str| Selector::Named(name.into());
    let refused = up.ask(&Request::Kill { which: which("spun"), how: How::Gracefully })?;
    let Reply::Refused(refusal) = refused else { return Err(Failed(format!("not refused: {refused:?}"))) };
    let words = refusal.to_string();
    check(words.ends_with("crowd/spin/19 and 981 others"), || words)?;
    up.ask(&Request::Kill { which: which("crowd/spin/500"), how: How::Gracefully })?;
    let ended = up.until_program("spin/500", "ended")?;
    check_eq("its end", &ended["status"], &Value::from(130))?;
    let running = up.first_domain()?.programs.iter().filter(|program| has_run(program)).count();
    check_eq("how many go on", running, 999)?;
    // All at once, as they are: in the machine, what had not come back would be its exit status.
    up.ask(&Request::Kill { which: which("crowd"), how: How::AtOnce })?;
    let domain =
        up.until_domain(|domain| domain.programs.iter().all(|program| program.state == State::Stopped))?;
    let broken = |program: &&Program| matches!(program.last_end, Some(End::Broken { .. }));
    check_eq("how many ended with it", domain.programs.iter().filter(broken).count(), 999)?;
    check_eq("the neighbour", up.program("neighbour")?.state, State::Running)?;
    up.end(Signal::INT)?.exits(130)?.ends_well()?;
    Ok(())
}

/// A hundred that write to all the memory they were promised, which is all that their domain has: the library OS has its own in there as well, so the
/// pages are gone while all of them touch new ones, in their own code and in the host's. Those that get none end, and try again; who has touched what it
/// needs goes on.
fn without_a_page(context: &Context) -> Verdict {
    for guest in ["ready-spin", "fills"] {
        context.file(&format!("{guest}.wat"), guests::text(guest)?)?;
    }
    let cpus = if context.platform == Platform::Vm { 1 } else { 2 };
    let text = format!(
        "[domains.crowd]\nmemory = \"6464KiB\"\nprocesses = 101\ncpus = {cpus}\n[[domains.crowd.programs]]\nname = \"calm\"\n\
         file = \"ready-spin.wat\"\nmemory = \"64KiB\"\nrestart = \"always\"\n[[domains.crowd.programs]]\nname = \"fills\"\n\
         file = \"fills.wat\"\nmemory = \"64KiB\"\ninstances = 100\nrestart = \"always\"\n"
    );
    let mut up = Up::start_manifest(context, context.file("crowd.toml", text)?, "crowd")?;
    up.until_program("calm", "started")?;
    // Hosted, what could be written of a stack counts, so most do not come to run, and who came first keeps its place: that need not be the calm one.
    let hosted = context.platform == Platform::Hosted;
    let until_short = |times| {
        let has_failed = |program: &&Program| program.restarts >= times;
        up.until_domain(|domain| {
            settled(domain, hosted).is_some() && domain.programs[1..].iter().filter(has_failed).count() >= 30
        })
    };
    let before = until_short(1)?;
    let after = until_short(3)?;
    let ends: Vec<&End> = after.programs.iter().filter_map(|program| program.last_end.as_ref()).collect();
    check(ends.iter().all(|end| matches!(end, End::Exited { status: 137 | 125 })), || format!("{ends:?}"))?;
    let found_none = ends.iter().any(|end| matches!(end, End::Exited { status: 137 }));
    check(found_none || hosted, || format!("{ends:?}"))?;
    let Some(kept) = settled(&before, hosted) else {
        return Err(Failed(format!("nobody goes on: {before:?}")));
    };
    let restarts = |domain: &Domain| domain.programs[kept].restarts;
    check_eq("restarts of who has what it needs", restarts(&after), restarts(&before))?;
    up.ask(&Request::Kill { which: Selector::Named("crowd/fills".into()), how: How::Gracefully })?;
    let stopped = |program: &Program| program.state == State::Stopped;
    let alone = up.until_domain(|domain| domain.programs[1..].iter().all(stopped))?;
    check_eq("the domain's process", alone.process_id, before.process_id)?;
    let calm = &alone.programs[0];
    if kept == 0 {
        check_eq("the calm one", (calm.state, calm.restarts), (State::Running, restarts(&before)))?;
    }
    up.until_domain(|domain| domain.programs[0].usage.cpu_ns > calm.usage.cpu_ns)?;
    up.end(Signal::INT)?.exits(130)?.ends_well()?;
    Ok(())
}

/// The first program that goes on with what it has; only where `anyone` may be kept out by who came before, another than the calm one. Where that is
/// preempted first its stack grows, and it may be one of those that end.
fn settled(domain: &Domain, anyone: bool) -> Option<usize> {
    let goes_on = |program: &Program| {
        program.state == State::Running && program.usage.switches > 20 * (1 + program.restarts)
    };
    domain.programs.iter().position(goes_on).filter(|&at| at == 0 || anyone)
}

/// Each has its turns, its ends and its restarts, and what happens to one is nothing to the others.
fn in_a_domain(context: &Context) -> Verdict {
    let mut up = start(context)?;
    for _ in 0..3 {
        check_eq("how it failed", &up.until_program("fails", "ended")?["status"], &Value::from(134))?;
    }
    for instance in ["crowd/spin/0", "crowd/spin/1"] {
        up.until_written(instance)?;
    }
    let before = up.first_domain()?;
    let names: Vec<&str> = before.programs.iter().map(|program| program.name.as_str()).collect();
    check_eq("names", names, ["spin/0", "spin/1", "fails", "done"])?;
    for spin in &before.programs[..2] {
        check_eq("its state", (spin.state, spin.restarts), (State::Running, 0))?;
        check(spin.usage.cpu_ns > 0 && spin.usage.memory.used_bytes > 0, || format!("{spin:?}"))?;
    }
    check_eq("restarts", before.programs[2].restarts >= 2, true)?;
    check_eq("the end of what is done", &before.programs[3].last_end, &Some(End::Exited { status: 0 }))?;
    up.ask(&Request::Kill { which: Selector::Named("crowd/spin/0".into()), how: How::Gracefully })?;
    let after = up.first_domain()?;
    check_eq("the killed one", after.programs[0].state, State::Stopped)?;
    check_eq("its end", &after.programs[0].last_end, &Some(End::Exited { status: 130 }))?;
    let other = &after.programs[1];
    check_eq("the other", (other.state, other.restarts), (State::Running, 0))?;
    check_eq("the domain's process", after.process_id, before.process_id)?;
    up.end(Signal::INT)?.exits(130)?.ends_well()?;
    Ok(())
}

/// With their domain all end, and are started again as each wants it.
fn breaks_together(context: &Context) -> Verdict {
    let mut up = start(context)?;
    up.until_program("done", "ended")?;
    for instance in ["crowd/spin/0", "crowd/spin/1"] {
        up.until_written(instance)?;
    }
    let (_, process) = only_child(up.process())?;
    pidfd_send_signal(&process, Signal::KILL)?;
    for program in ["spin/0", "spin/1"] {
        let ended = up.until_program(program, "ended")?;
        check_eq("how it ended", &ended["reason"], &Value::from("SIGKILL"))?;
    }
    for program in ["spin/0", "spin/1"] {
        up.until_program(program, "started")?;
    }
    let mut client = up.client()?;
    client.ask(&Request::Crashes { which: Selector::Named("spin".into()) })?;
    for name in ["spin/0", "spin/1"] {
        let Reply::Crash(report) = client.reply()? else { return Err(Failed("no report".into())) };
        check_eq("whose it is", report.program.program.as_str(), name)?;
        check_eq("how it ended", report.end, End::Broken { how: "SIGKILL".into() })?;
        let written: Vec<&[u8]> = report.last_lines.iter().map(|line| &line.bytes[..]).collect();
        check_eq("what it wrote", written, [&b"ready"[..]])?;
    }
    check_eq("the end of the reports", client.reply()?, Reply::CrashEnd)?;
    let crowd = up.first_domain()?;
    let restarts: Vec<u64> = crowd.programs[..2].iter().map(|program| program.restarts).collect();
    check_eq("restarts", restarts, [1, 1])?;
    check_eq("what was done", (crowd.programs[3].state, crowd.programs[3].restarts), (State::Ended, 0))?;
    up.end(Signal::INT)?.exits(130)?.ends_well()?;
    Ok(())
}

/// What the library OS says when it fails stands in the reports on all that ran in it, and they start again.
fn last_words(context: &Context) -> Verdict {
    let mut up = start(context)?;
    up.until_program("done", "ended")?;
    up.until_written("crowd/spin/0")?;
    let (_, process) = only_child(up.process())?;
    // As if its own code had touched what is not there.
    pidfd_send_signal(&process, Signal::SEGV)?;
    up.until_program("spin/0", "ended")?;
    up.until_program("spin/0", "started")?;
    let Reply::Crash(report) = up.ask(&Request::Crashes { which: Selector::Named("spin/0".into()) })? else {
        return Err(Failed("no report".into()));
    };
    let how = "its domain ended with status 125";
    check_eq("how it ended", report.end, End::Broken { how: how.into() })?;
    let words = &report.domain_words;
    // In a program's code it is first taken for a trap of the program.
    check(words.starts_with("selkis: the library OS failed: "), || format!("{words:?}"))?;
    up.end(Signal::INT)?.exits(130)?;
    Ok(())
}
