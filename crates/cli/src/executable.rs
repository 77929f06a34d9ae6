//! What a machine needs of an executable: what is loaded of it, without symbols and debug information, which are
//! twenty times as large.

use object::elf::{FileHeader64, PT_LOAD};
use object::read::elf::{FileHeader, ProgramHeader};
use object::{LittleEndian, U16, U64};

/// As far as anything is loaded, and without a section table. What is no executable stays as it is: the machine
/// says what is wrong with it.
pub fn loaded_part(mut executable: Vec<u8>) -> Vec<u8> {
    if let Some(end) = loaded_end(&executable) {
        executable.truncate(end);
        forget_sections(&mut executable);
    }
    executable
}

fn loaded_end(executable: &[u8]) -> Option<usize> {
    let header = FileHeader64::<LittleEndian>::parse(executable).ok()?;
    let endian = header.endian().ok()?;
    let segments = header.program_headers(endian, executable).ok()?;
    let table = header.e_phoff(endian).checked_add(size_of_val(segments) as u64)?;
    let mut ends = segments.iter().filter(|segment| segment.p_type(endian) == PT_LOAD).map(|segment| {
        let (offset, length) = segment.file_range(endian);
        offset.checked_add(length)
    });
    let end = ends.try_fold(table, |end, next| Some(end.max(next?)))?;
    usize::try_from(end).ok().filter(|end| *end <= executable.len())
}

/// Zeroes `e_shoff`, `e_shnum` and `e_shstrndx` of the file header (System V gABI, chapter 4).
fn forget_sections(executable: &mut [u8]) {
    if let Ok((header, _)) = object::pod::from_bytes_mut::<FileHeader64<LittleEndian>>(executable) {
        header.e_shoff = U64::new(LittleEndian, 0);
        header.e_shnum = U16::new(LittleEndian, 0);
        header.e_shstrndx = U16::new(LittleEndian, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_loaded_stays() {
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let part = loaded_part(own.clone());
        assert!(part.len() < own.len(), "test executables have symbols");
        assert_eq!(part[64..], own[64..part.len()]);
        let header = FileHeader64::<LittleEndian>::parse(&*part).unwrap();
        assert_eq!(header.e_shoff(LittleEndian), 0);
        assert_eq!(loaded_part(part.clone()), part);
    }

    #[test]
    fn what_is_cut_or_no_executable_stays_as_it_is() {
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let end = loaded_part(own.clone()).len();
        for length in [0, 1, 63, 64, 100, end - 1] {
            assert_eq!(loaded_part(own[..length].to_vec()), own[..length]);
        }
        assert_eq!(loaded_part(b"#!/bin/sh\n".to_vec()), b"#!/bin/sh\n");
    }
}
