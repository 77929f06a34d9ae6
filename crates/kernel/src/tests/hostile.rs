//! Hostile domains on several CPUs, which do what a list of steps says.
//!
//! After each entry into the kernel the CPU has to be as its virtual CPU needs it; every few steps and at the end, the kernel is
//! checked by [`audit`]; then everything is ended, and every frame has to be back.

use super::action::{Act, SCRATCH, Step, fixed};
use super::audit::audit;
use super::{CALL_AT, RESERVE, devices, module};
use crate::capability::{Object, Place};
use crate::fake::{Deadlock, Fake};
use crate::kernel::{Cpu, Current, Fault, Interrupt, Kernel, Next, PAGE_FAULT};
use crate::lifecycle::own_frames;
use crate::machine::{Access, Frame, Machine, Mapping, Owner, Page};
use crate::memory::{Refusal, Touch};
use crate::region::Source;
use crate::schedule::NEVER;
use crate::start::{BootModule, start};
use abi::boot::ClockParameters;
use abi::{
    Backing, Commit, Context, DomainParameters, Error, Handle, PAGE_SIZE, Protection, Registers, Request,
    Rights, Span,
};
use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::Ordering::Relaxed;
use std::vec::Vec;

const CPUS: usize = 3;
const FRAMES: u64 = 4000;
/// Checked in the middle of an input, too.
const STEPS_BETWEEN_AUDITS: usize = 16;
/// Flags that ring 3 must have, of those that it must not choose: interrupts on, no right to ports (Intel SDM volume 1, section 3.4.3).
const FLAGS: (u64, u64) = (0x200, 0x3200);
/// The last word of each page of a new object says which frame it is, so that a copy of another shows.
const MARK: usize = 511;
/// The most pages of an object that are marked.
const MARKED_MAX: u64 = 32;

/// What was answered, alone and after what: the guide.
pub type Answers = BTreeSet<u64>;
/// The most pages that one step touches.
const SWEEP_MAX: u64 = 2100;

/// A machine and its hostile CPUs.
pub struct World {
    pub kernel: Kernel<Fake>,
    pub cpus: Vec<(Cpu, Context)>,
    /// What each CPU has loaded.
    loaded: [Loaded; CPUS],
    stopped: bool,
    answers: Answers,
    last: u64,
    /// The step that is being told, if each is.
    telling: Option<usize>,
}

/// What a CPU has in its registers.
#[derive(Clone, Copy)]
struct Loaded {
    tables: Option<Frame>,
    vectors: Option<Frame>,
    alarm_ns: u64,
}

impl World {
    fn new() -> Self {
        let module = module();
        let fake = Fake::<Deadlock>::new(FRAMES + RESERVE, &module, CPUS);
        let given = BootModule { address: 0, bytes: &module };
        let kernel = start(fake, Some(given), devices(), ClockParameters::default()).expect("it starts");
        let cpus = (0..CPUS).map(|number| (Cpu::new(number), Context::default())).collect();
        let loaded = [Loaded { tables: None, vectors: None, alarm_ns: NEVER }; CPUS];
        let answers = Answers::default();
        let mut world = Self { kernel, cpus, loaded, stopped: false, answers, last: 0, telling: None };
        (0..CPUS).for_each(|cpu| world.wake(cpu));
        world
    }

    fn audit(&self) {
        let cpus: Vec<&Cpu> = self.cpus.iter().map(|(cpu, _)| cpu).collect();
        audit(&self.kernel, &cpus);
    }

    fn step(&mut self, Step { cpu, act, with }: Step) {
        let [a, b, c, d, ..] = with;
        let mut number = usize::from(cpu) % CPUS;
        if self.current(number).is_none() {
            self.wake(number);
            // One that has nothing to do leaves it to the next that has.
            let busy = (number..number + CPUS)
                .map(|number| number % CPUS)
                .find(|&next| self.current(next).is_some());
            number = busy.unwrap_or(number);
        }
        let repeats = self.cpus[number].1.rip == CALL_AT - 2;
        match act {
            _ if self.stopped => (),
            Act::Pass => self.kernel.machine.state().now_ns += 1000 << (a % 24),
            Act::Starve => self.kernel.machine.state().frames_until_none = Some(u64::from(a) % 8),
            _ if self.current(number).is_none() => (),
            Act::Alarm => self.interrupt(number, Interrupt::Alarm),
            Act::Interrupt => self.interrupt(number, self.device_interrupt(a, b)),
            _ if repeats => self.repeat(number),
            Act::Raw => self.raw(number, with),
            Act::Fault => self.fault(number, [a, b, c, d]),
            Act::Poke => self.poke(number, [a, b, c, d]),
            Act::Spawn => self.spawn(number, with),
            Act::Touch => self.touch(number, Page::containing(self.address(number, a)), b),
            Act::Sweep => self.sweep(number, self.own_span(number, a, b), c),
            _ => {
                let Some(request) = self.request(number, act, with) else { return };
                // Seldom, as it is the end of the input.
                if with[5] == 0xff || !self.stops(number, request) {
                    self.call(number, request.encode());
                }
            }
        }
    }

