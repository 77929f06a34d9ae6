//! `selkis-peer`: runs and measures programs that `selkis-peer-compile` made, as a Linux process or as Linux's init.
//!
//! ```text
//! selkis-peer run ARTIFACT ARGUMENT…                     once, with this process's standard streams
//! selkis-peer instances POOL ARTIFACT THREADS MILLISECONDS   fresh instance, `_start`, end, over and over
//! selkis-peer count POOL ARTIFACT THREADS COUNT    so many fresh instances in each thread, between two marks (`marker`)
//! selkis-peer time POOL ARTIFACT COUNT ARGUMENT…         how long each of so many runs takes
//! selkis-peer idle POOL ARTIFACT COUNT                   memory of instances whose `_start` has returned
//! selkis-peer threads POOL ARTIFACT COUNT                so many fresh instances, each in a thread of its own
//! selkis-peer cpu|epochs|signals ARTIFACT COUNT          CPU time of so many runs: alone, with epochs, with signals that do nothing
//! selkis-peer runaways ARTIFACT COUNT                    how long it takes to end programs that do not end, by the epoch
//! selkis-peer handover COUNT                             how long it takes from one thread to another on the same CPU
//! ```
//! As process 1 it reads these words from `/plan`, one on each line, does what they say and switches the machine off.
//! Measurements print lines of a name and a number; `crates/bench` reads them.
#![allow(unsafe_code)]

use peer::epochs::{self, Tick};
use peer::{Epochs, handover};
use std::error::Error;
use std::fs::File;
use std::process::ExitCode;
use std::sync::Barrier;
use std::time::{Duration, Instant};
use wasmtime::{
    Enabled, Engine, Instance, InstanceAllocationStrategy, InstancePre, Linker, Module,
    PoolingAllocationConfig, Store,
};
use wasmtime_wasi::p1::{self, WasiP1Ctx};
use wasmtime_wasi::{I32Exit, WasiCtxBuilder};

type Failure = Box<dyn Error>;

/// Instances that the pool has room for: as many as are measured at once, and one before.
const POOL_INSTANCES: u32 = 16_001;
/// The largest memory in the pool: QuickJS wants less.
const POOL_MEMORY_BYTES: usize = 256 << 20;
/// Instances of each thread before those that are counted.
const WARM_UP: usize = 64;
/// How many instances are made between two looks at the clock.
const BATCH: u32 = 64;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let result = match std::process::id() {
        1 => as_init(),
        _ => dispatch(&arguments),
    };
    match result {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("selkis-peer: {error}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(arguments: &[String]) -> Result<u8, Failure> {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["run", artifact, ..] => run(artifact, &arguments[2..]),
        ["instances", pool, artifact, threads, ms] => {
            let time = Duration::from_millis(ms.parse()?);
            measure(Pool::parse(pool)?, artifact, &Instances { threads: threads.parse()?, time })
        }
        ["count", pool, artifact, threads, count] => {
            let (threads, count) = (threads.parse()?, count.parse()?);
            measure(Pool::parse(pool)?, artifact, &Count { threads, count })
        }
        ["time", pool, artifact, count, ..] => {
            measure(Pool::parse(pool)?, artifact, &Runs { count: count.parse()?, arguments: &arguments[4..] })
        }
        ["idle", pool, artifact, count] => {
            measure(Pool::parse(pool)?, artifact, &Idle { count: count.parse()? })
        }
        ["threads", pool, artifact, count] => {
            measure(Pool::parse(pool)?, artifact, &Threads { count: count.parse()? })
        }
        ["cpu", artifact, count] => epochs::cpu(artifact, Tick::None, count.parse()?).map(|()| 0),
        ["epochs", artifact, count] => epochs::cpu(artifact, Tick::Epoch, count.parse()?).map(|()| 0),
        ["signals", artifact, count] => epochs::cpu(artifact, Tick::Signal, count.parse()?).map(|()| 0),
        ["runaways", artifact, count] => epochs::runaways(artifact, count.parse()?).map(|()| 0),
        ["handover", count] => {
            for _ in 0..count.parse::<u32>()? {
                println!("nanoseconds {}", handover::nanoseconds()?);
            }
            Ok(0)
        }
        _ => Err("the first lines of its source say how it is used".into()),
    }
}

/// Does what the plan says, then switches the machine off.
fn as_init() -> Result<u8, Failure> {
    let plan = std::fs::read_to_string("/plan")?;
    let arguments: Vec<String> = plan.lines().map(str::to_owned).collect();
    let status = dispatch(&arguments).unwrap_or_else(|error| {
        eprintln!("selkis-peer: {error}");
        125
    });
    Err(peer::switch_off(status).into())
}

