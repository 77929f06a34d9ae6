//! What the fake device does with its queues (virtio 1.2, section 2.7), when it behaves.

use super::{EVENT_INDEX, MULTIPORT, PHYSICAL, State};

/// One queue as the driver set it up, and how far the device is with it.
#[derive(Clone, Debug, Default)]
pub struct Queue {
    pub size: u16,
    pub descriptors: u64,
    pub available: u64,
    pub used: u64,
    pub vector: u16,
    pub ready: bool,
    /// Looks at the available ring without being notified.
    pub awake: bool,
    pub last_available: u16,
    pub used_index: u16,
}

impl Queue {
    pub(super) fn enable(&mut self, value: u32) {
        assert_eq!(value, 1);
        assert!(self.size.is_power_of_two() && self.descriptors.is_multiple_of(16));
        assert!(self.available.is_multiple_of(2) && self.used.is_multiple_of(4));
        self.ready = true;
    }
}

/// A buffer that the driver made available.
#[derive(Clone, Copy, Debug)]
pub struct Buffer {
    pub id: u16,
    pub at: usize,
    pub length: usize,
    pub flags: u16,
}

impl State {
    pub fn read16(&self, physical: u64) -> u16 {
        u16::from_le_bytes(self.bytes(physical, 2).try_into().unwrap())
    }

    pub fn write16(&mut self, physical: u64, value: u16) {
        self.put(physical, &value.to_le_bytes());
    }

    /// The device's own view of memory; panics outside of what the driver may have given it.
    pub fn bytes(&self, physical: u64, length: usize) -> &[u8] {
        let at = usize::try_from(physical - PHYSICAL).unwrap();
        &self.memory[at..at + length]
    }

    pub fn put(&mut self, physical: u64, bytes: &[u8]) {
        let at = usize::try_from(physical - PHYSICAL).unwrap();
        self.memory[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// Takes the next available buffer, if the device is awake and there is one. If there is none it falls asleep.
    pub fn next_buffer(&mut self, number: usize) -> Option<Buffer> {
        let queue = self.queues[number].clone();
        if !queue.awake {
            return None;
        }
        let event = queue.used + 4 + 8 * u64::from(queue.size);
        if self.accepted & EVENT_INDEX != 0 {
            self.write16(event, queue.last_available);
        } else {
            let busy = self.read16(queue.available + 2) != queue.last_available;
            self.write16(queue.used, u16::from(busy));
        }
        let index = self.read16(queue.available + 2);
        if index == queue.last_available {
            self.queues[number].awake = false;
            return None;
        }
        assert!(index.wrapping_sub(queue.last_available) <= queue.size, "more made available than there are");
        let place = u64::from(queue.last_available % queue.size);
        let id = self.read16(queue.available + 4 + 2 * place);
        assert!(id < queue.size);
        let descriptor = self.bytes(queue.descriptors + 16 * u64::from(id), 16);
        let physical = u64::from_le_bytes(descriptor[..8].try_into().unwrap());
        let length = u32::from_le_bytes(descriptor[8..12].try_into().unwrap()) as usize;
        let flags = u16::from_le_bytes(descriptor[12..14].try_into().unwrap());
        self.queues[number].last_available = queue.last_available.wrapping_add(1);
        Some(Buffer { id, at: (physical - PHYSICAL) as usize, length, flags })
    }

    /// Gives a buffer back; interrupts if the driver wants to hear of it.
    pub fn give_back(&mut self, number: usize, id: u32, length: u32) {
        let queue = self.queues[number].clone();
        let entry = queue.used + 4 + 8 * u64::from(queue.used_index % queue.size);
        self.put(entry, &id.to_le_bytes());
        self.put(entry + 4, &length.to_le_bytes());
        let index = queue.used_index.wrapping_add(1);
        self.queues[number].used_index = index;
        self.write16(queue.used + 2, index);
        let wanted = if self.accepted & EVENT_INDEX != 0 {
            self.read16(queue.available + 4 + 2 * u64::from(queue.size)) == queue.used_index
        } else {
            self.read16(queue.available) & 1 == 0
        };
        if wanted {
            self.raise(1);
        }
    }

    pub fn raise(&mut self, cause: u8) {
        self.isr |= cause;
        self.interrupt = true;
        self.interrupts += 1;
    }

    /// The queue with which port 1 (of several) or port 0 begins.
    fn port_queue(&self) -> usize {
        if self.kind == 3 && self.accepted & MULTIPORT != 0 { 4 } else { 0 }
    }

    /// Puts the first of `bytes` into the next receive buffer, at most `most`; says how many.
    pub fn receive(&mut self, bytes: &[u8], most: usize) -> usize {
        let number = self.port_queue();
        if bytes.is_empty() || most == 0 || number == 4 && !self.open {
            return 0;
        }
        // A host that has bytes to deliver looks at the queue by itself.
        self.queues[number].awake = true;
        let Some(buffer) = self.next_buffer(number) else { return 0 };
        assert_eq!(buffer.flags, 2, "for the device to write");
        let length = bytes.len().min(buffer.length).min(most);
        self.memory[buffer.at..buffer.at + length].copy_from_slice(&bytes[..length]);
        self.give_back(number, u32::from(buffer.id), length as u32);
        length
    }

    /// The bytes of the next buffer to transmit, which is given back.
    pub fn transmit(&mut self) -> Option<Vec<u8>> {
        let number = self.port_queue() + 1;
        let buffer = self.next_buffer(number)?;
        assert_eq!(buffer.flags, 0, "for the device to read");
        // What the driver said on the control queue it said before.
        while number == 5 && !self.open && self.control() {}
        assert!(number == 1 || self.open, "written before the port is open");
        let bytes = self.memory[buffer.at..buffer.at + buffer.length].to_vec();
        self.give_back(number, u32::from(buffer.id), 0);
        Some(bytes)
    }

    /// One control message heard or said (section 5.3.6.2); says whether there was one.
    pub fn control(&mut self) -> bool {
        if self.port_queue() != 4 {
            return false;
        }
        if let Some(buffer) = self.next_buffer(3) {
            let message = &self.memory[buffer.at..buffer.at + buffer.length];
            match message {
                [_, _, _, _, 0, 0, 1, 0] => self.to_say.extend(self.ports.iter().map(|port| (*port, 1, 1))),
                [1, 0, 0, 0, 3, 0, 1, 0] => self.to_say.extend([(1, 7, 1), (1, 6, 1)]),
                [1, 0, 0, 0, 6, 0, 1, 0] => self.open = true,
                _ => panic!("{message:?} said to the device"),
            }
            self.give_back(3, u32::from(buffer.id), 0);
            return true;
        }
        let Some((port, event, value)) = self.to_say.front().copied() else { return false };
        self.queues[2].awake = true;
        let Some(buffer) = self.next_buffer(2) else { return false };
        self.to_say.pop_front();
        let word = u64::from(port) | u64::from(event) << 32 | u64::from(value) << 48;
        self.memory[buffer.at..buffer.at + 8].copy_from_slice(&word.to_le_bytes());
        self.give_back(2, u32::from(buffer.id), 8);
        true
    }

    /// The device has something to say.
    pub fn say(&mut self, port: u32, event: u16, value: u16) {
        self.to_say.push_back((port, event, value));
    }
}
