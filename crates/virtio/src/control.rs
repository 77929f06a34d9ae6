use crate::device::Device;
use crate::queue::{Direction, Queue, Returned, Shape};
use crate::{DmaMemory, Error, Port, Registers};

/// The control queues of a console with several ports (virtio 1.2, section 5.3.6.2), for as much as it takes to open
/// one port: we say that we are there, the device names its ports, we open ours when it is named.
///
/// A message is 8 bytes, little-endian: port u32, event u16, value u16; a name may follow, which is not read.
#[derive(Debug)]
pub(crate) struct Control {
    receive: Queue,
    send: Queue,
    number: u32,
    port: Port,
}

/// QEMU drops a message for which there is no buffer, and sends one for each of its ports at once, 31 at most.
pub(crate) const RECEIVE: Shape = Shape { buffers: 32, buffer_bytes: 64, direction: Direction::FromDevice };
/// Three messages are sent, one each.
pub(crate) const SEND: Shape = Shape { buffers: 4, buffer_bytes: 64, direction: Direction::ToDevice };

const MESSAGE_BYTES: usize = 8;
/// More at a time is no console that means well.
const MESSAGES_MAX: usize = 2 * RECEIVE.buffers as usize;

/// Events (section 5.3.6.2).
mod event {
    pub const DEVICE_READY: u16 = 0;
    pub const PORT_ADD: u16 = 1;
    pub const PORT_REMOVE: u16 = 2;
    pub const PORT_READY: u16 = 3;
    pub const PORT_OPEN: u16 = 6;
}

impl Control {
    /// To open port `number`, which is not 0.
    pub fn new(mut receive: Queue, send: Queue, number: u32, memory: &impl DmaMemory) -> Self {
        while let Some(slot) = receive.free() {
            receive.post(memory, slot, RECEIVE.buffer_bytes);
        }
        Self { receive, send, number, port: Port::Unnamed }
    }

    pub fn port(&self) -> Port {
        self.port
    }

    /// Says that the driver is there. The device must be running.
    pub fn start<R: Registers, M: DmaMemory>(&mut self, device: &Device<R, M>) -> Result<(), Error> {
        self.receive.publish(device);
        self.receive.arm(&device.memory, 1);
        // The port's number has no meaning here (section 5.3.6.2).
        self.post(&device.memory, [u32::MAX, u32::from(event::DEVICE_READY) | 1 << 16])?;
        self.send.publish(device);
        Ok(())
    }

    /// Answers what the device has said. An interrupt will come when it says more.
    pub fn service<R: Registers, M: DmaMemory>(&mut self, device: &Device<R, M>) -> Result<(), Error> {
        for _ in 0..MESSAGES_MAX {
            let mut next = self.receive.take(&device.memory)?;
            if next.is_none() {
                self.receive.publish(device);
                self.receive.arm(&device.memory, 1);
                next = self.receive.take(&device.memory)?;
            }
            let Some(returned) = next else {
                self.send.publish(device);
                return Ok(());
            };
            self.answer(&device.memory, returned)?;
            self.receive.post(&device.memory, returned.slot, RECEIVE.buffer_bytes);
        }
        Err(Error::Misbehaved)
    }

    fn answer(&mut self, memory: &impl DmaMemory, returned: Returned) -> Result<(), Error> {
        if returned.length < MESSAGE_BYTES {
            return Err(Error::Misbehaved);
        }
        let at = self.receive.buffer(returned.slot);
        let (port, event) = (memory.read32(at), memory.read16(at + 4));
        match (event, self.port) {
            (event::PORT_ADD, Port::Unnamed) if port == 0 => self.port = Port::UnnamedButZero,
            (event::PORT_REMOVE, Port::UnnamedButZero) if port == 0 => self.port = Port::Unnamed,
            (event::PORT_ADD, Port::Unnamed | Port::UnnamedButZero) if port == self.number => {
                self.post(memory, [port, u32::from(event::PORT_READY) | 1 << 16])?;
                self.post(memory, [port, u32::from(event::PORT_OPEN) | 1 << 16])?;
                self.port = Port::Open;
            }
            (event::PORT_REMOVE, _) if port == self.number => return Err(Error::NoPort),
            _ => {}
        }
        Ok(())
    }

    /// Event in the lower half of the second word, value in the upper.
    fn post(&mut self, memory: &impl DmaMemory, words: [u32; 2]) -> Result<(), Error> {
        let slot = self.send.free().ok_or(Error::Misbehaved)?;
        let at = self.send.buffer(slot);
        memory.write32(at, words[0]);
        memory.write32(at + 4, words[1]);
        self.send.post(memory, slot, MESSAGE_BYTES);
        Ok(())
    }
}
