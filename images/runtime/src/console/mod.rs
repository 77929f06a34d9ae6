//! The processes' streams, and what their root says of them: to who started this domain or else over the machine's console, in frames if somebody
//! speaks them, else as plain bytes.

mod process;

use crate::gate;
use crate::report::Report;
use crate::waiting;
use crate::wire::{Lost, Wire};
use abi::Request;
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec;
use alloc::vec::Vec;
use bundle::Terminals;
use bundle::services::Readiness;
use link::{Frame, FromHost, GuestDecoder, Process, Usage, split_body};
use process::Streams;
use runtime::{ProcessId, Rate, System, current};
use spin::Mutex;
use wasi::Errno;
use wasi::provider::{Input, Output, OutputStream, Stream, StreamSet, Terminal};

/// Which event of the virtual CPU is the wire's.
pub const EVENT: u32 = 0;

/// How much input the host may send ahead of a process, in bytes.
const INPUT_BYTES_MAX: usize = 256 << 10;

/// How much input has to be used before more is asked for: so that asking is rare.
const CREDIT_STEP: usize = INPUT_BYTES_MAX / 2;

/// What is read from the wire at once.
const READ_BYTES: usize = 16 << 10;

/// How many commands wait to be carried out before nothing more is read: what the other end says is bounded as well.
const COMMANDS_MAX: usize = 1024;

/// How many bytes may wait for the wire before no process begins that another wants: whoever begins will have its end told.
const OUTBOX_BYTES_MAX: usize = 64 << 10;

/// Ctrl-C on a plain console: the byte that a terminal sends.
const CONTROL_C: u8 = 3;

/// The one console. Whoever has it does not suspend itself, and takes no other lock but that of the processes; no upcall looks at it.
static CONSOLE: Mutex<Option<Console>> = Mutex::new(None);

/// Does something with the console, if there is one. What it holds is bounded, and for all.
pub fn with<T>(operation: impl FnOnce(&mut Console) -> T) -> Option<T> {
    current::uncharged(|| CONSOLE.lock().as_mut().map(operation))
}

/// What the root wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// This process is to begin, with the program of that number.
    Start(Process, u32),
    /// This process is to end.
    Cancel(Process),
    /// The number of a process that another had started can be given again.
    Freed(Process),
    /// Each process is to be told of.
    Measure,
    /// Everything is to end.
    Shutdown,
}

/// Who wanted a process to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The root, or the plan.
    Told,
    /// Another process.
    Spawned {
        /// Which program it is.
        program: u32,
        /// Which process.
        parent: Process,
    },
}

/// How the two ends talk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Talk {
    /// In frames.
    Frames,
    /// One process's bytes, input one way and both outputs the other.
    Plain,
}

pub type AnyWire = Box<dyn Wire + Send>;

/// Opens the console, over `wire` if there is one; else words go to the kernel's log.
pub fn open(system: &'static System, wire: Option<AnyWire>, talk: Talk, terminals: Terminals) {
    let mut console = Console {
        system,
        wire,
        talk,
        decoder: GuestDecoder::new(),
        terminals,
        processes: BTreeMap::new(),
        commands: VecDeque::new(),
        outbox: Vec::new(),
        sent: 0,
        wait_for_room: Vec::new(),
        broken: false,
        scratch: vec![0; READ_BYTES],
    };
    if talk == Talk::Frames {
        console.frame(Process::NONE, Frame::Hello);
    }
    *CONSOLE.lock() = Some(console);
}

/// Says how a process ended, and what it has used. Nothing more is heard of it.
pub fn ended(process: Process, usage: Option<Usage>, report: &Report) {
    let told = with(|console| {
        console.processes.remove(&process);
        match console.talk {
            Talk::Frames => {
                let text = report.message();
                let message = &text[..text.floor_char_boundary(link::EXIT_TEXT_BYTES_MAX)];
                let crash = report.crash.as_ref();
                let crash =
                    crash.map(|crash| Frame::Crash { head: crash.head, body: (*crash.body).as_ref() });
                let exit = Frame::Exit { status: report.status, cause: report.cause, message };
                console.frames(process, usage.map(Frame::Usage).into_iter().chain(crash).chain([exit]));
            }
            Talk::Plain => console.plain(report.text().as_bytes()),
        }
    });
    if told.is_none() {
        gate::print(&report.text());
    }
}

