//! The link to a domain's library OS, in the frames of `link`: bytes in and out on one side, events and what is wanted on the other.

use crate::crash::crash;
use crate::event::{DomainId, Event, ProcessId};
use alloc::collections::VecDeque;
use alloc::vec;
use alloc::vec::Vec;
use control::{End, Memory, ProcessUsage, Stream};
use link::{Error, Frame, FromGuest, HostDecoder, Kind, OUTPUT_BYTES_MAX};

/// How much a process has to write before it is given new credit: so that giving is rare.
const CREDIT_STEP: u32 = OUTPUT_BYTES_MAX / 4;
/// Frames are made when those before are sent, up to about so many bytes at a time.
const OUT_BYTES: usize = 4 << 10;

/// The root's end of the link to a domain that runs. What it keeps is bounded by the number of the domain's processes, whatever
/// the domain says and however little it listens.
#[derive(Debug)]
pub struct DomainLink {
    domain: DomainId,
    decoder: HostDecoder,
    /// By their numbers: those that are started from here, then those that the domain starts by itself.
    processes: Vec<Process>,
    /// How many of them are of the first kind.
    own: usize,
    /// The first number that the domain has not used: it takes this one next, or one that it has used.
    fresh: usize,
    /// To which there is something to say.
    waiting: VecDeque<u32>,
    measure: Wish,
    shutdown: Wish,
    /// The body of a report on a process, as far as it has come: no longer than a frame.
    crash: Vec<u8>,
    /// What is to be sent, from `sent` on.
    out: Vec<u8>,
    sent: usize,
}

/// A process, as far as the link is concerned.
#[derive(Clone, Copy, Debug)]
struct Process {
    step: Step,
    cancel: Wish,
    /// That its end was heard, if the domain has given it its number.
    freed: Wish,
    /// What it has written since it was given credit, to either stream.
    written: [u32; 2],
    is_waiting: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// There is none.
    Free,
    /// This program is to be started.
    Wanted(u32),
    /// It was said that it is to start.
    Told,
    /// It has said that it runs.
    Started,
}

impl Process {
    const FREE: Self =
        Self { step: Step::Free, cancel: Wish::No, freed: Wish::No, written: [0; 2], is_waiting: false };
}

/// Whether something is to be said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    No,
    Yes,
}

impl DomainLink {
    /// For a domain that has just been started, has so many processes of its own, and as many numbers for others that those start.
    pub fn new(domain: DomainId, processes: usize, children: usize) -> Self {
        Self {
            domain,
            decoder: HostDecoder::new(),
            processes: vec![Process::FREE; processes + children],
            own: processes,
            fresh: processes,
            waiting: VecDeque::new(),
            measure: Wish::No,
            shutdown: Wish::No,
            crash: Vec::new(),
            out: Vec::new(),
            sent: 0,
        }
    }

    /// [`crate::Effect::StartProcess`]: it reads nothing.
    pub fn start(&mut self, process: ProcessId, program: u32) {
        self.wish(process.number, |process| {
            if process.step == Step::Free {
                *process =
                    Process { step: Step::Wanted(program), is_waiting: process.is_waiting, ..Process::FREE };
            }
        });
    }

    /// [`crate::Effect::EndProcess`].
    pub fn end(&mut self, process: ProcessId) {
        self.wish(process.number, |process| process.cancel = Wish::Yes);
    }

    /// [`crate::Effect::EndDomain`], gracefully.
    pub fn shut_down(&mut self) {
        self.shutdown = Wish::Yes;
    }

    /// [`crate::Effect::Measure`], as far as processes are concerned.
    pub fn measure(&mut self) {
        self.measure = Wish::Yes;
    }

    /// Is there something to send?
    pub fn is_busy(&self) -> bool {
        !self.out.is_empty() || !self.waiting.is_empty() || [self.measure, self.shutdown].contains(&Wish::Yes)
    }

    /// What is to be sent next; empty if there is nothing.
    pub fn unsent(&mut self) -> &[u8] {
        if self.out.is_empty() {
            self.fill();
        }
        &self.out[self.sent..]
    }

    /// So many bytes of that were sent.
    pub fn sent(&mut self, count: usize) {
        self.sent += count;
        if self.sent >= self.out.len() {
            self.out.clear();
            self.sent = 0;
        }
    }

