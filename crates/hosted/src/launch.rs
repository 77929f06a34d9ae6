//! Maps the library OS into this process and runs it.

use crate::gate::{self, FileRange};
use crate::{elf, signals};
use abi::boot::{ClockParameters, DeviceRecord};
use abi::{BootInfo, Handle, PAGE_SIZE, Span};
use bundle::services::{RawBuffer, RawBytes, RawExchange, Services};
use bundle::{Item, Kind, Layout, Plan};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use wasi::provider::Host;
use wasi::remote::Exchange;

/// Where the library OS's window begins: far from where Linux puts executables, libraries and stacks.
const WINDOW_BASE: u64 = 0x1000_0000_0000;

/// How large the window is, from what one would like to what just does: less where `ulimit -v` says so.
const WINDOW_BYTES: [u64; 4] = [64 << 40, 4 << 40, 512 << 30, 128 << 30];

/// What to run, and with what.
pub struct Launch<'a> {
    /// The library OS's executable.
    pub runtime: &'a Path,
    /// What it is to do.
    pub plan: Plan,
    /// The program's artifact.
    pub program: File,
    /// The trap helper's artifact.
    pub trap_helper: File,
    /// Who answers for files, streams and clocks.
    pub host: Box<dyn Host + Send>,
}

/// Why the library OS could not be started.
#[derive(Debug)]
pub enum LaunchError {
    /// The executable cannot be read, or is not one of ours.
    Runtime(PathBuf, elf::ElfError),
    /// Linux refused something: what, and why.
    Linux(&'static str, io::Error),
    /// There is not enough address space.
    AddressSpace,
    /// This process runs a library OS already.
    Busy,
}

impl std::fmt::Display for LaunchError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Runtime(path, error) => write!(f, "the library OS {}: {error}", path.display()),
            Self::Linux(what, error) => write!(f, "cannot {what}: {error}"),
            Self::AddressSpace => write!(
                f,
                "there are not {} GiB of address space to reserve (no memory is used for it): allow more with `ulimit -v unlimited`",
                WINDOW_BYTES[3] >> 30
            ),
            Self::Busy => f.write_str("this process runs a program already"),
        }
    }
}

impl std::error::Error for LaunchError {}

/// Who answers the library OS's services; there is one at a time.
static HOST: Mutex<Option<Box<dyn Host + Send>>> = Mutex::new(None);

/// Runs the plan to its end, on the calling thread, and answers with the exit status. Whatever there is to say
/// to a person was said on standard error.
pub fn launch(launch: Launch<'_>) -> Result<u8, LaunchError> {
    {
        let mut host = HOST.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if host.is_some() {
            return Err(LaunchError::Busy);
        }
        *host = Some(launch.host);
    }
    let status = run(launch.runtime, &launch.plan, &launch.program, &launch.trap_helper);
    HOST.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
    status
}

fn run(runtime: &Path, plan: &Plan, program: &File, trap_helper: &File) -> Result<u8, LaunchError> {
    let image = elf::load(runtime).map_err(|error| LaunchError::Runtime(runtime.to_path_buf(), error))?;
    let window = WINDOW_BYTES
        .iter()
        .map(|length| Span::new(WINDOW_BASE, *length))
        .find(|span| reserve(Some(span.base), span.length).is_ok())
        .ok_or(LaunchError::AddressSpace)?;
    let window = Mapping(window);
    let module = map_module(plan, program, trap_helper)?;
    gate::install(window.0, module.span, module.ranges.clone())
        .map_err(|error| LaunchError::Linux("make an event descriptor", error))?;
    let services = Services { version: Services::VERSION, call: serve };
    let boot = BootInfo {
        magic: BootInfo::MAGIC,
        version: BootInfo::VERSION,
        device_count: 0,
        gate: gate::call as *const () as u64,
        services: &raw const services as u64,
        window: window.0,
        module: module.span,
        quota_bytes: u64::MAX,
        clock: ClockParameters::default(),
        space: gate::SPACE,
        vcpu: gate::VCPU,
        machine: Handle::NONE,
        devices: [DeviceRecord::default(); abi::boot::DEVICES_MAX],
    };
    let guard = signals::Guard::install().map_err(|error| LaunchError::Linux("set signals up", error))?;
    // SAFETY: `elf::load` mapped the executable and its entry has this signature (`images/runtime`); `boot` and what
    // it points to outlive the call.
    let status = unsafe {
        let entry: extern "C" fn(*const BootInfo) -> u64 = std::mem::transmute(image.entry);
        entry(&raw const boot)
    };
    drop(guard);
    gate::remove();
    Ok(u8::try_from(status).unwrap_or(u8::MAX))
}

