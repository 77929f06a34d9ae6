//! Hostile domains on several CPUs, which do what a list of bytes says.
//!
//! An input is a list of steps of 8 bytes, so that every list of bytes is one and a part of one is one too. After an input, the kernel is
//! checked by [`audit`], everything is ended, and every frame has to be back.

use super::audit::audit;
use super::{BASE, CALL_AT, RESERVE, UPCALL_PAGE, devices, module};
use crate::capability::{Object, Place};
use crate::fake::{Deadlock, Fake};
use crate::kernel::{Cpu, Current, Fault, Interrupt, Kernel, Next, PAGE_FAULT};
use crate::machine::{Access, Machine, Page};
use crate::memory::{Refusal, Touch};
use crate::start::{BootModule, start};
use abi::boot::ClockParameters;
use abi::upcall::Area;
use abi::{
    Backing, Commit, Context, DomainParameters, Error, Handle, PAGE_SIZE, Protection, Registers, Request,
    Rights, Sharing, Span,
};
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::vec::Vec;

const CPUS: usize = 3;
const FRAMES: u64 = 4000;
/// Checked in the middle of an input, too.
const STEPS_BETWEEN_AUDITS: usize = 32;
/// Where domains map: pages that share tables, pages that do not, and what they begin with.
const AREAS: [u64; 8] =
    [BASE, BASE, BASE, BASE + (1 << 21) - 2 * PAGE_SIZE, UPCALL_PAGE, SCRATCH, 0x1000_1000, 0x7100_0000_0000];
const SCRATCH: u64 = BASE + (1 << 30);
const PAGES: [u64; 16] = [1, 1, 1, 1, 2, 2, 3, 4, 8, 16, 17, 64, 513, 2100, 0, 1 << 36];

/// One step.
pub type Step = [u8; 8];

/// A machine and its hostile CPUs.
struct World {
    kernel: Kernel<Fake>,
    cpus: Vec<(Cpu, Context)>,
    stopped: bool,
    /// What was answered, and after what: the guide.
    answers: BTreeMap<u64, u8>,
    last: u64,
}

impl World {
    fn new() -> Self {
        let module = module();
        let fake = Fake::<Deadlock>::new(FRAMES + RESERVE, &module, CPUS);
        let given = BootModule { address: 0, bytes: &module };
        let kernel = start(fake, Some(given), devices(), ClockParameters::default()).expect("it starts");
        let cpus = (0..CPUS).map(|number| (Cpu::new(number), Context::default())).collect();
        let mut world = Self { kernel, cpus, stopped: false, answers: BTreeMap::new(), last: 0 };
        (0..CPUS).for_each(|cpu| world.wake(cpu));
        world
    }

    fn audit(&self) {
        let cpus: Vec<&Cpu> = self.cpus.iter().map(|(cpu, _)| cpu).collect();
        audit(&self.kernel, &cpus);
    }

    fn step(&mut self, [who, what, a, b, c, d, e, f]: Step) {
        let number = usize::from(who) % CPUS;
        if who >= 0x80 {
            self.kernel.machine.state().now_ns += 1000 << (who >> 2 & 0x1f).min(24);
        }
        if self.cpus[number].0.current.is_none() {
            return self.wake(number);
        }
        let repeats = self.cpus[number].1.rip == CALL_AT - 2;
        match what % 49 {
            32..=34 => self.interrupt(number, Interrupt::Alarm),
            35 => self.interrupt(number, self.device_interrupt(a, b)),
            _ if repeats => self.repeat(number),
            0 => self.raw(number, [a, b, c, d, e, f]),
            36..=39 => self.fault(number, [a, b, c, d]),
            40 => self.poke(number, [a, b, c, d]),
            41..=43 => self.spawn(number, [a, b, c, d, e, f]),
            44..=47 => self.touch(number, a, b),
            48 => self.trace(number, [a, b, c]),
            kind => {
                let Some(request) = self.request(number, kind, [a, b, c, d, e, f]) else { return };
                if f == 0xff || !self.stops(number, request) {
                    self.call(number, request.encode());
                }
            }
        }
    }

