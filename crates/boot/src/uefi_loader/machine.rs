//! Ports, model-specific registers, interrupt controllers, IOMMUs.

use core::arch::asm;
use core::arch::x86_64::{__cpuid, __cpuid_count, _mm_pause};
use core::fmt::{self, Write};

use boot::acpi::{self, PhysicalMemory};
use boot::apic;
use boot::memory_map::Range;
use boot::paging::PageLevel;
use boot::protocol::BaseRevision;

use super::firmware::IdentityMapped;

/// A 16550 at the first serial port's address, as the firmware set it up.
pub struct SerialPort;

impl Write for SerialPort {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        const DATA: u16 = 0x3f8;
        const LINE_STATUS: u16 = 0x3fd;
        const TRANSMITTER_EMPTY: u8 = 1 << 5;
        const POLLS_MAX: u32 = 100_000; // tens of milliseconds: a port that is slower is not there
        for byte in text.bytes() {
            let ready = |_: &u32| read_port(LINE_STATUS) & TRANSMITTER_EMPTY != 0;
            (0..POLLS_MAX).find(ready).ok_or(fmt::Error)?;
            write_port(DATA, byte);
        }
        Ok(())
    }
}

/// Says what went wrong when there is no way back, and stops.
pub fn fatal(message: fmt::Arguments<'_>) -> ! {
    let _ = write!(SerialPort, "Selkis loader: cannot start: {message}\r\n");
    loop {
        // SAFETY: stops this processor until an interrupt, of which there are none that matter.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) };
    }
}

fn read_port(port: u16) -> u8 {
    let value;
    // SAFETY: callers name ports of the serial port and of the legacy interrupt controllers, whose reads have no
    // effect on memory.
    unsafe { asm!("in al, dx", in("dx") port, out("al") value, options(nomem, nostack, preserves_flags)) };
    value
}

fn write_port(port: u16, value: u8) {
    // SAFETY: as for reads; writes send a byte or mask interrupts.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nomem, nostack, preserves_flags)) };
}

/// Reads a model-specific register that the caller knows to exist.
fn read_msr(register: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: the callers below read registers that every 64-bit processor with the feature has.
    unsafe { asm!("rdmsr", in("ecx") register, out("eax") low, out("edx") high, options(nomem, nostack)) };
    u64::from(high) << 32 | u64::from(low)
}

fn write_msr(register: u32, value: u64) {
    // SAFETY: as for reads, with values that the register's definition allows; none of them changes how this code runs.
    unsafe {
        asm!("wrmsr", in("ecx") register, in("eax") value as u32, in("edx") (value >> 32) as u32, options(nostack));
    }
}

/// No interrupt is taken from here on.
pub fn disable_interrupts() {
    // SAFETY: boot services are gone, and with them everything that waits for interrupts.
    unsafe { asm!("cli", options(nomem, nostack)) };
}

