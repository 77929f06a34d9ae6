//! Starts the first domain from the boot module.

use crate::capability::{Mapped, Object, Place};
use crate::device::{Device, Devices};
use crate::domain::{Limits, Memory};
use crate::elf::{ElfError, Executable, Segment};
use crate::kernel::{Cpu, Kernel, Seat};
use crate::lifecycle::VCPU_FRAMES;
use crate::machine::{Access, Frame, Machine, Page};
use crate::memory::{Refusal, Space, Touch};
use crate::region::{REGIONS_MAX, Region, Share, Source};
use crate::schedule::Queue;
use crate::table::{DomainId, Lock, MemoryId, Table};
use crate::trace::Flag;
use crate::vcpu::fresh_context;
use abi::boot::{BootInfo, ClockParameters, DEVICES_MAX, DeviceRecord, ModuleHeader};
use abi::{Commit, DomainParameters, Error, Handle, PAGE_SIZE, Protection, Span};
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU64};

/// Where a domain's executable may be linked to be.
const IMAGE_AREA: Span = Span::new(0x1000_0000, 0xf000_0000);
/// Where a domain finds its [`BootInfo`].
const BOOT_INFO: u64 = 0x0800_0000;
/// The end of a domain's first stack. Nothing is ever mapped below its beginning: the guard.
const STACK_END: u64 = 0x0900_0000;
/// Where a domain may map: 112 TiB above what it starts with.
pub(crate) const WINDOW: Span = Span::new(0x1_0000_0000, 0x7000_0000_0000 - 0x1_0000_0000);
/// Where a domain finds the boot module: behind the window.
const MODULE_BASE: u64 = 0x7100_0000_0000;
/// Frames that no quota covers: for the tables of objects, which grow and stay, and for reading firmware tables to power off.
const RESERVE_FRAMES: u64 = 512;
/// The most domains, virtual CPUs, and memories or channels that the machine can have.
const DOMAINS_MAX: u64 = 256;
const VCPUS_IN_ALL_MAX: u64 = 1024;
const OBJECTS_MAX: u64 = 4096;
/// Capabilities of the first domain.
const FIRST_CAPABILITIES: u64 = 4096;

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

impl From<Refusal> for StartError {
    fn from(_: Refusal) -> Self {
        Self::NoMemory
    }
}

/// Makes a kernel with one domain in it, out of the boot module: its virtual CPU is ready on CPU 0.
pub fn start<M: Machine>(
    machine: M,
    module: Option<BootModule<'_>>,
    devices: Vec<Device>,
    clock: ClockParameters,
) -> Result<Kernel<M>, StartError> {
    let module = module.ok_or(StartError::NoModule)?;
    let header = check_header(&module)?;
    let image = &module.bytes[header.image.base as usize..][..header.image.length as usize];
    let executable = Executable::parse(image, IMAGE_AREA).map_err(StartError::BadExecutable)?;

    let mut devices = devices;
    devices.truncate(DEVICES_MAX);
    let devices = Devices::new(devices)?;
    let mut kernel = empty(machine, devices).ok_or(StartError::NoMemory)?;
    let first = Frame::containing(module.address);
    let pages = header.length.div_ceil(PAGE_SIZE);
    let id = kernel.first_domain()?;
    let memory =
        kernel.memories.insert(|_| Memory { first, pages, owner: None }).ok_or(StartError::NoMemory)?;
    let info = BootInfo {
        magic: BootInfo::MAGIC,
        version: BootInfo::VERSION,
        device_count: 0,
        gate: 0,
        services: 0,
        window: WINDOW,
        module: Span::new(MODULE_BASE, header.length),
        quota_bytes: 0,
        clock,
        space: Handle::NONE,
        vcpu: Handle::NONE,
        machine: Handle::NONE,
        module_memory: Handle::NONE,
        parent: Handle::NONE,
        devices: [DeviceRecord::default(); DEVICES_MAX],
    };
    let (info, place) = kernel.first_capabilities(id, memory, info)?;
    let mut domain = kernel.domains.lock(id).ok_or(StartError::NoMemory)?;
    let (machine, space) = (&kernel.machine, &mut domain.space);
    let module_pages = Span::new(MODULE_BASE, pages * PAGE_SIZE);
    declare(space, machine, module_pages, Source::Memory(first, Share::Copied, place), READ)?;
    let image_frame = first.offset(header.image.base / PAGE_SIZE);
    for segment in executable.segments() {
        load(space, machine, segment, (image_frame, place))?;
    }
    let stack = Span::new(STACK_END - BootInfo::STACK_BYTES, BootInfo::STACK_BYTES);
    declare(space, machine, stack, Source::Zero, WRITE)?;
    publish(space, machine, &BootInfo { quota_bytes: space.quota * PAGE_SIZE, ..info })?;
    let vcpu = domain.vcpus[0];
    drop(domain);
    if let Some((id, mut vcpu)) = vcpu.and_then(|id| Some((id, kernel.vcpus.lock(id)?))) {
        vcpu.started = true;
        vcpu.saved = fresh_context(executable.entry, STACK_END);
        vcpu.saved.rdi = BOOT_INFO;
        kernel.rouse(&Cpu::new(0), id, &vcpu);
    }
    Ok(kernel)
}

