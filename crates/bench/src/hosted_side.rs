//! Selkis and the peer as processes on this Linux: fresh instances, compute, memory; and what [`crate::processes`] measures.
//!
//! Every measurement is a process of its own, and the two sides take turns, so that what disturbs this machine disturbs
//! both.

use crate::Failure;
use crate::artifacts::{Artifacts, Cpu, Workshop, finish};
use crate::figures::{Figure, Goal, Sample};
use crate::places::Places;
use crate::{processes, progress};
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

/// Who it is measured against.
pub const PEER: &str = "wasmtime with pooling";
/// The peer's ways to recycle memory; the fastest counts.
pub const POOLS: [&str; 3] = ["default", "resident", "scan"];
/// Compute: the goal, as a part of the peer's time.
const COMPUTE_OF_PEER: f64 = 1.02;
/// Instances that are alive at once in a domain when their memory is measured: four mappings each, and Linux lets a process have 65,530
/// (`vm.max_map_count`).
const IDLE_COUNT: &str = "16000";
/// In how many domains.
const IDLE_DOMAINS: [usize; 2] = [1, 4];
/// What DESIGN.md asks of an idle instance with page tables and stack, without touched pages.
const IDLE_BYTES_MAX: f64 = 24.0 * 1024.0;
/// Runs in one process, when runs are timed; the fastest counts, and the medians are over processes.
const RUNS: &str = "3";
/// What the interpreter runs: property access, closures, strings, an array sort.
const SCRIPT: &str = "let s=0;for(let r=0;r<40;r++){const a=[];for(let i=0;i<2000;i++)a.push((i*7919)%2003);a.sort((x,y)=>x-y);const m=new Map();for(const v of a)m.set('k'+v%97,(m.get('k'+v%97)||0)+v);for(const [k,v] of m)s=(s+k.length*v)%1000003;}if(s!==s)throw 1;";

/// How thoroughly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effort {
    /// For a look.
    Quick,
    /// For a figure.
    Full,
}

impl Effort {
    /// How many processes of each side are measured.
    pub fn rounds(self) -> usize {
        match self {
            Self::Quick => 3,
            Self::Full => 9,
        }
    }

    fn milliseconds(self) -> &'static str {
        match self {
            Self::Quick => "100",
            Self::Full => "500",
        }
    }
}

/// Both sides of this machine.
pub struct Sides<'a> {
    /// Where the parts lie.
    pub places: &'a Places,
    helper: PathBuf,
    /// How thoroughly it is measured.
    pub effort: Effort,
}

/// Measures everything hosted.
///
/// # Errors
/// If a side fails.
pub fn measure(places: &Places, workshop: &Workshop<'_>, effort: Effort) -> Result<Vec<Figure>, Failure> {
    let sides = Sides { places, helper: workshop.trap_helper(Cpu::Native)?, effort };
    let empty = workshop.compile_text("empty", include_str!("../guests/empty.wat"), Cpu::Native)?;
    let hello = workshop.compile_text("hello", include_str!("../guests/hello.wat"), Cpu::Native)?;
    let mut figures = Vec::new();
    for (title, artifacts, goal_ns) in [("empty module", &empty, 2e3), ("WASI hello", &hello, 10e3)] {
        figures.extend(sides.instances(title, artifacts, goal_ns)?);
    }
    for domains in IDLE_DOMAINS {
        figures.push(sides.idle("WASI hello", domains, &hello)?);
    }
    for (name, title) in [("sha256", "SHA-256"), ("matrix", "matrix product, f64"), ("sort", "sort")] {
        let module = places.guests.join(format!("{name}.wasm"));
        let artifacts = workshop.compile(name, &module, Cpu::Native)?;
        figures.push(sides.compute(title, &artifacts, &[])?);
    }
    let quickjs = workshop.compile("quickjs", &places.quickjs, Cpu::Native)?;
    figures.push(sides.compute("QuickJS", &quickjs, &["quickjs", "-e", SCRIPT])?);
    figures.extend(processes::measure(&sides, workshop)?);
    Ok(figures)
}

