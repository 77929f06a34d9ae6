//! What a machine boots with for a whole system: the library OS and each program once, and for each domain what it finds.

use crate::arguments::Cpu;
use crate::bundle_file::{BundleFile, PageWriter};
use crate::compiled::{self, Compiled};
use crate::failure::Failure;
use crate::parts::{self, Part as Executable};
use crate::plan::fresh_seed;
use crate::report::Verbosity;
use crate::tree::{TreeCopier, TreeError};
use crate::up::domains::{files, locate, program_plan};
use abi::{DomainParameters, PAGE_SIZE, Span};
use bundle::system::{Domain, Part, Program as Listed, Restart};
use bundle::{Begin, Console, DirectorySource, Item, Kind, Layout, Plan, Start, System, Terminal, Terminals};
use manifest::{Domain as Wanted, Program, System as Manifest};
use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// Millionths of a CPU in one.
const CPU_PPM: u64 = 1_000_000;

/// What the log of a process may take of a machine's memory, if they are few.
pub const LOG_BYTES_MAX: u64 = 256 << 10;

/// Packs the manifest's programs, compiled for any machine.
pub fn pack(manifest: &Manifest, verbosity: Verbosity) -> Result<BundleFile, Failure> {
    let mut packer = Packer { pages: PageWriter::new().map_err(write)?, programs: HashMap::new(), verbosity };
    let runtime = parts::find(Executable::Runtime)?;
    let bytes = fs::read(&runtime).map_err(|error| Failure::Open(runtime.clone(), error))?;
    let bytes = executable::loaded_part(bytes);
    let span = packer.pages.add(&bytes).map_err(write)?;
    let add = |tail: &[u8]| packer.pages.add(tail).map(|span| span.base).map_err(write);
    let image = executable::image(&bytes, span.base, add)?;
    let no_executable = || io::Error::new(io::ErrorKind::InvalidData, "it is not an executable for this");
    let image = image.ok_or_else(|| Failure::Open(runtime, no_executable()))?;
    let domains = manifest.domains.iter().map(|wanted| packer.domain(manifest, wanted));
    let system = System {
        name: manifest.name.to_string(),
        domains: domains.collect::<Result<_, _>>()?,
        seed: fresh_seed().map_err(Failure::Entropy)?,
        image,
        log_bytes_max: LOG_BYTES_MAX,
    };
    let description = packer.pages.add(&Layout::encode_system(&system)).map_err(write)?;
    packer.pages.finish(&[(Kind::System, description), (Kind::Image, span)]).map_err(write)
}

struct Packer {
    pages: PageWriter,
    /// By their files: where the artifacts of the program and of its trap helper lie.
    programs: HashMap<PathBuf, (Span, Span)>,
    verbosity: Verbosity,
}

impl Packer {
    fn domain(&mut self, manifest: &Manifest, wanted: &Wanted) -> Result<Domain, Failure> {
        let files = files(wanted);
        let (sources, contents) = self.contents(manifest, wanted)?;
        let programs = wanted.programs.iter().zip(sources);
        let plan = Plan {
            programs: programs
                .map(|(program, sources)| program_plan(wanted, program, &files, sources))
                .collect(),
            console: Console::Framed(Terminals::all(Terminal::No)),
            begin: Begin::WhenTold,
            vcpus: wanted.cpus,
            seed: None,
            children: wanted.children(),
        };
        let plan = self.pages.add(&Layout::encode_plan(&plan)).map_err(write)?;
        let mut placed = vec![(Kind::Files, contents), (Kind::Plan, plan)];
        for file in files {
            let (artifact, trap_helper) = self.program(manifest, file)?;
            if !placed.iter().any(|(kind, _)| *kind == Kind::TrapHelper) {
                placed.push((Kind::TrapHelper, trap_helper));
            }
            placed.push((Kind::Program, artifact));
        }
        let (parts, start_at, module_bytes) = self.module(&placed)?;
        Ok(Domain {
            name: wanted.name.to_string(),
            memory_bytes: wanted.memory.0.next_multiple_of(PAGE_SIZE),
            vcpus: wanted.cpus,
            share: wanted.cpu_share.into(),
            budget_ns: wanted
                .cpu_budget
                .map_or(0, |budget| u64::from(budget.ppm) * DomainParameters::PERIOD_NS / CPU_PPM),
            programs: wanted.programs.iter().map(listed).collect(),
            children: wanted.children().numbers(),
            parts,
            start_at,
            module_bytes,
        })
    }

    /// The artifacts of a program, which lie there once.
    fn program(&mut self, manifest: &Manifest, file: &Path) -> Result<(Span, Span), Failure> {
        let path = locate(manifest, file)?;
        if let Some(spans) = self.programs.get(&path) {
            return Ok(*spans);
        }
        let Compiled { program: artifact, trap_helper } =
            compiled::compile(file, &path, Cpu::X86_64V2, self.verbosity)?;
        let artifact = self.pages.add_file(&artifact).map_err(write)?;
        let first = self.programs.values().next();
        let trap_helper = match first {
            Some((_, trap_helper)) => *trap_helper,
            None => self.pages.add_file(&trap_helper).map_err(write)?,
        };
        self.programs.insert(path, (artifact, trap_helper));
        Ok((artifact, trap_helper))
    }

    /// The contents of the directories of all of a domain's programs, one after the other.
    fn contents(
        &mut self,
        manifest: &Manifest,
        wanted: &Wanted,
    ) -> Result<(Vec<Vec<DirectorySource>>, Span), Failure> {
        self.pages.add_with(write, |files| {
            let mut copier = TreeCopier::new(files);
            let mut copy = |directory: &manifest::Directory| {
                let place = manifest.place_of(&directory.path);
                let opened = File::open(&place).map_err(|error| Failure::Open(place.clone(), error))?;
                Ok(DirectorySource::Copy(copier.copy(&opened, &place)?.into()))
            };
            let mut of_program = |program: &Program| program.directories.iter().map(&mut copy).collect();
            wanted.programs.iter().map(&mut of_program).collect()
        })
    }

    /// What a domain finds: a bundle of what was placed, with room for its [`Start`].
    fn module(&mut self, placed: &[(Kind, Span)]) -> Result<(Vec<Part>, u64, u64), Failure> {
        let item = |(kind, span): &(Kind, Span)| Item { kind: *kind, length: span.length };
        let start = Item { kind: Kind::Start, length: Start::BYTES };
        let items: Vec<Item> = placed.iter().map(item).chain([start]).collect();
        let layout = Layout::new(&items);
        let header = self.pages.add(&layout.header).map_err(write)?;
        let part = |(at, span): (u64, Span)| Part {
            at,
            offset: span.base,
            length: span.length.next_multiple_of(PAGE_SIZE),
        };
        let places = layout.spans.iter().map(|span| span.base).zip(placed.iter().map(|(_, span)| *span));
        let parts = [(0, header)].into_iter().chain(places).map(part).filter(|part| part.length > 0);
        let start_at = layout.spans.last().map_or(0, |span| span.base);
        Ok((parts.collect(), start_at, layout.length))
    }
}

/// What the root has to know of a program.
fn listed(program: &Program) -> Listed {
    let restart = match program.restart {
        manifest::Restart::Never => Restart::Never,
        manifest::Restart::OnFailure => Restart::OnFailure,
        manifest::Restart::Always => Restart::Always,
    };
    Listed { name: program.name.to_string(), instances: program.instances, restart }
}

fn write(error: io::Error) -> Failure {
    Failure::from(TreeError::Write(error))
}
