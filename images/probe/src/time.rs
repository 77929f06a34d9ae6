//! The clock, the timer, waiting.

use crate::probe::{Probe, check};
use crate::upcalls::{self, EVENTS, TICKS};
use abi::Request;
use core::arch::asm;
use core::sync::atomic::Ordering::Relaxed;

const MILLISECOND: u64 = 1_000_000;

/// Everything about time.
pub fn run(probe: &Probe) {
    clock(probe);
    waits(probe);
    ticks_while_spinning(probe);
    masked_ticks(probe);
    upcalls::set_masked(0);
    check(EVENTS.load(Relaxed) == 0, "nothing raised an event");
}

fn timer(probe: &Probe, deadline_ns: u64) {
    probe.must(Request::SetTimer { vcpu: probe.info.vcpu, deadline_ns });
}

fn wait(probe: &Probe, deadline_ns: u64) -> u64 {
    probe.must(Request::Wait { vcpu: probe.info.vcpu, deadline_ns })
}

fn clock(probe: &Probe) {
    let clock = probe.info.clock;
    // SAFETY: reads the counter.
    let tsc = || unsafe { core::arch::x86_64::_rdtsc() };
    let mut last = probe.now();
    for _ in 0..1000 {
        let (before, now, after) = (clock.nanoseconds(tsc()), probe.now(), clock.nanoseconds(tsc()));
        check(now >= last, "the clock never goes back");
        check(before <= now && now <= after, "the counter tells the kernel's time");
        last = now;
    }
    check(clock.multiplier != 0, "there is a counter");
    let ran = || probe.must(Request::CpuTime { vcpu: probe.info.vcpu });
    let (begin, before) = (probe.now(), ran());
    while ran() < before + MILLISECOND {}
    check(probe.now() - begin >= MILLISECOND, "nobody runs for longer than it takes");
    let before = ran();
    wait(probe, probe.now() + 20 * MILLISECOND);
    check(ran() - before < 20 * MILLISECOND, "who sleeps does not run");
}

fn waits(probe: &Probe) {
    let begin = probe.now();
    check(wait(probe, begin + 20 * MILLISECOND) == 0, "a wait without events ends with none");
    let passed = probe.now() - begin;
    check(passed >= 20 * MILLISECOND, "a wait is not shorter than asked");
    check(wait(probe, 0) == 0 && wait(probe, begin) == 0, "a wait for the past is over");
    // A tick ends a wait; its upcall comes first.
    let ticks = TICKS.load(Relaxed);
    timer(probe, probe.now() + 5 * MILLISECOND);
    check(wait(probe, Request::NEVER) == 0, "a tick ends a wait");
    check(TICKS.load(Relaxed) == ticks + 1, "and its upcall comes first");
    // Masked, it ends the wait too, and stays due.
    upcalls::set_masked(1);
    timer(probe, probe.now() + 5 * MILLISECOND);
    check(wait(probe, Request::NEVER) == 0, "a masked tick ends a wait");
    check(TICKS.load(Relaxed) == ticks + 1, "and is not told");
    let begin = probe.now();
    check(wait(probe, begin + 5 * MILLISECOND) == 0, "a tick that was due ends no wait");
    check(probe.now() - begin >= 5 * MILLISECOND, "so the wait lasts");
    upcalls::set_masked(0);
    probe.now();
    check(TICKS.load(Relaxed) == ticks + 2, "it comes with the next request");
    // Disarmed: nothing comes.
    timer(probe, probe.now() + 5 * MILLISECOND);
    timer(probe, Request::NEVER);
    wait(probe, probe.now() + 10 * MILLISECOND);
    check(TICKS.load(Relaxed) == ticks + 2, "a timer that was turned off is silent");
    timer(probe, 1);
    check(TICKS.load(Relaxed) == ticks + 3, "a deadline that has passed ticks at once");
}

/// Loops in assembly until a tick changes the counter, with every register full; checks that they are as before.
fn ticks_while_spinning(probe: &Probe) {
    for round in 0..20 {
        let (before, wrong): (u64, u64);
        before = TICKS.load(Relaxed);
        timer(probe, probe.now() + MILLISECOND + round * 1000);
        // SAFETY: only registers that are declared change; the memory read is the counter's.
        unsafe {
            asm!(
                "push rbp",
                "push rbx",
                "mov rbp, 0x1111111111111111",
                "mov rbx, 0x2222222222222222",
                "mov rcx, 0x3333333333333333",
                "mov rdx, 0x4444444444444444",
                "mov r8, 0x5555555555555555",
                "mov r11, 0x6666666666666666",
                "mov r15, 0x7777777777777777",
                "movq xmm0, rbp",
                "movq xmm15, r15",
                "std",
                "2: cmp [rsi], rdi",
                "je 2b",
                "pushfq",
                "cld",
                "pop rax",
                "mov r9, 0x1111111111111111",
                "xor r9, rbp",
                "mov r10, 0x2222222222222222",
                "xor r10, rbx",
                "or r9, r10",
                "mov r10, 0x3333333333333333",
                "xor r10, rcx",
                "or r9, r10",
                "mov r10, 0x4444444444444444",
                "xor r10, rdx",
                "or r9, r10",
                "mov r10, 0x5555555555555555",
                "xor r10, r8",
                "or r9, r10",
                "mov r10, 0x6666666666666666",
                "xor r10, r11",
                "or r9, r10",
                "mov r10, 0x7777777777777777",
                "xor r10, r15",
                "or r9, r10",
                "movq r10, xmm0",
                "xor r10, rbp",
                "or r9, r10",
                "movq r10, xmm15",
                "xor r10, r15",
                "or r9, r10",
                "and eax, 0x400",
                "xor eax, 0x400",
                "or r9, rax",
                "pop rbx",
                "pop rbp",
                in("rdi") before,
                in("rsi") TICKS.as_ptr(),
                out("rax") _, out("rcx") _, out("rdx") _, out("r8") _, out("r9") wrong, out("r10") _, out("r11") _,
                out("r15") _,
            );
        }
        check(wrong == 0, "a tick keeps the registers");
        check(TICKS.load(Relaxed) == before + 1, "one deadline, one tick");
    }
}

fn masked_ticks(probe: &Probe) {
    upcalls::set_masked(1);
    let before = TICKS.load(Relaxed);
    let begin = probe.now();
    timer(probe, begin + MILLISECOND);
    while probe.now() < begin + 5 * MILLISECOND {}
    check(TICKS.load(Relaxed) == before, "a masked tick stays pending");
    upcalls::set_masked(0);
    // On a busy host the interrupt itself may be late.
    let deadline = probe.now() + 5000 * MILLISECOND;
    while TICKS.load(Relaxed) == before {
        check(probe.now() < deadline, "and comes");
    }
    wait(probe, probe.now() + 5 * MILLISECOND);
    check(TICKS.load(Relaxed) == before + 1, "once");
}
