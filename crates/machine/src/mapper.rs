//! Maps what is not RAM: device registers and firmware tables. What is mapped stays so.

use crate::frames::Frames;
use crate::paging::{DEVICES, PageSizes, STACKS, Tables, bits};
use crate::registers::Registers;
use abi::PAGE_SIZE;

/// Takes addresses for mappings, from [`DEVICES`] on.
pub struct Mapper<'m> {
    /// The kernel's tables.
    pub tables: &'m mut Tables,
    /// For tables that are missing.
    pub frames: &'m mut Frames,
    /// The next free address.
    pub next: &'m mut u64,
}

impl Mapper<'_> {
    /// Device registers at a physical address.
    pub fn registers(&mut self, physical: u64, length: u64) -> Option<Registers> {
        let address = self.map(physical, length, bits::WRITE | bits::UNCACHED | bits::NO_EXECUTE)?;
        // SAFETY: just mapped uncached, and never unmapped; the callers name devices' addresses.
        Some(unsafe { Registers::new(address) })
    }

    /// Bytes of a firmware table at a physical address.
    pub fn bytes(&mut self, physical: u64, length: usize) -> Option<&'static [u8]> {
        let address = self.map(physical, length as u64, bits::NO_EXECUTE)?;
        // SAFETY: just mapped, and never unmapped. Firmware tables lie in memory that is not given to anybody, so
        // they do not change; a wrong address reads other bytes, which the callers' checks refuse.
        Some(unsafe { core::slice::from_raw_parts(address as *const u8, length) })
    }

    fn map(&mut self, physical: u64, length: u64, flags: u64) -> Option<u64> {
        let begin = physical / PAGE_SIZE * PAGE_SIZE;
        let end = physical.checked_add(length)?.checked_next_multiple_of(PAGE_SIZE)?;
        if end > bits::ADDRESS || end - begin > STACKS - *self.next {
            return None;
        }
        let address = *self.next;
        self.tables.map_kernel(self.frames, address, begin..end, flags, PageSizes::Small)?;
        *self.next += end - begin;
        Some(address + (physical - begin))
    }
}

/// Where the first mapping goes.
pub const FIRST: u64 = DEVICES;
