//! A program that is measured, linked and ready: what all measurements do over and over.

use crate::waiting::not_stopped;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use runtime::{Program, System, current};
use wasi::p1::{DESCRIPTORS_MAX, Start, State};
use wasi::provider::{Host, StreamSet, Wait};
use wasi::{Exit, Stopped};
use wasmtime::{Engine, Instance, InstancePre, Linker, Store};

/// A measurement, of a program with WASI or of one that imports nothing.
pub trait Measurement {
    /// Takes it.
    fn of<T>(self, ready: &Ready<'_, T>) -> Result<(), String>;
}

/// What is measured.
pub struct Subject<'a> {
    /// The library OS.
    pub system: &'static System,
    /// Its engine.
    pub engine: &'a Engine,
    /// The program.
    pub program: &'a Program,
}

/// Makes what an instance has besides, of the program's arguments.
type Context<'a, T> = dyn Fn(&[Vec<u8>]) -> Result<T, String> + 'a;

/// A program that is linked and ready to be instantiated; `T` is what its instances have besides.
pub struct Ready<'a, T: 'static> {
    /// The library OS.
    pub system: &'static System,
    program: &'a Program,
    prepared: InstancePre<T>,
    context: &'a Context<'a, T>,
}

impl Subject<'_> {
    /// Links the program, if it wants WASI with hosts that `host` makes, and measures it.
    pub fn measure<H: Host + 'static>(
        &self,
        host: impl Fn() -> Result<H, String>,
        measurement: impl Measurement,
    ) -> Result<(), String> {
        let &Self { system, engine, program } = self;
        let module = program.module();
        if module.imports().len() == 0 {
            let prepared = Linker::new(engine).instantiate_pre(module).map_err(text)?;
            return measurement.of(&Ready { system, program, prepared, context: &|_| Ok(()) });
        }
        let mut linker = Linker::new(engine);
        wasi::p1::add_to_linker(&mut linker, module, |state: &mut State<H>| state).map_err(text)?;
        let prepared = linker.instantiate_pre(module).map_err(text)?;
        let context = |arguments: &[Vec<u8>]| {
            let start = Start {
                arguments: arguments.to_vec(),
                environment: Vec::new(),
                directories: Vec::new(),
                descriptors_max: DESCRIPTORS_MAX,
                on_descriptors: |_| {},
            };
            State::new(host()?, start).map_err(|errno| format!("no state: {errno:?}"))
        };
        measurement.of(&Ready { system, program, prepared, context: &context })
    }
}

impl<T> Ready<'_, T> {
    /// A fresh instance and its `_start`. Its end is when both are dropped.
    pub fn start(&self, arguments: &[Vec<u8>]) -> Result<(Store<T>, Instance), String> {
        let context = (self.context)(arguments)?;
        let mut store = Store::new(self.prepared.module().engine(), context);
        self.system.slots().lock().begin(self.program.text().base);
        let instance = self.prepared.instantiate(&mut store).map_err(text)?;
        let start = instance.get_typed_func::<(), ()>(&mut store, "_start").map_err(text)?;
        match start.call(&mut store, ()) {
            Ok(()) => Ok((store, instance)),
            Err(error) if error.downcast_ref::<Exit>().is_some_and(|exit| exit.0 == 0) => {
                Ok((store, instance))
            }
            Err(error) => Err(text(error)),
        }
    }
}

/// What is measured runs on the first stack, and not as a process that others wait behind: so it cannot wait, and has nothing to wait for.
/// Else it does what a process does.
pub struct Unscheduled;

impl Wait for Unscheduled {
    fn wait(&mut self, _streams: StreamSet, _deadline_ns: Option<u64>) -> Result<StreamSet, Stopped> {
        Err(Stopped)
    }

    fn checkpoint(&mut self) -> Result<(), Stopped> {
        current::enter_host_function();
        not_stopped()
    }

    fn leave(&mut self) -> Result<(), Stopped> {
        // Whether somebody wants the virtual CPU: there is nobody.
        let _ = current::leave_host_function();
        not_stopped()
    }

    fn give_way(&mut self) -> Result<(), Stopped> {
        not_stopped()
    }
}

fn text(error: wasmtime::Error) -> String {
    format!("{error:#}")
}
