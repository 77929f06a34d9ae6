//! How it ended, for people and for scripts.

use alloc::format;
use alloc::string::{String, ToString};
use link::Cause;
use runtime::{Ending, Stop, current, trap};

/// Exit status when Selkis itself could not do what was asked.
pub const STATUS_FAILED: u8 = 125;
/// Exit status of a program that trapped: what a shell reports for an abort, as other engines do.
const STATUS_TRAPPED: u8 = 134;
/// Exit status of a program whose time was over: as `timeout` has it.
const STATUS_TIMED_OUT: u8 = 124;
/// Exit status of a program that was ended by Ctrl-C: what a shell reports for SIGINT.
const STATUS_CANCELLED: u8 = 130;
/// Exit status when memory ran out: what a shell reports for SIGKILL, which is how Linux does it.
pub const STATUS_MEMORY: u8 = 137;

/// How it ended.
pub struct Report {
    /// The exit status.
    pub status: u8,
    /// Why it ended.
    pub cause: Cause,
    /// For the person who started it; empty if there is nothing to say.
    pub message: String,
}

impl Report {
    /// It never started.
    pub fn not_started(program: &str, reason: impl core::fmt::Display) -> Self {
        let message = format!("selkis: {program}: {}\n", printable(&reason.to_string()));
        Self { status: STATUS_FAILED, cause: Cause::FailedToStart, message }
    }

    /// The process came to an end.
    pub fn ended(program: &str, ending: Ending) -> Self {
        match ending {
            Ending::Returned(Ok(())) => Self { status: 0, cause: Cause::Exited, message: String::new() },
            Ending::Returned(Err(error)) => Self::returned(program, &error),
            Ending::Trapped { cause, backtrace } => {
                let mut message = format!("selkis: {program}: trap: {cause}\n");
                for (depth, name) in backtrace.iter().enumerate() {
                    message += &format!("  {depth:>2}: {}\n", printable(name));
                }
                if backtrace.len() >= trap::FRAMES_MAX {
                    message += "  … and more\n";
                }
                Self { status: STATUS_TRAPPED, cause: Cause::Trapped, message }
            }
            Ending::Stopped(stop) => Self::stopped(program, stop),
            Ending::NotStarted(reason) => Self::not_started(program, reason),
        }
    }

    fn returned(program: &str, error: &wasmtime::Error) -> Self {
        if let Some(wasi::Exit(status)) = error.downcast_ref::<wasi::Exit>() {
            // Linux gives a parent the low eight bits.
            return Self { status: *status as u8, cause: Cause::Exited, message: String::new() };
        }
        if error.is::<wasi::Stopped>() {
            return Self::stopped(program, current::stop_wanted().unwrap_or(Stop::Cancelled));
        }
        Self::not_started(program, format!("{error:#}"))
    }

    fn stopped(program: &str, stop: Stop) -> Self {
        let (status, cause, reason) = match stop {
            Stop::TimedOut => (STATUS_TIMED_OUT, Cause::TimedOut, "its time is over (--timeout)"),
            Stop::CpuTime => (STATUS_TIMED_OUT, Cause::TimedOut, "its CPU time is used up (--cpu-time)"),
            Stop::Cancelled => (STATUS_CANCELLED, Cause::Cancelled, "interrupted"),
            Stop::OutOfMemory => (
                STATUS_MEMORY,
                Cause::OutOfMemory,
                "out of memory: no page is left for it (see --vm-memory; in a system, its domain's `memory`)",
            ),
        };
        Self { status, cause, message: format!("selkis: {program}: {reason}\n") }
    }
}

/// The most characters of a text in which names may be the program's own choice: enough for any that people write.
const CHARACTERS_MAX: usize = 1000;

/// Such a text without what would steer a terminal or forge a line.
fn printable(text: &str) -> String {
    let mut clean = String::new();
    for character in text.chars().take(CHARACTERS_MAX) {
        match character.is_control() {
            true => clean.extend(character.escape_default()),
            false => clean.push(character),
        }
    }
    if text.chars().nth(CHARACTERS_MAX).is_some() {
        clean.push('…');
    }
    clean
}
