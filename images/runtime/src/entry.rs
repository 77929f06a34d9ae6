//! The first instruction, the upcall's first instruction, and the last words.

use abi::upcall::Kind;
use abi::{BootInfo, Commit, Context, PAGE_SIZE, Protection, Request, Span};
use alloc::boxed::Box;
use core::arch::naked_asm;
use core::fmt::Write;
use runtime::heap::Heap;
use runtime::trap::{self, Verdict};
use runtime::vcpu::{STACK_SPAN, Vcpu};
use runtime::{System, scheduler, stack::Stack};
use spin::Once;

use crate::{gate, report};

#[global_allocator]
pub static HEAP: Heap = Heap::new();

/// Stack for upcalls.
const UPCALL_STACK_BYTES: u64 = 64 << 10;

/// `rdi` is the boot information. Hosted, this is called and returns; on bare metal nothing is below it. Either way it goes on at the end of a stretch
/// of the stack that is aligned as [`Vcpu`] wants it; on bare metal that is where it is.
#[unsafe(naked)]
#[unsafe(no_mangle)]
extern "C" fn _start(boot: *const BootInfo) -> u64 {
    naked_asm!(
        "mov rax, rsp",
        "mov rsi, rsp",
        "and rsi, {mask}",
        "lea rsp, [rsi - 16]", // what `Vcpu::settle` writes to
        "push rax", "push rbp",
        "xor ebp, ebp",
        "call {start}",
        "pop rbp", "pop rsp", "ret",
        mask = const -(STACK_SPAN as i64),
        start = sym start,
    )
}

extern "C" fn start(boot: *const BootInfo, stack_top: u64) -> u64 {
    // SAFETY: the stack is whoever's called us, and `_start` has left those bytes free.
    unsafe { Vcpu::first().settle(stack_top) };
    // SAFETY: whoever starts a domain passes the boot information's address, and keeps it there, unchanged.
    let boot: &'static BootInfo = unsafe { &*boot };
    if boot.magic != BootInfo::MAGIC || boot.version != BootInfo::VERSION {
        // There is nobody to tell: the layout of everything else is unknown.
        return u64::from(report::STATUS_FAILED);
    }
    let kernel = gate::open(boot);
    let heap_span = Span::new(boot.window.base, runtime::system::HEAP_SPAN_BYTES);
    HEAP.start(kernel, boot.space, heap_span);
    let status = crate::main(System::install(kernel, boot), boot);
    if boot.gate == 0 {
        gate::stop(status);
    }
    u64::from(status)
}

