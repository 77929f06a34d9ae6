//! What this CPU can do.

use core::arch::x86_64::{__cpuid, __cpuid_count, _rdrand64_step, _xgetbv};

/// Whether the CPU, and the system below, has the feature that the engine calls `name`; `None` if the name is unknown.
///
/// Bits: Intel SDM volume 2, CPUID; AVX and AVX-512 need their state enabled in XCR0 as well (volume 1, 14.3, 15.2).
pub fn has_feature(name: &str) -> Option<bool> {
    let leaf1 = __cpuid(1);
    let leaf7 = __cpuid_count(7, 0);
    let bit = |register: u32, bit: u32| register & (1 << bit) != 0;
    // SAFETY: XGETBV is there when CPUID says that the system uses XSAVE (OSXSAVE).
    let state = if bit(leaf1.ecx, 27) { unsafe { xcr0() } } else { 0 };
    let avx = state & 0x6 == 0x6;
    let avx512 = state & 0xe6 == 0xe6;
    Some(match name {
        "sse3" => bit(leaf1.ecx, 0),
        "ssse3" => bit(leaf1.ecx, 9),
        "sse4.1" => bit(leaf1.ecx, 19),
        "sse4.2" => bit(leaf1.ecx, 20),
        "popcnt" => bit(leaf1.ecx, 23),
        "cmpxchg16b" => bit(leaf1.ecx, 13),
        "avx" => avx && bit(leaf1.ecx, 28),
        "fma" => avx && bit(leaf1.ecx, 12),
        "avx2" => avx && bit(leaf7.ebx, 5),
        "bmi1" => bit(leaf7.ebx, 3),
        "bmi2" => bit(leaf7.ebx, 8),
        "lzcnt" => bit(__cpuid(0x8000_0001).ecx, 5),
        "avxvnni" => avx && bit(__cpuid_count(7, 1).eax, 4),
        "avx512vnni" => avx512 && bit(leaf7.ecx, 11),
        "avx512f" => avx512 && bit(leaf7.ebx, 16),
        "avx512dq" => avx512 && bit(leaf7.ebx, 17),
        "avx512vl" => avx512 && bit(leaf7.ebx, 31),
        "avx512vbmi" => avx512 && bit(leaf7.ecx, 1),
        "avx512bitalg" => avx512 && bit(leaf7.ecx, 12),
        _ => return None,
    })
}

#[target_feature(enable = "xsave")]
fn xcr0() -> u64 {
    // SAFETY: the caller has seen OSXSAVE.
    unsafe { _xgetbv(0) }
}

/// 64 bits from the CPU's own generator; `None` if it has none or does not answer.
pub fn random() -> Option<u64> {
    if __cpuid(1).ecx & (1 << 30) == 0 {
        return None;
    }
    // SAFETY: CPUID says that RDRAND is there.
    unsafe { rdrand() }
}

#[target_feature(enable = "rdrand")]
fn rdrand() -> Option<u64> {
    // Ten tries: Intel SDM volume 1, 7.3.17.1.
    (0..10).find_map(|_| {
        let mut value = 0;
        (_rdrand64_step(&mut value) == 1).then_some(value)
    })
}
