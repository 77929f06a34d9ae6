//! A process: an instance of a program on a stack of its own.

use crate::current::{self, Control, Turn};
use crate::stack::{STACK_BYTES_MAX, Stack};
use crate::thread::{GreenThread, Outcome};
use crate::{ProcessId, Program, Stop, System, trap};
use abi::Commit;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use wasmtime::{InstancePre, Linker, ResourceLimiter, Store, ThrownException, Trap};

/// What WebAssembly code may use, and beyond it nearly as much for host functions and for what they call.
const STACK_BYTES: u64 = STACK_BYTES_MAX;
const _: () = assert!(STACK_BYTES >= engine::WASM_STACK_BYTES as u64 + (448 << 10));

/// What a process may use.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Of all linear memories and tables together.
    pub memory_bytes_max: u64,
    /// When its time is over, on the kernel's clock.
    pub deadline_ns: u64,
    /// CPU time, in nanoseconds.
    pub cpu_ns_max: u64,
}

/// How a process ended.
#[derive(Debug)]
pub enum Ending {
    /// Its main function returned, or a host function ended it with an error that is no trap: for whoever linked
    /// that function to understand.
    Returned(Result<(), wasmtime::Error>),
    /// A WebAssembly trap, or an exception that left the program.
    Trapped {
        /// Which.
        cause: String,
        /// The names of the functions on the stack, innermost first.
        backtrace: Vec<String>,
    },
    /// It was made to end.
    Stopped(Stop),
    /// It could not start.
    NotStarted(String),
}

/// What a store holds: whatever the host functions want, and the limits.
pub struct Guest<T> {
    /// For host functions.
    pub data: T,
    limiter: Limiter,
}

/// Counts memories and tables against one limit.
#[derive(Debug)]
struct Limiter {
    bytes: u64,
    bytes_max: u64,
    /// What it would have been in all at the last growth that was too much.
    refused_bytes: Option<u64>,
}

/// What an element of a table takes, in bytes: a pointer.
const TABLE_ELEMENT_BYTES: u64 = 8;

impl Limiter {
    /// Whether something that is `current` units long may become `desired`. Beyond its own `maximum` the engine would refuse
    /// it after it has been counted.
    fn allow(&mut self, [current, desired]: [usize; 2], maximum: Option<usize>, unit_bytes: u64) -> bool {
        if maximum.is_some_and(|maximum| desired > maximum) {
            return false;
        }
        let more_bytes = (desired.saturating_sub(current) as u64).saturating_mul(unit_bytes);
        let total = self.bytes.saturating_add(more_bytes);
        if total > self.bytes_max {
            self.refused_bytes = Some(total);
            return false;
        }
        self.bytes = total;
        if let Some(current) = current::get() {
            current.set_memory_bytes(total);
        }
        true
    }
}

impl ResourceLimiter for Limiter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(self.allow([current, desired], maximum, 1))
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(self.allow([current, desired], maximum, TABLE_ELEMENT_BYTES))
    }
}

/// What a suspended process waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    /// Until when, on the kernel's clock, if nothing else happens before.
    pub deadline_ns: u64,
    /// What else would end the wait: whatever the host function and the platform agree on.
    pub interest: u64,
}

/// Why a process does not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Suspension {
    /// It waits for something.
    Waits(Wait),
    /// It lets others run first.
    GaveWay,
    /// It has had its time.
    Preempted,
}

type Thread = GreenThread<Ending, Suspension>;

/// A process that has not ended.
pub(crate) struct Process {
    thread: Thread,
    /// Behind a pointer: upcalls look at it where it is, and so does whoever ends the process on another virtual CPU.
    control: Arc<Control>,
}

/// A program that is linked: what is needed to start processes of it.
pub struct Prepared<T: 'static> {
    program: &'static Program,
    instance: InstancePre<Guest<T>>,
}

impl<T: Send> Prepared<T> {
    /// Links `program` with the host functions of `linker`.
    ///
    /// # Errors
    /// If they do not fit.
    pub fn new(program: &'static Program, linker: &Linker<Guest<T>>) -> wasmtime::Result<Self> {
        Ok(Self { program, instance: linker.instantiate_pre(program.module())? })
    }

