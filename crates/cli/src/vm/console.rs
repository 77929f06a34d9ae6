//! The program's streams, in the frames of the `link` crate.
//!
//! One thread (the caller's) reads what the machine says and writes it out; when a reader of ours is slow, the
//! machine waits. Another reads standard input, and only as much as the machine has asked for. So
//! memory is bounded by a few buffers, whatever either side does.

use link::{Cause, Credit, Frame, FromGuest, HostDecoder};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

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
    /// For the user, or nothing.
    pub message: String,
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
    input: Arc<Shared>,
    stdout: Output,
    stderr: Output,
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

#[derive(Debug)]
struct Shared {
    to_guest: Mutex<UnixStream>,
    credit: Mutex<Credit>,
    granted: Condvar,
}

impl Console {
    /// Over `stream`, from its beginning; the program's streams are `ours`.
    pub fn new(stream: UnixStream, ours: Streams) -> Result<(Self, Input), ConsoleError> {
        let to_guest = Mutex::new(stream.try_clone()?);
        let credit = Mutex::new(Credit::NONE);
        let shared = Arc::new(Shared { to_guest, credit, granted: Condvar::new() });
        let stdout = Output::new("standard output", Frame::StdoutClosed, ours.stdout);
        let stderr = Output::new("standard error", Frame::StderrClosed, ours.stderr);
        Ok((
            Self { from_guest: stream, input: shared.clone(), stdout, stderr },
            Input { shared, stdin: ours.stdin },
        ))
    }

    /// Passes on what the machine says, until the program ends.
    pub fn run(mut self) -> Result<End, ConsoleError> {
        let mut decoder = HostDecoder::new();
        let mut message = Vec::new();
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            let read = match self.from_guest.read(&mut piece) {
                Ok(0) => return Err(ConsoleError::HungUp),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                    return Err(ConsoleError::HungUp);
                }
                Err(error) => return Err(error.into()),
            };
            let mut heard = &piece[..read];
            while let Some(event) = decoder.next(&mut heard)? {
                match event {
                    FromGuest::Hello => {}
                    FromGuest::Stdout(bytes) => self.stdout.write(bytes, &self.input)?,
                    FromGuest::Stderr(bytes) | FromGuest::Log(bytes) => {
                        self.stderr.write(bytes, &self.input)?
                    }
                    FromGuest::StdinCredit { bytes } => self.input.grant(bytes),
                    FromGuest::ExitMessage(bytes) => message.extend_from_slice(bytes),
                    FromGuest::Exit { status, cause } => {
                        let message = String::from_utf8_lossy(&message).into_owned();
                        return Ok(End { status, cause, message });
                    }
                }
            }
        }
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
    /// Asks the machine to end the program.
    pub fn cancel(&self) {
        // The only error is that the machine is gone, which the reading half finds as well.
        let _ = self.0.send(Frame::Cancel);
    }
}

impl Shared {
    fn send(&self, frame: Frame) -> io::Result<()> {
        let head = frame.head().map_err(io::Error::other)?;
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
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
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

/// Standard output or error.
#[derive(Debug)]
struct Output {
    name: &'static str,
    file: File,
    /// What the machine is told when the reader has gone.
    closed: Frame<'static>,
    reader: Reader,
}

/// Who reads what we write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reader {
    There,
    Gone,
}

impl Output {
    fn new(name: &'static str, closed: Frame<'static>, file: File) -> Self {
        Self { name, file, closed, reader: Reader::There }
    }

    /// Writes all of `bytes`. When the reader has gone away (as `head` does) the program is told, as it would
    /// be by EPIPE, and what was on its way is dropped.
    fn write(&mut self, mut bytes: &[u8], machine: &Shared) -> Result<(), ConsoleError> {
        while self.reader == Reader::There && !bytes.is_empty() {
            let written = match self.file.write(bytes) {
                Ok(written) => written,
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                    self.reader = Reader::Gone;
                    let _ = machine.send(self.closed);
                    0
                }
                Err(error) => wait_if_blocked(error, self.file.as_fd(), PollFlags::OUT)
                    .map(|()| 0)
                    .map_err(|error| ConsoleError::Output { stream: self.name, error })?,
            };
            bytes = &bytes[written..];
        }
        Ok(())
    }
}

