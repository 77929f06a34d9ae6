//! The serial port, the end of the test, interrupt controllers.

use core::arch::asm;
use core::fmt::{self, Write};

use super::responses::Facts;
use super::walk;
use crate::check;

struct SerialPort;

impl Write for SerialPort {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            // SAFETY: QEMU's serial port takes a byte at any time.
            unsafe { asm!("out dx, al", in("dx") 0x3f8u16, in("al") byte, options(nomem, nostack)) };
        }
        Ok(())
    }
}

/// QEMU ends with exit code 67.
pub fn pass(entered: u64) -> ! {
    let _ = writeln!(SerialPort, "limine-check: [{entered}] entered; all is as it should be");
    exit(33)
}

/// QEMU ends with exit code 3.
pub fn fail(message: fmt::Arguments<'_>) -> ! {
    let _ = writeln!(SerialPort, "limine-check: {message}");
    exit(1)
}

/// `isa-debug-exit` makes 2 n + 1 of it.
fn exit(code: u32) -> ! {
    loop {
        // SAFETY: ends the machine.
        unsafe { asm!("out dx, eax", "hlt", in("dx") 0xf4u16, in("eax") code, options(nomem, nostack)) };
    }
}

/// A page of the image whose mapping is changed to see device registers.
#[repr(C, align(4096))]
struct WindowPage([u8; 4096]);

static mut WINDOW: WindowPage = WindowPage([0; 4096]);

/// Masks of I/O APIC and, where the revision promises it, the state of the local APIC.
pub fn check_interrupt_controllers(facts: &Facts) {
    const IO_APIC: u64 = 0xfec0_0000; // QEMU's q35
    const LOCAL_APIC: u64 = 0xfee0_0000;
    let io_apic = look_at(facts, IO_APIC);
    write(io_apic, 1);
    let last = read(io_apic + 0x10) >> 16 & 0xff;
    for entry in 0..=last {
        write(io_apic, 0x10 + 2 * entry);
        let low = read(io_apic + 0x10);
        let fixed = matches!(low >> 8 & 7, 0 | 1);
        check!(!fixed || low & 1 << 16 != 0, "I/O APIC entry {entry} is {low:#x}");
    }
    if facts.revision >= 5 {
        let apic = look_at(facts, LOCAL_APIC);
        check!(read(apic + 0xf0) == 0x1ff, "the spurious vector is {:#x}", read(apic + 0xf0));
        check!(read(apic + 0x80) == 0, "the task priority is {:#x}", read(apic + 0x80));
        for vector in [0x320, 0x350, 0x360, 0x370] {
            let entry = read(apic + vector);
            check!(entry & 1 << 16 != 0, "local vector {vector:#x} is {entry:#x}");
        }
        // OVMF's MADT puts an NMI on LINT1 of all processors.
        check!(read(apic + 0x360) >> 8 & 7 == 4, "LINT1 is {:#x}", read(apic + 0x360));
    }
}

/// Maps device registers to the window.
fn look_at(facts: &Facts, physical: u64) -> u64 {
    const PRESENT_WRITE_UNCACHED: u64 = 0b1_1011;
    let window = &raw const WINDOW as u64;
    let cr3: u64;
    // SAFETY: reading CR3 has no effect.
    unsafe { asm!("mov {}, cr3", out(reg) cr3, options(nomem, nostack)) };
    let entry = walk::small_page_entry(cr3, facts.hhdm, window);
    check!(entry != 0, "the image is not mapped in small pages");
    // SAFETY: the entry of a page that nothing else uses, in a page table that belongs to this kernel now.
    unsafe {
        (entry as *mut u64).write_volatile(physical | PRESENT_WRITE_UNCACHED);
        asm!("invlpg [{}]", in(reg) window, options(nostack));
    }
    window
}

fn read(address: u64) -> u32 {
    // SAFETY: device registers, mapped by `look_at`.
    unsafe { (address as *const u32).read_volatile() }
}

fn write(address: u64, value: u32) {
    // SAFETY: as for reads.
    unsafe { (address as *mut u32).write_volatile(value) };
}
