//! The other processors ("MP Feature"): started after the firmware is gone, each waits in long mode, on the executable's page
//! tables and a stack of its own, until it is told where to go.

use alloc::vec;
use alloc::vec::Vec;
use core::arch::naked_asm;
use core::sync::atomic::{AtomicU64, Ordering};

use boot::PAGE_SIZE;
use boot::acpi::{self, PhysicalMemory, Processor};
use boot::config::Placement;
use boot::error::{BootError, Purpose};
use boot::memory_map::Range;
use uefi::boot as services;

use super::firmware::IdentityMapped;
use super::handover::{Handover, TableRegister};
use super::machine;
use super::memory::Pages;
use super::trampoline::{self, Way};

/// How long a processor may take to come; the pause after a reset, and between the two interrupts that start it (Intel
/// MultiProcessor Specification 1.4, section B.4; no processor with long mode needs the 10 ms after a reset).
const WAIT_MICROSECONDS: u64 = 1_000_000;
const RESET_MICROSECONDS: u64 = 10;
const STEP_MICROSECONDS: u64 = 200;

/// What they are, and what they need.
pub struct Processors {
    /// The one that runs comes first.
    list: Vec<Processor>,
    /// Those that wait, by index; the one that runs counts as one.
    waiting: Vec<bool>,
    /// Below 1 MiB.
    page: Option<Pages>,
    stacks: Option<Pages>,
    stack_bytes: u64,
    ticks_per_microsecond: u64,
}

/// What a processor that waits reads, in the direct map: at the bottom of its stack's memory.
#[repr(C)]
struct Waiting {
    root: u64,
    efer: u64,
    gdt: TableRegister,
    idt: TableRegister,
    stack: u64,
    /// Its `limine_mp_info`.
    info: u64,
    /// 1 when it waits.
    has_come: AtomicU64,
}

const _: () = {
    assert!(core::mem::offset_of!(Waiting, efer) == 8);
    assert!(core::mem::offset_of!(Waiting, gdt) == 16 && size_of::<TableRegister>() == 16);
    assert!(core::mem::offset_of!(Waiting, idt) == 32);
    assert!(core::mem::offset_of!(Waiting, stack) == 48);
    assert!(core::mem::offset_of!(Waiting, info) == 56);
    assert!(core::mem::offset_of!(Waiting, has_come) == 64);
};

/// For the processor that is started.
static MAILBOX: AtomicU64 = AtomicU64::new(0);

impl Processors {
    /// None: the executable does not ask.
    pub fn none() -> Self {
        let (page, stacks) = (None, None);
        Self { list: Vec::new(), waiting: Vec::new(), page, stacks, stack_bytes: 0, ticks_per_microsecond: 0 }
    }

    /// Asks the firmware's tables, and takes memory.
    pub fn find(madt: Option<Range>, stack_bytes: u64) -> Result<Self, BootError> {
        let madt = madt.and_then(|range| IdentityMapped.read(range.base, range.length() as usize));
        let mut list = acpi::processors(madt.unwrap_or_default());
        let me = machine::apic_id();
        match list.iter().position(|processor| processor.apic_id == me) {
            Some(first) => list.swap(0, first),
            None => list = vec![Processor { uid: 0, apic_id: me }],
        }
        let others = list.len() as u64 - 1;
        let mut processors = Self { waiting: vec![false; list.len()], list, stack_bytes, ..Self::none() };
        processors.waiting[0] = true;
        if others > 0 {
            processors.page = Some(Pages::below_1_mib(Purpose::Stack)?);
            let bytes = others * (stack_bytes + PAGE_SIZE);
            processors.stacks = Some(Pages::zeroed(bytes, Placement::Low, Purpose::Stack)?);
            processors.ticks_per_microsecond = ticks_per_microsecond();
        }
        Ok(processors)
    }

    /// All of them.
    pub fn list(&self) -> &[Processor] {
        &self.list
    }

    /// What must stay as it is.
    pub fn pages(&self) -> impl Iterator<Item = &Pages> {
        self.page.iter().chain(&self.stacks)
    }

    /// The page that must be mapped to itself, with its length.
    pub fn identity(&self) -> Option<(u64, u64)> {
        self.page.as_ref().map(|page| (page.physical(), PAGE_SIZE))
    }

