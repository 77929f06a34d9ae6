use crate::transport::{DeviceType, Doorbell, FeatureWord, Interrupts, Operations, Placement};
use crate::{Error, PciFunction, Registers};

/// A device that is a PCI function, by its modern interface (virtio 1.2, section 4.1).
#[derive(Debug)]
pub(crate) struct Pci<R> {
    device_type: DeviceType,
    common: Structure<R>,
    notify: Structure<R>,
    /// What to multiply a queue's notify offset with, in bytes (section 4.1.4.4).
    notify_multiplier: u32,
    interrupt_status: Structure<R>,
    /// The device's own; not every kind has one.
    config: Option<Structure<R>>,
}

/// A part of a BAR: checked to lie inside of it.
#[derive(Debug)]
struct Structure<R> {
    window: R,
    offset: usize,
    length: usize,
}

/// Offsets in the configuration space of every function (PCI Local Bus 3.0, section 6.1).
mod header {
    pub const IDENTITY: u8 = 0x00;
    /// Command in the lower half, status in the upper.
    pub const COMMAND: u8 = 0x04;
    /// Subsystem vendor in the lower half, subsystem in the upper.
    pub const SUBSYSTEM: u8 = 0x2c;
    pub const CAPABILITIES: u8 = 0x34;
}

const COMMAND_MEMORY: u32 = 1 << 1;
const COMMAND_BUS_MASTER: u32 = 1 << 2;
const STATUS_HAS_CAPABILITIES: u32 = 1 << 20;

/// Of every virtio function (section 4.1.2).
const VENDOR: u32 = 0x1af4;
/// The configuration space holds no more capabilities than this: 192 bytes after the header, 4 at least for each.
const CAPABILITIES_MAX: usize = 48;
/// The first byte that a capability can be at.
const CAPABILITY_FIRST: u8 = 0x40;
/// "Vendor-specific" (PCI Local Bus 3.0, appendix H).
const CAPABILITY_VENDOR: u8 = 0x09;
/// A virtio capability is so long at least; 4 bytes more for that of the doorbells (section 4.1.4).
const CAPABILITY_BYTES: u8 = 16;

/// Values of `cfg_type` (section 4.1.4).
mod structure {
    pub const COMMON: u8 = 1;
    pub const NOTIFY: u8 = 2;
    pub const INTERRUPT_STATUS: u8 = 3;
    pub const DEVICE: u8 = 4;
}

/// Offsets in the common structure (section 4.1.4.3), in bytes.
mod common {
    pub const DEVICE_FEATURE_SELECT: usize = 0;
    pub const DEVICE_FEATURE: usize = 4;
    pub const DRIVER_FEATURE_SELECT: usize = 8;
    pub const DRIVER_FEATURE: usize = 12;
    pub const CONFIG_VECTOR: usize = 16;
    pub const STATUS: usize = 20;
    pub const CONFIG_GENERATION: usize = 21;
    pub const QUEUE_SELECT: usize = 22;
    pub const QUEUE_SIZE: usize = 24;
    pub const QUEUE_VECTOR: usize = 26;
    pub const QUEUE_ENABLE: usize = 28;
    pub const QUEUE_NOTIFY_OFFSET: usize = 30;
    pub const QUEUE_DESCRIPTORS: usize = 32;
    pub const QUEUE_AVAILABLE: usize = 40;
    pub const QUEUE_USED: usize = 48;
    pub const BYTES: usize = 56;
}

impl<R: Registers> Pci<R> {
    /// The device that is `function`, if it is a virtio device with the modern interface.
    pub fn find<F: PciFunction<Window = R>>(function: &F) -> Result<Self, Error> {
        let device_type = identify(function)?;
        let mut common = None;
        let mut notify = None;
        let mut interrupt_status = None;
        let mut config = None;
        for capability in capabilities(function) {
            // The first one of each kind that can be used counts (section 4.1.4.1).
            let part = |bytes, align| capability.structure(function, bytes, align);
            match capability.kind {
                structure::COMMON if common.is_none() => common = part(common::BYTES, 4),
                structure::NOTIFY if notify.is_none() => {
                    notify = part(2, 2).map(|part| (part, capability.notify_multiplier));
                }
                structure::INTERRUPT_STATUS if interrupt_status.is_none() => interrupt_status = part(1, 1),
                structure::DEVICE if config.is_none() => config = part(1, 4),
                _ => {}
            }
        }
        let nothing_modern = common.is_none() && notify.is_none() && interrupt_status.is_none();
        let (Some(common), Some((notify, notify_multiplier)), Some(interrupt_status)) =
            (common, notify, interrupt_status)
        else {
            return Err(if nothing_modern { Error::Legacy } else { Error::BadLayout });
        };
        // The upper half is the status, where a 1 clears a bit: write zeros there.
        let command = function.read_config(header::COMMAND) & 0xffff;
        function.write_config(header::COMMAND, command | COMMAND_MEMORY | COMMAND_BUS_MASTER);
        Ok(Self { device_type, common, notify, notify_multiplier, interrupt_status, config })
    }

