//! A domain as a process of this one: its wire, its pipes, its end, what it uses.

use super::ready::Ready;
use super::wire::{Hearing, Wire};
use control::{Counters, End, How, Memory, Usage};
use hosted::domain::{Domain, Reason, Running};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use signal_hook::low_level::signal_name;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use supervisor::{Attention, DomainId, DomainLink, Event, ProcessId};

/// What is read of one stream before others have their turn.
const TURN_BYTES: usize = 16 << 10;
/// What a stream may still hold when nobody writes to it any more (`/proc/sys/fs/pipe-max-size`), and no more is read.
const REST_BYTES: usize = 1 << 20;

/// A domain, which may be running.
#[derive(Debug)]
pub struct Process {
    id: DomainId,
    domain: Domain,
    /// How many processes it may have of its own, and how many numbers for those that they start.
    processes: [usize; 2],
    /// What it has had of this process's time, in all its runs.
    attention: Attention,
    run: Option<Run>,
}

#[derive(Debug)]
struct Run {
    running: Running,
    wire: Wire,
    pipes: Vec<Pipe>,
    /// What it did that it may not.
    broke: Option<link::Error>,
}

/// The end of a standard stream that is read. The library OS's processes write to the wire: what comes here is of what runs them.
#[derive(Debug)]
struct Pipe(File);

/// Whether a stream goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rest {
    /// It may.
    Open,
    /// It has ended.
    Closed,
}

impl Process {
    /// Not running.
    pub fn new(id: DomainId, domain: Domain, processes: [usize; 2], attention: Attention) -> Self {
        Self { id, domain, processes, attention, run: None }
    }

    /// Starts it, in a process group of its own: Ctrl-C on the terminal is for the root alone, which knows in which order
    /// things end. Answers its number.
    pub fn start(&mut self) -> io::Result<u32> {
        let mut command = Command::new("/proc/self/exe");
        command.arg("__domain").env_clear().process_group(0).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut running = self.domain.start(&mut command)?;
        let wire = running.take_wire().ok_or(ErrorKind::NotConnected)?;
        let [own, children] = self.processes;
        let wire = Wire::new(wire, DomainLink::new(self.id, own, children))?;
        let output = running.take_output().map(OwnedFd::from);
        let errors = running.take_errors().map(OwnedFd::from);
        let pipes = output.into_iter().chain(errors).map(Pipe::new).collect::<io::Result<_>>()?;
        let id = running.id();
        self.run = Some(Run { running, wire, pipes, broke: None });
        Ok(id)
    }

    /// Ends it, if it runs.
    pub fn end(&mut self, how: How) {
        let Some(run) = &mut self.run else { return };
        match how {
            How::Gracefully => run.wire.link.shut_down(),
            How::AtOnce => run.kill(),
        }
    }

    /// Starts a process in it, if it runs.
    pub fn start_process(&mut self, process: ProcessId, program: u32) {
        if let Some(run) = &mut self.run {
            run.wire.link.start(process, program);
        }
    }

    /// Ends a process in it.
    pub fn end_process(&mut self, process: ProcessId) {
        if let Some(run) = &mut self.run {
            run.wire.link.end(process);
        }
    }

    /// Has it say what its processes use.
    pub fn measure_processes(&mut self) {
        if let Some(run) = &mut self.run {
            run.wire.link.measure();
        }
    }

