//! Answers to an executable's requests ("Feature List"), laid out in memory that the executable may reclaim later.

use alloc::vec::Vec;

use crate::PAGE_SIZE;
use crate::acpi::Processor;
use crate::config::MapVariant;
use crate::elf::Executable;
use crate::memory_map::Region;
use crate::protocol::{BaseRevision, FIRMWARE_EFI64, Feature, PAGING_4_LEVEL, STACK_BYTES_MIN};
use crate::requests::{RequestError, Requests};

/// Memory that is filled from its beginning and that the executable sees in the direct map.
#[derive(Debug)]
pub struct Arena<'a> {
    bytes: &'a mut [u8],
    address: u64,
    used: usize,
}

/// An arena is too small.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArenaFull;

impl<'a> Arena<'a> {
    /// An arena over `bytes`, which are zero and which the executable finds at `address`, a multiple of 16.
    pub fn new(bytes: &'a mut [u8], address: u64) -> Self {
        Self { bytes, address, used: 0 }
    }

    /// Where the executable finds the byte at `offset`.
    pub const fn address_of(&self, offset: usize) -> u64 {
        self.address + offset as u64
    }

    /// Puts `size` zero bytes aside, 16-byte aligned, and says at which offset.
    ///
    /// # Errors
    /// [`ArenaFull`].
    pub fn reserve(&mut self, size: usize) -> Result<usize, ArenaFull> {
        let offset = self.used.next_multiple_of(16);
        let end = offset.checked_add(size).filter(|end| *end <= self.bytes.len()).ok_or(ArenaFull)?;
        self.used = end;
        Ok(offset)
    }

    /// Puts words there and says where the executable finds them.
    ///
    /// # Errors
    /// [`ArenaFull`].
    pub fn words(&mut self, words: &[u64]) -> Result<u64, ArenaFull> {
        let offset = self.reserve(8 * words.len())?;
        self.set_words(offset, words);
        Ok(self.address_of(offset))
    }

    /// Puts a string there, with a zero behind it.
    ///
    /// # Errors
    /// [`ArenaFull`].
    pub fn string(&mut self, text: &str) -> Result<u64, ArenaFull> {
        let offset = self.reserve(text.len() + 1)?;
        self.bytes[offset..offset + text.len()].copy_from_slice(text.as_bytes());
        Ok(self.address_of(offset))
    }

    fn set_words(&mut self, offset: usize, words: &[u64]) {
        for (place, word) in self.bytes[offset..].chunks_exact_mut(8).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
    }
}

/// A file that was read into memory.
#[derive(Clone, Debug)]
pub struct LoadedFile<'a> {
    /// Where, a multiple of the page size.
    pub physical: u64,
    /// In bytes.
    pub size: u64,
    /// Within its volume, with a leading slash.
    pub path: &'a str,
    /// Command line or string of the module.
    pub string: &'a str,
}

/// A GUID as its 16 bytes lie in memory.
pub type Guid = [u8; 16];

/// Where the files came from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// From 1; 0: no partition.
    pub partition_index: u32,
    /// The partition's GUID; zero: unknown.
    pub partition_guid: Guid,
}

/// All that answers are made of.
#[derive(Clone, Debug)]
pub struct Facts<'a> {
    /// What has been agreed on.
    pub revision: BaseRevision,
    /// Where the direct map starts.
    pub hhdm: u64,
    /// The executable's file.
    pub executable: LoadedFile<'a>,
    /// Where its image is in physical memory.
    pub image_physical: u64,
    /// Where its image is in virtual memory.
    pub image_virtual: u64,
    /// In order.
    pub modules: &'a [LoadedFile<'a>],
    /// The volume of all files.
    pub origin: Origin,
    /// ACPI's root pointer.
    pub rsdp: Option<u64>,
    /// SMBIOS entry point, 32-bit.
    pub smbios_32: Option<u64>,
    /// SMBIOS entry point, 64-bit.
    pub smbios_64: Option<u64>,
    /// The firmware's system table.
    pub system_table: u64,
    /// Seconds since 1970.
    pub date: Option<i64>,
    /// Random numbers; empty: there are none.
    pub entropy: &'a [u64],
    /// Room for so many entries of the memory map.
    pub map_entries_max: usize,
    /// The processors, the one that runs first; none: they are not known.
    pub processors: &'a [Processor],
}

