//! The instructions that Rust has no words for.

use core::arch::asm;
use core::arch::x86_64::{__cpuid_count, CpuidResult};

/// Writes a byte to an I/O port.
pub fn out8(port: u16, value: u8) {
    // SAFETY: port I/O does not touch memory that Rust knows of; devices that could are not behind ports we use.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nomem, nostack, preserves_flags)) }
}

/// Reads a byte from an I/O port; all ones where there is no device.
pub fn in8(port: u16) -> u8 {
    let value;
    // SAFETY: as for `out8`.
    unsafe { asm!("in al, dx", in("dx") port, out("al") value, options(nomem, nostack, preserves_flags)) }
    value
}

/// Writes 16 bits to an I/O port.
pub fn out16(port: u16, value: u16) {
    // SAFETY: as for `out8`.
    unsafe { asm!("out dx, ax", in("dx") port, in("ax") value, options(nomem, nostack, preserves_flags)) }
}

/// Reads 16 bits from an I/O port.
pub fn in16(port: u16) -> u16 {
    let value;
    // SAFETY: as for `out8`.
    unsafe { asm!("in ax, dx", in("dx") port, out("ax") value, options(nomem, nostack, preserves_flags)) }
    value
}

/// Writes 32 bits to an I/O port.
pub fn out32(port: u16, value: u32) {
    // SAFETY: as for `out8`.
    unsafe { asm!("out dx, eax", in("dx") port, in("eax") value, options(nomem, nostack, preserves_flags)) }
}

/// Reads 32 bits from an I/O port.
pub fn in32(port: u16) -> u32 {
    let value;
    // SAFETY: as for `out8`.
    unsafe { asm!("in eax, dx", in("dx") port, out("eax") value, options(nomem, nostack, preserves_flags)) }
    value
}

/// Reads a model-specific register.
///
/// # Safety
/// The CPU must have this register.
pub unsafe fn read_msr(register: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: the caller knows that the register exists; reading changes nothing.
    unsafe {
        asm!("rdmsr", in("ecx") register, out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags))
    }
    u64::from(high) << 32 | u64::from(low)
}

/// Writes a model-specific register.
///
/// # Safety
/// The CPU must have this register, and what the value changes must keep running code sound.
pub unsafe fn write_msr(register: u32, value: u64) {
    // SAFETY: the caller's. Memory is clobbered because the value may change how it is seen.
    unsafe {
        asm!("wrmsr", in("ecx") register, in("eax") value as u32, in("edx") (value >> 32) as u32, options(nostack, preserves_flags))
    }
}

/// The time-stamp counter.
pub fn time_stamp() -> u64 {
    // SAFETY: every x86-64 CPU has it, and reading it changes nothing.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// CPUID, all zeros for a leaf beyond the last of its range.
pub fn cpuid(leaf: u32, subleaf: u32) -> CpuidResult {
    let base = leaf & 0xffff_0000;
    if leaf > __cpuid_count(base, 0).eax {
        return CpuidResult { eax: 0, ebx: 0, ecx: 0, edx: 0 };
    }
    __cpuid_count(leaf, subleaf)
}

/// One past the last physical address that this CPU has.
pub fn physical_end() -> u64 {
    const BITS_MIN: u32 = 36;
    1 << (cpuid(0x8000_0008, 0).eax & 0xff).clamp(BITS_MIN, 52)
}

/// Stops this CPU: only a non-maskable interrupt wakes it, and it stops again.
pub fn halt() -> ! {
    loop {
        // SAFETY: interrupts are off, and nothing is done afterwards.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) }
    }
}

/// Sleeps until an interrupt has been handled. Interrupts are off before and after.
pub fn wait_for_interrupt() {
    // SAFETY: the interrupt handlers keep all registers; `sti` takes effect after `hlt` has begun, so none is missed.
    // Memory is clobbered: handlers write.
    unsafe { asm!("sti", "hlt", "cli", options(nostack)) }
}

/// The address of the last page fault.
pub fn fault_address() -> u64 {
    let value;
    // SAFETY: reads a register.
    unsafe { asm!("mov {}, cr2", out(reg) value, options(nomem, nostack, preserves_flags)) }
    value
}
