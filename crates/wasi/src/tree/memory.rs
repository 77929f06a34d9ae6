//! Memory for the tree, which may say no: every allocation that a program can cause is made here.

use crate::Errno;
use alloc::boxed::Box;
use alloc::collections::TryReserveError;
use alloc::string::String;
use alloc::vec::Vec;
use core::hint::black_box;

/// What a tree leaves of the heap for all who cannot go on without: the engine, the messages of an end.
const SPARE_BYTES: usize = 128 << 10;

/// Makes room for one more in a list; `ENOSPC` if that would use up the heap.
pub(super) fn make_room<T>(list: &mut Vec<T>) -> Result<(), Errno> {
    if list.len() < list.capacity() {
        return Ok(());
    }
    leaving_spare(|| list.try_reserve(1))
}

/// An empty list with room for `count`.
pub(super) fn list_for<T>(count: usize) -> Result<Vec<T>, Errno> {
    let mut list = Vec::new();
    leaving_spare(|| list.try_reserve_exact(count))?;
    Ok(list)
}

/// The text, in memory of its own.
pub(super) fn copy_of(text: &str) -> Result<Box<str>, Errno> {
    let mut copy = String::new();
    leaving_spare(|| copy.try_reserve_exact(text.len()))?;
    copy.push_str(text);
    Ok(copy.into_boxed_str())
}

/// Holds the spare memory while `allocate` takes its own.
fn leaving_spare(allocate: impl FnOnce() -> Result<(), TryReserveError>) -> Result<(), Errno> {
    let mut spare = Vec::<u8>::new();
    spare.try_reserve_exact(SPARE_BYTES).map_err(|_| Errno::Nospc)?;
    // Or the compiler sees that nobody uses it, and leaves it out.
    black_box(spare.as_mut_ptr());
    allocate().map_err(|_| Errno::Nospc)
}
