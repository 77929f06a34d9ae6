//! What of physical memory the direct map contains ("Memory Layout at Entry").

use crate::PAGE_SIZE;
use crate::memory_map::{Range, Region};
use crate::paging::{MapError, PageTables, Rights};
use crate::protocol::{BaseRevision, EXECUTABLE_BASE_MIN, HHDM_DEFAULT};

const FIRST_4_GIB: u64 = 4 << 30;

/// Calls `visit` for each run of physical memory that the direct map contains, in ascending order. `regions` is sorted.
///
/// # Errors
/// The first of `visit`.
pub fn runs<E>(
    regions: &[Region],
    revision: BaseRevision,
    mut visit: impl FnMut(Range) -> Result<(), E>,
) -> Result<(), E> {
    let end = if revision.maps_first_4_gib() { FIRST_4_GIB } else { 0 };
    let mut run = Range { base: 0, end };
    for region in regions.iter().filter(|region| region.kind.is_mapped(revision)) {
        let range = region.range.pages();
        if range.base > run.end {
            if run.base < run.end {
                visit(run)?;
            }
            run = range;
        } else {
            run.end = run.end.max(range.end);
        }
    }
    if run.base < run.end { visit(run) } else { Ok(()) }
}

/// How many runs there are, and where the last ends.
pub fn extent(regions: &[Region], revision: BaseRevision) -> (u64, u64) {
    let (mut count, mut end) = (0, 0);
    let result: Result<(), core::convert::Infallible> = runs(regions, revision, |run| {
        (count, end) = (count + 1, run.end);
        Ok(())
    });
    match result {
        Ok(()) => (count, end),
    }
}

/// Maps everything from `base` on, and for base revision 0 all but the first page to itself as well.
///
/// # Errors
/// [`MapError`].
pub fn map(
    tables: &mut PageTables<'_>,
    regions: &[Region],
    revision: BaseRevision,
    base: u64,
) -> Result<(), MapError> {
    runs(regions, revision, |run| {
        tables.map(base + run.base, run.base, run.length(), Rights::ALL)?;
        if revision.maps_identity() {
            let first = run.base.max(PAGE_SIZE);
            tables.map(first, first, run.end - first, Rights::ALL)?;
        }
        Ok(())
    })
}

/// Whether the direct map may start at `base` if it ends `length` bytes later.
pub fn base_is_possible(base: u64, length: u64) -> bool {
    const ALIGNMENT: u64 = 1 << 30;
    let end = base.checked_add(length);
    base >= HHDM_DEFAULT
        && base.is_multiple_of(ALIGNMENT)
        && end.is_some_and(|end| end <= EXECUTABLE_BASE_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory_map::Kind;
    use alloc::vec::Vec;

    fn region(base: u64, end: u64, kind: Kind) -> Region {
        Region { range: Range { base, end }, kind }
    }

    fn collected(revision: u64) -> Vec<(u64, u64)> {
        let regions = [
            region(0x1000, 0x9000, Kind::Usable),
            region(0x9000, 0xa000, Kind::BootloaderReclaimable),
            region(0xa000, 0xb000, Kind::AcpiReclaimable),
            region(0xc000, 0xd000, Kind::Reserved),
            region(0x1_0000_0000, 0x1_4000_0000, Kind::Usable),
            region(0xfd_0000_0000, 0xff_0000_0000, Kind::Reserved),
        ];
        let mut all = Vec::new();
        runs(&regions, BaseRevision::new(revision).unwrap(), |run| {
            all.push((run.base, run.end));
            Ok::<(), ()>(())
        })
        .unwrap();
        all
    }

    #[test]
    fn runs_follow_the_revision() {
        assert_eq!(collected(0), [(0, 0x1_4000_0000), (0xfd_0000_0000, 0xff_0000_0000)]);
        assert_eq!(collected(2), [(0, 0x1_4000_0000)]);
        assert_eq!(collected(3), [(0x1000, 0xa000), (0x1_0000_0000, 0x1_4000_0000)]);
        assert_eq!(collected(4), [(0x1000, 0xb000), (0x1_0000_0000, 0x1_4000_0000)]);
    }

    #[test]
    fn possible_bases() {
        assert!(base_is_possible(HHDM_DEFAULT, 1 << 32));
        assert!(base_is_possible(0xffff_9000_0000_0000, 1 << 40));
        assert!(!base_is_possible(0xffff_9000_0000_1000, 1 << 32), "alignment");
        assert!(!base_is_possible(0x0000_7000_0000_0000, 1 << 32), "lower half");
        assert!(!base_is_possible(0xffff_ffff_4000_0000, 1 << 32), "over the kernel");
    }
}
