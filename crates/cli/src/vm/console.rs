//! The program's streams, in the frames of the `link` crate.
//!
//! One thread (the caller's) reads what the machine says, and never waits for anybody else. Two more write standard output
//! and error out (see [`super::output`]). Another reads standard input, and only as much as the machine has asked
//! for. So memory is bounded by a few buffers, whatever either side does.

use link::{Cause, Credit, Frame, FromGuest, HostDecoder, Process};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use super::output::{self, Drained, Patience, Queue};
use crate::crash::details;
use crate::report::say;
use rustix::event::{PollFd, PollFlags, poll};

/// As much as one frame carries.
const PIECE_BYTES: usize = link::PAYLOAD_BYTES_MAX;

/// Why the streams ended before the program did.
#[derive(Debug, thiserror::Error)]
pub enum ConsoleError {
    /// The machine is gone.
    #[error("the machine closed its console")]
    HungUp,
    /// The machine says what cannot be understood.
    #[error("{0}")]
    Link(#[from] link::Error),
    /// Not standard output's reader going away, which is the program's to know, but a full disk, say.
    #[error("cannot write the program's {stream}: {error}")]
    Output {
        /// "standard output" or "standard error".
        stream: &'static str,
        /// Why.
        error: io::Error,
    },
    /// The program has ended, and the user did not wait for the reader of what it wrote.
    #[error("interrupted before all that the program wrote was read")]
    Interrupted,
    /// Threads, sockets.
    #[error("the console failed: {0}")]
    System(#[from] io::Error),
}

/// How the program ended.
#[derive(Debug, PartialEq, Eq)]
pub struct End {
    /// What to exit with.
    pub status: u8,
    /// Why.
    pub cause: Cause,
}

/// Where the program's streams begin and end.
#[derive(Debug)]
pub struct Streams {
    stdin: File,
    stdout: File,
    stderr: File,
}

impl Streams {
    /// This process's own, without the buffers that `std` has before them.
    pub fn own() -> io::Result<Self> {
        let file = |descriptor: BorrowedFd| descriptor.try_clone_to_owned().map(File::from);
        Ok(Self {
            stdin: file(io::stdin().as_fd())?,
            stdout: file(io::stdout().as_fd())?,
            stderr: file(io::stderr().as_fd())?,
        })
    }
}

/// The reading half.
#[derive(Debug)]
pub struct Console {
    from_guest: UnixStream,
    shared: Arc<Shared>,
    stdout: File,
    stderr: File,
}

/// The writing half, before its thread has started.
#[derive(Debug)]
pub struct Input {
    shared: Arc<Shared>,
    stdin: File,
}

/// Sends frames; for any thread.
#[derive(Clone, Debug)]
pub struct Sender(Arc<Shared>);

/// What the threads have in common.
#[derive(Debug)]
pub struct Shared {
    to_guest: Mutex<UnixStream>,
    credit: Mutex<Credit>,
    granted: Condvar,
    stdout: Queue,
    stderr: Queue,
}

impl Console {
    /// Over `stream`, from its beginning; the program's streams are `ours`.
    pub fn new(stream: UnixStream, ours: Streams) -> Result<(Self, Input), ConsoleError> {
        let to_guest = Mutex::new(stream.try_clone()?);
        let credit = Mutex::new(Credit::NONE);
        let (stdout, stderr) = (Queue::new(output::STDOUT), Queue::new(output::STDERR));
        let shared = Arc::new(Shared { to_guest, credit, granted: Condvar::new(), stdout, stderr });
        Ok((
            Self { from_guest: stream, shared: shared.clone(), stdout: ours.stdout, stderr: ours.stderr },
            Input { shared, stdin: ours.stdin },
        ))
    }

    /// Passes on what the machine says, until the program ends and what it wrote is written, or dropped if it was ended and
    /// nobody reads.
    pub fn run(self) -> Result<End, ConsoleError> {
        let Self { mut from_guest, shared, stdout, stderr } = self;
        for (file, queue) in [(stdout, Shared::stdout as fn(&Shared) -> &Queue), (stderr, Shared::stderr)] {
            let machine = shared.clone();
            let name = queue(&shared).name().to_owned();
            thread::Builder::new().name(name).spawn(move || queue(&machine).write_out(file, &machine))?;
        }
        let end = shared.listen(&mut from_guest)?;
        shared.drain(end)
    }
}

impl Shared {
    fn stdout(&self) -> &Queue {
        &self.stdout
    }

    fn stderr(&self) -> &Queue {
        &self.stderr
    }

    /// Hears what the machine says, to its last word.
    fn listen(&self, from_guest: &mut UnixStream) -> Result<End, ConsoleError> {
        let mut decoder = HostDecoder::new();
        let (mut message, mut body, mut crash) = (Vec::new(), Vec::new(), None);
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            let read = match from_guest.read(&mut piece) {
                Ok(0) => return Err(ConsoleError::HungUp),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                    return Err(ConsoleError::HungUp);
                }
                Err(error) => return Err(error.into()),
            };
            let mut heard = &piece[..read];
            while let Some((process, event)) = decoder.next(&mut heard)? {
                if ![Process::FIRST, Process::NONE].contains(&process) {
                    return Err(link::Error::NoSuchProcess(process).into());
                }
                match event {
                    FromGuest::Hello | FromGuest::Started | FromGuest::Usage(_) | FromGuest::Throttled => {}
                    FromGuest::Stdout(bytes) => self.stdout.take(bytes)?,
                    FromGuest::Stderr(bytes) => self.stderr.take(bytes)?,
                    FromGuest::Log(bytes) => self.stderr.offer(bytes),
                    FromGuest::StdinCredit { bytes } => self.grant(bytes),
                    FromGuest::Spawned { .. } => return Err(link::Error::NoSuchProcess(process).into()),
                    FromGuest::ExitMessage(bytes) => message.extend_from_slice(bytes),
                    FromGuest::CrashBody(bytes) => body.extend_from_slice(bytes),
                    FromGuest::Crash(head) => {
                        crash = Some(supervisor::crash(&link::Crash::read(head, &body)?));
                        body.clear();
                    }
                    FromGuest::Exit { status, cause } => {
                        // The library OS has put its words together for a person, as it does hosted.
                        self.stderr.push(&message);
                        // Of a program that has said itself that it failed there is no more to say.
                        if let Some(crash) = crash.filter(|_| cause != Cause::Exited) {
                            self.stderr.push(details(&crash).as_bytes());
                        }
                        return Ok(End { status, cause });
                    }
                }
            }
        }
    }

