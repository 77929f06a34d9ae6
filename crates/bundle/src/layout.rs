use crate::system::{Start, System};
use crate::{Plan, ProgramPlan, Startable, checksum};
use abi::boot::ModuleHeader;
use abi::{PAGE_SIZE, Span};
use alloc::vec::Vec;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// "SELKBNDL", little-endian.
const MAGIC: u64 = u64::from_le_bytes(*b"SELKBNDL");
/// Goes up with every change of the layout or of [`Plan`].
const VERSION: u64 = 6;
/// Table header: magic, version, number of entries.
const TABLE_HEADER_WORDS: usize = 3;
/// Kind, offset, length.
const ENTRY_WORDS: usize = 3;
/// All that there can be beside programs: one of each other kind, with some to spare.
const OTHER_ITEMS_MAX: usize = 16;
const ITEMS_MAX: usize = PROGRAMS_MAX + OTHER_ITEMS_MAX;
/// The table lies in the first page.
const _: () =
    assert!(ModuleHeader::BYTES + 8 * (TABLE_HEADER_WORDS + ENTRY_WORDS * ITEMS_MAX) <= PAGE_SIZE as usize);

/// The most programs with code of their own in a bundle.
pub const PROGRAMS_MAX: usize = 128;

/// What an item of a bundle is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Kind {
    /// A [`Plan`], after its checksum.
    Plan = 1,
    /// A program, compiled: an [artifact](crate::artifact). There may be several, which have their numbers by their order.
    Program = 2,
    /// The module whose one trap ends programs that have none of their own: an artifact.
    TrapHelper = 3,
    /// The bytes of all copied files.
    Files = 4,
    /// The library OS itself, for the kernel.
    Image = 5,
    /// A [`Start`].
    Start = 6,
    /// A [`System`], after its checksum: in the place of a program, its trap helper and its plan.
    System = 7,
}

/// An item to be laid out: what it is and how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Item {
    /// What it is.
    pub kind: Kind,
    /// In bytes.
    pub length: u64,
}

/// Where everything goes in a bundle: for whoever writes one, or maps one together.
#[derive(Clone, Debug)]
pub struct Layout {
    /// The first page.
    pub header: Vec<u8>,
    /// Where each item lies, in the order they were given.
    pub spans: Vec<Span>,
    /// Bytes in the whole bundle, a multiple of the page size.
    pub length: u64,
}

impl Layout {
    /// Lays out `items`.
    ///
    /// # Panics
    /// If there are more than [`PROGRAMS_MAX`] programs and one of each other kind: the caller's own list, not input.
    pub fn new(items: &[Item]) -> Self {
        let mut end = PAGE_SIZE;
        let mut spans = Vec::new();
        for item in items {
            spans.push(Span::new(end, item.length));
            end += item.length.next_multiple_of(PAGE_SIZE);
        }
        let entries: Vec<(Kind, Span)> =
            items.iter().map(|item| item.kind).zip(spans.iter().copied()).collect();
        Self { header: Self::header(&entries, end), spans, length: end }
    }

    /// The first page of a bundle of `length` bytes in which these items lie.
    ///
    /// # Panics
    /// If there are more than [`PROGRAMS_MAX`] programs and one of each other kind: the caller's own list, not input.
    pub fn header(entries: &[(Kind, Span)], length: u64) -> Vec<u8> {
        assert!(entries.len() <= ITEMS_MAX);
        let image = entries.iter().find(|(kind, _)| *kind == Kind::Image);
        let image = image.map_or(Span::new(0, 0), |(_, span)| *span);
        let module = ModuleHeader { magic: ModuleHeader::MAGIC, length, image };
        let mut header = Vec::from(module.to_bytes());
        let mut word = |value: u64| header.extend_from_slice(&value.to_le_bytes());
        word(MAGIC);
        word(VERSION);
        word(entries.len() as u64);
        for (kind, span) in entries {
            word(*kind as u64);
            word(span.base);
            word(span.length);
        }
        header.resize(PAGE_SIZE as usize, 0);
        header
    }

