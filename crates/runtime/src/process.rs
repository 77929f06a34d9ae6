//! A process: an instance of a program on a stack of its own.

use crate::current::{self, Control, Turn};
use crate::program::CallFrame;
use crate::stack::{STACK_BYTES_MAX, Stack};
use crate::thread::{GreenThread, Outcome};
use crate::{ProcessId, Program, Stop, System, trap};
use abi::Request;
use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use wasmtime::{
    GcHeapOutOfMemory, InstancePre, Linker, OutOfMemory, ResourceLimiter, Store, ThrownException, Trap,
};

/// The stack of a process beyond what its WebAssembly code may use: for host functions and what they call.
pub const HOST_STACK_BYTES: u64 = 448 << 10;
const _: () = assert!(engine::WASM_STACK_BYTES as u64 + HOST_STACK_BYTES <= STACK_BYTES_MAX);

/// What a process may use.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Of all linear memories and tables together.
    pub memory_bytes_max: u64,
    /// Of the library OS, for what serves it.
    pub host_bytes_max: u64,
    /// How long its tables may be together.
    pub table_elements_max: u64,
    /// What they may take beside that, while they grow: more of it is charged.
    pub growing_tables_bytes_max: u64,
    /// The stack of its WebAssembly code, whole pages: what the [engine](crate::program::engine) of its program was made with.
    pub stack_bytes: u64,
    /// When its time is over, on the kernel's clock.
    pub deadline_ns: u64,
    /// CPU time, in nanoseconds.
    pub cpu_ns_max: u64,
}

impl Limits {
    /// As much as there is, on a stack of the ordinary size.
    pub const NONE: Self = Self {
        memory_bytes_max: u64::MAX,
        host_bytes_max: i64::MAX as u64,
        table_elements_max: u64::MAX,
        growing_tables_bytes_max: u64::MAX,
        stack_bytes: engine::WASM_STACK_BYTES as u64,
        deadline_ns: Request::NEVER,
        cpu_ns_max: Request::NEVER,
    };
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
        /// Where.
        backtrace: Backtrace,
    },
    /// It was made to end: why, and where if it was in its own code.
    Stopped(Stop, Backtrace),
    /// It could not start.
    NotStarted(String),
}

/// Where a process was.
#[derive(Clone, Debug, Default)]
pub struct Backtrace {
    /// The functions that were on its stack, the innermost first.
    pub frames: Vec<CallFrame>,
    /// How many there were in all: some are only counted.
    pub depth: u32,
}

/// What a store holds: whatever the host functions want, and the limits.
pub struct Guest<T> {
    /// For host functions.
    pub data: T,
    limiter: Limiter,
}

/// Counts memories and tables against one limit, and the tables against one of their own.
#[derive(Debug)]
struct Limiter {
    bytes: u64,
    bytes_max: u64,
    table_elements: u64,
    table_elements_max: u64,
    /// By how much a memory was last allowed to grow.
    growth_bytes: u64,
    /// The last growth that was too much.
    refused: Option<Refused>,
}

/// What it would have been in all.
#[derive(Clone, Copy, Debug)]
enum Refused {
    Bytes(u64),
    TableElements(u64),
}

/// A memory or a table that is to grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Growing {
    Memory,
    Table,
}

/// What an element of a table takes, in bytes: a pointer.
pub(crate) const TABLE_ELEMENT_BYTES: u64 = 8;

impl Limiter {
    /// Whether something that is `current` units long may become `desired`. Beyond its own `maximum` the engine would refuse
    /// it after it has been counted.
    fn allow(&mut self, what: Growing, [current, desired]: [usize; 2], maximum: Option<usize>) -> bool {
        if maximum.is_some_and(|maximum| desired > maximum) {
            return false;
        }
        let more = desired.saturating_sub(current) as u64;
        let (more_bytes, more_elements) = match what {
            Growing::Memory => (more, 0),
            Growing::Table => (more.saturating_mul(TABLE_ELEMENT_BYTES), more),
        };
        let table_elements = self.table_elements.saturating_add(more_elements);
        if table_elements > self.table_elements_max {
            self.refused = Some(Refused::TableElements(table_elements));
            return false;
        }
        let bytes = self.bytes.saturating_add(more_bytes);
        if bytes > self.bytes_max {
            self.refused = Some(Refused::Bytes(bytes));
            return false;
        }
        (self.bytes, self.table_elements) = (bytes, table_elements);
        if what == Growing::Memory {
            self.growth_bytes = more_bytes;
        }
        self.tell();
        true
    }

    /// A memory was allowed to grow, and could not.
    fn take_back(&mut self) {
        self.bytes -= core::mem::take(&mut self.growth_bytes);
        self.tell();
    }

    fn tell(&self) {
        if let Some(current) = current::get() {
            current.set_memory(self.bytes, self.table_elements);
        }
    }
}

