//! The streams of one process.

use alloc::collections::VecDeque;
use link::{Credit, FromHost, Input};
use runtime::ProcessId;
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
    /// Output streams that nobody reads any more.
    pub closed: StreamSet,
    /// How much the host has room for, if it speaks frames.
    output: Credit,
    error: Credit,
}

impl Streams {
    /// Of a process that begins.
    pub fn new(id: ProcessId) -> Self {
        Self {
            id,
            input: VecDeque::new(),
            allowed: Input::NEW,
            used: 0,
            closed: StreamSet::NONE,
            output: Credit::OUTPUT,
            error: Credit::OUTPUT,
        }
    }

    /// How much may still be sent.
    pub fn credit(&mut self, stream: OutputStream) -> &mut Credit {
        match stream {
            OutputStream::Output => &mut self.output,
            OutputStream::Error => &mut self.error,
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
    pub fn ready(&mut self, room: bool, broken: bool) -> StreamSet {
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
            FromHost::Start { .. } | FromHost::Cancel | FromHost::Measure | FromHost::Shutdown => {}
        }
        Ok(())
    }
}
