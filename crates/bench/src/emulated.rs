//! Guest instructions until a program speaks, on the emulated machine: Selkis against Debian's cloud kernel with the peer
//! as its init.

use crate::Failure;
use crate::artifacts::{Artifacts, Cpu, Workshop};
use crate::figures::{Figure, Goal, Sample};
use crate::hosted_side::Effort;
use crate::initramfs::{self, Node};
use crate::machine::Machine;
use crate::places::Places;
use crate::replay::Record;
use crate::{boot, firmware, instances, machine_bundle, operations, progress};
use std::path::Path;
use std::process::Command;

/// What the goals ask of the first byte of output, in times.
const HELLO_TIMES: f64 = 1_000.0;
const PYTHON_TIMES: f64 = 30.0;

/// Instructions from the kernel's first, and the whole output.
pub struct Counts {
    /// To the first byte of what was expected.
    pub first_byte: u64,
    /// To the end of the machine.
    exit: u64,
    /// What went out through the serial port.
    pub output: String,
}

/// A program and what it is expected to say.
struct Subject<'a> {
    title: &'static str,
    name: &'static str,
    arguments: &'a [&'a str],
    output: &'static str,
    times: f64,
}

/// Measures hello and CPython's version line.
///
/// # Errors
/// If something cannot be built, or a machine does not say what it should.
pub fn measure(places: &Places, workshop: &Workshop<'_>, effort: Effort) -> Result<Vec<Figure>, Failure> {
    let hello = Subject {
        title: "hello",
        name: "hello",
        arguments: &["hello"],
        output: "hello, world",
        times: HELLO_TIMES,
    };
    let python = Subject {
        title: "CPython's version line",
        name: "python",
        arguments: &["python.wasm", "-V"],
        output: "Python 3.12",
        times: PYTHON_TIMES,
    };
    let helper = workshop.trap_helper(Cpu::Emulated)?;
    let mut figures = operations::measure(places, workshop)?;
    figures.extend(boot::measure(places, workshop)?);
    figures.extend(instances::measure(places, workshop, effort)?);
    let artifacts = workshop.compile_text("hello", include_str!("../guests/hello.wat"), Cpu::Emulated)?;
    figures.extend(compare(places, workshop, &hello, &artifacts, &helper)?);
    let artifacts = workshop.compile("python", &places.python, Cpu::Emulated)?;
    figures.extend(compare(places, workshop, &python, &artifacts, &helper)?);
    Ok(figures)
}

fn compare(
    places: &Places,
    workshop: &Workshop<'_>,
    subject: &Subject<'_>,
    artifacts: &Artifacts,
    helper: &Path,
) -> Result<[Figure; 2], Failure> {
    progress(&format!("{} in QEMU, Selkis", subject.title));
    let ours = count(workshop, &selkis(places, workshop, subject, &artifacts.ours, helper)?, subject.output)?;
    progress(&format!("{} in QEMU, Linux with wasmtime", subject.title));
    let peer = count(workshop, &linux(places, workshop, subject, &artifacts.peer)?, subject.output)?;
    let figure = |what: &str, ours: u64, peer: u64, goal: Option<Goal>| Figure {
        name: format!("{}: guest instructions to {what}", subject.title),
        unit: "instructions",
        ours: Sample::exact(ours as f64),
        peer: Some(("Linux + wasmtime", Sample::exact(peer as f64))),
        goal,
    };
    Ok([
        figure("the first byte", ours.first_byte, peer.first_byte, Some(Goal::TimesLess(subject.times))),
        figure("the end", ours.exit, peer.exit, None),
    ])
}

fn selkis(
    places: &Places,
    workshop: &Workshop<'_>,
    subject: &Subject<'_>,
    artifact: &Path,
    helper: &Path,
) -> Result<Machine, Failure> {
    let runtime = places.parts.join("selkis-runtime");
    let initrd = workshop.path(&format!("{}.bundle", subject.name));
    std::fs::write(&initrd, machine_bundle::bundle(subject.arguments, artifact, helper, &runtime)?)?;
    Machine::selkis(places, initrd)
}

fn linux(
    places: &Places,
    workshop: &Workshop<'_>,
    subject: &Subject<'_>,
    artifact: &Path,
) -> Result<Machine, Failure> {
    let plan = ["run", "/program"].iter().chain(subject.arguments).copied().collect::<Vec<_>>();
    let archive = peer_archive(places, &plan, artifact)?;
    let initrd = workshop.path(&format!("{}.initramfs", subject.name));
    std::fs::write(&initrd, archive)?;
    Ok(Machine::linux(places, initrd))
}

/// An initramfs with the peer, the words that it reads at first, and an artifact, `/program`.
///
/// # Errors
/// If one cannot be read.
pub fn peer_archive(places: &Places, plan: &[&str], artifact: &Path) -> Result<Vec<u8>, Failure> {
    Ok(initramfs::archive(&[
        ("dev", Node::Directory),
        ("dev/console", Node::Device(5, 1)),
        // What the peer's random generator asks for.
        ("dev/random", Node::Device(1, 8)),
        ("dev/urandom", Node::Device(1, 9)),
        ("plan", Node::File(plan.join("\n").as_bytes())),
        ("program", Node::File(&std::fs::read(artifact)?)),
        ("init", Node::File(&std::fs::read(places.peer.join("selkis-peer"))?)),
    ]))
}

/// QEMU with the machine, recording to `record`; its serial port goes to `output`.
pub fn recording(machine: &Machine, record: &Path, output: &Path) -> Command {
    let mut command = machine.qemu(output);
    command.arg("-icount").arg(format!("shift=0,sleep=off,rr=record,rrfile={}", record.display()));
    command
}

/// Runs the machine to its end.
///
/// # Errors
/// If it does not say what is expected.
pub fn count(workshop: &Workshop<'_>, machine: &Machine, expected: &str) -> Result<Counts, Failure> {
    let (record, output) = (workshop.path("record"), workshop.path("output"));
    // The device makes an odd status of whatever the guest hands over, so the record and the output tell how it went.
    let run = recording(machine, &record, &output).output()?;
    let output = std::fs::read(&output).unwrap_or_default();
    let at = output.windows(expected.len()).position(|window| window == expected.as_bytes());
    let at = at.ok_or_else(|| {
        let (kernel, said) = (machine.kernel.display(), String::from_utf8_lossy(&output));
        format!("{kernel} did not say {expected:?}, but:\n{said}{}", String::from_utf8_lossy(&run.stderr))
    })?;
    let record = Record::parse(&std::fs::read(&record)?).map_err(|error| error.to_string())?;
    let first_byte = *record.bytes_out.get(at).ok_or("QEMU's record lacks bytes of the output")?;
    let firmware = firmware::instructions(workshop, machine)?;
    let output = String::from_utf8_lossy(&output).into_owned();
    Ok(Counts { first_byte: first_byte - firmware, exit: record.end - firmware, output })
}
