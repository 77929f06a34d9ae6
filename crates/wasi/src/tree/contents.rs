//! What is in a file: bytes that lie in the bundle, under chunks that were written.

use super::memory::list_for;
use super::sorted::Sorted;
use super::{Budget, Checkpoint};
use crate::{Errno, Result};
use alloc::vec::Vec;
use bundle::Checksum;
use core::convert::Infallible;
use core::ops::Range;

/// A chunk is the unit of copying on write: a page.
const CHUNK_BYTES: usize = 4096;
/// What a chunk is charged for: itself and its place in the map.
const CHUNK_CHARGE: u64 = CHUNK_BYTES as u64 + 128;
/// How many chunks are made or freed, and how many bytes are summed, before the process can be ended again.
const BATCH_CHUNKS: u64 = 64;
const BATCH_BYTES: usize = BATCH_CHUNKS as usize * CHUNK_BYTES;
/// The most that a file can hold: Linux's MAX_LFS_FILESIZE.
const SIZE_MAX: u64 = i64::MAX as u64;

/// The bytes of one file. What is neither written nor in the bundle is zero and takes no memory.
#[derive(Debug, Default)]
pub(super) struct Contents<'b> {
    /// The beginning of the file, as far as it is still what the bundle has; a written chunk hides its part.
    base: &'b [u8],
    /// For [`Contents::verify`]; `None` once it has been checked, or if there is nothing to check.
    checksum: Option<u64>,
    chunks: Sorted<u64, Chunk>,
    size: u64,
    /// How many calls of [`Contents::allocate`] there have been.
    allocations: u64,
}

/// A chunk's bytes, as many as there are in each.
#[derive(Debug)]
struct Chunk {
    bytes: Vec<u8>,
    /// What [`Contents::allocations`] was when it was made.
    made: u64,
}

impl<'b> Contents<'b> {
    /// Bytes of the bundle that ought to have this checksum.
    pub fn of_bundle(base: &'b [u8], checksum: u64) -> Self {
        Self { base, checksum: Some(checksum), size: base.len() as u64, ..Self::default() }
    }

    pub const fn size(&self) -> u64 {
        self.size
    }

    /// `EIO` if the bytes in the bundle are not what was put there.
    pub fn verify(&mut self, checkpoint: Checkpoint) -> Result<()> {
        if let Some(checksum) = self.checksum {
            let mut sum = Checksum::default();
            for piece in self.base.chunks(BATCH_BYTES) {
                checkpoint()?;
                sum.update(piece);
            }
            if sum.finish() != checksum {
                return Err(Errno::Io.into());
            }
            self.checksum = None;
        }
        Ok(())
    }

    /// Reads as much as there is from `offset`.
    pub fn read(&self, offset: u64, into: &mut [u8]) -> Result<usize, Errno> {
        check_range(offset, into.len() as u64)?;
        let left = usize::try_from(self.size.saturating_sub(offset)).unwrap_or(usize::MAX);
        let length = left.min(into.len());
        let mut done = 0;
        while done < length {
            let at = offset + done as u64;
            let within = (at % CHUNK_BYTES as u64) as usize;
            let part = (CHUNK_BYTES - within).min(length - done);
            let into = &mut into[done..done + part];
            match self.chunks.get(&(at / CHUNK_BYTES as u64)) {
                Some(chunk) => into.copy_from_slice(&chunk.bytes[within..within + part]),
                None => copy_or_zero(self.base, at, into),
            }
            done += part;
        }
        Ok(length)
    }

    /// Writes from `offset`; less than all of it only if `budget` is used up meanwhile, `ENOSPC` if it was
    /// before.
    pub fn write(&mut self, offset: u64, bytes: &[u8], budget: &mut Budget) -> Result<usize, Errno> {
        check_range(offset, bytes.len() as u64)?;
        let mut done = 0;
        while done < bytes.len() {
            let at = offset + done as u64;
            let within = (at % CHUNK_BYTES as u64) as usize;
            let part = (CHUNK_BYTES - within).min(bytes.len() - done);
            match self.chunk(at / CHUNK_BYTES as u64, budget) {
                Ok(chunk) => chunk[within..within + part].copy_from_slice(&bytes[done..done + part]),
                Err(errno) if done == 0 => return Err(errno),
                Err(_) => break,
            }
            done += part;
        }
        self.size = self.size.max(offset + done as u64);
        Ok(done)
    }

