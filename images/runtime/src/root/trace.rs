//! The root's rings: where the kernel notes down what happens on each CPU, and what is read there for clients.
//!
//! The kernel has no bell for it: who waits for records is looked after every [`INTERVAL_NS`], and not sooner, or what the root does
//! to tell of records would make others for ever.

use super::child::Ground;
use abi::trace::{Head, Kind, Outcome, Record};
use abi::upcall::Kind as Upcall;
use abi::{Backing, Commit, DomainState, Error, Handle, Protection, Request, Sharing, Span};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use control::{Refusal, TraceAccess, TraceDomain, TraceEvent, TraceOutcome, TracePiece, TraceRecord};
use runtime::System;
use supervisor::Trace;

/// How soon records are looked for again.
pub const INTERVAL_NS: u64 = 20_000_000;
/// Of each CPU's ring: some 32,000 records.
const RING_BYTES: u64 = 1 << 20;
/// The most records of one CPU in a piece, so that the root has time for others.
const PIECE_RECORDS: u64 = 2048;
/// The most domains whose names are kept; those that run are among them.
const NAMES_MAX: usize = 4096;

/// All rings. Nothing is traced any more when this goes.
pub struct Tracer {
    rings: Vec<Ring>,
    /// What domains are called in records, and in pieces.
    names: Vec<(u64, TraceDomain)>,
    /// When clients are to be looked after again.
    pub due_ns: u64,
}

struct Ring {
    system: &'static System,
    machine: Handle,
    cpu: u64,
    memory: Handle,
    span: Span,
}

impl Tracer {
    /// The capabilities that the root holds for it.
    pub fn capabilities(&self) -> u64 {
        self.rings.len() as u64
    }

    /// Begins to trace every CPU. The rings that there are go again if one cannot be made.
    pub fn begin(ground: &Ground) -> Result<Self, Refusal> {
        let cpus = (0..).take_while(|&number| ground.cpu(number).is_some());
        let rings = cpus.map(|cpu| Ring::begin(ground, cpu)).collect::<Result<_, _>>().map_err(explain)?;
        Ok(Self { rings, names: Vec::from([(ground.number(), TraceDomain::Root)]), due_ns: 0 })
    }

    /// From now on records may be about this domain. The oldest that is kept makes room.
    pub fn know(&mut self, number: u64, domain: usize) {
        if self.names.iter().all(|(known, _)| *known != number) {
            if self.names.len() == NAMES_MAX {
                self.names.remove(1);
            }
            self.names.push((number, TraceDomain::Named(domain as u32)));
        }
    }

    /// Fills in what a client is told next, if anything has happened since.
    pub fn fill(&self, trace: &mut Trace) {
        if trace.cursors.is_empty() {
            // Whoever has it begun sees what ran then; others, what happens from now on.
            let is_first = self.due_ns == 0;
            let first = |ring: &Ring| if is_first { 0 } else { ring.head().written };
            trace.cursors = self.rings.iter().map(first).collect();
        }
        let mut piece = TracePiece::default();
        for (ring, cursor) in self.rings.iter().zip(&mut trace.cursors) {
            let lost = ring.read(cursor, |record| piece.records.push(self.translate(ring.cpu, record)));
            piece.lost.push(lost);
        }
        piece.records.sort_by_key(|record| record.at_ns);
        if !piece.records.is_empty() || piece.lost.iter().any(|lost| *lost > 0) {
            trace.next = Some(Ok(piece));
        }
    }

    fn translate(&self, cpu: u64, record: Record) -> TraceRecord {
        TraceRecord {
            at_ns: record.at_ns,
            cpu: cpu as u16,
            domain: self.name(record.domain),
            vcpu: (record.vcpu != Record::NO_VCPU).then_some(record.vcpu),
            event: event(&record),
        }
    }

    fn name(&self, number: u64) -> TraceDomain {
        let known = self.names.iter().find(|(known, _)| *known == number).map(|(_, name)| *name);
        known.unwrap_or(if number == 0 { TraceDomain::Nobody } else { TraceDomain::Other(number) })
    }
}

impl Ring {
    fn begin(ground: &Ground, cpu: u64) -> Result<Self, Error> {
        let (system, machine) = (ground.system, ground.boot.machine);
        let call = |request| system.kernel().call(request);
        let create = Request::CreateMemory { domain: ground.boot.space, bytes: RING_BYTES };
        let memory = Handle::from_raw(call(create)?);
        let mut ring = Self { system, machine, cpu, memory, span: Span::new(0, 0) };
        let span = Span::new(system.take_space(RING_BYTES).ok_or(Error::NoMemory)?.base, RING_BYTES);
        let backing = Backing::Memory { memory, offset: 0, sharing: Sharing::Shared };
        system.map(span, backing, Protection::Read, Commit::OnTouch)?;
        ring.span = span;
        call(Request::Trace { machine, cpu, memory })?;
        Ok(ring)
    }

