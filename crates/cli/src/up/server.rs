//! The control socket and its clients.

use super::backend::Backend;
use super::client::{Client, Fate};
use super::ready::Ready;
use rustix::event::{PollFd, PollFlags};
use std::io::ErrorKind;
use std::os::unix::net::{UnixListener, UnixStream};

/// How many clients are served at a time. More are told that they are too many.
const CLIENTS_MAX: usize = 64;
/// How many of those are told at a time; still more wait in the listener's queue.
const REFUSED_MAX: usize = 16;

/// Serves clients.
#[derive(Debug)]
pub struct Server<Answer> {
    /// None when no more are let in.
    listener: Option<UnixListener>,
    clients: Vec<Client<Answer>>,
    /// Linux let nobody in, most likely for want of descriptors: not before something else has happened is it asked again.
    is_out_of_descriptors: bool,
}

impl<Answer> Server<Answer> {
    /// With a listener that does not wait.
    pub fn new(listener: UnixListener) -> Self {
        Self { listener: Some(listener), clients: Vec::new(), is_out_of_descriptors: false }
    }

    /// Lets nobody in any more.
    pub fn close(&mut self) {
        self.listener = None;
    }

    /// Does somebody wait for something that is to be sent?
    pub fn is_busy(&self) -> bool {
        self.clients.iter().any(Client::is_busy)
    }

    /// What to wait for.
    pub fn wait_for<'a>(&'a self, entries: &mut Vec<PollFd<'a>>) {
        if let Some(listener) =
            self.listener.as_ref().filter(|_| self.has_room() && !self.is_out_of_descriptors)
        {
            entries.push(PollFd::new(listener, PollFlags::IN));
        }
        entries.extend(self.clients.iter().map(Client::entry));
    }

    /// Lets clients in, and gives each what can be given without waiting.
    pub fn advance(&mut self, ready: &Ready, system: &mut impl Backend<Answer = Answer>) {
        let has_left = |client: &mut Client<Answer>| {
            let is_ready = ready.has(client.stream());
            if is_ready && client.has_gone() {
                return true;
            }
            let has_turn = is_ready || client.is_busy();
            has_turn && client.advance(system) == Fate::Leaves
        };
        let left: Vec<_> = self.clients.extract_if(.., has_left).collect();
        left.into_iter().filter_map(Client::leave).for_each(|answer| system.forget(answer));
        self.accept(system);
    }

    fn accept(&mut self, system: &mut impl Backend<Answer = Answer>) {
        self.is_out_of_descriptors = false;
        while let Some(listener) = self.listener.as_ref().filter(|_| self.has_room()) {
            match listener.accept() {
                Ok((stream, _)) => self.admit(stream, system),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
                Err(_) => {
                    self.is_out_of_descriptors = true;
                    return;
                }
            }
        }
    }

    fn admit(&mut self, stream: UnixStream, system: &mut impl Backend<Answer = Answer>) {
        if stream.set_nonblocking(true).is_err() {
            return;
        }
        let is_one_too_many = self.clients.len() >= CLIENTS_MAX;
        let mut client = if is_one_too_many { Client::refused(stream) } else { Client::new(stream) };
        match client.advance(system) {
            Fate::Stays => self.clients.push(client),
            Fate::Leaves => {
                if let Some(answer) = client.leave() {
                    system.forget(answer);
                }
            }
        }
    }

    fn has_room(&self) -> bool {
        self.clients.len() < CLIENTS_MAX + REFUSED_MAX
    }
}
