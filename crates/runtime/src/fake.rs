//! A kernel for tests: what the library OS asks for is kept in a list of regions, on memory that is really there.
//!
//! It is as strict as the real one about ranges, quota and what is mapped. It does not enforce protection; tests ask
//! [`FakeKernel::protection`] instead.

extern crate std;

use crate::{System, current};
use abi::{
    Backing, BootInfo, Commit, Error, Handle, Kernel, PAGE_SIZE, Protection, Request, Span,
    boot::{ClockParameters, DEVICES_MAX, DeviceRecord},
};
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::alloc::{GlobalAlloc, Layout};
use core::cell::Cell;
use spin::Mutex;

const SPACE: Handle = Handle::new(1, 1);
/// The first virtual CPU, before the others; an event of each is as far behind it.
const VCPU: Handle = Handle::new(2, 1);
const EVENTS: u32 = 100;

/// The kernel of one domain, which lives for ever, as kernels do.
pub struct FakeKernel {
    window: Span,
    module: Span,
    quota_bytes: u64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// What is mapped, in no order, without overlaps.
    regions: Vec<Region>,
    /// How many requests changed the address space.
    changes: usize,
    /// Nothing is unmapped.
    unmaps_refused: bool,
    deadline_ns: u64,
    now_ns: u64,
    /// In how much of that virtual CPUs did not run.
    taken_ns: u64,
    /// How many virtual CPUs there are besides the first, and which have an event pending, as bits.
    others: u32,
    pending: u64,
}

#[derive(Clone, Copy)]
struct Region {
    span: Span,
    backing: Backing,
    protection: Protection,
    commit: Commit,
}

impl FakeKernel {
    /// A domain with this boot module and quota.
    pub fn new(module: &[u8], quota_bytes: u64) -> &'static Self {
        let module_span = map_memory((module.len() as u64).next_multiple_of(PAGE_SIZE).max(PAGE_SIZE));
        // SAFETY: the memory was just mapped, for us alone, and is long enough.
        unsafe { pointer(module_span.base).copy_from_nonoverlapping(module.as_ptr(), module.len()) };
        Box::leak(Box::new(Self {
            window: map_memory(crate::system::HEAP_SPAN_BYTES + (64 << 30)),
            module: module_span,
            quota_bytes,
            state: Mutex::default(),
        }))
    }

    /// What the domain is told at its start.
    pub fn boot(&self) -> BootInfo {
        BootInfo {
            magic: BootInfo::MAGIC,
            version: BootInfo::VERSION,
            device_count: 0,
            gate: 0,
            services: 0,
            window: self.window,
            module: self.module,
            quota_bytes: self.quota_bytes,
            clock: ClockParameters::default(),
            space: SPACE,
            vcpu: VCPU,
            machine: Handle::NONE,
            module_memory: Handle::NONE,
            parent: Handle::NONE,
            devices: [DeviceRecord::default(); DEVICES_MAX],
        }
    }

    /// A system on it, which is not the process's.
    pub fn system(&'static self) -> &'static System {
        Box::leak(Box::new(System::new(self, &self.boot())))
    }

    /// The boot module.
    pub fn module(&self) -> Span {
        self.module
    }

    /// Lets time pass.
    pub fn advance_to(&self, now_ns: u64) {
        let mut state = self.state.lock();
        state.now_ns = state.now_ns.max(now_ns);
    }

    /// Lets time pass in which virtual CPUs run.
    pub fn run(&self, time_ns: u64) {
        self.state.lock().now_ns += time_ns;
    }

    /// Lets time pass in which others have the CPU.
    pub fn take(&self, time_ns: u64) {
        let mut state = self.state.lock();
        state.now_ns += time_ns;
        state.taken_ns += time_ns;
    }

    /// Whether what is to be unmapped is not.
    pub fn refuse_unmaps(&self, refused: bool) {
        self.state.lock().unmaps_refused = refused;
    }

    /// Bytes of all regions.
    pub fn mapped_bytes(&self) -> u64 {
        self.state.lock().regions.iter().map(|region| region.span.length).sum()
    }

    /// Bytes that are committed.
    pub fn committed_bytes(&self) -> u64 {
        self.state.lock().committed_bytes()
    }

    /// How many requests changed the address space.
    pub fn changes(&self) -> usize {
        self.state.lock().changes
    }

    /// The access to `address`; `None` where nothing is mapped.
    pub fn protection(&self, address: u64) -> Option<Protection> {
        let state = self.state.lock();
        let holds = |region: &&Region| region.span.contains(Span::new(address, 1));
        state.regions.iter().find(holds).map(|region| region.protection)
    }

    /// Nothing ever happens but what virtual CPUs signal, so that the deadline comes at once.
    fn wait(&self, own: u64, deadline_ns: u64) -> u64 {
        loop {
            let mut state = self.state.lock();
            if state.pending & own != 0 {
                state.pending &= !own;
                return 1;
            }
            if deadline_ns != Request::NEVER || state.others == 0 {
                let slept_ns = deadline_ns.saturating_sub(state.now_ns);
                state.now_ns += slept_ns;
                state.taken_ns += slept_ns;
                return 0;
            }
            drop(state);
            std::thread::yield_now();
        }
    }

    fn inside(&self, span: Span) -> Result<(), Error> {
        if span.is_pages() && self.window.contains(span) { Ok(()) } else { Err(Error::BadRange) }
    }

    fn map(&self, region: Region) -> Result<u64, Error> {
        self.inside(region.span)?;
        if let Backing::Image { source } = region.backing
            && !self.module.contains(Span::new(source, region.span.length))
        {
            return Err(Error::NotMapped);
        }
        let mut state = self.state.lock();
        state.carve(region.span);
        if region.commit == Commit::Now && state.committed_bytes() + region.span.length > self.quota_bytes {
            return Err(Error::NoMemory);
        }
        state.regions.push(region);
        region.renew(region.span);
        Ok(0)
    }
}

