use core::fmt;

use crate::DeviceType;

/// Why a device cannot be used, or can no longer be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// These are not the registers of a virtio device.
    NotVirtio,
    /// The slot of a memory-mapped device is empty.
    NoDevice,
    /// The device has only the interface of before virtio 1.0.
    Legacy,
    /// Another kind of device.
    WrongDevice(DeviceType),
    /// A structure of registers is missing, or does not lie inside of the windows that the device has.
    BadLayout,
    /// The device does not confirm its reset.
    Unresponsive,
    /// The device does not work with the features that the driver knows.
    FeaturesRefused,
    /// The device lacks a queue that its kind must have, or it is shorter than the driver needs.
    NoQueue,
    /// The console has taken its port away.
    NoPort,
    /// The device cannot signal by this interrupt.
    NoVector,
    /// The DMA memory is smaller than the driver needs, or lies where no device can reach it.
    BadMemory,
    /// The device says that it needs a reset.
    NeedsReset,
    /// The device gave back a buffer that it did not have, more bytes than fit, or none at all.
    Misbehaved,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotVirtio => write!(f, "not a virtio device"),
            Self::NoDevice => write!(f, "no device behind these virtio registers"),
            Self::Legacy => write!(
                f,
                "a legacy virtio device, and only modern ones are supported (QEMU: start it with \
                 `-global virtio-mmio.force-legacy=false`, or without `disable-modern`)"
            ),
            Self::WrongDevice(kind) => write!(f, "a virtio device of another kind, {}", kind.0),
            Self::BadLayout => write!(f, "the virtio device's registers are not where it says"),
            Self::Unresponsive => write!(f, "the virtio device does not confirm its reset"),
            Self::FeaturesRefused => write!(f, "the virtio device refuses the driver's features"),
            Self::NoQueue => write!(f, "the virtio device lacks a queue, or it is too short"),
            Self::NoPort => write!(f, "the virtio console has taken its port away"),
            Self::NoVector => write!(f, "the virtio device cannot use this interrupt vector"),
            Self::BadMemory => write!(f, "the DMA memory for the virtio device is too small or out of reach"),
            Self::NeedsReset => write!(f, "the virtio device has failed and needs a reset"),
            Self::Misbehaved => write!(f, "the virtio device broke the protocol of its queues"),
        }
    }
}

impl core::error::Error for Error {}