impl ResourceLimiter for Limiter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(self.allow(Growing::Memory, [current, desired], maximum))
    }

    fn memory_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        // What a memory's type forbids was not allowed before, and so is not taken back.
        if is_refusal(&error) || error.root_cause().to_string() == RESERVATION_EXCEEDED {
            self.take_back();
        }
        Ok(())
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(self.allow(Growing::Table, [current, desired], maximum))
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

/// What a function takes of an instance at most: where it is and with what it is called (wasmtime's `VMFuncRef`).
const FUNCTION_BYTES: u64 = 32;

impl<T: Send> Prepared<T> {
    /// Links `program` with the host functions of `linker`.
    ///
    /// # Errors
    /// If they do not fit.
    pub fn new(program: &'static Program, linker: &Linker<Guest<T>>) -> wasmtime::Result<Self> {
        Ok(Self { program, instance: linker.instantiate_pre(program.module())? })
    }

    /// The same, for a program that is kept for ever if they fit: an upcall may look at its code as long as a process of it may be there.
    ///
    /// # Errors
    /// If they do not fit.
    pub fn keep(program: Program, linker: &Linker<Guest<T>>) -> wasmtime::Result<Self> {
        let instance = linker.instantiate_pre(program.module())?;
        Ok(Self { program: Box::leak(Box::new(program)), instance })
    }

    /// What an instance's functions take of the heap, at most.
    pub fn functions_bytes(&self) -> u64 {
        self.program.module().functions().len() as u64 * FUNCTION_BYTES
    }

    /// Starts a process, which will run the program's `_start` when its turn comes; `data` is for its host functions.
    pub fn start(&self, system: &'static System, data: T, limits: Limits) -> Result<ProcessId, abi::Error> {
        Ok(self.make(system, data, limits)?.start())
    }

    /// Makes a process, which does not run yet.
    pub fn make(&self, system: &'static System, data: T, limits: Limits) -> Result<Made, abi::Error> {
        let instance = self.instance.clone();
        let program = self.program;
        let main = move || run(program, &instance, data, limits);
        system.processes().lock().make_room()?;
        let process = Process::new(system, Some(program), limits, main)?;
        Ok(Made { system, process })
    }
}

/// A process that does not run yet. Only one at a time is made.
pub struct Made {
    system: &'static System,
    process: Process,
}

impl Made {
    /// Lets it run when its turn comes. Another virtual CPU may run it before this returns.
    pub fn start(self) -> ProcessId {
        self.system.processes().lock().add(self.system, self.process)
    }
}

impl Process {
    pub fn new(
        system: &'static System,
        program: Option<&'static Program>,
        limits: Limits,
        main: impl FnOnce() -> Ending + Send + 'static,
    ) -> Result<Self, abi::Error> {
        let stack = Stack::recycled(system, limits.stack_bytes + HOST_STACK_BYTES)?;
        let control = Arc::new(Control::new(program, stack.usable(), limits, system.now_ns()));
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

/// The same, if it has. For what is long, and neither in a program nor in a host function.
fn give_way_if_wanted() {
    if current::is_switch_wanted() {
        yield_turn();
    }
}

fn run<T: 'static>(
    program: &'static Program,
    prepared: &InstancePre<Guest<T>>,
    data: T,
    limits: Limits,
) -> Ending {
    // Upcalls look at it, and cannot find it out.
    current::uncharged(|| {
        program.find_functions(|| {
            give_way_if_wanted();
            current::stop_wanted().is_none()
        });
    });
    if let Some(stop) = current::stop_wanted() {
        return Ending::Stopped(stop, Backtrace::default());
    }
    let limiter = Limiter {
        bytes: 0,
        bytes_max: limits.memory_bytes_max,
        table_elements: 0,
        table_elements_max: limits.table_elements_max,
        growth_bytes: 0,
        refused: None,
    };
    let mut store = match Store::try_new(prepared.module().engine(), Guest { data, limiter }) {
        Ok(store) => store,
        Err(_) => return Ending::NotStarted(String::from(NO_HOST_MEMORY)),
    };
    store.limiter(|guest| &mut guest.limiter);
    let result = call(&mut store, prepared, limits);
    current::begin_end();
    match result {
        Ok(result) => ending(program, result),
        Err(why) => Ending::NotStarted(why),
    }
}

/// Instantiates it and calls its `_start`; or why that cannot be.
fn call<T: 'static>(
    store: &mut Store<Guest<T>>,
    prepared: &InstancePre<Guest<T>>,
    limits: Limits,
) -> Result<wasmtime::Result<()>, String> {
    let instance = match prepared.instantiate(&mut *store) {
        Ok(instance) => instance,
        Err(error) => {
            let why = no_instance(&error, store.data().limiter.refused, limits);
            return why.map_or(Ok(Err(error)), Err);
        }
    };
    let start = instance.get_func(&mut *store, "_start").ok_or(NO_START)?;
    let start = start.typed::<(), ()>(&*store).map_err(|_| OTHER_START)?;
    Ok(start.call(store, ()))
}