fn run(artifact: &str, arguments: &[String]) -> Result<u8, Failure> {
    let engine = Engine::new(&peer::config(Epochs::Ignored))?;
    let module = load(&engine, artifact)?;
    let mut linker = Linker::new(&engine);
    p1::add_to_linker_sync(&mut linker, |context| context)?;
    let context = WasiCtxBuilder::new().inherit_stdio().args(arguments).build_p1();
    let mut store = Store::new(&engine, context);
    let instance = linker.instantiate(&mut store, &module)?;
    let start = instance.get_typed_func::<(), ()>(&mut store, "_start")?;
    status_of(start.call(&mut store, ()))
}

fn status_of(result: wasmtime::Result<()>) -> Result<u8, Failure> {
    let Err(error) = result else { return Ok(0) };
    match error.downcast_ref::<I32Exit>() {
        Some(exit) => Ok(exit.0 as u8),
        None => Err(error.into()),
    }
}

fn load(engine: &Engine, artifact: &str) -> Result<Module, Failure> {
    // SAFETY: the artifact was made by `selkis-peer-compile` for this comparison, and nobody else writes to it.
    Ok(unsafe { Module::deserialize_file(engine, artifact) }?)
}

/// How the pooling allocator gives memory back. Which is the fastest depends on Linux and on the program, so the caller
/// tries all.
#[derive(Clone, Copy)]
enum Pool {
    /// Upstream's default: `madvise` for all of it.
    Default,
    /// The first 64 KiB of a memory stay and are cleared by hand.
    Resident,
    /// The same, and Linux is asked which pages were touched (`PAGEMAP_SCAN`, Linux 6.7).
    Scan,
}

impl Pool {
    fn parse(text: &str) -> Result<Self, Failure> {
        match text {
            "default" => Ok(Self::Default),
            "resident" => Ok(Self::Resident),
            "scan" => Ok(Self::Scan),
            _ => Err(format!("there is no pool named {text}").into()),
        }
    }

    fn engine(self) -> wasmtime::Result<Engine> {
        let mut pool = PoolingAllocationConfig::new();
        pool.total_core_instances(POOL_INSTANCES)
            .total_memories(POOL_INSTANCES)
            .total_tables(POOL_INSTANCES)
            .max_memory_size(POOL_MEMORY_BYTES)
            .pagemap_scan(Enabled::No);
        if !matches!(self, Self::Default) {
            pool.linear_memory_keep_resident(64 << 10).table_keep_resident(64 << 10);
        }
        if matches!(self, Self::Scan) {
            pool.pagemap_scan(Enabled::Yes);
        }
        let mut config = peer::config(Epochs::Ignored);
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
        Engine::new(&config)
    }
}

/// A program that is linked and ready to be instantiated; `T` is what its instances have besides.
struct Ready<T: 'static> {
    engine: Engine,
    program: InstancePre<T>,
    context: fn(&[String]) -> T,
}

impl Ready<()> {
    fn plain(engine: Engine, module: &Module) -> Result<Self, Failure> {
        Ok(Self { program: Linker::new(&engine).instantiate_pre(module)?, engine, context: |_| () })
    }
}

impl Ready<WasiP1Ctx> {
    /// What the program writes goes nowhere.
    fn wasi(engine: Engine, module: &Module) -> Result<Self, Failure> {
        let mut linker = Linker::new(&engine);
        p1::add_to_linker_sync(&mut linker, |context| context)?;
        let context = |arguments: &[String]| WasiCtxBuilder::new().args(arguments).build_p1();
        Ok(Self { program: linker.instantiate_pre(module)?, engine, context })
    }
}

impl<T> Ready<T> {
    /// A fresh instance and its `_start`. Its end is when both are dropped.
    fn start(&self, arguments: &[String]) -> Result<(Store<T>, Instance), Failure> {
        let mut store = Store::new(&self.engine, (self.context)(arguments));
        let instance = self.program.instantiate(&mut store)?;
        let start = instance.get_typed_func::<(), ()>(&mut store, "_start")?;
        match status_of(start.call(&mut store, ()))? {
            0 => Ok((store, instance)),
            status => Err(format!("it ended with status {status}").into()),
        }
    }
}

/// What is measured, for a program with WASI and for one that imports nothing.
trait Measurement {
    fn of<T: Send>(&self, ready: &Ready<T>) -> Result<(), Failure>;
}

fn measure(pool: Pool, artifact: &str, measurement: &impl Measurement) -> Result<u8, Failure> {
    let engine = pool.engine()?;
    let module = load(&engine, artifact)?;
    match module.imports().len() {
        0 => measurement.of(&Ready::plain(engine, &module)?)?,
        _ => measurement.of(&Ready::wasi(engine, &module)?)?,
    }
    Ok(0)
}

