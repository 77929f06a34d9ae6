//! Numbers of the Limine boot protocol (PROTOCOL.md, base revisions 0 to 6).

/// Words 0 and 1 of every request.
pub const COMMON_MAGIC: [u64; 2] = [0xc7b1_dd30_df4c_8b88, 0x0a82_e883_a194_f07b];
/// Words 0 and 1 of the base revision tag; word 2 is the revision.
pub const BASE_REVISION_MAGIC: [u64; 2] = [0xf956_2b2d_5c95_a6c8, 0x6a7b_3849_4453_6bdc];
/// Requests stand after the last of these ("Requests Delimiters").
pub const START_MARKER: [u64; 4] =
    [0xf6b8_f4b3_9de7_d1ae, 0xfab9_1a69_40fc_b9cf, 0x785c_6ed0_15d3_e316, 0x181e_920a_7852_b9d9];
/// Requests stand before the first of these.
pub const END_MARKER: [u64; 2] = [0xadc0_e053_1bb1_0d03, 0x9572_709f_3176_4c62];

/// Executables stand at or above this address ("Memory Layout at Entry").
pub const EXECUTABLE_BASE_MIN: u64 = 0xffff_ffff_8000_0000;
/// Where the direct map starts when nothing else is asked for: the first address of the higher half with 4-level paging.
pub const HHDM_DEFAULT: u64 = 0xffff_8000_0000_0000;
/// The smallest stack that an executable gets, in bytes ("Machine State at Entry").
pub const STACK_BYTES_MIN: u64 = 64 << 10;
/// `LIMINE_FIRMWARE_TYPE_EFI64`.
pub const FIRMWARE_EFI64: u64 = 2;
/// `LIMINE_PAGING_MODE_X86_64_4LVL`.
pub const PAGING_4_LEVEL: u64 = 0;

/// The features that this loader answers. All others keep their null response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feature {
    /// Name and version of the loader.
    BootloaderInfo,
    /// The executable's command line.
    CommandLine,
    /// Which firmware started the loader.
    FirmwareType,
    /// How large the first stack is to be.
    StackSize,
    /// Where the direct map starts.
    Hhdm,
    /// 4-level or 5-level paging.
    PagingMode,
    /// The memory map.
    MemoryMap,
    /// An entry point other than the file's.
    EntryPoint,
    /// The executable's file as it was read.
    ExecutableFile,
    /// Modules.
    Modules,
    /// ACPI's root pointer.
    Rsdp,
    /// SMBIOS entry points.
    Smbios,
    /// The firmware's system table.
    EfiSystemTable,
    /// The firmware's memory map.
    EfiMemoryMap,
    /// Seconds since 1970.
    DateAtBoot,
    /// Where the executable stands.
    ExecutableAddress,
    /// Leave IOMMUs as the firmware set them.
    KeepIommu,
    /// Random numbers.
    Entropy,
    /// The processors.
    Processors,
}

