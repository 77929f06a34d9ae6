//! What a domain may have of the CPU, however long things go on; and how long it may keep the kernel busy.

use super::{CALL_AT, Request, World};
use crate::kernel::{Interrupt, Next};
use crate::machine::Machine;
use abi::{DomainParameters, Error, Rights};
use std::vec::Vec;

/// What two that always want to run have of some time; each tells by its first argument which it is.
fn halves(world: &mut World) -> [u64; 2] {
    const STEP_NS: u64 = 500_000;
    let mut ran_ns = [0u64; 2];
    for _ in 0..8000 {
        ran_ns[world.context(0).rdi as usize] += STEP_NS;
        world.pass(STEP_NS);
        assert_eq!(world.interrupt(0, Interrupt::Alarm), Next::Enter);
    }
    ran_ns
}

/// One that comes when another was alone for long, with no reason to look at the queue, does not get that time back. For years, even
/// with the least share.
#[test]
fn who_slept_has_no_more_than_its_share() {
    const DAY_NS: u64 = 86_400_000_000_000;
    for days in [1, 400] {
        let mut world = World::new(6000, 1);
        let vcpu = world.info.vcpu;
        let plan = DomainParameters { share: 1, vcpus_max: 1, ..world.parameters() };
        let children = [world.spawn(0, &plan), world.spawn(0, &plan)];
        world.start(0, &children[0], 0);
        let deadline_ns = world.kernel.machine.now_ns() + days * DAY_NS;
        assert_eq!(world.wait(0, vcpu, deadline_ns), Next::Enter);
        for _ in 0..days {
            world.pass(DAY_NS);
            assert_eq!(world.interrupt(0, Interrupt::Alarm), Next::Enter);
        }
        world.start(0, &children[1], 1);
        assert_eq!(world.wait(0, vcpu, Request::NEVER), Next::Enter);
        let [first, second] = halves(&mut world);
        assert!(first.abs_diff(second) < 1_000_000_000, "after {days} days: {first} ns and {second} ns");
    }
}

/// Who sleeps again and again for a short while does not have the CPU at once each time: the other would do little but make room.
#[test]
fn one_that_leads_waits_a_little() {
    const NAP_NS: u64 = 10_000;
    const LITTLE_NS: u64 = 200_000;
    let mut world = World::new(6000, 1);
    let vcpu = world.info.vcpu;
    let child = world.spawn(0, &world.parameters());
    world.start(0, &child, 1);
    let sleep = |world: &mut World, ns, least_ns| {
        let begin_ns = world.kernel.machine.now_ns();
        assert_eq!(world.wait(0, vcpu, begin_ns + ns), Next::Enter);
        while world.context(0).rdi == 1 {
            let now_ns = world.kernel.machine.now_ns();
            let alarm_ns = world.kernel.machine.state().alarm_ns;
            world.pass(alarm_ns - now_ns);
            assert_eq!(world.interrupt(0, Interrupt::Alarm), Next::Enter);
        }
        let slept_ns = world.kernel.machine.now_ns() - begin_ns;
        assert!((least_ns..least_ns + NAP_NS).contains(&slept_ns), "it slept for {slept_ns} ns");
    };
    // The other is far ahead then.
    sleep(&mut world, 50_000_000, 50_000_000);
    (0..20).for_each(|_| sleep(&mut world, NAP_NS, LITTLE_NS));
}

/// A part of a budget is one, however small.
#[test]
fn a_budget_is_divided_and_stays_one() {
    let mut world = World::new(6000, 1);
    let parameters = DomainParameters { budget_ns: 1, vcpus_max: 2, ..world.parameters() };
    world.spawn(0, &parameters);
    let queue = world.kernel.seats[0].queue.lock();
    assert!(queue.entries()[1].budget.is_some(), "{:?}", queue.entries());
}

