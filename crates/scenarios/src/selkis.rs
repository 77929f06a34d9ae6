//! Runs the `selkis` command and looks at how it ends.

use crate::guests;
use crate::runner::{Depth, Platform};
use crate::verdict::{Failed, Verdict, check};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::cell::OnceCell;
use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How often a running command's memory is looked at.
const SAMPLE_TIME: Duration = Duration::from_millis(10);

/// What is said when something of Selkis' own breaks down.
const BREAKDOWNS: [&str; 5] =
    ["panicked", "the library OS failed", "kernel:", "the machine stopped before", "switched off"];

/// What a scenario works with.
#[derive(Debug)]
pub struct Context {
    /// Where programs run.
    pub platform: Platform,
    /// How much is tried.
    pub depth: Depth,
    selkis: PathBuf,
    folder: TempDir,
    skipped: OnceCell<&'static str>,
}

impl Context {
    /// For one scenario.
    pub fn new(platform: Platform, depth: Depth) -> Verdict<Self> {
        let selkis = match env::var_os("SELKIS_BIN") {
            Some(selkis) => PathBuf::from(selkis),
            None => lib()?.join("selkis"),
        };
        Ok(Self { platform, depth, selkis, folder: tempfile::tempdir()?, skipped: OnceCell::new() })
    }

    /// This machine lacks what the scenario needs: it counts as skipped, and `why` is printed.
    pub fn skip(&self, why: &'static str) -> Verdict {
        self.skipped.get_or_init(|| why);
        Ok(())
    }

    /// Why it was skipped, if it was.
    pub fn skipped(&self) -> Option<&'static str> {
        self.skipped.get().copied()
    }

    /// The command that is tested.
    pub fn selkis(&self) -> &Path {
        &self.selkis
    }

    /// A folder that goes away with the scenario.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Writes a file in the folder; where it is.
    pub fn file(&self, name: &str, contents: impl AsRef<[u8]>) -> Verdict<PathBuf> {
        let path = self.folder().join(name);
        fs::write(&path, contents)?;
        Ok(path)
    }

    /// `selkis run` of a guest of ours.
    pub fn guest(&self, name: &str) -> Verdict<Run<'_>> {
        let path = self.file(&format!("{name}.wat"), guests::text(name)?)?;
        Ok(self.program(path))
    }

    /// `selkis run` of a program, on this platform.
    pub fn program(&self, path: impl Into<OsString>) -> Run<'_> {
        let vm = (self.platform != Platform::Hosted).then(|| OsString::from("--vm"));
        Run {
            words: [OsString::from("run")].into_iter().chain(vm).chain([path.into()]).collect(),
            ..self.command()
        }
    }

    /// `selkis up` of a manifest, on this platform.
    pub fn up(&self, manifest: impl Into<OsString>) -> Run<'_> {
        let platform: &[&str] = match self.platform {
            Platform::Hosted => &[],
            Platform::Vm => &["--vm", "--cpus=1"],
            Platform::Vm2 => &["--vm", "--cpus=2"],
            Platform::Vm4 => &["--vm", "--cpus=4"],
        };
        self.command().options(["up"]).options(platform).options([manifest.into()])
    }

    /// `selkis` without a word.
    pub fn command(&self) -> Run<'_> {
        Run {
            context: self,
            words: Vec::new(),
            arguments: Vec::new(),
            variables: Vec::new(),
            input: Input::Empty,
            deadline: self.on(Duration::from_secs(60), Duration::from_secs(120)),
        }
    }

    /// One value hosted, another in the machine.
    pub fn on<T>(&self, hosted: T, vm: T) -> T {
        match self.platform {
            Platform::Hosted => hosted,
            Platform::Vm | Platform::Vm2 | Platform::Vm4 => vm,
        }
    }
}

/// Where the executables are.
pub fn lib() -> Verdict<PathBuf> {
    let lib = env::var_os("SELKIS_LIB").map(PathBuf::from);
    lib.ok_or_else(|| Failed("SELKIS_LIB is not set: it names the folder of selkis and its parts".into()))
}

/// What the command reads.
#[derive(Debug)]
pub enum Input {
    /// Nothing.
    Empty,
    /// These bytes.
    Bytes(Vec<u8>),
    /// So many bytes of [`pattern`].
    Pattern(u64),
    /// Nothing, and no end: the pipe stays open.
    Open,
}

