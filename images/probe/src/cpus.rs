//! Several CPUs: how many there are, and that a change of the address space holds on all of them when the request returns.

use crate::memory::{load, store};
use crate::probe::{Probe, check, say};
use abi::{Backing, Commit, CpuRecord, Handle, Marks, PAGE_SIZE, Protection, Request, Span, mark};
use core::arch::global_asm;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Stacks and upcall page of the other virtual CPU, the page that both use, and where records go.
const STACK: u64 = 0x6_0000_0000;
const STACK_BYTES: u64 = 16 * PAGE_SIZE;
const UPCALLS: u64 = STACK + 2 * STACK_BYTES;
const SHARED: u64 = UPCALLS + 2 * PAGE_SIZE;
const RECORD: u64 = SHARED + 2 * PAGE_SIZE;
/// How many rounds there are with several CPUs; with one each waits for slices of time.
const ROUNDS: u64 = 300;
const ROUNDS_ALONE: u64 = 20;
/// How often a page is looked at that must not change.
const LOOKS: u64 = 2_000;
/// How long the other virtual CPU may need to write something.
const PATIENCE_NS: u64 = 20_000_000_000;

global_asm!(
    // Says where its upcalls go, then counts up at rdi for ever.
    ".global probe_count",
    "probe_count:",
    "mov rbx, rdi",
    "mov rdi, [rip + {other}]",
    "movabs rsi, {upcalls}",
    "lea rdx, [rip + probe_retry]",
    "movabs r10, {stack}",
    "mov eax, 5",
    "syscall",
    "test rax, rax",
    "jz 2f",
    "ud2",
    "2:",
    "inc qword ptr [rbx]",
    "jmp 2b",
    // A fault of it: tries again.
    "probe_retry:",
    "inc qword ptr [rip + {faults}]",
    "mov rdi, [rip + {other}]",
    "mov esi, 1",
    "mov eax, 6",
    "syscall",
    "ud2",
    faults = sym FAULTS,
    other = sym OTHER,
    upcalls = const UPCALLS,
    stack = const STACK + STACK_BYTES,
);

unsafe extern "C" {
    fn probe_count();
}

static FAULTS: AtomicU64 = AtomicU64::new(0);
static OTHER: AtomicU64 = AtomicU64::new(0);

/// Says how many CPUs the kernel uses, with a mark for `bench`, and stops with that status.
pub fn tell(probe: &Probe) -> ! {
    let count = count(probe);
    say(format_args!("in ring 3, CPUs: {count}"));
    marker::end();
    probe.stop(count as u8)
}

/// How many CPUs the kernel uses.
fn count(probe: &Probe) -> u64 {
    map(probe, RECORD, PAGE_SIZE);
    let into = Span::new(RECORD, size_of::<CpuRecord>() as u64);
    probe.must(Request::Inspect { object: probe.info.machine, index: 0, into });
    load(RECORD + core::mem::offset_of!(CpuRecord, cpus) as u64)
}

/// One virtual CPU writes to a page all the time while another takes the right to write, gives it back, and puts other pages in its place.
pub fn changes_hold_everywhere(probe: &Probe) {
    for (base, length) in [(STACK, 2 * STACK_BYTES), (UPCALLS, PAGE_SIZE), (SHARED, PAGE_SIZE)] {
        map(probe, base, length);
    }
    let vcpu = Handle::from_raw(probe.must(Request::CreateVcpu { domain: probe.info.space }));
    OTHER.store(vcpu.raw(), Relaxed);
    let entry = probe_count as *const () as u64;
    probe.must(Request::Start { vcpu, entry, stack: STACK + 2 * STACK_BYTES, argument: SHARED });
    let (space, span) = (probe.info.space, Span::new(SHARED, PAGE_SIZE));
    let alone = count(probe) == 1;
    for round in 0..if alone { ROUNDS_ALONE } else { ROUNDS } {
        changes_from(probe, load(SHARED));
        probe.must(Request::Protect { space, span, protection: Protection::Read });
        let last = load(SHARED);
        check((0..LOOKS).all(|_| load(SHARED) == last), "nobody writes to a page that is read-only now");
        read_marks(probe, Marks::Clear);
        check(read_marks(probe, Marks::Clear) & mark::DIRTY == 0, "which is not noted, either");
        probe.must(Request::Protect { space, span, protection: Protection::ReadWrite });
        changes_from(probe, last);
        // Had the other kept what it knew of the page, it would not note that it goes on.
        check(read_marks(probe, Marks::Clear) & mark::DIRTY != 0, "it is noted that it was written to");
        changes_from(probe, load(SHARED));
        check(read_marks(probe, Marks::Keep) & mark::DIRTY != 0, "and again");
        if round % 3 == 0 {
            probe.must(Request::Reset { space, span });
            // Had the other kept the old page, it would not count here.
            changes_from(probe, load(SHARED));
        }
        if round % 7 == 0 {
            probe.must(Request::Unmap { space, span });
            map(probe, SHARED, PAGE_SIZE);
            changes_from(probe, load(SHARED));
        }
    }
    store(SHARED, 0);
    check(alone || FAULTS.load(Relaxed) > 0, "the other virtual CPU met a page that it could not write to");
}

/// The marks of the shared page.
fn read_marks(probe: &Probe, marks: Marks) -> u8 {
    let (space, span) = (probe.info.space, Span::new(SHARED, PAGE_SIZE));
    check(probe.must(Request::ReadMarks { space, span, into: RECORD, marks }) == 1, "one page was read");
    load(RECORD) as u8
}

/// Waits until the shared page holds something else.
fn changes_from(probe: &Probe, before: u64) {
    let end = probe.now() + PATIENCE_NS;
    while load(SHARED) == before {
        check(probe.now() < end, "the other virtual CPU goes on counting");
    }
}

fn map(probe: &Probe, base: u64, length: u64) {
    let (space, span) = (probe.info.space, Span::new(base, length));
    let (backing, protection) = (Backing::Zero, Protection::ReadWrite);
    probe.must(Request::Map { space, span, backing, protection, commit: Commit::Now });
}
