//! From the kernel's first instruction until ring 3 has spoken, on a PC with one CPU and with several, all of which are up then.

use crate::artifacts::Workshop;
use crate::counted::{self, Counted, From, Time};
use crate::figures::{Figure, Sample};
use crate::machine::{Board, Machine};
use crate::places::Places;
use crate::{Failure, operations, progress};

/// Measures both sides.
///
/// # Errors
/// If a machine does not say that it has its CPUs.
pub fn measure(places: &Places, workshop: &Workshop<'_>) -> Result<Vec<Figure>, Failure> {
    [1, 4].into_iter().map(|cpus| with(places, workshop, cpus)).collect()
}

fn with(places: &Places, workshop: &Workshop<'_>, cpus: u32) -> Result<Figure, Failure> {
    progress(&format!("the boot of {cpus} CPUs in QEMU, Selkis"));
    let ours = operations::selkis(places, workshop, operations::COUNT_CPUS)?;
    let ours = count(places, workshop, ours, cpus, Time::OfInstructions)?;
    progress(&format!("the boot of {cpus} CPUs in QEMU, Linux"));
    let mut peer = operations::linux(places, workshop)?;
    peer.append += " -- boot";
    // Linux does not come up when one CPU at a time has the instructions until the next deadline.
    let time = if cpus == 1 { Time::OfInstructions } else { Time::Real };
    let peer = count(places, workshop, peer, cpus, time)?;
    let sample = |counted: Counted| Sample::exact(counted.instructions as f64);
    Ok(Figure {
        name: format!("boot until ring 3 has spoken, q35, CPUs: {cpus}"),
        unit: "instructions",
        ours: sample(ours),
        peer: Some((operations::PEER, sample(peer))),
        goal: None,
    })
}

fn count(
    places: &Places,
    workshop: &Workshop<'_>,
    machine: Machine,
    cpus: u32,
    time: Time,
) -> Result<Counted, Failure> {
    let machine = Machine { board: Board::Q35, cpus, ..machine };
    let counted = counted::count(places, workshop, &machine, time, From::Entry)?;
    let expected = format!("in ring 3, CPUs: {cpus}");
    match counted.output.lines().any(|line| line.trim_end() == expected) {
        true => Ok(counted),
        false => {
            Err(format!("{} did not say {expected:?}, but:\n{}", machine.kernel.display(), counted.output)
                .into())
        }
    }
}
