//! How much has to be trusted: the lines of the exokernel, and where `unsafe` stands.

use checks::{Code, SourceFile, files};
use std::collections::BTreeMap;

/// The exokernel and its boundary, in lines of code without blanks, comments and tests.
const TRUSTED: &[&str] = &["crates/abi", "crates/kernel", "crates/machine", "images/kernel"];
/// What an auditor reads in an afternoon (DESIGN: the kernel with its machine layer).
const TRUSTED_LINES_MAX: usize = 10_000;

/// Where `unsafe` may stand. Elsewhere the workspace denies it.
const UNSAFE_PLACES: &[&str] = &[
    "crates/machine/",
    "crates/boot/",
    "crates/hosted/",
    "crates/runtime/",
    "images/",
    // The engine's function that switches a CPU feature on for the compiler is an unsafe one.
    "crates/compiler/src/cpu.rs",
    // What Selkis is measured against and with; nothing that runs in it.
    "crates/peer/",
    "crates/counter/",
    "crates/marker/",
    "programs/compute/",
    // The compiler's callback that guides a fuzzer: only tests have it.
    "crates/coverage/",
];

fn rust_files() -> Vec<SourceFile> {
    files().into_iter().filter(|file| file.has_extension("rs")).collect()
}

/// Is the whole file a test?
fn is_test(file: &SourceFile) -> bool {
    let test = |name| file.path.ends_with(name);
    file.path.contains("/tests/") || test("/tests.rs") || test("/fake.rs") || file.path.contains("/benches/")
}

#[test]
fn the_exokernel_can_be_read_in_an_afternoon() {
    let mut lines: BTreeMap<&str, usize> = BTreeMap::new();
    let files = rust_files();
    for file in files.iter().filter(|file| !is_test(file)) {
        if let Some(folder) = file.crate_folder().filter(|folder| TRUSTED.contains(folder)) {
            *lines.entry(folder).or_default() += Code::read(&file.path, file.text()).lines.len();
        }
    }
    lines.iter().for_each(|(folder, lines)| println!("figure: {lines:6} lines of code in {folder}"));
    let total: usize = lines.values().sum();
    println!("figure: {total:6} in all, at most {TRUSTED_LINES_MAX}");
    assert_eq!(lines.len(), TRUSTED.len(), "a folder is missing or empty");
    assert!(total <= TRUSTED_LINES_MAX, "{total} lines");
}

#[test]
fn unsafe_stays_in_its_places() {
    let mut found: BTreeMap<&str, usize> = BTreeMap::new();
    let mut outside = Vec::new();
    let files = rust_files();
    for file in &files {
        let lines = Code::read(&file.path, file.text()).unsafe_lines;
        if lines.is_empty() {
            continue;
        }
        if let Some(place) = UNSAFE_PLACES.iter().find(|place| file.path.starts_with(**place)) {
            *found.entry(place).or_default() += lines.len();
        } else {
            outside.push(format!("{} line {lines:?}", file.path));
        }
    }
    found.iter().for_each(|(place, count)| println!("figure: {count:6} times unsafe in {place}"));
    println!("figure: {:6} times unsafe in all", found.values().sum::<usize>());
    assert!(outside.is_empty(), "unsafe where it may not be:\n{}", outside.join("\n"));
}

/// The lint that asks for the reason of each block is on everywhere.
#[test]
fn every_unsafe_block_has_its_reason() {
    let lint = ["undocumented", "_unsafe_blocks"].concat();
    let denied = format!("{lint} = \"deny\"");
    let files = files();
    let lines = files.iter().flat_map(|file| file.text().lines().map(move |line| (&file.path, line.trim())));
    let (on, off): (Vec<_>, Vec<_>) =
        lines.filter(|(_, line)| line.contains(&lint)).partition(|(_, line)| *line == denied);
    assert!(on.iter().any(|(path, _)| *path == "Cargo.toml"), "not denied in the workspace");
    assert!(off.is_empty(), "{off:?}");
}
