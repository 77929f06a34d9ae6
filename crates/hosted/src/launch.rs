//! Maps the library OS into this process and runs it.

use crate::confine::{Cell, ConfineError};
use crate::gate::{self, FileRange};
use crate::vcpus::Others;
use crate::{elf, signals, wire};
use abi::boot::{ClockParameters, DeviceRecord};
use abi::{BootInfo, Handle, PAGE_SIZE, Span};
use bundle::services::{RawBuffer, RawBytes, RawExchange, Services};
use bundle::{Item, Kind, Layout, Plan};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use wasi::provider::Host;
use wasi::remote::Exchange;

/// Where the library OS's window begins: far from where Linux puts executables, libraries and stacks.
const WINDOW_BASE: u64 = 0x1000_0000_0000;

/// How large the window is, from what one would like to what just does: less where `ulimit -v` says so.
const WINDOW_BYTES: [u64; 4] = [64 << 40, 4 << 40, 512 << 30, 128 << 30];

/// The library OS's executable, open.
#[derive(Debug)]
pub struct Runtime {
    /// What messages call it.
    pub(crate) path: PathBuf,
    pub(crate) file: File,
}

impl Runtime {
    /// Opens it.
    pub fn open(path: &Path) -> Result<Self, LaunchError> {
        let failed = |error| LaunchError::Runtime(path.to_path_buf(), elf::ElfError::Read(error));
        Ok(Self { path: path.to_path_buf(), file: File::open(path).map_err(failed)? })
    }
}

/// How much is copied at a time.
const COPY_BYTES: usize = 1 << 20;

