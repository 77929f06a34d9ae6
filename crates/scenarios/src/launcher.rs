//! The library OS, launched as `selkis run` launches it, with artifacts that no store has looked at.
//!
//! It runs in the process of its launcher, and may end it: so that is this executable once more, under another name.

use crate::guests;
use crate::selkis::{Context, Output, lib, run_command};
use crate::verdict::Verdict;
use bundle::{Console, Plan, ProgramPlan};
use hosted::files::LinuxFiles;
use hosted::host::linux_host;
use hosted::streams::LinuxStreams;
use hosted::{Launch, Runtime};
use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{Read, Seek};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;
use store::{Program, Store};
use wasi::entropy::Generator;

const LAUNCHER: &str = "launch-without-store";
const MEMORY_BYTES_MAX: u64 = 64 << 20;

/// The artifacts of a guest and of the trap helper, as files that are the scenario's own.
pub fn artifacts(context: &Context, guest: &str) -> Verdict<[PathBuf; 2]> {
    let store = Store::new(context.folder().join("store"), lib()?.join("selkis-compile"));
    let bytes = guests::binary(guest)?;
    let programs = [Program::Module { name: guest, bytes: &bytes }, Program::TrapHelper];
    let names = ["program.artifact", "helper.artifact"];
    let paths = names.map(|name| context.folder().join(name));
    for (program, path) in programs.into_iter().zip(&paths) {
        let mut artifact = store.artifact(program, "native", &mut |_| {})?;
        let mut bytes = Vec::new();
        artifact.file.rewind()?;
        artifact.file.read_to_end(&mut bytes)?;
        fs::write(path, bytes)?;
    }
    Ok(paths)
}

/// Launches the library OS that is called `runtime` among the parts in a process of its own. The first of `words` is the program's name.
pub fn launch(
    runtime: &str,
    [program, trap_helper]: &[PathBuf; 2],
    words: &[&str],
    deadline: Duration,
) -> Verdict<Output> {
    let mut command = Command::new(env::current_exe()?);
    command.arg0(LAUNCHER).args([lib()?.join(runtime).as_path(), program, trap_helper]);
    run_command(command.args(words), deadline)
}

/// If this was started as the launcher: launches.
pub fn stand_in_for_selkis() -> Option<ExitCode> {
    let words: Vec<OsString> = env::args_os().collect();
    let (own_name, words) = words.split_first()?;
    let [runtime, program, trap_helper, arguments @ ..] = words else { return None };
    if own_name != OsStr::new(LAUNCHER) {
        return None;
    }
    Some(match run(Path::new(runtime), Path::new(program), Path::new(trap_helper), arguments) {
        Ok(status) => ExitCode::from(status),
        Err(failed) => {
            eprintln!("{LAUNCHER}: {}", failed.0);
            ExitCode::FAILURE
        }
    })
}

fn run(runtime: &Path, program: &Path, trap_helper: &Path, arguments: &[OsString]) -> Verdict<u8> {
    let arguments: Vec<Vec<u8>> = arguments.iter().map(|word| word.as_encoded_bytes().to_vec()).collect();
    let program_plan = ProgramPlan {
        name: String::from_utf8_lossy(arguments.first().map_or(b"", Vec::as_slice)).into_owned(),
        artifact: 0,
        arguments,
        environment: Vec::new(),
        memory_bytes_max: MEMORY_BYTES_MAX,
        ..ProgramPlan::default()
    };
    // A second one is there for a library OS that asks for it.
    let plan = Plan { vcpus: 2, ..Plan::of_one(program_plan, Console::Host, None) };
    let entropy = Generator::new(Some(&hosted::clock::seed()?), &[])?;
    let host = Box::new(linux_host(LinuxStreams::new(), LinuxFiles::new(Vec::new()), entropy));
    let (artifacts, trap_helper) = (vec![File::open(program)?], File::open(trap_helper)?);
    let runtime = Runtime::open(runtime)?;
    Ok(hosted::launch(Launch { runtime, plan, artifacts, trap_helper, host, wire: None, cell: None })?.status)
}
