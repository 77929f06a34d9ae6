//! From TOML to a [`System`].

use crate::mistake::{Mistake, Mistakes, Position, ReadError, Wrong};
use crate::table::{Reader, Table, Value, nearest};
use crate::units::{ByteCount, UnitError, check_stack, parse_duration, parse_rate};
use crate::{Access, Directory, Domain, Mitigations, Name, Program, Restart, System};
use bundle::{PROGRAMS_MAX, ProgramPlan};
use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// The longest manifest, in bytes: some thousand programs. All on one line and all wrong, they are told in less than a second.
pub const TEXT_BYTES_MAX: usize = 256 << 10;
/// The greatest `cpu-share`; the smallest is 1. The range that Linux's cgroups have for weights.
pub const CPU_SHARE_MAX: u32 = 10_000;
/// The greatest `cpus`: each is a virtual CPU of the domain's.
pub const CPUS_MAX: u32 = bundle::VCPUS_MAX as u32;
/// The greatest `processes`: an address space holds so many linear memories of 4 GiB.
pub const PROCESSES_MAX: u32 = 32_000;

/// The standard streams, which are descriptors as well.
const STREAMS: u64 = 3;
const CPU_SHARE: u32 = 100;
const CPUS: u32 = 1;
const PROCESSES: u32 = 16;
const INSTANCES: u32 = 1;
/// What a process may write in a second: the root takes it in, and its time is nobody's.
const LOG_RATE: ByteCount = ByteCount(1 << 20);

const SYSTEM_KEYS: &[&str] = &["name", "mitigations", "domains"];
const DOMAIN_KEYS: &[&str] = &["memory", "cpu-share", "cpu-budget", "cpus", "processes", "programs"];
const PROGRAM_KEYS: &[&str] = &[
    "name",
    "file",
    "instances",
    "start",
    "arguments",
    "environment",
    "directories",
    "memory",
    "timeout",
    "cpu-time",
    "stack",
    "table-elements",
    "descriptors",
    "log-rate",
    "restart",
];
const DIRECTORY_KEYS: &[&str] = &["path", "name", "access"];

impl System {
    /// Reads the manifest at `path`.
    pub fn read(path: &Path) -> Result<Self, ReadError> {
        let open = |error| ReadError::Open(path.to_owned(), error);
        let mut bytes = Vec::new();
        // One byte more tells a file that is too long; one that never ends is no danger.
        File::open(path)
            .map_err(open)?
            .take(TEXT_BYTES_MAX as u64 + 1)
            .read_to_end(&mut bytes)
            .map_err(open)?;
        if bytes.len() > TEXT_BYTES_MAX {
            return Err(ReadError::TooLong(path.to_owned()));
        }
        let text = str::from_utf8(&bytes).map_err(|error| {
            let good = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
            ReadError::NotUtf8(path.to_owned(), Reader::new(&good).position(good.len()))
        })?;
        Ok(Self::parse(text, path)?)
    }

    /// Reads a manifest's text. `path` is where it is said to come from: mistakes name it, and the files in it are found from there.
    pub fn parse(text: &str, path: &Path) -> Result<Self, Mistakes> {
        let mut reader = Reader::new(text);
        let (root, errors) = DeTable::parse_recoverable(text);
        let system = reader.system(root.get_ref(), path);
        if !errors.is_empty() {
            reader.syntax(&errors);
        }
        Mistakes::none_of(path.to_owned(), reader.mistakes)?;
        Ok(system.expect("a system that could not be made has a mistake"))
    }
}

impl<'t> Reader<'t> {
    /// Adds what is no TOML. What was found in the rest stays, unless it follows from that.
    fn syntax(&mut self, errors: &[toml::de::Error]) {
        let place = |error: &toml::de::Error| error.span().unwrap_or_default();
        let damaged: Vec<u32> = errors.iter().map(|error| self.position(place(error).start).line).collect();
        self.mistakes.retain(|mistake| {
            let follows =
                matches!(mistake.wrong, Wrong::Missing { .. } | Wrong::NoDomains | Wrong::NoPrograms(_));
            !follows && !damaged.contains(&mistake.at.line)
        });
        for error in errors {
            let text = self.source(place(error));
            self.wrong(place(error).start, Wrong::Syntax { message: error.message().to_owned(), text });
        }
    }

