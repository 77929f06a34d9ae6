//! The programs of the plan: loaded and linked when the first process of one begins.

use crate::allowance::Allowance;
use crate::report::Report;
use crate::{cpu, entry};
use abi::{BootInfo, Request};
use alloc::boxed::Box;
use alloc::collections::btree_map::Entry;
use alloc::collections::{BTreeMap, TryReserveError};
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use bundle::{Bundle, DirectorySource, Module, ProgramPlan};
use core::fmt;
use core::hint::black_box;
use runtime::process::{Guest, Limits, Made};
use runtime::{LoadError, Prepared, Program, System, current, program, trap};
use wasi::p1::{Preopen, Start, State};
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
pub struct Programs<H: Host + 'static> {
    system: &'static System,
    /// One for each size of stack that was asked for, which is the engine's.
    engines: BTreeMap<u64, wasmtime::Engine>,
    bundle: Bundle<'static>,
    plans: Vec<Arc<ProgramPlan>>,
    /// By the number of the artifact, and the stack.
    prepared: BTreeMap<(u32, u64), Linked<H>>,
}

/// A program that is linked, or why that can never be.
type Linked<H> = Result<Prepared<State<H>>, String>;

/// Why a program cannot be run.
pub enum Refused {
    /// It never can: why.
    Never(String),
    /// There is no memory for it now: what for.
    NoMemory(String),
}

impl Refused {
    /// In words.
    pub fn reason(self) -> String {
        match self {
            Self::Never(why) | Self::NoMemory(why) => why,
        }
    }
}

impl From<LoadError> for Refused {
    fn from(error: LoadError) -> Self {
        let words = format!("{error}");
        match error {
            LoadError::Memory(_) => Self::NoMemory(words),
            LoadError::Artifact(_) | LoadError::Cpu(_) | LoadError::Engine(_) => Self::Never(words),
        }
    }
}

impl From<wasmtime::Error> for Refused {
    fn from(error: wasmtime::Error) -> Self {
        let words = format!("{error:#}");
        if error.is::<wasmtime::OutOfMemory>() { Self::NoMemory(words) } else { Self::Never(words) }
    }
}

/// Why a process did not begin.
pub enum StartError {
    /// The program cannot be run: why.
    Program(String),
    /// A directory cannot be opened: which, and why.
    Directory(String, wasi::Error),
    /// It may have fewer descriptors than it begins with: how many that is, and may be.
    Descriptors(usize, u32),
    /// There is no memory for its stack.
    Memory(abi::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Program(why) => f.write_str(why),
            Self::Directory(guest, error) => write!(f, "the directory {guest} cannot be opened: {error:?}"),
            Self::Descriptors(wanted, max) => write!(
                f,
                "its streams and directories are {wanted} descriptors, and it may have {max} (--descriptors)"
            ),
            Self::Memory(error) => write!(f, "there is no memory for its stack ({error:?})"),
        }
    }
}

impl<H: Host + Send + 'static> Programs<H> {
    /// None is loaded yet, but for the trap helper.
    pub fn new(system: &'static System, mut bundle: Bundle<'static>) -> Result<Self, LoadError> {
        let engine = program::engine(system, cpu::has_feature)?;
        // An upcall may look at its code at any time.
        let helper: &'static _ =
            Box::leak(Box::new(Program::load(&engine, bundle.trap_helper, cpu::has_feature)?));
        trap::set_helper(helper);
        helper.spring(&engine)?;
        let engines = BTreeMap::from([(ProgramPlan::STACK_BYTES, engine)]);
        let plans = core::mem::take(&mut bundle.plan.programs).into_iter().map(Arc::new).collect();
        Ok(Self { system, engines, bundle, plans, prepared: BTreeMap::new() })
    }

    /// What the plan says of a program, if there is one of that number.
    pub fn plan(&self, program: u32) -> Option<&Arc<ProgramPlan>> {
        self.plans.get(program as usize)
    }

    /// Loads and links a program, if that has not been done; what its functions take of each instance, in bytes.
    pub fn load(&mut self, program: u32) -> Result<u64, Refused> {
        let plan = self.plan(program).map(Arc::clone);
        let plan = plan.ok_or_else(|| Refused::Never(format!("there is no program {program}")))?;
        self.prepared(&plan).map(Prepared::functions_bytes)
    }

    /// Makes a process by this plan, which stands on `host`.
    pub fn make(
        &mut self,
        plan: &ProgramPlan,
        mut host: H,
        allowance: Allowance,
    ) -> Result<Made, StartError> {
        let system = self.system;
        let prepared = self.prepared(plan).map_err(|refused| StartError::Program(refused.reason()))?;
        let beginning = beginning(&mut host, plan)?;
        let state = State::new(host, beginning).map_err(|_| too_few_descriptors(plan))?;
        let deadline_ns =
            plan.timeout_ns.map_or(Request::NEVER, |timeout| system.now_ns().saturating_add(timeout));
        let limits = Limits {
            memory_bytes_max: plan.memory_bytes_max,
            host_bytes_max: allowance.host_bytes,
            table_elements_max: plan.table_elements(),
            growing_tables_bytes_max: allowance.growing_tables_bytes,
            stack_bytes: plan.stack_bytes,
            deadline_ns,
            cpu_ns_max: plan.cpu_ns_max.unwrap_or(Request::NEVER),
        };
        prepared.make(system, state, limits).map_err(StartError::Memory)
    }

    /// The program of this plan, which is loaded and linked if it has not been.
    fn prepared(&mut self, plan: &ProgramPlan) -> Result<&Prepared<State<H>>, Refused> {
        let place = match self.prepared.entry((plan.artifact, plan.stack_bytes)) {
            Entry::Occupied(place) => place.into_mut(),
            Entry::Vacant(place) => {
                let engine = engine(&mut self.engines, self.system, plan.stack_bytes)?;
                let artifact = self.bundle.artifacts[plan.artifact as usize];
                match current::load(host_bytes_max(plan, 0), || prepare(engine, artifact)) {
                    (Ok(prepared), _) => place.insert(Ok(prepared)),
                    // For another plan it may not be.
                    (Err(_), true) => return Err(Refused::Never(String::from(TOO_LARGE))),
                    (Err(Refused::Never(why)), false) => place.insert(Err(why)),
                    (Err(no_memory), false) => return Err(no_memory),
                }
            }
        };
        place.as_ref().map_err(|why| Refused::Never(why.clone()))
    }
}

