//! Exceptions of every kind, as upcalls; and as the end where they cannot be.

use crate::memory;
use crate::probe::{Probe, check, fail};
use crate::upcalls::{self, attempt};
use abi::upcall::Area;
use abi::{Backing, Commit, Context, Error, PAGE_SIZE, Protection, Request, Span};
use core::arch::asm;

/// Defines functions of these instructions, to be run by [`attempt`].
macro_rules! instructions {
    ($($name:ident: $($line:literal),+;)*) => {
        $(
            #[unsafe(naked)]
            extern "C" fn $name(_: u64) {
                core::arch::naked_asm!($($line,)+ "ret")
            }
        )*
    };
}

instructions! {
    undefined: "ud2";
    divide: "xor ecx, ecx", "xor edx, edx", "mov eax, 1", "div ecx";
    halt: "hlt";
    clear_interrupts: "cli";
    set_interrupts: "sti";
    read_port: "in al, 0x71";
    write_port: "mov dx, 0x3f8", "out dx, al";
    debug_exit: "mov dx, 0xf4", "out dx, al";
    read_control: "mov rax, cr0";
    write_control: "mov cr3, rax";
    read_msr: "mov ecx, 0xc0000080", "rdmsr";
    write_msr: "mov ecx, 0xc0000102", "xor eax, eax", "xor edx, edx", "wrmsr";
    store_table: "sub rsp, 16", "sgdt [rsp]", "add rsp, 16";
    load_table: "sub rsp, 16", "lidt [rsp]", "add rsp, 16";
    invalidate: "invlpg [rsp]";
    swap_base: "swapgs";
    write_base: "wrgsbase rax";
    return_system: "sysretq";
    breakpoint: "int3";
    non_canonical: "mov rax, 0x8000000000000000", "mov rax, [rax]";
    non_canonical_stack: "mov rsp, 0x8000000000000000", "push rax";
    kernel_segment: "mov eax, 0x10", "mov ss, eax";
    // Loading null is allowed, and must not hurt the kernel's own use of it.
    null_segment: "xor eax, eax", "mov gs, eax", "mov fs, eax", "mov eax, 0x1b", "mov gs, eax", "mov eax, 9", "syscall";
    trap_flag: "pushfq", "or qword ptr [rsp], 0x100", "popfq", "nop", "nop";
    trap_system_call: "pushfq", "or qword ptr [rsp], 0x100", "popfq", "syscall", "nop";
    odd_flags_call: "pushfq", "or qword ptr [rsp], 0x44400", "popfq", "mov eax, 99", "syscall", "pushfq", "and qword ptr [rsp], ~0x44400", "popfq", "cld";
    far_call: "push 0x08", "push 0", "retfq";
    interrupt_return: "push 0x10", "push rsp", "pushfq", "push 0x08", "push 0", "iretq";
}

/// All of them, in ring 3 with upcalls.
pub fn run(probe: &Probe) {
    const GENERAL: &[u64] = &[13];
    let cases: [(extern "C" fn(u64), &str, &[u64]); 25] = [
        (undefined, "ud2", &[6]),
        (divide, "div", &[0]),
        (halt, "hlt", GENERAL),
        (clear_interrupts, "cli", GENERAL),
        (set_interrupts, "sti", GENERAL),
        (read_port, "in", GENERAL),
        (write_port, "out", GENERAL),
        (debug_exit, "out to the debug exit", GENERAL),
        (read_control, "mov from cr0", GENERAL),
        (write_control, "mov to cr3", GENERAL),
        (read_msr, "rdmsr", GENERAL),
        (write_msr, "wrmsr", GENERAL),
        (store_table, "sgdt", GENERAL),
        (load_table, "lidt", GENERAL),
        (invalidate, "invlpg", GENERAL),
        (swap_base, "swapgs", GENERAL),
        (write_base, "wrgsbase", &[6]),
        (return_system, "sysret", &[13, 6]),
        (breakpoint, "int3", &[3]),
        (non_canonical, "a non-canonical address", GENERAL),
        (non_canonical_stack, "a non-canonical stack", &[12, 13]),
        (kernel_segment, "the kernel's segment", GENERAL),
        (trap_flag, "the trap flag", &[1]),
        // QEMU reads the stack of a far return as ring 0 would, which SMAP forbids.
        (far_call, "a far return to ring 0", &[13, 14]),
        (interrupt_return, "iret to ring 0", &[13, 14]),
    ];
    for (code, name, vectors) in cases {
        let context = attempt(code, 0);
        check(context.is_some_and(|context| vectors.contains(&context.vector)), name);
    }
    check(
        attempt(trap_system_call, 0).is_some_and(|context| context.vector == 1),
        "the trap flag over a system call",
    );
    check(attempt(odd_flags_call, 0).is_none(), "a system call with odd flags");
    check(attempt(null_segment, 0).is_none(), "null segments");
    probe.now();
    software_interrupts(probe);
    resume_sanitised(probe);
}