    /// The plan as an item's bytes.
    pub fn encode_plan(plan: &Plan) -> Vec<u8> {
        encode(plan)
    }

    /// The system as an item's bytes.
    pub fn encode_system(system: &System) -> Vec<u8> {
        encode(system)
    }
}

fn encode(description: &impl Serialize) -> Vec<u8> {
    let body = postcard::to_allocvec(description).expect("it can always be written to memory");
    let mut item = Vec::from(checksum(&body).to_le_bytes());
    item.extend_from_slice(&body);
    item
}

/// What is wrong with a bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BundleError {
    /// Not a bundle, or cut short.
    NotABundle,
    /// Made by another version of Selkis.
    Version,
    /// An item lies outside of the bundle, or one that must be there is not: it may be a program of the plan.
    Table,
    /// The checksum of the plan, or of what stands in its place, does not fit, or it does not decode.
    Plan,
}

impl core::fmt::Display for BundleError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::NotABundle => "the boot module is not a Selkis bundle, or was cut short",
            Self::Version => "the bundle was made by another version of Selkis: make it again",
            Self::Table => "the bundle's table of contents is damaged",
            Self::Plan => "the bundle's plan is damaged",
        })
    }
}

/// What a boot module holds.
#[derive(Debug)]
pub enum Module<'a> {
    /// Programs to be run.
    Programs(Bundle<'a>),
    /// Domains to be started, each with a program.
    System(System),
}

/// A bundle that has been read.
#[derive(Debug)]
pub struct Bundle<'a> {
    /// What to do. It has a program, and each of its programs has its artifact, and the programs that it may start.
    pub plan: Plan,
    /// The programs' artifacts, by their numbers.
    pub artifacts: Vec<&'a [u8]>,
    /// The trap helper's artifact.
    pub trap_helper: &'a [u8],
    /// File contents; empty if there are none.
    pub files: &'a [u8],
    /// What its starter adds, where a domain has one.
    pub start: Option<Start>,
}

impl<'a> Module<'a> {
    /// Reads a boot module. Nothing in it is believed: every offset is checked, the description by its checksum.
    pub fn parse(module: &'a [u8]) -> Result<Self, BundleError> {
        let table = Table::parse(module)?;
        match table.item(Kind::System) {
            Some(system) => {
                let system: System = decode(system)?;
                match system.domains.iter().any(|domain| domain.programs.is_empty()) {
                    true => Err(BundleError::Table),
                    false => Ok(Self::System(system)),
                }
            }
            None => Bundle::read(&table).map(Self::Programs),
        }
    }
}

impl<'a> Bundle<'a> {
    /// Reads a boot module that must hold programs.
    pub fn parse(module: &'a [u8]) -> Result<Self, BundleError> {
        Self::read(&Table::parse(module)?)
    }

    fn read(table: &Table<'a>) -> Result<Self, BundleError> {
        let plan: Plan = decode(table.item(Kind::Plan).ok_or(BundleError::Table)?)?;
        let artifacts = table.items(Kind::Program).collect::<Option<Vec<_>>>().ok_or(BundleError::Table)?;
        let is_program = |other: &Startable| (other.program as usize) < plan.programs.len();
        let is_there = |program: &ProgramPlan| {
            (program.artifact as usize) < artifacts.len() && program.start.iter().all(is_program)
        };
        if plan.programs.is_empty() || !plan.programs.iter().all(is_there) {
            return Err(BundleError::Table);
        }
        let start = table.item(Kind::Start).map(|start| Start::parse(start).ok_or(BundleError::Plan));
        Ok(Self {
            plan,
            artifacts,
            trap_helper: table.item(Kind::TrapHelper).ok_or(BundleError::Table)?,
            files: table.item(Kind::Files).unwrap_or_default(),
            start: start.transpose()?,
        })
    }
}

/// A module whose header is sound.
struct Table<'a> {
    module: &'a [u8],
    count: usize,
}

