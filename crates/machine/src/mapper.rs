//! Maps what is not RAM: device registers and firmware tables; and stacks. What is mapped stays so.

use crate::cpu;
use crate::descriptors::{OWN_STACKS, Stacks};
use crate::memory;
use crate::paging::{DEVICES, DEVICES_END, KernelTables, PageSizes, STACKS, Take, bits};
use crate::registers::Registers;
use abi::PAGE_SIZE;

/// Takes addresses for mappings, from [`DEVICES`] and [`STACKS`] on.
#[derive(Debug)]
pub struct Mapper {
    /// The kernel's half.
    pub tables: KernelTables,
    next: u64,
    next_stack: u64,
}

impl Mapper {
    /// Adds the tables that have entries in the root, so that the root is never changed again.
    pub fn new(mut tables: KernelTables, take: Take<'_>) -> Option<Self> {
        tables.reserve(take, DEVICES)?;
        tables.reserve(take, STACKS)?;
        Some(Self { tables, next: DEVICES, next_stack: STACKS })
    }

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

    /// A page of memory that is nobody's and not part of what is mapped as RAM.
    pub fn page(&mut self, physical: u64) -> Option<*mut u8> {
        self.map(physical, PAGE_SIZE, bits::WRITE | bits::NO_EXECUTE).map(|address| address as *mut u8)
    }

    /// The stacks of a CPU.
    pub fn stacks(&mut self, take: Take<'_>) -> Option<Stacks> {
        const MAIN_PAGES: u64 = 16;
        const OWN_PAGES: u64 = 4;
        let main = self.stack(take, MAIN_PAGES)?;
        let mut own = [0; OWN_STACKS.len()];
        for end in &mut own {
            *end = self.stack(take, OWN_PAGES)?;
        }
        Some(Stacks { main, own })
    }

    /// A stack, with a hole of a page below. Answers its end.
    fn stack(&mut self, take: Take<'_>, pages: u64) -> Option<u64> {
        const DATA: u64 = bits::WRITE | bits::NO_EXECUTE;
        let physical = take(pages)?;
        let (base, bytes) = (self.next_stack + PAGE_SIZE, pages * PAGE_SIZE);
        self.tables.map(take, base, physical..physical + bytes, DATA, PageSizes::Small)?;
        self.next_stack = base + bytes;
        Some(self.next_stack)
    }

    fn map(&mut self, physical: u64, length: u64, flags: u64) -> Option<u64> {
        let begin = physical / PAGE_SIZE * PAGE_SIZE;
        let end = physical.checked_add(length)?.checked_next_multiple_of(PAGE_SIZE)?;
        if end > cpu::physical_end() || end - begin > DEVICES_END - self.next {
            return None;
        }
        let address = self.next;
        self.tables.map(&mut take_frames, address, begin..end, flags, PageSizes::Small)?;
        self.next += end - begin;
        Some(address + (physical - begin))
    }
}

/// Takes of the free frames.
pub fn take_frames(count: u64) -> Option<u64> {
    memory::allocate_run(count).map(|first| first.address())
}
