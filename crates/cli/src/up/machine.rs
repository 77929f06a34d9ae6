//! A system in a machine, where its root decides. This process passes on what clients ask and are answered.

use super::backend::Backend;
use super::ready::Ready;
use crate::failure::Failure;
use crate::vm::{Machine, POWER_OFF_TIME, Qemu, QemuError, VmError};
use control::{Decoder, GREETING, How, Request, encode};
use rustix::event::{PollFd, PollFlags};
use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};
use supervisor::relay::{FromRoot, Ticket, ToRoot};
use supervisor::{GRACE_NS, News, Outcome, Progress};

/// What is read at a time.
const READ_BYTES: usize = 64 << 10;
/// From the time when all programs should have ended to that when the machine is switched off: on a busy host emulation is slow.
const PATIENCE: Duration = Duration::from_secs(10);

/// The machine and the way to its root.
#[derive(Debug)]
pub struct MachineSystem {
    qemu: Qemu,
    console: UnixStream,
    decoder: Decoder<FromRoot>,
    /// What is to be sent, from `sent` on.
    out: Vec<u8>,
    sent: usize,
    /// Of the answers that clients wait for, what has come.
    answers: HashMap<Ticket, Option<Progress>>,
    last_ticket: Ticket,
    news: Vec<News>,
    outcome: Option<Outcome>,
    /// When the machine is switched off, if it was told to end.
    limit: Option<Instant>,
}

/// An answer, by the ticket that the root knows.
#[derive(Debug)]
pub struct Asked(Ticket);

impl MachineSystem {
    /// Boots it. Must be called from the main thread: see [`crate::leash`].
    pub fn boot(machine: &Machine<'_>) -> Result<Self, Failure> {
        let mut qemu = Qemu::start(machine)?;
        let console = qemu.take_console();
        console.set_nonblocking(true).map_err(QemuError::Streams)?;
        Ok(Self {
            qemu,
            console,
            decoder: Decoder::new(),
            out: GREETING.to_vec(),
            sent: 0,
            answers: HashMap::new(),
            last_ticket: Ticket(0),
            news: Vec::new(),
            outcome: None,
            limit: None,
        })
    }

    fn say(&mut self, message: &ToRoot) {
        // A request that came in a frame fits into one with some words around it.
        self.out.extend(encode(message).unwrap_or_default());
    }

    /// Sends what the machine takes now.
    fn send(&mut self) -> io::Result<()> {
        while self.sent < self.out.len() {
            match self.console.write(&self.out[self.sent..]) {
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        self.out.clear();
        self.sent = 0;
        Ok(())
    }

    /// Reads what the machine has said.
    fn receive(&mut self) -> Result<(), Failure> {
        let mut buffer = [0; READ_BYTES];
        loop {
            match self.console.read(&mut buffer) {
                Ok(0) => return Err(self.died()),
                Ok(count) => self.decoder.push(&buffer[..count]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(_) => return Err(self.died()),
            }
            while let Some(message) = self.decoder.next().map_err(|error| self.lost(error))? {
                self.take(message);
            }
        }
    }

    fn take(&mut self, message: FromRoot) {
        match message {
            FromRoot::Reply(ticket, reply) => {
                if let Some(answer) = self.answers.get_mut(&ticket) {
                    *answer = Some(Progress::Reply(reply));
                }
            }
            FromRoot::Done(ticket) => {
                if let Some(answer) = self.answers.get_mut(&ticket) {
                    *answer = Some(Progress::Done);
                }
            }
            FromRoot::News(news) => self.news.push(news),
            FromRoot::Ended(outcome) => self.outcome = Some(outcome),
        }
    }

    /// The machine is gone.
    fn died(&mut self) -> Failure {
        match self.qemu.wait(POWER_OFF_TIME) {
            Ok(status) => VmError::Died { status, words: self.qemu.last_words() }.into(),
            Err(error) => error.into(),
        }
    }

    /// It says what cannot be understood.
    fn lost(&mut self, error: control::FrameError) -> Failure {
        self.qemu.switch().off();
        match self.qemu.wait(POWER_OFF_TIME) {
            Ok(_) => VmError::Root { error, words: self.qemu.last_words() }.into(),
            Err(error) => error.into(),
        }
    }

    /// A ticket that no answer has.
    fn ticket(&mut self) -> Ticket {
        loop {
            self.last_ticket = Ticket(self.last_ticket.0.wrapping_add(1));
            if !self.answers.contains_key(&self.last_ticket) {
                return self.last_ticket;
            }
        }
    }
}

impl Backend for MachineSystem {
    type Answer = Asked;

    /// Its root begins by itself.
    fn begin(&mut self) {}

    fn shutdown(&mut self, how: How) {
        let ticket = self.ticket();
        self.say(&ToRoot::Ask { ticket, request: Request::Shutdown { how } });
        let grace = match how {
            How::Gracefully => Duration::from_nanos(GRACE_NS),
            How::AtOnce => Duration::ZERO,
        };
        self.limit = Some(Instant::now() + grace + PATIENCE);
    }

    fn advance(&mut self, _ready: &Ready) -> Result<(), Failure> {
        self.receive()?;
        if self.limit.is_some_and(|limit| limit <= Instant::now()) && self.outcome.is_none() {
            self.qemu.switch().off();
            self.qemu.wait(POWER_OFF_TIME)?;
            return Err(VmError::Killed.into());
        }
        // If the machine is gone, reading tells.
        let _ = self.send();
        Ok(())
    }

    fn wait_for<'a>(&'a self, entries: &mut Vec<PollFd<'a>>) {
        let wanted = if self.out.is_empty() { PollFlags::IN } else { PollFlags::IN | PollFlags::OUT };
        entries.push(PollFd::new(&self.console, wanted));
    }

    fn time_left(&self) -> Option<Duration> {
        let limit = self.limit.filter(|_| self.outcome.is_none())?;
        Some(limit.saturating_duration_since(Instant::now()))
    }

    fn outcome(&self) -> Option<Outcome> {
        self.outcome
    }

    fn ask(&mut self, request: Request) -> Asked {
        let ticket = self.ticket();
        self.answers.insert(ticket, None);
        self.say(&ToRoot::Ask { ticket, request });
        Asked(ticket)
    }

    fn next_reply(&mut self, Asked(ticket): &mut Asked) -> Progress {
        match self.answers.get_mut(ticket).and_then(Option::take) {
            Some(Progress::Reply(reply)) => {
                self.say(&ToRoot::Next(*ticket));
                Progress::Reply(reply)
            }
            Some(Progress::Done) => {
                self.answers.remove(ticket);
                Progress::Done
            }
            Some(Progress::NotYet) | None => Progress::NotYet,
        }
    }

    fn forget(&mut self, Asked(ticket): Asked) {
        if self.answers.remove(&ticket).is_some() {
            self.say(&ToRoot::Forget(ticket));
        }
    }

    fn take_news(&mut self) -> Vec<News> {
        std::mem::take(&mut self.news)
    }

    /// Switches the machine off. It says whether it has got everything back that its domains had.
    fn close(&mut self) -> Result<(), Failure> {
        self.say(&ToRoot::PowerOff);
        let _ = self.console.set_nonblocking(false).and_then(|()| self.send());
        let status = self.qemu.wait(POWER_OFF_TIME)?;
        match status.code() {
            Some(SOUND) => Ok(()),
            _ => Err(VmError::Died { status, words: self.qemu.last_words() }.into()),
        }
    }
}

/// What QEMU exits with when the machine stops with status 0 (`hw/misc/debugexit.c`: twice that, plus 1).
const SOUND: i32 = 1;
