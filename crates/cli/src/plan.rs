//! From the command line to a [`Plan`].

use crate::arguments::ProgramArguments;
use crate::environment::{self, EnvironmentError};
use crate::grants::Grant;
use bundle::{Console, Directory, DirectorySource, Plan, ProgramPlan, Seed};
use std::env;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

/// The plan for `arguments`, with the directories' `sources` in the order of the grants.
pub fn plan(
    arguments: &ProgramArguments,
    console: Console,
    sources: Vec<DirectorySource>,
    seed: Option<Seed>,
) -> Result<Plan, EnvironmentError> {
    let own_name = arguments.program.file_name().unwrap_or(arguments.program.as_os_str());
    let own_name = arguments.argv0.as_deref().unwrap_or(own_name);
    let given = arguments.arguments.iter().map(|argument| argument.as_os_str());
    let bytes = |text: &OsStr| text.as_bytes().to_vec();
    let directories = arguments.directories.iter().zip(sources);
    let program = ProgramPlan {
        name: arguments.program.display().to_string(),
        artifact: 0,
        arguments: std::iter::once(own_name).chain(given).map(bytes).collect(),
        environment: environment::resolve(&arguments.environment, |name| env::var_os(name))?,
        memory_bytes_max: arguments.memory.0,
        timeout_ns: arguments.timeout.map(nanoseconds),
        cpu_ns_max: arguments.cpu_time.map(nanoseconds),
        table_elements_max: arguments.table_elements,
        stack_bytes: arguments.stack.0,
        descriptors_max: arguments.descriptors,
        log_bytes_per_s: None,
        directories: directories.map(|(grant, source)| directory(grant, source)).collect(),
        start: Vec::new(),
    };
    Ok(Plan::of_one(program, console, seed))
}

/// As plans have it: 584 years are for ever.
pub fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn directory(grant: &Grant, source: DirectorySource) -> Directory {
    Directory { guest: grant.guest.clone(), access: grant.access, source }
}

/// Fresh entropy for one run.
pub fn fresh_seed() -> std::io::Result<Seed> {
    let mut seed = [0; 32];
    let mut filled = 0;
    while filled < seed.len() {
        filled += rustix::rand::getrandom(&mut seed[filled..], rustix::rand::GetRandomFlags::empty())?;
    }
    Ok(Seed(seed))
}
