use crate::mmio::Mmio;
use crate::pci::Pci;
use crate::{Error, PciFunction, Registers};

/// What kind of device it is (virtio 1.2, section 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceType(pub u32);

impl DeviceType {
    /// Section 5.3.
    pub const CONSOLE: Self = Self(3);
    /// Section 5.4.
    pub const ENTROPY: Self = Self(4);
}

/// How a device signals. The kernel has set this up already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interrupts {
    /// By its only line; the device keeps it raised until the interrupt is acknowledged at the device.
    Line,
    /// By this vector of its MSI-X table, for everything. PCI only.
    Vector(u16),
}

/// How to speak to one device: its registers, found and checked.
#[derive(Debug)]
pub struct Transport<R>(Variant<R>);

#[derive(Debug)]
enum Variant<R> {
    Mmio(Mmio<R>),
    Pci(Pci<R>),
}

/// What differs between the transports.
pub(crate) trait Operations {
    fn device_type(&self) -> DeviceType;
    fn status(&self) -> u8;
    fn set_status(&self, status: u8);
    fn offered(&self, word: FeatureWord) -> u32;
    fn accept(&self, word: FeatureWord, bits: u32);
    fn listen_config(&self, interrupts: Interrupts) -> Result<(), Error>;
    fn queue_size_max(&self, queue: u16) -> u16;
    fn enable_queue(&self, queue: u16, at: &Placement, interrupts: Interrupts) -> Result<Doorbell, Error>;
    fn ring(&self, doorbell: Doorbell);
    fn acknowledge(&self) -> u32;
    fn config_generation(&self) -> u32;
    fn config8(&self, offset: usize) -> Result<u8, Error>;
    fn config16(&self, offset: usize) -> Result<u16, Error>;
    fn config32(&self, offset: usize) -> Result<u32, Error>;
}

/// The 64 feature bits are read and written in two words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum FeatureWord {
    Low = 0,
    High = 1,
}

/// Where the three areas of a split virtqueue lie (section 2.7): physical addresses.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Placement {
    pub size: u16,
    pub descriptors: u64,
    pub available: u64,
    pub used: u64,
}

/// The register that tells the device of new buffers in one queue, and what to write there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Doorbell {
    pub offset: usize,
    pub queue: u16,
}

/// Feature bits (section 6). The device's own begin at 0.
pub(crate) mod feature {
    /// VIRTIO_CONSOLE_F_MULTIPORT, of consoles (section 5.3.3).
    pub const CONSOLE_MULTIPORT: u64 = 1 << 1;
    /// VIRTIO_F_EVENT_IDX: interrupts and notifications at an index, not all or nothing.
    pub const EVENT_INDEX: u64 = 1 << 29;
    /// VIRTIO_F_VERSION_1: not legacy.
    pub const VERSION_1: u64 = 1 << 32;
    /// VIRTIO_F_ACCESS_PLATFORM: the device sees memory as the platform lets it, at the addresses the kernel gave.
    pub const ACCESS_PLATFORM: u64 = 1 << 33;
    /// VIRTIO_F_ORDER_PLATFORM: memory is ordered as for real hardware; [`crate::DmaMemory::barrier`] is strong enough.
    pub const ORDER_PLATFORM: u64 = 1 << 36;

    /// What the queues here can do, and no more.
    pub const KNOWN: u64 = EVENT_INDEX | VERSION_1 | ACCESS_PLATFORM | ORDER_PLATFORM;
}

/// Bits of the device status (section 2.1).
mod status {
    pub const ACKNOWLEDGE: u8 = 1;
    pub const DRIVER: u8 = 2;
    pub const DRIVER_OK: u8 = 4;
    pub const FEATURES_OK: u8 = 8;
    pub const NEEDS_RESET: u8 = 64;
    pub const FAILED: u8 = 128;
}

/// Bits of the interrupt status (sections 4.1.4.5 and 4.2.2).
const INTERRUPT_CONFIG: u32 = 2;

