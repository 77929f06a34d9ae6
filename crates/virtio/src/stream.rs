use crate::device::Device;
use crate::queue::{Queue, Slot};
use crate::{DmaMemory, Error, Registers};

/// Bytes from the device: a queue whose buffers are the device's until it has filled them.
#[derive(Debug)]
pub(crate) struct Receiver {
    queue: Queue,
    /// The buffer that is being read.
    current: Option<Unread>,
}

#[derive(Clone, Copy, Debug)]
struct Unread {
    slot: Slot,
    from: usize,
    to: usize,
}

impl Receiver {
    /// Posts all buffers. The device is told of them by [`Receiver::announce`], when it runs.
    pub fn new(mut queue: Queue, memory: &impl DmaMemory) -> Self {
        while let Some(slot) = queue.free() {
            queue.post(memory, slot, queue.shape().buffer_bytes);
        }
        Self { queue, current: None }
    }

    pub fn announce<R: Registers, M: DmaMemory>(&mut self, device: &Device<R, M>) {
        self.queue.publish(device);
    }

    /// Copies what has come into `into` and says how much that was. If `into` was not filled, an interrupt will
    /// come with the next bytes.
    pub fn read<R: Registers, M: DmaMemory>(
        &mut self,
        device: &Device<R, M>,
        into: &mut [u8],
    ) -> Result<usize, Error> {
        let mut done = 0;
        while done < into.len() && self.advance(&device.memory)? {
            done += self.copy(&device.memory, &mut into[done..]);
            // Buffers go back in batches: each time may cost a notification. The device still has the others.
            if self.queue.unpublished() >= self.queue.shape().buffers.div_ceil(4) {
                self.queue.publish(device);
            }
        }
        Ok(done)
    }

    /// Makes sure that `current` is there. Says no if the device has filled no other buffer yet.
    fn advance(&mut self, memory: &impl DmaMemory) -> Result<bool, Error> {
        if self.current.is_some() || self.take(memory)? {
            return Ok(true);
        }
        self.queue.arm(memory, 1);
        self.take(memory)
    }

    fn take(&mut self, memory: &impl DmaMemory) -> Result<bool, Error> {
        let Some(returned) = self.queue.take(memory)? else { return Ok(false) };
        if returned.length == 0 {
            // Without this a device could keep `read` busy for ever.
            return Err(Error::Misbehaved);
        }
        self.current = Some(Unread { slot: returned.slot, from: 0, to: returned.length });
        Ok(true)
    }

    fn copy(&mut self, memory: &impl DmaMemory, into: &mut [u8]) -> usize {
        let Some(unread) = &mut self.current else { return 0 };
        let count = into.len().min(unread.to - unread.from);
        memory.copy_out(self.queue.buffer(unread.slot) + unread.from, &mut into[..count]);
        unread.from += count;
        if unread.from == unread.to {
            let slot = unread.slot;
            self.current = None;
            self.queue.post(memory, slot, self.queue.shape().buffer_bytes);
        }
        count
    }
}

/// Bytes to the device: a queue whose buffers are the driver's until they are filled.
#[derive(Debug)]
pub(crate) struct Sender {
    queue: Queue,
}

impl Sender {
    pub fn new(queue: Queue) -> Self {
        Self { queue }
    }

    /// Copies as much of `parts` as there are buffers for, one part after the other, and says how much that was. If
    /// it was not all, an interrupt will come when half of the buffers are back.
    pub fn write<R: Registers, M: DmaMemory>(
        &mut self,
        device: &Device<R, M>,
        parts: &[&[u8]],
    ) -> Result<usize, Error> {
        let mut rest = Parts { parts, current: &[] };
        let mut accepted = 0;
        self.reclaim(&device.memory)?;
        loop {
            while !rest.is_empty()
                && let Some(slot) = self.queue.free()
            {
                accepted += self.fill(&device.memory, slot, &mut rest);
            }
            self.queue.publish(device);
            if rest.is_empty() {
                return Ok(accepted);
            }
            self.queue.arm(&device.memory, self.queue.in_flight().div_ceil(2));
            self.reclaim(&device.memory)?;
            if self.queue.free().is_none() {
                return Ok(accepted);
            }
        }
    }

    /// Whether the device has given everything back. If not, an interrupt will come when it has.
    pub fn idle(&mut self, memory: &impl DmaMemory) -> Result<bool, Error> {
        self.reclaim(memory)?;
        if self.queue.in_flight() > 0 {
            self.queue.arm(memory, self.queue.in_flight());
            self.reclaim(memory)?;
        }
        Ok(self.queue.in_flight() == 0)
    }

    fn fill(&mut self, memory: &impl DmaMemory, slot: Slot, rest: &mut Parts<'_>) -> usize {
        let buffer = self.queue.buffer(slot);
        let mut length = 0;
        while let Some(piece) = rest.take(self.queue.shape().buffer_bytes - length) {
            memory.copy_in(buffer + length, piece);
            length += piece.len();
        }
        self.queue.post(memory, slot, length);
        length
    }

    fn reclaim(&mut self, memory: &impl DmaMemory) -> Result<(), Error> {
        while self.queue.take(memory)?.is_some() {}
        Ok(())
    }
}

/// What is left to write.
struct Parts<'a> {
    parts: &'a [&'a [u8]],
    current: &'a [u8],
}

impl<'a> Parts<'a> {
    fn is_empty(&mut self) -> bool {
        while let ([], [first, others @ ..]) = (self.current, self.parts) {
            self.current = first;
            self.parts = others;
        }
        self.current.is_empty()
    }

    /// Up to `most` bytes that lie together; `None` if there are none or `most` is 0.
    fn take(&mut self, most: usize) -> Option<&'a [u8]> {
        if most == 0 || self.is_empty() {
            return None;
        }
        let (piece, rest) = self.current.split_at(most.min(self.current.len()));
        self.current = rest;
        Some(piece)
    }
}