/// Says something that is of no process, to who started this domain.
pub fn log(message: &str) {
    with(|console| console.frame(Process::NONE, Frame::Log(message)));
}

/// Waits until everything that was written is out; `sleep` waits for the wire's event.
pub fn drain(mut sleep: impl FnMut()) {
    while with(Console::is_drained) == Some(false) {
        sleep();
    }
}

/// Sleeps in the kernel until something happens on the wire, or until `deadline_ns` on the kernel's clock, and sees to
/// what happened.
pub fn sleep(system: &System, deadline_ns: u64) {
    if gate::wait(system, deadline_ns) & 1 << EVENT != 0 {
        with(Console::on_event);
    }
}

/// Takes the event, if it has come: so the next one is told again.
pub fn look(system: &System) {
    sleep(system, 0);
}

/// The streams of all processes.
pub struct Console {
    system: &'static System,
    wire: Option<AnyWire>,
    talk: Talk,
    decoder: GuestDecoder,
    terminals: Terminals,
    processes: BTreeMap<Process, Streams>,
    /// What the root wants and has not got yet.
    commands: VecDeque<Command>,
    /// The rest of a frame that the wire had no room for; nothing else may be sent before it.
    outbox: Vec<u8>,
    sent: usize,
    /// Who waits until the outbox is empty.
    wait_for_room: Vec<ProcessId>,
    /// The wire or the host does not keep to the protocol: nothing more comes or goes.
    broken: bool,
    scratch: Vec<u8>,
}

impl Console {
    /// A process begins, which may write so many bytes in a second.
    pub fn begin(&mut self, process: Process, id: ProcessId, bytes_per_s: Option<u64>, origin: Origin) {
        let rate = bytes_per_s.map(|bytes_per_s| Rate::new(bytes_per_s, self.system.now_ns()));
        let streams = Streams::new(id, rate);
        match (self.talk, origin) {
            (Talk::Frames, Origin::Told) => {
                self.processes.insert(process, streams);
                self.frame(process, Frame::Started);
                self.grant(process, INPUT_BYTES_MAX);
            }
            (Talk::Frames, Origin::Spawned { program, parent }) => {
                self.processes.insert(process, streams.without_input());
                self.frame(process, Frame::Spawned { program, parent });
            }
            (Talk::Plain, _) => {
                self.processes.insert(process, streams);
                self.pump();
            }
        }
    }

    /// The next thing that the root wants.
    pub fn command(&mut self) -> Option<Command> {
        self.pump();
        self.commands.pop_front()
    }

    /// Adds something that is wanted of us.
    pub fn add(&mut self, command: Command) {
        self.commands.push_back(command);
    }

    /// What the wire is waited for.
    pub fn wants(&self) -> Readiness {
        if self.outbox.is_empty() { Readiness::READ } else { Readiness::READ.union(Readiness::WRITE) }
    }

    /// Whether so much waits for the wire that whoever can be made to wait is.
    pub fn is_behind(&mut self) -> bool {
        !self.flush() && self.outbox.len() - self.sent > OUTBOX_BYTES_MAX
    }

    /// Whether nobody is at the other end any more.
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    /// How much a process has written.
    pub fn written(&self, process: Process) -> u64 {
        self.processes.get(&process).map_or(0, |streams| streams.written)
    }

    /// Tells what a process uses.
    pub fn tell_usage(&mut self, process: Process, usage: Usage) {
        self.frame(process, Frame::Usage(usage));
    }

    /// Takes input for a process.
    pub fn read(&mut self, process: Process, into: &mut [u8]) -> Input {
        self.pump();
        let broken = self.broken;
        let Some(streams) = self.processes.get_mut(&process) else { return Input::End };
        let count = streams.take(into);
        if count == 0 {
            return if streams.allowed.has_ended() || broken { Input::End } else { Input::NotReady };
        }
        let used = streams.used;
        if used >= CREDIT_STEP && self.flush() {
            self.processes.entry(process).and_modify(|streams| streams.used = 0);
            self.grant(process, used);
        }
        Input::Bytes(count)
    }

