//! What the control protocol is answered.

use crate::domain::Process;
use crate::event::{DomainId, Effect, Event, ProcessId};
use crate::log::{Entry, Log};
use crate::supervisor::Supervisor;
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use control::{
    CrashReport, Follow, From, How, Line, LogEnd, LogPiece, Phase, Platform, ProgramName, Refusal, Reply,
    Request, Selector, TracePiece, meant,
};

/// Lines are put into a piece until it has so many bytes.
const PIECE_BYTES: usize = 32 << 10;

/// An answer that is being given. It is asked for each reply when there is room to send it: so a client that does not read costs
/// nothing, whatever is written meanwhile. It hears how many lines it has missed.
#[derive(Debug)]
pub struct Answer(Stage);

#[derive(Debug)]
enum Stage {
    Reply(Box<Reply>),
    List,
    Log {
        cursors: Vec<Cursor>,
        follow: Follow,
    },
    Trace(Trace),
    /// With their names.
    Kill(Vec<ProgramName>, Vec<Seen>),
    /// Of whom there is still something to tell.
    Crashes(VecDeque<ProcessId>),
    Shutdown,
    Done,
}

/// What a client that traces is to be told. Only the root knows where a machine's records are: it fills in the next piece.
#[derive(Debug, Default)]
pub struct Trace {
    /// By CPU, the number of the next record that is wanted; empty before the first piece.
    pub cursors: Vec<u64>,
    /// What is told next, or why there is nothing to tell.
    pub next: Option<Result<TracePiece, Refusal>>,
}

/// A process that is meant, and no other that has taken its place.
#[derive(Clone, Copy, Debug)]
struct Seen {
    id: ProcessId,
    generation: u64,
}

/// Whose lines are wanted.
#[derive(Clone, Copy, Debug)]
enum Whose {
    /// A process's.
    Process(Seen),
    /// A library OS's: they concern whatever process of its domain is meant.
    Domain(DomainId),
}

/// The next line that is wanted of one.
#[derive(Debug)]
struct Cursor {
    whose: Whose,
    number: u64,
}

/// How far an answer has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// This is to be sent.
    Reply(Reply),
    /// Nothing for now: ask again after the next event.
    NotYet,
    /// Everything has been said.
    Done,
}

impl Answer {
    /// No.
    pub(crate) fn refused(refusal: Refusal) -> Self {
        Self(Stage::Reply(Box::new(Reply::Refused(refusal))))
    }

    /// Whether it is a trace that has not come to its end.
    pub fn is_trace(&self) -> bool {
        matches!(self.0, Stage::Trace(_))
    }

    /// The trace that it is, if it is one.
    pub fn trace(&mut self) -> Option<&mut Trace> {
        match &mut self.0 {
            Stage::Trace(trace) => Some(trace),
            _ => None,
        }
    }
}

impl Supervisor {
    /// Takes a request: its answer, and what is to be done.
    pub fn ask(&mut self, request: Request, now_ns: u64) -> (Answer, Vec<Effect>) {
        match self.take(request, now_ns) {
            Ok((stage, effects)) => (Answer(stage), effects),
            Err(refusal) => (Answer::refused(refusal), Vec::new()),
        }
    }

    /// What was written last by a process and its domain's library OS: so many lines of both together.
    pub(crate) fn last_lines(&self, id: ProcessId, count: u64) -> Vec<Line> {
        let mut cursors = self.cursors(&[id], From::Last(count));
        let pieces = core::iter::from_fn(|| self.next_piece(&mut cursors));
        pieces.flat_map(|piece| piece.lines).collect()
    }