/// The engine whose programs may use so much stack.
fn engine<'e>(
    engines: &'e mut BTreeMap<u64, wasmtime::Engine>,
    system: &'static System,
    stack_bytes: u64,
) -> Result<&'e wasmtime::Engine, LoadError> {
    Ok(match engines.entry(stack_bytes) {
        Entry::Occupied(engine) => engine.into_mut(),
        Entry::Vacant(place) => {
            place.insert(program::engine_with_stack(system, cpu::has_feature, stack_bytes as usize)?)
        }
    })
}

fn prepare<H: Host + Send + 'static>(
    engine: &wasmtime::Engine,
    artifact: &'static [u8],
) -> Result<Prepared<State<H>>, Refused> {
    let program = Program::load(engine, artifact, cpu::has_feature)?;
    let links_bytes = program.module().imports().len() * LINKED_IMPORT_BYTES + LINKING_BYTES;
    room(links_bytes).map_err(|_| Refused::NoMemory(String::from(NO_MEMORY_TO_LINK)))?;
    let mut linker = wasmtime::Linker::new(engine);
    let unserved = wasi::p1::add_to_linker(&mut linker, program.module(), |guest: &mut Guest<State<H>>| {
        &mut guest.data
    })?;
    if !unserved.is_empty() {
        return Err(Refused::Never(imports_nobody_serves(&unserved)));
    }
    Ok(Prepared::keep(program, &linker)?)
}

/// The standard streams.
const STREAMS: usize = 3;

/// What every process may make the library OS hold for it: its instance, its descriptors, its streams.
const HOST_BYTES_MIN: u64 = 4 << 20;
/// And in proportion to its memory: a large program's instance and types.
const HOST_SHARE: u64 = 8;
/// What linking an import takes of our memory, at most.
const LINKED_IMPORT_BYTES: usize = 256;
/// And what it takes beside the imports: the engine's words for two types of functions that differ are the longest.
const LINKING_BYTES: usize = 64 << 10;

/// Why a program does not start of which there is too much.
const TOO_LARGE: &str =
    "it has more functions, types, imports or names than the library OS may hold for it (more with --memory)";

/// The same, if it is the memory that is not there.
const NO_MEMORY_TO_LINK: &str = "there is no memory to link it with what it imports";

/// Whether so much can be had and may be: linking cannot be told no on its way.
fn room(bytes: usize) -> Result<(), TryReserveError> {
    let mut room = Vec::<u8>::new();
    room.try_reserve_exact(bytes)?;
    // Or the compiler would see that nobody needs it.
    drop(black_box(room));
    Ok(())
}

/// What the library OS may hold for a process, its tables not counted; and for its program, when that is loaded.
pub fn host_bytes_max(plan: &ProgramPlan, files_bytes_max: u64) -> u64 {
    HOST_BYTES_MIN.saturating_add(plan.memory_bytes_max / HOST_SHARE).saturating_add(files_bytes_max)
}

/// The most imports that a message names, and the most bytes of each name.
const IMPORTS_NAMED: usize = 4;
const NAME_BYTES_MAX: usize = 100;

fn too_few_descriptors(plan: &ProgramPlan) -> StartError {
    StartError::Descriptors(STREAMS + plan.directories.len(), plan.descriptors_max)
}

fn imports_nobody_serves(imports: &[(&str, &str)]) -> String {
    let name = |(module, name): &(&str, &str)| format!("`{}::{}`", cut(module), cut(name));
    let named: Vec<String> = imports.iter().take(IMPORTS_NAMED).map(name).collect();
    let more = match imports.len() - named.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let advice = match imports.iter().any(|(module, _)| *module == "wasi_unstable") {
        true => "; it was built for an older WASI: build it for wasm32-wasip1",
        false => "; what is served here is wasi_snapshot_preview1, and selkis_process",
    };
    format!("it imports {}{more}, which nobody serves{advice}", named.join(", "))
}

fn cut(name: &str) -> String {
    let kept = &name[..name.floor_char_boundary(NAME_BYTES_MAX)];
    format!("{kept}{}", if kept.len() < name.len() { "…" } else { "" })
}

/// What the program begins with; opens the granted directories.
fn beginning<H: Host>(host: &mut H, plan: &ProgramPlan) -> Result<Start, StartError> {
    let mut directories = Vec::new();
    for (place, directory) in plan.directories.iter().enumerate() {
        let number = match directory.source {
            DirectorySource::Host(number) => number,
            DirectorySource::Copy(_) => place as u32,
        };
        let handle = host
            .files()
            .open_grant(number)
            .map_err(|error| StartError::Directory(directory.guest.clone(), error))?;
        directories.push(Preopen { guest: directory.guest.as_str().into(), handle });
    }
    Ok(Start {
        arguments: plan.arguments.clone(),
        environment: plan.environment.clone(),
        directories,
        descriptors_max: plan.descriptors_max as usize,
        on_descriptors: current::set_descriptors,
    })
}
