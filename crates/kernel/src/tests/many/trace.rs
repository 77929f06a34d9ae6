//! Tracing: what is written, and when it stops.

use super::*;
use crate::tests::audit::audit;
use abi::trace::{Head, Kind, Outcome, Record};

impl World {
    fn create_memory(&mut self, cpu: usize, domain: Handle) -> Handle {
        self.must(cpu, Request::CreateMemory { domain, bytes: PAGE_SIZE })
    }

    /// Traces CPU 0 into a page of the first domain's; answers its handle and where it lies.
    fn trace(&mut self) -> (Handle, Frame) {
        let memory = self.create_memory(0, self.info.space);
        self.must(0, Request::Trace { machine: self.info.machine, cpu: 0, memory });
        let ring = self.kernel.seats[0].ring.lock();
        (memory, ring.as_ref().expect("it was set").first)
    }

    fn check(&self) {
        audit(&self.kernel, &self.cpus.iter().map(|(cpu, _)| cpu).collect::<Vec<_>>());
    }

    fn head(&self, ring: Frame) -> Head {
        let mut words = [0; 4];
        self.kernel.machine.read_words(ring, 0, &mut words);
        let [written, capacity, cpu, reserved] = words;
        Head { written, capacity, cpu, reserved }
    }

    /// The records from number `from` on that are whole.
    fn records(&self, ring: Frame, from: u64) -> Vec<Record> {
        let head = self.head(ring);
        let read = |number: u64| {
            let mut words = [0; Record::WORDS];
            let slot = 1 + number % head.capacity;
            self.kernel.machine.read_words(ring, slot as usize * Record::WORDS, &mut words);
            Record::from_words(words).expect("a record")
        };
        (from..head.written).filter(|&number| head.is_whole(number)).map(read).collect()
    }

    /// The number of a domain in records.
    fn number(&mut self, object: Handle) -> u64 {
        self.record(0, object);
        let mut words = [0; DomainRecord::WORDS];
        self.kernel.machine.read_words(self.frame(0, SCRATCH).expect("written"), 0, &mut words);
        words[DomainRecord::WORDS - 1]
    }
}

fn kinds(records: &[Record]) -> Vec<Kind> {
    records.iter().map(|record| record.kind).collect()
}

#[test]
fn what_happens_is_written_in_order() {
    let mut world = World::new(4000, 1);
    let parameters = world.parameters();
    let own = world.number(world.info.space);
    let (_, ring) = world.trace();
    let child = world.spawn(0, &parameters);
    let child_number = world.number(child.domain);
    world.map_zero(0, world.info.space, BASE + (1 << 30), 1);
    world.start(0, &child, 5);
    world.pass(7);
    let from = world.head(ring).written;
    assert_eq!(world.touch(0, BASE + (1 << 30), true), Next::Enter);
    let vcpu = world.info.vcpu;
    assert_eq!(world.wait(0, vcpu, Request::NEVER), Next::Enter);
    assert_eq!(world.call(0, Request::Signal { target: Handle::NONE }), Err(Error::StaleHandle));
    assert_eq!(world.interrupt(0, Interrupt::Alarm), Next::Enter);
    assert_eq!(world.once(0, Request::End { domain: child.own, status: 42 }), Next::Sleep);

    let records = world.records(ring, from);
    let expected = [
        (Kind::Touch, own, 6, BASE + (1 << 30)),
        (Kind::Request, own, 8 | Outcome::SLEEPS << 16, 0),
        (Kind::Switch, child_number, 0, 0),
        (Kind::Request, child_number, 30 | (Error::StaleHandle.code() as u32) << 16, 0),
        (Kind::Interrupt, child_number, 0, 0),
        (Kind::Ended, child_number, DomainState::Ended as u32, 42),
        (Kind::Request, child_number, 25 | Outcome::NO_RETURN << 16, 0),
        (Kind::Idle, 0, 0, u64::MAX),
    ];
    let found: Vec<_> = records.iter().map(|r| (r.kind, r.domain, r.detail, r.value)).collect();
    assert_eq!(found, expected);
    assert!(records.iter().all(|record| record.at_ns == 7));
    let made = world.records(ring, 0).into_iter().find(|record| record.kind == Kind::Made);
    assert_eq!(made.map(|record| (record.domain, record.value)), Some((child_number, own)));
    world.check();
}

#[test]
fn who_runs_when_tracing_begins_is_told() {
    let mut world = World::new(4000, 2);
    let parameters = DomainParameters { cpus: 0b10, ..world.parameters() };
    let child = world.spawn(0, &parameters);
    world.start(0, &child, 5);
    assert_eq!(world.interrupt(1, Interrupt::Kick), Next::Enter);
    let number = world.number(child.domain);
    world.kernel.machine.state().kicked.clear();
    let memory = world.create_memory(0, world.info.space);
    world.must(0, Request::Trace { machine: world.info.machine, cpu: 1, memory });
    assert_eq!(world.kernel.machine.state().kicked, [1]);
    let ring = world.kernel.seats[1].ring.lock().as_ref().expect("it was set").first;
    assert_eq!(world.interrupt(1, Interrupt::Kick), Next::Enter);
    let records = world.records(ring, 0);
    assert_eq!(kinds(&records), [Kind::Switch, Kind::Interrupt]);
    assert_eq!(records[0].domain, number);
    world.check();
}

