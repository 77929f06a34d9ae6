//! What scripts get. It stays as it is when the protocol changes; new keys may come.

use crate::crash::readable;
use control::{End, ProgramName, State};
use serde::Serialize;

/// `selkis ps --json`
#[derive(Serialize)]
pub struct System<'a> {
    system: &'a str,
    platform: control::Platform,
    phase: control::Phase,
    uptime_ns: u64,
    started_unix_ns: Option<u64>,
    cpus: &'a [control::Cpu],
    domains: Vec<Domain<'a>>,
}

#[derive(Serialize)]
struct Domain<'a> {
    name: &'a str,
    process_id: Option<u32>,
    memory_used_bytes: u64,
    memory_peak_bytes: u64,
    memory_quota_bytes: u64,
    cpu_ns: u64,
    counters: control::Counters,
    programs: Vec<Program<'a>>,
}

#[derive(Serialize)]
struct Program<'a> {
    /// With its instance, if there are several: `web/0`.
    name: &'a str,
    /// One word.
    state: &'static str,
    /// In state `backoff`.
    restart_at_ns: Option<u64>,
    restarts: u64,
    started_ns: Option<u64>,
    ended_ns: Option<u64>,
    /// `null` if it did not end or ended in another way.
    exit_status: Option<u8>,
    /// As people read it.
    last_end: Option<String>,
    memory_used_bytes: u64,
    memory_peak_bytes: u64,
    /// Of the library OS, for it.
    host_memory_bytes: u64,
    cpu_ns: u64,
    switches: u64,
    migrations: u64,
    log: control::LogSize,
}

impl<'a> From<&'a control::System> for System<'a> {
    fn from(system: &'a control::System) -> Self {
        Self {
            system: &system.name,
            platform: system.platform,
            phase: system.phase,
            uptime_ns: system.uptime_ns,
            started_unix_ns: system.started_unix_ns,
            cpus: &system.cpus,
            domains: system.domains.iter().map(Domain::from).collect(),
        }
    }
}

impl<'a> From<&'a control::Domain> for Domain<'a> {
    fn from(domain: &'a control::Domain) -> Self {
        Self {
            name: &domain.name,
            process_id: domain.process_id,
            memory_used_bytes: domain.usage.memory.used_bytes,
            memory_peak_bytes: domain.usage.memory.peak_bytes,
            memory_quota_bytes: domain.memory_quota_bytes,
            cpu_ns: domain.usage.cpu_ns,
            counters: domain.usage.counters,
            programs: domain.programs.iter().map(Program::from).collect(),
        }
    }
}

impl<'a> From<&'a control::Program> for Program<'a> {
    fn from(program: &'a control::Program) -> Self {
        let restart_at_ns = match program.state {
            State::Backoff { until_ns } => Some(until_ns),
            _ => None,
        };
        let exit_status = match program.last_end {
            Some(End::Exited { status }) => Some(status),
            _ => None,
        };
        Self {
            name: &program.name,
            state: program.state.word(),
            restart_at_ns,
            restarts: program.restarts,
            started_ns: program.started_ns,
            ended_ns: program.ended_ns,
            exit_status,
            last_end: program.last_end.as_ref().map(End::to_string),
            memory_used_bytes: program.usage.memory.used_bytes,
            memory_peak_bytes: program.usage.memory.peak_bytes,
            host_memory_bytes: program.usage.host_bytes,
            cpu_ns: program.usage.cpu_ns,
            switches: program.usage.switches,
            migrations: program.usage.migrations,
            log: program.log,
        }
    }
}

/// `selkis top --json`
#[derive(Serialize)]
pub struct Usage<'a> {
    /// The system's name.
    pub system: &'a str,
    /// How long was looked.
    pub interval_ns: u64,
    /// The busiest first.
    pub domains: Vec<DomainUsage<'a>>,
}

