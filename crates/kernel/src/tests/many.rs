//! Several domains on several CPUs.

mod limits;
mod taking;
mod trace;

use super::{BASE, CALL_AT, RESERVE, devices, module};
use crate::fake::{Deadlock, Fake};
use crate::kernel::{Cpu, Fault, Interrupt, Kernel, Next, PAGE_FAULT};
use crate::machine::{Access, Frame, Machine, Page};
use crate::start::{BootModule, start};
use abi::boot::{BootInfo, ClockParameters};
use abi::upcall::Kind;
use abi::{
    Backing, Commit, Context, DomainParameters, DomainRecord, DomainState, Error, Handle, Marks, PAGE_SIZE,
    Protection, Request, Rights, Sharing, Span, mark,
};
use std::string::String;
use std::vec::Vec;

/// Where everyone has a page of scratch.
const SCRATCH: u64 = BASE;

/// A machine whose CPUs the test plays, one call at a time. What each has in its registers tells who runs there.
struct World {
    kernel: Kernel<Fake>,
    info: BootInfo,
    cpus: Vec<(Cpu, Context)>,
}

impl World {
    fn new(frames: u64, cpus: usize) -> Self {
        let module = module();
        let fake = Fake::<Deadlock>::new(frames + RESERVE, &module, cpus);
        let given = BootModule { address: 0, bytes: &module };
        let kernel = start(fake, Some(given), devices(), ClockParameters::default()).expect("it starts");
        let info = kernel.machine.state().info.expect("it was published");
        let cpus = (0..cpus).map(|number| (Cpu::new(number), Context::default())).collect();
        let mut world = Self { kernel, info, cpus };
        assert_eq!(world.awake(0), Next::Enter);
        (1..world.cpus.len()).for_each(|cpu| assert_eq!(world.awake(cpu), Next::Sleep));
        world
    }

    fn awake(&mut self, cpu: usize) -> Next {
        let (cpu, context) = &mut self.cpus[cpu];
        self.kernel.awake(cpu, context)
    }

    fn interrupt(&mut self, cpu: usize, interrupt: Interrupt) -> Next {
        let (cpu, context) = &mut self.cpus[cpu];
        self.kernel.interrupt(cpu, interrupt, context)
    }

    /// Makes a request as whoever runs on a CPU, once.
    fn once(&mut self, cpu: usize, request: Request) -> Next {
        let (cpu, context) = &mut self.cpus[cpu];
        let registers = request.encode();
        let [rdi, rsi, rdx, r10, r8, r9] = registers.arguments;
        *context = Context { rax: registers.number, rdi, rsi, rdx, r10, r8, r9, rip: CALL_AT, ..*context };
        self.kernel.system_call(cpu, context)
    }

    /// The same, as often as the kernel asks for it.
    fn call(&mut self, cpu: usize, request: Request) -> Result<u64, Error> {
        let mut next = self.once(cpu, request);
        while next == Next::Enter && self.context(cpu).rip == CALL_AT - 2 {
            let (cpu, context) = &mut self.cpus[cpu];
            context.rip = CALL_AT;
            next = self.kernel.system_call(cpu, context);
        }
        assert!(matches!(next, Next::Return | Next::Enter), "{request:?}: {next:?}");
        match Error::from_code(self.context(cpu).rax) {
            Some(error) => Err(error),
            None => Ok(self.context(cpu).rdx),
        }
    }

    #[track_caller]
    fn must(&mut self, cpu: usize, request: Request) -> Handle {
        match self.call(cpu, request) {
            Ok(value) => Handle::from_raw(value),
            Err(error) => panic!("{request:?}: {error:?}"),
        }
    }

    fn context(&self, cpu: usize) -> &Context {
        &self.cpus[cpu].1
    }

    /// Who runs on a CPU: its first argument.
    fn touch(&mut self, cpu: usize, address: u64, write: bool) -> Next {
        let (cpu, context) = &mut self.cpus[cpu];
        let fault = Fault { vector: PAGE_FAULT, error: 4 | u64::from(write) << 1, address };
        self.kernel.fault(cpu, fault, context)
    }

    /// The frame behind an address of whoever runs on a CPU.
    fn frame(&self, cpu: usize, address: u64) -> Option<Frame> {
        let domain = self.cpus[cpu].0.current?.domain;
        let domain = self.kernel.domains.lock(domain)?;
        let mapping = self.kernel.machine.mapping(&domain.space.tables, Page::containing(address))?;
        Some(mapping.frame)
    }

