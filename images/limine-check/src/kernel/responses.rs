//! The answers to all requests.

use super::expect::Expected;
use super::memory::{Kind, Map};
use super::protocol::{self, read, string};
use super::walk::Leaf;
use crate::check;

/// Where the linker put the image.
const LINKED_AT: u64 = 0xffff_ffff_8000_0000;

unsafe extern "C" {
    static image_start: u8;
    static rodata_start: u8;
    static data_start: u8;
    static image_end: u8;
}

/// What all checks need.
pub struct Facts {
    /// The base revision that is in force.
    pub revision: u64,
    pub hhdm: u64,
    pub map: Map,
    pub image_physical: u64,
    pub image_virtual: u64,
}

/// The command line, before anything else is known.
pub fn command_line() -> &'static str {
    string(protocol::COMMAND_LINE.word(1))
}

impl Facts {
    /// From the responses that everything else is built on.
    pub fn collect(expected: &Expected) -> Self {
        let facts = Self {
            revision: expected.followed,
            hhdm: protocol::HHDM.word(1),
            map: Map::given(),
            image_physical: protocol::EXECUTABLE_ADDRESS.word(1),
            image_virtual: protocol::EXECUTABLE_ADDRESS.word(2),
        };
        check!(facts.hhdm == expected.hhdm, "the direct map starts at {:#x}", facts.hhdm);
        check!(
            facts.image_virtual == LINKED_AT + expected.slide,
            "the image stands at {:#x}, slide {:#x}",
            facts.image_virtual,
            expected.slide
        );
        let here = &raw const image_start as u64;
        check!(
            here == facts.image_virtual,
            "the image is said to stand at {:#x}, and runs at {here:#x}",
            facts.image_virtual
        );
        facts.check_kind(facts.image_physical, facts.image_bytes(), Kind::ExecutableAndModules, "the image");
        facts
    }

    fn image_bytes(&self) -> u64 {
        &raw const image_end as u64 - self.image_virtual
    }

    /// Memory must be of one kind.
    pub fn check_kind(&self, base: u64, bytes: u64, kind: Kind, what: &str) {
        let covered = self.map.covers(base, base + bytes, |other| other == kind as u64);
        check!(covered, "{what}, {bytes:#x} bytes at {base:#x}, is not in memory of kind {kind:?}");
    }

    /// A page of the image has the rights of its segment and stands where the others stand.
    pub fn check_image_page(&self, leaf: Leaf) {
        let (rodata, data) = (&raw const rodata_start as u64, &raw const data_start as u64);
        let offset = leaf.address - self.image_virtual;
        check!(offset < self.image_bytes(), "mapped behind the image: {leaf:x?}");
        check!(leaf.physical == self.image_physical + offset, "not contiguous: {leaf:x?}");
        let is_code = leaf.address < rodata;
        let is_data = leaf.address >= data;
        let rights = (leaf.executable, leaf.writable, leaf.user);
        check!(rights == (is_code, is_data, false), "wrong rights: {leaf:x?}");
    }

    /// An address that some revisions give as physical, as one that can be read; checks which it is. `None` where
    /// the revision does not map it.
    fn readable(&self, given: u64, physical: bool, mapped: bool) -> Option<u64> {
        let in_direct_map = given >= self.hhdm;
        check!(in_direct_map != physical, "{given:#x} should be physical? {physical}");
        let address = if physical { given + self.hhdm } else { given };
        mapped.then_some(address)
    }
}

/// Everything but memory.
pub fn check(facts: &Facts, expected: &Expected) {
    check_tag(expected);
    check!(!string(protocol::BOOTLOADER.word(1)).is_empty(), "the loader has no name");
    check!(!string(protocol::BOOTLOADER.word(2)).is_empty(), "the loader has no version");
    check!(
        protocol::FIRMWARE_TYPE.word(1) == 2,
        "the firmware is of type {}",
        protocol::FIRMWARE_TYPE.word(1)
    );
    check!(protocol::STACK_SIZE.response() != 0, "no answer about the stack");
    check!(protocol::PAGING_MODE.word(1) == 0, "the paging mode is {}", protocol::PAGING_MODE.word(1));
    check!(protocol::UNKNOWN.response() == 0, "an unknown request was answered");
    check_firmware_tables(facts);
    check_files(facts, expected);
    check_date(expected);
    check_entropy(expected);
}

fn check_tag(expected: &Expected) {
    let [_, followed, requested] = protocol::TAG.words();
    let supported = expected.requested <= expected.loader_max;
    let third = if supported { 0 } else { expected.requested };
    check!(requested == third, "word 2 of the tag is {requested:#x}");
    let second = if expected.loader_max >= 3 { expected.followed } else { 0x6a7b_3849_4453_6bdc };
    check!(followed == second, "word 1 of the tag is {followed:#x}");
}

