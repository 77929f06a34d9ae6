//! Standard output and error of the program in the machine: queues, each with a thread that writes.
//!
//! A reader of ours that is slow or stuck holds up its stream's thread and nobody else: the machine is listened to all
//! the time, so its end is heard, and it stops writing when it has used up its credit. So memory is bounded.

use super::console::{Shared, lock, wait_if_blocked};
use link::{Credit, Frame, OUTPUT_BYTES_MAX};
use rustix::event::PollFlags;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What is written at once: small, so that a slow reader makes room often.
const PIECE_BYTES: usize = OUTPUT_BYTES_MAX as usize / 4;
/// How much has to be written before the machine is told that there is room: so that telling is rare.
pub const CREDIT_STEP: usize = OUTPUT_BYTES_MAX as usize / 2;
/// What a program wrote before it was ended is dropped when nobody has taken it in this time.
const ENDED_TIME: Duration = Duration::from_secs(1);

/// What one stream is to the machine.
#[derive(Debug)]
pub struct Stream {
    /// For messages.
    pub name: &'static str,
    /// What the machine is told when the reader has gone.
    pub closed: Frame<'static>,
    /// What it is told when there is room for so many bytes more.
    pub credit: fn(u32) -> Frame<'static>,
}

/// Standard output.
pub const STDOUT: Stream = Stream {
    name: "standard output",
    closed: Frame::StdoutClosed,
    credit: |bytes| Frame::StdoutCredit { bytes },
};
/// Standard error.
pub const STDERR: Stream = Stream {
    name: "standard error",
    closed: Frame::StderrClosed,
    credit: |bytes| Frame::StderrCredit { bytes },
};

/// What waits to be written.
#[derive(Debug)]
pub struct Queue {
    stream: Stream,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    waiting: Vec<u8>,
    /// Bytes that the thread has taken from `waiting` and not written yet.
    writing: usize,
    credit: Credit,
    reader: Reader,
    phase: Phase,
}

/// Who reads what we write.
#[derive(Debug)]
enum Reader {
    There,
    /// As `head` goes.
    Gone,
    Failed(io::Error),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Running,
    /// The user does not want to wait for the reader.
    Interrupted,
    /// Nothing more comes.
    Closed,
}

/// How long [`Queue::drain`] waits for the reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// Until [`Queue::interrupt`]: the program has ended by itself, and what it wrote is to be read.
    UntilInterrupted,
    /// [`ENDED_TIME`].
    Short,
}

/// What became of what was in the queue.
#[derive(Debug)]
pub enum Drained {
    /// It is written, or the reader has gone.
    Written,
    /// The reader did not take it.
    Dropped,
    /// It cannot be written.
    Failed(io::Error),
}

impl Queue {
    /// Empty, with the credit that every machine begins with.
    pub fn new(stream: Stream) -> Self {
        let state = State {
            waiting: Vec::new(),
            writing: 0,
            credit: Credit::OUTPUT,
            reader: Reader::There,
            phase: Phase::Running,
        };
        Self { stream, state: Mutex::new(state), changed: Condvar::new() }
    }

    /// The stream's name.
    pub fn name(&self) -> &'static str {
        self.stream.name
    }

    /// Takes what the machine says; an error if it had no credit for it.
    pub fn take(&self, bytes: &[u8]) -> Result<(), link::Error> {
        lock(&self.state).credit.charge(bytes.len())?;
        self.push(bytes);
        Ok(())
    }

    /// Adds words that nobody asked for, as far as there is room.
    pub fn offer(&self, bytes: &[u8]) {
        let room = (OUTPUT_BYTES_MAX as usize).saturating_sub(lock(&self.state).waiting.len());
        self.push(&bytes[..bytes.len().min(room)]);
    }

    /// Adds words that are not charged for.
    pub fn push(&self, bytes: &[u8]) {
        let mut state = lock(&self.state);
        if matches!(state.reader, Reader::There) {
            state.waiting.extend_from_slice(bytes);
            self.changed.notify_all();
        }
    }

    /// Ends the waiting for a reader that was to have all the time it needs.
    pub fn interrupt(&self) {
        lock(&self.state).phase = Phase::Interrupted;
        self.changed.notify_all();
    }

    /// Waits until all is written.
    pub fn drain(&self, patience: Patience) -> Drained {
        let deadline = Instant::now() + ENDED_TIME;
        let mut state = lock(&self.state);
        while matches!(state.reader, Reader::There) && (state.writing > 0 || !state.waiting.is_empty()) {
            let left = deadline.saturating_duration_since(Instant::now());
            let is_over = match patience {
                Patience::UntilInterrupted => state.phase == Phase::Interrupted,
                Patience::Short => left.is_zero(),
            };
            if is_over {
                return Drained::Dropped;
            }
            state = match patience {
                Patience::UntilInterrupted => self.wait(state),
                Patience::Short => {
                    let waited = self.changed.wait_timeout(state, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        state.phase = Phase::Closed;
        self.changed.notify_all();
        match std::mem::replace(&mut state.reader, Reader::Gone) {
            Reader::Failed(error) => Drained::Failed(error),
            Reader::There | Reader::Gone => Drained::Written,
        }
    }

    /// Writes to `file` what comes, until the queue is closed. When the reader has gone away (as `head` does) or
    /// writing fails, the machine is told, and what was on its way is dropped.
    pub fn write_out(&self, mut file: File, machine: &Shared) {
        let mut used = 0;
        while let Some(mut piece) = self.next_piece() {
            while !piece.is_empty() {
                match file.write(&piece) {
                    Ok(written) => drop(piece.drain(..written)),
                    Err(error) => {
                        if let Err(error) = wait_if_blocked(error, file.as_fd(), PollFlags::OUT) {
                            return self.give_up(error, machine);
                        }
                    }
                }
            }
            let mut state = lock(&self.state);
            used += std::mem::take(&mut state.writing);
            self.changed.notify_all();
            if used >= CREDIT_STEP {
                state.credit.grant(used as u32);
                drop(state);
                // The only error is that the machine is gone, which the reading half finds as well.
                let _ = machine.send((self.stream.credit)(std::mem::take(&mut used) as u32));
            }
        }
    }

    fn next_piece(&self) -> Option<Vec<u8>> {
        let mut state = lock(&self.state);
        while state.waiting.is_empty() {
            if state.phase == Phase::Closed {
                return None;
            }
            state = self.wait(state);
        }
        let length = state.waiting.len().min(PIECE_BYTES);
        state.writing = length;
        Some(state.waiting.drain(..length).collect())
    }

    fn give_up(&self, error: io::Error, machine: &Shared) {
        let _ = machine.send(self.stream.closed);
        let mut state = lock(&self.state);
        state.waiting = Vec::new();
        state.reader = match error.kind() {
            io::ErrorKind::BrokenPipe => Reader::Gone,
            _ => Reader::Failed(error),
        };
        self.changed.notify_all();
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }
}
