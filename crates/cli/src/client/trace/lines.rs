//! A trace as a line for each record: for people, or an object for a script.

use super::{Names, Show, Wanted, event};
use crate::client::escape::escaped;
use control::TraceRecord;
use serde_json::{Map, Value, json};
use std::io::{self, Write};

/// For people.
pub struct Table {
    names: Names,
    /// How wide the column of domains is.
    width: usize,
}

impl Table {
    /// Before the first line.
    pub fn new(names: Names) -> Self {
        let longest = names.0.iter().map(String::len).max().unwrap_or(0);
        Self { width: longest.max(Names::ROOT.len()), names }
    }
}

impl Show for Table {
    fn begin(&mut self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "{:>14}  CPU  {:width$}  {:10}  WHAT", "TIME", "DOMAIN", "EVENT", width = self.width)
    }

    fn lost(&mut self, out: &mut dyn Write, cpu: usize, count: u64) -> io::Result<()> {
        writeln!(out, "… {count} records of CPU {cpu} are lost")
    }

    fn record(&mut self, out: &mut dyn Write, record: &TraceRecord, wanted: Wanted) -> io::Result<()> {
        if wanted == Wanted::No {
            return Ok(());
        }
        let (seconds, ns) = (record.at_ns / 1_000_000_000, record.at_ns % 1_000_000_000);
        let domain = self.names.of(record.domain).unwrap_or_default();
        let details = event::details(&record.event).into_iter().map(|(key, value)| match value {
            Value::String(text) => format!("{key}={text}"),
            value => format!("{key}={value}"),
        });
        let line = format!(
            "{seconds:>4}.{ns:09}  {:>3}  {:width$}  {:10}  {}",
            record.cpu,
            escaped(&domain),
            event::word(&record.event),
            details.collect::<Vec<_>>().join(" "),
            width = self.width
        );
        writeln!(out, "{}", line.trim_end())
    }
}

/// An object on each line.
pub struct JsonLines {
    /// What domains are called.
    pub names: Names,
    /// The system's time 0, if it is known.
    pub started_unix_ns: Option<u64>,
}

impl Show for JsonLines {
    fn lost(&mut self, out: &mut dyn Write, cpu: usize, count: u64) -> io::Result<()> {
        writeln!(out, "{}", json!({ "event": "lost", "cpu": cpu, "records": count }))
    }

    fn record(&mut self, out: &mut dyn Write, record: &TraceRecord, wanted: Wanted) -> io::Result<()> {
        if wanted == Wanted::No {
            return Ok(());
        }
        let mut object = Map::new();
        let at_unix_ns = self.started_unix_ns.map(|started| started.saturating_add(record.at_ns));
        let common = [
            ("at_ns", json!(record.at_ns)),
            ("at_unix_ns", json!(at_unix_ns)),
            ("cpu", json!(record.cpu)),
            ("domain", json!(self.names.of(record.domain))),
            ("vcpu", json!(record.vcpu)),
            ("event", json!(event::word(&record.event))),
        ];
        for (key, value) in common.into_iter().chain(event::details(&record.event)) {
            object.insert(key.to_owned(), value);
        }
        writeln!(out, "{}", Value::Object(object))
    }
}
