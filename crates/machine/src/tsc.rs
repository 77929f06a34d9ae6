//! Comparing the time-stamp counters of two CPUs, and setting the second's right ([`crate::counters`]).
//!
//! The first CPU asks and the second, which does nothing else meanwhile, answers with its counter.

use crate::counters::{Round, ahead};
use crate::cpu::{cpuid, read_msr, time_stamp, write_msr};
use core::array;
use core::hint::spin_loop;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use core::sync::atomic::{AtomicI64, AtomicU32, AtomicU64};

const ROUNDS: usize = 16;

/// What the first CPU wants of the second: in [`WANTED`], which goes back to `NOTHING` when it is done.
const NOTHING: u32 = 0;
const READ: u32 = 1;
const ADJUST: u32 = 2;
const GO_ON: u32 = 3;
const LEAVE: u32 = 4;

static WANTED: AtomicU32 = AtomicU32::new(NOTHING);
static COUNTER: AtomicU64 = AtomicU64::new(0);
static AHEAD: AtomicI64 = AtomicI64::new(0);

/// How the second CPU's counter was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The same as the first's.
    Same,
    /// It was ahead by so much, and was set.
    Corrected(i64),
    /// It is ahead by so much, and cannot be set: the CPU is not used.
    Refused(i64),
}

/// On the first CPU: compares, and sends the other on or away.
pub fn compare() -> Verdict {
    let verdict = match measure() {
        None => Verdict::Same,
        Some(first) => {
            AHEAD.store(first, Relaxed);
            ask(ADJUST);
            measure().map_or(Verdict::Corrected(first), Verdict::Refused)
        }
    };
    WANTED.store(if matches!(verdict, Verdict::Refused(_)) { LEAVE } else { GO_ON }, Release);
    verdict
}

fn measure() -> Option<i64> {
    let rounds: [Round; ROUNDS] = array::from_fn(|_| {
        let asked = time_stamp();
        ask(READ);
        Round { asked, answer: COUNTER.load(Relaxed), heard: time_stamp() }
    });
    ahead(&rounds)
}

fn ask(what: u32) {
    WANTED.store(what, Release);
    while WANTED.load(Acquire) != NOTHING {
        spin_loop();
    }
}

/// On the second CPU: answers until it knows whether it is used.
pub fn answer() -> bool {
    loop {
        match WANTED.load(Acquire) {
            READ => COUNTER.store(time_stamp(), Relaxed),
            ADJUST => adjust(AHEAD.load(Relaxed)),
            last @ (GO_ON | LEAVE) => {
                WANTED.store(NOTHING, Release);
                return last == GO_ON;
            }
            _ => {
                spin_loop();
                continue;
            }
        }
        WANTED.store(NOTHING, Release);
    }
}

/// SDM volume 3, section 18.17.3.
fn adjust(ahead: i64) {
    const COUNTER_REGISTER: u32 = 0x10;
    const ADJUST_REGISTER: u32 = 0x3b;
    let has_adjust = cpuid(7, 0).ebx & 1 << 1 != 0;
    // SAFETY: every CPU has the counter, and CPUID lists the other; nothing depends on this CPU's time yet.
    unsafe {
        if has_adjust {
            write_msr(ADJUST_REGISTER, read_msr(ADJUST_REGISTER).wrapping_sub(ahead as u64));
        } else {
            write_msr(COUNTER_REGISTER, time_stamp().wrapping_sub(ahead as u64));
        }
    }
}
