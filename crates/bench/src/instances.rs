//! Fresh instances on several emulated CPUs: what the machine pays for each, in guest instructions of all CPUs together.
//!
//! Each CPU has a domain of Selkis that makes so many instances, or a thread of the peer in one process. What is counted begins when all are warm and ends
//! when all have ended; a CPU without work halts and counts nothing.

use crate::artifacts::{Artifacts, Cpu, Workshop};
use crate::counted::{self, From, Time};
use crate::figures::{Figure, Goal, Sample};
use crate::hosted_side::{Effort, PEER, POOLS};
use crate::machine::{Board, Machine};
use crate::places::Places;
use crate::system_bundle::{self, Contents};
use crate::{Failure, emulated, progress};
use std::path::Path;

/// Numbers of CPUs.
const CPUS: [u32; 3] = [1, 2, 4];
/// Instances in each domain before those that are counted.
const WARM_UP: u64 = 64;
/// Room for the pools of the peer, and for a domain on each CPU.
const MEMORY_MIB: u32 = 1024;

/// Measures both sides.
///
/// # Errors
/// If one fails.
pub fn measure(places: &Places, workshop: &Workshop<'_>, effort: Effort) -> Result<Vec<Figure>, Failure> {
    let helper = workshop.trap_helper(Cpu::Emulated)?;
    let side = Sides { places, workshop, helper: &helper, effort };
    let empty = workshop.compile_text("empty", include_str!("../guests/empty.wat"), Cpu::Emulated)?;
    let hello = workshop.compile_text("hello", include_str!("../guests/hello.wat"), Cpu::Emulated)?;
    let mut figures = Vec::new();
    for (title, artifacts) in [("empty module", &empty), ("WASI hello", &hello)] {
        progress(&format!("fresh instances in QEMU, {title}"));
        let pool = side.cheapest_pool(artifacts)?;
        for cpus in CPUS {
            figures.push(side.figure(title, artifacts, pool, cpus)?);
        }
    }
    Ok(figures)
}

struct Sides<'a> {
    places: &'a Places,
    workshop: &'a Workshop<'a>,
    helper: &'a Path,
    effort: Effort,
}

impl Sides<'_> {
    fn figure(&self, title: &str, artifacts: &Artifacts, pool: &str, cpus: u32) -> Result<Figure, Failure> {
        let mut samples: [Vec<f64>; 2] = Default::default();
        for _ in 0..self.rounds() {
            samples[0].push(self.count(self.ours(artifacts, cpus)?)?);
            samples[1].push(self.count(self.peer(artifacts, pool, cpus)?)?);
        }
        let [ours, peer] = samples;
        Ok(Figure {
            name: format!("fresh instance in QEMU, {title}, CPUs: {cpus}"),
            unit: "instructions",
            ours: Sample::of(ours),
            peer: Some((PEER, Sample::of(peer))),
            goal: Some(Goal::OfPeer(1.0)),
        })
    }

    /// The pool with which an instance takes the fewest instructions.
    fn cheapest_pool(&self, artifacts: &Artifacts) -> Result<&'static str, Failure> {
        let mut best = (POOLS[0], f64::INFINITY);
        for pool in POOLS {
            // Where Linux lacks what a pool needs, the engine refuses it.
            let each = self.count(self.peer(artifacts, pool, 1)?).unwrap_or(f64::INFINITY);
            if each < best.1 {
                best = (pool, each);
            }
        }
        Ok(best.0)
    }

    fn ours(&self, artifacts: &Artifacts, cpus: u32) -> Result<Machine, Failure> {
        let initrd = self.workshop.path("instances.bundle");
        let contents = Contents {
            runtime: &self.places.parts.join("selkis-bench-runtime"),
            program: &artifacts.ours,
            helper: self.helper,
            batches: &[WARM_UP, self.each()],
            domains: cpus,
        };
        std::fs::write(&initrd, system_bundle::bundle(&contents)?)?;
        Ok(Machine {
            board: Board::Q35,
            cpus,
            memory_mib: MEMORY_MIB,
            ..Machine::selkis(self.places, initrd)?
        })
    }

    fn peer(&self, artifacts: &Artifacts, pool: &str, cpus: u32) -> Result<Machine, Failure> {
        let plan = ["count", pool, "/program", &cpus.to_string(), &self.each().to_string()];
        let initrd = self.workshop.path("instances.initramfs");
        std::fs::write(&initrd, emulated::peer_archive(self.places, &plan, &artifacts.peer)?)?;
        Ok(Machine { board: Board::Q35, cpus, memory_mib: MEMORY_MIB, ..Machine::linux(self.places, initrd) })
    }

    /// Counts differ by little, as CPUs meet at different moments.
    fn rounds(&self) -> usize {
        match self.effort {
            Effort::Quick => 1,
            Effort::Full => 3,
        }
    }

    /// Instances of each domain or thread.
    fn each(&self) -> u64 {
        match self.effort {
            Effort::Quick => 2_000,
            Effort::Full => 5_000,
        }
    }

    /// Instructions for each instance.
    fn count(&self, machine: Machine) -> Result<f64, Failure> {
        let counted = counted::count(self.places, self.workshop, &machine, Time::Real, From::Mark)?;
        Ok(counted.instructions as f64 / (u64::from(machine.cpus) * self.each()) as f64)
    }
}