    fn system(&mut self, root: &DeTable<'t>, path: &Path) -> Option<System> {
        let table = self.known_table(root, 0, "the system".to_owned(), SYSTEM_KEYS);
        let name = self.name_or_stem(&table, path, "a system");
        let mitigations = match table.get("mitigations") {
            Some(value) => {
                self.choice("mitigations", value, &[("on", Mitigations::On), ("off", Mitigations::Off)])
            }
            None => Some(Mitigations::On),
        };
        let domains = self.domains(table.get("domains"));
        Some(System { name: name?, mitigations: mitigations?, domains: domains?, path: path.to_owned() })
    }

    fn domains(&mut self, value: Option<&Value<'t>>) -> Option<Vec<Domain>> {
        let entries = match value {
            None => {
                self.wrong(0, Wrong::NoDomains);
                return None;
            }
            Some(value) => {
                let entries = value.get_ref().as_table();
                if entries.is_none() {
                    self.wrong_type("domains", value, "a table for each domain: [domains.some-name]");
                }
                entries?
            }
        };
        if entries.is_empty() {
            self.wrong(value?.span().start, Wrong::NoDomains);
            return None;
        }
        all(entries.iter().map(|(key, value)| self.domain(key, value)))
    }

    fn domain(&mut self, key: &Spanned<toml::de::DeString<'t>>, value: &Value<'t>) -> Option<Domain> {
        let start = key.span().start;
        let text = key.get_ref().as_ref();
        let name = text.parse::<Name>().ok();
        if name.is_none() {
            self.wrong(start, Wrong::Name { text: text.to_owned(), of: "a domain" });
        }
        let of = format!("the domain {}", crate::quote::Quote(text));
        let mut table = self.table(text, value, of, DOMAIN_KEYS)?;
        table.start = start;
        let memory = table.needed(self, "memory", "memory = \"64MiB\"");
        let memory = memory.and_then(|value| self.size("memory", value));
        let cpu_share = self.number(&table, "cpu-share", CPU_SHARE, CPU_SHARE_MAX);
        let cpus = self.number(&table, "cpus", CPUS, CPUS_MAX);
        let processes = self.number(&table, "processes", PROCESSES, PROCESSES_MAX);
        let cpu_budget = match table.get("cpu-budget") {
            Some(value) => self.cpu_budget(value, cpus).map(Some),
            None => Some(None),
        };
        let programs = self.programs(&table, name.as_ref());
        let (name, memory) = (name?, memory?);
        let programs = self.share_memory(&name, memory, start, programs?);
        let programs = programs.and_then(|drafts| self.starts(&name, drafts));
        let domain = Domain {
            name,
            memory,
            cpu_share: cpu_share?,
            cpu_budget: cpu_budget?,
            cpus: cpus?,
            processes: processes?,
            programs: programs?,
            at: self.position(start),
        };
        self.check_processes(domain).and_then(|domain| self.check_children(domain))
    }

    fn check_processes(&mut self, domain: Domain) -> Option<Domain> {
        let wanted = domain.programs.iter().map(|program| u64::from(program.instances)).sum();
        let processes = domain.processes;
        let wrong = if wanted > u64::from(processes) {
            let wrong = Wrong::Processes { domain: domain.name.clone(), wanted, processes };
            Some(Mistake { at: domain.at, wrong })
        } else {
            domain.programs.get(PROGRAMS_MAX).map(|program| {
                let (domain, program, at) = (domain.name.clone(), program.name.clone(), program.at);
                let (count, max) = (PROGRAMS_MAX + 1, PROGRAMS_MAX);
                Mistake { at, wrong: Wrong::ProgramsOfDomain { domain, program, count, max } }
            })
        };
        let is_right = wrong.is_none();
        self.mistakes.extend(wrong);
        is_right.then_some(domain)
    }

    fn programs(&mut self, domain: &Table<'_, 't>, name: Option<&Name>) -> Option<Vec<Draft>> {
        let Some(value) = domain.get("programs") else {
            // Of a domain without a name this could not be said.
            self.wrong(domain.start, Wrong::NoPrograms(name?.clone()));
            return None;
        };
        let Some(array) = value.get_ref().as_array() else {
            self.wrong_type("programs", value, "an array of tables: [[domains.some-name.programs]]");
            return None;
        };
        if array.is_empty() {
            self.wrong(value.span().start, Wrong::NoPrograms(name?.clone()));
            return None;
        }
        let mut firsts = HashMap::new();
        all(array.iter().map(|value| {
            let draft = self.program(value)?;
            let key = draft.program.name.as_str().to_owned();
            self.once(&mut firsts, key, draft.start, "a program").then_some(draft)
        }))
    }