/// A command to be run.
#[derive(Debug)]
pub struct Run<'a> {
    context: &'a Context,
    words: Vec<OsString>,
    arguments: Vec<OsString>,
    variables: Vec<(OsString, OsString)>,
    input: Input,
    deadline: Duration,
}

impl Run<'_> {
    /// Adds options or other words of the command itself.
    pub fn options<I: IntoIterator<Item: AsRef<OsStr>>>(mut self, words: I) -> Self {
        self.words.extend(words.into_iter().map(|word| word.as_ref().to_owned()));
        self
    }

    /// Adds arguments of the program.
    pub fn arguments<I: IntoIterator<Item: AsRef<OsStr>>>(mut self, words: I) -> Self {
        self.arguments.extend(words.into_iter().map(|word| word.as_ref().to_owned()));
        self
    }

    /// Grants a directory.
    pub fn grant(self, host: &Path, rest: &str) -> Self {
        let mut grant = host.as_os_str().to_owned();
        grant.push(rest);
        self.options([OsString::from("--dir"), grant])
    }

    /// Sets a variable of the command's own environment.
    pub fn variable(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.variables.push((name.into(), value.into()));
        self
    }

    /// What it reads.
    pub fn input(mut self, input: Input) -> Self {
        self.input = input;
        self
    }

    /// Gives it so many times the usual time.
    pub fn patience(mut self, factor: u32) -> Self {
        self.deadline *= factor;
        self
    }

    /// Runs it to its end.
    pub fn run(self) -> Verdict<Output> {
        self.start()?.finish()
    }

    /// Starts it.
    pub fn start(self) -> Verdict<Running> {
        let mut command = Command::new(&self.context.selkis);
        command.args(&self.words);
        if !self.arguments.is_empty() {
            command.arg("--").args(&self.arguments);
        }
        Running::start(command.envs(self.variables), self.input, self.deadline)
    }
}

/// Runs any command to its end, as a reference to compare with.
pub fn run_command(command: &mut Command, deadline: Duration) -> Verdict<Output> {
    Running::start(command, Input::Empty, deadline)?.finish()
}

/// A child that does not outlive this.
#[derive(Debug)]
struct Mortal(Child);