impl Feature {
    /// Every feature with words 2 and 3 of its request, in the order of the enumeration ("Feature List").
    pub const ALL: [(Self, [u64; 2]); 19] = [
        (Self::BootloaderInfo, [0xf550_38d8_e2a1_202f, 0x2794_26fc_f5f5_9740]),
        (Self::CommandLine, [0x4b16_1536_e598_651e, 0xb390_ad4a_2f1f_303a]),
        (Self::FirmwareType, [0x8c2f_75d9_0bef_28a8, 0x7045_a468_8eac_00c3]),
        (Self::StackSize, [0x224e_f046_0a8e_8926, 0xe1cb_0fc2_5f46_ea3d]),
        (Self::Hhdm, [0x48dc_f1cb_8ad2_b852, 0x6398_4e95_9a98_244b]),
        (Self::PagingMode, [0x95c1_a0ed_ab09_44cb, 0xa4e5_cb38_42f7_488a]),
        (Self::MemoryMap, [0x67cf_3d9d_378a_806f, 0xe304_acdf_c50c_3c62]),
        (Self::EntryPoint, [0x13d8_6c03_5a1c_d3e1, 0x2b0c_aa89_d8f3_026a]),
        (Self::ExecutableFile, [0xad97_e90e_83f1_ed67, 0x31eb_5d1c_5ff2_3b69]),
        (Self::Modules, [0x3e7e_2797_02be_32af, 0xca1c_4f3b_d128_0cee]),
        (Self::Rsdp, [0xc5e7_7b6b_397e_7b43, 0x2763_7845_accd_cf3c]),
        (Self::Smbios, [0x9e90_46f1_1e09_5391, 0xaa4a_520f_efbd_e5ee]),
        (Self::EfiSystemTable, [0x5ceb_a516_3eaa_f6d6, 0x0a69_8161_0cf6_5fcc]),
        (Self::EfiMemoryMap, [0x7df6_2a43_1d68_72d5, 0xa4fc_dfb3_e573_06c8]),
        (Self::DateAtBoot, [0x5027_46e1_84c0_88aa, 0xfbc5_ec83_e632_7893]),
        (Self::ExecutableAddress, [0x71ba_7686_3cc5_5f63, 0xb264_4a48_c516_a487]),
        (Self::KeepIommu, [0x8eba_abe5_1f49_0179, 0x2aa8_6a59_ffb4_ab0f]),
        (Self::Entropy, [0x65ea_8025_5d56_82c5, 0x9117_2407_23f4_93eb]),
        (Self::Processors, [0x95a6_7b81_9a1b_857e, 0xa0b6_1b72_3b6a_73e0]),
    ];

    /// The feature whose request carries these words 2 and 3.
    pub fn from_id(id: [u64; 2]) -> Option<Self> {
        Self::ALL.iter().find(|(_, known)| *known == id).map(|(feature, _)| *feature)
    }

    /// Its place in [`Self::ALL`].
    pub const fn index(self) -> usize {
        self as usize
    }
}

/// A base revision that this loader can follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BaseRevision(u8);

impl BaseRevision {
    /// The highest that is defined.
    pub const HIGHEST: Self = Self(6);

    /// `None`: not defined, or not yet.
    pub fn new(revision: u64) -> Option<Self> {
        (revision <= u64::from(Self::HIGHEST.0)).then_some(Self(revision as u8))
    }

    /// The number.
    pub const fn number(self) -> u64 {
        self.0 as u64
    }

    /// Lower half mapped as well ("Base Revision 0").
    pub const fn maps_identity(self) -> bool {
        self.0 == 0
    }

    /// The direct map covers the first 4 GiB, whatever they are; dropped in base revision 3.
    pub const fn maps_first_4_gib(self) -> bool {
        self.0 <= 2
    }

    /// Page 0 may be usable memory; since base revision 3.
    pub const fn page_zero_usable(self) -> bool {
        self.0 >= 3
    }

    /// A loader that knows this one says in word 1 of the tag which revision it follows ("Base Revisions").
    pub const fn reports_itself(self) -> bool {
        self.0 >= 3
    }

    /// ACPI's root pointer is given as a physical address; base revision 3 only.
    pub const fn rsdp_is_physical(self) -> bool {
        self.0 == 3
    }

    /// SMBIOS entry points and the EFI system table are given as physical addresses; base revisions 3 and 4.
    pub const fn firmware_tables_are_physical(self) -> bool {
        self.0 == 3 || self.0 == 4
    }

    /// ACPI tables are in mapped regions; since base revision 4.
    pub const fn maps_acpi_tables(self) -> bool {
        self.0 >= 4
    }

    /// SMBIOS, runtime services and the system table are in mapped regions, IOMMUs are off, the local APIC is
    /// in a defined state; since base revision 5.
    pub const fn has_strict_machine_state(self) -> bool {
        self.0 >= 5
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_stand_in_the_order_of_their_table() {
        for (index, (feature, id)) in Feature::ALL.iter().enumerate() {
            assert_eq!(feature.index(), index);
            assert_eq!(Feature::from_id(*id), Some(*feature));
        }
        assert_eq!(Feature::from_id([1, 2]), None);
    }

    #[test]
    fn only_defined_revisions_are_followed() {
        assert_eq!(BaseRevision::new(6), Some(BaseRevision::HIGHEST));
        assert_eq!(BaseRevision::new(7), None);
        assert_eq!(BaseRevision::new(u64::MAX), None);
    }
}
