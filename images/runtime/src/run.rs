//! Runs the plan's program: the same on both platforms.

use crate::report::Report;
use crate::{cpu, entry};
use abi::{BootInfo, Request};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use bundle::{Bundle, Module, ProgramPlan};
use runtime::process::{self, Limits};
use runtime::trap::{self, Stop};
use runtime::{LoadError, Process, Program, System, program};
use wasi::Stopped;
use wasi::p1::{DESCRIPTORS_MAX, Preopen, Start};
use wasi::provider::{Host, Stream, StreamSet};

/// Reads the boot module.
pub fn module(boot: &'static BootInfo) -> Result<Module<'static>, Report> {
    Module::parse(entry::module(boot)).map_err(|error| Report::not_started("the boot module", error))
}

/// Reads a boot module that must hold programs.
pub fn bundle(boot: &'static BootInfo) -> Result<Bundle<'static>, Report> {
    Bundle::parse(entry::module(boot)).map_err(|error| Report::not_started("the boot module", error))
}

/// Loads and runs the bundle's first program. `host` has its providers, `idle` does its waiting.
pub fn run<H: Host + 'static>(
    system: &'static System,
    bundle: Bundle<'static>,
    host: H,
    idle: impl FnMut(process::Wait) -> u64,
) -> Report {
    // A plan has a program.
    let plan = &bundle.plan.programs[0];
    let (engine, program) = match load(system, &bundle, plan) {
        Ok(loaded) => loaded,
        Err(error) => return Report::not_started(&plan.name, error),
    };
    match start(system, &engine, program, plan, host) {
        Ok(process) => Report::ended(&plan.name, process.run(idle)),
        Err(error) => Report::not_started(&plan.name, error),
    }
}

fn load(
    system: &'static System,
    bundle: &Bundle<'static>,
    plan: &ProgramPlan,
) -> Result<(wasmtime::Engine, &'static Program), LoadError> {
    let engine = program::engine(system, cpu::has_feature)?;
    // Both stay for as long as the domain: code must not go while an upcall may look at it.
    let helper = Box::leak(Box::new(Program::load(&engine, bundle.trap_helper, cpu::has_feature)?));
    trap::set_helper(helper);
    helper.spring(&engine)?;
    let artifact = bundle.artifacts[plan.artifact as usize];
    let program = Box::leak(Box::new(Program::load(&engine, artifact, cpu::has_feature)?));
    Ok((engine, program))
}

fn start<H: Host + 'static>(
    system: &'static System,
    engine: &wasmtime::Engine,
    program: &'static Program,
    plan: &ProgramPlan,
    mut host: H,
) -> Result<Process, String> {
    let failed = |error: wasmtime::Error| format!("{error:#}");
    let mut linker = wasmtime::Linker::new(engine);
    let unserved = wasi::p1::add_to_linker(
        &mut linker,
        program.module(),
        |guest: &mut process::Guest<wasi::p1::State<H>>| &mut guest.data,
    )
    .map_err(failed)?;
    if !unserved.is_empty() {
        return Err(imports_nobody_serves(&unserved));
    }
    let beginning = beginning(&mut host, plan)?;
    let deadline_ns =
        plan.timeout_ns.map_or(Request::NEVER, |timeout| system.now_ns().saturating_add(timeout));
    let limits = Limits { memory_bytes_max: plan.memory_bytes_max, deadline_ns };
    let state =
        wasi::p1::State::new(host, beginning).map_err(|errno| format!("too many directories ({errno:?})"))?;
    Process::new(system, program, linker, state, limits)
        .map_err(|error| format!("there is no memory for its stack ({error:?})"))
}

/// The most imports that a message names.
const IMPORTS_NAMED: usize = 4;

fn imports_nobody_serves(imports: &[String]) -> String {
    let named: Vec<String> = imports.iter().take(IMPORTS_NAMED).map(|import| format!("`{import}`")).collect();
    let more = match imports.len() - named.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let advice = match imports.iter().any(|import| import.starts_with("wasi_unstable::")) {
        true => "; it was built for an older WASI: build it for wasm32-wasip1",
        false => "; what is served here is wasi_snapshot_preview1",
    };
    format!("it imports {}{more}, which nobody serves{advice}", named.join(", "))
}

/// What the program begins with; opens the granted directories.
fn beginning<H: Host>(host: &mut H, plan: &ProgramPlan) -> Result<Start, String> {
    let mut directories = Vec::new();
    for (number, directory) in plan.directories.iter().enumerate() {
        let handle = host
            .files()
            .open_grant(number as u32)
            .map_err(|error| format!("the directory {} cannot be opened: {error:?}", directory.guest))?;
        directories.push(Preopen { guest: directory.guest.as_str().into(), handle });
    }
    Ok(Start {
        arguments: plan.arguments.clone(),
        environment: plan.environment.clone(),
        directories,
        descriptors_max: DESCRIPTORS_MAX,
    })
}

/// What a process waits for, as the number that passes through the scheduler.
pub fn interest_in(streams: StreamSet) -> u64 {
    [Stream::Input, Stream::Output, Stream::Error]
        .into_iter()
        .filter(|stream| streams.has(*stream))
        .fold(0, |bits, stream| bits | 1 << stream as u8)
}

/// The inverse of [`interest_in`].
pub fn streams_of(interest: u64) -> StreamSet {
    [Stream::Input, Stream::Output, Stream::Error]
        .into_iter()
        .filter(|stream| interest & 1 << *stream as u8 != 0)
        .fold(StreamSet::NONE, |set, stream| set.union(StreamSet::of(stream)))
}

/// Fails if the process has to end.
pub fn not_stopped() -> Result<(), Stopped> {
    match trap::stop_wanted() {
        Some(_) => Err(Stopped),
        None => Ok(()),
    }
}

/// Suspends the process until one of `streams` is ready or `deadline_ns` has come, and fails if it has to end:
/// its own time may be over first, or somebody may cancel it.
pub fn suspend_for(
    streams: StreamSet,
    deadline_ns: Option<u64>,
    poll_cancel: trap::PollCancel,
    mut ready_now: impl FnMut(StreamSet) -> StreamSet,
) -> Result<StreamSet, Stopped> {
    let deadline_ns = deadline_ns.unwrap_or(Request::NEVER);
    let system = System::get().ok_or(Stopped)?;
    loop {
        if poll_cancel() {
            trap::want_stop(Stop::Cancelled);
        }
        let now_ns = system.now_ns();
        if now_ns >= trap::deadline_ns() {
            trap::want_stop(Stop::TimedOut);
        }
        not_stopped()?;
        let ready = ready_now(streams);
        if !ready.is_empty() {
            return Ok(ready);
        }
        let until = deadline_ns.min(trap::deadline_ns());
        let answer = process::wait(process::Wait { deadline_ns: until, interest: interest_in(streams) });
        let ready = streams_of(answer);
        if !ready.is_empty() || system.now_ns() >= deadline_ns {
            return Ok(ready);
        }
    }
}