    /// Starts a process, which will run the program's `_start` when its turn comes; `data` is for its host functions.
    pub fn start(&self, system: &'static System, data: T, limits: Limits) -> Result<ProcessId, abi::Error> {
        let instance = self.instance.clone();
        let program = self.program;
        let main = move || run(program, &instance, data, limits);
        let process = Process::new(system, Some(program), limits, main)?;
        Ok(system.processes().lock().add(system, process))
    }
}

impl Process {
    pub fn new(
        system: &'static System,
        program: Option<&'static Program>,
        limits: Limits,
        main: impl FnOnce() -> Ending + Send + 'static,
    ) -> Result<Self, abi::Error> {
        let stack = Stack::new(system, STACK_BYTES, Commit::OnTouch)?;
        let control = Arc::new(Control::new(program, stack.usable(), limits));
        Ok(Self { thread: GreenThread::new(stack, main), control })
    }

    pub fn control(&self) -> &Arc<Control> {
        &self.control
    }

    /// Runs it until it waits, has to give way, or ends.
    pub fn resume(&mut self, system: &System, turn: Turn, answer: u64) -> Outcome<Ending, Suspension> {
        let Self { thread, control } = self;
        current::run(system, control, turn, || thread.resume(answer))
    }
}

/// Suspends the process that calls, in a host function, until somebody wakes it or the deadline has come; answers with what it was
/// woken with, or 0.
///
/// # Panics
/// If no process runs.
pub fn wait(wait: Wait) -> u64 {
    Thread::suspend(Suspension::Waits(wait))
}

/// Lets other processes run first, if there are any.
///
/// # Panics
/// If no process runs.
pub fn give_way() {
    Thread::suspend(Suspension::GaveWay);
}

/// The process that calls has had its time, and has been told so.
///
/// # Panics
/// If no process runs.
pub fn yield_turn() {
    Thread::suspend(Suspension::Preempted);
}

fn run<T: 'static>(
    program: &'static Program,
    prepared: &InstancePre<Guest<T>>,
    data: T,
    limits: Limits,
) -> Ending {
    if let Some(stop) = current::stop_wanted() {
        return Ending::Stopped(stop);
    }
    let limiter = Limiter { bytes: 0, bytes_max: limits.memory_bytes_max, refused_bytes: None };
    let mut store = Store::new(prepared.module().engine(), Guest { data, limiter });
    store.limiter(|guest| &mut guest.limiter);
    let instance = match prepared.instantiate(&mut store) {
        Ok(instance) => instance,
        Err(error) => {
            if let Some(bytes) = store.data().limiter.refused_bytes {
                return Ending::NotStarted(alloc::format!(
                    "it wants {} of memory and tables and may have {} (--memory)",
                    in_units(bytes),
                    in_units(limits.memory_bytes_max)
                ));
            }
            return ending(program, Err(error));
        }
    };
    let Some(start) = instance.get_func(&mut store, "_start") else {
        return Ending::NotStarted(String::from(
            "it exports no function `_start`: it is a library, or was not built as a WASI command",
        ));
    };
    match start.typed::<(), ()>(&store) {
        Ok(start) => ending(program, start.call(&mut store, ())),
        Err(_) => Ending::NotStarted(String::from(
            "its function `_start` has parameters or results, which that of a WASI command has not",
        )),
    }
}

/// So many bytes, for people: exact or rounded up.
fn in_units(bytes: u64) -> String {
    match bytes {
        0..0x10_0000 => alloc::format!("{} KiB", bytes.div_ceil(1 << 10)),
        _ => alloc::format!("{} MiB", bytes.div_ceil(1 << 20)),
    }
}

fn ending(program: &Program, result: wasmtime::Result<()>) -> Ending {
    let frames = trap::take_frames();
    let Err(error) = result else { return Ending::Returned(Ok(())) };
    if let Some(stop) = current::stop_wanted() {
        return Ending::Stopped(stop);
    }
    let backtrace = frames.into_iter().filter_map(|ip| program.function_name(ip)).collect();
    if let Some(trap) = error.downcast_ref::<Trap>() {
        return Ending::Trapped { cause: trap.to_string(), backtrace };
    }
    if error.is::<ThrownException>() {
        return Ending::Trapped { cause: String::from("an exception that nobody caught"), backtrace };
    }
    Ending::Returned(Err(error))
}