    fn select_queue(&self, queue: u16) {
        self.common.write16(common::QUEUE_SELECT, queue);
    }

    /// Sets a vector register, and checks that the device took it: it reads as 0xffff if not (section 4.1.5.1.2).
    fn set_vector(&self, offset: usize, interrupts: Interrupts) -> Result<(), Error> {
        let Interrupts::Vector(vector) = interrupts else { return Ok(()) };
        self.common.write16(offset, vector);
        if self.common.read16(offset) == vector { Ok(()) } else { Err(Error::NoVector) }
    }

    fn write64(&self, offset: usize, value: u64) {
        self.common.write32(offset, value as u32);
        self.common.write32(offset + 4, (value >> 32) as u32);
    }

    /// Where in its window the selected queue's doorbell is.
    fn doorbell_offset(&self) -> Result<usize, Error> {
        let factor = usize::from(self.common.read16(common::QUEUE_NOTIFY_OFFSET));
        let multiplier = usize::try_from(self.notify_multiplier).map_err(|_| Error::BadLayout)?;
        let offset = factor.checked_mul(multiplier).ok_or(Error::BadLayout)?;
        self.notify.check(offset, 2)?;
        Ok(offset)
    }

    fn config(&self, offset: usize, width: usize) -> Result<&Structure<R>, Error> {
        let config = self.config.as_ref().ok_or(Error::BadLayout)?;
        config.check(offset, width)?;
        Ok(config)
    }
}

impl<R: Registers> Operations for Pci<R> {
    fn device_type(&self) -> DeviceType {
        self.device_type
    }

    fn status(&self) -> u8 {
        self.common.read8(common::STATUS)
    }

    fn set_status(&self, status: u8) {
        self.common.write8(common::STATUS, status);
    }

    fn offered(&self, word: FeatureWord) -> u32 {
        self.common.write32(common::DEVICE_FEATURE_SELECT, word as u32);
        self.common.read32(common::DEVICE_FEATURE)
    }

    fn accept(&self, word: FeatureWord, bits: u32) {
        self.common.write32(common::DRIVER_FEATURE_SELECT, word as u32);
        self.common.write32(common::DRIVER_FEATURE, bits);
    }

    fn listen_config(&self, interrupts: Interrupts) -> Result<(), Error> {
        self.set_vector(common::CONFIG_VECTOR, interrupts)
    }

    fn queue_size_max(&self, queue: u16) -> u16 {
        self.select_queue(queue);
        self.common.read16(common::QUEUE_SIZE)
    }

    fn enable_queue(&self, queue: u16, at: &Placement, interrupts: Interrupts) -> Result<Doorbell, Error> {
        self.select_queue(queue);
        self.common.write16(common::QUEUE_SIZE, at.size);
        self.set_vector(common::QUEUE_VECTOR, interrupts)?;
        self.write64(common::QUEUE_DESCRIPTORS, at.descriptors);
        self.write64(common::QUEUE_AVAILABLE, at.available);
        self.write64(common::QUEUE_USED, at.used);
        let offset = self.doorbell_offset()?;
        self.common.write16(common::QUEUE_ENABLE, 1);
        Ok(Doorbell { offset, queue })
    }

    fn ring(&self, doorbell: Doorbell) {
        self.notify.write16(doorbell.offset, doorbell.queue);
    }

    fn acknowledge(&self) -> u32 {
        u32::from(self.interrupt_status.read8(0))
    }

    fn config_generation(&self) -> u32 {
        u32::from(self.common.read8(common::CONFIG_GENERATION))
    }

    fn config8(&self, offset: usize) -> Result<u8, Error> {
        Ok(self.config(offset, 1)?.read8(offset))
    }

