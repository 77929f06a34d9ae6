//! Guest instructions until a program speaks, on the emulated machine: Selkis against Debian's cloud kernel with the peer
//! as its init. Both get the same QEMU command line but for `-kernel`, `-initrd` and `-append`.

use crate::Failure;
use crate::artifacts::{Artifacts, Cpu, Workshop};
use crate::figures::{Figure, Goal, Sample};
use crate::initramfs::{self, Node};
use crate::places::Places;
use crate::replay::Record;
use crate::{firmware, machine_bundle, operations, progress};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// How long a machine may take, in seconds of this machine; Linux with CPython takes about half a minute.
const SECONDS_MAX: &str = "900";
/// What the goals ask of the first byte of output, in times.
const HELLO_TIMES: f64 = 1_000.0;
const PYTHON_TIMES: f64 = 30.0;
/// Where Linux's real-mode code is entered: QEMU's `linuxboot_dma` loads it to 0x10000 and jumps 0x200 behind
/// (Linux, Documentation/arch/x86/boot.rst, "Running the kernel").
const LINUX_ENTRY: u64 = 0x1_0200;
/// Memory of the machine, in MiB: CPython's initramfs is unpacked beside itself.
const MEMORY_MIB: &str = "512";

/// A machine to boot.
pub struct Machine {
    /// `-cpu`
    pub cpu: &'static str,
    /// `-kernel`
    pub kernel: PathBuf,
    /// `-initrd`
    pub initrd: PathBuf,
    /// `-append`
    pub append: &'static str,
    /// The address of the kernel's first instruction.
    pub entry: u64,
}

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
pub fn measure(places: &Places, workshop: &Workshop<'_>) -> Result<Vec<Figure>, Failure> {
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
    selkis_machine(places, initrd)
}

/// Selkis' kernel with this boot module.
///
/// # Errors
/// If the kernel cannot be read.
pub fn selkis_machine(places: &Places, initrd: PathBuf) -> Result<Machine, Failure> {
    let kernel = places.parts.join("selkis-kernel");
    let entry = firmware::pvh_entry(&kernel)?;
    Ok(Machine { cpu: "max", kernel, initrd, append: "exit=isa-debug", entry })
}

fn linux(
    places: &Places,
    workshop: &Workshop<'_>,
    subject: &Subject<'_>,
    artifact: &Path,
) -> Result<Machine, Failure> {
    let plan = format!("/program\n{}\n", subject.arguments.join("\n"));
    let init = std::fs::read(places.peer.join("selkis-peer"))?;
    let archive = initramfs::archive(&[
        ("dev", Node::Directory),
        ("dev/console", Node::Device(5, 1)),
        // What the peer's random generator asks for.
        ("dev/random", Node::Device(1, 8)),
        ("dev/urandom", Node::Device(1, 9)),
        ("plan", Node::File(plan.as_bytes())),
        ("program", Node::File(&std::fs::read(artifact)?)),
        ("init", Node::File(&init)),
    ]);
    let initrd = workshop.path(&format!("{}.initramfs", subject.name));
    std::fs::write(&initrd, archive)?;
    Ok(linux_machine(places, initrd))
}

/// Debian's cloud kernel with this initramfs.
pub fn linux_machine(places: &Places, initrd: PathBuf) -> Machine {
    // If init fails, the machine ends by a triple fault, as nothing else ends this one.
    let append = "console=ttyS0 quiet panic=-1 reboot=t";
    Machine { cpu: "max", kernel: places.linux.clone(), initrd, append, entry: LINUX_ENTRY }
}

/// QEMU with the machine, recording to `record`; its serial port goes to `output`.
///
/// It ends with the thread that starts it and with the command's own process, even if they are killed: `setpriv` asks Linux
/// for that, for `timeout` and for QEMU below it.
pub fn qemu(machine: &Machine, record: &Path, output: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "timeout", SECONDS_MAX]);
    command.args(["setpriv", "--pdeathsig", "KILL", "qemu-system-x86_64"]);
    command.args(["-M", "microvm,acpi=off,rtc=on", "-cpu", machine.cpu, "-m", MEMORY_MIB]);
    command.args(["-display", "none", "-nodefaults", "-no-user-config", "-no-reboot"]);
    // RDRAND and the real-time clock say the same in each run, so that Linux takes the same way.
    command.args(["-seed", "1", "-rtc", "base=2026-01-01T00:00:00,clock=vm"]);
    command.args(["-device", "isa-debug-exit,iobase=0xf4,iosize=4", "-serial", "chardev:serial"]);
    command.arg("-chardev").arg(format!("file,id=serial,path={}", output.display()));
    command.arg("-icount").arg(format!("shift=0,sleep=off,rr=record,rrfile={}", record.display()));
    command.arg("-kernel").arg(&machine.kernel).arg("-initrd").arg(&machine.initrd);
    command.args(["-append", machine.append]).stdin(Stdio::null());
    command
}

/// Runs the machine to its end.
///
/// # Errors
/// If it does not say what is expected.
pub fn count(workshop: &Workshop<'_>, machine: &Machine, expected: &str) -> Result<Counts, Failure> {
    let (record, output) = (workshop.path("record"), workshop.path("output"));
    // The device makes an odd status of whatever the guest hands over, so the record and the output tell how it went.
    let run = qemu(machine, &record, &output).output()?;
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
