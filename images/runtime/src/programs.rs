//! The programs of the plan: loaded and linked when the first process of one begins.

use crate::report::Report;
use crate::{cpu, entry};
use abi::{BootInfo, Request};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use bundle::{Bundle, DirectorySource, Module, ProgramPlan};
use runtime::process::{Guest, Limits};
use runtime::{LoadError, Prepared, ProcessId, Program, System, program, trap};
use wasi::p1::{DESCRIPTORS_MAX, Preopen, Start, State};
use wasi::provider::Host;

/// Reads the boot module.
pub fn module(boot: &'static BootInfo) -> Result<Module<'static>, Report> {
    Module::parse(entry::module(boot)).map_err(|error| Report::not_started("the boot module", error))
}

/// Reads a boot module that must hold programs.
pub fn bundle(boot: &'static BootInfo) -> Result<Bundle<'static>, Report> {
    Bundle::parse(entry::module(boot)).map_err(|error| Report::not_started("the boot module", error))
}

/// The programs, with the host functions that they are linked with: WASI's, on hosts of type `H`.
pub struct Programs<H: 'static> {
    engine: wasmtime::Engine,
    bundle: Bundle<'static>,
    /// By the number of the artifact.
    prepared: Vec<Option<Prepared<State<H>>>>,
}

impl<H: Host + Send + 'static> Programs<H> {
    /// None is loaded yet, but for the trap helper.
    pub fn new(system: &'static System, bundle: Bundle<'static>) -> Result<Self, LoadError> {
        let engine = program::engine(system, cpu::has_feature)?;
        let helper = load(&engine, bundle.trap_helper)?;
        trap::set_helper(helper);
        helper.spring(&engine)?;
        let prepared = bundle.artifacts.iter().map(|_| None).collect();
        Ok(Self { engine, bundle, prepared })
    }

    /// What the plan says of a program, if there is one of that number.
    pub fn plan(&self, program: u32) -> Option<&ProgramPlan> {
        self.bundle.plan.programs.get(program as usize)
    }

    /// Starts a process of a program, which stands on `host`.
    pub fn start(&mut self, system: &'static System, program: u32, mut host: H) -> Result<ProcessId, String> {
        // Whoever has a host has asked for the plan.
        let plan = &self.bundle.plan.programs[program as usize];
        let artifact = plan.artifact as usize;
        if self.prepared[artifact].is_none() {
            self.prepared[artifact] = Some(prepare(&self.engine, self.bundle.artifacts[artifact])?);
        }
        let prepared = self.prepared[artifact].as_ref().ok_or("it is not loaded")?;
        let beginning = beginning(&mut host, plan)?;
        let state =
            State::new(host, beginning).map_err(|errno| format!("too many directories ({errno:?})"))?;
        let deadline_ns =
            plan.timeout_ns.map_or(Request::NEVER, |timeout| system.now_ns().saturating_add(timeout));
        let limits = Limits {
            memory_bytes_max: plan.memory_bytes_max,
            deadline_ns,
            cpu_ns_max: plan.cpu_ns_max.unwrap_or(Request::NEVER),
        };
        prepared
            .start(system, state, limits)
            .map_err(|error| format!("there is no memory for its stack ({error:?})"))
    }
}

/// It stays for as long as the domain: code must not go while an upcall may look at it.
fn load(engine: &wasmtime::Engine, artifact: &'static [u8]) -> Result<&'static Program, LoadError> {
    Ok(Box::leak(Box::new(Program::load(engine, artifact, cpu::has_feature)?)))
}

fn prepare<H: Host + Send + 'static>(
    engine: &wasmtime::Engine,
    artifact: &'static [u8],
) -> Result<Prepared<State<H>>, String> {
    let failed = |error: wasmtime::Error| format!("{error:#}");
    let program = load(engine, artifact).map_err(|error| format!("{error}"))?;
    let mut linker = wasmtime::Linker::new(engine);
    let unserved =
        wasi::p1::add_to_linker(&mut linker, program.module(), |guest: &mut Guest<State<H>>| &mut guest.data)
            .map_err(failed)?;
    if !unserved.is_empty() {
        return Err(imports_nobody_serves(&unserved));
    }
    Prepared::new(program, &linker).map_err(failed)
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
    for (place, directory) in plan.directories.iter().enumerate() {
        let number = match directory.source {
            DirectorySource::Host(number) => number,
            DirectorySource::Copy(_) => place as u32,
        };
        let handle = host
            .files()
            .open_grant(number)
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