    /// Sees to it that what was written is read.
    fn drain(&self, end: End) -> Result<End, ConsoleError> {
        let patience = match end.cause {
            Cause::TimedOut | Cause::Cancelled => Patience::Short,
            Cause::Exited | Cause::Trapped | Cause::OutOfMemory | Cause::FailedToStart => {
                Patience::UntilInterrupted
            }
        };
        for queue in [&self.stdout, &self.stderr] {
            match queue.drain(patience) {
                Drained::Written => {}
                Drained::Dropped if patience == Patience::Short => {}
                Drained::Dropped => return Err(ConsoleError::Interrupted),
                Drained::Failed(error) => return Err(ConsoleError::Output { stream: queue.name(), error }),
            }
        }
        Ok(end)
    }
}

impl Input {
    /// To send frames with.
    pub fn sender(&self) -> Sender {
        Sender(self.shared.clone())
    }

    /// Starts to pass on standard input. The thread is not waited for: it may sit in a read that never ends.
    pub fn start(self) {
        let run = move || {
            if let Err(error) = pass_input(self.stdin, &self.shared) {
                say(&format!("cannot read standard input: {error}; the program sees its end here"));
                let _ = self.shared.send(Frame::StdinEnd);
            }
        };
        if let Err(error) = thread::Builder::new().name("stdin".into()).spawn(run) {
            say(&format!("standard input is not passed on: {error}"));
        }
    }
}

impl Sender {
    /// Asks the machine to end the program; if it has ended, nobody waits for its readers any more.
    pub fn cancel(&self) {
        // The only error is that the machine is gone, which the reading half finds as well.
        let _ = self.0.send(Frame::Cancel);
        self.0.stdout.interrupt();
        self.0.stderr.interrupt();
    }
}

impl Shared {
    /// Sends a frame to the one process.
    pub fn send(&self, frame: Frame) -> io::Result<()> {
        let head = frame.head(Process::FIRST).map_err(io::Error::other)?;
        let bytes = [head.as_ref(), frame.body()].concat();
        lock(&self.to_guest).write_all(&bytes)
    }

    fn grant(&self, bytes: u32) {
        lock(&self.credit).grant(bytes);
        self.granted.notify_one();
    }

