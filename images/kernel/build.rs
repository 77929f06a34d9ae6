//! Lays the kernel out, and names its functions for backtraces.
//!
//! The names come from a kernel that was built before from the same sources: build twice, the second time with
//! `SELKIS_KERNEL_SYMBOLS` set to the path of the first one's file (which may be the same that is built). The table is the last of
//! the read-only data, so that nothing that it names moves; a boot with `selftest` checks that. Without the variable the table is empty, and
//! backtraces have addresses only.

use std::path::Path;

fn main() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../crates/machine/kernel.ld");
    println!("cargo::rerun-if-changed={script}");
    println!("cargo::rerun-if-env-changed=SELKIS_KERNEL_SYMBOLS");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("none") {
        return;
    }
    println!("cargo::rustc-link-arg-bins=-T{script}");
    println!("cargo::rustc-link-arg-bins=--no-pie");
    // Pages of the file are pages of memory; addresses are those of the script.
    println!("cargo::rustc-link-arg-bins=-zmax-page-size=4096");
    let table = match std::env::var_os("SELKIS_KERNEL_SYMBOLS") {
        Some(path) => {
            println!("cargo::rerun-if-changed={}", Path::new(&path).display());
            let file = std::fs::read(&path)
                .unwrap_or_else(|error| panic!("{}: {error}", Path::new(&path).display()));
            table(&file).unwrap_or_else(|| panic!("{}: no ELF file with symbols", Path::new(&path).display()))
        }
        None => String::new(),
    };
    let out = std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR");
    std::fs::write(Path::new(&out).join("symbols"), table).expect("OUT_DIR can be written");
}

/// Lines of offset and name, in order, as `machine::symbols` reads them.
fn table(file: &[u8]) -> Option<String> {
    // ELF-64 object file format, version 1.5: section headers and symbols.
    const SECTIONS_AT: usize = 40;
    const SECTION_COUNT_AT: usize = 60;
    const SECTION_BYTES: usize = 64;
    const SYMBOL_TABLE: u32 = 2;
    const SYMBOL_BYTES: usize = 24;
    const FUNCTION: u8 = 2;
    let section = |index: usize| file.get(word(file, SECTIONS_AT)? as usize + index * SECTION_BYTES..);
    let bytes = |header: &[u8]| file.get(word(header, 24)? as usize..)?.get(..word(header, 32)? as usize);
    let count =
        usize::from(u16::from_le_bytes(file.get(SECTION_COUNT_AT..SECTION_COUNT_AT + 2)?.try_into().ok()?));
    let symbols = (0..count).filter_map(section).find(|header| half(header, 4) == Some(SYMBOL_TABLE))?;
    let names = bytes(section(half(symbols, 40)? as usize)?)?;
    let name_at = |at: u32| {
        let name = names.get(at as usize..)?;
        std::str::from_utf8(&name[..name.iter().position(|&byte| byte == 0)?]).ok()
    };
    let all = bytes(symbols)?.chunks_exact(SYMBOL_BYTES);
    let begin = all.clone().find(|symbol| half(symbol, 0).and_then(name_at) == Some("kernel_text_start"))?;
    let begin = word(begin, 8)?;
    let mut functions: Vec<(u64, String)> = all
        .filter(|symbol| symbol[4] & 0xf == FUNCTION)
        .filter_map(|symbol| {
            let name = rustc_demangle::demangle(name_at(half(symbol, 0)?)?);
            Some((word(symbol, 8)?.checked_sub(begin)?, shortened(&format!("{name:#}"))))
        })
        .collect();
    functions.sort();
    functions.dedup_by_key(|(offset, _)| *offset);
    Some(functions.iter().map(|(offset, name)| format!("{offset:x} {name}\n")).collect())
}

/// A name with `_` for the arguments of its types' arguments: names of iterators are longer than their functions.
fn shortened(name: &str) -> String {
    const DEPTH_MAX: usize = 2;
    let (mut short, mut depth, mut previous) = (String::new(), 0_usize, ' ');
    for letter in name.chars() {
        if letter == '>' && previous != '-' {
            depth = depth.saturating_sub(1);
        }
        if depth < DEPTH_MAX {
            short.push(letter);
        } else if previous == '<' && depth == DEPTH_MAX {
            short.push('_');
        }
        if letter == '<' {
            depth += 1;
        }
        previous = letter;
    }
    short
}

fn half(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes)
}

fn word(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes)
}
