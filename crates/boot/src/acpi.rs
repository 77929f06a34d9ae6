//! Where the firmware's tables are: ACPI (specification 6.5, chapter 5.2) and SMBIOS (DSP0134 3.7, section 5.2).
//! Only addresses and lengths are read, for the memory map, and what is needed to quiet interrupt controllers and
//! IOMMUs. What firmware says is not trusted: every list and length is bounded.

use alloc::vec::Vec;

use crate::little_endian::{half, long, word};
use crate::memory_map::Range;

/// Reads physical memory.
pub trait PhysicalMemory {
    /// `length` bytes, or `None` where there is no memory.
    fn read(&self, physical: u64, length: usize) -> Option<&[u8]>;
}

/// The tables of ACPI.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AcpiTables {
    /// All of them.
    pub ranges: Vec<Range>,
    /// Interrupt controllers.
    pub madt: Option<Range>,
    /// Intel's IOMMUs.
    pub dmar: Option<Range>,
    /// AMD's IOMMUs.
    pub ivrs: Option<Range>,
}

/// The largest table that is believed, in bytes.
const TABLE_BYTES_MAX: u32 = 16 << 20;
/// The most tables that are believed.
const TABLES_MAX: usize = 512;
/// The header that every table but the FACS has.
const HEADER_BYTES: usize = 36;

impl AcpiTables {
    /// Follows the pointers from the root pointer at `rsdp`.
    pub fn find(memory: &impl PhysicalMemory, rsdp: u64) -> Self {
        const RSDP_BYTES_1: usize = 20;
        const RSDP_BYTES_2: usize = 36;
        let mut tables = Self::default();
        let Some(root) = memory.read(rsdp, RSDP_BYTES_1).filter(|root| root.starts_with(b"RSD PTR ")) else {
            return tables;
        };
        let (revision, rsdt) = (root[15], u64::from(long(root, 16)));
        tables.root(memory, rsdt, 4);
        if revision >= 2
            && let Some(root) = memory.read(rsdp, RSDP_BYTES_2)
        {
            tables.ranges.push(Range::new(rsdp, RSDP_BYTES_2 as u64));
            tables.root(memory, word(root, 24), 8);
        } else {
            tables.ranges.push(Range::new(rsdp, RSDP_BYTES_1 as u64));
        }
        tables
    }

    /// RSDT or XSDT: a table of pointers of `pointer_bytes` each.
    fn root(&mut self, memory: &impl PhysicalMemory, address: u64, pointer_bytes: usize) {
        let Some(table) = self.table(memory, address) else { return };
        for pointer in table[HEADER_BYTES..].chunks_exact(pointer_bytes).take(TABLES_MAX) {
            let address = if pointer_bytes == 8 { word(pointer, 0) } else { u64::from(long(pointer, 0)) };
            let Some(table) = self.table(memory, address) else { continue };
            let range = Some(Range::new(address, table.len() as u64));
            match &table[..4] {
                b"APIC" => self.madt = range,
                b"DMAR" => self.dmar = range,
                b"IVRS" => self.ivrs = range,
                b"FACP" => self.fixed_description(memory, table),
                _ => {}
            }
        }
    }

    /// FACS and DSDT, each by its 32-bit and its 64-bit field.
    fn fixed_description(&mut self, memory: &impl PhysicalMemory, table: &[u8]) {
        let short = |at: usize| table.get(at..at + 4).map_or(0, |bytes| u64::from(long(bytes, 0)));
        let wide = |at: usize| table.get(at..at + 8).map_or(0, |bytes| word(bytes, 0));
        for facs in [short(36), wide(132)] {
            let header = memory.read(facs, 8).filter(|header| facs != 0 && header.starts_with(b"FACS"));
            if let Some(length) = header.map(|header| long(header, 4)).filter(|n| *n <= TABLE_BYTES_MAX) {
                self.ranges.push(Range::new(facs, u64::from(length)));
            }
        }
        for dsdt in [short(40), wide(140)] {
            self.table(memory, dsdt);
        }
    }

    /// Notes a table and gives its bytes; `None` if there is none.
    fn table<'m>(&mut self, memory: &'m impl PhysicalMemory, address: u64) -> Option<&'m [u8]> {
        if address == 0 || self.ranges.len() >= TABLES_MAX {
            return None;
        }
        let length = long(memory.read(address, HEADER_BYTES)?, 4);
        if length < HEADER_BYTES as u32 || length > TABLE_BYTES_MAX {
            return None;
        }
        let bytes = memory.read(address, length as usize)?;
        self.ranges.push(Range::new(address, u64::from(length)));
        Some(bytes)
    }
}

/// Physical addresses of the I/O APICs that a MADT lists (type 1).
pub fn io_apics(madt: &[u8]) -> impl Iterator<Item = u64> {
    madt_entries(madt)
        .filter(|entry| entry[0] == 1 && entry.len() >= 12)
        .map(|entry| u64::from(long(entry, 4)))
}

