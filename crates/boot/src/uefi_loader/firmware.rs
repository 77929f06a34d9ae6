//! What the firmware knows: its tables, the time, random numbers.

use alloc::vec::Vec;

use boot::acpi::{self, AcpiTables, PhysicalMemory};
use boot::date::Calendar;
use boot::memory_map::Range;
use uefi::proto::rng::Rng;
use uefi::table::cfg::ConfigTableEntry;
use uefi::{boot as services, runtime, system, table};

use super::{files, machine};

/// Physical memory, which the firmware maps to itself.
pub struct IdentityMapped;

impl PhysicalMemory for IdentityMapped {
    fn read(&self, physical: u64, length: usize) -> Option<&[u8]> {
        /// No processor has more physical address bits (Intel SDM volume 3, section 4.1.4).
        const PHYSICAL_END: u64 = 1 << 52;
        let end = physical.checked_add(length as u64)?;
        if physical == 0 || end > PHYSICAL_END {
            return None;
        }
        // SAFETY: 1. the address comes from a table that the firmware published for us to follow, and the firmware
        // maps what its tables point to; 2. nobody writes to these tables while the loader runs.
        Some(unsafe { core::slice::from_raw_parts(physical as *const u8, length) })
    }
}

/// Where the firmware's tables are.
pub struct Tables {
    /// ACPI's root pointer.
    pub rsdp: Option<u64>,
    /// What it leads to.
    pub acpi: AcpiTables,
    /// SMBIOS entry point, 32-bit.
    pub smbios_32: Option<u64>,
    /// SMBIOS entry point, 64-bit.
    pub smbios_64: Option<u64>,
    /// The system table.
    pub system: u64,
}

impl Tables {
    /// Asks the firmware.
    pub fn find() -> Self {
        let (mut acpi_1, mut acpi_2, mut smbios_32, mut smbios_64) = (None, None, None, None);
        system::with_config_table(|entries| {
            for entry in entries {
                let slot = match entry.guid {
                    ConfigTableEntry::ACPI_GUID => &mut acpi_1,
                    ConfigTableEntry::ACPI2_GUID => &mut acpi_2,
                    ConfigTableEntry::SMBIOS_GUID => &mut smbios_32,
                    ConfigTableEntry::SMBIOS3_GUID => &mut smbios_64,
                    _ => continue,
                };
                *slot = Some(entry.address as u64);
            }
        });
        let rsdp = acpi_2.or(acpi_1);
        let acpi = rsdp.map(|rsdp| AcpiTables::find(&IdentityMapped, rsdp)).unwrap_or_default();
        let system = table::system_table_raw().map_or(0, |table| table.as_ptr() as u64);
        Self { rsdp, acpi, smbios_32, smbios_64, system }
    }

    /// SMBIOS and the parts of the system table that stay valid ("Base Revision 5").
    pub fn other_ranges(&self) -> Vec<Range> {
        let entries = [self.smbios_32, self.smbios_64].into_iter().flatten();
        let mut ranges: Vec<Range> =
            entries.flat_map(|entry| acpi::smbios_ranges(&IdentityMapped, entry)).collect();
        let Some(system) = table::system_table_raw() else { return ranges };
        // SAFETY: the system table is valid as long as the loader runs.
        let system = unsafe { system.as_ref() };
        let vendor = system::firmware_vendor().num_bytes() as u64;
        // SAFETY: the runtime services table is valid as long as the machine runs.
        let runtime_bytes = unsafe { (*system.runtime_services).header.size };
        let entry_bytes = size_of::<ConfigTableEntry>() as u64;
        ranges.extend([
            Range::new(self.system, u64::from(system.header.size)),
            Range::new(system.firmware_vendor as u64, vendor),
            Range::new(system.runtime_services as u64, u64::from(runtime_bytes)),
            Range::new(
                system.configuration_table as u64,
                system.number_of_configuration_table_entries as u64 * entry_bytes,
            ),
        ]);
        ranges
    }
}

/// Seconds since 1970; `None` without a clock.
pub fn unix_seconds() -> Option<i64> {
    let time = runtime::get_time().ok()?;
    let calendar = Calendar {
        year: time.year(),
        month: time.month(),
        day: time.day(),
        hour: time.hour(),
        minute: time.minute(),
        second: time.second(),
        offset_minutes: time.time_zone(),
    };
    calendar.unix_seconds()
}

/// `count` random words from the firmware's generator and the processor's, combined; none if there is neither: a
/// kernel must not be told that something guessable is random.
pub fn entropy(count: usize) -> Vec<u64> {
    if count == 0 {
        return Vec::new();
    }
    let firmware = firmware_entropy(count);
    let processor: Option<Vec<u64>> = (0..count).map(|_| machine::random_word()).collect();
    match (firmware, processor) {
        (Some(one), Some(other)) => one.iter().zip(other).map(|(a, b)| a ^ b).collect(),
        (one, other) => one.or(other).unwrap_or_default(),
    }
}

fn firmware_entropy(count: usize) -> Option<Vec<u64>> {
    let handle = services::get_handle_for_protocol::<Rng>().ok()?;
    let mut generator = files::look_at::<Rng>(handle)?;
    let mut bytes = alloc::vec![0; 8 * count];
    generator.get_rng(None, &mut bytes).ok()?;
    let words = bytes.chunks_exact(8).map(|bytes| u64::from_le_bytes(core::array::from_fn(|i| bytes[i])));
    Some(words.collect())
}