    /// An access of whoever runs on a CPU, with what the CPU notes.
    fn access(&mut self, cpu: usize, address: u64, access: Access) {
        assert_eq!(self.touch(cpu, address, access == Access::Write), Next::Enter);
        let current = self.cpus[cpu].0.current.expect("somebody runs");
        let mut domain = self.kernel.domains.lock(current.domain).expect("it lives");
        domain.space.tables.note(Page::containing(address), access);
    }

    fn map_zero(&mut self, cpu: usize, space: Handle, base: u64, pages: u64) {
        let span = Span::new(base, pages * PAGE_SIZE);
        let protection = Protection::ReadWrite;
        self.must(
            cpu,
            Request::Map { space, span, backing: Backing::Zero, protection, commit: Commit::OnTouch },
        );
    }

    fn parameters(&self) -> DomainParameters {
        DomainParameters {
            name: DomainParameters::name_of("child"),
            memory_bytes: 200 * PAGE_SIZE,
            capabilities_max: 20,
            regions_max: 30,
            vcpus_max: 2,
            objects_max: 4,
            domains_max: 2,
            share: 100,
            budget_ns: 0,
            cpus: 0,
        }
    }

    /// Makes a domain as the first one, which runs on `cpu`.
    fn create(&mut self, cpu: usize, parameters: &DomainParameters) -> Result<Handle, Error> {
        let space = self.info.space;
        self.map_zero(cpu, space, SCRATCH, 1);
        assert_eq!(self.touch(cpu, SCRATCH, true), Next::Enter);
        let frame = self.frame(cpu, SCRATCH).expect("touched");
        self.kernel.machine.write_words(frame, 0, &parameters.to_words());
        self.call(cpu, Request::CreateDomain { parent: space, parameters: SCRATCH }).map(Handle::from_raw)
    }

    /// Makes a domain with a running virtual CPU that finds its handles of both in `rdi` and `rsi`'s place: the first and second of its table.
    fn spawn(&mut self, cpu: usize, parameters: &DomainParameters) -> Child {
        let domain = self.create(cpu, parameters).expect("it is made");
        let own = self.must(cpu, Request::Grant { capability: domain, rights: Rights::ALL, domain });
        let vcpu = self.must(cpu, Request::CreateVcpu { domain });
        let own_vcpu = self.must(cpu, Request::Grant { capability: vcpu, rights: Rights::ALL, domain });
        Child { domain, vcpu, own, own_vcpu }
    }

    fn start(&mut self, cpu: usize, child: &Child, argument: u64) {
        self.must(cpu, Request::Start { vcpu: child.vcpu, entry: 0x1000, stack: 0x2000, argument });
    }

    fn record(&mut self, cpu: usize, object: Handle) -> DomainRecord {
        let space = self.info.space;
        self.map_zero(cpu, space, SCRATCH, 1);
        let into = Span::new(SCRATCH, PAGE_SIZE);
        self.must(cpu, Request::Inspect { object, index: 0, into });
        let mut words = [0; DomainRecord::WORDS];
        self.kernel.machine.read_words(self.frame(cpu, SCRATCH).expect("written"), 0, &mut words);
        let [state, status, vector, error, address, rip, out_of_memory, memory_bytes, ..] = words;
        DomainRecord {
            state,
            status,
            vector,
            error,
            address,
            rip,
            out_of_memory,
            memory_bytes,
            ..Default::default()
        }
    }

    /// Free frames and what the first domain is charged.
    fn accounts(&self) -> (u64, u64) {
        let first = self.kernel.domains.lock(self.kernel.first.expect("there is one")).expect("it lives");
        (self.kernel.machine.free_count(), first.space.used)
    }

    fn pass(&self, ns: u64) {
        self.kernel.machine.state().now_ns += ns;
    }

    /// Lets CPU 0 go to whoever else wants it: the first domain waits.
    fn wait(&mut self, cpu: usize, vcpu: Handle, deadline_ns: u64) -> Next {
        self.once(cpu, Request::Wait { vcpu, deadline_ns })
    }
}

/// A domain that the first one made, by its handles and the domain's own.
struct Child {
    domain: Handle,
    vcpu: Handle,
    own: Handle,
    own_vcpu: Handle,
}