    /// An interrupt ends a sleep.
    fn wake(&mut self, number: usize) {
        let interrupt = if self.kicked(number) { Interrupt::Kick } else { Interrupt::Alarm };
        let (cpu, context) = &mut self.cpus[number];
        self.kernel.note(cpu, interrupt);
        let next = self.kernel.awake(cpu, context);
        self.follow(number, next);
    }

    fn kicked(&self, number: usize) -> bool {
        let mut state = self.kernel.machine.state();
        let before = state.kicked.len();
        state.kicked.retain(|&cpu| cpu != number);
        state.kicked.len() != before
    }

    fn follow(&mut self, number: usize, next: Next) {
        match next {
            Next::Return | Next::Enter => assert!(self.cpus[number].0.current.is_some()),
            Next::Sleep => assert!(self.cpus[number].0.current.is_none()),
            Next::Stop(_) => self.stopped = true,
        }
    }

    fn interrupt(&mut self, number: usize, interrupt: Interrupt) {
        let interrupt = if self.kicked(number) { Interrupt::Kick } else { interrupt };
        let (cpu, context) = &mut self.cpus[number];
        let next = self.kernel.interrupt(cpu, interrupt, context);
        self.follow(number, next);
    }

    /// An interrupt that the machine lets come: others would be no fault of the kernel's.
    fn device_interrupt(&self, device: u8, line: u8) -> Interrupt {
        let (number, line) = (if device.is_multiple_of(2) { 4 } else { 9 }, u32::from(line % 3));
        let state = self.kernel.machine.state();
        if state.connected.contains(&(number, line)) && !state.masked.contains(&(number, line)) {
            Interrupt::Device { number, line }
        } else {
            Interrupt::Alarm
        }
    }

    fn call(&mut self, number: usize, registers: Registers) {
        let (cpu, context) = &mut self.cpus[number];
        let [rdi, rsi, rdx, r10, r8, r9] = registers.arguments;
        let first = cpu.current.is_some_and(|current| Some(current.domain) == self.kernel.first);
        *context = Context { rax: registers.number, rdi, rsi, rdx, r10, r8, r9, rip: CALL_AT, ..*context };
        let next = self.kernel.system_call(cpu, context);
        let answer = (registers.number, first, self.cpus[number].1.rax, next);
        self.guide((answer.0, answer.1, answer.2, std::mem::discriminant(&answer.3)));
        self.follow(number, next);
    }

    /// Notes an answer, alone and after the one before.
    fn guide(&mut self, answer: impl Hash) {
        let hash = |of: &dyn Fn(&mut DefaultHasher)| {
            let mut hasher = DefaultHasher::new();
            of(&mut hasher);
            hasher.finish()
        };
        let this = hash(&|hasher| answer.hash(hasher));
        let pair = hash(&|hasher| (this, self.last).hash(hasher));
        for seen in [this, pair] {
            let count = self.answers.entry(seen).or_default();
            *count = count.saturating_add(1);
        }
        self.last = this;
    }

    /// What the kernel asked for: the same call with what it left in the registers.
    fn repeat(&mut self, number: usize) {
        let Context { rdi, rsi, rdx, r10, r8, r9, rax, .. } = self.cpus[number].1;
        self.call(number, Registers { number: rax, arguments: [rdi, rsi, rdx, r10, r8, r9] });
    }

    /// Registers without sense.
    fn raw(&mut self, number: usize, [a, b, c, d, e, f]: [u8; 6]) {
        let word = |kind: u8, byte: u8| match kind % 5 {
            0 => u64::from(byte),
            1 => AREAS[usize::from(byte >> 5)] + u64::from(byte & 31) * 8,
            2 => u64::MAX << (byte & 63),
            3 => (1 << 47) - u64::from(byte),
            _ => self.handle(number, byte, |_| true).raw(),
        };
        let arguments = [word(b, c), word(c, d), word(d, e), word(e, f), word(f, b), word(b ^ c, d)];
        if !matches!(a % 40, 16 | 25) {
            self.call(number, Registers { number: u64::from(a % 40), arguments });
        }
    }