    /// Gives the records from `cursor` on, which goes on. Answers how many were lost before.
    fn read(&self, cursor: &mut u64, mut give: impl FnMut(Record)) -> u64 {
        let head = self.head();
        let oldest = (head.written + 1).saturating_sub(head.capacity).max(*cursor);
        let end = head.written.min(oldest + PIECE_RECORDS);
        let copied: Vec<[u64; Record::WORDS]> = (oldest..end).map(|number| self.words_of(number)).collect();
        core::sync::atomic::fence(core::sync::atomic::Ordering::Acquire);
        let after = self.head();
        let whole = (oldest..end).zip(copied).filter(|(number, _)| after.is_whole(*number));
        let mut lost = end - *cursor;
        for (_, words) in whole {
            lost -= 1;
            if let Some(record) = Record::from_words(words) {
                give(record);
            }
        }
        *cursor = end;
        lost
    }

    fn head(&self) -> Head {
        Head { written: self.word(0), capacity: Head::capacity_of(RING_BYTES), ..Head::default() }
    }

    fn words_of(&self, number: u64) -> [u64; Record::WORDS] {
        let slot = 1 + number % Head::capacity_of(RING_BYTES);
        core::array::from_fn(|word| self.word(slot * Record::WORDS as u64 + word as u64))
    }

    fn word(&self, index: u64) -> u64 {
        assert!(index < RING_BYTES / 8);
        // SAFETY: the word lies in memory that is mapped to be read for as long as this is; the kernel writes to it meanwhile, so no
        // reference to it is made.
        unsafe { ((self.span.base + index * 8) as *const u64).read_volatile() }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        let stop = Request::Trace { machine: self.machine, cpu: self.cpu, memory: Handle::NONE };
        let _ = self.system.kernel().call(stop);
        if self.span.length > 0 {
            let _ = self.system.unmap(self.span);
        }
        let _ = self.system.kernel().call(Request::Release { capability: self.memory });
    }
}

fn event(record: &Record) -> TraceEvent {
    /// As in the kernel: an instruction fetch, a write (Intel SDM volume 3, figure 4-12).
    const FETCH: u32 = 1 << 4;
    const WRITE: u32 = 1 << 1;
    let Record { detail, value, .. } = *record;
    match record.kind {
        Kind::Switch => TraceEvent::Switch,
        Kind::Idle => TraceEvent::Idle { until_ns: (value != Request::NEVER).then_some(value) },
        Kind::Request => TraceEvent::Request {
            number: detail as u16,
            outcome: match detail >> 16 {
                0 => TraceOutcome::Answered(value),
                Outcome::SLEEPS => TraceOutcome::Sleeps,
                Outcome::AGAIN => TraceOutcome::Again,
                Outcome::NO_RETURN => TraceOutcome::NoReturn,
                error => TraceOutcome::Refused(error as u16),
            },
        },
        Kind::Upcall => match u64::from(detail & 0xff) {
            kind if kind == Upcall::Tick as u64 => TraceEvent::Tick,
            kind if kind == Upcall::Event as u64 => TraceEvent::Event,
            kind if kind == Upcall::Fault as u64 => {
                TraceEvent::Fault { vector: (detail >> 8) as u8, address: value }
            }
            _ => TraceEvent::Revoking,
        },
        Kind::Touch => TraceEvent::Touch {
            address: value,
            access: match detail {
                error if error & FETCH != 0 => TraceAccess::Execute,
                error if error & WRITE != 0 => TraceAccess::Write,
                _ => TraceAccess::Read,
            },
        },
        Kind::Interrupt => match detail {
            0 => TraceEvent::Alarm,
            1 => TraceEvent::Kick,
            _ => TraceEvent::Interrupt { device: (value >> 32) as u32, line: value as u32 },
        },
        Kind::Shootdown => TraceEvent::Shootdown { served: detail, asked: value },
        Kind::Wake => TraceEvent::Wake,
        Kind::Steal => TraceEvent::Steal { from: detail },
        Kind::Made => TraceEvent::Made,
        Kind::Ended => {
            TraceEvent::Ended { faulted: u64::from(detail) == DomainState::Faulted as u64, status: value }
        }
        Kind::Destroyed => TraceEvent::Destroyed,
        Kind::Revocation => TraceEvent::Revocation,
    }
}

fn explain(error: Error) -> Refusal {
    Refusal::CannotTrace(match error {
        Error::NoMemory => String::from("its root has too little memory for what happens on its CPUs"),
        error => format!("its kernel refused: {error:?}"),
    })
}