/// The time-stamp counter, to tell how long things take.
pub fn time_stamp() -> u64 {
    // SAFETY: every 64-bit processor has it, and the firmware leaves it readable.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// The largest page (CPUID 8000_0001h, EDX bit 26).
pub fn largest_page() -> PageLevel {
    if extended_features() & 1 << 26 != 0 { PageLevel::Huge } else { PageLevel::Large }
}

/// Whether pages can be made not executable (CPUID 8000_0001h, EDX bit 20).
pub fn has_no_execute() -> bool {
    extended_features() & 1 << 20 != 0
}

fn extended_features() -> u32 {
    __cpuid(0x8000_0001).edx
}

/// Whether the firmware runs with 5-level paging (CR4.LA57).
pub fn uses_5_level_paging() -> bool {
    let cr4: u64;
    // SAFETY: reading CR4 has no effect.
    unsafe { asm!("mov {}, cr4", out(reg) cr4, options(nomem, nostack, preserves_flags)) };
    cr4 & 1 << 12 != 0
}

/// A word from RDSEED, or else from RDRAND; `None` if the processor has neither or they fail.
pub fn random_word() -> Option<u64> {
    const TRIES: u32 = 32; // Intel SDM volume 1, section 7.3.17: ten are enough for RDRAND
    let has_rdseed = __cpuid(0).eax >= 7 && __cpuid_count(7, 0).ebx & 1 << 18 != 0;
    let has_rdrand = __cpuid(1).ecx & 1 << 30 != 0;
    let rdseed = || {
        let (word, ok): (u64, u8);
        // SAFETY: the processor has the instruction; it writes a register and flags.
        unsafe { asm!("rdseed {}", "setc {}", out(reg) word, out(reg_byte) ok, options(nomem, nostack)) };
        (ok != 0).then_some(word)
    };
    let rdrand = || {
        let (word, ok): (u64, u8);
        // SAFETY: the processor has the instruction; it writes a register and flags.
        unsafe { asm!("rdrand {}", "setc {}", out(reg) word, out(reg_byte) ok, options(nomem, nostack)) };
        (ok != 0).then_some(word)
    };
    let seed = (0..TRIES).filter(|_| has_rdseed).find_map(|_| rdseed());
    seed.or_else(|| (0..TRIES).filter(|_| has_rdrand).find_map(|_| rdrand()))
}

/// The page attribute table of the protocol ("Caching"), where there is one.
pub fn set_page_attributes() {
    const IA32_PAT: u32 = 0x277;
    /// From entry 0: WB, WT, UC-, UC, WP, WC, and UC twice.
    const LAYOUT: u64 = 0x0000_0105_0007_0406;
    if __cpuid(1).edx & 1 << 16 != 0 {
        write_msr(IA32_PAT, LAYOUT);
    }
}

/// Brings interrupt controllers into the state that the revision asks for ("Machine State at Entry").
pub fn quiet_interrupts(revision: BaseRevision, madt: Option<Range>) {
    const PIC_MASTER_MASK: u16 = 0x21;
    const PIC_SLAVE_MASK: u16 = 0xa1;
    write_port(PIC_MASTER_MASK, 0xff);
    write_port(PIC_SLAVE_MASK, 0xff);
    let madt =
        madt.and_then(|range| IdentityMapped.read(range.base, range.length() as usize)).unwrap_or_default();
    for address in acpi::io_apics(madt) {
        mask_io_apic(address, revision);
    }
    if revision.has_strict_machine_state() {
        set_local_apic(madt);
    }
}

/// How interrupts are addressed to this processor (8 bits of it).
pub fn apic_id() -> u32 {
    __cpuid(1).ebx >> 24
}

/// Sends a command to another processor by the interrupt command register (Intel SDM volume 3, sections 11.6.1 and 11.12.9), in the mode
/// that the local APIC is in.
pub fn send_command(apic_id: u32, command: u32) {
    const IA32_APIC_BASE: u32 = 0x1b;
    const X2APIC: u64 = 1 << 10;
    const X2APIC_COMMAND: u32 = 0x830;
    const COMMAND: u64 = 0x300;
    const COMMAND_HIGH: u64 = 0x310;
    const PENDING: u32 = 1 << 12;
    const POLLS_MAX: u32 = 1_000_000;
    let state = read_msr(IA32_APIC_BASE);
    if state & X2APIC != 0 {
        return write_msr(X2APIC_COMMAND, u64::from(apic_id) << 32 | u64::from(command));
    }
    let base = state & 0x000f_ffff_ffff_f000;
    let _ = (0..POLLS_MAX).find(|_| read_register(base + COMMAND) & PENDING == 0);
    write_register(base + COMMAND_HIGH, apic_id << 24);
    write_register(base + COMMAND, command);
}

fn mask_io_apic(address: u64, revision: BaseRevision) {
    const VERSION: u32 = 1;
    const REDIRECTION: u32 = 0x10;
    let select = |register| write_register(address, register);
    let window = address + 0x10;
    select(VERSION);
    let last = read_register(window) >> 16 & 0xff;
    for entry in 0..=last {
        select(REDIRECTION + 2 * entry);
        let current = read_register(window);
        write_register(window, apic::redirection_entry(current, revision));
    }
}

fn set_local_apic(madt: &[u8]) {
    const IA32_APIC_BASE: u32 = 0x1b;
    const ENABLED: u64 = 1 << 11;
    const X2APIC: u64 = 1 << 10;
    const HAS_APIC: u32 = 1 << 9;
    const ID: u64 = 0x20;
    const VERSION: u64 = 0x30;
    const TASK_PRIORITY: u64 = 0x80;
    const SPURIOUS: u64 = 0xf0;
    if __cpuid(1).edx & HAS_APIC == 0 {
        return;
    }
    let mut state = read_msr(IA32_APIC_BASE);
    if state & X2APIC != 0 {
        // The only way out of x2APIC mode leads through "off" (Intel SDM volume 3, section 11.12.5).
        state &= !X2APIC;
        write_msr(IA32_APIC_BASE, state & !ENABLED);
    }
    write_msr(IA32_APIC_BASE, state | ENABLED);
    let base = state & 0x000f_ffff_ffff_f000;
    write_register(base + SPURIOUS, 0x1ff);
    write_register(base + TASK_PRIORITY, 0);
    let nmis = acpi::nmi_lints(madt, read_register(base + ID) >> 24);
    let last = read_register(base + VERSION) >> 16 & 0xff;
    // Vector table entries and from which "last entry" on they exist: timer, LINT0, LINT1, error, performance,
    // thermal, corrected machine check (Intel SDM volume 3, section 11.5.1).
    let vectors = [(0x320, 0), (0x350, 1), (0x360, 2), (0x370, 3), (0x340, 4), (0x330, 5), (0x2f0, 6)];
    for (offset, _) in vectors.into_iter().filter(|(_, least)| last >= *least) {
        let nmi = match offset {
            0x350 => nmis[0],
            0x360 => nmis[1],
            _ => None,
        };
        let current = read_register(base + offset);
        write_register(base + offset, apic::local_vector(current, nmi));
    }
}

/// Switches off DMA translation and interrupt remapping ("Base Revision 5").
pub fn disable_iommus(dmar: Option<Range>, ivrs: Option<Range>) {
    let table = |range: Option<Range>| {
        range.and_then(|range| IdentityMapped.read(range.base, range.length() as usize)).unwrap_or_default()
    };
    for unit in acpi::vtd_units(table(dmar)) {
        const TRANSLATION: u32 = 1 << 31;
        const INTERRUPT_REMAPPING: u32 = 1 << 25;
        disable_vtd(unit, TRANSLATION);
        disable_vtd(unit, INTERRUPT_REMAPPING);
    }
    for unit in acpi::amd_vi_units(table(ivrs)) {
        const CONTROL: u64 = 0x18;
        const ENABLE: u32 = 1;
        let control = read_register(unit + CONTROL);
        write_register(unit + CONTROL, control & !ENABLE);
    }
}

/// Clears one bit of an Intel IOMMU's state (VT-d 4.1, sections 11.4.4.1 and 11.4.4.2).
fn disable_vtd(unit: u64, bit: u32) {
    const COMMAND: u64 = 0x18;
    const STATUS: u64 = 0x1c;
    /// Bits of the status that are state; the others are commands and must be written as zero.
    const STATE: u32 = 0x96ff_ffff;
    const POLLS_MAX: u32 = 1_000_000;
    let status = read_register(unit + STATUS);
    if status & bit == 0 {
        return;
    }
    write_register(unit + COMMAND, status & STATE & !bit);
    for _ in 0..POLLS_MAX {
        if read_register(unit + STATUS) & bit == 0 {
            return;
        }
        _mm_pause();
    }
    fatal(format_args!("the IOMMU at {unit:#x} does not switch off"))
}

fn read_register(address: u64) -> u32 {
    // SAFETY: the address is a device register that a firmware table or the processor named, and the firmware's page
    // tables, which are still in force, map it to itself.
    unsafe { (address as *const u32).read_volatile() }
}

fn write_register(address: u64, value: u32) {
    // SAFETY: as for reads.
    unsafe { (address as *mut u32).write_volatile(value) };
}
