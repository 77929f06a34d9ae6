//! Ctrl-C and its like, as bytes that `poll` waits for.

use control::How;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::low_level::pipe;
use std::io::{self, Read};
use std::os::unix::net::UnixStream;

/// The signals that end the system.
#[derive(Debug)]
pub struct Signals {
    receiver: UnixStream,
    received: Option<How>,
}

impl Signals {
    /// From now on they are caught.
    pub fn catch() -> io::Result<Self> {
        let (receiver, sender) = UnixStream::pair()?;
        receiver.set_nonblocking(true)?;
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            pipe::register(signal, sender.try_clone()?)?;
        }
        Ok(Self { receiver, received: None })
    }

    /// Readable when one has come.
    pub fn receiver(&self) -> &UnixStream {
        &self.receiver
    }

    /// What came last asks for, if something came since: the first time to end gracefully, then at once.
    pub fn take(&mut self) -> Option<How> {
        let mut bytes = [0; 64];
        let count = (&self.receiver).read(&mut bytes).unwrap_or(0);
        if count == 0 {
            return None;
        }
        let how = match self.received {
            None if count == 1 => How::Gracefully,
            _ => How::AtOnce,
        };
        self.received = Some(how);
        Some(how)
    }

    /// Has any come?
    pub fn received(&self) -> Option<How> {
        self.received
    }
}
