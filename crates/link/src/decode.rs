use crate::frame::{PAYLOAD_HEAD_BYTES_MAX, Sender};
use crate::{Cause, Credit, Error, HEADER_BYTES, HELLO_MAGIC, Kind, VERSION};

/// What the host hears. Streams come in pieces as they arrive: a piece is never empty, and says nothing about
/// where a frame began or ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FromGuest<'a> {
    /// The guest is there and speaks our version.
    Hello,
    /// Some of standard output.
    Stdout(&'a [u8]),
    /// Some of standard error.
    Stderr(&'a [u8]),
    /// The guest has room for so many bytes more.
    StdinCredit {
        /// To add to the [`Credit`].
        bytes: u32,
    },
    /// Some of the runtime's words; UTF-8 when put together.
    Log(&'a [u8]),
    /// Some of the text of the `Exit` that follows; UTF-8 when put together, at most 64 KiB.
    ExitMessage(&'a [u8]),
    /// The program has ended.
    Exit {
        /// 0 to 255.
        status: u8,
        /// Why.
        cause: Cause,
    },
}

/// What the guest hears. Input comes in pieces, as with [`FromGuest`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FromHost<'a> {
    /// Some of standard input; within the credit.
    StdinData(&'a [u8]),
    /// There is no more.
    StdinEnd,
    /// The user wants the program to end.
    Cancel,
    /// Nobody reads standard output any more.
    StdoutClosed,
    /// Nobody reads standard error any more.
    StderrClosed,
    /// The host has room for so many bytes of standard output more.
    StdoutCredit {
        /// To add to the [`Credit`].
        bytes: u32,
    },
    /// The host has room for so many bytes of standard error more.
    StderrCredit {
        /// To add to the [`Credit`].
        bytes: u32,
    },
}

/// The host's end: decodes what a guest says.
///
/// ```
/// # use link::{Frame, FromGuest, HostDecoder};
/// let mut stream = Frame::Hello.head()?.as_ref().to_vec();
/// stream.extend(Frame::Stdout(b"hi").head()?.as_ref());
/// stream.extend(Frame::Stdout(b"hi").body());
/// let mut decoder = HostDecoder::new();
/// let mut input = &stream[..];
/// assert_eq!(decoder.next(&mut input)?, Some(FromGuest::Hello));
/// assert_eq!(decoder.next(&mut input)?, Some(FromGuest::Stdout(b"hi")));
/// assert_eq!(decoder.next(&mut input)?, None);
/// # Ok::<(), link::Error>(())
/// ```
#[derive(Debug)]
pub struct HostDecoder {
    framing: Framing,
    phase: Phase,
}

/// Where the guest's stream stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Greeting,
    Running,
    Ended,
}

impl HostDecoder {
    /// For the beginning of a stream.
    pub const fn new() -> Self {
        Self { framing: Framing::new(Sender::Guest), phase: Phase::Greeting }
    }

    /// The next event in `input`, which is moved on past it; `None` when all of it is consumed. Give the next
    /// bytes then. After an error, that error again.
    pub fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<FromGuest<'a>>, Error> {
        while let Some(part) = self.framing.next(input)? {
            let event = self.interpret(part).map_err(|error| self.framing.lose(error))?;
            if event.is_some() {
                return Ok(event);
            }
        }
        Ok(None)
    }

    fn interpret<'a>(&mut self, part: Part<'a>) -> Result<Option<FromGuest<'a>>, Error> {
        Ok(Some(match part {
            Part::Begin(kind) => {
                match (self.phase, kind) {
                    (Phase::Greeting, Kind::Hello) => self.phase = Phase::Running,
                    (Phase::Running, Kind::Exit) => self.phase = Phase::Ended,
                    (Phase::Running, kind) if kind != Kind::Hello => {}
                    _ => return Err(Error::OutOfOrder(kind)),
                }
                return Ok(None);
            }
            Part::Body(Kind::Stdout, bytes) => FromGuest::Stdout(bytes),
            Part::Body(Kind::Stderr, bytes) => FromGuest::Stderr(bytes),
            Part::Body(Kind::Log, bytes) => FromGuest::Log(bytes),
            Part::Body(Kind::Exit, bytes) => FromGuest::ExitMessage(bytes),
            Part::End(Kind::Hello, head) => {
                check_hello(head)?;
                FromGuest::Hello
            }
            Part::End(Kind::StdinCredit, [a, b, c, d, ..]) => {
                FromGuest::StdinCredit { bytes: u32::from_le_bytes([a, b, c, d]) }
            }
            Part::End(Kind::Exit, [status, cause, ..]) => {
                FromGuest::Exit { status, cause: Cause::from_code(cause)? }
            }
            Part::Body(..) | Part::End(..) => return Ok(None),
        }))
    }
}

impl Default for HostDecoder {
    fn default() -> Self {
        Self::new()
    }
}

fn check_hello(head: PayloadHead) -> Result<(), Error> {
    let [m0, m1, m2, m3, v0, v1, v2, v3] = head;
    if [m0, m1, m2, m3] != HELLO_MAGIC {
        return Err(Error::NotSelkis);
    }
    match u32::from_le_bytes([v0, v1, v2, v3]) {
        VERSION => Ok(()),
        theirs => Err(Error::WrongVersion(theirs)),
    }
}

/// The guest's end: decodes what a host says, and holds it to the credit that it was given.
#[derive(Debug)]
pub struct GuestDecoder {
    framing: Framing,
    credit: Credit,
    stdin: Stdin,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stdin {
    Open,
    Ended,
}

impl GuestDecoder {
    /// For the beginning of a stream, with no credit granted.
    pub const fn new() -> Self {
        Self { framing: Framing::new(Sender::Host), credit: Credit::NONE, stdin: Stdin::Open }
    }