/// Our streams may be set to not block, by whoever shares them with us. Then this waits; other errors are given back.
fn wait_if_blocked(error: io::Error, descriptor: BorrowedFd, readiness: PollFlags) -> io::Result<()> {
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
    use link::{FromHost, GuestDecoder};
    use std::os::fd::OwnedFd;
    use std::thread::JoinHandle;

    /// The machine's end, as the library OS has it.
    struct Machine {
        stream: UnixStream,
        decoder: GuestDecoder,
    }

    /// What the machine has heard, put together.
    #[derive(Debug, Default, PartialEq, Eq)]
    struct Heard {
        input: Vec<u8>,
        signs: Vec<&'static str>,
    }

    impl Machine {
        fn say(&mut self, frame: Frame) {
            if let Frame::StdinCredit { bytes } = frame {
                self.decoder.grant(bytes);
            }
            self.stream.write_all(&[frame.head().unwrap().as_ref(), frame.body()].concat()).unwrap();
        }

        /// Listens until `enough`.
        fn hear(&mut self, heard: &mut Heard, enough: impl Fn(&Heard) -> bool) {
            let mut piece = [0; 1000];
            while !enough(heard) {
                let read = self.stream.read(&mut piece).unwrap();
                assert_ne!(read, 0, "{heard:?}");
                let mut bytes = &piece[..read];
                while let Some(event) = self.decoder.next(&mut bytes).unwrap() {
                    match event {
                        FromHost::StdinData(bytes) => heard.input.extend_from_slice(bytes),
                        FromHost::StdinEnd => heard.signs.push("end"),
                        FromHost::Cancel => heard.signs.push("cancel"),
                        FromHost::StdoutClosed => heard.signs.push("stdout closed"),
                        FromHost::StderrClosed => heard.signs.push("stderr closed"),
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
        let mut machine = Machine { stream: theirs, decoder: GuestDecoder::new() };
        machine.say(Frame::Hello);
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
        assert_eq!(end, End { status: 42, cause: Cause::Exited, message: String::from("bye") });
        assert_eq!((all(stdout), all(stderr)), (b"one three".to_vec(), b"two".to_vec()));
    }

    #[test]
    fn input_is_sent_as_far_as_it_was_asked_for() {
        let Bench { mut machine, mut stdin, console, .. } = bench();
        stdin.write_all(b"0123456789").unwrap();
        drop(stdin);
        let mut heard = Heard::default();
        machine.say(Frame::StdinCredit { bytes: 4 });
        // The decoder refuses a fifth byte.
        machine.hear(&mut heard, |heard| heard.input.len() == 4);
        machine.say(Frame::StdinCredit { bytes: 100 });
        machine.hear(&mut heard, |heard| !heard.signs.is_empty());
        assert_eq!(heard, Heard { input: b"0123456789".to_vec(), signs: vec!["end"] });
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
        assert_eq!(heard, Heard { input: Vec::new(), signs: vec!["cancel"] });
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
        assert_eq!((heard.signs, all(stderr)), (vec!["stdout closed"], b"kept".to_vec()));
    }

    #[test]
    fn a_machine_that_dies_or_raves_is_an_error() {
        let Bench { machine, console, .. } = bench();
        drop(machine);
        assert!(matches!(console.join().unwrap(), Err(ConsoleError::HungUp)));
        let Bench { mut machine, console, .. } = bench();
        machine.stream.write_all(b"raving").unwrap();
        assert!(matches!(console.join().unwrap(), Err(ConsoleError::Link(link::Error::UnknownKind(b'r')))));
    }
}