    /// Cuts, or extends by zeros.
    pub fn set_size(&mut self, size: u64, budget: &mut Budget, checkpoint: Checkpoint) -> Result<()> {
        if size > SIZE_MAX {
            return Err(Errno::Fbig.into());
        }
        if size < self.size {
            let within = (size % CHUNK_BYTES as u64) as usize;
            self.free_from(size.div_ceil(CHUNK_BYTES as u64), budget, checkpoint)?;
            if let Some(last) = self.chunks.get_mut(&(size / CHUNK_BYTES as u64)) {
                last.bytes[within..].fill(0);
            }
            self.base = &self.base[..self.base.len().min(usize::try_from(size).unwrap_or(usize::MAX))];
        }
        self.size = size;
        Ok(())
    }

    fn free_from<E>(
        &mut self,
        index: u64,
        budget: &mut Budget,
        between: impl Fn() -> Result<(), E>,
    ) -> Result<(), E> {
        let mut freed = 0;
        while self.chunks.last_key().is_some_and(|last| *last >= index) {
            self.chunks.pop();
            budget.give_back(CHUNK_CHARGE);
            freed += 1;
            if freed % BATCH_CHUNKS == 0 {
                between()?;
            }
        }
        Ok(())
    }

    /// Gives the range memory of its own; the file grows to hold it. If there is not as much, nothing changes.
    pub fn allocate(
        &mut self,
        offset: u64,
        length: u64,
        budget: &mut Budget,
        checkpoint: Checkpoint,
    ) -> Result<()> {
        let end = offset.checked_add(length).filter(|end| *end <= SIZE_MAX).ok_or(Errno::Fbig)?;
        let range = offset / CHUNK_BYTES as u64..end.div_ceil(CHUNK_BYTES as u64);
        let missing = (range.end - range.start).saturating_sub(self.chunks.len() as u64);
        if missing.saturating_mul(CHUNK_CHARGE) > budget.left {
            return Err(Errno::Nospc.into());
        }
        self.allocations += 1;
        for index in range.clone() {
            if index % BATCH_CHUNKS == 0 {
                checkpoint()?;
            }
            if let Err(errno) = self.chunk(index, budget) {
                self.free_last_allocation(range.start..index, budget, checkpoint)?;
                return Err(errno.into());
            }
        }
        self.size = self.size.max(end);
        Ok(())
    }

    fn free_last_allocation(
        &mut self,
        range: Range<u64>,
        budget: &mut Budget,
        checkpoint: Checkpoint,
    ) -> Result<()> {
        for index in range {
            if index % BATCH_CHUNKS == 0 {
                checkpoint()?;
            }
            if self.chunks.get(&index).is_some_and(|chunk| chunk.made == self.allocations) {
                self.chunks.remove(&index);
                budget.give_back(CHUNK_CHARGE);
            }
        }
        Ok(())
    }

    /// Gives all memory back, at the end of the file.
    pub fn release(mut self, budget: &mut Budget, pause: fn()) {
        let Ok(()) = self.free_from(0, budget, || {
            pause();
            Ok::<(), Infallible>(())
        });
    }

    /// A chunk to write in.
    fn chunk(&mut self, index: u64, budget: &mut Budget) -> Result<&mut [u8], Errno> {
        if self.chunks.get(&index).is_none() {
            budget.take(CHUNK_CHARGE)?;
            if let Err(errno) = self.make_chunk(index) {
                budget.give_back(CHUNK_CHARGE);
                return Err(errno);
            }
        }
        self.chunks.get_mut(&index).map(|chunk| &mut chunk.bytes[..]).ok_or(Errno::Nospc)
    }

    fn make_chunk(&mut self, index: u64) -> Result<(), Errno> {
        let mut bytes = list_for(CHUNK_BYTES)?;
        bytes.resize(CHUNK_BYTES, 0);
        copy_or_zero(self.base, index * CHUNK_BYTES as u64, &mut bytes);
        self.chunks.insert(index, Chunk { bytes, made: self.allocations })
    }
}

/// `EINVAL` for a range that ends where no offset leads to, as Linux's `rw_verify_area` has it.
fn check_range(offset: u64, length: u64) -> Result<(), Errno> {
    match offset.checked_add(length) {
        Some(end) if end <= SIZE_MAX => Ok(()),
        _ => Err(Errno::Inval),
    }
}

