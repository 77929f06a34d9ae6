//! From a configuration to a machine that is ready to be handed over.

use alloc::vec;
use alloc::vec::Vec;
use core::convert::Infallible;

use boot::config::{Config, Entry, Placement, Variants};
use boot::direct_map;
use boot::elf::{Executable, Segment, Slide};
use boot::error::{BootError, Purpose, Role};
use boot::memory_map::{self, Kind, Range, Region, RegionList};
use boot::paging::{self, PageTables, Rights, Table};
use boot::protocol::{BaseRevision, EXECUTABLE_BASE_MIN, Feature, HHDM_DEFAULT};
use boot::requests::{RequestError, Requests};
use boot::response::{self, Arena, Facts, FirmwareMap, LoadedFile, Pending};
use boot::{PAGE_SIZE, config::MapVariant};
use uefi::boot as services;
use uefi::boot::MemoryType;
use uefi::mem::memory_map::{MemoryDescriptor, MemoryMap};

use super::console::Console;
use super::files::{FileInMemory, Volume};
use super::firmware::{self, Tables};
use super::handover::{self, Handover, TableRegister};
use super::machine;
use super::memory::Pages;
use super::processors::Processors;

/// More descriptors than this are not expected to appear between the last look at the map and the end of boot services.
const NEW_DESCRIPTORS: usize = 64;

/// A kernel in memory, its requests found, its base revision settled.
struct Kernel {
    file: FileInMemory,
    image: Pages,
    image_size: u64,
    segments: Vec<Segment>,
    slide: Slide,
    base: u64,
    entry: u64,
    requests: Requests,
    revision: BaseRevision,
}

/// Everything in place; only the firmware's final memory map is missing.
pub struct Loaded {
    kernel: Kernel,
    /// Held only to stay where they are.
    _modules: Vec<FileInMemory>,
    variants: Variants,
    tables: Tables,
    overlays: Vec<Region>,
    hhdm: u64,
    arena: Pages,
    arena_bytes: usize,
    pending: Pending,
    gdt: u64,
    stack: Pages,
    page_tables: Pages,
    processors: Processors,
    scratch: Scratch,
}

/// Room for the memory map, taken while there is somebody to take it from.
struct Scratch {
    sources: Vec<Region>,
    cuts: Vec<u64>,
    map: Vec<Region>,
}

const NO_REGION: Region = Region { range: Range { base: 0, end: 0 }, kind: Kind::Reserved };

/// Reads all files of the entry and prepares everything.
pub fn load(volume: &mut Volume, config: &Config, console: &mut Console) -> Result<Loaded, BootError> {
    let entry = &config.entry;
    if machine::uses_5_level_paging() {
        return Err(BootError::FiveLevelPaging);
    }
    console.tell_detail(format_args!("reading {}", entry.path));
    let mut kernel = load_kernel(volume, entry)?;
    let modules = load_modules(volume, entry, &kernel, console)?;
    let tables = Tables::find();
    let mut overlays = overlays(&kernel, &modules, &tables);
    let scratch = Scratch::new(overlays.len())?;
    let stack_bytes = response::stack_bytes(&kernel.requests, kernel.image.bytes());
    let stack = Pages::new(stack_bytes, Placement::Low, Purpose::Stack)?;
    let processors = if kernel.requests.has(Feature::Processors) {
        Processors::find(tables.acpi.madt, stack_bytes)?
    } else {
        Processors::none()
    };
    let (page_tables, hhdm) = plan_page_tables(&kernel, &overlays, entry.variants)?;
    let map_entries_max = scratch.map.len();
    let told = Told { tables: &tables, volume, processors: &processors, hhdm, map_entries_max };
    let (arena, arena_bytes, pending, gdt) = answer(&mut kernel, entry, &modules, &told)?;
    // What is the loader's own stays reclaimable even where the firmware should give its pages another type.
    overlays.extend(reclaimable([&arena, &stack, &page_tables].into_iter().chain(processors.pages())));
    console.tell_detail(format_args!(
        "starting at {:#x}, base revision {}",
        kernel.entry,
        kernel.revision.number()
    ));
    let variants = entry.variants;
    Ok(Loaded {
        kernel,
        _modules: modules,
        variants,
        tables,
        overlays,
        hhdm,
        arena,
        arena_bytes,
        pending,
        gdt,
        stack,
        page_tables,
        processors,
        scratch,
    })
}

