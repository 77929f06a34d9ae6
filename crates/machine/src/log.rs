//! The kernel's log: a line on the serial port for each thing that it says, with the time in seconds, the CPU and the level.

use crate::cpu::time_stamp;
use crate::{percpu, serial};
use abi::boot::ClockParameters;
use core::fmt;
use core::sync::atomic::{AtomicU8, Ordering};
pub use kernel::Level;
use spin::Once;

/// The least that matters enough. What goes wrong is told unasked.
static LEVEL: AtomicU8 = AtomicU8::new(Level::Warn as u8);
static CLOCK: Once<ClockParameters> = Once::new();

/// From now on what matters less than `level` is not told.
pub fn set_level(level: Level) {
    LEVEL.store(level as u8, Ordering::Relaxed);
}

/// From now on lines have a time. Before, it is 0.
pub fn set_clock(clock: ClockParameters) {
    CLOCK.call_once(|| clock);
}

/// Whether something of this level is told.
pub fn wants(level: Level) -> bool {
    level as u8 <= LEVEL.load(Ordering::Relaxed)
}

/// Tells it, if it is wanted.
pub fn write(level: Level, text: fmt::Arguments<'_>) {
    if !wants(level) {
        return;
    }
    let us = CLOCK.get().map_or(0, |clock| clock.nanoseconds(time_stamp()) / 1000);
    // Before there are several CPUs there is none with a number.
    let cpu = if percpu::count() > 0 { percpu::this().number } else { 0 };
    let (seconds, us) = (us / 1_000_000, us % 1_000_000);
    serial::write_line(format_args!("kernel: {seconds}.{us:06} cpu{cpu} {level}: {text}"));
}

/// `log!(Info, "{} devices", count)`: one line in the kernel's log.
macro_rules! log {
    ($level:ident, $($text:tt)*) => {
        $crate::log::write($crate::log::Level::$level, format_args!($($text)*))
    };
}
pub(crate) use log;
