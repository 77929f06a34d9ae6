//! Asking the CPU what it leaks, and doing something about it between domains ([`crate::mitigations`]).

use crate::cpu::{cpuid, read_msr, write_msr};
use crate::descriptors::KERNEL_DATA;
use crate::log::log;
use crate::mitigations::{ARCH_CAPABILITIES, Facts, Mitigations, RDCL_NO};
use core::arch::asm;

/// What this CPU offers and needs; says so in the log.
pub fn find() -> Mitigations {
    const REGISTER: u32 = 0x10a;
    let leaf_7_edx = cpuid(7, 0).edx;
    // SAFETY: CPUID says that the register exists.
    let read = || unsafe { read_msr(REGISTER) };
    let capabilities = if leaf_7_edx & ARCH_CAPABILITIES != 0 { read() } else { 0 };
    let leaf_8000_0008_ebx = cpuid(0x8000_0008, 0).ebx;
    let chosen = Mitigations::choose(Facts { leaf_7_edx, leaf_8000_0008_ebx, capabilities });
    let say = |used, what| if used { what } else { "" };
    let Mitigations { predictors, buffers, cache } = chosen;
    log!(
        Info,
        "between domains:{}{}{}{}",
        say(predictors, " prediction barrier"),
        say(buffers, " buffers overwritten"),
        say(cache, " data cache emptied"),
        say(chosen == Mitigations::default(), " nothing, the CPU offers nothing that it needs")
    );
    if reads_kernel_memory(capabilities) {
        log!(
            Warn,
            "on this CPU ring 3 can find out what the kernel's memory holds (Meltdown): nothing is done about that"
        );
    }
    chosen
}

/// Nothing, as the user wants it; says so in the log.
pub fn nothing() -> Mitigations {
    log!(Info, "between domains: nothing, as the command line says");
    Mitigations::default()
}

/// Intel's CPUs do, unless they say that they do not (RDCL_NO).
fn reads_kernel_memory(capabilities: u64) -> bool {
    const INTEL: u32 = u32::from_le_bytes(*b"ntel");
    cpuid(0, 0).ecx == INTEL && capabilities & RDCL_NO == 0
}

impl Mitigations {
    /// Does it.
    pub fn separate(&self) {
        const PREDICTION: u32 = 0x49;
        const CACHE: u32 = 0x10b;
        // SAFETY: only what CPUID lists is used; none of it changes what code or memory means.
        unsafe {
            if self.predictors {
                write_msr(PREDICTION, 1);
            }
            if self.cache {
                write_msr(CACHE, 1);
            }
            if self.buffers {
                let segment = KERNEL_DATA;
                asm!("verw word ptr [{}]", in(reg) &segment, options(nostack, readonly));
            }
        }
    }
}
