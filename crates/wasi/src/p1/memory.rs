//! The program's memory. A pointer from the program is an allegation; this module is where it is checked.

use crate::Errno;
use core::ops::Range;

/// A linear memory, borrowed for one call.
///
/// Preview 1's documentation lets a bad pointer trap. Here it is an errno, as most other engines do it:
/// `EFAULT` for a range that does not lie in the memory, `EINVAL` for a pointer that is not aligned as its
/// type is.
#[derive(Debug)]
pub struct Memory<'a> {
    bytes: &'a mut [u8],
}

/// Where an answer of `N` bytes goes: checked, so that what has been done cannot fail to be told.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<const N: usize>(usize);

/// A list of buffers (`iovec` or `ciovec`), checked as a list; each buffer is checked when it is used.
#[derive(Clone, Copy, Debug)]
pub(super) struct Buffers {
    at: u32,
    count: u32,
}

/// How many buffers of a list are looked at; a call that has more is a short read or write. Linux' IOV_MAX.
const BUFFERS_MAX: u32 = 1024;
/// An `iovec`: pointer and length, 4 bytes each.
const BUFFER_BYTES: u32 = 8;

impl<'a> Memory<'a> {
    /// All of a linear memory; an empty slice for a program that has none.
    pub const fn new(bytes: &'a mut [u8]) -> Self {
        Self { bytes }
    }

    fn range(&self, at: u32, length: u32) -> Result<Range<usize>, Errno> {
        let start = at as usize;
        let end = start.checked_add(length as usize).ok_or(Errno::Fault)?;
        if end <= self.bytes.len() { Ok(start..end) } else { Err(Errno::Fault) }
    }

    fn aligned(&self, at: u32, length: u32, align: u32) -> Result<Range<usize>, Errno> {
        if at.is_multiple_of(align) { self.range(at, length) } else { Err(Errno::Inval) }
    }

    /// `length` bytes at `at`.
    pub(super) fn bytes(&self, at: u32, length: u32) -> Result<&[u8], Errno> {
        let range = self.range(at, length)?;
        Ok(&self.bytes[range])
    }

    /// `length` bytes at `at`, to write.
    pub(super) fn bytes_mut(&mut self, at: u32, length: u32) -> Result<&mut [u8], Errno> {
        let range = self.range(at, length)?;
        Ok(&mut self.bytes[range])
    }

    /// A record of `N` bytes at `at`.
    pub(super) fn record<const N: usize>(&self, at: u32, align: u32) -> Result<&[u8; N], Errno> {
        let range = self.aligned(at, N as u32, align)?;
        self.bytes[range].first_chunk().ok_or(Errno::Fault)
    }

    /// Room for an answer of `N` bytes at `at`.
    pub(super) fn place<const N: usize>(&self, at: u32, align: u32) -> Result<Place<N>, Errno> {
        Ok(Place(self.aligned(at, N as u32, align)?.start))
    }

    /// Writes an answer.
    pub(super) fn put<const N: usize>(&mut self, place: Place<N>, answer: [u8; N]) {
        self.bytes[place.0..place.0 + N].copy_from_slice(&answer);
    }

    /// A list of `count` records of `bytes_each`, as one range.
    pub(super) fn check_list(&self, at: u32, count: u32, bytes_each: u32, align: u32) -> Result<(), Errno> {
        let length = count.checked_mul(bytes_each).ok_or(Errno::Fault)?;
        self.aligned(at, length, align).map(|_| ())
    }

    /// A list of `count` buffers, each of which lies in the memory.
    pub(super) fn buffers(&self, at: u32, count: u32) -> Result<Buffers, Errno> {
        self.check_list(at, count, BUFFER_BYTES, 4)?;
        let buffers = Buffers { at, count: count.min(BUFFERS_MAX) };
        for index in 0..buffers.count {
            let (at, length) = self.buffer(buffers, index)?;
            self.range(at, length)?;
        }
        Ok(buffers)
    }

    /// Address and length of a buffer, as they stand in memory now: the program may have pointed a buffer at
    /// the list itself, so both are allegations again.
    pub(super) fn buffer(&self, buffers: Buffers, index: u32) -> Result<(u32, u32), Errno> {
        let record: &[u8; BUFFER_BYTES as usize] = self.record(buffers.at + index * BUFFER_BYTES, 4)?;
        Ok((u32_at(record, 0), u32_at(record, 4)))
    }
}

impl Buffers {
    /// How many there are to look at.
    pub(super) const fn count(self) -> u32 {
        self.count
    }
}

/// The little-endian number at `offset` of a record, which holds it.
pub(super) fn u32_at(record: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes([record[offset], record[offset + 1], record[offset + 2], record[offset + 3]])
}

/// The little-endian number at `offset` of a record, which holds it.
pub(super) fn u64_at(record: &[u8], offset: usize) -> u64 {
    u64::from(u32_at(record, offset)) | u64::from(u32_at(record, offset + 4)) << 32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_end_where_the_memory_ends() {
        let mut bytes = [0; 64];
        let memory = Memory::new(&mut bytes);
        assert!(memory.bytes(0, 64).is_ok());
        assert!(memory.bytes(64, 0).is_ok());
        for (at, length) in [(0, 65), (64, 1), (65, 0), (1, u32::MAX), (u32::MAX, 1), (u32::MAX, u32::MAX)] {
            assert_eq!(memory.bytes(at, length), Err(Errno::Fault), "{at} {length}");
        }
        assert_eq!(memory.record::<8>(4, 8).err(), Some(Errno::Inval));
        assert!(memory.record::<8>(56, 8).is_ok());
        assert_eq!(memory.record::<8>(64, 8).err(), Some(Errno::Fault));
        assert_eq!(memory.check_list(0, u32::MAX, 48, 8), Err(Errno::Fault));
        assert_eq!(memory.check_list(0, 0x2000_0001, 8, 8), Err(Errno::Fault), "the product wraps around");
    }

    #[test]
    fn every_buffer_of_a_list_must_lie_in_the_memory() {
        let mut bytes = [0; 64];
        bytes[..16].copy_from_slice(&[16, 0, 0, 0, 48, 0, 0, 0, 16, 0, 0, 0, 49, 0, 0, 0]);
        let memory = Memory::new(&mut bytes);
        assert!(memory.buffers(0, 1).is_ok());
        assert_eq!(memory.buffers(0, 2).err(), Some(Errno::Fault));
        assert_eq!(memory.buffers(2, 1).err(), Some(Errno::Inval));
        assert_eq!(memory.buffers(0, 9).err(), Some(Errno::Fault));
        assert_eq!(memory.buffers(0, u32::MAX).err(), Some(Errno::Fault));
    }

    #[test]
    fn numbers_are_little_endian() {
        let record = [1, 2, 3, 4, 5, 6, 7, 8];
        assert_eq!((u32_at(&record, 4), u64_at(&record, 0)), (0x0807_0605, 0x0807_0605_0403_0201));
    }
}