fn load_kernel(volume: &mut Volume, entry: &Entry) -> Result<Kernel, BootError> {
    let path = &entry.path;
    let file = volume.read(Role::Kernel, path, Placement::Low)?;
    let elf = |error| BootError::Executable { path: path.clone(), error };
    let executable = Executable::parse(file.bytes()).map_err(elf)?;
    let slide = executable.slide(entry.variants.slide.unwrap_or(0)).map_err(elf)?;
    let mut image = Pages::zeroed(executable.size(), entry.variants.kernel, Purpose::Image)?;
    executable.fill(image.bytes_mut(), slide).map_err(elf)?;
    let (requests, revision, kernel_entry) = settle(&executable, image.bytes_mut(), slide, entry)
        .map_err(|error| BootError::Request { path: path.clone(), error })?;
    let (image_size, segments, base) = (executable.size(), executable.segments().to_vec(), executable.base());
    Ok(Kernel {
        file,
        image,
        image_size,
        segments,
        slide,
        base: base.wrapping_add(slide.bytes()),
        entry: kernel_entry,
        requests,
        revision,
    })
}

/// Finds the requests and agrees on a base revision, which comes first: it says where requests are looked for.
fn settle(
    executable: &Executable<'_>,
    image: &mut [u8],
    slide: Slide,
    entry: &Entry,
) -> Result<(Requests, BaseRevision, u64), RequestError> {
    let mut requests = Requests::scan(image)?;
    let revision = requests.settle(image, entry.variants.base_revision_max)?;
    let list = executable.section(b".limine_reqs").filter(|_| revision.number() == 0);
    if let Some((address, _)) = list {
        let offset = address.wrapping_sub(executable.base()) as usize;
        requests = requests.listed(image, offset, executable.base().wrapping_add(slide.bytes()))?;
    }
    response::check_paging_mode(&requests, image)?;
    let entry = response::entry_point(&requests, image, executable, slide.bytes())?;
    Ok((requests, revision, entry))
}

/// Modules are only read for a kernel that asks for them, as the stock loader does.
fn load_modules(
    volume: &mut Volume,
    entry: &Entry,
    kernel: &Kernel,
    console: &mut Console,
) -> Result<Vec<FileInMemory>, BootError> {
    if !kernel.requests.has(Feature::Modules) {
        if !entry.modules.is_empty() {
            console.tell(format_args!("{} asks for no modules: none are loaded", entry.path));
        }
        return Ok(Vec::new());
    }
    let mut modules = Vec::new();
    for module in &entry.modules {
        console.tell_detail(format_args!("reading {}", module.path));
        modules.push(volume.read(Role::Module, &module.path, entry.variants.modules)?);
    }
    Ok(modules)
}

/// What is known about memory beyond the firmware's own map.
fn overlays(kernel: &Kernel, modules: &[FileInMemory], tables: &Tables) -> Vec<Region> {
    let region = |kind| move |range| Region { range, kind };
    let mut overlays: Vec<Region> =
        modules.iter().map(|module| module.pages().range()).map(region(Kind::ExecutableAndModules)).collect();
    overlays.push(Region { range: kernel.image.range(), kind: Kind::ExecutableAndModules });
    if !kernel.revision.page_zero_usable() {
        overlays.push(Region { range: Range { base: 0, end: PAGE_SIZE }, kind: Kind::Reserved });
    }
    if kernel.revision.maps_acpi_tables() {
        overlays.extend(tables.acpi.ranges.iter().copied().map(region(Kind::ReservedMapped)));
    }
    if kernel.revision.has_strict_machine_state() {
        overlays.extend(tables.other_ranges().into_iter().map(region(Kind::ReservedMapped)));
    }
    overlays
}