    /// Enters the kernel on a CPU, and checks what it is left with.
    fn enter(
        &mut self,
        number: usize,
        enter: impl FnOnce(&Kernel<Fake>, &mut Cpu, &mut Context) -> Next,
    ) -> Next {
        let loaded = &mut self.loaded[number];
        {
            let mut state = self.kernel.machine.state();
            (state.active, state.vectors, state.alarm_ns) = (loaded.tables, loaded.vectors, loaded.alarm_ns);
        }
        let (cpu, context) = &mut self.cpus[number];
        let next = enter(&self.kernel, cpu, context);
        {
            let state = self.kernel.machine.state();
            *loaded = Loaded { tables: state.active, vectors: state.vectors, alarm_ns: state.alarm_ns };
        }
        match next {
            Next::Return | Next::Enter => assert!(self.current(number).is_some()),
            Next::Sleep => assert!(self.current(number).is_none()),
            Next::Stop(_) => {
                self.stopped = true;
                return next;
            }
        }
        self.check_loaded(number);
        next
    }

    fn check_loaded(&self, number: usize) {
        assert!(self.kernel.machine.state().is_flushed(), "a CPU may reach what was unmapped");
        let loaded = self.loaded[number];
        let (seat, idle) = (&self.kernel.seats[number], self.kernel.idle.load(Relaxed));
        let told = |number: usize| self.kernel.seats[number].attention.load(Relaxed);
        // Unless a CPU that sleeps was asked to take what waits here.
        if !told(number) && !(0..CPUS).any(|other| idle >> other & 1 != 0 && told(other)) {
            let alarm_ns = seat.queue.lock().alarm().0;
            assert!(loaded.alarm_ns <= alarm_ns, "CPU {number} oversleeps {alarm_ns}: {}", loaded.alarm_ns);
        }
        let Some(current) = self.current(number) else { return };
        let root = self.kernel.domains.lock(current.domain).expect("it runs").space.tables.root();
        assert_eq!(loaded.tables, Some(root), "the tables of {current:?}");
        let vectors = self.kernel.vcpus.lock(current.vcpu).expect("it runs").vectors;
        assert_eq!(loaded.vectors, Some(vectors), "the vector registers of {current:?}");
        let context = &self.cpus[number].1;
        assert!(context.rip < 1 << 47 && context.rsp < 1 << 47, "{context:?} is not canonical");
        assert_eq!(context.rflags & FLAGS.1, FLAGS.0, "{context:?}");
    }

    /// An interrupt ends a sleep.
    fn wake(&mut self, number: usize) {
        let interrupt = if self.kicked(number) { Interrupt::Kick } else { Interrupt::Alarm };
        self.enter(number, |kernel, cpu, context| {
            kernel.note(cpu, interrupt);
            kernel.awake(cpu, context)
        });
    }

    fn kicked(&self, number: usize) -> bool {
        let mut state = self.kernel.machine.state();
        let before = state.kicked.len();
        state.kicked.retain(|&cpu| cpu != number);
        state.kicked.len() != before
    }

    fn interrupt(&mut self, number: usize, interrupt: Interrupt) {
        let interrupt = if self.kicked(number) { Interrupt::Kick } else { interrupt };
        self.enter(number, |kernel, cpu, context| kernel.interrupt(cpu, interrupt, context));
    }

    /// An interrupt that the machine lets come: others would be no fault of the kernel's.
    fn device_interrupt(&self, device: u8, line: u8) -> Interrupt {
        let state = self.kernel.machine.state();
        let mut can: Vec<_> = state.connected.difference(&state.masked).copied().collect();
        can.sort_unstable();
        let chosen = can.get((usize::from(device) + usize::from(line)) % can.len().max(1));
        chosen.map_or(Interrupt::Alarm, |&(number, line)| Interrupt::Device { number, line })
    }