/// Where alarms come late, or the kernel is busy for it for long, a domain pays that back.
#[test]
fn a_budget_holds_when_alarms_are_late() {
    const LATE_NS: u64 = 25_000_000;
    let mut world = World::new(6000, 1);
    let vcpu = world.info.vcpu;
    let plan = |budget_ns| DomainParameters { budget_ns, vcpus_max: 1, ..world.parameters() };
    let plans = [plan(10_000_000), plan(0)];
    for (number, plan) in plans.iter().enumerate() {
        let child = world.spawn(0, plan);
        world.start(0, &child, number as u64);
    }
    assert_eq!(world.wait(0, vcpu, Request::NEVER), Next::Enter);
    let mut turns = [0; 2];
    for _ in 0..400 {
        turns[world.context(0).rdi as usize] += 1;
        world.pass(LATE_NS);
        assert_eq!(world.interrupt(0, Interrupt::Alarm), Next::Enter);
    }
    assert!((35..=45).contains(&turns[0]), "a tenth of 400: {turns:?}");
}

/// However many capabilities a domain has, its end leaves time for interrupts.
#[test]
fn an_end_is_done_in_pieces() {
    let mut world = World::new(6000, 1);
    let vcpu = world.info.vcpu;
    let plan = DomainParameters { capabilities_max: 300, ..world.parameters() };
    let child = world.spawn(0, &plan);
    world.start(0, &child, 1);
    let deadline_ns = world.kernel.machine.now_ns() + 1_000_000;
    assert_eq!(world.wait(0, vcpu, deadline_ns), Next::Enter);
    let derive = Request::Derive { capability: child.own, rights: Rights::NONE };
    (0..280).for_each(|_| _ = world.must(0, derive));
    world.pass(100_000_000);
    assert_eq!(world.interrupt(0, Interrupt::Alarm), Next::Enter);
    let end = Request::End { domain: child.domain, status: 0 };
    assert_eq!(world.once(0, end), Next::Enter);
    assert_eq!(world.context(0).rip, CALL_AT - 2, "not yet: asked to be made again");
    world.must(0, end);
}

/// What each of those that always want to run has of a CPU, in per mille, over two seconds. CPUs look when their alarms say so.
fn per_mille(cpus: usize, plans: &[DomainParameters]) -> Vec<u64> {
    const STEP_NS: u64 = 500_000;
    const STEPS: u64 = 4000;
    let mut world = World::new(12_000, cpus);
    let vcpu = world.info.vcpu;
    for (number, plan) in plans.iter().enumerate() {
        let child = world.spawn(0, plan);
        world.start(0, &child, number as u64);
    }
    let mut sleeps = std::vec![true; cpus];
    let mut alarms = std::vec![0; cpus];
    sleeps[0] = world.wait(0, vcpu, Request::NEVER) == Next::Sleep;
    let mut ran = std::vec![0; plans.len()];
    for _ in 0..STEPS {
        for cpu in 0..cpus {
            loop {
                let (now_ns, kicked) = {
                    let mut state = world.kernel.machine.state();
                    let before = state.kicked.len();
                    state.kicked.retain(|&kicked| kicked != cpu);
                    state.alarm_ns = alarms[cpu];
                    (state.now_ns, state.kicked.len() != before)
                };
                if !kicked && alarms[cpu] > now_ns {
                    break;
                }
                world.kernel.machine.state().alarm_ns = u64::MAX;
                let why = if kicked { Interrupt::Kick } else { Interrupt::Alarm };
                let next = if sleeps[cpu] {
                    let (state, context) = &mut world.cpus[cpu];
                    world.kernel.note(state, why);
                    world.kernel.awake(state, context)
                } else {
                    world.interrupt(cpu, why)
                };
                sleeps[cpu] = next == Next::Sleep;
                alarms[cpu] = world.kernel.machine.state().alarm_ns;
            }
            if !sleeps[cpu] {
                ran[world.context(cpu).rdi as usize] += 1;
            }
        }
        world.pass(STEP_NS);
    }
    ran.iter().map(|steps| steps * 1000 / STEPS).collect()
}

