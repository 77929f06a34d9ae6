//! Programs that are interrupted at every instruction, or many at random moments (`images/step-runtime`).

use crate::launcher;
use crate::runner::{Depth, On, Platform, Scenario};
use crate::selkis::Context;
use crate::verdict::{Verdict, check};
use std::time::Duration;

pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "killed-at-every-step", on: On::Only(Platform::Hosted), run: killed },
    Scenario { name: "preempted-at-every-step", on: On::Only(Platform::Hosted), run: preempted },
    Scenario { name: "moved-at-every-step", on: On::Only(Platform::Hosted), run: moved },
    Scenario { name: "killed-at-random-moments", on: On::Only(Platform::Hosted), run: storm },
];

/// With the strides of the ordinary run and of a soak. A run for an instruction steps through all of its section that come before it, so who has long
/// sections has few runs; primes, so that the instructions of a loop all have their turn then too.
const GUESTS: [(&str, Strides); 6] = [
    ("step-calls", Strides { ordinary: 23, soak: 1 }),
    ("step-memory", Strides { ordinary: 23, soak: 1 }),
    ("step-numbers", Strides { ordinary: 23, soak: 1 }),
    ("step-host", Strides { ordinary: 23, soak: 1 }),
    ("step-streams", Strides { ordinary: 199, soak: 7 }),
    ("step-children", Strides { ordinary: 199, soak: 7 }),
];
/// The ordinary run moves fewer: it takes as long as a preemption, and two virtual CPUs.
const STRIDE_TO_MOVE: u32 = 3;

/// Which instructions have their turn.
#[derive(Clone, Copy)]
struct Strides {
    ordinary: u32,
    soak: u32,
}

fn killed(context: &Context) -> Verdict {
    GUESTS.iter().try_for_each(|(guest, strides)| interrupt(context, guest, "kill", *strides))
}

fn preempted(context: &Context) -> Verdict {
    GUESTS.iter().try_for_each(|(guest, strides)| interrupt(context, guest, "preempt", *strides))
}

/// From one virtual CPU to another.
fn moved(context: &Context) -> Verdict {
    GUESTS
        .iter()
        .map(|(guest, strides)| (guest, Strides { ordinary: strides.ordinary * STRIDE_TO_MOVE, ..*strides }))
        .try_for_each(|(guest, strides)| interrupt(context, guest, "migrate", strides))
}

fn interrupt(context: &Context, guest: &str, how: &str, strides: Strides) -> Verdict {
    let paths = launcher::artifacts(context, guest)?;
    let stride = match context.depth {
        Depth::Ordinary => strides.ordinary,
        Depth::Soak => strides.soak,
    };
    // A soak takes some sixty million steps, and each raises an exception.
    let deadline = Duration::from_secs(3600);
    let words = [guest, how, "0", "1", &stride.to_string()];
    let output = launcher::launch("selkis-step-runtime", &paths, &words, deadline)?;
    let errors = output.exits(0)?.errors();
    let (_, line) = errors.split_once("stepped ").unwrap_or_default();
    let numbers: Vec<u64> = line.split(|byte: char| !byte.is_ascii_digit()).flat_map(str::parse).collect();
    // Each call of a function of ours alone is more than this.
    let is_it = |steps, runs| steps > 500 && runs > steps / u64::from(stride + 1);
    check(matches!(numbers[..], [steps, _, runs, _] if is_it(steps, runs)), || format!("{guest}: {errors}"))
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