    fn program(&mut self, value: &Value<'t>) -> Option<Draft> {
        let table = self.table("programs", value, "a program".to_owned(), PROGRAM_KEYS)?;
        let file_value = table.needed(self, "file", "file = \"app.wasm\"");
        let file = file_value.and_then(|value| self.path("file", value));
        let name = match &file {
            Some(file) => self.name_or_stem(&table, file, "a program"),
            None => table.get("name").and_then(|value| self.name(value, "a program")),
        };
        let instances = self.number_from(&table, "instances", INSTANCES, 0..=PROCESSES_MAX);
        let names = self.each(&table, "start", |reader, key, value| {
            Some((reader.text(key, value)?.to_owned(), value.span().start))
        });
        if instances == Some(0) {
            self.only_started(&table);
        }
        let arguments = self.each(&table, "arguments", Self::c_text);
        let environment = self.environment(&table);
        let directories = self.directories(&table);
        let memory = self.optional(&table, "memory", Self::size);
        let timeout = self.optional(&table, "timeout", Self::duration);
        let cpu_time = self.optional(&table, "cpu-time", Self::duration);
        let stack = self.optional(&table, "stack", Self::stack);
        let table_elements = match table.get("table-elements") {
            Some(_) => self.number(&table, "table-elements", 0, u32::MAX).map(Some),
            None => Some(None),
        };
        let descriptors = self.descriptors(&table, directories.as_ref());
        let log_rate = self.optional(&table, "log-rate", Self::rate);
        const RESTARTS: &[(&str, Restart)] =
            &[("never", Restart::Never), ("on-failure", Restart::OnFailure), ("always", Restart::Always)];
        let restart =
            self.optional(&table, "restart", |reader, key, value| reader.choice(key, value, RESTARTS));
        let memory = memory?;
        let program = Program {
            name: name?,
            file: file?,
            file_at: self.position(file_value?.span().start),
            instances: instances?,
            // Until the whole domain is known, as its memory.
            start: Vec::new(),
            arguments: arguments?,
            environment: environment?,
            directories: directories?,
            // Until the whole domain is known.
            memory: memory.unwrap_or(ByteCount(0)),
            timeout: timeout?,
            cpu_time: cpu_time?,
            stack: stack?.unwrap_or(ByteCount(ProgramPlan::STACK_BYTES)),
            table_elements: table_elements?,
            descriptors: descriptors?,
            log_rate: log_rate?.unwrap_or(Some(LOG_RATE)),
            restart: restart?.unwrap_or(Restart::Never),
            at: self.position(table.start),
        };
        Some(Draft { program, memory, names: names?, start: table.start })
    }

    /// Gives the programs their memory and checks that the domain has it.
    fn share_memory(
        &mut self,
        domain: &Name,
        quota: ByteCount,
        start: usize,
        drafts: Vec<Draft>,
    ) -> Option<Vec<Draft>> {
        let can_be_several = |draft: &Draft| draft.program.instances != 1 || !draft.names.is_empty();
        let several = drafts.len() > 1 || drafts.iter().any(can_be_several);
        let drafts = all(drafts.into_iter().map(|draft| {
            if several && draft.memory.is_none() {
                self.wrong(draft.start, Wrong::MemoryOfEach { domain: domain.clone(), quota });
                return None;
            }
            let program = Program { memory: draft.memory.unwrap_or(quota), ..draft.program };
            Some(Draft { program, ..draft })
        }))?;
        let share = |Draft { program, .. }: &Draft| program.memory.0.saturating_mul(program.instances.into());
        let promised = drafts.iter().map(share).fold(0, u64::saturating_add);
        if promised > quota.0 {
            let promised = ByteCount(promised);
            self.wrong(start, Wrong::MemoryOfDomain { domain: domain.clone(), promised, quota });
            return None;
        }
        Some(drafts)
    }

    fn environment(&mut self, program: &Table<'_, 't>) -> Option<Vec<(String, String)>> {
        let Some(value) = program.get("environment") else { return Some(Vec::new()) };
        let Some(entries) = value.get_ref().as_table() else {
            self.wrong_type("environment", value, "a table: { NAME = \"value\" }");
            return None;
        };
        all(entries.iter().map(|(key, value)| {
            let name = key.get_ref().to_string();
            let value = self.c_text(&name, value);
            if name.is_empty() || name.contains(['=', '\0']) {
                self.wrong(key.span().start, Wrong::Variable(name));
                return None;
            }
            Some((name, value?))
        }))
    }