/// What to run, and with what.
pub struct Launch {
    /// The library OS's executable.
    pub runtime: Runtime,
    /// What it is to do.
    pub plan: Plan,
    /// The programs' artifacts, by their numbers in the plan.
    pub artifacts: Vec<File>,
    /// The trap helper's artifact.
    pub trap_helper: File,
    /// Who answers for files, streams and clocks.
    pub host: Box<dyn Host + Send>,
    /// The library OS's end of the wire to its root, a stream socket, if its console is [`bundle::Console::Wire`].
    pub wire: Option<OwnedFd>,
    /// What this process keeps of Linux once everything is open and mapped; `None`: what it has.
    pub cell: Option<Cell>,
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
    /// It would run with rights that it should not have.
    Confine(ConfineError),
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
            Self::Confine(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for LaunchError {}

/// How a launch has ended.
#[derive(Debug)]
pub struct Ended {
    /// The exit status.
    pub status: u8,
    /// If a program that ran alone has failed: the payload of a `Crash` frame of the `link` crate.
    pub crash: Option<Vec<u8>>,
}

/// Who answers the library OS's services; there is one at a time.
static HOST: Mutex<Option<Box<dyn Host + Send>>> = Mutex::new(None);

/// What it said of a program that failed.
static CRASH: Mutex<Option<Vec<u8>>> = Mutex::new(None);

/// The most that is kept of that: as much as a frame holds.
const CRASH_BYTES_MAX: usize = 64 << 10;

/// Runs the plan to its end, on the calling thread. What there is to say to a person was said on standard error, but for where a program
/// failed.
pub fn launch(launch: Launch) -> Result<Ended, LaunchError> {
    {
        let mut host = HOST.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if host.is_some() {
            return Err(LaunchError::Busy);
        }
        *host = Some(launch.host);
    }
    let status = match wire::lay(launch.wire) {
        Ok(_wire) => run(launch.runtime, &launch.plan, &launch.artifacts, &launch.trap_helper, launch.cell),
        Err(error) => Err(LaunchError::Linux("set the wire to the root up", error)),
    };
    HOST.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
    let crash = CRASH.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
    Ok(Ended { status: status?, crash })
}

fn run(
    runtime: Runtime,
    plan: &Plan,
    artifacts: &[File],
    trap_helper: &File,
    cell: Option<Cell>,
) -> Result<u8, LaunchError> {
    let image = elf::load(&runtime.file).map_err(|error| LaunchError::Runtime(runtime.path, error))?;
    drop(runtime.file);
    let window = WINDOW_BYTES
        .iter()
        .map(|length| Span::new(WINDOW_BASE, *length))
        .find(|span| reserve(Some(span.base), span.length).is_ok())
        .ok_or(LaunchError::AddressSpace)?;
    let window = Mapping(window);
    let module = map_module(plan, artifacts, trap_helper)?;
    let door = gate::install(window.0, module.span, module.ranges.clone())
        .map_err(|error| LaunchError::Linux("make an event descriptor", error))?;
    let services = Services {
        version: Services::VERSION,
        call: serve,
        wire_read: wire::read,
        wire_write: wire::write,
        wire_wait: wire::wait,
        crash: keep_crash,
    };
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
        module_memory: Handle::NONE,
        parent: Handle::NONE,
        devices: [DeviceRecord::default(); abi::boot::DEVICES_MAX],
    };
    let guard = signals::Guard::install().map_err(|error| LaunchError::Linux("set signals up", error))?;
    let threads = || {
        Others::start(plan.vcpus.saturating_sub(1) as usize)
            .map_err(|error| LaunchError::Linux("start a thread for each virtual CPU", error))
    };
    let others = match cell {
        Some(cell) => cell.close(threads)?,
        None => threads()?,
    };
    // SAFETY: `elf::load` mapped the executable and its entry has this signature (`images/runtime`); `boot` and what
    // it points to outlive the call.
    let status = unsafe {
        let entry: extern "C" fn(*const BootInfo) -> u64 = std::mem::transmute(image.entry);
        entry(&raw const boot)
    };
    // In this order: handlers call through the gate, and are the other threads' as well.
    drop(others);
    drop(guard);
    drop(door);
    Ok(u8::try_from(status).unwrap_or(u8::MAX))
}

/// The boot module, mapped together from its parts.
struct Module {
    span: Span,
    ranges: Vec<FileRange>,
    /// The files of `ranges` that are not the caller's.
    _copies: Vec<File>,
    _mapping: Mapping,
}

fn map_module(plan: &Plan, artifacts: &[File], trap_helper: &File) -> Result<Module, LaunchError> {
    let item = |(kind, file): (Kind, &File)| {
        let data = file.metadata().map_err(|error| LaunchError::Linux("look at an artifact", error))?;
        Ok(Item { kind, length: data.len() })
    };
    let plan = Layout::encode_plan(plan);
    let programs = artifacts.iter().map(|artifact| (Kind::Program, artifact));
    let files: Vec<(Kind, &File)> = programs.chain([(Kind::TrapHelper, trap_helper)]).collect();
    let mut items = vec![Item { kind: Kind::Plan, length: plan.len() as u64 }];
    for file in &files {
        items.push(item(*file)?);
    }
    let layout = Layout::new(&items);
    let failed = |error| LaunchError::Linux("map the program", error);
    let base = reserve(None, layout.length).map_err(failed)?;
    let mapping = Mapping(Span::new(base, layout.length));
    let header = layout.header.len() as u64 + layout.spans[0].length.next_multiple_of(PAGE_SIZE);
    map_bytes(base, header, &[(0, &layout.header), (layout.spans[0].base, &plan)]).map_err(failed)?;
    let mut ranges = Vec::new();
    let mut copies = Vec::new();
    for ((_, file), place) in files.into_iter().zip(&layout.spans[1..]) {
        let span = Span::new(base + place.base, place.length.next_multiple_of(PAGE_SIZE));
        let file = match map_file(span, file.as_raw_fd()) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                let copy = copy_in_memory(file).map_err(failed)?;
                map_file(span, copy.as_raw_fd()).map_err(failed)?;
                let descriptor = copy.as_raw_fd();
                copies.push(copy);
                descriptor
            }
            mapped => mapped.map(|()| file.as_raw_fd()).map_err(failed)?,
        };
        ranges.push(FileRange { span, file });
    }
    Ok(Module { span: mapping.0, ranges, _copies: copies, _mapping: mapping })
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
    if address == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    if fixed != 0 {
        // SAFETY: it was just made, and nobody knows of it yet.
        unsafe { keep_at(base, address, length as usize)? };
    }
    Ok(address as u64)
}

