use crate::transport::{DeviceType, Doorbell, FeatureWord, Interrupts, Operations, Placement};
use crate::{Error, Registers};

/// A device behind memory-mapped registers, version 2 (virtio 1.2, section 4.2.2).
#[derive(Debug)]
pub(crate) struct Mmio<R> {
    registers: R,
    device_type: DeviceType,
}

/// Register offsets, in bytes (table 4.1 in section 4.2.2).
mod register {
    pub const MAGIC: usize = 0x000;
    pub const VERSION: usize = 0x004;
    pub const DEVICE_ID: usize = 0x008;
    pub const DEVICE_FEATURES: usize = 0x010;
    pub const DEVICE_FEATURES_SELECT: usize = 0x014;
    pub const DRIVER_FEATURES: usize = 0x020;
    pub const DRIVER_FEATURES_SELECT: usize = 0x024;
    pub const QUEUE_SELECT: usize = 0x030;
    pub const QUEUE_SIZE_MAX: usize = 0x034;
    pub const QUEUE_SIZE: usize = 0x038;
    pub const QUEUE_READY: usize = 0x044;
    pub const QUEUE_NOTIFY: usize = 0x050;
    pub const INTERRUPT_STATUS: usize = 0x060;
    pub const INTERRUPT_ACKNOWLEDGE: usize = 0x064;
    pub const STATUS: usize = 0x070;
    pub const QUEUE_DESCRIPTORS: usize = 0x080;
    pub const QUEUE_AVAILABLE: usize = 0x090;
    pub const QUEUE_USED: usize = 0x0a0;
    pub const CONFIG_GENERATION: usize = 0x0fc;
    pub const CONFIG: usize = 0x100;
}

/// "virt", little-endian.
const MAGIC: u32 = u32::from_le_bytes(*b"virt");

impl<R: Registers> Mmio<R> {
    /// The device behind `registers`, if it is a modern one.
    pub fn find(registers: R) -> Result<Self, Error> {
        if registers.length() < register::CONFIG || registers.read32(register::MAGIC) != MAGIC {
            return Err(Error::NotVirtio);
        }
        // An empty slot is the more useful answer: in QEMU's microvm all slots are legacy, or none.
        let device_type = DeviceType(registers.read32(register::DEVICE_ID));
        if device_type == DeviceType(0) {
            return Err(Error::NoDevice);
        }
        match registers.read32(register::VERSION) {
            1 => Err(Error::Legacy),
            2 => Ok(Self { registers, device_type }),
            _ => Err(Error::NotVirtio),
        }
    }

    fn write64(&self, offset: usize, value: u64) {
        self.registers.write32(offset, value as u32);
        self.registers.write32(offset + 4, (value >> 32) as u32);
    }

    fn config(&self, offset: usize, width: usize) -> Result<usize, Error> {
        let at = register::CONFIG.checked_add(offset).ok_or(Error::BadLayout)?;
        let inside = at.checked_add(width).is_some_and(|end| end <= self.registers.length());
        (inside && at.is_multiple_of(width)).then_some(at).ok_or(Error::BadLayout)
    }
}

impl<R: Registers> Operations for Mmio<R> {
    fn device_type(&self) -> DeviceType {
        self.device_type
    }

    fn status(&self) -> u8 {
        self.registers.read32(register::STATUS) as u8
    }

    fn set_status(&self, status: u8) {
        self.registers.write32(register::STATUS, u32::from(status));
    }

    fn offered(&self, word: FeatureWord) -> u32 {
        self.registers.write32(register::DEVICE_FEATURES_SELECT, word as u32);
        self.registers.read32(register::DEVICE_FEATURES)
    }

    fn accept(&self, word: FeatureWord, bits: u32) {
        self.registers.write32(register::DRIVER_FEATURES_SELECT, word as u32);
        self.registers.write32(register::DRIVER_FEATURES, bits);
    }

    fn listen_config(&self, interrupts: Interrupts) -> Result<(), Error> {
        match interrupts {
            Interrupts::Line => Ok(()),
            Interrupts::Vector(_) => Err(Error::NoVector),
        }
    }

    fn queue_size_max(&self, queue: u16) -> u16 {
        self.registers.write32(register::QUEUE_SELECT, u32::from(queue));
        u16::try_from(self.registers.read32(register::QUEUE_SIZE_MAX)).unwrap_or(u16::MAX)
    }

    fn enable_queue(&self, queue: u16, at: &Placement, _: Interrupts) -> Result<Doorbell, Error> {
        self.registers.write32(register::QUEUE_SELECT, u32::from(queue));
        self.registers.write32(register::QUEUE_SIZE, u32::from(at.size));
        self.write64(register::QUEUE_DESCRIPTORS, at.descriptors);
        self.write64(register::QUEUE_AVAILABLE, at.available);
        self.write64(register::QUEUE_USED, at.used);
        self.registers.write32(register::QUEUE_READY, 1);
        Ok(Doorbell { offset: register::QUEUE_NOTIFY, queue })
    }

    fn ring(&self, doorbell: Doorbell) {
        self.registers.write32(doorbell.offset, u32::from(doorbell.queue));
    }

    fn acknowledge(&self) -> u32 {
        let causes = self.registers.read32(register::INTERRUPT_STATUS);
        self.registers.write32(register::INTERRUPT_ACKNOWLEDGE, causes);
        causes
    }

    fn config_generation(&self) -> u32 {
        self.registers.read32(register::CONFIG_GENERATION)
    }

    fn config8(&self, offset: usize) -> Result<u8, Error> {
        Ok(self.registers.read8(self.config(offset, 1)?))
    }

    fn config16(&self, offset: usize) -> Result<u16, Error> {
        Ok(self.registers.read16(self.config(offset, 2)?))
    }

    fn config32(&self, offset: usize) -> Result<u32, Error> {
        Ok(self.registers.read32(self.config(offset, 4)?))
    }
}
