//! What firmware tells of CPUs and interrupt controllers: ACPI's MADT (ACPI 6.5, section 5.2.12), or the older MP
//! configuration table (Intel MultiProcessor Specification 1.4, chapter 4). Pure logic over the tables' bytes.

/// Where an IOAPIC is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoApicRecord {
    /// Physical address of its registers.
    pub address: u64,
    /// Its first global system interrupt.
    pub first_interrupt: u32,
}

/// The IOAPICs that a MADT lists.
pub fn io_apics(madt: &[u8]) -> impl Iterator<Item = IoApicRecord> {
    const IO_APIC: u8 = 1;
    let record = |entry: &[u8]| {
        Some(IoApicRecord { address: u64::from(word(entry, 4)?), first_interrupt: word(entry, 8)? })
    };
    entries(madt).filter(|entry| entry[0] == IO_APIC).filter_map(record)
}

/// The numbers of the CPUs that a MADT lists and that can be used. Firmware may list one in two ways.
pub fn cpus(madt: &[u8]) -> impl Iterator<Item = u32> {
    const LOCAL_APIC: u8 = 0;
    const LOCAL_X2APIC: u8 = 9;
    const ENABLED: u32 = 1;
    entries(madt).filter_map(|entry| {
        let (id, flags) = match entry[0] {
            LOCAL_APIC => (u32::from(*entry.get(3)?), word(entry, 4)?),
            LOCAL_X2APIC => (word(entry, 4)?, word(entry, 8)?),
            _ => return None,
        };
        (flags & ENABLED != 0).then_some(id)
    })
}

/// The entries of a MADT: kind, length, and what they hold. Stops at one that is damaged.
fn entries(madt: &[u8]) -> impl Iterator<Item = &[u8]> {
    const FIRST: usize = 44;
    let mut rest = madt.get(FIRST..).unwrap_or_default();
    core::iter::from_fn(move || {
        let length = usize::from(*rest.get(1)?);
        let (entry, behind) = rest.split_at_checked(length).filter(|_| length >= 2)?;
        rest = behind;
        Some(entry)
    })
}

/// Where the MP configuration table is, by the pointer to it that lies somewhere in `area`, on a multiple of 16.
pub fn mp_table(area: &[u8]) -> Option<u64> {
    const POINTER_BYTES: usize = 16;
    let is_pointer = |bytes: &&[u8]| bytes.starts_with(b"_MP_") && bytes[8] == 1 && adds_up(bytes);
    let pointer = area.chunks_exact(POINTER_BYTES).find(is_pointer)?;
    word(pointer, 4).filter(|&address| address != 0).map(u64::from)
}

/// How long an MP configuration table is by its header, in bytes.
pub fn mp_length(header: &[u8]) -> Option<usize> {
    let length = u16::from_le_bytes(header.get(4..6)?.try_into().ok()?);
    header.starts_with(b"PCMP").then_some(usize::from(length))
}

/// The numbers of the CPUs that a whole MP configuration table lists and that can be used.
pub fn mp_cpus(table: &[u8]) -> impl Iterator<Item = u32> {
    const FIRST: usize = 44;
    const CPU: u8 = 0;
    const CPU_BYTES: usize = 20;
    const OTHER_BYTES: usize = 8;
    const ENABLED: u8 = 1;
    let mut rest = if adds_up(table) { table.get(FIRST..).unwrap_or_default() } else { &[] };
    let entries = core::iter::from_fn(move || {
        let length = if *rest.first()? == CPU { CPU_BYTES } else { OTHER_BYTES };
        let (entry, behind) = rest.split_at_checked(length)?;
        rest = behind;
        Some(entry)
    });
    entries.filter(|entry| entry[0] == CPU && entry[3] & ENABLED != 0).map(|entry| u32::from(entry[1]))
}

/// The sum of a table's bytes is 0 if nothing is damaged.
pub fn adds_up(bytes: &[u8]) -> bool {
    bytes.iter().fold(0u8, |sum, &byte| sum.wrapping_add(byte)) == 0
}

/// Four bytes of a table.
pub fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes)
}