fn reclaimable<'p>(pages: impl Iterator<Item = &'p Pages>) -> Vec<Region> {
    pages.map(|pages| Region { range: pages.range(), kind: Kind::BootloaderReclaimable }).collect()
}

impl Scratch {
    /// Room for the firmware's map and `overlays` more, with some to spare.
    fn new(overlays: usize) -> Result<Self, BootError> {
        let map = current_map()?;
        let count = map.len() + overlays + NEW_DESCRIPTORS;
        Ok(Self {
            sources: vec![NO_REGION; count],
            cuts: vec![0; 2 * count],
            map: vec![NO_REGION; memory_map::entries_max(count)],
        })
    }
}

fn current_map() -> Result<uefi::mem::memory_map::MemoryMapOwned, BootError> {
    let error = BootError::OutOfMemory { what: Purpose::Responses, bytes: PAGE_SIZE };
    services::memory_map(MemoryType::LOADER_DATA).map_err(|_| error)
}

fn region_of(descriptor: &MemoryDescriptor, revision: BaseRevision) -> Region {
    let range = Range::new(descriptor.phys_start, descriptor.page_count.saturating_mul(PAGE_SIZE));
    Region { range, kind: Kind::from_firmware(descriptor.ty.0, revision) }
}

/// Takes memory for page tables by the map as it is now, and decides where the direct map starts.
fn plan_page_tables(
    kernel: &Kernel,
    overlays: &[Region],
    variants: Variants,
) -> Result<(Pages, u64), BootError> {
    let map = current_map()?;
    let sources: Vec<Region> = map
        .entries()
        .map(|descriptor| region_of(descriptor, kernel.revision))
        .filter(|region| region.range.base < region.range.end)
        .chain(overlays.iter().copied())
        .collect();
    let mut slots = vec![NO_REGION; memory_map::entries_max(sources.len())];
    let mut flat = RegionList::new(&mut slots);
    let full = BootError::OutOfMemory { what: Purpose::PageTables, bytes: 0 };
    memory_map::flatten(&sources, &mut vec![0; 2 * sources.len()], &mut flat).map_err(|_| full)?;
    let (runs, end) = direct_map::extent(flat.regions(), kernel.revision);
    let hhdm = variants.hhdm_base.unwrap_or(HHDM_DEFAULT);
    if !direct_map::base_is_possible(hhdm, end) {
        return Err(BootError::DirectMapBase(hhdm));
    }
    // Allocations from here on may split runs further; the kernel has its own tables, and the transition has some.
    const SPARE: u64 = 64;
    let direct = paging::tables_max(runs + NEW_DESCRIPTORS as u64 / 2, end);
    let copies = if kernel.revision.maps_identity() { 2 } else { 1 };
    let count = copies * direct + kernel.image_size.div_ceil(512 * PAGE_SIZE) + SPARE;
    let pages = Pages::zeroed(count * PAGE_SIZE, Placement::Low, Purpose::PageTables)?;
    Ok((pages, hhdm))
}

type Answered = (Pages, usize, Pending, u64);

/// What answers tell besides the files.
struct Told<'t> {
    tables: &'t Tables,
    volume: &'t Volume,
    processors: &'t Processors,
    hhdm: u64,
    map_entries_max: usize,
}