impl Kernel for FakeKernel {
    fn call(&self, request: Request) -> Result<u64, Error> {
        match request {
            Request::Map { space: SPACE, span, backing, protection, commit } => {
                self.map(Region { span, backing, protection, commit })
            }
            Request::Protect { space: SPACE, span, protection } => {
                self.inside(span)?;
                self.state.lock().protect(span, protection)
            }
            Request::Reset { space: SPACE, span } => {
                self.inside(span)?;
                let mut state = self.state.lock();
                state.changes += 1;
                state.regions.iter().for_each(|region| region.renew(span));
                Ok(0)
            }
            Request::Unmap { space: SPACE, span } => {
                self.inside(span)?;
                let mut state = self.state.lock();
                if state.unmaps_refused {
                    return Err(Error::TableFull);
                }
                state.carve(span);
                Ok(0)
            }
            Request::CreateVcpu { domain: SPACE } => {
                let mut state = self.state.lock();
                state.others += 1;
                Ok(Handle::new(VCPU.index() + state.others, 1).raw())
            }
            Request::CreateEvent { vcpu, event: _ } => Ok(Handle::new(vcpu.index() + EVENTS, 1).raw()),
            Request::Signal { target } => {
                self.state.lock().pending |= 1 << (target.index() - EVENTS);
                Ok(0)
            }
            Request::SetTimer { vcpu: _, deadline_ns } => {
                self.state.lock().deadline_ns = deadline_ns;
                Ok(0)
            }
            Request::Wait { vcpu, deadline_ns } => Ok(self.wait(1 << vcpu.index(), deadline_ns)),
            Request::Now { vcpu: _ } => {
                let mut state = self.state.lock();
                state.now_ns += 1;
                Ok(state.now_ns)
            }
            Request::CpuTime { vcpu: _ } => {
                let state = self.state.lock();
                Ok(state.now_ns - state.taken_ns)
            }
            Request::Map { .. } | Request::Protect { .. } | Request::Reset { .. } | Request::Unmap { .. } => {
                Err(Error::StaleHandle)
            }
            _ => Err(Error::Unsupported),
        }
    }
}