    /// A page fault at an address, or another exception.
    fn fault(&mut self, number: usize, [a, b, c, d]: [u8; 4]) {
        let address = address(a);
        let error = [4, 6, 20, 0x0c, 0, 7][usize::from(b) % 6];
        let vector = if c < 0xf0 { PAGE_FAULT } else { d % 32 };
        let (cpu, context) = &mut self.cpus[number];
        let Some(current) = cpu.current else { return };
        let open =
            self.kernel.vcpus.lock(current.vcpu).is_some_and(|vcpu| vcpu.is_open(&self.kernel.machine));
        if Some(current.domain) == self.kernel.first && !open {
            // It would stop the machine, which is soon tried.
            return;
        }
        context.rip = 0x1000_1000;
        let next = self.kernel.fault(cpu, Fault { vector, error, address }, context);
        self.guide((vector, error, std::mem::discriminant(&next)));
        self.follow(number, next);
    }

    /// An access that the domain may make, if it may.
    fn touch(&mut self, number: usize, at: u8, access: u8) {
        let Some(current) = self.cpus[number].0.current else { return };
        let page = Page::containing(address(at));
        let (access, error) =
            [(Access::Read, 4), (Access::Write, 6), (Access::Execute, 20)][usize::from(access) % 3];
        let allowed = {
            let domain = self.kernel.domains.lock(current.domain).expect("it runs");
            domain.space.regions.find(page).is_some_and(|region| access.allowed_by(region.protection))
        };
        let (cpu, context) = &mut self.cpus[number];
        if allowed && context.rip != CALL_AT - 2 {
            let fault = Fault { vector: PAGE_FAULT, error, address: page.address() };
            let next = self.kernel.fault(cpu, fault, context);
            self.follow(number, next);
        }
    }

    /// Has a CPU traced, or no longer.
    fn trace(&mut self, number: usize, [a, b, c]: [u8; 3]) {
        let machine = self.handle(number, a, |object| *object == Object::Machine);
        let memory = match c {
            0xc0.. => Handle::NONE,
            _ => self.handle(number, c, |object| matches!(object, Object::Memory(_))),
        };
        let trace = Request::Trace { machine, cpu: u64::from(b & 3), memory };
        self.call(number, trace.encode());
    }

    /// Writes to the domain's memory: to what the kernel reads again at a `Resume`.
    fn poke(&mut self, number: usize, [at, index, value, how]: [u8; 4]) {
        let value = match how % 4 {
            0 => u64::from(value),
            1 => u64::MAX << (value & 63),
            2 => CALL_AT - u64::from(value % 4),
            _ => (1 << 47) - u64::from(value) * 64,
        };
        self.write(number, address(at), usize::from(index) % 64, &[value]);
    }

    fn write(&mut self, number: usize, address: u64, index: usize, words: &[u64]) -> bool {
        let Some(current) = self.cpus[number].0.current else { return false };
        let Some(mut domain) = self.kernel.domains.lock(current.domain) else { return false };
        let page = Page::containing(address);
        let device = domain.space.is_device(page);
        match domain.space.touch(&self.kernel.machine, page, Access::Write) {
            Touch::Resolved(mapping) if !device => {
                self.kernel.machine.write_words(mapping.frame, index, words);
                true
            }
            _ => false,
        }
    }

    /// Makes a domain with what it needs to run.
    fn spawn(&mut self, number: usize, [a, b, c, d, e, f]: [u8; 6]) {
        let Some(before) = self.cpus[number].0.current else { return };
        let space = self.handle(number, a, |object| matches!(object, Object::Domain(_)));
        let (backing, protection) = (Backing::Zero, Protection::ReadWrite);
        let span = Span::new(SCRATCH, PAGE_SIZE);
        let Some(_) = self.value(
            number,
            before,
            Request::Map { space, span, backing, protection, commit: Commit::Now },
        ) else {
            return;
        };
        let parameters = DomainParameters {
            name: DomainParameters::name_of("child"),
            memory_bytes: u64::from(b) * 4 * PAGE_SIZE,
            capabilities_max: u64::from(c & 31) + 1,
            regions_max: u64::from(c >> 5) * 4 + 2,
            vcpus_max: u64::from(d & 3) + 1,
            objects_max: u64::from(d >> 2 & 7),
            domains_max: u64::from(d >> 5),
            share: [1, 100, 100, 10_000][usize::from(e) & 3],
            budget_ns: [0, 0, 1, 5_000_000][usize::from(e) >> 2 & 3],
            cpus: u64::from(e >> 4),
        };
        if !self.write(number, SCRATCH, 0, &parameters.to_words()) {
            return;
        }
        let Some(domain) =
            self.value(number, before, Request::CreateDomain { parent: space, parameters: SCRATCH })
        else {
            return;
        };
        let rights = if f & 0x80 == 0 { Rights::ALL } else { Rights::from_bits(u64::from(f)) };
        self.value(number, before, Request::Grant { capability: domain, rights, domain });
        for argument in 0..u64::from(f & 3) {
            let Some(vcpu) = self.value(number, before, Request::CreateVcpu { domain }) else { return };
            self.value(number, before, Request::Grant { capability: vcpu, rights, domain });
            self.value(number, before, Request::Start { vcpu, entry: 0x1000, stack: 0x2000, argument });
        }
    }