/// Shares are of all CPUs that a domain may run on, not of the one where it began; nobody has more than a CPU for each virtual CPU.
#[test]
fn shares_hold_across_cpus() {
    let plan = |share, budget_ns, cpus| DomainParameters {
        share,
        budget_ns,
        cpus,
        vcpus_max: 1,
        name: DomainParameters::name_of("spinner"),
        memory_bytes: 200 * abi::PAGE_SIZE,
        capabilities_max: 20,
        regions_max: 30,
        objects_max: 1,
        domains_max: 0,
    };
    let free = |share| plan(share, 0, 0);
    let cases: [(usize, &[DomainParameters], &[u64]); 10] = [
        (1, &[free(100), free(300)], &[250, 750]),
        (2, &[free(100); 3], &[667; 3]),
        (2, &[free(100); 4], &[500; 4]),
        (2, &[free(1); 3], &[667; 3]),
        (2, &[free(200), free(100), free(100), free(100)], &[800, 400, 400, 400]),
        (2, &[free(1000), free(100), free(100)], &[1000, 500, 500]),
        (4, &[free(100); 8], &[500; 8]),
        (4, &[free(100); 5], &[800; 5]),
        (2, &[plan(100, 0, 1), plan(100, 0, 1), free(100)], &[500, 500, 1000]),
        (2, &[plan(100, 20_000_000, 0), free(100), free(100), free(100)], &[200, 600, 600, 600]),
    ];
    for (cpus, plans, wanted) in cases {
        let ran = per_mille(cpus, plans);
        let near = ran.iter().zip(wanted).all(|(ran, wanted)| ran.abs_diff(*wanted) <= 30);
        assert!(near, "{cpus} CPUs: {ran:?} and not {wanted:?}");
    }
}

/// Who is told already is not told again: a flood of signals does not cost another CPU its time.
#[test]
fn a_flood_of_signals_is_one() {
    let mut world = World::new(6000, 2);
    let child = world.spawn(0, &world.parameters());
    world.start(0, &child, 1);
    assert_eq!(world.awake(1), Next::Enter);
    let event = world.must(0, Request::CreateEvent { vcpu: child.vcpu, event: 3 });
    world.must(0, Request::Signal { target: event });
    assert!(core::mem::take(&mut world.kernel.machine.state().kicked).contains(&1), "the first is told");
    (0..10).for_each(|_| _ = world.must(0, Request::Signal { target: event }));
    assert_eq!(world.kernel.machine.state().kicked, [], "the others are the same");
}

/// A domain that is held short cannot make one that is not.
#[test]
fn a_child_has_no_more_of_the_cpus_than_its_parent() {
    let mut world = World::new(6000, 2);
    let vcpu = world.info.vcpu;
    let short = DomainParameters { share: 10, budget_ns: 1_000_000, cpus: 1, ..world.parameters() };
    let child = world.spawn(0, &short);
    world.start(0, &child, 1);
    assert_eq!(world.wait(0, vcpu, Request::NEVER), Next::Enter);
    world.map_zero(0, child.own, super::SCRATCH, 1);
    assert_eq!(world.touch(0, super::SCRATCH, true), Next::Enter);
    let frame = world.frame(0, super::SCRATCH).expect("touched");
    let small =
        DomainParameters { memory_bytes: 20 * abi::PAGE_SIZE, domains_max: 0, objects_max: 0, ..short };
    let small = DomainParameters { vcpus_max: 1, ..small };
    let mut make = |plan: DomainParameters| {
        world.kernel.machine.write_words(frame, 0, &plan.to_words());
        world.call(0, Request::CreateDomain { parent: child.own, parameters: super::SCRATCH })
    };
    assert_eq!(make(DomainParameters { share: 11, ..small }), Err(Error::NoRight));
    assert_eq!(make(DomainParameters { budget_ns: 1_000_001, ..small }), Err(Error::NoRight));
    assert_eq!(make(DomainParameters { cpus: 3, ..small }), Err(Error::NoRight));
    make(DomainParameters { budget_ns: 0, cpus: 0, ..small }).expect("it asks for no more");
    let id = world.kernel.domains.ids().last().expect("the last one");
    let made = world.kernel.domains.lock(id).expect("it lives");
    assert_eq!((made.budget_ns, made.cpus), (1_000_000, 1), "as its parent");
}

