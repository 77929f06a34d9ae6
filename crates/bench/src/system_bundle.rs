//! What the machine boots with for a system of domains that each run the same measured program in batches
//! (`images/bench-runtime/src/batches.rs`).

use crate::Failure;
use abi::{PAGE_SIZE, Span};
use bundle::system::{Domain, Part, Program, Restart};
use bundle::{
    Begin, Children, Console, Item, Kind, Layout, Plan, ProgramPlan, Seed, Start, System, Terminal, Terminals,
};
use std::path::Path;

/// What each domain gets.
const DOMAIN_BYTES: u64 = 96 << 20;
/// What a program of it may take of that.
const MEMORY_BYTES_MAX: u64 = 32 << 20;
/// What the log of a process may take of its root's memory.
const LOG_BYTES_MAX: u64 = 256 << 10;

/// What is packed.
pub struct Contents<'a> {
    /// The library OS that measures.
    pub runtime: &'a Path,
    /// The program.
    pub program: &'a Path,
    /// What ends programs.
    pub helper: &'a Path,
    /// How many instances there are in each batch.
    pub batches: &'a [u64],
    /// How many domains.
    pub domains: u32,
}

/// The boot module. Its seed is fixed, so that every run is the same.
///
/// # Errors
/// If a part cannot be read.
pub fn bundle(contents: &Contents<'_>) -> Result<Vec<u8>, Failure> {
    let mut pages = Pages(vec![0; PAGE_SIZE as usize]);
    let runtime = executable::loaded_part(std::fs::read(contents.runtime)?);
    let image_span = pages.add(&runtime);
    let image = executable::image(&runtime, image_span.base, |tail| Ok::<_, Failure>(pages.add(tail).base))?;
    let image = image.ok_or_else(|| format!("{} is no executable", contents.runtime.display()))?;
    let batches = contents.batches.iter().map(|count| batch(*count)).collect();
    let console = Console::Framed(Terminals::all(Terminal::No));
    let plan = Plan {
        programs: batches,
        console,
        begin: Begin::WhenTold,
        vcpus: 1,
        seed: None,
        children: Children::NONE,
    };
    let placed = [
        (Kind::Plan, pages.add(&Layout::encode_plan(&plan))),
        (Kind::TrapHelper, pages.add(&std::fs::read(contents.helper)?)),
        (Kind::Program, pages.add(&std::fs::read(contents.program)?)),
    ];
    let domain = domain(&mut pages, &plan, &placed);
    let system = System {
        name: String::from("measured"),
        seed: Seed([1; 32]),
        image,
        log_bytes_max: LOG_BYTES_MAX,
        domains: (0..contents.domains)
            .map(|number| Domain { name: format!("measured-{number}"), ..domain.clone() })
            .collect(),
    };
    let description = pages.add(&Layout::encode_system(&system));
    let Pages(mut module) = pages;
    let header =
        Layout::header(&[(Kind::System, description), (Kind::Image, image_span)], module.len() as u64);
    module[..header.len()].copy_from_slice(&header);
    Ok(module)
}

fn batch(count: u64) -> ProgramPlan {
    ProgramPlan {
        name: String::from("measured"),
        arguments: vec![b"measured".to_vec(), count.to_string().into_bytes()],
        memory_bytes_max: MEMORY_BYTES_MAX,
        ..ProgramPlan::default()
    }
}

/// A domain that finds what was placed, and its [`Start`].
fn domain(pages: &mut Pages, plan: &Plan, placed: &[(Kind, Span)]) -> Domain {
    let item = |(kind, span): &(Kind, Span)| Item { kind: *kind, length: span.length };
    let start = Item { kind: Kind::Start, length: Start::BYTES };
    let items: Vec<Item> = placed.iter().map(item).chain([start]).collect();
    let layout = Layout::new(&items);
    let header = pages.add(&layout.header);
    let part = |(at, span): (u64, Span)| Part {
        at,
        offset: span.base,
        length: span.length.next_multiple_of(PAGE_SIZE),
    };
    let places = layout.spans.iter().map(|span| span.base).zip(placed.iter().map(|(_, span)| *span));
    let program =
        |program: &ProgramPlan| Program { name: program.name.clone(), instances: 1, restart: Restart::Never };
    Domain {
        children: 0,
        name: String::new(),
        memory_bytes: DOMAIN_BYTES,
        share: 1,
        budget_ns: 0,
        vcpus: plan.vcpus,
        programs: plan.programs.iter().map(program).collect(),
        parts: [(0, header)].into_iter().chain(places).map(part).collect(),
        start_at: layout.spans.last().map_or(0, |span| span.base),
        module_bytes: layout.length,
    }
}

/// A file of whole pages.
struct Pages(Vec<u8>);

impl Pages {
    /// Adds an item: where it lies.
    fn add(&mut self, bytes: &[u8]) -> Span {
        let base = self.0.len();
        self.0.extend_from_slice(bytes);
        self.0.resize(self.0.len().next_multiple_of(PAGE_SIZE as usize), 0);
        Span::new(base as u64, bytes.len() as u64)
    }
}