    fn call(&mut self, number: usize, registers: Registers) {
        let [rdi, rsi, rdx, r10, r8, r9] = registers.arguments;
        let Some(asks) = self.current(number) else { return };
        let context = &mut self.cpus[number].1;
        *context = Context { rax: registers.number, rdi, rsi, rdx, r10, r8, r9, rip: CALL_AT, ..*context };
        if let Some(at) = self.telling {
            std::eprintln!("{at}: {:?}", Request::decode(registers));
        }
        let next = self.enter(number, |kernel, cpu, context| kernel.system_call(cpu, context));
        let (first, answer) = (Some(asks.domain) == self.kernel.first, self.cpus[number].1.rax);
        self.guide((registers.number, first, answer, std::mem::discriminant(&next)));
        let makes = Request::decode(registers);
        if let (Ok(Request::CreateMemory { .. } | Request::CreateChannel { .. }), Next::Return, 0) =
            (makes, next, answer)
        {
            self.mark(number, Handle::from_raw(self.cpus[number].1.rdx));
        }
    }

    /// Marks the pages of a memory or channel that was just made.
    fn mark(&self, number: usize, made: Handle) {
        let current = self.current(number).expect("it returned");
        let domain = self.kernel.domains.lock(current.domain).expect("it runs");
        let object = domain.capabilities.find(made, Rights::NONE).map(|(_, held)| held.object);
        let (first, pages) = match object {
            Ok(Object::Memory(id)) => {
                self.kernel.memories.lock(id).map(|memory| (memory.first, memory.pages))
            }
            Ok(Object::Channel(id, _)) => {
                self.kernel.channels.lock(id).map(|channel| (channel.first, channel.pages))
            }
            _ => panic!("{object:?} was made"),
        }
        .expect("it was made");
        for frame in (0..pages.min(MARKED_MAX)).map(|at| first.offset(at)) {
            self.kernel.machine.write_words(frame, MARK, &[frame.address()]);
        }
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
        self.answers.extend([this, pair]);
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
            1 => fixed(byte) + u64::from(byte & 31) * 8,
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
        let address = self.address(number, a);
        let error = [4, 6, 20, 0x0c, 0, 7][usize::from(b) % 6];
        let vector = if c < 0xf0 { PAGE_FAULT } else { d % 32 };
        let Some(current) = self.current(number) else { return };
        let open =
            self.kernel.vcpus.lock(current.vcpu).is_some_and(|vcpu| vcpu.is_open(&self.kernel.machine));
        if Some(current.domain) == self.kernel.first && !open {
            // It would stop the machine, which is soon tried.
            return;
        }
        self.cpus[number].1.rip = 0x1000_1000;
        let fault = Fault { vector, error, address };
        let next = self.enter(number, |kernel, cpu, context| kernel.fault(cpu, fault, context));
        self.guide((vector, error, std::mem::discriminant(&next)));
    }

    /// An access that the domain may make, if it may: a new private page has to be a copy of what was there.
    fn touch(&mut self, number: usize, page: Page, access: u8) {
        let Some(current) = self.current(number) else { return };
        let (access, error) =
            [(Access::Read, 4), (Access::Write, 6), (Access::Execute, 20)][usize::from(access) % 3];
        let region = {
            let domain = self.kernel.domains.lock(current.domain).expect("it runs");
            domain.space.regions.find(page).copied()
        };
        let Some(region) = region.filter(|region| access.allowed_by(region.protection)) else { return };
        let before = self.mapping(current, page);
        let mut expected = [0; PAGE_SIZE as usize];
        // Before it is touched: what is traced may be written there afterwards.
        if let Source::Memory(frame, ..) = region.source.offset(page.since(region.first)) {
            self.kernel.machine.read(frame, 0, &mut expected);
        }
        let fault = Fault { vector: PAGE_FAULT, error, address: page.address() };
        self.enter(number, |kernel, cpu, context| kernel.fault(cpu, fault, context));
        self.note(current, page, access);
        let is_new = |mapping: &Mapping| {
            before.is_none_or(|before| before.owner != Owner::Page || before.frame != mapping.frame)
        };
        let after = self.mapping(current, page).filter(|mapping| mapping.owner == Owner::Page).filter(is_new);
        let Some(copy) = after else { return };
        let mut found = [0; PAGE_SIZE as usize];
        self.kernel.machine.read(copy.frame, 0, &mut found);
        assert_eq!(expected, found, "the first contents of {page:?} of {region:?}");
    }

