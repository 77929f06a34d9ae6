//! What became of a process that failed.

use crate::message::{Line, ProgramName};
use crate::status::End;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use serde::{Deserialize, Serialize};

/// The report on a process that failed, as its system keeps it: of each process the last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CrashReport {
    /// Which.
    pub program: ProgramName,
    /// When it ended.
    pub at_ns: u64,
    /// How often it had been started again by then.
    pub restarts: u64,
    /// How it ended.
    pub end: End,
    /// What its library OS says of it. `None` if that came to an end with it, or could not start it.
    pub crash: Option<Crash>,
    /// What the library OS itself said last, if that came to an end.
    pub domain_words: String,
    /// The last that was written in this run, oldest first; long lines are cut.
    pub last_lines: Vec<Line>,
}

/// What a library OS says of a process that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Crash {
    /// Why it ended, for a person.
    pub reason: String,
    /// The functions that were on the stack, the innermost first.
    pub backtrace: Vec<CrashFrame>,
    /// How many there were in all.
    pub depth: u32,
    /// What it had used, and what it might have.
    pub limits: CrashLimits,
}

/// A function that was on the stack.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CrashFrame {
    /// Its number in the module.
    pub function: u32,
    /// Where in its compiled code, in bytes.
    pub offset: u32,
    /// What the module calls it, if it says so.
    pub name: Option<String>,
}

/// How much of something was used, and how much may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measure {
    /// So much.
    pub used: u64,
    /// `None`: there is no limit.
    pub max: Option<u64>,
}

/// What a process had used, and what it might have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CrashLimits {
    /// Linear memories and tables.
    pub memory_bytes: Measure,
    /// Memory of the library OS that serves it.
    pub host_bytes: Measure,
    /// Elements of its tables.
    pub table_elements: Measure,
    /// CPU time.
    pub cpu_ns: Measure,
    /// Time since it began.
    pub time_ns: Measure,
    /// Stack where it was when it ended; 0 if that is not known.
    pub stack_bytes: Measure,
    /// Open descriptors.
    pub descriptors: Measure,
    /// What it wrote to its output streams; the most is for a second.
    pub log_bytes: Measure,
}

impl Crash {
    /// Writes where it was, at most so many functions of it, and what it had used, in lines. `readable` makes of a function's name what
    /// people are shown.
    pub fn write_details(
        &self,
        into: &mut impl fmt::Write,
        frames_max: usize,
        readable: impl Fn(&str) -> String,
    ) -> fmt::Result {
        for (depth, frame) in self.backtrace.iter().take(frames_max).enumerate() {
            match &frame.name {
                Some(name) => writeln!(into, "  {depth:>2}: {}", readable(name))?,
                None => writeln!(into, "  {depth:>2}: function {} +{:#x}", frame.function, frame.offset)?,
            }
        }
        match (self.depth as usize).saturating_sub(self.backtrace.len().min(frames_max)) {
            0 => {}
            more => writeln!(into, "  … and {more} more")?,
        }
        writeln!(into, "  used: {}", self.limits)
    }
}

impl fmt::Display for CrashLimits {
    /// What was used, or could not be, separated by commas.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "memory {}", Used(self.memory_bytes, bytes))?;
        write!(f, ", CPU {}", Used(self.cpu_ns, time))?;
        write!(f, ", time {}", Used(self.time_ns, time))?;
        let others: [(&str, Measure, Unit); 4] = [
            ("host memory", self.host_bytes, bytes),
            ("stack", self.stack_bytes, bytes),
            ("table elements", self.table_elements, count),
            ("descriptors", self.descriptors, count),
        ];
        for (name, measure, unit) in others.into_iter().filter(|(_, measure, _)| measure.used > 0) {
            write!(f, ", {name} {}", Used(measure, unit))?;
        }
        match (self.log_bytes.used, self.log_bytes.max) {
            (0, _) => Ok(()),
            (used, None) => write!(f, ", log {}", Shown(used, bytes)),
            (used, Some(max)) => write!(f, ", log {} at {}/s", Shown(used, bytes), Shown(max, bytes)),
        }
    }
}

type Unit = fn(u64, &mut fmt::Formatter<'_>) -> fmt::Result;

struct Used(Measure, Unit);

impl fmt::Display for Used {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(Measure { used, max }, unit) = *self;
        match max {
            Some(max) => write!(f, "{} of {}", Shown(used, unit), Shown(max, unit)),
            None => Shown(used, unit).fmt(f),
        }
    }
}

struct Shown(u64, Unit);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (self.1)(self.0, f)
    }
}

fn count(count: u64, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    write!(f, "{count}")
}

fn bytes(bytes: u64, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    in_units(bytes, &[(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")], "bytes", f)
}

fn time(ns: u64, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    in_units(ns, &[(1_000_000_000, "s"), (1_000_000, "ms"), (1000, "µs")], "ns", f)
}

/// In the first of these units of which it has one, with a tenth where it is no whole number.
fn in_units(value: u64, units: &[(u64, &str)], small: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let Some((unit, name)) = units.iter().find(|(unit, _)| value >= *unit) else {
        return write!(f, "{value} {small}");
    };
    match value % unit * 10 / unit {
        0 => write!(f, "{} {name}", value / unit),
        tenths => write!(f, "{}.{tenths} {name}", value / unit),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::borrow::ToOwned;
    use alloc::vec;

    pub fn limits() -> CrashLimits {
        let measure = |used, max| Measure { used, max };
        CrashLimits {
            memory_bytes: measure(3 << 19, Some(256 << 20)),
            host_bytes: measure(0, Some(1 << 20)),
            table_elements: measure(0, None),
            cpu_ns: measure(12_340_000, None),
            time_ns: measure(700, Some(2_000_000_000)),
            stack_bytes: measure(4096, Some(512 << 10)),
            descriptors: measure(3, Some(1024)),
            log_bytes: measure(100, Some(1 << 20)),
        }
    }

    #[test]
    fn details_are_lines() {
        let frame = |function, name: Option<&str>| CrashFrame {
            function,
            offset: 31,
            name: name.map(ToOwned::to_owned),
        };
        let crash = Crash {
            reason: "unreachable".to_owned(),
            backtrace: vec![frame(7, Some("main")), frame(8, None)],
            depth: 5,
            limits: limits(),
        };
        let mut text = String::new();
        crash.write_details(&mut text, 9, str::to_uppercase).unwrap();
        assert_eq!(
            text,
            "   0: MAIN\n   1: function 8 +0x1f\n  … and 3 more\n  used: memory 1.5 MiB of 256 MiB, CPU 12.3 ms, \
             time 700 ns of 2 s, stack 4 KiB of 512 KiB, descriptors 3 of 1024, log 100 bytes at 1 MiB/s\n"
        );
        text.clear();
        crash.write_details(&mut text, 1, str::to_uppercase).unwrap();
        assert!(text.starts_with("   0: MAIN\n  … and 4 more\n  used: "), "{text}");
    }
}
