//! The part of the UEFI loader that is pure logic over plain data: it touches no firmware and no raw memory,
//! and is tested on the developer's machine. The binary `selkis-boot` puts the firmware underneath.
//!
//! The loader speaks the Limine boot protocol for x86-64 with 4-level paging, base revisions 0 to 6. Section
//! names in comments are those of the protocol's PROTOCOL.md. It reads the part of `limine.conf` that
//! [`config`] lists, so that it and the stock Limine loader start the same disk image.
#![no_std]

extern crate alloc;

pub mod acpi;
pub mod apic;
pub mod config;
pub mod date;
pub mod device_path;
pub mod direct_map;
pub mod elf;
pub mod error;
mod little_endian;
pub mod memory_map;
pub mod paging;
pub mod protocol;
pub mod requests;
pub mod response;

/// Bytes in a page and in a frame.
pub const PAGE_SIZE: u64 = 4096;

/// `value` rounded up to whole pages; `None` if that does not fit 64 bits.
pub const fn page_up(value: u64) -> Option<u64> {
    match value.checked_add(PAGE_SIZE - 1) {
        Some(sum) => Some(sum & !(PAGE_SIZE - 1)),
        None => None,
    }
}

/// `value` rounded down to whole pages.
pub const fn page_down(value: u64) -> u64 {
    value & !(PAGE_SIZE - 1)
}

/// Where the configuration is looked for, in the order of the stock loader (CONFIG.md, "Location of the config file").
pub fn config_paths() -> impl Iterator<Item = &'static str> {
    [
        "/EFI/BOOT/limine.conf",
        "/boot/limine/limine.conf",
        "/boot/limine.conf",
        "/limine/limine.conf",
        "/limine.conf",
    ]
    .into_iter()
}