    fn directories(&mut self, program: &Table<'_, 't>) -> Option<Vec<Directory>> {
        let mut firsts = HashMap::new();
        self.each(program, "directories", |reader, key, value| {
            let table = reader.table(key, value, "a directory".to_owned(), DIRECTORY_KEYS)?;
            let place = table.needed(reader, "path", "{ path = \"docs\", name = \"/docs\" }");
            let path = place.and_then(|value| reader.path("path", value));
            let name = reader.optional(&table, "name", |reader, key, value| {
                let name = reader.c_text(key, value)?;
                reader.not_empty(key, value, name, "\"/docs\"")
            });
            const ACCESSES: &[(&str, Access)] =
                &[("read-only", Access::ReadOnly), ("read-write", Access::ReadWrite)];
            let access =
                reader.optional(&table, "access", |reader, key, value| reader.choice(key, value, ACCESSES));
            let (start, path, access) = (place?.span().start, path?, access?.unwrap_or(Access::ReadWrite));
            let name = name?.unwrap_or_else(|| path.to_string_lossy().into_owned());
            let unique = reader.once(&mut firsts, name.clone(), start, "a directory");
            unique.then(|| Directory { path, name, access, at: reader.position(start) })
        })
    }

    /// Notes a second thing of one name. `firsts` are those before it.
    fn once(
        &mut self,
        firsts: &mut HashMap<String, Position>,
        name: String,
        start: usize,
        what: &'static str,
    ) -> bool {
        let at = self.position(start);
        let first = *firsts.entry(name.clone()).or_insert(at);
        if first != at {
            self.wrong(start, Wrong::Twice { what, name, first });
        }
        first == at
    }

    /// The values of an array, none if there is no such key.
    fn each<T>(
        &mut self,
        table: &Table<'_, 't>,
        key: &str,
        mut read: impl FnMut(&mut Self, &str, &Value<'t>) -> Option<T>,
    ) -> Option<Vec<T>> {
        let Some(value) = table.get(key) else { return Some(Vec::new()) };
        let Some(values) = value.get_ref().as_array() else {
            self.wrong_type(key, value, "an array: [ … ]");
            return None;
        };
        all(values.iter().map(|value| read(self, key, value)))
    }

    /// `Some(None)` if there is no such key, `None` after a mistake.
    fn optional<T>(
        &mut self,
        table: &Table<'_, 't>,
        key: &str,
        read: impl FnOnce(&mut Self, &str, &Value<'t>) -> Option<T>,
    ) -> Option<Option<T>> {
        match table.get(key) {
            Some(value) => read(self, key, value).map(Some),
            None => Some(None),
        }
    }

    fn name(&mut self, value: &Value, of: &'static str) -> Option<Name> {
        let text = self.text("name", value)?;
        let name = text.parse().ok();
        if name.is_none() {
            self.wrong(value.span().start, Wrong::Name { text: text.to_owned(), of });
        }
        name
    }

    /// The name that the table has, or else the one of the file.
    fn name_or_stem(&mut self, table: &Table<'_, 't>, file: &Path, of: &'static str) -> Option<Name> {
        if let Some(value) = table.get("name") {
            return self.name(value, of);
        }
        let stem = file.file_stem().unwrap_or(file.as_os_str()).to_string_lossy();
        let name = stem.parse().ok();
        if name.is_none() {
            self.wrong(table.start, Wrong::Stem { stem: stem.into_owned(), of });
        }
        name
    }

    /// A text that C programs and Linux can be given.
    fn c_text(&mut self, key: &str, value: &Value) -> Option<String> {
        let text = self.text(key, value)?;
        if text.contains('\0') {
            self.wrong(value.span().start, Wrong::Nul(self.source(value.span())));
            return None;
        }
        Some(text.to_owned())
    }

    fn not_empty(&mut self, key: &str, value: &Value, text: String, example: &'static str) -> Option<String> {
        if text.is_empty() {
            self.wrong(value.span().start, Wrong::Empty(key.to_owned(), example));
            return None;
        }
        Some(text)
    }

    fn path(&mut self, key: &str, value: &Value) -> Option<PathBuf> {
        let text = self.c_text(key, value)?;
        self.not_empty(key, value, text, "a path").map(PathBuf::from)
    }

    fn number(&mut self, table: &Table<'_, 't>, key: &'static str, default: u32, max: u32) -> Option<u32> {
        self.number_from(table, key, default, 1..=max)
    }

    fn number_from(
        &mut self,
        table: &Table<'_, 't>,
        key: &'static str,
        default: u32,
        range: RangeInclusive<u32>,
    ) -> Option<u32> {
        let Some(value) = table.get(key) else { return Some(default) };
        let DeValue::Integer(digits) = value.get_ref() else {
            self.wrong_type(key, value, "a whole number");
            return None;
        };
        let number = u32::from_str_radix(digits.as_str(), digits.radix()).ok();
        let number = number.filter(|number| range.contains(number));
        if number.is_none() {
            let (text, min, max) = (self.source(value.span()), *range.start(), *range.end());
            self.wrong(value.span().start, Wrong::Range { key: key.to_owned(), text, min, max });
        }
        number
    }

    fn duration(&mut self, key: &str, value: &Value) -> Option<Duration> {
        let text = self.unit_text(key, value, UnitError::Duration)?;
        self.unit(value, parse_duration(text))
    }

    fn size(&mut self, key: &str, value: &Value) -> Option<ByteCount> {
        // Without a unit it is a number of bytes, as on the command line, and needs no quotes.
        let read = match value.get_ref() {
            DeValue::Integer(digits) if digits.radix() == 10 => digits.as_str().parse(),
            _ => self.unit_text(key, value, UnitError::Size)?.parse(),
        };
        self.unit(value, read)
    }

    /// A size for a second, or none.
    fn rate(&mut self, key: &str, value: &Value) -> Option<Option<ByteCount>> {
        let text = self.unit_text(key, value, UnitError::Rate)?;
        if text == "unlimited" {
            return Some(None);
        }
        self.unit(value, parse_rate(text)).map(Some)
    }

    fn stack(&mut self, key: &str, value: &Value) -> Option<ByteCount> {
        let size = self.size(key, value)?;
        if let Err(error) = check_stack(size) {
            return self.unit(value, Err(error));
        }
        Some(size)
    }

    /// No fewer than the program begins with: its streams and directories.
    fn descriptors(&mut self, table: &Table<'_, 't>, directories: Option<&Vec<Directory>>) -> Option<u32> {
        const KEY: &str = "descriptors";
        let count = self.number(table, KEY, ProgramPlan::DESCRIPTORS, ProgramPlan::DESCRIPTORS_MAX)?;
        let at_least = STREAMS + directories?.len() as u64;
        if u64::from(count) < at_least {
            let start = table.get(KEY).map_or(table.start, |value| value.span().start);
            self.wrong(start, Wrong::Descriptors { count, at_least });
            return None;
        }
        Some(count)
    }

    /// The text of a value with a unit.
    fn unit_text<'v>(&mut self, key: &str, value: &'v Value, error: UnitError) -> Option<&'v str> {
        match value.get_ref() {
            DeValue::Integer(_) | DeValue::Float(_) => self.unit(value, Err(error)),
            _ => self.text(key, value),
        }
    }