    fn config16(&self, offset: usize) -> Result<u16, Error> {
        Ok(self.config(offset, 2)?.read16(offset))
    }

    fn config32(&self, offset: usize) -> Result<u32, Error> {
        Ok(self.config(offset, 4)?.read32(offset))
    }
}

impl<R: Registers> Structure<R> {
    fn check(&self, offset: usize, width: usize) -> Result<(), Error> {
        let inside = offset.checked_add(width).is_some_and(|end| end <= self.length);
        (inside && offset.is_multiple_of(width)).then_some(()).ok_or(Error::BadLayout)
    }

    fn read8(&self, offset: usize) -> u8 {
        self.window.read8(self.offset + offset)
    }

    fn read16(&self, offset: usize) -> u16 {
        self.window.read16(self.offset + offset)
    }

    fn read32(&self, offset: usize) -> u32 {
        self.window.read32(self.offset + offset)
    }

    fn write8(&self, offset: usize, value: u8) {
        self.window.write8(self.offset + offset, value);
    }

    fn write16(&self, offset: usize, value: u16) {
        self.window.write16(self.offset + offset, value);
    }

    fn write32(&self, offset: usize, value: u32) {
        self.window.write32(self.offset + offset, value);
    }
}

/// Which kind of virtio device the function is. From 0x1040 on the device id says it; below, in transitional
/// functions, the subsystem does (section 4.1.2.3).
fn identify(function: &impl PciFunction) -> Result<DeviceType, Error> {
    let identity = function.read_config(header::IDENTITY);
    match (identity & 0xffff, identity >> 16) {
        (VENDOR, device @ 0x1040..=0x107f) => Ok(DeviceType(device - 0x1040)),
        (VENDOR, 0x1000..=0x103f) => Ok(DeviceType(function.read_config(header::SUBSYSTEM) >> 16)),
        _ => Err(Error::NotVirtio),
    }
}

/// A virtio capability as the device wrote it (section 4.1.4).
struct Capability {
    kind: u8,
    bar: u8,
    offset: u32,
    length: u32,
    notify_multiplier: u32,
}

impl Capability {
    fn read(function: &impl PciFunction, at: u8) -> Option<Self> {
        let first = function.read_config(at);
        let [_, _, bytes, kind] = first.to_le_bytes();
        let needed = if kind == structure::NOTIFY { CAPABILITY_BYTES + 4 } else { CAPABILITY_BYTES };
        if bytes < needed || at.checked_add(needed - 1).is_none() {
            return None;
        }
        let notify_multiplier = if kind == structure::NOTIFY { function.read_config(at + 16) } else { 0 };
        Some(Self {
            kind,
            bar: function.read_config(at + 4) as u8,
            offset: function.read_config(at + 8),
            length: function.read_config(at + 12),
            notify_multiplier,
        })
    }

    /// The structure that this points to, if it lies in a BAR and has `bytes` bytes at least.
    fn structure<F: PciFunction>(
        &self,
        function: &F,
        bytes: usize,
        align: usize,
    ) -> Option<Structure<F::Window>> {
        // BAR numbers from 6 on are reserved: such a structure is to be ignored.
        let window = (self.bar < 6).then(|| function.window(self.bar))??;
        let offset = usize::try_from(self.offset).ok()?;
        let length = usize::try_from(self.length).ok()?;
        let end = offset.checked_add(length)?;
        let sound = end <= window.length() && length >= bytes && offset.is_multiple_of(align);
        sound.then_some(Structure { window, offset, length })
    }
}

/// The virtio capabilities in the function's list. The list is the device's word: it may point anywhere and in circles.
fn capabilities<F: PciFunction>(function: &F) -> impl Iterator<Item = Capability> + '_ {
    let has_list = function.read_config(header::COMMAND) & STATUS_HAS_CAPABILITIES != 0;
    let mut next = if has_list { function.read_config(header::CAPABILITIES) as u8 & !3 } else { 0 };
    (0..CAPABILITIES_MAX)
        .map_while(move |_| {
            let at = next;
            if at < CAPABILITY_FIRST {
                return None;
            }
            let [id, following, ..] = function.read_config(at).to_le_bytes();
            next = following & !3;
            Some((id, at))
        })
        .filter(|(id, _)| *id == CAPABILITY_VENDOR)
        .filter_map(move |(_, at)| Capability::read(function, at))
}
