//! Stacks with a guard below, and the switch from one to another.

use crate::System;
use crate::vcpu::STACK_SPAN;
use abi::{Backing, Commit, Error, PAGE_SIZE, Protection, Span};
use core::arch::naked_asm;

/// Unmapped space below a stack: more than any one frame of ours, so that running over the end faults.
const GUARD_BYTES: u64 = 64 << 10;

/// The longest stack.
pub const STACK_BYTES_MAX: u64 = STACK_SPAN - GUARD_BYTES;

/// A stack, alone in its [`STACK_SPAN`] and at the end of it; given back when dropped.
pub struct Stack {
    system: &'static System,
    /// All of it is the stack's, and what is below `length` bytes its guard.
    span: Span,
    length: u64,
}

impl Stack {
    /// A stack of `length` bytes, whole pages, at most [`STACK_BYTES_MAX`]. With [`Commit::Now`] no touch of it can fail.
    pub fn new(system: &'static System, length: u64, commit: Commit) -> Result<Self, Error> {
        debug_assert!(length.is_multiple_of(PAGE_SIZE));
        if length > STACK_BYTES_MAX {
            return Err(Error::BadRange);
        }
        let span = system.take_aligned_space(STACK_SPAN).ok_or(Error::NoMemory)?;
        let stack = Self { system, span, length };
        // Nothing is mapped in the guard.
        system.map(stack.usable(), Backing::Zero, Protection::ReadWrite, commit)?;
        Ok(stack)
    }

    /// One past its highest byte; a multiple of the page size.
    pub fn top(&self) -> u64 {
        self.span.base + self.span.length
    }

    /// The addresses that can hold frames.
    pub fn usable(&self) -> Span {
        Span::new(self.top() - self.length, self.length)
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // It was mapped as a whole, so it can be unmapped as a whole.
        let _ = self.system.unmap(self.span);
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
