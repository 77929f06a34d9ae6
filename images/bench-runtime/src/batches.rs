//! Measurements in a machine with several CPUs: a root starts one domain for each, and each makes fresh instances of the program.
//!
//! What the root starts as a process of a domain is a batch of instances there: the first domain's plan says how many. The first batch of all domains
//! touches what stays, the second is measured, and `marker` tells when. The root sleeps meanwhile.

use crate::console::{self, Command};
use crate::domain::Outside;
use crate::gate;
use crate::machine::{self, Machine, clock};
use crate::measure::{Measurement, Ready, Subject, Unscheduled};
use crate::report::Report;
use crate::root::child::{Child, Ground, Heard, explain};
use abi::{BootInfo, Request};
use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use bundle::{Bundle, Plan, Seed, Start};
use control::End;
use core::cell::RefCell;
use link::Process;
use runtime::System;
use supervisor::{DomainId, DomainLink, Event, ProcessId};
use wasi::provider::{Input, Output, OutputStream, Providers, Stream, Streams, Terminal};

/// The batch that touches what stays, and the one that is measured: their places in the plan.
const WARM_UP: u32 = 0;
const MEASURED: u32 = 1;

/// A system's root: runs both batches in all of its domains at once.
pub fn run_root(
    system: &'static System,
    boot: &'static BootInfo,
    description: &bundle::System,
) -> Result<(), String> {
    clock::start(boot, None);
    let ground = Ground { system, boot };
    let start = Start { epoch_ns: clock::epoch_ns(), seed: Seed(description.seed.0) };
    let mut children = Vec::new();
    for (index, domain) in description.domains.iter().enumerate() {
        let link = DomainLink::new(DomainId(index), domain.programs.len(), 0);
        let event = index as u32 % u64::BITS;
        let child = Child::start(&ground, domain, &description.image, &start, event, link);
        children.push(child.map_err(explain)?);
    }
    batch(system, &mut children, WARM_UP)?;
    marker::begin();
    batch(system, &mut children, MEASURED)?;
    marker::end();
    Ok(())
}

/// Has all children run the batch, and waits for all.
fn batch(system: &'static System, children: &mut [Child], batch: u32) -> Result<(), String> {
    let mut running = BTreeSet::new();
    for (index, child) in children.iter_mut().enumerate() {
        let process = ProcessId { domain: DomainId(index), number: batch };
        child.link.start(process, batch);
        child.say().map_err(|_| String::from("a domain does not listen"))?;
        running.insert(process);
    }
    loop {
        // A child rings only when it was heard out before.
        for child in &mut *children {
            hear(child, &mut running)?;
        }
        if running.is_empty() {
            return Ok(());
        }
        gate::wait(system, Request::NEVER);
    }
}

/// Hears a child out.
fn hear(child: &mut Child, running: &mut BTreeSet<ProcessId>) -> Result<(), String> {
    let mut failed = None;
    let mut tell = |event: Event<'_>| match event {
        Event::Ended(process, End::Exited { status: 0 }) => _ = running.remove(&process),
        Event::Ended(_, end) => failed = failed.take().or(Some(format!("{end:?}"))),
        Event::Wrote { bytes, .. } | Event::DomainWrote { bytes, .. } => {
            failed = Some(String::from_utf8_lossy(bytes).into_owned());
        }
        _ => {}
    };
    loop {
        match child.hear(&mut tell) {
            Heard::Part => {}
            Heard::All => return failed.map_or(Ok(()), Err),
            Heard::End(end) => return Err(format!("a domain is over: {end:?}")),
        }
    }
}

/// A domain of that root: runs batches until it is ended.
pub fn run_domain(
    system: &'static System,
    boot: &'static BootInfo,
    subject: &Subject<'_>,
    bundle: &Bundle<'static>,
) -> Result<(), String> {
    machine::prepare(system, boot, bundle)?;
    let plan = &bundle.plan;
    let machine = RefCell::new(Machine::new(boot, bundle)?);
    let host = || {
        let mut machine = machine.borrow_mut();
        let files_bytes = machine.files_bytes_max(&plan.programs[0]);
        let Providers { clock, entropy, files, .. } =
            machine.host(Process::FIRST, &plan.programs[0], files_bytes)?;
        Ok(Providers { clock, entropy, streams: Sink, files, wait: Unscheduled })
    };
    subject.measure(host, Batches { plan })
}

/// Batches, as the root asks for them.
struct Batches<'a> {
    plan: &'a Plan,
}

impl Measurement for Batches<'_> {
    fn of<T>(self, ready: &Ready<'_, T>) -> Result<(), String> {
        loop {
            while let Some(command) = console::with(console::Console::command).flatten() {
                let Command::Start(process, program) = command else { return Ok(()) };
                let report = match self.instances(ready, program) {
                    Ok(()) => Report::exited("a batch", 0),
                    Err(why) => Report::not_started("a batch", why),
                };
                console::ended(process, None, &report);
            }
            if console::with(|console| console.is_broken()) != Some(false) {
                return Err(String::from("the root is gone"));
            }
            console::sleep(ready.system, Request::NEVER);
        }
    }
}

impl Batches<'_> {
    /// As many as the program's argument says.
    fn instances<T>(&self, ready: &Ready<'_, T>, program: u32) -> Result<(), String> {
        let arguments = self.plan.programs.get(program as usize).map(|program| program.arguments.as_slice());
        let count = match arguments {
            Some([_, count]) => core::str::from_utf8(count).ok().and_then(|count| count.parse::<u64>().ok()),
            _ => None,
        };
        for _ in 0..count.ok_or_else(|| "the plan does not say how many instances".to_string())? {
            ready.start(&[])?;
        }
        Ok(())
    }
}

/// What is written goes nowhere, as the peer's does.
struct Sink;

impl Streams for Sink {
    fn read(&mut self, _into: &mut [u8]) -> wasi::Result<Input> {
        Ok(Input::End)
    }

    fn write(&mut self, _to: OutputStream, bytes: &[u8]) -> wasi::Result<Output> {
        Ok(Output::Bytes(bytes.len()))
    }

    fn terminal(&mut self, _stream: Stream) -> wasi::Result<Terminal> {
        Ok(Terminal::No)
    }
}
