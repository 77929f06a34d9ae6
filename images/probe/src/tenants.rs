//! What a tenant has of the CPU while another does its worst, in instructions of the guest.
//!
//! One domain counts, in a loop of known length, and so tells how many of its own instructions were executed. With QEMU's `-icount` the
//! time-stamp counter says how many there were in all. So nothing is overlooked that the kernel or an interrupt takes from it, whomever the
//! kernel charges for it.

use crate::domains::{self, Child, MILLISECOND, accounts, balance, parameters, spawn};
use crate::probe::{Probe, check, fail};
use crate::roles::{COUNT_INSTRUCTIONS, Role, TURNS};
use abi::{DomainParameters, DomainRecord, DomainState, Handle, Request, Rights};

/// What one of two with equal shares has at least, of a thousand instructions.
const SHARE_MIN: u64 = 450;
/// How long each pair is looked at: many slices.
const WINDOW_NS: u64 = 400 * MILLISECOND;
/// How much a neighbour does, and how much of that may interrupt another CPU: one in so many.
const DONE_MIN: u64 = 10_000;
const DONE_FOR_EACH_INTERRUPT: u64 = 10;

/// Those that take no end of time, and those that take no end of something else.
const COMPUTING: [Role; 3] = [Role::Count, Role::HandlerLoops, Role::Turns];
const BUSY: [Role; 9] = [
    Role::Signals,
    Role::Calls,
    Role::Faults,
    Role::Pages,
    Role::Exhaust,
    Role::Random,
    Role::Children,
    Role::Naps,
    Role::Corrupt,
];

/// One that counts on the first CPU, and another beside it.
struct Pair {
    counting: Child,
    other: Child,
}

impl Pair {
    /// The other has this role, runs on these CPUs, and may signal to the one that counts.
    fn new(probe: &Probe, role: Role, cpus: u64) -> Self {
        let with = |cpus, vcpus_max| DomainParameters { cpus, vcpus_max, ..parameters() };
        let counting = spawn(probe, 0, Role::Count, 0, &with(1, 1));
        let vcpus_max = match role {
            Role::Children => 2,
            Role::Turns => TURNS,
            _ => 1,
        };
        let other = spawn(probe, 1, role, cpus, &with(cpus, vcpus_max));
        let make = Request::CreateEvent { vcpu: counting.vcpu, event: 7 };
        let capability = Handle::from_raw(probe.must(make));
        let grant = Request::Grant { capability, rights: Rights::SIGNAL, domain: other.domain };
        other.tell(probe.must(grant));
        domains::pass(probe, 20 * MILLISECOND);
        Self { counting, other }
    }

    fn end(self, probe: &Probe) {
        domains::end(probe, self.other);
        domains::end(probe, self.counting);
    }
}

/// All on one CPU. The time-stamp counter goes by `counts` for each instruction.
pub fn share(probe: &Probe, counts: u64) {
    domains::prepare(probe);
    let before = accounts(probe);
    for role in COMPUTING.into_iter().chain(BUSY) {
        let pair = Pair::new(probe, role, 1);
        let look = || (counter(), pair.counting.word());
        let (begin, counted) = look();
        domains::pass(probe, WINDOW_NS);
        let (end, count) = look();
        let share = (count - counted) * COUNT_INSTRUCTIONS * 1000 / ((end - begin) / counts);
        check(share <= 1000, "a part of what was executed");
        if share < SHARE_MIN {
            fail(format_args!("beside {role:?} it had {share} of 1000 instructions"));
        }
        pair.end(probe);
    }
    balance(probe, before);
}

/// Each on a CPU of its own, which leaves that of the one that counts alone.
pub fn neighbours(probe: &Probe) {
    domains::prepare(probe);
    let before = accounts(probe);
    for role in BUSY {
        let pair = Pair::new(probe, role, 2);
        let look = || (domains::cpu(probe, 0), domains::record(probe, pair.other.domain));
        let (cpu, record) = look();
        let (done, interrupts) = loop {
            domains::pass(probe, 100 * MILLISECOND);
            let (cpu_now, record_now) = look();
            check(cpu_now.shootdowns == cpu.shootdowns, "nobody changed what it has mapped");
            let done = done(&record_now) - done(&record);
            // What makes random requests may end itself.
            if done >= DONE_MIN || record_now.state != DomainState::Alive as u64 {
                break (done, cpu_now.interrupts - cpu.interrupts);
            }
        };
        if interrupts * DONE_FOR_EACH_INTERRUPT > done {
            fail(format_args!("{role:?} did {done} things on another CPU, and {interrupts} interrupts came"));
        }
        pair.end(probe);
    }
    balance(probe, before);
}

fn done(record: &DomainRecord) -> u64 {
    record.requests + record.touches + record.upcalls.iter().sum::<u64>()
}

fn counter() -> u64 {
    // SAFETY: reads the counter.
    unsafe { core::arch::x86_64::_rdtsc() }
}
