//! Starts the first domain from the boot module.

use crate::capability::{Capabilities, Object};
use crate::device::{Device, Devices};
use crate::elf::{ElfError, Executable, Segment};
use crate::kernel::Kernel;
use crate::machine::{Access, Frame, Machine, Page};
use crate::memory::{Space, Touch};
use crate::region::{Region, Regions, Source};
use crate::vcpu::{Vcpu, fresh_context};
use abi::boot::{BootInfo, ClockParameters, DEVICES_MAX, DeviceRecord, ModuleHeader};
use abi::{Commit, Context, Error, Handle, PAGE_SIZE, Protection, Rights, Span};
use alloc::vec::Vec;
use core::fmt;

/// Where a domain's executable may be linked to be.
const IMAGE_AREA: Span = Span::new(0x1000_0000, 0xf000_0000);
/// Where a domain finds its [`BootInfo`].
const BOOT_INFO: u64 = 0x0800_0000;
/// The end of a domain's first stack. Nothing is ever mapped below its beginning: the guard.
const STACK_END: u64 = 0x0900_0000;
/// Where a domain may map: 112 TiB above what it starts with.
const WINDOW: Span = Span::new(0x1_0000_0000, 0x7000_0000_0000 - 0x1_0000_0000);
/// Where a domain finds the boot module: behind the window.
const MODULE_BASE: u64 = 0x7100_0000_0000;
/// Frames that no quota covers, for the kernel's own late needs (reading firmware tables to power off).
const RESERVE_FRAMES: u64 = 64;
/// Capabilities besides those to devices: space, virtual CPU, machine.
const FIXED_CAPABILITIES: usize = 3;

/// A boot module in memory.
#[derive(Clone, Copy, Debug)]
pub struct BootModule<'m> {
    /// Its physical address, a multiple of the page size.
    pub address: u64,
    /// What lies there. Nothing else may lie in the rest of its last page.
    pub bytes: &'m [u8],
}

/// Why no domain could be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartError {
    /// The loader gave no module.
    NoModule,
    /// The module does not begin at a page.
    UnalignedModule,
    /// The module's header is damaged, or the module was cut short.
    DamagedModule {
        /// How long it should be by its header, if it has one.
        expected_bytes: Option<u64>,
        /// How long it is.
        found_bytes: u64,
    },
    /// The module holds no executable.
    NoExecutable,
    /// The executable cannot be loaded.
    BadExecutable(ElfError),
    /// There is too little memory for the kernel's tables, the executable's data and its stack.
    NoMemory,
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoModule => f.write_str("there is no boot module: give one with -initrd or module_path"),
            Self::UnalignedModule => f.write_str("the boot module does not begin at a page"),
            Self::DamagedModule { expected_bytes: Some(expected), found_bytes } if expected > found_bytes => {
                write!(f, "the boot module was cut short: it has {found_bytes} of {expected} bytes")
            }
            Self::DamagedModule { .. } => f.write_str("the boot module has no sound header"),
            Self::NoExecutable => f.write_str("the boot module holds no executable"),
            Self::BadExecutable(error) => {
                write!(f, "the executable in the boot module cannot be loaded: {error}")
            }
            Self::NoMemory => f.write_str("there is too little memory to start the boot module's executable"),
        }
    }
}

impl From<Error> for StartError {
    /// What the kernel's own requests at the start can fail with.
    fn from(_: Error) -> Self {
        Self::NoMemory
    }
}

/// Makes a kernel with one domain in it, out of the boot module, and the context in which it starts.
pub fn start<M: Machine>(
    mut machine: M,
    module: Option<BootModule<'_>>,
    devices: Vec<Device>,
    clock: ClockParameters,
) -> Result<(Kernel<M>, Context), StartError> {
    let module = module.ok_or(StartError::NoModule)?;
    let header = check_header(&module)?;
    let image = &module.bytes[header.image.base as usize..][..header.image.length as usize];
    let executable = Executable::parse(image, IMAGE_AREA).map_err(StartError::BadExecutable)?;

    let mut devices = devices;
    devices.truncate(DEVICES_MAX);
    let mut capabilities = Capabilities::new(FIXED_CAPABILITIES + devices.len())?;
    let devices = Devices::new(devices)?;
    let mut space = Space {
        regions: Regions::new()?,
        window: WINDOW,
        module: Span::new(MODULE_BASE, header.length.next_multiple_of(PAGE_SIZE)),
        used: 0,
        quota: 0,
        pinned: None,
        sealed: sealed_frames(&devices)?,
    };
    space.quota = machine.free_count().saturating_sub(RESERVE_FRAMES);

    let first = Frame::containing(module.address);
    let module_bytes = space.module.length;
    declare(&mut space, &mut machine, MODULE_BASE, module_bytes, Source::Module(first), READ)?;
    let image_frame = first.offset(header.image.base / PAGE_SIZE);
    for segment in executable.segments() {
        load(&mut space, &mut machine, segment, image_frame)?;
    }
    let stack = STACK_END - BootInfo::STACK_BYTES;
    declare(&mut space, &mut machine, stack, BootInfo::STACK_BYTES, Source::Zero, WRITE)?;

    let mut info = BootInfo {
        magic: BootInfo::MAGIC,
        version: BootInfo::VERSION,
        device_count: 0,
        gate: 0,
        services: 0,
        window: WINDOW,
        module: Span::new(MODULE_BASE, header.length),
        quota_bytes: space.quota * PAGE_SIZE,
        clock,
        space: capabilities.insert(Object::Space, Rights::ALL)?,
        vcpu: capabilities.insert(Object::Vcpu, Rights::ALL)?,
        machine: capabilities.insert(Object::Machine, Rights::ALL)?,
        devices: [DeviceRecord::default(); DEVICES_MAX],
    };
    for (index, device) in devices.iter().enumerate() {
        let handle: Handle = capabilities.insert(Object::Device(index), Rights::ALL)?;
        info.devices[index] = DeviceRecord { handle, ..device.record };
        info.device_count += 1;
    }
    publish(&mut space, &mut machine, &info)?;

    let mut context = fresh_context(executable.entry, STACK_END);
    context.rdi = BOOT_INFO;
    Ok((Kernel { machine, capabilities, space, vcpu: Vcpu::new(), devices }, context))
}