/// What can only be answered when the firmware's memory map is final.
#[derive(Debug)]
pub struct Pending {
    map: Option<MapSlots>,
    efi_map: Option<usize>,
    processors: Option<ProcessorSlots>,
}

#[derive(Debug)]
struct ProcessorSlots {
    response: usize,
    pointers: usize,
    infos: usize,
    /// The one that runs, by its APIC id.
    first: u32,
}

/// Bytes of a `struct limine_mp_info`: ACPI's uid and the APIC id, reserved, where to go, an argument for that.
const PROCESSOR_BYTES: usize = 32;

#[derive(Debug)]
struct MapSlots {
    response: usize,
    entries: usize,
    pointers: usize,
    capacity: usize,
}

/// The firmware's memory map, for an executable that calls runtime services.
#[derive(Clone, Copy, Debug)]
pub struct FirmwareMap {
    /// Physical address.
    pub physical: u64,
    /// In bytes.
    pub size: u64,
    /// Bytes in a descriptor.
    pub descriptor_size: u64,
    /// Of the descriptors.
    pub descriptor_version: u64,
}

/// Bytes that answers to `facts` take at most.
pub fn arena_bytes(facts: &Facts<'_>) -> usize {
    const SMALL_ANSWERS: usize = 4096;
    const FILE: usize = 256;
    const MAP_ENTRY: usize = 24 + 8;
    let files = facts.modules.iter().chain([&facts.executable]);
    let strings: usize = files.map(|file| file.path.len() + file.string.len() + FILE).sum();
    const PROCESSOR: usize = PROCESSOR_BYTES + 8;
    SMALL_ANSWERS
        + strings
        + 8 * facts.entropy.len()
        + MAP_ENTRY * facts.map_entries_max
        + PROCESSOR * facts.processors.len()
}

/// Answers every request that can be answered yet.
///
/// # Errors
/// [`ArenaFull`]; not if the arena has [`arena_bytes`].
pub fn answer(
    requests: &Requests,
    facts: &Facts<'_>,
    image: &mut [u8],
    arena: &mut Arena<'_>,
) -> Result<Pending, ArenaFull> {
    let mut writer = Writer { requests, facts, image, arena };
    writer.loader()?;
    writer.executable()?;
    writer.modules()?;
    writer.firmware()?;
    writer.pending()
}

struct Writer<'a, 'b> {
    requests: &'a Requests,
    facts: &'a Facts<'a>,
    image: &'a mut [u8],
    arena: &'a mut Arena<'b>,
}

impl Writer<'_, '_> {
    /// Answers one feature with a response of revision 0, if it is asked for.
    fn respond(&mut self, feature: Feature, words: &[u64]) -> Result<(), ArenaFull> {
        if self.requests.has(feature) {
            let words: Vec<u64> = [0].iter().chain(words).copied().collect();
            let address = self.arena.words(&words)?;
            self.requests.respond(self.image, feature, address);
        }
        Ok(())
    }

    fn loader(&mut self) -> Result<(), ArenaFull> {
        let name = self.arena.string("Selkis")?;
        let version = self.arena.string(env!("CARGO_PKG_VERSION"))?;
        self.respond(Feature::BootloaderInfo, &[name, version])?;
        self.respond(Feature::FirmwareType, &[FIRMWARE_EFI64])?;
        self.respond(Feature::StackSize, &[])?;
        self.respond(Feature::Hhdm, &[self.facts.hhdm])?;
        self.respond(Feature::PagingMode, &[PAGING_4_LEVEL])?;
        self.respond(Feature::EntryPoint, &[])?;
        self.respond(Feature::KeepIommu, &[])?;
        if !self.facts.entropy.is_empty() {
            let values = self.arena.words(self.facts.entropy)?;
            self.respond(Feature::Entropy, &[self.facts.entropy.len() as u64, values])?;
        }
        Ok(())
    }

    fn executable(&mut self) -> Result<(), ArenaFull> {
        let (file, string) = self.file(&self.facts.executable)?;
        self.respond(Feature::CommandLine, &[string])?;
        self.respond(Feature::ExecutableFile, &[file])?;
        self.respond(Feature::ExecutableAddress, &[self.facts.image_physical, self.facts.image_virtual])
    }