    /// The next reply of an answer.
    pub fn next_reply(&self, Answer(stage): &mut Answer) -> Progress {
        let reply = match core::mem::replace(stage, Stage::Done) {
            Stage::Reply(reply) => *reply,
            Stage::List if !self.is_measuring() => Reply::List(self.system()),
            Stage::Log { mut cursors, follow } => match self.next_piece(&mut cursors) {
                Some(piece) => {
                    *stage = Stage::Log { cursors, follow };
                    Reply::Log(piece)
                }
                None if cursors.iter().all(|cursor| self.is_mute(cursor.whose)) => {
                    Reply::LogEnd(LogEnd::Ended)
                }
                None if follow == Follow::No => Reply::LogEnd(LogEnd::Newest),
                None => {
                    *stage = Stage::Log { cursors, follow };
                    return Progress::NotYet;
                }
            },
            Stage::Trace(mut trace) => match trace.next.take() {
                Some(Ok(piece)) => {
                    *stage = Stage::Trace(trace);
                    Reply::Trace(piece)
                }
                Some(Err(refusal)) => Reply::Refused(refusal),
                None if self.phase() == Phase::Ended => Reply::TraceEnd,
                None => {
                    *stage = Stage::Trace(trace);
                    return Progress::NotYet;
                }
            },
            Stage::Kill(names, seen) if seen.iter().all(|seen| self.is_over(*seen)) => Reply::Killed(names),
            Stage::Crashes(mut ids) => match self.next_crash(&mut ids) {
                Some(report) => {
                    *stage = Stage::Crashes(ids);
                    Reply::Crash(report.into())
                }
                None => Reply::CrashEnd,
            },
            Stage::Shutdown if self.phase() == Phase::Ended => Reply::ShutDown,
            waiting @ (Stage::List | Stage::Kill(..) | Stage::Shutdown) => {
                *stage = waiting;
                return Progress::NotYet;
            }
            Stage::Done => return Progress::Done,
        };
        Progress::Reply(reply)
    }

    fn take(&mut self, request: Request, now_ns: u64) -> Result<(Stage, Vec<Effect>), Refusal> {
        match request {
            Request::List => Ok((Stage::List, self.measure(now_ns))),
            Request::Log { which, from, follow } => {
                let cursors = self.cursors(&self.select(which)?, from);
                Ok((Stage::Log { cursors, follow }, Vec::new()))
            }
            Request::Kill { which, how } => self.take_kill(which, how, now_ns),
            Request::Crashes { which } => Ok((Stage::Crashes(self.select(which)?.into()), Vec::new())),
            Request::Shutdown { how } => Ok((Stage::Shutdown, self.handle(Event::Shutdown(how), now_ns))),
            Request::Trace if self.platform() == Platform::Hosted => Err(Refusal::NotOurKernel),
            Request::Trace => Ok((Stage::Trace(Trace::default()), Vec::new())),
        }
    }

    fn take_kill(&mut self, which: Selector, how: How, now_ns: u64) -> Result<(Stage, Vec<Effect>), Refusal> {
        let selected = self.select(which)?;
        let left: Vec<ProcessId> =
            selected.iter().copied().filter(|id| !self.process(*id).life.is_over()).collect();
        if left.is_empty() {
            return Err(Refusal::NotRunning(self.names(&selected)));
        }
        let seen = left.iter().map(|id| self.see(*id)).collect();
        let effects = self.kill(&left, how, now_ns);
        Ok((Stage::Kill(self.names(&left), seen), effects))
    }

    fn select(&self, which: Selector) -> Result<Vec<ProcessId>, Refusal> {
        let ids: Vec<ProcessId> = self.ids().collect();
        let Selector::Named(asked) = which else { return Ok(ids) };
        let selected: Vec<ProcessId> =
            meant(&asked, &self.names(&ids)).into_iter().map(|index| ids[index]).collect();
        let Some(first) = selected.first() else {
            let listed: Vec<ProcessId> = ids.into_iter().filter(|id| self.process(*id).is_listed()).collect();
            return Err(Refusal::NoSuchName { asked, known: self.names(&listed) });
        };
        if selected.iter().any(|id| id.domain != first.domain) {
            return Err(Refusal::Ambiguous { asked, matching: self.names(&selected) });
        }
        Ok(selected)
    }

    /// The next report that there is.
    fn next_crash(&self, ids: &mut VecDeque<ProcessId>) -> Option<CrashReport> {
        let with_report = |id| Some((id, self.process(id).report.as_deref()?));
        let (id, report) = core::iter::from_fn(|| ids.pop_front()).find_map(with_report)?;
        Some(CrashReport { program: self.name(id), ..report.clone() })
    }

    fn names(&self, ids: &[ProcessId]) -> Vec<ProgramName> {
        ids.iter().map(|id| self.name(*id)).collect()
    }

    fn cursors(&self, ids: &[ProcessId], from: From) -> Vec<Cursor> {
        // Those of one domain follow each other.
        let mut domains: Vec<DomainId> = ids.iter().map(|id| id.domain).collect();
        domains.dedup();
        let processes = ids.iter().map(|id| Whose::Process(self.see(*id)));
        let sources: Vec<Whose> = domains.into_iter().map(Whose::Domain).chain(processes).collect();
        let first = match from {
            From::Start => None,
            From::Last(count) => Some(self.sequence_of_last(&sources, count)),
        };
        let number = |whose| match (first, self.log_of(whose)) {
            (Some(first), Some(log)) => log.number_at(first),
            _ => 0,
        };
        sources.into_iter().map(|whose| Cursor { whose, number: number(whose) }).collect()
    }

