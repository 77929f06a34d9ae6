//! Taking back while others go on: nothing new comes in the way, and no piece is long.

use super::{BASE, Child, World};
use crate::capability::Notice;
use crate::kernel::{Cpu, Current, Interrupt, Next};
use crate::machine::{Machine, Walk};
use crate::memory::{LOOKS_PER_ENTRY, MOVES_PER_ENTRY, PIECE_ENTRIES, Refusal};
use crate::table::DomainId;
use crate::tests::CALL_AT;
use crate::tests::audit::audit;
use crate::tree::PIECE_CAPABILITIES;
use abi::{
    Backing, Commit, DomainParameters, DomainState, Error, Handle, PAGE_SIZE, Protection, Request, Rights,
    Sharing, Span,
};
use std::sync::{Arc, Barrier};
use std::vec::Vec;

/// The largest memory, in pages.
const MOST: u64 = Request::MEMORY_BYTES_MAX / PAGE_SIZE;

/// A world where the first domain runs on CPU 0 and its child on CPU 1.
fn beside(child: &DomainParameters) -> (World, Child) {
    let mut world = World::new(9000, 2);
    let child = world.spawn(0, &DomainParameters { vcpus_max: 2, ..*child });
    world.start(0, &child, 0);
    assert_eq!(world.awake(1), Next::Enter);
    (world, child)
}

fn wide(world: &World) -> DomainParameters {
    DomainParameters { memory_bytes: 2500 * PAGE_SIZE, capabilities_max: 2000, ..world.parameters() }
}

fn plans() -> (DomainParameters, DomainParameters) {
    let world = World::new(1000, 1);
    (world.parameters(), wide(&world))
}

fn memory(world: &mut World, pages: u64) -> Handle {
    world.must(0, Request::CreateMemory { domain: world.info.space, bytes: pages * PAGE_SIZE })
}

fn derive(capability: Handle) -> Request {
    Request::Derive { capability, rights: Rights::ALL }
}

fn map(space: Handle, base: u64, pages: u64, backing: Backing) -> Request {
    let span = Span::new(base, pages * PAGE_SIZE);
    Request::Map { space, span, backing, protection: Protection::Read, commit: Commit::OnTouch }
}

fn copied(memory: Handle) -> Backing {
    Backing::Memory { memory, offset: 0, sharing: Sharing::Private }
}

/// Maps a memory as the child does, and touches all of it.
fn use_pages(world: &mut World, child: &Child, memory: Handle, base: u64) {
    world.must(1, map(child.own, base, MOST, copied(memory)));
    for page in (0..MOST).step_by(16) {
        assert_eq!(world.touch(1, base + page * PAGE_SIZE, false), Next::Enter);
    }
}

fn again(world: &World, cpu: usize) -> bool {
    world.context(cpu).rip == CALL_AT - 2
}

fn id_on(world: &World, cpu: usize) -> DomainId {
    world.cpus[cpu].0.current.expect("somebody runs").domain
}

fn counted(world: &World, id: DomainId) -> usize {
    world.kernel.domains.lock(id).expect("it exists").capabilities.count()
}

fn told(world: &World, id: DomainId) -> usize {
    let domain = world.kernel.domains.lock(id).expect("it exists");
    domain.capabilities.iter().filter(|(_, _, held)| held.notice == Notice::Untold).count()
}

fn check(world: &World) {
    let cpus: Vec<&Cpu> = world.cpus.iter().map(|(cpu, _)| cpu).collect();
    audit(&world.kernel, &cpus);
}

