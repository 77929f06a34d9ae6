//! Stacks with a guard below, and the switch from one to another.
//!
//! The stack of a process that has ended waits for the next one (`IdleStacks`): what nearly every process touches of it stays, wiped, and what
//! is below goes back. So a process that begins costs neither address space nor first touches.

use crate::System;
use crate::vcpu::STACK_SPAN;
use abi::{Backing, Commit, Error, PAGE_SIZE, Protection, Span};
use core::arch::naked_asm;

/// Unmapped space below a stack: more than any one frame of ours, so that running over the end faults.
const GUARD_BYTES: u64 = 64 << 10;

/// The longest stack.
pub const STACK_BYTES_MAX: u64 = STACK_SPAN - GUARD_BYTES;

/// The most stacks that wait.
const IDLE_MAX: usize = 32;

/// How much of a stack that waits keeps its pages: an instance and a few calls of its functions fit.
const RESIDENT_BYTES: u64 = 16 << 10;

/// A stack, alone in its [`STACK_SPAN`] and at the end of it; given back when dropped.
pub struct Stack {
    system: &'static System,
    place: Place,
    /// It waits for another owner when it is dropped.
    is_recycled: bool,
}

/// Where a stack is.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    /// All of it is the stack's, and what is below `length` bytes its guard.
    span: Span,
    length: u64,
    /// Its pages can be used, and those of its upper end, [`RESIDENT_BYTES`] long, are committed.
    is_ready: bool,
}

/// Stacks that wait for another owner, all zeros.
#[derive(Debug, Default)]
pub(crate) struct IdleStacks {
    places: [Place; IDLE_MAX],
    count: usize,
}

impl Stack {
    /// A stack of `length` bytes, whole pages, at most [`STACK_BYTES_MAX`]. With [`Commit::Now`] no touch of it can fail.
    pub fn new(system: &'static System, length: u64, commit: Commit) -> Result<Self, Error> {
        debug_assert!(length.is_multiple_of(PAGE_SIZE));
        if length > STACK_BYTES_MAX {
            return Err(Error::BadRange);
        }
        let span = system.take_aligned_space(STACK_SPAN).ok_or(Error::NoMemory)?;
        let place = Place { span, length, is_ready: false };
        // Nothing is mapped in the guard.
        system
            .map(place.usable(), Backing::Zero, Protection::ReadWrite, commit)
            .inspect_err(|_| system.give_back_space(span))?;
        Ok(Self { system, place, is_recycled: false })
    }

    /// The same for a process, perhaps one that waits: all zeros. Whoever begins a process on it touches its upper end while none runs whose
    /// end it could be that there is no page: so that is committed.
    pub fn recycled(system: &'static System, length: u64) -> Result<Self, Error> {
        let idle = system.idle_stacks().lock().take(length);
        let mut stack = match idle {
            Some(place) => Self { system, place, is_recycled: false },
            None => Self::new(system, length, Commit::OnTouch)?,
        };
        if !stack.place.is_ready {
            if idle.is_some() {
                system.map(stack.usable(), Backing::Zero, Protection::ReadWrite, Commit::OnTouch)?;
            }
            system.map(stack.place.resident(), Backing::Zero, Protection::ReadWrite, Commit::Now)?;
            stack.place.is_ready = true;
        }
        stack.is_recycled = true;
        Ok(stack)
    }

    /// One past its highest byte; a multiple of the page size.
    pub fn top(&self) -> u64 {
        self.place.top()
    }

    /// The addresses that can hold frames.
    pub fn usable(&self) -> Span {
        self.place.usable()
    }

    /// Makes it what its next owner expects.
    fn renew(&self) -> Result<(), Error> {
        let (resident, usable) = (self.place.resident(), self.usable());
        // SAFETY: these pages are the stack's, committed, and nobody runs on it.
        unsafe { core::ptr::write_bytes(resident.base as usize as *mut u8, 0, resident.length as usize) };
        match usable.length - resident.length {
            0 => Ok(()),
            below => self.system.reset(Span::new(usable.base, below)),
        }
    }
}

impl Place {
    const fn top(&self) -> u64 {
        self.span.base + self.span.length
    }

    fn usable(&self) -> Span {
        Span::new(self.top() - self.length, self.length)
    }

    fn resident(&self) -> Span {
        let length = self.length.min(RESIDENT_BYTES);
        Span::new(self.top() - length, length)
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        let may_wait = self.is_recycled && self.system.idle_stacks().lock().has_room();
        if may_wait && self.renew().is_ok() && self.system.idle_stacks().lock().put(self.place) {
            return;
        }
        // Nothing else lies in it, so all of it can be unmapped at once.
        let _ = self.system.unmap(self.place.span);
    }
}