/// How often the status is read until a reset must be confirmed: about a second where a read takes a microsecond.
/// QEMU confirms in the first.
const RESET_READS_MAX: u32 = 1 << 20;

impl<R: Registers> Transport<R> {
    /// The device behind memory-mapped registers (section 4.2), of which only reads are made so far.
    pub fn mmio(registers: R) -> Result<Self, Error> {
        Ok(Self(Variant::Mmio(Mmio::find(registers)?)))
    }

    /// The device that is a PCI function (section 4.1). Lets it decode memory and use DMA.
    pub fn pci<F: PciFunction<Window = R>>(function: &F) -> Result<Self, Error> {
        Ok(Self(Variant::Pci(Pci::find(function)?)))
    }

    /// What kind of device it is.
    pub fn device_type(&self) -> DeviceType {
        self.operations().device_type()
    }

    /// A byte of the device's own configuration, whose fields are read at their own width.
    pub fn config8(&self, offset: usize) -> Result<u8, Error> {
        self.operations().config8(offset)
    }

    /// Two bytes of the device's own configuration.
    pub fn config16(&self, offset: usize) -> Result<u16, Error> {
        self.operations().config16(offset)
    }

    /// Four bytes of the device's own configuration.
    pub fn config32(&self, offset: usize) -> Result<u32, Error> {
        self.operations().config32(offset)
    }

    /// Differs when the configuration may have changed between two reads of it (section 2.5.1).
    pub fn config_generation(&self) -> u32 {
        self.operations().config_generation()
    }

    /// Resets the device and agrees on features, up to FEATURES_OK (section 3.1.1, steps 1 to 6). Of the device's
    /// own features `own` are wanted.
    pub(crate) fn negotiate(
        &self,
        wanted: DeviceType,
        own: u64,
        interrupts: Interrupts,
    ) -> Result<u64, Error> {
        let device = self.operations();
        if device.device_type() != wanted {
            return Err(Error::WrongDevice(device.device_type()));
        }
        self.reset()?;
        device.set_status(status::ACKNOWLEDGE);
        device.set_status(status::ACKNOWLEDGE | status::DRIVER);
        let offered =
            u64::from(device.offered(FeatureWord::High)) << 32 | u64::from(device.offered(FeatureWord::Low));
        if offered & feature::VERSION_1 == 0 {
            return Err(Error::Legacy);
        }
        let features = offered & (feature::KNOWN | own);
        device.accept(FeatureWord::Low, features as u32);
        device.accept(FeatureWord::High, (features >> 32) as u32);
        device.set_status(status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK);
        if device.status() & status::FEATURES_OK == 0 {
            return Err(Error::FeaturesRefused);
        }
        device.listen_config(interrupts)?;
        Ok(features)
    }

    /// From now on the device works (section 3.1.1, step 8).
    pub(crate) fn go(&self) {
        let device = self.operations();
        device.set_status(device.status() | status::DRIVER_OK);
    }

    /// Tells the device that its driver has given up.
    pub(crate) fn give_up(&self) {
        let device = self.operations();
        device.set_status(device.status() | status::FAILED);
    }

    /// Lets the device interrupt again, and looks whether it has failed.
    pub(crate) fn on_interrupt(&self, interrupts: Interrupts) -> Result<(), Error> {
        let device = self.operations();
        let causes = match interrupts {
            Interrupts::Line => device.acknowledge(),
            Interrupts::Vector(_) => INTERRUPT_CONFIG,
        };
        if causes & INTERRUPT_CONFIG != 0 && device.status() & status::NEEDS_RESET != 0 {
            return Err(Error::NeedsReset);
        }
        Ok(())
    }

    pub(crate) fn operations(&self) -> &dyn Operations {
        match &self.0 {
            Variant::Mmio(device) => device,
            Variant::Pci(device) => device,
        }
    }

    fn reset(&self) -> Result<(), Error> {
        let device = self.operations();
        device.set_status(0);
        let confirmed = (0..RESET_READS_MAX).any(|_| device.status() == 0);
        confirmed.then_some(()).ok_or(Error::Unresponsive)
    }
}
