//! Drivers for virtio devices (virtio 1.2, OASIS committee specification 01), above the kernel.
//!
//! Here are the two modern transports, [memory-mapped](Transport::mmio) and [PCI](Transport::pci), the split
//! virtqueue, and two devices: [`Console`] and [`Entropy`]. The drivers touch the machine only through three
//! small traits, [`Registers`], [`DmaMemory`] and [`PciFunction`]: accesses at an offset, no pointers and no slices. So
//! the same code runs in the library OS and in the tests here, over a fake device, and would run in a driver program
//! compiled to WebAssembly, which reaches device and shared memory by atomic accesses. No allocation, no `unsafe`,
//! no thread, no clock.
//!
//! What is not here:
//! - Legacy and transitional interfaces (virtio 0.9). QEMU's microvm offers the legacy memory-mapped one unless it
//!   is started with `-global virtio-mmio.force-legacy=false`; such a device is [`Error::Legacy`].
//! - Packed queues, indirect descriptors, chains of descriptors: each buffer here is one descriptor.
//! - Mapping memory, choosing interrupt vectors, enabling MSI-X: the kernel does that.
//!
//! # Nothing waits
//! No operation waits for the device, except for the confirmation of a reset, which is bounded. `read` and
//! `try_write` do what can be done now. When they did less than was asked for, an interrupt will come once
//! there is more to do; until then nobody needs to look. Interrupts that nobody needs are suppressed.
//!
//! # The device is not trusted
//! Whatever the device writes into its rings is checked against what the driver gave it: a wrong buffer, a wrong
//! length, a wrong index is [`Error::Misbehaved`], never an access outside of the DMA memory, never a panic, never a loop
//! without end. A device that failed once is told so (status FAILED) and stays failed. What it does by DMA
//! outside of the memory it was given is for an IOMMU to stop.
#![no_std]

mod access;
mod console;
mod control;
mod device;
mod entropy;
mod error;
mod mmio;
mod pci;
mod queue;
mod stream;
mod transport;

pub use access::{DmaMemory, PciFunction, Registers};
pub use console::{Console, Port};
pub use entropy::Entropy;
pub use error::Error;
pub use transport::{DeviceType, Interrupts, Transport};
