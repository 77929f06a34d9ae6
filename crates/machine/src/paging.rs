//! Page tables (Intel SDM volume 3, section 4.5: 4-level paging).
//!
//! The upper half is the kernel's and is built once: RAM at [`DIRECT`], devices and firmware tables at [`DEVICES`],
//! stacks at [`STACKS`], the image where it is linked. Its top entries are the same in the tables of every domain ([`crate::space`]), whose
//! own the lower half is.

use abi::PAGE_SIZE;
use core::arch::asm;
use core::ops::Range;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::{AcqRel, Acquire};

/// Where all RAM is mapped, but for the kernel's image.
pub const DIRECT: u64 = 0xffff_8000_0000_0000;
/// Where device registers and firmware tables are mapped.
pub const DEVICES: u64 = 0xffff_c000_0000_0000;
/// Where the kernel's stacks are.
pub const STACKS: u64 = 0xffff_d000_0000_0000;

/// Where the mappings of [`DEVICES`] end: they have one top entry.
pub const DEVICES_END: u64 = DEVICES + (1 << 39);

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
    /// A CPU has used the entry.
    pub const ACCESSED: u64 = 1 << 5;
    /// A CPU has written to the page.
    pub const DIRTY: u64 = 1 << 6;
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

/// Entries of a table.
pub const ENTRIES: u64 = 512;
/// The levels above the one whose entries map 4 KiB: 0 is that one, this is the root's.
pub const TOP: u64 = 3;
const LARGE_BYTES: u64 = span(1);
const HUGE_BYTES: u64 = span(2);
/// Flags of an entry that points to a table: the entries below restrict.
pub const TABLE: u64 = PRESENT | WRITE;

/// The largest page that a mapping may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageSizes {
    /// 4 KiB only.
    Small,
    /// Up to 2 MiB.
    Large,
    /// Up to 1 GiB.
    Huge,
}

/// Where all physical memory that tables lie in is mapped: what is added to a physical address to reach it.
#[derive(Clone, Copy, Debug)]
pub struct Window(pub u64);

impl Window {
    /// On the kernel's own tables.
    pub const OWN: Self = Self(DIRECT);

    /// An entry of the table at physical address `table`.
    pub fn load(self, table: u64, slot: u64) -> u64 {
        // SAFETY: `table` is a table of ours, mapped here, and `slot` is below 512. Volatile, because the CPU sets accessed and
        // dirty bits.
        unsafe { ((self.0 + table) as *const u64).add(slot as usize).read_volatile() }
    }

    /// Changes an entry.
    pub fn store(self, table: u64, slot: u64, entry: u64) {
        // SAFETY: as for `load`. What the entry means for the memory under Rust is the callers' matter: they map only
        // free addresses of the kernel's half, and the domain's half has no Rust objects.
        unsafe { ((self.0 + table) as *mut u64).add(slot as usize).write_volatile(entry) }
    }

    /// Changes an entry in one step, whatever CPUs note in it meanwhile. Answers with what it was.
    pub fn update(self, table: u64, slot: u64, change: impl Fn(u64) -> u64) -> u64 {
        let at = ((self.0 + table) as *mut u64).wrapping_add(slot as usize);
        // SAFETY: as for `store`; it is aligned, and CPUs access it atomically as well.
        let entry = unsafe { AtomicU64::from_ptr(at) };
        let changed = entry.fetch_update(AcqRel, Acquire, |entry| Some(change(entry)));
        changed.unwrap_or_else(|entry| entry)
    }