    /// What to wait for.
    pub fn wait_for<'a>(&'a self, now_ns: u64, entries: &mut Vec<PollFd<'a>>) {
        let Some(run) = &self.run else { return };
        let hearing = self.hearing(now_ns);
        entries.push(PollFd::from_borrowed_fd(run.running.as_fd(), PollFlags::IN));
        run.wire.wait_for(hearing, entries);
        if hearing == Hearing::Now {
            entries.extend(run.pipes.iter().map(|Pipe(file)| PollFd::new(file, PollFlags::IN)));
        }
    }

    /// When it is to be waited for again, if it has said more than there was time for.
    pub fn due_ns(&self, now_ns: u64) -> Option<u64> {
        let is_waiting = self.run.is_some() && self.hearing(now_ns) == Hearing::NotYet;
        is_waiting.then(|| self.attention.due_ns())
    }

    fn hearing(&self, now_ns: u64) -> Hearing {
        if self.attention.due_ns() <= now_ns { Hearing::Now } else { Hearing::NotYet }
    }

    /// Is there something to be heard or said?
    pub fn is_ready(&self, ready: &Ready) -> bool {
        let is_ready =
            |run: &Run| ready.has(run.wire.stream()) || run.pipes.iter().any(|Pipe(file)| ready.has(file));
        self.run.as_ref().is_some_and(is_ready)
    }

    /// It has taken so long to hear it.
    pub fn took(&mut self, took_ns: u64, now_ns: u64) {
        self.attention.took(took_ns, now_ns);
    }

    /// Hears what it says, at most a turn's worth of each stream, and says what there is to say.
    pub fn advance(&mut self, ready: &Ready, now_ns: u64, tell: &mut impl FnMut(Event<'_>)) {
        let hearing = self.hearing(now_ns);
        let Some(run) = &mut self.run else { return };
        if ready.has(run.wire.stream())
            && let Err(error) = run.wire.advance(hearing, tell)
        {
            run.broke = Some(error);
            run.kill();
        }
        let domain = self.id;
        let mut wrote = |bytes: &[u8]| tell(Event::DomainWrote { domain, bytes });
        run.pipes.retain_mut(|pipe| !ready.has(&pipe.0) || pipe.read(TURN_BYTES, &mut wrote) == Rest::Open);
    }

    /// If it has ended: hears the rest of what it has said, and answers how it ended, with what it had used in all.
    pub fn take_end(&mut self, ready: &Ready, tell: &mut impl FnMut(Event<'_>)) -> Option<(End, Usage)> {
        let domain = self.id;
        let run = self.run.as_mut().filter(|run| ready.has(&run.running))?;
        // Until somebody asks how it ended, Linux keeps its account.
        let counters = counters(run.running.id());
        let ended = run.running.try_wait();
        let end = match ended {
            Ok(None) => return None,
            Ok(Some(end)) => Ok(end.clone()),
            Err(error) => Err(error),
        };
        run.wire.finish(tell);
        for pipe in &mut run.pipes {
            pipe.read(REST_BYTES, &mut |bytes| tell(Event::DomainWrote { domain, bytes }));
        }
        let broke = run.broke;
        self.run = None;
        Some(match (end, broke) {
            (Ok(end), broke) => {
                let usage = Usage { cpu_ns: end.usage.cpu_ns, counters, ..Usage::default() };
                (how(end.reason, end.status, broke), usage)
            }
            (Err(error), _) => (End::Broken { how: error.to_string() }, Usage::default()),
        })
    }

    /// What it uses, if it runs.
    pub fn usage(&self) -> Option<Usage> {
        let running = &self.run.as_ref()?.running;
        let usage = running.usage();
        Some(Usage {
            memory: Memory { used_bytes: usage.memory_bytes, peak_bytes: usage.memory_bytes },
            cpu_ns: usage.cpu_ns,
            counters: counters(running.id()),
        })
    }
}

impl Run {
    fn kill(&self) {
        // It may have ended just now.
        let _ = self.running.kill();
    }
}

fn how(reason: Reason, code: u8, broke: Option<link::Error>) -> End {
    match (reason, broke) {
        (Reason::Exited, _) => End::Exited { status: code },
        (_, Some(error)) => {
            End::Broken { how: format!("it broke the rules of the link to its root: {error}") }
        }
        (Reason::Signal(number), None) => {
            End::Broken { how: signal_name(number).unwrap_or("a signal").to_owned() }
        }
        (other, None) => End::Broken { how: other.to_string() },
    }
}

impl Pipe {
    fn new(pipe: OwnedFd) -> io::Result<Self> {
        let flags = fcntl_getfl(&pipe)?;
        fcntl_setfl(&pipe, flags | OFlags::NONBLOCK)?;
        Ok(Self(File::from(pipe)))
    }

    fn read(&mut self, bytes_max: usize, take: &mut impl FnMut(&[u8])) -> Rest {
        let mut buffer = [0; 16 << 10];
        let mut left = bytes_max;
        while left > 0 {
            let room = left.min(buffer.len());
            match self.0.read(&mut buffer[..room]) {
                Ok(0) => return Rest::Closed,
                Ok(count) => {
                    take(&buffer[..count]);
                    left -= count;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Rest::Open,
                Err(_) => return Rest::Closed,
            }
        }
        Rest::Open
    }
}

/// What Linux has counted for a process (proc(5)): page faults without and with reading a file (`stat`, fields 10 and 12), and how
/// often its first thread, on which the program runs, got a CPU (`schedstat`, the third number).
fn counters(process: u32) -> Counters {
    let read = |file: &str| fs::read_to_string(format!("/proc/{process}/{file}")).ok();
    let faults = || {
        let stat = read("stat")?;
        // The second field, a name in parentheses, may hold anything.
        let rest = stat.rsplit_once(')')?.1;
        let field = |number: usize| rest.split_whitespace().nth(number - 3)?.parse::<u64>().ok();
        Some(field(10)? + field(12)?)
    };
    let switches = || read("schedstat")?.split_whitespace().nth(2)?.parse().ok();
    Counters { switches: switches(), faults: faults(), ..Counters::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linux_counts() {
        let before = counters(std::process::id());
        let pages = vec![1u8; 4 << 20];
        assert_eq!(pages.iter().map(|byte| u64::from(*byte)).sum::<u64>(), 4 << 20);
        let after = counters(std::process::id());
        assert!(after.faults.unwrap() > before.faults.unwrap(), "{before:?} {after:?}");
        assert!(after.switches.unwrap() > 0);
        assert_eq!(counters(0), Counters::default());
    }
}
