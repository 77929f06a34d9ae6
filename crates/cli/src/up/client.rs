//! One connection to the control socket.

use super::backend::Backend;
use super::http::{self, Asked};
use control::{Decoder, GREETING, Refusal, Reply, Request, encode, metrics};
use rustix::event::{PollFd, PollFlags};
use std::io::{ErrorKind, Read, Write};
use std::mem;
use std::os::unix::net::UnixStream;
use supervisor::Progress;

/// What is read at a time.
const READ_BYTES: usize = 4 << 10;
/// What one client is sent before others have their turn.
const TURN_BYTES: usize = 256 << 10;

/// A client. At most one reply waits for it; the next is made when that is sent. So one that does not read holds nobody up.
#[derive(Debug)]
pub struct Client<Answer> {
    stream: UnixStream,
    speaks: Speaks<Answer>,
    /// What is to be sent, from `sent` on.
    out: Vec<u8>,
    sent: usize,
}

/// What it speaks.
#[derive(Debug)]
enum Speaks<Answer> {
    /// It has said nothing.
    NotYet,
    /// Frames.
    Frames { decoder: Decoder<Request>, answer: Option<Answer> },
    /// HTTP: the request so far.
    Http(Vec<u8>),
    /// HTTP: the figures that were asked for.
    Figures { asked: Asked, answer: Answer },
    /// No more: what is to be sent is the last.
    Farewell,
    /// It is told that it is one too many. It may be about to write: that must not fail before it has read why.
    Refused,
}

/// What becomes of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It stays.
    Stays,
    /// It has gone, or its time is over.
    Leaves,
}

/// What came of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// There may be more to do.
    Done,
    /// Nothing more can be done now.
    Waits,
    /// The connection is over.
    Over,
}

impl<Answer> Client<Answer> {
    /// A new connection, which does not wait.
    pub fn new(stream: UnixStream) -> Self {
        Self { stream, speaks: Speaks::NotYet, out: Vec::new(), sent: 0 }
    }

    /// For a connection too many: it is told so, whatever it may want.
    pub fn refused(stream: UnixStream) -> Self {
        let refusal = encode(&Reply::Refused(Refusal::TooManyClients)).unwrap_or_default();
        let out = [&GREETING[..], &refusal].concat();
        Self { stream, speaks: Speaks::Refused, out, sent: 0 }
    }