/// Fills `into` from `base` at `offset`, and with zeros behind its end.
fn copy_or_zero(base: &[u8], offset: u64, into: &mut [u8]) {
    let base = usize::try_from(offset).ok().and_then(|offset| base.get(offset..)).unwrap_or_default();
    let there = base.len().min(into.len());
    into[..there].copy_from_slice(&base[..there]);
    into[there..].fill(0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Error, Stopped};
    use alloc::vec;

    fn go() -> Result<(), Stopped> {
        Ok(())
    }

    #[test]
    fn what_was_cut_off_comes_back_as_zeros() {
        let base = vec![7; 3 * CHUNK_BYTES];
        let mut budget = Budget::new(1 << 20);
        let mut contents = Contents::of_bundle(&base, bundle::checksum(&base));
        contents.verify(go).unwrap();
        contents.write(CHUNK_BYTES as u64, &[9; 10], &mut budget).unwrap();
        contents.set_size(CHUNK_BYTES as u64 + 5, &mut budget, go).unwrap();
        contents.set_size(4 * CHUNK_BYTES as u64, &mut budget, go).unwrap();
        let mut all = vec![1; 5 * CHUNK_BYTES];
        assert_eq!(contents.read(0, &mut all), Ok(4 * CHUNK_BYTES));
        let mut expected = vec![0; 4 * CHUNK_BYTES];
        expected[..CHUNK_BYTES].fill(7);
        expected[CHUNK_BYTES..CHUNK_BYTES + 5].fill(9);
        assert_eq!(all[..4 * CHUNK_BYTES], expected);
    }

    #[test]
    fn a_hole_takes_no_memory_and_all_memory_is_given_back() {
        let mut budget = Budget::new(3 * CHUNK_CHARGE);
        let mut contents = Contents::default();
        contents.set_size(1 << 40, &mut budget, go).unwrap();
        assert_eq!(contents.write((1 << 40) - 1, &[1, 2], &mut budget), Ok(2));
        assert_eq!(contents.size(), (1 << 40) + 1);
        assert_eq!(contents.write(0, &[1; 2 * CHUNK_BYTES], &mut budget), Ok(CHUNK_BYTES), "cut short");
        assert_eq!(contents.write(1 << 30, &[1], &mut budget), Err(Errno::Nospc));
        assert_eq!(contents.write(u64::MAX, &[1], &mut budget), Err(Errno::Inval));
        contents.release(&mut budget, || {});
        assert_eq!(budget.left(), 3 * CHUNK_CHARGE);
    }

    #[test]
    fn the_end_of_all_offsets_is_as_on_linux() {
        let mut budget = Budget::new(1 << 20);
        let mut contents = Contents::default();
        assert_eq!(contents.write(SIZE_MAX, &[1], &mut budget), Err(Errno::Inval));
        assert_eq!(contents.write(SIZE_MAX - 1, &[1, 2], &mut budget), Err(Errno::Inval));
        assert_eq!(contents.read(SIZE_MAX, &mut [0]), Err(Errno::Inval));
        assert_eq!(contents.read(SIZE_MAX - 1, &mut [0]), Ok(0));
        assert_eq!(contents.write(SIZE_MAX - 1, &[1], &mut budget), Ok(1));
        assert_eq!(contents.size(), SIZE_MAX);
    }

    #[test]
    fn an_allocation_that_fails_keeps_what_was_there_and_takes_nothing() {
        let mut budget = Budget::new(10 * CHUNK_CHARGE);
        let mut contents = Contents::default();
        contents.write(2 * CHUNK_BYTES as u64, &[7], &mut budget).unwrap();
        contents.allocate(3 * CHUNK_BYTES as u64, 1, &mut budget, go).unwrap();
        let (left, size) = (budget.left(), contents.size());
        // The second takes eight chunks before it fails, the first none.
        for (offset, length) in [(0, 1 << 60), (10 * CHUNK_BYTES as u64, 10 * CHUNK_BYTES as u64)] {
            let failed = contents.allocate(offset, length, &mut budget, go);
            assert_eq!(failed, Err(Errno::Nospc.into()));
            assert_eq!((budget.left(), contents.size(), contents.chunks.len()), (left, size, 2));
        }
        let mut byte = [0];
        contents.read(2 * CHUNK_BYTES as u64, &mut byte).unwrap();
        assert_eq!(byte, [7]);
        contents.allocate(0, 10 * CHUNK_BYTES as u64, &mut budget, go).unwrap();
        assert_eq!((budget.left(), contents.size()), (0, 10 * CHUNK_BYTES as u64));
    }

    #[test]
    fn what_takes_long_can_be_ended() {
        fn stop() -> Result<(), Stopped> {
            Err(Stopped)
        }
        let base = vec![7; 3 * BATCH_BYTES];
        let mut budget = Budget::new(u64::MAX);
        let mut contents = Contents::of_bundle(&base, bundle::checksum(&base));
        assert_eq!(contents.verify(stop), Err(Error::Stopped));
        contents.verify(go).unwrap();
        let all = base.len() as u64;
        assert_eq!(contents.allocate(0, u64::MAX / 4, &mut budget, stop), Err(Error::Stopped));
        contents.allocate(0, all, &mut budget, go).unwrap();
        assert_eq!(contents.set_size(0, &mut budget, stop), Err(Error::Stopped));
        contents.release(&mut budget, || {});
        assert_eq!(budget.left(), u64::MAX, "what is freed at the end is all freed");
    }
}
