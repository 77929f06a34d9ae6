//! Makes an input that fails smaller, by delta debugging (Zeller and Hildebrandt 2002), and prints it as a test.
//!
//! A failure ends the process, so each try is one of its own: this test program again, which is told the input.

use super::action::{Act, Step, step};
use std::format;
use std::process::Command;
use std::string::String;
use std::time::{Duration, Instant};
use std::vec::Vec;

/// Tells the test program which input to run, and that it is to tell of each request.
pub const INPUT: &str = "SELKIS_INPUT";
pub const TELL: &str = "SELKIS_TELL";
/// How an input fails that does not end.
pub const ENDLESS: &str = "it does not end";
/// That is so after this time, for one that is tried alone.
pub const TIME_MAX: Duration = Duration::from_secs(3);
/// What has not become smaller by then stays as it is.
const MINIMISING_MAX: Duration = Duration::from_secs(120);
const TEST: &str = "tests::fuzz::hostile_domains_leave_the_kernel_sound";

/// The test that fails in the same way with the fewest steps.
pub fn report(input: &[Step], how: &str) -> String {
    let begun = Instant::now();
    let fails = |input: &[Step]| begun.elapsed() < MINIMISING_MAX && output(input, false).contains(how);
    let least = simpler(fewer(input.to_vec(), &fails), &fails);
    let told = output(&least, true);
    let mut text =
        String::from("a test of that, for `tests/found.rs`:\n\n#[test]\nfn found() {\n    run(&[\n");
    for (at, Step { cpu, act, with }) in least.iter().enumerate() {
        let prefix = format!("{at}: ");
        let requests: Vec<&str> = told.lines().filter_map(|line| line.strip_prefix(&prefix)).collect();
        text += &format!("        step({cpu}, {act:?}, {with:?}), // {}\n", requests.join("; "));
    }
    text + "    ], false);\n}\n"
}

/// Without all steps that are not needed for it, tried in ever smaller pieces.
fn fewer(mut input: Vec<Step>, fails: &impl Fn(&[Step]) -> bool) -> Vec<Step> {
    let mut piece = input.len();
    while piece > 0 {
        let mut at = 0;
        let before = input.len();
        while at < input.len() {
            let mut less = input.clone();
            less.drain(at..(at + piece).min(input.len()));
            if fails(&less) {
                input = less;
            } else {
                at += piece;
            }
        }
        // One may not have been needed but for one that is gone now.
        if piece > 1 || input.len() == before {
            piece /= 2;
        }
    }
    input
}

/// With as many zeros as can be.
fn simpler(mut input: Vec<Step>, fails: &impl Fn(&[Step]) -> bool) -> Vec<Step> {
    for at in 0..input.len() {
        let Step { cpu, with, .. } = input[at];
        let zero = |index: usize| move |step: &mut Step| step.with[index] = 0;
        let first: &dyn Fn(&mut Step) = &|step| step.cpu = 0;
        if cpu != 0 {
            input = changed(input, at, first, fails);
        }
        for index in (0..with.len()).filter(|&index| with[index] != 0) {
            input = changed(input, at, &zero(index), fails);
        }
    }
    input
}

fn changed(
    input: Vec<Step>,
    at: usize,
    change: &dyn Fn(&mut Step),
    fails: &impl Fn(&[Step]) -> bool,
) -> Vec<Step> {
    let mut other = input.clone();
    change(&mut other[at]);
    if fails(&other) { other } else { input }
}

/// What this program says to an input.
fn output(input: &[Step], tell: bool) -> String {
    let mut program = Command::new(std::env::current_exe().expect("it runs"));
    program.args([TEST, "--exact", "--no-capture"]).env(INPUT, encode(input));
    if tell {
        program.env(TELL, "1");
    }
    let output = program.output().expect("it can be started again");
    [output.stdout, output.stderr].iter().map(|bytes| String::from_utf8_lossy(bytes)).collect()
}

fn encode(input: &[Step]) -> String {
    let bytes = |step: &Step| {
        let [a, b, c, d, e, f] = step.with;
        [step.cpu, step.act as u8, a, b, c, d, e, f]
    };
    input.iter().map(|step| format!("{:016x}", u64::from_be_bytes(bytes(step)))).collect()
}

/// The input that the fuzzer wrote.
pub fn decode(text: &str) -> Vec<Step> {
    let words = text.as_bytes().chunks(16).map(|word| core::str::from_utf8(word).expect("digits"));
    words
        .map(|word| {
            let [cpu, act, with @ ..] = u64::from_str_radix(word, 16).expect("a step").to_be_bytes();
            step(cpu, Act::ALL[usize::from(act)], with)
        })
        .collect()
}