/// Who listens does so by one capability, and hears nothing more when that is gone, whatever others there are to the same.
#[test]
fn who_listens_does_so_by_a_capability() {
    let mut world = World::new(4000, 1);
    let (space, vcpu) = (world.info.space, world.info.vcpu);
    let ours = world.must(0, Request::CreateChannel { domain: space, bytes: abi::PAGE_SIZE });
    let other = world.must(0, Request::OtherEnd { channel: ours });
    let child = world.spawn(0, &world.parameters());
    for source in [ours, child.domain] {
        let lent = world.must(0, Request::Derive { capability: source, rights: Rights::LISTEN });
        world.must(0, Request::Listen { source: lent, index: 0, vcpu, event: 4 });
        world.must(0, Request::Signal { target: other });
        let heard = if source == ours { 1 << 4 } else { 0 };
        assert_eq!(world.call(0, Request::Wait { vcpu, deadline_ns: 0 }), Ok(heard));
        world.must(0, Request::Release { capability: lent });
        world.must(0, Request::Signal { target: other });
    }
    world.must(0, Request::End { domain: child.domain, status: 0 });
    assert_eq!(world.call(0, Request::Wait { vcpu, deadline_ns: 0 }), Ok(0), "nobody listens any more");
}

/// To walk from a capability to what was derived from it takes few steps.
#[test]
fn a_capability_is_derived_so_often_and_no_more() {
    let mut world = World::new(4000, 1);
    let first = world.must(0, Request::CreateMemory { domain: world.info.space, bytes: abi::PAGE_SIZE });
    let mut last = first;
    for _ in 0..abi::DERIVED_MAX {
        last = world.must(0, Request::Derive { capability: last, rights: Rights::ALL });
    }
    let more = Request::Derive { capability: last, rights: Rights::ALL };
    assert_eq!(world.call(0, more), Err(Error::TableFull));
    world.must(0, Request::Release { capability: first });
    assert_eq!(world.call(0, more), Err(Error::StaleHandle), "all of them are gone");
}

/// Share and budget are the domain's: one virtual CPU has all of it while the other sleeps, and both together have no more.
#[test]
fn what_a_domain_has_is_had_by_whoever_wants_to_run() {
    const STEP_NS: u64 = 500_000;
    const STEPS: u64 = 4000;
    let cases = [(1, 20, [200, 0]), (2, 20, [100, 100]), (1, 0, [500, 0]), (2, 0, [250, 250])];
    for (at_once, budget_ms, wanted) in cases {
        let mut world = World::new(6000, 1);
        let vcpu = world.info.vcpu;
        let budget_ns = budget_ms * 1_000_000;
        let plan = DomainParameters { vcpus_max: 2, budget_ns, ..world.parameters() };
        let child = world.spawn(0, &plan);
        let second = world.must(0, Request::CreateVcpu { domain: child.domain });
        let spinner = world.spawn(0, &DomainParameters { vcpus_max: 1, ..world.parameters() });
        world.start(0, &spinner, 2);
        world.start(0, &child, 0);
        if at_once == 2 {
            world.must(0, Request::Start { vcpu: second, entry: CALL_AT, stack: 0, argument: 1 });
        }
        assert_eq!(world.wait(0, vcpu, Request::NEVER), Next::Enter);
        let mut ran = [0; 3];
        for _ in 0..STEPS {
            ran[world.context(0).rdi as usize] += 1000;
            world.pass(STEP_NS);
            assert_eq!(world.interrupt(0, Interrupt::Alarm), Next::Enter);
        }
        let near =
            ran.iter().zip(wanted).all(|(ran, wanted): (&u64, u64)| (ran / STEPS).abs_diff(wanted) <= 15);
        assert!(near, "{ran:?} of {STEPS} thousand");
    }
}

/// A domain's virtual CPUs that run one after the other are charged as one that runs on: who begins is not fresh.
#[test]
fn virtual_cpus_that_take_turns_have_one_share() {
    [1, 2, 4, 8].into_iter().for_each(take_turns);
}

