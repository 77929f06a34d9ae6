//! A conversation with a running system.

use super::ClientError;
use crate::sockets;
use control::{Decoder, GREETING, Reply, Request, System, encode};
use manifest::Name;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// How long an answer may take that a system has at hand.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long to wait for a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// As long as an answer takes that is at hand.
    Patience,
    /// As long as the programs take.
    ForEver,
    /// Until then: [`ClientError::Silent`] says that nothing has come.
    Until(Instant),
}

/// A system that listens.
pub struct Connection {
    /// The system's name.
    pub system: String,
    stream: UnixStream,
    decoder: Decoder<Reply>,
}

impl Connection {
    /// With the system that is asked for, or the only one.
    pub fn open(system: Option<&Name>) -> Result<Self, ClientError> {
        let name = choose(system)?;
        let path = sockets::path_of(&name);
        let stream = UnixStream::connect(&path).map_err(|error| ClientError::Connect(path, error))?;
        let mut connection = Self { system: name.to_string(), stream, decoder: Decoder::new() };
        connection.write(&GREETING)?;
        Ok(connection)
    }

    /// The state of everything.
    pub fn list(&mut self) -> Result<System, ClientError> {
        self.ask(&Request::List)?;
        match self.reply(Wait::Patience)? {
            Reply::List(system) => Ok(system),
            other => Err(self.unexpected(other)),
        }
    }

    /// Asks; the answer is one [`Self::reply`] or several.
    pub fn ask(&mut self, request: &Request) -> Result<(), ClientError> {
        let frame = encode(request).map_err(|error| ClientError::Frame(self.system.clone(), error))?;
        self.write(&frame)
    }

    /// The next reply. What the system refuses is an error.
    pub fn reply(&mut self, wait: Wait) -> Result<Reply, ClientError> {
        const PIECE_BYTES: usize = 64 << 10;
        let timeout = match wait {
            Wait::Patience => Some(PATIENCE),
            Wait::ForEver => None,
            Wait::Until(limit) => {
                Some(limit.saturating_duration_since(Instant::now()).max(Duration::from_millis(1)))
            }
        };
        self.stream
            .set_read_timeout(timeout)
            .map_err(|error| ClientError::Stream(self.system.clone(), error))?;
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            let reply =
                self.decoder.next().map_err(|error| ClientError::Frame(self.system.clone(), error))?;
            match reply {
                Some(Reply::Refused(refusal)) => return Err(ClientError::Refused(refusal)),
                Some(reply) => return Ok(reply),
                None => {}
            }
            match self.stream.read(&mut piece) {
                Ok(0) => return Err(ClientError::Lost(self.system.clone())),
                Ok(length) => self.decoder.push(&piece[..length]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(self.broken(error)),
            }
        }
    }

    /// The error for a reply that answers something else.
    pub fn unexpected(&self, _: Reply) -> ClientError {
        ClientError::Unexpected(self.system.clone())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), ClientError> {
        match self.stream.write_all(bytes) {
            // Who closes the connection may have said why: that is read next, or its end.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
            result => result.map_err(|error| self.broken(error)),
        }
    }

    fn broken(&self, error: std::io::Error) -> ClientError {
        let system = self.system.clone();
        match error.kind() {
            ErrorKind::ConnectionReset => ClientError::Lost(system),
            ErrorKind::WouldBlock | ErrorKind::TimedOut => ClientError::Silent(system),
            _ => ClientError::Stream(system, error),
        }
    }
}

/// The name of the system that is meant.
fn choose(asked: Option<&Name>) -> Result<Name, ClientError> {
    let mut running = sockets::running()?;
    match asked {
        Some(asked) if running.contains(asked) => Ok(asked.clone()),
        Some(asked) => Err(ClientError::NoSuchSystem { asked: asked.clone(), running }),
        None if running.is_empty() => Err(ClientError::NoSystem),
        None if running.len() == 1 => Ok(running.swap_remove(0)),
        None => Err(ClientError::Several(running)),
    }
}