/// The bytes of the boot module.
pub fn module(boot: &'static BootInfo) -> &'static [u8] {
    let Span { base, length } = boot.module;
    // SAFETY: the boot module is mapped for ever, and read-only.
    unsafe { core::slice::from_raw_parts(base as usize as *const u8, length as usize) }
}

/// Says where upcalls of the first virtual CPU go.
pub fn register_upcalls(system: &'static System, _boot: &BootInfo) -> Result<(), abi::Error> {
    Upcalls::new(system, Vcpu::first())?.register(system)
}

/// Where the scheduler of another virtual CPU runs; ends of processes are the longest that it sees.
const VCPU_STACK_BYTES: u64 = 64 << 10;

/// Has processes run on `count` virtual CPUs in all.
pub fn start_vcpus(system: &'static System, count: u32) -> Result<(), abi::Error> {
    for _ in 1..count {
        let vcpu = system.add_vcpu()?;
        let stack = lasting_stack(system, VCPU_STACK_BYTES, vcpu)? - SETTLED_BYTES;
        let upcalls = Box::into_raw(Box::new(Upcalls::new(system, vcpu)?));
        let (entry, argument) = (start_vcpu as *const () as u64, upcalls as u64);
        system.kernel().call(Request::Start { vcpu: vcpu.handle(), entry, stack, argument })?;
    }
    Ok(())
}

/// The first instruction of another virtual CPU, on its own stack. Hosted, its thread calls this.
#[unsafe(naked)]
extern "C" fn start_vcpu(upcalls: *mut Upcalls) {
    naked_asm!(
        "push rbp", "mov rbp, rsp", "and rsp, -16",
        "call {serve}",
        "mov rsp, rbp", "pop rbp", "ret",
        serve = sym serve,
    )
}

extern "C" fn serve(upcalls: *mut Upcalls) {
    // SAFETY: `start_vcpus` made it with `Box::into_raw`, for this virtual CPU alone.
    let upcalls = unsafe { Box::from_raw(upcalls) };
    let Some(system) = System::get() else { panic!("a virtual CPU without a system") };
    if let Err(error) = upcalls.register(system) {
        panic!("no upcalls: {error:?}");
    }
    scheduler::serve(system);
    // On the machine it stops with its domain.
    while gate::is_bare() {
        system.wait(Request::NEVER);
    }
}

/// Where upcalls of a virtual CPU go: to [`entry_bare`], or to the function that Linux's signal handler calls.
struct Upcalls {
    page: u64,
    entry: u64,
    stack_top: u64,
}

impl Upcalls {
    fn new(system: &'static System, vcpu: &'static Vcpu) -> Result<Self, abi::Error> {
        let entry = match gate::is_bare() {
            true => entry_bare as *const () as u64,
            false => entry_hosted as *const () as u64,
        };
        let page = system.map_new(PAGE_SIZE, Protection::ReadWrite, Commit::Now)?.base;
        Ok(Self { page, entry, stack_top: lasting_stack(system, UPCALL_STACK_BYTES, vcpu)? })
    }

    fn register(&self, system: &System) -> Result<(), abi::Error> {
        trap::register(system, self.page, self.entry, self.stack_top - SETTLED_BYTES)
    }
}

/// What code on a settled stack leaves free at its end, to begin aligned.
const SETTLED_BYTES: u64 = 16;

/// The end of a stack that is needed until the end, settled.
fn lasting_stack(system: &'static System, bytes: u64, vcpu: &'static Vcpu) -> Result<u64, abi::Error> {
    let stack = Stack::new(system, bytes, Commit::Now)?;
    let top = stack.top();
    core::mem::forget(stack);
    // SAFETY: nobody else has the stack, and whoever begins on it begins below those bytes.
    unsafe { vcpu.settle(top) };
    Ok(top)
}

/// Where in the page for upcalls `fxsave` puts the vector registers of what was interrupted, behind what the kernel lays there. Handlers are
/// built without AVX, so the upper halves stay as they are.
const VECTOR_STATE: usize = 1024;
const _: () = assert!(VECTOR_STATE >= size_of::<abi::UpcallPage>() && VECTOR_STATE.is_multiple_of(16));

/// The kernel enters here: `rdi` is the kind, `rsi` the context, which lies in the page.
#[unsafe(naked)]
extern "C" fn entry_bare() {
    naked_asm!(
        "mov rbx, rsi",
        "and rbx, {page}",
        "fxsave64 [rbx + {state}]",
        "call {handle}",
        "fxrstor64 [rbx + {state}]",
        // abi::Request::Resume: number 6, the virtual CPU, the area.
        "mov rsi, rax", "mov rdi, rdx", "mov eax, 6", "syscall", "ud2",
        page = const -(PAGE_SIZE as i64),
        state = const VECTOR_STATE,
        handle = sym handle_bare,
    )
}

/// Two registers of an answer: `rax` and `rdx`.
#[repr(C)]
struct Pair(u64, u64);

extern "C" fn handle_bare(kind: u64, context: &mut Context) -> Pair {
    let Some(kind) = kind_of(kind) else { panic!("the kernel made an upcall of kind {kind}") };
    if crate::upcall(kind, context) == Verdict::Fatal {
        fatal(context);
    }
    Pair(trap::area(kind) as u64, gate::vcpu().raw())
}

/// Linux's signal handler calls this, on Linux's stack for it, with the stack that was registered: there it goes on.
#[unsafe(naked)]
extern "C" fn entry_hosted(kind: u64, context: &mut Context, stack: u64) -> u64 {
    naked_asm!(
        "push rbp", "mov rbp, rsp",
        "mov rsp, rdx",
        "call {handle}",
        "mov rsp, rbp", "pop rbp", "ret",
        handle = sym handle_hosted,
    )
}

/// 0: go on with the context as it is now, 1: nothing can go on.
extern "C" fn handle_hosted(kind: u64, context: &mut Context) -> u64 {
    match kind_of(kind).map(|kind| crate::upcall(kind, context)) {
        Some(Verdict::Resume) => 0,
        Some(Verdict::Fatal) | None => 1,
    }
}

fn kind_of(code: u64) -> Option<Kind> {
    [Kind::Tick, Kind::Event, Kind::Fault, Kind::Revocation].into_iter().find(|kind| *kind as u64 == code)
}

fn fatal(context: &Context) -> ! {
    if context.out_of_memory != 0 {
        let (rip, address) = (context.rip, context.address);
        last_words(
            format_args!("no page is left for {address:#x}, touched at {rip:#x}"),
            report::STATUS_MEMORY,
        );
    }
    last_words(
        format_args!(
            "exception {} (error {:#x}) at {:#x}, address {:#x}, stack {:#x}",
            context.vector, context.error, context.rip, context.address, context.rsp
        ),
        report::STATUS_FAILED,
    )
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    let mut words = Words::new();
    let _ = write!(words, "{}", info.message());
    if words.text().starts_with(NO_MEMORY) {
        trap::leave_engine();
    }
    last_words(format_args!("{info}"), report::STATUS_FAILED)
}

/// How the standard library begins where nobody can be told that there is no memory (`alloc::alloc::handle_alloc_error`).
const NO_MEMORY: &str = "memory allocation of ";

/// The longest last words: as many as who started a domain reads.
const WORDS_BYTES_MAX: usize = 1024;

/// Text in a place of its own; what does not fit is left out.
struct Words {
    bytes: [u8; WORDS_BYTES_MAX],
    length: usize,
}

impl Words {
    fn new() -> Self {
        Self { bytes: [0; WORDS_BYTES_MAX], length: 0 }
    }

    fn text(&self) -> &str {
        str::from_utf8(&self.bytes[..self.length]).unwrap_or_default()
    }
}

impl Write for Words {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        let fits = &text[..text.floor_char_boundary(WORDS_BYTES_MAX - self.length)];
        self.bytes[self.length..self.length + fits.len()].copy_from_slice(fits.as_bytes());
        self.length += fits.len();
        Ok(())
    }
}

/// Who else is to hear the last words: told without the heap, and without waiting for a lock.
pub static TELL_LAST_WORDS: Once<fn(&str)> = Once::new();

/// Ends everything, without the heap and without locks: they may be why.
fn last_words(why: core::fmt::Arguments<'_>, status: u8) -> ! {
    let mut words = Words::new();
    let _ = writeln!(words, "selkis: the library OS failed: {why}");
    let words = words.text();
    gate::print(words);
    if let Some(tell) = TELL_LAST_WORDS.get() {
        tell(words);
    }
    gate::stop(status)
}
