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
    touch_nothing: "xor eax, eax", "mov rax, [rax]";
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
    set_control: "xor ecx, ecx", "mov eax, 1", "xor edx, edx", "xsetbv";
    write_debug: "xor eax, eax", "mov dr7, rax";
    read_debug: "mov rax, dr6";
    load_local_table: "xor eax, eax", "lldt ax";
    load_task: "mov eax, 0x28", "ltr ax";
    // With no segment to enter, it is a #GP; AMD's CPUs know neither in long mode.
    system_enter: "mov rcx, rsp", "lea rdx, [rip + 2f]", "sysenter", "2:";
    system_exit: "mov rcx, rsp", "lea rdx, [rip + 2f]", "sysexitq", "2:";
    nested_task: "pushfq", "or qword ptr [rsp], 0x4000", "popfq", "iretq";
    // `into` and `bound` are not there in 64-bit mode; AVX-512 made a prefix of the second's opcode, here of nothing.
    // `bndcl bnd0, [rax]`: with memory protection extensions off, nothing.
    bound_registers: ".byte 0xf3, 0x0f, 0x1a, 0x00";
    // QEMU does not know it.
    icebp: ".byte 0xf1";
    overflow: ".byte 0xce";
    bounds: ".byte 0x62, 0, 0, 0, 0, 0";
    // 1 / 0, which x87 tells at the next instruction that waits, and SSE at once.
    float: "fninit", "push 0x37b", "fldcw [rsp]", "pop rax", "fld1", "fldz", "fdivp", "fwait";
    vector_float: "push 0x1d80", "ldmxcsr [rsp]", "push 0x3f800000", "movss xmm0, [rsp]", "add rsp, 16",
        "xorps xmm1, xmm1", "divss xmm0, xmm1";
    // With the flag that would raise #AC, if CR0.AM were on.
    misaligned: "pushfq", "or qword ptr [rsp], 0x40000", "popfq", "mov rax, [rsp + 1]", "pushfq",
        "and qword ptr [rsp], ~0x40000", "popfq";
    wait_for_float: "fwait";
    fresh_vectors: "fninit", "push 0x1f80", "ldmxcsr [rsp]", "pop rax";
    load_ds: "mov ds, edi";
    load_es: "mov es, edi";
    load_fs: "mov fs, edi";
    load_gs: "mov gs, edi";
    load_ss: "mov ss, edi";
    user_segments: "mov eax, 0x1b", "mov ds, eax", "mov es, eax", "mov fs, eax", "mov gs, eax";
    far_call: "push 0x08", "push 0", "retfq";
    interrupt_return: "push 0x10", "push rsp", "pushfq", "push 0x08", "push 0", "iretq";
}

/// The vectors of those that [`alone`] raises, in its order.
pub const ALONE: [u64; 8] = [0, 1, 3, 6, 13, 14, 16, 13];

/// Raises one of them, without upcalls.
pub fn alone(number: u64) {
    let instructions = [divide, trap_flag, breakpoint, undefined, halt, touch_nothing, float, nested_task];
    if let Some(raise) = instructions.get(number as usize) {
        raise(0);
    }
}

/// All of them, in ring 3 with upcalls. The other vectors cannot be raised there: #NM, #AC and #BR are off, #OF is of another mode, #TS takes a
/// switch of tasks, #NP a segment that is not present (see [`segments`]), #DF a kernel that cannot be entered; NMI and machine checks are
/// nobody's.
pub fn run(probe: &Probe) {
    const GENERAL: &[u64] = &[13];
    let cases: [(extern "C" fn(u64), &str, &[u64]); 38] = [
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
        (set_control, "xsetbv", GENERAL),
        (write_debug, "mov to dr7", GENERAL),
        (read_debug, "mov from dr6", GENERAL),
        (load_local_table, "lldt", GENERAL),
        (load_task, "ltr", GENERAL),
        (system_enter, "sysenter", &[13, 6]),
        (system_exit, "sysexit", &[13, 6]),
        (nested_task, "iret from a nested task", GENERAL),
        (icebp, "icebp", &[1, 6]),
        (overflow, "into", &[6]),
        (bounds, "bound", &[6]),
        (float, "an unmasked exception of x87", &[16]),
        (touch_nothing, "an address where nothing is", &[14]),
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
    check(attempt(misaligned, 0).is_none(), "a misaligned access with the flag for alignment checks");
    check(attempt(bound_registers, 0).is_none(), "a check against no bounds");
    vectors(probe);
    segments();
    probe.now();
    software_interrupts(probe);
    resume_sanitised(probe);
}

/// Exceptions of x87 and SSE: what is pending stays this domain's.
fn vectors(probe: &Probe) {
    const DIVIDE_BY_ZERO: u32 = 1 << 2;
    // [`run`] has left one.
    let deadline_ns = probe.now() + 1_000_000;
    probe.must(Request::Wait { vcpu: probe.info.vcpu, deadline_ns });
    let pending = attempt(wait_for_float, 0);
    check(pending.is_some_and(|context| context.vector == 16), "one that is pending outlasts a sleep");
    attempt(fresh_vectors, 0);
    check(attempt(wait_for_float, 0).is_none(), "until it is forgotten");
    let told = attempt(vector_float, 0);
    let mut noted = 0u32;
    // SAFETY: stores a register of this domain's.
    unsafe { asm!("stmxcsr [{}]", in(reg) &raw mut noted) }
    // QEMU notes the exception, and raises none.
    check(noted & DIVIDE_BY_ZERO != 0, "SSE has divided by zero");
    check(told.is_none_or(|context| context.vector == 19), "an unmasked exception of SSE");
    attempt(fresh_vectors, 0);
}

/// Each selector in each register. All that the table has is present, so whatever cannot be loaded is a #GP with the selector as its error
/// and never a #NP; there is no local table, so no memory is read for one.
fn segments() {
    for selector in (0..0x60).chain([0xfff8, 0xfffc, 0xffff]) {
        for (load, name) in [
            (load_ds as extern "C" fn(u64), "ds"),
            (load_es, "es"),
            (load_fs, "fs"),
            (load_gs, "gs"),
            (load_ss, "ss"),
        ] {
            // None, data, and code, which can be read; for the stack data of ring 3 alone.
            let may =
                if name == "ss" { selector == 0x1b } else { [0, 0x18, 0x20].contains(&(selector & !3)) };
            let context = attempt(load, selector);
            let right = match context {
                None => may,
                Some(context) => context.vector == 13 && context.error == selector & !3,
            };
            if !right {
                fail(format_args!("{selector:#x} in {name}: {context:x?}"));
            }
        }
    }
    attempt(user_segments, 0);
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
