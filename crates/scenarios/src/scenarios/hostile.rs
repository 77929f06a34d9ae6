//! Programs that are out to hurt others, with what the engine does for a program, or what the library OS does for many: it is they who end,
//! or wait, and a neighbour in their domain goes on.

use crate::guests;
use crate::runner::{On, Platform, Scenario};
use crate::selkis::Context;
use crate::system::Up;
use crate::verdict::{Verdict, check, check_eq};
use control::{Domain, End, Follow, From, How, Program, Request, Selector, State};
use rustix::process::Signal;
use std::fs;

pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "hostile-proposals", on: On::Only(Platform::Hosted), run: proposals },
    Scenario { name: "hostile-exceptions", on: On::Both, run: exceptions },
    Scenario { name: "hostile-exceptions-in-a-domain", on: On::All, run: exceptions_in_a_domain },
    Scenario { name: "hostile-imports", on: On::All, run: imports },
    Scenario { name: "hostile-names-of-imports", on: On::All, run: names_of_imports },
    Scenario { name: "hostile-parents", on: On::Several, run: parents },
    Scenario { name: "hostile-children", on: On::All, run: children },
];

/// A domain with what is calm and these programs: name, guest, lines. Waits until the calm one runs.
fn start(context: &Context, lines: &str, programs: &[(&str, &str, &str)]) -> Verdict<Up> {
    let mut text = format!("[domains.crowd]\nmemory = \"64MiB\"\n{lines}\n");
    for (name, guest, lines) in [("calm", "ready-spin", "memory = \"1MiB\"")].iter().chain(programs) {
        if let Ok(source) = guests::text(guest) {
            context.file(&format!("{guest}.wat"), source)?;
        }
        text += &format!("[[domains.crowd.programs]]\nname = \"{name}\"\nfile = \"{guest}.wat\"\n{lines}\n");
    }
    let command = context.up(context.file("crowd.toml", text)?).patience(2);
    let mut up = Up::start_command(context, command, "crowd")?;
    up.until_program("calm", "started")?;
    up.until_written("crowd/calm")?;
    Ok(up)
}

/// The calm one has gone on all the time, and goes on.
fn end_calmly(up: Up, before: &Domain) -> Verdict {
    let now = up.first_domain()?;
    let calm = &now.programs[0];
    check_eq("the calm one", (calm.state, calm.restarts), (State::Running, 0))?;
    check_eq("the domain's process", now.process_id, before.process_id)?;
    up.until_domain(|domain| domain.programs[0].usage.cpu_ns > calm.usage.cpu_ns)?;
    // In the machine, what had not come back would be its exit status.
    up.end(Signal::INT)?.exits(130)?.ends_well()?;
    Ok(())
}

/// What would cost others is off, and which it is is said.
fn proposals(context: &Context) -> Verdict {
    let memories = format!("(module {} (func (export \"_start\")))", "(memory 1)".repeat(100));
    let objects = "(module (type $list (struct (field (ref null $list)))) (func (export \"_start\")
        (drop (struct.new $list (ref.null $list)))))";
    for (name, text, proposal) in
        [("memories", memories.as_str(), "multi-memory"), ("objects", objects, "gc")]
    {
        let path = context.file(&format!("{name}.wat"), text)?;
        let output = context.program(path).run()?;
        output.exits(125)?.writes("")?.ends_well()?;
        output.says(&[&format!("a WebAssembly proposal that is off here: {proposal} (at")])?;
    }
    Ok(())
}

fn exceptions(context: &Context) -> Verdict {
    for kept in ["l", "s"] {
        context.guest("exceptions")?.arguments([kept]).run()?.exits(7)?.ends_well()?;
    }
    let output = context.guest("exceptions")?.arguments(["e"]).run()?;
    // Of memory there are its own page and what exceptions have.
    output.exits(134)?.ends_well()?.says(&["its exceptions take more than 128 KiB", "memory 192 KiB of"])?;
    // What is noted of it is more than the library OS may hold, where it can be told neither no nor why.
    let output = context.guest("exceptions")?.arguments(["t"]).options(["--memory", "5MiB"]).run()?;
    output.exits(137)?.ends_well()?.says(&["the library OS needs more for it than it may", "waste"])?;
    Ok(())
}

