//! The kernel's own end: cause, registers, and who called whom.

use crate::power;
use crate::report;
use crate::symbols;
use abi::Context;
use abi::boot::status;
use core::arch::asm;
use core::sync::atomic::{AtomicBool, Ordering};

/// The most frames that are printed.
const FRAMES_MAX: usize = 32;
/// The most that one frame of the kernel can take: beyond it the chain is broken.
const FRAME_BYTES_MAX: u64 = 64 << 10;

/// Ends the machine after a panic of Rust.
pub fn on_panic(info: &core::panic::PanicInfo<'_>) -> ! {
    begin();
    report!("kernel panic: {}", info.message());
    if let Some(place) = info.location() {
        report!("  at {place}");
    }
    let (frame, stack): (u64, u64);
    // SAFETY: reads registers.
    unsafe { asm!("mov {}, rbp", "mov {}, rsp", out(reg) frame, out(reg) stack, options(nomem, nostack)) }
    report!("  rsp {stack:#018x} rbp {frame:#018x}");
    report_control();
    report_callers(frame);
    end()
}

/// Ends the machine after an exception in the kernel.
pub fn on_exception(context: &Context) -> ! {
    begin();
    let Context { rip, rsp, rbp, .. } = *context;
    report!("kernel panic: exception {} (error {:#x}) in ring 0", context.vector, context.error);
    report!("  rip {rip:#018x} rsp {rsp:#018x} rflags {:#x}", context.rflags);
    report!(
        "  rax {:#018x} rbx {:#018x} rcx {:#018x} rdx {:#018x}",
        context.rax,
        context.rbx,
        context.rcx,
        context.rdx
    );
    report!("  rsi {:#018x} rdi {:#018x} rbp {rbp:#018x} r8  {:#018x}", context.rsi, context.rdi, context.r8);
    report!(
        "  r9  {:#018x} r10 {:#018x} r11 {:#018x} r12 {:#018x}",
        context.r9,
        context.r10,
        context.r11,
        context.r12
    );
    report!("  r13 {:#018x} r14 {:#018x} r15 {:#018x}", context.r13, context.r14, context.r15);
    report_control();
    report_caller(rip);
    report_callers(rbp);
    end()
}

/// A panic while a panic is reported ends at once.
fn begin() {
    static PANICKING: AtomicBool = AtomicBool::new(false);
    if PANICKING.swap(true, Ordering::Relaxed) {
        end()
    }
}

fn end() -> ! {
    power::stop_at_once(status::PANIC)
}

fn report_control() {
    let (cr0, cr2, cr3, cr4): (u64, u64, u64, u64);
    // SAFETY: reads registers.
    unsafe {
        asm!("mov {}, cr0", "mov {}, cr2", "mov {}, cr3", "mov {}, cr4",
            out(reg) cr0, out(reg) cr2, out(reg) cr3, out(reg) cr4, options(nomem, nostack));
    }
    report!("  cr0 {cr0:#x} cr2 {cr2:#x} cr3 {cr3:#x} cr4 {cr4:#x}");
}

/// Walks the chain of frame pointers, which every function of the kernel keeps (`-Cforce-frame-pointers`).
fn report_callers(mut frame: u64) {
    for _ in 0..FRAMES_MAX {
        if frame < crate::paging::DIRECT || !frame.is_multiple_of(8) {
            return;
        }
        // SAFETY: the first frame is the register's; each next one is checked below to lie a little further up on the
        // same stack, which is mapped. A wrong one faults, and the second panic ends at once.
        let [next, caller] = unsafe { (frame as *const [u64; 2]).read() };
        report_caller(caller);
        if next <= frame || next - frame > FRAME_BYTES_MAX {
            return;
        }
        frame = next;
    }
}

fn report_caller(address: u64) {
    match symbols::name_of(address) {
        Some((name, offset)) => report!("  {address:#018x} {name} + {offset:#x}"),
        None => report!("  {address:#018x}"),
    }
}