    fn modules(&mut self) -> Result<(), ArenaFull> {
        if self.facts.modules.is_empty() {
            return Ok(()); // "If no modules are available, no response will be provided."
        }
        let mut files = Vec::new();
        for module in self.facts.modules {
            files.push(self.file(module)?.0);
        }
        let list = self.arena.words(&files)?;
        self.respond(Feature::Modules, &[files.len() as u64, list])
    }

    /// A `struct limine_file` and its string.
    fn file(&mut self, file: &LoadedFile<'_>) -> Result<(u64, u64), ArenaFull> {
        const MEDIA_GENERIC: u64 = 0;
        let path = self.arena.string(file.path)?;
        let string = self.arena.string(file.string)?;
        let guid = self.facts.origin.partition_guid;
        let half =
            |at: usize| u64::from_le_bytes([0, 1, 2, 3, 4, 5, 6, 7].map(|byte: usize| guid[at + byte]));
        let words = [
            0,
            file.physical + self.facts.hhdm,
            file.size,
            path,
            string,
            MEDIA_GENERIC,
            0, // no network
            u64::from(self.facts.origin.partition_index),
            0, // the disk's GUID is not told by the firmware
            0,
            half(0),
            half(8),
            0, // FAT volumes have no UUID
            0,
        ];
        // After the eight words to the partition's index come: MBR id in its upper half, then three GUIDs.
        Ok((self.arena.words(&words)?, string))
    }

    fn firmware(&mut self) -> Result<(), ArenaFull> {
        let Facts { revision, hhdm, .. } = *self.facts;
        let rsdp_offset = if revision.rsdp_is_physical() { 0 } else { hhdm };
        let offset = if revision.firmware_tables_are_physical() { 0 } else { hhdm };
        if let Some(rsdp) = self.facts.rsdp {
            self.respond(Feature::Rsdp, &[rsdp + rsdp_offset])?;
        }
        let smbios = [self.facts.smbios_32, self.facts.smbios_64];
        if smbios.iter().any(Option::is_some) {
            let entries = smbios.map(|entry| entry.map_or(0, |entry| entry + offset));
            self.respond(Feature::Smbios, &entries)?;
        }
        self.respond(Feature::EfiSystemTable, &[self.facts.system_table + offset])?;
        if let Some(date) = self.facts.date {
            self.respond(Feature::DateAtBoot, &[date as u64])?;
        }
        Ok(())
    }

    fn pending(self) -> Result<Pending, ArenaFull> {
        let capacity = self.facts.map_entries_max;
        let mut pending = Pending { map: None, efi_map: None, processors: None };
        if self.requests.has(Feature::MemoryMap) {
            let slots = MapSlots {
                response: self.arena.reserve(24)?,
                entries: self.arena.reserve(24 * capacity)?,
                pointers: self.arena.reserve(8 * capacity)?,
                capacity,
            };
            self.requests.respond(self.image, Feature::MemoryMap, self.arena.address_of(slots.response));
            pending.map = Some(slots);
        }
        if self.requests.has(Feature::EfiMemoryMap) {
            let response = self.arena.reserve(40)?;
            self.requests.respond(self.image, Feature::EfiMemoryMap, self.arena.address_of(response));
            pending.efi_map = Some(response);
        }
        if self.requests.has(Feature::Processors)
            && let [first, ..] = self.facts.processors
        {
            let count = self.facts.processors.len();
            let slots = ProcessorSlots {
                response: self.arena.reserve(32)?,
                pointers: self.arena.reserve(8 * count)?,
                infos: self.arena.reserve(PROCESSOR_BYTES * count)?,
                first: first.apic_id,
            };
            for (index, processor) in self.facts.processors.iter().enumerate() {
                let name = u64::from(processor.uid) | u64::from(processor.apic_id) << 32;
                self.arena.set_words(slots.infos + PROCESSOR_BYTES * index, &[name]);
            }
            self.requests.respond(self.image, Feature::Processors, self.arena.address_of(slots.response));
            pending.processors = Some(slots);
        }
        Ok(pending)
    }
}