    /// Sends output of a process.
    pub fn write(&mut self, process: Process, to: OutputStream, bytes: &[u8]) -> Result<Output, Errno> {
        self.pump();
        let Some(streams) = self.processes.get_mut(&process) else { return Err(Errno::Pipe) };
        if self.broken || streams.closed.has(to.into()) {
            return Err(Errno::Pipe);
        }
        if !self.flush() {
            return Ok(Output::NotReady);
        }
        let Some(streams) = self.processes.get_mut(&process) else { return Err(Errno::Pipe) };
        let room = streams.room(self.system.now_ns());
        if room == 0 && !bytes.is_empty() {
            if !core::mem::replace(&mut streams.throttled, true) && self.talk == Talk::Frames {
                self.frame(process, Frame::Throttled);
            }
            return Ok(Output::NotReady);
        }
        let (body, _) = split_body(&bytes[..bytes.len().min(room)]);
        if self.talk == Talk::Plain {
            streams.wrote(body.len());
            return Ok(self.plain_part(body));
        }
        let spent = streams.credit(to).spend(body.len());
        let body = &body[..spent];
        if body.is_empty() && !bytes.is_empty() {
            return Ok(Output::NotReady);
        }
        streams.wrote(body.len());
        match to {
            OutputStream::Output => self.frame(process, Frame::Stdout(body)),
            OutputStream::Error => self.frame(process, Frame::Stderr(body)),
        }
        Ok(Output::Bytes(body.len()))
    }

    /// Which of `streams` would not say that they are not ready. If none would, the process is woken when one may.
    pub fn ready(&mut self, process: Process, streams: StreamSet) -> StreamSet {
        self.pump();
        let room = self.flush() || self.broken;
        let Some(own) = self.processes.get_mut(&process) else { return streams };
        let ready = own.ready(room, self.broken, self.system.now_ns()).intersection(streams);
        if ready.is_empty() && !room && !self.wait_for_room.contains(&own.id) {
            self.wait_for_room.push(own.id);
        }
        ready
    }

    /// When [`Self::ready`] may answer otherwise because of the time alone.
    pub fn again_ns(&mut self, process: Process) -> u64 {
        let now_ns = self.system.now_ns();
        self.processes.get_mut(&process).map_or(Request::NEVER, |streams| streams.again_ns(now_ns))
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

    /// Takes note of the wire's event.
    pub fn on_event(&mut self) {
        if let Some(wire) = &mut self.wire {
            self.broken |= wire.on_event().is_err();
        }
        self.pump();
        let has_room = self.flush() || self.broken;
        if has_room && !self.wait_for_room.is_empty() {
            let mut processes = self.system.processes().lock();
            self.wait_for_room.drain(..).for_each(|id| processes.wake(self.system, id, 0));
        }
    }

    /// Takes in what has come, as long as there is room for it.
    fn pump(&mut self) {
        let mut scratch = core::mem::take(&mut self.scratch);
        while !self.broken && self.has_room() {
            let Some(wire) = &mut self.wire else { break };
            match wire.read(&mut scratch) {
                Ok(count) => {
                    self.take_in(&scratch[..count]);
                    if count < scratch.len() {
                        break;
                    }
                }
                Err(Lost) => self.lose(),
            }
        }
        self.scratch = scratch;
    }

    fn has_room(&self) -> bool {
        match self.talk {
            Talk::Frames => self.commands.len() < COMMANDS_MAX,
            // Nobody asked for what comes; and before there is a process nobody wants it.
            Talk::Plain => {
                self.processes.values().next().is_some_and(|streams| streams.held() < INPUT_BYTES_MAX)
            }
        }
    }

    fn take_in(&mut self, mut bytes: &[u8]) {
        if self.talk == Talk::Plain {
            if bytes.contains(&CONTROL_C) {
                self.want(Command::Cancel(Process::FIRST));
            }
            if let Some(streams) = self.processes.get_mut(&Process::FIRST) {
                streams.keep(bytes.iter().copied().filter(|byte| *byte != CONTROL_C));
            }
            return self.wake(Process::FIRST);
        }
        while !self.broken {
            match self.decoder.next(&mut bytes) {
                Ok(Some((process, event))) => match self.hear(process, event) {
                    Ok(()) => {}
                    Err(_) => self.lose(),
                },
                Ok(None) => return,
                Err(_) => self.lose(),
            }
        }
    }

    fn hear(&mut self, process: Process, event: FromHost<'_>) -> Result<(), link::Error> {
        match event {
            FromHost::Start { program } => self.want(Command::Start(process, program)),
            FromHost::Cancel => self.want(Command::Cancel(process)),
            FromHost::Freed => self.want(Command::Freed(process)),
            FromHost::Measure => self.want(Command::Measure),
            FromHost::Shutdown => self.want(Command::Shutdown),
            stream => {
                // It may have ended, and who speaks cannot know that yet.
                let Some(streams) = self.processes.get_mut(&process) else { return Ok(()) };
                streams.hear(stream)?;
                self.wake(process);
            }
        }
        Ok(())
    }

    /// Takes note of what the root wants, for the first virtual CPU to do.
    fn want(&mut self, command: Command) {
        self.commands.push_back(command);
        self.system.call_first();
    }

    /// If the process waits, it looks again.
    fn wake(&self, process: Process) {
        if let Some(streams) = self.processes.get(&process) {
            self.system.processes().lock().wake(self.system, streams.id, 0);
        }
    }

    /// Nothing more comes or goes: whoever waits for it hears that.
    fn lose(&mut self) {
        self.broken = true;
        let mut processes = self.system.processes().lock();
        self.processes.values().for_each(|streams| processes.wake(self.system, streams.id, 0));
    }

    /// Lets the host send `bytes` more.
    fn grant(&mut self, process: Process, bytes: usize) {
        let bytes = bytes as u32;
        if self.talk == Talk::Frames
            && let Some(streams) = self.processes.get_mut(&process)
        {
            streams.allowed.grant(bytes);
            self.frame(process, Frame::StdinCredit { bytes });
        }
    }

    /// Sends a frame; what the wire has no room for waits in the outbox.
    fn frame(&mut self, process: Process, frame: Frame<'_>) {
        // Nothing here is longer than a frame can be, but the message of an exit might.
        let Ok(head) = frame.head(process) else { return };
        let parts = [head.as_ref(), frame.body()];
        let taken = if self.flush() { self.try_write(&parts) } else { 0 };
        let in_body = taken.saturating_sub(parts[0].len());
        self.outbox.extend_from_slice(&parts[0][taken.min(parts[0].len())..]);
        self.outbox.extend_from_slice(&parts[1][in_body..]);
        self.have_rest_sent();
    }

    /// Sends several at once.
    fn frames<'f>(&mut self, process: Process, frames: impl Iterator<Item = Frame<'f>>) {
        for frame in frames {
            if let Ok(head) = frame.head(process) {
                self.outbox.extend_from_slice(head.as_ref());
                self.outbox.extend_from_slice(frame.body());
            }
        }
        self.flush();
        self.have_rest_sent();
    }

