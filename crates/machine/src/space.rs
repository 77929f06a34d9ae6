//! The address space of a domain: the lower half of its tables. Which CPUs may remember it is [`crate::tlb`]'s matter.

use crate::memory;
use crate::paging::bits::*;
use crate::paging::{ENTRIES, TABLE, TOP, Window, index, span};
use abi::{Marks, Protection, mark};
use core::ops::ControlFlow;
use core::sync::atomic::{AtomicU64, Ordering};
use kernel::{Cache, Change, Found, Frame, Mapping, Owner, Page, Walk};

/// Pages that are forgotten one by one before all are.
pub const STALE_MAX: usize = 16;
/// The slots of a root that are the kernel's.
const KERNEL_SLOTS: core::ops::Range<u64> = ENTRIES / 2..ENTRIES;

/// Tables of one domain.
#[derive(Debug)]
pub struct Space {
    /// Physical address of the root.
    pub root: u64,
    /// Names the space; never used again.
    pub number: u64,
    /// Goes up with each change that a CPU must not remember.
    pub generation: u64,
    /// The CPUs that may run it, as bits; more than do.
    pub cpus: u64,
    /// The ports that the domain may use, as bits.
    pub ports: [u64; 2],
    /// What changed since the last flush.
    pub stale: Stale,
}

/// Pages whose entries changed.
#[derive(Debug, Default)]
pub struct Stale {
    /// Their addresses.
    pub pages: [u64; STALE_MAX],
    /// How many; above [`STALE_MAX`]: too many to list.
    pub count: usize,
    /// Whether `ports` changed.
    pub ports: bool,
}

impl Stale {
    fn add(&mut self, page: Page) {
        if let Some(slot) = self.pages.get_mut(self.count) {
            *slot = page.address();
        }
        self.count = (self.count + 1).min(STALE_MAX + 1);
    }
}

