//! From a manifest to domains that can be started.

use crate::arguments::Cpu;
use crate::catalogue;
use crate::compiled::{self, Compiled};
use crate::failure::Failure;
use crate::parts::{self, Part};
use crate::plan::nanoseconds;
use crate::report::Verbosity;
use bundle::{Begin, Console, DirectorySource, Plan, ProgramPlan, Startable};
use hosted::Runtime;
use hosted::domain::{Confinement, Domain, Quotas, Share};
use hosted::files::Grant;
use manifest::{Directory, Domain as Wanted, Program, System};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::File;
use std::path::{Path, PathBuf};

/// Parts in a million, of one in a thousand.
const PPM_PER_PERMILLE: u32 = 1000;

/// Each domain of the manifest, its programs compiled. The same program is read and compiled once.
pub fn prepare(manifest: &System, verbosity: Verbosity) -> Result<Vec<Domain>, Failure> {
    let runtime = parts::find(Part::Runtime)?;
    let mut compiled = HashMap::new();
    let mut domains = Vec::new();
    for wanted in &manifest.domains {
        for program in &wanted.programs {
            if let Entry::Vacant(place) = compiled.entry(&program.file) {
                let path = locate(manifest, &program.file)?;
                place.insert(compiled::compile(&program.file, &path, Cpu::Native, verbosity)?);
            }
        }
        domains.push(domain(manifest, wanted, Runtime::open(&runtime)?, &compiled)?);
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
    runtime: Runtime,
    compiled: &HashMap<&PathBuf, Compiled>,
) -> Result<Domain, Failure> {
    let files = files(wanted);
    let artifact = |file: &&PathBuf| duplicate(file, &compiled[*file].program);
    let mut grants = Vec::new();
    let mut programs = Vec::new();
    for program in &wanted.programs {
        let first = grants.len();
        for directory in &program.directories {
            let place = manifest.place_of(&directory.path);
            let grant = Grant::open(&place, directory.access);
            grants.push(grant.map_err(|error| Failure::Open(place, error))?);
        }
        let sources = (first..grants.len()).map(|number| DirectorySource::Host(number as u32)).collect();
        programs.push(program_plan(wanted, program, &files, sources));
    }
    Ok(Domain {
        runtime,
        plan: Plan {
            programs,
            console: Console::Wire,
            begin: Begin::WhenTold,
            vcpus: wanted.cpus,
            seed: None,
            children: wanted.children(),
        },
        trap_helper: duplicate(files[0], &compiled[files[0]].trap_helper)?,
        artifacts: files.iter().map(artifact).collect::<Result<_, _>>()?,
        grants,
        quotas: quotas(manifest, wanted),
        confinement: Confinement::Confined,
    })
}

fn duplicate(name: &Path, file: &File) -> Result<File, Failure> {
    file.try_clone().map_err(|error| Failure::Open(name.to_path_buf(), error))
}

/// The files of a domain's programs, each once: their places are the numbers of their artifacts.
pub fn files(domain: &Wanted) -> Vec<&PathBuf> {
    let mut files: Vec<&PathBuf> = Vec::new();
    for program in &domain.programs {
        if !files.contains(&&program.file) {
            files.push(&program.file);
        }
    }
    files
}

/// What a library OS is told of a program of that domain; `files` are those of the domain, `sources` those of its directories.
pub fn program_plan(
    domain: &Wanted,
    program: &Program,
    files: &[&PathBuf],
    sources: Vec<DirectorySource>,
) -> ProgramPlan {
    let startable =
        |place: &usize| Startable { name: domain.programs[*place].name.to_string(), program: *place as u32 };
    let own_name = program.file.file_name().unwrap_or(program.file.as_os_str());
    let own_name = own_name.as_encoded_bytes().to_vec();
    let given = program.arguments.iter().map(|argument| argument.clone().into_bytes());
    let variable = |(name, value): &(String, String)| format!("{name}={value}").into_bytes();
    let directory = |(directory, source): (&Directory, DirectorySource)| bundle::Directory {
        guest: directory.name.clone(),
        access: directory.access,
        source,
    };
    let artifact = files.iter().position(|file| **file == program.file);
    ProgramPlan {
        name: program.file.display().to_string(),
        artifact: artifact.expect("every program's file is among its domain's") as u32,
        arguments: std::iter::once(own_name).chain(given).collect(),
        environment: program.environment.iter().map(variable).collect(),
        memory_bytes_max: program.memory.0,
        timeout_ns: program.timeout.map(nanoseconds),
        cpu_ns_max: program.cpu_time.map(nanoseconds),
        table_elements_max: program.table_elements.map(u64::from),
        stack_bytes: program.stack.0,
        descriptors_max: program.descriptors,
        log_bytes_per_s: program.log_rate.map(|rate| rate.0),
        directories: program.directories.iter().zip(sources).map(directory).collect(),
        start: program.start.iter().map(startable).collect(),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_of_one_file_share_an_artifact() {
        let program = |name: &str, file: &str| {
            format!("[[domains.a.programs]]\nname = \"{name}\"\nfile = \"{file}\"\nmemory = \"1MiB\"\n")
        };
        let programs = [program("x", "one.wasm"), program("y", "two.wasm"), program("z", "one.wasm")];
        let text = format!("[domains.a]\nmemory = \"64MiB\"\n{}", programs.concat());
        let system = System::parse(&text, Path::new("tenants.toml")).unwrap();
        let domain = &system.domains[0];
        let files = files(domain);
        assert_eq!(files, [Path::new("one.wasm"), Path::new("two.wasm")]);
        let artifact = |program| program_plan(domain, program, &files, Vec::new()).artifact;
        assert_eq!(domain.programs.iter().map(artifact).collect::<Vec<_>>(), [0, 1, 0]);
    }
}
