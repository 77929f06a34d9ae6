//! Page tables (Intel SDM volume 3, section 4.5: 4-level paging).
//!
//! The upper half is the kernel's and is built once: RAM at [`DIRECT`], devices and firmware tables at [`DEVICES`],
//! stacks at [`STACKS`], the image where it is linked. The lower half is the domain's.

use crate::frames::Frames;
use abi::{PAGE_SIZE, Protection};
use kernel::{Cache, Frame, Mapping, Owner, Page};

/// Where all RAM is mapped, but for the kernel's image.
pub const DIRECT: u64 = 0xffff_8000_0000_0000;
/// Where device registers and firmware tables are mapped.
pub const DEVICES: u64 = 0xffff_c000_0000_0000;
/// Where the kernel's stacks are.
pub const STACKS: u64 = 0xffff_d000_0000_0000;

/// Entry bits.
pub mod bits {
    /// The entry maps something.
    pub const PRESENT: u64 = 1;
    /// Writes are allowed.
    pub const WRITE: u64 = 1 << 1;
    /// Ring 3 may use it.
    pub const USER: u64 = 1 << 2;
    /// Uncached: page-level write-through and cache-disable choose entry 3 of the PAT, which is UC both at reset and
    /// as Limine leaves it.
    pub const UNCACHED: u64 = 3 << 3;
    /// A page of 2 MiB or 1 GiB.
    pub const LARGE: u64 = 1 << 7;
    /// Stays in the TLB when `cr3` is loaded.
    pub const GLOBAL: u64 = 1 << 8;
    /// Ours: the frame belongs to the page.
    pub const OWNED: u64 = 1 << 9;
    /// Ours: the entry holds a frame to which no access is allowed.
    pub const KEPT: u64 = 1 << 10;
    /// No instruction fetches.
    pub const NO_EXECUTE: u64 = 1 << 63;
    /// The physical address.
    pub const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
}
use bits::*;

const ENTRIES: u64 = 512;
const LARGE_BYTES: u64 = PAGE_SIZE * ENTRIES;
const HUGE_BYTES: u64 = LARGE_BYTES * ENTRIES;
/// Flags of an entry that points to a table: the entries below restrict.
const TABLE: u64 = PRESENT | WRITE;

/// The largest page that a mapping may use.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum PageSizes {
    /// 4 KiB only.
    Small,
    /// Up to 2 MiB.
    Large,
    /// Up to 1 GiB.
    Huge,
}

/// Tables under one root.
pub struct Tables {
    root: u64,
    /// What is added to a physical address to reach it.
    offset: u64,
}

impl Tables {
    /// An empty root.
    pub fn new(frames: &mut Frames, offset: u64) -> Option<Self> {
        let root = frames.allocate()?.address();
        let tables = Self { root, offset };
        tables.clear(root);
        Some(tables)
    }

    /// For `cr3`.
    pub fn root(&self) -> u64 {
        self.root
    }

    /// Physical memory is mapped elsewhere from now on.
    pub fn set_offset(&mut self, offset: u64) {
        self.offset = offset;
    }

    /// Maps `physical..physical + length` at `address` for the kernel, all whole pages, with the largest pages that fit.
    pub fn map_kernel(
        &mut self,
        frames: &mut Frames,
        address: u64,
        physical: core::ops::Range<u64>,
        flags: u64,
        sizes: PageSizes,
    ) -> Option<()> {
        let delta = address.wrapping_sub(physical.start);
        let mut at = physical.start;
        while at < physical.end {
            let left = physical.end - at;
            let fits = |bytes: u64| at.is_multiple_of(bytes) && delta.is_multiple_of(bytes) && left >= bytes;
            let (level, bytes) = match sizes {
                PageSizes::Huge if fits(HUGE_BYTES) => (2, HUGE_BYTES),
                PageSizes::Huge | PageSizes::Large if fits(LARGE_BYTES) => (1, LARGE_BYTES),
                _ => (0, PAGE_SIZE),
            };
            let large = if level > 0 { LARGE } else { 0 };
            let mut table = self.root;
            for above in (level + 1..4).rev() {
                table = self.descend(frames, table, index(delta.wrapping_add(at), above))?;
            }
            // A run of entries of one table: the way down is the same for all.
            let mut slot = index(delta.wrapping_add(at), level);
            while slot < ENTRIES && physical.end - at >= bytes {
                self.store(table, slot, at | flags | large | PRESENT | GLOBAL);
                (slot, at) = (slot + 1, at + bytes);
                if level == 1 && sizes == PageSizes::Huge && at.is_multiple_of(HUGE_BYTES) {
                    break;
                }
                if level == 0 && sizes != PageSizes::Small && at.is_multiple_of(LARGE_BYTES) {
                    break;
                }
            }
        }
        Some(())
    }