    /// Starts them; `info` says where the executable finds what is said of one.
    pub fn start(&mut self, handover: &Handover, info: impl Fn(usize) -> Option<u64>) {
        let (Some(page), Some(stacks)) = (&mut self.page, &mut self.stacks) else { return };
        let hhdm = handover.hhdm;
        let way = Way {
            // Page tables are taken below 4 GiB; where there was no room none but the first can start.
            root: match u32::try_from(handover.transition_root) {
                Ok(root) => root,
                Err(_) => return,
            },
            entry: wait as *const () as u64 + hhdm,
            mailbox: &raw const MAILBOX as u64 + hhdm,
        };
        let physical = page.physical() as u32;
        // SAFETY: the page is ours and below 1 MiB.
        unsafe { trampoline::write(page.bytes_mut().as_mut_ptr(), physical, &way) }
        let each = self.stack_bytes + PAGE_SIZE;
        for (index, processor) in self.list.iter().enumerate().skip(1) {
            let bottom = stacks.physical() + each * (index as u64 - 1);
            let Some(info) = info(index) else { return };
            let waiting = Waiting {
                root: handover.root,
                efer: handover.efer,
                gdt: handover.gdt,
                idt: handover.idt,
                stack: bottom + each + hhdm,
                info,
                has_come: AtomicU64::new(0),
            };
            let place = bottom as *mut Waiting;
            // SAFETY: the memory is ours, aligned to a page, and large enough; the processor that reads it has not been started.
            let waiting = unsafe {
                place.write(waiting);
                &*place
            };
            MAILBOX.store(bottom + hhdm, Ordering::Release);
            let has_come = || waiting.has_come.load(Ordering::Acquire) != 0;
            self.waiting[index] =
                start_one(processor.apic_id, physical, self.ticks_per_microsecond, has_come);
            MAILBOX.store(0, Ordering::Release);
        }
    }

    /// Those that wait and the one that runs, by index.
    pub fn waiting(&self) -> impl Iterator<Item = usize> {
        (0..).zip(&self.waiting).filter(|(_, waits)| **waits).map(|(index, _)| index)
    }
}

/// Resets a processor and starts it at `page`. Answers whether it has come.
fn start_one(apic_id: u32, page: u32, ticks: u64, has_come: impl Fn() -> bool) -> bool {
    let wait = |microseconds: u64, done: &dyn Fn() -> bool| {
        let begin = machine::time_stamp();
        while !done() {
            if machine::time_stamp().wrapping_sub(begin) >= microseconds * ticks {
                return false;
            }
            core::hint::spin_loop();
        }
        true
    };
    const INIT: u32 = 0x4500;
    const START: u32 = 0x4600;
    let start = START | (page / PAGE_SIZE as u32);
    machine::send_command(apic_id, INIT);
    wait(RESET_MICROSECONDS, &|| false);
    machine::send_command(apic_id, start);
    if !wait(STEP_MICROSECONDS, &has_come) {
        machine::send_command(apic_id, start);
    }
    wait(WAIT_MICROSECONDS, &has_come)
}

/// How fast the time-stamp counter counts, by the firmware's clock.
fn ticks_per_microsecond() -> u64 {
    const MICROSECONDS: u64 = 1_000;
    let begin = machine::time_stamp();
    services::stall(core::time::Duration::from_micros(MICROSECONDS));
    (machine::time_stamp().wrapping_sub(begin) / MICROSECONDS).max(1)
}

/// What a processor does, from the trampoline on: as `handover::enter` does, but for the task register, which a reset has
/// loaded already (another load would find the descriptor busy). `rdi`: a [`Waiting`].
#[unsafe(naked)]
extern "sysv64" fn wait() -> ! {
    naked_asm!(
        // EFER: nothing but long mode (enabled and active) and no-execute.
        "mov ecx, 0xc0000080",
        "mov eax, [rdi + 8]",
        "xor edx, edx",
        "wrmsr",
        // The page attribute table of the protocol ("Caching").
        "mov ecx, 0x277",
        "mov eax, 0x00070406",
        "mov edx, 0x00000105",
        "wrmsr",
        // CR4: nothing but PAE. CR0: nothing but PG, WP, ET, PE.
        "mov eax, 0x20",
        "mov cr4, rax",
        "mov eax, 0x80010011",
        "mov cr0, rax",
        "mov rax, [rdi]",
        "mov cr3, rax",
        "lgdt [rdi + 22]",
        "lidt [rdi + 38]",
        "mov rsp, [rdi + 48]",
        "push 0x28",
        "lea rax, [rip + 2f]",
        "push rax",
        "retfq",
        "2:",
        "mov eax, 0x30",
        "mov ds, eax",
        "mov es, eax",
        "mov fs, eax",
        "mov gs, eax",
        "mov ss, eax",
        "xor eax, eax",
        "lldt ax",
        "mov rbx, [rdi + 56]",
        "mov qword ptr [rdi + 64], 1",
        "3:",
        "pause",
        "mov rax, [rbx + 16]",
        "test rax, rax",
        "jz 3b",
        // The return address that is none, where to go, and the flags to go with.
        "push 0",
        "push rax",
        "push 2",
        "mov rdi, rbx",
        "xor eax, eax",
        "xor ebx, ebx",
        "xor ecx, ecx",
        "xor edx, edx",
        "xor esi, esi",
        "xor ebp, ebp",
        "xor r8d, r8d",
        "xor r9d, r9d",
        "xor r10d, r10d",
        "xor r11d, r11d",
        "xor r12d, r12d",
        "xor r13d, r13d",
        "xor r14d, r14d",
        "xor r15d, r15d",
        "popfq",
        "ret",
    )
}
