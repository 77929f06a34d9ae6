//! The program's streams over the machine's console: in frames if somebody speaks them, else as plain bytes.

use super::device::{Dma, Function, Window};
use crate::gate;
use crate::report::Report;
use abi::boot::{DeviceKind, DeviceRecord};
use abi::{BootInfo, Handle, Request};
use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use bundle::{Console as Mode, Terminals};
use link::{Credit, Frame, FromHost, GuestDecoder, split_body};
use runtime::System;
use spin::Mutex;
use virtio::{Console, DeviceType, Interrupts, Port, Transport};
use wasi::Errno;
use wasi::provider::{Input, Output, OutputStream, Stream, StreamSet, Terminal};

/// Which event of the virtual CPU is the console's interrupt.
const EVENT: u32 = 0;

/// How much input the host may send ahead of the program, in bytes.
const INPUT_BYTES_MAX: usize = 256 << 10;

/// How much input has to be used before more is asked for: so that asking is rare.
const CREDIT_STEP: usize = INPUT_BYTES_MAX / 2;

/// What is read from the device at once.
const READ_BYTES: usize = 16 << 10;

/// How long a device with several ports may take to name the one that is used. QEMU does it as soon as it is asked to.
const PORT_WAIT_NS: u64 = 1_000_000_000;

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
    let records = &boot.devices[..(boot.device_count as usize).min(boot.devices.len())];
    let mut device = None;
    for record in records {
        device = Device::open(system, record)?;
        if device.is_some() {
            break;
        }
    }
    let (talk, terminals) = match (mode, &device) {
        (Mode::Framed(terminals), Some(_)) => (Talk::Frames(GuestDecoder::new()), terminals),
        (Mode::Framed(_), None) => return Err(String::from("it has no virtio console")),
        (Mode::Raw, _) => (Talk::Plain, Terminals::all(bundle::Terminal::Yes)),
        (Mode::Host, _) => return Err(String::from("the bundle was made for a Linux process")),
    };
    let mut channel = Channel {
        device,
        talk,
        terminals,
        input: VecDeque::new(),
        used: 0,
        input_ended: false,
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

/// Sleeps in the kernel until something happens on the console, or until `deadline_ns` on the kernel's clock, and sees to
/// what happened.
pub fn sleep(system: &System, deadline_ns: u64) {
    if wait(system, deadline_ns) {
        with(Channel::interrupted);
    }
}

/// Sleeps in the kernel; whether the console's interrupt came.
fn wait(system: &System, deadline_ns: u64) -> bool {
    let wait = Request::Wait { vcpu: gate::vcpu(), deadline_ns };
    system.kernel().call(wait).is_ok_and(|events| events & 1 << EVENT != 0)
}

/// The virtio console and its interrupt.
struct Device {
    system: &'static System,
    handle: Handle,
    console: Console<Window, Dma>,
}

impl Device {
    /// Opens the device if it is a console with a port; says so if it should be one and cannot be used.
    fn open(system: &'static System, record: &DeviceRecord) -> Result<Option<Self>, String> {
        let (transport, interrupts) = match record.kind {
            DeviceKind::VirtioMmio => {
                let Some(window) = Window::map(system, record, 0) else { return Ok(None) };
                (Transport::mmio(window), Interrupts::Line)
            }
            DeviceKind::Pci => (Transport::pci(&Function { system, record }), Interrupts::Vector(0)),
            DeviceKind::None | DeviceKind::RealTimeClock => return Ok(None),
        };
        let Ok(transport) = transport else { return Ok(None) };
        if transport.device_type() != DeviceType::CONSOLE {
            return Ok(None);
        }
        let memory = Dma::take(system, record, Console::<Window, Dma>::MEMORY_BYTES)
            .ok_or("there is no memory for its console")?;
        let listen = Request::Listen { source: record.handle, index: 0, vcpu: gate::vcpu(), event: EVENT };
        system.kernel().call(listen).map_err(|error| format!("no interrupts of its console: {error:?}"))?;
        let opened = Console::open(transport, interrupts, memory)
            .and_then(|console| Self { system, handle: record.handle, console }.with_port());
        opened.map_err(|error| format!("its console cannot be used: {error}"))
    }

    /// Waits until the device has named the port that is used, if it has several. In its place port 0 will do.
    fn with_port(mut self) -> Result<Option<Self>, virtio::Error> {
        let deadline_ns = self.system.now_ns().saturating_add(PORT_WAIT_NS);
        while self.console.port() != Port::Open && self.system.now_ns() < deadline_ns {
            if wait(self.system, deadline_ns) {
                self.on_interrupt()?;
            }
        }
        match self.console.port() {
            Port::Open => Ok(Some(self)),
            Port::UnnamedButZero => {
                let console = self.console.reopen_with_port_0()?;
                Ok(Some(Self { console, ..self }))
            }
            Port::Unnamed => Ok(None),
        }
    }

    /// Takes note of an interrupt and lets the next one come.
    fn on_interrupt(&mut self) -> Result<(), virtio::Error> {
        let result = self.console.on_interrupt();
        let acknowledge = Request::Acknowledge { device: self.handle, index: 0 };
        let _ = self.system.kernel().call(acknowledge);
        result
    }
}

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
    device: Option<Device>,
    talk: Talk,
    terminals: Terminals,
    input: VecDeque<u8>,
    /// Input that the program has taken since the host was last told.
    used: usize,
    input_ended: bool,
    /// Output streams that nobody reads any more.
    closed: StreamSet,
    /// How much the host has room for, if it speaks frames.
    credit: PerOutput<Credit>,
    cancelled: bool,
    /// The rest of a frame that the device had no room for; nothing else may be sent before it.
    outbox: Vec<u8>,
    sent: usize,
    /// The device or the host does not keep to the protocol: nothing more comes or goes.
    broken: bool,
    scratch: Vec<u8>,
}

