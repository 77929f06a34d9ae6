//! The kernel's heap. What is large comes out of frames of its own, and they go back with it. What is small is made while
//! the kernel starts and stays, so it is cut off one piece of memory and never given back; when that is used up, by small tables of
//! domains that came and went, it has frames of its own as well.

use crate::memory;
use crate::paging::DIRECT;
use abi::PAGE_SIZE;
use core::alloc::{GlobalAlloc, Layout};
use core::cell::UnsafeCell;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicUsize, Ordering};
use kernel::Frame;

/// Room for what is small: the lists of devices and CPUs.
const SMALL_BYTES: usize = 16 << 10;
/// From this size on an allocation always has frames of its own.
const LARGE: usize = PAGE_SIZE as usize / 2;

/// The allocator.
pub struct Heap {
    next: AtomicUsize,
    small: Small,
}

#[repr(align(4096))]
struct Small(UnsafeCell<[u8; SMALL_BYTES]>);

// SAFETY: nobody looks into `small` but the owners of its pieces.
unsafe impl Sync for Heap {}

impl Heap {
    /// Nothing allocated yet.
    pub const fn new() -> Self {
        Self { next: AtomicUsize::new(0), small: Small(UnsafeCell::new([0; SMALL_BYTES])) }
    }

    fn allocate_small(&self, layout: Layout) -> *mut u8 {
        let take = |next: usize| {
            let end = next.checked_next_multiple_of(layout.align())?.checked_add(layout.size())?;
            (end <= SMALL_BYTES).then_some(end)
        };
        match self.next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take) {
            Ok(next) => self.small.0.get().cast::<u8>().wrapping_add(next.next_multiple_of(layout.align())),
            Err(_) => null_mut(),
        }
    }

    /// Whether an allocation is a piece of `small`.
    fn is_small(&self, at: *const u8) -> bool {
        (at as usize).wrapping_sub(self.small.0.get() as usize) < SMALL_BYTES
    }
}

fn pages(layout: Layout) -> u64 {
    (layout.size() as u64).div_ceil(PAGE_SIZE)
}

// SAFETY: each allocation is memory that no other has: a piece of `small`, as the compare-and-exchange sees to, or frames, which
// are mapped at `DIRECT` for ever. An alignment above a page's is refused; a piece of `small` is at a multiple of what is asked for,
// counted from a page's beginning.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.align() > PAGE_SIZE as usize {
            return null_mut();
        }
        let small = if layout.size() < LARGE { self.allocate_small(layout) } else { null_mut() };
        if !small.is_null() {
            return small;
        }
        let frames = memory::allocate_run(pages(layout));
        frames.map_or(null_mut(), |first| (DIRECT + first.address()) as *mut u8)
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        if !self.is_small(at) {
            memory::free_run(Frame::containing(at as u64 - DIRECT), pages(layout));
        }
    }
}