/// Each virtual CPU runs for so many steps, and sleeps while the others do.
fn take_turns(turn: u64) {
    const STEP_NS: u64 = 500_000;
    const STEPS: u64 = 4000;
    const VCPUS: usize = 4;
    let mut world = World::new(6000, 1);
    let plan = DomainParameters { vcpus_max: VCPUS as u64, ..world.parameters() };
    let child = world.spawn(0, &plan);
    let mut own = std::vec![child.own_vcpu];
    world.start(0, &child, 0);
    for _ in 1..VCPUS {
        let vcpu = world.must(0, Request::CreateVcpu { domain: child.domain });
        let grant = Request::Grant { capability: vcpu, rights: Rights::ALL, domain: child.domain };
        own.push(world.must(0, grant));
        world.must(0, Request::Start { vcpu, entry: CALL_AT, stack: 0, argument: 0 });
    }
    let spinner = world.spawn(0, &DomainParameters { vcpus_max: 1, ..world.parameters() });
    world.start(0, &spinner, 0);
    let vcpu = world.info.vcpu;
    assert_eq!(world.wait(0, vcpu, Request::NEVER), Next::Enter);
    let (mut ran, mut turns) = (0, [0; VCPUS]);
    for _ in 0..STEPS {
        let current = world.cpus[0].0.current.expect("somebody wants to run").vcpu;
        let number = {
            let vcpu = world.kernel.vcpus.lock(current).expect("it runs");
            let domain = world.kernel.domains.lock(vcpu.domain).expect("it lives");
            (domain.vcpus.iter().flatten().count() == VCPUS).then_some(vcpu.number)
        };
        world.pass(STEP_NS);
        if let Some(number) = number {
            ran += 1000;
            turns[number] += 1;
            if turns[number] % turn == 0 {
                let turn_ns = turn * STEP_NS;
                let deadline_ns = world.kernel.machine.now_ns() + turn_ns * (VCPUS as u64 - 1);
                assert_eq!(world.wait(0, own[number], deadline_ns), Next::Enter);
                continue;
            }
        }
        assert_eq!(world.interrupt(0, Interrupt::Alarm), Next::Enter);
    }
    assert!((ran / STEPS).abs_diff(500) <= 30, "turns of {turn}: {} of a thousand", ran / STEPS);
}

/// One that has used its budget up does not keep a domain beside it from the rest of that one's.
#[test]
fn a_budget_is_lent_to_each_that_lacks_it() {
    const STEP_NS: u64 = 500_000;
    const STEPS: u64 = 4000;
    let mut world = World::new(6000, 1);
    let plan = |vcpus_max, budget_ms: u64| DomainParameters {
        vcpus_max,
        budget_ns: budget_ms * 1_000_000,
        ..world.parameters()
    };
    let plans = [plan(1, 10), plan(2, 10), plan(2, 50)];
    for (number, plan) in plans.iter().enumerate() {
        let child = world.spawn(0, plan);
        world.start(0, &child, number as u64);
        if plan.vcpus_max == 2 {
            world.must(0, Request::CreateVcpu { domain: child.domain });
        }
    }
    let vcpu = world.info.vcpu;
    assert_eq!(world.wait(0, vcpu, Request::NEVER), Next::Enter);
    let mut ran = [0; 3];
    let mut sleeps = false;
    for _ in 0..STEPS {
        if !sleeps {
            ran[world.context(0).rdi as usize] += 1000;
        }
        world.pass(STEP_NS);
        let next = if sleeps { world.awake(0) } else { world.interrupt(0, Interrupt::Alarm) };
        sleeps = next == Next::Sleep;
    }
    let near = ran
        .iter()
        .zip([100, 100, 500])
        .all(|(ran, wanted): (&u64, u64)| (ran / STEPS).abs_diff(wanted) <= 15);
    assert!(near, "{ran:?} of {STEPS} thousand");
}

