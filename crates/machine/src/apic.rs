//! Interrupt controllers: the local APIC (Intel SDM volume 3, chapter 11), IOAPICs (Intel 82093AA), and the old PICs,
//! which are masked.

use crate::cpu::{cpuid, out8, read_msr, write_msr};
use crate::registers::Registers;
use crate::tlb::Relax;
use core::arch::asm;
use spin::mutex::TicketMutex;

/// Vector of the timer.
pub const TIMER_VECTOR: u8 = 0x20;
/// The first vector for devices, and one past the last.
pub const DEVICE_VECTORS: core::ops::Range<u8> = 0x30..0xf0;
/// Vector by which a CPU is made to enter the kernel.
pub const KICK_VECTOR: u8 = 0xf0;
/// Vector by which a CPU is asked to look at its mailbox ([`crate::tlb`]). Above all others, since others wait for it.
pub const SHOOTDOWN_VECTOR: u8 = 0xf1;
/// Vector of interrupts that went away before they were taken. Not acknowledged.
pub const SPURIOUS_VECTOR: u8 = 0xff;
/// Where the IOAPIC is if nothing says otherwise.
pub const IO_DEFAULT: u64 = 0xfec0_0000;

const APIC_BASE: u32 = 0x1b;
const APIC_BASE_X2: u64 = 1 << 10;
const APIC_BASE_ENABLED: u64 = 1 << 11;
const X2_REGISTERS: u32 = 0x800;
const TSC_DEADLINE: u32 = 0x6e0;

// Registers of the local APIC, by offset (SDM table 11-1).
const ID: usize = 0x20;
const TASK_PRIORITY: usize = 0x80;
const END_OF_INTERRUPT: usize = 0xb0;
const SPURIOUS: usize = 0xf0;
const SPURIOUS_ENABLE: u32 = 1 << 8;
const COMMAND: usize = 0x300;
const COMMAND_HIGH: usize = 0x310;
const COMMAND_PENDING: u32 = 1 << 12;
const COMMAND_ASSERT: u32 = 1 << 14;
const COMMAND_NMI: u32 = 4 << 8;
const COMMAND_INIT: u32 = 5 << 8;
const COMMAND_START: u32 = 6 << 8;
/// An interrupt that the bus does not take in this many polls is given up.
const COMMAND_POLLS_MAX: u32 = 1_000_000;
const LVT_TIMER: usize = 0x320;
const LVT_LINT0: usize = 0x350;
const LVT_LINT1: usize = 0x360;
const LVT_ERROR: usize = 0x370;
const LVT_MASKED: u32 = 1 << 16;
const LVT_TSC_DEADLINE: u32 = 2 << 17;
const INITIAL_COUNT: usize = 0x380;
const CURRENT_COUNT: usize = 0x390;
const DIVIDE: usize = 0x3e0;
const DIVIDE_BY_1: u32 = 0b1011;

/// How the local APIC's registers are reached.
#[derive(Clone, Copy, Debug)]
enum Bus {
    Memory(Registers),
    /// x2APIC: firmware had turned it on already, and it cannot be turned off safely; or there are CPUs that only it reaches.
    Msr,
}

/// How the timer is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timer {
    /// To a value of the time-stamp counter.
    TscDeadline,
    /// To a count.
    OneShot,
}

/// A local APIC: each CPU finds its own in the same place.
#[derive(Clone, Copy, Debug)]
pub struct LocalApic {
    bus: Bus,
    /// How its timer is set.
    pub timer: Timer,
}

impl LocalApic {
    /// For a CPU whose own is not known yet.
    pub const NONE: Self = Self { bus: Bus::Msr, timer: Timer::OneShot };

    /// Turns the local APIC on, with everything masked but the timer. `map` maps the registers' page.
    pub fn start(map: impl FnOnce(u64) -> Option<Registers>) -> Option<Self> {
        // SAFETY: every x86-64 CPU has this register; enabling the APIC with its inputs masked (below) changes no code.
        let base = unsafe {
            let base = read_msr(APIC_BASE);
            write_msr(APIC_BASE, base | APIC_BASE_ENABLED);
            base
        };
        let address = base & 0x000f_ffff_ffff_f000;
        let bus = if base & APIC_BASE_X2 != 0 { Bus::Msr } else { Bus::Memory(map(address)?) };
        let has_deadline = cpuid(1, 0).ecx & 1 << 24 != 0;
        let apic = Self { bus, timer: if has_deadline { Timer::TscDeadline } else { Timer::OneShot } };
        apic.set_up();
        Some(apic)
    }

