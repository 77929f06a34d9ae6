//! The kernel under a fuzzer that is guided by what the kernel answers and, in a build with counters, by which of its branches are taken.

use super::Random;
use super::hostile::{Step, run};
use std::collections::HashMap;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use std::vec::Vec;

/// The most steps of an input.
const STEPS_MAX: usize = 160;
/// As many as take a few seconds.
const RUNS: u64 = 12_000;
/// One takes less than a millisecond.
const INPUT_TIME_MAX: Duration = Duration::from_secs(30);

/// Inputs that showed something new, and how they are changed.
struct Fuzzer {
    random: Random,
    corpus: Vec<Vec<Step>>,
    /// For each thing that was seen: how often, in powers of two, as bits.
    seen: HashMap<u64, u8>,
}

/// The input that runs, for the message when it fails.
static RUNNING: Mutex<Vec<Step>> = Mutex::new(Vec::new());

impl Fuzzer {
    fn new(seed: u64) -> Self {
        Self { random: Random(seed), corpus: Vec::new(), seen: HashMap::new() }
    }

    fn once(&mut self) {
        let input = self.next();
        RUNNING.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&input);
        coverage::take(|_, _| ());
        let mut features = run(&input);
        coverage::take(|edge, count| {
            features.insert(edge as u64, count);
        });
        let mut new = 0;
        for (feature, count) in features {
            let bit = 1 << count.max(1).ilog2();
            let seen = self.seen.entry(feature).or_default();
            new += u32::from(*seen & bit == 0);
            *seen |= bit;
        }
        if new > 0 {
            self.corpus.push(input);
        }
    }

    fn below(&mut self, end: usize) -> usize {
        self.random.below(end.max(1) as u64) as usize
    }

    fn fresh(&mut self) -> Step {
        self.random.below(u64::MAX).to_le_bytes()
    }

    /// An input: one that was good with some changes, or a new one.
    fn next(&mut self) -> Vec<Step> {
        let mut input = match self.below(20) {
            0 => Vec::new(),
            // The newest are the least tried.
            1..10 => {
                self.corpus.iter().rev().nth(self.random.below(32) as usize).cloned().unwrap_or_default()
            }
            _ => self
                .corpus
                .get(self.random.below(self.corpus.len().max(1) as u64) as usize)
                .cloned()
                .unwrap_or_default(),
        };
        for _ in 0..1 << self.below(5) {
            self.change(&mut input);
        }
        input.truncate(STEPS_MAX);
        input
    }

    fn change(&mut self, input: &mut Vec<Step>) {
        let at = self.below(input.len() + 1);
        let end = (at + self.below(8)).min(input.len());
        match self.below(8) {
            0 => drop(input.drain(at..end)),
            1 => {
                let copy = input[at..end].to_vec();
                let to = self.below(input.len() + 1);
                input.splice(to..to, copy);
            }
            2 => {
                let other = self.corpus.get(self.random.below(self.corpus.len().max(1) as u64) as usize);
                let other = other.cloned().unwrap_or_default();
                input.truncate(at);
                input.extend_from_slice(&other[self.below(other.len())..]);
            }
            3 | 4 if at < input.len() => {
                let byte = self.below(8);
                input[at][byte] = self.fresh()[byte];
            }
            5 if at < input.len() => input[at][self.random.below(8) as usize] ^= 1 << self.random.below(8),
            _ => {
                let step = self.fresh();
                input.insert(at, step);
            }
        }
    }
}

/// Ends the process if an input does not end; returns when the fuzzer, at the other side of `done`, does.
fn watch(done: Receiver<()>) {
    let running = || RUNNING.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let mut before = running();
    while done.recv_timeout(INPUT_TIME_MAX) == Err(RecvTimeoutError::Timeout) {
        let now = running();
        if now == before {
            std::eprintln!("for {INPUT_TIME_MAX:?} the kernel has been at this input: {now:?}");
            std::process::abort();
        }
        before = now;
    }
}

#[test]
fn hostile_domains_leave_the_kernel_sound() {
    let report = std::panic::take_hook();
    // Before the test runner's, which ends the process.
    std::panic::set_hook(std::boxed::Box::new(move |info| {
        std::eprintln!("by this input: {:?}", RUNNING.lock().unwrap_or_else(PoisonError::into_inner));
        report(info);
    }));
    let (_running, done) = mpsc::channel();
    std::thread::spawn(|| watch(done));
    let seed = std::env::var("SELKIS_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let mut fuzzer = Fuzzer::new(seed);
    let begun = Instant::now();
    let mut runs = 0;
    let soak = std::env::var_os("SELKIS_SOAK").map(|_| Duration::from_secs(600));
    // In the ordinary run the same inputs each time.
    while soak.map_or(runs < RUNS, |soak| begun.elapsed() < soak) {
        fuzzer.once();
        runs += 1;
    }
    std::println!(
        "{runs} runs, {} kept, {} features in {:?}",
        fuzzer.corpus.len(),
        fuzzer.seen.len(),
        begun.elapsed()
    );
}
