//! The few facts that the kernel takes from ACPI (ACPI 6.5): interrupt controllers and CPUs, and how to power off.

use crate::madt::{adds_up, word};
use crate::mapper::Mapper;

/// What to write to power off.
#[derive(Clone, Copy, Debug)]
pub struct SoftOff {
    /// The port of the PM1a control block.
    pub port_a: u16,
    /// The port of PM1b, or 0.
    pub port_b: u16,
    /// Sleep types for the two.
    pub types: [u16; 2],
    /// Port and value that turn ACPI on, if it may be off.
    pub enable: Option<(u16, u8)>,
}

/// The most that is read of one table, in bytes: real ones are smaller.
const TABLE_BYTES_MAX: u32 = 4 << 20;
const HEADER_BYTES: usize = 36;

/// The table of interrupt controllers and CPUs (section 5.2.12).
pub fn madt(mapper: &mut Mapper, rsdp: u64) -> Option<&'static [u8]> {
    find(mapper, rsdp, *b"APIC")
}

/// How to enter S5 (section 7.4.2.5).
pub fn soft_off(mapper: &mut Mapper, rsdp: u64) -> Option<SoftOff> {
    const DSDT_AT: usize = 40;
    const X_DSDT_AT: usize = 140;
    const COMMAND_PORT_AT: usize = 48;
    const ENABLE_AT: usize = 52;
    const PM1A_AT: usize = 64;
    const PM1B_AT: usize = 68;
    let fadt = find(mapper, rsdp, *b"FACP")?;
    let wide = fadt
        .get(X_DSDT_AT..X_DSDT_AT + 8)
        .and_then(|bytes| bytes.try_into().ok())
        .map_or(0, u64::from_le_bytes);
    let dsdt = if wide != 0 { wide } else { u64::from(word(fadt, DSDT_AT)?) };
    let types = sleep_types(table(mapper, dsdt)?)?;
    let port = |at| word(fadt, at).and_then(|port| u16::try_from(port).ok());
    let command = port(COMMAND_PORT_AT).filter(|&port| port != 0);
    let enable = command.zip(fadt.get(ENABLE_AT).copied()).filter(|&(_, value)| value != 0);
    let port_a = port(PM1A_AT).filter(|&port| port != 0)?;
    Some(SoftOff { port_a, port_b: port(PM1B_AT).unwrap_or(0), types, enable })
}

/// The two sleep types in `Name (_S5_, Package () { a, b, … })`, as bytecode (section 20.2).
fn sleep_types(dsdt: &[u8]) -> Option<[u16; 2]> {
    const PACKAGE: u8 = 0x12;
    const BYTE_PREFIX: u8 = 0x0a;
    let at = dsdt.windows(4).position(|name| name == b"_S5_")? + 4;
    let mut rest = dsdt.get(at..)?;
    if *rest.first()? != PACKAGE {
        return None;
    }
    // The package's length: the two top bits of its first byte say how many bytes follow; then the number of elements.
    rest = rest.get(1 + usize::from(*rest.get(1)? >> 6) + 2..)?;
    let mut next = || {
        let (value, used) = match *rest.first()? {
            BYTE_PREFIX => (*rest.get(1)?, 2),
            value @ 0..=1 => (value, 1),
            _ => return None,
        };
        rest = &rest[used..];
        Some(u16::from(value))
    };
    Some([next()?, next()?])
}

/// The table with this signature.
fn find(mapper: &mut Mapper, rsdp: u64, signature: [u8; 4]) -> Option<&'static [u8]> {
    const RSDP_BYTES: usize = 20;
    const RSDP_BYTES_2: usize = 36;
    let root = mapper.bytes(rsdp, RSDP_BYTES)?;
    if !root.starts_with(b"RSD PTR ") || !adds_up(root) {
        return None;
    }
    let wide = root[15] >= 2;
    let (address, width) = if wide {
        let root = mapper.bytes(rsdp, RSDP_BYTES_2)?;
        (u64::from_le_bytes(root[24..32].try_into().ok()?), 8)
    } else {
        (u64::from(word(root, 16)?), 4)
    };
    let list = table(mapper, address)?;
    let mut pointers = list[HEADER_BYTES..].chunks_exact(width).map(|bytes| {
        let mut wide = [0; 8];
        wide[..width].copy_from_slice(bytes);
        u64::from_le_bytes(wide)
    });
    let address = pointers
        .find(|&address| mapper.bytes(address, HEADER_BYTES).is_some_and(|at| at.starts_with(&signature)))?;
    table(mapper, address)
}

/// A table as long as its header says, if its sum is right.
fn table(mapper: &mut Mapper, address: u64) -> Option<&'static [u8]> {
    let length = word(mapper.bytes(address, HEADER_BYTES)?, 4)?;
    if length < HEADER_BYTES as u32 || length > TABLE_BYTES_MAX {
        return None;
    }
    mapper.bytes(address, length as usize).filter(|table| adds_up(table))
}
