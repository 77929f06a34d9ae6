//! What the registers of interrupt controllers are to hold at entry ("Machine State at Entry"). The delivery mode
//! stands in bits 8 to 10 of an entry, the mask in bit 16 (Intel SDM volume 3, section 11.5.1).

use crate::protocol::BaseRevision;

const MASKED: u32 = 1 << 16;
const FIXED: u32 = 0;
const LOWEST_PRIORITY: u32 = 1;
const NMI: u32 = 4;
const EXT_INT: u32 = 7;

const fn delivery_mode(entry: u32) -> u32 {
    entry >> 8 & 7
}

/// The low half of an I/O APIC's redirection entry.
pub fn redirection_entry(current: u32, revision: BaseRevision) -> u32 {
    match delivery_mode(current) {
        FIXED | LOWEST_PRIORITY => current | MASKED,
        NMI | EXT_INT if revision.has_strict_machine_state() => current | MASKED,
        _ => current,
    }
}

/// An entry of a local APIC's vector table; `nmi`: flags of an NMI that the MADT puts on this input.
pub fn local_vector(current: u32, nmi: Option<u16>) -> u32 {
    const ACTIVE_LOW: u16 = 0b11;
    const LEVEL: u16 = 0b11;
    match (delivery_mode(current), nmi) {
        (FIXED | LOWEST_PRIORITY | NMI | EXT_INT, Some(flags)) => {
            // MPS INTI flags (ACPI 6.5, table 5.26): polarity in bits 0 and 1, trigger in bits 2 and 3.
            let polarity = u32::from(flags & 3 == ACTIVE_LOW) << 13;
            let trigger = u32::from(flags >> 2 & 3 == LEVEL) << 15;
            MASKED | NMI << 8 | polarity | trigger
        }
        (FIXED | LOWEST_PRIORITY | NMI | EXT_INT, None) => current | MASKED,
        _ => current,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirection_entries_are_masked_by_mode_and_revision() {
        let revision = |number| BaseRevision::new(number).unwrap();
        assert_eq!(redirection_entry(0x0020, revision(0)), 0x1_0020);
        assert_eq!(redirection_entry(0x0120, revision(4)), 0x1_0120);
        assert_eq!(redirection_entry(0x0700, revision(4)), 0x0700);
        assert_eq!(redirection_entry(0x0700, revision(5)), 0x1_0700);
        assert_eq!(redirection_entry(0x0400, revision(6)), 0x1_0400);
        assert_eq!(redirection_entry(0x0200, revision(6)), 0x0200, "SMI stays");
    }

    #[test]
    fn local_vectors() {
        assert_eq!(local_vector(0x0700, None), 0x1_0700);
        assert_eq!(local_vector(0x0200, Some(0)), 0x0200, "SMI stays");
        assert_eq!(local_vector(0x0700, Some(0b0101)), 0x1_0400, "edge, active high");
        assert_eq!(local_vector(0x0000, Some(0b1111)), 0x1_a400, "level, active low");
    }
}