    /// What the CPU notes of a page that may be accessed now.
    fn note(&self, current: Current, page: Page, access: Access) {
        let mapping = self.mapping(current, page);
        if mapping.is_some_and(|mapping| access.allowed_by(mapping.protection))
            && let Some(mut domain) = self.kernel.domains.lock(current.domain)
        {
            domain.space.tables.note(page, access);
        }
    }

    fn mapping(&self, current: Current, page: Page) -> Option<Mapping> {
        let domain = self.kernel.domains.lock(current.domain)?;
        self.kernel.machine.mapping(&domain.space.tables, page)
    }

    /// Touches every page of a span, or one of 16, which brings those around.
    fn sweep(&mut self, number: usize, span: Span, access: u8) {
        let (first, stride) = (Page::containing(span.base), if access & 0x80 == 0 { 16 } else { 1 });
        for at in (0..(span.length / PAGE_SIZE).min(SWEEP_MAX)).step_by(stride) {
            if self.stopped || self.cpus[number].1.rip == CALL_AT - 2 {
                return;
            }
            self.touch(number, first.offset(at), access);
        }
    }

    /// Writes to the domain's memory: to what the kernel reads again at a `Resume`.
    fn poke(&mut self, number: usize, [at, index, value, how]: [u8; 4]) {
        let value = match how % 4 {
            0 => u64::from(value),
            1 => u64::MAX << (value & 63),
            2 => CALL_AT - u64::from(value % 4),
            _ => (1 << 47) - u64::from(value) * 64,
        };
        self.write(number, self.address(number, at), usize::from(index) % 64, &[value]);
    }

    fn write(&mut self, number: usize, address: u64, index: usize, words: &[u64]) -> bool {
        let Some(current) = self.current(number) else { return false };
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
        let Some(before) = self.current(number) else { return };
        let own = Object::Domain(before.domain);
        let space = self.handle(number, a, |object| *object == own);
        let (backing, protection) = (Backing::Zero, Protection::ReadWrite);
        let span = Span::new(SCRATCH, PAGE_SIZE);
        let Some(_) = self.value(
            number,
            before,
            Request::Map { space, span, backing, protection, commit: Commit::Now },
        ) else {
            return;
        };
        let mut parameters = DomainParameters {
            name: DomainParameters::name_of("child"),
            capabilities_max: u64::from(c & 31) + 1,
            regions_max: u64::from(c >> 5) * 4 + 2,
            vcpus_max: u64::from(d & 3) + 1,
            objects_max: u64::from(d >> 2 & 7),
            domains_max: u64::from(d >> 5),
            share: [1, 100, 100, 10_000][usize::from(e) & 3],
            budget_ns: [0, 0, 1, 5_000_000][usize::from(e) >> 2 & 3],
            cpus: u64::from(e >> 4),
            ..DomainParameters::default()
        };
        let left = self
            .kernel
            .domains
            .lock(before.domain)
            .map_or(0, |domain| domain.space.quota - domain.space.used);
        let pages = match b {
            // Hardly more than it begins with.
            ..0x40 => own_frames(&parameters) + u64::from(b & 0x3f),
            // All that there is but for a few.
            0xe0.. => left.saturating_sub(u64::from(b & 0x1f)),
            _ => u64::from(b) * 4,
        };
        parameters.memory_bytes = pages * PAGE_SIZE;
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
        let runs = |world: &Self| world.current(number).is_some_and(|current| current.vcpu == who.vcpu);
        let again = |world: &Self| world.cpus[number].1.rip == CALL_AT - 2;
        if !runs(self) || again(self) {
            return None;
        }
        self.call(number, request.encode());
        let context = &self.cpus[number].1;
        let done = runs(self) && context.rip == CALL_AT && Error::from_code(context.rax).is_none();
        done.then_some(Handle::from_raw(context.rdx))
    }

    /// Ends everything but the first domain, as that one, and checks that it is all back.
    fn end_everything(&mut self) {
        self.kernel.machine.state().frames_until_none = None;
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
                match self.current(number) {
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

/// Runs an input; answers what it has to say to the guide. Each request is printed behind the number of its step if that is wanted.
pub fn run(input: &[Step], tell: bool) -> Answers {
    let mut world = World::new();
    for (at, &step) in input.iter().enumerate() {
        world.telling = tell.then_some(at);
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
