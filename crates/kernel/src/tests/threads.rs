//! Several CPUs at once, each a thread: domains that do anything, and a first domain that makes and ends them.

use super::audit::audit;
use super::{BASE, CALL_AT, RESERVE, Random, devices, module};
use crate::fake::Fake;
use crate::kernel::{Cpu, Fault, Interrupt, Kernel, Next, PAGE_FAULT};
use crate::machine::{Access, Machine, Page};
use crate::memory::Touch;
use crate::start::{BootModule, start};
use abi::boot::{BootInfo, ClockParameters};
use abi::{
    Backing, Commit, Context, DomainParameters, Error, Handle, PAGE_SIZE, Protection, Registers, Request,
    Rights, Span,
};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::vec::Vec;

const CPUS: usize = 3;
const CHILDREN_MAX: usize = 4;
const SCRATCH: u64 = BASE;

/// A CPU that waits lets the others go on.
#[derive(Default)]
struct Yield;

impl spin::RelaxStrategy for Yield {
    fn relax() {
        std::thread::yield_now();
    }
}

struct Shared {
    kernel: Kernel<Fake<Yield>>,
    info: BootInfo,
    /// Children of the first domain, by its handles: domain, virtual CPUs.
    children: Mutex<Vec<(Handle, Vec<Handle>)>>,
    made: AtomicU64,
    ended: AtomicU64,
}

/// What one CPU does.
struct Thread<'s> {
    shared: &'s Shared,
    number: usize,
    cpu: Cpu,
    context: Context,
    random: Random,
    running: bool,
}