/// A domain in [`Usage`].
#[derive(Serialize)]
pub struct DomainUsage<'a> {
    /// Its name.
    pub name: &'a str,
    /// Of one CPU.
    pub cpu_percent: f64,
    /// Since the start.
    pub cpu_ns: u64,
    /// Now.
    pub memory_used_bytes: u64,
    /// What it may use.
    pub memory_quota_bytes: u64,
    /// Its processes, the busiest first.
    pub programs: Vec<ProgramUsage<'a>>,
}

/// A process in [`DomainUsage`].
#[derive(Serialize)]
pub struct ProgramUsage<'a> {
    /// Its name in its domain.
    pub name: &'a str,
    /// Of one CPU.
    pub cpu_percent: f64,
    /// Since the start.
    pub cpu_ns: u64,
    /// Now.
    pub memory_used_bytes: u64,
}

/// A line of `selkis log --json`.
#[derive(Serialize)]
pub struct Line<'a> {
    /// Whose.
    #[serde(flatten)]
    pub program: &'a ProgramName,
    /// When, after the start of the system.
    pub at_ns: u64,
    /// When, after the beginning of 1970, if that is known.
    pub at_unix_ns: Option<u64>,
    /// Where.
    pub stream: control::Stream,
    /// What is no UTF-8 is U+FFFD.
    pub text: String,
    /// What comes after the text.
    pub end: control::LineEnd,
}

/// Another line of `selkis log --json`: there were lines before the next one that are gone.
#[derive(Serialize)]
pub struct Dropped<'a> {
    /// Whose.
    #[serde(flatten)]
    pub program: &'a ProgramName,
    /// How many.
    pub lines_dropped: u64,
}

/// `selkis kill --json`
#[derive(Serialize)]
pub struct Ended<'a> {
    /// Whether it is the whole system.
    pub system: bool,
    /// Which programs have ended.
    pub programs: &'a [ProgramName],
}

/// One of `selkis crash --json`.
#[derive(Serialize)]
pub struct Crash<'a> {
    /// Whose.
    #[serde(flatten)]
    program: &'a ProgramName,
    /// When, after the start of the system.
    at_ns: u64,
    restarts: u64,
    /// `null` if it ended in another way.
    exit_status: Option<u8>,
    /// As people read it.
    end: String,
    /// `null` if its library OS did not say.
    reason: Option<&'a str>,
    /// The innermost first.
    backtrace: Vec<CrashFrame<'a>>,
    /// How many functions there were in all.
    depth: u32,
    limits: Option<&'a control::CrashLimits>,
    /// Of its library OS, if that came to an end with it.
    domain_words: &'a str,
    last_lines: Vec<CrashLine>,
}

#[derive(Serialize)]
struct CrashFrame<'a> {
    function: u32,
    /// In its compiled code.
    offset: u32,
    /// As it was written.
    name: Option<String>,
    /// As it is in the module.
    symbol: Option<&'a str>,
}

#[derive(Serialize)]
struct CrashLine {
    at_ns: u64,
    stream: control::Stream,
    /// What is no UTF-8 is U+FFFD.
    text: String,
    end: control::LineEnd,
}