    fn unit<T>(&mut self, value: &Value, read: Result<T, UnitError>) -> Option<T> {
        if let Err(error) = &read {
            let text = value.get_ref().as_str().map_or_else(|| self.source(value.span()), str::to_owned);
            self.wrong(value.span().start, Wrong::Unit { text, error: *error });
        }
        read.ok()
    }

    fn cpu_budget(&mut self, value: &Value, cpus: Option<u32>) -> Option<crate::units::CpuBudget> {
        const PPM_PER_CPU: u64 = 1_000_000;
        let text = self.unit_text("cpu-budget", value, UnitError::CpuBudget)?;
        let budget: crate::units::CpuBudget = self.unit(value, text.parse())?;
        let cpus = cpus?;
        if u64::from(budget.ppm) > u64::from(cpus) * PPM_PER_CPU {
            self.wrong(value.span().start, Wrong::Budget { text: text.to_owned(), cpus });
            return None;
        }
        Some(budget)
    }

    fn choice<T: Copy>(&mut self, key: &str, value: &Value, choices: &[(&'static str, T)]) -> Option<T> {
        let text = self.text(key, value)?;
        let chosen = choices.iter().find(|(word, _)| *word == text).map(|(_, choice)| *choice);
        if chosen.is_none() {
            let known: Vec<&'static str> = choices.iter().map(|(word, _)| *word).collect();
            let wrong = Wrong::Choice {
                key: key.to_owned(),
                text: text.to_owned(),
                nearest: nearest(text, known.iter().copied()),
                known,
            };
            self.wrong(value.span().start, wrong);
        }
        chosen
    }
}

/// A program, before it is known what the others of its domain need.
pub(crate) struct Draft {
    pub program: Program,
    /// What the manifest says.
    memory: Option<ByteCount>,
    /// The programs that it may start, with their places in the text.
    pub names: Vec<(String, usize)>,
    start: usize,
}

/// All of them, if there was no mistake in any. Each is made in any case, so that all mistakes are found.
pub(crate) fn all<T>(items: impl Iterator<Item = Option<T>>) -> Option<Vec<T>> {
    let items: Vec<Option<T>> = items.collect();
    items.into_iter().collect()
}