    /// Turns this CPU's on, in the same way as the first CPU's, whose this is.
    pub fn start_like(self) -> Self {
        // SAFETY: as in `start`. From xAPIC mode, or from off by it, x2APIC mode can be entered (SDM volume 3, figure 11-27).
        unsafe {
            let base = read_msr(APIC_BASE) | APIC_BASE_ENABLED;
            write_msr(APIC_BASE, base);
            if matches!(self.bus, Bus::Msr) && base & APIC_BASE_X2 == 0 {
                write_msr(APIC_BASE, base | APIC_BASE_X2);
            }
        }
        self.set_up();
        self
    }

    /// Goes over to x2APIC mode, if the CPU has it: nothing else reaches CPUs with numbers above 254.
    pub fn widen(self) -> Option<Self> {
        const X2APIC: u32 = 1 << 21;
        if cpuid(1, 0).ecx & X2APIC == 0 {
            return None;
        }
        Some(Self { bus: Bus::Msr, ..self }.start_like())
    }

    /// Whether interrupts can be addressed to the CPU `id` in this mode.
    pub fn reaches(&self, id: u32) -> bool {
        const BROADCAST: u32 = 0xff;
        matches!(self.bus, Bus::Msr) || id < BROADCAST
    }

    fn set_up(&self) {
        for entry in [LVT_LINT0, LVT_LINT1, LVT_ERROR] {
            self.write(entry, LVT_MASKED);
        }
        self.write(TASK_PRIORITY, 0);
        self.write(SPURIOUS, SPURIOUS_ENABLE | u32::from(SPURIOUS_VECTOR));
        self.write(DIVIDE, DIVIDE_BY_1);
        self.select_timer(self.timer);
    }

    /// Raises `vector` on the CPU `id`.
    pub fn send(&self, id: u32, vector: u8) {
        self.command(id, COMMAND_ASSERT | u32::from(vector));
    }

    /// Raises a non-maskable interrupt on the CPU `id`.
    pub fn send_nmi(&self, id: u32) {
        self.command(id, COMMAND_ASSERT | COMMAND_NMI);
    }

    /// Resets the CPU `id`, which then waits for [`LocalApic::send_start`].
    pub fn send_init(&self, id: u32) {
        self.command(id, COMMAND_ASSERT | COMMAND_INIT);
    }

    /// Starts a CPU that was reset, in real mode at the beginning of `page`, below 1 MiB.
    pub fn send_start(&self, id: u32, page: u8) {
        self.command(id, COMMAND_ASSERT | COMMAND_START | u32::from(page));
    }

    /// SDM volume 3, sections 11.6.1 and 11.12.9.
    fn command(&self, id: u32, command: u32) {
        match self.bus {
            Bus::Memory(_) => {
                let is_pending = || self.read(COMMAND) & COMMAND_PENDING != 0;
                let _ = (0..COMMAND_POLLS_MAX).find(|_| !is_pending());
                self.write(COMMAND_HIGH, id << 24);
                self.write(COMMAND, command);
            }
            // SAFETY: in x2APIC mode this register exists; vectors that are sent have handlers. The fences keep what was written to memory
            // before the interrupt.
            Bus::Msr => unsafe {
                asm!("mfence", "lfence", options(nostack, preserves_flags));
                write_msr(X2_REGISTERS + (COMMAND >> 4) as u32, u64::from(id) << 32 | u64::from(command));
            },
        }
    }

    /// Chooses how the timer is set.
    pub fn select_timer(&self, timer: Timer) {
        let mode = if timer == Timer::TscDeadline { LVT_TSC_DEADLINE } else { 0 };
        self.write(LVT_TIMER, mode | u32::from(TIMER_VECTOR));
        // The change of mode must be there before the deadline is written (SDM volume 3, section 11.5.4.1).
        core::sync::atomic::fence(core::sync::atomic::Ordering::SeqCst);
    }

    /// This CPU's number, as interrupts are addressed to it.
    pub fn id(&self) -> u32 {
        match self.bus {
            Bus::Memory(_) => self.read(ID) >> 24,
            Bus::Msr => self.read(ID),
        }
    }

