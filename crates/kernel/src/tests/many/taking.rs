//! Taking back while others go on: nothing new comes in the way, and no piece is long.

use super::{Child, World};
use crate::kernel::{Cpu, Next};
use crate::memory::Refusal;
use crate::tests::CALL_AT;
use crate::tests::audit::audit;
use abi::{DomainParameters, Error, Request};
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

fn check(world: &World) {
    let cpus: Vec<&Cpu> = world.cpus.iter().map(|(cpu, _)| cpu).collect();
    audit(&world.kernel, &cpus);
}

/// A domain ends while another CPU makes a virtual CPU of it, between the kernel's first look and its last.
#[test]
fn a_domain_that_has_ended_gets_no_virtual_cpu() {
    let (mut world, child) = beside(&World::new(1000, 1).parameters());
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
