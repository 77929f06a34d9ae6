//! The two register interfaces of the fake device (virtio 1.2, sections 4.1.4 and 4.2.2).

use super::{Bus, State};

/// The device's own configuration begins with these bytes.
pub const CONFIG: [u8; 8] = [0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17];

const ISR: usize = 0x1000;
const DEVICE: usize = 0x2000;
const NOTIFY: usize = 0x3000;
const NOTIFY_MULTIPLIER: usize = 4;

/// The layout that QEMU gives a transitional function: everything in BAR 4, MSI-X first in the list.
pub fn pci_config(kind: u32) -> Vec<u8> {
    let mut config = vec![0; 256];
    let mut put = |at: usize, bytes: &[u8]| config[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &[0xf4, 0x1a, 0x03, 0x10, 0, 0, 0x10, 0xf9]);
    put(0x2c, &[0xf4, 0x1a, kind as u8, 0]);
    put(0x34, &[0x98]);
    put(0x98, &[0x11, 0x84, 1, 0, 1, 0, 0, 0]);
    let parts = [(5, 0x84, 0x70, 0, 0), (2, 0x70, 0x60, NOTIFY, 0x1000), (4, 0x60, 0x50, DEVICE, 0x1000)];
    let more = [(3, 0x50, 0x40, ISR, 0x1000), (1, 0x40, 0, 0, 0x1000)];
    for (cfg_type, at, next, offset, length) in parts.into_iter().chain(more) {
        put(at, &[0x09, next, if cfg_type == 2 || cfg_type == 5 { 20 } else { 16 }, cfg_type, 4, 0, 0, 0]);
        put(at + 8, &(offset as u32).to_le_bytes());
        put(at + 12, &(length as u32).to_le_bytes());
    }
    // The list's fields may overlap with nothing: notify takes 4 bytes more.
    put(0x70 + 16, &(NOTIFY_MULTIPLIER as u32).to_le_bytes());
    config
}

impl State {
    pub(super) fn read_register(&mut self, offset: usize, width: usize) -> u32 {
        match self.bus {
            Bus::Mmio => self.read_mmio(offset, width),
            Bus::Pci => self.read_pci(offset, width),
        }
    }

    pub(super) fn write_register(&mut self, offset: usize, width: usize, value: u32) {
        match self.bus {
            Bus::Mmio => {
                assert_eq!(width, 4);
                self.write_mmio(offset, value);
            }
            Bus::Pci => self.write_pci(offset, width, value),
        }
    }

    fn queue_size_max(&self) -> u32 {
        if usize::from(self.queue_select) < self.queues.len() { u32::from(self.queue_size_max) } else { 0 }
    }

    fn set_status(&mut self, status: u8) {
        if status == 0 {
            if self.confirm_reset {
                self.status = 0;
            }
            self.isr = 0;
            self.interrupt = false;
            self.queues
                .iter_mut()
                .for_each(|queue| *queue = super::Queue { vector: u16::MAX, ..Default::default() });
            return;
        }
        // Seen through noise, they may look as if they had been taken away.
        if self.noise.is_none() {
            assert_eq!(status & self.status, self.status, "status bits are only added");
        }
        if status & 8 != 0 && self.refuse_features {
            self.status = status & !8;
        } else {
            self.status = status;
        }
    }

    fn set_half(slot: &mut u64, high: bool, value: u32) {
        let shift = if high { 32 } else { 0 };
        *slot = *slot & !(0xffff_ffff << shift) | u64::from(value) << shift;
    }

    fn read_mmio(&mut self, offset: usize, width: usize) -> u32 {
        if offset >= 0x100 {
            return config(offset - 0x100, width);
        }
        assert_eq!(width, 4);
        match offset {
            0x000 => u32::from_le_bytes(*b"virt"),
            0x004 => self.mmio_version,
            0x008 => self.kind,
            0x010 => (self.offered >> (32 * self.device_select)) as u32,
            0x034 => self.queue_size_max(),
            0x060 => u32::from(self.isr),
            0x070 => u32::from(self.status),
            0x0fc => 7,
            _ => panic!("read of a write-only register, {offset:#x}"),
        }
    }

