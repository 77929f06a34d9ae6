//! What the two boot protocols tell, in one form.

use crate::entry::{EARLY_OFFSET, KERNEL_BASE};
use crate::limine;
use abi::{PAGE_SIZE, Span};
use core::ptr;

/// The most ranges of memory that are kept; what a firmware lists beyond them is not used.
pub const RANGES_MAX: usize = 128;
/// The most of a kernel command line that is kept, in bytes.
pub const COMMAND_LINE_MAX: usize = 2048;

/// What a range of physical memory holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RangeKind {
    /// Nothing.
    Free,
    /// The loader's own data, free once the kernel has taken what it needs.
    Loader,
    /// The boot module.
    Module,
}

/// A range of RAM in whole pages.
#[derive(Clone, Copy, Debug)]
pub struct Range {
    /// First byte.
    pub base: u64,
    /// One past the last byte.
    pub end: u64,
    /// What it holds.
    pub kind: RangeKind,
}

/// What a loader says. Addresses are physical.
pub struct Boot {
    /// RAM, sorted by address, without overlaps and without the kernel's image.
    ranges: [Range; RANGES_MAX],
    range_count: usize,
    /// Where physical memory is mapped by the loader's tables, as far as it is.
    pub offset: u64,
    /// Where the kernel's first byte was loaded.
    pub kernel: u64,
    /// The boot module, as long as the loader says.
    pub module: Option<Span>,
    /// The root of the ACPI tables, or 0.
    pub rsdp: u64,
    command_line: [u8; COMMAND_LINE_MAX],
    command_line_length: usize,
}

impl Boot {
    const fn new() -> Self {
        Self {
            ranges: [Range { base: 0, end: 0, kind: RangeKind::Free }; RANGES_MAX],
            range_count: 0,
            offset: 0,
            kernel: 0,
            module: None,
            rsdp: 0,
            command_line: [0; COMMAND_LINE_MAX],
            command_line_length: 0,
        }
    }

    /// The RAM.
    pub fn ranges(&self) -> &[Range] {
        &self.ranges[..self.range_count]
    }

    /// The words of the command line.
    pub fn arguments(&self) -> impl Iterator<Item = &str> {
        let line = &self.command_line[..self.command_line_length];
        line.split(|&byte| byte == b' ')
            .filter_map(|word| core::str::from_utf8(word).ok())
            .filter(|word| !word.is_empty())
    }

    /// Adds RAM as a loader lists it, in any order: whole pages of it only.
    pub fn add_range(&mut self, base: u64, length: u64, kind: RangeKind) {
        let base = base.next_multiple_of(PAGE_SIZE);
        let end = base.saturating_add(length) / PAGE_SIZE * PAGE_SIZE;
        if base >= end || self.range_count == RANGES_MAX {
            return;
        }
        let at = self.ranges().partition_point(|range| range.base < base);
        self.ranges.copy_within(at..self.range_count, at + 1);
        self.ranges[at] = Range { base, end, kind };
        self.range_count += 1;
    }

    /// Takes `base..end` out of the free ranges.
    pub fn exclude(&mut self, base: u64, end: u64) {
        let base = base / PAGE_SIZE * PAGE_SIZE;
        let end = end.next_multiple_of(PAGE_SIZE);
        let mut index = 0;
        while index < self.range_count {
            let range = self.ranges[index];
            if range.base >= end || range.end <= base {
                index += 1;
                continue;
            }
            self.ranges.copy_within(index + 1..self.range_count, index);
            self.range_count -= 1;
            self.add_range(range.base, base.saturating_sub(range.base), range.kind);
            self.add_range(end, range.end.saturating_sub(end), range.kind);
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
        for index in 0..info.memory_map_count as usize {
            let range = at(info.memory_map).cast::<StartRange>().add(index).read_unaligned();
            if range.kind == START_RANGE_RAM {
                boot.add_range(range.address, range.length, RangeKind::Free);
            }
        }
        if info.module_count > 0 {
            let module = at(info.modules).cast::<StartModule>().read_unaligned();
            boot.module = Some(Span::new(module.address, module.length));
        }
        if info.command_line != 0 {
            boot.set_command_line(at(info.command_line));
        }
        boot.rsdp = info.rsdp;
    }
    boot.exclude(0, LOW_MEMORY_END);
    finish(boot)
}

/// Reads the Limine responses and goes on.
pub extern "C" fn limine_main() -> ! {
    crate::serial::start();
    let boot = record();
    limine::read(boot);
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
    boot.exclude(boot.kernel, boot.kernel + (image.end - image.text.start));
    if let Some(module) = boot.module.filter(|module| module.length > 0) {
        let base = module.base / PAGE_SIZE * PAGE_SIZE;
        let end = (module.base + module.length).next_multiple_of(PAGE_SIZE);
        boot.exclude(base, end);
        boot.add_range(base, end - base, RangeKind::Module);
    }
    crate::start::on_loader_tables(boot)
}
