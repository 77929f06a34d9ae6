//! The vector registers of ring 3: which there are, and one frame for each virtual CPU to keep them in (Intel SDM volume 1,
//! chapters 10 and 13). The kernel itself uses none.

use crate::cpu::cpuid;
use abi::PAGE_SIZE;
use core::arch::asm;

/// How the registers are saved.
#[derive(Clone, Copy, Debug)]
enum Save {
    Fxsave,
    Xsave,
    /// Only what changed.
    Xsaveopt,
}

/// What the CPUs have.
#[derive(Clone, Copy, Debug)]
pub struct Vectors {
    save: Save,
    /// The parts of the state that are on, as bits of XCR0.
    enabled: u64,
    /// The CPU loads no x87 pointers when there is no exception, so that the last domain's would show (AMD, CPUID 8000_0008:EBX[2]).
    keeps_pointers: bool,
}

const X87_SSE: u64 = 0b11;
const AVX: u64 = 1 << 2;
const AVX_512: u64 = 0b111 << 5;
const EVERYTHING: u32 = u32::MAX;
/// The legacy area and the header: all that is read when no part of the state is present.
const FRESH_WORDS: usize = (512 + 64) / 8;

impl Vectors {
    /// Asks this CPU, and turns its state on.
    pub fn start() -> Self {
        const XSAVE: u32 = 1 << 26;
        const XSAVEOPT: u32 = 1;
        const AMD: u32 = u32::from_le_bytes(*b"cAMD");
        const SAVES_POINTERS: u32 = 1 << 2;
        let keeps_pointers = cpuid(0, 0).ecx == AMD && cpuid(0x8000_0008, 0).ebx & SAVES_POINTERS == 0;
        if cpuid(1, 0).ecx & XSAVE == 0 {
            return Self { save: Save::Fxsave, enabled: X87_SSE, keeps_pointers };
        }
        let save = if cpuid(0xd, 1).eax & XSAVEOPT != 0 { Save::Xsaveopt } else { Save::Xsave };
        let has = u64::from(cpuid(0xd, 0).eax);
        let vectors = |enabled| Self { save, enabled: X87_SSE | has & enabled, keeps_pointers };
        let wide = if has & AVX != 0 { AVX | AVX_512 } else { 0 };
        // AVX-512 comes whole or not at all, and what is on must fit a frame.
        let wide = if has & AVX_512 == AVX_512 { wide } else { wide & AVX };
        [wide, wide & AVX, 0].map(vectors).into_iter().find(Self::turn_on_if_it_fits).unwrap_or(vectors(0))
    }

    fn turn_on_if_it_fits(&self) -> bool {
        self.turn_on();
        // The size of an area for what is on in XCR0 now.
        u64::from(cpuid(0xd, 0).ebx) <= PAGE_SIZE
    }

    /// Gives ring 3 of this CPU what the first one's has.
    pub fn turn_on(&self) {
        if !matches!(self.save, Save::Fxsave) {
            // SAFETY: parts that CPUID lists, in a combination that is allowed; CR4 has XSAVE on.
            unsafe {
                asm!("xsetbv", in("ecx") 0, in("eax") self.enabled as u32, in("edx") 0, options(nostack, nomem));
            }
        }
    }

    /// Lays the state after a reset at `area`: nothing that firmware or another domain left.
    ///
    /// # Safety
    /// `area` is a frame that nobody else uses.
    pub unsafe fn fresh(&self, area: *mut u8) {
        // FXSAVE layout (SDM volume 1, table 10-2): control words as after a reset; no part of the extended state is
        // present, so all of it is initialised.
        const CONTROL: (usize, u16) = (0, 0x037f);
        const MXCSR: (usize, u32) = (24, 0x1f80);
        // SAFETY: the frame is larger than what is written, and the caller's.
        unsafe {
            asm!("rep stosq", inout("rdi") area => _, inout("rcx") FRESH_WORDS => _, in("rax") 0u64, options(nostack, preserves_flags));
            area.add(CONTROL.0).cast::<u16>().write(CONTROL.1);
            area.add(MXCSR.0).cast::<u32>().write(MXCSR.1);
        }
    }

    /// Saves the registers.
    ///
    /// # Safety
    /// `area` is a frame that nobody else uses, and what was loaded last on this CPU was loaded from it.
    pub unsafe fn save(&self, area: *mut u8) {
        // SAFETY: the area is aligned and, by `start`, large enough.
        unsafe {
            match self.save {
                Save::Fxsave => asm!("fxsave64 [{}]", in(reg) area, options(nostack, preserves_flags)),
                Save::Xsave => {
                    asm!("xsave64 [{}]", in(reg) area, in("eax") EVERYTHING, in("edx") EVERYTHING, options(nostack, preserves_flags))
                }
                Save::Xsaveopt => {
                    asm!("xsaveopt64 [{}]", in(reg) area, in("eax") EVERYTHING, in("edx") EVERYTHING, options(nostack, preserves_flags))
                }
            }
        }
    }

    /// Loads all registers.
    ///
    /// # Safety
    /// `area` is a frame that [`Vectors::fresh`] or [`Vectors::save`] filled in.
    pub unsafe fn load(&self, area: *const u8) {
        // SAFETY: nothing but those wrote the area, so it is one that can be loaded. The kernel keeps nothing in these registers.
        unsafe {
            if self.keeps_pointers {
                // Any load from memory sets the pointers. An exception that is pending must go before, or the load raises it.
                asm!("fnclex", "emms", "fild dword ptr [{}]", in(reg) area, options(nostack, preserves_flags, readonly));
            }
            match self.save {
                Save::Fxsave => asm!("fxrstor64 [{}]", in(reg) area, options(nostack, preserves_flags)),
                _ => {
                    asm!("xrstor64 [{}]", in(reg) area, in("eax") EVERYTHING, in("edx") EVERYTHING, options(nostack, preserves_flags))
                }
            }
        }
    }
}
