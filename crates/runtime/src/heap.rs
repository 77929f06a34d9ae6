//! The heap: one stretch of address space at the start of the window, extended at its end as it fills.
//!
//! Its pages are taken from the quota when the heap is extended, so that an allocation that succeeded can be
//! touched without a fault.

use abi::{Backing, Commit, Handle, Kernel, PAGE_SIZE, Protection, Request, Span};
use core::alloc::Layout;
use talc::{OomHandler, Talc};

/// The least that the heap is extended by.
const STEP_BYTES_MIN: u64 = 256 << 10;
/// The most that it is extended by beyond what is asked for.
const STEP_BYTES_MAX: u64 = 4 << 20;

/// The heap's allocator; `images/runtime` makes it the global one.
pub type Heap = talc::Talck<spin::Mutex<()>, Extend>;

/// A heap with nothing in it: until [`start`] every allocation fails.
pub const fn new() -> Heap {
    Talc::new(Extend { ground: None, heap: talc::Span::empty() }).lock()
}

/// Lets the heap take `span` of the address space, as it needs.
pub fn start(heap: &Heap, kernel: &'static (dyn Kernel + Sync), space: Handle, span: Span) {
    heap.lock().oom_handler.ground = Some(Ground { kernel, space, span, used: 0 });
}

/// Extends the heap when it is full.
pub struct Extend {
    ground: Option<Ground>,
    heap: talc::Span,
}

struct Ground {
    kernel: &'static (dyn Kernel + Sync),
    space: Handle,
    span: Span,
    used: u64,
}

impl OomHandler for Extend {
    fn handle_oom(talc: &mut Talc<Self>, layout: Layout) -> Result<(), ()> {
        let ground = talc.oom_handler.ground.as_mut().ok_or(())?;
        let needed = (layout.size() + layout.align()) as u64 + PAGE_SIZE;
        let step = (ground.used / 2).clamp(STEP_BYTES_MIN, STEP_BYTES_MAX);
        let mut length = needed.max(step).next_multiple_of(PAGE_SIZE);
        // Nearly out of memory, just enough may still be there.
        if ground.extend(length).is_err() {
            length = needed.next_multiple_of(PAGE_SIZE);
            ground.extend(length)?;
        }
        let start = ground.span.base as usize as *mut u8;
        let end = (ground.span.base + ground.used) as usize as *mut u8;
        let (old, new) = (talc.oom_handler.heap, talc::Span::new(start, end));
        // SAFETY: `new` was just mapped read-write (its first part earlier), belongs to the heap alone, and
        // contains `old`, which is what the last call returned.
        talc.oom_handler.heap =
            unsafe { if old.is_empty() { talc.claim(new)? } else { talc.extend(old, new) } };
        Ok(())
    }
}

impl Ground {
    fn extend(&mut self, length: u64) -> Result<(), ()> {
        let span = Span::new(self.span.base + self.used, length);
        if !self.span.contains(span) {
            return Err(());
        }
        let request = Request::Map {
            space: self.space,
            span,
            backing: Backing::Zero,
            protection: Protection::ReadWrite,
            commit: Commit::Now,
        };
        self.kernel.call(request).map_err(|_| ())?;
        self.used += length;
        Ok(())
    }
}
