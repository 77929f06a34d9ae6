//! The program's streams, to who started this domain or else over the machine's console: in frames if somebody speaks them, else
//! as plain bytes.

use super::wire::{ChannelWire, VirtioConsole, Wire};
use crate::gate;
use crate::report::Report;
use abi::{BootInfo, Handle, Request};
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use bundle::{Console as Mode, Terminals};
use link::{Credit, Frame, FromHost, GuestDecoder, Input as Standard, Process, split_body};
use ring::Side;
use runtime::System;
use spin::Mutex;
use wasi::Errno;
use wasi::provider::{Input, Output, OutputStream, Stream, StreamSet, Terminal};

/// Which event of the virtual CPU is the wire's.
const EVENT: u32 = 0;

/// How much input the host may send ahead of the program, in bytes.
const INPUT_BYTES_MAX: usize = 256 << 10;

/// How much input has to be used before more is asked for: so that asking is rare.
const CREDIT_STEP: usize = INPUT_BYTES_MAX / 2;

/// What is read from the wire at once.
const READ_BYTES: usize = 16 << 10;

/// Ctrl-C on a plain console: the byte that a terminal sends.
const CONTROL_C: u8 = 3;

/// The one channel. Upcalls look at it only when they have interrupted the program itself, so it is free then.
static CHANNEL: Mutex<Option<Channel>> = Mutex::new(None);

/// Does something with the channel, if there is one.
pub fn with<T>(operation: impl FnOnce(&mut Channel) -> T) -> Option<T> {
    CHANNEL.try_lock().and_then(|mut channel| channel.as_mut().map(operation))
}

/// Whether somebody wants the program to end. Takes the event, so that the next one is told again.
pub fn poll_cancel() -> bool {
    if let Some(system) = System::get() {
        sleep(system, 0);
    }
    with(Channel::cancelled).unwrap_or(false)
}

/// Opens the channel that the plan asks for.
pub fn open(system: &'static System, boot: &BootInfo, mode: Mode) -> Result<(), String> {
    let wire = wire(system, boot)?;
    let (talk, terminals) = match (mode, &wire) {
        (Mode::Framed(terminals), Some(_)) => (Talk::Frames(GuestDecoder::new()), terminals),
        (Mode::Framed(_), None) => return Err(String::from("it has no virtio console")),
        (Mode::Raw, _) => (Talk::Plain, Terminals::all(bundle::Terminal::Yes)),
        (Mode::Host | Mode::Wire, _) => return Err(String::from("the bundle was made for a Linux process")),
    };
    let mut channel = Channel {
        wire,
        talk,
        terminals,
        input: VecDeque::new(),
        allowed: Standard::NEW,
        used: 0,
        closed: StreamSet::NONE,
        credit: PerOutput { output: Credit::OUTPUT, error: Credit::OUTPUT },
        cancelled: false,
        outbox: Vec::new(),
        sent: 0,
        broken: false,
        scratch: vec![0; READ_BYTES],
    };
    if let Talk::Frames(_) = channel.talk {
        channel.frame(Frame::Hello);
        channel.grant(INPUT_BYTES_MAX);
    }
    *CHANNEL.lock() = Some(channel);
    Ok(())
}

/// The way to the other end of the streams, if there is one.
fn wire(system: &'static System, boot: &BootInfo) -> Result<Option<AnyWire>, String> {
    if boot.parent != Handle::NONE {
        let channel = ChannelWire::open(system, boot.parent, EVENT, Side::Other);
        let channel = channel.map_err(|error| format!("no channel to who started it: {error:?}"))?;
        return Ok(Some(Box::new(channel)));
    }
    let console = VirtioConsole::find(system, boot, EVENT)?;
    Ok(console.map(|console| Box::new(console) as AnyWire))
}

/// Says how it ended, and waits until everything that was written is out.
pub fn finish(system: &'static System, report: &Report) {
    let outcome = with(|channel| match channel.talk {
        Talk::Frames(_) => {
            let message = report.message.as_str();
            channel.frame(Frame::Exit { status: report.status, cause: report.cause, message });
        }
        Talk::Plain => channel.plain(report.message.as_bytes()),
    });
    if outcome.is_none() {
        return gate::print(&report.message);
    }
    while with(Channel::is_drained) == Some(false) {
        sleep(system, Request::NEVER);
    }
}

/// Sleeps in the kernel until something happens on the wire, or until `deadline_ns` on the kernel's clock, and sees to
/// what happened.
pub fn sleep(system: &System, deadline_ns: u64) {
    if gate::wait(system, deadline_ns) & 1 << EVENT != 0 {
        with(Channel::on_event);
    }
}

