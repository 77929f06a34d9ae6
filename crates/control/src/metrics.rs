//! A system's state as Prometheus reads it (text format 0.0.4).

use crate::status::{Cpu, Domain, End, Phase, Program, State, System};
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::{self, Display, Write};

/// The `Content-Type` of [`metrics`].
pub const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// All figures of a system, each family with its help and type.
pub fn metrics(system: &System) -> String {
    let mut text = String::new();
    families(&mut text, SYSTEM, &[(Labels::NONE, system)]);
    let domains = system.domains.iter().map(|domain| (Labels::of([("domain", &domain.name)]), domain));
    families(&mut text, DOMAIN, &domains.collect::<Vec<_>>());
    let named = |domain: &Domain, program: &Program| {
        Labels::of([("domain", &domain.name), ("program", &program.name)])
    };
    let programs: Vec<(&Domain, &Program)> = system
        .domains
        .iter()
        .flat_map(|domain| domain.programs.iter().map(move |program| (domain, program)))
        .collect();
    let labelled: Vec<_> =
        programs.iter().map(|(domain, program)| (named(domain, program), *program)).collect();
    families(&mut text, PROGRAM, &labelled);
    let states: Vec<(State, &str)> =
        programs.iter().flat_map(|(_, program)| STATES.map(|word| (program.state, word))).collect();
    let in_state = |(domain, program): &(&Domain, &Program)| {
        let labels =
            |word| Labels::of([("domain", &domain.name), ("program", &program.name), ("state", word)]);
        STATES.map(labels)
    };
    let labelled: Vec<_> = programs.iter().flat_map(in_state).zip(&states).collect();
    families(&mut text, STATE, &labelled);
    let numbers: Vec<_> =
        system.cpus.iter().enumerate().map(|(number, cpu)| (Labels::number("cpu", number), cpu)).collect();
    families(&mut text, CPU, &numbers);
    text
}

/// A family of samples, one for each `T`.
struct Family<T> {
    name: &'static str,
    kind: Kind,
    help: &'static str,
    /// `None`: not known.
    value: fn(&T) -> Option<Value>,
}

#[derive(Clone, Copy)]
enum Kind {
    Counter,
    Gauge,
}

enum Value {
    Count(u64),
    /// Written in seconds, as Prometheus has all times.
    Time(u64),
}

const SYSTEM: &[Family<System>] = &[
    Family {
        name: "selkis_up_seconds",
        kind: Kind::Gauge,
        help: "How long the system has been up.",
        value: |system| Some(Value::Time(system.uptime_ns)),
    },
    Family {
        name: "selkis_ending",
        kind: Kind::Gauge,
        help: "1 when the system is being ended, else 0.",
        value: |system| Some(Value::Count((system.phase != Phase::Up).into())),
    },
];

const DOMAIN: &[Family<Domain>] = &[
    Family {
        name: "selkis_domain_memory_bytes",
        kind: Kind::Gauge,
        help: "Memory that the domain holds, without what it shares.",
        value: |domain| Some(Value::Count(domain.usage.memory.used_bytes)),
    },
    Family {
        name: "selkis_domain_memory_peak_bytes",
        kind: Kind::Gauge,
        help: "The most memory that the domain was seen to hold.",
        value: |domain| Some(Value::Count(domain.usage.memory.peak_bytes)),
    },
    Family {
        name: "selkis_domain_memory_quota_bytes",
        kind: Kind::Gauge,
        help: "Memory that the domain may hold.",
        value: |domain| Some(Value::Count(domain.memory_quota_bytes)),
    },
    Family {
        name: "selkis_domain_cpu_seconds_total",
        kind: Kind::Counter,
        help: "CPU time of the domain.",
        value: |domain| Some(Value::Time(domain.usage.cpu_ns)),
    },
    Family {
        name: "selkis_domain_switches_total",
        kind: Kind::Counter,
        help: "How often a CPU went over to the domain.",
        value: |domain| domain.usage.counters.switches.map(Value::Count),
    },
    Family {
        name: "selkis_domain_faults_total",
        kind: Kind::Counter,
        help: "Page faults of the domain.",
        value: |domain| domain.usage.counters.faults.map(Value::Count),
    },
    Family {
        name: "selkis_domain_upcalls_total",
        kind: Kind::Counter,
        help: "Upcalls of the domain.",
        value: |domain| domain.usage.counters.upcalls.map(Value::Count),
    },
    Family {
        name: "selkis_domain_requests_total",
        kind: Kind::Counter,
        help: "Requests of the domain to the kernel.",
        value: |domain| domain.usage.counters.requests.map(Value::Count),
    },
];

