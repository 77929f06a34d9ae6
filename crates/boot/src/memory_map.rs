//! The firmware's memory map to the one that an executable gets ("Memory Map Feature"): sorted, without overlaps
//! among what matters, touching pieces of one kind merged. Nothing here allocates: it runs when the firmware's
//! allocator is gone.

use crate::config::MapVariant;
use crate::protocol::BaseRevision;
use crate::{PAGE_SIZE, page_down, page_up};

/// What memory is for: the values of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u64)]
pub enum Kind {
    /// Free RAM.
    Usable = 0,
    /// Not to be touched.
    Reserved = 1,
    /// ACPI tables.
    AcpiReclaimable = 2,
    /// ACPI's own storage.
    AcpiNvs = 3,
    /// Unreliable.
    Bad = 4,
    /// What the loader and the firmware's boot services leave behind.
    BootloaderReclaimable = 5,
    /// The executable, modules.
    ExecutableAndModules = 6,
    /// A framebuffer.
    Framebuffer = 7,
    /// Firmware tables that the direct map contains; since base revision 4.
    ReservedMapped = 8,
}

impl Kind {
    /// Which kind wins where two overlap: the one that keeps the most from being lost.
    const fn precedence(self) -> u8 {
        match self {
            Self::Usable => 0,
            Self::BootloaderReclaimable => 1,
            Self::ExecutableAndModules => 2,
            Self::Framebuffer => 3,
            Self::Reserved => 4,
            // Above Reserved: firmware tables in reserved memory are to be mapped.
            Self::ReservedMapped => 5,
            Self::AcpiReclaimable => 6,
            Self::AcpiNvs => 7,
            Self::Bad => 8,
        }
    }

    /// Whether the direct map contains it beyond what it contains anyway ("Memory Layout at Entry").
    pub const fn is_mapped(self, revision: BaseRevision) -> bool {
        match self {
            Self::Usable | Self::BootloaderReclaimable | Self::ExecutableAndModules | Self::Framebuffer => {
                true
            }
            Self::AcpiReclaimable | Self::AcpiNvs | Self::ReservedMapped => {
                // Base revision 3 alone leaves them out; 0 to 2 include all but reserved and bad memory.
                revision.maps_first_4_gib() || revision.maps_acpi_tables()
            }
            Self::Reserved | Self::Bad => revision.maps_identity(),
        }
    }

    /// From the firmware's type (UEFI 2.10, section 7.2.1, `EFI_MEMORY_TYPE`).
    pub const fn from_firmware(kind: u32, revision: BaseRevision) -> Self {
        match kind {
            1..=4 => Self::BootloaderReclaimable, // loader and boot services, code and data
            5 | 6 if revision.has_strict_machine_state() => Self::ReservedMapped, // runtime services
            7 => Self::Usable,                    // conventional
            9 => Self::AcpiReclaimable,
            10 => Self::AcpiNvs,
            _ => Self::Reserved,
        }
    }
}

/// Physical memory from `base` up to, not including, `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// First byte.
    pub base: u64,
    /// Behind the last byte.
    pub end: u64,
}

impl Range {
    /// `length` bytes from `base`; shortened to what fits 64 bits.
    pub const fn new(base: u64, length: u64) -> Self {
        Self { base, end: base.saturating_add(length) }
    }

    /// Made larger to whole pages.
    pub fn pages(self) -> Self {
        Self { base: page_down(self.base), end: page_up(self.end).unwrap_or(page_down(u64::MAX)) }
    }

    /// In bytes.
    pub const fn length(self) -> u64 {
        self.end - self.base
    }
}

/// A range and what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// Where.
    pub range: Range,
    /// What.
    pub kind: Kind,
}

/// There are more entries than there is room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapFull;

/// A list of regions in memory that somebody else owns.
#[derive(Debug)]
pub struct RegionList<'a> {
    slots: &'a mut [Region],
    used: usize,
}

impl<'a> RegionList<'a> {
    /// An empty list that can hold as many as there are slots.
    pub fn new(slots: &'a mut [Region]) -> Self {
        Self { slots, used: 0 }
    }

    /// Adds one. Empty ranges are dropped.
    ///
    /// # Errors
    /// [`MapFull`].
    pub fn push(&mut self, region: Region) -> Result<(), MapFull> {
        if region.range.base < region.range.end {
            *self.slots.get_mut(self.used).ok_or(MapFull)? = region;
            self.used += 1;
        }
        Ok(())
    }

    /// What has been added.
    pub fn regions(&self) -> &[Region] {
        &self.slots[..self.used]
    }

    /// The same, to be changed.
    pub fn regions_mut(&mut self) -> &mut [Region] {
        &mut self.slots[..self.used]
    }
}

