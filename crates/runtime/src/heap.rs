//! The heap: one stretch of address space at the start of the window, extended at its end as it fills.
//!
//! Its pages are taken from the quota when the heap is extended, so that an allocation that succeeded can be
//! touched without a fault.
//!
//! An instance is some twenty small allocations that soon come back. So what is freed waits in a list of its size
//! for the next that wants it, which costs a few instructions where the allocator below takes a hundred. The lists
//! are short: what a program makes the library OS hoard is bounded. Each virtual CPU has its own, and so they need no lock,
//! which would cost more than all the rest. A block may come back on another than it was taken on.

use crate::{Stop, System, Vcpu, current};
use abi::{Backing, Commit, Error, Handle, Kernel, PAGE_SIZE, Protection, Request, Span};
use core::alloc::{GlobalAlloc, Layout};
use core::ptr::{NonNull, null_mut};
use core::sync::atomic::{
    AtomicBool, AtomicPtr, AtomicU32,
    Ordering::{Relaxed, SeqCst},
    compiler_fence,
};
use spin::Mutex;
use talc::{OomHandler, Talc};

/// The least that the heap is extended by.
const STEP_BYTES_MIN: u64 = 256 << 10;
/// The most that it is extended by beyond what is asked for.
const STEP_BYTES_MAX: u64 = 4 << 20;

/// What asks for so little cannot be told no, as a rule; what asks for more can: the engine for its instances and tables, files in memory.
pub(crate) const SMALL_BYTES: usize = 16 << 10;
/// And what is not for a process: what the wire has no room for, lists of processes.
const UNCHARGED_BYTES_MAX: usize = 160 << 10;
/// How far a process can go beyond its allowance by small allocations before it ends: more than any function of ours needs.
pub(crate) const BEYOND_BYTES_MAX: i64 = 256 << 10;
/// What is kept for small allocations when the heap cannot be extended any more.
const RESERVE_BYTES: usize = 512 << 10;

/// Allocations of up to this many bytes have lists.
const LISTED_BYTES_MAX: usize = 1024;
/// The sizes of the lists are multiples of this, which is also the alignment of what is in them.
const LIST_STEP_BYTES: usize = 16;
const LIST_COUNT: usize = LISTED_BYTES_MAX / LIST_STEP_BYTES;
/// The most blocks in a list: of all lists together about a megabyte.
const LIST_LENGTH_MAX: u32 = 32;

/// The allocator; `images/runtime` makes it the global one. Until [`Heap::start`] every allocation fails.
pub struct Heap {
    talc: Mutex<Talc<Extend>>,
}

/// The lists of a virtual CPU. Others look at their lengths alone.
pub(crate) struct Lists {
    /// An upcall that finds them in use does without.
    in_use: AtomicBool,
    lists: [List; LIST_COUNT],
}

/// Free blocks of one size, the last freed first.
struct List {
    first: AtomicPtr<Free>,
    length: AtomicU32,
}

/// A free block holds the way to the next.
struct Free {
    next: *mut Free,
}

impl Default for Heap {
    fn default() -> Self {
        Self::new()
    }
}

impl Heap {
    /// A heap with nothing in it.
    pub const fn new() -> Self {
        Self {
            talc: Mutex::new(Talc::new(Extend { ground: None, heap: talc::Span::empty(), reserve: None })),
        }
    }

    /// Lets the heap take `span` of the address space, as it needs.
    pub fn start(&self, kernel: &'static (dyn Kernel + Sync), space: Handle, span: Span) {
        self.talc.lock().oom_handler.ground = Some(Ground { kernel, space, span, used: 0 });
        self.renew_reserve();
    }

    /// Takes the reserve again, if it was given up and there is memory again.
    pub fn renew_reserve(&self) {
        let mut talc = self.talc.lock();
        if talc.oom_handler.reserve.is_none() {
            // SAFETY: it is not for no bytes.
            talc.oom_handler.reserve = unsafe { talc.malloc(RESERVE_LAYOUT) }.ok().map(Reserve);
        }
    }

    /// Whether nothing is short: the reserve is held, or can be taken again.
    pub fn has_reserve(&self) -> bool {
        self.renew_reserve();
        self.talc.lock().oom_handler.reserve.is_some()
    }

