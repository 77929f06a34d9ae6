//! Ctrl-C and its like, as bytes that `poll` waits for.

use control::How;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::low_level::pipe;
use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// What comes so soon after the first is the same wish: who starts a system for somebody often signals the process and its group.
const ONE_WISH_TIME: Duration = Duration::from_millis(300);

/// The signals that end the system.
#[derive(Debug)]
pub struct Signals {
    receiver: UnixStream,
    /// When the first came.
    first: Option<Instant>,
}

impl Signals {
    /// From now on they are caught.
    pub fn catch() -> io::Result<Self> {
        let (receiver, sender) = UnixStream::pair()?;
        receiver.set_nonblocking(true)?;
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            pipe::register(signal, sender.try_clone()?)?;
        }
        Ok(Self { receiver, first: None })
    }

    /// Readable when one has come.
    pub fn receiver(&self) -> &UnixStream {
        &self.receiver
    }

    /// What is asked for since this was called last: the first time to end gracefully, then at once.
    pub fn take(&mut self) -> Option<How> {
        let mut bytes = [0; 64];
        if (&self.receiver).read(&mut bytes).unwrap_or(0) == 0 {
            return None;
        }
        match self.first {
            None => {
                self.first = Some(Instant::now());
                Some(How::Gracefully)
            }
            Some(first) => (first.elapsed() > ONE_WISH_TIME).then_some(How::AtOnce),
        }
    }

    /// Has any come?
    pub fn have_come(&self) -> bool {
        self.first.is_some()
    }
}
