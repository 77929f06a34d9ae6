use super::*;
use crate::memory_map::{Kind, Range};
use crate::protocol::{COMMON_MAGIC, HHDM_DEFAULT};
use alloc::vec;

const ARENA: u64 = 0x5_0000 + HHDM_DEFAULT;

/// Requests for all features, each with three zero arguments.
fn image() -> Vec<u8> {
    let requests = Feature::ALL
        .iter()
        .flat_map(|(_, id)| [COMMON_MAGIC[0], COMMON_MAGIC[1], id[0], id[1], 0, 0, 0, 0, 0]);
    requests.flat_map(u64::to_le_bytes).collect()
}

fn facts<'a>(revision: u64, modules: &'a [LoadedFile<'a>]) -> Facts<'a> {
    Facts {
        revision: BaseRevision::new(revision).unwrap(),
        hhdm: HHDM_DEFAULT,
        executable: LoadedFile { physical: 0x10_0000, size: 77, path: "/kernel", string: "a b" },
        image_physical: 0x20_0000,
        image_virtual: 0xffff_ffff_8000_0000,
        modules,
        origin: Origin { partition_index: 1, partition_guid: [7; 16] },
        rsdp: Some(0x7000),
        smbios_32: None,
        smbios_64: Some(0x8000),
        system_table: 0x9000,
        date: Some(-5),
        entropy: &[11, 22],
        map_entries_max: 4,
        processors: &[Processor { uid: 9, apic_id: 3 }, Processor { uid: 8, apic_id: 0x123 }],
    }
}

/// An answered image and its arena, to follow pointers in.
struct Answered {
    image: Vec<u8>,
    bytes: Vec<u8>,
    pending: Pending,
}

impl Answered {
    fn new(facts: &Facts<'_>) -> Self {
        let mut image = image();
        let mut bytes = vec![0; arena_bytes(facts)];
        let requests = Requests::scan(&image).unwrap();
        let pending = answer(&requests, facts, &mut image, &mut Arena::new(&mut bytes, ARENA)).unwrap();
        Self { image, bytes, pending }
    }

    fn at(&self, address: u64, index: usize) -> u64 {
        let offset = (address - ARENA) as usize + 8 * index;
        u64::from_le_bytes(self.bytes[offset..offset + 8].try_into().unwrap())
    }

    fn response(&self, feature: Feature) -> u64 {
        let offset = 72 * feature.index() + 40;
        u64::from_le_bytes(self.image[offset..offset + 8].try_into().unwrap())
    }

    fn word(&self, feature: Feature, index: usize) -> u64 {
        self.at(self.response(feature), index)
    }

    fn string(&self, address: u64) -> &str {
        let bytes = &self.bytes[(address - ARENA) as usize..];
        core::str::from_utf8(&bytes[..bytes.iter().position(|byte| *byte == 0).unwrap()]).unwrap()
    }
}

#[test]
fn every_feature_is_answered() {
    let modules = [LoadedFile { physical: 0x30_0000, size: 5, path: "/boot/bundle", string: "first" }];
    let answered = Answered::new(&facts(6, &modules));
    for (feature, _) in Feature::ALL {
        assert_ne!(answered.response(feature), 0, "{feature:?}");
    }
    assert_eq!(answered.string(answered.word(Feature::BootloaderInfo, 1)), "Selkis");
    assert_eq!(answered.string(answered.word(Feature::CommandLine, 1)), "a b");
    assert_eq!(answered.word(Feature::Hhdm, 1), HHDM_DEFAULT);
    assert_eq!(answered.word(Feature::DateAtBoot, 1) as i64, -5);
    assert_eq!(answered.word(Feature::ExecutableAddress, 1), 0x20_0000);
    assert_eq!(answered.at(answered.word(Feature::Entropy, 2), 1), 22);
    let file = answered.word(Feature::ExecutableFile, 1);
    assert_eq!(answered.at(file, 4), answered.word(Feature::CommandLine, 1), "the same memory");
    let module = answered.at(answered.word(Feature::Modules, 2), 0);
    assert_eq!(answered.at(module, 1), 0x30_0000 + HHDM_DEFAULT);
    assert_eq!(answered.at(module, 2), 5);
    assert_eq!(answered.string(answered.at(module, 3)), "/boot/bundle");
    assert_eq!(answered.string(answered.at(module, 4)), "first");
    assert_eq!(answered.at(module, 7), 1, "partition index");
}

#[test]
fn file_structures_have_the_layout_of_the_protocol() {
    #[repr(C)]
    struct File {
        revision: u64,
        address: u64,
        size: u64,
        path: u64,
        string: u64,
        media_type: u32,
        unused: u32,
        tftp_ipv4: [u8; 4],
        tftp_port: u32,
        partition_index: u32,
        mbr_disk_id: u32,
        gpt_disk: Guid,
        gpt_part: Guid,
        part: Guid,
    }
    assert_eq!(core::mem::offset_of!(File, partition_index), 7 * 8);
    assert_eq!(core::mem::offset_of!(File, gpt_part), 10 * 8);
    assert_eq!(size_of::<File>(), 14 * 8);
}

#[test]
fn what_is_not_there_stays_null() {
    let facts = Facts { rsdp: None, smbios_64: None, date: None, entropy: &[], ..facts(6, &[]) };
    let answered = Answered::new(&facts);
    for feature in [Feature::Rsdp, Feature::Smbios, Feature::DateAtBoot, Feature::Entropy, Feature::Modules] {
        assert_eq!(answered.response(feature), 0, "{feature:?}");
    }
}

#[test]
fn tables_are_physical_where_the_revision_says() {
    let addresses = |revision| {
        let answered = Answered::new(&facts(revision, &[]));
        let address = |feature, index| answered.word(feature, index) & 0xffff_ffff_0000_0000 == 0;
        [address(Feature::Rsdp, 1), address(Feature::Smbios, 2), address(Feature::EfiSystemTable, 1)]
    };
    for revision in [0, 1, 2, 5, 6] {
        assert_eq!(addresses(revision), [false; 3], "{revision}");
    }
    assert_eq!(addresses(3), [true; 3]);
    assert_eq!(addresses(4), [false, true, true]);
}

#[test]
fn the_map_is_published_in_order() {
    for variant in [MapVariant::Plain, MapVariant::Reversed] {
        let facts = facts(6, &[]);
        let mut answered = Answered::new(&facts);
        let regions: Vec<_> =
            (0..4u64).map(|n| Region { range: Range::new(n * 0x2000, 0x1000), kind: Kind::Usable }).collect();
        let mut bytes = core::mem::take(&mut answered.bytes);
        let mut arena = Arena::new(&mut bytes, ARENA);
        let firmware = FirmwareMap { physical: 0x6000, size: 96, descriptor_size: 48, descriptor_version: 1 };
        answered.pending.publish(&mut arena, &regions, variant, firmware, HHDM_DEFAULT).unwrap();
        let more = vec![regions[0]; 5];
        assert!(answered.pending.publish(&mut arena, &more, variant, firmware, HHDM_DEFAULT).is_err());
        answered.bytes = bytes;
        assert_eq!(answered.word(Feature::MemoryMap, 1), 4);
        let list = answered.word(Feature::MemoryMap, 2);
        for n in 0..4 {
            let entry = answered.at(list, n);
            assert_eq!((answered.at(entry, 0), answered.at(entry, 1)), (n as u64 * 0x2000, 0x1000));
        }
        let descends = answered.at(list, 0) > answered.at(list, 3);
        assert_eq!(descends, variant == MapVariant::Reversed);
        assert_eq!(answered.word(Feature::EfiMemoryMap, 1), 0x6000 + HHDM_DEFAULT);
        assert_eq!(answered.word(Feature::EfiMemoryMap, 3), 48);
    }
}

#[test]
fn requests_with_arguments() {
    let mut image = image();
    let requests = Requests::scan(&image).unwrap();
    assert_eq!(stack_bytes(&requests, &image), STACK_BYTES_MIN);
    let mut set = |feature: Feature, index: usize, value: u64| {
        let at = 72 * feature.index() + 32 + 8 * index;
        image[at..at + 8].copy_from_slice(&value.to_le_bytes());
    };
    set(Feature::StackSize, 2, 100_001);
    set(Feature::Entropy, 2, 1 << 40);
    set(Feature::PagingMode, 4, 1);
    assert_eq!(stack_bytes(&requests, &image), 102_400);
    assert_eq!(entropy_words(&requests, &image), 512);
    assert_eq!(check_paging_mode(&requests, &image), Ok(()), "revision 0 has no least mode");
    let at = 72 * Feature::PagingMode.index() + 32;
    image[at] = 1;
    assert_eq!(check_paging_mode(&requests, &image), Err(RequestError::PagingMode(1)));
}

#[test]
fn a_small_arena_is_an_error() {
    let facts = facts(6, &[]);
    for size in [0, 15, 100, 300] {
        let mut image = image();
        let requests = Requests::scan(&image).unwrap();
        let mut bytes = vec![0; size];
        assert!(answer(&requests, &facts, &mut image, &mut Arena::new(&mut bytes, ARENA)).is_err());
    }
}

#[test]
fn processors_that_wait_are_listed() {
    let mut answered = Answered::new(&facts(6, &[]));
    let mut arena = Arena::new(&mut answered.bytes, ARENA);
    let second = answered.pending.processor(&arena, 1).unwrap();
    answered.pending.publish_processors(&mut arena, [0, 1].into_iter());
    assert_eq!(answered.word(Feature::Processors, 1), 3 << 32, "the one that runs");
    assert_eq!(answered.word(Feature::Processors, 2), 2);
    let pointers = answered.word(Feature::Processors, 3);
    assert_eq!(answered.at(pointers, 1), second);
    let first = answered.at(pointers, 0);
    assert_eq!([0, 1, 2, 3].map(|index| answered.at(first, index)), [9 | 3 << 32, 0, 0, 0]);
    assert_eq!(answered.at(second, 0), 8 | 0x123 << 32);
    let mut arena = Arena::new(&mut answered.bytes, ARENA);
    answered.pending.publish_processors(&mut arena, [0].into_iter());
    assert_eq!(answered.word(Feature::Processors, 2), 1, "the other did not come");
}