    /// The bytes of all blocks that somebody has. What waits in lists is not among them.
    pub fn used_bytes(&self) -> usize {
        let own = Vcpu::current();
        let others =
            System::get().into_iter().flat_map(System::vcpus).filter(|vcpu| !core::ptr::eq(*vcpu, own));
        let listed_bytes: usize = others.chain([own]).map(|vcpu| vcpu.lists.bytes()).sum();
        let talc = self.talc.lock();
        let reserve_bytes = talc.oom_handler.reserve.as_ref().map_or(0, |_| RESERVE_LAYOUT.size());
        talc.get_counters().allocated_bytes - listed_bytes - reserve_bytes
    }

    fn allocate(&self, layout: Layout) -> *mut u8 {
        // SAFETY: nobody asks the global allocator for no bytes.
        let allocate = || unsafe { self.talc.lock().malloc(layout) };
        let block = allocate().or_else(|()| {
            self.empty_lists();
            allocate()
        });
        block.map_or(null_mut(), NonNull::as_ptr)
    }

    /// Gives back what waits in this virtual CPU's lists: there is no other memory left.
    fn empty_lists(&self) {
        let lists = &Vcpu::current().lists;
        for index in 0..LIST_COUNT {
            while let Some(block) = lists.with(index, List::pop).flatten() {
                // SAFETY: `allocate` made it with the layout of its list (`list_of`), and it is nobody's any more.
                unsafe { self.talc.lock().free(block.cast(), listed(index)) };
            }
        }
    }
}

// SAFETY: a block is in a list or its owner's, never both: it is popped before it is handed out, and pushed when it comes
// back. Its layout is that of its list; every other block is talc's.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if !current::charge(layout.size()) {
            current::refused(Stop::HostMemory, layout);
            return null_mut();
        }
        let block = match list_of(layout) {
            None => self.allocate(layout),
            Some((index, listed)) => match Vcpu::current().lists.with(index, List::pop).flatten() {
                Some(block) => block.as_ptr().cast(),
                None => self.allocate(listed),
            },
        };
        if block.is_null() {
            current::credit(layout.size());
            current::refused(Stop::OutOfMemory, layout);
        }
        block
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        current::credit(layout.size());
        // SAFETY: the caller got it from `alloc`, so it is not null.
        let block = unsafe { NonNull::new_unchecked(block) };
        let mut layout = layout;
        if let Some((index, listed)) = list_of(layout) {
            // SAFETY: it has the size and the alignment of its list, and is nobody's any more.
            let push = |list: &List| unsafe { list.push(block.cast()) };
            if Vcpu::current().lists.with(index, push) == Some(true) {
                return;
            }
            layout = listed;
        }
        // SAFETY: `allocate` made it with this layout.
        unsafe { self.talc.lock().free(block, layout) };
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_bytes: usize) -> *mut u8 {
        // SAFETY: the caller sees to it that the size, rounded up, does not overflow.
        let wanted = unsafe { Layout::from_size_align_unchecked(new_bytes, layout.align()) };
        match (list_of(layout), list_of(wanted)) {
            (Some(old), Some(new)) if old == new => {
                // Of one list, so by little.
                current::credit(layout.size());
                let _ = current::charge(new_bytes);
                return block;
            }
            (None, None) if new_bytes > layout.size() => {
                let more = new_bytes - layout.size();
                if !current::charge(more) {
                    current::refused(Stop::HostMemory, wanted);
                    current::refused_to_replace(block, layout);
                    return null_mut();
                }
                // SAFETY: both layouts are talc's, and the caller got the block from `alloc`.
                let grown = unsafe {
                    self.talc.lock().grow_in_place(NonNull::new_unchecked(block), layout, new_bytes)
                };
                if let Ok(grown) = grown {
                    return grown.as_ptr();
                }
                current::credit(more);
            }
            _ => {}
        }
        // SAFETY: the two blocks are different ones, each as long as its layout.
        unsafe {
            let new = self.alloc(wanted);
            if new.is_null() {
                current::refused_to_replace(block, layout);
            } else {
                new.copy_from_nonoverlapping(block, layout.size().min(new_bytes));
                self.dealloc(block, layout);
            }
            new
        }
    }
}

