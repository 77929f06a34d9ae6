//! The kernel's own image: where its parts lie, and the names of its functions.

use core::ops::Range;

/// The parts of the image, as linked. Each begins and ends at a page.
pub struct Image {
    /// Code.
    pub text: Range<u64>,
    /// Constants.
    pub rodata: Range<u64>,
    /// Variables, zeros included.
    pub data: Range<u64>,
    /// One past everything.
    pub end: u64,
}

unsafe extern "C" {
    static kernel_text_start: u8;
    static kernel_text_end: u8;
    static kernel_rodata_end: u8;
    static kernel_end: u8;
    static kernel_symbols_start: u8;
    static kernel_symbols_end: u8;
}

/// Where the kernel's parts lie.
pub fn image() -> Image {
    let at = |symbol: *const u8| symbol as u64;
    let text_end = at(&raw const kernel_text_end);
    let rodata_end = at(&raw const kernel_rodata_end);
    let end = at(&raw const kernel_end);
    Image {
        text: at(&raw const kernel_text_start)..text_end,
        rodata: text_end..rodata_end,
        data: rodata_end..end,
        end,
    }
}

/// The name of the function that `address` lies in, and the distance from its beginning.
///
/// The table is what the image's build script took from the kernel built before (see `images/kernel`): lines of
/// a hexadecimal offset from the text's beginning and a name, in order of address. Without one there are no names.
pub fn name_of(address: u64) -> Option<(&'static str, u64)> {
    let image = image();
    let offset = address.checked_sub(image.text.start).filter(|_| address < image.text.end)?;
    let parse = |line: &'static str| {
        let (start, name) = line.split_once(' ')?;
        Some((u64::from_str_radix(start, 16).ok()?, name))
    };
    let entries = table().lines().filter_map(parse);
    let (start, name) = entries.take_while(|&(start, _)| start <= offset).last()?;
    Some((name, offset - start))
}

fn table() -> &'static str {
    let start = &raw const kernel_symbols_start;
    let length = &raw const kernel_symbols_end as usize - start as usize;
    // SAFETY: the linker lays the section between the two symbols, in read-only memory.
    let bytes = unsafe { core::slice::from_raw_parts(start, length) };
    core::str::from_utf8(bytes).unwrap_or("")
}