    /// Ends the handling of an interrupt.
    pub fn acknowledge(&self) {
        self.write(END_OF_INTERRUPT, 0);
    }

    /// The timer's interrupt comes when the counter reaches `tsc`; 0 turns it off.
    pub fn set_deadline(&self, tsc: u64) {
        // SAFETY: only called when CPUID has the feature; the interrupt has a handler.
        unsafe { write_msr(TSC_DEADLINE, tsc) }
    }

    /// The timer's interrupt comes after `count` of its ticks; 0 turns it off.
    pub fn set_count(&self, count: u32) {
        self.write(INITIAL_COUNT, count);
    }

    /// How many of its ticks are left.
    pub fn count(&self) -> u32 {
        self.read(CURRENT_COUNT)
    }

    fn read(&self, offset: usize) -> u32 {
        match self.bus {
            Bus::Memory(registers) => registers.read(offset),
            // SAFETY: in x2APIC mode these registers exist.
            Bus::Msr => unsafe { read_msr(X2_REGISTERS + (offset >> 4) as u32) as u32 },
        }
    }

    fn write(&self, offset: usize, value: u32) {
        match self.bus {
            Bus::Memory(registers) => registers.write(offset, value),
            // SAFETY: in x2APIC mode these registers exist; vectors that are let through have handlers.
            Bus::Msr => unsafe { write_msr(X2_REGISTERS + (offset >> 4) as u32, u64::from(value)) },
        }
    }
}

/// Masks the two 8259 controllers.
pub fn mask_pics() {
    out8(0x21, 0xff);
    out8(0xa1, 0xff);
}

/// One IOAPIC.
#[derive(Debug)]
pub struct IoApic {
    registers: TicketMutex<Registers, Relax>,
    /// The number of its first input among all (a global system interrupt).
    first: u32,
    count: u32,
}

const SELECT: usize = 0x00;
const WINDOW: usize = 0x10;
const VERSION: u32 = 1;
const REDIRECTION: u32 = 0x10;
const REDIRECTION_MASKED: u32 = 1 << 16;
const REDIRECTION_LEVEL: u32 = 1 << 15;

impl IoApic {
    /// Takes an IOAPIC over and masks its inputs; `None` if nothing answers.
    pub fn start(registers: Registers, first: u32) -> Option<Self> {
        let version = read(registers, VERSION);
        if version == u32::MAX || version == 0 {
            return None;
        }
        let count = (version >> 16 & 0xff) + 1;
        (0..count).for_each(|input| write(registers, REDIRECTION + 2 * input, REDIRECTION_MASKED));
        Some(Self { registers: TicketMutex::new(registers), first, count })
    }

    /// Its input for global system interrupt `interrupt`, if it has it.
    pub fn input(&self, interrupt: u32) -> Option<u32> {
        interrupt.checked_sub(self.first).filter(|&input| input < self.count)
    }

    /// Sends an input to `vector` of the CPU `apic_id`, level-triggered and active high, as virtio-mmio's are; masked.
    pub fn route(&self, input: u32, vector: u8, apic_id: u8) {
        let registers = self.registers.lock();
        let entry = REDIRECTION + 2 * input;
        write(*registers, entry, REDIRECTION_MASKED | REDIRECTION_LEVEL | u32::from(vector));
        write(*registers, entry + 1, u32::from(apic_id) << 24);
    }

    /// Holds an input back.
    pub fn mask(&self, input: u32) {
        self.change(input, |entry| entry | REDIRECTION_MASKED);
    }

    /// Lets an input through.
    pub fn unmask(&self, input: u32) {
        self.change(input, |entry| entry & !REDIRECTION_MASKED);
    }

    fn change(&self, input: u32, change: impl FnOnce(u32) -> u32) {
        let registers = self.registers.lock();
        let entry = REDIRECTION + 2 * input;
        write(*registers, entry, change(read(*registers, entry)));
    }
}

fn read(registers: Registers, register: u32) -> u32 {
    registers.write(SELECT, register);
    registers.read(WINDOW)
}

fn write(registers: Registers, register: u32, value: u32) {
    registers.write(SELECT, register);
    registers.write(WINDOW, value);
}
