//! The end of the machine.

use crate::acpi::SoftOff;
use crate::cpu::{in8, in16, out8, out16, out32};
use core::arch::asm;
use core::sync::atomic::{AtomicBool, Ordering};

/// QEMU's isa-debug-exit (`hw/misc/debugexit.c`): the process exits with twice the value, plus 1.
const DEBUG_EXIT: u16 = 0xf4;

static HAS_DEBUG_EXIT: AtomicBool = AtomicBool::new(false);

/// From now on there is a debug exit: the command line says so, since it cannot be probed.
pub fn use_debug_exit() {
    HAS_DEBUG_EXIT.store(true, Ordering::Relaxed);
}

/// Powers off, with `status` where it can be shown. `soft_off` finds out how, if the machine still runs then.
pub fn stop(status: u8, soft_off: impl FnOnce() -> Option<SoftOff>) -> ! {
    debug_exit(status);
    if let Some(soft_off) = soft_off() {
        enter_soft_off(&soft_off);
    }
    reset()
}

/// The same when nothing can be trusted any more.
pub fn stop_at_once(status: u8) -> ! {
    debug_exit(status);
    reset()
}

fn debug_exit(status: u8) {
    if HAS_DEBUG_EXIT.load(Ordering::Relaxed) {
        out32(DEBUG_EXIT, u32::from(status));
    }
}

/// ACPI 6.5, sections 4.8.3.2 (PM1 control) and 4.8.2.2 (turning ACPI on).
fn enter_soft_off(soft_off: &SoftOff) {
    const ACPI_ON: u16 = 1;
    const TYPE_SHIFT: u32 = 10;
    const SLEEP: u16 = 1 << 13;
    const POLLS_MAX: u32 = 1_000_000;
    if let Some((port, value)) = soft_off.enable.filter(|_| in16(soft_off.port_a) & ACPI_ON == 0) {
        out8(port, value);
        let _ = (0..POLLS_MAX).find(|_| in16(soft_off.port_a) & ACPI_ON != 0);
    }
    out16(soft_off.port_a, soft_off.types[0] << TYPE_SHIFT | SLEEP);
    if soft_off.port_b != 0 {
        out16(soft_off.port_b, soft_off.types[1] << TYPE_SHIFT | SLEEP);
    }
    // It may take a while: a read takes about a microsecond.
    (0..POLLS_MAX).for_each(|_| _ = in16(soft_off.port_a));
}

/// Where nothing powers off, a reset ends a virtual machine: the keyboard controller's, then the chipset's, then the
/// CPU's own after an exception that has no handler (QEMU's microvm has only this).
fn reset() -> ! {
    const KEYBOARD_STATUS: u16 = 0x64;
    const KEYBOARD_BUSY: u8 = 1 << 1;
    const KEYBOARD_RESET: u8 = 0xfe;
    const CHIPSET_RESET: u16 = 0xcf9;
    const POLLS_MAX: u32 = 10_000;
    let _ = (0..POLLS_MAX).find(|_| in8(KEYBOARD_STATUS) & KEYBOARD_BUSY == 0);
    out8(KEYBOARD_STATUS, KEYBOARD_RESET);
    out8(CHIPSET_RESET, 0x02);
    out8(CHIPSET_RESET, 0x06);
    // Both may take a moment to act, or not be there.
    let no_handlers = [0u16; 5];
    // SAFETY: an interrupt table without entries: the exception finds no handler, nor does the one that follows, and the CPU shuts down.
    // Nothing runs after this.
    unsafe { asm!("lidt [{}]", "ud2", in(reg) &no_handlers, options(noreturn)) }
}
