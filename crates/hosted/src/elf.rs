//! Maps the library OS's executable: a static ELF file for fixed addresses, below everything of Linux's.

use crate::launch::keep_at;
use abi::PAGE_SIZE;
use object::LittleEndian as Le;
use object::elf::{EM_X86_64, ET_EXEC, FileHeader64, PF_W, PF_X, PT_LOAD};
use object::read::elf::{FileHeader, ProgramHeader};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

/// Executables lie between these addresses: above what Linux keeps free, below where it puts anything.
const ADDRESSES: std::ops::Range<u64> = 0x1000_0000..0x8000_0000;

/// Where the program headers must end. The library OS's are behind the file header; the rest of the file, of which debug
/// information is most, is not read.
const HEADERS_BYTES_MAX: u64 = 4096;

/// Why an executable cannot be mapped.
#[derive(Debug)]
pub enum ElfError {
    /// It cannot be opened or read.
    Read(io::Error),
    /// It is not a static x86-64 executable for our addresses.
    Foreign,
    /// Linux does not map it.
    Map(io::Error),
}

impl std::fmt::Display for ElfError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Read(error) => write!(f, "cannot be read: {error}"),
            Self::Foreign => f.write_str("is not a Selkis library OS, or was cut short"),
            Self::Map(error) => write!(f, "cannot be mapped: {error}"),
        }
    }
}

/// A mapped executable. It stays mapped: the library OS's statics are used once.
pub struct Image {
    /// Its first instruction.
    pub entry: usize,
}

struct Segment {
    address: u64,
    file_offset: u64,
    file_bytes: u64,
    memory_bytes: u64,
    protection: i32,
}

/// Maps an executable. What is there already is never replaced.
pub fn load(file: &File) -> Result<Image, ElfError> {
    let length = file.metadata().map_err(ElfError::Read)?.len();
    let headers = read(file, 0, length.min(HEADERS_BYTES_MAX)).map_err(ElfError::Read)?;
    let (entry, segments) = parse(&headers, length).ok_or(ElfError::Foreign)?;
    for segment in &segments {
        map(segment, file).map_err(ElfError::Map)?;
    }
    Ok(Image { entry: entry as usize })
}

/// Reads wherever the descriptor stands: other processes may be reading by the same one.
fn read(file: &File, offset: u64, length: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length as usize];
    file.read_exact_at(&mut bytes, offset)?;
    Ok(bytes)
}

fn parse(bytes: &[u8], file_length: u64) -> Option<(u64, Vec<Segment>)> {
    let header = FileHeader64::<Le>::parse(bytes).ok()?;
    if header.e_machine.get(Le) != EM_X86_64 || header.e_type.get(Le) != ET_EXEC {
        return None;
    }
    let mut segments = Vec::new();
    for program in header.program_headers(Le, bytes).ok()? {
        if program.p_type(Le) != PT_LOAD || program.p_memsz(Le) == 0 {
            continue;
        }
        let segment = Segment {
            address: program.p_vaddr(Le),
            file_offset: program.p_offset(Le),
            file_bytes: program.p_filesz(Le),
            memory_bytes: program.p_memsz(Le),
            protection: protection(program.p_flags(Le))?,
        };
        segment.is_sound(file_length).then_some(())?;
        segments.push(segment);
    }
    let entry = header.e_entry.get(Le);
    let lies_in = |segment: &&Segment| {
        segment.protection & libc::PROT_EXEC != 0
            && (segment.address..segment.address + segment.memory_bytes).contains(&entry)
    };
    segments.iter().find(lies_in)?;
    Some((entry, segments))
}

fn protection(flags: u32) -> Option<i32> {
    match (flags & PF_W != 0, flags & PF_X != 0) {
        (false, false) => Some(libc::PROT_READ),
        (true, false) => Some(libc::PROT_READ | libc::PROT_WRITE),
        (false, true) => Some(libc::PROT_READ | libc::PROT_EXEC),
        (true, true) => None,
    }
}

impl Segment {
    fn is_sound(&self, file_length: u64) -> bool {
        let memory_end = self.address.checked_add(self.memory_bytes);
        let file_end = self.file_offset.checked_add(self.file_bytes);
        self.file_bytes <= self.memory_bytes
            && self.address % PAGE_SIZE == self.file_offset % PAGE_SIZE
            && self.address >= ADDRESSES.start
            && memory_end.is_some_and(|end| end <= ADDRESSES.end)
            && file_end.is_some_and(|end| end <= file_length)
    }
}

/// Read-only segments are the file's own pages, shared by every process; writable ones are copies.
fn map(segment: &Segment, file: &File) -> io::Result<()> {
    let lead = segment.address % PAGE_SIZE;
    let base = (segment.address - lead) as usize as *mut libc::c_void;
    let length = (segment.memory_bytes + lead).next_multiple_of(PAGE_SIZE) as usize;
    let shared = segment.protection & libc::PROT_WRITE == 0 && segment.file_bytes == segment.memory_bytes;
    let bytes = if shared { Vec::new() } else { read(file, segment.file_offset, segment.file_bytes)? };
    let (flags, file, offset) = if shared {
        (0, file.as_raw_fd(), (segment.file_offset - lead) as libc::off_t)
    } else {
        (libc::MAP_ANONYMOUS, -1, 0)
    };
    let flags = flags | libc::MAP_PRIVATE | libc::MAP_FIXED_NOREPLACE;
    let first = if shared { segment.protection } else { libc::PROT_READ | libc::PROT_WRITE };
    // SAFETY: the mapping replaces nothing; the copy stays inside of it, as `is_sound` has checked.
    unsafe {
        let made = libc::mmap(base, length, first, flags, file, offset);
        if made == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        keep_at(base, made, length)?;
        if !shared {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), segment.address as usize as *mut u8, bytes.len());
            if libc::mprotect(base, length, segment.protection) != 0 {
                return Err(io::Error::last_os_error());
            }
        }
    }
    Ok(())
}
