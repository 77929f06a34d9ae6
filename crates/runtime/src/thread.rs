//! Green threads: a function on a stack of its own, which can suspend itself in the middle of anything.

use crate::Vcpu;
use crate::stack::{Stack, Suspended, switch};
use alloc::boxed::Box;
use core::sync::atomic::Ordering::Relaxed;

/// A thread that has not ended. `R` is what it ends with, `S` what it says when it suspends itself.
pub struct GreenThread<R, S> {
    shared: Box<Shared<R, S>>,
    /// Lives as long as the thread.
    stack: Stack,
}

/// What [`GreenThread::resume`] comes back with.
#[derive(Debug)]
pub enum Outcome<R, S> {
    /// The thread suspended itself, with this.
    Suspended(S),
    /// The thread is over; it must not be resumed.
    Ended(R),
}

/// What both sides of the switch see. Only one of them runs at a time.
struct Shared<R, S> {
    thread: Suspended,
    resumer: Suspended,
    outcome: Option<Outcome<R, S>>,
    /// What the last `resume` brought.
    answer: u64,
    main: Option<Box<dyn FnOnce() -> R + Send>>,
}

// SAFETY: one virtual CPU at a time resumes a thread: `resume` takes it exclusively, and comes back when all registers are saved. What its
// `main` took along may go anywhere; what is on its stack besides has nothing of the virtual CPU's: whoever suspends itself holds no
// lock and no pointer to a `Vcpu`.
unsafe impl<R: Send, S: Send> Send for GreenThread<R, S> {}

impl<R: 'static, S: 'static> GreenThread<R, S> {
    /// A thread that will run `main` on `stack`.
    pub fn new(stack: Stack, main: impl FnOnce() -> R + Send + 'static) -> Self {
        let mut shared = Box::new(Shared {
            thread: Suspended::NONE,
            resumer: Suspended::NONE,
            outcome: None,
            answer: 0,
            main: Some(Box::new(main)),
        });
        let argument = core::ptr::from_mut(&mut *shared) as u64;
        // SAFETY: nobody but this thread has the stack, and it stays with it.
        shared.thread = unsafe { Suspended::start(&stack, start::<R, S>, argument) };
        Self { shared, stack }
    }

    /// Runs the thread until it suspends itself or ends. `answer` is what its `suspend` returns.
    ///
    /// # Panics
    /// If it has ended, or if another thread runs.
    pub fn resume(&mut self, answer: u64) -> Outcome<R, S> {
        assert!(self.shared.thread != Suspended::NONE, "the thread has ended");
        self.shared.answer = answer;
        let shared = core::ptr::from_mut(&mut *self.shared);
        let vcpu = Vcpu::current();
        let before = vcpu.thread.swap(shared.cast(), Relaxed);
        assert!(before.is_null(), "a thread cannot resume another");
        // SAFETY: the stack is a `Stack`, on which nobody runs now; its last words are free (`Suspended::start`).
        unsafe { vcpu.settle(self.stack.top()) };
        // SAFETY: the thread was suspended by `new` or by `suspend`, and its stack lives in `self`. Until the switch
        // returns, `shared` is reached through this pointer alone, on either side.
        let outcome = unsafe {
            switch(&raw mut (*shared).resumer, (*shared).thread);
            (*shared).outcome.take()
        };
        vcpu.thread.store(core::ptr::null_mut(), Relaxed);
        let outcome = outcome.expect("whoever switches back says why");
        if matches!(outcome, Outcome::Ended(_)) {
            self.shared.thread = Suspended::NONE;
        }
        outcome
    }

    /// Suspends the thread that calls this, which must be of this type, until it is resumed; answers with what
    /// `resume` was given.
    ///
    /// # Panics
    /// If no thread runs.
    pub fn suspend(why: S) -> u64 {
        let shared = Vcpu::current().thread.load(Relaxed).cast::<Shared<R, S>>();
        assert!(!shared.is_null(), "only a thread can suspend itself");
        // SAFETY: `thread` is the running thread's half, which lives as long as its `resume` has not returned; the
        // library OS has threads of one type only. The resumer was suspended by `resume`.
        unsafe {
            (*shared).outcome = Some(Outcome::Suspended(why));
            switch(&raw mut (*shared).thread, (*shared).resumer);
            (*shared).answer
        }
    }
}

/// The time-stamp counter.
pub(crate) fn counter() -> u64 {
    // SAFETY: every CPU that can run this has it, and the kernel does not take it away.
    unsafe { core::arch::x86_64::_rdtsc() }
}

extern "C" fn start<R: 'static, S: 'static>(argument: u64) -> ! {
    let shared = argument as usize as *mut Shared<R, S>;
    // SAFETY: `GreenThread::new` passed its box, which lives until `resume` has seen the end; the resumer is
    // suspended in `resume`.
    unsafe {
        if let Some(main) = (*shared).main.take() {
            (*shared).outcome = Some(Outcome::Ended(main()));
        }
        switch(&raw mut (*shared).thread, (*shared).resumer);
    }
    unreachable!("a thread that has ended was resumed")
}