/// `int` with every vector: all gates but the breakpoint's are closed to ring 3 (Intel SDM volume 3, section 6.12.1.1).
fn software_interrupts(probe: &Probe) {
    const AT: u64 = 0x2_8000_0000;
    const BREAKPOINT: u64 = 3;
    let space = probe.info.space;
    let span = Span::new(AT, PAGE_SIZE);
    let (protection, commit) = (Protection::ReadWrite, Commit::Now);
    probe.must(Request::Map { space, span, backing: Backing::Zero, protection, commit });
    for number in 0..256 {
        // `int number; ret`
        memory::store(AT, 0xcd | number << 8 | 0xc3 << 16);
        probe.must(Request::Protect { space, span, protection: Protection::ReadExecute });
        let Some(context) = attempt(memory::run_at, AT) else {
            fail(format_args!("int {number} came back"));
        };
        // The error code is the gate's offset with bit 1; QEMU counts 16 bytes for each gate instead of 8.
        let general = [number << 3 | 2, number << 4 | 2];
        let right = match context.vector {
            BREAKPOINT => number == BREAKPOINT,
            13 => number != BREAKPOINT && general.contains(&context.error),
            _ => false,
        };
        if !right {
            fail(format_args!("int {number} raised {} with error {:#x}", context.vector, context.error));
        }
        probe.must(Request::Protect { space, span, protection });
    }
    probe.must(Request::Unmap { space, span });
}

/// Contexts that must not be loaded, or not as they are.
fn resume_sanitised(probe: &Probe) {
    let vcpu = probe.info.vcpu;
    let at = upcalls::PAGE + core::mem::offset_of!(abi::UpcallPage, fault) as u64;
    let write = |context: Context| {
        // SAFETY: the page is mapped, and no upcall comes while it is masked.
        unsafe { (at as *mut Context).write_volatile(context) }
    };
    upcalls::set_masked(1);
    for (rip, rsp) in [
        (1 << 47, 0),
        (0, 1 << 47),
        (0xffff_8000_0000_0000, 0),
        (u64::MAX, 0),
        (0, 0xffff_ffff_8020_0000),
        (0x7fff_ffff_f000, 0),
        (1 << 63, 1 << 63),
    ] {
        write(Context { rip, rsp, ..Context::default() });
        probe.refused(Request::Resume { vcpu, area: Area::Fault }, Error::BadRange);
    }
    upcalls::set_masked(0);
    let (entry, stack) = upcalls::entry();
    for (page, entry, stack) in
        [(upcalls::PAGE, 1 << 47, stack), (upcalls::PAGE, entry, 1 << 63), (upcalls::PAGE + 1, entry, stack)]
    {
        probe.refused(Request::SetUpcall { vcpu, page, entry, stack }, Error::BadRange);
    }
    // All flags set: comes back with those that ring 3 may have.
    check(resume_with_flags(vcpu.raw(), at, !0x100) & 0x1f_ffff & !0x102 == 0xed5, "flags are sanitised");
}

/// Resumes behind itself with these flags, and answers with those that it finds then.
fn resume_with_flags(vcpu: u64, context: u64, flags: u64) -> u64 {
    let found: u64;
    // SAFETY: the context loaded is this function's own, with the registers that are declared lost.
    unsafe {
        asm!(
            "mov [{context} + 136], {flags}",
            "mov [{context} + 56], rsp",
            "mov [{context} + 48], rbp",
            "mov [{context} + 8], rbx",
            "lea rax, [rip + 2f]",
            "mov [{context} + 128], rax",
            "mov esi, 1",
            "mov eax, 6",
            "syscall",
            "ud2",
            "2:",
            "pushfq",
            "pop rax",
            "push 2",
            "popfq",
            context = in(reg) context,
            flags = in(reg) flags,
            in("rdi") vcpu,
            out("rax") found, // not late: what is read above must not lie there
            out("rcx") _, out("rdx") _, out("rsi") _, lateout("rdi") _, out("r8") _, out("r9") _, out("r10") _,
            out("r11") _, out("r12") _, out("r13") _, out("r14") _, out("r15") _,
        );
    }
    found
}

/// One exception, taken as an upcall.
pub fn raise() {
    check(attempt(undefined, 0).is_some(), "an exception");
}

/// A fault while upcalls are masked.
pub fn masked(probe: &Probe) {
    upcalls::start(probe);
    upcalls::set_masked(1);
    attempt(undefined, 0);
}

/// A fault before there are upcalls.
pub fn without_upcalls() {
    undefined(0);
}

/// A stack that runs into its guard page, without upcalls.
pub fn stack_overflow() {
    // SAFETY: ends the domain, as it should.
    unsafe { asm!("2: push rax", "jmp 2b", options(noreturn)) }
}