fn exceptions_in_a_domain(context: &Context) -> Verdict {
    const ROUNDS: u64 = 4;
    let wanted = ["l", "e", "s", "t"];
    let lines =
        wanted.map(|what| format!("memory = \"5MiB\"\nrestart = \"always\"\narguments = [\"{what}\"]"));
    let programs: Vec<_> =
        wanted.iter().zip(&lines).map(|(name, lines)| (*name, "exceptions", lines.as_str())).collect();
    let up = start(context, "", &programs)?;
    let until_rounds = |rounds| {
        up.until_domain(|domain| domain.programs[1..].iter().all(|program| program.restarts >= rounds))
    };
    let before = until_rounds(1)?;
    let after = until_rounds(ROUNDS)?;
    let ends: Vec<_> = after.programs[1..].iter().map(|program| program.last_end.clone()).collect();
    let exited = |status| Some(End::Exited { status });
    check_eq("how they ended", ends, [7, 134, 7, 137].map(exited).to_vec())?;
    let grown = after.usage.memory.used_bytes.saturating_sub(before.usage.memory.used_bytes);
    check(grown < 8 << 20, || format!("{grown} bytes more after {ROUNDS} rounds"))?;
    end_calmly(up, &before)
}

/// Many of one that can never be linked, again and again: the first has found that out for all.
fn imports(context: &Context) -> Verdict {
    let lines = "memory = \"256KiB\"\nrestart = \"always\"\ninstances = 100";
    let up = start(context, "processes = 101", &[("strange", "strange-import", lines)])?;
    let until_rounds = |rounds| {
        up.until_domain(|domain| domain.programs[1..].iter().all(|program| program.restarts >= rounds))
    };
    let before = until_rounds(1)?;
    let after = until_rounds(4)?;
    let failed = |program: &Program| program.last_end == Some(End::Exited { status: 125 });
    check(after.programs[1..].iter().all(failed), || format!("{after:?}"))?;
    let grown = after.usage.memory.used_bytes.saturating_sub(before.usage.memory.used_bytes);
    check(grown < 1 << 20, || format!("{grown} bytes more for what never begins"))?;
    end_calmly(up, &before)
}

/// One that can never be linked, for what it wants has names as long as any may be: what is said of it is short, and in one line. By the
/// manifest, and by another program.
fn names_of_imports(context: &Context) -> Verdict {
    const COUNT: usize = 30;
    const NAME_BYTES: usize = 100_000;
    let module = format!("forged\\0aline{}", "m".repeat(NAME_BYTES - "forged\nline".len()));
    let imports = (0..COUNT).map(|number| format!("(import \"{module}\" \"f{number}\" (func))\n"));
    let text = format!("(module {} (func (export \"_start\")))", imports.collect::<String>());
    let path = context.file("names.wat", text)?;
    let words = ["forged\\nline", "mmm…::f0`", "26 more", "nobody serves"];
    let output = context.program(path).options(["--memory", "1MiB"]).run()?;
    output.exits(125)?.writes("")?.ends_well()?.says(&words)?;
    check(output.errors().len() < 2000, || output.errors())?;
    let programs = [
        ("strange", "names", "memory = \"1MiB\"\nrestart = \"always\""),
        ("parent", "child", "memory = \"1MiB\"\nstart = [\"child\"]\narguments = [\"c\"]"),
        ("child", "names", "memory = \"1MiB\"\ninstances = 0"),
    ];
    let up = start(context, "", &programs)?;
    let before = up.until_domain(|domain| {
        let mut all = named(domain, "strange").chain(named(domain, "parent"));
        all.all(|program| program.restarts >= 2 || program.state == State::Ended)
    })?;
    let both = named(&before, "strange").chain(named(&before, "parent"));
    let ends: Vec<_> = both.map(|program| program.last_end.clone()).collect();
    let exited = |status| Some(End::Exited { status });
    check_eq("how they ended", ends, [125, NOEXEC].map(exited).to_vec())?;
    let log = log_of(&up, "crowd/calm")?;
    let is_it = |line: &String| words.iter().all(|word| line.contains(word));
    check(log.iter().any(is_it), || format!("{log:?}"))?;
    end_calmly(up, &before)
}