#[test]
fn who_is_told_of_a_revocation_derives_no_more() {
    let (mut world, child) = beside(&plans().0);
    let mine = memory(&mut world, 1);
    let channel = world.must(0, Request::CreateChannel { domain: world.info.space, bytes: 0 });
    let rights = Rights::ALL;
    let [theirs, end] = [mine, channel]
        .map(|capability| world.must(0, Request::Grant { capability, rights, domain: child.domain }));
    let before = world.must(1, derive(theirs));
    for (revoked, held) in [(mine, theirs), (channel, end)] {
        let deadline_ns = world.kernel.machine.state().now_ns + 1000;
        assert_eq!(world.once(0, Request::Revoke { capability: revoked, deadline_ns }), Next::Sleep);
        check(&world);
        let mut requests =
            std::vec![derive(held), Request::Grant { capability: held, rights, domain: child.own },];
        requests.push(if held == end { Request::OtherEnd { channel: end } } else { derive(before) });
        for request in requests {
            assert_eq!(world.call(1, request), Err(Error::Busy), "its holder would not be told");
        }
        // Nor does who revokes it, on another of its virtual CPUs.
        let (vcpu, domain) = {
            let first = world.kernel.first.expect("there is one");
            (world.kernel.domains.lock(first).expect("it lives").vcpus[0].expect("there is one"), first)
        };
        let mut other = Cpu::new(2);
        other.current = Some(Current { vcpu, domain });
        let refused = world.kernel.serve(&other, derive(revoked)).err();
        assert_eq!(refused, Some(Refusal::Error(Error::Busy)));
        check(&world);
        let told: Vec<Handle> = core::iter::from_fn(|| {
            world.call(1, Request::NextRevoked { domain: child.own }).ok().map(Handle::from_raw)
        })
        .collect();
        assert_eq!(told.contains(&before), revoked == mine, "{told:?}");
        assert!(told.contains(&held), "{told:?}");
        told.into_iter().for_each(|capability| _ = world.must(1, Request::Release { capability }));
        assert_eq!(world.awake(0), Next::Enter);
        assert_eq!(world.call(0, Request::Revoke { capability: revoked, deadline_ns }), Ok(0));
        world.must(0, derive(revoked));
    }
    check(&world);
}

#[test]
fn nothing_is_derived_from_what_is_being_taken() {
    let (mut world, child) = beside(&plans().1);
    let mine = memory(&mut world, 1);
    let grant = Request::Grant { capability: mine, rights: Rights::ALL, domain: child.domain };
    let theirs = world.must(0, grant);
    let held: Vec<Handle> = (0..3 * PIECE_CAPABILITIES).map(|_| world.must(1, derive(theirs))).collect();
    let id = id_on(&world, 1);
    let before = counted(&world, id);
    for request in
        [Request::Revoke { capability: mine, deadline_ns: 0 }, Request::Release { capability: mine }]
    {
        let theirs = if counted(&world, id) == before { theirs } else { world.must(0, grant) };
        (counted(&world, id)..before).for_each(|_| _ = world.must(1, derive(theirs)));
        assert_eq!(world.once(0, request), Next::Enter);
        assert!(again(&world, 0), "there is more to take");
        let taken = before - counted(&world, id);
        assert!((1..=PIECE_CAPABILITIES).contains(&taken), "{taken} in one piece");
        assert_eq!(world.call(1, derive(theirs)), Err(Error::Busy), "it would go on for ever");
        assert_eq!(world.call(0, request), Ok(0));
        check(&world);
    }
    assert_eq!(world.call(1, derive(held[0])), Err(Error::StaleHandle));
    assert_eq!(world.call(0, derive(mine)), Err(Error::StaleHandle));
}

/// Four times as many pages as are unmapped in one piece, or nearly: by one capability, and by several.
#[test]
fn what_is_mapped_by_many_goes_in_small_pieces() {
    for count in [1, 4] {
        let (mut world, child) = beside(&plans().1);
        let mine = memory(&mut world, MOST);
        let grant = Request::Grant { capability: mine, rights: Rights::ALL, domain: child.domain };
        let theirs: Vec<Handle> = (0..count).map(|_| world.must(0, grant)).collect();
        let bases: Vec<u64> = (0..4).map(|at| BASE + (at << 23)).collect();
        for (&base, memory) in bases.iter().zip(theirs.iter().cycle()) {
            use_pages(&mut world, &child, *memory, base);
        }
        let id = id_on(&world, 1);
        let mapped = |world: &World| {
            world.kernel.domains.lock(id).expect("it lives").space.tables.pages().count() as u64
        };
        let mut before = mapped(&world);
        assert_eq!(before, 4 * MOST);
        let revoke = Request::Revoke { capability: mine, deadline_ns: 0 };
        let mut pieces = 0;
        loop {
            assert!(matches!(world.once(0, revoke), Next::Enter | Next::Return));
            let now = mapped(&world);
            let gone = (before - now) as usize;
            assert!(gone <= PIECE_ENTRIES / Walk::PAGE_ENTRIES, "{gone} pages in one piece");
            before = now;
            pieces += 1;
            if !again(&world, 0) {
                break;
            }
            // What is left cannot be mapped elsewhere, lest it never end.
            let left = bases.iter().find(|&&base| world.frame(1, base + (MOST - 1) * PAGE_SIZE).is_some());
            if let (1, Some(&source)) = (count, left) {
                let image = map(child.own, BASE + (1 << 32), 1, Backing::Image { source });
                assert_eq!(world.call(1, image), Err(Error::Busy));
            }
        }
        assert!(pieces > 1 && before == 0, "{before} pages are left after {pieces} pieces");
        check(&world);
    }
}

