//! Programs that start programs.

use crate::guests;
use crate::processes::only_child;
use crate::runner::{On, Platform, Scenario};
use crate::selkis::Context;
use crate::system::Up;
use crate::verdict::{Failed, Verdict, check, check_eq};
use control::{Domain, End, Follow, From, How, Program, Reply, Request, Selector, State};
use rustix::process::{Signal, pidfd_send_signal};
use std::fs;

pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "children-of-a-parent", on: On::All, run: of_a_parent },
    Scenario { name: "children-on-two-cpus", on: On::Several, run: on_two_cpus },
    Scenario { name: "children-without-a-grant", on: On::All, run: without_a_grant },
    Scenario { name: "children-that-cannot-be", on: On::All, run: that_cannot_be },
    Scenario { name: "children-are-seen", on: On::All, run: are_seen },
    Scenario { name: "children-end-with-their-parent", on: On::All, run: end_with_their_parent },
    Scenario { name: "children-end-with-their-domain", on: On::All, run: end_with_their_domain },
    Scenario { name: "children-come-again", on: On::Only(Platform::Hosted), run: come_again },
    Scenario { name: "children-without-end", on: On::All, run: without_end },
    Scenario { name: "children-without-end-on-two-cpus", on: On::Several, run: without_end_on_two_cpus },
    Scenario { name: "children-until-memory-ends", on: On::All, run: until_memory_ends },
    Scenario { name: "children-one-after-the-other", on: On::All, run: one_after_the_other },
    Scenario { name: "children-of-the-dying", on: On::Several, run: of_the_dying },
    Scenario { name: "children-see-nothing-of-others", on: On::All, run: see_nothing_of_others },
];

const CHILD: &str =
    "[[domains.family.programs]]\nname = \"child\"\nfile = \"child.wat\"\nmemory = \"2MiB\"\ninstances = 0\n";

/// A domain with `child`, which others may start, and these programs: name, file, lines.
fn manifest(lines: &str, programs: &[(&str, &str, &str)]) -> String {
    let mut text = format!("[domains.family]\nmemory = \"64MiB\"\n{lines}\n");
    for (name, file, lines) in programs {
        text += &format!(
            "[[domains.family.programs]]\nname = \"{name}\"\nfile = \"{file}.wat\"\nmemory = \"2MiB\"\n{lines}\n"
        );
    }
    text + CHILD
}

fn start(context: &Context, manifest: &str) -> Verdict<Up> {
    for guest in ["parent", "child", "holds", "bomb", "spawns", "leaks", "exit", "ready-spin"] {
        context.file(&format!("{guest}.wat"), guests::text(guest)?)?;
    }
    Up::start_manifest(context, context.file("family.toml", manifest)?, "family")
}

/// The same, and waits until something runs in it.
fn begin(context: &Context, manifest: &str) -> Verdict<Up> {
    let mut up = start(context, manifest)?;
    up.until("family", "started")?;
    Ok(up)
}

const MAY_START: &str = "start = [\"child\"]";

/// All that a program can do with others, and all that it is refused: the guest checks it, and its status is the number of what is wrong.
fn of_a_parent(context: &Context) -> Verdict {
    checks(context, "cpus = 1")
}

fn on_two_cpus(context: &Context) -> Verdict {
    checks(context, "cpus = 2")
}

fn checks(context: &Context, cpus: &str) -> Verdict {
    fs::create_dir(context.folder().join("granted"))?;
    let lines = format!("{MAY_START}\ndirectories = [{{ path = \"granted\", name = \"/granted\" }}]");
    // Of the six one is the parent's, and one always `other`'s.
    let programs = [("parent", "parent", lines.as_str()), ("other", "ready-spin", "")];
    let mut up = start(context, &manifest(&format!("processes = 6\n{cpus}"), &programs))?;
    let ended = up.until_program("parent", "ended")?;
    check_eq("the check that failed", &ended["status"], &serde_json::Value::from(0))?;
    // What is left to be seen of them: those that have failed.
    let domain = up.first_domain()?;
    let children = children(&domain);
    check(!children.is_empty() && children.iter().all(|child| !is_alive(child)), || format!("{domain:?}"))?;
    up.end(Signal::INT)?.exits(130)?.ends_well()?;
    Ok(())
}