#[test]
fn a_child_runs_ends_and_leaves_nothing() {
    let mut world = World::new(4000, 1);
    let parameters = world.parameters();
    let vcpu = world.info.vcpu;
    world.map_zero(0, world.info.space, SCRATCH, 1);
    assert_eq!(world.touch(0, SCRATCH, true), Next::Enter);
    let before = world.accounts();
    for round in 0..3 {
        let child = world.spawn(0, &parameters);
        world.must(0, Request::Listen { source: child.domain, index: 0, vcpu, event: 7 });
        world.start(0, &child, 5);
        assert_eq!(world.wait(0, vcpu, Request::NEVER), Next::Enter);
        assert_eq!((world.context(0).rip, world.context(0).rdi), (0x1000, 5), "the child runs");
        world.map_zero(0, child.own, BASE, 20);
        (0..20).for_each(|page| assert_eq!(world.touch(0, BASE + page * PAGE_SIZE, true), Next::Enter));
        world.must(0, Request::CreateMemory { domain: child.own, bytes: 3 * PAGE_SIZE });
        world.must(0, Request::CreateChannel { domain: child.own, bytes: PAGE_SIZE });
        // It ends in one of three ways.
        let next = match round {
            0 => world.once(0, Request::End { domain: child.own, status: 42 }),
            1 => world.touch(0, 0x6000_0000_0000, true),
            _ => {
                world.must(0, Request::SetTimer { vcpu: child.own_vcpu, deadline_ns: 5 });
                world.pass(10);
                world.once(0, Request::Wait { vcpu: child.own_vcpu, deadline_ns: Request::NEVER })
            }
        };
        if round == 2 {
            // A tick that is due ended its wait at once: it still lives, and is killed.
            assert_eq!((next, world.context(0).rax), (Next::Enter, 0));
            assert_eq!(
                world.once(0, Request::Wait { vcpu: child.own_vcpu, deadline_ns: Request::NEVER }),
                Next::Sleep
            );
            let (_, mut waiting) = (0, world.kernel.vcpus.ids());
            let first = waiting.next().expect("the first domain's");
            drop(waiting);
            world.kernel.raise(&world.cpus[0].0, first, 1);
            assert_eq!(world.awake(0), Next::Enter);
            assert_eq!(world.context(0).rdx, 1 << 1);
        } else {
            assert_eq!((next, world.context(0).rdx), (Next::Enter, 1 << 7), "its parent is told");
            let record = world.record(0, child.domain);
            if round == 0 {
                assert_eq!((record.state, record.status), (DomainState::Ended as u64, 42));
            } else {
                assert_eq!((record.state, record.vector), (DomainState::Faulted as u64, 14));
                assert_eq!(record.address, 0x6000_0000_0000);
            }
            assert!(record.memory_bytes >= 25 * PAGE_SIZE);
        }
        world.must(0, Request::End { domain: child.domain, status: 0 });
        for handle in [child.domain, child.vcpu] {
            let refused = world.call(0, Request::Derive { capability: handle, rights: Rights::ALL });
            assert_eq!(refused, Err(Error::StaleHandle));
        }
        assert_eq!(world.accounts(), before, "round {round}");
    }
    let printed = String::from_utf8_lossy(&world.kernel.machine.state().printed).into_owned();
    let said = |line: &str| printed.lines().filter(|said| said.starts_with(line)).count();
    assert_eq!(said("warn: the domain child ended: exception 14"), 1, "{printed}");
    assert_eq!((said("debug: made the domain child"), said("debug: took back the domain child")), (3, 3));
}

#[test]
fn quotas_come_out_of_the_parents() {
    let mut world = World::new(4000, 1);
    let good = world.parameters();
    let left = {
        let first = world.kernel.domains.lock(world.kernel.first.expect("there is one")).expect("it lives");
        first.space.quota - first.space.used
    };
    let with = |change: fn(&mut DomainParameters, u64)| {
        let mut parameters = good;
        change(&mut parameters, left);
        parameters
    };
    let cases: [(DomainParameters, Error); 9] = [
        (with(|p, left| p.memory_bytes = (left + 1) * PAGE_SIZE), Error::NoMemory),
        (with(|p, _| p.memory_bytes = PAGE_SIZE), Error::NoMemory),
        (with(|p, _| p.memory_bytes = u64::MAX), Error::NoMemory),
        (with(|p, _| p.capabilities_max = 1 << 17), Error::Malformed),
        (with(|p, _| p.regions_max = u64::MAX), Error::Malformed),
        (with(|p, _| p.share = 0), Error::Malformed),
        (with(|p, _| p.vcpus_max = 17), Error::Malformed),
        (with(|p, _| p.domains_max = 255), Error::TableFull),
        (with(|p, _| p.objects_max = u64::MAX), Error::TableFull),
    ];
    world.map_zero(0, world.info.space, SCRATCH, 1);
    assert_eq!(world.touch(0, SCRATCH, true), Next::Enter);
    let before = world.accounts();
    for (parameters, error) in cases {
        assert_eq!(world.create(0, &parameters), Err(error), "{parameters:?}");
        assert_eq!(world.touch(0, SCRATCH, true), Next::Enter);
        assert_eq!(world.accounts(), before, "nothing was taken");
    }
    let child = world.create(0, &good).expect("it fits");
    assert_eq!(world.touch(0, SCRATCH, true), Next::Enter);
    assert_eq!(world.accounts().1, before.1 + 200);
    world.must(0, Request::CreateVcpu { domain: child });
    world.must(0, Request::CreateVcpu { domain: child });
    assert_eq!(world.call(0, Request::CreateVcpu { domain: child }), Err(Error::TableFull));
    // The parent maps for it, at the child's cost.
    let span = Span::new(0x1000_0000, 300 * PAGE_SIZE);
    let request = Request::Map {
        space: child,
        span,
        backing: Backing::Zero,
        protection: Protection::ReadWrite,
        commit: Commit::Now,
    };
    assert_eq!(world.call(0, request), Err(Error::NoMemory));
    world.must(0, Request::End { domain: child, status: 0 });
    assert_eq!(world.touch(0, SCRATCH, true), Next::Enter);
    assert_eq!(world.accounts(), before);
}