/// Who has used its domain's budget up does not keep others from their CPU while that domain is busy on another.
#[test]
fn a_dispatch_waits_for_no_other_tenants_lock() {
    let mut world = World::new(6000, 1);
    let vcpu = world.info.vcpu;
    let plan = DomainParameters { vcpus_max: 2, budget_ns: 20_000_000, ..world.parameters() };
    let child = world.spawn(0, &plan);
    let id = world.kernel.domains.ids().last().expect("the child");
    world.must(0, Request::CreateVcpu { domain: child.domain });
    world.start(0, &child, 2);
    for number in 0..2 {
        let spinner = world.spawn(0, &DomainParameters { vcpus_max: 1, ..world.parameters() });
        world.start(0, &spinner, number);
    }
    assert_eq!(world.wait(0, vcpu, Request::NEVER), Next::Enter);
    let mut ran_ns = [0u64; 3];
    let mut step = |world: &mut World| {
        ran_ns[world.context(0).rdi as usize] += 500_000;
        world.pass(500_000);
        let World { kernel, cpus, .. } = world;
        let (cpu, context) = &mut cpus[0];
        // As another CPU for a whole piece, once this one has no more to do for that domain until its budget is renewed.
        let _held = (ran_ns[2] == 20_000_000).then(|| kernel.domains.lock(id));
        assert_eq!(kernel.interrupt(cpu, Interrupt::Alarm, context), Next::Enter);
    };
    (0..180).for_each(|_| step(&mut world));
    assert_eq!((ran_ns[0] + ran_ns[1], ran_ns[2]), (70_000_000, 20_000_000));
    assert!(ran_ns[0].abs_diff(ran_ns[1]) <= 5_000_000, "they take turns meanwhile: {ran_ns:?}");
}

/// Two virtual CPUs of one domain, and another domain that computes alone where both are. The first has had the second's part of the budget as well,
/// and sleeps with most of that left: the second has it when it wakes, and not only when its own is renewed.
#[test]
fn who_wakes_has_its_part_of_what_was_lent() {
    const MS: u64 = 1_000_000;
    let mut world = World::new(6000, 1);
    let vcpu = world.info.vcpu;
    let plan = DomainParameters { vcpus_max: 2, budget_ns: 100 * MS, ..world.parameters() };
    let child = world.spawn(0, &plan);
    let second = world.must(0, Request::CreateVcpu { domain: child.domain });
    let grant = Request::Grant { capability: second, rights: Rights::ALL, domain: child.domain };
    let own = [child.own_vcpu, world.must(0, grant)];
    let spinner = world.spawn(0, &DomainParameters { vcpus_max: 1, ..world.parameters() });
    world.start(0, &child, 0);
    world.must(0, Request::Start { vcpu: second, entry: CALL_AT, stack: 0, argument: 1 });
    world.start(0, &spinner, 2);
    // Each sleeps until its time, and the first computes alone until the others begin.
    let own = [own[0], own[1], spinner.own_vcpu];
    let begin_ns = world.kernel.machine.now_ns();
    let until_ns = [Request::NEVER, begin_ns + 60 * MS, begin_ns + 52 * MS];
    let ids: Vec<_> = world.kernel.vcpus.ids().skip(1).collect();
    let mut next = world.wait(0, vcpu, Request::NEVER);
    let mut slept = [false; 3];
    let late_ns = loop {
        let now_ns = world.kernel.machine.now_ns();
        let who = world.cpus[0].0.current.and_then(|current| ids.iter().position(|id| *id == current.vcpu));
        match who {
            Some(1) if slept[1] => break now_ns - until_ns[1],
            Some(who) if !slept[who] && (who != 0 || now_ns >= begin_ns + 51 * MS) => {
                slept[who] = true;
                next = world.wait(0, own[who], until_ns[who]);
                continue;
            }
            Some(0) => world.pass(MS),
            _ => {
                let alarm_ns = world.kernel.machine.state().alarm_ns;
                world.pass(alarm_ns - now_ns);
            }
        }
        next = if next == Next::Sleep { world.awake(0) } else { world.interrupt(0, Interrupt::Alarm) };
    };
    assert_eq!(slept, [true; 3]);
    assert!(late_ns <= MS, "it waited for {late_ns} ns");
}
