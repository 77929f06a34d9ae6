/// Memory that two sides share. Offsets are in bytes and inside of it; words begin at multiples of 4.
///
/// Both sides may use it at the same time, so implementations make no slices of it.
pub trait Memory {
    /// Reads a word; what is read afterwards is at least as new (acquire).
    fn load(&self, offset: usize) -> u32;
    /// Writes a word; what was written and read before is done (release).
    fn store(&self, offset: usize, value: u32);
    /// Writes a word and answers with the one that was there, in one step (acquire and release).
    fn swap(&self, offset: usize, value: u32) -> u32;
    /// What was stored before is seen by all before anything is read afterwards (a sequentially consistent fence).
    fn barrier(&self);
    /// Copies bytes out.
    fn copy_out(&self, offset: usize, into: &mut [u8]);
    /// Copies bytes in.
    fn copy_in(&self, offset: usize, bytes: &[u8]);
}

impl<M: Memory + ?Sized> Memory for &M {
    fn load(&self, offset: usize) -> u32 {
        (**self).load(offset)
    }

    fn store(&self, offset: usize, value: u32) {
        (**self).store(offset, value);
    }

    fn swap(&self, offset: usize, value: u32) -> u32 {
        (**self).swap(offset, value)
    }

    fn barrier(&self) {
        (**self).barrier();
    }

    fn copy_out(&self, offset: usize, into: &mut [u8]) {
        (**self).copy_out(offset, into);
    }

    fn copy_in(&self, offset: usize, bytes: &[u8]) {
        (**self).copy_in(offset, bytes);
    }
}