#[test]
fn the_boot_module_is_not_given_back() {
    let mut world = World::new(4000, 1);
    let capability = world.info.module_memory;
    assert_eq!(world.touch(0, 0x1000_1000, false), Next::Enter);
    assert_eq!(world.call(0, Request::Release { capability }), Err(Error::Busy));
    assert!(world.frame(0, 0x1000_1000).is_some(), "what the first domain runs");
}

#[test]
fn memory_is_shared_and_copied_between_domains() {
    let mut world = World::new(4000, 1);
    let space = world.info.space;
    let memory = world.must(0, Request::CreateMemory { domain: space, bytes: 2 * PAGE_SIZE });
    let child = world.spawn(0, &world.parameters());
    let readable = Rights::MAP.union(Rights::OBSERVE);
    let theirs = world.must(0, Request::Grant { capability: memory, rights: readable, domain: child.domain });
    let map = |space, memory, base, sharing, protection| Request::Map {
        space,
        span: Span::new(base, 2 * PAGE_SIZE),
        backing: Backing::Memory { memory, offset: 0, sharing },
        protection,
        commit: Commit::OnTouch,
    };
    let (shared, private) = (BASE + (1 << 30), BASE + (2 << 30));
    world.must(0, map(space, memory, shared, Sharing::Shared, Protection::ReadWrite));
    world.must(0, map(space, memory, private, Sharing::Private, Protection::ReadWrite));
    assert_eq!(world.touch(0, shared, true), Next::Enter);
    let frame = world.frame(0, shared).expect("mapped");
    world.kernel.machine.write(frame, 0, &[7]);
    assert_eq!(world.touch(0, private, false), Next::Enter);
    assert_eq!(world.frame(0, private), Some(frame), "shared until it is written");
    assert_eq!(world.touch(0, private, true), Next::Enter);
    assert_ne!(world.frame(0, private), Some(frame), "and then a copy");
    // The parent maps a page of it into the child as well, the child does it by its own handle.
    world.must(0, map(child.domain, memory, 0x1000_0000, Sharing::Private, Protection::ReadWrite));
    world.start(0, &child, 0);
    let vcpu = world.info.vcpu;
    assert_eq!(world.wait(0, vcpu, Request::NEVER), Next::Enter);
    let refused = world.call(0, map(child.own, theirs, shared, Sharing::Shared, Protection::ReadWrite));
    assert_eq!(refused, Err(Error::Protection), "it has no right to write");
    world.must(0, map(child.own, theirs, shared, Sharing::Shared, Protection::Read));
    let span = Span::new(shared, PAGE_SIZE);
    let protect = Request::Protect { space: child.own, span, protection: Protection::ReadWrite };
    assert_eq!(world.call(0, protect), Err(Error::Protection));
    assert_eq!(world.touch(0, shared, false), Next::Enter);
    assert_eq!(world.frame(0, shared), Some(frame));
    assert_eq!(world.touch(0, 0x1000_0000, true), Next::Enter);
    let copy = world.frame(0, 0x1000_0000).expect("a copy");
    assert_ne!(copy, frame);
    let mut byte = [0];
    world.kernel.machine.read(copy, 0, &mut byte);
    assert_eq!(byte, [7]);
    // The memory goes, and everything that was mapped by it, wherever.
    raise_first(&world, 0, 3);
    assert_eq!(
        world.once(0, Request::Wait { vcpu: child.own_vcpu, deadline_ns: Request::NEVER }),
        Next::Enter
    );
    assert_eq!(world.context(0).rdx, 1 << 3, "the first domain runs");
    world.must(0, Request::Release { capability: memory });
    assert_eq!((world.frame(0, shared), world.frame(0, private)), (None, None));
    for id in world.kernel.domains.ids() {
        let domain = world.kernel.domains.lock(id).expect("it lives");
        let reaches =
            |(_, mapping): (Page, crate::machine::Mapping)| mapping.frame == frame || mapping.frame == copy;
        assert!(!domain.space.tables.pages().any(reaches));
    }
}

