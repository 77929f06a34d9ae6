use crate::Program;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals};
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde::Deserialize;
use std::fmt;
use std::fs::File;
use std::io::{self, Seek, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio};

/// Address space of the compiler's process, for any module. (CPython, 26 MB, takes 0.25 GB of memory.)
const MEMORY_BYTES_MAX: u64 = 8 << 30;
/// And for each of its threads, one for each CPU: stack and allocator arena, mostly untouched.
const MEMORY_BYTES_EACH_THREAD: u64 = 256 << 20;
/// CPU time of the compiler's process, over all of its threads. (CPython takes 5 s.)
const CPU_SECONDS_MAX: u64 = 1800;

/// Which compiler, and for what it compiles.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Identity {
    /// The compiler with its version and settings.
    pub compiler: String,
    /// The target triple.
    pub triple: String,
    /// CPU features, comma-separated, sorted.
    pub features: String,
}

/// Why a program was not compiled.
#[derive(Debug)]
pub enum CompileFailure {
    /// The compiler is not where it should be, or cannot be started.
    NotStarted {
        /// Where it should be.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// It is the program's fault: one line, without the program's name.
    Program(String),
    /// It is the compiler's fault: it crashed, ran out of memory or time, or answered nonsense.
    Compiler {
        /// Which one.
        path: PathBuf,
        /// What happened.
        reason: String,
    },
    /// Linux gave no memory for the result.
    Memory(io::Error),
}

impl fmt::Display for CompileFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotStarted { path, error } => {
                write!(f, "cannot start the compiler {}: {error}", path.display())
            }
            Self::Program(reason) => f.write_str(reason),
            Self::Compiler { path, reason } => write!(f, "the compiler {} failed: {reason}", path.display()),
            Self::Memory(error) => write!(f, "no memory for the compiled program: {error}"),
        }
    }
}

impl std::error::Error for CompileFailure {}

/// What the compiler says with `--json` when it fails.
#[derive(Deserialize)]
struct Report {
    error: Option<Failure>,
}

#[derive(Deserialize)]
struct Failure {
    kind: String,
    message: String,
}

impl Failure {
    /// Kinds that are not about the program: of reading it from us, of writing for us, of the compiler's own start.
    const OURS: [&str; 3] = ["input", "output", "setup"];
}

/// Asks the compiler who it is and which features `cpu` means.
pub fn identify(compiler: &Path, cpu: &str) -> Result<Identity, CompileFailure> {
    let mut command = Command::new(compiler);
    command.args(["--identify", "--json", "--target-cpu", cpu]).stdin(Stdio::null()).stdout(Stdio::piped());
    let output = run(compiler, command)?;
    if !output.status.success() {
        return Err(failure(compiler, &output));
    }
    serde_json::from_slice(&output.stdout).map_err(|_| CompileFailure::Compiler {
        path: compiler.to_owned(),
        reason: String::from("it does not say who it is"),
    })
}

/// Compiles into a file without a name. The child reads and writes such files only: what it compiles are the bytes that
/// the caller has looked at, and no directory can be missing, read-only or full.
pub fn compile(compiler: &Path, program: Program<'_>, cpu: &str) -> Result<File, CompileFailure> {
    let artifact = memory_file("artifact").map_err(CompileFailure::Memory)?;
    let mut command = Command::new(compiler);
    command.args(["--json", "--target-cpu", cpu, "--output", "-"]);
    match program {
        Program::Module { bytes, .. } => {
            let module = filled_memory_file(bytes).map_err(CompileFailure::Memory)?;
            command.arg("-").stdin(module);
        }
        Program::TrapHelper => {
            command.arg("--trap-helper").stdin(Stdio::null());
        }
    }
    command.stdout(artifact.try_clone().map_err(CompileFailure::Memory)?);
    let output = run(compiler, command)?;
    match output.status.success() {
        // Whoever runs it has it open, and others run it as well.
        true => seal(artifact).map_err(CompileFailure::Memory),
        false => Err(failure(compiler, &output)),
    }
}

/// Nobody writes to it any more, whoever has it open (memfd_create(2), file sealing).
fn seal(file: File) -> io::Result<File> {
    fcntl_add_seals(&file, SealFlags::SEAL | SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK)?;
    Ok(file)
}

fn memory_file(name: &str) -> io::Result<File> {
    Ok(File::from(rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?))
}

fn filled_memory_file(bytes: &[u8]) -> io::Result<File> {
    let mut file = memory_file("program")?;
    file.write_all(bytes)?;
    file.rewind()?;
    Ok(file)
}

/// Runs the compiler with bounds on its memory and time, no longer than this thread lives, and catches what it says on standard error.
fn run(compiler: &Path, mut command: Command) -> Result<Output, CompileFailure> {
    let not_started = |error| CompileFailure::NotStarted { path: compiler.to_owned(), error };
    command.args(["--parent", &std::process::id().to_string()]);
    let child = command.stderr(Stdio::piped()).spawn().map_err(not_started)?;
    let threads = std::thread::available_parallelism().map_or(1, |count| count.get() as u64);
    for (resource, most) in [
        (Resource::As, MEMORY_BYTES_MAX + threads * MEMORY_BYTES_EACH_THREAD),
        (Resource::Cpu, CPU_SECONDS_MAX),
    ] {
        // Where a smaller limit stands already, or the child has ended, this fails and nothing is lost.
        let limit = Rlimit { current: Some(most), maximum: Some(most) };
        let _ = prlimit(Some(Pid::from_child(&child)), resource, limit);
    }
    child.wait_with_output().map_err(not_started)
}

/// What a compiler that did not succeed has to say for itself.
fn failure(compiler: &Path, output: &Output) -> CompileFailure {
    let said =
        [&output.stderr, &output.stdout].into_iter().flat_map(|said| said.split(|byte| *byte == b'\n'));
    let report =
        said.filter_map(|line| serde_json::from_slice::<Report>(line).ok()).find_map(|report| report.error);
    let reason = match report {
        Some(failure) if !Failure::OURS.contains(&failure.kind.as_str()) => {
            return CompileFailure::Program(failure.message);
        }
        Some(failure) => failure.message,
        None => {
            let words = String::from_utf8_lossy(&output.stderr);
            ending(output.status, words.lines().find(|line| !line.trim().is_empty()).unwrap_or_default())
        }
    };
    CompileFailure::Compiler { path: compiler.to_owned(), reason }
}

fn ending(status: ExitStatus, words: &str) -> String {
    use std::os::unix::process::ExitStatusExt;
    const SIGABRT: i32 = 6;
    const SIGKILL: i32 = 9;
    const SIGXCPU: i32 = 24;
    let cause = match status.signal() {
        Some(SIGXCPU) => format!("it took more than {} minutes of CPU time", CPU_SECONDS_MAX / 60),
        Some(SIGABRT | SIGKILL) => String::from("it ran out of memory, or was killed"),
        Some(signal) => format!("it crashed (signal {signal})"),
        None => format!("it ended with {status}"),
    };
    match words {
        "" => cause,
        words => format!("{cause}: {words}"),
    }
}