/// Answers the requests, and puts the descriptor table beside the answers.
fn answer(
    kernel: &mut Kernel,
    entry: &Entry,
    modules: &[FileInMemory],
    told: &Told<'_>,
) -> Result<Answered, BootError> {
    let &Told { tables, volume, processors, hhdm, map_entries_max } = told;
    let loaded = |file: &FileInMemory, path, string| LoadedFile {
        physical: file.pages().physical(),
        size: file.size(),
        path,
        string,
    };
    let module_files: Vec<LoadedFile<'_>> = modules
        .iter()
        .zip(&entry.modules)
        .map(|(file, module)| loaded(file, &*module.path, &*module.string))
        .collect();
    let entropy = firmware::entropy(response::entropy_words(&kernel.requests, kernel.image.bytes()));
    let facts = Facts {
        revision: kernel.revision,
        hhdm,
        executable: loaded(&kernel.file, &entry.path, &entry.cmdline),
        image_physical: kernel.image.physical(),
        image_virtual: kernel.base,
        modules: &module_files,
        origin: volume.origin,
        rsdp: tables.rsdp,
        smbios_32: tables.smbios_32,
        smbios_64: tables.smbios_64,
        system_table: tables.system,
        date: firmware::unix_seconds(),
        entropy: &entropy,
        map_entries_max,
        processors: processors.list(),
    };
    let bytes = response::arena_bytes(&facts) + size_of_val(&handover::GDT) + 16;
    let full = BootError::OutOfMemory { what: Purpose::Responses, bytes: bytes as u64 };
    let mut pages = Pages::zeroed(bytes as u64, Placement::Low, Purpose::Responses)?;
    let address = pages.physical() + hhdm;
    let mut arena = Arena::new(&mut pages.bytes_mut()[..bytes], address);
    let gdt = arena.words(&handover::GDT).map_err(|_| full.clone())?;
    let pending =
        response::answer(&kernel.requests, &facts, kernel.image.bytes_mut(), &mut arena).map_err(|_| full)?;
    Ok((pages, bytes, pending, gdt))
}

impl Loaded {
    /// Ends boot services and leaves. From the first line on there is no firmware to return to, and nothing may be
    /// allocated or freed.
    pub fn hand_over(mut self) -> Result<Infallible, BootError> {
        // SAFETY: nothing that needs boot services runs afterwards: protocols have been closed (the volume is
        // dropped before), and `self`, whose drop would free pages, is never dropped.
        let firmware_map = unsafe { services::exit_boot_services(Some(MemoryType::LOADER_DATA)) };
        machine::disable_interrupts();
        let firmware_map = core::mem::ManuallyDrop::new(firmware_map);
        self.describe_memory(&*firmware_map);
        let handover = self.build_tables();
        machine::quiet_interrupts(self.kernel.revision, self.tables.acpi.madt);
        let keep_iommu = self.kernel.requests.has(Feature::KeepIommu);
        if self.kernel.revision.has_strict_machine_state() && !keep_iommu {
            machine::disable_iommus(self.tables.acpi.dmar, self.tables.acpi.ivrs);
        }
        machine::set_page_attributes();
        self.start_processors(&handover);
        // SAFETY: boot services are gone and interrupts off; `handover` was built for exactly this by `build_tables`,
        // and lies on the firmware's stack (boot services data), which the direct map contains, like this code.
        unsafe { handover::enter(&handover) }
    }