    /// Makes a request as one that was running before; its answer, if it has one at once.
    fn value(&mut self, number: usize, who: Current, request: Request) -> Option<Handle> {
        let runs =
            |world: &Self| world.cpus[number].0.current.is_some_and(|current| current.vcpu == who.vcpu);
        let again = |world: &Self| world.cpus[number].1.rip == CALL_AT - 2;
        if !runs(self) || again(self) {
            return None;
        }
        self.call(number, request.encode());
        let context = &self.cpus[number].1;
        let done = runs(self) && context.rip == CALL_AT && Error::from_code(context.rax).is_none();
        done.then_some(Handle::from_raw(context.rdx))
    }

    /// A handle of whoever runs: one that fits, any, or none of its own.
    fn handle(&self, number: usize, byte: u8, fits: impl Fn(&Object) -> bool) -> Handle {
        let Some(current) = self.cpus[number].0.current else { return Handle::NONE };
        let domain = self.kernel.domains.lock(current.domain).expect("it runs");
        let all = || domain.capabilities.iter();
        let nth = |count: usize| usize::from(byte) % count.max(1);
        if byte < 0xd0 {
            let count = all().filter(|(_, _, held)| fits(&held.object)).count();
            let found = all().filter(|(_, _, held)| fits(&held.object)).nth(nth(count));
            return found.map_or(Handle::NONE, |(_, handle, _)| handle);
        }
        let found = all().nth(nth(domain.capabilities.count())).map_or(Handle::NONE, |(_, handle, _)| handle);
        match byte {
            0xf8.. => Handle::from_raw(u64::MAX << (byte & 7)),
            0xf0.. => Handle::new(found.index(), found.generation().wrapping_sub(1)),
            0xe8.. => Handle::new(u32::from(byte), 1),
            _ => found,
        }
    }

    /// Whether this is the first domain's own end.
    fn stops(&self, number: usize, request: Request) -> bool {
        let Some(current) =
            self.cpus[number].0.current.filter(|current| Some(current.domain) == self.kernel.first)
        else {
            return matches!(request, Request::Stop { .. });
        };
        let domain = self.kernel.domains.lock(current.domain).expect("it runs");
        match request {
            Request::Stop { .. } => true,
            Request::End { domain: target, .. } => {
                domain.domain_of(target, Rights::NONE) == Ok(current.domain)
            }
            _ => false,
        }
    }

    fn deadline(&self, byte: u8) -> u64 {
        let now_ns = self.kernel.machine.now_ns();
        match byte >> 6 {
            0 => u64::from(byte),
            1 => now_ns + u64::from(byte & 63) * 100_000,
            2 => now_ns.wrapping_add(u64::MAX >> (byte & 63)),
            _ => Request::NEVER,
        }
    }