/// An event of the first domain is raised by what happens on a CPU.
fn raise_first(world: &World, here: usize, event: u32) {
    let first = world.kernel.domains.lock(world.kernel.first.expect("there is one")).expect("it lives");
    let vcpu = first.vcpus[0].expect("there is one");
    drop(first);
    world.kernel.raise(&world.cpus[here].0, vcpu, event);
}

#[test]
fn channels_ring_and_tell_of_the_other_sides_end() {
    let mut world = World::new(4000, 1);
    let (space, vcpu) = (world.info.space, world.info.vcpu);
    let ours = world.must(0, Request::CreateChannel { domain: space, bytes: PAGE_SIZE });
    let other = world.must(0, Request::OtherEnd { channel: ours });
    let child = world.spawn(0, &world.parameters());
    let rights = Rights::MAP.union(Rights::WRITE).union(Rights::SIGNAL).union(Rights::LISTEN);
    let theirs = world.must(0, Request::Grant { capability: other, rights, domain: child.domain });
    world.must(0, Request::Release { capability: other });
    world.must(0, Request::Listen { source: ours, index: 0, vcpu, event: 4 });
    world.start(0, &child, 0);
    assert_eq!(world.wait(0, vcpu, Request::NEVER), Next::Enter);
    assert_eq!(world.call(0, Request::OtherEnd { channel: theirs }), Err(Error::NoRight));
    let deaf = Request::Derive { capability: child.own_vcpu, rights: Rights::OBSERVE };
    let deaf = Request::Listen { source: theirs, index: 0, vcpu: world.must(0, deaf), event: 9 };
    assert_eq!(world.call(0, deaf), Err(Error::NoRight), "events are for who may have them raised");
    world.must(0, Request::Listen { source: theirs, index: 0, vcpu: child.own_vcpu, event: 9 });
    // The child rings: the first domain wakes when the child sleeps; it rings back.
    world.must(0, Request::Signal { target: theirs });
    let sleep = Request::Wait { vcpu: child.own_vcpu, deadline_ns: Request::NEVER };
    assert_eq!(world.once(0, sleep), Next::Enter);
    assert_eq!(world.context(0).rdx, 1 << 4);
    world.must(0, Request::Signal { target: ours });
    assert_eq!(world.wait(0, vcpu, Request::NEVER), Next::Enter);
    assert_eq!(world.context(0).rdx, 1 << 9);
    // An event alone, without memory.
    assert_eq!(
        world.once(0, Request::End { domain: child.own, status: 0 }),
        Next::Sleep,
        "nobody listens for that"
    );
    raise_first(&world, 0, 0);
    assert_eq!(world.awake(0), Next::Enter);
    world.must(0, Request::End { domain: child.domain, status: 0 });
    assert_eq!(world.call(0, Request::Signal { target: ours }), Err(Error::Closed));
    assert_eq!(world.call(0, Request::Wait { vcpu, deadline_ns: 0 }), Ok(1 << 4), "its end was told");
}

