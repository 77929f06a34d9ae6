//! Makes other domains of this same executable, lets them misbehave, and sees that nothing of them is left.

use crate::probe::{Probe, check, fail};
use crate::random::Random;
use crate::roles::{self, Role};
use abi::{
    Backing, BootInfo, Commit, CpuRecord, DomainParameters, DomainRecord, DomainState, Handle, PAGE_SIZE,
    Protection, Request, Rights, Sharing, Span,
};

/// Where the first domain looks at memory that it makes for others, and keeps words for the kernel.
const VIEW: u64 = 0x5000_0000_0000;
const WORDS: u64 = 0x5100_0000_0000;
/// Where a channel's memory is, in the first domain: one page for each of its children.
const RINGS: u64 = 0x5200_0000_0000;
/// Where a child finds what it starts with; as the first domain does.
const STACK_END: u64 = 0x0900_0000;
const BOOT_INFO: u64 = 0x0800_0000;
const MODULE: u64 = BOOT_INFO + PAGE_SIZE;
/// Of an ELF-64 file: where its header tells of program headers, and what they hold.
const HEADERS_AT: u64 = 32;
const HEADER_COUNT_AT: u64 = 56;
const HEADER_BYTES: u64 = 56;

pub const MILLISECOND: u64 = 1_000_000;
/// Events of the first domain: a child has ended, a child rang.
const ENDED: u32 = 1;
const RANG: u32 = 2;

/// A domain that the first one made.
pub struct Child {
    pub domain: Handle,
    pub vcpu: Handle,
    pub channel: Handle,
    memories: [Handle; 2],
    ring: u64,
}

impl Child {
    /// The first word of its channel's memory.
    pub fn word(&self) -> u64 {
        // SAFETY: the page is mapped, and shared memory is only accessed so.
        unsafe { (self.ring as *const u64).read_volatile() }
    }

    /// Tells it the second word.
    pub fn tell(&self, word: u64) {
        // SAFETY: as above.
        unsafe { (self.ring as *mut u64).add(1).write_volatile(word) }
    }
}

/// What the first domain has taken, and what is free in the machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Accounts {
    used: u64,
    capabilities: u64,
    /// Frames.
    pub free: u64,
}

/// Each way to end, and each way not to.
pub fn run(probe: &Probe) {
    prepare(probe);
    let before = accounts(probe);
    small_tables(probe);
    balance(probe, before);
    ends(probe);
    balance(probe, before);
    exhaustion(probe);
    upcall_handlers(probe);
    echo(probe, 1000);
    revocation(probe);
    balance(probe, before);
    shares(probe);
    balance(probe, before);
}

/// Domains whose tables are smaller than a page come and go, too.
fn small_tables(probe: &Probe) {
    for _ in 0..100 {
        let parameters = DomainParameters { capabilities_max: 1, regions_max: 1, ..parameters() };
        // SAFETY: the page is mapped, and nobody else's.
        unsafe { (WORDS as *mut [u64; DomainParameters::WORDS]).write_volatile(parameters.to_words()) }
        let make = Request::CreateDomain { parent: probe.info.space, parameters: WORDS };
        let domain = Handle::from_raw(probe.must(make));
        probe.must(Request::End { domain, status: 0 });
    }
}

/// Domains that do anything, killed at any moment, so many.
pub fn kill(probe: &Probe, count: u64, seed: u64) {
    prepare(probe);
    let mut random = Random::new(seed);
    let before = accounts(probe);
    let kinds = [Role::Random, Role::Spin, Role::Flood, Role::Exhaust, Role::Touch, Role::HandlerLoops];
    for _ in 0..count {
        let role = kinds[random.below(kinds.len() as u64) as usize];
        let child = spawn(probe, 0, role, random.below(u64::MAX), &parameters());
        let moment = probe.now() + random.below(3 * MILLISECOND / 2);
        while probe.now() < moment {
            // A flood of events ends each wait early.
            probe.must(Request::Wait { vcpu: probe.info.vcpu, deadline_ns: moment });
        }
        end(probe, child);
        balance(probe, before);
    }
}

