//! The last instructions of the loader: from the firmware's page tables to the executable's first instruction.

use core::arch::naked_asm;

/// What [`enter`] needs; read through the direct map once the page tables have changed.
#[repr(C)]
pub struct Handover {
    /// Page tables that map [`enter`] to itself in addition.
    pub transition_root: u64,
    /// Page tables of the executable.
    pub root: u64,
    /// Start of the direct map.
    pub hhdm: u64,
    /// Where to go.
    pub entry: u64,
    /// End of the stack, in the direct map; 16-byte aligned.
    pub stack: u64,
    /// Extended features: long mode, and no-execute where there is one.
    pub efer: u64,
    /// Descriptor tables.
    pub gdt: TableRegister,
    /// Base 0, limit 0: there is none.
    pub idt: TableRegister,
}

/// Operand of LGDT and LIDT.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub struct TableRegister {
    padding: [u16; 3],
    limit: u16,
    base: u64,
}

impl TableRegister {
    /// A table of `bytes` bytes; `None` for bytes = 0 is limit 0 as well.
    pub const fn new(base: u64, bytes: u16) -> Self {
        Self { padding: [0; 3], limit: bytes.saturating_sub(1), base }
    }
}

/// "Machine State at Entry": null, 16-bit code and data, 32-bit code and data, 64-bit code (0x28) and data (0x30),
/// all flat; then a task state segment of base 0 and limit 0 (0x38, two words), because the task register cannot be
/// loaded with nothing.
pub const GDT: [u64; 9] = [
    0,
    0x0000_9b00_0000_ffff,
    0x0000_9300_0000_ffff,
    0x00cf_9b00_0000_ffff,
    0x00cf_9300_0000_ffff,
    0x0020_9b00_0000_0000,
    0x0000_9300_0000_0000,
    0x0000_8900_0000_0000,
    0,
];

/// How many bytes [`enter`] has at most; that many are mapped for it.
pub const ENTER_BYTES: u64 = 512;

/// Leaves for the executable.
///
/// # Safety
/// 1. Boot services are gone and interrupts are off.
/// 2. `handover` lies in memory that `root` maps at `hhdm`, and so does this function.
/// 3. `transition_root` maps the same, and this function to itself.
/// 4. `entry` is executable and `stack` writable under `root`.
/// 5. `gdt` is [`GDT`] at an address that `root` maps writable.
#[unsafe(naked)]
pub unsafe extern "sysv64" fn enter(handover: *const Handover) -> ! {
    naked_asm!(
        "cli",
        // EFER: nothing but long mode (enabled and active) and no-execute.
        "mov ecx, 0xc0000080",
        "mov eax, [rdi + 40]",
        "xor edx, edx",
        "wrmsr",
        // CR4: nothing but PAE. Before CR0, because CET must go before write protection may change.
        "mov eax, 0x20",
        "mov cr4, rax",
        // CR0: nothing but PG, WP, ET, PE.
        "mov eax, 0x80010011",
        "mov cr0, rax",
        "mov rsi, [rdi + 8]",
        "mov r8, [rdi + 16]",
        "mov rax, [rdi]",
        "mov cr3, rax",
        // Both this code and its data go on in the direct map.
        "add rdi, r8",
        "lea rax, [rip + 2f]",
        "add rax, r8",
        "jmp rax",
        "2:",
        "mov cr3, rsi",
        "lgdt [rdi + 54]",
        "lidt [rdi + 70]",
        "mov rsp, [rdi + 32]",
        "push 0x28",
        "lea rax, [rip + 3f]",
        "push rax",
        "retfq",
        "3:",
        "mov eax, 0x30",
        "mov ds, eax",
        "mov es, eax",
        "mov fs, eax",
        "mov gs, eax",
        "mov ss, eax",
        "mov eax, 0x38",
        "ltr ax",
        "xor eax, eax",
        "lldt ax",
        // The return address that is none, where to go, and the flags to go with.
        "push 0",
        "push [rdi + 24]",
        "push 2",
        "xor ebx, ebx",
        "xor ecx, ecx",
        "xor edx, edx",
        "xor esi, esi",
        "xor edi, edi",
        "xor ebp, ebp",
        "xor r8d, r8d",
        "xor r9d, r9d",
        "xor r10d, r10d",
        "xor r11d, r11d",
        "xor r12d, r12d",
        "xor r13d, r13d",
        "xor r14d, r14d",
        "xor r15d, r15d",
        "popfq",
        "ret",
    )
}

const _: () = {
    assert!(core::mem::offset_of!(Handover, root) == 8);
    assert!(core::mem::offset_of!(Handover, hhdm) == 16);
    assert!(core::mem::offset_of!(Handover, entry) == 24);
    assert!(core::mem::offset_of!(Handover, stack) == 32);
    assert!(core::mem::offset_of!(Handover, efer) == 40);
    assert!(core::mem::offset_of!(Handover, gdt) + core::mem::offset_of!(TableRegister, limit) == 54);
    assert!(core::mem::offset_of!(Handover, idt) + core::mem::offset_of!(TableRegister, limit) == 70);
};