/// Linux before 4.17 takes MAP_FIXED_NOREPLACE for a hint: a mapping that came to lie elsewhere is undone.
///
/// # Safety
/// `made` is a mapping of `length` bytes that nothing uses.
pub(crate) unsafe fn keep_at(
    wanted: *mut libc::c_void,
    made: *mut libc::c_void,
    length: usize,
) -> io::Result<()> {
    if made == wanted {
        return Ok(());
    }
    // SAFETY: as the caller says.
    unsafe { libc::munmap(made, length) };
    Err(io::Error::from_raw_os_error(libc::EEXIST))
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

/// Maps a file that code may be executed from; `EPERM` if it lies where nothing may (a mount with `noexec`).
fn map_file(span: Span, file: RawFd) -> io::Result<()> {
    let flags = libc::MAP_PRIVATE | libc::MAP_FIXED;
    let address = span.base as usize as *mut libc::c_void;
    // SAFETY: replaces pages of the module's own reservation, which nobody reads yet.
    unsafe {
        // Executable at first, to learn now whether they can be later.
        let prot = libc::PROT_READ | libc::PROT_EXEC;
        if libc::mmap(address, span.length as usize, prot, flags, file, 0) == libc::MAP_FAILED
            || libc::mprotect(address, span.length as usize, libc::PROT_READ) != 0
        {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// The same bytes in a file of memory, which no mount forbids to execute, and to which nobody writes any more.
fn copy_in_memory(file: &File) -> io::Result<File> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let copy = File::from(memfd_create("selkis-artifact", flags)?);
    let mut bytes = vec![0; COPY_BYTES];
    let mut at = 0;
    loop {
        // By position: other processes may be reading by the same descriptor.
        match file.read_at(&mut bytes, at)? {
            0 => break,
            count => copy.write_all_at(&bytes[..count], at)?,
        }
        at = copy.metadata()?.len();
    }
    fcntl_add_seals(&copy, SealFlags::SEAL | SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK)?;
    Ok(copy)
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

extern "C" fn keep_crash(report: RawBytes) {
    // SAFETY: the library OS borrowed the bytes for the length of the call.
    let report = unsafe { bytes(report) };
    let kept = report[..report.len().min(CRASH_BYTES_MAX)].to_vec();
    *CRASH.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(kept);
}

/// # Safety
/// The bytes can be read, and do not change, for as long as the answer is used.
pub(crate) unsafe fn bytes<'a>(raw: RawBytes) -> &'a [u8] {
    // SAFETY: as the caller says.
    unsafe { std::slice::from_raw_parts(raw.address, raw.length) }
}

/// # Safety
/// The buffer is nobody else's for as long as the answer is used.
pub(crate) unsafe fn buffer<'a>(raw: RawBuffer) -> &'a mut [u8] {
    // SAFETY: as the caller says.
    unsafe { std::slice::from_raw_parts_mut(raw.address, raw.length) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    /// A static executable whose only segment is this file, at an address of the library OS's, and whose code answers
    /// 7: ELF-64, System V ABI.
    fn executable(path: &Path) {
        const BASE: u64 = 0x1000_0000;
        const HEADERS: u64 = 64 + 56;
        let code = [0xb8, 7, 0, 0, 0, 0xc3];
        let length = HEADERS + code.len() as u64;
        let mut file = File::create(path).unwrap();
        let mut put = |bytes: &[u8]| file.write_all(bytes).unwrap();
        put(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
        put(&[2, 0, 62, 0, 1, 0, 0, 0]);
        [BASE + HEADERS, 64, 0].iter().for_each(|word| put(&word.to_le_bytes()));
        put(&[0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 64, 0, 0, 0, 0, 0]);
        put(&[1, 0, 0, 0, 5, 0, 0, 0]);
        [0, BASE, BASE, length, length, PAGE_SIZE].iter().for_each(|word| put(&word.to_le_bytes()));
        put(&code);
    }

    struct Nobody;

    impl Host for Nobody {
        fn clock(&mut self) -> &mut dyn wasi::provider::Clock {
            unreachable!("the code asks for nothing")
        }
        fn entropy(&mut self) -> &mut dyn wasi::provider::Entropy {
            unreachable!("the code asks for nothing")
        }
        fn streams(&mut self) -> &mut dyn wasi::provider::Streams {
            unreachable!("the code asks for nothing")
        }
        fn files(&mut self) -> &mut dyn wasi::provider::Files {
            unreachable!("the code asks for nothing")
        }
        fn wait(&mut self) -> &mut dyn wasi::provider::Wait {
            unreachable!("the code asks for nothing")
        }
    }

    /// How many signals may be queued for this user, of which each timer needs one.
    fn allow_timers(count: libc::rlim_t) {
        // SAFETY: reads and writes a limit by way of our own stack.
        unsafe {
            let mut limit: libc::rlimit = std::mem::zeroed();
            libc::getrlimit(libc::RLIMIT_SIGPENDING, &raw mut limit);
            limit.rlim_cur = count.min(limit.rlim_max);
            assert_eq!(libc::setrlimit(libc::RLIMIT_SIGPENDING, &raw const limit), 0);
        }
    }

    #[test]
    fn a_launch_that_fails_leaves_nothing_behind() {
        let directory = tempfile::tempdir().unwrap();
        let runtime = directory.path().join("runtime");
        executable(&runtime);
        allow_timers(0);
        let artifact = || {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(b"artifact").unwrap();
            file
        };
        let program = bundle::ProgramPlan {
            name: String::from("p"),
            artifact: 0,
            arguments: Vec::new(),
            environment: Vec::new(),
            memory_bytes_max: 0,
            ..bundle::ProgramPlan::default()
        };
        let result = launch(Launch {
            runtime: Runtime::open(&runtime).unwrap(),
            plan: Plan::of_one(program, bundle::Console::Host, None),
            artifacts: vec![artifact()],
            trap_helper: artifact(),
            host: Box::new(Nobody),
            wire: None,
            cell: None,
        });
        assert!(matches!(result, Err(LaunchError::Linux("set signals up", _))), "{result:?}");
        assert_eq!(gate::wake_descriptor(), -1);
    }

    #[test]
    fn a_copy_in_memory_is_the_file_and_may_be_executed() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[0xb8, 7, 0, 0, 0, 0xc3]).unwrap();
        let copy = copy_in_memory(&file).unwrap();
        let span = Span::new(reserve(None, PAGE_SIZE).unwrap(), PAGE_SIZE);
        map_file(span, copy.as_raw_fd()).unwrap();
        let address = span.base as usize as *mut libc::c_void;
        // SAFETY: the page holds a function that answers 7.
        unsafe {
            assert_eq!(libc::mprotect(address, PAGE_SIZE as usize, libc::PROT_READ | libc::PROT_EXEC), 0);
            let function: extern "C" fn() -> u32 = std::mem::transmute(address);
            assert_eq!(function(), 7);
        }
    }

    #[test]
    fn a_mapping_that_lies_elsewhere_is_undone() {
        let base = reserve(None, 2 * PAGE_SIZE).unwrap();
        let (first, second) = (base, base + PAGE_SIZE);
        let pointer = |address: u64| address as usize as *mut libc::c_void;
        // SAFETY: nobody uses the two pages.
        unsafe {
            keep_at(pointer(first), pointer(first), PAGE_SIZE as usize).unwrap();
            let error = keep_at(pointer(first), pointer(second), PAGE_SIZE as usize).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EEXIST));
        }
        assert_eq!(reserve(Some(first), PAGE_SIZE).unwrap_err().raw_os_error(), Some(libc::EEXIST));
        assert_eq!(reserve(Some(second), PAGE_SIZE).unwrap(), second, "it is free again");
    }
}
