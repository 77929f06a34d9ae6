//! Whether a system can run on a machine, and whether its files are there.

use crate::mistake::{Mistake, Mistakes, Position, Wrong};
use crate::units::ByteCount;
use crate::{Directory, Domain, Program, System};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// What there is to run a system on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Memory for domains.
    pub memory: ByteCount,
    /// How many CPUs.
    pub cpus: u32,
    /// How many processes a domain can have there.
    pub processes_max: u32,
}

impl System {
    /// Can the machine keep what the manifest promises?
    ///
    /// Memory is promised to be there, so its sum is checked. A CPU share is a part of whatever there is, and a budget a
    /// limit: of these, only what one domain could never use is a mistake.
    pub fn check(&self, machine: Machine) -> Result<(), Mistakes> {
        let mut mistakes = Vec::new();
        let mut promised = 0u64;
        for domain in &self.domains {
            let fitted = promised <= machine.memory.0;
            promised = promised.saturating_add(domain.memory.0);
            // Said once, of the first that does not fit.
            if fitted && promised > machine.memory.0 {
                let (promised, machine) = (ByteCount(promised), machine.memory);
                let wrong = Wrong::MemoryOfMachine { domain: domain.name.clone(), promised, machine };
                mistakes.push(Mistake { at: domain.at, wrong });
            }
            mistakes.extend(cpus(domain, machine));
            mistakes.extend(processes(domain, machine));
        }
        Mistakes::none_of(self.path.clone(), mistakes)
    }

    /// Are the programs' files and the directories there? `is_in_catalogue` knows the programs that can be run by name.
    pub fn check_files(&self, is_in_catalogue: impl Fn(&str) -> bool) -> Result<(), Mistakes> {
        let mut mistakes = Vec::new();
        for program in self.domains.iter().flat_map(|domain| &domain.programs) {
            mistakes.extend(self.file(program, &is_in_catalogue));
            mistakes.extend(program.directories.iter().filter_map(|directory| self.directory(directory)));
        }
        Mistakes::none_of(self.path.clone(), mistakes)
    }

    /// Where a path of the manifest is: relative ones begin in the manifest's folder.
    pub fn place_of(&self, path: &Path) -> PathBuf {
        self.path.parent().unwrap_or(Path::new("")).join(path)
    }

    fn file(&self, program: &Program, is_in_catalogue: impl Fn(&str) -> bool) -> Option<Mistake> {
        let text = || program.file.display().to_string();
        let wrong = match self.place_of(&program.file).metadata() {
            Ok(metadata) if metadata.is_dir() => Wrong::NotAFile(text()),
            Ok(_) => return None,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let named = program.file.to_str().is_some_and(is_in_catalogue);
                return (!named).then(|| mistake(program.file_at, Wrong::NoFile(text())));
            }
            Err(error) => Wrong::OutOfReach(text(), error.kind()),
        };
        Some(mistake(program.file_at, wrong))
    }

    fn directory(&self, directory: &Directory) -> Option<Mistake> {
        let text = || directory.path.display().to_string();
        let wrong = match self.place_of(&directory.path).metadata() {
            Ok(metadata) if metadata.is_dir() => return None,
            Ok(_) => Wrong::NotADirectory(text()),
            Err(error) if error.kind() == ErrorKind::NotFound => Wrong::NoDirectory(text()),
            Err(error) => Wrong::OutOfReach(text(), error.kind()),
        };
        Some(mistake(directory.at, wrong))
    }
}

fn cpus(domain: &Domain, machine: Machine) -> Option<Mistake> {
    let wrong = Wrong::Cpus { domain: domain.name.clone(), cpus: domain.cpus, machine: machine.cpus };
    (domain.cpus > machine.cpus).then(|| mistake(domain.at, wrong))
}

fn processes(domain: &Domain, machine: Machine) -> Option<Mistake> {
    let (processes, max) = (domain.processes, machine.processes_max);
    let wrong = Wrong::ProcessesOfMachine { domain: domain.name.clone(), processes, max };
    (processes > max).then(|| mistake(domain.at, wrong))
}

fn mistake(at: Position, wrong: Wrong) -> Mistake {
    Mistake { at, wrong }
}
