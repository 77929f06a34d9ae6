//! What a CPU must have turned on before it runs the kernel, in the same way on each.

use crate::cpu::{cpuid, read_msr, write_msr};
use crate::descriptors::{KERNEL_CODE, KERNEL_DATA};
use crate::trap;
use core::arch::asm;

// Bits of CR4 (SDM volume 3, section 2.5).
const PHYSICAL_ADDRESS_EXTENSION: u64 = 1 << 5;
const MACHINE_CHECK: u64 = 1 << 6;
const GLOBAL_PAGES: u64 = 1 << 7;
const FXSAVE: u64 = 1 << 9;
const SIMD_EXCEPTIONS: u64 = 1 << 10;
const UMIP: u64 = 1 << 11;
const IDENTIFIERS: u64 = 1 << 17;
const XSAVE: u64 = 1 << 18;
const SMEP: u64 = 1 << 20;
const SMAP: u64 = 1 << 21;

/// Turns on what the kernel's tables need and what guards the kernel from itself. To be called on the loader's tables.
pub fn turn_on() {
    const EFER: u32 = 0xc000_0080;
    const EFER_SYSTEM_CALL: u64 = 1;
    const EFER_NO_EXECUTE: u64 = 1 << 11;
    /// Protected mode, monitor coprocessor, extension type, numeric error, write protection, paging; and no emulation, no task
    /// switch, caches on.
    const CR0: u64 = 1 | 1 << 1 | 1 << 4 | 1 << 5 | 1 << 16 | 1 << 31;
    const CR4: u64 = PHYSICAL_ADDRESS_EXTENSION | MACHINE_CHECK | FXSAVE | SIMD_EXCEPTIONS;
    // SAFETY: the bits are those of SDM volume 3, section 2.5: none of them changes what mapped code means. The protections
    // concern ring 3's pages, of which there are none yet.
    unsafe {
        write_msr(EFER, read_msr(EFER) | EFER_NO_EXECUTE | EFER_SYSTEM_CALL);
        asm!(
            "mov cr0, {cr0}",
            "mov cr4, {cr4}",
            cr0 = in(reg) CR0,
            cr4 = in(reg) CR4 | optional_protections(),
            options(nostack)
        );
    }
}

/// The rest, on the kernel's tables: what the TLB keeps when `cr3` is loaded, and system calls (SDM volume 3, section 5.8.8).
pub fn turn_on_rest() {
    const STAR: u32 = 0xc000_0081;
    const LONG_STAR: u32 = 0xc000_0082;
    const FLAG_MASK: u32 = 0xc000_0084;
    /// Trap, interrupt, direction, I/O privilege, nested task, alignment check: off in the kernel.
    const FLAGS_OFF: u64 = 1 << 8 | 1 << 9 | 1 << 10 | 3 << 12 | 1 << 14 | 1 << 18;
    let identifiers = if has_identifiers() { IDENTIFIERS } else { 0 };
    // SAFETY: 1. the bits of `cr3` that identifiers take the place of are 0; what the TLB holds of the loader's tables is forgotten by the change
    // of CR4; 2. the segments are those of `Descriptors`, and the entry is the one that is made for it.
    unsafe {
        asm!(
            "mov {scratch}, cr4",
            "or {scratch}, {bits}",
            "mov cr4, {scratch}",
            scratch = out(reg) _,
            bits = in(reg) GLOBAL_PAGES | identifiers,
            options(nostack)
        );
        write_msr(STAR, u64::from(KERNEL_DATA) << 48 | u64::from(KERNEL_CODE) << 32);
        write_msr(LONG_STAR, trap::system_call_entry as *const () as u64);
        write_msr(FLAG_MASK, FLAGS_OFF);
    }
}

/// Whether there is supervisor-mode access prevention.
pub fn has_smap() -> bool {
    optional_protections() & SMAP != 0
}

/// Whether there are process-context identifiers.
pub fn has_identifiers() -> bool {
    cpuid(1, 0).ecx & 1 << 17 != 0
}

/// Bits of CR4 for what this CPU has.
fn optional_protections() -> u64 {
    let (features, more) = (cpuid(1, 0), cpuid(7, 0));
    let bit = |register: u32, from: u32, to: u64| if register >> from & 1 != 0 { to } else { 0 };
    bit(more.ebx, 7, SMEP) | bit(more.ebx, 20, SMAP) | bit(more.ecx, 2, UMIP) | bit(features.ecx, 26, XSAVE)
}
