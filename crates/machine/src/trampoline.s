// From real mode, where a CPU begins at the first byte of a page below 1 MiB, to long mode. Position-dependent: what is patched has the page's
// address added to it, or is set (trampoline.rs). Also part of the UEFI loader.
.set trampoline_gdt_pointer_at, trampoline_gdt_pointer - trampoline_start
.set trampoline_root_at, trampoline_root - trampoline_start
.set trampoline_mailbox_at, trampoline_mailbox - trampoline_start
.set trampoline_entry_at, trampoline_entry - trampoline_start
.code16
trampoline_start:
    cli
    cld
    mov ax, cs
    mov ds, ax
    lgdt [trampoline_gdt_pointer_at]
    mov eax, cr0
    and eax, 0x9fffffff                 // caches on
    or eax, 1                           // protected mode
    mov cr0, eax
    .byte 0x66, 0xea                    // far jump
trampoline_jump_32:
    .long trampoline_32 - trampoline_start
    .word 8
.code32
trampoline_32:
    mov eax, 16
    mov ds, eax
    mov es, eax
    mov ss, eax
    .byte 0xbb                          // mov ebx
trampoline_page:
    .long 0
    mov eax, 0x20                       // physical address extension
    mov cr4, eax
    mov eax, [ebx + trampoline_root_at]
    mov cr3, eax
    mov ecx, 0xc0000080                 // EFER
    rdmsr
    or eax, 0x900                       // long mode, no-execute
    wrmsr
    mov eax, 0x80010033                 // paging, write protection, numeric error, extension type, monitor coprocessor, protected mode
    mov cr0, eax
    .byte 0xea                          // far jump
trampoline_jump_64:
    .long trampoline_64 - trampoline_start
    .word 24
.code64
trampoline_64:
    mov ebx, ebx
    mov rcx, [rbx + trampoline_mailbox_at]
    xor edi, edi
    xchg rdi, [rcx]                     // a CPU that comes too late finds nothing, or what a later one should have had
    test rdi, rdi
    jz 2f
    jmp qword ptr [rbx + trampoline_entry_at]
2:  hlt
    jmp 2b

.balign 8
trampoline_gdt:
    .quad 0, 0x00cf9b000000ffff, 0x00cf93000000ffff, 0x00af9b000000ffff // 32-bit code, data, 64-bit code
trampoline_mailbox:
    .quad 0
trampoline_entry:
    .quad 0
trampoline_root:
    .long 0
trampoline_gdt_pointer:
    .word 31
trampoline_gdt_base:
    .long trampoline_gdt - trampoline_start
trampoline_end:
