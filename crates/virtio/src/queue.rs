use crate::device::Device;
use crate::transport::{Doorbell, Placement, feature};
use crate::{DmaMemory, Error, Registers};

/// A split virtqueue (virtio 1.2, section 2.7) with its buffers, all of one size.
///
/// Buffer and descriptor of the same number belong together for ever: to hand a buffer over is to write its number
/// into the available ring. In the DMA memory, from `start`:
/// ```text
/// descriptors   16 bytes each: address u64, length u32, flags u16, next u16
/// available     flags u16, index u16, ring of u16, used_event u16
/// used          flags u16, index u16, ring of (id u32, length u32), avail_event u16; aligned to 4
/// buffers       aligned to 64
/// ```
/// What the driver must rely on (which buffers the device has, the indices) is kept here and never read back.
#[derive(Debug)]
pub(crate) struct Queue {
    shape: Shape,
    start: usize,
    doorbell: Doorbell,
    events: Events,
    /// One bit for each buffer: set while it is the driver's.
    ours: u64,
    /// The index after the last buffer in the available ring.
    available: u16,
    /// What of it the device has been told.
    published: u16,
    /// The index after the last buffer taken from the used ring.
    used: u16,
    /// The used index that the device showed last; checked.
    seen: u16,
}

/// How many buffers of what size.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// A power of two, at most 64.
    pub buffers: u16,
    /// A multiple of 64.
    pub buffer_bytes: usize,
    pub direction: Direction,
}

/// Who writes the buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    ToDevice,
    FromDevice,
}

/// How interrupts and notifications that nobody needs are suppressed (sections 2.7.7 and 2.7.10).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Events {
    /// Each side says at which index it wants to be told (VIRTIO_F_EVENT_IDX).
    Index,
    /// The device can wave off notifications; interrupts come for every buffer.
    Flag,
}

/// The number of a buffer, below [`Shape::buffers`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot(u16);

/// A buffer that the device gave back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Returned {
    pub slot: Slot,
    /// How many bytes the device wrote; 0 for [`Direction::ToDevice`].
    pub length: usize,
}

/// VIRTQ_DESC_F_WRITE: the device writes the buffer (section 2.7.5).
const DESCRIPTOR_WRITE: u16 = 2;
/// VIRTQ_USED_F_NO_NOTIFY (section 2.7.8).
const USED_NO_NOTIFY: u16 = 1;
const DESCRIPTOR_BYTES: usize = 16;
/// Of flags, index and event index together.
const RING_FIXED_BYTES: usize = 6;
const USED_ENTRY_BYTES: usize = 8;

impl Shape {
    const fn available(&self) -> usize {
        DESCRIPTOR_BYTES * self.buffers as usize
    }

    const fn used(&self) -> usize {
        (self.available() + RING_FIXED_BYTES + 2 * self.buffers as usize).next_multiple_of(4)
    }

    const fn buffers(&self) -> usize {
        (self.used() + RING_FIXED_BYTES + USED_ENTRY_BYTES * self.buffers as usize).next_multiple_of(64)
    }

    /// How much DMA memory a queue of this shape takes, in bytes; a multiple of 64.
    pub const fn bytes(&self) -> usize {
        assert!(self.buffers.is_power_of_two() && self.buffers <= 64 && self.buffer_bytes.is_multiple_of(64));
        self.buffers() + self.buffers as usize * self.buffer_bytes
    }
}

impl Queue {
    /// Sets queue number `number` of the device up in its memory from `start` on, a multiple of 64. All buffers are the
    /// driver's.
    pub fn enable<R: Registers, M: DmaMemory>(
        device: &Device<R, M>,
        number: u16,
        start: usize,
        shape: Shape,
    ) -> Result<Self, Error> {
        let registers = device.transport.operations();
        if registers.queue_size_max(number) < shape.buffers {
            return Err(Error::NoQueue);
        }
        write_rings(&device.memory, start, &shape);
        device.memory.barrier();
        let physical = device.memory.physical() + start as u64;
        let placement = Placement {
            size: shape.buffers,
            descriptors: physical,
            available: physical + shape.available() as u64,
            used: physical + shape.used() as u64,
        };
        let doorbell = registers.enable_queue(number, &placement, device.interrupts)?;
        let events = if device.features & feature::EVENT_INDEX != 0 { Events::Index } else { Events::Flag };
        let ours = u64::MAX >> (64 - shape.buffers);
        Ok(Self { shape, start, doorbell, events, ours, available: 0, published: 0, used: 0, seen: 0 })
    }

    /// A buffer that is the driver's, if there is one.
    pub fn free(&self) -> Option<Slot> {
        (self.ours != 0).then(|| Slot(self.ours.trailing_zeros() as u16))
    }

    /// Where in the memory the buffer begins.
    pub fn buffer(&self, slot: Slot) -> usize {
        self.start + self.shape.buffers() + usize::from(slot.0) * self.shape.buffer_bytes
    }

    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// How many buffers the device has or is about to be given.
    pub fn in_flight(&self) -> u16 {
        self.available.wrapping_sub(self.used)
    }

    /// How many buffers were posted and not yet published.
    pub fn unpublished(&self) -> u16 {
        self.available.wrapping_sub(self.published)
    }

    /// Hands over a buffer that is the driver's, with `length` bytes to read or to write. The device sees it once
    /// it is [published](Queue::publish).
    pub fn post(&mut self, memory: &impl DmaMemory, slot: Slot, length: usize) {
        debug_assert!(self.ours & slot.bit() != 0 && length <= self.shape.buffer_bytes);
        self.ours &= !slot.bit();
        memory.write32(self.start + DESCRIPTOR_BYTES * usize::from(slot.0) + 8, length as u32);
        let place = usize::from(self.available % self.shape.buffers);
        memory.write16(self.start + self.shape.available() + 4 + 2 * place, slot.0);
        self.available = self.available.wrapping_add(1);
    }

    /// Shows the device what was posted, and notifies it if it wants to be.
    pub fn publish<R: Registers, M: DmaMemory>(&mut self, device: &Device<R, M>) {
        if self.unpublished() == 0 {
            return;
        }
        let memory = &device.memory;
        // The descriptors and the ring before the index; the index before the look at what the device wants, or
        // both sides could decide at once that the other one will look.
        memory.barrier();
        memory.write16(self.start + self.shape.available() + 2, self.available);
        memory.barrier();
        let used = self.start + self.shape.used();
        let wanted = match self.events {
            Events::Flag => memory.read16(used) & USED_NO_NOTIFY == 0,
            Events::Index => {
                // vring_need_event (section 2.7.10): is the wanted index among those that are new?
                let event = memory.read16(used + 4 + USED_ENTRY_BYTES * usize::from(self.shape.buffers));
                self.available.wrapping_sub(event).wrapping_sub(1) < self.unpublished()
            }
        };
        self.published = self.available;
        if wanted {
            device.transport.operations().ring(self.doorbell);
        }
    }

    /// Takes the next buffer that the device gave back; it is the driver's again.
    pub fn take(&mut self, memory: &impl DmaMemory) -> Result<Option<Returned>, Error> {
        let ring = self.start + self.shape.used();
        if self.seen == self.used {
            let index = memory.read16(ring + 2);
            let has = self.published.wrapping_sub(self.used);
            if index.wrapping_sub(self.used) > has {
                return Err(Error::Misbehaved);
            }
            if index == self.used {
                return Ok(None);
            }
            self.seen = index;
            // The index before the entries and the buffers that it speaks of.
            memory.barrier();
        }
        let entry = ring + 4 + USED_ENTRY_BYTES * usize::from(self.used % self.shape.buffers);
        let returned = self.check(memory.read32(entry), memory.read32(entry + 4))?;
        self.ours |= returned.slot.bit();
        self.used = self.used.wrapping_add(1);
        Ok(Some(returned))
    }

    /// Asks for an interrupt once `count` more buffers have come back, 1 to [`in_flight`](Queue::in_flight). They may
    /// have by now: look again after this.
    pub fn arm(&mut self, memory: &impl DmaMemory, count: u16) {
        if self.events == Events::Index {
            let event = self.used.wrapping_add(count).wrapping_sub(1);
            let at = self.shape.available() + 4 + 2 * usize::from(self.shape.buffers);
            memory.write16(self.start + at, event);
        }
        memory.barrier();
    }

    /// An entry of the used ring is the device's word. It must name a buffer that the device has.
    fn check(&self, id: u32, length: u32) -> Result<Returned, Error> {
        let slot = u16::try_from(id).ok().filter(|id| *id < self.shape.buffers).map(Slot);
        let slot = slot.filter(|slot| self.ours & slot.bit() == 0).ok_or(Error::Misbehaved)?;
        // For a buffer that it only reads a device wrote 0 bytes, whatever it says: some count what they read.
        let length = if self.shape.direction == Direction::ToDevice { 0 } else { length as usize };
        if length > self.shape.buffer_bytes {
            return Err(Error::Misbehaved);
        }
        Ok(Returned { slot, length })
    }
}

impl Slot {
    fn bit(self) -> u64 {
        1 << self.0
    }
}

/// Empty rings, and descriptors that hold all but the lengths. The memory may hold anything before.
fn write_rings(memory: &impl DmaMemory, start: usize, shape: &Shape) {
    let flags = if shape.direction == Direction::FromDevice { DESCRIPTOR_WRITE } else { 0 };
    for number in 0..usize::from(shape.buffers) {
        let descriptor = start + DESCRIPTOR_BYTES * number;
        let buffer = start + shape.buffers() + number * shape.buffer_bytes;
        memory.write64(descriptor, memory.physical() + buffer as u64);
        memory.write32(descriptor + 8, 0);
        memory.write16(descriptor + 12, flags);
        memory.write16(descriptor + 14, 0);
    }
    for ring in [shape.available(), shape.used()] {
        memory.write16(start + ring, 0);
        memory.write16(start + ring + 2, 0);
    }
    memory.write16(start + shape.available() + 4 + 2 * usize::from(shape.buffers), 0);
    memory.write16(start + shape.used() + 4 + USED_ENTRY_BYTES * usize::from(shape.buffers), 0);
}
