//! What the two boot protocols tell, in one form.

use crate::entry::{EARLY_OFFSET, KERNEL_BASE};
use crate::limine;
use crate::ranges::{Range, RangeKind, Ranges};
use abi::{PAGE_SIZE, Span};
use core::ptr;

/// The most of a kernel command line that is kept, in bytes.
pub const COMMAND_LINE_MAX: usize = 2048;

/// What a loader says. Addresses are physical.
pub struct Boot {
    /// RAM, without the kernel's image.
    pub ranges: Ranges,
    /// Where physical memory is mapped by the loader's tables, as far as it is.
    pub offset: u64,
    /// Where the kernel's first byte was loaded.
    pub kernel: u64,
    /// The boot module, as long as the loader says.
    pub module: Option<Span>,
    /// The root of the ACPI tables, or 0.
    pub rsdp: u64,
    /// What the Limine loader says of the CPUs: the physical address of its pointers, and how many there are.
    pub cpus: (u64, u64),
    /// A page of RAM below 1 MiB that is nobody's: where CPUs can start.
    pub low_page: Option<u64>,
    command_line: [u8; COMMAND_LINE_MAX],
    command_line_length: usize,
}

impl Boot {
    const fn new() -> Self {
        Self {
            ranges: Ranges::new(),
            offset: 0,
            kernel: 0,
            module: None,
            rsdp: 0,
            cpus: (0, 0),
            low_page: None,
            command_line: [0; COMMAND_LINE_MAX],
            command_line_length: 0,
        }
    }

    /// The words of the command line.
    pub fn arguments(&self) -> impl Iterator<Item = &str> {
        let line = &self.command_line[..self.command_line_length];
        line.split(|&byte| byte == b' ')
            .filter_map(|word| core::str::from_utf8(word).ok())
            .filter(|word| !word.is_empty())
    }

    /// Sets the last free page aside that lies below what firmware uses of the first MiB.
    fn take_low_page(&mut self) {
        /// The extended BIOS data area begins here or above.
        const END: u64 = 0x8_0000;
        let free = self.ranges.as_slice().iter().filter(|range| range.kind == RangeKind::Free);
        let last_page =
            |range: &Range| range.end.min(END).checked_sub(PAGE_SIZE).filter(|&page| page >= range.base);
        self.low_page = free.filter_map(last_page).rfind(|&page| page > 0);
        if let Some(page) = self.low_page {
            self.ranges.exclude(page, page + PAGE_SIZE);
        }
    }

    /// Keeps the command line that lies at `line`, up to its zero byte.
    ///
    /// # Safety
    /// `line` must point to mapped bytes that end with a zero byte.
    pub unsafe fn set_command_line(&mut self, line: *const u8) {
        while self.command_line_length < COMMAND_LINE_MAX {
            // SAFETY: no byte before this one was zero, so this one is mapped.
            match unsafe { line.add(self.command_line_length).read() } {
                0 => break,
                byte => self.command_line[self.command_line_length] = byte,
            }
            self.command_line_length += 1;
        }
    }
}

/// Memory below this holds firmware data that maps do not always list (interrupt vectors, the EBDA).
const LOW_MEMORY_END: u64 = 1 << 20;

/// Xen, `xen/include/public/arch-x86/hvm/start_info.h`.
#[repr(C)]
struct StartInfo {
    magic: u32,
    version: u32,
    flags: u32,
    module_count: u32,
    modules: u64,
    command_line: u64,
    rsdp: u64,
    memory_map: u64,
    memory_map_count: u32,
    reserved: u32,
}

#[repr(C)]
struct StartModule {
    address: u64,
    length: u64,
    command_line: u64,
    reserved: u64,
}

#[repr(C)]
struct StartRange {
    address: u64,
    length: u64,
    kind: u32,
    reserved: u32,
}

const START_MAGIC: u32 = 0x336e_c578;
const START_RANGE_RAM: u32 = 1;

/// Reads the PVH start info at physical address `info` and goes on.
pub extern "C" fn pvh_main(info: u64) -> ! {
    crate::serial::start();
    let boot = record();
    boot.offset = EARLY_OFFSET;
    boot.kernel = crate::symbols::image().text.start - KERNEL_BASE;
    let at = |address: u64| (EARLY_OFFSET + address) as *const u8;
    // SAFETY: the protocol puts the start info, and what it points to, below 4 GiB, all of which is mapped.
    unsafe {
        let info = at(info).cast::<StartInfo>().read_unaligned();
        if info.magic != START_MAGIC {
            panic!("the PVH loader gave no start info (magic {:#x})", info.magic);
        }
        if info.version == 0 || info.memory_map_count == 0 {
            panic!("the PVH loader gave no memory map (start info version {})", info.version);
        }
        let module = (info.module_count > 0).then(|| {
            let module = at(info.modules).cast::<StartModule>().read_unaligned();
            Span::new(module.address, module.length)
        });
        let image = crate::symbols::image();
        let image = Span::new(boot.kernel, image.end - image.text.start);
        if module.is_some_and(|module| overlap(module, image)) {
            // What static memory there still is of ours, nobody knows. It takes little to say this.
            crate::serial::seize();
            *boot = Boot::new();
            if info.command_line != 0 {
                boot.set_command_line(at(info.command_line));
            }
            crate::start::refuse(
                boot,
                "the loader has laid the boot module over the kernel: there is too little memory",
            );
        }
        let range = |index| at(info.memory_map).cast::<StartRange>().add(index).read_unaligned();
        let ranges = || (0..info.memory_map_count as usize).map(range);
        for StartRange { address, length, .. } in ranges().filter(|range| range.kind == START_RANGE_RAM) {
            boot.ranges.add(address, length, RangeKind::Free);
        }
        // Firmware may list memory twice; then it is not free.
        for StartRange { address, length, .. } in ranges().filter(|range| range.kind != START_RANGE_RAM) {
            boot.ranges.exclude(address, address.saturating_add(length));
        }
        boot.module = module;
        if info.command_line != 0 {
            boot.set_command_line(at(info.command_line));
        }
        boot.rsdp = info.rsdp;
    }
    boot.take_low_page();
    boot.ranges.exclude(0, LOW_MEMORY_END);
    finish(boot)
}

fn overlap(one: Span, other: Span) -> bool {
    let ends_before = |one: Span, other: Span| one.base.saturating_add(one.length) <= other.base;
    !ends_before(one, other) && !ends_before(other, one)
}

/// Reads the Limine responses and goes on.
pub extern "C" fn limine_main() -> ! {
    crate::serial::start();
    let boot = record();
    limine::read(boot);
    boot.take_low_page();
    finish(boot)
}

/// The record that the entry fills in. In static memory, because the stack changes on the way.
fn record() -> &'static mut Boot {
    static mut BOOT: Boot = Boot::new();
    // SAFETY: each of the two entries calls this once, and only one of them runs.
    unsafe { &mut *ptr::addr_of_mut!(BOOT) }
}

/// Sets the module's pages and the kernel's apart from free memory, and goes on.
fn finish(boot: &'static mut Boot) -> ! {
    let image = crate::symbols::image();
    boot.ranges.exclude(boot.kernel, boot.kernel + (image.end - image.text.start));
    if let Some(module) = boot.module.filter(|module| module.length > 0) {
        let base = module.base / PAGE_SIZE * PAGE_SIZE;
        let end = (module.base + module.length).next_multiple_of(PAGE_SIZE);
        boot.ranges.add(base, end - base, RangeKind::Module);
    }
    crate::start::on_loader_tables(boot)
}
