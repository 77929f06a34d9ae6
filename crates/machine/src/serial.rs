//! The kernel's own words: a 16550 UART at the first PC port (National Semiconductor PC16550D).

use crate::cpu::{in8, out8};
use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering};

const PORT: u16 = 0x3f8;
const LINE_STATUS: u16 = PORT + 5;
const TRANSMITTER_EMPTY: u8 = 1 << 5;
/// Polls for room before the port is given up: a dead one must not stop the kernel.
const POLLS_MAX: u32 = 100_000;

static CHATTY: AtomicBool = AtomicBool::new(false);
static DEAD: AtomicBool = AtomicBool::new(false);

/// The log.
pub struct Serial;

impl fmt::Write for Serial {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        write(text.as_bytes());
        Ok(())
    }
}

/// Sets 115,200 baud, 8 data bits, no parity, and FIFOs; no interrupts.
pub fn start() {
    // Divisor latch on, divisor 1, latch off with 8n1, FIFOs on and cleared, DTR and RTS.
    for (register, value) in [(1, 0), (3, 0x80), (0, 1), (1, 0), (3, 0x03), (2, 0xc7), (4, 0x03)] {
        out8(PORT + register, value);
    }
}

/// From now on `log!` speaks.
pub fn be_chatty() {
    CHATTY.store(true, Ordering::Relaxed);
}

/// Whether `log=info` was asked for.
pub fn is_chatty() -> bool {
    CHATTY.load(Ordering::Relaxed)
}

/// Writes text, a carriage return before each line feed.
pub fn write(text: &[u8]) {
    for &byte in text {
        if byte == b'\n' {
            write_byte(b'\r');
        }
        write_byte(byte);
    }
}

fn write_byte(byte: u8) {
    // One that was given up is asked once for each byte, should it come back.
    let polls = if DEAD.load(Ordering::Relaxed) { 1 } else { POLLS_MAX };
    let has_room = (0..polls).any(|_| in8(LINE_STATUS) & TRANSMITTER_EMPTY != 0);
    if has_room {
        out8(PORT, byte);
    }
    DEAD.store(!has_room, Ordering::Relaxed);
}

/// One line that says what goes wrong.
#[macro_export]
macro_rules! report {
    ($($text:tt)*) => {{
        use core::fmt::Write as _;
        let _ = writeln!($crate::serial::Serial, $($text)*);
    }};
}

/// One line on the normal path, if it was asked for.
#[macro_export]
macro_rules! log {
    ($($text:tt)*) => {
        if $crate::serial::is_chatty() {
            $crate::report!($($text)*);
        }
    };
}