    fn request(&self, number: usize, kind: u8, [a, b, c, d, e, f]: [u8; 6]) -> Option<Request> {
        let domain = || self.handle(number, a, |object| matches!(object, Object::Domain(_)));
        let vcpu = |byte| self.handle(number, byte, |object| matches!(object, Object::Vcpu(_)));
        let own = || {
            self.handle(number, a, |object| {
                self.cpus[number].0.current.is_some_and(|current| *object == Object::Vcpu(current.vcpu))
            })
        };
        let device = |byte| self.handle(number, byte, |object| matches!(object, Object::Device(_)));
        let machine = || self.handle(number, a, |object| *object == Object::Machine);
        let memory = |byte| {
            self.handle(number, byte, |object| matches!(object, Object::Memory(_) | Object::Channel(..)))
        };
        let channel = || self.handle(number, a, |object| matches!(object, Object::Channel(..)));
        let any = |byte| self.handle(number, byte, |_| true);
        let span = Span::new(address(b), PAGES[usize::from(c) & 15].wrapping_mul(PAGE_SIZE));
        let protection = [Protection::ReadWrite, Protection::Read, Protection::ReadExecute, Protection::None]
            [usize::from(d) & 3];
        let index = u32::from(b % 4);
        Some(match kind {
            1 => {
                let sharing = if d & 0x40 == 0 { Sharing::Shared } else { Sharing::Private };
                let backing = match d >> 3 & 7 {
                    0 => Backing::Image { source: address(e) },
                    1 => Backing::Device { device: device(e), window: u32::from(f % 3) },
                    2 => Backing::Dma { device: device(e) },
                    3..=5 => {
                        Backing::Memory { memory: memory(e), offset: u64::from(f % 8) * PAGE_SIZE, sharing }
                    }
                    _ => Backing::Zero,
                };
                let commit = if d & 4 == 0 { Commit::OnTouch } else { Commit::Now };
                Request::Map { space: domain(), span, backing, protection, commit }
            }
            2 => Request::Protect { space: domain(), span, protection },
            3 => Request::Reset { space: domain(), span },
            4 => Request::Unmap { space: domain(), span },
            5 => Request::SetUpcall { vcpu: own(), page: address(b), entry: 0x1000, stack: address(d) },
            6 => Request::Resume { vcpu: own(), area: if b & 1 == 0 { Area::Tick } else { Area::Fault } },
            7 => Request::SetTimer { vcpu: own(), deadline_ns: self.deadline(b) },
            8 => Request::Wait { vcpu: own(), deadline_ns: self.deadline(b) },
            9 => Request::Now { vcpu: own() },
            10 => {
                let source = match d % 4 {
                    0 => domain(),
                    1 => channel(),
                    2 => device(a),
                    _ => any(a),
                };
                Request::Listen { source, index, vcpu: vcpu(e), event: u32::from(f % 66) }
            }
            11 => Request::Acknowledge { device: device(a), index },
            12 => Request::ReadConfig { device: device(a), offset: u32::from(b) },
            13 => Request::WriteConfig {
                device: device(a),
                offset: u32::from(b) & !3,
                value: u32::from(c) << (d % 25),
            },
            14 => Request::OpenPorts { device: device(a) },
            15 => Request::Print {
                space: domain(),
                text: Span::new(address(b) + u64::from(c), u64::from(d) * 5),
            },
            16 => Request::Stop { machine: machine(), status: b },
            _ => return self.request_of_authority(number, kind, [a, b, c, d, e, f]),
        })
    }

    fn request_of_authority(&self, number: usize, kind: u8, [a, b, c, d, e, _]: [u8; 6]) -> Option<Request> {
        let domain = || self.handle(number, a, |object| matches!(object, Object::Domain(_)));
        let vcpu = || self.handle(number, a, |object| matches!(object, Object::Vcpu(_)));
        let channel = || self.handle(number, a, |object| matches!(object, Object::Channel(..)));
        let any = || self.handle(number, a, |_| true);
        let bytes = PAGES[usize::from(c) & 15].wrapping_mul(PAGE_SIZE);
        let rights = if b & 1 == 0 { Rights::ALL } else { Rights::from_bits(u64::from(c)) };
        Some(match kind {
            17 => Request::Derive { capability: any(), rights },
            18 => {
                let domain = self.handle(number, d, |object| matches!(object, Object::Domain(_)));
                Request::Grant { capability: any(), rights, domain }
            }
            19 => Request::Release { capability: any() },
            20 => Request::Revoke { capability: any(), deadline_ns: self.deadline(b) },
            21 => Request::NextRevoked { domain: domain() },
            22 => Request::CreateDomain { parent: domain(), parameters: address(b) + u64::from(c) },
            23 => Request::CreateVcpu { domain: domain() },
            24 => {
                Request::Start { vcpu: vcpu(), entry: address(b), stack: address(c), argument: u64::from(d) }
            }
            25 => Request::End { domain: domain(), status: u64::from(b) },
            26 => Request::CreateMemory { domain: domain(), bytes },
            27 => Request::CreateChannel { domain: domain(), bytes },
            28 => Request::OtherEnd { channel: channel() },
            29 => Request::CreateEvent { vcpu: vcpu(), event: u32::from(b % 66) },
            30 => Request::Signal {
                target: self
                    .handle(number, a, |object| matches!(object, Object::Channel(..) | Object::Event(..))),
            },
            31 => {
                let object =
                    self.handle(number, a, |object| matches!(object, Object::Domain(_) | Object::Machine));
                Request::Inspect {
                    object,
                    index: u64::from(d),
                    into: Span::new(address(b) + u64::from(e), bytes),
                }
            }
            _ => return None,
        })
    }