/// A processor that can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Processor {
    /// ACPI's name for it.
    pub uid: u32,
    /// How interrupts are addressed to it.
    pub apic_id: u32,
}

/// The processors that a MADT lists as enabled (types 0 and 9), each once.
pub fn processors(madt: &[u8]) -> Vec<Processor> {
    const ENABLED: u32 = 1;
    let mut processors: Vec<Processor> = Vec::new();
    for entry in madt_entries(madt) {
        let (uid, apic_id, flags) = match entry[0] {
            0 if entry.len() >= 8 => (u32::from(entry[2]), u32::from(entry[3]), long(entry, 4)),
            9 if entry.len() >= 16 => (long(entry, 12), long(entry, 4), long(entry, 8)),
            _ => continue,
        };
        let is_new = processors.iter().all(|other| other.apic_id != apic_id);
        if flags & ENABLED != 0 && is_new {
            processors.push(Processor { uid, apic_id });
        }
    }
    processors
}

/// For LINT0 and LINT1 of the processor with this APIC id: the flags of an NMI that a MADT puts there (types 4, 0xa).
pub fn nmi_lints(madt: &[u8], apic_id: u32) -> [Option<u16>; 2] {
    let mut lints = [None; 2];
    let uid_of_processor = madt_entries(madt).find_map(|entry| match entry[0] {
        0 if entry.len() >= 8 && u32::from(entry[3]) == apic_id => Some(u32::from(entry[2])),
        9 if entry.len() >= 16 && long(entry, 4) == apic_id => Some(long(entry, 12)),
        _ => None,
    });
    for entry in madt_entries(madt) {
        let (all, uid, flags, lint) = match entry[0] {
            4 if entry.len() >= 6 => (0xff, u32::from(entry[2]), half(entry, 3), entry[5]),
            0xa if entry.len() >= 12 => (u32::MAX, long(entry, 4), half(entry, 2), entry[8]),
            _ => continue,
        };
        if (uid == all || Some(uid) == uid_of_processor)
            && let Some(slot) = lints.get_mut(usize::from(lint))
        {
            *slot = Some(flags);
        }
    }
    lints
}

/// Entries of a MADT: type, length, and what they contain. Stops at the first that is damaged.
fn madt_entries(madt: &[u8]) -> impl Iterator<Item = &[u8]> {
    const FIRST: usize = 44;
    let mut rest = madt.get(FIRST..).unwrap_or_default();
    core::iter::from_fn(move || {
        let length = usize::from(*rest.get(1)?);
        let (entry, behind) = rest.split_at_checked(length).filter(|_| length >= 2)?;
        rest = behind;
        Some(entry)
    })
}

/// Physical addresses of the registers of the IOMMUs in a DMAR (Intel VT-d 4.1, section 8.3, structure type 0).
pub fn vtd_units(dmar: &[u8]) -> impl Iterator<Item = u64> {
    wide_entries(dmar).filter(|entry| half(entry, 0) == 0 && entry.len() >= 16).map(|entry| word(entry, 8))
}

/// Physical addresses of the registers of the IOMMUs in an IVRS (AMD I/O virtualization 3.08, section 5.2.2, IVHD).
pub fn amd_vi_units(ivrs: &[u8]) -> impl Iterator<Item = u64> {
    let is_unit = |entry: &&[u8]| matches!(entry[0], 0x10 | 0x11 | 0x40) && entry.len() >= 16;
    wide_entries(ivrs).filter(is_unit).map(|entry| word(entry, 8))
}

/// Entries of a DMAR or IVRS: 16 bits of type, 16 bits of length.
fn wide_entries(table: &[u8]) -> impl Iterator<Item = &[u8]> {
    const FIRST: usize = 48;
    let mut rest = table.get(FIRST..).unwrap_or_default();
    core::iter::from_fn(move || {
        let length = usize::from(half(rest.get(..4)?, 2));
        let (entry, behind) = rest.split_at_checked(length).filter(|_| length >= 4)?;
        rest = behind;
        Some(entry)
    })
}