#[test]
fn revocation_is_told_then_forced() {
    let mut world = World::new(4000, 1);
    let (space, vcpu) = (world.info.space, world.info.vcpu);
    let memory = world.must(0, Request::CreateMemory { domain: space, bytes: PAGE_SIZE });
    let child = world.spawn(0, &world.parameters());
    let theirs =
        world.must(0, Request::Grant { capability: memory, rights: Rights::ALL, domain: child.domain });
    world.start(0, &child, 0);
    assert_eq!(world.wait(0, vcpu, 100), Next::Enter);
    world.map_zero(0, child.own, super::UPCALL_PAGE, 1);
    let page = super::UPCALL_PAGE;
    world.must(0, Request::SetUpcall { vcpu: child.own_vcpu, page, entry: 0x3000, stack: 0x4000 });
    let map = Request::Map {
        space: child.own,
        span: Span::new(BASE, PAGE_SIZE),
        backing: Backing::Memory { memory: theirs, offset: 0, sharing: Sharing::Shared },
        protection: Protection::ReadWrite,
        commit: Commit::OnTouch,
    };
    world.must(0, map);
    assert_eq!(world.touch(0, BASE, true), Next::Enter);
    let derived = world.must(0, Request::Derive { capability: theirs, rights: Rights::MAP });
    // Time passes: the first domain runs again, and revokes with a deadline.
    world.pass(10_000_000);
    assert_eq!(world.interrupt(0, Interrupt::Alarm), Next::Enter);
    assert_eq!(world.context(0).rip, CALL_AT, "its wait is over");
    let now_ns = world.kernel.machine.state().now_ns;
    let revoke = Request::Revoke { capability: memory, deadline_ns: now_ns + 1000 };
    assert_eq!(world.once(0, revoke), Next::Enter);
    assert_eq!((world.context(0).rip, world.context(0).rdi), (0x3000, Kind::Revocation as u64));
    // The handler asks which, and gives one back; the other is taken.
    let told: Vec<_> = (0..2).map(|_| world.must(0, Request::NextRevoked { domain: child.own })).collect();
    assert!(told.contains(&theirs) && told.contains(&derived));
    assert_eq!(world.call(0, Request::NextRevoked { domain: child.own }), Err(Error::NothingThere));
    world.must(0, Request::Release { capability: derived });
    assert!(world.frame(0, BASE).is_some(), "it still has the other");
    world.pass(2000);
    assert_eq!(
        world.once(0, Request::Wait { vcpu: child.own_vcpu, deadline_ns: Request::NEVER }),
        Next::Enter
    );
    // Back in the first domain, whose request is made again.
    assert_eq!(world.context(0).rip, CALL_AT - 2);
    assert_eq!(world.call(0, revoke), Ok(0));
    let id = world.kernel.domains.ids().nth(1).expect("the child");
    let domain = world.kernel.domains.lock(id).expect("it lives");
    assert!(domain.space.regions.find(Page::containing(BASE)).is_none());
    assert_eq!(domain.capabilities.count(), 2, "its own domain and virtual CPU");
}

#[test]
fn marks_are_read_and_cleared() {
    const MAP: u64 = BASE + 64 * PAGE_SIZE;
    const ALL: u8 = mark::PRIVATE | mark::ACCESSED | mark::DIRTY;
    let mut world = World::new(4000, 1);
    let space = world.info.space;
    world.map_zero(0, space, MAP, 1);
    let domain = world.create(0, &world.parameters()).expect("it is made");
    world.map_zero(0, space, BASE, 2048 + 3);
    world.map_zero(0, space, MAP, 1);
    let request = |space, first: u64, pages, into, marks| {
        let span = Span::new(BASE + first * PAGE_SIZE, pages * PAGE_SIZE);
        Request::ReadMarks { space, span, into, marks }
    };
    let read = |world: &mut World, marks| {
        assert_eq!(world.call(0, request(space, 0, 5, MAP, marks)), Ok(5));
        assert!(world.kernel.machine.state().is_flushed());
        let (frame, mut bytes) = (world.frame(0, MAP).expect("it was written to"), [0; 5]);
        world.kernel.machine.read(frame, 0, &mut bytes);
        bytes
    };
    assert_eq!(read(&mut world, Marks::Clear), [0; 5]);
    world.access(0, BASE + PAGE_SIZE, Access::Write);
    world.access(0, BASE + 2 * PAGE_SIZE, Access::Read);
    let used = mark::PRIVATE | mark::ACCESSED;
    assert_eq!(read(&mut world, Marks::Keep), [0, ALL, used, 0, 0]);
    let nowhere = request(space, 0, 5, BASE - PAGE_SIZE, Marks::Clear);
    assert_eq!(world.call(0, nowhere), Err(Error::NotMapped));
    assert_eq!(read(&mut world, Marks::Clear), [0, ALL, used, 0, 0], "none was lost");
    let into = Span::new(BASE + 3 * PAGE_SIZE, PAGE_SIZE);
    world.must(0, Request::Inspect { object: space, index: 0, into });
    assert_eq!(read(&mut world, Marks::Keep), [0, mark::PRIVATE, mark::PRIVATE, ALL, 0]);
    assert_eq!(world.call(0, request(space, 0, 2048 + 3, MAP, Marks::Keep)), Ok(2048), "a part");
    assert_eq!(world.call(0, request(space, 2048, 3, MAP, Marks::Keep)), Ok(3));
    assert_eq!(world.call(0, request(space, 0, 0, MAP, Marks::Keep)), Err(Error::BadRange));
    assert_eq!(world.call(0, request(Handle::NONE, 0, 1, MAP, Marks::Keep)), Err(Error::StaleHandle));
    // Of a domain that it made.
    let source = Backing::Memory { memory: world.info.module_memory, offset: 0, sharing: Sharing::Private };
    let (span, protection) = (Span::new(BASE, 5 * PAGE_SIZE), Protection::ReadWrite);
    world.must(0, Request::Map { space: domain, span, backing: source, protection, commit: Commit::OnTouch });
    assert_eq!(world.call(0, request(domain, 0, 5, MAP, Marks::Clear)), Ok(5));
}