/// Makes one list without overlaps out of `sources`, which may overlap and have any order: what has precedence
/// wins. All ranges are widened to pages. `cuts` is room for two addresses for each source.
///
/// # Errors
/// [`MapFull`] if `cuts` or `map` is too small.
pub fn flatten(sources: &[Region], cuts: &mut [u64], map: &mut RegionList<'_>) -> Result<(), MapFull> {
    let cuts = cuts.get_mut(..2 * sources.len()).ok_or(MapFull)?;
    for (pair, source) in cuts.chunks_exact_mut(2).zip(sources) {
        let Range { base, end } = source.range.pages();
        pair.copy_from_slice(&[base, end]);
    }
    cuts.sort_unstable();
    for pair in cuts.windows(2) {
        let piece = Range { base: pair[0], end: pair[1] };
        if piece.base == piece.end {
            continue;
        }
        let covers = |source: &&Region| {
            let range = source.range.pages();
            range.base <= piece.base && piece.end <= range.end
        };
        let winner = sources.iter().filter(covers).max_by_key(|source| source.kind.precedence());
        if let Some(winner) = winner {
            append(map, Region { range: piece, kind: winner.kind })?;
        }
    }
    Ok(())
}

/// Adds a region behind all others, merged with the last if they touch and are of one kind.
fn append(map: &mut RegionList<'_>, region: Region) -> Result<(), MapFull> {
    match map.regions_mut().last_mut() {
        Some(last) if last.kind == region.kind && last.range.end == region.range.base => {
            last.range.end = region.range.end;
            Ok(())
        }
        _ => map.push(region),
    }
}

/// Changes a flat map into one that the protocol allows as well.
///
/// # Errors
/// [`MapFull`].
pub fn vary(map: &mut RegionList<'_>, variant: MapVariant) -> Result<(), MapFull> {
    let count = map.regions().len();
    match variant {
        MapVariant::Plain | MapVariant::Reversed => return Ok(()),
        MapVariant::Fragmented => {
            for index in 0..count {
                fragment(map, index)?;
            }
        }
        MapVariant::Overlapping => {
            for index in 0..count {
                let Region { range, kind } = map.regions()[index];
                let may_overlap = !matches!(kind, Kind::Usable | Kind::BootloaderReclaimable);
                if may_overlap && range.length() > 2 * PAGE_SIZE {
                    // Odd bounds inside of it, and a type that is not its own.
                    let inner = Range { base: range.base + 0x123, end: range.end - 0x321 };
                    map.push(Region { range: inner, kind: Kind::Reserved })?;
                }
            }
        }
    }
    map.regions_mut().sort_unstable_by_key(|region| region.range.base);
    Ok(())
}

/// Splits usable memory into three pieces that touch.
fn fragment(map: &mut RegionList<'_>, index: usize) -> Result<(), MapFull> {
    let Region { range, kind } = map.regions()[index];
    let third = page_down(range.length() / 3);
    if kind != Kind::Usable || third == 0 {
        return Ok(());
    }
    let (first, second) = (range.base + third, range.base + 2 * third);
    map.regions_mut()[index].range.end = first;
    map.push(Region { range: Range { base: first, end: second }, kind })?;
    map.push(Region { range: Range { base: second, end: range.end }, kind })
}