/// As many regions as there can be, none of them touched: all by one capability; and others behind those, which move up.
#[test]
fn regions_that_were_never_touched_go_in_small_pieces() {
    const COUNT: usize = abi::REGIONS_MAX as usize;
    for others in [0, COUNT / 2] {
        let plan = DomainParameters { regions_max: COUNT as u64, ..plans().1 };
        let (mut world, child) = beside(&plan);
        let [mine, other] = [0; 2].map(|_| memory(&mut world, 1));
        let [theirs, last] = [mine, other].map(|capability| {
            world.must(0, Request::Grant { capability, rights: Rights::ALL, domain: child.domain })
        });
        for at in 0..COUNT {
            let base = BASE + 2 * at as u64 * PAGE_SIZE;
            let by = if at < COUNT - others { theirs } else { last };
            world.must(1, map(child.own, base, 1, copied(by)));
        }
        let id = id_on(&world, 1);
        let counted = |world: &World| world.kernel.domains.lock(id).expect("it lives").space.regions.count();
        let release = Request::Release { capability: theirs };
        let mut pieces = 0;
        loop {
            let before = counted(&world);
            _ = world.once(1, release);
            let moved = (before - counted(&world)) * others;
            assert!(moved <= PIECE_ENTRIES * MOVES_PER_ENTRY + COUNT, "{moved} moved in one piece");
            pieces += 1;
            if !again(&world, 1) {
                break;
            }
        }
        assert_eq!((world.context(1).rax, counted(&world)), (0, others));
        assert!(others > 0 || pieces <= 10, "{pieces} pieces, though none has to move");
        check(&world);
    }
}

/// To look through regions for those of a capability takes its time, also if there are none.
#[test]
fn regions_are_looked_through_in_small_pieces() {
    const COUNT: usize = abi::REGIONS_MAX as usize;
    const HELD: usize = 40;
    let plan = DomainParameters { regions_max: COUNT as u64, ..plans().1 };
    let (mut world, child) = beside(&plan);
    let [mine, other] = [0; 2].map(|_| memory(&mut world, 1));
    let [theirs, last] = [mine, other].map(|capability| {
        world.must(0, Request::Grant { capability, rights: Rights::ALL, domain: child.domain })
    });
    let held: Vec<Handle> = (0..HELD).map(|_| world.must(1, derive(theirs))).collect();
    for at in 0..COUNT {
        let base = BASE + 2 * at as u64 * PAGE_SIZE;
        let by = held.get(at).copied().unwrap_or(last);
        world.must(1, map(child.own, base, 1, copied(by)));
    }
    let id = id_on(&world, 1);
    let revoke = Request::Revoke { capability: mine, deadline_ns: 0 };
    loop {
        let before = counted(&world, id);
        _ = world.once(0, revoke);
        let looked = (before - counted(&world, id)) * (COUNT - HELD);
        assert!(looked <= PIECE_ENTRIES * LOOKS_PER_ENTRY + COUNT, "{looked} looked at in one piece");
        if !again(&world, 0) {
            break;
        }
    }
    check(&world);
}

/// Who gives a capability back that much hangs on asks again until it is gone.
#[test]
fn what_is_given_back_in_pieces_is_given_back() {
    let (mut world, child) = beside(&plans().1);
    let mine = memory(&mut world, MOST);
    let grant = Request::Grant { capability: mine, rights: Rights::ALL, domain: child.domain };
    let theirs = world.must(0, grant);
    let below: Vec<Handle> = (0..3 * PIECE_CAPABILITIES).map(|_| world.must(1, derive(theirs))).collect();
    (0..4).for_each(|at| use_pages(&mut world, &child, theirs, BASE + (at << 23)));
    let id = id_on(&world, 1);
    let before = counted(&world, id);
    let release = Request::Release { capability: theirs };
    assert_eq!(world.once(1, release), Next::Enter);
    assert!(again(&world, 1));
    check(&world);
    assert_eq!(world.call(1, derive(theirs)), Err(Error::StaleHandle), "it is going");
    let mut pieces = 1;
    loop {
        let above = below.iter().filter(|below| is_below(&world, id, **below, mine)).count();
        _ = world.once(1, release);
        let moved = below.iter().filter(|below| is_below(&world, id, **below, mine)).count() - above;
        assert!(moved <= PIECE_CAPABILITIES, "{moved} were moved in one piece");
        check(&world);
        pieces += 1;
        if !again(&world, 1) {
            break;
        }
    }
    assert!(pieces > 4, "{pieces}");
    assert_eq!((world.context(1).rax, counted(&world, id)), (0, before - 1));
    assert_eq!(world.call(1, release), Err(Error::StaleHandle));
    // In the same order as they were.
    let revoke = Request::Revoke { capability: mine, deadline_ns: 0 };
    _ = world.once(0, revoke);
    let mut domain = world.kernel.domains.lock(id).expect("it lives");
    assert!(domain.capabilities.find(below[0], Rights::NONE).is_ok(), "the newest go first");
    assert!(domain.capabilities.find(*below.last().expect("many"), Rights::NONE).is_err());
    assert!(domain.capabilities.slot(0).is_some());
}