    /// Sends plain bytes, all of them: the wire's rest waits in the outbox.
    fn plain(&mut self, bytes: &[u8]) {
        if self.wire.is_none() {
            return gate::print(core::str::from_utf8(bytes).unwrap_or_default());
        }
        let taken = if self.flush() { self.try_write(&[bytes]) } else { 0 };
        self.outbox.extend_from_slice(&bytes[taken..]);
        self.have_rest_sent();
    }

    /// If something is left in the outbox, the first virtual CPU waits for the wire.
    fn have_rest_sent(&self) {
        if !self.outbox.is_empty() {
            self.system.call_first();
        }
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
            Err(Lost) => {
                self.lose();
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

/// A process's standard streams.
pub struct Standard(pub Process);

impl wasi::provider::Streams for Standard {
    fn read(&mut self, into: &mut [u8]) -> wasi::Result<Input> {
        with(|console| console.read(self.0, into)).ok_or(Errno::Io.into())
    }

    fn write(&mut self, to: OutputStream, bytes: &[u8]) -> wasi::Result<Output> {
        Ok(with(|console| console.write(self.0, to, bytes)).ok_or(Errno::Io)??)
    }

    fn terminal(&mut self, stream: Stream) -> wasi::Result<Terminal> {
        Ok(with(|console| console.terminal(stream)).unwrap_or(Terminal::No))
    }
}

/// Which of a process's standard streams are ready.
#[derive(Clone, Copy)]
pub struct Ready(pub Process);

impl waiting::Ready for Ready {
    fn of(&mut self, streams: StreamSet) -> StreamSet {
        with(|console| console.ready(self.0, streams)).unwrap_or(streams)
    }

    fn again_ns(&mut self) -> u64 {
        with(|console| console.again_ns(self.0)).unwrap_or(Request::NEVER)
    }
}
