use super::*;
use alloc::vec;
use proptest::prelude::*;

const BASE: u64 = EXECUTABLE_BASE_MIN;

/// A file with code at `base`, data a page later with one relocation, and a section named `.limine_reqs`.
fn sample(kind: u16, base: u64) -> Vec<u8> {
    let mut file = vec![0u8; 0x400];
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"\x7fELF\x02\x01\x01");
    put(16, &kind.to_le_bytes());
    put(18, &EM_X86_64.to_le_bytes());
    put(24, &(base + 0x10).to_le_bytes());
    put(32, &64u64.to_le_bytes());
    put(40, &0x280u64.to_le_bytes());
    for (at, value) in [(52, 64u16), (54, 56), (56, 3), (58, 64), (60, 2), (62, 1)] {
        put(at, &value.to_le_bytes());
    }
    let mut header = |index: usize, kind: u32, flags: u32, words: [u64; 6]| {
        put(64 + 56 * index, &kind.to_le_bytes());
        put(68 + 56 * index, &flags.to_le_bytes());
        for (field, word) in words.iter().enumerate() {
            put(72 + 56 * index + 8 * field, &word.to_le_bytes());
        }
    };
    header(0, PT_LOAD, PF_X | 4, [0x100, base, 0, 0x40, 0x40, 4096]);
    header(1, PT_LOAD, PF_W | 4, [0x140, base + 0x1000, 0, 0x80, 0x2000, 4096]);
    header(2, PT_DYNAMIC, PF_W | 4, [0x200, base + 0x1000, 0, 0x40, 0x40, 8]);
    put(0x100, &[0xcc; 0x40]);
    // Data: a word to relocate, then the relocation table (one entry).
    put(0x140, &7u64.to_le_bytes());
    for (at, value) in [(0x150, base + 0x1000), (0x158, 8), (0x160, base + 0x20)] {
        put(at, &value.to_le_bytes());
    }
    for (index, value) in [7, base + 0x1010, 8, 24, 9, 24, 0, 0].iter().enumerate() {
        put(0x200 + 8 * index, &u64::to_le_bytes(*value));
    }
    // Sections: .limine_reqs, and the names.
    put(0x280, &1u32.to_le_bytes());
    put(0x290, &(base + 0x1000).to_le_bytes());
    put(0x2a0, &16u64.to_le_bytes());
    put(0x2c0 + 24, &0x300u64.to_le_bytes());
    put(0x2c0 + 32, &14u64.to_le_bytes());
    put(0x300, b"\0.limine_reqs\0");
    file
}

fn filled(file: &[u8], extra: u64) -> (u64, Vec<u8>) {
    let executable = Executable::parse(file).unwrap();
    let slide = executable.slide(extra).unwrap();
    let mut image = vec![0; executable.size() as usize];
    executable.fill(&mut image, slide).unwrap();
    (slide.bytes(), image)
}

#[test]
fn a_fixed_executable_stays_where_it_is() {
    let file = sample(ET_EXEC, BASE);
    let executable = Executable::parse(&file).unwrap();
    assert_eq!((executable.base(), executable.size(), executable.entry()), (BASE, 0x3000, BASE + 0x10));
    let rights: Vec<_> = executable.segments().iter().map(|s| (s.write, s.execute)).collect();
    assert_eq!(
        rights,
        [(Permission::Denied, Permission::Allowed), (Permission::Allowed, Permission::Denied)]
    );
    let (slide, image) = filled(&file, 0);
    assert_eq!(slide, 0);
    assert_eq!(image[..0x40], [0xcc; 0x40]);
    assert_eq!(word(&image, 0x1000), 7, "not relocated");
    assert_eq!(executable.slide(0x1000).unwrap_err(), ElfError::BadSlide(0x1000));
    assert_eq!(executable.section(b".limine_reqs"), Some((BASE + 0x1000, 16)));
    assert_eq!(executable.section(b".limine_req"), None);
}

#[test]
fn a_relocatable_executable_is_moved() {
    let (slide, image) = filled(&sample(ET_DYN, BASE), 0x20_0000);
    assert_eq!(slide, 0x20_0000);
    assert_eq!(word(&image, 0x1000), BASE + 0x20 + 0x20_0000);
    let (slide, image) = filled(&sample(ET_DYN, 0), 0);
    assert_eq!(slide, BASE, "lower-half executables are slid up");
    assert_eq!(word(&image, 0x1000), BASE + 0x20);
}

#[test]
fn slides_stay_in_the_last_2_gib_and_aligned() {
    let file = sample(ET_DYN, BASE);
    let executable = Executable::parse(&file).unwrap();
    assert!(executable.slide(0x1001).is_err());
    assert!(executable.slide(1 << 31).is_err());
    assert!(executable.slide((1 << 31) - 0x4000).is_ok());
    assert!(executable.slide((1 << 31) - 0x3000).is_err(), "the last page stays free");
    assert!(executable.slide(u64::MAX - 0xfff).is_err());
}

#[test]
fn what_is_no_executable_is_refused() {
    let refuse = |file: &[u8]| Executable::parse(file).expect_err("refused");
    assert_eq!(refuse(b""), ElfError::NotElf);
    assert_eq!(refuse(b"MZ and so on"), ElfError::NotElf);
    assert_eq!(refuse(&sample(1, BASE)), ElfError::WrongKind);
    assert_eq!(refuse(&sample(ET_EXEC, 0x10_0000)), ElfError::LowerHalf(0x10_0000));
    let mut file = sample(ET_EXEC, BASE);
    file[24..32].copy_from_slice(&(BASE + 0x1000).to_le_bytes());
    assert_eq!(refuse(&file), ElfError::BadEntry(BASE + 0x1000));
    let mut file = sample(ET_EXEC, BASE);
    file[64 + 56 + 16] = 0x20; // the second segment's address, now on the page of the first
    file[64 + 56 + 17] = 0;
    assert_eq!(refuse(&file), ElfError::BadSegment(1));
}

#[test]
fn every_cut_is_noticed() {
    let file = sample(ET_DYN, BASE);
    for length in 0..0x240 {
        let error = Executable::parse(&file[..length]).expect_err("what is loaded ends at 0x240");
        assert!(matches!(error, ElfError::NotElf | ElfError::CutShort { .. }), "{length}: {error:?}");
    }
    assert!(Executable::parse(&file[..0x240]).is_ok(), "sections are not needed");
}

#[test]
fn other_relocations_are_refused() {
    let mut file = sample(ET_DYN, BASE);
    file[0x158] = 6; // R_X86_64_GLOB_DAT
    let executable = Executable::parse(&file).unwrap();
    let mut image = vec![0; executable.size() as usize];
    let slide = executable.slide(0).unwrap();
    assert_eq!(executable.fill(&mut image, slide), Err(ElfError::RelocationKind(6)));
}

proptest! {
    #[test]
    fn damaged_files_never_panic(
        flips in prop::collection::vec((0usize..0x400, any::<u8>()), 1..12),
        length in 0usize..0x401,
    ) {
        let mut file = sample(ET_DYN, BASE);
        for (place, byte) in flips {
            file[place] ^= byte;
        }
        file.truncate(length);
        if let Ok(executable) = Executable::parse(&file) {
            let _ = executable.section(b".limine_reqs");
            // An honest size limit keeps the test's memory bounded, as the firmware's does the loader's.
            if let Ok(slide) = executable.slide(0) && executable.size() < 1 << 20 {
                let _ = executable.fill(&mut vec![0; executable.size() as usize], slide);
            }
        }
    }
}