    /// What to wait for. That it has gone is always told.
    pub fn entry(&self) -> PollFd<'_> {
        let is_sending = !self.out.is_empty();
        let wanted = match &self.speaks {
            _ if is_sending => PollFlags::OUT,
            Speaks::NotYet | Speaks::Http(_) | Speaks::Refused | Speaks::Frames { answer: None, .. } => {
                PollFlags::IN
            }
            Speaks::Frames { answer: Some(_), .. } | Speaks::Figures { .. } | Speaks::Farewell => {
                PollFlags::empty()
            }
        };
        PollFd::new(&self.stream, wanted)
    }

    /// The descriptor that [`Self::entry`] waits for.
    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// Is there something that it has not been sent, or will be told yet?
    pub fn is_busy(&self) -> bool {
        self.is_answered() || !self.out.is_empty()
    }

    /// Takes its leave: the answer that it waits for, if there is one.
    pub fn leave(self) -> Option<Answer> {
        match self.speaks {
            Speaks::Frames { answer, .. } => answer,
            Speaks::Figures { answer, .. } => Some(answer),
            Speaks::NotYet | Speaks::Http(_) | Speaks::Farewell | Speaks::Refused => None,
        }
    }

    /// Does what can be done without waiting.
    pub fn advance(&mut self, system: &mut impl Backend<Answer = Answer>) -> Fate {
        let mut turn_bytes = TURN_BYTES;
        loop {
            let step = match self.out.is_empty() {
                false => self.send(&mut turn_bytes),
                true => self.prepare(system),
            };
            match step {
                Step::Done => {}
                Step::Waits => return Fate::Stays,
                Step::Over => return Fate::Leaves,
            }
        }
    }

    /// Has something happened on a connection that waits for the system? Then it has gone.
    pub fn has_gone(&self) -> bool {
        self.is_answered() && self.out.is_empty()
    }

    fn is_answered(&self) -> bool {
        matches!(self.speaks, Speaks::Frames { answer: Some(_), .. } | Speaks::Figures { .. })
    }

    fn send(&mut self, turn_bytes: &mut usize) -> Step {
        let rest = &self.out[self.sent..];
        let piece = &rest[..rest.len().min(*turn_bytes)];
        if piece.is_empty() {
            return Step::Waits;
        }
        match self.stream.write(piece) {
            Ok(count) => {
                *turn_bytes -= count;
                self.sent += count;
                if self.sent == self.out.len() {
                    self.sent = 0;
                    // The memory of a long reply goes with it.
                    self.out = Vec::new();
                }
                Step::Done
            }
            Err(error) => step_of(&error),
        }
    }

    /// Makes the next thing to send, or reads what it is about.
    fn prepare(&mut self, system: &mut impl Backend<Answer = Answer>) -> Step {
        match &mut self.speaks {
            Speaks::Farewell => return Step::Over,
            Speaks::NotYet | Speaks::Refused => {}
            Speaks::Http(request) => {
                match http::parse(request) {
                    Asked::NotYet => return self.receive(),
                    asked @ (Asked::Metrics | Asked::MetricsHead) => {
                        self.speaks = Speaks::Figures { asked, answer: system.ask(Request::List) };
                    }
                    Asked::Other(status) => {
                        self.out = http::refusal(status);
                        self.speaks = Speaks::Farewell;
                    }
                }
                return Step::Done;
            }
            Speaks::Figures { asked, answer } => {
                let list = match system.next_reply(answer) {
                    Progress::NotYet => return Step::Waits,
                    Progress::Reply(Reply::List(list)) => list,
                    Progress::Reply(_) | Progress::Done => return Step::Over,
                };
                self.out = http::metrics(&metrics(&list), *asked);
                if let Speaks::Figures { answer, .. } = mem::replace(&mut self.speaks, Speaks::Farewell) {
                    system.forget(answer);
                }
                return Step::Done;
            }
            Speaks::Frames { decoder, answer: answer @ None } => match decoder.next() {
                Ok(Some(request)) => {
                    *answer = Some(system.ask(request));
                    return Step::Done;
                }
                Ok(None) => {}
                // Its version is in our greeting, if that is what is wrong.
                Err(_) => return Step::Over,
            },
            Speaks::Frames { answer: Some(pending), .. } => {
                self.out = match system.next_reply(pending) {
                    Progress::Reply(reply) => encode(&reply).unwrap_or_else(|_| too_long()),
                    Progress::NotYet => return Step::Waits,
                    Progress::Done => {
                        if let Speaks::Frames { answer, .. } = &mut self.speaks {
                            *answer = None;
                        }
                        return Step::Done;
                    }
                };
                return Step::Done;
            }
        }
        self.receive()
    }

    fn receive(&mut self) -> Step {
        let mut buffer = [0; READ_BYTES];
        let bytes = match self.stream.read(&mut buffer) {
            Ok(0) => return Step::Over,
            Ok(count) => &buffer[..count],
            Err(error) => return step_of(&error),
        };
        if let Speaks::NotYet = self.speaks {
            if http::is_beginning(bytes[0]) {
                self.speaks = Speaks::Http(Vec::new());
            } else {
                self.speaks = Speaks::Frames { decoder: Decoder::new(), answer: None };
                self.out = GREETING.to_vec();
            }
        }
        match &mut self.speaks {
            Speaks::Frames { decoder, .. } => decoder.push(bytes),
            Speaks::Http(request) => request.extend_from_slice(bytes),
            Speaks::NotYet | Speaks::Figures { .. } | Speaks::Farewell | Speaks::Refused => {}
        }
        Step::Done
    }
}

fn too_long() -> Vec<u8> {
    encode(&Reply::Refused(Refusal::TooLong)).unwrap_or_default()
}

fn step_of(error: &std::io::Error) -> Step {
    match error.kind() {
        ErrorKind::Interrupted => Step::Done,
        ErrorKind::WouldBlock => Step::Waits,
        _ => Step::Over,
    }
}