impl Pending {
    /// Where the executable finds what is said of processor `index`, if it asks.
    pub fn processor(&self, arena: &Arena<'_>, index: usize) -> Option<u64> {
        Some(arena.address_of(self.processors.as_ref()?.infos + PROCESSOR_BYTES * index))
    }

    /// Lists those processors that wait to be told where to go, by index.
    pub fn publish_processors(&self, arena: &mut Arena<'_>, waiting: impl Iterator<Item = usize>) {
        let Some(slots) = &self.processors else { return };
        let mut count = 0;
        for index in waiting {
            let info = arena.address_of(slots.infos + PROCESSOR_BYTES * index);
            arena.set_words(slots.pointers + 8 * count, &[info]);
            count += 1;
        }
        // Revision; flags (no x2APIC) and the one that runs; how many; where.
        let first = u64::from(slots.first) << 32;
        arena.set_words(slots.response, &[0, first, count as u64, arena.address_of(slots.pointers)]);
    }

    /// Writes the memory map; allocates nothing.
    ///
    /// # Errors
    /// [`ArenaFull`] if there are more regions than was said.
    pub fn publish(
        &self,
        arena: &mut Arena<'_>,
        regions: &[Region],
        variant: MapVariant,
        firmware: FirmwareMap,
        hhdm: u64,
    ) -> Result<(), ArenaFull> {
        if let Some(response) = self.efi_map {
            let FirmwareMap { physical, size, descriptor_size, descriptor_version } = firmware;
            arena.set_words(response, &[0, physical + hhdm, size, descriptor_size, descriptor_version]);
        }
        let Some(slots) = &self.map else { return Ok(()) };
        if regions.len() > slots.capacity {
            return Err(ArenaFull);
        }
        let pointers = arena.address_of(slots.pointers);
        arena.set_words(slots.response, &[0, regions.len() as u64, pointers]);
        for (index, region) in regions.iter().enumerate() {
            let place = match variant {
                MapVariant::Reversed => regions.len() - 1 - index,
                _ => index,
            };
            let entry = slots.entries + 24 * place;
            arena.set_words(entry, &[region.range.base, region.range.length(), region.kind as u64]);
            arena.set_words(slots.pointers + 8 * index, &[arena.address_of(entry)]);
        }
        Ok(())
    }
}

/// How large the first stack is to be, in whole pages.
pub fn stack_bytes(requests: &Requests, image: &[u8]) -> u64 {
    let wanted = requests.argument(image, Feature::StackSize, 0).unwrap_or(0).max(STACK_BYTES_MIN);
    wanted.checked_next_multiple_of(PAGE_SIZE).unwrap_or(u64::MAX)
}

/// Where to enter an image that stands `slide` bytes higher than its file says.
///
/// # Errors
/// [`RequestError::EntryPoint`].
pub fn entry_point(
    requests: &Requests,
    image: &[u8],
    executable: &Executable<'_>,
    slide: u64,
) -> Result<u64, RequestError> {
    let Some(wanted) = requests.argument(image, Feature::EntryPoint, 0) else {
        return Ok(executable.entry().wrapping_add(slide));
    };
    let is_code = executable.is_code(wanted.wrapping_sub(slide));
    is_code.then_some(wanted).ok_or(RequestError::EntryPoint(wanted))
}

/// Whether 4-level paging is acceptable ("Paging Mode Feature").
///
/// # Errors
/// [`RequestError::PagingMode`].
pub fn check_paging_mode(requests: &Requests, image: &[u8]) -> Result<(), RequestError> {
    let least = match requests.revision(image, Feature::PagingMode) {
        None | Some(0) => None, // revision 0 has no such field: the least there is
        Some(_) => requests.argument(image, Feature::PagingMode, 2),
    };
    match least {
        Some(mode) if mode > PAGING_4_LEVEL => Err(RequestError::PagingMode(mode)),
        _ => Ok(()),
    }
}

/// How many random words are asked for, at most as many as this loader gives.
pub fn entropy_words(requests: &Requests, image: &[u8]) -> usize {
    const WORDS_MAX: u64 = 512;
    requests.argument(image, Feature::Entropy, 0).unwrap_or(0).min(WORDS_MAX) as usize
}

#[cfg(test)]
#[path = "response_tests.rs"]
mod tests;
