//! The devices that the domain gets: virtio behind PCI and behind memory-mapped registers, and the real-time clock.

use crate::boot::Boot;
use crate::cpu::{in8, out8, physical_end};
use crate::pci;
use crate::x86::{Hardware, X86};
use abi::Span;
use abi::boot::{DEVICES_MAX, DeviceKind, DeviceRecord};
use alloc::vec::Vec;
use kernel::Device;

/// Finds them. Their places are noted in `machine`.
pub fn find(machine: &mut X86, boot: &Boot) -> Vec<Device> {
    let mut devices = Vec::with_capacity(DEVICES_MAX);
    for function in pci::functions(machine.mapper.get_mut()) {
        let hardware = Hardware::Pci(function.address, function.table);
        let device = Device { number: 0, record: function.record, locked: function.locked };
        add(machine, &mut devices, device, hardware);
    }
    for (memory, interrupt) in boot.arguments().filter_map(virtio_mmio) {
        let mut record =
            DeviceRecord { kind: DeviceKind::VirtioMmio, interrupt_count: 1, ..DeviceRecord::default() };
        record.windows[0] = memory;
        if is_present(machine, memory) {
            add(machine, &mut devices, plain(record), Hardware::Line(interrupt));
        }
    }
    if has_real_time_clock() {
        let record = DeviceRecord { kind: DeviceKind::RealTimeClock, ..DeviceRecord::default() };
        add(machine, &mut devices, plain(record), Hardware::Ports(CLOCK_INDEX as u8, CLOCK_DATA as u8));
    }
    devices
}

fn add(machine: &mut X86, devices: &mut Vec<Device>, device: Device, hardware: Hardware) {
    if devices.len() < DEVICES_MAX {
        devices.push(Device { number: machine.hardware.len(), ..device });
        machine.hardware.push(hardware);
    }
}

fn plain(record: DeviceRecord) -> Device {
    Device { number: 0, record, locked: Vec::new() }
}

/// `virtio_mmio.device=<size>[K|M]@<base>:<interrupt>[:<id>]`, as Linux takes it (`drivers/virtio/virtio_mmio.c`) and
/// as QEMU's microvm and Firecracker append it.
fn virtio_mmio(argument: &str) -> Option<(Span, u32)> {
    let value = argument.strip_prefix("virtio_mmio.device=")?;
    let (size, place) = value.split_once('@')?;
    let mut place = place.split(':');
    let (digits, unit) = match size.as_bytes().last()? {
        b'K' | b'k' => (&size[..size.len() - 1], 1 << 10),
        b'M' | b'm' => (&size[..size.len() - 1], 1 << 20),
        _ => (size, 1),
    };
    let memory = Span::new(number(place.next()?)?, number(digits)?.checked_mul(unit)?);
    let interrupt = u32::try_from(number(place.next()?)?).ok()?;
    memory.end().filter(|&end| end <= physical_end() && memory.length > 0).map(|_| (memory, interrupt))
}

fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

/// Whether a device is plugged into a virtio-mmio slot (virtio 1.2, section 4.2.2): QEMU lists empty ones, too.
fn is_present(machine: &mut X86, memory: Span) -> bool {
    const MAGIC: (usize, u32) = (0x00, 0x7472_6976);
    const DEVICE_ID: usize = 0x08;
    let Some(registers) = machine.mapper.get_mut().registers(memory.base, memory.length) else {
        return false;
    };
    registers.read(MAGIC.0) == MAGIC.1 && registers.read(DEVICE_ID) != 0
}

/// Ports of the MC146818.
const CLOCK_INDEX: u16 = 0x70;
const CLOCK_DATA: u16 = 0x71;

/// Bits 0 to 6 of status register D read as zeros; with no clock there, as ones.
fn has_real_time_clock() -> bool {
    const STATUS_D: u8 = 0x0d;
    out8(CLOCK_INDEX, STATUS_D);
    in8(CLOCK_DATA) != 0xff
}
