//! How large what has to be trusted is.

use crate::Failure;
use crate::figures::{Figure, Goal, Sample};
use crate::places::Places;
use checks::Code;
use object::Endianness;
use object::elf::{FileHeader64, PT_LOAD};
use object::read::elf::{FileHeader, ProgramHeader};

/// The most that the kernel's loadable segments may have, in bytes of the file.
const KERNEL_BYTES_MAX: f64 = 300.0 * 1024.0;
/// The exokernel and its boundary.
const TRUSTED: [&str; 4] = ["crates/abi", "crates/kernel", "crates/machine", "images/kernel"];
/// The most lines that it may have, without blanks, comments and tests.
const LINES_MAX: f64 = 6_000.0;

/// Counts.
///
/// # Errors
/// If the kernel is not there or is no ELF file.
pub fn measure(places: &Places) -> Result<Vec<Figure>, Failure> {
    let kernel = std::fs::read(places.parts.join("selkis-kernel"))?;
    let header = FileHeader64::<Endianness>::parse(&*kernel)?;
    let endian = header.endian()?;
    let segments = header.program_headers(endian, &*kernel)?;
    let bytes: u64 =
        segments.iter().filter(|segment| segment.p_type(endian) == PT_LOAD).map(|s| s.p_filesz(endian)).sum();
    let (lines, unsafes) = trusted();
    let figure = |name: &str, unit, value: usize, goal| Figure {
        name: String::from(name),
        unit,
        ours: Sample::exact(value as f64),
        peer: None,
        goal,
    };
    Ok(vec![
        figure("kernel, loadable segments", "bytes", bytes as usize, Some(Goal::AtMost(KERNEL_BYTES_MAX))),
        figure("kernel with machine and abi", "lines", lines, Some(Goal::AtMost(LINES_MAX))),
        figure("`unsafe` in them", "times", unsafes, None),
    ])
}

/// Lines and uses of `unsafe` of the trusted base.
fn trusted() -> (usize, usize) {
    let is_test = |path: &str| path.contains("/tests/") || path.ends_with("/tests.rs");
    let files = checks::files();
    let codes = files
        .iter()
        .filter(|file| file.has_extension("rs") && !is_test(&file.path))
        .filter(|file| file.crate_folder().is_some_and(|folder| TRUSTED.contains(&folder)))
        .map(|file| Code::read(&file.path, file.text()));
    codes.fold((0, 0), |(lines, unsafes), code| (lines + code.lines.len(), unsafes + code.unsafe_lines.len()))
}
