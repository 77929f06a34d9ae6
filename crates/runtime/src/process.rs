//! A process: an instance of a program on a stack of its own.

use crate::stack::Stack;
use crate::thread::{GreenThread, Outcome};
use crate::trap::{self, Stop};
use crate::{Program, System};
use alloc::string::String;
use alloc::vec::Vec;
use wasmtime::{Linker, ResourceLimiter, Store, Trap};

/// Stack beyond what WebAssembly code may use: for host functions and for what they call.
const HOST_STACK_BYTES: u64 = 512 << 10;

/// What a process may use.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Of all linear memories together.
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
    /// A WebAssembly trap.
    Trapped {
        /// Which.
        trap: Trap,
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

#[derive(Debug)]
struct Limiter {
    memory_bytes: u64,
    memory_bytes_max: u64,
    refused_bytes: Option<u64>,
}

/// The most elements in a process's tables, each.
const TABLE_ELEMENTS_MAX: usize = 10_000_000;

impl ResourceLimiter for Limiter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let total = self.memory_bytes - current as u64 + desired as u64;
        let fits = total <= self.memory_bytes_max;
        if fits {
            self.memory_bytes = total;
        } else {
            self.refused_bytes = Some(total);
        }
        Ok(fits)
    }

    fn memory_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        Ok(())
    }

    fn table_growing(
        &mut self,
        _current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(desired <= TABLE_ELEMENTS_MAX)
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
        let stack = Stack::new(system, engine::WASM_STACK_BYTES as u64 + HOST_STACK_BYTES)?;
        let usable = stack.usable();
        if limits.deadline_ns != abi::Request::NEVER {
            // So that it can be ended in whatever it is doing when its time is over.
            program.functions();
        }
        let thread = GreenThread::new(stack, move || {
            trap::enter(program, usable, limits.deadline_ns);
            system.set_timer(limits.deadline_ns);
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
                Outcome::Suspended(wait) => answer = idle(wait),
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
    let limiter = Limiter { memory_bytes: 0, memory_bytes_max: limits.memory_bytes_max, refused_bytes: None };
    let mut store = Store::new(linker.engine(), Guest { data, limiter });
    store.limiter(|guest| &mut guest.limiter);
    system.slots().lock().begin(program.text().base);
    let instance = match linker.instantiate(&mut store, program.module()) {
        Ok(instance) => instance,
        Err(error) => {
            if let Some(bytes) = store.data().limiter.refused_bytes {
                return Ending::NotStarted(alloc::format!(
                    "it wants {} MiB of memory and may have {} MiB (--memory)",
                    bytes.div_ceil(1 << 20),
                    limits.memory_bytes_max >> 20
                ));
            }
            return ending(program, Err(error));
        }
    };
    match instance.get_typed_func::<(), ()>(&mut store, "_start") {
        Ok(start) => ending(program, start.call(&mut store, ())),
        Err(_) => Ending::NotStarted(String::from(
            "it exports no function `_start`: it is a library, or was not built as a WASI command",
        )),
    }
}

fn ending(program: &Program, result: wasmtime::Result<()>) -> Ending {
    let frames = trap::take_frames();
    let Err(error) = result else { return Ending::Returned(Ok(())) };
    if let Some(stop) = trap::stop_wanted() {
        return Ending::Stopped(stop);
    }
    match error.downcast_ref::<Trap>() {
        Some(trap) => Ending::Trapped {
            trap: *trap,
            backtrace: frames.into_iter().filter_map(|ip| program.function_name(ip)).collect(),
        },
        None => Ending::Returned(Err(error)),
    }
}