    /// What was written there, if that is still so.
    fn log_of(&self, whose: Whose) -> Option<&Log> {
        match whose {
            Whose::Process(seen) => self.seen(seen).map(|process| &process.log),
            Whose::Domain(id) => Some(&self.domain(id).log),
        }
    }

    /// Does nothing follow there, as far as its processes are concerned?
    fn is_mute(&self, whose: Whose) -> bool {
        match whose {
            Whose::Process(seen) => self.is_over(seen),
            Whose::Domain(_) => true,
        }
    }

    fn name_of(&self, whose: Whose) -> ProgramName {
        match whose {
            Whose::Process(seen) => self.name(seen.id),
            Whose::Domain(id) => self.domain_name(id),
        }
    }

    fn see(&self, id: ProcessId) -> Seen {
        Seen { id, generation: self.process(id).generation }
    }

    /// The process, if no other has taken its place.
    fn seen(&self, seen: Seen) -> Option<&Process> {
        Some(self.process(seen.id)).filter(|process| process.generation == seen.generation)
    }

    /// Does nothing follow for it?
    fn is_over(&self, seen: Seen) -> bool {
        self.seen(seen).is_none_or(|process| process.life.is_over())
    }

    /// The place of the `count`th line from the end, of these together.
    fn sequence_of_last(&self, sources: &[Whose], count: u64) -> u64 {
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        let logs = sources.iter().filter_map(|whose| self.log_of(*whose));
        let newest = |log: &'_ Log| -> Vec<u64> {
            log.newest_first().take(count).map(|entry| entry.sequence).collect()
        };
        let mut places: Vec<u64> = logs.flat_map(newest).collect();
        places.sort_unstable_by(|one, other| other.cmp(one));
        match count.checked_sub(1) {
            None => u64::MAX,
            Some(last) => places.get(last).copied().unwrap_or(0),
        }
    }

    /// The next lines of these, in the order in which they were written.
    fn next_piece(&self, cursors: &mut [Cursor]) -> Option<LogPiece> {
        let place = |cursor: &Cursor| self.entry(cursor).map(|entry| entry.sequence);
        let next = (0..cursors.len()).filter(|index| place(&cursors[*index]).is_some());
        let Some(chosen) = next.min_by_key(|index| place(&cursors[*index])) else {
            return self.missed(cursors);
        };
        let others = cursors.iter().enumerate().filter(|(index, _)| *index != chosen);
        let others = others.filter_map(|(_, cursor)| place(cursor)).min().unwrap_or(u64::MAX);
        let cursor = &mut cursors[chosen];
        let lines_dropped = self.skip_missed(cursor);
        let mut lines = Vec::new();
        let mut bytes = 0;
        while bytes < PIECE_BYTES
            && let Some(entry) = self.entry(cursor).filter(|entry| entry.sequence < others)
        {
            bytes += size_of::<Entry>() + entry.line.bytes.len();
            lines.push(entry.line.clone());
            cursor.number += 1;
        }
        Some(LogPiece { program: self.name_of(cursor.whose), lines_dropped, lines })
    }

    /// Lines that are gone with nothing kept after them.
    fn missed(&self, cursors: &mut [Cursor]) -> Option<LogPiece> {
        let has_missed =
            |cursor: &&mut Cursor| self.log_of(cursor.whose).is_some_and(|log| cursor.number < log.first());
        let cursor = cursors.iter_mut().find(has_missed)?;
        let lines_dropped = self.skip_missed(cursor);
        Some(LogPiece { program: self.name_of(cursor.whose), lines_dropped, lines: Vec::new() })
    }

    fn skip_missed(&self, cursor: &mut Cursor) -> u64 {
        let first = self.log_of(cursor.whose).map_or(0, Log::first);
        let missed = first.saturating_sub(cursor.number);
        cursor.number += missed;
        missed
    }

    /// The oldest line that is kept and wanted.
    fn entry(&self, cursor: &Cursor) -> Option<&Entry> {
        let log = self.log_of(cursor.whose)?;
        log.get(cursor.number.max(log.first()))
    }
}
