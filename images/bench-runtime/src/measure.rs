//! The measurements.

use crate::gate;
use crate::launcher::{Launcher, LauncherHost};
use abi::Request;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use runtime::{Program, System};
use wasi::p1::{DESCRIPTORS_MAX, Start, State};
use wasi::provider::{OutputStream, Providers, StreamSet, Streams, Wait};
use wasi::{Exit, Stopped};
use wasmtime::{Engine, Instance, InstancePre, Linker, Store};

/// How many instances are made between two looks at the clock.
const BATCH: u64 = 64;

/// Does what `arguments` say; see the crate's first lines.
pub fn run(
    system: &'static System,
    launcher: Launcher,
    engine: &Engine,
    program: &Program,
    arguments: &[Vec<u8>],
) -> Result<(), String> {
    let words: Option<Vec<&str>> = arguments.iter().map(|word| core::str::from_utf8(word).ok()).collect();
    let words = words.ok_or("the plan's arguments are no text")?;
    let measurement = match words.as_slice() {
        [_, "instances", milliseconds] => {
            Measurement::Instances { nanoseconds: number(milliseconds)? * 1_000_000 }
        }
        [_, "time", count, ..] => Measurement::Time { count: number(count)?, arguments: &arguments[3..] },
        [_, "idle", count] => Measurement::Idle { count: number(count)? },
        _ => return Err(String::from("the plan's arguments say nothing to measure")),
    };
    if program.module().imports().len() == 0 {
        let prepared = Linker::new(engine).instantiate_pre(program.module()).map_err(text)?;
        let context = |_: Launcher, _: &[Vec<u8>]| Ok(());
        measurement.take(Ready { system, launcher, program, prepared, context })
    } else {
        let mut linker = Linker::new(engine);
        wasi::p1::add_to_linker(&mut linker, program.module(), |state: &mut State<MeasuredHost>| state)
            .map_err(text)?;
        let prepared = linker.instantiate_pre(program.module()).map_err(text)?;
        measurement.take(Ready { system, launcher, program, prepared, context: wasi_state })
    }
}

fn number(word: &str) -> Result<u64, String> {
    word.parse().map_err(|_| format!("{word} is no number"))
}

fn text(error: wasmtime::Error) -> String {
    format!("{error:#}")
}

fn wasi_state(launcher: Launcher, arguments: &[Vec<u8>]) -> Result<State<MeasuredHost>, String> {
    let start = Start {
        arguments: arguments.to_vec(),
        environment: Vec::new(),
        directories: Vec::new(),
        descriptors_max: DESCRIPTORS_MAX,
        on_descriptors: |_| {},
    };
    let host = Providers {
        clock: launcher,
        entropy: launcher,
        streams: launcher,
        files: launcher,
        wait: Measured { launcher },
    };
    State::new(host, start).map_err(|errno| format!("no state: {errno:?}"))
}

type MeasuredHost = LauncherHost<Launcher, Launcher, Measured>;

/// What is measured runs on the first stack, so it waits where the launcher does.
struct Measured {
    launcher: Launcher,
}

impl Wait for Measured {
    fn wait(&mut self, streams: StreamSet, deadline_ns: Option<u64>) -> Result<StreamSet, Stopped> {
        self.launcher.wait(streams, deadline_ns)
    }

    /// Asks for events, as the product does.
    fn checkpoint(&mut self) -> Result<(), Stopped> {
        let take = Request::Wait { vcpu: gate::vcpu(), deadline_ns: 0 };
        let events = System::get().map_or(Ok(0), |system| system.kernel().call(take));
        if events == Ok(0) { Ok(()) } else { Err(Stopped) }
    }

    fn give_way(&mut self) -> Result<(), Stopped> {
        self.checkpoint()
    }
}

enum Measurement<'a> {
    Instances { nanoseconds: u64 },
    Time { count: u64, arguments: &'a [Vec<u8>] },
    Idle { count: u64 },
}

/// A program that is linked and ready to be instantiated; `T` is what its instances have besides.
struct Ready<'a, T: 'static, C> {
    system: &'static System,
    launcher: Launcher,
    program: &'a Program,
    prepared: InstancePre<T>,
    context: C,
}

impl Measurement<'_> {
    fn take<T, C>(&self, mut ready: Ready<'_, T, C>) -> Result<(), String>
    where
        C: Fn(Launcher, &[Vec<u8>]) -> Result<T, String>,
    {
        match self {
            Self::Instances { nanoseconds } => ready.instances(*nanoseconds),
            Self::Time { count, arguments } => ready.time(*count, arguments),
            Self::Idle { count } => ready.idle(*count),
        }
    }
}

impl<T, C> Ready<'_, T, C>
where
    C: Fn(Launcher, &[Vec<u8>]) -> Result<T, String>,
{
    /// A fresh instance and its `_start`. Its end is when both are dropped.
    fn start(&self, arguments: &[Vec<u8>]) -> Result<(Store<T>, Instance), String> {
        let context = (self.context)(self.launcher, arguments)?;
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

    /// Tells the one who reads the measurements.
    fn say(&mut self, line: &str) -> Result<(), String> {
        let said = self.launcher.write(OutputStream::Error, line.as_bytes());
        said.map(|_| ()).map_err(|_| String::from("nobody reads the measurements"))
    }

    fn instances(&mut self, nanoseconds: u64) -> Result<(), String> {
        // The first touches what stays.
        self.start(&[])?;
        let begin_ns = self.system.now_ns();
        let mut count = 0u64;
        let elapsed_ns = loop {
            for _ in 0..BATCH {
                self.start(&[])?;
            }
            count += BATCH;
            let elapsed_ns = self.system.now_ns() - begin_ns;
            if elapsed_ns >= nanoseconds {
                break elapsed_ns;
            }
        };
        let rate = u128::from(count) * 1_000_000_000 / u128::from(elapsed_ns);
        self.say(&format!("instances_per_second {rate}\n"))
    }

    fn time(&mut self, count: u64, arguments: &[Vec<u8>]) -> Result<(), String> {
        for _ in 0..count {
            let begin_ns = self.system.now_ns();
            drop(self.start(arguments)?);
            let elapsed_ns = self.system.now_ns() - begin_ns;
            self.say(&format!("nanoseconds {elapsed_ns}\n"))?;
        }
        Ok(())
    }

    fn idle(&mut self, count: u64) -> Result<(), String> {
        self.start(&[])?;
        self.say("begin\n")?;
        let alive: Result<Vec<_>, String> = (0..count).map(|_| self.start(&[])).collect();
        let alive = alive?;
        self.say(&format!("alive {count}\n"))?;
        drop(alive);
        Ok(())
    }
}