impl<'a> Table<'a> {
    fn parse(module: &'a [u8]) -> Result<Self, BundleError> {
        let header = ModuleHeader::parse(module).ok_or(BundleError::NotABundle)?;
        let mut table = Self { module: &module[..header.length as usize], count: 0 };
        if table.word(0) != Some(MAGIC) {
            return Err(BundleError::NotABundle);
        }
        if table.word(1) != Some(VERSION) {
            return Err(BundleError::Version);
        }
        let count = table.word(2).filter(|count| *count <= ITEMS_MAX as u64);
        table.count = count.ok_or(BundleError::Table)? as usize;
        Ok(table)
    }

    fn word(&self, index: usize) -> Option<u64> {
        let at = ModuleHeader::BYTES + index * 8;
        let bytes = self.module.get(at..at + 8)?;
        Some(u64::from_le_bytes(bytes.try_into().ok()?))
    }

    /// The one item of a kind, if it is there.
    fn item(&self, kind: Kind) -> Option<&'a [u8]> {
        self.items(kind).next().flatten()
    }

    /// All items of a kind; `None` for what lies outside of the bundle.
    fn items(&self, kind: Kind) -> impl Iterator<Item = Option<&'a [u8]>> {
        (0..self.count)
            .map(|index| TABLE_HEADER_WORDS + index * ENTRY_WORDS)
            .filter(move |at| self.word(*at) == Some(kind as u64))
            .map(|at| {
                let start = usize::try_from(self.word(at + 1)?).ok()?;
                let end = start.checked_add(usize::try_from(self.word(at + 2)?).ok()?)?;
                self.module.get(start..end)
            })
    }
}

