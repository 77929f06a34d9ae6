//! The bare machine: what the launcher provides when hosted comes from the bundle and the devices here.

pub mod clock;

use crate::console::{self, AnyWire, EVENT, Talk};
use crate::domain::{self, Outside};
use crate::report::Report;
use crate::waiting::{ProcessClock, Suspend, not_stopped, pause};
use crate::wire::{ChannelWire, VirtioConsole, leave_last_words};
use crate::{cpu, entry, programs, root};
use abi::{BootInfo, Handle, Request};
use alloc::borrow::ToOwned;
use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use bundle::{Access, Bundle, Console as Mode, DirectorySource, Module, ProgramPlan, Terminal, Terminals};
use link::Process;
use ring::Side;
use runtime::System;
use runtime::process::Wait;
use wasi::entropy::Generator;
use wasi::provider::{Clock, ClockKind, Providers};
use wasi::tree::{Grant, Surroundings, Tree};

/// How many samples of the CPU's random number generator go into a seed.
const HARDWARE_SAMPLES: usize = 16;

/// The part of the machine's memory that a process's files may take: the rest is the programs' and ours.
const FILES_SHARE: u64 = 4;
/// What a process that the manifest starts may write of files in any case.
const FILES_BYTES_MIN: u64 = 16 << 20;

/// Runs the plan, and reports through the console.
pub fn main(system: &'static System, boot: &'static BootInfo) -> u8 {
    let status = start(system, boot).unwrap_or_else(|report| {
        console::ended(Process::FIRST, None, &report);
        report.status
    });
    console::drain(|| console::sleep(system, Request::NEVER));
    status
}

fn start(system: &'static System, boot: &'static BootInfo) -> Result<u8, Report> {
    let bundle = match programs::module(boot)? {
        Module::Programs(bundle) => bundle,
        // How that went is told as one that did not start would be.
        Module::System(description) => return Err(root::run(system, boot, description)?),
    };
    prepare(system, boot, &bundle).map_err(|reason| Report::not_started("the machine", reason))?;
    let machine = Machine::new(boot, &bundle).map_err(|reason| Report::not_started("the machine", reason))?;
    Ok(domain::run(system, bundle, machine))
}

/// Makes ready what any process needs.
pub fn prepare(system: &'static System, boot: &'static BootInfo, bundle: &Bundle<'_>) -> Result<(), String> {
    clock::start(boot, bundle.start.as_ref().map(|start| start.epoch_ns));
    let wire = wire(system, boot)?;
    if boot.parent != Handle::NONE {
        // The kernel's log is not for tenants.
        entry::TELL_LAST_WORDS.call_once(|| leave_last_words);
    }
    let (talk, terminals) = match (bundle.plan.console, &wire) {
        (Mode::Framed(terminals), Some(_)) => (Talk::Frames, terminals),
        (Mode::Framed(_), None) => return Err(String::from("it has no virtio console")),
        (Mode::Raw, _) => (Talk::Plain, Terminals::all(Terminal::Yes)),
        (Mode::Host | Mode::Wire, _) => return Err(String::from("the bundle was made for a Linux process")),
    };
    console::open(system, wire, talk, terminals);
    entry::register_upcalls(system, boot).map_err(|error| format!("no upcalls: {error:?}"))?;
    system.hold_reserves().map_err(|error| format!("no reserve: {error:?}"))
}

/// The way to the other end of the streams, if there is one.
fn wire(system: &'static System, boot: &BootInfo) -> Result<Option<AnyWire>, String> {
    if boot.parent != Handle::NONE {
        let channel = ChannelWire::open(system, boot.parent, EVENT, Side::Other);
        let channel = channel.map_err(|error| format!("no channel to who started it: {error:?}"))?;
        return Ok(Some(Box::new(channel)));
    }
    let console = VirtioConsole::find(system, boot, EVENT)?;
    Ok(console.map(|console| Box::new(console) as AnyWire))
}

/// What processes get here.
pub struct Machine {
    files: &'static [u8],
    files_bytes_max: u64,
    /// Of which the processes' generators are split off.
    entropy: Generator,
}

impl Machine {
    /// Of what the bundle says.
    pub fn new(boot: &'static BootInfo, bundle: &Bundle<'static>) -> Result<Self, String> {
        let seed = bundle.start.as_ref().map(|start| &start.seed).or(bundle.plan.seed.as_ref());
        let entropy = Generator::new(seed.map(|seed| &seed.0), &hardware_samples()).map_err(|_| {
            "there is no source of random numbers: the CPU has no RDRAND and nobody gave a seed".to_owned()
        })?;
        let files_bytes_max = boot.quota_bytes / FILES_SHARE;
        Ok(Self { files: bundle.files, files_bytes_max, entropy })
    }
}

pub type MachineHost<W> =
    Providers<ProcessClock<MachineClock>, Generator, console::Standard, Tree<'static>, W>;

impl Outside for Machine {
    type Host = MachineHost<Suspend<console::Ready>>;

    fn host(
        &mut self,
        process: Process,
        program: &ProgramPlan,
        files_bytes_max: u64,
    ) -> Result<Self::Host, String> {
        let grants: Result<Vec<Grant>, String> = program
            .directories
            .iter()
            .map(|directory| match &directory.source {
                DirectorySource::Copy(copied) => {
                    Ok(Grant { access: directory.access, copied: copied.clone() })
                }
                DirectorySource::Host(_) => Err(format!("{} is on another machine", directory.guest)),
            })
            .collect();
        let surroundings = Surroundings { wall_ns: clock::wall_ns, checkpoint: not_stopped, pause };
        let files = Tree::new(grants?, self.files, files_bytes_max, surroundings)
            .map_err(|_| "there is no memory for its directories".to_owned())?;
        Ok(Providers {
            clock: ProcessClock(MachineClock),
            entropy: self.entropy.split(),
            streams: console::Standard(process),
            files,
            wait: Suspend(console::Ready(process)),
        })
    }

    /// Its part of the machine's, but no more than it may have of memory otherwise.
    fn files_bytes_max(&self, program: &ProgramPlan) -> u64 {
        let can_write = program.directories.iter().any(|directory| directory.access == Access::ReadWrite);
        match can_write {
            true => self.files_bytes_max.min(program.memory_bytes_max.max(FILES_BYTES_MIN)),
            false => 0,
        }
    }

    fn sleep(&mut self, system: &System, deadline_ns: u64, _alone: Option<Wait>) -> u64 {
        console::sleep(system, deadline_ns);
        0
    }
}

/// What the CPU's generator of random numbers says.
pub fn hardware_samples() -> Vec<u64> {
    (0..HARDWARE_SAMPLES).filter_map(|_| cpu::random()).collect()
}

/// The kernel's clock, and the date.
pub struct MachineClock;

impl Clock for MachineClock {
    fn monotonic_ns(&mut self) -> wasi::Result<u64> {
        Ok(clock::monotonic_ns())
    }

    fn wall_ns(&mut self) -> wasi::Result<u64> {
        Ok(clock::wall_ns())
    }

    /// Of a machine that has a process: [`ProcessClock`] knows better.
    fn cpu_ns(&mut self) -> wasi::Result<u64> {
        Ok(clock::monotonic_ns())
    }

    fn resolution_ns(&mut self, _which: ClockKind) -> wasi::Result<u64> {
        Ok(clock::RESOLUTION_NS)
    }
}
