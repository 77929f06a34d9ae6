//! What is taken from a domain that runs on another CPU, and whom that concerns.

use crate::domains::{self, MILLISECOND, accounts, balance, parameters, spawn};
use crate::memory::{load, store};
use crate::probe::{Probe, check, fail};
use crate::roles::Role;
use abi::{Backing, Commit, DomainParameters, Handle, PAGE_SIZE, Protection, Request, Rights, Sharing, Span};

/// Where memory is looked at that another domain has as well.
const SEEN: u64 = 0x7_8000_0000;
const ROUNDS: u64 = 200;
/// With one CPU each round waits for slices of time.
const ROUNDS_ALONE: u64 = 20;
/// How often a word is looked at that must not change.
const LOOKS: u64 = 2_000;
/// How often a CPU is asked to forget.
const ASKED_MIN: u64 = 50;
/// How long another domain may need for what it is to do.
const PATIENCE_NS: u64 = 60_000 * MILLISECOND;

/// Memory is taken while a domain on another CPU reads and writes it all the time. When the request returns, it cannot any more: its next access is
/// its fault. And the frame can be another's.
pub fn revoked(probe: &Probe) {
    domains::prepare(probe);
    let cpus = domains::cpu(probe, 0).cpus;
    let elsewhere = DomainParameters { cpus: if cpus > 1 { 2 } else { 1 }, ..parameters() };
    let space = probe.info.space;
    let own = Span::new(SEEN, PAGE_SIZE);
    // The tables stay.
    map_zeros(probe);
    let before = accounts(probe);
    let child = spawn(probe, 0, Role::Uses, 0, &elsewhere);
    for round in 1..=if cpus > 1 { ROUNDS } else { ROUNDS_ALONE } {
        let create = Request::CreateMemory { domain: space, bytes: PAGE_SIZE };
        let capability = Handle::from_raw(probe.must(create));
        let backing = Backing::Memory { memory: capability, offset: 0, sharing: Sharing::Shared };
        let (protection, commit) = (Protection::ReadWrite, Commit::OnTouch);
        probe.must(Request::Map { space, span: own, backing, protection, commit });
        let grant = Request::Grant { capability, rights: Rights::ALL, domain: child.domain };
        child.tell(probe.must(grant));
        until(probe, "it writes to what it was given", || load(SEEN) > 100);
        probe.must(Request::Revoke { capability, deadline_ns: 0 });
        store(SEEN, round << 32);
        check((0..LOOKS).all(|_| load(SEEN) == round << 32), "nobody else writes to it now");
        if round % 2 == 0 {
            probe.must(Request::Release { capability });
            map_zeros(probe);
            check((0..LOOKS).all(|_| load(SEEN) == 0), "nor to the frame when it is another's");
        }
        until(probe, "it has its fault", || child.word() == round);
        check(domains::is_alive(probe, &child), "and lives");
        if round % 2 != 0 {
            probe.must(Request::Release { capability });
        }
    }
    domains::end(probe, child);
    map_zeros(probe);
    balance(probe, before);
}

/// A domain that runs on two CPUs unmaps: the other of the two is asked to forget, and of the rest, one that runs another domain and one
/// that runs this one, none.
pub fn unconcerned(probe: &Probe) {
    const CONCERNED: u64 = 0b0110;
    const BYSTANDER: u64 = 0b1000;
    domains::prepare(probe);
    check(domains::cpu(probe, 0).cpus == 4, "two for each");
    let with = |cpus, vcpus_max| DomainParameters { cpus, vcpus_max, ..parameters() };
    let bystander = spawn(probe, 0, Role::Count, 0, &with(BYSTANDER, 1));
    let child = spawn(probe, 1, Role::Unmaps, 0, &with(CONCERNED, 2));
    until(probe, "the bystander runs", || bystander.word() > 0);
    until(probe, "both virtual CPUs run", || child.word() > 0);
    let asked = || [0, 1, 2, 3].map(|cpu| domains::cpu(probe, cpu).shootdowns);
    let before = asked();
    child.tell(1);
    let mut times = [0; 4];
    until(probe, "the other CPU of the two is asked", || {
        let now = asked();
        times = [0, 1, 2, 3].map(|cpu: usize| now[cpu] - before[cpu]);
        times[1] + times[2] >= ASKED_MIN
    });
    if times[0] != 0 || times[3] != 0 {
        fail(format_args!("CPUs 1 and 2 run the domain; asked were {times:?} times"));
    }
    check(domains::is_alive(probe, &child), "it goes on");
    domains::end(probe, child);
    domains::end(probe, bystander);
}

fn map_zeros(probe: &Probe) {
    let (space, span) = (probe.info.space, Span::new(SEEN, PAGE_SIZE));
    let (backing, protection, commit) = (Backing::Zero, Protection::ReadWrite, Commit::Now);
    probe.must(Request::Map { space, span, backing, protection, commit });
}

/// Waits until it is so.
#[track_caller]
fn until(probe: &Probe, what: &str, mut is_so: impl FnMut() -> bool) {
    let end = probe.now() + PATIENCE_NS;
    while !is_so() {
        check(probe.now() < end, what);
        domains::pass(probe, MILLISECOND);
    }
}
