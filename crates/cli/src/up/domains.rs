//! From a manifest to domains that can be started.

use crate::arguments::Cpu;
use crate::catalogue;
use crate::compiled::{self, Compiled};
use crate::failure::Failure;
use crate::parts::{self, Part};
use crate::report::Verbosity;
use bundle::{Console, DirectorySource, Plan};
use hosted::Runtime;
use hosted::domain::{Confinement, Domain, Quotas, Share};
use hosted::files::Grant;
use manifest::{Directory, Domain as Wanted, Program, System};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::path::{Path, PathBuf};

/// Parts in a million, of one in a thousand.
const PPM_PER_PERMILLE: u32 = 1000;

/// Each domain of the manifest, its program compiled. The same program is read and compiled once.
pub fn prepare(manifest: &System) -> Result<Vec<Domain>, Failure> {
    let runtime = parts::find(Part::Runtime)?;
    let mut compiled = HashMap::new();
    let mut domains = Vec::new();
    for wanted in &manifest.domains {
        let program = wanted.programs.first().expect("a domain of a manifest has a program");
        let compiled = match compiled.entry(&program.file) {
            Entry::Occupied(there) => there.into_mut(),
            Entry::Vacant(place) => {
                let path = locate(manifest, &program.file)?;
                place.insert(compiled::compile(&program.file, &path, Cpu::Native, Verbosity::Quiet)?)
            }
        };
        domains.push(domain(manifest, wanted, program, Runtime::open(&runtime)?, compiled)?);
    }
    Ok(domains)
}

/// As `run` finds it, but from the manifest's folder.
pub fn locate(manifest: &System, file: &Path) -> Result<PathBuf, Failure> {
    let place = manifest.place_of(file);
    match place.try_exists() {
        Ok(false) => Ok(catalogue::fetch(file)?),
        _ => Ok(place),
    }
}

fn domain(
    manifest: &System,
    wanted: &Wanted,
    program: &Program,
    runtime: Runtime,
    compiled: &Compiled,
) -> Result<Domain, Failure> {
    let duplicate = |error: io::Error| Failure::Open(program.file.clone(), error);
    let grant = |directory: &Directory| {
        let place = manifest.place_of(&directory.path);
        Grant::open(&place, directory.access).map_err(|error| Failure::Open(place, error))
    };
    Ok(Domain {
        runtime,
        plan: plan(program, (0..program.directories.len() as u32).map(DirectorySource::Host).collect()),
        program: compiled.program.try_clone().map_err(duplicate)?,
        trap_helper: compiled.trap_helper.try_clone().map_err(duplicate)?,
        grants: program.directories.iter().map(grant).collect::<Result<_, _>>()?,
        quotas: quotas(manifest, wanted),
        confinement: Confinement::Confined,
    })
}

/// What its library OS is told; `sources` are those of its directories.
pub fn plan(program: &Program, sources: Vec<DirectorySource>) -> Plan {
    let own_name = program.file.file_name().unwrap_or(program.file.as_os_str());
    let own_name = own_name.as_encoded_bytes().to_vec();
    let given = program.arguments.iter().map(|argument| argument.clone().into_bytes());
    let variable = |(name, value): &(String, String)| format!("{name}={value}").into_bytes();
    let directory = |(directory, source): (&Directory, DirectorySource)| bundle::Directory {
        guest: directory.name.clone(),
        access: directory.access,
        source,
    };
    Plan {
        program: program.file.display().to_string(),
        arguments: std::iter::once(own_name).chain(given).collect(),
        environment: program.environment.iter().map(variable).collect(),
        memory_bytes_max: program.memory.0,
        timeout_ns: program.timeout.map(|time| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)),
        console: Console::Host,
        directories: program.directories.iter().zip(sources).map(directory).collect(),
        seed: None,
    }
}

fn quotas(manifest: &System, wanted: &Wanted) -> Quotas {
    let weight = |domain: &Wanted| u16::try_from(domain.cpu_share).unwrap_or(u16::MAX);
    let heaviest = manifest.domains.iter().map(weight).max().unwrap_or_default();
    Quotas {
        memory_bytes: wanted.memory.0,
        cpu_share: Share { weight: weight(wanted), heaviest },
        cpu_budget_permille: wanted.cpu_budget.map(|budget| budget.ppm.div_ceil(PPM_PER_PERMILLE)),
    }
}
