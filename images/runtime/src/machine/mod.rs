//! The bare machine: what the launcher provides when hosted comes from the bundle and the devices here.

mod clock;
mod console;
mod device;

use crate::report::Report;
use crate::{cpu, entry, run};
use abi::BootInfo;
use alloc::string::String;
use alloc::vec::Vec;
use alloc::{borrow::ToOwned, format};
use bundle::{Bundle, DirectorySource};
use console::Channel;
use runtime::System;
use runtime::trap::{self, Stop};
use wasi::entropy::Generator;
use wasi::provider::{
    Clock, ClockKind, Entropy, Files, Host, Input, Output, OutputStream, Stream, StreamSet, Streams,
    Terminal, Wait,
};
use wasi::tree::{Grant, Tree};
use wasi::{Errno, Stopped};

/// How many samples of the CPU's random number generator go into a seed.
const HARDWARE_SAMPLES: usize = 16;

/// The part of the machine's memory that files may take: the rest is the program's and ours.
const FILES_SHARE: u64 = 4;

/// Runs the plan, and reports through the console.
pub fn main(system: &'static System, boot: &'static BootInfo) -> u8 {
    let report = match prepare(system, boot) {
        Ok(()) => {
            trap::set_poll_cancel(console::poll_cancel);
            run::run(
                system,
                boot,
                |bundle| machine_host(boot, bundle),
                |wait| {
                    console::sleep(system, wait.deadline_ns);
                    0
                },
            )
        }
        Err(reason) => Report::not_started("the machine", reason),
    };
    console::finish(system, &report);
    report.status
}

fn prepare(system: &'static System, boot: &'static BootInfo) -> Result<(), String> {
    clock::start(system, boot);
    let plan = run::bundle(boot).map_err(|error| format!("{error}"))?.plan;
    console::open(system, boot, plan.console)?;
    entry::register_upcalls(system, boot).map_err(|error| format!("no upcalls: {error:?}"))
}

fn machine_host(boot: &'static BootInfo, bundle: &Bundle<'static>) -> Result<MachineHost, String> {
    let grants: Result<Vec<Grant>, String> = bundle
        .plan
        .directories
        .iter()
        .map(|directory| match &directory.source {
            DirectorySource::Copy(nodes) => Ok(Grant { access: directory.access, nodes: nodes.to_owned() }),
            DirectorySource::Host(_) => Err(format!("{} is on another machine", directory.guest)),
        })
        .collect();
    let files = Tree::new(grants?, bundle.files, boot.quota_bytes / FILES_SHARE, clock::wall_ns)
        .map_err(|error| format!("the copied files are damaged ({error:?})"))?;
    let samples: Vec<u64> = (0..HARDWARE_SAMPLES).filter_map(|_| cpu::random()).collect();
    let seed = bundle.plan.seed.as_ref().map(|seed| &seed.0);
    let entropy = Generator::new(seed, &samples).map_err(|_| {
        "there is no source of random numbers: the CPU has no RDRAND and nobody gave a seed".to_owned()
    })?;
    Ok(MachineHost { files, entropy })
}

struct MachineHost {
    files: Tree<'static>,
    entropy: Generator,
}

impl Host for MachineHost {
    fn clock(&mut self) -> &mut dyn Clock {
        self
    }

    fn entropy(&mut self) -> &mut dyn Entropy {
        &mut self.entropy
    }

    fn streams(&mut self) -> &mut dyn Streams {
        self
    }

    fn files(&mut self) -> &mut dyn Files {
        &mut self.files
    }

    fn wait(&mut self) -> &mut dyn Wait {
        self
    }
}

impl Clock for MachineHost {
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

impl Streams for MachineHost {
    fn read(&mut self, into: &mut [u8]) -> wasi::Result<Input> {
        console::with(|channel| channel.read(into)).ok_or(Errno::Io.into())
    }

    fn write(&mut self, to: OutputStream, bytes: &[u8]) -> wasi::Result<Output> {
        Ok(console::with(|channel| channel.write(to, bytes)).ok_or(Errno::Io)??)
    }

    fn terminal(&mut self, _stream: Stream) -> wasi::Result<Terminal> {
        Ok(console::with(|channel| channel.terminal()).unwrap_or(Terminal::No))
    }
}

impl Wait for MachineHost {
    fn wait(&mut self, streams: StreamSet, deadline_ns: Option<u64>) -> Result<StreamSet, Stopped> {
        let since_ns = clock::monotonic_ns();
        let result = run::suspend_for(streams, deadline_ns, console::poll_cancel, |streams| {
            console::with(|channel| channel.ready(streams)).unwrap_or(streams)
        });
        clock::was_idle(since_ns);
        result
    }

    fn checkpoint(&mut self) -> Result<(), Stopped> {
        if console::with(Channel::cancelled) == Some(true) {
            trap::want_stop(Stop::Cancelled);
        }
        run::not_stopped()
    }

    fn give_way(&mut self) -> Result<(), Stopped> {
        self.checkpoint()
    }
}