    /// See [`kernel::Machine::missing_tables`].
    pub fn missing_tables(&self, page: Page) -> u64 {
        (0..3).find(|&level| self.table(page, level).is_some()).unwrap_or(3)
    }

    /// See [`kernel::Machine::add_table`].
    pub fn add_table(&mut self, page: Page, frame: Frame) {
        let level = self.missing_tables(page);
        if let Some(table) = self.table(page, level) {
            self.store(table, index(page.address(), level), frame.address() | TABLE | USER);
        }
    }

    /// See [`kernel::Machine::remove_tables`].
    pub fn remove_tables(&mut self, frames: &mut Frames, first: Page, end: Page) -> u64 {
        self.remove_below(frames, self.root, 3, first.address(), end.address())
    }

    /// See [`kernel::Machine::map`].
    pub fn map(&mut self, page: Page, mapping: Mapping, cache: Cache) {
        let Mapping { frame, protection, owner } = mapping;
        let owned = if owner == Owner::Page { OWNED } else { 0 };
        let uncached = if cache == Cache::Device { UNCACHED } else { 0 };
        if let Some(table) = self.table(page, 0) {
            self.store(
                table,
                index(page.address(), 0),
                frame.address() | owned | uncached | access_bits(protection),
            );
        }
    }

    /// See [`kernel::Machine::mapping`].
    pub fn mapping(&self, page: Page) -> Option<Mapping> {
        decode(self.load(self.table(page, 0)?, index(page.address(), 0)))
    }

    /// See [`kernel::Machine::protect`].
    pub fn protect(&mut self, page: Page, protection: Protection) {
        let Some(table) = self.table(page, 0) else { return };
        let slot = index(page.address(), 0);
        let kept = self.load(table, slot) & (ADDRESS | OWNED | UNCACHED);
        self.store(table, slot, kept | access_bits(protection));
    }

    /// See [`kernel::Machine::unmap`].
    pub fn unmap(&mut self, page: Page) {
        if let Some(table) = self.table(page, 0) {
            self.store(table, index(page.address(), 0), 0);
        }
    }

    /// See [`kernel::Machine::next_mapping`].
    pub fn next_mapping(&self, from: Page, end: Page) -> Option<(Page, Mapping)> {
        let (mut at, end) = (from.address(), end.address());
        while at < end {
            let page = Page::containing(at);
            let level = self.missing_tables(page);
            if level > 0 {
                // Nothing below this entry: on to the next one.
                at = (at | (span(level) - 1)) + 1;
                continue;
            }
            let table = self.table(page, 0)?;
            for slot in index(at, 0)..ENTRIES {
                let address = (at & !(LARGE_BYTES - 1)) + slot * PAGE_SIZE;
                if address >= end {
                    return None;
                }
                if let Some(mapping) = decode(self.load(table, slot)) {
                    return Some((Page::containing(address), mapping));
                }
            }
            at = (at | (LARGE_BYTES - 1)) + 1;
        }
        None
    }

    /// Calls `visit` with every page that is mapped: its address, its size, and the flags that hold for it on all levels.
    pub fn visit(&self, visit: &mut dyn FnMut(u64, u64, u64)) {
        self.visit_below(self.root, 3, 0, WRITE | USER, visit);
    }

    /// The table of `level` (0: the one that maps pages of 4 KiB) on the way to `page`.
    fn table(&self, page: Page, level: u64) -> Option<u64> {
        let mut table = self.root;
        for above in (level + 1..4).rev() {
            let entry = self.load(table, index(page.address(), above));
            if entry & PRESENT == 0 || entry & LARGE != 0 {
                return None;
            }
            table = entry & ADDRESS;
        }
        Some(table)
    }

