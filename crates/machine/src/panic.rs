//! The kernel's own end: cause, registers, and who called whom.

use crate::cpu;
use crate::percpu;
use crate::power;
use crate::report;
use crate::serial;
use crate::symbols;
use abi::Context;
use abi::boot::status;
use core::arch::asm;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

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

/// One CPU reports, and the others stop. A panic while a panic is reported ends at once.
fn begin() {
    const NOBODY: usize = usize::MAX;
    static REPORTS: AtomicUsize = AtomicUsize::new(NOBODY);
    // Before there are several CPUs there is none with a number.
    let me = if percpu::count() > 0 { percpu::this().number } else { 0 };
    match REPORTS.compare_exchange(NOBODY, me, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => stop_others(),
        Err(reports) if reports == me => end(),
        Err(_) => cpu::halt(),
    }
    serial::seize();
    if percpu::count() > 1 {
        report!("kernel: CPU {me} stops");
    }
}

static STOPPING: AtomicBool = AtomicBool::new(false);
static STOPPED: AtomicUsize = AtomicUsize::new(0);

/// Stops all CPUs but this one, which gives them a moment to.
pub fn stop_others() {
    const POLLS_MAX: u32 = 10_000_000;
    let others = percpu::count().saturating_sub(1);
    if others == 0 || STOPPING.swap(true, Ordering::AcqRel) {
        return;
    }
    let cpu = percpu::this();
    for (_, other) in percpu::all().filter(|&(number, _)| number != cpu.number) {
        cpu.apic.get().send_nmi(other.apic_id());
    }
    for _ in 0..POLLS_MAX {
        if STOPPED.load(Ordering::Acquire) >= others {
            return;
        }
        core::hint::spin_loop();
    }
}

/// A non-maskable interrupt: this CPU is to stop, or the chipset reports an error, or it means nothing that is known.
pub fn on_nmi() {
    /// NMI status: system error and channel check; all ones where there is no such register (Intel ICH9, section 13.7.1).
    const STATUS: u16 = 0x61;
    const ERRORS: u8 = 0xc0;
    if STOPPING.load(Ordering::Acquire) {
        STOPPED.fetch_add(1, Ordering::AcqRel);
        cpu::halt()
    }
    let status = cpu::in8(STATUS);
    assert!(status == u8::MAX || status & ERRORS == 0, "the chipset reports an error (status {status:#x})");
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