const READ: (Protection, Commit) = (Protection::Read, Commit::OnTouch);
const WRITE: (Protection, Commit) = (Protection::ReadWrite, Commit::Now);

fn check_header(module: &BootModule<'_>) -> Result<ModuleHeader, StartError> {
    if !module.address.is_multiple_of(PAGE_SIZE) {
        return Err(StartError::UnalignedModule);
    }
    let found_bytes = module.bytes.len() as u64;
    let magic = module
        .bytes
        .first_chunk::<8>()
        .is_some_and(|&bytes| u64::from_le_bytes(bytes) == ModuleHeader::MAGIC);
    let length = module.bytes.get(8..16).and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes);
    let expected_bytes = length.filter(|_| magic);
    let header =
        ModuleHeader::parse(module.bytes).ok_or(StartError::DamagedModule { expected_bytes, found_bytes })?;
    if header.image.length == 0 { Err(StartError::NoExecutable) } else { Ok(header) }
}

fn sealed_frames(devices: &Devices) -> Result<Vec<(Frame, u64)>, StartError> {
    let mut sealed = Vec::new();
    sealed.try_reserve_exact(DEVICES_MAX).map_err(|_| StartError::NoMemory)?;
    let spans = devices.iter().filter_map(|device| device.sealed);
    sealed.extend(spans.map(|span| (Frame::containing(span.base), span.length / PAGE_SIZE)));
    Ok(sealed)
}

/// Maps `length` bytes at `base`, both whole pages.
fn declare<M: Machine>(
    space: &mut Space,
    machine: &mut M,
    base: u64,
    length: u64,
    source: Source,
    (protection, commit): (Protection, Commit),
) -> Result<(), StartError> {
    let first = Page::containing(base);
    let end = first.offset(length / PAGE_SIZE);
    Ok(space.map(machine, Region { first, end, source, protection, commit })?)
}

/// Maps a segment: its file pages from the module, the zeros behind them as their own region.
fn load<M: Machine>(
    space: &mut Space,
    machine: &mut M,
    segment: &Segment,
    image: Frame,
) -> Result<(), StartError> {
    let Segment { memory, file, protection } = *segment;
    let how = if protection == Protection::ReadWrite { WRITE } else { (protection, Commit::OnTouch) };
    let base = memory.base - memory.base % PAGE_SIZE;
    let file_end = memory.base + file.length;
    let memory_end = (memory.base + memory.length).next_multiple_of(PAGE_SIZE);
    let zeros = if file.length == 0 { base } else { file_end.next_multiple_of(PAGE_SIZE) };
    if zeros > base {
        let source = Source::Module(image.offset(file.base / PAGE_SIZE));
        declare(space, machine, base, zeros - base, source, how)?;
    }
    if memory_end > zeros {
        declare(space, machine, zeros, memory_end - zeros, Source::Zero, how)?;
    }
    let partial = (file_end % PAGE_SIZE) as usize;
    if protection == Protection::ReadWrite && zeros > base && partial != 0 {
        // What follows in the file's last page is not the segment's: it begins as zeros.
        let frame = private(space, machine, Page::containing(file_end))?;
        let rest = [0; PAGE_SIZE as usize];
        machine.write(frame, partial, &rest[partial..]);
    }
    Ok(())
}

fn publish<M: Machine>(space: &mut Space, machine: &mut M, info: &BootInfo) -> Result<(), StartError> {
    declare(space, machine, BOOT_INFO, PAGE_SIZE, Source::Zero, WRITE)?;
    let page = Page::containing(BOOT_INFO);
    let frame = private(space, machine, page)?;
    machine.publish(frame, info);
    Ok(space.protect(machine, (page, page.offset(1)), Protection::Read)?)
}

/// The frame of a writable page of the domain.
fn private<M: Machine>(space: &mut Space, machine: &mut M, page: Page) -> Result<Frame, StartError> {
    match space.touch(machine, page, Access::Write) {
        Touch::Resolved(mapping) => Ok(mapping.frame),
        Touch::OutOfMemory | Touch::Denied => Err(StartError::NoMemory),
    }
}
