//! `selkis crash`: how programs failed last.

use super::arguments::CrashArguments;
use super::connection::{Connection, Wait};
use super::escape::{escaped, escaped_bytes};
use super::{json, names, words};
use crate::crash::details;
use crate::failure::Failure;
use crate::lists::{print, print_json};
use control::{CrashReport, LineEnd, Reply, Request};

/// Shows the report on each that has failed.
pub fn crash(arguments: &CrashArguments) -> Result<(), Failure> {
    let mut connection = Connection::open(arguments.target.system.as_ref())?;
    let now_ns = connection.list()?.uptime_ns;
    connection.ask(&Request::Crashes { which: names::selector(arguments.name.as_deref()) })?;
    let mut reports = Vec::new();
    loop {
        match connection.reply(Wait::Patience)? {
            Reply::Crash(report) => reports.push(*report),
            Reply::CrashEnd => break,
            other => return Err(connection.unexpected(other).into()),
        }
    }
    if arguments.target.json {
        return print_json(&reports.iter().map(json::Crash::from).collect::<Vec<_>>());
    }
    match reports.is_empty() {
        true => print("nothing has failed\n"),
        false => print(&reports.iter().map(|report| text(report, now_ns)).collect::<Vec<_>>().join("\n")),
    }
}

fn text(report: &CrashReport, now_ns: u64) -> String {
    let name = escaped(&report.program.to_string());
    let ago = words::time(now_ns.saturating_sub(report.at_ns));
    let mut text = format!("{name}: {}, {ago} ago", words::last_end(Some(&report.end)));
    if report.restarts > 0 {
        text += &format!(", restart {}", report.restarts);
    }
    text.push('\n');
    if let Some(crash) = &report.crash {
        text += &format!("  {}\n{}", escaped(&crash.reason), details(crash));
    }
    for line in report.domain_words.lines() {
        text += &format!("  its domain: {}\n", escaped(line));
    }
    if !report.last_lines.is_empty() {
        text += "  it wrote last:\n";
    }
    for line in &report.last_lines {
        let cut = if line.end == LineEnd::Cut { "…" } else { "" };
        text += &format!("    {}{cut}\n", escaped_bytes(&line.bytes));
    }
    text
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use control::{Crash, CrashFrame, CrashLimits, End, Line, Measure, ProgramName, Stream};

    pub fn report() -> CrashReport {
        let measure = Measure { used: 5, max: Some(9) };
        let limits = CrashLimits {
            memory_bytes: measure,
            host_bytes: Measure { used: 0, max: None },
            table_elements: Measure { used: 0, max: None },
            cpu_ns: measure,
            time_ns: Measure { used: 5, max: None },
            stack_bytes: Measure { used: 0, max: None },
            descriptors: Measure { used: 0, max: None },
            log_bytes: Measure { used: 0, max: None },
        };
        let name = Some(String::from("_ZN4core9panicking5panic17h1122334455667788E"));
        CrashReport {
            program: ProgramName { domain: "alice".into(), program: "web/1".into() },
            at_ns: 5_000_000_000,
            restarts: 2,
            end: End::Exited { status: 134 },
            crash: Some(Crash {
                reason: "trap: unreachable".into(),
                backtrace: vec![CrashFrame { function: 7, offset: 31, name }],
                depth: 3,
                limits,
            }),
            domain_words: String::new(),
            last_lines: vec![Line {
                at_ns: 4,
                stream: Stream::Error,
                bytes: b"no \x1b[2Jfile".to_vec(),
                end: LineEnd::Cut,
            }],
        }
    }

    #[test]
    fn a_report_is_shown() {
        assert_eq!(
            text(&report(), 17_000_000_000),
            "alice/web/1: exit status 134, 12s ago, restart 2\n  trap: unreachable\n   0: core::panicking::panic\n  … and 2 more\n  \
             used: memory 5 bytes of 9 bytes, CPU 5 ns of 9 ns, time 5 ns\n  it wrote last:\n    no \\u{1b}[2Jfile…\n"
        );
        let broken = CrashReport {
            end: End::Broken { how: "SIGSEGV".into() },
            restarts: 0,
            crash: None,
            domain_words: "selkis: the library OS failed\n".into(),
            last_lines: Vec::new(),
            ..report()
        };
        assert_eq!(
            text(&broken, 5_000_000_000),
            "alice/web/1: broken: SIGSEGV, 0s ago\n  its domain: selkis: the library OS failed\n"
        );
    }
}
