//! `selkis ps`: what runs, and what it uses.

use super::arguments::PsArguments;
use super::connection::Connection;
use super::names::narrow;
use super::table::{Cell, Look, Side, Tone, lines};
use super::{json, words};
use crate::failure::Failure;
use crate::lists::{print, print_json};
use control::{Domain, End, Program, State, System};
use manifest::units::ByteCount;

const COLUMNS: &[(&str, Side)] = &[
    ("DOMAIN", Side::Left),
    ("PROGRAM", Side::Left),
    ("STATE", Side::Left),
    ("PID", Side::Right),
    ("MEMORY", Side::Right),
    ("CPU", Side::Right),
    ("RESTARTS", Side::Right),
    ("SINCE", Side::Right),
    ("LAST END", Side::Left),
];

/// Shows a system.
pub fn ps(arguments: &PsArguments) -> Result<(), Failure> {
    let mut system = Connection::open(arguments.target.system.as_ref())?.list()?;
    narrow(&mut system, arguments.name.as_deref())?;
    if arguments.target.json {
        return print_json(&json::System::from(&system));
    }
    print(&table(&system, Look::of_output()))
}

fn table(system: &System, look: Look) -> String {
    let rows = system.domains.iter().flat_map(|domain| domain_rows(domain, system.uptime_ns));
    lines(COLUMNS, &rows.collect::<Vec<_>>(), look)
}

/// A row for each process. Of several, what belongs to the domain stands in a row before them.
fn domain_rows(domain: &Domain, now_ns: u64) -> Vec<Vec<Cell>> {
    let process_id = domain.process_id.map_or(words::NONE.to_owned(), |id| id.to_string());
    let of_domain = [
        process_id,
        words::memory(domain.usage.memory.used_bytes, domain.memory_quota_bytes),
        words::cpu_time(domain.usage.cpu_ns),
    ];
    if let [program] = &domain.programs[..] {
        return vec![program_row(domain, program, of_domain, now_ns)];
    }
    let (running, tone) = running(domain);
    let none = || plain(words::NONE.to_owned());
    let begin = [plain(domain.name.clone()), none(), (running, tone)];
    let restarts = domain.programs.iter().map(|program| program.restarts).fold(0, u64::saturating_add);
    let end = [plain(restarts.to_string()), none(), none()];
    let head = begin.into_iter().chain(of_domain.map(plain)).chain(end).collect();
    let row = |program: &Program| {
        let usage = &program.usage;
        let of_process =
            [String::new(), ByteCount(usage.memory.used_bytes).to_string(), words::cpu_time(usage.cpu_ns)];
        program_row(domain, program, of_process, now_ns)
    };
    std::iter::once(head).chain(domain.programs.iter().map(row)).collect()
}

/// A process, and what is used.
fn program_row(domain: &Domain, program: &Program, used: [String; 3], now_ns: u64) -> Vec<Cell> {
    let begin = [plain(domain.name.clone()), plain(program.name.clone()), state(program, now_ns)];
    let end = [
        plain(program.restarts.to_string()),
        plain(words::since(program, now_ns)),
        (words::last_end(program.last_end.as_ref()), end_tone(program)),
    ];
    begin.into_iter().chain(used.map(plain)).chain(end).collect()
}

fn plain(text: String) -> Cell {
    (text, Tone::Plain)
}

/// How many of a domain's processes run.
pub fn running(domain: &Domain) -> Cell {
    let running = domain.programs.iter().filter(|program| program.state == State::Running).count();
    let tone = if running > 0 { Tone::Good } else { Tone::Faint };
    (format!("{running} running"), tone)
}

/// A state with what is to be thought of it.
pub fn state(program: &Program, now_ns: u64) -> Cell {
    let tone = match program.state {
        State::Running => Tone::Good,
        State::Starting | State::Stopping | State::Backoff { .. } => Tone::Waiting,
        State::Ended if !program.last_end.as_ref().is_some_and(End::is_success) => Tone::Bad,
        State::Ended | State::Stopped => Tone::Faint,
    };
    (words::state(program, now_ns), tone)
}