/// Whether a capability of a domain hangs directly on one of the first domain's.
fn is_below(world: &World, id: DomainId, handle: Handle, above: Handle) -> bool {
    let parent = {
        let domain = world.kernel.domains.lock(id).expect("it lives");
        domain.capabilities.find(handle, Rights::NONE).expect("it stays").1.parent
    };
    parent.is_some_and(|parent| Some(parent.domain) == world.kernel.first && parent.slot == above.index())
}

#[test]
fn holders_are_told_in_small_pieces() {
    let (mut world, child) = beside(&plans().1);
    let mine = memory(&mut world, 1);
    let grant = Request::Grant { capability: mine, rights: Rights::ALL, domain: child.domain };
    let mut last = world.must(0, grant);
    let mut held = std::vec![last];
    for count in 0..10 * PIECE_CAPABILITIES {
        let new = world.must(1, derive(last));
        held.push(new);
        last = if count % 3 == 0 && count < 99 { new } else { last };
    }
    let id = id_on(&world, 1);
    let revoke = Request::Revoke { capability: mine, deadline_ns: 1000 };
    let mut before = 0;
    for piece in 0.. {
        let next = world.once(0, revoke);
        let now = told(&world, id);
        assert!(now - before <= PIECE_CAPABILITIES, "{} told in one piece", now - before);
        before = now;
        check(&world);
        if next == Next::Sleep {
            break;
        }
        assert!(again(&world, 0));
        // One that was told goes, and one that was not: those below them are told all the same.
        if piece < 4 {
            for at in [held.len() - 1, piece * 3] {
                let gone = held.remove(at);
                before -= usize::from(is_told(&world, id, gone));
                world.must(1, Request::Release { capability: gone });
            }
        }
    }
    assert_eq!(before, held.len(), "all of them");
}

/// The next to be told is being given back, and some of what was derived from it has come before it.
#[test]
fn who_comes_to_be_before_the_next_is_told() {
    let (mut world, child) = beside(&plans().1);
    let mine = memory(&mut world, 1);
    let theirs =
        world.must(0, Request::Grant { capability: mine, rights: Rights::ALL, domain: child.domain });
    let next = world.must(1, derive(theirs));
    (0..2 * PIECE_CAPABILITIES).for_each(|_| _ = world.must(1, derive(next)));
    // With the two above, a piece.
    (2..PIECE_CAPABILITIES).for_each(|_| _ = world.must(1, derive(theirs)));
    let revoke = Request::Revoke { capability: mine, deadline_ns: 1000 };
    assert_eq!(world.once(0, revoke), Next::Enter);
    assert_eq!(told(&world, id_on(&world, 1)), PIECE_CAPABILITIES - 1);
    assert_eq!(world.once(1, Request::Release { capability: next }), Next::Enter);
    assert!(again(&world, 1));
    while world.once(0, revoke) != Next::Sleep {}
    check(&world);
}

fn is_told(world: &World, id: DomainId, handle: Handle) -> bool {
    let domain = world.kernel.domains.lock(id).expect("it lives");
    domain.capabilities.find(handle, Rights::NONE).expect("it is there").1.notice == Notice::Untold
}