impl Channel {
    /// Takes input for the program.
    pub fn read(&mut self, into: &mut [u8]) -> Input {
        self.pump();
        if self.input.is_empty() {
            return if self.input_ended || self.broken { Input::End } else { Input::NotReady };
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
        if !self.input.is_empty() || self.input_ended || self.broken {
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

    /// Takes note of an interrupt.
    fn interrupted(&mut self) {
        if let Some(device) = &mut self.device {
            self.broken |= device.on_interrupt().is_err();
        }
        self.pump();
    }

    /// Takes in what has come, as long as there is room for it.
    fn pump(&mut self) {
        let mut scratch = core::mem::take(&mut self.scratch);
        while !self.broken && (matches!(self.talk, Talk::Frames(_)) || self.input.len() < INPUT_BYTES_MAX) {
            let Some(device) = &mut self.device else { break };
            match device.console.read(&mut scratch) {
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
        let Talk::Frames(decoder) = &mut self.talk else {
            self.cancelled |= bytes.contains(&CONTROL_C);
            self.input.extend(bytes.iter().filter(|byte| **byte != CONTROL_C));
            return;
        };
        loop {
            match decoder.next(&mut bytes) {
                Ok(Some(FromHost::StdinData(bytes))) => self.input.extend(bytes),
                Ok(Some(FromHost::StdinEnd)) => self.input_ended = true,
                Ok(Some(FromHost::Cancel)) => self.cancelled = true,
                Ok(Some(FromHost::StdoutClosed)) => self.closed = self.closed.union(StreamSet::OUTPUT),
                Ok(Some(FromHost::StderrClosed)) => self.closed = self.closed.union(StreamSet::ERROR),
                Ok(Some(FromHost::StdoutCredit { bytes })) => self.credit.output.grant(bytes),
                Ok(Some(FromHost::StderrCredit { bytes })) => self.credit.error.grant(bytes),
                Ok(None) => return,
                Err(_) => {
                    self.broken = true;
                    return;
                }
            }
        }
    }

    /// Lets the host send `bytes` more.
    fn grant(&mut self, bytes: usize) {
        let bytes = bytes as u32;
        if let Talk::Frames(decoder) = &mut self.talk {
            decoder.grant(bytes);
            self.frame(Frame::StdinCredit { bytes });
        }
    }

    /// Sends a frame; what the device has no room for waits in the outbox.
    fn frame(&mut self, frame: Frame<'_>) {
        // Nothing here is longer than a frame can be, but the message of an exit might.
        let Ok(head) = frame.head() else { return };
        let parts = [head.as_ref(), frame.body()];
        let taken = if self.flush() { self.try_write(&parts) } else { 0 };
        let in_body = taken.saturating_sub(parts[0].len());
        self.outbox.extend_from_slice(&parts[0][taken.min(parts[0].len())..]);
        self.outbox.extend_from_slice(&parts[1][in_body..]);
    }

    /// Sends plain bytes, all of them: the device's rest waits in the outbox.
    fn plain(&mut self, bytes: &[u8]) {
        if self.device.is_none() {
            return gate::print(core::str::from_utf8(bytes).unwrap_or_default());
        }
        let taken = if self.flush() { self.try_write(&[bytes]) } else { 0 };
        self.outbox.extend_from_slice(&bytes[taken..]);
    }

    /// Sends some plain bytes. What the device has no room for waits in the outbox, as frames do: an empty outbox is
    /// what says that there may be room.
    fn plain_part(&mut self, bytes: &[u8]) -> Output {
        if self.device.is_none() {
            gate::print_bytes(bytes);
            return Output::Bytes(bytes.len());
        }
        let (part, _) = split_body(bytes);
        self.plain(part);
        Output::Bytes(part.len())
    }

    fn try_write(&mut self, parts: &[&[u8]]) -> usize {
        let Some(device) = &mut self.device else { return 0 };
        match device.console.try_write_parts(parts) {
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
        let idle = self.device.as_mut().is_none_or(|device| device.console.tx_idle().unwrap_or(true));
        self.broken || (flushed && idle)
    }
}