    /// Waits until the machine has asked for input; how much of it may be sent now.
    fn wait_for_credit(&self) -> usize {
        let asked = self.granted.wait_while(lock(&self.credit), |credit| credit.bytes() == 0);
        let credit = asked.unwrap_or_else(PoisonError::into_inner);
        usize::try_from(credit.bytes()).unwrap_or(usize::MAX)
    }

    /// Sends `piece`, for which there is credit.
    fn send_input(&self, piece: &[u8]) -> io::Result<()> {
        let spent = lock(&self.credit).spend(piece.len());
        debug_assert_eq!(spent, piece.len(), "one thread spends");
        self.send(Frame::StdinData(piece))
    }
}

/// A poisoned lock is that of a thread that panicked, and with that this process has aborted.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Passes on standard input to its end. An error is one of reading; if the machine is gone, that is nobody's concern here.
fn pass_input(mut stdin: File, machine: &Shared) -> io::Result<()> {
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let wanted = machine.wait_for_credit().min(PIECE_BYTES);
        let sent = match stdin.read(&mut piece[..wanted]) {
            Ok(0) => {
                let _ = machine.send(Frame::StdinEnd);
                return Ok(());
            }
            Ok(read) => machine.send_input(&piece[..read]),
            Err(error) => {
                wait_if_blocked(error, stdin.as_fd(), PollFlags::IN)?;
                continue;
            }
        };
        if sent.is_err() {
            return Ok(());
        }
    }
}