    fn descend(&mut self, frames: &mut Frames, table: u64, slot: u64) -> Option<u64> {
        let entry = self.load(table, slot);
        if entry & PRESENT != 0 {
            return Some(entry & ADDRESS);
        }
        let below = frames.allocate()?.address();
        self.clear(below);
        self.store(table, slot, below | TABLE);
        Some(below)
    }

    /// Frees the tables under `table` whose pages all lie in `first..end`. What `table` maps begins at the multiple of
    /// its size that `first` lies in or after.
    fn remove_below(&mut self, frames: &mut Frames, table: u64, level: u64, first: u64, end: u64) -> u64 {
        let bytes = span(level);
        let mut removed = 0;
        let mut at = first & !(bytes - 1);
        for slot in index(first, level)..ENTRIES {
            if at >= end {
                break;
            }
            let entry = self.load(table, slot);
            if entry & PRESENT != 0 {
                let below = entry & ADDRESS;
                if level > 1 {
                    removed +=
                        self.remove_below(frames, below, level - 1, first.max(at), end.min(at + bytes));
                }
                if first <= at && at + bytes <= end {
                    self.store(table, slot, 0);
                    frames.free_run(Frame::containing(below), 1);
                    removed += 1;
                }
            }
            at += bytes;
        }
        removed
    }

    fn visit_below(
        &self,
        table: u64,
        level: u64,
        base: u64,
        above: u64,
        visit: &mut dyn FnMut(u64, u64, u64),
    ) {
        for slot in 0..ENTRIES {
            let entry = self.load(table, slot);
            if entry & PRESENT == 0 {
                continue;
            }
            let mut address = base + slot * span(level);
            if level == 3 && slot >= ENTRIES / 2 {
                address |= 0xffff << 48;
            }
            let flags = above & entry & (WRITE | USER) | (above | entry) & NO_EXECUTE;
            if level == 0 || entry & LARGE != 0 {
                visit(address, span(level), flags | entry & UNCACHED);
            } else {
                self.visit_below(entry & ADDRESS, level - 1, address, flags, visit);
            }
        }
    }

    fn clear(&self, table: u64) {
        // SAFETY: `table` is a frame that was just allocated, so nothing else refers to it; it is mapped at `offset`.
        unsafe { ((self.offset + table) as *mut u8).write_bytes(0, PAGE_SIZE as usize) }
    }

    fn load(&self, table: u64, slot: u64) -> u64 {
        // SAFETY: `table` is one of our tables, mapped at `offset`, and `slot` is below 512. Volatile, because the
        // CPU sets accessed and dirty bits.
        unsafe { ((self.offset + table) as *const u64).add(slot as usize).read_volatile() }
    }

    fn store(&mut self, table: u64, slot: u64, entry: u64) {
        // SAFETY: as for `load`. What the entry means for the memory under Rust is the callers' matter: they map only
        // free ranges of the kernel's half, and the domain's half has no Rust objects.
        unsafe { ((self.offset + table) as *mut u64).add(slot as usize).write_volatile(entry) }
    }
}

/// The slot for `address` in a table of `level`.
const fn index(address: u64, level: u64) -> u64 {
    (address >> (12 + 9 * level)) % ENTRIES
}

/// How many bytes one entry of a table of `level` maps.
const fn span(level: u64) -> u64 {
    PAGE_SIZE << (9 * level)
}

fn access_bits(protection: Protection) -> u64 {
    match protection {
        Protection::None => KEPT | NO_EXECUTE,
        Protection::Read => PRESENT | USER | NO_EXECUTE,
        Protection::ReadWrite => PRESENT | USER | WRITE | NO_EXECUTE,
        Protection::ReadExecute => PRESENT | USER,
    }
}

fn decode(entry: u64) -> Option<Mapping> {
    let protection = match entry {
        entry if entry & (PRESENT | KEPT) == 0 => return None,
        entry if entry & PRESENT == 0 => Protection::None,
        entry if entry & WRITE != 0 => Protection::ReadWrite,
        entry if entry & NO_EXECUTE != 0 => Protection::Read,
        _ => Protection::ReadExecute,
    };
    let owner = if entry & OWNED != 0 { Owner::Page } else { Owner::Elsewhere };
    Some(Mapping { frame: Frame::containing(entry & ADDRESS), protection, owner })
}