type AnyWire = Box<dyn Wire + Send>;

/// One for each output stream.
struct PerOutput<T> {
    output: T,
    error: T,
}

impl<T> PerOutput<T> {
    fn of(&mut self, stream: OutputStream) -> &mut T {
        match stream {
            OutputStream::Output => &mut self.output,
            OutputStream::Error => &mut self.error,
        }
    }
}

enum Talk {
    Frames(GuestDecoder),
    Plain,
}

/// The streams.
pub struct Channel {
    wire: Option<AnyWire>,
    talk: Talk,
    terminals: Terminals,
    input: VecDeque<u8>,
    /// What the host may still send.
    allowed: Standard,
    /// Input that the program has taken since the host was last told.
    used: usize,
    /// Output streams that nobody reads any more.
    closed: StreamSet,
    /// How much the host has room for, if it speaks frames.
    credit: PerOutput<Credit>,
    cancelled: bool,
    /// The rest of a frame that the wire had no room for; nothing else may be sent before it.
    outbox: Vec<u8>,
    sent: usize,
    /// The wire or the host does not keep to the protocol: nothing more comes or goes.
    broken: bool,
    scratch: Vec<u8>,
}

impl Channel {
    /// Takes input for the program.
    pub fn read(&mut self, into: &mut [u8]) -> Input {
        self.pump();
        if self.input.is_empty() {
            return if self.allowed.has_ended() || self.broken { Input::End } else { Input::NotReady };
        }
        let count = into.len().min(self.input.len());
        let (first, second) = self.input.as_slices();
        let of_first = count.min(first.len());
        into[..of_first].copy_from_slice(&first[..of_first]);
        into[of_first..count].copy_from_slice(&second[..count - of_first]);
        self.input.drain(..count);
        self.used += count;
        if self.used >= CREDIT_STEP && self.flush() {
            let used = core::mem::take(&mut self.used);
            self.grant(used);
        }
        Input::Bytes(count)
    }

    /// Sends output of the program.
    pub fn write(&mut self, to: OutputStream, bytes: &[u8]) -> Result<Output, Errno> {
        self.pump();
        if self.broken || self.closed.has(to.into()) {
            return Err(Errno::Pipe);
        }
        if !self.flush() {
            return Ok(Output::NotReady);
        }
        if matches!(self.talk, Talk::Plain) {
            return Ok(self.plain_part(bytes));
        }
        let (body, _) = split_body(bytes);
        let body = &body[..self.credit.of(to).spend(body.len())];
        if body.is_empty() && !bytes.is_empty() {
            return Ok(Output::NotReady);
        }
        match to {
            OutputStream::Output => self.frame(Frame::Stdout(body)),
            OutputStream::Error => self.frame(Frame::Stderr(body)),
        }
        Ok(Output::Bytes(body.len()))
    }

    /// Which of `streams` would not say that they are not ready.
    pub fn ready(&mut self, streams: StreamSet) -> StreamSet {
        self.pump();
        let mut ready = StreamSet::NONE;
        if !self.input.is_empty() || self.allowed.has_ended() || self.broken {
            ready = ready.union(StreamSet::INPUT);
        }
        if self.flush() || self.broken {
            for stream in [OutputStream::Output, OutputStream::Error] {
                if self.broken || self.credit.of(stream).bytes() > 0 {
                    ready = ready.union(StreamSet::of(stream.into()));
                }
            }
        }
        ready.union(self.closed).intersection(streams)
    }

    /// Whether somebody may sit there: at a plain console always, behind frames where the plan says so.
    pub fn terminal(&self, stream: Stream) -> Terminal {
        let terminal = match stream {
            Stream::Input => self.terminals.input,
            Stream::Output => self.terminals.output,
            Stream::Error => self.terminals.error,
        };
        match terminal {
            bundle::Terminal::Yes => Terminal::Yes,
            bundle::Terminal::No => Terminal::No,
        }
    }

    /// Whether somebody wants the program to end.
    pub fn cancelled(&mut self) -> bool {
        self.cancelled
    }

    /// Takes note of the wire's event.
    fn on_event(&mut self) {
        if let Some(wire) = &mut self.wire {
            self.broken |= wire.on_event().is_err();
        }
        self.pump();
    }

    /// Takes in what has come, as long as there is room for it.
    fn pump(&mut self) {
        let mut scratch = core::mem::take(&mut self.scratch);
        while !self.broken && (matches!(self.talk, Talk::Frames(_)) || self.input.len() < INPUT_BYTES_MAX) {
            let Some(wire) = &mut self.wire else { break };
            match wire.read(&mut scratch) {
                Ok(count) => {
                    self.take_in(&scratch[..count]);
                    if count < scratch.len() {
                        break;
                    }
                }
                Err(_) => self.broken = true,
            }
        }
        self.scratch = scratch;
    }

