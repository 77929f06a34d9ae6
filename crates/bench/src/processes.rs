//! Processes under the scheduler of the library OS, as Linux processes: what it costs to share a virtual CPU, to hand it over, to end a process that
//! does not end, and to have one at all.

use crate::Failure;
use crate::artifacts::{Artifacts, Cpu, Epochs, Workshop};
use crate::figures::{Figure, Goal, Sample};
use crate::hosted_side::{Effort, Sides, fastest, together};
use crate::progress;
use std::path::Path;
use std::process::Command;

/// What DESIGN.md asks of preemption.
const SHARED_PERCENT_MAX: f64 = 0.5;
/// What it asks of the end of a process that does not end: a tick and a millisecond.
const RUNAWAY_NS_MAX: f64 = 2e6;

const EPOCHS: &str = "wasmtime with epochs";
const SIGNALS: &str = "wasmtime interrupted by a timer's signals";

/// Measures them.
///
/// # Errors
/// If a side fails.
pub fn measure(sides: &Sides<'_>, workshop: &Workshop<'_>) -> Result<Vec<Figure>, Failure> {
    let text = |name, text| workshop.compile_text(name, text, Cpu::Native);
    let mut figures = shared(sides, workshop)?;
    figures.push(switches(sides, &text("yield", include_str!("../guests/yield.wat"))?)?);
    figures.extend(runaways(sides, workshop)?);
    let hello = text("hello", include_str!("../guests/hello.wat"))?;
    figures.push(processes(sides, &hello)?);
    figures.push(children(sides, &text("family", include_str!("../guests/family.wat"))?, &hello)?);
    Ok(figures)
}

/// A loop that is preempted, against the same that is not.
fn shared(sides: &Sides<'_>, workshop: &Workshop<'_>) -> Result<Vec<Figure>, Failure> {
    progress("preemption of a compute loop");
    let module = sides.places.guests.join("sha256.wasm");
    let artifacts = workshop.compile("sha256", &module, Cpu::Native)?;
    let with_epochs = workshop.compile_peer("sha256", &module, Cpu::Native, Epochs::Checked)?;
    let count = match sides.effort {
        Effort::Quick => "3",
        Effort::Full => "7",
    };
    let mut samples: [Vec<f64>; 3] = Default::default();
    for _ in 0..sides.effort.rounds() {
        let times = together(vec![sides.ours(&artifacts, &["shared", count])])?;
        let (shared, alone) = alternating(&times)?;
        samples[0].push(percent_over(shared, alone));
        let peer = |words: &[&str]| Ok::<_, Failure>(fastest(&together(vec![sides.peer_command(words)])?));
        let plain = peer(&["cpu", path(&artifacts.peer)?, count])?;
        samples[1].push(percent_over(peer(&["epochs", path(&with_epochs)?, count])?, plain));
        samples[2].push(percent_over(peer(&["signals", path(&artifacts.peer)?, count])?, plain));
    }
    let [ours, epochs, signals] = samples.map(Sample::of);
    let figure =
        |name: &str, peer, goal| Figure { name: name.into(), unit: "%", ours, peer: Some(peer), goal };
    Ok(vec![
        figure(
            "preemption of SHA-256 at 1 kHz, CPU time over that without",
            (EPOCHS, epochs),
            Some(Goal::AtMost(SHARED_PERCENT_MAX)),
        ),
        figure("the same, beside signals that do nothing", (SIGNALS, signals), None),
    ])
}

/// The fastest of what comes first, third …, and of the others.
fn alternating(times: &[f64]) -> Result<(f64, f64), Failure> {
    let pairs = times.as_chunks::<2>();
    let ([_, ..], []) = pairs else { return Err("a measurement says too little".into()) };
    let part = |which: usize| fastest(&pairs.0.iter().map(|pair| pair[which]).collect::<Vec<_>>());
    Ok((part(0), part(1)))
}

/// As a word of a command.
fn path(path: &Path) -> Result<&str, Failure> {
    path.to_str().ok_or_else(|| "a folder's name is no text".into())
}

fn percent_over(with: f64, without: f64) -> f64 {
    (with / without - 1.0) * 100.0
}

fn switches(sides: &Sides<'_>, artifacts: &Artifacts) -> Result<Figure, Failure> {
    progress("switches");
    let ours = || sides.ours(artifacts, &["switches", "3"]);
    let peer = || sides.peer_command(&["handover", "3"]);
    in_turns(
        sides,
        "switch between two processes that give way",
        "two threads, by futex, on one CPU",
        ours,
        peer,
    )
}