impl Sides<'_> {
    /// A fresh instance, on one CPU and on two.
    fn instances(&self, title: &str, artifacts: &Artifacts, goal_ns: f64) -> Result<Vec<Figure>, Failure> {
        progress(&format!("fresh instances, {title}"));
        let milliseconds = self.effort.milliseconds();
        let pool = self.fastest_pool(artifacts)?;
        let mut samples: [[Vec<f64>; 2]; 2] = Default::default();
        for _ in 0..self.effort.rounds() {
            for (index, cpus) in [1, 2].into_iter().enumerate() {
                let words = ["instances", milliseconds];
                let commands = (0..cpus).map(|_| self.ours(artifacts, &words)).collect();
                samples[index][0].push(nanoseconds_each(together(commands)?.iter().sum()));
                let cpus = cpus.to_string();
                let command = self.peer(["instances", pool], artifacts, &[&cpus, milliseconds]);
                samples[index][1].push(nanoseconds_each(together(vec![command])?.iter().sum()));
            }
        }
        let figure = |name: String, [ours, peer]: [Vec<f64>; 2], goal| Figure {
            name,
            unit: "ns",
            ours: Sample::of(ours),
            peer: Some((PEER, Sample::of(peer))),
            goal: Some(goal),
        };
        let [one, two] = samples;
        let design =
            figure(format!("fresh instance, {title}, the design's goal"), one.clone(), Goal::AtMost(goal_ns));
        Ok(vec![
            figure(format!("fresh instance, {title}"), one, Goal::OfPeer(1.0)),
            design,
            figure(format!("fresh instance, {title}, 2 CPUs, time per instance"), two, Goal::OfPeer(1.0)),
        ])
    }

    /// The pool that makes the most instances of the program in a short time.
    pub fn fastest_pool(&self, artifacts: &Artifacts) -> Result<&'static str, Failure> {
        let mut best = (POOLS[0], 0.0);
        for pool in POOLS {
            let command = self.peer(["instances", pool], artifacts, &["1", self.effort.milliseconds()]);
            // Where Linux lacks what a pool needs, the engine refuses it.
            let rate = together(vec![command]).map_or(0.0, |rates| rates.iter().sum());
            if rate > best.1 {
                best = (pool, rate);
            }
        }
        Ok(best.0)
    }

    /// What an instance takes while so many are alive in each of some domains, or processes of the peer's.
    fn idle(&self, title: &str, domains: usize, artifacts: &Artifacts) -> Result<Figure, Failure> {
        let name = format!("idle instance, {title}, {domains} × {IDLE_COUNT} alive, memory with page tables");
        progress(&name);
        let mut samples: [Vec<f64>; 2] = Default::default();
        for _ in 0..self.effort.rounds() {
            let ours = (0..domains).map(|_| self.ours(artifacts, &["idle", IDLE_COUNT]));
            samples[0].push(mean(&all_alive(ours)?));
            let peer = (0..domains).map(|_| self.peer(["idle", POOLS[0]], artifacts, &[IDLE_COUNT]));
            samples[1].push(mean(&all_alive(peer)?));
        }
        let [ours, peer] = samples;
        Ok(Figure {
            name,
            unit: "bytes",
            ours: Sample::of(ours),
            peer: Some((PEER, Sample::of(peer))),
            goal: Some(Goal::AtMost(IDLE_BYTES_MAX)),
        })
    }

    /// The time of whole runs.
    fn compute(&self, title: &str, artifacts: &Artifacts, arguments: &[&str]) -> Result<Figure, Failure> {
        progress(&format!("compute, {title}"));
        let mut samples: [Vec<f64>; 2] = Default::default();
        for _ in 0..self.effort.rounds() {
            let words = [&["time", RUNS], arguments].concat();
            samples[0].push(fastest(&together(vec![self.ours(artifacts, &words)])?));
            let words = [&[RUNS], arguments].concat();
            samples[1].push(fastest(&together(vec![self.peer(["time", POOLS[0]], artifacts, &words)])?));
        }
        let [ours, peer] = samples;
        Ok(Figure {
            name: format!("compute, {title}"),
            unit: "ns",
            ours: Sample::of(ours),
            peer: Some((PEER, Sample::of(peer))),
            goal: Some(Goal::OfPeer(COMPUTE_OF_PEER)),
        })
    }

    /// Selkis, with these words to say what is measured.
    pub fn ours(&self, artifacts: &Artifacts, words: &[&str]) -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap_or_default());
        command.arg("serve").arg(self.places.parts.join("selkis-bench-runtime"));
        command.arg(&artifacts.ours).arg(&self.helper).args(["--", "measured"]).args(words);
        command
    }

    /// The peer, with the program between these words.
    pub fn peer(&self, what: [&str; 2], artifacts: &Artifacts, words: &[&str]) -> Command {
        let mut command = self.peer_command(&what);
        command.arg(&artifacts.peer).args(words);
        command
    }

    /// The peer, with these words.
    pub fn peer_command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(self.places.peer.join("selkis-peer"));
        command.args(words);
        command
    }
}

/// Runs the commands at the same time; the numbers that they print, of all of them.
///
/// # Errors
/// If one fails or prints none.
pub fn together(commands: Vec<Command>) -> Result<Vec<f64>, Failure> {
    let outputs: Vec<Result<String, String>> = std::thread::scope(|scope| {
        let run = |mut command: Command| finish(&mut command).map_err(|error| error.to_string());
        let threads: Vec<_> = commands.into_iter().map(|command| scope.spawn(move || run(command))).collect();
        threads.into_iter().map(|thread| thread.join().expect("a panic aborts")).collect()
    });
    let mut numbers = Vec::new();
    for output in outputs {
        for line in output?.lines() {
            let (_, number) = line.split_once(' ').ok_or_else(|| format!("no measurement: {line}"))?;
            numbers.push(number.parse()?);
        }
    }
    if numbers.is_empty() { Err("a measurement says nothing".into()) } else { Ok(numbers) }
}

/// Runs commands that print a number and then keep what they have until their input ends: the numbers of all, which none of them has let
/// go of before the last had it.
fn all_alive(commands: impl Iterator<Item = Command>) -> Result<Vec<f64>, Failure> {
    let start = |mut command: Command| command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut children: Vec<Child> = commands.map(start).collect::<Result<_, _>>()?;
    let numbers = children.iter_mut().map(number_of).collect();
    for child in &mut children {
        drop(child.stdin.take());
        child.wait()?;
    }
    numbers
}

/// What a command that still runs has printed.
fn number_of(child: &mut Child) -> Result<f64, Failure> {
    let mut line = String::new();
    BufReader::new(child.stdout.take().ok_or("it has no output")?).read_line(&mut line)?;
    let (_, number) = line.trim_end().split_once(' ').ok_or_else(|| format!("no measurement: {line}"))?;
    Ok(number.parse()?)
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn nanoseconds_each(rate: f64) -> f64 {
    1e9 / rate
}

/// The least of them.
pub fn fastest(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::INFINITY, f64::min)
}
