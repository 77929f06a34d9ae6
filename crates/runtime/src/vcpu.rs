//! What each virtual CPU has of its own, and how code finds the one that it runs on.
//!
//! Ring 3 has no register for this, so the stacks know: each lies alone in a stretch of [`STACK_SPAN`] bytes that is aligned to as much, and the
//! last word of the stretch says on which virtual CPU the code on it runs. Of a process's stack it is written whenever the process gets a
//! virtual CPU; so what was found is not kept across a suspension.

use crate::current::Seat;
use crate::heap::Lists;
use abi::{Handle, Request};
use core::sync::atomic::{
    AtomicPtr, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

/// The stretch of address space that a stack has to itself: its end is a multiple of this, and so is the place below it where the next would end.
pub const STACK_SPAN: u64 = 1 << 20;

/// The event by which others wake a virtual CPU or have it look at what it runs.
pub const WAKE_EVENT: u32 = 1;

/// A virtual CPU of this library OS.
pub struct Vcpu {
    /// From 0; the first is the only one that hears of what happens outside.
    number: usize,
    handle: AtomicU64,
    /// What raises its [`WAKE_EVENT`].
    event: AtomicU64,
    /// The process that it runs.
    pub(crate) seat: Seat,
    /// The thread that it runs, as a `Shared<_, _>`; null on its first stack.
    pub(crate) thread: AtomicPtr<()>,
    /// Free blocks of the heap.
    pub(crate) lists: Lists,
}

static FIRST: Vcpu = Vcpu::new(0);

impl Vcpu {
    /// With no handle yet.
    pub(crate) const fn new(number: usize) -> Self {
        Self {
            number,
            handle: AtomicU64::new(Handle::NONE.raw()),
            event: AtomicU64::new(Handle::NONE.raw()),
            seat: Seat::new(),
            thread: AtomicPtr::new(core::ptr::null_mut()),
            lists: Lists::new(),
        }
    }

    /// The one that runs the library OS's first instruction.
    pub fn first() -> &'static Self {
        &FIRST
    }

    /// Which it is, from 0.
    pub fn number(&self) -> usize {
        self.number
    }

    /// The kernel's name for it.
    pub fn handle(&self) -> Handle {
        Handle::from_raw(self.handle.load(Relaxed))
    }

    pub(crate) fn set_handle(&self, handle: Handle) {
        self.handle.store(handle.raw(), Relaxed);
    }

    /// Says what raises its event.
    pub(crate) fn set_event(&self, event: Handle) {
        self.event.store(event.raw(), Release);
    }

    /// Ends its sleep, or has it look whether it is to go on with what it runs. With one virtual CPU nobody needs to.
    pub(crate) fn poke(&self, system: &crate::System) {
        let target = Handle::from_raw(self.event.load(Acquire));
        if target != Handle::NONE {
            // The only refusals are for handles, and it is our own.
            let _ = system.kernel().call(Request::Signal { target });
        }
    }

    /// From now on code on the stack that ends at `top` runs on this virtual CPU.
    ///
    /// # Safety
    /// A stack that can be written ends there, it has its [`STACK_SPAN`] to itself, and its last 16 bytes are nobody's.
    pub unsafe fn settle(&'static self, top: u64) {
        // SAFETY: the caller's. Volatile as it is read.
        unsafe { (top as usize as *mut &'static Self).sub(1).write_volatile(self) };
    }

    /// The one that runs this.
    #[cfg(not(test))]
    #[inline(always)]
    pub fn current() -> &'static Self {
        let stack: u64;
        // SAFETY: reads a register.
        unsafe { core::arch::asm!("mov {}, rsp", out(reg) stack, options(nomem, nostack, preserves_flags)) };
        let last_word = (stack | (STACK_SPAN - 1)) - 7;
        // SAFETY: every stack of the library OS has been settled before code ran on it. Read anew each time: another virtual CPU may have
        // resumed the process since.
        unsafe { (last_word as usize as *const &'static Self).read_volatile() }
    }

    /// The one that runs this: in unit tests each thread is one.
    #[cfg(test)]
    pub fn current() -> &'static Self {
        tests::current()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    extern crate std;
    use super::Vcpu;
    use alloc::boxed::Box;
    use core::cell::Cell;

    std::thread_local! {
        static CURRENT: Cell<Option<&'static Vcpu>> = const { Cell::new(None) };
    }

    /// Not inlined: code that was resumed by another thread must not know where the first one's is.
    #[inline(never)]
    pub fn current() -> &'static Vcpu {
        CURRENT.get().unwrap_or_else(renew)
    }

    /// Makes this thread another virtual CPU, the first of whatever system it sets up.
    pub fn renew() -> &'static Vcpu {
        become_vcpu(Box::leak(Box::new(Vcpu::new(0))))
    }

    /// Makes this thread that virtual CPU.
    pub fn become_vcpu(vcpu: &'static Vcpu) -> &'static Vcpu {
        CURRENT.set(Some(vcpu));
        vcpu
    }
}
