//! Ends at random moments leave nothing behind.

use crate::Test;
use crate::code::Code;
use crate::scene::{self, domain, start};
use rustix::process::{Pid, test_kill_process};
use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

pub const TESTS: &[Test] = &[
    ("domains_killed_at_any_moment_are_gone", domains_killed_at_any_moment_are_gone),
    ("domains_of_parents_killed_at_any_moment_are_gone", domains_of_parents_killed_are_gone),
];

/// How often: a part of it in every run.
fn times() -> u32 {
    if std::env::var_os("SELKIS_SOAK").is_some() { 10_000 } else { 100 }
}

/// Times up to `most` that look random and are the same in every run (SplitMix64, Steele, Lea and Flood 2014).
fn moments(most: Duration) -> impl Iterator<Item = Duration> {
    let mut state = 3u64;
    std::iter::repeat_with(move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        most.mul_f64((mixed >> 11) as f64 / (1u64 << 53) as f64)
    })
}

/// More exact than sleeping.
fn wait(time: Duration) {
    let begin = Instant::now();
    while begin.elapsed() < time {
        std::hint::spin_loop();
    }
}

fn domains_killed_at_any_moment_are_gone() {
    let mut domain = domain(&Code::new().spin());
    for (number, moment) in (0..times()).zip(moments(Duration::from_millis(3))) {
        domain.quotas.cpu_budget_permille = (number % 2 == 0).then_some(100);
        let mut running = start(&domain);
        let process = Pid::from_raw(running.id() as i32).unwrap();
        wait(moment);
        running.kill().unwrap();
        let status = running.wait().unwrap().status;
        assert_eq!(status, 137, "killed after {moment:?}");
        assert!(test_kill_process(process).is_err());
    }
}

fn domains_of_parents_killed_are_gone() {
    let token = format!("moments-{}", std::process::id());
    for moment in moments(Duration::from_millis(30)).take(times() as usize / 5) {
        let mut parent = Command::new("/proc/self/exe");
        let mut parent = parent.args([scene::PARENTS, &token]).stdout(Stdio::null()).spawn().unwrap();
        wait(moment);
        parent.kill().unwrap();
        parent.wait().unwrap();
    }
    let deadline = Instant::now() + Duration::from_secs(10);
    while let Some(left) = process_with(&token) {
        assert!(Instant::now() < deadline, "process {left} is still there");
        std::thread::yield_now();
    }
}

/// A process that has this word on its command line.
fn process_with(token: &str) -> Option<String> {
    let processes = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap());
    processes.into_iter().find_map(|process| {
        let line = fs::read(process.path().join("cmdline")).ok()?;
        let mut words = line.split(|byte| *byte == 0);
        words.any(|word| word == token.as_bytes()).then(|| process.file_name().into_string().unwrap())
    })
}