    /// Ends everything but the first domain, as that one, and checks that it is all back.
    fn end_everything(&mut self) {
        let first = self.kernel.first.expect("there is one");
        let vcpu = self.kernel.domains.lock(first).expect("it lives").vcpus[0].expect("there is one");
        // As a CPU beside the others, so that these are kicked.
        let mut cpu = Cpu::new(CPUS);
        cpu.current = Some(Current { vcpu, domain: first });
        for round in 0.. {
            let origin =
                |id| self.kernel.domains.lock(id).and_then(|domain| Some((domain.parent?, domain.origin?)));
            let origins: Vec<(_, Place)> = self.kernel.domains.ids().filter_map(origin).collect();
            let Some((_, origin)) = origins.into_iter().find(|(parent, _)| *parent == first) else { break };
            assert!(round < 10_000, "{first:?} cannot end {origin:?}");
            let slot = self.kernel.domains.lock(first).expect("it lives").capabilities.handle(origin.slot);
            let _ = self.kernel.serve(&cpu, Request::End { domain: slot, status: 0 });
            for number in 0..CPUS {
                match self.cpus[number].0.current {
                    Some(_) => self.interrupt(number, Interrupt::Alarm),
                    None => self.wake(number),
                }
            }
        }
        self.audit();
        let objects: Vec<Handle> = {
            let domain = self.kernel.domains.lock(first).expect("it lives");
            let ends = |object: &Object| matches!(object, Object::Memory(_) | Object::Channel(..));
            let held = domain.capabilities.iter();
            held.filter(|(_, _, held)| held.parent.is_none() && ends(&held.object))
                .map(|(_, handle, _)| handle)
                .collect()
        };
        // All but the boot module's.
        let busy = Refusal::Error(Error::Busy);
        for capability in objects {
            let release = Request::Release { capability };
            while self.kernel.serve(&cpu, release).is_err_and(|refusal| refusal != busy) {}
        }
        self.audit();
        assert_eq!(self.kernel.domains.ids().count(), 1);
        assert_eq!((self.kernel.memories.ids().count(), self.kernel.channels.ids().count()), (1, 0));
        let mut domain = self.kernel.domains.lock(first).expect("it lives");
        while domain.space.end(&self.kernel.machine).is_err() {}
        // Left are its root table and the vector registers of its virtual CPUs.
        let kept = 1 + domain.vcpus.iter().flatten().count() as u64;
        drop(domain);
        assert_eq!(self.kernel.machine.free_count() + kept, self.kernel.frames, "every frame is back");
    }
}

fn address(byte: u8) -> u64 {
    // Few pages, so that one step meets what another did.
    AREAS[usize::from(byte >> 5)] + u64::from(byte & 3) * PAGE_SIZE
}

/// Runs an input; answers what it has to say to the guide.
pub fn run(input: &[Step]) -> BTreeMap<u64, u8> {
    let mut world = World::new();
    for (at, &step) in input.iter().enumerate() {
        world.step(step);
        if world.stopped {
            // What the CPUs are doing is of no interest any more.
            return world.answers;
        }
        if at % STEPS_BETWEEN_AUDITS == STEPS_BETWEEN_AUDITS - 1 {
            world.audit();
        }
    }
    world.audit();
    world.end_everything();
    world.answers
}
