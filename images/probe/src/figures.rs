//! What the kernel's operations cost, for `./selkis bench`: prints lines `figure NAME VALUE`.
//!
//! Times are of the time-stamp counter. On QEMU with `-icount shift=0,sleep=off` it counts guest instructions, all of them, as
//! long as no CPU halts: so nothing here leaves the CPU without work.

use crate::domains::{self, Child};
use crate::probe::{Probe, check, say};
use crate::roles::Role;
use abi::{Backing, Commit, DomainState, PAGE_SIZE, Protection, Request, Span};
use core::arch::global_asm;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

const COUNT: u64 = 1000;
/// Rounds before those that count: page tables are there then.
const WARM_UP: u64 = 10;
/// Where pages are touched, and where upcalls come.
const PAGES: u64 = 0x7_0000_0000;
const UPCALL_PAGE: u64 = PAGES - 2 * PAGE_SIZE;
/// The stack that upcalls are entered with; the handler needs none.
const UPCALL_STACK: u64 = UPCALL_PAGE;

global_asm!(
    // The whole handler of upcalls: counts, and resumes what was interrupted.
    ".global probe_count_upcall",
    "probe_count_upcall:",
    "inc qword ptr [rip + {upcalls}]",
    "mov rdi, [rip + {vcpu}]",
    "xor esi, esi",
    "mov eax, 6",
    "syscall",
    "ud2",
    upcalls = sym UPCALLS,
    vcpu = sym VCPU,
);

unsafe extern "C" {
    fn probe_count_upcall();
}

static UPCALLS: AtomicU64 = AtomicU64::new(0);
static VCPU: AtomicU64 = AtomicU64::new(0);

/// Says that ring 3 is reached, then measures everything.
pub fn run(probe: &Probe) {
    say(format_args!("in ring 3"));
    domains::prepare(probe);
    say(format_args!("figure call {}", each(|| _ = probe.now())));
    say(format_args!("figure touch {}", touch(probe)));
    say(format_args!("figure round-trip {}", round_trip(probe)));
    say(format_args!("figure process {}", each(|| life(probe))));
    say(format_args!("figure memory {}", memory(probe)));
    // The last, since with upcalls each event is told twice.
    say(format_args!("figure signal {}", upcall(probe)));
}

/// What one of many costs.
fn each(mut operation: impl FnMut()) -> u64 {
    (0..WARM_UP).for_each(|_| operation());
    let begin = counter();
    (0..COUNT).for_each(|_| operation());
    (counter() - begin) / COUNT
}

fn counter() -> u64 {
    // SAFETY: reads the counter.
    unsafe { core::arch::x86_64::_rdtsc() }
}

fn map(probe: &Probe, span: Span, commit: Commit) {
    let (space, backing, protection) = (probe.info.space, Backing::Zero, Protection::ReadWrite);
    probe.must(Request::Map { space, span, backing, protection, commit });
}

/// A request that makes a tick due, its upcall, and the resume.
fn upcall(probe: &Probe) -> u64 {
    let vcpu = probe.info.vcpu;
    map(probe, Span::new(UPCALL_PAGE, PAGE_SIZE), Commit::Now);
    VCPU.store(vcpu.raw(), Relaxed);
    // Takes the events that children have left.
    probe.must(Request::Wait { vcpu, deadline_ns: 0 });
    let entry = probe_count_upcall as *const () as u64;
    probe.must(Request::SetUpcall { vcpu, page: UPCALL_PAGE, entry, stack: UPCALL_STACK });
    let cost = each(|| _ = probe.must(Request::SetTimer { vcpu, deadline_ns: 0 }));
    check(UPCALLS.load(Relaxed) == WARM_UP + COUNT, "one upcall for each");
    cost
}

/// First touches, which the kernel resolves.
fn touch(probe: &Probe) -> u64 {
    map(probe, Span::new(PAGES, (WARM_UP + COUNT) * PAGE_SIZE), Commit::OnTouch);
    let mut page = PAGES;
    each(|| {
        // SAFETY: mapped, and nobody else's.
        unsafe { (page as *mut u64).write_volatile(1) }
        page += PAGE_SIZE;
    })
}

/// To a domain that counts and answers, and back: four requests and two switches.
fn round_trip(probe: &Probe) -> u64 {
    let child = child(probe, Role::Echo, u64::MAX);
    changes_from(probe, &child, 0);
    let cost = each(|| {
        let before = child.word();
        probe.must(Request::Signal { target: child.channel });
        changes_from(probe, &child, before);
    });
    domains::end(probe, child);
    cost
}

/// Makes a domain, has it run until it ends itself, and takes everything back.
fn life(probe: &Probe) {
    let child = child(probe, Role::Exit, 42);
    let record = loop {
        // For its end, or because the one before it is gone.
        wait(probe);
        let record = domains::record(probe, child.domain);
        if record.state != DomainState::Alive as u64 {
            break record;
        }
    };
    check(record.state == DomainState::Ended as u64 && record.status == 42, "it ran");
    domains::end(probe, child);
}

/// What the machine has less, in bytes, while there is a domain that waits: its own memory, what its maker holds for it, and the
/// kernel's.
fn memory(probe: &Probe) -> u64 {
    let before = domains::accounts(probe).free;
    let child = child(probe, Role::Echo, u64::MAX);
    changes_from(probe, &child, 0);
    let taken = before - domains::accounts(probe).free;
    domains::end(probe, child);
    taken * PAGE_SIZE
}

fn child(probe: &Probe, role: Role, argument: u64) -> Child {
    domains::spawn_with(probe, 0, (role, argument), &domains::parameters(), Commit::OnTouch)
}

/// Waits until it has counted up, as it does first when it listens.
fn changes_from(probe: &Probe, child: &Child, before: u64) {
    while child.word() == before {
        wait(probe);
    }
}

fn wait(probe: &Probe) {
    probe.must(Request::Wait { vcpu: probe.info.vcpu, deadline_ns: Request::NEVER });
}