/// A kernel without domains.
fn empty<M: Machine>(machine: M, devices: Devices) -> Option<Kernel<M>> {
    let mut seats = Vec::new();
    seats.try_reserve_exact(machine.cpu_count()).ok()?;
    for _ in 0..machine.cpu_count() {
        let queue = Lock::<_, M>::new(Queue::new()?);
        let ring = Lock::<_, M>::new(None);
        seats.push(Seat { queue, attention: AtomicBool::new(false), ring });
    }
    Some(Kernel {
        authority: Lock::<_, M>::new(()),
        domains: Table::new(DOMAINS_MAX as usize)?,
        vcpus: Table::new(VCPUS_IN_ALL_MAX as usize)?,
        memories: Table::new(OBJECTS_MAX as usize)?,
        channels: Table::new(OBJECTS_MAX as usize)?,
        devices: Lock::<_, M>::new(devices),
        seats,
        idle: AtomicU64::new(0),
        waited: AtomicU64::new(0),
        blind: AtomicU64::new(0),
        tracing: Flag::default(),
        first: None,
        frames: machine.free_count(),
        machine,
    })
}

impl<M: Machine> Kernel<M> {
    /// The first domain, which has everything.
    fn first_domain(&mut self) -> Result<DomainId, StartError> {
        let parameters = DomainParameters {
            name: [0; 32],
            memory_bytes: self.machine.free_count().saturating_sub(RESERVE_FRAMES) * PAGE_SIZE,
            capabilities_max: FIRST_CAPABILITIES,
            regions_max: REGIONS_MAX as u64,
            vcpus_max: VCPUS_IN_ALL_MAX,
            objects_max: OBJECTS_MAX,
            domains_max: DOMAINS_MAX - 1,
            // Whoever watches over all others is not to wait for them.
            share: DomainParameters::SHARE_MAX,
            budget_ns: 0,
            cpus: 0,
        };
        let limits = Limits { vcpus: VCPUS_IN_ALL_MAX, objects: OBJECTS_MAX, domains: DOMAINS_MAX - 1 };
        let id = self.insert_domain(None, &parameters, limits)?;
        self.first = Some(id);
        Ok(id)
    }

    /// Its capabilities to itself, the machine, the boot module and all devices. Answers with the place of the module's as well.
    fn first_capabilities(
        &self,
        id: DomainId,
        module: MemoryId,
        mut info: BootInfo,
    ) -> Result<(BootInfo, Place), StartError> {
        let (place, handle) = self.insert_origin(id, Object::Domain(id))?;
        info.space = handle;
        if let Some(mut domain) = self.domains.lock(id) {
            domain.origin = Some(place);
            domain.taken.vcpus = 1;
            domain.space.charge(VCPU_FRAMES)?;
        }
        let vcpu = self.make_vcpu(id, 0, ((DomainParameters::SHARE_MAX, 1), 0, u64::MAX))?;
        let (place, handle) = self.insert_origin(id, Object::Vcpu(vcpu))?;
        info.vcpu = handle;
        if let Some(mut domain) = self.domains.lock(id) {
            domain.vcpus[0] = Some(vcpu);
        }
        if let Some(mut vcpu) = self.vcpus.lock(vcpu) {
            vcpu.origin = Some(place);
        }
        info.machine = self.insert_origin(id, Object::Machine)?.1;
        let (place, handle) = self.insert_origin(id, Object::Memory(module))?;
        info.module_memory = handle;
        // The domain's image and the module are mapped by it.
        self.with(place, |held| held.mapped = Mapped::Here);
        let count = self.devices.lock().iter().count();
        for index in 0..count {
            let (_, handle) = self.insert_origin(id, Object::Device(index))?;
            let record = self.devices.lock().get(index).record;
            info.devices[index] = DeviceRecord { handle, ..record };
            info.device_count += 1;
        }
        Ok((info, place))
    }
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

/// Maps whole pages.
fn declare<M: Machine>(
    space: &mut Space<M>,
    machine: &M,
    span: Span,
    source: Source,
    (protection, commit): (Protection, Commit),
) -> Result<(), StartError> {
    let first = Page::containing(span.base);
    let end = first.offset(span.length / PAGE_SIZE);
    space.map(machine, Region { first, end, source, protection, commit }).map_err(|_| StartError::NoMemory)
}

/// Maps a segment: its file pages from the module, the zeros behind them as their own region.
fn load<M: Machine>(
    space: &mut Space<M>,
    machine: &M,
    segment: &Segment,
    (image, place): (Frame, Place),
) -> Result<(), StartError> {
    let Segment { memory, file, protection } = *segment;
    let how = if protection == Protection::ReadWrite { WRITE } else { (protection, Commit::OnTouch) };
    let base = memory.base - memory.base % PAGE_SIZE;
    let file_end = memory.base + file.length;
    let memory_end = (memory.base + memory.length).next_multiple_of(PAGE_SIZE);
    let zeros = if file.length == 0 { base } else { file_end.next_multiple_of(PAGE_SIZE) };
    if zeros > base {
        let source = Source::Memory(image.offset(file.base / PAGE_SIZE), Share::Copied, place);
        declare(space, machine, Span::new(base, zeros - base), source, how)?;
    }
    if memory_end > zeros {
        declare(space, machine, Span::new(zeros, memory_end - zeros), Source::Zero, how)?;
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

fn publish<M: Machine>(space: &mut Space<M>, machine: &M, info: &BootInfo) -> Result<(), StartError> {
    declare(space, machine, Span::new(BOOT_INFO, PAGE_SIZE), Source::Zero, WRITE)?;
    let page = Page::containing(BOOT_INFO);
    let frame = private(space, machine, page)?;
    machine.publish(frame, info);
    let pages = (page, page.offset(1));
    space.protect(machine, pages, Protection::Read).map_err(|_| StartError::NoMemory)
}

/// The frame of a writable page of the domain.
fn private<M: Machine>(space: &mut Space<M>, machine: &M, page: Page) -> Result<Frame, StartError> {
    match space.touch(machine, page, Access::Write) {
        Touch::Resolved(mapping) => Ok(mapping.frame),
        Touch::OutOfMemory | Touch::Denied => Err(StartError::NoMemory),
    }
}