    fn write_mmio(&mut self, offset: usize, value: u32) {
        match offset {
            0x014 => self.device_select = value,
            0x020 => {
                let high = self.driver_select == 1;
                Self::set_half(&mut self.accepted, high, value);
            }
            0x024 => self.driver_select = value,
            0x030 => self.queue_select = value as u16,
            0x050 => self.notify(value),
            0x064 => self.isr &= !(value as u8),
            0x070 => self.set_status(value as u8),
            0x038..0x0b0 => {
                let queue = &mut self.queues[usize::from(self.queue_select)];
                match offset {
                    0x038 => queue.size = value as u16,
                    0x044 => queue.enable(value),
                    0x080 | 0x084 => Self::set_half(&mut queue.descriptors, offset == 0x084, value),
                    0x090 | 0x094 => Self::set_half(&mut queue.available, offset == 0x094, value),
                    0x0a0 | 0x0a4 => Self::set_half(&mut queue.used, offset == 0x0a4, value),
                    _ => panic!("write to {offset:#x}"),
                }
            }
            _ => panic!("write to {offset:#x}"),
        }
    }

    fn read_pci(&mut self, offset: usize, width: usize) -> u32 {
        if (DEVICE..NOTIFY).contains(&offset) {
            return config(offset - DEVICE, width);
        }
        let exists = usize::from(self.queue_select) < self.queues.len();
        let queue = exists.then(|| &self.queues[usize::from(self.queue_select)]);
        match (offset, width) {
            (4, 4) => (self.offered >> (32 * self.device_select)) as u32,
            (16, 2) => u32::from(self.config_vector),
            (20, 1) => u32::from(self.status),
            (21, 1) => 7,
            (24, 2) => self.queue_size_max(),
            (26, 2) => queue.map_or(0xffff, |queue| u32::from(queue.vector)),
            (30, 2) => u32::from(self.queue_select),
            (ISR, 1) => u32::from(std::mem::take(&mut self.isr)),
            _ => panic!("read{} at {offset:#x}", width * 8),
        }
    }

    fn write_pci(&mut self, offset: usize, width: usize, value: u32) {
        let vector = if value < u32::from(self.vectors) { value as u16 } else { u16::MAX };
        match (offset, width) {
            (0, 4) => self.device_select = value,
            (8, 4) => self.driver_select = value,
            (12, 4) => {
                let high = self.driver_select == 1;
                Self::set_half(&mut self.accepted, high, value);
            }
            (16, 2) => self.config_vector = vector,
            (20, 1) => self.set_status(value as u8),
            (22, 2) => self.queue_select = value as u16,
            (24..56, _) => {
                let queue = &mut self.queues[usize::from(self.queue_select)];
                match (offset, width) {
                    (24, 2) => queue.size = value as u16,
                    (26, 2) => queue.vector = vector,
                    (28, 2) => queue.enable(value),
                    (32 | 36, 4) => Self::set_half(&mut queue.descriptors, offset == 36, value),
                    (40 | 44, 4) => Self::set_half(&mut queue.available, offset == 44, value),
                    (48 | 52, 4) => Self::set_half(&mut queue.used, offset == 52, value),
                    _ => panic!("write{} to {offset:#x}", width * 8),
                }
            }
            (NOTIFY.., 2) => {
                assert_eq!(
                    offset,
                    NOTIFY + NOTIFY_MULTIPLIER * value as usize,
                    "each queue has its doorbell"
                );
                self.notify(value);
            }
            _ => panic!("write{} to {offset:#x}", width * 8),
        }
    }

    fn notify(&mut self, queue: u32) {
        assert!(self.status & 4 != 0, "notified before DRIVER_OK");
        self.notifications += 1;
        self.queues[queue as usize].awake = true;
    }
}

fn config(offset: usize, width: usize) -> u32 {
    let byte = |at: usize| u32::from(CONFIG.get(offset + at).copied().unwrap_or(0));
    (0..width).fold(0, |value, at| value | byte(at) << (8 * at))
}
