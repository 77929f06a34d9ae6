//! Walking the page tables in force (Intel SDM volume 3, section 4.5).

use super::protocol;

/// One page of any size.
#[derive(Clone, Copy, Debug)]
pub struct Leaf {
    pub address: u64,
    pub physical: u64,
    pub bytes: u64,
    pub writable: bool,
    pub executable: bool,
    pub user: bool,
}

const PRESENT: u64 = 1;
const WRITE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Visits every table and every page in the order of addresses.
pub fn leaves(cr3: u64, hhdm: u64, table: &mut impl FnMut(u64), page: &mut impl FnMut(Leaf)) {
    visit(cr3 & ADDRESS, hhdm, 3, 0, table, page);
}

fn visit(
    at: u64,
    hhdm: u64,
    depth: u32,
    base: u64,
    table: &mut impl FnMut(u64),
    page: &mut impl FnMut(Leaf),
) {
    table(at);
    for index in 0..512 {
        let entry = protocol::read(hhdm + at + 8 * index);
        if entry & PRESENT == 0 {
            continue;
        }
        let shift = 12 + 9 * depth;
        let mut address = base | index << shift;
        if depth == 3 && index >= 256 {
            address |= 0xffff << 48; // canonical
        }
        if depth > 0 && entry & LARGE == 0 {
            visit(entry & ADDRESS, hhdm, depth - 1, address, table, page);
        } else {
            page(Leaf {
                address,
                physical: entry & ADDRESS & !((1 << shift) - 1),
                bytes: 1 << shift,
                writable: entry & WRITE != 0,
                executable: entry & NO_EXECUTE == 0,
                user: entry & USER != 0,
            });
        }
    }
}

/// The place of the entry for a 4 KiB page, in the direct map; 0 if there is none.
pub fn small_page_entry(cr3: u64, hhdm: u64, address: u64) -> u64 {
    let mut table = cr3 & ADDRESS;
    for depth in [3, 2, 1] {
        let entry = protocol::read(hhdm + table + 8 * (address >> (12 + 9 * depth) & 511));
        if entry & PRESENT == 0 || entry & LARGE != 0 {
            return 0;
        }
        table = entry & ADDRESS;
    }
    hhdm + table + 8 * (address >> 12 & 511)
}
