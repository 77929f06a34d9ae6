//! The ways into the kernel, and back to ring 3.
//!
//! Every entry lays an [`abi::Context`] on the kernel's stack and calls Rust with its address. The kernel runs with
//! interrupts off and does not nest: from ring 0 only the sleep in [`crate::cpu::wait_for_interrupt`] takes interrupts, which
//! are written down and looked at when it returns. Any exception in ring 0 is the kernel's own bug and ends in a panic.
//!
//! `gs` belongs to ring 3 there and to [`crate::percpu::Cpu`] here: `swapgs` on the way in from ring 3 and on the way out.
//! Ring 3 cannot change the base of `gs` (CR4.FSGSBASE is off). Exceptions that can come at any instruction, also beside a `swapgs`,
//! have stacks of their own; from ring 0 they look at the base to know whose it is.
//!
//! An `iret` to ring 3 that faults does so in ring 0, after `swapgs`: that is made to look like the fault of what it would have entered.

use crate::descriptors::{USER_CODE, USER_DATA};
use crate::percpu;
use abi::Context;
use core::arch::global_asm;
use core::mem::offset_of;

const RAX: usize = offset_of!(Context, rax);
const RCX: usize = offset_of!(Context, rcx);
const RSP: usize = offset_of!(Context, rsp);
const RIP: usize = offset_of!(Context, rip);
const RFLAGS: usize = offset_of!(Context, rflags);
const VECTOR: usize = offset_of!(Context, vector);
const _: () = assert!(RAX == 0 && RCX == 16 && RSP == 56 && RIP == 128 && RFLAGS == 136 && VECTOR == 144);
const _: () = assert!(size_of::<Context>() == 22 * 8);

