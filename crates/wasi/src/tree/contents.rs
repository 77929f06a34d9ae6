//! What is in a file: bytes that lie in the bundle, under chunks that were written.

use super::Budget;
use crate::Errno;
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

/// A chunk is the unit of copying on write: a page.
const CHUNK_BYTES: usize = 4096;
/// What a chunk is charged for: itself and its place in the map.
const CHUNK_CHARGE: u64 = CHUNK_BYTES as u64 + 64;

/// The bytes of one file. What is neither written nor in the bundle is zero and takes no memory.
#[derive(Debug, Default)]
pub(super) struct Contents<'b> {
    /// The beginning of the file, as far as it is still what the bundle has; a written chunk hides its part.
    base: &'b [u8],
    /// For [`Contents::verify`]; `None` once it has been checked, or if there is nothing to check.
    checksum: Option<u64>,
    chunks: BTreeMap<u64, Box<[u8]>>,
    size: u64,
}

impl<'b> Contents<'b> {
    /// Bytes of the bundle that ought to have this checksum.
    pub fn of_bundle(base: &'b [u8], checksum: u64) -> Self {
        Self { base, checksum: Some(checksum), chunks: BTreeMap::new(), size: base.len() as u64 }
    }

    pub const fn size(&self) -> u64 {
        self.size
    }

    /// `EIO` if the bytes in the bundle are not what was put there.
    pub fn verify(&mut self) -> Result<(), Errno> {
        if let Some(checksum) = self.checksum {
            if bundle::checksum(self.base) != checksum {
                return Err(Errno::Io);
            }
            self.checksum = None;
        }
        Ok(())
    }

    /// Reads as much as there is from `offset`.
    pub fn read(&self, offset: u64, into: &mut [u8]) -> usize {
        let left = usize::try_from(self.size.saturating_sub(offset)).unwrap_or(usize::MAX);
        let length = left.min(into.len());
        let mut done = 0;
        while done < length {
            let at = offset + done as u64;
            let within = (at % CHUNK_BYTES as u64) as usize;
            let part = (CHUNK_BYTES - within).min(length - done);
            let into = &mut into[done..done + part];
            match self.chunks.get(&(at / CHUNK_BYTES as u64)) {
                Some(chunk) => into.copy_from_slice(&chunk[within..within + part]),
                None => copy_or_zero(self.base, at, into),
            }
            done += part;
        }
        length
    }

    /// Writes from `offset`; less than all of it only if `budget` is used up meanwhile, `ENOSPC` if it was
    /// before.
    pub fn write(&mut self, offset: u64, bytes: &[u8], budget: &mut Budget) -> Result<usize, Errno> {
        offset
            .checked_add(bytes.len() as u64)
            .filter(|end| i64::try_from(*end).is_ok())
            .ok_or(Errno::Fbig)?;
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
    pub fn set_size(&mut self, size: u64, budget: &mut Budget) -> Result<(), Errno> {
        if i64::try_from(size).is_err() {
            return Err(Errno::Fbig);
        }
        if size < self.size {
            let within = (size % CHUNK_BYTES as u64) as usize;
            let removed = self.chunks.split_off(&size.div_ceil(CHUNK_BYTES as u64));
            budget.give_back(CHUNK_CHARGE * removed.len() as u64);
            if let Some(last) = self.chunks.get_mut(&(size / CHUNK_BYTES as u64)) {
                last[within..].fill(0);
            }
            self.base = &self.base[..self.base.len().min(usize::try_from(size).unwrap_or(usize::MAX))];
        }
        self.size = size;
        Ok(())
    }

    /// Gives the range memory of its own; the file grows to hold it.
    pub fn allocate(&mut self, offset: u64, length: u64, budget: &mut Budget) -> Result<(), Errno> {
        let end = offset.checked_add(length).filter(|end| i64::try_from(*end).is_ok()).ok_or(Errno::Fbig)?;
        for index in offset / CHUNK_BYTES as u64..end.div_ceil(CHUNK_BYTES as u64) {
            self.chunk(index, budget)?;
        }
        self.size = self.size.max(end);
        Ok(())
    }

    /// Gives all memory back, at the end of the file.
    pub fn release(&mut self, budget: &mut Budget) {
        budget.give_back(CHUNK_CHARGE * self.chunks.len() as u64);
        *self = Self::default();
    }

    /// A chunk to write in.
    fn chunk(&mut self, index: u64, budget: &mut Budget) -> Result<&mut [u8], Errno> {
        if !self.chunks.contains_key(&index) {
            let mut chunk = Vec::new();
            budget.take(CHUNK_CHARGE)?;
            if chunk.try_reserve_exact(CHUNK_BYTES).is_err() {
                budget.give_back(CHUNK_CHARGE);
                return Err(Errno::Nospc);
            }
            chunk.resize(CHUNK_BYTES, 0);
            copy_or_zero(self.base, index * CHUNK_BYTES as u64, &mut chunk);
            self.chunks.insert(index, chunk.into_boxed_slice());
        }
        self.chunks.get_mut(&index).map(|chunk| &mut chunk[..]).ok_or(Errno::Nospc)
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
    use alloc::vec;

    #[test]
    fn what_was_cut_off_comes_back_as_zeros() {
        let base = vec![7; 3 * CHUNK_BYTES];
        let mut budget = Budget::new(1 << 20);
        let mut contents = Contents::of_bundle(&base, bundle::checksum(&base));
        contents.verify().unwrap();
        contents.write(CHUNK_BYTES as u64, &[9; 10], &mut budget).unwrap();
        contents.set_size(CHUNK_BYTES as u64 + 5, &mut budget).unwrap();
        contents.set_size(4 * CHUNK_BYTES as u64, &mut budget).unwrap();
        let mut all = vec![1; 5 * CHUNK_BYTES];
        assert_eq!(contents.read(0, &mut all), 4 * CHUNK_BYTES);
        let mut expected = vec![0; 4 * CHUNK_BYTES];
        expected[..CHUNK_BYTES].fill(7);
        expected[CHUNK_BYTES..CHUNK_BYTES + 5].fill(9);
        assert_eq!(all[..4 * CHUNK_BYTES], expected);
    }

    #[test]
    fn a_hole_takes_no_memory_and_all_memory_is_given_back() {
        let mut budget = Budget::new(3 * CHUNK_CHARGE);
        let mut contents = Contents::default();
        contents.set_size(1 << 40, &mut budget).unwrap();
        assert_eq!(contents.write((1 << 40) - 1, &[1, 2], &mut budget), Ok(2));
        assert_eq!(contents.size(), (1 << 40) + 1);
        assert_eq!(contents.write(0, &[1; 2 * CHUNK_BYTES], &mut budget), Ok(CHUNK_BYTES), "cut short");
        assert_eq!(contents.write(1 << 30, &[1], &mut budget), Err(Errno::Nospc));
        assert_eq!(contents.write(u64::MAX, &[1], &mut budget), Err(Errno::Fbig));
        assert_eq!(contents.write(i64::MAX as u64, &[1], &mut budget), Err(Errno::Fbig));
        contents.release(&mut budget);
        assert_eq!(budget.left(), 3 * CHUNK_CHARGE);
    }
}
