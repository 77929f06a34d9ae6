//! What each CPU has for itself, at the base of `gs` while it runs in the kernel.

use crate::x86::X86;
use core::arch::asm;
use core::mem::offset_of;
use kernel::Kernel;

/// One CPU's own state.
#[repr(C)]
pub struct Cpu {
    itself: *mut Cpu,
    /// Where the entry of system calls keeps ring 3's `rsp` for a moment.
    user_stack: u64,
    /// The end of the kernel's stack.
    pub kernel_stack: u64,
    /// Not 0 if the CPU has supervisor-mode access prevention, whose override flag ring 3 can set.
    pub has_smap: u8,
    /// The kernel that this CPU enters.
    pub kernel: *mut Kernel<X86>,
    /// Vectors that came while the kernel slept, as bits.
    pub arrived: [u64; 4],
}

/// For the entries, in assembly.
pub const USER_STACK: usize = offset_of!(Cpu, user_stack);
/// For the entries, in assembly.
pub const KERNEL_STACK: usize = offset_of!(Cpu, kernel_stack);
/// For the entries, in assembly.
pub const HAS_SMAP: usize = offset_of!(Cpu, has_smap);
const _: () = assert!(offset_of!(Cpu, itself) == 0);

impl Cpu {
    /// State that is to be filled in.
    pub const fn new() -> Self {
        Self {
            itself: core::ptr::null_mut(),
            user_stack: 0,
            kernel_stack: 0,
            has_smap: 0,
            kernel: core::ptr::null_mut(),
            arrived: [0; 4],
        }
    }

    /// Makes this the state of the CPU that runs.
    pub fn install(&'static mut self) {
        const GS_BASE: u32 = 0xc000_0101;
        const KERNEL_GS_BASE: u32 = 0xc000_0102;
        self.itself = self;
        // SAFETY: both registers exist on every x86-64 CPU. Nothing uses `gs` before this.
        unsafe {
            crate::cpu::write_msr(GS_BASE, self.itself as u64);
            crate::cpu::write_msr(KERNEL_GS_BASE, 0);
        }
    }
}

/// The state of this CPU.
pub fn this() -> *mut Cpu {
    let cpu;
    // SAFETY: after `Cpu::install` the word at the base of `gs` is the address of the state; reading changes nothing.
    unsafe { asm!("mov {}, gs:[0]", out(reg) cpu, options(nostack, preserves_flags, readonly)) }
    cpu
}
