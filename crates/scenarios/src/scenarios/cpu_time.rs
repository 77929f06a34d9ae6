//! CPU time: only what a process has of it counts, and whoever has had his ends, whatever he does.

use super::limits::crashes;
use crate::guests;
use crate::runner::{On, Scenario};
use crate::selkis::Context;
use crate::system::Up;
use crate::verdict::{Failed, Verdict, check, check_eq};
use control::Domain;
use rustix::process::Signal;
use serde_json::Value;

pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "cpu-time-beside-others", on: On::All, run: beside_others },
    Scenario { name: "cpu-time-whatever-it-does", on: On::All, run: whatever_it_does },
];

/// The CPU time that the process had had when it ended, as its report says; its limit was this.
fn used_ns(context: &Context, name: &str, max_ns: u64) -> Verdict<u64> {
    let reports = crashes(context, name)?;
    let [report] = &reports[..] else { return Err(Failed(format!("{name}: {reports:?}"))) };
    check_eq("its status", &report["exit_status"], &Value::from(124))?;
    let measure = &report["limits"]["cpu_ns"];
    check_eq("its limit", measure["max"].as_u64(), Some(max_ns))?;
    let used_ns = measure["used"].as_u64().ok_or_else(|| Failed(format!("{report}")))?;
    check(used_ns >= max_ns, || format!("{name} ended after {used_ns} ns"))?;
    Ok(used_ns)
}

/// Others want the CPU, or it may not have more of it: that takes its time, and none of its CPU time. How much its domain has had is not its library
/// OS's to say: Linux counts it, or the kernel.
fn beside_others(context: &Context) -> Verdict {
    const MAX_NS: u64 = 200_000_000;
    context.file("ready-spin.wat", guests::text("ready-spin")?)?;
    let (budget, limit) = ("cpu-budget = \"25%\"", "cpu-time = \"200ms\"");
    let domains =
        [("beside", "", limit), ("slowed", budget, limit), ("a", "", ""), ("b", "", ""), ("c", "", "")];
    let of_one = |(domain, budget, limit)| {
        format!(
            "[domains.{domain}]\nmemory = \"32MiB\"\n{budget}\n[[domains.{domain}.programs]]\nfile = \"ready-spin.wat\"\n{limit}\n"
        )
    };
    let text: String = domains.into_iter().map(of_one).collect();
    let mut up = Up::start_manifest(context, context.file("shared.toml", text)?, "shared")?;
    up.until_ended(&["beside", "slowed"])?;
    // To begin is the domain's as well, and it takes longest where instructions are emulated.
    let begin_ns = context.on(100_000_000, 2_000_000_000);
    let domains: Vec<Domain> = up.list()?.domains;
    for domain in &domains[..2] {
        let (used_ns, had_ns) = (used_ns(context, &domain.name, MAX_NS)?, domain.usage.cpu_ns);
        let is_it = used_ns <= had_ns && had_ns <= used_ns + begin_ns;
        check(is_it, || format!("{}: {used_ns} ns of the {had_ns} ns of its domain", domain.name))?;
    }
    up.end(Signal::INT)?.exits(130)?.ends_well()?;
    Ok(())
}

/// What a program can try so that nobody interrupts it. Each ends within a tick and 5 ms of CPU time. In a machine one of some instances does, and within more: it
/// does not know for how long its emulator has stood still.
fn whatever_it_does(context: &Context) -> Verdict {
    const MAX_NS: u64 = 50_000_000;
    const INSTANCES: usize = 4;
    const GUESTS: [&str; 7] =
        ["spin", "spin-import", "spin-grow", "spin-fill", "spin-copy", "spin-throw", "spin-throw-deep"];
    let mut text = String::from("[domains.crowd]\nmemory = \"320MiB\"\nprocesses = 32\n");
    for guest in GUESTS {
        context.file(&format!("{guest}.wat"), guests::text(guest)?)?;
        text += &format!(
            "[[domains.crowd.programs]]\nname = \"{guest}\"\nfile = \"{guest}.wat\"\nmemory = \"8MiB\"\ncpu-time = \"50ms\"\ninstances = {INSTANCES}\n"
        );
    }
    context.file("ready-spin.wat", guests::text("ready-spin")?)?;
    text += "[[domains.crowd.programs]]\nname = \"calm\"\nfile = \"ready-spin.wat\"\nmemory = \"8MiB\"\n";
    let mut up = Up::start_manifest(context, context.file("crowd.toml", text)?, "crowd")?;
    for _ in 0..GUESTS.len() * INSTANCES {
        up.until("crowd", "ended")?;
    }
    let (late_ns, late_max) = context.on((6_000_000, 0), (200_000_000, INSTANCES - 1));
    for guest in GUESTS {
        let used = (0..INSTANCES).map(|number| used_ns(context, &format!("{guest}/{number}"), MAX_NS));
        let used: Vec<u64> = used.collect::<Verdict<_>>()?;
        let late = used.iter().filter(|used_ns| **used_ns > MAX_NS + late_ns).count();
        check(late <= late_max, || format!("{guest}: {used:?} ns"))?;
    }
    up.end(Signal::INT)?.exits(130)?.ends_well()?;
    Ok(())
}
