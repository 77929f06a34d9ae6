//! The command line.

use crate::client::arguments as client;
use crate::environment::Variable;
use crate::exit;
use crate::grants::Grant;
use crate::up::Report;
use crate::vm::KernelLog;
use bundle::ProgramPlan;
use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum};
use manifest::units::{ByteCount, parse_duration, parse_stack};
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

const RUN_EXAMPLES: &str = "\
Examples:
  selkis run python.wasm -- -c 'print(6*7)'
  selkis run --vm python.wasm -- -c 'print(6*7)'        the same on the bare machine, in QEMU
  selkis run rg.wasm --dir docs:ro -- -c wasm docs      may read docs, and nothing else
  selkis run app.wasm --dir /srv/data::/data --env HOME=/data --timeout 10s";

const UP_EXAMPLES: &str = "\
Examples:
  selkis up systems/tenants.toml
  selkis up systems/tenants.toml --json | jq -r 'select(.event == \"ended\") | .domain'
  curl --unix-socket \"$XDG_RUNTIME_DIR/selkis/tenants.sock\" http://localhost/metrics
        (where XDG_RUNTIME_DIR is not set: /run/selkis/tenants.sock for root, else /tmp/selkis-UID/tenants.sock)";

const IMAGE_EXAMPLES: &str = "\
Examples:
  selkis image python.wasm -o selkis.img -- -c 'print(6*7)'
  selkis image app.wasm -o app.img --dir data           a copy of data travels in the image
  selkis image app.wasm -o app.img --loader BOOTX64.EFI with the stock Limine loader";

const CACHE_EXAMPLES: &str = "\
Examples:
  selkis cache                 what is there, and where
  selkis cache list --json
  selkis cache prune           remove all of it; it is made again when it is needed";

/// A WebAssembly-native operating system: runs WASI programs as Linux processes, or on its own kernel.
#[derive(Debug, Parser)]
#[command(
    name = "selkis",
    version,
    propagate_version = true,
    max_term_width = 100,
    after_help = "\
In a checkout, `./selkis build`, `./selkis test` and `./selkis bench` build the parts, run every test, and measure; \
`./selkis clean` removes what they made."
)]
pub struct CommandLine {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a program, hosted or in a virtual machine
    #[command(after_help = format!("{RUN_EXAMPLES}\n\n{}", exit::HELP))]
    #[command(override_usage = "selkis run [OPTIONS] <PROGRAM> [OPTIONS] [-- <ARGS>...]")]
    Run(RunArguments),
    /// Run a whole system from its manifest
    #[command(after_help = format!("{UP_EXAMPLES}\n\n{}", exit::UP_HELP))]
    Up(UpArguments),
    /// Make a bootable UEFI disk image of a program
    #[command(after_help = IMAGE_EXAMPLES)]
    #[command(override_usage = "selkis image [OPTIONS] <PROGRAM> -o <FILE> [OPTIONS] [-- <ARGS>...]")]
    Image(ImageArguments),
    /// Show what runs in a system, and what it uses
    #[command(after_help = client::PS_EXAMPLES)]
    Ps(client::PsArguments),
    /// Show what the domains of a system use, live, the busiest first
    #[command(after_help = client::TOP_EXAMPLES)]
    Top(client::TopArguments),
    /// Show what programs of a system have written
    #[command(after_help = client::LOG_EXAMPLES)]
    Log(client::LogArguments),
    /// Show how programs of a system failed last: where, at which limits, after which words
    #[command(after_help = client::CRASH_EXAMPLES)]
    Crash(client::CrashArguments),
    /// Show what the kernel of a system's machine does: switches, requests, interrupts
    #[command(after_help = client::TRACE_EXAMPLES)]
    Trace(client::TraceArguments),
    /// End programs of a system, for good, or all of it
    #[command(after_help = client::KILL_EXAMPLES)]
    Kill(client::KillArguments),
    /// List the programs that can be run by name alone
    #[command(after_help = "Example:\n  selkis programs && selkis run quickjs.wasm -- -e 'console.log(6*7)'")]
    Programs(ListArguments),
    /// Look at the compiled programs that are kept, or remove them
    #[command(after_help = CACHE_EXAMPLES)]
    Cache(CacheArguments),
    /// Start a command that ends when this process does; used by `run --vm` itself
    #[command(hide = true)]
    Leash(LeashArguments),
    /// Be the process of a domain; used by `up` itself
    #[command(name = "__domain", hide = true)]
    Domain,
}

/// What a program is run with, wherever it runs.
#[derive(Args, Debug)]
pub struct ProgramArguments {
    /// A WebAssembly file (binary or text), or a name from `selkis programs`
    pub program: PathBuf,

    /// Let the program use a directory, under the same name or as GUEST; `:ro` only to read.
    /// May be given several times. In a VM it works on a copy, and what it changes ends with the VM
    #[arg(long = "dir", value_name = "HOST[::GUEST][:ro]", value_parser = OsStringValueParser::new().try_map(Grant::parse))]
    pub directories: Vec<Grant>,

    /// Set an environment variable, or pass on the one that is set here. None is passed on unasked
    #[arg(long = "env", value_name = "NAME[=VALUE]", value_parser = OsStringValueParser::new().try_map(Variable::parse))]
    pub environment: Vec<Variable>,

    /// How much memory the program may use
    #[arg(long, value_name = "SIZE", default_value = "256MiB")]
    pub memory: ByteCount,

    /// End the program when this time is up, counted from its first instruction: 500ms, 10s, 2m
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub timeout: Option<Duration>,