const PROGRAM: &[Family<Program>] = &[
    Family {
        name: "selkis_program_memory_bytes",
        kind: Kind::Gauge,
        help: "Memory that the program's linear memories take.",
        value: |program| Some(Value::Count(program.usage.memory.used_bytes)),
    },
    Family {
        name: "selkis_program_memory_peak_bytes",
        kind: Kind::Gauge,
        help: "The most memory that the program's were seen to take.",
        value: |program| Some(Value::Count(program.usage.memory.peak_bytes)),
    },
    Family {
        name: "selkis_program_host_memory_bytes",
        kind: Kind::Gauge,
        help: "Memory of the library OS that serves the program.",
        value: |program| Some(Value::Count(program.usage.host_bytes)),
    },
    Family {
        name: "selkis_program_cpu_seconds_total",
        kind: Kind::Counter,
        help: "CPU time of the program.",
        value: |program| Some(Value::Time(program.usage.cpu_ns)),
    },
    Family {
        name: "selkis_program_switches_total",
        kind: Kind::Counter,
        help: "How often the domain's library OS went over to the program.",
        value: |program| Some(Value::Count(program.usage.switches)),
    },
    Family {
        name: "selkis_program_migrations_total",
        kind: Kind::Counter,
        help: "How often it did so on another virtual CPU than the last time.",
        value: |program| Some(Value::Count(program.usage.migrations)),
    },
    Family {
        name: "selkis_program_restarts_total",
        kind: Kind::Counter,
        help: "How often the program was started again.",
        value: |program| Some(Value::Count(program.restarts)),
    },
    Family {
        name: "selkis_program_last_exit_status",
        kind: Kind::Gauge,
        help: "The exit status with which the program ended last, if it ended with one.",
        value: |program| match program.last_end {
            Some(End::Exited { status }) => Some(Value::Count(status.into())),
            _ => None,
        },
    },
    Family {
        name: "selkis_program_log_lines_total",
        kind: Kind::Counter,
        help: "Lines of the program's log: its own, and those about it.",
        value: |program| Some(Value::Count(program.log.lines)),
    },
    Family {
        name: "selkis_program_log_bytes_total",
        kind: Kind::Counter,
        help: "Bytes that the program has written.",
        value: |program| Some(Value::Count(program.log.bytes)),
    },
    Family {
        name: "selkis_program_log_lines_dropped_total",
        kind: Kind::Counter,
        help: "Of the lines, those that are gone for want of room.",
        value: |program| Some(Value::Count(program.log.lines_dropped)),
    },
];

/// A program is in one of them: a sample for each says whether it is that one.
const STATES: [&str; 6] = [
    State::Starting.word(),
    State::Running.word(),
    State::Stopping.word(),
    State::Backoff { until_ns: 0 }.word(),
    State::Ended.word(),
    State::Stopped.word(),
];

const STATE: &[Family<(State, &str)>] = &[Family {
    name: "selkis_program_state",
    kind: Kind::Gauge,
    help: "1 for the state that the program is in, 0 for the others.",
    value: |(state, word)| Some(Value::Count((state.word() == *word).into())),
}];

const CPU: &[Family<Cpu>] = &[
    Family {
        name: "selkis_cpu_run_seconds_total",
        kind: Kind::Counter,
        help: "Time that the CPU spent in domains.",
        value: |cpu| Some(Value::Time(cpu.run_ns)),
    },
    Family {
        name: "selkis_cpu_idle_seconds_total",
        kind: Kind::Counter,
        help: "Time that the CPU was halted.",
        value: |cpu| Some(Value::Time(cpu.idle_ns)),
    },
    Family {
        name: "selkis_cpu_switches_total",
        kind: Kind::Counter,
        help: "How often the CPU went from one domain to another.",
        value: |cpu| Some(Value::Count(cpu.switches)),
    },
    Family {
        name: "selkis_cpu_interrupts_total",
        kind: Kind::Counter,
        help: "Interrupts that the CPU took.",
        value: |cpu| Some(Value::Count(cpu.interrupts)),
    },
    Family {
        name: "selkis_cpu_traced",
        kind: Kind::Gauge,
        help: "1 while the CPU is traced, else 0.",
        value: |cpu| Some(Value::Count(cpu.traced.into())),
    },
];

/// Families of which nothing is known are left out.
fn families<T>(text: &mut String, families: &[Family<T>], items: &[(Labels, &T)]) {
    for Family { name, kind, help, value } in families {
        let samples: Vec<(&Labels, Value)> =
            items.iter().filter_map(|(labels, item)| Some((labels, value(item)?))).collect();
        if samples.is_empty() {
            continue;
        }
        line(text, format_args!("# HELP {name} {help}"));
        line(text, format_args!("# TYPE {name} {kind}"));
        for (labels, value) in samples {
            line(text, format_args!("{name}{} {value}", labels.0));
        }
    }
}

fn line(text: &mut String, words: fmt::Arguments<'_>) {
    writeln!(text, "{words}").expect("a string takes everything");
}

impl Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
        })
    }
}

impl Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NS_EACH_SECOND: u64 = 1_000_000_000;
        match self {
            Self::Count(count) => write!(f, "{count}"),
            Self::Time(ns) => write!(f, "{}.{:09}", ns / NS_EACH_SECOND, ns % NS_EACH_SECOND),
        }
    }
}

/// As they are written: `{domain="alice"}`.
#[derive(Clone)]
struct Labels(String);

impl Labels {
    const NONE: Self = Self(String::new());

    fn of<const COUNT: usize>(labels: [(&str, &str); COUNT]) -> Self {
        let mut text = String::from("{");
        for (index, (name, value)) in labels.into_iter().enumerate() {
            let separator = if index == 0 { "" } else { "," };
            write!(text, "{separator}{name}=\"{}\"", Escaped(value)).expect("a string takes everything");
        }
        text.push('}');
        Self(text)
    }

    fn number(name: &str, number: usize) -> Self {
        Self::of([(name, &alloc::format!("{number}"))])
    }
}

/// In a label's value, backslash, quote and newline are escaped by a backslash.
struct Escaped<'a>(&'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            match character {
                '\\' => f.write_str("\\\\")?,
                '"' => f.write_str("\\\"")?,
                '\n' => f.write_str("\\n")?,
                character => f.write_char(character)?,
            }
        }
        Ok(())
    }
}
