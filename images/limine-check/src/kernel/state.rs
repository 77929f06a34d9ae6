//! The machine at entry ("Machine State at Entry", x86-64).

use super::memory::Kind;
use super::protocol::{self, STACK_BYTES};
use super::responses::Facts;
use crate::check;

/// As `entry::enter` saves it.
#[repr(C)]
pub struct EntryState {
    /// rax, rbx, rcx, rdx, rsi, rdi, rbp, r8 to r15.
    general: [u64; 15],
    pub rsp: u64,
    rflags: u64,
    pub cr0: u64,
    pub cr3: u64,
    pub cr4: u64,
    efer: u64,
    /// cs, ds, es, fs, gs, ss.
    segments: [u16; 6],
    task: u16,
    local_table: u16,
    padding_1: [u16; 3],
    gdt: TableRegister,
    padding_2: [u16; 3],
    idt: TableRegister,
    return_address: u64,
    pub time_stamp: u64,
}

#[repr(C, packed(2))]
#[derive(Clone, Copy)]
struct TableRegister {
    limit: u16,
    base: u64,
}

const _: () = {
    assert!(core::mem::offset_of!(EntryState, segments) == 168);
    assert!(core::mem::offset_of!(EntryState, gdt) == 190);
    assert!(core::mem::offset_of!(EntryState, idt) == 206);
    assert!(core::mem::offset_of!(EntryState, return_address) == 216);
    assert!(core::mem::offset_of!(EntryState, time_stamp) == 224);
};

impl EntryState {
    pub const ZERO: Self = {
        let none = TableRegister { limit: 0, base: 0 };
        Self {
            general: [0; 15],
            rsp: 0,
            rflags: 0,
            cr0: 0,
            cr3: 0,
            cr4: 0,
            efer: 0,
            segments: [0; 6],
            task: 0,
            local_table: 0,
            padding_1: [0; 3],
            gdt: none,
            padding_2: [0; 3],
            idt: none,
            return_address: 0,
            time_stamp: 0,
        }
    };

    /// Everything that the base revision promises.
    pub fn check(&self, facts: &Facts) {
        check!(self.general == [0; 15], "general registers are {:x?}", self.general);
        check!(self.segments == [0x28, 0x30, 0x30, 0x30, 0x30, 0x30], "segments are {:x?}", self.segments);
        const INTERRUPTS_DIRECTION_VM: u64 = 1 << 9 | 1 << 10 | 1 << 17;
        check!(self.rflags & INTERRUPTS_DIRECTION_VM == 0, "flags are {:#x}", self.rflags);
        check!(self.cr0 & 0x8001_0011 == 0x8001_0011, "CR0 is {:#x}", self.cr0);
        check!(self.cr4 & 0x1020 == 0x20, "CR4 is {:#x}", self.cr4);
        check!(self.efer & 0xd00 == 0xd00, "EFER is {:#x}", self.efer);
        if facts.revision >= 5 {
            check!(self.cr0 == 0x8001_0011, "CR0 is {:#x}", self.cr0);
            check!(self.cr4 == 0x20, "CR4 is {:#x}", self.cr4);
            check!(self.efer == 0xd00, "EFER is {:#x}", self.efer);
            check!(self.rflags == 2, "flags are {:#x}", self.rflags);
            let (limit, base) = (self.idt.limit, self.idt.base);
            check!(limit == 0 && base == 0, "the IDT is at {base:#x}, limit {limit:#x}");
            check!(self.local_table == 0, "the LDT is {:#x}", self.local_table);
        }
        self.check_descriptors(facts);
        self.check_stack(facts);
    }

    fn check_descriptors(&self, facts: &Facts) {
        /// Access bytes and flags of the seven entries, without the "accessed" bit.
        const ENTRIES: [u64; 7] = [
            0,
            0x0000_9a00_0000_ffff,
            0x0000_9200_0000_ffff,
            0x00cf_9a00_0000_ffff,
            0x00cf_9200_0000_ffff,
            0x0020_9a00_0000_0000,
            0x0000_9200_0000_0000,
        ];
        const ACCESSED: u64 = 1 << 40;
        let (limit, base) = (u64::from(self.gdt.limit), self.gdt.base);
        check!(limit >= 55, "the GDT's limit is {limit:#x}");
        for (index, expected) in ENTRIES.iter().enumerate() {
            let entry = protocol::read(base + 8 * index as u64) & !ACCESSED;
            check!(entry == *expected, "GDT entry {index} is {entry:#x}");
        }
        facts.check_kind(base - facts.hhdm, limit + 1, Kind::BootloaderReclaimable, "the GDT");
        if facts.revision >= 5 {
            // The task register's base and limit are those of its descriptor.
            let task = protocol::read(base + u64::from(self.task));
            check!(task & 0xff0f_00ff_ffff_ffff == 0, "the task segment is {task:#x}");
        }
    }

    fn check_stack(&self, facts: &Facts) {
        check!(self.rsp % 16 == 8, "the stack pointer is {:#x}", self.rsp);
        check!(self.return_address == 0, "the return address is {:#x}", self.return_address);
        let top = self.rsp + 8 - facts.hhdm;
        facts.check_kind(top - STACK_BYTES, STACK_BYTES, Kind::BootloaderReclaimable, "the stack");
        let bottom = (self.rsp + 8 - STACK_BYTES) as *mut u64;
        // SAFETY: the lowest word of the stack that was asked for; nothing has grown so far down.
        unsafe { bottom.write_volatile(0x5e1c15) };
    }
}
