//! Programs that are interrupted at every instruction, or many at random moments (`images/step-runtime`).

use crate::launcher;
use crate::runner::{Depth, On, Platform, Scenario};
use crate::selkis::Context;
use crate::verdict::{Verdict, check};
use std::time::Duration;

pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "killed-at-every-step", on: On::Only(Platform::Hosted), run: killed },
    Scenario { name: "preempted-at-every-step", on: On::Only(Platform::Hosted), run: preempted },
    Scenario { name: "killed-at-random-moments", on: On::Only(Platform::Hosted), run: storm },
];

const GUESTS: [&str; 4] = ["step-calls", "step-memory", "step-numbers", "step-host"];
/// A prime, so that the instructions of a loop all have their turn in the ordinary run too.
const ORDINARY_STRIDE: u32 = 29;

fn killed(context: &Context) -> Verdict {
    GUESTS.iter().try_for_each(|guest| interrupt(context, guest, "kill"))
}

fn preempted(context: &Context) -> Verdict {
    GUESTS.iter().try_for_each(|guest| interrupt(context, guest, "preempt"))
}

fn interrupt(context: &Context, guest: &str, how: &str) -> Verdict {
    let paths = launcher::artifacts(context, guest)?;
    let stride = match context.depth {
        Depth::Ordinary => ORDINARY_STRIDE,
        Depth::Soak => 1,
    }
    .to_string();
    // A soak takes a step some ten million times.
    let deadline = Duration::from_secs(3600);
    let output = launcher::launch("selkis-step-runtime", &paths, &[guest, how, "1", &stride], deadline)?;
    let errors = output.exits(0)?.errors();
    let (_, line) = errors.split_once("stepped ").unwrap_or_default();
    let numbers: Vec<u64> = line.split(|byte: char| !byte.is_ascii_digit()).flat_map(str::parse).collect();
    // Each call of a function of ours alone is more than this.
    check(matches!(numbers[..], [steps, runs, _] if steps > 500 && runs > steps / 30), || {
        format!("{guest}: {errors}")
    })
}

fn storm(context: &Context) -> Verdict {
    let paths = launcher::artifacts(context, "storm")?;
    // The first round, in which what is kept is made, is one more.
    let (count, rounds) = match context.depth {
        Depth::Ordinary => (300, 3),
        Depth::Soak => (1000, 1000),
    };
    let words = ["storm", "storm", &count.to_string(), &rounds.to_string(), "1"];
    let output = launcher::launch("selkis-step-runtime", &paths, &words, Duration::from_secs(7200))?;
    output.exits(0)?.says(&[&format!("killed {} processes", count * (rounds + 1))])?;
    Ok(())
}
