//! ELF executables: what to copy where, and relocation (System V gABI, "Object Files" and "Program Loading";
//! AMD64 psABI, section 4.4).

use alloc::vec::Vec;
use core::fmt;

use crate::little_endian::{half, long, word};
use crate::protocol::EXECUTABLE_BASE_MIN;
use crate::{PAGE_SIZE, page_down, page_up};

/// An executable whose headers have been checked.
#[derive(Clone, Debug)]
pub struct Executable<'a> {
    file: &'a [u8],
    kind: Kind,
    entry: u64,
    segments: Vec<Segment>,
    dynamic: Option<FileRange>,
    base: u64,
    size: u64,
    alignment: u64,
}

/// Whether it may be moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `ET_EXEC`.
    Fixed,
    /// `ET_DYN`.
    Relocatable,
}

/// A `PT_LOAD` header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    data: FileRange,
    /// Virtual address before any slide.
    pub address: u64,
    /// Bytes in memory.
    pub size: u64,
    /// May it be written?
    pub write: Permission,
    /// May it be executed?
    pub execute: Permission,
}

/// One of the rights to a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permission {
    /// Granted.
    Allowed,
    /// Not granted.
    Denied,
}

impl Permission {
    /// From a bit that grants it.
    pub fn from_bit(word: u32, bit: u32) -> Self {
        if word & bit != 0 { Self::Allowed } else { Self::Denied }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileRange {
    offset: usize,
    length: usize,
}

/// A slide that [`Executable::slide`] has checked: added to every address of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slide(u64);

impl Slide {
    /// In bytes, modulo 2^64.
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

/// Why a file cannot be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ElfError {
    /// No ELF magic.
    NotElf,
    /// ELF, but not 64-bit little-endian x86-64, or neither an executable nor position-independent.
    WrongKind,
    /// A header or a segment reaches beyond the end of the file.
    CutShort {
        /// Bytes that would be needed, at least.
        needed: u64,
        /// Bytes that are there.
        length: u64,
    },
    /// No `PT_LOAD` with a size.
    NothingToLoad,
    /// A segment that is inconsistent or overlaps another.
    BadSegment(u16),
    /// Not relocatable, and below -2 GiB.
    LowerHalf(u64),
    /// Larger than the 2 GiB that there are.
    TooLarge(u64),
    /// The entry point is in no executable segment.
    BadEntry(u64),
    /// A relocation of a type other than `R_X86_64_RELATIVE`.
    RelocationKind(u32),
    /// Relocations that are damaged, or of a form that is not supported.
    BadRelocations,
    /// A slide of something that cannot be moved, or not to there.
    BadSlide(u64),
}

impl fmt::Display for ElfError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotElf => write!(f, "not an ELF file"),
            Self::WrongKind => write!(f, "not an executable for x86-64 (64-bit, little-endian)"),
            Self::CutShort { needed, length } => {
                write!(f, "cut short: {length} bytes, and at least {needed} are needed; copy it again")
            }
            Self::NothingToLoad => write!(f, "an ELF file with nothing to load"),
            Self::BadSegment(index) => write!(f, "program header {index} is damaged"),
            Self::LowerHalf(base) => {
                write!(
                    f,
                    "linked at {base:#x} and not relocatable; it must stand at {EXECUTABLE_BASE_MIN:#x} or above"
                )
            }
            Self::TooLarge(size) => write!(f, "{size} bytes in memory do not fit the last 2 GiB"),
            Self::BadEntry(entry) => write!(f, "its entry point {entry:#x} is not in its code"),
            Self::RelocationKind(kind) => write!(f, "relocation type {kind} is not supported"),
            Self::BadRelocations => write!(f, "its relocations are damaged"),
            Self::BadSlide(slide) => write!(f, "it cannot be slid by {slide:#x}"),
        }
    }
}

const ET_EXEC: u16 = 2;
const ET_DYN: u16 = 3;
const EM_X86_64: u16 = 62;
const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const PF_X: u32 = 1;
const PF_W: u32 = 2;
const HEADER_BYTES: usize = 64;
const PROGRAM_HEADER_BYTES: usize = 56;
const SECTION_HEADER_BYTES: usize = 64;

impl<'a> Executable<'a> {
    /// Checks the headers of `file`.
    ///
    /// # Errors
    /// What keeps it from being loaded.
    pub fn parse(file: &'a [u8]) -> Result<Self, ElfError> {
        if file.get(..4) != Some(b"\x7fELF") {
            return Err(ElfError::NotElf);
        }
        let header = slice(file, 0, HEADER_BYTES as u64)?;
        let kind = match (header[4], header[5], half(header, 16), half(header, 18)) {
            (2, 1, ET_EXEC, EM_X86_64) => Kind::Fixed,
            (2, 1, ET_DYN, EM_X86_64) => Kind::Relocatable,
            _ => return Err(ElfError::WrongKind),
        };
        if usize::from(half(header, 54)) != PROGRAM_HEADER_BYTES {
            return Err(ElfError::WrongKind);
        }
        let mut executable = Self {
            file,
            kind,
            entry: word(header, 24),
            segments: Vec::new(),
            dynamic: None,
            base: 0,
            size: 0,
            alignment: PAGE_SIZE,
        };
        executable.read_program_headers(word(header, 32), half(header, 56))?;
        executable.measure()?;
        Ok(executable)
    }