global_asm!(r#"
.section .text, "ax", @progbits

// The general registers of a context, below its other fields. `stack` is where the interrupted rsp lies.
.macro push_general stack:vararg
    push r15
    push r14
    push r13
    push r12
    push r11
    push r10
    push r9
    push r8
    push qword ptr \stack
    push rbp
    push rdi
    push rsi
    push rdx
    push rcx
    push rbx
    push rax
.endm

// And back, but for rsp.
.macro pop_general
    pop rax
    pop rbx
    pop rcx
    pop rdx
    pop rsi
    pop rdi
    pop rbp
    add rsp, 8
    pop r8
    pop r9
    pop r10
    pop r11
    pop r12
    pop r13
    pop r14
    pop r15
.endm

// The rest of a context, from what an entry and the CPU pushed:
// [vector] [error] [rip] [cs] [rflags] [rsp] [ss], and a word that aligns the stack for the call.
.macro push_context
    push 0
    // The context, last field first.
    push 0                      // out_of_memory
    push 0                      // address
    push qword ptr [rsp + 32]   // error
    push qword ptr [rsp + 32]   // vector
    push qword ptr [rsp + 72]   // rflags
    push qword ptr [rsp + 64]   // rip
    push_general [rsp + 160]
    mov rdi, rsp
.endm

// Back from an interrupt in ring 0.
.macro pop_context
    pop_general
    add rsp, 72                 // rip, rflags, vector, error, address, out_of_memory, alignment; vector, error
    iretq
.endm

// One entry for each vector: error code or 0, vector.
.global trap_entries
.balign 16
trap_entries:
    .set vector, 0
    .rept 256
    .balign 16
    .if vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21 || vector == 29 || vector == 30
    .else
    push 0
    .endif
    push vector
    .if vector == 1 || vector == 2 || vector == 8 || vector == 18
    jmp trap_on_own_stack
    .else
    jmp trap_common
    .endif
    .set vector, vector + 1
    .endr

.balign 16
trap_common:
    cld
    test byte ptr [rsp + 24], 3 // cs
    jz trap_from_ring_0
    swapgs
trap_from_ring_3:
    cmp byte ptr gs:[{HAS_SMAP}], 0
    je 1f
    clac
1:  push_context
    xor ebp, ebp                // ring 3 is no frame of the kernel's
    call {on_trap}
    jmp return_by_iret

trap_from_ring_0:
    cmp qword ptr [rsp + 16], offset iret_to_ring_3
    je iret_has_faulted
    push_context
    call {on_kernel_trap}
    pop_context

// What the iret was to load lies where rsp was then: it takes the place of what the CPU pushed.
iret_has_faulted:
    swapgs
    push rax
    mov rax, [rsp + 48]
    push qword ptr [rax]
    pop qword ptr [rsp + 24]    // rip
    push qword ptr [rax + 8]
    pop qword ptr [rsp + 32]    // cs
    push qword ptr [rax + 16]
    pop qword ptr [rsp + 40]    // rflags
    push qword ptr [rax + 24]
    push qword ptr [rax + 32]
    pop qword ptr [rsp + 64]    // ss
    pop qword ptr [rsp + 48]    // rsp
    pop rax
    jmp trap_from_ring_3

// From ring 3, as if there were no stack of its own; the kernel may sleep on the stack.
trap_on_own_stack:
    cld
    test byte ptr [rsp + 24], 3
    jz 1f
    swapgs
    push rax
    mov rax, rsp
    mov rsp, gs:[{KERNEL_STACK}]
    push qword ptr [rax + 56]
    push qword ptr [rax + 48]
    push qword ptr [rax + 40]
    push qword ptr [rax + 32]
    push qword ptr [rax + 24]
    push qword ptr [rax + 16]
    push qword ptr [rax + 8]
    mov rax, [rax]
    jmp trap_from_ring_3
1:  push_context
    mov ecx, {GS_BASE}
    rdmsr
    mov ebx, edx                // the kernel's is in the upper half
    test ebx, ebx
    js 2f
    swapgs
2:  call {on_own_stack_trap}
    test ebx, ebx
    js 3f
    swapgs
3:  pop_context

.global system_call_entry
.balign 16
system_call_entry:
    swapgs
    mov gs:[{USER_STACK}], rsp
    mov rsp, gs:[{KERNEL_STACK}]
    push 0
    push 0
    push 0
    push 0
    push r11                    // rflags
    push rcx                    // rip
    push_general gs:[{USER_STACK}]
    mov rdi, rsp
    xor ebp, ebp
    call {on_system_call}
    test al, al
    jz return_by_iret
    mov rax, [rsp]
    mov rbx, [rsp + 8]
    mov rdx, [rsp + 24]
    mov rsi, [rsp + 32]
    mov rdi, [rsp + 40]
    mov rbp, [rsp + 48]
    mov r8, [rsp + 64]
    mov r9, [rsp + 72]
    mov r10, [rsp + 80]
    mov r12, [rsp + 96]
    mov r13, [rsp + 104]
    mov r14, [rsp + 112]
    mov r15, [rsp + 120]
    mov rcx, [rsp + 128]        // rip
    mov r11, [rsp + 136]        // rflags
    mov rsp, [rsp + 56]
    swapgs
    sysretq

// rsp: a context. Its fields behind rip become what iret takes.
return_by_iret:
    mov rax, [rsp + 136]        // rflags
    mov rcx, [rsp + 56]         // rsp
    mov qword ptr [rsp + 136], {USER_CODE}
    mov [rsp + 144], rax
    mov [rsp + 152], rcx
    mov qword ptr [rsp + 160], {USER_DATA}
    pop_general
    swapgs
iret_to_ring_3:
    iretq

// rdi: a context.
.global enter_ring_3
enter_ring_3:
    mov rsp, rdi
    jmp return_by_iret

.purgem push_general
.purgem pop_general
.purgem push_context
.purgem pop_context
"#,
    GS_BASE = const percpu::GS_BASE,
    HAS_SMAP = const percpu::HAS_SMAP,
    USER_STACK = const percpu::USER_STACK,
    KERNEL_STACK = const percpu::KERNEL_STACK,
    USER_CODE = const USER_CODE,
    USER_DATA = const USER_DATA,
    on_trap = sym crate::dispatch::on_trap,
    on_kernel_trap = sym crate::dispatch::on_kernel_trap,
    on_own_stack_trap = sym crate::dispatch::on_own_stack_trap,
    on_system_call = sym crate::dispatch::on_system_call,
);

unsafe extern "C" {
    /// Loads `context`, which is changed on the way, and runs ring 3.
    ///
    /// # Safety
    /// `context` lies on this CPU's kernel stack, on which nothing else is needed any more, and `gs` is the kernel's.
    pub fn enter_ring_3(context: *mut Context) -> !;
    /// Where `syscall` goes. Not to be called.
    pub fn system_call_entry();
}
