//! `selkis programs` and `selkis cache`

use crate::arguments::{CacheAction, CacheArguments, ListArguments};
use crate::catalogue;
use crate::compiled;
use crate::failure::Failure;
use manifest::units::ByteCount;
use serde::Serialize;
use std::io::{self, Write};
use std::time::UNIX_EPOCH;
use store::{Entry, Store};

/// Prints the catalogue.
pub fn programs(arguments: &ListArguments) -> Result<(), Failure> {
    let entries = catalogue::list()?;
    if arguments.json {
        return print_json(&entries);
    }
    let width = entries.iter().map(|entry| entry.name.len()).max().unwrap_or(0);
    let line = |entry: &catalogue::Entry| format!("{:width$}  {}\n", entry.name, entry.about);
    print(&entries.iter().map(line).collect::<String>())
}

/// Shows the cache, or empties it.
pub fn cache(arguments: &CacheArguments) -> Result<(), Failure> {
    let store = compiled::store();
    match arguments.action {
        CacheAction::List => list_cache(&store, &arguments.list),
        CacheAction::Prune => prune_cache(&store, &arguments.list),
    }
}

/// A compiled program, for a script.
#[derive(Serialize)]
struct CachedProgram {
    path: String,
    bytes: u64,
    /// SHA-256 of the WebAssembly, in hexadecimal digits.
    program: String,
    compiler: String,
    triple: String,
    features: String,
    /// Seconds since 1970.
    last_used: u64,
}

impl From<Entry> for CachedProgram {
    fn from(entry: Entry) -> Self {
        let last_used = entry.used.duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
        Self {
            path: entry.path.display().to_string(),
            bytes: entry.length,
            program: entry.origin.program.iter().map(|byte| format!("{byte:02x}")).collect(),
            compiler: entry.origin.compiler,
            triple: entry.origin.triple,
            features: entry.origin.features,
            last_used,
        }
    }
}

fn list_cache(store: &Store, arguments: &ListArguments) -> Result<(), Failure> {
    let entries = store.list().map_err(Failure::Cache)?;
    let programs: Vec<CachedProgram> = entries.into_iter().map(CachedProgram::from).collect();
    if arguments.json {
        return print_json(&programs);
    }
    let total = programs.iter().map(|program| program.bytes).sum();
    let lines = programs.iter().map(|program| {
        let short = &program.program[..16];
        format!("{:>10}  sha256 {short}…  for {}\n", ByteCount(program.bytes).to_string(), program.features)
    });
    let lines: String = lines.collect();
    let folder = compiled::cache_folder();
    print(&format!(
        "{lines}{} compiled programs, {} in {}\n",
        programs.len(),
        ByteCount(total),
        folder.display()
    ))
}

fn prune_cache(store: &Store, arguments: &ListArguments) -> Result<(), Failure> {
    let removed = store.prune(0).map_err(Failure::Cache)?;
    if arguments.json {
        return print_json(&serde_json::json!({ "files": removed.files, "bytes": removed.bytes }));
    }
    print(&format!("removed {} compiled programs, {}\n", removed.files, ByteCount(removed.bytes)))
}

/// Prints a value for a script.
pub fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).expect("a list can be written to memory");
    print(&(text + "\n"))
}

/// Prints text. That nobody reads it is no failure.
pub fn print(text: &str) -> Result<(), Failure> {
    match io::stdout().write_all(text.as_bytes()).and_then(|()| io::stdout().flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::Output(error)),
        _ => Ok(()),
    }
}
