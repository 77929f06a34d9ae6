//! Where a CPU that is started by interrupts begins: in real mode, at a page below 1 MiB (Intel SDM volume 3, section 9.4.4).
//! Part of the kernel and of the UEFI loader.

use core::arch::global_asm;

#[cfg(target_os = "uefi")]
global_asm!(concat!(".section .rdata, \"dr\"\n", include_str!("trampoline.s"), "\n.text"), options(raw));
#[cfg(not(target_os = "uefi"))]
global_asm!(
    concat!(".section .rodata.trampoline, \"a\"\n", include_str!("trampoline.s"), "\n.text"),
    options(raw)
);

unsafe extern "C" {
    static trampoline_start: u8;
    static trampoline_jump_32: u8;
    static trampoline_page: u8;
    static trampoline_jump_64: u8;
    static trampoline_mailbox: u8;
    static trampoline_entry: u8;
    static trampoline_root: u8;
    static trampoline_gdt_base: u8;
    static trampoline_end: u8;
}

/// What a CPU finds on its way.
#[derive(Clone, Copy, Debug)]
pub struct Way {
    /// Tables that map the page to itself, and what the other two name.
    pub root: u32,
    /// Where it goes, with what it has taken out of the mailbox in `rdi`.
    pub entry: u64,
    /// Where a word lies that holds the argument for one CPU, or 0. Each takes it away.
    pub mailbox: u64,
}

/// Lays the code into the page with physical address `page`, which is mapped at `at`.
///
/// # Safety
/// The page is below 1 MiB, and nobody else's.
pub unsafe fn write(at: *mut u8, page: u32, way: &Way) {
    let start = &raw const trampoline_start;
    let offset = |place: *const u8| place as usize - start as usize;
    // SAFETY: the code is shorter than a page, and the places lie in it.
    unsafe {
        at.copy_from_nonoverlapping(start, offset(&raw const trampoline_end));
        for place in [
            &raw const trampoline_jump_32,
            &raw const trampoline_page,
            &raw const trampoline_jump_64,
            &raw const trampoline_gdt_base,
        ] {
            let place = at.add(offset(place)).cast::<u32>();
            place.write_unaligned(place.read_unaligned() + page);
        }
        at.add(offset(&raw const trampoline_root)).cast::<u32>().write_unaligned(way.root);
        at.add(offset(&raw const trampoline_entry)).cast::<u64>().write_unaligned(way.entry);
        at.add(offset(&raw const trampoline_mailbox)).cast::<u64>().write_unaligned(way.mailbox);
    }
}
