//! Guest instructions of the kernel's operations, which programs in ring 3 count themselves: of Selkis the probe's scenario for
//! it (`images/probe/src/figures.rs`), of Linux `crates/peer/src/bin/figures.rs`. Both say the same kinds of line.

use crate::Failure;
use crate::artifacts::Workshop;
use crate::emulated::{self, Counts};
use crate::figures::{Figure, Sample};
use crate::initramfs::{self, Node};
use crate::machine::Machine;
use crate::places::Places;
use crate::progress;
use abi::boot::ModuleHeader;
use abi::{PAGE_SIZE, Span};
use std::path::Path;

/// The probe's scenario (`images/probe/src/probe.rs`).
const SCENARIO: u64 = 12;
/// The one that only tells how many CPUs there are.
pub const COUNT_CPUS: u64 = 10;
/// What both say first in ring 3.
const FIRST_WORDS: &str = "in ring 3";
/// Who it is measured against.
pub const PEER: &str = "Linux";

/// An operation: what both call it, what it is for people, and in what it is measured.
struct Operation {
    key: &'static str,
    title: &'static str,
    unit: &'static str,
}

const OPERATIONS: [Operation; 6] = [
    Operation { key: "call", title: "system call: the time / getpid", unit: "instructions" },
    Operation {
        key: "signal",
        title: "tick now, upcall, resume / kill, handler, sigreturn",
        unit: "instructions",
    },
    Operation { key: "touch", title: "first touch of a page", unit: "instructions" },
    Operation {
        key: "round-trip",
        title: "to another domain and back: channel / two pipes",
        unit: "instructions",
    },
    Operation { key: "process", title: "a domain made, run, ended / fork, exit, wait", unit: "instructions" },
    Operation { key: "memory", title: "memory of a domain / process that waits", unit: "bytes" },
];

/// Measures both sides.
///
/// # Errors
/// If a machine does not say what it should.
pub fn measure(places: &Places, workshop: &Workshop<'_>) -> Result<Vec<Figure>, Failure> {
    progress("the kernel's operations in QEMU, Selkis");
    let ours = emulated::count(workshop, &selkis(places, workshop, SCENARIO)?, FIRST_WORDS)?;
    progress("the kernel's operations in QEMU, Linux");
    let peer = emulated::count(workshop, &linux(places, workshop)?, FIRST_WORDS)?;
    let mut figures = vec![Figure {
        name: String::from("guest instructions from the kernel's first to ring 3's first byte of output"),
        unit: "instructions",
        ours: Sample::exact(ours.first_byte as f64),
        peer: Some((PEER, Sample::exact(peer.first_byte as f64))),
        goal: None,
    }];
    for operation in &OPERATIONS {
        let sample = |counts: &Counts| value(&counts.output, operation.key).map(Sample::exact);
        figures.push(Figure {
            name: String::from(operation.title),
            unit: operation.unit,
            ours: sample(&ours)?,
            peer: Some((PEER, sample(&peer)?)),
            goal: None,
        });
    }
    figures.push(mitigations(places, workshop, [&ours, &peer])?);
    Ok(figures)
}

/// What is done on a round trip so that one domain finds nothing out about the other: what the round trip takes more than with nothing done.
fn mitigations(places: &Places, workshop: &Workshop<'_>, with: [&Counts; 2]) -> Result<Figure, Failure> {
    let key = "round-trip";
    let without = |mut machine: Machine| {
        machine.append += " mitigations=off";
        emulated::count(workshop, &machine, FIRST_WORDS)
    };
    progress("mitigations in QEMU");
    let without = [without(selkis(places, workshop, SCENARIO)?)?, without(linux(places, workshop)?)?];
    let cost = |side: usize| {
        Ok::<_, Failure>(Sample::exact(value(&with[side].output, key)? - value(&without[side].output, key)?))
    };
    let mut machine = selkis(places, workshop, COUNT_CPUS)?;
    machine.append += " log=info";
    let said = emulated::count(workshop, &machine, FIRST_WORDS)?.output;
    let offered =
        said.lines().find_map(|line| line.split_once("between domains: ")).map(|(_, what)| what.trim_end());
    let offered = offered.ok_or("the kernel does not say what it does between domains")?;
    Ok(Figure {
        name: format!("mitigations to another domain and back (here: {offered})"),
        unit: "instructions",
        ours: cost(0)?,
        peer: Some((PEER, cost(1)?)),
        goal: None,
    })
}

/// What a line `figure KEY VALUE` says.
fn value(output: &str, key: &str) -> Result<f64, Failure> {
    let found = output.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let named = words.next() == Some("figure") && words.next() == Some(key);
        named.then(|| words.next()?.parse().ok()).flatten()
    });
    found.ok_or_else(|| format!("there is no figure {key} in:\n{output}").into())
}

/// A machine in which the probe plays this scenario.
///
/// # Errors
/// If a part of it cannot be read.
pub fn selkis(places: &Places, workshop: &Workshop<'_>, scenario: u64) -> Result<Machine, Failure> {
    let initrd = workshop.path("probe.module");
    std::fs::write(&initrd, module(&places.probe, scenario)?)?;
    Machine::selkis(places, initrd)
}

/// A boot module with the probe in it, and what it shall do.
fn module(probe: &Path, scenario: u64) -> Result<Vec<u8>, Failure> {
    let image = std::fs::read(probe).map_err(|error| format!("{}: {error}", probe.display()))?;
    let page = PAGE_SIZE as usize;
    let length = (page + image.len()).next_multiple_of(page);
    let header = ModuleHeader {
        magic: ModuleHeader::MAGIC,
        length: length as u64,
        image: Span::new(PAGE_SIZE, image.len() as u64),
    };
    let mut module = header.to_bytes().to_vec();
    module.extend(scenario.to_le_bytes());
    module.resize(page, 0);
    module.extend(image);
    module.resize(length, 0);
    Ok(module)
}

/// A machine with what measures Linux.
///
/// # Errors
/// If a part of it cannot be read.
pub fn linux(places: &Places, workshop: &Workshop<'_>) -> Result<Machine, Failure> {
    let init = std::fs::read(places.peer.join("selkis-peer-figures"))?;
    let archive = initramfs::archive(&[
        ("dev", Node::Directory),
        ("dev/console", Node::Device(5, 1)),
        ("init", Node::File(&init)),
    ]);
    let initrd = workshop.path("operations.initramfs");
    std::fs::write(&initrd, archive)?;
    Ok(Machine::linux(places, initrd))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_found_by_its_whole_name() {
        let output = "in ring 3\r\nfigure caller 1\r\nfigure call 614\r\nfigure cut";
        assert_eq!(value(output, "call").ok(), Some(614.0));
        assert!(value(output, "cut").is_err(), "a line without a value");
        assert!(value(output, "touch").is_err(), "no line");
    }
}