/// Those that were started by others, living or not.
fn children(domain: &Domain) -> Vec<&Program> {
    domain.programs.iter().filter(|program| is_child(program)).collect()
}

fn is_child(program: &Program) -> bool {
    ["child/", "bomb/"].iter().any(|name| program.name.starts_with(name))
}

fn is_alive(program: &Program) -> bool {
    matches!(program.state, State::Running | State::Stopping)
}

/// The imports link, and answer that.
fn without_a_grant(context: &Context) -> Verdict {
    // `child` may be started by another, and is started by the root here: so it has an instance.
    let text = "[domains.family]\nmemory = \"64MiB\"\n\
         [[domains.family.programs]]\nname = \"child\"\nfile = \"child.wat\"\nmemory = \"2MiB\"\narguments = [\"c\"]\n\
         [[domains.family.programs]]\nname = \"parent\"\nfile = \"holds.wat\"\nmemory = \"2MiB\"\nstart = [\"child\"]\n";
    let mut up = start(context, text)?;
    let ended = up.until_program("child", "ended")?;
    check_eq("what it was told", &ended["status"], &serde_json::Value::from(76))?;
    up.finish()?.exits(1)?.ends_well()?;
    // Nor has anybody a grant who runs alone.
    context.guest("child")?.arguments(["c"]).run()?.exits(76)?.ends_well()?;
    Ok(())
}

/// For want of memory that is not promised to others, and of what the program imports; each is an errno, and the second is logged.
fn that_cannot_be(context: &Context) -> Verdict {
    let text = "[domains.full]\nmemory = \"64MiB\"\n\
         [[domains.full.programs]]\nname = \"parent\"\nfile = \"holds.wat\"\nmemory = \"2MiB\"\n\
         start = [\"child\"]\narguments = [\"z\", \"z\", \"z\", \"z\"]\n\
         [[domains.full.programs]]\nname = \"child\"\nfile = \"child.wat\"\nmemory = \"20MiB\"\ninstances = 0\n\
         [domains.family]\nmemory = \"64MiB\"\n\
         [[domains.family.programs]]\nname = \"parent\"\nfile = \"child.wat\"\nmemory = \"2MiB\"\n\
         start = [\"child\"]\narguments = [\"c\"]\n\
         [[domains.family.programs]]\nname = \"child\"\nfile = \"strange-import.wat\"\nmemory = \"2MiB\"\ninstances = 0\n\
         [[domains.family.programs]]\nname = \"calm\"\nfile = \"ready-spin.wat\"\nmemory = \"2MiB\"\n";
    context.file("strange-import.wat", guests::text("strange-import")?)?;
    let mut up = start(context, text)?;
    let mut left = vec![("full", 48), ("family", 45)];
    while !left.is_empty() {
        let next = up.next()?;
        let is_it = |(domain, _): &(&str, i32)| next["domain"] == *domain && next["event"] == "ended";
        if let Some(place) = left.iter().position(is_it) {
            let (domain, errno) = left.remove(place);
            check_eq(domain, &next["status"], &serde_json::Value::from(errno))?;
        }
    }
    let mut client = up.client()?;
    let which = Selector::Named("family/calm".into());
    client.ask(&Request::Log { which, from: From::Start, follow: Follow::No })?;
    let (pieces, _) = client.log()?;
    let mut lines =
        pieces.iter().flat_map(|piece| &piece.lines).map(|line| String::from_utf8_lossy(&line.bytes));
    check(lines.any(|line| line.contains("nobody serves")), || format!("{pieces:?}"))?;
    up.end(Signal::INT)?.exits(130)?.ends_well()?;
    Ok(())
}