    fn read_program_headers(&mut self, table: u64, count: u16) -> Result<(), ElfError> {
        let headers = slice(self.file, table, u64::from(count) * PROGRAM_HEADER_BYTES as u64)?;
        for (index, header) in (0..).zip(headers.chunks_exact(PROGRAM_HEADER_BYTES)) {
            let kind = long(header, 0);
            if kind == PT_DYNAMIC {
                self.dynamic = Some(range(self.file, word(header, 8), word(header, 32))?);
            }
            if kind != PT_LOAD || word(header, 40) == 0 {
                continue;
            }
            let segment = Segment {
                data: range(self.file, word(header, 8), word(header, 32))?,
                address: word(header, 16),
                size: word(header, 40),
                write: Permission::from_bit(long(header, 4), PF_W),
                execute: Permission::from_bit(long(header, 4), PF_X),
            };
            let end = segment.address.checked_add(segment.size).and_then(page_up);
            let sound = segment.data.length as u64 <= segment.size
                && end.is_some_and(|end| {
                    self.segments.iter().all(|other| !overlap(other, segment.address, end))
                });
            if !sound {
                return Err(ElfError::BadSegment(index));
            }
            let alignment = word(header, 48);
            if alignment.is_power_of_two() && alignment <= 1 << 30 {
                self.alignment = self.alignment.max(alignment);
            }
            self.segments.push(segment);
        }
        Ok(())
    }

    fn measure(&mut self) -> Result<(), ElfError> {
        let first =
            self.segments.iter().map(|segment| segment.address).min().ok_or(ElfError::NothingToLoad)?;
        self.base = page_down(first);
        // Checked not to overflow when the segments were read.
        let ends = self.segments.iter().map(|segment| segment.address + segment.size);
        let end = ends.max().and_then(page_up).ok_or(ElfError::NothingToLoad)?;
        self.size = end - self.base;
        if self.size > EXECUTABLE_BASE_MIN.wrapping_neg() - PAGE_SIZE {
            return Err(ElfError::TooLarge(self.size));
        }
        if self.kind == Kind::Fixed && self.base < EXECUTABLE_BASE_MIN {
            return Err(ElfError::LowerHalf(self.base));
        }
        if !self.is_code(self.entry) {
            return Err(ElfError::BadEntry(self.entry));
        }
        Ok(())
    }

    /// Whether an address, before any slide, lies in an executable segment.
    pub fn is_code(&self, address: u64) -> bool {
        let inside = |segment: &Segment| address.wrapping_sub(segment.address) < segment.size;
        self.segments.iter().any(|segment| segment.execute == Permission::Allowed && inside(segment))
    }

    /// Bytes in memory from the first page to the last.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// The entry point, before any slide.
    pub const fn entry(&self) -> u64 {
        self.entry
    }

    /// The lowest page, before any slide.
    pub const fn base(&self) -> u64 {
        self.base
    }

    /// In the order of the file.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// The slide to use: what is needed to stand in the last 2 GiB, plus `extra` bytes.
    ///
    /// # Errors
    /// [`ElfError::BadSlide`] if the file is not relocatable, `extra` breaks its alignment, or there is no room.
    pub fn slide(&self, extra: u64) -> Result<Slide, ElfError> {
        let error = ElfError::BadSlide(extra);
        if extra != 0 && (self.kind == Kind::Fixed || !extra.is_multiple_of(self.alignment)) {
            return Err(error);
        }
        let least = EXECUTABLE_BASE_MIN.saturating_sub(self.base).next_multiple_of(self.alignment);
        let base = self.base.checked_add(least).and_then(|base| base.checked_add(extra)).ok_or(error)?;
        // The last page stays free: code may compute the end of the image.
        let end = base.checked_add(self.size).ok_or(error)?;
        if end > page_down(u64::MAX) {
            return Err(error);
        }
        Ok(Slide(least + extra))
    }

    /// Copies the segments into `image`, which is zero and [`Self::size`] bytes, and relocates it.
    ///
    /// # Errors
    /// Relocations that cannot be done.
    ///
    /// # Panics
    /// If `image` has another size.
    pub fn fill(&self, image: &mut [u8], slide: Slide) -> Result<(), ElfError> {
        assert_eq!(image.len() as u64, self.size, "an image has the size that was asked for");
        for segment in &self.segments {
            let FileRange { offset, length } = segment.data;
            let place = (segment.address - self.base) as usize;
            image[place..place + length].copy_from_slice(&self.file[offset..offset + length]);
        }
        match self.kind {
            Kind::Fixed => Ok(()),
            Kind::Relocatable => self.relocate(image, slide),
        }
    }

