//! Time on the bare machine: the kernel's clock, and once the real-time clock for the date.

use crate::gate;
use crate::wire::device;
use abi::boot::DeviceKind;
use abi::{BootInfo, Request};
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use runtime::System;
use spin::Once;

/// What the clocks can tell apart, in nanoseconds.
pub const RESOLUTION_NS: u64 = 1;

const NS_PER_S: u64 = 1_000_000_000;

/// The date at 0 on the monotonic clock, in nanoseconds since 1970; not read yet: `u64::MAX`.
static EPOCH_NS: AtomicU64 = AtomicU64::new(u64::MAX);
static CLOCK_DEVICE: Once<abi::Handle> = Once::new();

/// Takes note of how to read the clocks. Who starts a domain tells it the date at 0 on the kernel's clock.
pub fn start(boot: &BootInfo, epoch_ns: Option<u64>) {
    if let Some(epoch_ns) = epoch_ns {
        EPOCH_NS.store(epoch_ns, Relaxed);
    }
    let records = boot.devices.iter().take(boot.device_count as usize);
    if let Some(record) = records.into_iter().find(|record| record.kind == DeviceKind::RealTimeClock) {
        CLOCK_DEVICE.call_once(|| record.handle);
    }
}

/// Nanoseconds since the machine started, on the kernel's clock.
pub fn monotonic_ns() -> u64 {
    System::get().map_or(0, System::now_ns)
}

/// Nanoseconds since 1970. The real-time clock is read when somebody asks for the first time; a machine without
/// one lives in 1970.
pub fn wall_ns() -> u64 {
    epoch_ns().saturating_add(monotonic_ns())
}

/// The date at 0 on the kernel's clock, in nanoseconds since 1970.
pub fn epoch_ns() -> u64 {
    if EPOCH_NS.load(Relaxed) == u64::MAX {
        let date_ns = read_date().unwrap_or(0).saturating_mul(NS_PER_S);
        EPOCH_NS.store(date_ns.saturating_sub(monotonic_ns()), Relaxed);
    }
    EPOCH_NS.load(Relaxed)
}

/// The real-time clock's date, in seconds since 1970, taken as UTC.
fn read_date() -> Option<u64> {
    let device = *CLOCK_DEVICE.get()?;
    System::get()?.kernel().call(Request::OpenPorts { device }).ok()?;
    // While it is being updated the registers do not fit together: read until two readings agree (MC146818A, "update cycle").
    let mut last = None;
    for _ in 0..100 {
        let reading = Reading::take();
        if reading.is_some() && reading == last {
            return reading.and_then(Reading::seconds);
        }
        last = reading;
    }
    gate::print("selkis: the real-time clock does not settle\n");
    None
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Reading {
    second: u8,
    minute: u8,
    hour: u8,
    day: u8,
    month: u8,
    year: u8,
    status_b: u8,
}

/// Status B: 24-hour mode, binary mode (MC146818A, "register B").
const STATUS_B_24_HOURS: u8 = 1 << 1;
const STATUS_B_BINARY: u8 = 1 << 2;
/// Status A: an update is in progress.
const STATUS_A_UPDATING: u8 = 1 << 7;
/// In 12-hour mode: afternoon.
const HOUR_PM: u8 = 1 << 7;

impl Reading {
    fn take() -> Option<Self> {
        if device::read_cmos(0x0a) & STATUS_A_UPDATING != 0 {
            return None;
        }
        Some(Self {
            second: device::read_cmos(0),
            minute: device::read_cmos(2),
            hour: device::read_cmos(4),
            day: device::read_cmos(7),
            month: device::read_cmos(8),
            year: device::read_cmos(9),
            status_b: device::read_cmos(0x0b),
        })
    }

    fn seconds(self) -> Option<u64> {
        let number = |value: u8| {
            if self.status_b & STATUS_B_BINARY != 0 { value } else { (value >> 4) * 10 + (value & 0xf) }
        };
        let mut hour = number(self.hour & !HOUR_PM);
        if self.status_b & STATUS_B_24_HOURS == 0 {
            hour = hour % 12 + if self.hour & HOUR_PM != 0 { 12 } else { 0 };
        }
        let (month, day) = (u64::from(number(self.month)), u64::from(number(self.day)));
        // Two digits: this system is younger than the century.
        let year = 2000 + u64::from(number(self.year));
        if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
            return None;
        }
        let of_day =
            u64::from(hour) * 3600 + u64::from(number(self.minute)) * 60 + u64::from(number(self.second));
        Some(days_since_1970(year, month, day) * 86_400 + of_day)
    }
}

/// Of the Gregorian calendar, from 1970. Years are counted from March, so that the leap day is the last.
fn days_since_1970(year: u64, month: u64, day: u64) -> u64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day - 1;
    // The same for 1970-01-01.
    days - 719_468
}