    /// Takes what the domain has said, in whatever pieces.
    ///
    /// # Errors
    /// It is not to be believed any more, and has to be ended. What it said before was told.
    pub fn take(&mut self, mut bytes: &[u8], tell: &mut impl FnMut(Event<'_>)) -> Result<(), Error> {
        while let Some((process, said)) = self.decoder.next(&mut bytes)? {
            match said {
                FromGuest::Hello => {}
                FromGuest::Log(bytes) => tell(Event::DomainWrote { domain: self.domain, bytes }),
                FromGuest::Spawned { program, parent } => self.spawned(process, program, parent, tell)?,
                said => self.hear(process, said, tell)?,
            }
        }
        Ok(())
    }

    /// What its library OS has left to be read when it had ended: any bytes.
    pub fn take_last_words(&self, bytes: &[u8], tell: &mut impl FnMut(Event<'_>)) {
        if !bytes.is_empty() {
            tell(Event::DomainWrote { domain: self.domain, bytes });
        }
    }

    fn spawned(
        &mut self,
        process: link::Process,
        program: u32,
        link::Process(parent): link::Process,
        tell: &mut impl FnMut(Event<'_>),
    ) -> Result<(), Error> {
        let number = process.0 as usize;
        let is_childs = (self.own..=self.fresh).contains(&number);
        let place = self.processes.get_mut(number).filter(|_| is_childs);
        let place = place.ok_or(Error::NoSuchProcess(process))?;
        if place.step != Step::Free || place.freed == Wish::Yes {
            return Err(Error::OutOfOrder(Kind::Spawned));
        }
        *place = Process { step: Step::Started, is_waiting: place.is_waiting, ..Process::FREE };
        self.fresh = self.fresh.max(number + 1);
        let process = ProcessId { domain: self.domain, number: process.0 };
        tell(Event::Spawned { process, program, parent });
        Ok(())
    }

    fn hear(
        &mut self,
        link::Process(number): link::Process,
        said: FromGuest<'_>,
        tell: &mut impl FnMut(Event<'_>),
    ) -> Result<(), Error> {
        let process = self.processes.get_mut(number as usize);
        let process = process.filter(|process| matches!(process.step, Step::Told | Step::Started));
        let process = process.ok_or(Error::NoSuchProcess(link::Process(number)))?;
        let id = ProcessId { domain: self.domain, number };
        match said {
            FromGuest::Started if process.step == Step::Told => {
                process.step = Step::Started;
                tell(Event::Started(id));
            }
            FromGuest::Started => return Err(Error::OutOfOrder(Kind::Started)),
            FromGuest::Stdout(bytes) => {
                self.wrote(number, 0, bytes.len());
                tell(Event::Wrote { process: id, stream: Stream::Output, bytes });
            }
            FromGuest::Stderr(bytes) => {
                self.wrote(number, 1, bytes.len());
                tell(Event::Wrote { process: id, stream: Stream::Error, bytes });
            }
            FromGuest::ExitMessage(bytes) => {
                tell(Event::Wrote { process: id, stream: Stream::Error, bytes });
            }
            // Nothing else comes between the pieces of a frame.
            FromGuest::CrashBody(bytes) => self.crash.extend_from_slice(bytes),
            FromGuest::Crash(head) => {
                let body = core::mem::take(&mut self.crash);
                tell(Event::Crashed(id, crash(&link::Crash::read(head, &body)?)));
            }
            FromGuest::Throttled => tell(Event::Throttled(id)),
            FromGuest::Usage(usage) => tell(Event::Measured(id, used(usage))),
            FromGuest::Exit { status, .. } => {
                process.step = Step::Free;
                process.cancel = Wish::No;
                if number as usize >= self.own {
                    self.wish(number, |process| process.freed = Wish::Yes);
                }
                tell(Event::Ended(id, End::Exited { status }));
            }
            // It is told that there is nothing to read.
            FromGuest::StdinCredit { .. }
            | FromGuest::Hello
            | FromGuest::Log(_)
            | FromGuest::Spawned { .. } => {}
        }
        Ok(())
    }

    /// Nothing depends on its keeping to its credit: a log takes what there is room for, and the root as much time as
    /// [`crate::Attention`] gives it.
    fn wrote(&mut self, number: u32, stream: usize, count: usize) {
        let written = &mut self.processes[number as usize].written[stream];
        *written = written.saturating_add(u32::try_from(count).unwrap_or(u32::MAX));
        if *written >= CREDIT_STEP {
            self.wish(number, |_| ());
        }
    }

    /// There is something to say to a process.
    fn wish(&mut self, number: u32, wish: impl FnOnce(&mut Process)) {
        let Some(process) = self.processes.get_mut(number as usize) else { return };
        wish(process);
        if !core::mem::replace(&mut process.is_waiting, true) {
            self.waiting.push_back(number);
        }
    }

    fn fill(&mut self) {
        while self.out.len() < OUT_BYTES
            && let Some(number) = self.waiting.pop_front()
        {
            self.say_to(number);
        }
        for (wish, frame) in [(&mut self.measure, Frame::Measure), (&mut self.shutdown, Frame::Shutdown)] {
            if core::mem::replace(wish, Wish::No) == Wish::Yes {
                say(&mut self.out, link::Process::NONE, frame);
            }
        }
    }

    fn say_to(&mut self, number: u32) {
        let process = &mut self.processes[number as usize];
        let mut say = |frame| say(&mut self.out, link::Process(number), frame);
        process.is_waiting = false;
        if let Step::Wanted(program) = process.step {
            process.step = Step::Told;
            say(Frame::Start { program });
            say(Frame::StdinEnd);
        }
        if core::mem::replace(&mut process.freed, Wish::No) == Wish::Yes {
            say(Frame::Freed);
        }
        if process.step == Step::Free {
            return;
        }
        if core::mem::replace(&mut process.cancel, Wish::No) == Wish::Yes {
            say(Frame::Cancel);
        }
        let [output, error] = &mut process.written;
        if *output >= CREDIT_STEP {
            say(Frame::StdoutCredit { bytes: core::mem::take(output) });
        }
        if *error >= CREDIT_STEP {
            say(Frame::StderrCredit { bytes: core::mem::take(error) });
        }
    }
}

fn say(out: &mut Vec<u8>, process: link::Process, frame: Frame<'_>) {
    // None of them has a body, so none can be too long.
    if let Ok(head) = frame.head(process) {
        out.extend_from_slice(head.as_ref());
    }
}

fn used(usage: link::Usage) -> ProcessUsage {
    ProcessUsage {
        memory: Memory { used_bytes: usage.memory_bytes, peak_bytes: usage.memory_bytes },
        host_bytes: usage.host_bytes,
        cpu_ns: usage.cpu_ns,
        switches: usage.switches,
        migrations: usage.migrations,
    }
}
