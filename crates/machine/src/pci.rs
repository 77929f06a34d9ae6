//! PCI functions, through the configuration ports (PCI Local Bus 3.0, section 3.2.2.3.2 and chapter 6).

use crate::cpu::{in32, out32, physical_end};
use crate::mapper::Mapper;
use crate::registers::Registers;
use crate::tlb::Relax;
use abi::boot::{DEVICES_MAX, DeviceKind, DeviceRecord};
use abi::{PAGE_SIZE, Span};
use alloc::vec::Vec;
use kernel::ByteRange;
use spin::mutex::TicketMutex;

const ADDRESS_PORT: u16 = 0xcf8;
const DATA_PORT: u16 = 0xcfc;
const ADDRESS_ENABLE: u32 = 1 << 31;

const VENDOR_VIRTIO: u32 = 0x1af4;
const IDENTITY: u8 = 0x00;
const COMMAND: u8 = 0x04;
const COMMAND_DECODE: u32 = 0b11;
const COMMAND_BUS_MASTER: u32 = 1 << 2;
const CLASS: u8 = 0x08;
const HEADER_TYPE: u8 = 0x0c;
const HEADER_BRIDGE: u32 = 1;
const BARS: u8 = 0x10;
const BAR_COUNT: usize = 6;
const BUS_NUMBERS: u8 = 0x18;
const CAPABILITIES: u8 = 0x34;
/// Where capabilities lie: behind the header.
const CAPABILITIES_FIRST: u8 = 0x40;
const CAPABILITIES_BYTES: u8 = 192;
const CAPABILITY_MSI_X: u32 = 0x11;
/// There are no more capabilities than fit behind the header: a longer list is a loop.
const CAPABILITIES_MAX: usize = 48;
/// Buses are numbered below this; a bridge that names another was not set up.
const BUSES_MAX: u32 = 256;

/// Held between the writing of an address and the access to what is there.
static PORTS: TicketMutex<(), Relax> = TicketMutex::new(());

/// The place of a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address(u32);

/// A function that the domain gets.
pub struct Function {
    /// Its place.
    pub address: Address,
    /// Its device record, without a handle.
    pub record: DeviceRecord,
    /// What the domain must not write.
    pub locked: Vec<ByteRange>,
    /// Its MSI-X table.
    pub table: Option<Table>,
}

/// Where interrupts go, and whether they come: domains must only read it.
#[derive(Clone, Copy)]
pub struct Table {
    registers: Registers,
    /// The pages that it lies in, by physical address.
    pages: Span,
}

impl Table {
    /// Whether a part of it lies in this page, by physical address.
    pub fn reaches(&self, page: u64) -> bool {
        self.pages.contains(Span::new(page, PAGE_SIZE))
    }
}

impl Address {
    /// Reads 4 bytes of the configuration space at a multiple of 4.
    pub fn read(self, offset: u8) -> u32 {
        let _ports = PORTS.lock();
        out32(ADDRESS_PORT, self.0 | u32::from(offset));
        in32(DATA_PORT)
    }

    /// Writes 4 bytes of the configuration space at a multiple of 4.
    pub fn write(self, offset: u8, value: u32) {
        let _ports = PORTS.lock();
        out32(ADDRESS_PORT, self.0 | u32::from(offset));
        out32(DATA_PORT, value);
    }

    const fn new(bus: u32, device: u32, function: u32) -> Self {
        Self(ADDRESS_ENABLE | bus << 16 | device << 11 | function << 8)
    }
}

/// The virtio functions of the machine.
pub fn functions(mapper: &mut Mapper) -> Vec<Function> {
    let mut found = Vec::new();
    out32(ADDRESS_PORT, ADDRESS_ENABLE);
    if in32(ADDRESS_PORT) == ADDRESS_ENABLE {
        let mut seen = [false; BUSES_MAX as usize];
        scan_bus(mapper, 0, &mut seen, &mut found);
    }
    found
}

fn scan_bus(mapper: &mut Mapper, bus: u32, seen: &mut [bool; BUSES_MAX as usize], found: &mut Vec<Function>) {
    if core::mem::replace(&mut seen[bus as usize], true) {
        return;
    }
    for device in 0..32 {
        let many = Address::new(bus, device, 0).read(HEADER_TYPE) >> 23 & 1 != 0;
        for function in 0..if many { 8 } else { 1 } {
            let address = Address::new(bus, device, function);
            let identity = address.read(IDENTITY);
            if identity & 0xffff == 0xffff {
                continue;
            }
            match address.read(HEADER_TYPE) >> 16 & 0x7f {
                0 if identity & 0xffff == VENDOR_VIRTIO && found.len() < DEVICES_MAX => {
                    found.push(describe(mapper, address, identity));
                }
                HEADER_BRIDGE => scan_bus(mapper, address.read(BUS_NUMBERS) >> 8 & 0xff, seen, found),
                _ => (),
            }
        }
    }
}

