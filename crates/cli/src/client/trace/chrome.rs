//! A trace as Perfetto and Chrome open it: the Trace Event Format, in which times are microseconds.
//!
//! Process 0 is the machine: a track for each CPU, with a slice for each time that a virtual CPU ran there. Each domain is a process, and what it
//! does are instants on the tracks of its virtual CPUs.

use super::{Names, Show, Wanted, event};
use control::{TraceDomain, TraceEvent, TraceRecord};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::io::{self, Write};

const MACHINE: usize = 0;

/// What has been written, and what goes on.
pub struct Chrome {
    names: Names,
    /// Processes, by domain.
    processes: BTreeMap<TraceDomain, usize>,
    /// What runs on each CPU, if it is wanted, and since when.
    running: BTreeMap<u16, Running>,
    last_ns: u64,
    any: bool,
}

struct Running {
    since_ns: u64,
    domain: TraceDomain,
    vcpu: Option<u16>,
    wanted: Wanted,
}

impl Chrome {
    /// Before the first record.
    pub fn new(names: Names) -> Self {
        Self { names, processes: BTreeMap::new(), running: BTreeMap::new(), last_ns: 0, any: false }
    }

    fn write(&mut self, out: &mut dyn Write, event: Value) -> io::Result<()> {
        let separator = if std::mem::replace(&mut self.any, true) { ",\n" } else { "\n" };
        write!(out, "{separator}{event}")
    }

    fn name(&mut self, out: &mut dyn Write, process: usize, name: &str) -> io::Result<()> {
        self.write(
            out,
            json!({ "ph": "M", "pid": process, "name": "process_name", "args": { "name": name } }),
        )
    }

    fn process_of(&mut self, out: &mut dyn Write, domain: TraceDomain) -> io::Result<usize> {
        if let Some(process) = self.processes.get(&domain) {
            return Ok(*process);
        }
        let Some(name) = self.names.of(domain) else { return Ok(MACHINE) };
        let process = self.processes.len() + 1;
        self.processes.insert(domain, process);
        self.name(out, process, &name)?;
        Ok(process)
    }

    /// Nothing runs on the CPU any more, or something else.
    fn close(&mut self, out: &mut dyn Write, cpu: u16, now_ns: u64) -> io::Result<()> {
        let Some(Running { since_ns, domain, vcpu, wanted }) = self.running.remove(&cpu) else {
            return Ok(());
        };
        let Some(name) = self.names.of(domain).filter(|_| wanted == Wanted::Yes) else { return Ok(()) };
        let slice = json!({
            "ph": "X", "pid": MACHINE, "tid": cpu, "ts": us(since_ns), "dur": us(now_ns.saturating_sub(since_ns)),
            "name": name, "cat": "run", "args": { "vcpu": vcpu },
        });
        self.write(out, slice)
    }

    fn instant(&mut self, out: &mut dyn Write, record: &TraceRecord) -> io::Result<()> {
        let process = self.process_of(out, record.domain)?;
        let thread = if process == MACHINE { record.cpu } else { record.vcpu.unwrap_or(0) };
        let word = event::word(&record.event);
        let name = match record.event {
            TraceEvent::Request { number, .. } => event::request(number),
            _ => word.to_owned(),
        };
        let mut details: Map<String, Value> =
            event::details(&record.event).into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        details.insert("cpu".to_owned(), json!(record.cpu));
        let instant = json!({
            "ph": "i", "s": "t", "pid": process, "tid": thread, "ts": us(record.at_ns), "name": name, "cat": word,
            "args": details,
        });
        self.write(out, instant)
    }
}

impl Show for Chrome {
    fn begin(&mut self, out: &mut dyn Write) -> io::Result<()> {
        write!(out, "{{\"displayTimeUnit\":\"ns\",\"traceEvents\":[")?;
        self.name(out, MACHINE, "CPUs")
    }

    fn lost(&mut self, out: &mut dyn Write, cpu: usize, count: u64) -> io::Result<()> {
        let (name, at) = (format!("{count} records lost"), us(self.last_ns));
        self.write(out, json!({ "ph": "i", "s": "t", "pid": MACHINE, "tid": cpu, "ts": at, "name": name }))
    }

    fn record(&mut self, out: &mut dyn Write, record: &TraceRecord, wanted: Wanted) -> io::Result<()> {
        self.last_ns = self.last_ns.max(record.at_ns);
        match record.event {
            TraceEvent::Switch => {
                self.close(out, record.cpu, record.at_ns)?;
                let &TraceRecord { at_ns: since_ns, domain, vcpu, .. } = record;
                self.running.insert(record.cpu, Running { since_ns, domain, vcpu, wanted });
                Ok(())
            }
            TraceEvent::Idle { .. } => self.close(out, record.cpu, record.at_ns),
            _ if wanted == Wanted::Yes => self.instant(out, record),
            _ => Ok(()),
        }
    }

    fn end(&mut self, out: &mut dyn Write) -> io::Result<()> {
        let open: Vec<u16> = self.running.keys().copied().collect();
        let last_ns = self.last_ns;
        open.into_iter().try_for_each(|cpu| self.close(out, cpu, last_ns))?;
        writeln!(out, "\n]}}")
    }
}

fn us(ns: u64) -> f64 {
    ns as f64 / 1000.0
}