fn check_firmware_tables(facts: &Facts) {
    let revision = facts.revision;
    let text = |address: u64, length: usize| {
        // SAFETY: the loader says that there is a table.
        unsafe { core::slice::from_raw_parts(address as *const u8, length) }
    };
    let rsdp = protocol::RSDP.word(1);
    if let Some(rsdp) = facts.readable(rsdp, revision == 3, revision != 3) {
        check!(text(rsdp, 8) == b"RSD PTR ", "no RSDP at {rsdp:#x}");
        let sum = text(rsdp, 20).iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
        check!(sum == 0, "the RSDP's sum is {sum}");
        if revision >= 4 {
            let acpi = |kind: u64| {
                kind == Kind::AcpiReclaimable as u64
                    || kind == Kind::AcpiNvs as u64
                    || kind == Kind::ReservedMapped as u64
            };
            let xsdt = read(rsdp + 24);
            for (table, bytes) in [(rsdp - facts.hhdm, 36), (xsdt, 36)] {
                check!(
                    facts.map.covers(table, table + bytes, acpi),
                    "the table at {table:#x} is in no ACPI memory"
                );
            }
            check!(text(xsdt + facts.hhdm, 4) == b"XSDT", "no XSDT at {xsdt:#x}");
        }
    }
    let physical = revision == 3 || revision == 4;
    let mapped = revision >= 5 || revision <= 2;
    let (smbios_32, smbios_64) = (protocol::SMBIOS.word(1), protocol::SMBIOS.word(2));
    check!(smbios_32 != 0 || smbios_64 != 0, "SMBIOS was answered with nothing");
    for (entry, anchor) in [(smbios_32, b"_SM_".as_slice()), (smbios_64, b"_SM3_".as_slice())] {
        if entry != 0
            && let Some(entry) = facts.readable(entry, physical, mapped)
        {
            check!(text(entry, anchor.len()) == anchor, "no SMBIOS entry point at {entry:#x}");
        }
    }
    if let Some(table) = facts.readable(protocol::SYSTEM_TABLE.word(1), physical, mapped) {
        check!(text(table, 8) == b"IBI SYST", "no system table at {table:#x}");
        if revision >= 5 {
            let header_bytes = read(table + 8) >> 32; // UEFI 2.10, section 4.2: HeaderSize
            facts.check_kind(table - facts.hhdm, header_bytes, Kind::ReservedMapped, "the system table");
        }
    }
    let (map, size, descriptor) = (
        protocol::EFI_MEMORY_MAP.word(1),
        protocol::EFI_MEMORY_MAP.word(2),
        protocol::EFI_MEMORY_MAP.word(3),
    );
    check!(
        descriptor >= 40 && size % descriptor == 0 && size > 0,
        "the firmware's map has {size} bytes by {descriptor}"
    );
    facts.check_kind(map - facts.hhdm, size, Kind::BootloaderReclaimable, "the firmware's map");
}

/// Words of a `struct limine_file`.
mod file {
    pub const ADDRESS: u64 = 8;
    pub const SIZE: u64 = 16;
    pub const PATH: u64 = 24;
    pub const STRING: u64 = 32;
    pub const PARTITION: u64 = 56;
    pub const PARTITION_GUID: u64 = 80;
}

fn check_files(facts: &Facts, expected: &Expected) {
    let kernel = protocol::EXECUTABLE_FILE.word(1);
    check!(read(kernel + file::STRING) == protocol::COMMAND_LINE.word(1), "two command lines");
    check!(read(read(kernel + file::ADDRESS)) as u32 == 0x464c_457f, "the kernel's file is no ELF");
    check!(string(read(kernel + file::PATH)).starts_with('/'), "the kernel's path is no path");
    check!(
        read(kernel + file::PARTITION) as u32 == 1,
        "the kernel is on partition {}",
        read(kernel + file::PARTITION) as u32
    );
    check!(read(kernel + file::PARTITION_GUID) != 0, "the partition has no GUID");
    let above = facts.image_physical >= 4 << 30;
    check!(above == expected.says("kernel_above_4g"), "the kernel is at {:#x}", facts.image_physical);
    let count = expected.modules.iter().flatten().count() as u64;
    if count == 0 {
        check!(protocol::MODULES.response() == 0, "modules were answered, and there are none");
        return;
    }
    check!(protocol::MODULES.word(1) == count, "there are {} modules", protocol::MODULES.word(1));
    for (index, expected_module) in (0..).zip(expected.modules.iter().flatten()) {
        let module = read(protocol::MODULES.word(2) + 8 * index);
        let (address, size) = (read(module + file::ADDRESS), read(module + file::SIZE));
        check!(size == expected_module.length, "module {index} has {size} bytes");
        check!(address % 4096 == 0, "module {index} is at {address:#x}");
        let sum = checksum(address, size);
        check!(sum == expected_module.sum, "module {index} has the sum {sum:#x}");
        let said = string(read(module + file::STRING));
        check!(said == expected_module.string, "module {index} has the string {said:?}");
        let physical = address - facts.hhdm;
        facts.check_kind(physical, size, Kind::ExecutableAndModules, "a module");
        check!(
            (physical >= 4 << 30) == expected.says("modules_above_4g"),
            "module {index} is at {physical:#x}"
        );
    }
}

/// Of whole words, each rotated by its place; the tests compute the same.
fn checksum(address: u64, size: u64) -> u64 {
    let words = (0..size / 8).map(|index| (index, read(address + 8 * index)));
    words.fold(size, |sum, (index, word)| sum.wrapping_add(word.rotate_left(index as u32 % 64)))
}

fn check_date(expected: &Expected) {
    if expected.date != 0 {
        let date = protocol::DATE.word(1);
        check!(date.abs_diff(expected.date) < 3600, "the date is {date}");
    }
}

fn check_entropy(expected: &Expected) {
    if expected.says("no_entropy") {
        check!(protocol::ENTROPY.response() == 0, "random numbers from nowhere");
        return;
    }
    check!(
        protocol::ENTROPY.word(1) == protocol::ENTROPY_WORDS,
        "{} random words",
        protocol::ENTROPY.word(1)
    );
    let values = protocol::ENTROPY.word(2);
    for index in 1..protocol::ENTROPY_WORDS {
        let (one, other) = (read(values), read(values + 8 * index));
        check!(one != other && other != 0, "random words {one:#x} and {other:#x}");
    }
}