impl IdleStacks {
    /// The address space that they have.
    pub fn space_bytes(&self) -> u64 {
        self.count as u64 * STACK_SPAN
    }

    /// Takes the pages of all of them back, and where what can be written counts, that too. Whether there were any.
    pub fn give_back_pages(&mut self, system: &System) -> bool {
        let mut were_any = false;
        for place in self.places[..self.count].iter_mut().filter(|place| place.is_ready) {
            let given = system.map(place.usable(), Backing::Zero, Protection::None, Commit::OnTouch).is_ok();
            place.is_ready = !given;
            were_any |= given;
        }
        were_any
    }

    fn has_room(&self) -> bool {
        self.count < IDLE_MAX
    }

    fn take(&mut self, length: u64) -> Option<Place> {
        let at = self.places[..self.count].iter().rposition(|place| place.length == length)?;
        self.count -= 1;
        self.places.swap(at, self.count);
        Some(self.places[self.count])
    }

    /// Answers whether there was room.
    fn put(&mut self, place: Place) -> bool {
        let Some(free) = self.places.get_mut(self.count) else { return false };
        *free = place;
        self.count += 1;
        true
    }
}

/// A stack pointer, with the callee-saved registers below it: what [`switch`] leaves and takes up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Suspended(u64);

impl Suspended {
    /// Nothing is suspended.
    pub const NONE: Self = Self(0);

    /// What starts `entry` with `argument` on `stack` at the first switch to it. `entry` must not return.
    ///
    /// # Safety
    /// Nothing else uses the stack until `entry` has switched away for good.
    pub unsafe fn start(stack: &Stack, entry: extern "C" fn(u64) -> !, argument: u64) -> Self {
        // From the top: a place for [`crate::Vcpu::settle`] and zeros that align the thunk's stack to 16 bytes, the thunk as
        // return address, six registers.
        let words = [0, 0, argument, entry as usize as u64, 0, 0, start_thunk as *const () as u64, 0, 0];
        let base = stack.top() - (words.len() * 8) as u64;
        // SAFETY: the words lie at the top of a mapped read-write stack that nobody uses.
        unsafe { core::ptr::copy_nonoverlapping(words.as_ptr(), base as usize as *mut u64, words.len()) };
        Self(base)
    }
}

/// Suspends the caller into `from` and goes on where `to` was suspended.
///
/// # Safety
/// `to` was left by an earlier switch or by [`Suspended::start`], its stack still exists, and it is taken up once.
#[unsafe(naked)]
pub unsafe extern "C" fn switch(from: *mut Suspended, to: Suspended) {
    // System V: rbx, rbp, r12 to r15 are the callee's to keep; so are MXCSR and the x87 control word, which
    // nothing here ever changes.
    naked_asm!(
        "push rbp",
        "push rbx",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "mov [rdi], rsp",
        "mov rsp, rsi",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbx",
        "pop rbp",
        "ret",
    )
}

