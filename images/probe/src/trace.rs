//! Tracing: what is noted down, for whom, and that it ends before the memory does.

use crate::domains::{self, Child};
use crate::memory::load;
use crate::probe::{Probe, check, fail};
use crate::roles::Role;
use abi::trace::{Head, Kind, Outcome, Record};
use abi::{
    Backing, Commit, DomainState, Error, Handle, PAGE_SIZE, Protection, Request, Rights, Sharing, Span,
};

/// Where the ring is mapped.
const RING: u64 = 0x7_4000_0000;
const RING_BYTES: u64 = 16 * PAGE_SIZE;
/// How often a ring is made and taken away.
const ROUNDS: u64 = 200;

/// Everything about it.
pub fn run(probe: &Probe) {
    domains::prepare(probe);
    refusals(probe);
    if domains::cpu(probe, 0).cpus == 1 {
        // Else this may run where nothing is traced.
        records(probe);
        overrun(probe);
    }
    ends(probe);
}

fn memory(probe: &Probe) -> Handle {
    let create = Request::CreateMemory { domain: probe.info.space, bytes: RING_BYTES };
    Handle::from_raw(probe.must(create))
}

fn trace(probe: &Probe, cpu: u64, memory: Handle) -> Request {
    Request::Trace { machine: probe.info.machine, cpu, memory }
}

/// Every CPU into a memory of its own would need as many: here all go to one, as is allowed.
fn trace_all(probe: &Probe, memory: Handle) {
    for cpu in 0..domains::cpu(probe, 0).cpus {
        probe.must(trace(probe, cpu, memory));
        check(domains::cpu(probe, cpu).traced == 1, "it is traced");
    }
}

fn map(probe: &Probe, memory: Handle) {
    let backing = Backing::Memory { memory, offset: 0, sharing: Sharing::Shared };
    let (space, span, protection) = (probe.info.space, Span::new(RING, RING_BYTES), Protection::Read);
    probe.must(Request::Map { space, span, backing, protection, commit: Commit::OnTouch });
}

fn head() -> Head {
    let [written, capacity, cpu, reserved] = [0, 1, 2, 3].map(|word| load(RING + word * 8));
    Head { written, capacity, cpu, reserved }
}

fn record(number: u64) -> Record {
    let slot = 1 + number % Head::capacity_of(RING_BYTES);
    let words = [0, 1, 2, 3].map(|word| load(RING + (slot * Record::WORDS as u64 + word) * 8));
    Record::from_words(words).unwrap_or_else(|| fail(format_args!("record {number}: {words:x?}")))
}

fn refusals(probe: &Probe) {
    let info = probe.info;
    let memory = memory(probe);
    let less = |capability, rights| Handle::from_raw(probe.must(Request::Derive { capability, rights }));
    let machine = less(info.machine, Rights::OBSERVE);
    probe.refused(Request::Trace { machine, cpu: 0, memory }, Error::NoRight);
    probe.refused(trace(probe, 64, memory), Error::NothingThere);
    probe.refused(trace(probe, u64::MAX, memory), Error::NothingThere);
    probe.refused(trace(probe, 0, less(memory, Rights::MAP)), Error::NoRight);
    probe.refused(trace(probe, 0, info.module_memory), Error::NoRight);
    probe.refused(trace(probe, 0, info.space), Error::WrongKind);
    probe.refused(Request::Trace { machine: info.space, cpu: 0, memory }, Error::WrongKind);
    probe.must(Request::Release { capability: machine });
    probe.must(Request::Release { capability: memory });
    check(domains::cpu(probe, 0).traced == 0, "nothing is traced");
}

