//! The other processors: each must come where it is sent, in the state that the first was in.

use core::arch::naked_asm;
use core::sync::atomic::{AtomicU64, Ordering};

use super::expect::Expected;
use super::protocol::{self, STACK_BYTES, read};
use super::responses::Facts;
use super::state::EntryState;
use crate::check;

/// A `struct limine_mp_info`, by word: names, reserved, where to go, argument.
const GO: u64 = 16;
const ARGUMENT: u64 = 24;
/// Looks at what a processor writes, until it is given up.
const LOOKS_MAX: u64 = 1_000_000_000;

/// What a processor found, by its argument's address: rdi, rsp, cr0, cr3, cr4, flags, return address, 1.
type Found = [AtomicU64; 8];

/// Where the processors are sent.
#[unsafe(naked)]
unsafe extern "C" fn arrive() -> ! {
    naked_asm!(
        "mov rax, [rdi + 24]",
        "mov [rax], rdi",
        "mov [rax + 8], rsp",
        "mov rcx, cr0",
        "mov [rax + 16], rcx",
        "mov rcx, cr3",
        "mov [rax + 24], rcx",
        "mov rcx, cr4",
        "mov [rax + 32], rcx",
        "mov rcx, [rsp]",
        "mov [rax + 48], rcx",
        "pushfq",
        "pop [rax + 40]",
        "mov qword ptr [rax + 56], 1",
        "2: hlt",
        "jmp 2b",
    )
}

/// Sends them all, one after the other.
pub fn check(facts: &Facts, expected: &Expected, state: &EntryState) {
    static FOUND: Found = [const { AtomicU64::new(0) }; 8];
    let count = protocol::PROCESSORS.word(2);
    check!(count == expected.processors, "there are {count} processors");
    let first = protocol::PROCESSORS.word(1) >> 32;
    let mut firsts = 0;
    for index in 0..count {
        let info = read(protocol::PROCESSORS.word(3) + 8 * index);
        if read(info) >> 32 == first {
            firsts += 1;
            continue;
        }
        FOUND[7].store(0, Ordering::Relaxed);
        write(info + ARGUMENT, &raw const FOUND as u64);
        write(info + GO, arrive as *const () as u64);
        let has_come = (0..LOOKS_MAX).any(|_| FOUND[7].load(Ordering::Acquire) == 1);
        check!(has_come, "processor {index} does not come");
        let [rdi, rsp, cr0, cr3, cr4, flags, back, _] =
            FOUND.each_ref().map(|word| word.load(Ordering::Relaxed));
        check!(rdi == info, "processor {index} was given {rdi:#x}");
        check!((cr0, cr3, cr4) == (state.cr0, state.cr3, state.cr4), "processor {index} is in another state");
        check!(flags == 2 && back == 0, "processor {index} has flags {flags:#x} and returns to {back:#x}");
        check!(rsp % 16 == 8, "processor {index} has its stack at {rsp:#x}");
        let bottom = rsp + 8 - facts.hhdm - STACK_BYTES;
        facts.check_kind(bottom, STACK_BYTES, super::memory::Kind::BootloaderReclaimable, "its stack");
    }
    check!(firsts == 1, "the first processor is listed {firsts} times");
}

fn write(address: u64, value: u64) {
    // SAFETY: a field of a structure that the loader gave to be written.
    unsafe { AtomicU64::from_ptr(address as *mut u64).store(value, Ordering::Release) }
}