    fn relocate(&self, image: &mut [u8], slide: Slide) -> Result<(), ElfError> {
        const ENTRY_BYTES: u64 = 24;
        const R_NONE: u64 = 0;
        const R_RELATIVE: u64 = 8;
        let Some((table, bytes)) = self.relocation_table()? else { return Ok(()) };
        let table = table.checked_sub(self.base).ok_or(ElfError::BadRelocations)?;
        let end = table.checked_add(bytes).filter(|end| *end <= self.size);
        let end = end.ok_or(ElfError::BadRelocations)?;
        if bytes % ENTRY_BYTES != 0 {
            return Err(ElfError::BadRelocations);
        }
        for entry in (table..end).step_by(ENTRY_BYTES as usize) {
            let entry = &image[entry as usize..(entry + ENTRY_BYTES) as usize];
            let (address, info, addend) = (word(entry, 0), word(entry, 8), word(entry, 16));
            match info & 0xffff_ffff {
                R_NONE => continue,
                R_RELATIVE => {}
                kind => return Err(ElfError::RelocationKind(kind as u32)),
            }
            let place = address.wrapping_sub(self.base);
            if place > self.size - 8 {
                return Err(ElfError::BadRelocations);
            }
            let value = addend.wrapping_add(slide.0);
            image[place as usize..place as usize + 8].copy_from_slice(&value.to_le_bytes());
        }
        Ok(())
    }

    /// Address and length of the `RELA` table.
    fn relocation_table(&self) -> Result<Option<(u64, u64)>, ElfError> {
        const DT_NULL: u64 = 0;
        const DT_PLTRELSZ: u64 = 2;
        const DT_RELA: u64 = 7;
        const DT_RELASZ: u64 = 8;
        const DT_RELAENT: u64 = 9;
        const DT_RELSZ: u64 = 18;
        const DT_RELRSZ: u64 = 35;
        let Some(FileRange { offset, length }) = self.dynamic else { return Ok(None) };
        let (mut table, mut bytes) = (0, 0);
        for entry in self.file[offset..offset + length].chunks_exact(16) {
            match (word(entry, 0), word(entry, 8)) {
                (DT_NULL, _) => break,
                (DT_RELA, address) => table = address,
                (DT_RELASZ, size) => bytes = size,
                (DT_RELAENT, 24) => {}
                (DT_RELAENT, _) => return Err(ElfError::BadRelocations),
                // Forms that a static executable of a current linker does not use unless it is told to.
                (DT_PLTRELSZ | DT_RELSZ | DT_RELRSZ, size) if size != 0 => {
                    return Err(ElfError::BadRelocations);
                }
                _ => {}
            }
        }
        Ok((bytes != 0).then_some((table, bytes)))
    }

    /// Address and length of a section, if the file has a table of sections and one of that name.
    pub fn section(&self, name: &[u8]) -> Option<(u64, u64)> {
        let (table, size, count, names) =
            (word(self.file, 40), half(self.file, 58), half(self.file, 60), half(self.file, 62));
        if table == 0 || usize::from(size) != SECTION_HEADER_BYTES || names >= count {
            return None;
        }
        let headers = slice(self.file, table, u64::from(count) * SECTION_HEADER_BYTES as u64).ok()?;
        let mut headers = headers.chunks_exact(SECTION_HEADER_BYTES);
        let strings = headers.clone().nth(usize::from(names))?;
        let strings = slice(self.file, word(strings, 24), word(strings, 32)).ok()?;
        let is_wanted = |header: &&[u8]| {
            let rest = strings.get(long(header, 0) as usize..).unwrap_or_default();
            rest.strip_prefix(name).is_some_and(|rest| rest.first() == Some(&0))
        };
        headers.find(is_wanted).map(|header| (word(header, 16), word(header, 32)))
    }
}

/// Whole pages are compared: two segments on one page would need the rights of both.
fn overlap(segment: &Segment, address: u64, end: u64) -> bool {
    // The end of a segment that is already in the list has been checked.
    let other_end = (segment.address + segment.size).next_multiple_of(PAGE_SIZE);
    page_down(address) < other_end && page_down(segment.address) < end
}

fn range(file: &[u8], offset: u64, length: u64) -> Result<FileRange, ElfError> {
    slice(file, offset, length)?;
    Ok(FileRange { offset: offset as usize, length: length as usize })
}

fn slice(file: &[u8], offset: u64, length: u64) -> Result<&[u8], ElfError> {
    let needed = offset.saturating_add(length);
    let inside = (needed <= file.len() as u64).then(|| &file[offset as usize..needed as usize]);
    inside.ok_or(ElfError::CutShort { needed, length: file.len() as u64 })
}

#[cfg(test)]
#[path = "elf_tests.rs"]
mod tests;