/// The boot module, mapped together from its parts.
struct Module {
    span: Span,
    ranges: Vec<FileRange>,
    _mapping: Mapping,
}

fn map_module(plan: &Plan, program: &File, trap_helper: &File) -> Result<Module, LaunchError> {
    let length = |file: &File| {
        file.metadata()
            .map(|data| data.len())
            .map_err(|error| LaunchError::Linux("look at an artifact", error))
    };
    let plan = Layout::encode_plan(plan);
    let layout = Layout::new(&[
        Item { kind: Kind::Plan, length: plan.len() as u64 },
        Item { kind: Kind::Program, length: length(program)? },
        Item { kind: Kind::TrapHelper, length: length(trap_helper)? },
    ]);
    let failed = |error| LaunchError::Linux("map the program", error);
    let base = reserve(None, layout.length).map_err(failed)?;
    let mapping = Mapping(Span::new(base, layout.length));
    let at = |index: usize| base + layout.spans[index].base;
    let header = layout.header.len() as u64 + layout.spans[0].length.next_multiple_of(PAGE_SIZE);
    map_bytes(base, header, &[(0, &layout.header), (layout.spans[0].base, &plan)]).map_err(failed)?;
    let mut ranges = Vec::new();
    for (index, file) in [(1, program), (2, trap_helper)] {
        let span = Span::new(at(index), layout.spans[index].length.next_multiple_of(PAGE_SIZE));
        map_file(span, file.as_raw_fd()).map_err(failed)?;
        ranges.push(FileRange { span, file: file.as_raw_fd() });
    }
    Ok(Module { span: mapping.0, ranges, _mapping: mapping })
}

/// Address space of ours, given back when dropped.
struct Mapping(Span);

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the span was reserved by this process for this value, and nothing uses it any more.
        unsafe { libc::munmap(self.0.base as usize as *mut libc::c_void, self.0.length as usize) };
    }
}

/// Address space without memory, at `base` or wherever Linux likes.
fn reserve(base: Option<u64>, length: u64) -> io::Result<u64> {
    let fixed = if base.is_some() { libc::MAP_FIXED_NOREPLACE } else { 0 };
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | fixed;
    let base = base.unwrap_or(0) as usize as *mut libc::c_void;
    // SAFETY: a new mapping that replaces nothing.
    let address = unsafe { libc::mmap(base, length as usize, libc::PROT_NONE, flags, -1, 0) };
    if address == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(address as u64) }
}

fn map_bytes(base: u64, length: u64, pieces: &[(u64, &[u8])]) -> io::Result<()> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
    let address = base as usize as *mut libc::c_void;
    // SAFETY: replaces pages of the module's own reservation, which nobody reads yet; the pieces lie inside.
    unsafe {
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        if libc::mmap(address, length as usize, prot, flags, -1, 0) == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        for (offset, bytes) in pieces {
            let to = (base + offset) as usize as *mut u8;
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len());
        }
        if libc::mprotect(address, length as usize, libc::PROT_READ) != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

fn map_file(span: Span, file: RawFd) -> io::Result<()> {
    let flags = libc::MAP_PRIVATE | libc::MAP_FIXED;
    let address = span.base as usize as *mut libc::c_void;
    // SAFETY: replaces pages of the module's own reservation, which nobody reads yet.
    let mapped = unsafe { libc::mmap(address, span.length as usize, libc::PROT_READ, flags, file, 0) };
    if mapped == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(()) }
}

extern "C" fn serve(raw: &RawExchange) -> usize {
    let mut host = HOST.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let Some(host) = host.as_deref_mut() else { return 0 };
    // SAFETY: the library OS borrowed these buffers for the length of the call, the mutable ones exclusively.
    let exchange = unsafe {
        Exchange {
            request: bytes(raw.request),
            outgoing: [bytes(raw.outgoing[0]), bytes(raw.outgoing[1])],
            reply: buffer(raw.reply),
            incoming: buffer(raw.incoming),
        }
    };
    wasi::remote::serve(host, exchange)
}

/// # Safety
/// The bytes can be read, and do not change, for as long as the answer is used.
unsafe fn bytes<'a>(raw: RawBytes) -> &'a [u8] {
    // SAFETY: as the caller says.
    unsafe { std::slice::from_raw_parts(raw.address, raw.length) }
}

/// # Safety
/// The buffer is nobody else's for as long as the answer is used.
unsafe fn buffer<'a>(raw: RawBuffer) -> &'a mut [u8] {
    // SAFETY: as the caller says.
    unsafe { std::slice::from_raw_parts_mut(raw.address, raw.length) }
}
