//! `selkis log`: what programs have written.

use super::arguments::LogArguments;
use super::connection::{Connection, Wait};
use super::printer::{Clock, Printer, Sink};
use super::{json, names};
use crate::failure::Failure;
use control::{Follow, From, LogPiece, Reply, Request};
use std::io::{self, ErrorKind, Write};

/// Writes what is kept of it, and, if wanted, what comes.
pub fn log(arguments: &LogArguments) -> Result<(), Failure> {
    let mut connection = Connection::open(arguments.target.system.as_ref())?;
    let mut system = connection.list()?;
    let started_unix_ns = system.started_unix_ns;
    names::narrow(&mut system, arguments.name.as_deref())?;
    let follow = if arguments.follow { Follow::Yes } else { Follow::No };
    let from = arguments.lines.map_or(From::Start, From::Last);
    connection.ask(&Request::Log { which: names::selector(arguments.name.as_deref()), from, follow })?;
    let mut show: Box<dyn Show> = match arguments.target.json {
        true => Box::new(JsonLines { started_unix_ns }),
        false => {
            let clock = if arguments.time { Clock::since(started_unix_ns) } else { Clock::None };
            let sinks = [Sink::new(Box::new(io::stdout())), Sink::new(Box::new(io::stderr()))];
            Box::new(Printer::new(sinks, names::programs(&system), clock))
        }
    };
    let wait = if arguments.follow { Wait::ForEver } else { Wait::Patience };
    loop {
        match connection.reply(wait)? {
            Reply::Log(piece) => match show.piece(&piece) {
                // Whoever read it has enough.
                Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(()),
                result => result.map_err(Failure::Output)?,
            },
            Reply::LogEnd(_) => return show.end().map_err(Failure::Output),
            other => return Err(connection.unexpected(other).into()),
        }
    }
}

/// A way to show a log.
trait Show {
    /// Shows some lines.
    fn piece(&mut self, piece: &LogPiece) -> io::Result<()>;
    /// There are no more.
    fn end(&mut self) -> io::Result<()>;
}

impl Show for Printer {
    fn piece(&mut self, piece: &LogPiece) -> io::Result<()> {
        self.print(piece)
    }

    fn end(&mut self) -> io::Result<()> {
        self.finish()
    }
}

/// An object on each line.
struct JsonLines {
    started_unix_ns: Option<u64>,
}

impl Show for JsonLines {
    fn piece(&mut self, piece: &LogPiece) -> io::Result<()> {
        let program = &piece.program;
        let mut text = String::new();
        let mut push = |object: Result<String, serde_json::Error>| {
            text += &object.expect("a line can be written to memory");
            text.push('\n');
        };
        if piece.lines_dropped > 0 {
            push(serde_json::to_string(&json::Dropped { program, lines_dropped: piece.lines_dropped }));
        }
        for line in &piece.lines {
            push(serde_json::to_string(&json::Line {
                program,
                at_ns: line.at_ns,
                at_unix_ns: self.started_unix_ns.map(|started| started.saturating_add(line.at_ns)),
                stream: line.stream,
                text: String::from_utf8_lossy(&line.bytes).into_owned(),
                end: line.end,
            }));
        }
        // At once, for whoever follows.
        let mut stdout = io::stdout().lock();
        stdout.write_all(text.as_bytes())?;
        stdout.flush()
    }

    fn end(&mut self) -> io::Result<()> {
        Ok(())
    }
}
