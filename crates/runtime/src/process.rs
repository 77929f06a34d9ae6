//! A process: an instance of a program on a stack of its own.

use crate::stack::Stack;
use crate::thread::{GreenThread, Outcome};
use crate::trap::{self, Stop};
use crate::{Program, System};
use abi::Commit;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use wasmtime::{Linker, ResourceLimiter, Store, ThrownException, Trap};

/// What WebAssembly code may use, and beyond it as much for host functions and for what they call.
const STACK_BYTES: u64 = engine::WASM_STACK_BYTES as u64 + (512 << 10);

/// What a process may use.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Of all linear memories and tables together.
    pub memory_bytes_max: u64,
    /// When its time is over, on the kernel's clock.
    pub deadline_ns: u64,
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
    /// What else would end the wait: whatever the host function and the idle function agree on.
    pub interest: u64,
}

type Thread = GreenThread<Ending, Wait>;

/// A process that has not ended.
pub struct Process {
    thread: Thread,
}

impl Process {
    /// A process that will run `program`'s `_start`, with the host functions of `linker`.
    pub fn new<T: 'static>(
        system: &'static System,
        program: &'static Program,
        linker: Linker<Guest<T>>,
        data: T,
        limits: Limits,
    ) -> Result<Self, abi::Error> {
        let stack = Stack::new(system, STACK_BYTES, Commit::OnTouch)?;
        let usable = stack.usable();
        if limits.deadline_ns != abi::Request::NEVER {
            // So that it can be ended in whatever it is doing when its time is over.
            program.functions();
        }
        let thread = GreenThread::new(stack, move || {
            trap::enter(system, program, usable, limits.deadline_ns);
            let ending = run(system, program, &linker, data, limits);
            trap::leave();
            ending
        });
        Ok(Self { thread })
    }

    /// Runs the process to its end. Whenever it waits, `idle` blocks the virtual CPU until something happened, and
    /// says what.
    pub fn run(mut self, mut idle: impl FnMut(Wait) -> u64) -> Ending {
        let mut answer = 0;
        loop {
            match self.thread.resume(answer) {
                Outcome::Suspended(wait) => {
                    trap::suspend();
                    answer = idle(wait);
                    trap::resume();
                }
                Outcome::Ended(ending) => return ending,
            }
        }
    }
}

/// Suspends the process that calls, in a host function, until its idle function has returned, and answers with what
/// that said.
///
/// # Panics
/// If no process runs.
pub fn wait(wait: Wait) -> u64 {
    Thread::suspend(wait)
}

fn run<T: 'static>(
    system: &'static System,
    program: &'static Program,
    linker: &Linker<Guest<T>>,
    data: T,
    limits: Limits,
) -> Ending {
    let limiter = Limiter { bytes: 0, bytes_max: limits.memory_bytes_max, refused_bytes: None };
    let mut store = Store::new(linker.engine(), Guest { data, limiter });
    store.limiter(|guest| &mut guest.limiter);
    system.slots().lock().begin(program.text().base);
    let instance = match linker.instantiate(&mut store, program.module()) {
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
    if let Some(stop) = trap::stop_wanted() {
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