/// The first code on a new stack: `r13` is the argument, `r12` the entry.
#[unsafe(naked)]
extern "C" fn start_thunk() {
    naked_asm!("mov rdi, r13", "xor ebp, ebp", "call r12", "ud2")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::FakeKernel;

    #[test]
    fn a_stack_has_a_guard_and_is_given_back_whole() {
        let kernel = FakeKernel::new(&[], 1 << 20);
        let system = kernel.system();
        for commit in [Commit::OnTouch, Commit::Now] {
            let stack = Stack::new(system, 16 * PAGE_SIZE, commit).unwrap();
            let usable = stack.usable();
            assert_eq!((usable.length, usable.end()), (16 * PAGE_SIZE, Some(stack.top())));
            assert_eq!(kernel.protection(usable.base), Some(Protection::ReadWrite));
            assert_eq!(kernel.protection(stack.top() - 1), Some(Protection::ReadWrite));
            assert_eq!(kernel.protection(usable.base - 1), None);
            assert_eq!(kernel.protection(usable.base - GUARD_BYTES), None);
            drop(stack);
            assert_eq!((kernel.mapped_bytes(), kernel.committed_bytes()), (0, 0));
        }
        assert!(Stack::new(system, STACK_BYTES_MAX, Commit::Now).is_ok());
        assert_eq!(kernel.mapped_bytes(), 0);
        assert!(Stack::new(system, 2 << 20, Commit::Now).is_err());
        assert!(Stack::new(FakeKernel::new(&[], 1 << 16).system(), 1 << 17, Commit::Now).is_err());
        assert_eq!(kernel.mapped_bytes(), 0);
    }

    #[test]
    fn a_stack_waits_for_its_next_owner_and_is_all_zeros_then() {
        let kernel = FakeKernel::new(&[], 1 << 20);
        let system = kernel.system();
        let free_bytes = system.free_space_bytes();
        let scribbled = |stack: &Stack| {
            let usable = stack.usable();
            // SAFETY: the stack's own bytes, on which nobody runs.
            let bytes = unsafe {
                core::slice::from_raw_parts_mut(usable.base as usize as *mut u8, usable.length as usize)
            };
            assert!(bytes.iter().all(|byte| *byte == 0));
            bytes.fill(0xa5);
        };
        let first = Stack::recycled(system, 16 * PAGE_SIZE).unwrap();
        let at = first.usable();
        scribbled(&first);
        drop(first);
        assert_eq!((kernel.committed_bytes(), system.free_space_bytes()), (RESIDENT_BYTES, free_bytes));
        for _ in 0..3 {
            let changes = kernel.changes();
            let again = Stack::recycled(system, 16 * PAGE_SIZE).unwrap();
            assert_eq!((again.usable(), kernel.changes()), (at, changes), "the same, for nothing");
            scribbled(&again);
            let other = Stack::recycled(system, 32 * PAGE_SIZE).unwrap();
            scribbled(&other);
            assert_ne!(other.usable().end(), at.end());
        }
        assert_eq!(kernel.committed_bytes(), 2 * RESIDENT_BYTES, "one of each length");
        assert!(system.give_back_pages() && !system.give_back_pages());
        assert_eq!(kernel.committed_bytes(), 0);
        let again = Stack::recycled(system, 16 * PAGE_SIZE).unwrap();
        assert_eq!(again.usable(), at);
        scribbled(&again);
        drop(again);
        let many = [(); IDLE_MAX + 8].map(|()| Stack::recycled(system, PAGE_SIZE).unwrap());
        drop(many);
        assert_eq!(kernel.mapped_bytes(), (16 + 32 + IDLE_MAX as u64 - 2) * PAGE_SIZE, "so many and no more");
        assert_eq!(system.free_space_bytes(), free_bytes);
    }

    #[test]
    fn a_stack_whose_upper_end_cannot_be_had_is_refused() {
        let kernel = FakeKernel::new(&[], RESIDENT_BYTES - PAGE_SIZE);
        let system = kernel.system();
        let free_bytes = system.free_space_bytes();
        assert!(Stack::recycled(system, 16 * PAGE_SIZE).is_err(), "who begins on it could not be told then");
        assert_eq!((kernel.mapped_bytes(), kernel.committed_bytes()), (0, 0));
        assert_eq!(system.free_space_bytes(), free_bytes);
    }

    #[test]
    fn what_waits_goes_to_whoever_needs_memory() {
        let kernel = FakeKernel::new(&[], RESIDENT_BYTES);
        let system = kernel.system();
        drop(Stack::recycled(system, 16 * PAGE_SIZE).unwrap());
        assert_eq!(kernel.committed_bytes(), RESIDENT_BYTES);
        let all = system.map_new(RESIDENT_BYTES, Protection::ReadWrite, Commit::Now).unwrap();
        assert_eq!(kernel.committed_bytes(), RESIDENT_BYTES);
        assert!(Stack::recycled(system, 16 * PAGE_SIZE).is_err());
        system.unmap(all).unwrap();
        let stack = Stack::recycled(system, 16 * PAGE_SIZE).unwrap();
        assert_eq!(kernel.protection(stack.usable().base), Some(Protection::ReadWrite));
    }

    #[test]
    fn a_switch_goes_there_and_back() {
        static FIRST: Cell = Cell::new();
        static SECOND: Cell = Cell::new();
        extern "C" fn main(argument: u64) -> ! {
            // SAFETY: the test's stack is suspended in `FIRST`, and comes here twice.
            unsafe {
                assert_eq!(argument, 7);
                switch(SECOND.place(), FIRST.get());
                switch(SECOND.place(), FIRST.get());
            }
            unreachable!("nobody comes a third time")
        }
        let stack = Stack::new(FakeKernel::new(&[], 0).system(), 64 * PAGE_SIZE, Commit::OnTouch).unwrap();
        // SAFETY: the stack lives until the end of the test.
        unsafe {
            switch(FIRST.place(), Suspended::start(&stack, main, 7));
            assert!(stack.usable().contains(Span::new(SECOND.get().0, 56)));
            switch(FIRST.place(), SECOND.get());
        }
    }

    /// A place for a suspended stack that both sides see.
    struct Cell(core::cell::UnsafeCell<Suspended>);

    // SAFETY: one thread, on two stacks.
    unsafe impl Sync for Cell {}

    impl Cell {
        const fn new() -> Self {
            Self(core::cell::UnsafeCell::new(Suspended::NONE))
        }
        fn place(&self) -> *mut Suspended {
            self.0.get()
        }
        fn get(&self) -> Suspended {
            // SAFETY: nobody else looks now.
            unsafe { *self.0.get() }
        }
    }
}