    fn take_in(&mut self, mut bytes: &[u8]) {
        while !self.broken {
            let Talk::Frames(decoder) = &mut self.talk else {
                self.cancelled |= bytes.contains(&CONTROL_C);
                self.input.extend(bytes.iter().filter(|byte| **byte != CONTROL_C));
                return;
            };
            match decoder.next(&mut bytes) {
                Ok(Some((Process::FIRST, event))) => self.broken = self.hear(event).is_err(),
                Ok(None) => return,
                // There is one process.
                Ok(Some(_)) | Err(_) => self.broken = true,
            }
        }
    }

    fn hear(&mut self, event: FromHost<'_>) -> Result<(), link::Error> {
        match event {
            FromHost::StdinData(bytes) => {
                self.allowed.take(bytes)?;
                self.input.extend(bytes);
            }
            FromHost::StdinEnd => self.allowed.end()?,
            FromHost::Cancel => self.cancelled = true,
            FromHost::StdoutClosed => self.closed = self.closed.union(StreamSet::OUTPUT),
            FromHost::StderrClosed => self.closed = self.closed.union(StreamSet::ERROR),
            FromHost::StdoutCredit { bytes } => self.credit.output.grant(bytes),
            FromHost::StderrCredit { bytes } => self.credit.error.grant(bytes),
            // It runs from the beginning to the end.
            FromHost::Start { .. } | FromHost::Shutdown | FromHost::Measure => {
                return Err(link::Error::NoSuchProcess(Process::NONE));
            }
        }
        Ok(())
    }

    /// Lets the host send `bytes` more.
    fn grant(&mut self, bytes: usize) {
        let bytes = bytes as u32;
        if let Talk::Frames(_) = self.talk {
            self.allowed.grant(bytes);
            self.frame(Frame::StdinCredit { bytes });
        }
    }

    /// Sends a frame of the one process, or nobody's; what the wire has no room for waits in the outbox.
    fn frame(&mut self, frame: Frame<'_>) {
        let process = if let Frame::Hello = frame { Process::NONE } else { Process::FIRST };
        // Nothing here is longer than a frame can be, but the message of an exit might.
        let Ok(head) = frame.head(process) else { return };
        let parts = [head.as_ref(), frame.body()];
        let taken = if self.flush() { self.try_write(&parts) } else { 0 };
        let in_body = taken.saturating_sub(parts[0].len());
        self.outbox.extend_from_slice(&parts[0][taken.min(parts[0].len())..]);
        self.outbox.extend_from_slice(&parts[1][in_body..]);
    }

    /// Sends plain bytes, all of them: the wire's rest waits in the outbox.
    fn plain(&mut self, bytes: &[u8]) {
        if self.wire.is_none() {
            return gate::print(core::str::from_utf8(bytes).unwrap_or_default());
        }
        let taken = if self.flush() { self.try_write(&[bytes]) } else { 0 };
        self.outbox.extend_from_slice(&bytes[taken..]);
    }

    /// Sends some plain bytes. What the wire has no room for waits in the outbox, as frames do: an empty outbox is
    /// what says that there may be room.
    fn plain_part(&mut self, bytes: &[u8]) -> Output {
        if self.wire.is_none() {
            gate::print_bytes(bytes);
            return Output::Bytes(bytes.len());
        }
        let (part, _) = split_body(bytes);
        self.plain(part);
        Output::Bytes(part.len())
    }

    fn try_write(&mut self, parts: &[&[u8]]) -> usize {
        let Some(wire) = &mut self.wire else { return 0 };
        match wire.write(parts) {
            Ok(count) => count,
            Err(_) => {
                self.broken = true;
                0
            }
        }
    }

    /// Sends what waits in the outbox; whether it is empty now.
    fn flush(&mut self) -> bool {
        while self.sent < self.outbox.len() && !self.broken {
            let outbox = core::mem::take(&mut self.outbox);
            let count = self.try_write(&[&outbox[self.sent..]]);
            self.outbox = outbox;
            self.sent += count;
            if count == 0 {
                return false;
            }
        }
        self.outbox.clear();
        self.sent = 0;
        true
    }

    /// Whether everything is out.
    fn is_drained(&mut self) -> bool {
        let flushed = self.flush();
        let idle = self.wire.as_mut().is_none_or(|wire| wire.is_idle().unwrap_or(true));
        self.broken || (flushed && idle)
    }
}