/// A domain that is ended is stopped before those that it made are taken back: else it would make others.
#[test]
fn a_domain_that_is_ended_makes_no_more() {
    let (narrow, wide) = plans();
    let (mut world, child) = beside(&DomainParameters { domains_max: 2, ..wide });
    world.map_zero(1, child.own, super::SCRATCH, 1);
    assert_eq!(world.touch(1, super::SCRATCH, true), Next::Enter);
    let frame = world.frame(1, super::SCRATCH).expect("touched");
    let grandchild =
        DomainParameters { capabilities_max: 200, domains_max: 0, objects_max: 0, vcpus_max: 1, ..narrow };
    world.kernel.machine.write_words(frame, 0, &grandchild.to_words());
    let create = Request::CreateDomain { parent: child.own, parameters: super::SCRATCH };
    let domain = world.must(1, create);
    for _ in 0..2 * PIECE_CAPABILITIES {
        world.must(1, Request::Grant { capability: child.own, rights: Rights::NONE, domain });
    }
    let id = id_on(&world, 1);
    let end = Request::End { domain: child.domain, status: 0 };
    assert_eq!(world.once(0, end), Next::Enter);
    assert!(again(&world, 0));
    assert_eq!(world.kernel.domains.lock(id).expect("not yet").state, DomainState::Ended);
    assert_eq!(world.interrupt(1, Interrupt::Kick), Next::Sleep, "it does not run any more");
    check(&world);
    world.must(0, end);
    assert_eq!(world.kernel.domains.ids().count(), 1);
}

/// A domain ends while another CPU makes a virtual CPU of it, between the kernel's first look and its last.
#[test]
fn a_domain_that_has_ended_gets_no_virtual_cpu() {
    let (mut world, child) = beside(&plans().0);
    let vcpus = world.kernel.vcpus.ids().count();
    let before = world.accounts();
    let meanwhile = Arc::new(Barrier::new(2));
    world.kernel.machine.state().meanwhile = Some(Arc::clone(&meanwhile));
    let World { kernel, cpus, .. } = &mut world;
    let [(maker, _), (ending, context)] = &mut cpus[..] else { panic!("two CPUs") };
    let made = std::thread::scope(|scope| {
        let make = scope.spawn(|| kernel.serve(maker, Request::CreateVcpu { domain: child.domain }).err());
        meanwhile.wait();
        let registers = Request::End { domain: child.own, status: 0 }.encode();
        let [rdi, rsi, ..] = registers.arguments;
        *context = abi::Context { rax: registers.number, rdi, rsi, rip: CALL_AT, ..*context };
        assert_eq!(kernel.system_call(ending, context), Next::Sleep);
        meanwhile.wait();
        make.join().expect("it does not panic")
    });
    assert_eq!(made, Some(Refusal::Error(Error::StaleHandle)));
    assert_eq!(
        (world.kernel.vcpus.ids().count(), world.accounts()),
        (vcpus, before),
        "nothing is left of it"
    );
    check(&world);
}

/// Who has less than it takes to use a device disturbs nobody by giving that up; nor does who has another capability that allows as much.
#[test]
fn a_device_goes_on_for_who_still_has_it() {
    let mut world = World::new(4000, 1);
    let [pci, clock] = [0, 1].map(|index| world.info.devices[index].handle);
    let child = world.spawn(0, &world.parameters());
    let give = |world: &mut World, capability, rights| {
        world.must(0, Request::Grant { capability, rights, domain: child.domain })
    };
    let looks = [pci, clock].map(|device| give(&mut world, device, Rights::OBSERVE.union(Rights::LISTEN)));
    let uses = [Rights::MAP, Rights::CONTROL, Rights::ALL].map(|rights| give(&mut world, pci, rights));
    let maps = [0, 1].map(|_| give(&mut world, clock, Rights::MAP));
    let controls = give(&mut world, clock, Rights::CONTROL);
    world.must(0, Request::WriteConfig { device: pci, offset: 4, value: 7 });
    world.start(0, &child, 0);
    assert_eq!(world.wait(0, world.info.vcpu, Request::NEVER), Next::Enter);
    world.must(0, Request::OpenPorts { device: maps[0] });
    let id = world.kernel.domains.ids().nth(1).expect("the child");
    let mut give_up = |capability| {
        world.must(0, Request::Release { capability });
        let domain = world.kernel.domains.lock(id).expect("it lives");
        let commands = world.kernel.machine.state().configuration[&4];
        (commands, domain.space.tables.open_ports)
    };
    for capability in looks.into_iter().chain([uses[0], uses[2], maps[1]]) {
        assert_eq!(give_up(capability), (7, 1));
    }
    assert_eq!(give_up(maps[0]), (7, 0), "it may not map the clock any more");
    assert_eq!(give_up(controls), (7, 0));
    assert_eq!(give_up(uses[1]), (3, 0), "what it told the device may concern its memory");
}
