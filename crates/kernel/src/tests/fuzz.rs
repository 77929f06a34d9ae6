//! The kernel under a fuzzer that is guided by what the kernel answers and, in a build with counters, by which of its branches are taken.
//!
//! What fails is made as small as it gets and printed as a test. `SELKIS_SEED` begins with another number; `SELKIS_SOAK` goes on for longer.

use super::Random;
use super::action::{Act, Step, step};
use super::hostile::run;
use super::minimal;
use super::seeds::SEEDS;
use std::collections::BTreeSet;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use std::vec::Vec;

/// The most steps of an input.
const STEPS_MAX: usize = 160;
/// As many as take a few seconds.
const RUNS: u64 = 12_000;
/// One takes about a millisecond.
const INPUT_TIME_MAX: Duration = Duration::from_secs(30);
/// How many of the newest inputs are tried as often as all others.
const NEWEST: usize = 64;

/// Inputs that showed something new, and how they are changed.
struct Fuzzer {
    random: Random,
    corpus: Vec<Vec<Step>>,
    /// For each edge: how often it was taken, in powers of two, as bits.
    edges: Vec<u8>,
    answers: BTreeSet<u64>,
}

/// The input that runs, for the message when it fails.
static RUNNING: Mutex<Vec<Step>> = Mutex::new(Vec::new());

fn running() -> Vec<Step> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

impl Fuzzer {
    fn new(seed: u64) -> Self {
        Self { random: Random(seed), corpus: Vec::new(), edges: Vec::new(), answers: BTreeSet::new() }
    }

    fn once(&mut self, input: Vec<Step>) {
        RUNNING.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&input);
        coverage::take(|_, _| ());
        let answers = run(&input, false);
        let mut is_new = false;
        coverage::take(|edge, count| {
            let bit = 1 << count.ilog2();
            self.edges.resize(self.edges.len().max(edge + 1), 0);
            is_new |= self.edges[edge] & bit == 0;
            self.edges[edge] |= bit;
        });
        for answer in answers {
            is_new |= self.answers.insert(answer);
        }
        if is_new {
            self.corpus.push(input);
        }
    }

    fn below(&mut self, end: usize) -> usize {
        self.random.below(end.max(1) as u64) as usize
    }

    /// An input: one that was good with some changes, seldom a new one.
    fn next(&mut self) -> Vec<Step> {
        let mut input = match self.below(20) {
            0 => Vec::new(),
            1..10 => self.newest(),
            _ => self.any(),
        };
        for _ in 0..1 << self.below(5) {
            self.change(&mut input);
        }
        input.truncate(STEPS_MAX);
        input
    }

    /// The newest are the least tried.
    fn newest(&mut self) -> Vec<Step> {
        let nth = self.below(NEWEST.min(self.corpus.len()));
        self.corpus.iter().nth_back(nth).cloned().unwrap_or_default()
    }

    fn any(&mut self) -> Vec<Step> {
        let nth = self.below(self.corpus.len());
        self.corpus.get(nth).cloned().unwrap_or_default()
    }

    fn fresh(&mut self) -> Step {
        let acts = if self.below(3) == 0 { Act::ALL } else { Act::FREQUENT };
        let act = acts[self.below(acts.len())];
        let [cpu, _, with @ ..] = self.random.below(u64::MAX).to_le_bytes();
        step(cpu % 3, act, with)
    }

    /// Changes whole steps, mostly, so that what they do together stays.
    fn change(&mut self, input: &mut Vec<Step>) {
        let at = self.below(input.len() + 1);
        let end = (at + 1 + self.below(8)).min(input.len());
        match self.below(12) {
            0 | 1 => drop(input.drain(at..end.max(at))),
            2 => {
                let copy = input[at..end.max(at)].to_vec();
                let to = self.below(input.len() + 1);
                input.splice(to..to, copy);
            }
            3 | 4 => {
                let other = self.any();
                let from = self.below(other.len());
                let to = (from + 1 + self.below(24)).min(other.len());
                input.splice(at..at, other[from..to].iter().copied());
            }
            5 => {
                let seed = SEEDS[self.below(SEEDS.len())];
                input.splice(at..at, seed.iter().copied());
            }
            6 if at < input.len() => {
                input[at].with[self.random.below(6) as usize] ^= 1 << self.random.below(8)
            }
            7 | 8 if at < input.len() => {
                input[at].with[self.random.below(6) as usize] = self.random.below(256) as u8
            }
            9 if at < input.len() => input[at].cpu = self.random.below(3) as u8,
            _ => {
                let step = self.fresh();
                input.insert(at, step);
            }
        }
    }
}

/// Ends the process if an input does not end; returns when the fuzzer, at the other side of `done`, does.
fn watch(done: Receiver<()>, time_max: Duration) {
    let mut before = running();
    while done.recv_timeout(time_max) == Err(RecvTimeoutError::Timeout) {
        let now = running();
        if now == before {
            fail(&before, minimal::ENDLESS);
            std::process::abort();
        }
        before = now;
    }
}

/// Says what failed, and how little does it.
fn fail(input: &[Step], how: &str) {
    if std::env::var_os(minimal::INPUT).is_some() {
        std::eprintln!("{how}");
        return;
    }
    std::eprintln!("an input of {} steps fails: {how}", input.len());
    std::eprintln!("{}", minimal::report(input, how));
}

#[test]
fn hostile_domains_leave_the_kernel_sound() {
    let report = std::panic::take_hook();
    // Before the test runner's, which ends the process.
    std::panic::set_hook(std::boxed::Box::new(move |info| {
        let how = std::format!("panicked at {}", info.location().expect("it has one"));
        fail(&running(), &how);
        report(info);
    }));
    let given = std::env::var(minimal::INPUT).ok();
    let time_max = if given.is_some() { minimal::TIME_MAX } else { INPUT_TIME_MAX };
    let (_running, done) = mpsc::channel();
    std::thread::spawn(move || watch(done, time_max));
    if let Some(input) = given {
        run(&minimal::decode(&input), std::env::var_os(minimal::TELL).is_some());
        return;
    }
    let seed = std::env::var("SELKIS_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let mut fuzzer = Fuzzer::new(seed);
    let begun = Instant::now();
    SEEDS.iter().for_each(|seed| fuzzer.once(seed.to_vec()));
    let mut runs = SEEDS.len() as u64;
    let soak = std::env::var_os("SELKIS_SOAK").map(|_| Duration::from_secs(600));
    // In the ordinary run the same inputs each time.
    while soak.map_or(runs < RUNS, |soak| begun.elapsed() < soak) {
        let input = fuzzer.next();
        fuzzer.once(input);
        runs += 1;
    }
    let edges = fuzzer.edges.iter().filter(|counts| **counts != 0).count();
    std::println!(
        "{runs} runs, {} kept, {edges} edges of {} and {} answers in {:?}",
        fuzzer.corpus.len(),
        fuzzer.edges.len(),
        fuzzer.answers.len(),
        begun.elapsed()
    );
}
