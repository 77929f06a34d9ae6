//! Programs that look at the engine's epoch, or are measured beside those that do: they import nothing.

use crate::Epochs;
use std::error::Error;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc;
use std::time::{Duration, Instant};
use wasmtime::{
    Engine, InstanceAllocationStrategy, InstancePre, Linker, Module, PoolingAllocationConfig, Store, Trap,
    UpdateDeadline,
};

type Failure = Box<dyn Error>;

/// How often the epoch changes.
const TICK: Duration = Duration::from_millis(1);
/// How long a program that does not end may run.
const RUNAWAY: Duration = Duration::from_millis(3);

fn load(artifact: &str, epochs: Epochs) -> Result<InstancePre<()>, Failure> {
    let mut config = crate::config(epochs);
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(PoolingAllocationConfig::new()));
    let engine = Engine::new(&config)?;
    // SAFETY: the artifact was made by `selkis-peer-compile` for this comparison, and nobody else writes to it.
    let module = unsafe { Module::deserialize_file(&engine, artifact) }?;
    Ok(Linker::new(&engine).instantiate_pre(&module)?)
}

fn start(store: &mut Store<()>, program: &InstancePre<()>) -> Result<(), wasmtime::Error> {
    let instance = program.instantiate(&mut *store)?;
    instance.get_typed_func::<(), ()>(&mut *store, "_start")?.call(store, ())
}

/// What happens to a program each millisecond.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tick {
    /// Nothing.
    None,
    /// A thread changes the epoch, and the program goes on.
    Epoch,
    /// A timer of Linux's sends a signal, whose handler does nothing.
    Signal,
}

/// CPU time of so many runs.
///
/// # Errors
/// If the program does not run to its end.
pub fn cpu(artifact: &str, tick: Tick, count: u64) -> Result<(), Failure> {
    let epochs = if tick == Tick::Epoch { Epochs::Checked } else { Epochs::Ignored };
    let program = load(artifact, epochs)?;
    let engine = program.module().engine();
    let is_over = AtomicBool::new(false);
    if tick == Tick::Signal {
        send_signals()?;
    }
    std::thread::scope(|scope| {
        if epochs == Epochs::Checked {
            scope.spawn(|| {
                while !is_over.load(Relaxed) {
                    std::thread::sleep(TICK);
                    engine.increment_epoch();
                }
            });
        }
        let runs = (0..count).try_for_each(|_| {
            let begin_ns = cpu_ns()?;
            // As much work as two of Selkis' processes do.
            for _ in 0..2 {
                let mut store = Store::new(engine, ());
                if epochs == Epochs::Checked {
                    store.epoch_deadline_callback(|_| Ok(UpdateDeadline::Continue(1)));
                    store.set_epoch_deadline(1);
                }
                start(&mut store, &program)?;
            }
            println!("nanoseconds {}", cpu_ns()? - begin_ns);
            Ok(())
        });
        is_over.store(true, Relaxed);
        runs
    })
}

/// From now on a signal comes each [`TICK`].
fn send_signals() -> std::io::Result<()> {
    extern "C" fn ignore(_: libc::c_int) {}
    let tick = libc::timeval { tv_sec: 0, tv_usec: TICK.as_micros() as libc::suseconds_t };
    let each = libc::itimerval { it_interval: tick, it_value: tick };
    // SAFETY: zeroed, a `sigaction` is plain data; the handler touches nothing.
    let failed = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = ignore as *const () as usize;
        action.sa_flags = libc::SA_RESTART;
        libc::sigaction(libc::SIGALRM, &raw const action, std::ptr::null_mut()) != 0
            || libc::setitimer(libc::ITIMER_REAL, &raw const each, std::ptr::null_mut()) != 0
    };
    if failed { Err(std::io::Error::last_os_error()) } else { Ok(()) }
}

/// What this process has used, in nanoseconds.
fn cpu_ns() -> std::io::Result<u64> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: there is room for the time.
    match unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) } {
        0 => Ok(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// How long it takes to end so many programs that do not end, each until its store is dropped.
///
/// # Errors
/// If one ends otherwise.
pub fn runaways(artifact: &str, count: u64) -> Result<(), Failure> {
    let program = load(artifact, Epochs::Checked)?;
    let engine = program.module().engine();
    let (begins, begun) = mpsc::channel();
    let (stops, stopped) = mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            while begun.recv() == Ok(()) {
                std::thread::sleep(RUNAWAY);
                let begin = Instant::now();
                engine.increment_epoch();
                if stops.send(begin).is_err() {
                    return;
                }
            }
        });
        // The first touches what stays.
        for number in 0..=count {
            let mut store = Store::new(engine, ());
            store.set_epoch_deadline(1);
            begins.send(())?;
            let error = start(&mut store, &program).err().ok_or("a runaway has ended")?;
            if error.downcast_ref::<Trap>() != Some(&Trap::Interrupt) {
                return Err(error.into());
            }
            drop(store);
            let end = Instant::now();
            let elapsed = end.saturating_duration_since(stopped.recv()?);
            if number > 0 {
                println!("nanoseconds {}", elapsed.as_nanos());
            }
        }
        drop(begins);
        Ok(())
    })
}