fn end_tone(program: &Program) -> Tone {
    // What a user has ended did not fail, whatever its status.
    let is_wanted = matches!(program.state, State::Stopping | State::Stopped);
    match &program.last_end {
        Some(end) if !end.is_success() && !is_wanted => Tone::Bad,
        _ => Tone::Faint,
    }
}

#[cfg(test)]
pub mod tests {
    use super::super::table::Colour;
    use super::*;
    use control::{Counters, LogSize, Memory, Phase, Platform, ProcessUsage, Usage};

    const S: u64 = 1_000_000_000;

    pub fn program(name: &str, state: State) -> Program {
        Program {
            name: name.to_owned(),
            state,
            started_ns: Some(2 * S),
            last_end: None,
            ended_ns: None,
            restarts: 0,
            usage: ProcessUsage {
                host_bytes: 4096,
                memory: Memory { used_bytes: 512 << 10, peak_bytes: 1 << 20 },
                cpu_ns: 300_000_000,
                switches: 5,
                migrations: 1,
            },
            log: LogSize { lines: 3, bytes: 30, lines_dropped: 1 },
        }
    }

    /// Alice's clock, her program that is called as another domain, and Bob's primes.
    pub fn system() -> System {
        let failed = Program {
            last_end: Some(End::Broken { how: "SIGKILL".to_owned() }),
            ended_ns: Some(200 * S),
            restarts: 12,
            ..program("primes", State::Backoff { until_ns: 205 * S })
        };
        let ended = Program {
            last_end: Some(End::Exited { status: 0 }),
            ended_ns: Some(3 * S),
            ..program("bob", State::Ended)
        };
        let domain = |name: &str, process_id, used_bytes, cpu_ns, programs| Domain {
            name: name.to_owned(),
            process_id,
            memory_quota_bytes: 64 << 20,
            usage: Usage {
                memory: Memory { used_bytes, peak_bytes: 2 * used_bytes },
                cpu_ns,
                counters: Counters { faults: Some(7), ..Counters::default() },
            },
            programs,
        };
        System {
            name: "tenants".to_owned(),
            platform: Platform::Hosted,
            phase: Phase::Up,
            uptime_ns: 202 * S,
            started_unix_ns: Some(1_000_000_000 * S),
            cpus: Vec::new(),
            domains: vec![
                domain(
                    "alice",
                    Some(4711),
                    3 << 19,
                    1_239_000_000,
                    vec![program("clock", State::Running), ended],
                ),
                domain("bob", None, 0, 61 * S, vec![failed]),
            ],
        }
    }

    #[test]
    fn a_row_says_what_a_process_is_and_was() {
        let expected = "\
DOMAIN  PROGRAM  STATE        PID            MEMORY    CPU  RESTARTS      SINCE  LAST END
alice   —        1 running   4711  1.5 MiB / 64 MiB  1.23s         0          —  —
alice   clock    running                    512 KiB  0.30s         0  3m20s ago  —
alice   bob      ended                      512 KiB  0.30s         0  3m19s ago  exit status 0
bob     primes   backoff 3s     —  0 bytes / 64 MiB  1m01s        12     2s ago  broken: SIGKILL
";
        assert_eq!(table(&system(), Look { width: None, colour: Colour::No }), expected);
    }

    #[test]
    fn tones_follow_what_happened() {
        let tone = |state: State, last_end| super::state(&Program { last_end, ..program("x", state) }, 0).1;
        let status = |status| Some(End::Exited { status });
        assert_eq!(tone(State::Running, status(1)), Tone::Good);
        assert_eq!(tone(State::Backoff { until_ns: 0 }, status(1)), Tone::Waiting);
        assert_eq!(tone(State::Ended, status(0)), Tone::Faint);
        assert_eq!(tone(State::Ended, status(1)), Tone::Bad);
        assert_eq!(
            tone(State::Stopped, Some(End::Broken { how: String::new() })),
            Tone::Faint,
            "as was wanted"
        );
    }
}