impl State {
    fn committed_bytes(&self) -> u64 {
        let committed = self.regions.iter().filter(|region| region.commit == Commit::Now);
        committed.map(|region| region.span.length).sum()
    }

    /// Ends what is mapped in `span`; of a region that is larger, the rest stays.
    fn carve(&mut self, span: Span) {
        self.changes += 1;
        let regions = core::mem::take(&mut self.regions);
        for region in regions {
            let [below, _, above] = region.parts(span);
            self.regions.extend([below, above].into_iter().flatten());
        }
    }

    fn protect(&mut self, span: Span, protection: Protection) -> Result<u64, Error> {
        let mapped: u64 =
            self.regions.iter().filter_map(|region| region.parts(span)[1]).map(|part| part.span.length).sum();
        if mapped != span.length {
            return Err(Error::NotMapped);
        }
        self.changes += 1;
        let regions = core::mem::take(&mut self.regions);
        for region in regions {
            let [below, inside, above] = region.parts(span);
            let inside = inside.map(|part| Region { protection, ..part });
            self.regions.extend([below, inside, above].into_iter().flatten());
        }
        Ok(0)
    }
}

impl Region {
    /// What of the region lies below, in and above `span`.
    fn parts(&self, span: Span) -> [Option<Region>; 3] {
        let (start, end) = (self.span.base, self.span.base + self.span.length);
        let (first, last) = (span.base.clamp(start, end), (span.base + span.length).clamp(start, end));
        [start..first, first..last, last..end].map(|part| {
            let backing = match self.backing {
                Backing::Image { source } => Backing::Image { source: source + (part.start - start) },
                other => other,
            };
            let span = Span::new(part.start, part.end.saturating_sub(part.start));
            (span.length != 0).then_some(Region { span, backing, ..*self })
        })
    }

    /// Puts the first contents to where the region and `span` meet.
    fn renew(&self, span: Span) {
        let Some(part) = self.parts(span)[1] else { return };
        let (address, length) = (pointer(part.span.base), part.span.length as usize);
        // SAFETY: the window is memory of this test's alone, and so is the module.
        unsafe {
            assert_eq!(libc::madvise(address.cast(), length, libc::MADV_DONTNEED), 0);
            if let Backing::Image { source } = part.backing {
                address.copy_from_nonoverlapping(pointer(source), length);
            }
        }
    }
}

/// The allocator of the tests, Linux's: it notes what is charged.
struct Noting;

#[global_allocator]
static NOTING: Noting = Noting;

std::thread_local! {
    /// The longest block that a process was charged for, while somebody wants to know.
    static LONGEST: Cell<Option<usize>> = const { Cell::new(None) };
}

/// The longest block, in bytes, that a process was charged for in this thread during the operation.
pub fn longest_charged(operation: impl FnOnce()) -> usize {
    LONGEST.set(Some(0));
    operation();
    LONGEST.take().unwrap_or(0)
}

fn note(bytes: usize) {
    // It is not there meanwhile: to ask who is charged may allocate.
    if let Some(longest) = LONGEST.take() {
        LONGEST.set(Some(if current::is_charged() { longest.max(bytes) } else { longest }));
    }
}

// SAFETY: all that it gives is the other's.
unsafe impl GlobalAlloc for Noting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        // SAFETY: the caller's.
        unsafe { std::alloc::System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's.
        unsafe { std::alloc::System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_bytes: usize) -> *mut u8 {
        note(new_bytes);
        // SAFETY: the caller's.
        unsafe { std::alloc::System.realloc(block, layout, new_bytes) }
    }
}

/// The byte at `address`, as a pointer.
pub fn pointer(address: u64) -> *mut u8 {
    address as usize as *mut u8
}

/// Fresh memory, all zeros, taken page by page as it is touched.
fn map_memory(length: u64) -> Span {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    let access = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: asks for memory at a place of Linux's choice.
    let address = unsafe { libc::mmap(core::ptr::null_mut(), length as usize, access, flags, -1, 0) };
    assert_ne!(address, libc::MAP_FAILED);
    Span::new(address as u64, length)
}