const NO_START: &str = "it exports no function `_start`: it is a library, or was not built as a WASI command";
const OTHER_START: &str =
    "its function `_start` has parameters or results, which that of a WASI command has not";

/// Why there is no instance, with the last growth that was too much; `None` if there was one, and its start function came to an end, or
/// somebody ended it.
fn no_instance(error: &wasmtime::Error, refused: Option<Refused>, limits: Limits) -> Option<String> {
    if let Some(Stop::Cancelled | Stop::TimedOut | Stop::CpuTime) = current::stop_wanted() {
        return None;
    }
    match refused.filter(|_| is_too_large(error)) {
        Some(refused) => Some(too_much(refused, limits)),
        None if error.is::<OutOfMemory>() => Some(String::from(NO_HOST_MEMORY)),
        None if is_refusal(error) => Some(String::from(NO_MEMORY)),
        None => None,
    }
}

/// Why a program does not start whose instance is too large.
const NO_HOST_MEMORY: &str =
    "the library OS needs more memory for its instance than there is or it may have (more with --memory)";

/// The same, when it is the kernel that has none.
const NO_MEMORY: &str = "its domain has no memory left for its instance";

/// Whether the kernel had no memory, or no region, for what the engine asked of it ([`crate::engine_hooks`]): the engine has these words for it.
fn is_refusal(error: &wasmtime::Error) -> bool {
    let words = error.root_cause().to_string();
    let is_it = |refusal: abi::Error| words == alloc::format!("os error {}", refusal.code());
    is_it(abi::Error::NoMemory) || is_it(abi::Error::TableFull)
}

/// Whether it is that a memory or a table begins longer than the limiter allows: the engine has these words for it. What grows in the start
/// function and is refused is told so there, and goes on.
fn is_too_large(error: &wasmtime::Error) -> bool {
    let words = error.root_cause().to_string();
    ["exceeds memory limits", "exceeds table limits"].iter().any(|end| words.ends_with(end))
}

/// The engine's words where a memory cannot grow in its place, as that of exceptions never can.
const RESERVATION_EXCEEDED: &str = "Memory maximum size exceeded";

fn too_much(refused: Refused, limits: Limits) -> String {
    match refused {
        Refused::Bytes(bytes) => alloc::format!(
            "it wants {} of memory and tables and may have {} (--memory)",
            in_units(bytes),
            in_units(limits.memory_bytes_max)
        ),
        Refused::TableElements(count) => alloc::format!(
            "it wants tables of {count} elements and may have {} (--table-elements)",
            limits.table_elements_max
        ),
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
    let (addresses, depth) = trap::take_frames();
    let Err(error) = result else { return Ending::Returned(Ok(())) };
    let frames = match addresses.is_empty() {
        true => Vec::new(),
        false => current::uncharged(|| program.call_frames(&addresses, give_way_if_wanted)),
    };
    // Of the addresses that were looked up, those of trampolines are no frames.
    let depth = depth.saturating_sub((addresses.len() - frames.len()) as u32);
    let backtrace = Backtrace { frames, depth };
    if let Some(stop) = current::stop_wanted() {
        return Ending::Stopped(stop, backtrace);
    }
    if let Some(trap) = error.downcast_ref::<Trap>() {
        let words = trap.to_string();
        let cause = String::from(words.strip_prefix("wasm trap: ").unwrap_or(&words));
        return Ending::Trapped { cause, backtrace };
    }
    // The engine asked for memory on its behalf.
    if error.is::<OutOfMemory>() {
        return Ending::Stopped(Stop::HostMemory, backtrace);
    }
    if error.is::<GcHeapOutOfMemory<()>>() {
        let kib = engine::EXCEPTIONS_BYTES >> 10;
        return Ending::Trapped {
            cause: alloc::format!("its exceptions take more than {kib} KiB"),
            backtrace,
        };
    }
    if error.is::<ThrownException>() {
        return Ending::Trapped { cause: String::from("an exception that nobody caught"), backtrace };
    }
    Ending::Returned(Err(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_memory_was_allowed_and_could_not_grow_by_is_not_counted() {
        let mut limiter = Limiter {
            bytes: 0,
            bytes_max: 100,
            table_elements: 0,
            table_elements_max: 100,
            growth_bytes: 0,
            refused: None,
        };
        let mut grow = |current, desired| limiter.memory_growing(current, desired, None).unwrap();
        assert!(grow(0, 40) && grow(40, 70) && !grow(70, 101));
        for (words, bytes) in [
            ("memory growth exceeds memory type's limits", 70),
            (RESERVATION_EXCEEDED, 40),
            (RESERVATION_EXCEEDED, 40),
        ] {
            limiter.memory_grow_failed(wasmtime::Error::msg(words)).unwrap();
            assert_eq!(limiter.bytes, bytes, "{words}");
        }
    }
}
