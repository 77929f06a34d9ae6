//! The names that a module gives its functions: for messages, and so of a length that a message can have.

use std::borrow::Cow;
use wasmtime::wasmparser::{BinaryReader, Name, NameSectionReader};

/// A longer name is of no use to anybody, and who shows it has to hold it.
const NAME_BYTES_MAX: usize = 8 << 10;

/// Magic number and version.
const PREAMBLE_BYTES: usize = 8;
/// The number of a custom section.
const CUSTOM: u8 = 0;

/// The module, without its names if one of its functions has a name that is too long. What is no module stays as it is.
pub fn without_long_names(module: Cow<'_, [u8]>) -> Cow<'_, [u8]> {
    let Some(sections) = sections(&module) else { return module };
    if !sections.iter().any(|section| has_long_name(section)) {
        return module;
    }
    let kept = sections.iter().filter(|section| !has_long_name(section)).copied();
    let parts: Vec<&[u8]> = [&module[..PREAMBLE_BYTES]].into_iter().chain(kept).collect();
    Cow::Owned(parts.concat())
}

/// The sections, each with its number and its length before it.
fn sections(module: &[u8]) -> Option<Vec<&[u8]>> {
    let mut reader = BinaryReader::new(module.get(PREAMBLE_BYTES..)?, 0);
    let mut sections = Vec::new();
    while !reader.eof() {
        let start = reader.original_position();
        reader.read_u8().ok()?;
        let length = reader.read_var_u32().ok()?;
        reader.read_bytes(length as usize).ok()?;
        sections.push(&module[PREAMBLE_BYTES..][start..reader.original_position()]);
    }
    Some(sections)
}

fn has_long_name(section: &[u8]) -> bool {
    let mut reader = BinaryReader::new(section, 0);
    let is_names = reader.read_u8().is_ok_and(|number| number == CUSTOM)
        && reader.read_var_u32().is_ok()
        && reader.read_unlimited_string().is_ok_and(|name| name == "name");
    if !is_names {
        return false;
    }
    let rest = &section[reader.original_position()..];
    let functions = NameSectionReader::new(BinaryReader::new(rest, 0)).filter_map(|names| match names {
        Ok(Name::Function(functions)) => Some(functions),
        _ => None,
    });
    functions.flatten().any(|naming| naming.is_ok_and(|naming| naming.name.len() > NAME_BYTES_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn module(name: &str) -> Vec<u8> {
        wat::parse_str(format!("(module (func ${name} (export \"f\")) (func $other))")).unwrap()
    }

    #[test]
    fn only_names_that_are_too_long_go() {
        let short = module(&"x".repeat(NAME_BYTES_MAX));
        assert_eq!(without_long_names(Cow::Borrowed(&short)), short);
        let long = module(&"x".repeat(NAME_BYTES_MAX + 1));
        let unnamed = wat::parse_str("(module (func (export \"f\")) (func))").unwrap();
        assert_eq!(without_long_names(Cow::Borrowed(&long)), unnamed);
    }

    #[test]
    fn damage_is_left_to_others() {
        let long = module(&"x".repeat(NAME_BYTES_MAX + 1));
        for length in 0..long.len() {
            without_long_names(Cow::Borrowed(&long[..length]));
        }
        let mut damaged = long.clone();
        for at in (0..40).chain(long.len() - NAME_BYTES_MAX - 60..long.len() - NAME_BYTES_MAX) {
            damaged[at] ^= 0xff;
            without_long_names(Cow::Borrowed(&damaged));
            damaged[at] ^= 0xff;
        }
    }
}