/// A domain that makes so many random requests, while another goes about its work.
pub fn hostile(probe: &Probe, calls: u64, seed: u64) {
    prepare(probe);
    let before = accounts(probe);
    let worker = spawn(probe, 0, Role::Echo, u64::MAX, &parameters());
    let mut answered = 0;
    for part in 0..calls.div_ceil(CALLS_EACH) {
        let child = spawn(probe, 1, Role::RandomThenEnd, seed + part, &parameters());
        while record(probe, child.domain).state == DomainState::Alive as u64 {
            answered += ring(probe, &worker);
        }
        let end_record = record(probe, child.domain);
        if end_record.state != DomainState::Ended as u64 || end_record.status != 42 {
            fail(format_args!("it did not get to its end: {end_record:x?}"));
        }
        end(probe, child);
    }
    check(answered > 0, "the other went on");
    end(probe, worker);
    balance(probe, before);
}

/// What one hostile domain makes.
pub const CALLS_EACH: u64 = 50_000;

pub fn prepare(probe: &Probe) {
    let (space, backing) = (probe.info.space, Backing::Zero);
    let span = Span::new(WORDS, PAGE_SIZE);
    let (protection, commit) = (Protection::ReadWrite, Commit::Now);
    probe.must(Request::Map { space, span, backing, protection, commit });
    // So that what the first domain is charged does not depend on what it has done: the tables stay.
    for base in [VIEW, RINGS] {
        let (span, protection) = (Span::new(base + (1 << 21) - PAGE_SIZE, PAGE_SIZE), Protection::Read);
        probe.must(Request::Map { space, span, backing, protection, commit });
    }
    // The kernel's own tables grow when there is more than ever before, and stay: two at once is the most that follows.
    let children = [0, 1].map(|place| spawn(probe, place, Role::Exit, 0, &parameters()));
    children.into_iter().for_each(|child| end(probe, child));
}

pub fn parameters() -> DomainParameters {
    DomainParameters {
        name: DomainParameters::name_of("child"),
        memory_bytes: 2 << 20,
        capabilities_max: 64,
        regions_max: 64,
        vcpus_max: 1,
        objects_max: 8,
        domains_max: 1,
        share: DomainParameters::SHARE_DEFAULT,
        budget_ns: 0,
        cpus: 0,
    }
}

/// Makes a domain that begins with `role`. `place` tells those apart that live at once.
pub fn spawn(probe: &Probe, place: u64, role: Role, argument: u64, parameters: &DomainParameters) -> Child {
    spawn_with(probe, place, (role, argument), parameters, Commit::Now)
}

/// The same; `commit` says when its stack's frames are taken.
pub fn spawn_with(
    probe: &Probe,
    place: u64,
    (role, argument): (Role, u64),
    parameters: &DomainParameters,
    commit: Commit,
) -> Child {
    let info = probe.info;
    // SAFETY: the page is mapped, and nobody else's.
    unsafe { (WORDS as *mut [u64; DomainParameters::WORDS]).write_volatile(parameters.to_words()) }
    let make = Request::CreateDomain { parent: info.space, parameters: WORDS };
    let domain = Handle::from_raw(probe.must(make));
    let data = load(probe, domain);
    let stack = Span::new(STACK_END - BootInfo::STACK_BYTES, BootInfo::STACK_BYTES);
    let (backing, protection) = (Backing::Zero, Protection::ReadWrite);
    probe.must(Request::Map { space: domain, span: stack, backing, protection, commit });

    let handle = |request| Handle::from_raw(probe.must(request));
    let grant = |capability, rights| handle(Request::Grant { capability, rights, domain });
    let own = grant(domain, Rights::ALL);
    let vcpu = handle(Request::CreateVcpu { domain });
    let own_vcpu = grant(vcpu, Rights::ALL);
    let channel = handle(Request::CreateChannel { domain: info.space, bytes: PAGE_SIZE });
    let other = handle(Request::OtherEnd { channel });
    let parent = grant(other, Rights::ALL);
    probe.must(Request::Release { capability: other });
    let ring = RINGS + place * PAGE_SIZE;
    map_memory(probe, info.space, (channel, 0), Span::new(ring, PAGE_SIZE), Protection::ReadWrite);
    probe.must(Request::Listen { source: channel, index: 0, vcpu: info.vcpu, event: RANG });
    probe.must(Request::Listen { source: domain, index: 0, vcpu: info.vcpu, event: ENDED });

    let start = BootInfo {
        module: Span::new(MODULE, PAGE_SIZE),
        quota_bytes: parameters.memory_bytes,
        space: own,
        vcpu: own_vcpu,
        machine: Handle::NONE,
        module_memory: Handle::NONE,
        parent,
        device_count: 0,
        ..*info
    };
    let page = publish(probe, domain, &start, role, argument);
    let entry = roles::entry();
    probe.must(Request::Start { vcpu, entry, stack: STACK_END, argument: BOOT_INFO });
    Child { domain, vcpu, channel, memories: [data, page], ring }
}

