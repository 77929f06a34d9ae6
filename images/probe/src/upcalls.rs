//! Takes upcalls: counts ticks and events, and turns a fault inside of [`attempt`] into its result.

use crate::probe::{Probe, check, fail};
use abi::upcall::{Area, Context, Kind};
use abi::{Backing, Commit, Handle, PAGE_SIZE, Protection, Request, Span};
use core::arch::{asm, global_asm};
use core::ptr::addr_of_mut;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Where the upcall page is put.
pub const PAGE: u64 = 0x2_0000_0000;
/// The end of the upcall stack.
const STACK_END: u64 = PAGE - PAGE_SIZE;
const STACK_BYTES: u64 = 16 * PAGE_SIZE;

pub static TICKS: AtomicU64 = AtomicU64::new(0);
pub static EVENTS: AtomicU64 = AtomicU64::new(0);
pub static REVOCATIONS: AtomicU64 = AtomicU64::new(0);
static VCPU: AtomicU64 = AtomicU64::new(0);

global_asm!(
    // The kernel enters with rdi = kind, rsi = context, rsp = the end of our stack, all else zero.
    ".global probe_upcall",
    "probe_upcall:",
    "or rax, rbx",
    "or rax, rcx",
    "or rax, rdx",
    "or rax, rbp",
    "or rax, r8",
    "or rax, r9",
    "or rax, r10",
    "or rax, r11",
    "or rax, r12",
    "or rax, r13",
    "or rax, r14",
    "or rax, r15",
    "mov rdx, rax",
    "mov rcx, rsp",
    "call {handle}",
    // Resume: the answer is the area.
    "mov rsi, rax",
    "mov rdi, [rip + {vcpu}]",
    "mov eax, 6",
    "syscall",
    "mov rdi, rax",
    "call {refused}",
    "ud2",
    // attempt(code, argument, at): calls code(argument); a fault in it returns here. Answers 0 or 1.
    ".global probe_attempt",
    "probe_attempt:",
    "push rbx",
    "push rbp",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "mov rax, rdi",
    "mov rdi, rsi",
    "mov [rip + {recover_stack}], rsp",
    "lea rcx, [rip + 2f]",
    "mov [rip + {recover_at}], rcx",
    "sub rsp, 8",
    "call rax",
    "add rsp, 8",
    "mov qword ptr [rip + {recover_at}], 0",
    "xor eax, eax",
    "jmp 3f",
    "2:",
    "mov eax, 1",
    "3:",
    "cld",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop rbp",
    "pop rbx",
    "ret",
    handle = sym handle,
    refused = sym refused,
    vcpu = sym VCPU,
    recover_stack = sym RECOVER_STACK,
    recover_at = sym RECOVER_AT,
);

unsafe extern "C" {
    fn probe_upcall();
    fn probe_attempt(code: extern "C" fn(u64), argument: u64) -> u64;
}

static RECOVER_STACK: AtomicU64 = AtomicU64::new(0);
static RECOVER_AT: AtomicU64 = AtomicU64::new(0);
static mut LAST: Context = Context {
    rax: 0,
    rbx: 0,
    rcx: 0,
    rdx: 0,
    rsi: 0,
    rdi: 0,
    rbp: 0,
    rsp: 0,
    r8: 0,
    r9: 0,
    r10: 0,
    r11: 0,
    r12: 0,
    r13: 0,
    r14: 0,
    r15: 0,
    rip: 0,
    rflags: 0,
    vector: 0,
    error: 0,
    address: 0,
    out_of_memory: 0,
};

/// Sets upcalls up.
pub fn start(probe: &Probe) {
    let space = probe.info.space;
    let map = |base, length| {
        let (backing, protection) = (Backing::Zero, Protection::ReadWrite);
        probe.must(Request::Map {
            space,
            span: Span::new(base, length),
            backing,
            protection,
            commit: Commit::Now,
        });
    };
    map(STACK_END - STACK_BYTES, STACK_BYTES);
    map(PAGE, PAGE_SIZE);
    VCPU.store(probe.info.vcpu.raw(), Relaxed);
    register(probe.info.vcpu);
}

/// (Re)registers the page.
pub fn register(vcpu: Handle) {
    let entry = probe_upcall as *const () as u64;
    let request = Request::SetUpcall { vcpu, page: PAGE, entry, stack: STACK_END };
    check(crate::probe::raw_call(request.encode()) == Ok(0), "SetUpcall is served");
}

/// Addresses for SetUpcall.
pub fn entry() -> (u64, u64) {
    (probe_upcall as *const () as u64, STACK_END)
}

/// Runs `code`; the context of its fault, if it faults.
pub fn attempt(code: extern "C" fn(u64), argument: u64) -> Option<Context> {
    // SAFETY: 1. `code` keeps the callee-saved registers if it returns, and they are restored if it faults; 2. `LAST` was
    // written by the upcall before that, and no other comes now.
    unsafe {
        match probe_attempt(code, argument) {
            0 => None,
            _ => Some(addr_of_mut!(LAST).read()),
        }
    }
}

/// Whether ticks and events are held back.
pub fn set_masked(masked: u64) {
    // SAFETY: the page is mapped, and this word is for both sides to write.
    unsafe { (PAGE as *mut u64).write_volatile(masked) }
}

/// What the page says is pending.
pub fn pending() -> u64 {
    // SAFETY: the page is mapped.
    unsafe { (PAGE as *const u64).add(1).read_volatile() }
}

extern "C" fn handle(kind: u64, context: &mut Context, others: u64, stack: u64) -> u64 {
    check(others == 0, "an upcall begins with zeroed registers");
    check(stack == STACK_END, "an upcall begins on its stack");
    let flags: u64;
    // SAFETY: reads the flags.
    unsafe { asm!("pushfq", "pop {}", out(reg) flags) }
    check(flags & 1 << 10 == 0, "the direction flag is clear");
    check(flags & 1 << 9 != 0, "interrupts are on");
    // SAFETY: the page is mapped.
    check(unsafe { (PAGE as *const u64).read_volatile() } != 0, "upcalls are masked");
    let area = if kind == Kind::Fault as u64 { Area::Fault } else { Area::Tick };
    let place =
        core::mem::offset_of!(abi::UpcallPage, tick) as u64 + area as u64 * size_of::<Context>() as u64;
    check(context as *mut _ as u64 == PAGE + place, "the context lies in its area");
    if kind == Kind::Tick as u64 {
        check(context.vector == 0, "a tick has no vector");
        TICKS.fetch_add(1, Relaxed);
    } else if kind == Kind::Event as u64 {
        EVENTS.fetch_add(1, Relaxed);
    } else if kind == Kind::Revocation as u64 {
        REVOCATIONS.fetch_add(1, Relaxed);
    } else if kind == Kind::Fault as u64 {
        let at = RECOVER_AT.swap(0, Relaxed);
        if at == 0 {
            fail(format_args!("an unexpected fault: {context:x?}"));
        }
        // SAFETY: read only after the fault has returned to `attempt`.
        unsafe { addr_of_mut!(LAST).write(*context) }
        context.rip = at;
        context.rsp = RECOVER_STACK.load(Relaxed);
        context.rflags = 0;
    } else {
        fail(format_args!("an upcall of kind {kind}"));
    }
    area as u64
}

extern "C" fn refused(code: u64) -> ! {
    fail(format_args!("Resume answered {:?}", abi::Error::from_code(code)))
}