/// Our streams may be set to not block, by whoever shares them with us. Then this waits; other errors are given back.
pub fn wait_if_blocked(error: io::Error, descriptor: BorrowedFd, readiness: PollFlags) -> io::Result<()> {
    match error.kind() {
        io::ErrorKind::Interrupted => Ok(()),
        io::ErrorKind::WouldBlock => match poll(&mut [PollFd::new(&descriptor, readiness)], None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        },
        _ => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::output::CREDIT_STEP;
    use link::{FromHost, GuestDecoder, Input as Allowed};
    use std::os::fd::OwnedFd;
    use std::thread::JoinHandle;

    /// The machine's end, as the library OS has it.
    struct Machine {
        stream: UnixStream,
        decoder: GuestDecoder,
        allowed: Allowed,
    }

    /// What the machine has heard, put together.
    #[derive(Debug, Default, PartialEq, Eq)]
    struct Heard {
        input: Vec<u8>,
        signs: Vec<&'static str>,
        /// For standard output.
        room: u32,
    }

    impl Machine {
        fn new(stream: UnixStream) -> Self {
            let mut machine = Self { stream, decoder: GuestDecoder::new(), allowed: Allowed::NEW };
            machine.say_of(Process::NONE, Frame::Hello);
            machine
        }

        fn say(&mut self, frame: Frame) {
            if let Frame::StdinCredit { bytes } = frame {
                self.allowed.grant(bytes);
            }
            self.say_of(Process::FIRST, frame);
        }

        fn say_of(&mut self, process: Process, frame: Frame) {
            self.stream.write_all(&[frame.head(process).unwrap().as_ref(), frame.body()].concat()).unwrap();
        }

        /// Listens until `enough`.
        fn hear(&mut self, heard: &mut Heard, enough: impl Fn(&Heard) -> bool) {
            let mut piece = [0; 1000];
            while !enough(heard) {
                let read = self.stream.read(&mut piece).unwrap();
                assert_ne!(read, 0, "{heard:?}");
                let mut bytes = &piece[..read];
                while let Some((process, event)) = self.decoder.next(&mut bytes).unwrap() {
                    assert_eq!(process, Process::FIRST);
                    match event {
                        FromHost::StdinData(bytes) => {
                            self.allowed.take(bytes).unwrap();
                            heard.input.extend_from_slice(bytes);
                        }
                        FromHost::StdinEnd => heard.signs.push("end"),
                        FromHost::Cancel => heard.signs.push("cancel"),
                        FromHost::StdoutClosed => heard.signs.push("stdout closed"),
                        FromHost::StderrClosed => heard.signs.push("stderr closed"),
                        FromHost::StdoutCredit { bytes } => heard.room += bytes,
                        FromHost::StderrCredit { .. } => heard.signs.push("room for stderr"),
                        FromHost::Start { .. } | FromHost::Shutdown | FromHost::Measure | FromHost::Freed => {
                            panic!("{event:?}")
                        }
                    }
                }
            }
        }

        fn exit(&mut self) {
            self.say(Frame::Exit { status: 42, cause: Cause::Exited, message: "bye" });
        }
    }

    /// A running console and what is at its ends: the machine, standard input, output and error.
    struct Bench {
        machine: Machine,
        stdin: File,
        stdout: File,
        stderr: File,
        console: JoinHandle<Result<End, ConsoleError>>,
        sender: Sender,
    }

    fn bench() -> Bench {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let pipe = || {
            let (from, to) = io::pipe().unwrap();
            (File::from(OwnedFd::from(from)), File::from(OwnedFd::from(to)))
        };
        let ((stdin, stdin_to), (stdout_from, stdout), (stderr_from, stderr)) = (pipe(), pipe(), pipe());
        let (console, input) = Console::new(ours, Streams { stdin, stdout, stderr }).unwrap();
        let sender = input.sender();
        input.start();
        let machine = Machine::new(theirs);
        let console = thread::spawn(move || console.run());
        Bench { machine, stdin: stdin_to, stdout: stdout_from, stderr: stderr_from, console, sender }
    }

    fn all(mut file: File) -> Vec<u8> {
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn output_is_passed_on_and_the_end_is_told() {
        let Bench { mut machine, stdout, stderr, console, .. } = bench();
        machine.say(Frame::Stdout(b"one "));
        machine.say(Frame::Stderr(b"two"));
        machine.say(Frame::Stdout(b"three"));
        machine.exit();
        let end = console.join().unwrap().unwrap();
        assert_eq!(end, End { status: 42, cause: Cause::Exited });
        assert_eq!((all(stdout), all(stderr)), (b"one three".to_vec(), b"twobye".to_vec()));
    }

    #[test]
    fn input_is_sent_as_far_as_it_was_asked_for() {
        let Bench { mut machine, mut stdin, console, .. } = bench();
        stdin.write_all(b"0123456789").unwrap();
        drop(stdin);
        let mut heard = Heard::default();
        machine.say(Frame::StdinCredit { bytes: 4 });
        // A fifth byte would be refused.
        machine.hear(&mut heard, |heard| heard.input.len() == 4);
        machine.say(Frame::StdinCredit { bytes: 100 });
        machine.hear(&mut heard, |heard| !heard.signs.is_empty());
        assert_eq!(heard, Heard { input: b"0123456789".to_vec(), signs: vec!["end"], room: 0 });
        machine.exit();
        assert_eq!(console.join().unwrap().unwrap().status, 42);
    }

    #[test]
    fn cancel_arrives_while_nobody_asks_for_input() {
        let Bench { mut machine, mut stdin, sender, .. } = bench();
        stdin.write_all(b"not asked for").unwrap();
        sender.cancel();
        let mut heard = Heard::default();
        machine.hear(&mut heard, |heard| !heard.signs.is_empty());
        assert_eq!(heard, Heard { input: Vec::new(), signs: vec!["cancel"], room: 0 });
    }

    #[test]
    fn the_machine_is_told_when_nobody_reads() {
        let Bench { mut machine, stdout, stderr, console, .. } = bench();
        drop(stdout);
        machine.say(Frame::Stdout(b"lost"));
        machine.say(Frame::Stdout(b"lost as well"));
        machine.say(Frame::Stderr(b"kept"));
        let mut heard = Heard::default();
        machine.hear(&mut heard, |heard| !heard.signs.is_empty());
        machine.exit();
        assert_eq!(console.join().unwrap().unwrap().status, 42);
        assert_eq!((heard.signs, all(stderr)), (vec!["stdout closed"], b"keptbye".to_vec()));
    }

    /// Four times as much as a pipe holds.
    fn fill(machine: &mut Machine) {
        for _ in 0..link::OUTPUT_BYTES_MAX as usize / PIECE_BYTES {
            machine.say(Frame::Stdout(&[7; PIECE_BYTES]));
        }
    }

    #[test]
    fn a_reader_that_is_stuck_holds_up_nothing_but_its_stream() {
        let Bench { mut machine, stdout, mut stderr, console, .. } = bench();
        fill(&mut machine);
        machine.say(Frame::Stderr(b"meanwhile"));
        let mut meanwhile = [0; 9];
        stderr.read_exact(&mut meanwhile).unwrap();
        assert_eq!(&meanwhile, b"meanwhile");
        // Who has been ended is not waited for.
        machine.say(Frame::Exit { status: 124, cause: Cause::TimedOut, message: "" });
        assert_eq!(console.join().unwrap().unwrap(), End { status: 124, cause: Cause::TimedOut });
        drop(stdout);
    }

    /// All but what is not worth telling yet.
    #[test]
    fn there_is_room_again_when_the_reader_has_read() {
        let Bench { mut machine, mut stdout, console, .. } = bench();
        let mut heard = Heard { room: link::OUTPUT_BYTES_MAX, ..Heard::default() };
        for _ in 0..6 {
            for _ in 0..heard.room as usize / PIECE_BYTES {
                machine.say(Frame::Stdout(&[7; PIECE_BYTES]));
                let mut piece = [0; PIECE_BYTES];
                stdout.read_exact(&mut piece).unwrap();
                assert_eq!(piece, [7; PIECE_BYTES]);
                heard.room -= PIECE_BYTES as u32;
            }
            machine.hear(&mut heard, |heard| heard.room > link::OUTPUT_BYTES_MAX - CREDIT_STEP as u32);
        }
        machine.exit();
        assert_eq!(console.join().unwrap().unwrap().status, 42);
    }

    #[test]
    fn a_program_that_ended_is_heard_to_its_last_word_or_to_ctrl_c() {
        let Bench { mut machine, stdout, console, .. } = bench();
        fill(&mut machine);
        machine.exit();
        assert_eq!(all(stdout).len(), link::OUTPUT_BYTES_MAX as usize);
        assert_eq!(console.join().unwrap().unwrap().status, 42);
        let Bench { mut machine, stdout, console, sender, .. } = bench();
        fill(&mut machine);
        machine.exit();
        sender.cancel();
        assert!(matches!(console.join().unwrap(), Err(ConsoleError::Interrupted)));
        drop(stdout);
    }

    #[test]
    fn a_machine_that_writes_more_than_there_is_room_for_is_an_error() {
        let Bench { mut machine, stdout, console, .. } = bench();
        fill(&mut machine);
        machine.say(Frame::Stdout(b"x"));
        assert!(matches!(console.join().unwrap(), Err(ConsoleError::Link(link::Error::OverCredit))));
        drop(stdout);
    }

    /// A machine that raves need not be read as fast as it does.
    #[test]
    fn words_that_nobody_asked_for_are_kept_as_far_as_there_is_room() {
        let Bench { mut machine, stderr, console, .. } = bench();
        let words = "x".repeat(PIECE_BYTES);
        for _ in 0..4 * link::OUTPUT_BYTES_MAX as usize / PIECE_BYTES {
            machine.say_of(Process::NONE, Frame::Log(&words));
        }
        machine.say(Frame::Stderr(b"!"));
        // The rest of the pipe's room, the thread's piece and the queue, which are each bounded.
        machine.exit();
        let all = all(stderr);
        assert!(all.ends_with(b"!bye") && all.len() < 3 * link::OUTPUT_BYTES_MAX as usize, "{}", all.len());
        assert_eq!(console.join().unwrap().unwrap().status, 42);
    }

    #[test]
    fn a_machine_that_speaks_of_another_process_is_an_error() {
        let Bench { mut machine, console, .. } = bench();
        machine.say_of(Process(1), Frame::Stdout(b"x"));
        let ended = console.join().unwrap();
        let error = link::Error::NoSuchProcess(Process(1));
        assert!(matches!(ended, Err(ConsoleError::Link(found)) if found == error), "{ended:?}");
    }

    #[test]
    fn a_full_disk_is_told() {
        let full = || File::options().write(true).open("/dev/full").unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let streams = Streams { stdin: File::open("/dev/null").unwrap(), stdout: full(), stderr: full() };
        let (console, _input) = Console::new(ours, streams).unwrap();
        let mut machine = Machine::new(theirs);
        let console = thread::spawn(move || console.run());
        machine.say(Frame::Stdout(b"lost"));
        machine.hear(&mut Heard::default(), |heard| heard.signs == ["stdout closed"]);
        machine.exit();
        let ended = console.join().unwrap();
        assert!(matches!(ended, Err(ConsoleError::Output { stream: "standard output", .. })), "{ended:?}");
    }

    #[test]
    fn a_machine_that_dies_or_raves_is_an_error() {
        let Bench { machine, console, .. } = bench();
        drop(machine);
        assert!(matches!(console.join().unwrap(), Err(ConsoleError::HungUp)));
        let Bench { mut machine, console, .. } = bench();
        machine.stream.write_all(b"raving on").unwrap();
        assert!(matches!(console.join().unwrap(), Err(ConsoleError::Link(link::Error::UnknownKind(b'r')))));
    }
}
