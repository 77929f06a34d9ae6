//! Time: the time-stamp counter, its rate measured or told, and the local APIC's timer for alarms.

use crate::apic::{LocalApic, Timer};
use crate::cpu::{cpuid, in8, out8, time_stamp};
use crate::dispatch;
use crate::log::log;
use crate::percpu;
use abi::boot::ClockParameters;

/// Nanoseconds since the kernel began, and the alarms.
pub struct Clock {
    /// For the domains as well.
    pub parameters: ClockParameters,
    /// Rate of the local APICs' timers, for [`Timer::OneShot`].
    timer_hz: u64,
}

/// Why there is no clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoReference;

/// Rates, in Hz.
#[derive(Clone, Copy, Debug)]
struct Rates {
    tsc: u64,
    timer: u64,
}

/// Rate of the 8254's counters, in Hz.
const PIT_HZ: u64 = 1_193_182;
const PIT_CHANNEL_0: u16 = 0x40;
const PIT_COMMAND: u16 = 0x43;
/// Channel 0, low byte then high byte, mode 2 (rate generator), binary.
const PIT_RATE_GENERATOR: u8 = 0x34;
const PIT_LATCH_0: u8 = 0x00;
/// Read-back of channel 0's status only; the mode bits of what comes back are those of the command above.
const PIT_READ_STATUS_0: u8 = 0xe2;
const PIT_STATUS_MODE: u8 = 0x3f;
/// How long one measurement is at least, in counts of the PIT: 2 ms.
const MEASURE_COUNTS: u64 = PIT_HZ / 500;
/// Two measurements agree if they differ by less than one part in this: else the host had put us aside between reading
/// the two counters, and it is measured again.
const AGREEMENT: u64 = 1000;
const MEASUREMENTS_MAX: usize = 16;
/// An alarm that is due at once still needs a count that is not 0, which means off.
const COUNT_MIN: u64 = 1;

impl Clock {
    /// Finds the rates out. Interrupts other than the timer's must be masked, and the timer's handled.
    pub fn start(apic: LocalApic, begin_tsc: u64) -> Result<Self, NoReference> {
        let timer_needed = apic.timer == Timer::OneShot;
        let rates = match told_tsc_hz() {
            Some(tsc) if !timer_needed => Rates { tsc, timer: 0 },
            Some(tsc) => Rates { tsc, timer: measure_timer(apic, tsc) },
            None => measure(apic).ok_or(NoReference)?,
        };
        apic.select_timer(apic.timer);
        if !is_invariant() {
            log!(Warn, "this CPU's counter may change its rate or stop: time will be wrong when it does");
        }
        let parameters = ClockParameters::new(rates.tsc, begin_tsc, 0);
        Ok(Self { parameters, timer_hz: rates.timer })
    }

    /// Nanoseconds since the kernel began.
    pub fn now_ns(&self) -> u64 {
        self.parameters.nanoseconds(time_stamp())
    }

    /// See [`kernel::Machine::set_alarm`].
    pub fn set_alarm(&self, deadline_ns: u64) {
        let cpu = percpu::this();
        // Setting it to the same again costs nothing.
        if cpu.alarm_ns.replace(deadline_ns) == deadline_ns {
            return;
        }
        let (apic, off) = (cpu.apic.get(), deadline_ns == u64::MAX);
        match apic.timer {
            Timer::TscDeadline if off => apic.set_deadline(0),
            Timer::TscDeadline => apic.set_deadline(self.parameters.ticks(deadline_ns)),
            Timer::OneShot if off => apic.set_count(0),
            Timer::OneShot => {
                let ahead_ns = deadline_ns.saturating_sub(self.now_ns());
                let count = u128::from(ahead_ns) * u128::from(self.timer_hz) / 1_000_000_000;
                // Too far for one shot: it comes early, and is set again.
                let count = count.clamp(u128::from(COUNT_MIN), u128::from(u32::MAX));
                apic.set_count(count as u32);
            }
        }
    }
}

