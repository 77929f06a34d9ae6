//! Segments and the task state of each CPU, and the interrupt table of all (Intel SDM volume 3, chapters 3, 6 and 8).

use core::arch::asm;
use core::cell::UnsafeCell;
use core::mem::size_of;

/// Ring 0 code and data, ring 3 data and code: in the order that `syscall` and `sysret` want (SDM volume 2, SYSRET).
pub const KERNEL_CODE: u16 = 0x08;
/// See [`KERNEL_CODE`].
pub const KERNEL_DATA: u16 = 0x10;
/// See [`KERNEL_CODE`]; with the requested privilege.
pub const USER_DATA: u16 = 0x18 | 3;
/// See [`KERNEL_CODE`]; with the requested privilege.
pub const USER_CODE: u16 = 0x20 | 3;
const TASK: u16 = 0x28;

/// Stacks of the interrupt stack table, by vector: those that can come while the kernel has no good stack.
pub const OWN_STACKS: [(u8, usize); 4] = [(1, 1), (2, 2), (8, 3), (18, 4)];
/// The vector that ring 3 may raise by an instruction: the breakpoint.
const BREAKPOINT: usize = 3;
const VECTORS: usize = 256;
/// Bytes of the I/O permission bitmap: ports up to 0x7f, and the byte of ones that must follow.
const PORT_BYTES: usize = 16 + 1;

/// A CPU's stacks, by their ends.
#[derive(Clone, Copy, Debug)]
pub struct Stacks {
    /// For all that comes from ring 3.
    pub main: u64,
    /// Those of [`OWN_STACKS`].
    pub own: [u64; OWN_STACKS.len()],
}

#[repr(C, packed(4))]
struct TaskState {
    reserved0: u32,
    /// Stacks for rings 0 to 2.
    stacks: [u64; 3],
    reserved1: u64,
    /// The interrupt stack table, from 1.
    own_stacks: [u64; 7],
    reserved2: [u16; 5],
    ports_at: u16,
    ports: [u8; PORT_BYTES],
}

/// The tables of one CPU. They stay where they are once loaded.
#[repr(C, align(16))]
pub struct Descriptors {
    segments: [u64; 7],
    task: TaskState,
}

/// Where each vector goes, on every CPU.
#[repr(C, align(16))]
struct Interrupts(UnsafeCell<[[u64; 2]; VECTORS]>);

// SAFETY: filled in by the first CPU before there are others; after that CPUs only read it, on their own.
unsafe impl Sync for Interrupts {}

static INTERRUPTS: Interrupts = Interrupts(UnsafeCell::new([[0; 2]; VECTORS]));

#[repr(C, packed)]
struct Pointer {
    limit: u16,
    base: u64,
}

unsafe extern "C" {
    /// The entries of the vectors, in `trap.rs`: 16 bytes each.
    static trap_entries: [[u8; 16]; VECTORS];
}

impl Descriptors {
    /// Tables of nothing.
    pub const fn new() -> Self {
        let task = TaskState {
            reserved0: 0,
            stacks: [0; 3],
            reserved1: 0,
            own_stacks: [0; 7],
            reserved2: [0; 5],
            ports_at: 0,
            ports: [0; PORT_BYTES],
        };
        Self { segments: [0; 7], task }
    }

    /// Fills the tables in.
    pub fn fill(&mut self, stacks: &Stacks) {
        self.task.stacks[0] = stacks.main;
        for ((_, slot), end) in OWN_STACKS.into_iter().zip(stacks.own) {
            self.task.own_stacks[slot - 1] = end;
        }
        self.task.ports_at = core::mem::offset_of!(TaskState, ports) as u16;
        self.task.ports = [0xff; PORT_BYTES];
        self.fill_segments();
    }

    /// Loads them, with the interrupt table. They have been filled in and stay where they are.
    pub fn load(&'static self) {
        let segments =
            Pointer { limit: size_of::<[u64; 7]>() as u16 - 1, base: self.segments.as_ptr() as u64 };
        let interrupts =
            Pointer { limit: size_of::<[[u64; 2]; VECTORS]>() as u16 - 1, base: INTERRUPTS.0.get() as u64 };
        // SAFETY: 1. the tables are whole and live for ever; 2. the new code segment is like the old one, and the far
        // return goes on behind it; 3. the data segments are not used in long mode, but must not be stale; 4. there is no local table: what
        // a reset leaves is one at address 0, which a domain could have memory at, and gates into ring 0 in that.
        unsafe {
            asm!(
                "lgdt [{segments}]",
                "push {code}",
                "lea {scratch}, [rip + 2f]",
                "push {scratch}",
                "retfq",
                "2:",
                "mov ds, {data:e}",
                "mov es, {data:e}",
                "mov ss, {data:e}",
                "mov fs, {zero:e}",
                "mov gs, {zero:e}",
                "lldt {zero:x}",
                "lidt [{interrupts}]",
                "ltr {task:x}",
                segments = in(reg) &segments,
                interrupts = in(reg) &interrupts,
                code = const KERNEL_CODE,
                data = in(reg) u32::from(KERNEL_DATA),
                zero = in(reg) 0u32,
                task = in(reg) TASK,
                scratch = out(reg) _,
            );
        }
    }

    /// Lets ring 3 use the ports below 0x80 whose bits are 1, and no others.
    pub fn open_ports(&mut self, ports: [u64; 2]) {
        // The field is bytes, so its packed place is no matter.
        self.task.ports[..8].copy_from_slice(&(!ports[0]).to_le_bytes());
        self.task.ports[8..16].copy_from_slice(&(!ports[1]).to_le_bytes());
    }

    fn fill_segments(&mut self) {
        const CODE: u64 = 0x00af_9b00_0000_ffff;
        const DATA: u64 = 0x00cf_9300_0000_ffff;
        const RING_3: u64 = 3 << 45;
        const TASK_AVAILABLE: u64 = 0x89 << 40;
        let base = &raw const self.task as u64;
        let limit = size_of::<TaskState>() as u64 - 1;
        let low = limit | (base & 0xff_ffff) << 16 | TASK_AVAILABLE | (base >> 24 & 0xff) << 56;
        self.segments = [0, CODE, DATA, DATA | RING_3, CODE | RING_3, low, base >> 32];
    }
}

/// Fills the interrupt table in. To be called once, before any [`Descriptors::load`].
pub fn fill_interrupts() {
    const INTERRUPT_GATE: u64 = 0x8e << 40;
    const RING_3: u64 = 3 << 45;
    let entries = &raw const trap_entries as u64;
    // SAFETY: no CPU uses the table yet, and there is one that runs.
    let interrupts = unsafe { &mut *INTERRUPTS.0.get() };
    for (vector, gate) in interrupts.iter_mut().enumerate() {
        let entry = entries + 16 * vector as u64;
        let ring = if vector == BREAKPOINT { RING_3 } else { 0 };
        let low = entry & 0xffff
            | u64::from(KERNEL_CODE) << 16
            | INTERRUPT_GATE
            | ring
            | (entry >> 16 & 0xffff) << 48;
        *gate = [low, entry >> 32];
    }
    for (vector, slot) in OWN_STACKS {
        interrupts[usize::from(vector)][0] |= (slot as u64) << 32;
    }
}
