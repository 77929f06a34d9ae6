//! The Limine boot protocol, as far as the kernel uses it (limine, `PROTOCOL.md`).
//!
//! Only what every base revision from 2 on promises is relied on: responses and usable memory can be read through the
//! higher-half map. Before revision 3 and from 4 on the RSDP is such an address, in 3 a physical one; both are taken.

use crate::boot::Boot;
use crate::paging::DIRECT;
use crate::ranges::RangeKind;
use abi::Span;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU64, Ordering};

/// A request: its fields are the loader's to change, before the kernel runs.
#[repr(C)]
struct Request {
    id: [u64; 4],
    revision: u64,
    response: UnsafeCell<*const u64>,
}

// SAFETY: written by the loader before the kernel starts; after that only read.
unsafe impl Sync for Request {}

const fn request(first: u64, second: u64) -> Request {
    let id = [0xc7b1_dd30_df4c_8b88, 0x0a82_e883_a194_f07b, first, second];
    Request { id, revision: 0, response: UnsafeCell::new(core::ptr::null()) }
}

/// The request for CPUs has a field more: which mode of the APIC is wanted; 0: as it is.
#[repr(C)]
struct CpusRequest {
    request: Request,
    flags: u64,
}

#[repr(transparent)]
struct BaseRevision(UnsafeCell<[u64; 3]>);

// SAFETY: as for `Request`.
unsafe impl Sync for BaseRevision {}

#[used]
#[unsafe(link_section = ".limine.start")]
static START: [u64; 4] =
    [0xf6b8_f4b3_9de7_d1ae, 0xfab9_1a69_40fc_b9cf, 0x785c_6ed0_15d3_e316, 0x181e_920a_7852_b9d9];
/// The newest revision that we know; a loader with older ones leaves the last word and uses the newest of its own.
#[used]
#[unsafe(link_section = ".limine.requests")]
static BASE_REVISION: BaseRevision =
    BaseRevision(UnsafeCell::new([0xf956_2b2d_5c95_a6c8, 0x6a7b_3849_4453_6bdc, 6]));
#[used]
#[unsafe(link_section = ".limine.requests")]
static HIGHER_HALF: Request = request(0x48dc_f1cb_8ad2_b852, 0x6398_4e95_9a98_244b);
#[used]
#[unsafe(link_section = ".limine.requests")]
static MEMORY_MAP: Request = request(0x67cf_3d9d_378a_806f, 0xe304_acdf_c50c_3c62);
#[used]
#[unsafe(link_section = ".limine.requests")]
static EXECUTABLE_ADDRESS: Request = request(0x71ba_7686_3cc5_5f63, 0xb264_4a48_c516_a487);
#[used]
#[unsafe(link_section = ".limine.requests")]
static COMMAND_LINE: Request = request(0x4b16_1536_e598_651e, 0xb390_ad4a_2f1f_303a);
#[used]
#[unsafe(link_section = ".limine.requests")]
static MODULES: Request = request(0x3e7e_2797_02be_32af, 0xca1c_4f3b_d128_0cee);
#[used]
#[unsafe(link_section = ".limine.requests")]
static RSDP: Request = request(0xc5e7_7b6b_397e_7b43, 0x2763_7845_accd_cf3c);
#[used]
#[unsafe(link_section = ".limine.requests")]
static CPUS: CpusRequest =
    CpusRequest { request: request(0x95a6_7b81_9a1b_857e, 0xa0b6_1b72_3b6a_73e0), flags: 0 };
#[used]
#[unsafe(link_section = ".limine.end")]
static END: [u64; 2] = [0xadc0_e053_1bb1_0d03, 0x9572_709f_3176_4c62];

const MEMORY_USABLE: u64 = 0;
const MEMORY_LOADER: u64 = 5;