    /// Makes the memory map from the firmware's final one and publishes it.
    fn describe_memory(&mut self, firmware_map: &impl MemoryMap) {
        let revision = self.kernel.revision;
        let Scratch { sources, cuts, map } = &mut self.scratch;
        let mut list = RegionList::new(sources);
        let count = firmware_map.len();
        for index in 0..count {
            let index = match self.variants.memory_map {
                MapVariant::Reversed => count - 1 - index,
                _ => index,
            };
            let region = firmware_map.get(index).map(|descriptor| region_of(descriptor, revision));
            if region.is_some_and(|region| list.push(region).is_err()) {
                machine::fatal(format_args!("the firmware's memory map grew beyond {count} entries"));
            }
        }
        let overlays = self.overlays.iter();
        let full = overlays.map(|overlay| list.push(*overlay)).any(|result| result.is_err());
        let mut flat = RegionList::new(map);
        let flattened = memory_map::flatten(list.regions(), cuts, &mut flat);
        let varied = memory_map::vary(&mut flat, self.variants.memory_map);
        if full || flattened.is_err() || varied.is_err() {
            machine::fatal(format_args!("the memory map has more than {} entries", cuts.len()));
        }
        let used = flat.regions().len();
        let meta = firmware_map.meta();
        let firmware = FirmwareMap {
            physical: firmware_map.buffer().as_ptr() as u64,
            size: meta.map_size as u64,
            descriptor_size: meta.desc_size as u64,
            descriptor_version: u64::from(meta.desc_version),
        };
        let address = self.arena.physical() + self.hhdm;
        let mut arena = Arena::new(&mut self.arena.bytes_mut()[..self.arena_bytes], address);
        let published =
            self.pending.publish(&mut arena, &map[..used], self.variants.memory_map, firmware, self.hhdm);
        if published.is_err() {
            machine::fatal(format_args!("no room for a memory map of {used} entries"));
        }
        self.scratch.map.truncate(used);
    }

    /// Has the other processors wait for the executable, and lists those that do.
    fn start_processors(&mut self, handover: &Handover) {
        let address = self.arena.physical() + self.hhdm;
        let mut arena = Arena::new(&mut self.arena.bytes_mut()[..self.arena_bytes], address);
        self.processors.start(handover, |index| self.pending.processor(&arena, index));
        self.pending.publish_processors(&mut arena, self.processors.waiting());
    }

    /// Builds the page tables over the memory map that has just been made.
    fn build_tables(&mut self) -> Handover {
        let physical = self.page_tables.physical();
        let memory = self.page_tables.bytes_mut();
        // SAFETY: the memory is page-aligned, ours, and as long as the slice says; any words are a valid `Table`.
        let tables = unsafe {
            core::slice::from_raw_parts_mut(
                memory.as_mut_ptr().cast::<Table>(),
                memory.len() / size_of::<Table>(),
            )
        };
        let mut tables = PageTables::new(tables, physical, machine::largest_page());
        let enter = (handover::enter as *const () as u64, handover::ENTER_BYTES);
        let both = [enter, self.processors.identity().unwrap_or(enter)];
        let transition = map_kernel(&mut tables, &self.kernel)
            .and_then(|()| direct_map::map(&mut tables, &self.scratch.map, self.kernel.revision, self.hhdm))
            .and_then(|()| tables.root_with_identity(&both));
        let transition_root = match transition {
            Ok(root) => root,
            Err(error) => machine::fatal(format_args!("cannot build page tables: {error:?}")),
        };
        /// Long mode enabled and active (bits 8 and 10), no-execute (bit 11).
        const EFER: u64 = 1 << 8 | 1 << 10;
        const NO_EXECUTE: u64 = 1 << 11;
        Handover {
            transition_root,
            root: tables.root(),
            hhdm: self.hhdm,
            entry: self.kernel.entry,
            stack: self.stack.range().end + self.hhdm,
            efer: if machine::has_no_execute() { EFER | NO_EXECUTE } else { EFER },
            gdt: TableRegister::new(self.gdt, size_of_val(&handover::GDT) as u16),
            idt: TableRegister::new(0, 0),
        }
    }
}

/// Each segment with its own rights.
fn map_kernel(tables: &mut PageTables<'_>, kernel: &Kernel) -> Result<(), paging::MapError> {
    let physical = kernel.image.physical();
    for segment in &kernel.segments {
        let start = boot::page_down(segment.address.wrapping_add(kernel.slide.bytes()));
        let end = segment.address.wrapping_add(kernel.slide.bytes()).wrapping_add(segment.size);
        let length = end.next_multiple_of(PAGE_SIZE) - start;
        debug_assert!(start >= EXECUTABLE_BASE_MIN);
        let rights = Rights::new(segment.write, segment.execute);
        tables.map(start, physical + (start - kernel.base), length, rights)?;
    }
    Ok(())
}
