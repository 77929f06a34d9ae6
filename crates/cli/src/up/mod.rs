//! `selkis up`: a whole system, from its manifest.
//!
//! This process is the system's root; with `--vm` the root is in the machine, and has the domains there. It starts a process for each domain, and then waits for whatever happens first in one
//! `poll`: what domains say over their wires, their ends, clients of the control socket, signals, and the time. What follows from it is the
//! `supervisor`'s to say. No process outlives this one: Linux kills them when the thread that started them ends.

mod backend;
mod client;
mod cpus;
pub mod domains;
mod http;
mod machine;
mod output;
mod process;
mod ready;
mod server;
mod signals;
mod system;
mod wire;

pub use output::Report;

use crate::arguments::UpArguments;
use crate::catalogue;
use crate::exit::status;
use crate::failure::Failure;
use crate::parts::{self, Part};
use crate::report::{Verbosity, say};
use crate::sockets::Claim;
use crate::{system_bundle, vm};
use backend::Backend;
use cpus::Cpus;
use machine::MachineSystem;
use manifest::units::ByteCount;
use manifest::{Machine, Mitigations, PROCESSES_MAX, System as Manifest};
use output::Output;
use ready::Ready;
use rustix::event::{PollFd, PollFlags};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use server::Server;
use signals::Signals;
use std::io;
use std::thread::available_parallelism;
use std::time::{Duration, Instant};
use supervisor::{DomainSetup, Outcome};
use system::System;

/// For each domain of a machine, what its root makes for it.
const DOMAIN_BYTES: u64 = 1 << 20;
/// How long, after the last program's end, clients and standard output may take to read what is left for them.
const FAREWELL_TIME: Duration = Duration::from_secs(1);

/// Runs the system to its end and answers with the status to exit with.
pub fn up(arguments: &UpArguments) -> Result<u8, Failure> {
    let manifest = Manifest::read(&arguments.manifest)?;
    let cpus = match arguments.vm {
        true => None,
        false => arguments.cpus.map(Cpus::choose).transpose()?,
    };
    manifest.check(machine(&manifest, arguments))?;
    let catalogue = std::cell::LazyCell::new(|| catalogue::list().unwrap_or_default());
    manifest.check_files(|name| catalogue.iter().any(|entry| entry.name == name))?;
    let claim = Claim::take(&manifest.name)?;
    if arguments.vm {
        let system = boot(&manifest, arguments)?;
        return Root::new(arguments, &claim, system)?.run();
    }
    let domains = domains::prepare(&manifest, Verbosity::from_flag(arguments.verbose))?;
    allow_descriptors();
    hosted::confine::missing().iter().for_each(|missing| say(&missing.to_string()));
    hosted::domain::missing().iter().for_each(|missing| say(&missing.to_string()));
    cpus.map_or(Ok(()), Cpus::keep_to)?;
    Root::new(arguments, &claim, System::new(&manifest, domains))?.run()
}

/// Boots a machine with the system in it.
fn boot(manifest: &Manifest, arguments: &UpArguments) -> Result<MachineSystem, Failure> {
    // What is missing is said before anything is compiled.
    let qemu = vm::find_qemu()?;
    let kernel = parts::find(Part::Kernel)?;
    let verbosity = Verbosity::from_flag(arguments.verbose);
    let bundle = system_bundle::pack(manifest, verbosity)?;
    let domains: Vec<DomainSetup> = manifest.domains.iter().map(system::domain).collect();
    let quotas = domains.iter().map(|domain| domain.memory_quota_bytes.saturating_add(DOMAIN_BYTES));
    let root = supervisor::memory_bytes_max(&domains, system_bundle::LOG_BYTES_MAX as usize);
    let memory = vm::memory_for(ByteCount(quotas.fold(root, u64::saturating_add)), bundle.length);
    let mitigations = match manifest.mitigations {
        Mitigations::On => vm::Mitigations::On,
        Mitigations::Off => vm::Mitigations::Off,
    };
    let (cpus, log) = (cpus(manifest, arguments), arguments.kernel_log);
    MachineSystem::boot(&vm::Machine {
        qemu: &qemu,
        kernel,
        bundle,
        memory,
        cpus,
        mitigations,
        verbosity,
        log,
    })
}