    /// Allows the host so many bytes more. To be called before the `StdinCredit` frame that says so is sent.
    pub fn grant(&mut self, bytes: u32) {
        self.credit.grant(bytes);
    }

    /// What the host may still send, in bytes.
    pub fn credit(&self) -> Credit {
        self.credit
    }

    /// The next event in `input`: see [`HostDecoder::next`].
    pub fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<FromHost<'a>>, Error> {
        while let Some(part) = self.framing.next(input)? {
            let event = self.interpret(part).map_err(|error| self.framing.lose(error))?;
            if event.is_some() {
                return Ok(event);
            }
        }
        Ok(None)
    }

    fn interpret<'a>(&mut self, part: Part<'a>) -> Result<Option<FromHost<'a>>, Error> {
        match part {
            Part::Begin(kind @ (Kind::StdinData | Kind::StdinEnd)) if self.stdin == Stdin::Ended => {
                Err(Error::OutOfOrder(kind))
            }
            Part::Body(Kind::StdinData, bytes) => {
                if self.credit.spend(bytes.len()) < bytes.len() {
                    return Err(Error::OverCredit);
                }
                Ok(Some(FromHost::StdinData(bytes)))
            }
            Part::End(Kind::StdinEnd, _) => {
                self.stdin = Stdin::Ended;
                Ok(Some(FromHost::StdinEnd))
            }
            Part::End(Kind::Cancel, _) => Ok(Some(FromHost::Cancel)),
            Part::End(Kind::StdoutClosed, _) => Ok(Some(FromHost::StdoutClosed)),
            Part::End(Kind::StderrClosed, _) => Ok(Some(FromHost::StderrClosed)),
            Part::End(Kind::StdoutCredit, [a, b, c, d, ..]) => {
                Ok(Some(FromHost::StdoutCredit { bytes: u32::from_le_bytes([a, b, c, d]) }))
            }
            Part::End(Kind::StderrCredit, [a, b, c, d, ..]) => {
                Ok(Some(FromHost::StderrCredit { bytes: u32::from_le_bytes([a, b, c, d]) }))
            }
            Part::Begin(_) | Part::Body(..) | Part::End(..) => Ok(None),
        }
    }
}

impl Default for GuestDecoder {
    fn default() -> Self {
        Self::new()
    }
}

/// Cuts a stream into frames, whatever the pieces it comes in.
#[derive(Debug)]
struct Framing {
    sender: Sender,
    state: State,
}

type PayloadHead = [u8; PAYLOAD_HEAD_BYTES_MAX];

#[derive(Clone, Copy, Debug)]
enum State {
    Header(Gathered),
    PayloadHead { kind: Kind, gathered: Gathered, body_bytes: usize },
    Body { kind: Kind, head: PayloadHead, left: usize },
    Lost(Error),
}

/// Of one frame, in this order: one `Begin`, any number of `Body`, one `End`.
enum Part<'a> {
    Begin(Kind),
    Body(Kind, &'a [u8]),
    End(Kind, PayloadHead),
}

impl Framing {
    const fn new(sender: Sender) -> Self {
        Self { sender, state: State::Header(Gathered::new(HEADER_BYTES)) }
    }

    /// Nothing after this can be understood.
    fn lose(&mut self, error: Error) -> Error {
        self.state = State::Lost(error);
        error
    }

    fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Part<'a>>, Error> {
        loop {
            match &mut self.state {
                State::Lost(error) => return Err(*error),
                State::Header(gathered) => {
                    let Some([code, low, middle, high, ..]) = gathered.take(input) else { return Ok(None) };
                    let length = u32::from_le_bytes([low, middle, high, 0]) as usize;
                    return match self.begin(code, length) {
                        Ok(kind) => Ok(Some(Part::Begin(kind))),
                        Err(error) => Err(self.lose(error)),
                    };
                }
                State::PayloadHead { kind, gathered, body_bytes } => {
                    let Some(head) = gathered.take(input) else { return Ok(None) };
                    self.state = State::Body { kind: *kind, head, left: *body_bytes };
                }
                State::Body { kind, head, left: 0 } => {
                    let part = Part::End(*kind, *head);
                    self.state = State::Header(Gathered::new(HEADER_BYTES));
                    return Ok(Some(part));
                }
                State::Body { .. } if input.is_empty() => return Ok(None),
                State::Body { kind, left, .. } => {
                    let (piece, rest) = input.split_at(input.len().min(*left));
                    *input = rest;
                    *left -= piece.len();
                    return Ok(Some(Part::Body(*kind, piece)));
                }
            }
        }
    }

    fn begin(&mut self, code: u8, length: usize) -> Result<Kind, Error> {
        let kind = Kind::from_code(code, self.sender)?;
        let body_bytes = kind.body_bytes(length)?;
        let gathered = Gathered::new(kind.shape().head_bytes);
        self.state = State::PayloadHead { kind, gathered, body_bytes };
        Ok(kind)
    }
}

/// A few bytes that must be there together.
#[derive(Clone, Copy, Debug)]
struct Gathered {
    bytes: PayloadHead,
    filled: usize,
    wanted: usize,
}

impl Gathered {
    const fn new(wanted: usize) -> Self {
        Self { bytes: [0; PAYLOAD_HEAD_BYTES_MAX], filled: 0, wanted }
    }

    /// Takes what is missing from `input`; the bytes once nothing is.
    fn take(&mut self, input: &mut &[u8]) -> Option<PayloadHead> {
        let (piece, rest) = input.split_at(input.len().min(self.wanted - self.filled));
        self.bytes[self.filled..self.filled + piece.len()].copy_from_slice(piece);
        self.filled += piece.len();
        *input = rest;
        (self.filled == self.wanted).then_some(self.bytes)
    }
}
