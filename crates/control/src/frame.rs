//! Messages as frames in a stream of bytes.

use crate::{Reply, Request};
use alloc::vec::Vec;
use core::fmt;
use core::marker::PhantomData;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Of the protocol. Another version is another protocol: neither side tries to understand it.
pub const VERSION: u32 = 3;

/// A request is names and numbers.
pub const REQUEST_BYTES_MAX: usize = 4 << 10;
/// Room for the state of some 20,000 processes.
pub const REPLY_BYTES_MAX: usize = 4 << 20;

const LENGTH_BYTES: usize = 4;
const MAGIC: [u8; 4] = *b"SLKC";
const GREETING_BYTES: usize = LENGTH_BYTES + 8;

/// What each side says first: a frame whose payload is `SLKC` and the version. Its form is the same in every version.
pub const GREETING: [u8; GREETING_BYTES] = {
    let [m0, m1, m2, m3] = MAGIC;
    let [v0, v1, v2, v3] = VERSION.to_le_bytes();
    [8, 0, 0, 0, m0, m1, m2, m3, v0, v1, v2, v3]
};

/// What travels in a frame.
pub trait Message: Serialize + DeserializeOwned {
    /// The most that its encoding may take.
    const BYTES_MAX: usize;
}

impl Message for Request {
    const BYTES_MAX: usize = REQUEST_BYTES_MAX;
}

impl Message for Reply {
    const BYTES_MAX: usize = REPLY_BYTES_MAX;
}

/// Why a stream of bytes is not understood, or a message cannot be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// The other side speaks something else.
    NotSelkis,
    /// The other side speaks this version.
    WrongVersion(u32),
    /// A frame of so many bytes, which is more than allowed.
    TooLong(usize),
    /// A frame that holds no message.
    Malformed,
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotSelkis => f.write_str("the other side does not speak the protocol of Selkis systems"),
            Self::WrongVersion(version) => {
                write!(
                    f,
                    "the other side speaks version {version} of the protocol, and this is version {VERSION}"
                )
            }
            Self::TooLong(bytes) => write!(f, "a message of {bytes} bytes is longer than allowed"),
            Self::Malformed => f.write_str("a message cannot be understood"),
        }
    }
}

impl core::error::Error for FrameError {}

/// The message as a frame.
pub fn encode<T: Message>(message: &T) -> Result<Vec<u8>, FrameError> {
    let frame =
        postcard::to_extend(message, Vec::from([0; LENGTH_BYTES])).map_err(|_| FrameError::Malformed)?;
    let length = frame.len() - LENGTH_BYTES;
    if length > T::BYTES_MAX {
        return Err(FrameError::TooLong(length));
    }
    let mut frame = frame;
    frame[..LENGTH_BYTES].copy_from_slice(&(length as u32).to_le_bytes());
    Ok(frame)
}

/// Takes a stream of bytes apart, in whatever pieces it comes: the greeting, then messages.
///
/// It holds at most one frame and what was pushed last.
#[derive(Debug)]
pub struct Decoder<T> {
    bytes: Vec<u8>,
    greeted: Greeted,
    lost: Option<FrameError>,
    message: PhantomData<T>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Greeted {
    NotYet,
    Yes,
}

impl<T: Message> Default for Decoder<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Message> Decoder<T> {
    /// Before the first byte.
    pub const fn new() -> Self {
        Self { bytes: Vec::new(), greeted: Greeted::NotYet, lost: None, message: PhantomData }
    }

    /// Adds bytes that came. Push more only when [`Self::next`] has no message left.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.lost.is_none() {
            self.bytes.extend_from_slice(bytes);
        }
    }

    /// The next message, if it is complete. After an error there are no more.
    #[expect(
        clippy::should_implement_trait,
        reason = "an iterator would end where this waits for more bytes"
    )]
    pub fn next(&mut self) -> Result<Option<T>, FrameError> {
        if let Some(error) = self.lost {
            return Err(error);
        }
        self.take().inspect_err(|error| {
            self.lost = Some(*error);
            self.bytes = Vec::new();
        })
    }

    /// Has the stream stopped between two messages? Else its end cuts one.
    pub fn is_between_messages(&self) -> bool {
        self.bytes.is_empty() && self.lost.is_none()
    }

    fn take(&mut self) -> Result<Option<T>, FrameError> {
        if self.greeted == Greeted::NotYet {
            if !self.take_greeting()? {
                return Ok(None);
            }
            self.greeted = Greeted::Yes;
        }
        let Some((length, rest)) = self.bytes.split_first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
        let length = u32::from_le_bytes(*length) as usize;
        if length > T::BYTES_MAX {
            return Err(FrameError::TooLong(length));
        }
        let Some(payload) = rest.get(..length) else { return Ok(None) };
        let message = match postcard::take_from_bytes(payload) {
            Ok((message, [])) => message,
            _ => return Err(FrameError::Malformed),
        };
        self.bytes.drain(..LENGTH_BYTES + length);
        Ok(Some(message))
    }

    /// Notices at the first byte that is wrong: who speaks something else may be waiting for an answer.
    fn take_greeting(&mut self) -> Result<bool, FrameError> {
        const VERSION_AT: usize = LENGTH_BYTES + MAGIC.len();
        let known = self.bytes.len().min(VERSION_AT);
        if self.bytes[..known] != GREETING[..known] {
            return Err(FrameError::NotSelkis);
        }
        let Some(version) = self.bytes.get(VERSION_AT..).and_then(|bytes| bytes.first_chunk()) else {
            return Ok(false);
        };
        match u32::from_le_bytes(*version) {
            VERSION => {
                self.bytes.drain(..GREETING_BYTES);
                Ok(true)
            }
            version => Err(FrameError::WrongVersion(version)),
        }
    }
}
