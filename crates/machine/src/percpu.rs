//! What each CPU has for itself, at the base of `gs` while it runs in the kernel.

use crate::apic::LocalApic;
use crate::descriptors::{Descriptors, Stacks};
use crate::memory::Cache;
use crate::slots::Slots;
use crate::tlb::Mailbox;
use crate::x86::X86;
use core::arch::asm;
use core::cell::{Cell, UnsafeCell};
use core::mem::offset_of;
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicUsize, Ordering};
use kernel::Kernel;

/// The most CPUs that are used.
pub const CPUS_MAX: usize = 64;

/// One CPU's own state. The cells are this CPU's; what others use as well is in [`Shared`].
#[repr(C)]
pub struct Cpu {
    itself: *const Cpu,
    /// Where the entry of system calls keeps ring 3's `rsp` for a moment.
    user_stack: u64,
    /// The end of the kernel's stack.
    pub kernel_stack: u64,
    /// Not 0 if the CPU has supervisor-mode access prevention, whose override flag ring 3 can set.
    pub has_smap: u8,
    /// Which CPU this is, from 0.
    pub number: usize,
    /// The kernel that this CPU enters; null before there is one.
    pub kernel: Cell<*const Kernel<X86>>,
    /// The kernel's state of this CPU.
    pub kernel_cpu: UnsafeCell<kernel::Cpu>,
    /// Segments and task state.
    pub descriptors: UnsafeCell<Descriptors>,
    /// Its interrupt controller.
    pub apic: Cell<LocalApic>,
    /// What its timer is set to, in nanoseconds.
    pub alarm_ns: Cell<u64>,
    /// Vectors that came while the kernel slept, as bits.
    pub arrived: Cell<[u64; 4]>,
    /// What its TLB remembers, if it has process-context identifiers.
    pub slots: Cell<Slots>,
    /// The ports that ring 3 may use now, as bits.
    pub ports: Cell<[u64; 2]>,
    /// What others use as well.
    pub shared: Shared,
}

/// What other CPUs read and write of one CPU's state.
pub struct Shared {
    apic_id: AtomicU32,
    /// Its requests to forget, and those to it.
    pub mailbox: Mailbox,
    /// Free frames at hand.
    pub frames: Cache,
}

/// The register of the base of `gs`.
pub const GS_BASE: u32 = 0xc000_0101;
/// For the entries, in assembly.
pub const USER_STACK: usize = offset_of!(Cpu, user_stack);
/// For the entries, in assembly.
pub const KERNEL_STACK: usize = offset_of!(Cpu, kernel_stack);
/// For the entries, in assembly.
pub const HAS_SMAP: usize = offset_of!(Cpu, has_smap);
const _: () = assert!(offset_of!(Cpu, itself) == 0);

/// All CPUs that run the kernel, by number.
static CPUS: [AtomicPtr<Cpu>; CPUS_MAX] = [const { AtomicPtr::new(ptr::null_mut()) }; CPUS_MAX];
static COUNT: AtomicUsize = AtomicUsize::new(0);

impl Cpu {
    /// State that is to be filled in.
    pub const fn new(number: usize) -> Self {
        Self {
            itself: ptr::null(),
            user_stack: 0,
            kernel_stack: 0,
            has_smap: 0,
            number,
            kernel: Cell::new(ptr::null()),
            kernel_cpu: UnsafeCell::new(kernel::Cpu::new(number)),
            descriptors: UnsafeCell::new(Descriptors::new()),
            apic: Cell::new(LocalApic::NONE),
            alarm_ns: Cell::new(u64::MAX),
            arrived: Cell::new([0; 4]),
            slots: Cell::new(Slots::new()),
            ports: Cell::new([0; 2]),
            shared: Shared { apic_id: AtomicU32::new(0), mailbox: Mailbox::new(), frames: Cache::new() },
        }
    }

    /// Gives the CPU its stacks. The state stays where it is from now on.
    pub fn prepare(&mut self, stacks: &Stacks) {
        self.itself = self;
        self.kernel_stack = stacks.main;
        self.has_smap = u8::from(crate::features::has_smap());
        self.descriptors.get_mut().fill(stacks);
    }

    /// Makes this the state of the CPU that runs, and loads its tables. It has been prepared.
    pub fn install(&'static self) {
        const KERNEL_GS_BASE: u32 = 0xc000_0102;
        // SAFETY: 1. nobody else uses the descriptors; later changes are only to the bytes of the port bitmap, by this CPU; 2. both registers
        // exist on every x86-64 CPU, and nothing uses `gs` before this.
        unsafe {
            (*self.descriptors.get()).load();
            crate::cpu::write_msr(GS_BASE, self.itself as u64);
            crate::cpu::write_msr(KERNEL_GS_BASE, 0);
        }
    }

    /// From now on other CPUs know this one.
    pub fn announce(&'static self) {
        CPUS[self.number].store((&raw const *self).cast_mut(), Ordering::Release);
        COUNT.fetch_add(1, Ordering::Release);
    }

    /// From now on this is its interrupt controller.
    pub fn set_apic(&self, apic: LocalApic) {
        self.apic.set(apic);
        self.shared.apic_id.store(apic.id(), Ordering::Release);
    }
}

impl Shared {
    /// How interrupts are addressed to it.
    pub fn apic_id(&self) -> u32 {
        self.apic_id.load(Ordering::Acquire)
    }
}

/// The state of this CPU.
pub fn this() -> &'static Cpu {
    let cpu: *const Cpu;
    // SAFETY: 1. after `Cpu::install` the word at the base of `gs` is the address of the state, which lives for ever; 2. what
    // changes in it is in cells, and `Cpu` is not `Sync`: only this CPU has this reference.
    unsafe {
        asm!("mov {}, gs:[0]", out(reg) cpu, options(nostack, preserves_flags, readonly));
        &*cpu
    }
}

/// How many CPUs run the kernel.
pub fn count() -> usize {
    COUNT.load(Ordering::Acquire)
}

/// What CPU `number` shares, if it runs the kernel.
pub fn shared(number: usize) -> Option<&'static Shared> {
    let cpu = CPUS.get(number)?.load(Ordering::Acquire);
    // SAFETY: either null or a state that lives for ever; `Shared` is `Sync`, and only a reference to it is made.
    (!cpu.is_null()).then(|| unsafe { &(*cpu).shared })
}

/// All CPUs that run the kernel, with their numbers.
pub fn all() -> impl Iterator<Item = (usize, &'static Shared)> {
    (0..CPUS_MAX).filter_map(|number| Some((number, shared(number)?)))
}