/// How many entries [`flatten`] and [`vary`] can make of `sources` regions, at most.
pub const fn entries_max(sources: usize) -> usize {
    // Between 2n cuts lie 2n - 1 pieces; a variant makes three of each.
    6 * sources
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    const EMPTY: Region = Region { range: Range { base: 0, end: 0 }, kind: Kind::Usable };
    const KINDS: [Kind; 9] = [
        Kind::Usable,
        Kind::Reserved,
        Kind::AcpiReclaimable,
        Kind::AcpiNvs,
        Kind::Bad,
        Kind::BootloaderReclaimable,
        Kind::ExecutableAndModules,
        Kind::Framebuffer,
        Kind::ReservedMapped,
    ];

    fn region(base: u64, end: u64, kind: Kind) -> Region {
        Region { range: Range { base, end }, kind }
    }

    fn flat(sources: &[Region], variant: MapVariant) -> Vec<Region> {
        let mut slots = vec![EMPTY; entries_max(sources.len())];
        let mut map = RegionList::new(&mut slots);
        flatten(sources, &mut vec![0; 2 * sources.len()], &mut map).unwrap();
        vary(&mut map, variant).unwrap();
        map.regions().to_vec()
    }

    fn revision(number: u64) -> BaseRevision {
        BaseRevision::new(number).unwrap()
    }

    #[test]
    fn a_map_is_sorted_split_and_merged() {
        let sources = [
            region(0x10_0000, 0x80_0000, Kind::Usable),
            region(0x0, 0xa_0000, Kind::Usable),
            region(0x80_0000, 0x90_0000, Kind::Usable),
            region(0x0, 0x1000, Kind::Reserved),
            region(0x20_0000, 0x20_0800, Kind::ExecutableAndModules),
            region(0x20_1000, 0x20_2000, Kind::ExecutableAndModules),
        ];
        let expected = [
            region(0x0, 0x1000, Kind::Reserved),
            region(0x1000, 0xa_0000, Kind::Usable),
            region(0x10_0000, 0x20_0000, Kind::Usable),
            region(0x20_0000, 0x20_2000, Kind::ExecutableAndModules),
            region(0x20_2000, 0x90_0000, Kind::Usable),
        ];
        assert_eq!(flat(&sources, MapVariant::Plain), expected);
    }

    #[test]
    fn firmware_types_follow_the_revision() {
        let kinds =
            |number| -> Vec<Kind> { (0..16).map(|t| Kind::from_firmware(t, revision(number))).collect() };
        use Kind::{
            AcpiNvs as N, AcpiReclaimable as A, BootloaderReclaimable as B, Reserved as R,
            ReservedMapped as M, Usable as U,
        };
        assert_eq!(kinds(4), [R, B, B, B, B, R, R, U, R, A, N, R, R, R, R, R]);
        assert_eq!(kinds(5), [R, B, B, B, B, M, M, U, R, A, N, R, R, R, R, R]);
    }

    #[test]
    fn the_direct_map_contains_what_the_revision_says() {
        let mapped = |number| -> Vec<u64> {
            KINDS.iter().filter(|k| k.is_mapped(revision(number))).map(|k| *k as u64).collect()
        };
        assert_eq!(mapped(0), [0, 1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(mapped(1), [0, 2, 3, 5, 6, 7, 8]);
        assert_eq!(mapped(3), [0, 5, 6, 7]);
        assert_eq!(mapped(6), [0, 2, 3, 5, 6, 7, 8]);
    }

    #[test]
    fn too_little_room_is_an_error() {
        let sources = [region(0, 0x1000, Kind::Usable), region(0x2000, 0x3000, Kind::Usable)];
        let mut slots = [EMPTY; 1];
        let mut map = RegionList::new(&mut slots);
        assert_eq!(flatten(&sources, &mut [0; 4], &mut map), Err(MapFull));
        let mut slots = [EMPTY; 8];
        assert_eq!(flatten(&sources, &mut [0; 3], &mut RegionList::new(&mut slots)), Err(MapFull));
    }

    fn any_region() -> impl Strategy<Value = Region> {
        let place = prop_oneof![0u64..0x40_000, Just(u64::MAX - 0x2000)];
        (place, 0u64..0x9000, 0usize..9)
            .prop_map(|(base, length, kind)| Region { range: Range::new(base, length), kind: KINDS[kind] })
    }

    /// The kind of one page, by the definition: the winner among those that touch it.
    fn expected_kind(sources: &[Region], page: u64) -> Option<Kind> {
        let touches = |source: &&Region| {
            let range = source.range.pages();
            range.base <= page && page < range.end
        };
        sources.iter().filter(touches).max_by_key(|source| source.kind.precedence()).map(|source| source.kind)
    }

    proptest! {
        #[test]
        fn any_map_is_flattened(sources in prop::collection::vec(any_region(), 0..24)) {
            let sources: Vec<_> = sources.into_iter().filter(|s| s.range.base < s.range.end).collect();
            let map = flat(&sources, MapVariant::Plain);
            for pair in map.windows(2) {
                prop_assert!(pair[0].range.end <= pair[1].range.base, "sorted, no overlap");
                let touch = pair[0].range.end == pair[1].range.base;
                prop_assert!(!touch || pair[0].kind != pair[1].kind, "merged");
            }
            for page in (0..0x4a_000).step_by(PAGE_SIZE as usize) {
                let given = map.iter().find(|r| r.range.base <= page && page < r.range.end);
                prop_assert_eq!(given.map(|r| r.kind), expected_kind(&sources, page));
            }
            let mut reversed = sources.clone();
            reversed.reverse();
            prop_assert_eq!(flat(&reversed, MapVariant::Reversed), map, "the order does not matter");
        }

        #[test]
        fn variants_keep_the_promises(sources in prop::collection::vec(any_region(), 0..24)) {
            let sources: Vec<_> = sources.into_iter().filter(|s| s.range.base < s.range.end).collect();
            let plain = flat(&sources, MapVariant::Plain);
            for variant in [MapVariant::Fragmented, MapVariant::Overlapping] {
                let map = flat(&sources, variant);
                prop_assert!(map.is_sorted_by_key(|r| r.range.base));
                for (index, one) in map.iter().enumerate() {
                    let exclusive = matches!(one.kind, Kind::Usable | Kind::BootloaderReclaimable);
                    let clash = |other: &&Region| other.range.base < one.range.end && one.range.base < other.range.end;
                    let others = map.iter().enumerate().filter(|(other, _)| *other != index).map(|(_, r)| r);
                    prop_assert!(!exclusive || others.clone().find(clash).is_none());
                    prop_assert!(!exclusive || (one.range.base | one.range.end) % PAGE_SIZE == 0);
                }
                let total = |map: &[Region]| -> u64 {
                    map.iter().filter(|r| r.kind == Kind::Usable).map(|r| r.range.length()).sum()
                };
                prop_assert_eq!(total(&map), total(&plain));
            }
        }
    }
}
