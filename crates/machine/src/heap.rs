//! The kernel's heap: a piece of memory that is taken once. The kernel allocates only while it starts, so nothing is ever
//! given back, and when the piece is used up an allocation fails.

use core::alloc::{GlobalAlloc, Layout};
use core::ptr::null_mut;
use core::sync::atomic::{AtomicUsize, Ordering};

/// How much there is: the region table (16,384 entries of 48 bytes), and room for the lists of devices.
pub const BYTES: u64 = 1 << 20;

/// The allocator.
pub struct Heap {
    next: AtomicUsize,
    end: AtomicUsize,
}

impl Heap {
    /// Nothing to allocate yet.
    pub const fn new() -> Self {
        Self { next: AtomicUsize::new(0), end: AtomicUsize::new(0) }
    }

    /// Takes the memory `start..start + BYTES`.
    ///
    /// # Safety
    /// It must be mapped, writable and nobody else's, for ever. To be called once, before anything is allocated.
    pub unsafe fn give(&self, start: u64) {
        self.end.store((start + BYTES) as usize, Ordering::Relaxed);
        self.next.store(start as usize, Ordering::Relaxed);
    }
}

// SAFETY: each allocation is a piece that no other has, as the compare-and-exchange below sees to, inside of the memory that
// `give` was promised is ours.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let take = |next: usize| {
            let end = next.checked_next_multiple_of(layout.align())?.checked_add(layout.size())?;
            (end <= self.end.load(Ordering::Relaxed)).then_some(end)
        };
        match self.next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take) {
            Ok(next) => next.next_multiple_of(layout.align()) as *mut u8,
            Err(_) => null_mut(),
        }
    }

    unsafe fn dealloc(&self, _: *mut u8, _: Layout) {}
}