/// Maps this executable into a domain: what is only read from the module, the rest from a copy.
fn load(probe: &Probe, domain: Handle) -> Handle {
    let image = probe.info.module.base + PAGE_SIZE;
    // SAFETY: the kernel loaded the executable from there, so its headers are sound; the module stays mapped.
    let word = |at: u64| unsafe { ((image + at) as *const u64).read_unaligned() };
    let mut data = Handle::NONE;
    for index in 0..word(HEADER_COUNT_AT) & 0xffff {
        let header = word(HEADERS_AT) + index * HEADER_BYTES;
        let (kind, flags) = (word(header) as u32, word(header) >> 32);
        let (offset, address) = (word(header + 8), word(header + 16));
        let (file_bytes, bytes) = (word(header + 32), word(header + 40));
        if kind != 1 || bytes == 0 {
            continue;
        }
        let span = Span::new(address, bytes.next_multiple_of(PAGE_SIZE));
        if flags & 2 == 0 {
            let protection = if flags & 1 != 0 { Protection::ReadExecute } else { Protection::Read };
            let module = (probe.info.module_memory, PAGE_SIZE + offset);
            map_memory(probe, domain, module, span, protection);
        } else {
            data = filled(probe, span.length, image + offset, file_bytes);
            map_memory(probe, domain, (data, 0), span, Protection::ReadWrite);
        }
    }
    data
}

/// Makes memory that begins with bytes of ours.
fn filled(probe: &Probe, length: u64, from: u64, bytes: u64) -> Handle {
    let space = probe.info.space;
    let memory = Handle::from_raw(probe.must(Request::CreateMemory { domain: space, bytes: length }));
    let span = Span::new(VIEW, length);
    map_memory(probe, space, (memory, 0), span, Protection::ReadWrite);
    // SAFETY: both are mapped, as long as is copied; the view is nobody else's.
    unsafe { (VIEW as *mut u8).copy_from_nonoverlapping(from as *const u8, bytes as usize) }
    probe.must(Request::Unmap { space, span });
    memory
}

/// The page with the boot info, and one in the place of a boot module.
fn publish(probe: &Probe, domain: Handle, info: &BootInfo, role: Role, argument: u64) -> Handle {
    let memory = filled(probe, 2 * PAGE_SIZE, info as *const _ as u64, size_of::<BootInfo>() as u64);
    let span = Span::new(VIEW, 2 * PAGE_SIZE);
    let space = probe.info.space;
    map_memory(probe, space, (memory, 0), span, Protection::ReadWrite);
    let words = (VIEW + PAGE_SIZE) as *mut u64;
    // SAFETY: the view is mapped, and nobody else's.
    unsafe {
        words.add(4).write_volatile(role as u64);
        words.add(5).write_volatile(argument);
    }
    probe.must(Request::Unmap { space, span });
    map_memory(probe, domain, (memory, 0), Span::new(BOOT_INFO, 2 * PAGE_SIZE), Protection::Read);
    memory
}

fn map_memory(
    probe: &Probe,
    space: Handle,
    (memory, offset): (Handle, u64),
    span: Span,
    protection: Protection,
) {
    let backing = Backing::Memory { memory, offset, sharing: Sharing::Shared };
    probe.must(Request::Map { space, span, backing, protection, commit: Commit::OnTouch });
}

