//! The streams of one process.

use abi::Request;
use alloc::collections::VecDeque;
use link::{Credit, FromHost, Input};
use runtime::{ProcessId, Rate};
use wasi::provider::{OutputStream, Stream, StreamSet};

pub struct Streams {
    /// Whom to wake.
    pub id: ProcessId,
    /// What has come and was not taken.
    input: VecDeque<u8>,
    /// What the host may still send.
    pub allowed: Input,
    /// Input that the process has taken since the host was last told.
    pub used: usize,
    /// What it has written, in bytes.
    pub written: u64,
    /// How fast it may write.
    rate: Option<Rate>,
    /// Whether it has ever had to wait for that.
    pub throttled: bool,
    /// Output streams that nobody reads any more.
    pub closed: StreamSet,
    /// How much the host has room for, if it speaks frames.
    output: Credit,
    error: Credit,
}

impl Streams {
    /// Of a process that begins.
    pub fn new(id: ProcessId, rate: Option<Rate>) -> Self {
        Self {
            id,
            input: VecDeque::new(),
            allowed: Input::NEW,
            used: 0,
            written: 0,
            rate,
            throttled: false,
            closed: StreamSet::NONE,
            output: Credit::OUTPUT,
            error: Credit::OUTPUT,
        }
    }

    /// With nothing to read.
    pub fn without_input(self) -> Self {
        let mut allowed = self.allowed;
        // Nothing was sent, so there is nothing to refuse.
        let _ = allowed.end();
        Self { allowed, ..self }
    }

    /// How much may still be sent.
    pub fn credit(&mut self, stream: OutputStream) -> &mut Credit {
        match stream {
            OutputStream::Output => &mut self.output,
            OutputStream::Error => &mut self.error,
        }
    }

    /// How much it may write now, by its rate.
    pub fn room(&mut self, now_ns: u64) -> usize {
        let room = self.rate.as_mut().map_or(u64::MAX, |rate| rate.room(now_ns));
        usize::try_from(room).unwrap_or(usize::MAX)
    }

    /// It has written so much.
    pub fn wrote(&mut self, bytes: usize) {
        self.written = self.written.saturating_add(bytes as u64);
        if let Some(rate) = &mut self.rate {
            rate.spend(bytes);
        }
    }

    /// When it may write again, if its rate is what it waits for.
    pub fn again_ns(&mut self, now_ns: u64) -> u64 {
        match self.room(now_ns) {
            0 => self.rate.map_or(Request::NEVER, |rate| rate.again_ns()),
            _ => Request::NEVER,
        }
    }

    /// Takes input, and says how much.
    pub fn take(&mut self, into: &mut [u8]) -> usize {
        let count = into.len().min(self.input.len());
        let (first, second) = self.input.as_slices();
        let of_first = count.min(first.len());
        into[..of_first].copy_from_slice(&first[..of_first]);
        into[of_first..count].copy_from_slice(&second[..count - of_first]);
        self.input.drain(..count);
        self.used += count;
        count
    }

    /// Keeps input that has come.
    pub fn keep(&mut self, bytes: impl Iterator<Item = u8>) {
        self.input.extend(bytes);
    }

    /// How much input waits to be taken.
    pub fn held(&self) -> usize {
        self.input.len()
    }

    /// Which streams would not say that they are not ready, if there is `room` on the wire.
    pub fn ready(&mut self, room: bool, broken: bool, now_ns: u64) -> StreamSet {
        let room = room && self.room(now_ns) > 0;
        let mut ready = self.closed;
        if !self.input.is_empty() || self.allowed.has_ended() || broken {
            ready = ready.union(StreamSet::INPUT);
        }
        for stream in [OutputStream::Output, OutputStream::Error] {
            if broken || (room && self.credit(stream).bytes() > 0) {
                ready = ready.union(StreamSet::of(Stream::from(stream)));
            }
        }
        ready
    }

    /// What the host says of them.
    pub fn hear(&mut self, event: FromHost<'_>) -> Result<(), link::Error> {
        match event {
            FromHost::StdinData(bytes) => {
                self.allowed.take(bytes)?;
                self.input.extend(bytes);
            }
            FromHost::StdinEnd => self.allowed.end()?,
            FromHost::StdoutClosed => self.closed = self.closed.union(StreamSet::OUTPUT),
            FromHost::StderrClosed => self.closed = self.closed.union(StreamSet::ERROR),
            FromHost::StdoutCredit { bytes } => self.output.grant(bytes),
            FromHost::StderrCredit { bytes } => self.error.grant(bytes),
            FromHost::Start { .. }
            | FromHost::Cancel
            | FromHost::Freed
            | FromHost::Measure
            | FromHost::Shutdown => {}
        }
        Ok(())
    }
}
