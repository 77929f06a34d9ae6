//! `selkis trace`: what happens on the CPUs of a machine.

mod chrome;
mod event;
mod lines;

use super::arguments::TraceArguments;
use super::connection::{Connection, Wait};
use super::{ClientError, names};
use crate::failure::Failure;
use crate::report::say;
use chrome::Chrome;
use control::{Platform, Reply, Request, System, TraceDomain, TracePiece, TraceRecord};
use lines::{JsonLines, Table};
use signal_hook::consts::{SIGINT, SIGTERM};
use std::fs::File;
use std::io::{self, BufWriter, ErrorKind, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How long is traced if nothing else is said.
const TIME_DEFAULT: Duration = Duration::from_secs(1);
/// How soon a signal is noticed while nothing comes.
const SIGNAL_TIME: Duration = Duration::from_millis(200);

/// A way to show records.
trait Show {
    /// Before the first.
    fn begin(&mut self, _out: &mut dyn Write) -> io::Result<()> {
        Ok(())
    }
    /// Records of this CPU that nobody read in time.
    fn lost(&mut self, out: &mut dyn Write, cpu: usize, count: u64) -> io::Result<()>;
    /// One record. Not all that come are wanted, and yet they may say until when something wanted went on.
    fn record(&mut self, out: &mut dyn Write, record: &TraceRecord, wanted: Wanted) -> io::Result<()>;
    /// After the last.
    fn end(&mut self, _out: &mut dyn Write) -> io::Result<()> {
        Ok(())
    }
}

/// Whether a record is to be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    Yes,
    No,
}

/// What domains are called.
#[derive(Clone, Debug)]
struct Names(Vec<String>);

impl Names {
    /// The root of a system, which cannot be the name of a domain.
    const ROOT: &str = "(root)";

    fn of(&self, domain: TraceDomain) -> Option<String> {
        match domain {
            TraceDomain::Nobody => None,
            TraceDomain::Root => Some(Self::ROOT.to_owned()),
            TraceDomain::Named(index) => {
                Some(self.0.get(index as usize).cloned().unwrap_or_else(|| format!("(domain {index})")))
            }
            TraceDomain::Other(number) => Some(format!("(gone {number:x})")),
        }
    }
}

/// Which records are wanted.
struct Filter<'a> {
    cpu: Option<u16>,
    domain: Option<&'a str>,
}

/// Shows what happens, for a while or for as long as the user wants.
pub fn trace(arguments: &TraceArguments) -> Result<(), Failure> {
    let mut connection = Connection::open(arguments.target.system.as_ref())?;
    let system = connection.list()?;
    let filter = Filter { cpu: arguments.cpu, domain: arguments.domain.as_deref() };
    check(&system, &filter)?;
    let names = Names(system.domains.iter().map(|domain| domain.name.clone()).collect());
    let mut out: Box<dyn Write> = match &arguments.output {
        Some(path) => Box::new(BufWriter::new(
            File::create(path).map_err(|error| Failure::Create(path.clone(), error))?,
        )),
        None => Box::new(BufWriter::new(io::stdout())),
    };
    let mut show: Box<dyn Show> = match () {
        () if arguments.chrome => Box::new(Chrome::new(names.clone())),
        () if arguments.target.json => {
            Box::new(JsonLines { names: names.clone(), started_unix_ns: system.started_unix_ns })
        }
        () => Box::new(Table::new(names.clone())),
    };
    let limit = (!arguments.follow).then(|| Instant::now() + arguments.time.unwrap_or(TIME_DEFAULT));
    connection.ask(&Request::Trace)?;
    let mut session = Session { show: &mut *show, out: &mut *out, names, filter, seen: 0, lost: 0 };
    let written = session.run(&mut connection, limit);
    match written {
        // Whoever read it has enough.
        Err(Failure::Output(error)) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        Ok(()) if arguments.target.json => Ok(()),
        Ok(()) => {
            let (seen, lost) = (session.seen, session.lost);
            say(&format!("{seen} records, {lost} lost because nobody read them in time"));
            Ok(())
        }
        failed => failed,
    }
}

struct Session<'a> {
    show: &'a mut dyn Show,
    out: &'a mut dyn Write,
    names: Names,
    filter: Filter<'a>,
    seen: u64,
    lost: u64,
}

impl Session<'_> {
    fn run(&mut self, connection: &mut Connection, limit: Option<Instant>) -> Result<(), Failure> {
        let stopped = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            signal_hook::flag::register(signal, stopped.clone()).map_err(Failure::Signals)?;
        }
        self.show.begin(self.out).map_err(Failure::Output)?;
        while !stopped.load(Ordering::Relaxed) {
            let now = Instant::now();
            if limit.is_some_and(|limit| limit <= now) {
                break;
            }
            let soon = now + SIGNAL_TIME;
            match connection.reply(Wait::Until(limit.map_or(soon, |limit| limit.min(soon)))) {
                Ok(Reply::Trace(piece)) => self.piece(&piece).map_err(Failure::Output)?,
                Ok(Reply::TraceEnd) => break,
                Ok(other) => return Err(connection.unexpected(other).into()),
                Err(ClientError::Silent(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.show.end(self.out).and_then(|()| self.out.flush()).map_err(Failure::Output)
    }

    fn piece(&mut self, piece: &TracePiece) -> io::Result<()> {
        for (cpu, &count) in piece.lost.iter().enumerate().filter(|(_, count)| **count > 0) {
            if self.filter.cpu.is_none_or(|wanted| usize::from(wanted) == cpu) {
                self.lost += count;
                self.show.lost(self.out, cpu, count)?;
            }
        }
        for record in &piece.records {
            let wanted = self.wants(record);
            self.seen += u64::from(wanted == Wanted::Yes);
            self.show.record(self.out, record, wanted)?;
        }
        // At once, for whoever looks on.
        self.out.flush()
    }

    fn wants(&self, record: &TraceRecord) -> Wanted {
        let cpu = self.filter.cpu.is_none_or(|cpu| cpu == record.cpu);
        let named = |domain: &str| self.names.of(record.domain).is_some_and(|name| name == domain);
        if cpu && self.filter.domain.is_none_or(named) { Wanted::Yes } else { Wanted::No }
    }
}

/// Whether there is anything to see.
fn check(system: &System, filter: &Filter<'_>) -> Result<(), ClientError> {
    if system.platform == Platform::Hosted {
        let process = system.domains.iter().find_map(|domain| domain.process_id);
        return Err(ClientError::NotOurKernel { system: system.name.clone(), process });
    }
    if let Some(cpu) = filter.cpu.filter(|cpu| usize::from(*cpu) >= system.cpus.len()) {
        return Err(ClientError::NoSuchCpu { asked: cpu, cpus: system.cpus.len() });
    }
    match filter.domain {
        Some(name) if name != Names::ROOT && system.domains.iter().all(|domain| domain.name != name) => {
            Err(names::no_such(system, name))
        }
        _ => Ok(()),
    }
}
