//! The first instructions: what the loader left is saved before anything changes it.

use core::arch::naked_asm;

use super::state::EntryState;

static mut STATE: EntryState = EntryState::ZERO;

/// Where the loader enters: a function that no Rust code calls.
#[unsafe(naked)]
pub unsafe extern "C" fn enter() -> ! {
    naked_asm!(
        "mov [rip + {state}], rax",
        "mov [rip + {state} + 8], rbx",
        "mov [rip + {state} + 16], rcx",
        "mov [rip + {state} + 24], rdx",
        "mov [rip + {state} + 32], rsi",
        "mov [rip + {state} + 40], rdi",
        "mov [rip + {state} + 48], rbp",
        "mov [rip + {state} + 56], r8",
        "mov [rip + {state} + 64], r9",
        "mov [rip + {state} + 72], r10",
        "mov [rip + {state} + 80], r11",
        "mov [rip + {state} + 88], r12",
        "mov [rip + {state} + 96], r13",
        "mov [rip + {state} + 104], r14",
        "mov [rip + {state} + 112], r15",
        "mov [rip + {state} + 120], rsp",
        "pushfq",
        "pop [rip + {state} + 128]",
        "mov rax, cr0",
        "mov [rip + {state} + 136], rax",
        "mov rax, cr3",
        "mov [rip + {state} + 144], rax",
        "mov rax, cr4",
        "mov [rip + {state} + 152], rax",
        "mov ecx, 0xc0000080",
        "rdmsr",
        "mov [rip + {state} + 160], eax",
        "mov [rip + {state} + 164], edx",
        "mov [rip + {state} + 168], cs",
        "mov [rip + {state} + 170], ds",
        "mov [rip + {state} + 172], es",
        "mov [rip + {state} + 174], fs",
        "mov [rip + {state} + 176], gs",
        "mov [rip + {state} + 178], ss",
        "str [rip + {state} + 180]",
        "sldt [rip + {state} + 182]",
        "sgdt [rip + {state} + 190]",
        "sidt [rip + {state} + 206]",
        "mov rax, [rsp]",
        "mov [rip + {state} + 216], rax",
        "rdtsc",
        "mov [rip + {state} + 224], eax",
        "mov [rip + {state} + 228], edx",
        "lea rdi, [rip + {state}]",
        "call {run}",
        state = sym STATE,
        run = sym super::run,
    )
}
