//! The first instruction, the upcall's first instruction, and the last words.

use abi::upcall::Kind;
use abi::{BootInfo, Commit, Context, PAGE_SIZE, Protection, Span};
use core::arch::naked_asm;
use core::fmt::Write;
use runtime::heap::Heap;
use runtime::trap::{self, Verdict};
use runtime::{System, stack::Stack};
use spin::Once;

use crate::{gate, report};

#[global_allocator]
pub static HEAP: Heap = Heap::new();

/// Stack for upcalls: the longest is a walk over a program's functions.
const UPCALL_STACK_BYTES: u64 = 64 << 10;

/// `rdi` is the boot information. Hosted, this is called and returns; on bare metal nothing is below it.
#[unsafe(naked)]
#[unsafe(no_mangle)]
extern "C" fn _start(boot: *const BootInfo) -> u64 {
    naked_asm!(
        "push rbp", "mov rbp, rsp", "and rsp, -16",
        "call {start}",
        "mov rsp, rbp", "pop rbp", "ret",
        start = sym start,
    )
}

extern "C" fn start(boot: *const BootInfo) -> u64 {
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

/// Says where upcalls go: to [`entry_bare`], or to the function that Linux's signal handler calls.
pub fn register_upcalls(system: &'static System, boot: &BootInfo) -> Result<(), abi::Error> {
    let page = system.map_new(PAGE_SIZE, Protection::ReadWrite, Commit::Now)?;
    let stack = Stack::new(system, UPCALL_STACK_BYTES, Commit::Now)?;
    let entry =
        if boot.gate == 0 { entry_bare as *const () as u64 } else { entry_hosted as *const () as u64 };
    trap::register(system, page.base, entry, stack.top())?;
    // It is needed until the end.
    core::mem::forget(stack);
    Ok(())
}

/// Where `fxsave` puts the vector registers of what was interrupted. Handlers are built without AVX, so the upper
/// halves stay as they are.
#[repr(C, align(16))]
struct VectorState([u8; 512]);

static mut VECTOR_STATE: VectorState = VectorState([0; 512]);

/// The kernel enters here: `rdi` is the kind, `rsi` the context.
#[unsafe(naked)]
extern "C" fn entry_bare() {
    naked_asm!(
        "fxsave64 [rip + {state}]",
        "call {handle}",
        "fxrstor64 [rip + {state}]",
        // abi::Request::Resume: number 6, the virtual CPU, the area.
        "mov rsi, rax", "mov rdi, rdx", "mov eax, 6", "syscall", "ud2",
        state = sym VECTOR_STATE,
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

/// Linux's signal handler calls this; 0: go on with the context as it is now, 1: nothing can go on.
extern "C" fn entry_hosted(kind: u64, context: &mut Context) -> u64 {
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
        last_words(format_args!("no page is left for it"), report::STATUS_MEMORY);
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
    last_words(format_args!("{info}"), report::STATUS_FAILED)
}

/// The longest last words.
const WORDS_BYTES_MAX: usize = 1024;

/// Text in a place of its own; what does not fit is left out.
struct Words {
    bytes: [u8; WORDS_BYTES_MAX],
    length: usize,
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
    let mut words = Words { bytes: [0; WORDS_BYTES_MAX], length: 0 };
    let _ = writeln!(words, "selkis: the library OS failed: {why}");
    let words = str::from_utf8(&words.bytes[..words.length]).unwrap_or_default();
    gate::print(words);
    if let Some(tell) = TELL_LAST_WORDS.get() {
        tell(words);
    }
    gate::stop(status)
}
