//! Reads a domain's executable: a static, non-relocatable ELF64 file whose every field is an allegation.

use abi::{PAGE_SIZE, Protection, Span};
use core::fmt;

/// The most segments that an executable may have.
const SEGMENTS_MAX: usize = 16;

/// An executable that can be loaded.
#[derive(Debug)]
pub(crate) struct Executable {
    /// Lies in one of its executable segments.
    pub entry: u64,
    segments: [Segment; SEGMENTS_MAX],
    count: usize,
}

/// A part of an executable, in order of address, in pages that it shares with no other part.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment {
    /// Where it is to be, in memory: not page-aligned.
    pub memory: Span,
    /// Its first bytes, in the file: no longer than `memory`, at the same offset in a page.
    pub file: Span,
    pub protection: Protection,
}

/// Why a file is not such an executable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ElfError {
    /// It has no ELF header for this machine, or one that ends early.
    NotExecutable,
    /// It wants a dynamic linker, relocation or thread-local storage.
    NotStatic,
    /// It has more segments than the kernel takes.
    TooManySegments,
    /// A segment's numbers contradict each other, the file's length, or another segment.
    BadSegment,
    /// A segment is writable and executable, or none is executable at the entry.
    BadProtection,
    /// A segment lies outside of where executables may be.
    BadAddress,
}

impl fmt::Display for ElfError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotExecutable => "it is not an x86-64 ELF executable",
            Self::NotStatic => "it is not a static executable with fixed addresses",
            Self::TooManySegments => "it has too many segments",
            Self::BadSegment => "the numbers of a segment contradict each other or the file's length",
            Self::BadProtection => "a segment is writable and executable, or the entry is not executable",
            Self::BadAddress => "a segment lies outside of the addresses for executables",
        })
    }
}

// ELF-64 object file format, version 1.5; field offsets of the file header and of program headers.
const IDENT: [u8; 7] = [0x7f, b'E', b'L', b'F', 2, 1, 1];
const TYPE_AT: usize = 16;
const TYPE_EXECUTABLE: u16 = 2;
const TYPE_SHARED: u16 = 3;
const MACHINE_AT: usize = 18;
const MACHINE_X86_64: u16 = 62;
const ENTRY_AT: usize = 24;
const HEADERS_AT: usize = 32;
const HEADER_SIZE_AT: usize = 54;
const HEADER_COUNT_AT: usize = 56;
const HEADER_BYTES: usize = 56;
const LOAD: u32 = 1;
const INTERPRETER: u32 = 3;
const THREAD_LOCAL: u32 = 7;
const FLAG_EXECUTE: u32 = 1;
const FLAG_WRITE: u32 = 2;

impl Executable {
    /// Reads the headers of `file`. Segments must lie in `area`.
    pub fn parse(file: &[u8], area: Span) -> Result<Self, ElfError> {
        if !file.starts_with(&IDENT) || half(file, MACHINE_AT) != Some(MACHINE_X86_64) {
            return Err(ElfError::NotExecutable);
        }
        match half(file, TYPE_AT) {
            Some(TYPE_EXECUTABLE) => (),
            Some(TYPE_SHARED) => return Err(ElfError::NotStatic),
            _ => return Err(ElfError::NotExecutable),
        }
        if half(file, HEADER_SIZE_AT) != Some(HEADER_BYTES as u16) {
            return Err(ElfError::NotExecutable);
        }
        let entry = word(file, ENTRY_AT).ok_or(ElfError::NotExecutable)?;
        let headers = word(file, HEADERS_AT).ok_or(ElfError::NotExecutable)?;
        let count = half(file, HEADER_COUNT_AT).ok_or(ElfError::NotExecutable)?;
        let nothing =
            Segment { memory: Span::default(), file: Span::default(), protection: Protection::None };
        let mut executable = Self { entry, segments: [nothing; SEGMENTS_MAX], count: 0 };
        for index in 0..u64::from(count) {
            let at = headers.checked_add(index * HEADER_BYTES as u64).ok_or(ElfError::NotExecutable)?;
            let rest =
                usize::try_from(at).ok().and_then(|at| file.get(at..)).ok_or(ElfError::NotExecutable)?;
            let header = rest.get(..HEADER_BYTES).ok_or(ElfError::NotExecutable)?;
            executable.add(header, file.len() as u64, area)?;
        }
        let runs = |segment: &Segment| {
            segment.protection == Protection::ReadExecute && segment.memory.contains(Span::new(entry, 1))
        };
        if !executable.segments().iter().any(runs) {
            return Err(ElfError::BadProtection);
        }
        Ok(executable)
    }

    /// What is to be loaded.
    pub fn segments(&self) -> &[Segment] {
        &self.segments[..self.count]
    }

    fn add(&mut self, header: &[u8], file_bytes: u64, area: Span) -> Result<(), ElfError> {
        let field = |at| word(header, at).ok_or(ElfError::NotExecutable);
        let (kind, flags) = (field(0)? as u32, (field(0)? >> 32) as u32);
        match kind {
            LOAD => (),
            INTERPRETER | THREAD_LOCAL => return Err(ElfError::NotStatic),
            _ => return Ok(()),
        }
        let file = Span::new(field(8)?, field(32)?);
        let memory = Span::new(field(16)?, field(40)?);
        if memory.length == 0 {
            return Ok(());
        }
        let protection = match (flags & FLAG_WRITE != 0, flags & FLAG_EXECUTE != 0) {
            (true, true) => return Err(ElfError::BadProtection),
            (true, false) => Protection::ReadWrite,
            (false, true) => Protection::ReadExecute,
            (false, false) => Protection::Read,
        };
        let zeros_are_writable = file.length == memory.length || protection == Protection::ReadWrite;
        let before_end = self.segments().last().map_or(0, |last| last.memory.base + last.memory.length);
        let sound = Span::new(0, file_bytes).contains(file)
            && file.length <= memory.length
            && file.base % PAGE_SIZE == memory.base % PAGE_SIZE
            && before_end.next_multiple_of(PAGE_SIZE) <= memory.base - memory.base % PAGE_SIZE
            && zeros_are_writable;
        if !area.contains(memory) {
            return Err(ElfError::BadAddress);
        }
        if !sound {
            return Err(ElfError::BadSegment);
        }
        let slot = self.segments.get_mut(self.count).ok_or(ElfError::TooManySegments)?;
        *slot = Segment { memory, file, protection };
        self.count += 1;
        Ok(())
    }
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_le_bytes)
}

fn word(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes)
}