/// An SMBIOS entry point, 32-bit or 64-bit, and the structures that it points to; nothing if there is none.
pub fn smbios_ranges(memory: &impl PhysicalMemory, entry: u64) -> Vec<Range> {
    let anchor = |length: usize, anchor: &[u8]| memory.read(entry, length).filter(|e| e.starts_with(anchor));
    if let Some(bytes) = anchor(0x18, b"_SM3_") {
        let table = Range::new(word(bytes, 0x10), u64::from(long(bytes, 0x0c)));
        return [Range::new(entry, u64::from(bytes[6])), table].into();
    }
    if let Some(bytes) = anchor(0x1f, b"_SM_") {
        let table = Range::new(u64::from(long(bytes, 0x18)), u64::from(half(bytes, 0x16)));
        return [Range::new(entry, u64::from(bytes[5])), table].into();
    }
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use proptest::prelude::*;

    struct Fake(Vec<u8>);

    impl PhysicalMemory for Fake {
        fn read(&self, physical: u64, length: usize) -> Option<&[u8]> {
            let start = usize::try_from(physical).ok()?;
            self.0.get(start..start.checked_add(length)?)
        }
    }

    impl Fake {
        fn put(&mut self, at: usize, bytes: &[u8]) {
            self.0[at..at + bytes.len()].copy_from_slice(bytes);
        }

        fn table(&mut self, at: usize, name: &[u8], length: u32) {
            self.put(at, name);
            self.put(at + 4, &length.to_le_bytes());
        }
    }

    /// RSDP at 0x10, XSDT with FADT and MADT; the FADT has a FACS and a DSDT.
    fn machine() -> Fake {
        let mut fake = Fake(vec![0; 0x1000]);
        fake.put(0x10, b"RSD PTR ");
        fake.put(0x1f, &[2]);
        fake.put(0x28, &0x100u64.to_le_bytes());
        fake.table(0x100, b"XSDT", 52);
        fake.put(0x124, &0x200u64.to_le_bytes());
        fake.put(0x12c, &0x400u64.to_le_bytes());
        fake.table(0x200, b"FACP", 244);
        fake.put(0x224, &0x380u32.to_le_bytes());
        fake.put(0x228, &0x300u32.to_le_bytes());
        fake.table(0x380, b"FACS", 64);
        fake.table(0x300, b"DSDT", 40);
        fake.table(0x400, b"APIC", 44 + 8 + 12 + 6);
        fake.put(0x42c, &[0, 8, 3, 7]);
        fake.put(0x434, &[1, 12, 0, 0, 0, 0, 0xc0, 0xfe]);
        fake.put(0x440, &[4, 6, 0xff, 5, 0, 1]);
        fake
    }

    #[test]
    fn tables_are_found() {
        let tables = AcpiTables::find(&machine(), 0x10);
        let mut ranges: Vec<_> = tables.ranges.iter().map(|range| (range.base, range.length())).collect();
        ranges.sort_unstable();
        let expected = [(0x10, 36), (0x100, 52), (0x200, 244), (0x300, 40), (0x380, 64), (0x400, 70)];
        assert_eq!(ranges, expected);
        assert_eq!(tables.madt, Some(Range::new(0x400, 70)));
    }

    #[test]
    fn interrupt_controllers_are_read() {
        let machine = machine();
        let madt = &machine.0[0x400..0x400 + 70];
        assert_eq!(io_apics(madt).collect::<Vec<_>>(), [0xfec0_0000]);
        assert_eq!(nmi_lints(madt, 7), [None, Some(5)]);
        assert_eq!(processors(madt), [], "not enabled");
        let mut enabled = madt.to_vec();
        enabled[0x30] = 1;
        assert_eq!(processors(&enabled), [Processor { uid: 3, apic_id: 7 }]);
        let mut one = madt.to_vec();
        one[0x42] = 3; // only for processor 3, which has APIC id 7
        assert_eq!(nmi_lints(&one, 7), [None, Some(5)]);
        assert_eq!(nmi_lints(&one, 6), [None, None]);
    }

    #[test]
    fn iommus_are_read() {
        let mut table = vec![0; 48];
        table.extend([0, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0xd9, 0xfe, 0, 0, 0, 0]);
        table.extend([1, 0, 8, 0, 0, 0, 0, 0]);
        assert_eq!(vtd_units(&table).collect::<Vec<_>>(), [0xfed9_0000]);
        table[48] = 0x10;
        assert_eq!(amd_vi_units(&table).collect::<Vec<_>>(), [0xfed9_0000]);
    }

    #[test]
    fn smbios_is_read() {
        let mut fake = Fake(vec![0; 0x100]);
        fake.put(0x10, b"_SM3_\0\x18");
        fake.put(0x1c, &0x44u32.to_le_bytes());
        fake.put(0x20, &0x2000u64.to_le_bytes());
        assert_eq!(smbios_ranges(&fake, 0x10), [Range::new(0x10, 0x18), Range::new(0x2000, 0x44)]);
        assert_eq!(smbios_ranges(&fake, 0x11), []);
    }

    proptest! {
        #[test]
        fn damaged_tables_never_panic(flips in prop::collection::vec((0usize..0x480, any::<u8>()), 0..30)) {
            let mut fake = machine();
            for (place, byte) in flips {
                fake.0[place] ^= byte;
            }
            let tables = AcpiTables::find(&fake, 0x10);
            prop_assert!(tables.ranges.len() <= TABLES_MAX + 8);
            for range in [tables.madt, tables.dmar, tables.ivrs].into_iter().flatten() {
                let table = fake.read(range.base, range.length() as usize).unwrap();
                let _ = (io_apics(table).count(), nmi_lints(table, 0), processors(table));
                let _ = (vtd_units(table).count(), amd_vi_units(table).count());
            }
        }
    }
}