/// How many CPUs a machine gets: those that were asked for, or as many as the widest domain may use.
fn cpus(manifest: &Manifest, arguments: &UpArguments) -> u32 {
    arguments.cpus.unwrap_or_else(|| manifest.domains.iter().map(|domain| domain.cpus).max().unwrap_or(1))
}

/// What there is for domains: this machine, or one in it.
fn machine(manifest: &Manifest, arguments: &UpArguments) -> Machine {
    let information = rustix::system::sysinfo();
    #[allow(clippy::unnecessary_cast, reason = "its types differ between Linux's libraries")]
    let memory = (information.totalram as u64).saturating_mul(u64::from(information.mem_unit));
    let memory = ByteCount(memory);
    let own_cpus = || available_parallelism().map_or(1, |count| count.get() as u32);
    match arguments.vm {
        true => {
            Machine { memory, cpus: cpus(manifest, arguments), processes_max: bundle::system::PROCESSES_MAX }
        }
        false => {
            Machine { memory, cpus: arguments.cpus.unwrap_or_else(own_cpus), processes_max: PROCESSES_MAX }
        }
    }
}

/// Each domain takes some descriptors here, and the usual limit is for programs that use `select`.
fn allow_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    // If that is refused, a start that lacks descriptors says so.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}

struct Root<B: Backend> {
    signals: Signals,
    server: Server<B::Answer>,
    output: Output,
    system: B,
}

impl<B: Backend> Root<B> {
    fn new(arguments: &UpArguments, claim: &Claim, system: B) -> Result<Self, Failure> {
        Ok(Self {
            signals: Signals::catch().map_err(Failure::Signals)?,
            server: Server::new(claim.listen()?),
            output: Output::new(arguments.report(), io::stdout()),
            system,
        })
    }

    fn run(&mut self) -> Result<u8, Failure> {
        self.system.begin();
        self.advance(&Ready::default())?;
        let outcome = loop {
            if let Some(outcome) = self.system.outcome() {
                break outcome;
            }
            let ready = self.wait(self.system.time_left())?;
            self.advance(&ready)?;
        };
        self.farewell()?;
        self.system.close()?;
        Ok(match outcome {
            _ if self.signals.have_come() => status::INTERRUPTED,
            Outcome::Succeeded => 0,
            Outcome::Failed => status::SYSTEM_FAILED,
        })
    }

    fn wait(&self, time: Option<Duration>) -> Result<Ready, Failure> {
        let mut entries: Vec<PollFd<'_>> = vec![PollFd::new(self.signals.receiver(), PollFlags::IN)];
        self.system.wait_for(&mut entries);
        self.server.wait_for(&mut entries);
        self.output.wait_for(&mut entries);
        Ready::wait(&mut entries, time).map_err(Failure::Wait)
    }

    /// Does what can be done without waiting. Signals go first: on a terminal they come together with ends that they caused.
    fn advance(&mut self, ready: &Ready) -> Result<(), Failure> {
        if let Some(how) = self.signals.take() {
            self.system.shutdown(how);
        }
        let advanced = self.system.advance(ready);
        self.server.advance(ready, &mut self.system);
        self.output.advance(self.system.take_news());
        advanced
    }

    /// Nothing happens any more, but what has happened may not have been read.
    fn farewell(&mut self) -> Result<(), Failure> {
        let limit = Instant::now() + FAREWELL_TIME;
        self.server.close();
        while self.server.is_busy() || self.output.is_busy() {
            let left = limit.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let ready = self.wait(Some(left))?;
            self.advance(&ready)?;
        }
        Ok(())
    }
}