#[test]
fn a_reader_knows_what_it_missed() {
    let mut world = World::new(4000, 1);
    let (_, ring) = world.trace();
    let now = Request::Now { vcpu: world.info.vcpu };
    for count in 1..400 {
        world.must(0, now);
        let head = world.head(ring);
        // Who ran, the request that began it, and these.
        assert_eq!((head.written, head.capacity), (count + 2, 127));
        let records = world.records(ring, 1);
        assert_eq!(records.len() as u64, (count + 1).min(126));
        let all = records.iter().all(|record| record.kind == Kind::Request);
        assert!(all, "{:?}", kinds(&records));
    }
    world.check();
}

#[test]
fn a_ring_ends_with_what_it_hangs_on() {
    let mut world = World::new(4000, 2);
    let (machine, space) = (world.info.machine, world.info.space);
    let trace = |machine, memory| Request::Trace { machine, cpu: 0, memory };
    // What the ring is made with, and what is taken away.
    for way in 0..6 {
        let before = world.kernel.machine.free_count();
        let origin = world.create_memory(0, space);
        let memory = world.must(0, Request::Derive { capability: origin, rights: Rights::ALL });
        let machine_too = world.must(0, Request::Derive { capability: machine, rights: Rights::ALL });
        world.must(0, trace(machine_too, memory));
        assert!(world.kernel.is_tracing());
        world.check();
        world.must(
            0,
            match way {
                0 => Request::Release { capability: memory },
                1 => Request::Release { capability: origin },
                2 => Request::Revoke { capability: origin, deadline_ns: 0 },
                3 => Request::Release { capability: machine_too },
                4 => Request::Revoke { capability: machine, deadline_ns: 0 },
                _ => trace(machine, Handle::NONE),
            },
        );
        assert!(!world.kernel.is_tracing(), "way {way}");
        assert!(world.kernel.seats[0].ring.lock().is_none());
        for capability in [origin, machine_too] {
            let _ = world.call(0, Request::Release { capability });
        }
        assert_eq!(world.kernel.machine.free_count(), before, "way {way}");
        world.check();
    }
}

/// The fake machine notices when a frame is written to that is free.
#[test]
fn a_domain_that_traced_ends_without_a_trace() {
    let mut world = World::new(4000, 2);
    let parameters = world.parameters();
    let (machine, vcpu) = (world.info.machine, world.info.vcpu);
    let child = world.spawn(0, &parameters);
    let granted = Request::Grant { capability: machine, rights: Rights::CONTROL, domain: child.domain };
    let machine = world.must(0, granted);
    world.start(0, &child, 5);
    assert_eq!(world.wait(0, vcpu, 100), Next::Enter);
    let memory = world.create_memory(0, child.own);
    // Both CPUs into the same: nobody else's loss.
    for cpu in [0, 1] {
        world.must(0, Request::Trace { machine, cpu, memory });
    }
    world.pass(10_000_000);
    assert_eq!(world.interrupt(0, Interrupt::Alarm), Next::Enter, "its maker's turn");
    world.check();
    assert!(world.kernel.is_tracing());
    world.must(0, Request::End { domain: child.domain, status: 0 });
    assert!(!world.kernel.is_tracing());
    world.must(0, Request::Now { vcpu });
    world.check();
}

#[test]
fn who_may_not_trace_is_refused() {
    let mut world = World::new(4000, 1);
    let (machine, space) = (world.info.machine, world.info.space);
    let memory = world.create_memory(0, space);
    let channel = world.must(0, Request::CreateChannel { domain: space, bytes: PAGE_SIZE });
    let less = |capability, rights| Request::Derive { capability, rights };
    let only_look = world.must(0, less(machine, Rights::OBSERVE));
    let only_read = world.must(0, less(memory, Rights::MAP));
    let only_write = world.must(0, less(memory, Rights::WRITE));
    for (machine, cpu, memory, error) in [
        (only_look, 0, memory, Error::NoRight),
        (only_look, 0, Handle::NONE, Error::NoRight),
        (space, 0, memory, Error::WrongKind),
        (Handle::NONE, 0, memory, Error::StaleHandle),
        (machine, 1, memory, Error::NothingThere),
        (machine, u64::MAX, Handle::NONE, Error::NothingThere),
        (machine, 0, only_read, Error::NoRight),
        (machine, 0, only_write, Error::NoRight),
        (machine, 0, channel, Error::WrongKind),
        (machine, 0, space, Error::WrongKind),
        (machine, 0, world.info.module_memory, Error::NoRight),
    ] {
        let request = Request::Trace { machine, cpu, memory };
        assert_eq!(world.call(0, request), Err(error), "{request:?}");
        assert!(!world.kernel.is_tracing());
    }
}