/// Ends a domain and what was made for it.
pub fn end(probe: &Probe, child: Child) {
    probe.must(Request::End { domain: child.domain, status: 0 });
    for capability in child.memories.into_iter().chain([child.channel]) {
        probe.must(Request::Release { capability });
    }
}

pub fn record(probe: &Probe, object: Handle) -> DomainRecord {
    inspect(probe, object, 0)
}

pub fn is_alive(probe: &Probe, child: &Child) -> bool {
    record(probe, child.domain).state == DomainState::Alive as u64
}

pub fn cpu(probe: &Probe, number: u64) -> CpuRecord {
    inspect(probe, probe.info.machine, number)
}

/// `T` is what the kernel shows of such an object: words.
fn inspect<T: Copy>(probe: &Probe, object: Handle, index: u64) -> T {
    let into = Span::new(WORDS, PAGE_SIZE);
    let written = probe.must(Request::Inspect { object, index, into });
    check(written == size_of::<T>() as u64, "a whole record");
    // SAFETY: the page is mapped, and the kernel has just written there; any words are a record.
    unsafe { (WORDS as *const T).read_volatile() }
}

pub fn accounts(probe: &Probe) -> Accounts {
    let own = record(probe, probe.info.space);
    let cpu = cpu(probe, 0);
    Accounts { used: own.memory_bytes, capabilities: own.capabilities, free: cpu.free_frames }
}

/// Fails unless everything is as it was.
#[track_caller]
pub fn balance(probe: &Probe, before: Accounts) {
    let after = accounts(probe);
    if after != before {
        fail(format_args!("{before:x?} before, {after:x?} after"));
    }
}

/// Waits until a child has ended by itself.
pub fn ended(probe: &Probe, child: &Child) -> DomainRecord {
    let deadline_ns = probe.now() + 60_000 * MILLISECOND;
    loop {
        let record = record(probe, child.domain);
        if record.state != DomainState::Alive as u64 {
            return record;
        }
        check(probe.now() < deadline_ns, "it ends in time");
        probe.must(Request::Wait { vcpu: probe.info.vcpu, deadline_ns });
    }
}

fn ends(probe: &Probe) {
    let child = spawn(probe, 0, Role::Exit, 77, &parameters());
    let record = ended(probe, &child);
    check(record.state == DomainState::Ended as u64 && record.status == 77, "its status is told");
    end(probe, child);
    let child = spawn(probe, 0, Role::Fault, 0x1234_5000, &parameters());
    let record = ended(probe, &child);
    check(record.state == DomainState::Faulted as u64 && record.vector == 14, "its fault is told");
    check(record.address == 0x1234_5000 && record.out_of_memory == 0, "with its address");
    end(probe, child);
    for (number, vector) in (0..).zip(crate::faults::ALONE) {
        let child = spawn(probe, 0, Role::Raise, number, &parameters());
        let record = ended(probe, &child);
        check(
            record.state == DomainState::Faulted as u64 && record.vector == vector,
            "each exception is told",
        );
        end(probe, child);
    }
    let child = spawn(probe, 0, Role::Spin, 0, &parameters());
    let deadline_ns = probe.now() + 10_000 * MILLISECOND;
    while crate::domains::record(probe, child.domain).run_ns == 0 {
        check(probe.now() < deadline_ns, "it runs in time");
        pass(probe, MILLISECOND);
    }
    end(probe, child);
}

pub fn pass(probe: &Probe, ns: u64) {
    let deadline_ns = probe.now() + ns;
    while probe.now() < deadline_ns {
        probe.must(Request::Wait { vcpu: probe.info.vcpu, deadline_ns });
    }
}