impl Thread<'_> {
    fn run(&mut self, steps: u64) {
        for _ in 0..steps {
            self.shared.kernel.machine.state().now_ns += self.random.below(200_000);
            if !self.running {
                self.sleep();
                continue;
            }
            let current = self.cpu.current.expect("it runs");
            if Some(current.domain) == self.shared.kernel.first {
                self.act_as_first();
            } else {
                self.act_as_child();
            }
        }
    }

    fn follow(&mut self, next: Next) {
        self.running = match next {
            Next::Return | Next::Enter => true,
            Next::Sleep => false,
            Next::Stop(status) => panic!("the machine stopped with {status}"),
        };
    }

    fn sleep(&mut self) {
        let interrupt = if self.kicked() { Interrupt::Kick } else { Interrupt::Alarm };
        self.shared.kernel.note(&mut self.cpu, interrupt);
        let next = self.shared.kernel.awake(&mut self.cpu, &mut self.context);
        self.follow(next);
    }

    fn kicked(&self) -> bool {
        let mut state = self.shared.kernel.machine.state();
        let at = state.kicked.iter().position(|&number| number == self.number);
        at.map(|at| state.kicked.swap_remove(at)).is_some()
    }

    fn raw(&mut self, registers: Registers) {
        let [rdi, rsi, rdx, r10, r8, r9] = registers.arguments;
        let Context { rsp, .. } = self.context;
        self.context =
            Context { rax: registers.number, rdi, rsi, rdx, r10, r8, r9, rsp, rip: CALL_AT, ..self.context };
        let next = self.shared.kernel.system_call(&mut self.cpu, &mut self.context);
        self.follow(next);
    }

    /// Makes a request of the first domain, whatever happens meanwhile; only to be used while that runs.
    fn call(&mut self, request: Request) -> Result<u64, Error> {
        let first = self.shared.kernel.first;
        self.raw(request.encode());
        loop {
            let here = self.running && self.cpu.current.is_some_and(|current| Some(current.domain) == first);
            if !here {
                // Another got the CPU, or another CPU got us: the answer is lost, as the test does not follow.
                return Err(Error::Busy);
            }
            if self.context.rip != CALL_AT - 2 {
                break;
            }
            if self.kicked() {
                let next = self.shared.kernel.interrupt(&mut self.cpu, Interrupt::Kick, &mut self.context);
                self.follow(next);
                continue;
            }
            std::thread::yield_now();
            let Context { rdi, rsi, rdx, r10, r8, r9, rax, .. } = self.context;
            self.raw(Registers { number: rax, arguments: [rdi, rsi, rdx, r10, r8, r9] });
        }
        Error::from_code(self.context.rax).map_or(Ok(self.context.rdx), Err)
    }

    /// The first domain has more weight than all others, so that it is hardly ever put aside in the middle of what follows.
    fn act_as_first(&mut self) {
        let Shared { info, .. } = self.shared;
        let children = self.shared.children.lock().expect("sound").clone();
        match self.random.below(8) {
            0..=2 if children.len() < CHILDREN_MAX => self.make_child(),
            3 if !children.is_empty() => {
                let (domain, _) = children[self.random.below(children.len() as u64) as usize];
                let _ = self.call(Request::End { domain, status: 0 });
                if self.call(Request::Derive { capability: domain, rights: Rights::NONE })
                    == Err(Error::StaleHandle)
                {
                    self.shared.ended.fetch_add(1, Relaxed);
                    self.shared.children.lock().expect("sound").retain(|(handle, _)| *handle != domain);
                }
            }
            4 => {
                let deadline_ns = self.shared.kernel.machine.state().now_ns + self.random.below(1_000_000);
                self.raw(Request::Wait { vcpu: info.vcpu, deadline_ns }.encode());
            }
            5 => {
                let _ = self.call(Request::Revoke { capability: info.module_memory, deadline_ns: 0 });
            }
            _ => self.interrupt(),
        }
    }

    fn make_child(&mut self) {
        let info = self.shared.info;
        let span = Span::new(SCRATCH, PAGE_SIZE);
        let (space, backing, protection) = (info.space, Backing::Zero, Protection::ReadWrite);
        if self.call(Request::Map { space, span, backing, protection, commit: Commit::OnTouch }).is_err() {
            return;
        }
        {
            let first = self.shared.kernel.first.expect("there is one");
            let mut domain = self.shared.kernel.domains.lock(first).expect("it lives");
            let touch =
                domain.space.touch(&self.shared.kernel.machine, Page::containing(SCRATCH), Access::Write);
            let Touch::Resolved(mapping) = touch else { return };
            let parameters = DomainParameters {
                memory_bytes: 400 * PAGE_SIZE,
                capabilities_max: 24,
                regions_max: 40,
                vcpus_max: 2,
                objects_max: 6,
                domains_max: 1,
                share: 10,
                budget_ns: if self.random.below(2) == 0 { 0 } else { 30_000_000 },
                ..DomainParameters::default()
            };
            self.shared.kernel.machine.write_words(mapping.frame, 0, &parameters.to_words());
        }
        let Ok(domain) = self.call(Request::CreateDomain { parent: space, parameters: SCRATCH }) else {
            return;
        };
        let domain = Handle::from_raw(domain);
        self.shared.made.fetch_add(1, Relaxed);
        self.shared.children.lock().expect("sound").push((domain, Vec::new()));
        let rights = Rights::ALL;
        let _ = self.call(Request::Grant { capability: domain, rights, domain });
        let _ = self.call(Request::Grant { capability: info.module_memory, rights: Rights::MAP, domain });
        for number in 0..2 {
            let Ok(vcpu) = self.call(Request::CreateVcpu { domain }) else { return };
            let vcpu = Handle::from_raw(vcpu);
            let _ = self.call(Request::Grant { capability: vcpu, rights, domain });
            let _ = self.call(Request::Start { vcpu, entry: 0x1000, stack: 0x2000, argument: number });
        }
    }

    fn interrupt(&mut self) {
        let interrupt = if self.kicked() { Interrupt::Kick } else { Interrupt::Alarm };
        let next = self.shared.kernel.interrupt(&mut self.cpu, interrupt, &mut self.context);
        self.follow(next);
    }

    fn act_as_child(&mut self) {
        match self.random.below(12) {
            0 => self.interrupt(),
            1..=3 => {
                let address = BASE + self.random.below(64) * PAGE_SIZE;
                let error = 4 | self.random.below(2) << 1;
                let fault = Fault { vector: PAGE_FAULT, error, address };
                let next = self.shared.kernel.fault(&mut self.cpu, fault, &mut self.context);
                self.follow(next);
            }
            _ => {
                let random = &mut self.random;
                let mut word = || match random.below(6) {
                    0 => Handle::new(random.below(12) as u32, 1 + random.below(2) as u32).raw(),
                    1 => BASE + random.below(64) * PAGE_SIZE,
                    2 => (1 + random.below(20)) * PAGE_SIZE,
                    3 => random.below(300),
                    4 => random.below(u64::MAX),
                    _ => random.below(6) | random.below(4) << 8 | random.below(2) << 16,
                };
                let mut arguments = [word(), word(), word(), word(), word(), word()];
                arguments[0] = Handle::new(random.below(8) as u32, 1 + random.below(2) as u32).raw();
                if random.below(3) == 0 {
                    arguments[1] = BASE + random.below(64) * PAGE_SIZE;
                    arguments[2] = (1 + random.below(20)) * PAGE_SIZE;
                    arguments[3] = random.below(6) | random.below(4) << 8 | random.below(2) << 16;
                }
                let number = if random.below(3) == 0 { 1 + random.below(4) } else { random.below(32) };
                self.raw(Registers { number, arguments });
            }
        }
    }
}

