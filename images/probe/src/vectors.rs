//! The registers of x87, SSE and AVX: each domain finds its own, and a new one those after a reset.
//!
//! This program is compiled to use none of them, so what a domain has there is what the kernel and the code here put there.

use crate::domains::{self, MILLISECOND, accounts, balance, parameters, spawn};
use crate::probe::{Probe, check, fail};
use crate::random::Random;
use crate::roles::Role;
use abi::{DomainState, Request};
use core::arch::asm;
use core::arch::x86_64::__cpuid;
use core::ops::Range;

/// How many domains begin beside the others, and how often each of these has to find its own registers at least.
const FRESH: u64 = 60;
const ROUNDS_MIN: u64 = 30;
const PATIENCE_NS: u64 = 60_000 * MILLISECOND;

/// x87, SSE and AVX: bits of XCR0, and of what is saved and loaded here.
const PARTS: u64 = 0b111;
/// Where they lie in what XSAVE writes (Intel SDM volume 1, sections 10.5.1, 13.4 and 13.5.6).
const CONTROL: usize = 0;
const TAGS: usize = 4;
const MXCSR: usize = 24;
const FLOATS: Range<usize> = 32..160;
const XMM: Range<usize> = 160..416;
const PRESENT: usize = 512;
const YMM: Range<usize> = 576..832;
/// Of the 16 bytes that each register of x87 has there.
const FLOAT_BYTES: usize = 10;

/// What XSAVE writes.
#[repr(C, align(64))]
struct Area([u8; YMM.end]);

impl Area {
    /// As after a reset: all zeros, but for the control words.
    fn fresh() -> Self {
        let mut area = Self([0; YMM.end]);
        area.0[CONTROL..CONTROL + 2].copy_from_slice(&0x37fu16.to_le_bytes());
        area.0[MXCSR..MXCSR + 4].copy_from_slice(&0x1f80u32.to_le_bytes());
        area
    }

    /// Full of what follows from a seed.
    fn of(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let mut area = Self::fresh();
        // Any rounding and precision; nothing is unmasked.
        area.0[CONTROL + 1] = (random.next() as u8) & 0xf | 3;
        area.0[MXCSR] |= (random.next() as u8) & 0x3f;
        area.0[MXCSR + 1] |= (random.next() as u8) & 0x60;
        area.0[TAGS] = 0xff;
        area.0[PRESENT] = PARTS as u8;
        for bytes in [FLOATS, XMM, YMM].into_iter().flatten() {
            area.0[bytes] = random.next() as u8;
        }
        area
    }

    /// Loads the registers from it.
    fn load(&self) {
        // SAFETY: it is aligned, and either from XSAVE or with a sound header and control words; nobody else uses these registers.
        unsafe {
            asm!("xrstor64 [{}]", in(reg) self, in("eax") PARTS as u32, in("edx") 0, options(nostack, readonly));
        }
    }

    /// The registers.
    fn now() -> Self {
        let mut area = Self([0; YMM.end]);
        // SAFETY: it is aligned, and as long as what is written for these parts.
        unsafe {
            asm!("xsave64 [{}]", in(reg) &mut area, in("eax") PARTS as u32, in("edx") 0, options(nostack));
        }
        area
    }

    /// Fails unless both are the same registers.
    #[track_caller]
    fn must_be(&self, other: &Self) {
        let is_register = |at: usize| {
            let of_float = FLOATS.contains(&at) && at % 16 < FLOAT_BYTES;
            at < 6 || (MXCSR..MXCSR + 4).contains(&at) || of_float || XMM.contains(&at) || YMM.contains(&at)
        };
        if let Some(at) = (0..YMM.end).find(|&at| is_register(at) && self.0[at] != other.0[at]) {
            fail(format_args!("byte {at} is {:#x} and not {:#x}", self.0[at], other.0[at]));
        }
    }
}

/// Two domains fill the registers and look for them again, while others begin and look whether there is anything; wherever they run.
pub fn run(probe: &Probe) {
    domains::prepare(probe);
    let before = accounts(probe);
    check(__cpuid(1).ecx >> 27 & 3 == 3, "the registers of AVX can be used");
    for cpus in [1, 0] {
        let with = abi::DomainParameters { cpus, ..parameters() };
        let filling = [(0, 0x1234), (1, 0x9876_5432)]
            .map(|(place, seed)| spawn(probe, place, Role::Fills, seed, &with));
        for number in 0..FRESH {
            let child = spawn(probe, 2, Role::Fresh, number, &with);
            let end = domains::ended(probe, &child);
            check(end.state == DomainState::Ended as u64 && end.status == 42, "nothing was in its registers");
            domains::end(probe, child);
        }
        let deadline_ns = probe.now() + PATIENCE_NS;
        while filling.iter().any(|child| child.word() < ROUNDS_MIN) {
            check(
                filling.iter().all(|child| domains::is_alive(probe, child)),
                "each finds its own registers",
            );
            check(probe.now() < deadline_ns, "they go on");
            domains::pass(probe, MILLISECOND);
        }
        check(filling.iter().all(|child| domains::is_alive(probe, child)), "each found its own registers");
        filling.into_iter().for_each(|child| domains::end(probe, child));
    }
    balance(probe, before);
}

/// Looks whether the registers are as after a reset, and leaves something there.
pub fn fresh(number: u64) {
    let area = Area::now();
    area.must_be(&Area::fresh());
    check(area.0[6..MXCSR].iter().all(|&byte| byte == 0), "no pointers, either");
    Area::of(number).load();
}

/// The same, and then looks for it again after it has slept, and after others may have run: once.
pub fn refill(probe: &Probe, seed: u64, sleeps: bool) {
    let own = Area::of(seed);
    own.load();
    let until = probe.now() + if sleeps { MILLISECOND / 10 } else { 5 * MILLISECOND };
    while probe.now() < until {
        if sleeps {
            probe.must(Request::Wait { vcpu: probe.info.vcpu, deadline_ns: until });
        }
    }
    Area::now().must_be(&own);
}
