//! The kernel's own words: a 16550 UART at the first PC port (National Semiconductor PC16550D).

use crate::cpu::{in8, out8};
use crate::tlb::Relax;
use core::fmt::{self, Write as _};
use core::sync::atomic::{AtomicBool, Ordering};
use spin::mutex::TicketMutex;

const PORT: u16 = 0x3f8;
const LINE_STATUS: u16 = PORT + 5;
const TRANSMITTER_EMPTY: u8 = 1 << 5;
/// Polls for room before the port is given up: a dead one must not stop the kernel.
const POLLS_MAX: u32 = 100_000;

static PORT_LOCK: TicketMutex<Port, Relax> = TicketMutex::new(Port { dead: false });
/// The other CPUs have stopped, one of them perhaps while it wrote.
static SEIZED: AtomicBool = AtomicBool::new(false);

/// The log.
struct Port {
    dead: bool,
}

impl fmt::Write for Port {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.write(text.as_bytes());
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

/// This CPU is the only one that still runs: it waits for no other's text.
pub fn seize() {
    SEIZED.store(true, Ordering::Relaxed);
}

/// Writes text, a carriage return before each line feed.
pub fn write(text: &[u8]) {
    with_port(|port| port.write(text));
}

/// Writes a line.
pub fn write_line(text: fmt::Arguments<'_>) {
    // Writing to the port does not fail.
    with_port(|port| _ = writeln!(port, "{text}"));
}

fn with_port(write: impl FnOnce(&mut Port)) {
    if SEIZED.load(Ordering::Relaxed) {
        write(&mut Port { dead: false });
    } else {
        write(&mut PORT_LOCK.lock());
    }
}

impl Port {
    fn write(&mut self, text: &[u8]) {
        for &byte in text {
            if byte == b'\n' {
                self.write_byte(b'\r');
            }
            self.write_byte(byte);
        }
    }

    fn write_byte(&mut self, byte: u8) {
        // One that was given up is asked once for each byte, should it come back.
        let polls = if self.dead { 1 } else { POLLS_MAX };
        let has_room = (0..polls).any(|_| in8(LINE_STATUS) & TRANSMITTER_EMPTY != 0);
        if has_room {
            out8(PORT, byte);
        }
        self.dead = !has_room;
    }
}

/// One line of the kernel's own end.
#[macro_export]
macro_rules! report {
    ($($text:tt)*) => {
        $crate::serial::write_line(format_args!($($text)*))
    };
}
