//! The first instructions, for both boot protocols.
//!
//! PVH (Xen, `docs/misc/pvh.pandoc`; `XEN_ELFNOTE_PHYS32_ENTRY`) enters in 32-bit protected mode without paging,
//! `ebx` holding the physical address of the start info. The code below turns on long mode over tables that map
//! the first 4 GiB at 0 and at [`EARLY_OFFSET`], and the first GiB at the kernel's own addresses. Limine enters in long
//! mode with the kernel mapped.

use crate::percpu;
use core::arch::global_asm;
use core::sync::atomic::{AtomicU64, Ordering};

/// What the kernel's addresses are above the physical ones when PVH loads it.
pub const KERNEL_BASE: u64 = 0xffff_ffff_8000_0000;
/// Where the early tables of the PVH entry map physical memory, the first 4 GiB of it.
pub const EARLY_OFFSET: u64 = 0xffff_8000_0000_0000;

global_asm!(r#"
.section .note.pvh, "a", @note
.balign 4
.long 4                         // length of the name
.long 8                         // length of the value: 8 bytes, or some loaders refuse it
.long 18                        // XEN_ELFNOTE_PHYS32_ENTRY
.asciz "Xen"
.quad pvh_entry - {base}

.section .bss.boot_stack, "aw", @nobits
.balign 16
.skip 16384
boot_stack_end:

// Present and writable; filled in by the assembler, so that starting costs no loop.
.section .data.boot, "aw", @progbits
.balign 4096
early_root:
    .quad early_low - {base} + 3
    .skip 255 * 8
    .quad early_low - {base} + 3
    .skip 254 * 8
    .quad early_high - {base} + 3
early_low:
    .set page, 0
    .rept 4
    .quad early_pages + page * 4096 - {base} + 3
    .set page, page + 1
    .endr
    .skip 508 * 8
early_high:
    .skip 510 * 8
    .quad early_pages - {base} + 3
    .skip 8
early_pages:
    .set page, 0
    .rept 2048
    .quad page * 0x200000 + 0x83 // present, writable, 2 MiB
    .set page, page + 1
    .endr

.section .rodata.early_gdt, "a", @progbits
.balign 8
early_gdt:
    .quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff // 64-bit code, data
early_gdt_pointer:
    .word 23
    .long early_gdt - {base}

.section .text.boot, "ax", @progbits
.code32
.global pvh_entry
pvh_entry:
    cld
    cli
    mov eax, cr4
    or eax, 0x20                // PAE
    mov cr4, eax
    mov eax, offset early_root - {base}
    mov cr3, eax
    mov ecx, 0xc0000080         // EFER
    rdmsr
    or eax, 0x900               // long mode, no-execute
    wrmsr
    mov eax, cr0
    or eax, 0x80010001          // paging, write protection, protected mode
    mov cr0, eax
    lgdt [early_gdt_pointer - {base}]
    mov esp, offset boot_stack_end - {base}
    push 8                      // the 64-bit code segment
    mov eax, offset pvh_long - {base}
    push eax
    retf
.code64
pvh_long:
    mov eax, 16
    mov ds, eax
    mov es, eax
    mov ss, eax
    movabs rax, offset pvh_high
    jmp rax
pvh_high:
    movabs rsp, offset boot_stack_end
    mov edi, ebx
    xor ebp, ebp                // the end of the chain of frames
    call {pvh_main}
    ud2

// Another CPU, from the trampoline. rdi: its state.
.global cpu_entry
cpu_entry:
    mov rax, [rip + {kernel_root}]
    mov cr3, rax
    mov rsp, [rdi + {KERNEL_STACK}]
    xor ebp, ebp
    call {on_new_cpu}
    ud2

// The same, from the Limine loader. rdi: a limine_mp_info; its extra argument is the state, or 0 for a CPU that is to stay away.
.global limine_cpu_entry
limine_cpu_entry:
    cli
    cld
    mov ecx, 0xc0000080         // EFER
    rdmsr
    or eax, 0x800               // no-execute, which the kernel's tables use
    wrmsr
    mov rdi, [rdi + 24]
    test rdi, rdi
    jnz cpu_entry
    mov rax, [rip + {kernel_root}]
    mov cr3, rax
    lock inc qword ptr [rip + {parked}]
2:  hlt
    jmp 2b

.global limine_entry
limine_entry:
    cld
    lea rsp, [rip + boot_stack_end]
    xor ebp, ebp                // the end of the chain of frames
    call {limine_main}
    ud2
"#,
    base = const KERNEL_BASE,
    KERNEL_STACK = const percpu::KERNEL_STACK,
    kernel_root = sym crate::tlb::KERNEL_ROOT,
    parked = sym PARKED,
    on_new_cpu = sym crate::smp::on_new_cpu,
    pvh_main = sym crate::boot::pvh_main,
    limine_main = sym crate::boot::limine_main,
);

unsafe extern "C" {
    /// Where the trampoline leads. Not to be called.
    pub fn cpu_entry();
    /// Where the Limine loader's CPUs are sent. Not to be called.
    pub fn limine_cpu_entry();
}

/// The CPUs that stay away, on the kernel's tables.
static PARKED: AtomicU64 = AtomicU64::new(0);

/// How many of the loader's CPUs have gone where they stay away.
pub fn parked() -> u64 {
    PARKED.load(Ordering::Acquire)
}
