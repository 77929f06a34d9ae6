//! `selkis run`

use crate::arguments::{Cpu, RunArguments};
use crate::catalogue;
use crate::compiled;
use crate::crash;
use crate::failure::Failure;
use crate::grants::{self, Grant};
use crate::machine_bundle;
use crate::parts::{self, Part};
use crate::plan::{fresh_seed, plan};
use crate::report::Verbosity;
use crate::vm::{self, Machine, Mitigations};
use bundle::{Console, DirectorySource, Seed, Terminal, Terminals};
use hosted::confine::{Cell, missing};
use hosted::files::LinuxFiles;
use hosted::host::linux_host;
use hosted::streams::LinuxStreams;
use hosted::{Launch, Runtime};
use std::io::{self, IsTerminal, Write};
use supervisor::read_crash;
use wasi::entropy::Generator;

/// Runs the program and answers with the status to exit with.
pub fn run(arguments: &RunArguments) -> Result<u8, Failure> {
    let verbosity = Verbosity::from_flag(arguments.verbose);
    if arguments.vm {
        return run_in_machine(arguments, verbosity);
    }
    run_hosted(arguments, verbosity)
}

fn run_hosted(arguments: &RunArguments, verbosity: Verbosity) -> Result<u8, Failure> {
    let program = &arguments.program;
    let runtime = Runtime::open(&parts::find(Part::Runtime)?)?;
    let path = catalogue::locate(&program.program)?;
    grants::check_names(&program.directories)?;
    let directories = program.directories.iter().map(Grant::grant).collect::<Result<Vec<_>, _>>()?;
    let sources = (0..directories.len() as u32).map(DirectorySource::Host).collect();
    let plan = plan(program, Console::Host, sources, None)?;
    let Seed(seed) = fresh_seed().map_err(Failure::Entropy)?;
    let entropy = Generator::new(Some(&seed), &[]).map_err(Failure::NoSource)?;
    let compiled = compiled::compile(&program.program, &path, arguments.target_cpu, verbosity)?;
    let cell = Some(Cell::new(&directories)?);
    missing().iter().for_each(|missing| verbosity.step(|| missing.to_string()));
    let ended = hosted::launch(Launch {
        runtime,
        plan,
        artifacts: vec![compiled.program],
        trap_helper: compiled.trap_helper,
        host: Box::new(linux_host(LinuxStreams::new(), LinuxFiles::new(directories), entropy)),
        wire: None,
        cell,
    })?;
    if let Some(crash) = ended.crash.and_then(|payload| read_crash(&payload).ok()) {
        // Where standard error is closed there is nobody to tell.
        let _ = io::stderr().write_all(crash::details(&crash).as_bytes());
    }
    Ok(ended.status)
}

fn run_in_machine(arguments: &RunArguments, verbosity: Verbosity) -> Result<u8, Failure> {
    // What is missing is said before anything is compiled.
    let qemu = vm::find_qemu()?;
    let kernel = parts::find(Part::Kernel)?;
    let program = catalogue::locate(&arguments.program.program)?;
    let compiled = compiled::compile(&arguments.program.program, &program, Cpu::X86_64V2, verbosity)?;
    let seed = fresh_seed().map_err(Failure::Entropy)?;
    let bundle =
        machine_bundle::pack(&arguments.program, &compiled, Console::Framed(own_terminals()), Some(seed))?;
    let memory = match arguments.vm_memory {
        Some(memory) => memory,
        None => vm::memory_for(arguments.program.memory, bundle.length),
    };
    vm::check_memory(memory, bundle.length)?;
    Ok(vm::run(Machine {
        qemu: &qemu,
        kernel,
        bundle,
        memory,
        cpus: 1,
        mitigations: Mitigations::On,
        verbosity,
        log: arguments.kernel_log,
    })?)
}

/// At which of this process's streams a person may sit: the program in the machine is told, as it would find out hosted.
fn own_terminals() -> Terminals {
    let terminal = |stream: &dyn IsTerminal| if stream.is_terminal() { Terminal::Yes } else { Terminal::No };
    Terminals {
        input: terminal(&io::stdin()),
        output: terminal(&io::stdout()),
        error: terminal(&io::stderr()),
    }
}
