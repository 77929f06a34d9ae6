//! 4-level page tables, built in memory that somebody else owns (Intel SDM volume 3, section 4.5).

/// One table of 512 entries.
#[derive(Clone, Debug)]
#[repr(C, align(4096))]
pub struct Table(pub [u64; 512]);

/// Page tables under construction: a run of tables that lie one after the other in physical memory.
#[derive(Debug)]
pub struct PageTables<'a> {
    tables: &'a mut [Table],
    physical: u64,
    used: usize,
    largest: PageLevel,
}

/// What a mapping allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rights(u64);

impl Rights {
    /// Read, write and execute: the direct map ("Memory Layout at Entry").
    pub const ALL: Self = Self(WRITE);

    /// Read, and more if it is allowed.
    pub const fn new(write: crate::elf::Permission, execute: crate::elf::Permission) -> Self {
        use crate::elf::Permission::{Allowed, Denied};
        let write = match write {
            Allowed => WRITE,
            Denied => 0,
        };
        let no_execute = match execute {
            Allowed => 0,
            Denied => NO_EXECUTE,
        };
        Self(write | no_execute)
    }
}

/// The largest page that the processor has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PageLevel {
    /// 4 KiB.
    Small = 0,
    /// 2 MiB.
    Large = 1,
    /// 1 GiB.
    Huge = 2,
}

/// Why a mapping cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapError {
    /// There are no more tables.
    OutOfTables,
    /// Something else is mapped there.
    Occupied(u64),
}

const PRESENT: u64 = 1;
const WRITE: u64 = 1 << 1;
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

impl<'a> PageTables<'a> {
    /// Empty tables. `tables` are zero, lie at `physical`, and the first of them is the root.
    pub fn new(tables: &'a mut [Table], physical: u64, largest: PageLevel) -> Self {
        Self { tables, physical, used: 1, largest }
    }

    /// The physical address of the root, for CR3.
    pub const fn root(&self) -> u64 {
        self.physical
    }

    /// Maps `length` bytes at `address` to physical memory at `physical`, with the largest pages that fit. All
    /// three are multiples of the page size. What is mapped already to the same frames with the same rights stays.
    ///
    /// # Errors
    /// [`MapError`].
    pub fn map(&mut self, address: u64, physical: u64, length: u64, rights: Rights) -> Result<(), MapError> {
        let mut done = 0;
        while done < length {
            let level = self.level_for(address.wrapping_add(done) | (physical + done), length - done);
            self.map_page(address.wrapping_add(done), physical + done, level, rights)?;
            done += page_bytes(level);
        }
        Ok(())
    }

    fn level_for(&self, alignment: u64, length: u64) -> PageLevel {
        let fits = |level: &PageLevel| {
            *level <= self.largest
                && alignment.is_multiple_of(page_bytes(*level))
                && page_bytes(*level) <= length
        };
        [PageLevel::Huge, PageLevel::Large].into_iter().find(fits).unwrap_or(PageLevel::Small)
    }

    fn map_page(
        &mut self,
        address: u64,
        physical: u64,
        level: PageLevel,
        rights: Rights,
    ) -> Result<(), MapError> {
        let mut table = 0;
        for depth in (level as u32 + 1..4).rev() {
            let entry = self.tables[table].0[index(address, depth)];
            if entry & (PRESENT | LARGE) == PRESENT | LARGE {
                return self.check(entry, depth, address, physical, rights);
            }
            table = if entry & PRESENT != 0 {
                ((entry & ADDRESS) - self.physical) as usize / size_of::<Table>()
            } else {
                let new = self.take()?;
                // Rights are the leaf's alone.
                self.tables[table].0[index(address, depth)] = self.address_of(new) | PRESENT | WRITE;
                new
            };
        }
        let large = if level == PageLevel::Small { 0 } else { LARGE };
        let new = physical | rights.0 | large | PRESENT;
        let entry = &mut self.tables[table].0[index(address, level as u32)];
        if *entry & PRESENT != 0 && *entry != new {
            return Err(MapError::Occupied(address));
        }
        *entry = new;
        Ok(())
    }

