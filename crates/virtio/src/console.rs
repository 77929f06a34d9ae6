use crate::control::{self, Control};
use crate::device::Device;
use crate::queue::{Direction, Queue, Shape};
use crate::stream::{Receiver, Sender};
use crate::transport::feature;
use crate::{DeviceType, DmaMemory, Error, Interrupts, Registers, Transport};

/// A virtio console: a stream of bytes in each direction (virtio 1.2, section 5.3).
///
/// If the device can have several ports (VIRTIO_CONSOLE_F_MULTIPORT) this is port 1, once the device has [named
/// it](Console::port), else port 0; other ports, sizes and emergency writes are not used. In QEMU, take port 1: `-device virtio-serial-device -device
/// virtserialport,nr=1,chardev=…`. Port 0 is a `virtconsole` there (with `max_ports=1`), and that **drops
/// output** whenever the reader on the host is slower (`flush_buf` in hw/char/virtio-console.c); a `virtserialport`
/// makes the guest wait.
///
/// How to use it: on its interrupt call [`on_interrupt`](Console::on_interrupt), then [`read`](Console::read) until it
/// fills its buffer no more, and [`try_write`](Console::try_write) what is waiting. One interrupt may stand for both
/// directions: who took one while waiting to write must `read` again before waiting for the next.
#[derive(Debug)]
pub struct Console<R, M> {
    device: Device<R, M>,
    receiver: Receiver,
    sender: Sender,
    /// Of a device with several ports.
    control: Option<Control>,
}

/// Whether a console's port is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// It is.
    Open,
    /// The device has not named it. An interrupt will come when it names a port.
    Unnamed,
    /// Nor this, but it has named port 0: [`Console::reopen_with_port_0`] would use that.
    UnnamedButZero,
}

/// QEMU reads from its end of the console at most 4 KiB at a time and puts them into one buffer, so larger ones
/// stay half empty. 64 keep it busy while the driver is away for 256 KiB.
const RECEIVE: Shape = Shape { buffers: 64, buffer_bytes: 4 << 10, direction: Direction::FromDevice };

/// QEMU makes one `write` of each buffer. Few large ones cost the fewest of them; 16 leave room for small writes
/// while a slow reader holds some.
const TRANSMIT: Shape = Shape { buffers: 16, buffer_bytes: 16 << 10, direction: Direction::ToDevice };

/// Numbers of queues (section 5.3.2).
mod queue {
    pub const RECEIVE_PORT_0: u16 = 0;
    pub const TRANSMIT_PORT_0: u16 = 1;
    pub const CONTROL_RECEIVE: u16 = 2;
    pub const CONTROL_TRANSMIT: u16 = 3;
    pub const RECEIVE_PORT_1: u16 = 4;
    pub const TRANSMIT_PORT_1: u16 = 5;
}

/// Where the queues begin in the memory.
const TRANSMIT_START: usize = RECEIVE.bytes();
const CONTROL_RECEIVE_START: usize = TRANSMIT_START + TRANSMIT.bytes();
const CONTROL_SEND_START: usize = CONTROL_RECEIVE_START + control::RECEIVE.bytes();

impl<R: Registers, M: DmaMemory> Console<R, M> {
    /// How much DMA memory a console needs, in bytes.
    pub const MEMORY_BYTES: usize = CONTROL_SEND_START + control::SEND.bytes();

    /// Resets the console and starts it. `memory` is the device's from now on until it is reset again.
    pub fn open(transport: Transport<R>, interrupts: Interrupts, memory: M) -> Result<Self, Error> {
        Self::open_with(feature::CONSOLE_MULTIPORT, transport, interrupts, memory)
    }

    /// Resets the console and starts it again as one that has port 0 alone, and this is that port.
    pub fn reopen_with_port_0(self) -> Result<Self, Error> {
        let Device { transport, memory, interrupts, .. } = self.device;
        Self::open_with(0, transport, interrupts, memory)
    }

    fn open_with(
        features: u64,
        transport: Transport<R>,
        interrupts: Interrupts,
        memory: M,
    ) -> Result<Self, Error> {
        let kind = (DeviceType::CONSOLE, features);
        let mut device = Device::open(transport, kind, interrupts, memory, Self::MEMORY_BYTES)?;
        let queues = Self::queues(&device);
        let (mut receiver, sender, mut control) = device.judge(queues)?;
        device.transport.go();
        receiver.announce(&device);
        let started = control.as_mut().map_or(Ok(()), |control| control.start(&device));
        device.judge(started)?;
        Ok(Self { device, receiver, sender, control })
    }

    fn queues(device: &Device<R, M>) -> Result<(Receiver, Sender, Option<Control>), Error> {
        let several = device.features & feature::CONSOLE_MULTIPORT != 0;
        let (receive, transmit) = match several {
            true => (queue::RECEIVE_PORT_1, queue::TRANSMIT_PORT_1),
            false => (queue::RECEIVE_PORT_0, queue::TRANSMIT_PORT_0),
        };
        let receive = Queue::enable(device, receive, 0, RECEIVE)?;
        let transmit = Queue::enable(device, transmit, TRANSMIT_START, TRANSMIT)?;
        let control = several.then(|| Self::control(device)).transpose()?;
        Ok((Receiver::new(receive, &device.memory), Sender::new(transmit), control))
    }

    fn control(device: &Device<R, M>) -> Result<Control, Error> {
        let receive = Queue::enable(device, queue::CONTROL_RECEIVE, CONTROL_RECEIVE_START, control::RECEIVE)?;
        let send = Queue::enable(device, queue::CONTROL_TRANSMIT, CONTROL_SEND_START, control::SEND)?;
        Ok(Control::new(receive, send, 1, &device.memory))
    }

    /// Whether the port is there. Until it is, nothing is read or written.
    pub fn port(&self) -> Port {
        self.control.as_ref().map_or(Port::Open, Control::port)
    }

    /// Takes note of an interrupt: lets the device raise the next one. To be called before the look at what has
    /// changed. With [`Interrupts::Line`], call it before the line is unmasked.
    pub fn on_interrupt(&mut self) -> Result<(), Error> {
        self.device.on_interrupt()?;
        let Some(control) = &mut self.control else { return Ok(()) };
        let result = control.service(&self.device);
        self.device.judge(result)
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
        if self.port() != Port::Open {
            // The interrupt that brings the port's name has this tried again.
            return Ok(0);
        }
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