impl Space {
    /// A space in which nothing is mapped but the kernel, as under `kernel_root`.
    pub fn new(kernel_root: u64) -> Option<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let root = memory::allocate()?.address();
        Window::OWN.clear(root, KERNEL_SLOTS.start);
        Window::OWN.copy(kernel_root, root, KERNEL_SLOTS);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Some(Self { root, number, generation: 0, cpus: 0, ports: [0; 2], stale: Stale::default() })
    }

    /// See [`kernel::Machine::missing_tables`].
    pub fn missing_tables(&self, page: Page) -> u64 {
        (0..TOP).find(|&level| self.table(page, level).is_some()).unwrap_or(TOP)
    }

    /// See [`kernel::Machine::add_table`].
    pub fn add_table(&mut self, page: Page, frame: Frame) {
        let level = self.missing_tables(page);
        if let Some(table) = self.table(page, level) {
            Window::OWN.store(table, index(page.address(), level), frame.address() | TABLE | USER);
        }
    }

    /// See [`kernel::Machine::map`].
    pub fn map(&mut self, page: Page, mapping: Mapping, cache: Cache) {
        self.replace(page, |_| encode(mapping, cache));
    }

    /// See [`kernel::Machine::map_absent`].
    pub fn map_absent(&mut self, first: Page, mapping: Mapping, count: u64) {
        let Some(table) = self.table(first, 0) else { return };
        let slot = index(first.address(), 0);
        for number in 0..count.min(ENTRIES - slot) {
            if decode(Window::OWN.load(table, slot + number)).is_none() {
                let mapping = Mapping { frame: mapping.frame.offset(number), ..mapping };
                Window::OWN.store(table, slot + number, encode(mapping, Cache::Normal));
            }
        }
    }

    /// See [`kernel::Machine::mapping`].
    pub fn mapping(&self, page: Page) -> Option<Mapping> {
        decode(Window::OWN.load(self.table(page, 0)?, index(page.address(), 0)))
    }

    /// See [`kernel::Machine::mark_written`].
    pub fn mark_written(&mut self, page: Page) {
        if let Some(table) = self.table(page, 0) {
            Window::OWN.update(table, index(page.address(), 0), |entry| entry | ACCESSED | DIRTY);
        }
    }

    /// See [`kernel::Machine::protect`].
    pub fn protect(&mut self, page: Page, protection: Protection) {
        self.replace(page, |entry| protected(entry, protection));
    }

    /// See [`kernel::Machine::walk`].
    pub fn walk(&mut self, walk: &mut Walk, visit: Visit<'_>) {
        if !walk.is_over() && self.walk_below((self.root, TOP, 0), walk, visit).is_continue() {
            walk.at = walk.end;
        }
    }

    /// The same in a table of `level`, which maps what begins at `base`. If it breaks off, `walk.at` is where.
    fn walk_below(
        &mut self,
        (table, level, base): (u64, u64, u64),
        walk: &mut Walk,
        visit: Visit<'_>,
    ) -> ControlFlow<()> {
        let (bytes, end) = (span(level), walk.end.address());
        let mut at = walk.at.address().max(base) & !(bytes - 1);
        for slot in index(at, level)..ENTRIES {
            if at >= end {
                break;
            }
            let page = Page::containing(at).max(walk.at);
            if walk.entries == 0 {
                walk.at = page;
                return ControlFlow::Break(());
            }
            walk.entries -= 1;
            let entry = Window::OWN.load(table, slot);
            let found = if level == 0 {
                let entry =
                    if walk.marks == Marks::Clear { self.clear_marks(table, slot, page) } else { entry };
                decode(entry).map(|mapping| Found::Page(page, mapping, marks(entry)))
            } else if entry & PRESENT != 0 {
                self.walk_below((entry & ADDRESS, level - 1, at), walk, visit)?;
                let inside = walk.hole.0.address() <= at && at + bytes <= walk.hole.1.address();
                inside.then_some(Found::Table(Frame::containing(entry & ADDRESS)))
            } else {
                None
            };
            if let Some(found) = found {
                let Some(change) = visit(found) else {
                    walk.at = page;
                    return ControlFlow::Break(());
                };
                self.change((table, slot), (entry, found), change);
                walk.entries = walk.entries.saturating_sub(Walk::PAGE_ENTRIES - 1);
            }
            at += bytes;
        }
        ControlFlow::Continue(())
    }

    /// Takes the marks of a page away; answers with its entry before that.
    fn clear_marks(&mut self, table: u64, slot: u64, page: Page) -> u64 {
        let entry = Window::OWN.load(table, slot);
        if marks(entry) == 0 {
            return entry;
        }
        if entry & PRESENT != 0 {
            self.stale.add(page);
        }
        Window::OWN.update(table, slot, |entry| entry & !(ACCESSED | DIRTY))
    }

    fn change(&mut self, (table, slot): (u64, u64), (entry, found): (u64, Found), change: Change) {
        match change {
            Change::Keep => return,
            Change::Protect(protection) => {
                Window::OWN.update(table, slot, |entry| protected(entry, protection));
            }
            Change::Unmap => Window::OWN.store(table, slot, 0),
        }
        match found {
            Found::Page(page, ..) if entry & PRESENT != 0 => self.stale.add(page),
            Found::Page(..) => (),
            // CPUs also remember tables, under whatever address they walked through them.
            Found::Table(_) => self.stale.count = STALE_MAX + 1,
        }
    }

    /// Lets the domain use these ports, below 0x80.
    pub fn open_ports(&mut self, ports: core::ops::RangeInclusive<u8>) {
        for port in ports {
            self.ports[usize::from(port / 64)] |= 1 << (port % 64);
        }
        self.stale.ports = true;
    }

    /// Takes them back.
    pub fn close_ports(&mut self, ports: core::ops::RangeInclusive<u8>) {
        for port in ports {
            self.ports[usize::from(port / 64)] &= !(1 << (port % 64));
        }
        self.stale.ports = true;
    }

    /// Changes the entry of a page. A CPU remembers none that was not present.
    fn replace(&mut self, page: Page, change: impl Fn(u64) -> u64) {
        let Some(table) = self.table(page, 0) else { return };
        let slot = index(page.address(), 0);
        let before = Window::OWN.update(table, slot, change);
        if before & PRESENT != 0 {
            self.stale.add(page);
        }
    }

    /// The table of `level` (0: the one that maps pages of 4 KiB) on the way to `page`.
    fn table(&self, page: Page, level: u64) -> Option<u64> {
        let mut table = self.root;
        for above in (level + 1..=TOP).rev() {
            let entry = Window::OWN.load(table, index(page.address(), above));
            if entry & PRESENT == 0 || entry & LARGE != 0 {
                return None;
            }
            table = entry & ADDRESS;
        }
        Some(table)
    }
}

/// Does with what a walk found what it answers.
type Visit<'v> = &'v mut dyn FnMut(Found) -> Option<Change>;

fn protected(entry: u64, protection: Protection) -> u64 {
    entry & (ADDRESS | OWNED | UNCACHED | ACCESSED | DIRTY) | access_bits(protection)
}

fn marks(entry: u64) -> u8 {
    let accessed = if entry & ACCESSED != 0 { mark::ACCESSED } else { 0 };
    let dirty = if entry & DIRTY != 0 { mark::DIRTY } else { 0 };
    accessed | dirty
}

fn access_bits(protection: Protection) -> u64 {
    match protection {
        Protection::None => KEPT | NO_EXECUTE,
        Protection::Read => PRESENT | USER | NO_EXECUTE,
        Protection::ReadWrite => PRESENT | USER | WRITE | NO_EXECUTE,
        Protection::ReadExecute => PRESENT | USER,
    }
}

fn encode(Mapping { frame, protection, owner }: Mapping, cache: Cache) -> u64 {
    let owned = if owner == Owner::Page { OWNED } else { 0 };
    let uncached = if cache == Cache::Device { UNCACHED } else { 0 };
    frame.address() | owned | uncached | access_bits(protection)
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