    /// A large page is there already: fine if it says the same.
    fn check(
        &self,
        entry: u64,
        depth: u32,
        address: u64,
        physical: u64,
        rights: Rights,
    ) -> Result<(), MapError> {
        let inside = address & ((1 << (12 + 9 * depth)) - 1);
        let same = (entry & ADDRESS) + inside == physical && entry & (WRITE | NO_EXECUTE) == rights.0;
        if same { Ok(()) } else { Err(MapError::Occupied(address)) }
    }

    fn take(&mut self) -> Result<usize, MapError> {
        if self.used == self.tables.len() {
            return Err(MapError::OutOfTables);
        }
        self.used += 1;
        Ok(self.used - 1)
    }

    fn address_of(&self, table: usize) -> u64 {
        self.physical + (table * size_of::<Table>()) as u64
    }

    /// A second root that has what the first has, and in addition maps the pages of each of `ranges` (address, length)
    /// to themselves, whatever stood there. For the few instructions that change from one set of tables to the other.
    ///
    /// # Errors
    /// [`MapError::OutOfTables`].
    pub fn root_with_identity(&mut self, ranges: &[(u64, u64)]) -> Result<u64, MapError> {
        let root = self.take()?;
        self.tables[root] = self.tables[0].clone();
        let pages = |&(start, length): &(u64, u64)| {
            (crate::page_down(start)..start + length).step_by(crate::PAGE_SIZE as usize)
        };
        for page in ranges.iter().flat_map(pages) {
            // Tables of its own: those of the first root stay as they are.
            let mut table = root;
            for depth in (1..4).rev() {
                let entry = self.tables[table].0[index(page, depth)];
                let is_table = entry & PRESENT != 0 && entry & LARGE == 0;
                let below = || ((entry & ADDRESS) - self.physical) as usize / size_of::<Table>();
                let next = match is_table.then(below).filter(|&below| below > root) {
                    Some(own) => own,
                    None => self.take()?,
                };
                self.tables[table].0[index(page, depth)] = self.address_of(next) | PRESENT | WRITE;
                table = next;
            }
            self.tables[table].0[index(page, 0)] = page | PRESENT;
        }
        Ok(self.address_of(root))
    }
}

/// How many tables `runs` runs that span `bytes` in all need at most, with large pages or without room for them.
pub const fn tables_max(runs: u64, bytes: u64) -> u64 {
    // For each run at both ends one table of each level below the root; between them one for each GiB that has no
    // huge page, and one for each 512 GiB.
    runs * 6 + bytes / (1 << 30) + bytes / (1 << 39) + 1
}

const fn page_bytes(level: PageLevel) -> u64 {
    1 << (12 + 9 * level as u32)
}