fn decode<T: DeserializeOwned>(item: &[u8]) -> Result<T, BundleError> {
    let (sum, body) = item.split_first_chunk::<8>().ok_or(BundleError::Plan)?;
    if checksum(body) != u64::from_le_bytes(*sum) {
        return Err(BundleError::Plan);
    }
    postcard::from_bytes(body).map_err(|_| BundleError::Plan)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Access, Begin, Children, Console, Copied, Directory, DirectorySource, Node, NodeKind, Seed, Terminal,
        Terminals,
    };
    use alloc::{string::String, vec};

    fn program(artifact: u32) -> ProgramPlan {
        ProgramPlan {
            name: String::from("hello.wasm"),
            artifact,
            arguments: vec![b"hello".to_vec(), vec![0xff, 1]],
            environment: vec![b"A=b".to_vec()],
            memory_bytes_max: 256 << 20,
            timeout_ns: Some(1),
            cpu_ns_max: Some(2),
            table_elements_max: Some(3),
            stack_bytes: ProgramPlan::STACK_BYTES,
            descriptors_max: ProgramPlan::DESCRIPTORS,
            log_bytes_per_s: Some(4),
            directories: vec![Directory {
                guest: String::from("docs"),
                access: Access::ReadOnly,
                source: DirectorySource::Copy(Copied::from(vec![Node {
                    name: String::from("a"),
                    modified_ns: 5,
                    kind: NodeKind::Directory(vec![Node {
                        name: String::from("b"),
                        modified_ns: 6,
                        kind: NodeKind::File { offset: 0, length: 3, checksum: checksum(b"abc") },
                    }]),
                }])),
            }],
            start: Vec::new(),
        }
    }

    fn plan() -> Plan {
        let console = Console::Framed(Terminals { output: Terminal::Yes, ..Terminals::all(Terminal::No) });
        Plan::of_one(program(0), console, Some(Seed([7; 32])))
    }

    fn module() -> Vec<u8> {
        let plan = Layout::encode_plan(&plan());
        let contents: [(Kind, &[u8]); 5] = [
            (Kind::Plan, &plan),
            (Kind::Program, b"program"),
            (Kind::TrapHelper, b"helper"),
            (Kind::Files, b"abc"),
            (Kind::Image, b"elf"),
        ];
        laid_out(&contents)
    }

    fn laid_out(contents: &[(Kind, &[u8])]) -> Vec<u8> {
        let items: Vec<Item> =
            contents.iter().map(|(kind, bytes)| Item { kind: *kind, length: bytes.len() as u64 }).collect();
        let layout = Layout::new(&items);
        let mut module = vec![0; layout.length as usize];
        module[..layout.header.len()].copy_from_slice(&layout.header);
        for ((_, bytes), span) in contents.iter().zip(&layout.spans) {
            module[span.base as usize..][..bytes.len()].copy_from_slice(bytes);
        }
        module
    }

    fn system() -> System {
        use crate::system::{Contents, Domain, Image, ImageAccess, Part, Program, Region, Restart};
        let contents = Contents::Module(PAGE_SIZE);
        let access = ImageAccess::Execute;
        System {
            name: String::from("tenants"),
            seed: Seed([3; 32]),
            log_bytes_max: 1 << 18,
            image: Image {
                entry: 0x1000_0000,
                regions: vec![Region { address: 0x1000_0000, length: PAGE_SIZE, contents, access }],
            },
            domains: vec![Domain {
                name: String::from("alice"),
                memory_bytes: 64 << 20,
                share: 100,
                budget_ns: 0,
                vcpus: 2,
                children: 0,
                programs: vec![Program { name: String::from("web"), instances: 2, restart: Restart::Always }],
                parts: vec![Part { at: 0, offset: 2 * PAGE_SIZE, length: PAGE_SIZE }],
                start_at: PAGE_SIZE,
                module_bytes: 2 * PAGE_SIZE,
            }],
        }
    }

    #[test]
    fn a_system_takes_the_place_of_a_program() {
        let module_of = |system: &System| laid_out(&[(Kind::System, &Layout::encode_system(system))]);
        let mut module = module_of(&system());
        assert!(matches!(Module::parse(&module), Ok(Module::System(read)) if read == system()));
        assert_eq!(Bundle::parse(&module).unwrap_err(), BundleError::Table);
        let empty = |mut system: System| {
            system.domains[0].programs.clear();
            system
        };
        assert_eq!(Module::parse(&module_of(&empty(system()))).unwrap_err(), BundleError::Table);
        module[PAGE_SIZE as usize + 20] ^= 1;
        assert_eq!(Module::parse(&module).unwrap_err(), BundleError::Plan);
    }

    #[test]
    fn a_start_is_found() {
        let start = Start { epoch_ns: 5, seed: Seed([1; 32]) };
        let plan = Layout::encode_plan(&plan());
        let contents: [(Kind, &[u8]); 4] = [
            (Kind::Plan, &plan),
            (Kind::Program, b"p"),
            (Kind::TrapHelper, b"h"),
            (Kind::Start, &start.to_bytes()),
        ];
        let module = laid_out(&contents);
        assert_eq!(Bundle::parse(&module).unwrap().start, Some(start));
    }

    #[test]
    fn what_is_laid_out_is_read() {
        let module = module();
        let bundle = Bundle::parse(&module).unwrap();
        assert_eq!(bundle.plan, plan());
        assert_eq!((bundle.artifacts, bundle.trap_helper), (vec![&b"program"[..]], &b"helper"[..]));
        assert_eq!((bundle.files, bundle.start), (&b"abc"[..], None));
        let image = ModuleHeader::parse(&module).unwrap().image;
        assert_eq!(&module[image.base as usize..][..image.length as usize], b"elf");
    }

    /// Three programs, two of them of the same file.
    #[test]
    fn programs_find_their_artifacts() {
        let programs = vec![program(1), program(0), program(1)];
        let children = Children { first_number: 4, processes_max: 3, memory_bytes_max: 1 << 20 };
        let (console, begin) = (Console::Wire, Begin::WhenTold);
        let plan = Plan { programs, console, begin, vcpus: 2, seed: None, children };
        let encoded = Layout::encode_plan(&plan);
        let mut contents: Vec<(Kind, &[u8])> = vec![
            (Kind::Program, b"zero"),
            (Kind::Plan, &encoded),
            (Kind::TrapHelper, b"helper"),
            (Kind::Program, b"one"),
        ];
        let module = laid_out(&contents);
        let bundle = Bundle::parse(&module).unwrap();
        assert_eq!((bundle.plan, bundle.artifacts), (plan, vec![&b"zero"[..], b"one"]));
        contents.pop();
        assert_eq!(Bundle::parse(&laid_out(&contents)).unwrap_err(), BundleError::Table);
    }

    #[test]
    fn a_program_that_lies_outside_is_refused_and_gives_its_number_to_no_other() {
        let plan = Layout::encode_plan(&plan());
        let contents: [(Kind, &[u8]); 4] =
            [(Kind::Program, b"0"), (Kind::Program, b"1"), (Kind::Plan, &plan), (Kind::TrapHelper, b"h")];
        let mut module = laid_out(&contents);
        assert!(Bundle::parse(&module).is_ok());
        let first_offset = ModuleHeader::BYTES + (TABLE_HEADER_WORDS + 1) * 8;
        module[first_offset..first_offset + 8].copy_from_slice(&u64::MAX.to_le_bytes());
        assert_eq!(Bundle::parse(&module).unwrap_err(), BundleError::Table);
    }

    #[test]
    fn whoever_may_start_a_program_that_is_not_there_is_refused() {
        let read = |place| {
            let start = vec![Startable { name: String::from("itself"), program: place }];
            let program = ProgramPlan { start, ..program(0) };
            let plan = Layout::encode_plan(&Plan { programs: vec![program], ..plan() });
            let contents: [(Kind, &[u8]); 3] =
                [(Kind::Plan, &plan), (Kind::Program, b"0"), (Kind::TrapHelper, b"h")];
            Bundle::parse(&laid_out(&contents)).err()
        };
        assert_eq!((read(0), read(1)), (None, Some(BundleError::Table)));
    }

    #[test]
    fn a_plan_without_a_program_is_refused() {
        let plan = Layout::encode_plan(&Plan { programs: Vec::new(), ..plan() });
        let contents: [(Kind, &[u8]); 2] = [(Kind::Plan, &plan), (Kind::TrapHelper, b"h")];
        assert_eq!(Bundle::parse(&laid_out(&contents)).unwrap_err(), BundleError::Table);
    }

    #[test]
    fn there_is_room_for_the_most_programs() {
        let programs = (0..PROGRAMS_MAX as u32).map(program).collect();
        let plan = Layout::encode_plan(&Plan { programs, ..plan() });
        let start = Start { epoch_ns: 5, seed: Seed([1; 32]) }.to_bytes();
        let mut contents: Vec<(Kind, &[u8])> = vec![
            (Kind::Plan, &plan),
            (Kind::TrapHelper, b"helper"),
            (Kind::Files, b"abc"),
            (Kind::Image, b"elf"),
            (Kind::Start, &start),
        ];
        contents.resize(contents.len() + PROGRAMS_MAX, (Kind::Program, b"p"));
        let module = laid_out(&contents);
        assert_eq!(Bundle::parse(&module).unwrap().artifacts.len(), PROGRAMS_MAX);
    }

    #[test]
    fn a_cut_bundle_is_refused() {
        let module = module();
        for length in 0..module.len() {
            assert!(Bundle::parse(&module[..length]).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn a_flipped_bit_in_table_or_plan_never_panics_and_is_refused_in_the_plan() {
        let whole = module();
        let plan = Layout::encode_plan(&plan());
        for bit in 0..(PAGE_SIZE as usize + plan.len()) * 8 {
            let mut module = whole.clone();
            module[bit / 8] ^= 1 << (bit % 8);
            let read = Bundle::parse(&module);
            if bit / 8 >= PAGE_SIZE as usize {
                assert_eq!(read.err(), Some(BundleError::Plan), "bit {bit}");
            }
        }
    }
}