struct Instances {
    threads: usize,
    time: Duration,
}

impl Measurement for Instances {
    fn of<T: Send>(&self, ready: &Ready<T>) -> Result<(), Failure> {
        // The first touches what stays.
        ready.start(&[])?;
        let rates: Vec<Result<f64, String>> = std::thread::scope(|scope| {
            let worker = || instances_for(ready, self.time).map_err(|error| error.to_string());
            let workers: Vec<_> = (0..self.threads).map(|_| scope.spawn(worker)).collect();
            workers.into_iter().map(|worker| worker.join().expect("a panic aborts")).collect()
        });
        let rates: Vec<f64> = rates.into_iter().collect::<Result<_, _>>()?;
        println!("instances_per_second {:.0}", rates.iter().sum::<f64>());
        Ok(())
    }
}

/// Instances in a second, on one thread.
fn instances_for<T>(ready: &Ready<T>, time: Duration) -> Result<f64, Failure> {
    let start = Instant::now();
    let mut count = 0u64;
    while start.elapsed() < time {
        for _ in 0..BATCH {
            ready.start(&[])?;
        }
        count += u64::from(BATCH);
    }
    Ok(count as f64 / start.elapsed().as_secs_f64())
}

struct Count {
    threads: usize,
    count: usize,
}

impl Measurement for Count {
    fn of<T: Send>(&self, ready: &Ready<T>) -> Result<(), Failure> {
        let (ready_to_go, go) = (Barrier::new(self.threads + 1), Barrier::new(self.threads + 1));
        let instances = |count: usize| (0..count).try_for_each(|_| ready.start(&[]).map(drop));
        let work = || {
            // Touches what stays, in all slots that the thread will have.
            let warm_up = instances(WARM_UP);
            ready_to_go.wait();
            go.wait();
            warm_up.and_then(|()| instances(self.count)).map_err(|error| error.to_string())
        };
        let results: Vec<Result<(), String>> = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..self.threads).map(|_| scope.spawn(work)).collect();
            ready_to_go.wait();
            marker::begin();
            go.wait();
            let results = workers.into_iter().map(|worker| worker.join().expect("a panic aborts")).collect();
            marker::end();
            results
        });
        results.into_iter().collect::<Result<(), String>>()?;
        Ok(())
    }
}

struct Runs<'a> {
    count: usize,
    arguments: &'a [String],
}

impl Measurement for Runs<'_> {
    fn of<T: Send>(&self, ready: &Ready<T>) -> Result<(), Failure> {
        for _ in 0..self.count {
            let start = Instant::now();
            drop(ready.start(self.arguments)?);
            println!("nanoseconds {}", start.elapsed().as_nanos());
        }
        Ok(())
    }
}

struct Threads {
    count: u32,
}

impl Measurement for Threads {
    fn of<T: Send>(&self, ready: &Ready<T>) -> Result<(), Failure> {
        ready.start(&[])?;
        let start = Instant::now();
        for _ in 0..self.count {
            let work = || ready.start(&[]).map(drop).map_err(|error| error.to_string());
            std::thread::scope(|scope| scope.spawn(work).join().expect("a panic aborts"))?;
        }
        println!("nanoseconds {}", start.elapsed().as_nanos() / u128::from(self.count.max(1)));
        Ok(())
    }
}

struct Idle {
    count: u64,
}

impl Measurement for Idle {
    fn of<T: Send>(&self, ready: &Ready<T>) -> Result<(), Failure> {
        ready.start(&[])?;
        let before = resident_bytes()?;
        let alive: Vec<_> = (0..self.count).map(|_| ready.start(&[])).collect::<Result<_, _>>()?;
        println!("bytes_per_instance {}", resident_bytes()?.saturating_sub(before) / self.count);
        // They live on until whoever measures has seen all that were to be alive at once.
        std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
        drop(alive);
        Ok(())
    }
}

/// What this process holds: its proportional set and its page tables.
fn resident_bytes() -> Result<u64, Failure> {
    let kilobytes = |file: &str, field: &str| -> Result<u64, Failure> {
        let text = std::io::read_to_string(File::open(file)?)?;
        let line = text.lines().find_map(|line| line.strip_prefix(field));
        let value = line.and_then(|line| line.trim().strip_suffix("kB")).ok_or("no such field")?;
        Ok(value.trim().parse()?)
    };
    Ok((kilobytes("/proc/self/smaps_rollup", "Pss:")? + kilobytes("/proc/self/status", "VmPTE:")?) << 10)
}