impl<'a> From<&'a control::CrashReport> for Crash<'a> {
    fn from(report: &'a control::CrashReport) -> Self {
        let crash = report.crash.as_ref();
        let frame = |frame: &'a control::CrashFrame| CrashFrame {
            function: frame.function,
            offset: frame.offset,
            name: frame.name.as_deref().map(readable),
            symbol: frame.name.as_deref(),
        };
        let line = |line: &control::Line| CrashLine {
            at_ns: line.at_ns,
            stream: line.stream,
            text: String::from_utf8_lossy(&line.bytes).into_owned(),
            end: line.end,
        };
        Self {
            program: &report.program,
            at_ns: report.at_ns,
            restarts: report.restarts,
            exit_status: match report.end {
                End::Exited { status } => Some(status),
                _ => None,
            },
            end: report.end.to_string(),
            reason: crash.map(|crash| &*crash.reason),
            backtrace: crash.map_or(Vec::new(), |crash| crash.backtrace.iter().map(frame).collect()),
            depth: crash.map_or(0, |crash| crash.depth),
            limits: crash.map(|crash| &crash.limits),
            domain_words: &report.domain_words,
            last_lines: report.last_lines.iter().map(line).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::ps::tests::system;
    use super::*;
    use serde_json::json;

    /// Scripts rely on it.
    #[test]
    fn a_system_is_written_so() {
        let written = serde_json::to_value(System::from(&system())).unwrap();
        let counters = json!({ "switches": null, "faults": 7, "upcalls": null, "requests": null });
        let log = json!({ "lines": 3, "bytes": 30, "lines_dropped": 1 });
        assert_eq!(
            written,
            json!({
                "system": "tenants", "platform": "hosted", "phase": "up", "uptime_ns": 202_000_000_000u64,
                "started_unix_ns": 1_000_000_000_000_000_000u64, "cpus": [],
                "domains": [
                    {
                        "name": "alice", "process_id": 4711, "memory_used_bytes": 1_572_864, "memory_peak_bytes": 3_145_728,
                        "memory_quota_bytes": 67_108_864, "cpu_ns": 1_239_000_000, "counters": counters.clone(),
                        "programs": [
                            {
                                "name": "clock", "state": "running", "restart_at_ns": null, "restarts": 0,
                                "started_ns": 2_000_000_000u64, "ended_ns": null, "exit_status": null, "last_end": null,
                                "memory_used_bytes": 524_288, "memory_peak_bytes": 1_048_576,
                                "host_memory_bytes": 4096, "cpu_ns": 300_000_000,
                                "switches": 5, "migrations": 1, "log": log.clone(),
                            },
                            {
                                "name": "bob", "state": "ended", "restart_at_ns": null, "restarts": 0,
                                "started_ns": 2_000_000_000u64, "ended_ns": 3_000_000_000u64, "exit_status": 0,
                                "last_end": "exit status 0", "memory_used_bytes": 524_288, "memory_peak_bytes": 1_048_576,
                                "host_memory_bytes": 4096, "cpu_ns": 300_000_000, "switches": 5, "migrations": 1, "log": log.clone(),
                            },
                        ],
                    },
                    {
                        "name": "bob", "process_id": null, "memory_used_bytes": 0, "memory_peak_bytes": 0,
                        "memory_quota_bytes": 67_108_864, "cpu_ns": 61_000_000_000u64, "counters": counters,
                        "programs": [
                            {
                                "name": "primes", "state": "backoff", "restart_at_ns": 205_000_000_000u64, "restarts": 12,
                                "started_ns": 2_000_000_000u64, "ended_ns": 200_000_000_000u64, "exit_status": null,
                                "last_end": "broken: SIGKILL", "memory_used_bytes": 524_288, "memory_peak_bytes": 1_048_576,
                                "host_memory_bytes": 4096, "cpu_ns": 300_000_000, "switches": 5, "migrations": 1, "log": log,
                            },
                        ],
                    },
                ],
            })
        );
    }

    #[test]
    fn a_crash_is_written_so() {
        let report = super::super::crash::tests::report();
        let measure = json!({ "used": 5, "max": 9 });
        let (none, time) = (json!({ "used": 0, "max": null }), json!({ "used": 5, "max": null }));
        assert_eq!(
            serde_json::to_value(Crash::from(&report)).unwrap(),
            json!({
                "domain": "alice", "program": "web/1", "at_ns": 5_000_000_000u64, "restarts": 2, "exit_status": 134,
                "end": "exit status 134", "reason": "trap: unreachable",
                "backtrace": [{
                    "function": 7, "offset": 31, "name": "core::panicking::panic",
                    "symbol": "_ZN4core9panicking5panic17h1122334455667788E",
                }],
                "depth": 3,
                "limits": {
                    "memory_bytes": measure.clone(), "host_bytes": none.clone(), "table_elements": none.clone(),
                    "cpu_ns": measure, "time_ns": time, "stack_bytes": none.clone(), "descriptors": none.clone(),
                    "log_bytes": none,
                },
                "domain_words": "",
                "last_lines": [{ "at_ns": 4, "stream": "error", "text": "no \u{1b}[2Jfile", "end": "cut" }],
            })
        );
    }
}