    /// Makes a table of a frame that was just allocated: its first `count` entries are empty.
    pub fn clear(self, table: u64, count: u64) {
        // SAFETY: nothing else refers to the frame; it is mapped here. By words: a machine that counts instructions counts each store.
        unsafe {
            asm!("rep stosq", inout("rdi") self.0 + table => _, inout("rcx") count => _, in("rax") 0u64, options(nostack, preserves_flags))
        }
    }
    /// Makes entries of one table the same as those of another.
    pub fn copy(self, from: u64, to: u64, slots: Range<u64>) {
        let (from, to) = (self.0 + from + 8 * slots.start, self.0 + to + 8 * slots.start);
        // SAFETY: both are tables of ours, mapped here, and the slots are below 512.
        unsafe {
            asm!("rep movsq", inout("rsi") from => _, inout("rdi") to => _, inout("rcx") slots.end - slots.start => _, options(nostack, preserves_flags))
        }
    }
}

/// The tables of the kernel's half.
#[derive(Debug)]
pub struct KernelTables {
    root: u64,
    window: Window,
}

/// Takes so many frames side by side: answers their physical address.
pub type Take<'t> = &'t mut dyn FnMut(u64) -> Option<u64>;

impl KernelTables {
    /// An empty root.
    pub fn new(take: Take<'_>, window: Window) -> Option<Self> {
        let root = take(1)?;
        window.clear(root, ENTRIES);
        Some(Self { root, window })
    }

    /// For `cr3`.
    pub fn root(&self) -> u64 {
        self.root
    }

    /// Physical memory is mapped elsewhere from now on.
    pub fn set_window(&mut self, window: Window) {
        self.window = window;
    }

    /// Adds the table below the root that `address` is mapped in.
    pub fn reserve(&mut self, take: Take<'_>, address: u64) -> Option<()> {
        self.descend(take, self.root, index(address, TOP)).map(|_| ())
    }

    /// Maps whole pages of physical memory at `address`, with the largest pages that fit.
    pub fn map(
        &mut self,
        take: Take<'_>,
        address: u64,
        physical: Range<u64>,
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
            for above in (level + 1..=TOP).rev() {
                table = self.descend(take, table, index(delta.wrapping_add(at), above))?;
            }
            // A run of entries of one table: the way down is the same for all. Where the table ends larger pages may fit again.
            let slot = index(delta.wrapping_add(at), level);
            let run = (ENTRIES - slot).min((physical.end - at) / bytes);
            for slot in slot..slot + run {
                self.window.store(table, slot, at | flags | large | PRESENT | GLOBAL);
                at += bytes;
            }
        }
        Some(())
    }

    fn descend(&mut self, take: Take<'_>, table: u64, slot: u64) -> Option<u64> {
        let entry = self.window.load(table, slot);
        if entry & PRESENT != 0 {
            return Some(entry & ADDRESS);
        }
        let below = take(1)?;
        self.window.clear(below, ENTRIES);
        self.window.store(table, slot, below | TABLE);
        Some(below)
    }
}

/// Calls `visit` with every page that is mapped under `root`: its address, its size, and the flags that hold for it on all levels.
pub fn visit(root: u64, visit: &mut dyn FnMut(u64, u64, u64)) {
    visit_below(root, TOP, 0, WRITE | USER, visit);
}

fn visit_below(table: u64, level: u64, base: u64, above: u64, visit: &mut dyn FnMut(u64, u64, u64)) {
    for slot in 0..ENTRIES {
        let entry = Window::OWN.load(table, slot);
        if entry & PRESENT == 0 {
            continue;
        }
        let mut address = base + slot * span(level);
        if level == TOP && slot >= ENTRIES / 2 {
            address |= 0xffff << 48;
        }
        let flags = above & entry & (WRITE | USER) | (above | entry) & NO_EXECUTE;
        if level == 0 || entry & LARGE != 0 {
            visit(address, span(level), flags | entry & UNCACHED);
        } else {
            visit_below(entry & ADDRESS, level - 1, address, flags, visit);
        }
    }
}

/// The slot for `address` in a table of `level`.
pub const fn index(address: u64, level: u64) -> u64 {
    (address >> (12 + 9 * level)) % ENTRIES
}

/// How many bytes one entry of a table of `level` maps.
pub const fn span(level: u64) -> u64 {
    PAGE_SIZE << (9 * level)
}
