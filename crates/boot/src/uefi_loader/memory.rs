//! Memory from the firmware.

use core::ptr::NonNull;

use boot::PAGE_SIZE;
use boot::config::Placement;
use boot::error::{BootError, Purpose};
use boot::memory_map::Range;
use uefi::boot as services;
use uefi::boot::{AllocateType, MemoryType};
use uefi::mem::memory_map::MemoryMap;

const LOW_END: u64 = 1 << 32;

/// Whole pages that belong to the loader; given back when dropped.
pub struct Pages {
    start: NonNull<u8>,
    length: usize,
}

impl Pages {
    /// At least `bytes` bytes (at least one page) of undefined contents.
    pub fn new(bytes: u64, placement: Placement, what: Purpose) -> Result<Self, BootError> {
        let error = BootError::OutOfMemory { what, bytes };
        let length = boot::page_up(bytes.max(1)).and_then(|length| usize::try_from(length).ok());
        let length = length.ok_or(error.clone())?;
        let count = length / PAGE_SIZE as usize;
        let allocate = |place| services::allocate_pages(place, MemoryType::LOADER_DATA, count);
        let start = match placement {
            Placement::Low => {
                allocate(AllocateType::MaxAddress(LOW_END - 1)).or_else(|_| allocate(AllocateType::AnyPages))
            }
            Placement::Above4Gib => {
                let place = free_above_4_gib(length as u64).ok_or(error.clone())?;
                allocate(AllocateType::Address(place))
            }
        };
        Ok(Self { start: start.map_err(|_| error)?, length })
    }

    /// One page that a processor can start in.
    pub fn below_1_mib(what: Purpose) -> Result<Self, BootError> {
        const REAL_MODE_END: u64 = 1 << 20;
        let error = BootError::OutOfMemory { what, bytes: PAGE_SIZE };
        let place = AllocateType::MaxAddress(REAL_MODE_END - 1);
        let start = services::allocate_pages(place, MemoryType::LOADER_DATA, 1).map_err(|_| error)?;
        Ok(Self { start, length: PAGE_SIZE as usize })
    }

    /// The same as [`Pages::new`], zero.
    pub fn zeroed(bytes: u64, placement: Placement, what: Purpose) -> Result<Self, BootError> {
        let mut pages = Self::new(bytes, placement, what)?;
        pages.bytes_mut().fill(0);
        Ok(pages)
    }

    /// Physical address: the firmware maps all memory to itself.
    pub fn physical(&self) -> u64 {
        self.start.as_ptr() as u64
    }

    /// All of them.
    pub fn range(&self) -> Range {
        Range::new(self.physical(), self.length as u64)
    }

    /// Their contents.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: 1. the firmware gave `length` bytes from `start` to us alone, until `drop`; 2. any bytes are valid
        // `u8`s, and what the firmware hands out holds some value.
        unsafe { core::slice::from_raw_parts(self.start.as_ptr(), self.length) }
    }

    /// Their contents, to be written.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, and `self` is borrowed exclusively.
        unsafe { core::slice::from_raw_parts_mut(self.start.as_ptr(), self.length) }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: allocated by `new` with this length; no reference outlives `self`. If the firmware refuses, the
        // pages stay taken, which harms nobody.
        let _ = unsafe { services::free_pages(self.start, self.length / PAGE_SIZE as usize) };
    }
}

/// The first free place at 4 GiB or above.
fn free_above_4_gib(length: u64) -> Option<u64> {
    let map = services::memory_map(MemoryType::LOADER_DATA).ok()?;
    let places = map.entries().filter(|entry| entry.ty == MemoryType::CONVENTIONAL).filter_map(|entry| {
        let end = entry.phys_start + entry.page_count * PAGE_SIZE;
        let start = entry.phys_start.max(LOW_END);
        (start.checked_add(length)? <= end).then_some(start)
    });
    places.min()
}