const fn index(address: u64, depth: u32) -> usize {
    (address >> (12 + 9 * depth)) as usize & 511
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    const PHYSICAL: u64 = 0x7f_f000;

    fn tables(count: usize) -> Vec<Table> {
        vec![Table([0; 512]); count]
    }

    /// What the processor does.
    fn translate(tables: &[Table], root: u64, address: u64) -> Option<(u64, Rights)> {
        let mut table = root;
        for depth in (0..4).rev() {
            let entry = tables[((table - PHYSICAL) / 4096) as usize].0[index(address, depth)];
            if entry & PRESENT == 0 {
                return None;
            }
            if depth == 0 || entry & LARGE != 0 {
                let inside = address & ((1 << (12 + 9 * depth)) - 1);
                let base = entry & ADDRESS;
                assert_eq!(base & ((1 << (12 + 9 * depth)) - 1), 0, "aligned");
                return Some((base + inside, Rights(entry & (WRITE | NO_EXECUTE))));
            }
            table = entry & ADDRESS;
        }
        None
    }

    #[test]
    fn pages_of_all_sizes() {
        let mut memory = tables(16);
        let mut map = PageTables::new(&mut memory, PHYSICAL, PageLevel::Huge);
        let base = 0xffff_8000_0000_0000;
        map.map(base + 0x1000, 0x1000, (2 << 30) + 0x3000, Rights::ALL).unwrap();
        let used = map.used;
        for address in [0x1000, 0x1f_ffff, 0x20_0000, 0x3fff_ffff, 0x4000_0000, 0x8000_3fff] {
            assert_eq!(
                translate(&memory, PHYSICAL, base + address),
                Some((address, Rights::ALL)),
                "{address:#x}"
            );
        }
        assert_eq!(translate(&memory, PHYSICAL, base), None);
        assert_eq!(translate(&memory, PHYSICAL, base + 0x8000_4000), None);
        assert!(used as u64 <= 1 + tables_max(1, 2 << 30));
    }

    #[test]
    fn conflicts_and_ends_are_told() {
        let mut memory = tables(4);
        let mut map = PageTables::new(&mut memory, PHYSICAL, PageLevel::Large);
        map.map(0x20_0000, 0x20_0000, 0x20_0000, Rights::ALL).unwrap();
        assert_eq!(map.map(0x20_1000, 0x20_1000, 0x1000, Rights::ALL), Ok(()), "the same");
        assert_eq!(map.map(0x20_1000, 0x1000, 0x1000, Rights::ALL), Err(MapError::Occupied(0x20_1000)));
        map.map(0, 0, 0x1000, Rights::ALL).unwrap();
        assert_eq!(map.map(0, 0x1000, 0x1000, Rights::ALL), Err(MapError::Occupied(0)));
        assert_eq!(map.map(1 << 39, 0, 0x1000, Rights::ALL), Err(MapError::OutOfTables));
    }

    #[test]
    fn a_second_root_adds_identity_and_leaves_the_first_alone() {
        for with_lower_half in [false, true] {
            let mut memory = tables(24);
            let mut map = PageTables::new(&mut memory, PHYSICAL, PageLevel::Large);
            map.map(0xffff_8000_0000_0000, 0, 0x40_0000, Rights::ALL).unwrap();
            if with_lower_half {
                map.map(0x1000, 0x1000, 0x3f_f000, Rights::ALL).unwrap();
            }
            let second = map.root_with_identity(&[(0x1f_f800, 0x1000)]).unwrap();
            for page in [0x1f_f000, 0x20_0000] {
                assert_eq!(translate(&memory, second, page).map(|(to, _)| to), Some(page));
                assert_eq!(translate(&memory, PHYSICAL, page).is_some(), with_lower_half);
            }
            assert_eq!(translate(&memory, second, 0xffff_8000_0012_3456).map(|(to, _)| to), Some(0x12_3456));
        }
    }

    proptest! {
        #[test]
        fn any_runs_are_mapped_and_nothing_else(
            runs in prop::collection::vec((1u64..400, 1u64..2000), 1..8),
            largest in 0usize..3,
        ) {
            let largest = [PageLevel::Small, PageLevel::Large, PageLevel::Huge][largest];
            let mut memory = tables(64);
            let mut map = PageTables::new(&mut memory, PHYSICAL, largest);
            let offset = 0xffff_8000_0000_0000u64;
            let (mut at, mut expected) = (0u64, Vec::new());
            for (gap, pages) in runs {
                let base = at + gap * 4096;
                at = base + pages * 4096;
                map.map(offset + base, base, pages * 4096, Rights::ALL).unwrap();
                expected.push((base, at));
            }
            for page in (0..at + 0x40_0000).step_by(4096) {
                let inside = expected.iter().any(|(base, end)| *base <= page && page < *end);
                prop_assert_eq!(translate(&memory, PHYSICAL, offset + page), inside.then_some((page, Rights::ALL)));
            }
        }
    }
}
