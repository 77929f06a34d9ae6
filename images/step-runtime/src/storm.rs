//! Many processes at once, killed at random moments: one that runs by a tick, and with it one of the others, whatever it does.

use crate::launcher::Launcher;
use crate::subject::{Accounts, Subject};
use abi::Context;
use abi::upcall::Kind;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use runtime::trap::{self, Verdict};
use runtime::{Ending, Platform, ProcessId, Program, Stop, System, Usage, current};
use wasmtime::{Engine, Linker};

/// A round takes a millisecond for each two processes, if nothing is lost.
const TIME_NS_MAX: u64 = 60_000_000_000;

/// Where the random numbers are; one generator for upcalls and the rest.
static RANDOM: AtomicU64 = AtomicU64::new(1);

/// One of `count`: a linear congruential generator's upper bits (Knuth's MMIX constants).
fn random_below(count: u64) -> u64 {
    let next =
        |state: u64| state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    let state = next(RANDOM.load(Relaxed));
    RANDOM.store(state, Relaxed);
    (state >> 33) % count
}

/// The library OS's upcall. Every other tick kills whom it interrupts.
pub fn upcall(kind: Kind, context: &mut Context) -> Verdict {
    if kind == Kind::Tick && random_below(2) == 0 {
        current::want_stop(Stop::Cancelled);
    }
    trap::upcall(kind, context)
}

/// Runs the program `count` times at once, until all are killed, in so many rounds; says what was done.
pub fn run(
    system: &'static System,
    launcher: Launcher,
    engine: &Engine,
    program: &'static Program,
    [count, rounds, seed]: [u64; 3],
) -> Result<String, String> {
    RANDOM.store(seed, Relaxed);
    let mut storm = Storm {
        subject: Subject::new(system, launcher, program, Linker::new(engine))?,
        alive: Vec::new(),
        stopped: 0,
        strange: None,
    };
    // What is made once and kept is made here.
    storm.round(count)?;
    let accounts = Accounts::of(system);
    for round in 0..rounds {
        storm.round(count)?;
        // How many end at once differs, and so does the room of the lists that they are in meanwhile.
        accounts.compare_nearly(system).map_err(|why| format!("after round {round}: {why}"))?;
    }
    Ok(format!("killed {} processes, {} of them not by a tick\n", count * (rounds + 1), storm.stopped))
}

struct Storm {
    subject: Subject,
    alive: Vec<ProcessId>,
    /// How many were killed while another ran, or none.
    stopped: u64,
    strange: Option<String>,
}

impl Storm {
    fn round(&mut self, count: u64) -> Result<(), String> {
        for _ in 0..count {
            self.alive.push(self.subject.start(TIME_NS_MAX, Vec::new(), None)?);
        }
        let system = self.subject.system;
        runtime::scheduler::run(system, self);
        self.strange.take().map_or(Ok(()), Err)
    }

    fn stop_one(&mut self) {
        if let Some(last) = (self.alive.len() as u64).checked_sub(1) {
            let id = self.alive[random_below(last + 1) as usize];
            let system = self.subject.system;
            system.processes().lock().stop(system, id, Stop::Cancelled);
            self.stopped += 1;
        }
    }
}

impl Platform for Storm {
    fn look(&mut self) {}

    /// All wait.
    fn sleep(&mut self, _deadline_ns: u64) {
        self.stop_one();
    }

    fn ended(&mut self, process: ProcessId, ending: Ending, _usage: Usage) {
        self.alive.retain(|alive| *alive != process);
        match ending {
            Ending::Stopped(Stop::Cancelled, _) => self.stop_one(),
            ending => self.strange = Some(format!("it ended so: {ending:?}")),
        }
    }

    fn is_over(&self) -> bool {
        self.alive.is_empty()
    }
}
