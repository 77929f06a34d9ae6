//! `selkis-compile`: WebAssembly to artifact, as a process of its own.

use clap::{ArgGroup, Parser};
use compiler::{CompileError, Compiled, Compiler, Cpu, Interface, SetupError};
use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};
use serde::Serialize;
use std::fmt;
use std::fs::{File, Permissions};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

/// Standard input as INPUT, standard output as OUTPUT.
const STANDARD_STREAM: &str = "-";
/// What a new file may be before the umask, as from any compiler. (A temporary file would be its owner's only.)
const OUTPUT_MODE: u32 = 0o666;

/// Compiles WebAssembly to an artifact for Selkis.
#[derive(Parser)]
#[command(name = "selkis-compile", version)]
#[command(group = ArgGroup::new("task").required(true).args(["input", "trap_helper", "identify"]))]
struct Arguments {
    /// The module to compile, in the binary or the text format; `-` for standard input
    input: Option<PathBuf>,
    /// Compile the module whose one trap ends programs that have none of their own
    #[arg(long)]
    trap_helper: bool,
    /// Say which compiler this is, and for what it would compile: what a cache needs to know
    #[arg(long)]
    identify: bool,
    /// Where the artifact goes: written beside and renamed, so that it is there whole or not at all; `-` for standard
    /// output
    #[arg(short, long, required_unless_present = "identify", conflicts_with = "identify")]
    output: Option<PathBuf>,
    /// CPU features that the code may use: `native`, `x86-64-v2`, or names separated by commas
    #[arg(long, default_value = "native")]
    target_cpu: Cpu,
    /// End when this process ends, which must be the parent: for one that waits for the result
    #[arg(long, value_name = "PID")]
    parent: Option<i32>,
    /// Report as JSON on standard output; on standard error if the artifact goes to standard output
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Identity<'a> {
    compiler: &'a str,
    triple: &'a str,
    features: String,
}

#[derive(Serialize)]
struct Report<'a> {
    program: String,
    compiler: &'a str,
    triple: &'a str,
    features: &'a str,
    artifact_bytes: usize,
    compile_ms: u128,
    #[serde(flatten)]
    interface: &'a Interface,
}

/// Why there is no artifact: for a program, and for a person.
#[derive(Serialize)]
struct Failure {
    kind: &'static str,
    message: String,
    /// What the message is about, for a person who gave several names.
    #[serde(skip)]
    subject: Option<String>,
}

impl Failure {
    fn new(kind: &'static str, message: String) -> Self {
        Self { kind, message, subject: None }
    }