#[test]
fn cpus_at_once_lose_nothing_and_wait_for_nobody() {
    let steps = if std::env::var_os("SELKIS_SOAK").is_some() { 2_000_000 } else { 60_000 };
    let module = module();
    let fake = Fake::<Yield>::new(12_000 + RESERVE, &module, CPUS);
    let given = BootModule { address: 0, bytes: &module };
    let kernel = start(fake, Some(given), devices(), ClockParameters::default()).expect("it starts");
    let info = kernel.machine.state().info.expect("it was published");
    let shared = Shared {
        kernel,
        info,
        children: Mutex::default(),
        made: AtomicU64::new(0),
        ended: AtomicU64::new(0),
    };
    let mut threads: Vec<Thread<'_>> = (0..CPUS)
        .map(|number| {
            let random = Random(number as u64 + 1);
            let (cpu, context) = (Cpu::new(number), Context::default());
            Thread { shared: &shared, number, cpu, context, random, running: false }
        })
        .collect();
    let before = shared.kernel.machine.free_count();
    std::thread::scope(|scope| {
        for thread in &mut threads {
            scope.spawn(move || thread.run(steps));
        }
    });
    audit(&shared.kernel, &threads.iter().map(|thread| &thread.cpu).collect::<Vec<_>>());
    // Everybody ends. Whoever holds a CPU that is asked to look, looks.
    let first = shared.kernel.first.expect("there is one");
    let vcpu = shared.kernel.domains.lock(first).expect("it lives").vcpus[0].expect("there is one");
    let mut cpu = Cpu::new(0);
    cpu.current = Some(crate::kernel::Current { vcpu, domain: first });
    let origin =
        |id| shared.kernel.domains.lock(id).and_then(|domain| Some((domain.parent?, domain.origin?)));
    let origins: Vec<_> = shared.kernel.domains.ids().filter_map(origin).collect();
    let children = origins.into_iter().filter(|(parent, _)| *parent == first).map(|(_, origin)| {
        shared.kernel.domains.lock(first).expect("it lives").capabilities.handle(origin.slot)
    });
    for domain in children.collect::<Vec<_>>() {
        while shared.kernel.serve(&cpu, Request::End { domain, status: 0 }).is_err() {
            for thread in &mut threads {
                if thread.running {
                    thread.interrupt();
                } else {
                    thread.sleep();
                }
            }
        }
    }
    assert_eq!(shared.kernel.domains.ids().count(), 1);
    assert_eq!(shared.kernel.vcpus.ids().count(), 1);
    assert_eq!((shared.kernel.memories.ids().count(), shared.kernel.channels.ids().count()), (1, 0));
    let (made, ended) = (shared.made.load(Relaxed), shared.ended.load(Relaxed));
    assert!(made > 20 && ended > 20, "{made} were made and {ended} ended");
    let domain = &mut *shared.kernel.domains.lock(first).expect("it lives");
    domain
        .space
        .unmap(&shared.kernel.machine, Page::containing(SCRATCH), Page::containing(SCRATCH + PAGE_SIZE))
        .expect("a page");
    assert_eq!(shared.kernel.machine.free_count(), before, "every frame is back");
}
