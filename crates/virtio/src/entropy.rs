use crate::device::Device;
use crate::queue::{Direction, Queue, Shape};
use crate::stream::Receiver;
use crate::{DeviceType, DmaMemory, Error, Interrupts, Registers, Transport};

/// A virtio entropy device: random bytes from the host (virtio 1.2, section 5.4).
///
/// A source to seed a generator with, next to others: the host knows these bytes, and a bad host chooses them.
/// They are delivered once each, but stay in the DMA memory until the device writes others over them.
#[derive(Debug)]
pub struct Entropy<R, M> {
    device: Device<R, M>,
    receiver: Receiver,
}

/// A seed is 32 bytes. QEMU's queue holds 8 buffers.
const REQUESTS: Shape = Shape { buffers: 2, buffer_bytes: 64, direction: Direction::FromDevice };

impl<R: Registers, M: DmaMemory> Entropy<R, M> {
    /// How much DMA memory an entropy device needs, in bytes.
    pub const MEMORY_BYTES: usize = REQUESTS.bytes();

    /// Resets the device, starts it, and asks for the first bytes. `memory` is the device's from now on until it
    /// is reset again.
    pub fn open(transport: Transport<R>, interrupts: Interrupts, memory: M) -> Result<Self, Error> {
        let kind = (DeviceType::ENTROPY, 0);
        let mut device = Device::open(transport, kind, interrupts, memory, Self::MEMORY_BYTES)?;
        let queue = Queue::enable(&device, 0, 0, REQUESTS);
        let mut receiver = Receiver::new(device.judge(queue)?, &device.memory);
        device.transport.go();
        receiver.announce(&device);
        Ok(Self { device, receiver })
    }

    /// Takes note of an interrupt: see [`crate::Console::on_interrupt`].
    pub fn on_interrupt(&mut self) -> Result<(), Error> {
        self.device.on_interrupt()
    }

    /// Copies random bytes that have come into `into`, and says how many. If they did not fill `into`, an
    /// interrupt will come when there are more.
    pub fn read(&mut self, into: &mut [u8]) -> Result<usize, Error> {
        self.device.usable()?;
        let result = self.receiver.read(&self.device, into);
        self.device.judge(result)
    }
}
