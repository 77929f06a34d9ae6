use crate::device::Device;
use crate::queue::{Direction, Queue, Shape};
use crate::stream::{Receiver, Sender};
use crate::{DeviceType, DmaMemory, Error, Interrupts, Registers, Transport};

/// A virtio console, port 0: a stream of bytes in each direction (virtio 1.2, section 5.3).
///
/// None of the device's own features is used: no further ports, no size, no emergency write. Queue 0 receives,
/// queue 1 transmits (section 5.3.2).
///
/// How to use it: on its interrupt call [`on_interrupt`](Console::on_interrupt), then [`read`](Console::read) until it
/// fills its buffer no more, and [`try_write`](Console::try_write) what is waiting.
#[derive(Debug)]
pub struct Console<R, M> {
    device: Device<R, M>,
    receiver: Receiver,
    sender: Sender,
}

/// QEMU reads from its end of the console at most 4 KiB at a time and puts them into one buffer, so larger ones
/// stay half empty. 64 keep it busy while the driver is away for 256 KiB.
const RECEIVE: Shape = Shape { buffers: 64, buffer_bytes: 4 << 10, direction: Direction::FromDevice };

/// QEMU makes one `write` of each buffer. Few large ones cost the fewest of them; 16 leave room for small writes
/// while a slow reader holds some.
const TRANSMIT: Shape = Shape { buffers: 16, buffer_bytes: 16 << 10, direction: Direction::ToDevice };

const RECEIVE_QUEUE: u16 = 0;
const TRANSMIT_QUEUE: u16 = 1;

impl<R: Registers, M: DmaMemory> Console<R, M> {
    /// How much DMA memory a console needs, in bytes.
    pub const MEMORY_BYTES: usize = RECEIVE.bytes() + TRANSMIT.bytes();

    /// Resets the console and starts it. `memory` is the device's from now on until it is reset again.
    pub fn open(transport: Transport<R>, interrupts: Interrupts, memory: M) -> Result<Self, Error> {
        let kind = DeviceType::CONSOLE;
        let mut device = Device::open(transport, kind, interrupts, memory, Self::MEMORY_BYTES)?;
        let queues = Self::queues(&device);
        let (mut receiver, sender) = device.judge(queues)?;
        device.transport.go();
        receiver.announce(&device);
        Ok(Self { device, receiver, sender })
    }

    fn queues(device: &Device<R, M>) -> Result<(Receiver, Sender), Error> {
        let receive = Queue::enable(device, RECEIVE_QUEUE, 0, RECEIVE)?;
        let transmit = Queue::enable(device, TRANSMIT_QUEUE, RECEIVE.bytes(), TRANSMIT)?;
        Ok((Receiver::new(receive, &device.memory), Sender::new(transmit)))
    }

    /// Takes note of an interrupt: lets the device raise the next one. To be called before the look at what has
    /// changed. With [`Interrupts::Line`], call it before the line is unmasked.
    pub fn on_interrupt(&mut self) -> Result<(), Error> {
        self.device.on_interrupt()
    }

    /// Copies what has come into `into`, and says how many bytes that were. If they did not fill `into`, an
    /// interrupt will come when there are more. If they did, there may be more right now.
    pub fn read(&mut self, into: &mut [u8]) -> Result<usize, Error> {
        self.device.usable()?;
        let result = self.receiver.read(&self.device, into);
        self.device.judge(result)
    }

    /// Hands over as much of `bytes` as there is room for, and says how much. If that is not all of it, an
    /// interrupt will come when there is room again. What was handed over needs no further care.
    pub fn try_write(&mut self, bytes: &[u8]) -> Result<usize, Error> {
        self.try_write_parts(&[bytes])
    }

    /// The same for several pieces, one after the other, as if they were one.
    pub fn try_write_parts(&mut self, parts: &[&[u8]]) -> Result<usize, Error> {
        self.device.usable()?;
        let result = self.sender.write(&self.device, parts);
        self.device.judge(result)
    }

    /// Whether the device is done with everything that was written. If not, an interrupt will come when it is.
    pub fn tx_idle(&mut self) -> Result<bool, Error> {
        self.device.usable()?;
        let result = self.sender.idle(&self.device.memory);
        self.device.judge(result)
    }
}
