//! How it ended, for people and for scripts.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use bundle::ProgramPlan;
use link::{CallFrame, Cause, CrashBody, CrashHead, Limits, Measure};
use runtime::process::Backtrace;
use runtime::{Ending, Stop, Usage, current};

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
    /// Which program.
    program: String,
    /// For the person who started it; empty if there is nothing to say.
    reason: String,
    /// If a process failed that had begun: more about that.
    pub crash: Option<Box<Crash>>,
}

/// What there is to say of a process that failed, beside the message.
pub struct Crash {
    /// What it had used, and what it might.
    pub head: CrashHead,
    /// Why it ended, and where.
    pub body: Box<CrashBody>,
    /// Where it was, in lines.
    pub backtrace: String,
}

impl Report {
    /// It never started.
    pub fn not_started(program: &str, reason: impl core::fmt::Display) -> Self {
        Self::new(program, STATUS_FAILED, Cause::FailedToStart, &printable(&reason.to_string()))
    }

    /// The process came to an end, having used so much of what its plan has for it.
    pub fn ended(
        plan: &ProgramPlan,
        ending: Ending,
        usage: Usage,
        host_bytes_max: u64,
        log_bytes: u64,
    ) -> Self {
        let name = &plan.name;
        let (report, backtrace) = match ending {
            Ending::Returned(Ok(())) => (Self::exited(name, 0), Backtrace::default()),
            Ending::Returned(Err(error)) => (Self::returned(name, &error), Backtrace::default()),
            Ending::Trapped { cause, backtrace } => {
                let reason = format!("trap: {cause}");
                (Self::new(name, STATUS_TRAPPED, Cause::Trapped, &reason), backtrace)
            }
            Ending::Stopped(stop, backtrace) => (Self::stopped(name, stop), backtrace),
            Ending::NotStarted(reason) => (Self::not_started(name, reason), Backtrace::default()),
        };
        match (report.status, report.cause) {
            // What a user ends has not failed.
            (0, _) | (_, Cause::Cancelled) => report,
            (status, _) => {
                let reason = match report.reason.as_str() {
                    "" => format!("exit status {status}"),
                    reason => String::from(reason),
                };
                let head = CrashHead {
                    limits: limits(plan, usage, host_bytes_max, log_bytes),
                    depth: backtrace.depth,
                };
                Self { crash: Some(Box::new(Crash::new(head, &reason, &backtrace))), ..report }
            }
        }
    }

    /// It was ended by whoever started it.
    pub fn cancelled(program: &str) -> Self {
        Self::stopped(program, Stop::Cancelled)
    }

    fn new(program: &str, status: u8, cause: Cause, reason: &str) -> Self {
        Self { status, cause, program: program.into(), reason: reason.into(), crash: None }
    }

    /// It has said itself what there is to say.
    pub fn exited(program: &str, status: u8) -> Self {
        Self::new(program, status, Cause::Exited, "")
    }

    /// What there is to say, in a line; empty if it is nothing.
    pub fn message(&self) -> String {
        match self.reason.as_str() {
            "" => String::new(),
            reason => format!("selkis: {}: {reason}\n", self.program),
        }
    }

    /// The message, and where it failed.
    pub fn text(&self) -> String {
        let backtrace = self.crash.as_ref().map_or("", |crash| &crash.backtrace);
        self.message() + backtrace
    }

    fn returned(program: &str, error: &wasmtime::Error) -> Self {
        if let Some(wasi::Exit(status)) = error.downcast_ref::<wasi::Exit>() {
            // Linux gives a parent the low eight bits.
            return Self::exited(program, *status as u8);
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
            Stop::HostMemory => (
                STATUS_MEMORY,
                Cause::OutOfMemory,
                "out of memory: the library OS needs more for it than it may (more with --memory)",
            ),
        };
        Self::new(program, status, cause, reason)
    }
}

impl Crash {
    fn new(head: CrashHead, reason: &str, backtrace: &Backtrace) -> Self {
        let mut body = Box::new(CrashBody::new(reason));
        let mut text = String::new();
        for (depth, frame) in backtrace.frames.iter().enumerate() {
            let name = frame.name.as_deref().unwrap_or_default();
            body.push(CallFrame { function: frame.function, offset: frame.offset, name });
            let shown = match name {
                "" => format!("function {}", frame.function),
                name => printable(name),
            };
            text += &format!("  {depth:>2}: {shown}\n");
        }
        if head.depth as usize > backtrace.frames.len() {
            text += "  … and more\n";
        }
        Self { head, body, backtrace: text }
    }
}

fn limits(plan: &ProgramPlan, usage: Usage, host_bytes_max: u64, log_bytes: u64) -> Limits {
    let measure = |used: u64, max: Option<u64>| Measure { used, max: max.unwrap_or(Measure::NO_LIMIT) };
    Limits {
        memory_bytes: measure(usage.memory_bytes, Some(plan.memory_bytes_max)),
        host_bytes: measure(usage.host_bytes, Some(host_bytes_max)),
        table_elements: measure(usage.table_elements, Some(plan.table_elements())),
        cpu_ns: measure(usage.cpu_ns, plan.cpu_ns_max),
        time_ns: measure(usage.time_ns, plan.timeout_ns),
        stack_bytes: measure(usage.stack_bytes, Some(plan.stack_bytes)),
        descriptors: measure(usage.descriptors, Some(u64::from(plan.descriptors_max))),
        log_bytes: measure(log_bytes, plan.log_bytes_per_s),
    }
}

/// The most characters of a text in which names may be the program's own choice: enough for any that people write.
const CHARACTERS_MAX: usize = 1000;

/// Such a text without what would steer a terminal or forge a line.
pub fn printable(text: &str) -> String {
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
