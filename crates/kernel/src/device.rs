//! Devices: what was given to the domain, and where its interrupts go.

use crate::vcpu::Listener;
use abi::Error;
use abi::boot::{DeviceKind, DeviceRecord};
use alloc::vec::Vec;

/// The most interrupts of one device that a domain can listen to.
pub(crate) const LINES_MAX: u32 = 32;

/// A device as the machine found it.
#[derive(Clone, Debug)]
pub struct Device {
    /// Names it to the machine.
    pub number: usize,
    /// As the domain is told; the handle is filled in when it is.
    pub record: DeviceRecord,
    /// Parts of the configuration space that the domain must not write: MSI and MSI-X capabilities and what else
    /// would let it write to those registers by another way.
    pub locked: Vec<ByteRange>,
}

/// Bytes of a configuration space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteRange {
    /// Offset of the first.
    pub first: u8,
    /// How many.
    pub count: u8,
}

/// Parts of every PCI function's configuration space that a domain may write (PCI Local Bus 3.0, section 6.1):
/// command and status, cache line size and latency timer, interrupt line, and what lies behind the header.
const WRITABLE_HEADER: [u8; 3] = [0x04, 0x0c, 0x3c];
const HEADER_END: u8 = 0x40;

impl Device {
    /// The offset as the machine takes it, if a configuration space has it.
    pub(crate) fn check_offset(&self, offset: u32) -> Result<u8, Error> {
        if self.record.kind != DeviceKind::Pci {
            return Err(Error::Unsupported);
        }
        u8::try_from(offset).ok().filter(|offset| offset % 4 == 0).ok_or(Error::Malformed)
    }

    /// Whether the domain may write the 4 bytes at `offset`.
    pub(crate) fn may_write(&self, offset: u8) -> bool {
        let locked = |range: &ByteRange| {
            let end = u16::from(range.first) + u16::from(range.count);
            u16::from(offset) < end && u16::from(range.first) < u16::from(offset) + 4
        };
        (offset >= HEADER_END || WRITABLE_HEADER.contains(&offset)) && !self.locked.iter().any(locked)
    }
}

/// One interrupt of a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Line {
    pub state: LineState,
    /// The machine sends it to a CPU: it does so from the first time on that somebody listens.
    pub connected: bool,
}

/// Whether an interrupt can come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum LineState {
    /// Nobody listens.
    #[default]
    Off,
    /// It can come, and tells this one.
    Ready(Listener),
    /// It has come and is masked until it is acknowledged.
    Pending(Listener),
}

/// The devices and the state of their interrupts.
#[derive(Debug)]
pub(crate) struct Devices {
    list: Vec<(Device, Vec<Line>)>,
}

impl Devices {
    pub fn new(devices: Vec<Device>) -> Result<Self, Error> {
        let mut list = Vec::new();
        list.try_reserve_exact(devices.len()).map_err(|_| Error::NoMemory)?;
        for mut device in devices {
            device.record.interrupt_count = device.record.interrupt_count.min(LINES_MAX);
            let count = device.record.interrupt_count as usize;
            let mut lines = Vec::new();
            lines.try_reserve_exact(count).map_err(|_| Error::NoMemory)?;
            lines.resize(count, Line::default());
            list.push((device, lines));
        }
        Ok(Self { list })
    }

    pub fn iter(&self) -> impl Iterator<Item = &Device> {
        self.list.iter().map(|(device, _)| device)
    }

    /// The device that a capability names.
    pub fn get(&self, index: usize) -> &Device {
        &self.list[index].0
    }

    /// One interrupt of it, if it has that many.
    pub fn line(&mut self, index: usize, line: u32) -> Result<(&Device, &mut Line), Error> {
        let (device, lines) = &mut self.list[index];
        let line = lines.get_mut(line as usize).ok_or(Error::Malformed)?;
        Ok((device, line))
    }

    /// All of its interrupts.
    pub fn lines(&mut self, index: usize) -> (&Device, &mut [Line]) {
        let (device, lines) = &mut self.list[index];
        (device, lines)
    }

    /// The same, by the machine's number for the device; `None` for one that nobody was given.
    pub fn line_of(&mut self, number: usize, line: u32) -> Option<(&Device, &mut Line)> {
        let (device, lines) = self.list.iter_mut().find(|(device, _)| device.number == number)?;
        Some((device, lines.get_mut(line as usize)?))
    }
}