#[test]
fn a_revoker_sleeps_whose_upcalls_are_masked() {
    const MASKED: usize = core::mem::offset_of!(abi::UpcallPage, masked) / 8;
    let mut world = World::new(4000, 1);
    let (space, vcpu, page) = (world.info.space, world.info.vcpu, super::UPCALL_PAGE);
    let memory = world.must(0, Request::CreateMemory { domain: space, bytes: PAGE_SIZE });
    let domain = world.create(0, &world.parameters()).expect("it is made");
    world.must(0, Request::Grant { capability: memory, rights: Rights::ALL, domain });
    world.map_zero(0, space, page, 1);
    world.must(0, Request::SetUpcall { vcpu, page, entry: 0x3000, stack: 0x4000 });
    let frame = world.frame(0, page).expect("it is mapped");
    world.kernel.machine.write_words(frame, MASKED, &[1]);
    raise_first(&world, 0, 1);
    world.must(0, Request::SetTimer { vcpu, deadline_ns: 0 });
    let revoke = Request::Revoke { capability: memory, deadline_ns: 1_000_000 };
    assert_eq!(world.once(0, revoke), Next::Sleep, "nothing that is due can be told");
    raise_first(&world, 0, 2);
    assert_eq!(world.awake(0), Next::Sleep);
    // Once it can, it is; then the request is made again.
    world.kernel.machine.write_words(frame, MASKED, &[0]);
    raise_first(&world, 0, 3);
    assert_eq!(world.awake(0), Next::Enter);
    assert_eq!((world.context(0).rip, world.context(0).rdi), (0x3000, Kind::Tick as u64));
    let resume = Request::Resume { vcpu, area: abi::upcall::Area::Tick };
    assert_eq!(world.once(0, resume), Next::Enter);
    assert_eq!((world.context(0).rip, world.context(0).rdi), (0x3000, Kind::Event as u64));
    assert_eq!(world.once(0, resume), Next::Enter);
    assert_eq!(world.context(0).rip, CALL_AT - 2);
    assert_eq!(world.once(0, revoke), Next::Sleep, "events that were told are not news");
    world.pass(1_000_000);
    assert_eq!(world.awake(0), Next::Enter);
    assert_eq!(world.call(0, revoke), Ok(0));
}

#[test]
fn who_sleeps_is_told_of_a_revocation() {
    let mut world = World::new(4000, 1);
    let (space, vcpu) = (world.info.space, world.info.vcpu);
    let memory = world.must(0, Request::CreateMemory { domain: space, bytes: PAGE_SIZE });
    let child = world.spawn(0, &world.parameters());
    let theirs =
        world.must(0, Request::Grant { capability: memory, rights: Rights::ALL, domain: child.domain });
    world.start(0, &child, 0);
    assert_eq!(world.wait(0, vcpu, 100), Next::Enter);
    world.map_zero(0, child.own, super::UPCALL_PAGE, 1);
    let page = super::UPCALL_PAGE;
    world.must(0, Request::SetUpcall { vcpu: child.own_vcpu, page, entry: 0x3000, stack: 0x4000 });
    raise_first(&world, 0, 1);
    let sleep = Request::Wait { vcpu: child.own_vcpu, deadline_ns: Request::NEVER };
    assert_eq!(world.once(0, sleep), Next::Enter);
    assert_eq!(world.context(0).rdx, 1 << 1, "the first domain runs, the child sleeps");
    let revoke = Request::Revoke { capability: memory, deadline_ns: 1_000_000 };
    assert_eq!(world.once(0, revoke), Next::Enter);
    assert_eq!((world.context(0).rip, world.context(0).rdi), (0x3000, Kind::Revocation as u64));
    world.must(0, Request::Release { capability: theirs });
    assert_eq!(world.once(0, sleep), Next::Enter);
    assert_eq!(world.context(0).rip, CALL_AT - 2, "its revoker makes the request again, and is done");
    assert_eq!(world.call(0, revoke), Ok(0));
}