/// Whether the counter keeps its rate (CPUID 8000_0007:EDX[8]). Under a hypervisor it is the hypervisor's business that it does.
fn is_invariant() -> bool {
    const INVARIANT: u32 = 1 << 8;
    cpuid(0x8000_0007, 0).edx & INVARIANT != 0 || has_hypervisor()
}

/// The counter's rate, if something trustworthy tells it.
fn told_tsc_hz() -> Option<u64> {
    // Leaf 0x15: the crystal's rate and the ratio of the counter's to it (SDM volume 2, CPUID); all three or nothing.
    let crystal = cpuid(0x15, 0);
    if crystal.eax != 0 && crystal.ebx != 0 && crystal.ecx != 0 {
        return Some(u64::from(crystal.ecx) * u64::from(crystal.ebx) / u64::from(crystal.eax));
    }
    if !has_hypervisor() {
        return None;
    }
    // Its timing information: the counter's rate in kHz.
    let khz = cpuid(0x4000_0010, 0).eax;
    (khz != 0).then_some(u64::from(khz) * 1000)
}

fn has_hypervisor() -> bool {
    cpuid(1, 0).ecx >> 31 != 0
}

/// The rate of the APIC's timer, against a known counter.
fn measure_timer(apic: LocalApic, tsc_hz: u64) -> u64 {
    apic.select_timer(Timer::OneShot);
    apic.set_count(u32::MAX);
    let (begin, count) = (time_stamp(), apic.count());
    let ticks = tsc_hz / 2000;
    while time_stamp() - begin < ticks {
        core::hint::spin_loop();
    }
    let (passed, counted) = (time_stamp() - begin, count - apic.count());
    apic.set_count(0);
    (u128::from(counted) * u128::from(tsc_hz) / u128::from(passed)) as u64
}

/// Both rates, against the PIT. Asleep between readings, so that an emulated machine executes little.
fn measure(apic: LocalApic) -> Option<Rates> {
    apic.select_timer(Timer::OneShot);
    out8(PIT_COMMAND, PIT_RATE_GENERATOR);
    out8(PIT_CHANNEL_0, 0);
    out8(PIT_CHANNEL_0, 0); // 65,536 counts: 55 ms around
    out8(PIT_COMMAND, PIT_READ_STATUS_0);
    if in8(PIT_CHANNEL_0) & PIT_STATUS_MODE != PIT_RATE_GENERATOR & PIT_STATUS_MODE {
        return None;
    }
    let mut last = measure_once(apic);
    for _ in 0..MEASUREMENTS_MAX {
        let rates = measure_once(apic);
        if rates.tsc.abs_diff(last.tsc) < rates.tsc / AGREEMENT {
            return Some(Rates { tsc: (rates.tsc + last.tsc) / 2, timer: rates.timer.midpoint(last.timer) });
        }
        last = rates;
    }
    None
}

fn measure_once(apic: LocalApic) -> Rates {
    /// Short at any rate that a timer has: 0.1 ms at 1 GHz, 10 ms at 10 MHz.
    const FIRST_SLEEP: u64 = 100_000;
    let (mut pit, mut timer, mut sleep) = (0, 0, FIRST_SLEEP);
    let mut before = pit_count();
    let begin = time_stamp();
    loop {
        apic.set_count(sleep as u32);
        dispatch::sleep();
        apic.acknowledge();
        let now = pit_count();
        let end = time_stamp();
        // It counts down, around at 65,536.
        pit += u64::from(before.wrapping_sub(now));
        timer += sleep;
        before = now;
        if pit >= MEASURE_COUNTS {
            let rate = |counted: u64| counted * PIT_HZ / pit;
            return Rates { tsc: rate(end - begin), timer: rate(timer) };
        }
        let left = (MEASURE_COUNTS - pit) * timer / pit.max(1) + 1;
        sleep = left.clamp(FIRST_SLEEP, u64::from(u32::MAX));
    }
}

fn pit_count() -> u16 {
    out8(PIT_COMMAND, PIT_LATCH_0);
    u16::from_le_bytes([in8(PIT_CHANNEL_0), in8(PIT_CHANNEL_0)])
}
