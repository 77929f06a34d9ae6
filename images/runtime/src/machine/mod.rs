//! The bare machine: what the launcher provides when hosted comes from the bundle and the devices here.

pub mod clock;
mod console;
pub mod wire;

use crate::report::Report;
use crate::{cpu, entry, root, run};
use abi::BootInfo;
use alloc::string::String;
use alloc::vec::Vec;
use alloc::{borrow::ToOwned, format};
use bundle::{Bundle, DirectorySource, Module};
use console::Channel;
use runtime::System;
use runtime::process;
use runtime::trap::{self, Stop};
use wasi::entropy::Generator;
use wasi::provider::{
    Clock, ClockKind, Input, Output, OutputStream, Providers, Stream, StreamSet, Streams, Terminal, Wait,
};
use wasi::tree::{Grant, Surroundings, Tree};
use wasi::{Errno, Stopped};

/// How many samples of the CPU's random number generator go into a seed.
const HARDWARE_SAMPLES: usize = 16;

/// The part of the machine's memory that files may take: the rest is the program's and ours.
const FILES_SHARE: u64 = 4;

/// Runs the plan, and reports through the console.
pub fn main(system: &'static System, boot: &'static BootInfo) -> u8 {
    let report = start(system, boot).unwrap_or_else(|report| report);
    console::finish(system, &report);
    report.status
}

fn start(system: &'static System, boot: &'static BootInfo) -> Result<Report, Report> {
    let bundle = match run::module(boot)? {
        Module::Programs(bundle) => bundle,
        Module::System(description) => return root::run(system, boot, description),
    };
    prepare(system, boot, &bundle).map_err(|reason| Report::not_started("the machine", reason))?;
    let name = &bundle.plan.programs[0].name;
    let host = machine_host(boot, &bundle).map_err(|reason| Report::not_started(name, reason))?;
    let idle = |wait: process::Wait| {
        console::sleep(system, wait.deadline_ns);
        0
    };
    Ok(run::run(system, bundle, host, idle))
}

fn prepare(system: &'static System, boot: &'static BootInfo, bundle: &Bundle<'_>) -> Result<(), String> {
    clock::start(boot, bundle.start.as_ref().map(|start| start.epoch_ns));
    console::open(system, boot, bundle.plan.console)?;
    entry::register_upcalls(system, boot).map_err(|error| format!("no upcalls: {error:?}"))?;
    system.hold_reserve().map_err(|error| format!("no reserve: {error:?}"))?;
    trap::set_poll_cancel(console::poll_cancel);
    Ok(())
}

type MachineHost = Providers<MachineClock, Generator, MachineStreams, Tree<'static>, MachineWait>;

fn machine_host(boot: &'static BootInfo, bundle: &Bundle<'static>) -> Result<MachineHost, String> {
    let programs = bundle.plan.programs.iter();
    let grants: Result<Vec<Grant>, String> = programs
        .flat_map(|program| &program.directories)
        .map(|directory| match &directory.source {
            DirectorySource::Copy(nodes) => Ok(Grant { access: directory.access, nodes: nodes.to_owned() }),
            DirectorySource::Host(_) => Err(format!("{} is on another machine", directory.guest)),
        })
        .collect();
    let surroundings = Surroundings { wall_ns: clock::wall_ns, checkpoint };
    let files = Tree::new(grants?, bundle.files, boot.quota_bytes / FILES_SHARE, surroundings)
        .map_err(|error| format!("the copied files are damaged ({error:?})"))?;
    let samples = hardware_samples();
    let seed = bundle.start.as_ref().map(|start| &start.seed).or(bundle.plan.seed.as_ref());
    let seed = seed.map(|seed| &seed.0);
    let entropy = Generator::new(seed, &samples).map_err(|_| {
        "there is no source of random numbers: the CPU has no RDRAND and nobody gave a seed".to_owned()
    })?;
    Ok(Providers { clock: MachineClock, entropy, streams: MachineStreams, files, wait: MachineWait })
}

/// What the CPU's generator of random numbers says.
pub fn hardware_samples() -> Vec<u64> {
    (0..HARDWARE_SAMPLES).filter_map(|_| cpu::random()).collect()
}

/// The kernel's clock, and the date.
struct MachineClock;

impl Clock for MachineClock {
    fn monotonic_ns(&mut self) -> wasi::Result<u64> {
        Ok(clock::monotonic_ns())
    }

    fn wall_ns(&mut self) -> wasi::Result<u64> {
        Ok(clock::wall_ns())
    }

    fn cpu_ns(&mut self) -> wasi::Result<u64> {
        Ok(clock::monotonic_ns() - clock::idle_ns())
    }

    fn resolution_ns(&mut self, _which: ClockKind) -> wasi::Result<u64> {
        Ok(clock::RESOLUTION_NS)
    }
}

/// The console.
struct MachineStreams;

impl Streams for MachineStreams {
    fn read(&mut self, into: &mut [u8]) -> wasi::Result<Input> {
        console::with(|channel| channel.read(into)).ok_or(Errno::Io.into())
    }

    fn write(&mut self, to: OutputStream, bytes: &[u8]) -> wasi::Result<Output> {
        Ok(console::with(|channel| channel.write(to, bytes)).ok_or(Errno::Io)??)
    }

    fn terminal(&mut self, stream: Stream) -> wasi::Result<Terminal> {
        Ok(console::with(|channel| channel.terminal(stream)).unwrap_or(Terminal::No))
    }
}

/// The process waits by letting go of the virtual CPU.
struct MachineWait;

impl Wait for MachineWait {
    fn wait(&mut self, streams: StreamSet, deadline_ns: Option<u64>) -> Result<StreamSet, Stopped> {
        let since_ns = clock::monotonic_ns();
        let result = run::suspend_for(streams, deadline_ns, console::poll_cancel, |streams| {
            console::with(|channel| channel.ready(streams)).unwrap_or(streams)
        });
        clock::was_idle(since_ns);
        result
    }

    fn checkpoint(&mut self) -> Result<(), Stopped> {
        checkpoint()
    }

    fn give_way(&mut self) -> Result<(), Stopped> {
        self.checkpoint()
    }
}

/// Fails if the process has to end.
fn checkpoint() -> Result<(), Stopped> {
    if console::with(Channel::cancelled) == Some(true) {
        trap::want_stop(Stop::Cancelled);
    }
    run::not_stopped()
}