    fn of_program(name: &str, error: &CompileError) -> Self {
        Self { kind: error.kind(), message: error.to_string(), subject: Some(name.to_owned()) }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.subject {
            Some(subject) => write!(f, "{subject}: {}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

fn main() -> ExitCode {
    report_panics_in_one_line();
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if arguments.json {
                write_report(&arguments, &serde_json::json!({ "error": failure }));
            } else {
                eprintln!("selkis-compile: {failure}");
            }
            ExitCode::FAILURE
        }
    }
}

/// Makes Linux end this process when `parent` does, however that happens.
fn stay_with(parent: i32) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // It may have ended before that was asked for; then nobody would ever send the signal.
    match getppid().map(Pid::as_raw_pid) == Some(parent) {
        true => Ok(()),
        false => Err(io::Error::other(format!("process {parent} is not the parent"))),
    }
}

fn run(arguments: &Arguments) -> Result<(), Failure> {
    if let Some(parent) = arguments.parent {
        stay_with(parent).map_err(|error| Failure::new("setup", format!("--parent: {error}")))?;
    }
    let failed = |error: SetupError| Failure::new("setup", error.to_string());
    let compiler = Compiler::new(arguments.target_cpu.clone()).map_err(failed)?;
    let Some(output) = &arguments.output else {
        identify(arguments, &compiler);
        return Ok(());
    };
    let start = Instant::now();
    let compiled = match &arguments.input {
        Some(input) => compile(arguments, &compiler, input)?,
        None => compiler.trap_helper().map_err(|error| Failure::of_program("the trap helper", &error))?,
    };
    let compile_ms = start.elapsed().as_millis();
    write_artifact(output, &compiled)
        .map_err(|error| Failure::new("output", format!("cannot write {}: {error}", output.display())))?;
    say(arguments, || {
        let megabytes = compiled.payload.len() as f64 / 1e6;
        format!("wrote {} ({megabytes:.1} MB) after {:.1} s", output.display(), compile_ms as f64 / 1e3)
    });
    if arguments.json {
        write_report(arguments, &report(&compiled, compile_ms));
    }
    Ok(())
}

fn compile(arguments: &Arguments, compiler: &Compiler, input: &Path) -> Result<Compiled, Failure> {
    let name =
        if input == Path::new(STANDARD_STREAM) { "standard input".into() } else { input.to_string_lossy() };
    let unread = |error| Failure::new("input", format!("cannot read {name}: {error}"));
    let program = read(input).map_err(unread)?;
    say(arguments, || {
        let megabytes = program.len() as f64 / 1e6;
        format!("compiling {name} ({megabytes:.1} MB) for {} …", arguments.target_cpu)
    });
    compiler.compile(&program).map_err(|error| Failure::of_program(&name, &error))
}

fn read(input: &Path) -> io::Result<Vec<u8>> {
    if input != Path::new(STANDARD_STREAM) {
        return std::fs::read(input);
    }
    let mut program = Vec::new();
    io::stdin().lock().read_to_end(&mut program)?;
    Ok(program)
}

fn write_artifact(output: &Path, compiled: &Compiled) -> io::Result<()> {
    let write = |mut file: &File| {
        file.write_all(&compiled.header())?;
        file.write_all(&compiled.payload)
    };
    if output == Path::new(STANDARD_STREAM) {
        // The descriptor itself: `std`'s buffer would look for line ends in machine code.
        return write(&File::from(io::stdout().as_fd().try_clone_to_owned()?));
    }
    // A device or a pipe is written to. Renaming would put a file in its place.
    if output.metadata().is_ok_and(|metadata| !metadata.is_file() && !metadata.is_dir()) {
        return write(&File::options().write(true).open(output)?);
    }
    let directory = match output.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let file = tempfile::Builder::new()
        .prefix(".selkis-compile-")
        .permissions(Permissions::from_mode(OUTPUT_MODE))
        .tempfile_in(directory)?;
    write(file.as_file())?;
    file.persist(output)?;
    Ok(())
}

fn report(compiled: &Compiled, compile_ms: u128) -> Report<'_> {
    let origin = &compiled.origin;
    Report {
        program: origin.program.iter().map(|byte| format!("{byte:02x}")).collect(),
        compiler: &origin.compiler,
        triple: &origin.triple,
        features: &origin.features,
        artifact_bytes: bundle::artifact::PAYLOAD_OFFSET + compiled.payload.len(),
        compile_ms,
        interface: &compiled.interface,
    }
}

fn identify(arguments: &Arguments, compiler: &Compiler) {
    let identity = Identity {
        compiler: compiler.identity(),
        triple: engine::TRIPLE,
        features: compiler.cpu().to_string(),
    };
    if arguments.json {
        return write_report(arguments, &identity);
    }
    println!("compiler {}\ntriple {}\nfeatures {}", identity.compiler, identity.triple, identity.features);
}

/// A line for a person, unless a program reads.
fn say(arguments: &Arguments, line: impl FnOnce() -> String) {
    if !arguments.json {
        eprintln!("selkis-compile: {}", line());
    }
}

fn write_report(arguments: &Arguments, report: &impl Serialize) {
    let line = serde_json::to_string(report).expect("a report can always be written to memory");
    match arguments.output.as_deref() == Some(Path::new(STANDARD_STREAM)) {
        true => eprintln!("{line}"),
        false => println!("{line}"),
    }
}

/// A panic is a bug of the engine's compiler, met by one module: the caller gets its one line like for any other error.
fn report_panics_in_one_line() {
    std::panic::set_hook(Box::new(|panic| {
        let line = panic.to_string().replace('\n', " ");
        eprintln!("selkis-compile: the compiler failed on this module, which is a bug in it: {line}");
        std::process::exit(1);
    }));
}
