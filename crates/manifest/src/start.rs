//! Which programs may start which, and whether they could be.

use crate::mistake::{Mistake, Wrong};
use crate::read::{Draft, all};
use crate::table::{Reader, Table, nearest};
use crate::units::ByteCount;
use crate::{Domain, Name, Program};

impl<'t> Reader<'t> {
    /// Says of what stands there in vain that it does.
    pub(crate) fn only_started(&mut self, program: &Table<'_, 't>) {
        for key in ["start", "arguments", "environment", "directories", "restart"] {
            if let Some(value) = program.get(key) {
                self.wrong(value.span().start, Wrong::OnlyStarted { key });
            }
        }
    }

    /// Finds the programs that each may start.
    pub(crate) fn starts(&mut self, domain: &Name, drafts: Vec<Draft>) -> Option<Vec<Program>> {
        let names: Vec<Name> = drafts.iter().map(|draft| draft.program.name.clone()).collect();
        let programs = all(drafts.into_iter().map(|Draft { mut program, names: wanted, .. }| {
            let count = wanted.len();
            for (name, start) in wanted {
                let wrong = match names.iter().position(|other| other.as_str() == name) {
                    Some(place) if !program.start.contains(&place) => {
                        program.start.push(place);
                        continue;
                    }
                    Some(_) => Wrong::StartTwice(name),
                    None => {
                        let nearest = nearest(&name, names.iter().map(Name::as_str));
                        let nearest = nearest.and_then(|nearest| nearest.parse().ok());
                        Wrong::Start { name, domain: domain.clone(), nearest }
                    }
                };
                self.wrong(start, wrong);
            }
            (program.start.len() == count).then_some(program)
        }))?;
        for (place, program) in programs.iter().enumerate() {
            if program.instances == 0 && !programs.iter().any(|other| other.start.contains(&place)) {
                self.mistakes
                    .push(Mistake { at: program.at, wrong: Wrong::NeverStarted(program.name.clone()) });
            }
        }
        Some(programs)
    }

    /// Could each program that others may start be started once, when all that runs from the beginning runs?
    pub(crate) fn check_children(&mut self, domain: Domain) -> Option<Domain> {
        let children = domain.children();
        let left = ByteCount(children.memory_bytes_max);
        let mut wrong = Vec::new();
        for (place, program) in domain.programs.iter().enumerate() {
            let (name, program_name) = (domain.name.clone(), program.name.clone());
            if !domain.programs.iter().any(|other| other.start.contains(&place)) {
                continue;
            }
            let why = if children.processes_max == 0 {
                Wrong::NoProcessLeft { domain: name, program: program_name, processes: domain.processes }
            } else if program.process_bytes() > left.0 {
                let wanted = ByteCount(program.process_bytes());
                Wrong::NoMemoryLeft { domain: name, program: program_name, wanted, left }
            } else {
                continue;
            };
            wrong.push(Mistake { at: program.at, wrong: why });
        }
        let is_right = wrong.is_empty();
        self.mistakes.extend(wrong);
        is_right.then_some(domain)
    }
}