const NOEXEC: u8 = 45;

/// The lines of a process, with those of its domain's library OS.
fn log_of(up: &Up, name: &str) -> Verdict<Vec<String>> {
    let mut client = up.client()?;
    let which = Selector::Named(name.into());
    client.ask(&Request::Log { which, from: From::Start, follow: Follow::No })?;
    let (pieces, _) = client.log()?;
    let lines = pieces.iter().flat_map(|piece| &piece.lines);
    Ok(lines.map(|line| String::from_utf8_lossy(&line.bytes).into_owned()).collect())
}

/// Some that ask without end for what they are refused, on the other virtual CPU than that which answers; it hears of everything else as well.
fn parents(context: &Context) -> Verdict {
    const FILES: usize = 2000;
    let folder = context.folder().join("granted");
    fs::create_dir(&folder)?;
    for number in 0..FILES {
        fs::write(folder.join(number.to_string()), "")?;
    }
    let lines = "memory = \"1MiB\"\ninstances = 6\nstart = [\"child\"]\n\
        directories = [{ path = \"granted\", name = \"/granted\" }]";
    let child = "memory = \"30MiB\"\ninstances = 0";
    let programs = [
        ("asks", "asks", lines),
        ("child", "child", child),
        ("exits", "exit", "memory = \"1MiB\"\nrestart = \"always\""),
    ];
    let up = start(context, "cpus = 2", &programs)?;
    for number in 0..6 {
        up.until_listed(|_| Ok(up.output(&format!("crowd/asks/{number}"))?.contains("refused")))?;
    }
    let before = up.until_domain(|domain| named(domain, "exits").all(|program| program.restarts >= 1))?;
    up.until_domain(|domain| named(domain, "exits").all(|program| program.restarts >= 4))?;
    let which = Selector::Named("crowd/asks/0".into());
    up.ask(&Request::Kill { which, how: How::Gracefully })?;
    let after = up.first_domain()?;
    check(named(&after, "asks").filter(|program| program.state == State::Stopped).count() == 1, || {
        format!("{after:?}")
    })?;
    end_calmly(up, &before)
}

/// As many as may be, each of which takes what it can of memory, stack and files: a program that comes back again and again finds all of its own
/// memory.
fn children(context: &Context) -> Verdict {
    fs::create_dir(context.folder().join("granted"))?;
    let asks = "memory = \"1MiB\"\nstart = [\"child\"]\n\
        directories = [{ path = \"granted\", name = \"/granted\" }]";
    context.file("takes.wat", guests::text("takes")?)?;
    let programs = [
        ("asks", "asks", asks),
        ("child", "takes", "memory = \"2MiB\"\ninstances = 0"),
        ("grow", "grow", "memory = \"12MiB\"\nrestart = \"always\""),
    ];
    let up = start(context, "processes = 60", &programs)?;
    up.until_listed(|_| Ok(up.output("crowd/asks")?.contains("refused")))?;
    let before = up.first_domain()?;
    let children: Vec<_> = named(&before, "child").map(|child| format!("crowd/{}", child.name)).collect();
    check(children.len() >= 4, || format!("only {} were started", children.len()))?;
    for child in &children {
        up.until_listed(|_| Ok(up.output(child)? == "full\n"))?;
    }
    let restarts = named(&up.first_domain()?, "grow").map(|program| program.restarts).sum::<u64>();
    let has_come_again = |domain: &Domain| named(domain, "grow").all(|grow| grow.restarts >= restarts + 3);
    let after = up.until_domain(has_come_again)?;
    for grow in named(&after, "grow") {
        check_eq("how it ended", &grow.last_end, &Some(End::Exited { status: 0 }))?;
    }
    check_eq("how many children are left", named(&after, "child").count(), children.len())?;
    end_calmly(up, &before)
}

fn named<'d>(domain: &'d Domain, name: &'d str) -> impl Iterator<Item = &'d Program> {
    let is_it = move |program: &&Program| program.name.split('/').next() == Some(name);
    domain.programs.iter().filter(is_it)
}