/// A domain runs and ends, and all of it is there, in the order of time.
fn records(probe: &Probe) {
    let memory = memory(probe);
    map(probe, memory);
    probe.must(trace(probe, 0, memory));
    let Head { written, capacity, cpu, reserved } = head();
    check(written >= 1 && (capacity, cpu, reserved) == (Head::capacity_of(RING_BYTES), 0, 0), "a ring");
    let own = domains::record(probe, probe.info.space).number;
    let child = child(probe);
    let number = domains::record(probe, child.domain).number;
    while domains::record(probe, child.domain).state == DomainState::Alive as u64 {
        probe.must(Request::Wait { vcpu: probe.info.vcpu, deadline_ns: Request::NEVER });
    }
    domains::end(probe, child);
    // On a slow machine the child had ended before anybody waited for it, and a deadline may have passed before it is asked for.
    let slept = |at: Record| at.kind == Kind::Request && at.detail == 8 | Outcome::SLEEPS << 16;
    while !(0..head().written).any(|at| slept(record(at))) {
        let deadline_ns = probe.now() + 1_000_000;
        probe.must(Request::Wait { vcpu: probe.info.vcpu, deadline_ns });
    }
    probe.must(trace(probe, 0, Handle::NONE));
    let written = head().written;
    check(written <= head().capacity, "nothing was overrun");
    let find = |what: &dyn Fn(&Record) -> bool| (0..written).find(|&at| what(&record(at)));
    let of = |kind, domain| find(&move |record| record.kind == kind && record.domain == domain);
    let made = of(Kind::Made, number).unwrap_or_else(|| fail(format_args!("it was made")));
    check(record(made).value == own, "by this domain");
    let order = [Kind::Made, Kind::Switch, Kind::Ended, Kind::Destroyed].map(|kind| of(kind, number));
    check(order[0].is_some() && order.is_sorted(), "one after the other");
    let ended = order[2].map(record);
    check(ended.is_some_and(|ended| (ended.detail, ended.value) == (1, 42)), "with its status");
    check((1..written).all(|at| record(at).at_ns >= record(at - 1).at_ns), "in the order of time");
    probe.must(Request::Now { vcpu: probe.info.vcpu });
    check(head().written == written, "nothing more is written");
    probe.must(Request::Release { capability: memory });
}

fn overrun(probe: &Probe) {
    let memory = memory(probe);
    map(probe, memory);
    probe.must(trace(probe, 0, memory));
    let vcpu = probe.info.vcpu;
    for _ in 0..3 * head().capacity {
        probe.must(Request::Now { vcpu });
    }
    let head = head();
    check(!head.is_whole(head.written - head.capacity), "what may be written over");
    let oldest = head.written + 1 - head.capacity;
    check(head.is_whole(oldest) && head.is_whole(head.written - 1), "what is left");
    let asked = (oldest..head.written).filter(|&at| record(at).detail == 9).count() as u64;
    check(asked + 64 > head.capacity, "requests, and few interrupts");
    probe.must(Request::Release { capability: memory });
}

/// While a ring is written to, what it hangs on goes in every way. Its frames are others' at once, and stay as they write them.
fn ends(probe: &Probe) {
    let before = domains::accounts(probe);
    for round in 0..ROUNDS {
        let origin = memory(probe);
        let derived = Request::Derive { capability: origin, rights: Rights::ALL };
        let memory = Handle::from_raw(probe.must(derived));
        trace_all(probe, memory);
        let child = child(probe);
        probe.must(match round % 3 {
            0 => Request::Release { capability: origin },
            1 => Request::Revoke { capability: origin, deadline_ns: 0 },
            _ => Request::Release { capability: memory },
        });
        for cpu in 0..domains::cpu(probe, 0).cpus {
            check(domains::cpu(probe, cpu).traced == 0, "it is not traced any more");
        }
        let _ = probe.call(Request::Release { capability: origin });
        let (space, span) = (probe.info.space, Span::new(RING, RING_BYTES));
        let (backing, protection) = (Backing::Zero, Protection::ReadWrite);
        probe.must(Request::Map { space, span, backing, protection, commit: Commit::Now });
        let words = || (RING..RING + RING_BYTES).step_by(512);
        check(words().all(|at| load(at) == 0), "fresh frames");
        domains::end(probe, child);
        check(words().all(|at| load(at) == 0), "that nobody else writes to");
        probe.must(Request::Unmap { space, span });
    }
    check(domains::accounts(probe) == before, "everything is back");
}

fn child(probe: &Probe) -> Child {
    domains::spawn_with(probe, 0, (Role::Exit, 42), &domains::parameters(), Commit::OnTouch)
}
