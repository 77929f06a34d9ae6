//! What a machine needs of an executable: what is loaded of it, without symbols and debug information, which are
//! twenty times as large; and where that goes. For whoever packs a boot module.

use abi::{PAGE_SIZE, Span};
use bundle::system::{Contents, Image, ImageAccess, Region};
use object::elf::{FileHeader64, PF_W, PF_X, PT_LOAD, ProgramHeader64};
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

/// What is to be mapped of an executable that lies at `offset` in a file of pages. Where a writable segment's part of the file ends in
/// the middle of a page, what lies behind it there must be zeros in memory: `add` puts such a page elsewhere into the file.
pub fn image<E>(
    executable: &[u8],
    offset: u64,
    mut add: impl FnMut(&[u8]) -> Result<u64, E>,
) -> Result<Option<Image>, E> {
    let Some((entry, segments)) = segments(executable) else { return Ok(None) };
    let mut regions = Vec::new();
    for Segment { address, file, memory_bytes, access } in segments {
        let base = address - address % PAGE_SIZE;
        let file_base = file.base - file.base % PAGE_SIZE;
        let file_end = address + file.length;
        let (whole_end, zeros) = match access {
            _ if file.length == 0 => (base, base),
            ImageAccess::Write => (file_end - file_end % PAGE_SIZE, file_end.next_multiple_of(PAGE_SIZE)),
            _ => (file_end.next_multiple_of(PAGE_SIZE), file_end.next_multiple_of(PAGE_SIZE)),
        };
        let mut region = |from: u64, to: u64, contents| {
            if to > from {
                regions.push(Region { address: from, length: to - from, contents, access });
            }
        };
        region(base, whole_end, Contents::Module(offset + file_base));
        if zeros > whole_end {
            let tail =
                &executable[(file_base + whole_end - base) as usize..(file.base + file.length) as usize];
            region(whole_end, zeros, Contents::Module(add(tail)?));
        }
        region(zeros, (address + memory_bytes).next_multiple_of(PAGE_SIZE), Contents::Zeros);
    }
    Ok(Some(Image { entry, regions }))
}

/// A part of an executable that is loaded.
struct Segment {
    address: u64,
    file: Span,
    memory_bytes: u64,
    access: ImageAccess,
}

/// The first instruction and what is loaded; `None` if the file is no executable, or one whose numbers contradict each other.
fn segments(executable: &[u8]) -> Option<(u64, Vec<Segment>)> {
    let header = FileHeader64::<LittleEndian>::parse(executable).ok()?;
    let endian = header.endian().ok()?;
    let segments = header.program_headers(endian, executable).ok()?;
    let loaded = segments.iter().filter(|segment| segment.p_type(endian) == PT_LOAD);
    let one = |segment: &ProgramHeader64<LittleEndian>| {
        let (offset, length) = segment.file_range(endian);
        let (address, memory_bytes) = (segment.p_vaddr(endian), segment.p_memsz(endian));
        let flags = segment.p_flags(endian);
        let access = match (flags & PF_W != 0, flags & PF_X != 0) {
            (true, true) => return None,
            (true, false) => ImageAccess::Write,
            (false, true) => ImageAccess::Execute,
            (false, false) => ImageAccess::Read,
        };
        let is_sound = Span::new(0, executable.len() as u64).contains(Span::new(offset, length))
            && length <= memory_bytes
            && offset % PAGE_SIZE == address % PAGE_SIZE
            && address.checked_add(memory_bytes).is_some_and(|end| end < u64::MAX - PAGE_SIZE);
        is_sound.then_some(Segment { address, file: Span::new(offset, length), memory_bytes, access })
    };
    Some((header.e_entry(endian), loaded.map(one).collect::<Option<_>>()?))
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
    fn an_image_is_what_a_loader_makes() {
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let mut tails = Vec::new();
        let add = |tail: &[u8]| {
            tails.push(tail.to_vec());
            Ok::<_, ()>((1 << 40) + (tails.len() as u64 - 1) * PAGE_SIZE)
        };
        let image = image(&own, 3 * PAGE_SIZE, add).unwrap().unwrap();
        let page = |address: u64| {
            let region = image
                .regions
                .iter()
                .find(|region| Span::new(region.address, region.length).contains(Span::new(address, 1)))?;
            let from = match region.contents {
                Contents::Zeros => return Some(vec![0; PAGE_SIZE as usize]),
                Contents::Module(from) => from + (address - region.address),
            };
            let mut bytes = match from >> 40 {
                0 => {
                    own[(from - 3 * PAGE_SIZE) as usize..].iter().copied().take(PAGE_SIZE as usize).collect()
                }
                _ => tails[((from - (1 << 40)) / PAGE_SIZE) as usize].clone(),
            };
            bytes.resize(PAGE_SIZE as usize, 0);
            Some(bytes)
        };
        let (entry, segments) = segments(&own).unwrap();
        assert_eq!(image.entry, entry);
        for Segment { address, file, memory_bytes, access } in segments {
            for at in (0..memory_bytes).step_by(61).chain([memory_bytes - 1]) {
                let here = address + at;
                let byte = page(here - here % PAGE_SIZE).unwrap()[(here % PAGE_SIZE) as usize];
                let expected = if at < file.length { own[(file.base + at) as usize] } else { 0 };
                assert_eq!(byte, expected, "{here:#x} {access:?}");
            }
        }
        for regions in image.regions.windows(2) {
            assert!(regions[0].address + regions[0].length <= regions[1].address, "{regions:?}");
        }
        assert!(!tails.is_empty());
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