fn exhaustion(probe: &Probe) {
    let child = spawn(probe, 0, Role::Touch, 0, &parameters());
    let record = ended(probe, &child);
    check(record.vector == 14 && record.out_of_memory == 1, "it is told that no frame was left");
    end(probe, child);
    let child = spawn(probe, 0, Role::ExhaustThenEnd, 0, &parameters());
    let record = ended(probe, &child);
    check(record.status == 42, "each table was full, and nothing else happened");
    end(probe, child);
    let child = spawn(probe, 0, Role::Flood, 0, &parameters());
    pass(probe, 20 * MILLISECOND);
    end(probe, child);
}

fn upcall_handlers(probe: &Probe) {
    let child = spawn(probe, 0, Role::HandlerFaults, 0, &parameters());
    let record = ended(probe, &child);
    check(record.state == DomainState::Faulted as u64 && record.vector == 14, "a handler that is not there");
    end(probe, child);
    for role in [Role::HandlerLoops, Role::Corrupt] {
        let child = spawn(probe, 0, role, 0, &parameters());
        pass(probe, 10 * MILLISECOND);
        end(probe, child);
    }
}

/// Rings a child that echoes until it has answered, and answers with 1.
fn ring(probe: &Probe, child: &Child) -> u64 {
    let before = answered(probe, child, 0);
    probe.must(Request::Signal { target: child.channel });
    answered(probe, child, before);
    1
}

/// Waits until a child's word is another; when it listens, it makes 1 of the 0 that was there.
fn answered(probe: &Probe, child: &Child, before: u64) -> u64 {
    let deadline_ns = probe.now() + 10_000 * MILLISECOND;
    loop {
        let now = child.word();
        if now != before {
            return now;
        }
        check(probe.now() < deadline_ns, "it answers in time");
        probe.must(Request::Wait { vcpu: probe.info.vcpu, deadline_ns });
    }
}

fn echo(probe: &Probe, rounds: u64) {
    let child = spawn(probe, 0, Role::Echo, rounds, &parameters());
    (0..rounds).for_each(|_| _ = ring(probe, &child));
    let record = ended(probe, &child);
    check(record.status == 42, "it counted as many");
    probe.must(Request::End { domain: child.domain, status: 0 });
    probe.refused(Request::Signal { target: child.channel }, abi::Error::Closed);
    for capability in child.memories.into_iter().chain([child.channel]) {
        probe.must(Request::Release { capability });
    }
}

/// A child is given memory, which is taken back: it gives it up when it is told, or does not and loses it.
fn revocation(probe: &Probe) {
    for (role, gives) in [(Role::GivesBack, true), (Role::Keeps, false)] {
        let child = spawn(probe, 0, role, 0, &parameters());
        let space = probe.info.space;
        let capability =
            Handle::from_raw(probe.must(Request::CreateMemory { domain: space, bytes: PAGE_SIZE }));
        let domain = child.domain;
        let theirs = probe.must(Request::Grant { capability, rights: Rights::ALL, domain });
        answered(probe, &child, 0);
        child.tell(theirs);
        ring(probe, &child);
        let begin = probe.now();
        let deadline_ns = begin + if gives { 5_000 } else { 20 } * MILLISECOND;
        probe.must(Request::Revoke { capability, deadline_ns });
        check((probe.now() < deadline_ns) == gives, "it was given back, or taken at the end of its time");
        let record = ended(probe, &child);
        if gives {
            check(record.status == 42, "it was told which");
        } else {
            check(record.state == DomainState::Faulted as u64, "what it had mapped is gone");
        }
        end(probe, child);
        probe.must(Request::Release { capability });
    }
}

/// Of two that always want to run on one CPU, the one with three times the share has three times as much.
fn shares(probe: &Probe) {
    let with = |share| DomainParameters { share, cpus: 1, ..parameters() };
    let children = [spawn(probe, 0, Role::Spin, 0, &with(100)), spawn(probe, 1, Role::Spin, 0, &with(300))];
    pass(probe, 400 * MILLISECOND);
    let [light, heavy] = [0, 1].map(|index: usize| record(probe, children[index].domain).run_ns);
    if heavy < light * 5 / 2 || heavy > light * 7 / 2 {
        fail(format_args!("one with a third of the share ran {light} ns, the other {heavy} ns"));
    }
    children.into_iter().for_each(|child| end(probe, child));
}
