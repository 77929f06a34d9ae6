//! Taking back while others go on: nothing new comes in the way, and no piece is long.

use super::{Child, World};
use crate::kernel::{Cpu, Interrupt, Next};
use crate::machine::Machine;
use crate::memory::Refusal;
use crate::table::DomainId;
use crate::tests::CALL_AT;
use crate::tests::audit::audit;
use crate::tree::PIECE_CAPABILITIES;
use abi::{DomainParameters, DomainState, Error, PAGE_SIZE, Request, Rights};
use std::sync::{Arc, Barrier};
use std::vec::Vec;

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

fn again(world: &World, cpu: usize) -> bool {
    world.context(cpu).rip == CALL_AT - 2
}

fn id_on(world: &World, cpu: usize) -> DomainId {
    world.cpus[cpu].0.current.expect("somebody runs").domain
}

fn check(world: &World) {
    let cpus: Vec<&Cpu> = world.cpus.iter().map(|(cpu, _)| cpu).collect();
    audit(&world.kernel, &cpus);
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