impl Request {
    /// The words of the response, if the loader gave one.
    fn response(&self) -> Option<*const u64> {
        // SAFETY: the loader wrote this before the kernel started; volatile, because the compiler cannot know.
        let response = unsafe { self.response.get().read_volatile() };
        (!response.is_null()).then_some(response)
    }

    /// The same, of a request that every loader answers.
    fn required(&self, what: &str) -> *const u64 {
        self.response().unwrap_or_else(|| panic!("the Limine loader does not say {what}"))
    }
}

/// Takes down what the loader said.
pub fn read(boot: &mut Boot) {
    // SAFETY: a response has the words that the protocol lists for revision 0, and pointers in it point to mapped memory:
    // arrays of as many elements as the word before says, structures, and strings that end with a zero byte.
    unsafe {
        let offset = HIGHER_HALF.required("where it maps memory").add(1).read();
        let kernel = EXECUTABLE_ADDRESS.required("where it loaded the kernel");
        let image = crate::symbols::image();
        if kernel.add(2).read() != image.text.start {
            panic!(
                "the Limine loader moved the kernel to {:#x}, which cannot be moved",
                kernel.add(2).read()
            );
        }
        boot.offset = offset;
        boot.kernel = kernel.add(1).read();
        let map = MEMORY_MAP.required("what memory there is");
        let entries = map.add(2).read() as *const *const [u64; 3];
        for index in 0..map.add(1).read() as usize {
            let [base, length, kind] = entries.add(index).read().read();
            match kind {
                MEMORY_USABLE => boot.ranges.add(base, length, RangeKind::Free),
                MEMORY_LOADER => boot.ranges.add(base, length, RangeKind::Loader),
                _ => (),
            }
        }
        if let Some(modules) = MODULES.response().filter(|modules| modules.add(1).read() > 0) {
            // A `limine_file`: revision, address, size.
            let file = (modules.add(2).read() as *const *const u64).read();
            boot.module = Some(Span::new(file.add(1).read() - offset, file.add(2).read()));
        }
        if let Some(line) = COMMAND_LINE.response() {
            boot.set_command_line(line.add(1).read() as *const u8);
        }
        if let Some(cpus) = CPUS.request.response() {
            // A `limine_mp_response`: revision, flags and the first CPU's number, count, pointers.
            boot.cpus = (cpus.add(3).read() - offset, cpus.add(2).read());
        }
        if let Some(rsdp) = RSDP.response() {
            let address = rsdp.add(1).read();
            boot.rsdp = if address >= offset { address - offset } else { address };
        }
    }
}

/// What the loader says of one CPU: a `limine_mp_info`. All but the first wait until they are told where to go.
#[derive(Clone, Copy)]
pub struct CpuInfo(*mut u64);

impl CpuInfo {
    /// The CPU's number, as interrupts are addressed to it.
    pub fn apic_id(&self) -> u32 {
        // SAFETY: see `cpus`. The word is: processor number, APIC number.
        unsafe { (self.0.read() >> 32) as u32 }
    }

    /// Sends the CPU to `entry`; `argument` is the last word of what it finds at `rdi`.
    pub fn go(&self, entry: u64, argument: u64) {
        // SAFETY: see `cpus`. The fields are: processor, reserved, where to go, argument. The loader reads the third again and again.
        unsafe {
            self.0.add(3).write_volatile(argument);
            AtomicU64::from_ptr(self.0.add(2)).store(entry, Ordering::Release);
        }
    }
}

/// The CPUs that the loader hands over, on the kernel's own tables.
pub fn cpus(boot: &Boot) -> impl Iterator<Item = CpuInfo> {
    let (pointers, count) = boot.cpus;
    let own = |physical: u64| (DIRECT + physical) as *mut u64;
    // SAFETY: the loader's memory is mapped and nobody else's yet; the response's pointers are into it, as many as it says.
    let info = move |index: u64| unsafe { own(own(pointers).add(index as usize).read() - boot.offset) };
    (0..count).map(info).map(CpuInfo)
}