#[test]
fn a_device_that_is_taken_back_is_closed() {
    let mut world = World::new(4000, 1);
    let clock = world.info.devices[1].handle;
    let pci = world.info.devices[0].handle;
    let child = world.spawn(0, &world.parameters());
    let rights = Rights::ALL;
    let theirs = [clock, pci]
        .map(|capability| world.must(0, Request::Grant { capability, rights, domain: child.domain }));
    world.start(0, &child, 0);
    let vcpu = world.info.vcpu;
    assert_eq!(world.wait(0, vcpu, Request::NEVER), Next::Enter);
    world.must(0, Request::OpenPorts { device: theirs[0] });
    world.must(0, Request::Listen { source: theirs[1], index: 2, vcpu: child.own_vcpu, event: 5 });
    world.must(0, Request::WriteConfig { device: theirs[1], offset: 4, value: 7 });
    raise_first(&world, 0, 3);
    assert_eq!(
        world.once(0, Request::Wait { vcpu: child.own_vcpu, deadline_ns: Request::NEVER }),
        Next::Enter
    );
    for capability in [clock, pci] {
        assert_eq!(world.call(0, Request::Revoke { capability, deadline_ns: 0 }), Ok(0));
    }
    let id = world.kernel.domains.ids().nth(1).expect("the child");
    assert_eq!(world.kernel.domains.lock(id).expect("it lives").space.tables.open_ports, 0);
    let state = world.kernel.machine.state();
    assert!(state.masked.contains(&(4, 2)), "its interrupt is held back");
    assert_eq!(state.configuration[&4], 3, "it is no bus master any more");
}

#[test]
fn cpus_wake_each_other_and_share_the_work() {
    let mut world = World::new(6000, 2);
    let vcpu = world.info.vcpu;
    let first = world.spawn(0, &world.parameters());
    let second = world.spawn(0, &world.parameters());
    world.start(0, &first, 1);
    world.start(0, &second, 2);
    let kicked = core::mem::take(&mut world.kernel.machine.state().kicked);
    assert!(kicked.contains(&1), "the CPU that sleeps is told");
    assert_eq!(world.awake(1), Next::Enter);
    assert_eq!(world.wait(0, vcpu, Request::NEVER), Next::Enter);
    let mut running = [world.context(0).rdi, world.context(1).rdi];
    running.sort_unstable();
    assert_eq!(running, [1, 2], "each CPU has one");
    // One is ended while it runs on the other CPU: its end takes effect when that CPU looks.
    let (here, there) = if world.context(1).rdi == 2 { (0, 1) } else { (1, 0) };
    raise_first(&world, here, 0);
    assert_eq!(
        world.once(here, Request::Wait { vcpu: first.own_vcpu, deadline_ns: Request::NEVER }),
        Next::Enter
    );
    assert_eq!(world.context(here).rdx, 1);
    let end = Request::End { domain: second.domain, status: 0 };
    assert_eq!(world.once(here, end), Next::Enter);
    assert_eq!(world.context(here).rip, CALL_AT - 2, "not yet: asked to be made again");
    assert!(world.kernel.machine.state().kicked.contains(&there));
    assert_eq!(world.interrupt(there, Interrupt::Kick), Next::Sleep, "nothing else to run there");
    world.must(here, end);
    assert_eq!(
        world.call(here, Request::Derive { capability: second.vcpu, rights: Rights::ALL }),
        Err(Error::StaleHandle)
    );
}

#[test]
fn shares_and_budgets_hold() {
    let mut world = World::new(6000, 1);
    let vcpu = world.info.vcpu;
    let with = |share, budget_ns| DomainParameters { share, budget_ns, vcpus_max: 1, ..world.parameters() };
    let plans = [with(100, 0), with(300, 0), with(100, 10_000_000)];
    let children: Vec<Child> = plans.iter().map(|plan| world.spawn(0, plan)).collect();
    for (number, child) in children.iter().enumerate() {
        world.start(0, child, number as u64);
    }
    assert_eq!(world.wait(0, vcpu, Request::NEVER), Next::Enter);
    let mut ran_ns = [0u64; 3];
    const STEP_NS: u64 = 500_000;
    for _ in 0..8000 {
        ran_ns[world.context(0).rdi as usize] += STEP_NS;
        world.pass(STEP_NS);
        assert_eq!(world.interrupt(0, Interrupt::Alarm), Next::Enter);
    }
    let number = world.context(0).rdi as usize;
    let Child { own, own_vcpu, .. } = children[number];
    assert_eq!(world.call(0, Request::CpuTime { vcpu: own_vcpu }), Ok(ran_ns[number]), "its own time alone");
    assert_eq!(world.call(0, Request::CpuTime { vcpu: own }), Err(Error::WrongKind));
    let whole: u64 = ran_ns.iter().sum();
    assert_eq!(whole, 4_000_000_000, "somebody always ran");
    let percent = ran_ns.map(|ns| ns * 100 / whole);
    assert!((8..=11).contains(&percent[2]), "10 ms of each 100: {percent:?}");
    assert!((66..=69).contains(&percent[1]) && (21..=24).contains(&percent[0]), "three to one: {percent:?}");
}