/// By `ps`, `log`, `crash` and `kill`; and the parent hears what a user does to one.
fn are_seen(context: &Context) -> Verdict {
    let lines = format!("{MAY_START}\narguments = [\"s\", \"t\", \"z\", \"w\"]");
    let up = begin(context, &manifest("", &[("parent", "holds", &lines), ("calm", "ready-spin", "")]))?;
    up.until_written("family/parent")?;
    // One that is done is not listed, one that has failed is.
    let is_so = |domain: &Domain| {
        let children = children(domain).into_iter();
        let states: Vec<_> = children.map(|child| (child.name.as_str(), child.state)).collect();
        states == [("child/2", State::Running), ("child/3", State::Ended), ("child/4", State::Running)]
    };
    up.until_listed(|_| Ok(up.output("family/child/5")? == "x\0w\0\n"))?;
    let all = up.until_domain(is_so)?;
    let trapped = Some(End::Exited { status: 134 });
    check_eq("the end of the second", &children(&all)[1].last_end, &trapped)?;
    let spins = up.until_domain(|domain| children(domain)[0].usage.cpu_ns > 0)?;
    check(children(&spins)[0].usage.memory.used_bytes >= 65536, || format!("{spins:?}"))?;
    let Reply::Crash(report) = up.ask(&Request::Crashes { which: Selector::Named("child/3".into()) })? else {
        return Err(Failed("no report".into()));
    };
    let reason = report.crash.map(|crash| crash.reason);
    check_eq("why", reason.as_deref(), Some("trap: wasm `unreachable` instruction executed"))?;
    let which = Selector::Named("family/child/2".into());
    up.ask(&Request::Kill { which, how: How::Gracefully })?;
    let first = up.first_domain()?;
    check_eq("the one that was killed", children(&first)[0].state, State::Stopped)?;
    check_eq("its end", &children(&first)[0].last_end, &Some(End::Exited { status: 130 }))?;
    up.until_listed(|_| Ok(up.output("family/parent")?.lines().count() == 4))?;
    let mut heard: Vec<String> = up.output("family/parent")?.lines().map(String::from).collect();
    heard.sort_unstable();
    check_eq("what the parent heard", heard, ["E0", "E1", "E3", "ready"].map(String::from).to_vec())?;
    up.end(Signal::INT)?.exits(130)?.ends_well()?;
    Ok(())
}

/// However that ends; then their places are free again, and their domain has no more than before.
fn end_with_their_parent(context: &Context) -> Verdict {
    let arguments = "arguments = [\"s\", \"z\", \"s\"]";
    let killed = format!("{MAY_START}\n{arguments}");
    let timed = format!("{MAY_START}\n{arguments}\ntimeout = \"500ms\"\nrestart = \"always\"");
    let programs =
        [("killed", "holds", killed.as_str()), ("timed", "holds", &timed), ("calm", "ready-spin", "")];
    // Room for three of each, and for three that are about to end.
    let mut up = begin(context, &manifest("processes = 12", &programs))?;
    up.until_written("family/killed")?;
    for _ in 0..3 {
        check_eq(
            "how it ended",
            &up.until_program("timed", "ended")?["status"],
            &serde_json::Value::from(124),
        )?;
    }
    let which = Selector::Named("family/killed".into());
    up.ask(&Request::Kill { which, how: How::Gracefully })?;
    up.ask(&Request::Kill { which: Selector::Named("family/timed".into()), how: How::Gracefully })?;
    let after = up.until_domain(|domain| children(domain).is_empty())?;
    let calm = after.programs.iter().find(|program| program.name == "calm");
    check_eq("the calm one", calm.map(|calm| (calm.state, calm.restarts)), Some((State::Running, 0)))?;
    up.end(Signal::INT)?.exits(130)?.ends_well()?;
    Ok(())
}

/// By force, with all that is in it; another domain goes on.
fn end_with_their_domain(context: &Context) -> Verdict {
    let lines = format!("{MAY_START}\narguments = [\"s\", \"z\", \"s\"]");
    let neighbour = "[domains.neighbour]\nmemory = \"64MiB\"\n[[domains.neighbour.programs]]\nfile = \"ready-spin.wat\"\n";
    let up = begin(context, &(manifest("", &[("parent", "holds", &lines)]) + neighbour))?;
    up.until_written("family/parent")?;
    up.until_written("neighbour")?;
    up.ask(&Request::Kill { which: Selector::Named("family".into()), how: How::AtOnce })?;
    let domain = up.until_domain(|domain| domain.programs.iter().all(|program| !is_alive(program)))?;
    check_eq("how many", domain.programs.len(), 4)?;
    for program in &domain.programs {
        let is_broken = matches!(program.last_end, Some(End::Broken { .. }));
        check(program.state == State::Stopped && is_broken, || format!("{program:?}"))?;
    }
    check_eq("the neighbour", up.program("neighbour")?.state, State::Running)?;
    up.end(Signal::INT)?.exits(130)?.ends_well()?;
    Ok(())
}

