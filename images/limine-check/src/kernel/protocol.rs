//! The Limine protocol as an executable sees it (PROTOCOL.md), and this kernel's requests.

use core::cell::UnsafeCell;

/// A request, with what follows its three common fields.
#[repr(C, align(8))]
pub struct Request<T> {
    id: [u64; 4],
    revision: u64,
    response: UnsafeCell<u64>,
    arguments: T,
}

// SAFETY: the loader writes before the kernel runs, and nobody after.
unsafe impl<T> Sync for Request<T> {}

impl<T> Request<T> {
    /// A request for the feature with these last two words of its id.
    pub const fn new(id: [u64; 2], revision: u64, arguments: T) -> Self {
        let id = [0xc7b1_dd30_df4c_8b88, 0x0a82_e883_a194_f07b, id[0], id[1]];
        Self { id, revision, response: UnsafeCell::new(0), arguments }
    }

    /// Address of the response; 0: there is none.
    pub fn response(&self) -> u64 {
        // SAFETY: as above; volatile, because the compiler must not assume the zero that the file holds.
        unsafe { self.response.get().read_volatile() }
    }

    /// Word `index` of the response.
    pub fn word(&self, index: usize) -> u64 {
        crate::check!(self.response() != 0, "no response to the request {:x?}", self.id);
        read(self.response() + 8 * index as u64)
    }
}

/// The word at an address that a loader gave.
pub fn read(address: u64) -> u64 {
    // SAFETY: the loader mapped what it pointed to; if it did not, the machine faults and the test fails.
    unsafe { (address as *const u64).read_unaligned() }
}

/// The string at an address that a loader gave.
pub fn string(address: u64) -> &'static str {
    const BYTES_MAX: usize = 8192;
    // SAFETY: as for `read`; the bound keeps a missing end from running on for ever.
    let length = (0..BYTES_MAX).find(|index| unsafe { *((address + *index as u64) as *const u8) } == 0);
    crate::check!(length.is_some(), "a string at {address:#x} does not end");
    // SAFETY: just read up to there.
    let bytes = unsafe { core::slice::from_raw_parts(address as *const u8, length.unwrap_or(0)) };
    core::str::from_utf8(bytes).unwrap_or("(not text)")
}

/// Stack that is asked for, in bytes.
pub const STACK_BYTES: u64 = 256 << 10;
/// Random words that are asked for.
pub const ENTROPY_WORDS: u64 = 8;

#[repr(C, align(8))]
pub struct Tag(UnsafeCell<[u64; 3]>);

// SAFETY: as for requests.
unsafe impl Sync for Tag {}

impl Tag {
    pub fn words(&self) -> [u64; 3] {
        // SAFETY: as for requests.
        unsafe { self.0.get().read_volatile() }
    }
}

#[used]
#[unsafe(link_section = ".requests.start")]
static START: [u64; 4] =
    [0xf6b8_f4b3_9de7_d1ae, 0xfab9_1a69_40fc_b9cf, 0x785c_6ed0_15d3_e316, 0x181e_920a_7852_b9d9];
#[used]
#[unsafe(link_section = ".requests.end")]
static END: [u64; 2] = [0xadc0_e053_1bb1_0d03, 0x9572_709f_3176_4c62];
/// The tests change the number in the file.
#[used]
#[unsafe(link_section = ".requests")]
pub static TAG: Tag = Tag(UnsafeCell::new([0xf956_2b2d_5c95_a6c8, 0x6a7b_3849_4453_6bdc, 6]));

macro_rules! requests {
    ($($name:ident: $third:literal, $fourth:literal, $revision:literal, $type:ty = $arguments:expr;)*) => {
        $(
            #[used]
            #[unsafe(link_section = ".requests")]
            pub static $name: Request<$type> = Request::new([$third, $fourth], $revision, $arguments);
        )*
    };
}

requests! {
    BOOTLOADER: 0xf550_38d8_e2a1_202f, 0x2794_26fc_f5f5_9740, 0, () = ();
    COMMAND_LINE: 0x4b16_1536_e598_651e, 0xb390_ad4a_2f1f_303a, 0, () = ();
    FIRMWARE_TYPE: 0x8c2f_75d9_0bef_28a8, 0x7045_a468_8eac_00c3, 0, () = ();
    STACK_SIZE: 0x224e_f046_0a8e_8926, 0xe1cb_0fc2_5f46_ea3d, 0, u64 = STACK_BYTES;
    HHDM: 0x48dc_f1cb_8ad2_b852, 0x6398_4e95_9a98_244b, 0, () = ();
    PAGING_MODE: 0x95c1_a0ed_ab09_44cb, 0xa4e5_cb38_42f7_488a, 1, [u64; 3] = [0, 1, 0];
    MEMORY_MAP: 0x67cf_3d9d_378a_806f, 0xe304_acdf_c50c_3c62, 0, () = ();
    EXECUTABLE_FILE: 0xad97_e90e_83f1_ed67, 0x31eb_5d1c_5ff2_3b69, 0, () = ();
    MODULES: 0x3e7e_2797_02be_32af, 0xca1c_4f3b_d128_0cee, 0, () = ();
    RSDP: 0xc5e7_7b6b_397e_7b43, 0x2763_7845_accd_cf3c, 0, () = ();
    SMBIOS: 0x9e90_46f1_1e09_5391, 0xaa4a_520f_efbd_e5ee, 0, () = ();
    SYSTEM_TABLE: 0x5ceb_a516_3eaa_f6d6, 0x0a69_8161_0cf6_5fcc, 0, () = ();
    EFI_MEMORY_MAP: 0x7df6_2a43_1d68_72d5, 0xa4fc_dfb3_e573_06c8, 0, () = ();
    DATE: 0x5027_46e1_84c0_88aa, 0xfbc5_ec83_e632_7893, 0, () = ();
    EXECUTABLE_ADDRESS: 0x71ba_7686_3cc5_5f63, 0xb264_4a48_c516_a487, 0, () = ();
    ENTROPY: 0x65ea_8025_5d56_82c5, 0x9117_2407_23f4_93eb, 0, u64 = ENTROPY_WORDS;
    PROCESSORS: 0x95a6_7b81_9a1b_857e, 0xa0b6_1b72_3b6a_73e0, 0, u64 = 0;
    // No feature has this id: it must stay unanswered.
    UNKNOWN: 0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210, 0, () = ();
}
