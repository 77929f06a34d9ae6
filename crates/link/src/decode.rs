use crate::frame::{PAYLOAD_HEAD_BYTES_MAX, Sender};
use crate::{Cause, CrashHead, Error, HEADER_BYTES, HELLO_MAGIC, Kind, Process, State, Usage, VERSION};

/// What the host hears. Streams come in pieces as they arrive: a piece is never empty, and says nothing about
/// where a frame began or ended. But no other event is between the pieces of a frame.
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
        /// To add to the [`Credit`](crate::Credit).
        bytes: u32,
    },
    /// Some of the runtime's words; UTF-8 when put together.
    Log(&'a [u8]),
    /// Some of the text of the `Exit` that follows; UTF-8 when put together, at most 64 KiB.
    ExitMessage(&'a [u8]),
    /// The process has ended.
    Exit {
        /// 0 to 255.
        status: u8,
        /// Why.
        cause: Cause,
    },
    /// What the process uses.
    Usage(Usage),
    /// The process runs.
    Started,
    /// Some of the body of the `Crash` that follows: when put together, for [`Crash::read`](crate::Crash::read).
    CrashBody(&'a [u8]),
    /// The process fails: an `Exit` follows.
    Crash(CrashHead),
    /// The process has to wait, for it writes faster than it may.
    Throttled,
    /// The process runs: another one of the guest has started it.
    Spawned {
        /// Which of the plan's programs; perhaps there is none of that number.
        program: u32,
        /// Who started it; perhaps there is no such process.
        parent: Process,
    },
}

/// What the guest hears. Input comes in pieces, as with [`FromGuest`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FromHost<'a> {
    /// Some of standard input; [`Input::take`](crate::Input::take) says whether it was granted.
    StdinData(&'a [u8]),
    /// There is no more.
    StdinEnd,
    /// The user wants the process to end.
    Cancel,
    /// Nobody reads standard output any more.
    StdoutClosed,
    /// Nobody reads standard error any more.
    StderrClosed,
    /// The host has room for so many bytes of standard output more.
    StdoutCredit {
        /// To add to the [`Credit`](crate::Credit).
        bytes: u32,
    },
    /// The host has room for so many bytes of standard error more.
    StderrCredit {
        /// To add to the [`Credit`](crate::Credit).
        bytes: u32,
    },
    /// The process is to begin.
    Start {
        /// Which of the plan's programs; perhaps there is none of that number.
        program: u32,
    },
    /// Everything is to end.
    Shutdown,
    /// Each living process is to be told of, by a `Usage`.
    Measure,
    /// The `Exit` of a process that was `Spawned` has been heard.
    Freed,
}

/// The host's end: decodes what a guest says.
///
/// ```
/// # use link::{Frame, FromGuest, HostDecoder, Process};
/// let mut stream = Frame::Hello.head(Process::NONE)?.as_ref().to_vec();
/// stream.extend(Frame::Stdout(b"hi").head(Process(7))?.as_ref());
/// stream.extend(Frame::Stdout(b"hi").body());
/// let mut decoder = HostDecoder::new();
/// let mut input = &stream[..];
/// assert_eq!(decoder.next(&mut input)?, Some((Process::NONE, FromGuest::Hello)));
/// assert_eq!(decoder.next(&mut input)?, Some((Process(7), FromGuest::Stdout(b"hi"))));
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
    Greeted,
}

impl HostDecoder {
    /// For the beginning of a stream.
    pub const fn new() -> Self {
        Self { framing: Framing::new(Sender::Guest), phase: Phase::Greeting }
    }

    /// The next event in `input` and whose it is; `input` is moved on past it. `None` when all of it is consumed: give the
    /// next bytes then. After an error, that error again.
    pub fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<(Process, FromGuest<'a>)>, Error> {
        while let Some((process, part)) = self.framing.next(input)? {
            let event = self.interpret(part).map_err(|error| self.framing.lose(error))?;
            if let Some(event) = event {
                return Ok(Some((process, event)));
            }
        }
        Ok(None)
    }

    fn interpret<'a>(&mut self, part: Part<'a>) -> Result<Option<FromGuest<'a>>, Error> {
        Ok(Some(match part {
            Part::Begin(kind) => {
                match (self.phase, kind) {
                    (Phase::Greeting, Kind::Hello) => self.phase = Phase::Greeted,
                    (Phase::Greeted, kind) if kind != Kind::Hello => {}
                    _ => return Err(Error::OutOfOrder(kind)),
                }
                return Ok(None);
            }
            Part::Body(Kind::Stdout, bytes) => FromGuest::Stdout(bytes),
            Part::Body(Kind::Stderr, bytes) => FromGuest::Stderr(bytes),
            Part::Body(Kind::Log, bytes) => FromGuest::Log(bytes),
            Part::Body(Kind::Exit, bytes) => FromGuest::ExitMessage(bytes),
            Part::Body(Kind::Crash, bytes) => FromGuest::CrashBody(bytes),
            Part::End(Kind::Hello, head) => {
                check_hello(head)?;
                FromGuest::Hello
            }
            Part::End(Kind::StdinCredit, head) => FromGuest::StdinCredit { bytes: number(head) },
            Part::End(Kind::Usage, head) => FromGuest::Usage(usage(head)?),
            Part::End(Kind::Started, _) => FromGuest::Started,
            Part::End(Kind::Crash, head) => FromGuest::Crash(CrashHead::from_bytes(&head)),
            Part::End(Kind::Throttled, _) => FromGuest::Throttled,
            Part::End(Kind::Spawned, head) => {
                let [_, _, _, _, p0, p1, p2, p3, ..] = head;
                let parent = Process(u32::from_le_bytes([p0, p1, p2, p3]));
                FromGuest::Spawned { program: number(head), parent }
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
    let [m0, m1, m2, m3, v0, v1, v2, v3, ..] = head;
    if [m0, m1, m2, m3] != HELLO_MAGIC {
        return Err(Error::NotSelkis);
    }
    match u32::from_le_bytes([v0, v1, v2, v3]) {
        VERSION => Ok(()),
        theirs => Err(Error::WrongVersion(theirs)),
    }
}

/// The first number of a payload.
fn number([a, b, c, d, ..]: PayloadHead) -> u32 {
    u32::from_le_bytes([a, b, c, d])
}

fn usage(head: PayloadHead) -> Result<Usage, Error> {
    let (words, state) = head[..Usage::BYTES].split_at(Usage::BYTES - 1);
    let word = |index: usize| words[index * 8..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    let state = match state[0] {
        0 => State::Runnable,
        1 => State::Waiting,
        2 => State::Stopping,
        code => return Err(Error::UnknownState(code)),
    };
    let [memory_bytes, host_bytes, cpu_ns, switches, migrations] = [0, 1, 2, 3, 4].map(word);
    Ok(Usage { memory_bytes, host_bytes, cpu_ns, switches, migrations, state })
}

/// The guest's end: decodes what a host says. What it says is for who keeps the processes to judge: whether there
/// is such a process, and (by [`Input`](crate::Input)) whether it may be sent that input.
#[derive(Debug)]
pub struct GuestDecoder {
    framing: Framing,
}

impl GuestDecoder {
    /// For the beginning of a stream.
    pub const fn new() -> Self {
        Self { framing: Framing::new(Sender::Host) }
    }

    /// The next event in `input` and whose it is: see [`HostDecoder::next`].
    pub fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<(Process, FromHost<'a>)>, Error> {
        while let Some((process, part)) = self.framing.next(input)? {
            if let Some(event) = from_host(part) {
                return Ok(Some((process, event)));
            }
        }
        Ok(None)
    }
}

fn from_host(part: Part<'_>) -> Option<FromHost<'_>> {
    Some(match part {
        Part::Body(Kind::StdinData, bytes) => FromHost::StdinData(bytes),
        Part::End(Kind::StdinEnd, _) => FromHost::StdinEnd,
        Part::End(Kind::Cancel, _) => FromHost::Cancel,
        Part::End(Kind::StdoutClosed, _) => FromHost::StdoutClosed,
        Part::End(Kind::StderrClosed, _) => FromHost::StderrClosed,
        Part::End(Kind::StdoutCredit, head) => FromHost::StdoutCredit { bytes: number(head) },
        Part::End(Kind::StderrCredit, head) => FromHost::StderrCredit { bytes: number(head) },
        Part::End(Kind::Start, head) => FromHost::Start { program: number(head) },
        Part::End(Kind::Shutdown, _) => FromHost::Shutdown,
        Part::End(Kind::Measure, _) => FromHost::Measure,
        Part::End(Kind::Freed, _) => FromHost::Freed,
        Part::Begin(_) | Part::Body(..) | Part::End(..) => return None,
    })
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
    step: Step,
}

type PayloadHead = [u8; PAYLOAD_HEAD_BYTES_MAX];

#[derive(Clone, Copy, Debug)]
enum Step {
    Header(Gathered),
    PayloadHead { header: Header, gathered: Gathered, body_bytes: usize },
    Body { header: Header, head: PayloadHead, left: usize },
    Lost(Error),
}

#[derive(Clone, Copy, Debug)]
struct Header {
    kind: Kind,
    process: Process,
}

/// Of one frame, in this order: one `Begin`, any number of `Body`, one `End`.
enum Part<'a> {
    Begin(Kind),
    Body(Kind, &'a [u8]),
    End(Kind, PayloadHead),
}

impl Framing {
    const fn new(sender: Sender) -> Self {
        Self { sender, step: Step::Header(Gathered::new(HEADER_BYTES)) }
    }

    /// Nothing after this can be understood.
    fn lose(&mut self, error: Error) -> Error {
        self.step = Step::Lost(error);
        error
    }

    fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<(Process, Part<'a>)>, Error> {
        loop {
            match &mut self.step {
                Step::Lost(error) => return Err(*error),
                Step::Header(gathered) => {
                    let Some([code, low, middle, high, p0, p1, p2, p3, ..]) = gathered.take(input) else {
                        return Ok(None);
                    };
                    let length = u32::from_le_bytes([low, middle, high, 0]) as usize;
                    let process = Process(u32::from_le_bytes([p0, p1, p2, p3]));
                    return match self.begin(code, length, process) {
                        Ok(kind) => Ok(Some((process, Part::Begin(kind)))),
                        Err(error) => Err(self.lose(error)),
                    };
                }
                Step::PayloadHead { header, gathered, body_bytes } => {
                    let Some(head) = gathered.take(input) else { return Ok(None) };
                    self.step = Step::Body { header: *header, head, left: *body_bytes };
                }
                Step::Body { header: Header { kind, process }, head, left: 0 } => {
                    let part = (*process, Part::End(*kind, *head));
                    self.step = Step::Header(Gathered::new(HEADER_BYTES));
                    return Ok(Some(part));
                }
                Step::Body { .. } if input.is_empty() => return Ok(None),
                Step::Body { header: Header { kind, process }, left, .. } => {
                    let (piece, rest) = input.split_at(input.len().min(*left));
                    *input = rest;
                    *left -= piece.len();
                    return Ok(Some((*process, Part::Body(*kind, piece))));
                }
            }
        }
    }

    fn begin(&mut self, code: u8, length: usize, process: Process) -> Result<Kind, Error> {
        let kind = Kind::from_code(code, self.sender)?;
        let body_bytes = kind.body_bytes(length)?;
        kind.check_process(process)?;
        let gathered = Gathered::new(kind.shape().head_bytes);
        self.step = Step::PayloadHead { header: Header { kind, process }, gathered, body_bytes };
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
