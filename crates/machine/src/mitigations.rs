//! What one domain leaves behind in a CPU that the next one could find out about, and what the CPU offers against it (Intel,
//! "CPUID Enumeration and Architectural MSRs"; AMD, "Architecture Guidelines Update: Indirect Branch Control"). Pure logic.

/// What the CPU says of itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct Facts {
    /// CPUID 7.0:EDX.
    pub leaf_7_edx: u32,
    /// CPUID 8000_0008:EBX, on AMD's CPUs.
    pub leaf_8000_0008_ebx: u32,
    /// IA32_ARCH_CAPABILITIES, 0 without it.
    pub capabilities: u64,
}

/// What is done between domains.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mitigations {
    /// A barrier for branch prediction (IBPB).
    pub predictors: bool,
    /// Overwriting the CPU's internal buffers (VERW).
    pub buffers: bool,
    /// Emptying the first data cache (L1D_FLUSH).
    pub cache: bool,
}

/// In CPUID 7.0:EDX.
const MD_CLEAR: u32 = 1 << 10;
const IBPB: u32 = 1 << 26;
const L1D_FLUSH: u32 = 1 << 28;
/// In CPUID 7.0:EDX: there are the capabilities.
pub const ARCH_CAPABILITIES: u32 = 1 << 29;
/// In CPUID 8000_0008:EBX.
const AMD_IBPB: u32 = 1 << 12;

/// In the capabilities: not vulnerable to Meltdown and L1TF.
pub const RDCL_NO: u64 = 1 << 0;
const L1D_FLUSH_NOT_NEEDED: u64 = 1 << 3;
const MDS_NO: u64 = 1 << 5;
/// None of the three kinds of stale data of memory-mapped I/O leaks.
const MMIO_NO: u64 = 0b111 << 13;
const FB_CLEAR: u64 = 1 << 17;
const RFDS_NO: u64 = 1 << 27;
const RFDS_CLEAR: u64 = 1 << 28;

impl Mitigations {
    /// All that the CPU offers and needs.
    pub const fn choose(facts: Facts) -> Self {
        let Facts { leaf_7_edx, leaf_8000_0008_ebx, capabilities } = facts;
        let leaks = capabilities & MDS_NO == 0
            || capabilities & FB_CLEAR != 0 && capabilities & MMIO_NO != MMIO_NO
            || capabilities & RFDS_CLEAR != 0 && capabilities & RFDS_NO == 0;
        Self {
            predictors: leaf_7_edx & IBPB != 0 || leaf_8000_0008_ebx & AMD_IBPB != 0,
            buffers: leaf_7_edx & MD_CLEAR != 0 && leaks,
            cache: leaf_7_edx & L1D_FLUSH != 0 && capabilities & (RDCL_NO | L1D_FLUSH_NOT_NEEDED) == 0,
        }
    }
}
