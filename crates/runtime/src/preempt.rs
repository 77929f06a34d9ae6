//! Leaving a process between any two instructions of its own, and coming back as if nothing had been.
//!
//! The upcall only sends the process to [`thunk`], which runs on the process's own stack, below everything that is on it: it saves all
//! registers there, suspends the process like any host function, and puts them back when its turn comes again.
//! That is possible where nobody else's lock can be held: in the program's code (its trampolines as well), and in a long copy or fill of its memory
//! that the engine makes for it; not in a host function, whose way out gives the virtual CPU up instead.

use crate::{current, process};
use abi::Context;
use core::arch::naked_asm;
use core::arch::x86_64::__cpuid;
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// The trap flag, which makes each instruction raise a debug exception (Intel SDM volume 1, 3.4.3.3).
pub(crate) const FLAG_TRAP: u64 = 1 << 8;

/// What compiled code may use of a CPU's state: x87, SSE, AVX and AVX-512, as bits of XCR0 (Intel SDM volume 1, 13.1).
const STATE_MASK: u32 = 0xe7;
/// The standard form of that state ends with the upper half of ZMM16 to ZMM31 (volume 1, 13.4.3 and CPUID leaf 0DH of every CPU that has
/// them: at 1664, 1024 bytes).
const STATE_BYTES: usize = 1664 + 1024;
/// Where its header is, 64 bytes that must be zero at first (volume 1, 13.4.2).
const STATE_HEADER: usize = 512;

/// Whether this CPU, and the system below, has XSAVE. Without it there is no AVX, and FXSAVE saves all there is.
static HAS_XSAVE: AtomicBool = AtomicBool::new(false);

/// Looks at the CPU. To be called before the first upcall.
pub(crate) fn start() {
    // OSXSAVE (volume 2, CPUID).
    HAS_XSAVE.store(__cpuid(1).ecx & 1 << 27 != 0, Relaxed);
}

/// Makes the context go on in [`thunk`].
pub(crate) fn divert(control: &current::Control, context: &mut Context) {
    control.preempted_at.store(context.rip, Relaxed);
    context.rip = thunk as *const () as u64;
}

/// What the thunk keeps on the stack, from its lowest address.
#[repr(C)]
struct Frame {
    _registers: [u64; 15],
    flags: u64,
    rip: u64,
}

/// Comes as if by a jump from between two instructions: nothing may be lost, and the 128 bytes below the stack pointer are in use (System V, red
/// zone).
#[unsafe(naked)]
unsafe extern "C" fn thunk() {
    naked_asm!(
        "lea rsp, [rsp - 136]", // the red zone, and a place for `rip`
        "pushfq",
        "push rax", "push rbx", "push rcx", "push rdx", "push rsi", "push rdi", "push rbp",
        "push r8", "push r9", "push r10", "push r11", "push r12", "push r13", "push r14", "push r15",
        "cld",
        "mov rbx, rsp",
        "sub rsp, {bytes}",
        "and rsp, -64",
        "cmp byte ptr [rip + {has_xsave}], 0",
        "je 2f",
        "xor eax, eax",
        "mov [rsp + {header}], rax", "mov [rsp + {header} + 8], rax", "mov [rsp + {header} + 16], rax",
        "mov [rsp + {header} + 24], rax", "mov [rsp + {header} + 32], rax", "mov [rsp + {header} + 40], rax",
        "mov [rsp + {header} + 48], rax", "mov [rsp + {header} + 56], rax",
        "mov eax, {mask}",
        "xor edx, edx",
        "xsave64 [rsp]",
        "mov rdi, rbx",
        "call {suspend}",
        "mov eax, {mask}",
        "xor edx, edx",
        "xrstor64 [rsp]",
        "jmp 3f",
        "2:",
        "fxsave64 [rsp]",
        "mov rdi, rbx",
        "call {suspend}",
        "fxrstor64 [rsp]",
        "3:",
        "mov rsp, rbx",
        "pop r15", "pop r14", "pop r13", "pop r12", "pop r11", "pop r10", "pop r9", "pop r8",
        "pop rbp", "pop rdi", "pop rsi", "pop rdx", "pop rcx", "pop rbx", "pop rax",
        // With the trap flag set, the exception comes after the next instruction: where the process was.
        "popfq",
        "ret 128",
        bytes = const STATE_BYTES,
        header = const STATE_HEADER,
        mask = const STATE_MASK,
        has_xsave = sym HAS_XSAVE,
        suspend = sym suspend,
    )
}

/// Suspends the process. If it has to end when it comes back, the first instruction that it executes tells [`crate::trap`].
extern "C" fn suspend(frame: &mut Frame) {
    let Some(current) = current::get() else { panic!("preempted, and nobody ran") };
    frame.rip = current.preempted_at.load(Relaxed);
    frame.flags &= !FLAG_TRAP;
    process::yield_turn();
    if current.stop_wanted().is_some() {
        current.steps.store(crate::trap::STEPS_MAX, Relaxed);
        frame.flags |= FLAG_TRAP;
    }
}