fn processes(sides: &Sides<'_>, artifacts: &Artifacts) -> Result<Figure, Failure> {
    progress("processes");
    let count = match sides.effort {
        Effort::Quick => "2000",
        Effort::Full => "20000",
    };
    let ours = || sides.ours(artifacts, &["processes", count]);
    let pool = sides.fastest_pool(artifacts)?;
    let peer = || sides.peer(["threads", pool], artifacts, &[count]);
    in_turns(
        sides,
        "process of WASI hello, start to end",
        "a thread of Linux and wasmtime with pooling",
        ours,
        peer,
    )
}

/// By a program, of which Linux's peer knows nothing: it does the same by itself.
fn children(sides: &Sides<'_>, family: &Artifacts, hello: &Artifacts) -> Result<Figure, Failure> {
    progress("processes that a program starts");
    let count = match sides.effort {
        Effort::Quick => "2000",
        Effort::Full => "20000",
    };
    let ours = || sides.ours(family, &["children", count]);
    let pool = sides.fastest_pool(hello)?;
    let peer = || sides.peer(["threads", pool], hello, &[count]);
    in_turns(
        sides,
        "the same, started and waited for by a program",
        "a thread of Linux and wasmtime with pooling",
        ours,
        peer,
    )
}

/// Both sides in turns, the fastest of each process's times.
fn in_turns(
    sides: &Sides<'_>,
    name: &str,
    peer_name: &'static str,
    ours: impl Fn() -> Command,
    peer: impl Fn() -> Command,
) -> Result<Figure, Failure> {
    let mut samples: [Vec<f64>; 2] = Default::default();
    for _ in 0..sides.effort.rounds() {
        samples[0].push(fastest(&together(vec![ours()])?));
        samples[1].push(fastest(&together(vec![peer()])?));
    }
    let [ours, peer] = samples.map(Sample::of);
    Ok(Figure { name: name.into(), unit: "ns", ours, peer: Some((peer_name, peer)), goal: None })
}

/// The median and what one in a hundred takes.
fn runaways(sides: &Sides<'_>, workshop: &Workshop<'_>) -> Result<Vec<Figure>, Failure> {
    progress("the end of runaways");
    let text = include_str!("../guests/runaway.wat");
    let artifacts = workshop.compile_text("runaway", text, Cpu::Native)?;
    let module = workshop.path("runaway.wasm");
    let with_epochs = workshop.compile_peer("runaway", &module, Cpu::Native, Epochs::Checked)?;
    let count = match sides.effort {
        Effort::Quick => "100",
        Effort::Full => "300",
    };
    let mut samples: [[Vec<f64>; 2]; 2] = Default::default();
    for _ in 0..sides.effort.rounds() {
        let ours = together(vec![sides.ours(&artifacts, &["runaways", count])])?;
        let peer = together(vec![sides.peer_command(&["runaways", path(&with_epochs)?, count])])?;
        for (place, part) in [0.5, 0.99].into_iter().enumerate() {
            samples[place][0].push(quantile(&ours, part));
            samples[place][1].push(quantile(&peer, part));
        }
    }
    let figure = |name: &str, [ours, peer]: [Vec<f64>; 2]| Figure {
        name: format!("end of a runaway with 1 MiB, {name}"),
        unit: "ns",
        ours: Sample::of(ours),
        peer: Some((EPOCHS, Sample::of(peer))),
        goal: Some(Goal::AtMost(RUNAWAY_NS_MAX)),
    };
    let [middle, slow] = samples;
    Ok(vec![figure("median", middle), figure("99 of 100", slow)])
}

/// The value that this part of them does not exceed.
fn quantile(values: &[f64], part: f64) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let place = (values.len() as f64 * part).ceil() as usize;
    values[place.clamp(1, values.len()) - 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values() {
        let values: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        assert_eq!(quantile(&values, 0.5), 100.0);
        assert_eq!(quantile(&values, 0.99), 198.0);
        assert_eq!(quantile(&[7.0], 0.99), 7.0);
    }

    #[test]
    fn times_come_in_pairs() {
        assert_eq!(alternating(&[3.0, 2.0, 4.0, 1.0]).unwrap(), (3.0, 1.0));
        assert!(alternating(&[3.0]).is_err());
        assert!(alternating(&[]).is_err());
    }
}