/// If their domain breaks, their parents are started again, and start them again.
fn come_again(context: &Context) -> Verdict {
    let lines = format!("{MAY_START}\narguments = [\"z\", \"z\"]\nrestart = \"always\"");
    let mut up = begin(context, &manifest("", &[("parent", "holds", &lines)]))?;
    for restarts in 0..3 {
        let has_children = |domain: &Domain| {
            domain.programs[0].restarts == restarts
                && children(domain).iter().filter(|child| is_alive(child)).count() == 2
        };
        let domain = up.until_domain(has_children)?;
        check_eq("how many", domain.programs.len(), 3)?;
        let (_, process) = only_child(up.process())?;
        pidfd_send_signal(&process, Signal::KILL)?;
        up.until_program("parent", "ended")?;
    }
    up.end(Signal::INT)?.exits(130)?;
    Ok(())
}

/// A program that starts itself, and so on: its domain has its processes, and no more; a neighbour keeps its pace, in the domain and outside;
/// and when the first has been killed all is as before.
fn without_end(context: &Context) -> Verdict {
    bombed(context, "cpus = 1")
}

fn without_end_on_two_cpus(context: &Context) -> Verdict {
    bombed(context, "cpus = 2")
}

fn bombed(context: &Context, cpus: &str) -> Verdict {
    let bomb = "[[domains.family.programs]]\nname = \"bomb\"\nfile = \"bomb.wat\"\nmemory = \"1MiB\"\nstart = [\"bomb\"]\n";
    let neighbour = "[domains.neighbour]\nmemory = \"64MiB\"\n[[domains.neighbour.programs]]\nfile = \"ready-spin.wat\"\n";
    let text = manifest(
        &format!("{cpus}\nprocesses = 24"),
        &[("calm", "ready-spin", ""), ("parent", "holds", MAY_START)],
    ) + bomb
        + neighbour;
    let mut up = start(context, &text)?;
    up.until_program("bomb", "started")?;
    let count = |domain: &Domain| children(domain).into_iter().filter(|child| is_alive(child)).count();
    let full = up.until_domain(|domain| count(domain) == 21)?;
    check_eq("how many have been", full.programs.len(), 24)?;
    let pace = |up: &Up| {
        Ok::<_, Failed>([up.first_domain()?.programs[0].usage.cpu_ns, up.program("neighbour")?.usage.cpu_ns])
    };
    let before = pace(&up)?;
    up.until_listed(|_| {
        Ok(pace(&up)?.iter().zip(before).all(|(now_ns, before_ns)| *now_ns > before_ns + 20_000_000))
    })?;
    up.ask(&Request::Kill { which: Selector::Named("family/bomb".into()), how: How::Gracefully })?;
    let after = up.until_domain(|domain| children(domain).iter().all(|child| !is_alive(child)))?;
    let calm = &after.programs[0];
    check_eq("the calm one", (calm.state, calm.restarts), (State::Running, 0))?;
    check_eq("the domain's process", after.process_id, full.process_id)?;
    check_eq("the neighbour", up.program("neighbour")?.restarts, 0)?;
    up.end(Signal::INT)?.exits(130)?.ends_well()?;
    Ok(())
}

/// The same where memory is what there is least of: it is refused to children before there is none for what runs them.
fn until_memory_ends(context: &Context) -> Verdict {
    let text = "[domains.family]\nmemory = \"20MiB\"\nprocesses = 1900\n\
         [[domains.family.programs]]\nname = \"calm\"\nfile = \"ready-spin.wat\"\nmemory = \"64KiB\"\n\
         [[domains.family.programs]]\nname = \"bomb\"\nfile = \"bomb.wat\"\nmemory = \"64KiB\"\nstack = \"16KiB\"\nstart = [\"bomb\"]\n";
    let up = begin(context, text)?;
    up.until_written("family/calm")?;
    // Hosted a stack counts as a whole.
    let many = context.on(15, 30);
    let full = up.until_domain(|domain| children(domain).len() >= many)?;
    let calm_ns = full.programs[0].usage.cpu_ns;
    let later = up.until_domain(|domain| domain.programs[0].usage.cpu_ns > calm_ns)?;
    check_eq("the domain's process", later.process_id, full.process_id)?;
    up.ask(&Request::Kill { which: Selector::Named("family/bomb".into()), how: How::Gracefully })?;
    let after = up.until_domain(|domain| children(domain).iter().all(|child| !is_alive(child)))?;
    let calm = &after.programs[0];
    check_eq("the calm one", (calm.state, calm.restarts), (State::Running, 0))?;
    up.end(Signal::INT)?.exits(130)?.ends_well()?;
    Ok(())
}