impl Drop for Mortal {
    fn drop(&mut self) {
        // After it was waited for both do nothing.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A command that is running. Dropping it kills it.
#[derive(Debug)]
pub struct Running {
    child: Mortal,
    process: OwnedFd,
    line: String,
    deadline: Instant,
    peak_bytes: u64,
    stdin: Option<ChildStdin>,
    feeder: Option<JoinHandle<()>>,
    stdout: Option<ChildStdout>,
    stderr: JoinHandle<io::Result<Vec<u8>>>,
}

impl Running {
    fn start(command: &mut Command, input: Input, deadline: Duration) -> Verdict<Self> {
        let line = format!("{command:?}");
        let stdin = if matches!(input, Input::Empty) { Stdio::null() } else { Stdio::piped() };
        let started = command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = Mortal(started.map_err(|error| Failed(format!("cannot start {line}: {error}")))?);
        let process = pidfd_open(Pid::from_child(&child.0), PidfdFlags::empty())?;
        let mut stdin = child.0.stdin.take();
        let feeder = match input {
            Input::Empty | Input::Open => None,
            input => stdin.take().map(|stdin| thread::spawn(move || feed(stdin, input))),
        };
        let stdout = child.0.stdout.take();
        let stderr = child.0.stderr.take().map(|from| thread::spawn(move || read_all(from)));
        let stderr = stderr.ok_or_else(|| Failed("no pipe to standard error".into()))?;
        let deadline = Instant::now() + deadline;
        Ok(Self { child, process, line, deadline, peak_bytes: 0, stdin, feeder, stdout, stderr })
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Verdict {
        Ok(pidfd_send_signal(&self.process, signal)?)
    }

    /// Its standard input, if it was [`Input::Open`].
    pub fn stdin(&mut self) -> Verdict<&mut ChildStdin> {
        self.stdin.as_mut().ok_or_else(|| Failed("standard input is not held open".into()))
    }

    /// Reads so many bytes of its standard output.
    pub fn read_output(&mut self, length: usize) -> Verdict<Vec<u8>> {
        let mut bytes = vec![0; length];
        let stdout = self.stdout.as_mut().ok_or_else(|| Failed("standard output is closed".into()))?;
        let mut filled = 0;
        while filled < length {
            let left = self.deadline.saturating_duration_since(Instant::now());
            let ready = poll(&mut [PollFd::new(&*stdout, PollFlags::IN)], Some(&timespec(left)))?;
            let read = if ready == 0 { 0 } else { stdout.read(&mut bytes[filled..])? };
            let said = || format!("{} wrote only {:?}", self.line, String::from_utf8_lossy(&bytes[..filled]));
            check(read > 0, said)?;
            filled += read;
        }
        Ok(bytes)
    }

    /// Reads a line of its standard output, without its end.
    pub fn read_line(&mut self) -> Verdict<String> {
        let mut line = Vec::new();
        loop {
            match self.read_output(1)?[..] {
                [b'\n'] => return Ok(String::from_utf8(line)?),
                ref byte => line.extend(byte),
            }
        }
    }

    /// Fails if its time is over; for whoever asks again and again for something that must come.
    pub fn in_time(&self, otherwise: impl FnOnce() -> String) -> Verdict {
        check(Instant::now() < self.deadline, otherwise)
    }

    /// Goes away as its reader.
    pub fn close_output(&mut self) {
        self.stdout = None;
    }

    /// Its process number.
    pub fn pid(&self) -> u32 {
        self.child.0.id()
    }

    /// What it has taken of the CPU.
    pub fn cpu_time(&self) -> Verdict<Duration> {
        cpu_time(self.child.0.id()).ok_or_else(|| Failed(format!("{} is gone", self.line)))
    }

    /// Waits until much of its standard output waits to be read.
    pub fn fill_output(&self) -> Verdict {
        /// A pipe has 16 pages (pipe(7)), not all of which are full when it takes no more.
        const FULL_BYTES: u64 = 16 << 10;
        let stdout = self.stdout.as_ref().ok_or_else(|| Failed("standard output is closed".into()))?;
        while rustix::io::ioctl_fionread(stdout)? < FULL_BYTES {
            self.in_time(|| format!("{} does not write", self.line))?;
            thread::sleep(SAMPLE_TIME);
        }
        Ok(())
    }

    /// Waits for its end while nobody reads its standard output.
    pub fn finish_unread(mut self) -> Verdict<Output> {
        self.wait_for_end()?;
        self.finish()
    }

    /// Waits for its end.
    pub fn finish(mut self) -> Verdict<Output> {
        let stdout = self.stdout.take().map(|from| thread::spawn(move || read_all(from)));
        let in_time = self.wait_for_end()?;
        // It is not reaped yet, so its number is still its own.
        let cpu = cpu_time(self.child.0.id()).unwrap_or_default();
        let status = self.child.0.wait()?;
        self.stdin = None;
        if let Some(feeder) = self.feeder.take() {
            let _ = feeder.join();
        }
        let stdout = stdout.map_or(Ok(Vec::new()), join)?;
        let stderr = join(self.stderr)?;
        let output = Output { line: self.line, status, stdout, stderr, cpu, peak_bytes: self.peak_bytes };
        match in_time {
            InTime::Yes => Ok(output),
            InTime::No => Err(output.failed("did not end in time and was killed")),
        }
    }

    fn wait_for_end(&mut self) -> Verdict<InTime> {
        loop {
            let ended = poll(&mut [PollFd::new(&self.process, PollFlags::IN)], Some(&timespec(SAMPLE_TIME)))?;
            if ended != 0 {
                return Ok(InTime::Yes);
            }
            self.peak_bytes = self.peak_bytes.max(peak_bytes(self.child.0.id()).unwrap_or(0));
            if Instant::now() >= self.deadline {
                self.child.0.kill()?;
                poll(&mut [PollFd::new(&self.process, PollFlags::IN)], None)?;
                return Ok(InTime::No);
            }
        }
    }
}

enum InTime {
    Yes,
    No,
}

/// How a command ended.
#[derive(Debug)]
pub struct Output {
    line: String,
    status: ExitStatus,
    /// All of its standard output that was not read before.
    pub stdout: Vec<u8>,
    /// All of its standard error.
    pub stderr: Vec<u8>,
    /// What it and the children that it waited for took of the CPU.
    pub cpu: Duration,
    /// The most memory that it was seen to use (its own, not its children's).
    pub peak_bytes: u64,
}

impl Output {
    /// The status that it exited with, if no signal ended it.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// Its standard error as text.
    pub fn errors(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// Fails unless it exited with `code`.
    pub fn exits(&self, code: i32) -> Verdict<&Self> {
        check(self.code() == Some(code), || self.failed(&format!("expected exit status {code}")).0)?;
        Ok(self)
    }

    /// Fails unless it wrote exactly `expected`.
    pub fn writes(&self, expected: impl AsRef<[u8]>) -> Verdict<&Self> {
        let expected = expected.as_ref();
        let text = || {
            let shown = String::from_utf8_lossy(&expected[..expected.len().min(2000)]).into_owned();
            self.failed(&format!("expected {} bytes of output:\n{shown}", expected.len())).0
        };
        check(self.stdout == expected, text)?;
        Ok(self)
    }

    /// Fails unless standard error contains each of `parts`.
    pub fn says(&self, parts: &[&str]) -> Verdict<&Self> {
        let errors = self.errors();
        for part in parts {
            check(errors.contains(part), || self.failed(&format!("expected {part:?} on standard error")).0)?;
        }
        Ok(self)
    }

    /// Whether Linux ended it with this signal.
    pub fn was_ended_by(&self, signal: Signal) -> bool {
        self.status.signal() == Some(signal.as_raw())
    }

    /// Fails if a signal ended it or something of Selkis' own broke down.
    pub fn ends_well(&self) -> Verdict<&Self> {
        check(self.code().is_some(), || self.failed("a signal ended it").0)?;
        let errors = self.errors();
        for word in BREAKDOWNS {
            check(!errors.contains(word), || self.failed(&format!("broke down: {word:?}")).0)?;
        }
        Ok(self)
    }

    /// A failure that shows all of this.
    pub fn failed(&self, why: &str) -> Failed {
        let ended = match (self.status.code(), self.status.signal()) {
            (Some(code), _) => format!("exit status {code}"),
            (_, signal) => format!("signal {}", signal.unwrap_or(0)),
        };
        let text = |bytes: &[u8]| {
            let end = bytes.len().min(2000);
            format!("{} bytes\n{}", bytes.len(), String::from_utf8_lossy(&bytes[..end]).trim_end())
        };
        let (stdout, stderr) = (text(&self.stdout), text(&self.stderr));
        Failed(format!("{why}\n{}\n{ended}\nstdout: {stdout}\nstderr: {stderr}", self.line))
    }
}

/// The bytes that [`Input::Pattern`] sends: 64-bit words, little-endian, of a sequence without short periods.
pub fn pattern() -> impl Iterator<Item = u64> {
    (1u64..).map(|index| index.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

fn feed(mut stdin: ChildStdin, input: Input) {
    // A program may end before it has read everything; then there is nobody to feed.
    let _ = match input {
        Input::Bytes(bytes) => stdin.write_all(&bytes),
        Input::Pattern(length) => feed_pattern(&mut stdin, length),
        Input::Empty | Input::Open => Ok(()),
    };
}

fn feed_pattern(stdin: &mut ChildStdin, length: u64) -> io::Result<()> {
    let mut words = pattern();
    let mut left = length;
    let mut piece = Vec::with_capacity(64 << 10);
    while left > 0 {
        piece.clear();
        piece.extend(words.by_ref().take(8 << 10).flat_map(u64::to_le_bytes));
        let part = left.min(piece.len() as u64);
        stdin.write_all(&piece[..part as usize])?;
        left -= part;
    }
    Ok(())
}

fn read_all(mut from: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn join(reader: JoinHandle<io::Result<Vec<u8>>>) -> io::Result<Vec<u8>> {
    reader.join().unwrap_or_else(|_| Err(io::Error::other("the reader of a pipe failed")))
}

fn timespec(time: Duration) -> Timespec {
    Timespec { tv_sec: time.as_secs() as i64, tv_nsec: i64::from(time.subsec_nanos()) }
}

/// `VmHWM` of proc_pid_status(5), which is in KiB.
fn peak_bytes(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? << 10)
}

/// Fields 14 to 17 of proc_pid_stat(5): user and system time, and that of children which were waited for, in ticks.
fn cpu_time(pid: u32) -> Option<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the command's name in parentheses, with whatever blanks are in it.
    let fields = stat.rsplit_once(") ")?.1.split(' ').skip(11).take(4);
    let ticks: u64 = fields.map(|field| field.parse::<u64>().unwrap_or(0)).sum();
    Some(Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64))
}