fn describe(mapper: &mut Mapper, address: Address, identity: u32) -> Function {
    // Firmware may have driven the device, which still knows addresses of memory that is somebody else's now.
    let command = address.read(COMMAND) & 0xffff;
    address.write(COMMAND, command & !COMMAND_BUS_MASTER);
    let windows = windows(address);
    let class = address.read(CLASS);
    let record = DeviceRecord { kind: DeviceKind::Pci, identity, class, windows, ..DeviceRecord::default() };
    let mut function = Function { address, record, locked: Vec::new(), table: None };
    // A driver writes to none of the capabilities. Some are ways to interrupts (MSI) or to any BAR (virtio 1.2, section 4.1.4.9), and nobody
    // knows what one that is not listed may be.
    function.locked.push(ByteRange { first: CAPABILITIES_FIRST, count: CAPABILITIES_BYTES });
    let mut at = address.read(CAPABILITIES) as u8 & 0xfc;
    for _ in 0..CAPABILITIES_MAX {
        if at < CAPABILITIES_FIRST {
            break;
        }
        let header = address.read(at);
        if header & 0xff == CAPABILITY_MSI_X {
            take_msi_x(mapper, &mut function, at, header);
        }
        at = (header >> 8) as u8 & 0xfc;
    }
    function
}

/// The memory BARs, measured by writing ones while the function does not decode (section 6.2.5.1).
fn windows(address: Address) -> [Span; BAR_COUNT] {
    const IS_PORTS: u32 = 1;
    const IS_WIDE: u32 = 0b100;
    const FLAGS: u64 = 0xf;
    let mut windows = [Span::default(); BAR_COUNT];
    let command = address.read(COMMAND) & 0xffff;
    address.write(COMMAND, command & !COMMAND_DECODE);
    let mut index = 0;
    while index < BAR_COUNT {
        let at = BARS + 4 * index as u8;
        let low = address.read(at);
        let wide = low & IS_PORTS == 0 && low & 0b110 == IS_WIDE && index + 1 < BAR_COUNT;
        let high = if wide { address.read(at + 4) } else { 0 };
        address.write(at, u32::MAX);
        let mut mask = u64::from(address.read(at)) | 0xffff_ffff << 32;
        address.write(at, low);
        if wide {
            address.write(at + 4, u32::MAX);
            mask = mask & 0xffff_ffff | u64::from(address.read(at + 4)) << 32;
            address.write(at + 4, high);
        }
        let base = (u64::from(high) << 32 | u64::from(low)) & !FLAGS;
        let length = (mask & !FLAGS).wrapping_neg();
        if low & IS_PORTS == 0 && base != 0 && mask as u32 & !(FLAGS as u32) != 0 || wide && base != 0 {
            let window = Span::new(base, length);
            let is_reachable = window.end().is_some_and(|end| end <= physical_end());
            windows[index] = if is_reachable { window } else { Span::default() };
        }
        index += if wide { 2 } else { 1 };
    }
    address.write(COMMAND, command);
    windows
}

/// Maps the MSI-X table for the kernel, masks all vectors and turns MSI-X on (section 6.8.2).
fn take_msi_x(mapper: &mut Mapper, function: &mut Function, at: u8, header: u32) {
    const ENABLE: u32 = 1 << 31;
    const MASK_ALL: u32 = 1 << 30;
    let count = (header >> 16 & 0x7ff) + 1;
    let place = function.address.read(at + 4);
    let window = function.record.windows.get((place & 7) as usize).copied().unwrap_or_default();
    let table = Span::new(window.base + u64::from(place & !7), u64::from(count) * MSI_X_ENTRY_BYTES as u64);
    if !window.contains(table) || window.length == 0 {
        return;
    }
    let Some(registers) = mapper.registers(table.base, table.length) else { return };
    let first = table.base / PAGE_SIZE * PAGE_SIZE;
    let end = (table.base + table.length).next_multiple_of(PAGE_SIZE);
    let table = Table { registers, pages: Span::new(first, end - first) };
    function.record.interrupt_count = count;
    function.table = Some(table);
    let command = function.address.read(COMMAND) & 0xffff;
    function.address.write(COMMAND, command | COMMAND_DECODE);
    (0..count).for_each(|vector| set_masked(table, vector, Masked::Yes));
    function.address.write(COMMAND, command);
    function.address.write(at, header & !MASK_ALL | ENABLE);
}

const MSI_X_ENTRY_BYTES: usize = 16;

/// Whether an MSI-X vector is held back.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Masked {
    /// What comes is remembered by the device.
    Yes,
    /// What comes is sent.
    No,
}

/// Sends an MSI-X vector of a device to `vector` of the CPU `apic_id` (Intel SDM volume 3, section 11.11). Masked.
pub fn route(table: Table, line: u32, vector: u8, apic_id: u8) {
    let entry = line as usize * MSI_X_ENTRY_BYTES;
    table.registers.write(entry, 0xfee0_0000 | u32::from(apic_id) << 12);
    table.registers.write(entry + 4, 0);
    table.registers.write(entry + 8, u32::from(vector));
}

/// Masks or unmasks one MSI-X vector. The function must decode its memory.
pub fn set_masked(table: Table, line: u32, masked: Masked) {
    table.registers.write(line as usize * MSI_X_ENTRY_BYTES + 12, u32::from(masked == Masked::Yes));
}