/// The list for `layout`, and the layout of all that is in that list.
fn list_of(layout: Layout) -> Option<(usize, Layout)> {
    if layout.size() > LISTED_BYTES_MAX || layout.align() > LIST_STEP_BYTES {
        return None;
    }
    let index = layout.size().saturating_sub(1) / LIST_STEP_BYTES;
    Some((index, listed(index)))
}

/// The layout of all that is in a list.
const fn listed(index: usize) -> Layout {
    // SAFETY: the alignment is a power of two, and the size far from overflowing.
    unsafe { Layout::from_size_align_unchecked((index + 1) * LIST_STEP_BYTES, LIST_STEP_BYTES) }
}

impl Lists {
    pub const fn new() -> Self {
        let empty = [const { List { first: AtomicPtr::new(null_mut()), length: AtomicU32::new(0) } }; _];
        Self { in_use: AtomicBool::new(false), lists: empty }
    }

    /// Lets `operation` have a list, if nobody has.
    fn with<T>(&self, index: usize, operation: impl FnOnce(&List) -> T) -> Option<T> {
        if self.in_use.load(Relaxed) {
            return None;
        }
        self.in_use.store(true, Relaxed);
        compiler_fence(SeqCst);
        let answer = operation(&self.lists[index]);
        compiler_fence(SeqCst);
        self.in_use.store(false, Relaxed);
        Some(answer)
    }

    /// The bytes of the blocks in them.
    fn bytes(&self) -> usize {
        let bytes = |(index, list): (usize, &List)| list.length.load(Relaxed) as usize * listed(index).size();
        self.lists.iter().enumerate().map(bytes).sum()
    }
}

impl List {
    fn pop(&self) -> Option<NonNull<Free>> {
        let block = NonNull::new(self.first.load(Relaxed))?;
        // SAFETY: `push` wrote it, and what is in the list is nobody else's.
        self.first.store(unsafe { block.as_ref().next }, Relaxed);
        self.length.store(self.length.load(Relaxed) - 1, Relaxed);
        Some(block)
    }

    /// Whether it took the block; it does not when it is full.
    ///
    /// # Safety
    /// The block is free and has the list's layout.
    unsafe fn push(&self, block: NonNull<Free>) -> bool {
        let length = self.length.load(Relaxed);
        if length == LIST_LENGTH_MAX {
            return false;
        }
        // SAFETY: the block is ours, aligned, and long enough for a pointer.
        unsafe { block.write(Free { next: self.first.load(Relaxed) }) };
        self.first.store(block.as_ptr(), Relaxed);
        self.length.store(length + 1, Relaxed);
        true
    }
}

/// Extends the heap when it is full.
struct Extend {
    ground: Option<Ground>,
    heap: talc::Span,
    /// Held as long as it is not needed.
    reserve: Option<Reserve>,
}

/// A block of [`RESERVE_LAYOUT`].
struct Reserve(NonNull<u8>);

// SAFETY: it is memory that nobody else has.
unsafe impl Send for Reserve {}

const RESERVE_LAYOUT: Layout = match Layout::from_size_align(RESERVE_BYTES, LIST_STEP_BYTES) {
    Ok(layout) => layout,
    Err(_) => unreachable!(),
};

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
            if ground.extend(length).is_err() {
                return Self::spend_reserve(talc, layout);
            }
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

impl Extend {
    /// There is no more memory for the heap: who asks for little gets it from the reserve, and if it is a process, it ends.
    fn spend_reserve(talc: &mut Talc<Self>, layout: Layout) -> Result<(), ()> {
        let bytes_max = if current::is_charged() { SMALL_BYTES } else { UNCHARGED_BYTES_MAX };
        if layout.size() > bytes_max {
            return Err(());
        }
        let Reserve(block) = talc.oom_handler.reserve.take().ok_or(())?;
        // SAFETY: `renew_reserve` got it from here with this layout.
        unsafe { talc.free(block, RESERVE_LAYOUT) };
        current::want_stop(Stop::OutOfMemory);
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
        let mut answer = self.kernel.call(request);
        if answer == Err(Error::NoMemory) && System::get().is_some_and(System::give_back_pages) {
            answer = self.kernel.call(request);
        }
        answer.map_err(|_| ())?;
        self.used += length;
        Ok(())
    }
}

#[cfg(test)]
mod charges;
#[cfg(test)]
mod tests;
