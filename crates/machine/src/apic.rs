//! Interrupt controllers: the local APIC (Intel SDM volume 3, chapter 11), IOAPICs (Intel 82093AA), and the old PICs,
//! which are masked.

use crate::cpu::{cpuid, out8, read_msr, write_msr};
use crate::registers::Registers;

/// Vector of the timer.
pub const TIMER_VECTOR: u8 = 0x20;
/// The first vector for devices, and one past the last.
pub const DEVICE_VECTORS: core::ops::Range<u8> = 0x30..0xf0;
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
    /// x2APIC, which firmware had turned on already and which cannot be turned off safely.
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

/// This CPU's local APIC.
#[derive(Clone, Copy, Debug)]
pub struct LocalApic {
    bus: Bus,
    /// How its timer is set.
    pub timer: Timer,
}

impl LocalApic {
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
        for entry in [LVT_LINT0, LVT_LINT1, LVT_ERROR] {
            apic.write(entry, LVT_MASKED);
        }
        apic.write(TASK_PRIORITY, 0);
        apic.write(SPURIOUS, SPURIOUS_ENABLE | u32::from(SPURIOUS_VECTOR));
        apic.write(DIVIDE, DIVIDE_BY_1);
        apic.select_timer(apic.timer);
        Some(apic)
    }

    /// Chooses how the timer is set.
    pub fn select_timer(&self, timer: Timer) {
        let mode = if timer == Timer::TscDeadline { LVT_TSC_DEADLINE } else { 0 };
        self.write(LVT_TIMER, mode | u32::from(TIMER_VECTOR));
        // The change of mode must be there before the deadline is written (SDM volume 3, section 11.5.4.1).
        core::sync::atomic::fence(core::sync::atomic::Ordering::SeqCst);
    }

    /// This CPU's number, as interrupts are addressed to it (8 bits of it).
    pub fn id(&self) -> u8 {
        match self.bus {
            Bus::Memory(_) => (self.read(ID) >> 24) as u8,
            Bus::Msr => self.read(ID) as u8,
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
#[derive(Clone, Copy, Debug)]
pub struct IoApic {
    registers: Registers,
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
        let apic = Self { registers, first, count: 0 };
        let version = apic.read(VERSION);
        if version == u32::MAX || version == 0 {
            return None;
        }
        let apic = Self { count: (version >> 16 & 0xff) + 1, ..apic };
        (0..apic.count).for_each(|input| apic.write(REDIRECTION + 2 * input, REDIRECTION_MASKED));
        Some(apic)
    }

    /// Its input for global system interrupt `interrupt`, if it has it.
    pub fn input(&self, interrupt: u32) -> Option<u32> {
        interrupt.checked_sub(self.first).filter(|&input| input < self.count)
    }

    /// Sends an input to `vector` of the CPU `apic_id`, level-triggered and active high, as virtio-mmio's are; masked.
    pub fn route(&self, input: u32, vector: u8, apic_id: u8) {
        self.write(REDIRECTION + 2 * input, REDIRECTION_MASKED | REDIRECTION_LEVEL | u32::from(vector));
        self.write(REDIRECTION + 2 * input + 1, u32::from(apic_id) << 24);
    }

    /// Holds an input back.
    pub fn mask(&self, input: u32) {
        let entry = self.read(REDIRECTION + 2 * input);
        self.write(REDIRECTION + 2 * input, entry | REDIRECTION_MASKED);
    }

    /// Lets an input through.
    pub fn unmask(&self, input: u32) {
        let entry = self.read(REDIRECTION + 2 * input);
        self.write(REDIRECTION + 2 * input, entry & !REDIRECTION_MASKED);
    }

    fn read(&self, register: u32) -> u32 {
        self.registers.write(SELECT, register);
        self.registers.read(WINDOW)
    }

    fn write(&self, register: u32, value: u32) {
        self.registers.write(SELECT, register);
        self.registers.write(WINDOW, value);
    }
}