    /// End the program when it has used this much CPU time: time in which it waits does not count
    #[arg(long, visible_alias = "cpu", value_name = "DURATION", value_parser = parse_duration)]
    pub cpu_time: Option<Duration>,

    /// How much stack the program's calls may use, from 16KiB to 512KiB
    #[arg(long, value_name = "SIZE", value_parser = parse_stack, default_value = "512KiB")]
    pub stack: ByteCount,

    /// How many elements the program's tables may have together [default: 1048576; never more than fits into its memory]
    #[arg(long, value_name = "COUNT")]
    pub table_elements: Option<u64>,

    /// How many files, directories and streams the program may have open at a time
    #[arg(long, value_name = "COUNT", default_value_t = ProgramPlan::DESCRIPTORS,
        value_parser = clap::value_parser!(u32).range(3..=i64::from(ProgramPlan::DESCRIPTORS_MAX)))]
    pub descriptors: u32,

    /// Tell the program another name for itself than its file's
    #[arg(long, value_name = "NAME")]
    pub argv0: Option<OsString>,

    /// The program's own arguments
    #[arg(last = true, value_name = "ARGS")]
    pub arguments: Vec<OsString>,
}

/// `selkis run`
#[derive(Args, Debug)]
pub struct RunArguments {
    #[command(flatten)]
    pub program: ProgramArguments,

    /// Boot a machine in QEMU and run the program there, on Selkis' own kernel
    #[arg(long)]
    pub vm: bool,

    /// The machine's memory [default: what the program may use, its code and files, and some for the system]
    #[arg(long, value_name = "SIZE", requires = "vm")]
    pub vm_memory: Option<ByteCount>,

    /// Which CPU to compile for; in a VM always x86-64-v2
    #[arg(long, value_enum, default_value_t = Cpu::Native, conflicts_with = "vm")]
    pub target_cpu: Cpu,

    /// Say on standard error what is being done; with --vm also what the kernel says
    #[arg(short, long)]
    pub verbose: bool,

    /// Show on standard error what the machine's kernel says that matters so much
    #[arg(long, value_enum, value_name = "LEVEL", requires = "vm")]
    pub kernel_log: Option<KernelLog>,
}

/// `selkis up`
#[derive(Args, Debug)]
pub struct UpArguments {
    /// The manifest: a TOML file that names domains, what they may use, and their programs
    pub manifest: PathBuf,

    /// Boot a machine in QEMU and run the system there, on Selkis' own kernel
    #[arg(long)]
    pub vm: bool,

    /// How many CPUs the system may use [default: all], or with --vm the machine has [default: as many as the domain with the most]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub cpus: Option<u32>,

    /// Say on standard error what is being done; with --vm also what the kernel says
    #[arg(short, long)]
    pub verbose: bool,

    /// Show on standard error what the machine's kernel says that matters so much
    #[arg(long, value_enum, value_name = "LEVEL", requires = "vm")]
    pub kernel_log: Option<KernelLog>,

    /// Print nothing but errors
    #[arg(short, long, conflicts_with = "json")]
    quiet: bool,

    /// Write each event as a line of JSON, for a script
    #[arg(long)]
    json: bool,
}

impl UpArguments {
    /// How to tell what happens.
    pub fn report(&self) -> Report {
        match (self.quiet, self.json) {
            (true, _) => Report::Nothing,
            (_, true) => Report::Json,
            _ => Report::Lines,
        }
    }
}

/// `selkis image`
#[derive(Args, Debug)]
pub struct ImageArguments {
    #[command(flatten)]
    pub program: ProgramArguments,

    /// Where to write the image
    #[arg(short, long, value_name = "FILE", value_parser = OsStringValueParser::new().try_map(parse_output))]
    pub output: PathBuf,

    /// Another UEFI loader that speaks the Limine protocol, such as Limine's own BOOTX64.EFI
    #[arg(long, value_name = "PATH")]
    pub loader: Option<PathBuf>,

    /// What the kernel is to say on the machine's serial port: what matters so much [default: warn]
    #[arg(long, value_enum, value_name = "LEVEL")]
    pub kernel_log: Option<KernelLog>,

    /// Say on standard error what is being done
    #[arg(short, long)]
    pub verbose: bool,
}

/// An image is a file: it is written with holes, and not from its beginning to its end.
fn parse_output(word: OsString) -> Result<PathBuf, &'static str> {
    match word.to_str() {
        Some("-") => Err("an image cannot go to standard output: name a file (`./-` for one of that name)"),
        _ => Ok(PathBuf::from(word)),
    }
}

/// Which instructions compiled code may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Cpu {
    /// All that this machine has.
    Native,
    /// Those that every x86-64 CPU since 2009 has.
    #[value(name = "x86-64-v2")]
    X86_64V2,
}

/// A list for a person or for a script.
#[derive(Args, Debug)]
pub struct ListArguments {
    /// Write JSON, for a script
    #[arg(long)]
    pub json: bool,
}

/// `selkis cache`
#[derive(Args, Debug)]
pub struct CacheArguments {
    /// What to do with it
    #[arg(value_enum, default_value_t = CacheAction::List)]
    pub action: CacheAction,

    #[command(flatten)]
    pub list: ListArguments,
}

/// What to do with the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CacheAction {
    /// Show each compiled program and its size.
    List,
    /// Remove them.
    Prune,
}

/// `selkis leash`
#[derive(Args, Debug)]
pub struct LeashArguments {
    /// The process that holds the leash.
    pub holder: i32,
    /// The command and its arguments.
    #[arg(last = true, required = true)]
    pub command: Vec<OsString>,
}