/// Thousands, as fast as they come: nothing grows.
fn one_after_the_other(context: &Context) -> Verdict {
    let lines = format!("{MAY_START}\ninstances = 2");
    let up = begin(context, &manifest("", &[("parent", "spawns", &lines), ("calm", "ready-spin", "")]))?;
    let rounds = |count: usize| {
        up.until_listed(|_| {
            let has_done = |number| {
                Ok::<_, Failed>(up.output(&format!("family/parent/{number}"))?.lines().count() >= count)
            };
            Ok(has_done(0)? && has_done(1)?)
        })
    };
    let before = rounds(1)?.domains.remove(0);
    let after = rounds(3)?.domains.remove(0);
    let [used_before, used_after] = [&before, &after].map(|domain| domain.usage.memory.used_bytes);
    check(used_after < used_before + (4 << 20), || format!("{used_before} bytes have become {used_after}"))?;
    let host_bytes =
        |domain: &Domain| domain.programs[..2].iter().map(|parent| parent.usage.host_bytes).sum::<u64>();
    check(host_bytes(&after) < host_bytes(&before) + (64 << 10), || format!("{after:?}"))?;
    // All have exited with another status than 0: the last few of them are remembered.
    check(children(&after).len() <= 32 + 2, || format!("{} are remembered", children(&after).len()))?;
    for program in &after.programs[..3] {
        check_eq(&program.name, (program.state, program.restarts), (State::Running, 0))?;
    }
    up.end(Signal::INT)?.exits(130)?.ends_well()?;
    Ok(())
}

/// Parents that end at any moment while they start others, on either of two virtual CPUs.
fn of_the_dying(context: &Context) -> Verdict {
    let limits: Vec<String> = (1..=3)
        .map(|step| {
            format!("{MAY_START}\nrestart = \"always\"\ninstances = 3\ncpu-time = \"{}us\"", step * 1700)
        })
        .collect();
    let names = ["a", "b", "c"];
    let wanted: Vec<_> =
        names.iter().zip(&limits).map(|(name, lines)| (*name, "spawns", lines.as_str())).collect();
    let up = begin(context, &manifest("cpus = 2\nprocesses = 24", &wanted))?;
    let has_restarted = |program: &Program| is_child(program) || program.restarts >= 4;
    let domain = up.until_domain(|domain| domain.programs.iter().all(has_restarted))?;
    for program in domain.programs.iter().filter(|program| !is_child(program)) {
        check_eq(&program.name, &program.last_end, &Some(End::Exited { status: 124 }))?;
    }
    // In the machine, what had not come back would be its exit status.
    up.end(Signal::INT)?.exits(130)?.ends_well()?;
    Ok(())
}

/// Each leaves its mark in memory, tables, globals and on the stack, ends in its own way, and finds none of those that ended before; the guest
/// looks.
fn see_nothing_of_others(context: &Context) -> Verdict {
    let text = "[domains.family]\nmemory = \"64MiB\"\n\
         [[domains.family.programs]]\nname = \"leaks\"\nfile = \"leaks.wat\"\nmemory = \"2MiB\"\ninstances = 2\nstart = [\"leaks\"]\n";
    let mut up = start(context, text)?;
    // In any order.
    for _ in 0..2 {
        let ended = up.until_program_of("leaks", "ended")?;
        check_eq("whether a child has found something", &ended["status"], &serde_json::Value::from(0))?;
    }
    up.finish()?.exits(0)?.ends_well()?;
    Ok(())
}
