//! One domain on one CPU, against a simple model where there is one.

use super::{BASE, CALL_AT, MODULE_PAGES, RESERVE, Random, UPCALL_PAGE, WINDOW, devices, module};
use crate::capability::Capabilities;
use crate::fake::{Deadlock, Fake};
use crate::kernel::{Cpu, Fault, Interrupt, Kernel, Next, PAGE_FAULT};
use crate::machine::{Access, Frame, Machine, Owner, Page};
use crate::memory::Touch;
use crate::region::{REGIONS_MAX, Regions};
use crate::start::{BootModule, StartError, start};
use crate::table::Guard;
use crate::vcpu::Vcpu;
use abi::boot::{BootInfo, ClockParameters, status};
use abi::upcall::{Area, Kind};
use abi::{Backing, Commit, Context, Error, Handle, PAGE_SIZE, Protection, Registers, Request, Span};
use std::collections::BTreeMap;
use std::vec::Vec;

/// A kernel whose only CPU runs the first domain, which the test plays.
struct Domain {
    kernel: Kernel<Fake>,
    cpu: Cpu,
    info: BootInfo,
}

impl Domain {
    /// In a machine with so many frames for domains.
    fn new(frames: u64) -> Self {
        let module = module();
        let fake = Fake::<Deadlock>::new(frames + RESERVE, &module, 1);
        let given = BootModule { address: 0, bytes: &module };
        let kernel = start(fake, Some(given), devices(), ClockParameters::default()).expect("it starts");
        let (mut cpu, mut context) = (Cpu::new(0), Context::default());
        assert_eq!(kernel.awake(&mut cpu, &mut context), Next::Enter);
        assert_eq!((context.rip, context.rdi), (0x1000_1000, 0x0800_0000));
        let info = kernel.machine.state().info.expect("it was published");
        Self { kernel, cpu, info }
    }

    fn with_upcalls(frames: u64) -> Self {
        let mut domain = Self::new(frames);
        domain.must(domain.zero(UPCALL_PAGE, 1));
        let vcpu = domain.info.vcpu;
        domain.must(Request::SetUpcall { vcpu, page: UPCALL_PAGE, entry: 0x1000_1100, stack: 0x5000_0000 });
        domain
    }

    fn call(&mut self, request: Request) -> Result<u64, Error> {
        let mut context = self.context(request.encode());
        while self.system_call(&mut context) == Next::Enter && context.rip == CALL_AT - 2 {
            // Asked to be made again.
            context.rip = CALL_AT;
        }
        match Error::from_code(context.rax) {
            Some(error) => Err(error),
            None => Ok(context.rdx),
        }
    }

    fn system_call(&mut self, context: &mut Context) -> Next {
        self.kernel.system_call(&mut self.cpu, context)
    }

    fn fault(&mut self, vector: u8, error: u64, context: &mut Context) -> Next {
        self.kernel.fault(&mut self.cpu, Fault { vector, error, address: 0 }, context)
    }

    fn interrupt(&mut self, context: &mut Context) -> Next {
        self.kernel.interrupt(&mut self.cpu, Interrupt::Alarm, context)
    }

    fn note(&mut self, interrupt: Interrupt) {
        self.kernel.note(&mut self.cpu, interrupt);
    }

    fn awake(&mut self, context: &mut Context) -> Next {
        self.kernel.awake(&mut self.cpu, context)
    }

    fn domain(&self) -> Guard<'_, crate::domain::Domain<Fake>> {
        self.kernel.domains.lock(self.kernel.first.expect("there is one")).expect("it lives")
    }

    fn vcpu(&self) -> Guard<'_, Vcpu> {
        let vcpu = self.domain().vcpus[0].expect("there is one");
        self.kernel.vcpus.lock(vcpu).expect("it lives")
    }

    fn upcall_frame(&self) -> Frame {
        self.vcpu().upcall.expect("set").frame
    }

    fn context(&self, registers: Registers) -> Context {
        let [rdi, rsi, rdx, r10, r8, r9] = registers.arguments;
        Context {
            rax: registers.number,
            rdi,
            rsi,
            rdx,
            r10,
            r8,
            r9,
            rip: CALL_AT,
            rsp: 0x4000,
            ..Context::default()
        }
    }

    #[track_caller]
    fn must(&mut self, request: Request) -> u64 {
        self.call(request).unwrap_or_else(|error| panic!("{request:?}: {error:?}"))
    }

    fn map(
        &self,
        base: u64,
        pages: u64,
        backing: Backing,
        protection: Protection,
        commit: Commit,
    ) -> Request {
        let span = Span::new(base, pages * PAGE_SIZE);
        Request::Map { space: self.info.space, span, backing, protection, commit }
    }

    fn zero(&self, base: u64, pages: u64) -> Request {
        self.map(base, pages, Backing::Zero, Protection::ReadWrite, Commit::OnTouch)
    }

    fn touch(&mut self, address: u64, access: Access) -> Touch {
        self.domain().space.touch(&self.kernel.machine, Page::containing(address), access)
    }

    fn read(&mut self, address: u64) -> Option<u8> {
        let Touch::Resolved(mapping) = self.touch(address, Access::Read) else { return None };
        let mut byte = [0];
        self.kernel.machine.read(mapping.frame, (address % PAGE_SIZE) as usize, &mut byte);
        Some(byte[0])
    }

    fn write(&mut self, address: u64, byte: u8) -> bool {
        let Touch::Resolved(mapping) = self.touch(address, Access::Write) else { return false };
        self.kernel.machine.write(mapping.frame, (address % PAGE_SIZE) as usize, &[byte]);
        true
    }

    /// Sums up what the domain should be charged, from the mappings and regions, and compares.
    #[track_caller]
    fn check_accounts(&self, before: u64) {
        let domain = self.domain();
        let space = &domain.space;
        let regions = || space.regions.iter();
        let declared: u64 = regions().map(|region| region.charge(region.pages())).sum();
        let owned = space.tables.pages().filter(|(_, mapping)| mapping.owner == Owner::Page);
        let (mut touched, mut private) = (0, 0);
        for (page, _) in owned {
            let region = space.regions.find(page).expect("every page lies in a region");
            private += 1;
            touched += u64::from(region.commit == Commit::OnTouch);
        }
        let tables = space.tables.count();
        let kernel = &self.kernel;
        let memories = kernel.memories.ids().filter_map(|id| kernel.memories.lock(id));
        let memories: u64 = memories.filter(|memory| memory.owner.is_some()).map(|memory| memory.pages).sum();
        let channels = kernel.channels.ids().filter_map(|id| kernel.channels.lock(id));
        let channels: u64 = channels.map(|channel| channel.pages).sum();
        let vcpus = domain.vcpus.iter().flatten().count() as u64 - 1;
        let objects = memories + channels + vcpus;
        assert_eq!(space.used, self.fixed() + declared + touched + tables + objects);
        assert!(space.used <= space.quota);
        let is_dma = |region: &&crate::region::Region| matches!(region.source, crate::region::Source::Dma(_));
        let contiguous: u64 = regions().filter(is_dma).map(crate::region::Region::pages).sum();
        // The root and the vector registers, besides.
        let taken = private + contiguous + tables + objects + 2;
        assert_eq!(self.kernel.machine.free_count(), before + RESERVE - taken, "frames are lost");
    }

    /// What the kernel keeps about the domain and its virtual CPU, in frames.
    fn fixed(&self) -> u64 {
        1 + Capabilities::frames(4096) + Regions::frames(REGIONS_MAX) + 1
    }
}

#[test]
fn the_domain_finds_its_image() {
    let mut domain = Domain::new(1000);
    assert_eq!(domain.read(0x1000_2000), Some(7));
    assert_eq!(domain.read(0x1000_2000 + 99), Some(7));
    for zero in [100, 4095, 4096, 0x27ff] {
        assert_eq!(domain.read(0x1000_2000 + zero), Some(0), "zeros follow the data");
    }
    assert!(!domain.write(0x1000_1000, 1) && domain.touch(0x1000_1000, Access::Execute) != Touch::Denied);
    assert!(domain.write(0x1000_2000, 9));
    assert_eq!(domain.touch(0x1000_2000, Access::Execute), Touch::Denied);
    assert_eq!(domain.read(domain.info.module.base + 0x3000), Some(7), "the module is as it was");
    assert!(domain.write(0x0900_0000 - 1, 1) && !domain.write(0x0900_0000 - BootInfo::STACK_BYTES - 1, 1));
    assert_eq!(domain.info.device_count, 2);
}

#[test]
fn a_domain_that_ends_leaves_nothing() {
    let mut domain = Domain::with_upcalls(4000);
    let all = 4000;
    domain.must(domain.map(BASE, 100, Backing::Zero, Protection::ReadWrite, Commit::Now));
    let device = domain.info.devices[0].handle;
    domain.must(domain.map(
        BASE + (1 << 33),
        10,
        Backing::Dma { device },
        Protection::ReadWrite,
        Commit::Now,
    ));
    (0..100).for_each(|page| assert!(domain.write(BASE + page * PAGE_SIZE, 1)));
    domain.check_accounts(all);
    domain.kernel.machine.write_words(domain.upcall_frame(), 0, &[1]);
    let mut context = Context::default();
    assert_eq!(domain.fault(6, 0, &mut context), Next::Stop(status::DOMAIN_ENDED));
    let printed = b"error: the domain ended: exception 6";
    assert!(domain.kernel.machine.state().printed.starts_with(printed));
    while domain.domain().space.end(&domain.kernel.machine).is_err() {}
    assert_eq!(domain.kernel.machine.free_count(), all + RESERVE - 2);
    assert_eq!(domain.domain().space.used, domain.fixed());
    assert_eq!(domain.domain().space.tables.pages().count(), 0);
}

/// What a page of the model holds.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Cell {
    first: u8,
    now: u8,
    protection: Protection,
    resets: bool,
}

/// Random maps, unmaps, protections, resets and accesses over a small range, beside an array.
#[test]
fn memory_behaves_as_the_model_and_counts_balance() {
    const PAGES: u64 = 1200;
    for seed in 1..=20 {
        let frames = if seed % 2 == 0 { 700 } else { 5000 };
        let mut domain = Domain::with_upcalls(frames);
        let mut model: BTreeMap<u64, Cell> = BTreeMap::new();
        let mut random = Random(seed);
        for _ in 0..1500 {
            let first = random.below(PAGES);
            let most = if random.below(8) == 0 { PAGES - first } else { 12.min(PAGES - first) };
            let count = 1 + random.below(most);
            let pages = first..first + count;
            // Spread over three tables.
            let at = |page: u64| BASE + page * PAGE_SIZE;
            let span = Span::new(at(first), count * PAGE_SIZE);
            let space = domain.info.space;
            let protections =
                [Protection::None, Protection::Read, Protection::ReadWrite, Protection::ReadExecute];
            let protection = protections[random.below(4) as usize];
            match random.below(6) {
                0 => {
                    let device = domain.info.devices[0].handle;
                    let kind = random.below(4);
                    let backing = match kind {
                        0 | 1 => Backing::Zero,
                        2 if count <= MODULE_PAGES - 6 => {
                            Backing::Image { source: domain.info.module.base + 6 * PAGE_SIZE }
                        }
                        2 => Backing::Zero,
                        _ => Backing::Dma { device },
                    };
                    let first_byte = if matches!(backing, Backing::Image { .. }) { 0xee } else { 0 };
                    let commit = if random.below(3) == 0 { Commit::Now } else { Commit::OnTouch };
                    let dma = matches!(backing, Backing::Dma { .. });
                    let request = Request::Map { space, span, backing, protection, commit };
                    let cell = Cell { first: first_byte, now: first_byte, protection, resets: !dma };
                    match domain.call(request) {
                        Ok(_) => model.extend(pages.map(|page| (page, cell))),
                        Err(Error::Protection) => assert!(dma && protection == Protection::ReadExecute),
                        Err(Error::BadRange) => assert!(dma && span.length > Request::MEMORY_BYTES_MAX),
                        Err(Error::NoMemory) => {
                            let inner = domain.domain();
                            let regions = &inner.space.regions;
                            let left = |page: u64| regions.find(Page::containing(at(page))).is_some();
                            assert!(!pages.clone().any(left), "what was there is gone");
                            model.retain(|page, _| !pages.contains(page));
                        }
                        Err(error) => panic!("{request:?}: {error:?}"),
                    }
                }
                1 => {
                    domain.must(Request::Unmap { space, span });
                    model.retain(|page, _| !pages.contains(page));
                }
                2 => {
                    let mapped = pages.clone().all(|page| model.contains_key(&page));
                    let fits = protection != Protection::ReadExecute
                        || pages.clone().all(|page| model.get(&page).is_some_and(|cell| cell.resets));
                    let expected = match (mapped, fits) {
                        (false, _) => Err(Error::NotMapped),
                        (true, false) => Err(Error::Protection),
                        (true, true) => Ok(0),
                    };
                    assert_eq!(domain.call(Request::Protect { space, span, protection }), expected);
                    if expected.is_ok() {
                        pages.for_each(|page| model.get_mut(&page).expect("mapped").protection = protection);
                    }
                }
                3 => {
                    domain.must(Request::Reset { space, span });
                    let cells = model.range_mut(pages).filter(|(_, cell)| cell.resets);
                    cells.for_each(|(_, cell)| cell.now = cell.first);
                }
                _ => {
                    let byte = random.below(256) as u8;
                    for page in pages {
                        let cell = model.get(&page).copied();
                        let readable =
                            cell.filter(|cell| cell.protection != Protection::None).map(|cell| cell.now);
                        match domain.touch(at(page), Access::Read) {
                            Touch::OutOfMemory => assert!(readable.is_some() && frames < 1000),
                            Touch::Denied => assert_eq!(readable, None),
                            Touch::Resolved(_) => assert_eq!(domain.read(at(page)), readable),
                        }
                        let writable = cell.is_some_and(|cell| cell.protection == Protection::ReadWrite);
                        match domain.touch(at(page), Access::Write) {
                            Touch::OutOfMemory => assert!(writable && frames < 1000),
                            Touch::Denied => assert!(!writable),
                            Touch::Resolved(_) => {
                                assert!(writable && domain.write(at(page), byte));
                                model.get_mut(&page).expect("mapped").now = byte;
                            }
                        }
                    }
                }
            }
            domain.check_accounts(frames);
        }
        while domain.domain().space.end(&domain.kernel.machine).is_err() {}
        assert_eq!(domain.kernel.machine.free_count(), frames + RESERVE - 2, "seed {seed}");
    }
}

#[test]
fn committed_memory_never_fails() {
    let mut domain = Domain::new(1000);
    let left = |inner: Guard<'_, crate::domain::Domain<Fake>>| inner.space.quota - inner.space.used;
    let pages = left(domain.domain()) - 10;
    domain.must(domain.map(BASE, pages, Backing::Zero, Protection::ReadWrite, Commit::Now));
    domain.must(domain.zero(BASE + (1 << 32), 100));
    let refused = (0..100).find(|page| !domain.write(BASE + (1 << 32) + page * PAGE_SIZE, 1));
    assert!(refused.is_some(), "the rest of the quota is used up");
    for page in 0..pages {
        assert!(domain.write(BASE + page * PAGE_SIZE, 1), "page {page} of {pages}");
    }
    domain.check_accounts(1000);
}

/// What has no room for all its tables is refused before the first is added: they may be many. To the last level, as for two pages where a
/// table of each level begins.
#[test]
fn committed_memory_is_refused_at_once() {
    const LIMIT: u64 = 1 << 20;
    let top = 1 << 39;
    let mut domain = Domain::new(4000);
    let used = domain.domain().space.used;
    let left = domain.domain().space.quota - used;
    for (base, pages, tables) in [(BASE, 2000, 5), (BASE - PAGE_SIZE, 1200, 6), (top - PAGE_SIZE, 2, 5)] {
        let map = domain.map(base, pages, Backing::Zero, Protection::ReadWrite, Commit::Now);
        let other = left - pages - tables;
        domain.domain().space.charge(other + 1).expect("there is room");
        domain.kernel.machine.state().frames_until_none = Some(LIMIT);
        assert_eq!(domain.call(map), Err(Error::NoMemory));
        assert_eq!(domain.kernel.machine.state().frames_until_none, Some(LIMIT), "frames were taken");
        domain.domain().space.discharge(1);
        domain.must(map);
        assert_eq!(domain.domain().space.used, used + left);
        let span = Span::new(base, pages * PAGE_SIZE);
        domain.must(Request::Unmap { space: domain.info.space, span });
        domain.domain().space.discharge(other);
    }
}

#[test]
fn upcalls_are_masked_told_and_resumed() {
    let mut domain = Domain::with_upcalls(1000);
    let vcpu = domain.info.vcpu;
    let frame = domain.upcall_frame();
    let before = Context { rip: 0x1234, rsp: 0x5678, rbx: 3, rflags: 0x202, ..Context::default() };
    domain.must(Request::SetTimer { vcpu, deadline_ns: 50 });
    assert_eq!(domain.kernel.machine.state().alarm_ns, 50);
    domain.kernel.machine.state().now_ns = 60;
    let mut context = before;
    assert_eq!(domain.interrupt(&mut context), Next::Enter);
    assert_eq!((context.rip, context.rsp, context.rdi), (0x1000_1100, 0x5000_0000, Kind::Tick as u64));
    assert_eq!(context.rsi, UPCALL_PAGE + 16);
    let mut saved = [0; Context::WORDS];
    domain.kernel.machine.read_words(frame, 2, &mut saved);
    assert_eq!(Context::from_words(saved), before);
    // Masked: an event waits. It comes with the resume, over the context that is resumed.
    domain.vcpu().raise(&domain.kernel.machine, 5);
    let mut again = context;
    assert_eq!(domain.interrupt(&mut again), Next::Enter);
    assert_eq!(again, context, "masked");
    let request = Request::Resume { vcpu, area: Area::Tick };
    let mut context = domain.context(request.encode());
    assert_eq!(domain.system_call(&mut context), Next::Enter);
    assert_eq!(context.rdi, Kind::Event as u64);
    let mut context = domain.context(request.encode());
    assert_eq!(domain.system_call(&mut context), Next::Enter);
    assert_eq!(context, before, "an event is told once");
    assert_eq!(domain.must(Request::Wait { vcpu, deadline_ns: 0 }), 1 << 5);
    // A fault while masked ends it; unmasked it is told in the other area.
    let mut context = before;
    assert_eq!(domain.fault(13, 8, &mut context), Next::Enter);
    assert_eq!(context.rdi, Kind::Fault as u64);
    assert_eq!(domain.fault(13, 8, &mut context), Next::Stop(status::DOMAIN_ENDED));
}

#[test]
fn what_is_resumed_is_sanitised() {
    let mut domain = Domain::with_upcalls(1000);
    let frame = domain.upcall_frame();
    let request = Request::Resume { vcpu: domain.info.vcpu, area: Area::Fault };
    let place = 2 + Context::WORDS;
    for (rip, rsp) in [(1 << 47, 0), (0, u64::MAX), ((1 << 47) - 4096, 0)] {
        let words = Context { rip, rsp, ..Context::default() }.to_words();
        domain.kernel.machine.write_words(frame, place, &words);
        assert_eq!(domain.call(request), Err(Error::BadRange));
    }
    let words = Context { rip: 1, rsp: 2, rflags: u64::MAX, vector: 14, ..Context::default() }.to_words();
    domain.kernel.machine.write_words(frame, place, &words);
    let mut context = domain.context(request.encode());
    assert_eq!(domain.system_call(&mut context), Next::Enter);
    assert_eq!(context, Context { rip: 1, rsp: 2, rflags: 0xfd7, ..Context::default() });
}

#[test]
fn interrupts_are_masked_until_acknowledged_and_end_waits() {
    let mut domain = Domain::with_upcalls(1000);
    let (device, vcpu) = (domain.info.devices[0].handle, domain.info.vcpu);
    assert_eq!(domain.call(Request::Acknowledge { device, index: 1 }), Err(Error::Malformed));
    domain.must(Request::Listen { source: device, index: 1, vcpu, event: 9 });
    assert!(domain.kernel.machine.state().connected.contains(&(4, 1)));
    let mut context = domain.context(Request::Wait { vcpu, deadline_ns: 1000 }.encode());
    assert_eq!(domain.system_call(&mut context), Next::Sleep);
    assert_eq!(domain.kernel.machine.state().alarm_ns, 1000);
    domain.note(Interrupt::Device { number: 7, line: 0 });
    domain.note(Interrupt::Device { number: 4, line: 2 });
    assert_eq!(domain.awake(&mut context), Next::Sleep, "nobody listens to those");
    domain.note(Interrupt::Device { number: 4, line: 1 });
    assert!(domain.kernel.machine.state().masked.contains(&(4, 1)));
    assert_eq!(domain.awake(&mut context), Next::Enter);
    assert_eq!((context.rax, context.rdx), (0, 1 << 9));
    domain.note(Interrupt::Device { number: 4, line: 1 });
    assert_eq!(domain.vcpu().pending, 0, "pending already");
    domain.must(Request::Acknowledge { device, index: 1 });
    assert!(!domain.kernel.machine.state().masked.contains(&(4, 1)));
    let mut context = domain.context(Request::Wait { vcpu, deadline_ns: 1000 }.encode());
    assert_eq!(domain.system_call(&mut context), Next::Sleep);
    domain.kernel.machine.state().now_ns = 1000;
    domain.note(Interrupt::Alarm);
    assert_eq!(domain.awake(&mut context), Next::Enter);
    assert_eq!((context.rax, context.rdx), (0, 0));
}

#[test]
fn devices_are_guarded() {
    let mut domain = Domain::new(1000);
    let (device, clock) = (domain.info.devices[0].handle, domain.info.devices[1].handle);
    for (offset, expected) in [
        (0x10, Err(Error::NoRight)),
        (0x40, Err(Error::NoRight)),
        (0x48, Err(Error::NoRight)),
        (0x4c, Ok(0)),
        (4, Ok(0)),
    ] {
        assert_eq!(domain.call(Request::WriteConfig { device, offset, value: 5 }), expected, "{offset:#x}");
    }
    assert_eq!(domain.call(Request::ReadConfig { device: clock, offset: 0 }), Err(Error::Unsupported));
    assert_eq!(domain.call(Request::OpenPorts { device }), Err(Error::Unsupported));
    domain.must(Request::OpenPorts { device: clock });
    assert_eq!(domain.domain().space.tables.open_ports, 1);
    let window = |domain: &Domain, window, pages| {
        domain.map(BASE, pages, Backing::Device { device, window }, Protection::ReadWrite, Commit::OnTouch)
    };
    assert_eq!(domain.call(window(&domain, 1, 5)), Err(Error::BadRange));
    assert_eq!(domain.call(window(&domain, 0, 1)), Err(Error::BadRange));
    domain.must(window(&domain, 1, 4));
    for page in 0..4 {
        let sealed = page == 1;
        assert_eq!(
            domain.touch(BASE + page * PAGE_SIZE, Access::Write) == Touch::Denied,
            sealed,
            "the MSI-X table is read-only"
        );
        assert_ne!(domain.touch(BASE + page * PAGE_SIZE, Access::Read), Touch::Denied);
    }
}

#[test]
fn no_registers_panic_the_kernel() {
    let mut domain = Domain::with_upcalls(3000);
    let mut random = Random(0x5eed);
    for _ in 0..200_000 {
        let info = &domain.info;
        let handles = [
            info.space,
            info.vcpu,
            info.machine,
            info.devices[0].handle,
            info.devices[1].handle,
            Handle::NONE,
        ];
        let mut word = || match random.below(7) {
            0 => random.below(u64::MAX),
            1 => handles[random.below(6) as usize].raw(),
            2 => WINDOW + random.below(1 << 14) * PAGE_SIZE,
            3 => info.module.base + random.below(20) * PAGE_SIZE,
            4 => random.below(80),
            5 => 1 << random.below(64),
            _ => random.below(300) * PAGE_SIZE,
        };
        let arguments = [word(), word(), word(), word(), word(), word()];
        let registers = Registers { number: random.below(33), arguments };
        if matches!(Request::decode(registers), Ok(Request::End { domain, .. }) if domain == info.space) {
            continue;
        }
        let mut context = domain.context(registers);
        match domain.system_call(&mut context) {
            Next::Sleep => {
                // Whoever sleeps has slept enough.
                let kernel = &domain.kernel;
                for id in kernel.vcpus.ids().collect::<Vec<_>>() {
                    let mut vcpu = kernel.vcpus.lock(id).expect("it lives");
                    let alarm_ns = vcpu.alarm_ns().min(1 << 60);
                    let mut state = kernel.machine.state();
                    state.now_ns = state.now_ns.max(alarm_ns);
                    drop(state);
                    vcpu.waiting = None;
                    kernel.rouse(&domain.cpu, id, &vcpu);
                }
                let next = domain.awake(&mut context);
                assert_eq!(next, Next::Enter, "{:?} {:?}", registers, domain.kernel.seats[0].queue.lock());
            }
            Next::Return | Next::Enter | Next::Stop(_) => (),
        }
        let error = random.below(32);
        let address = WINDOW + random.below(1 << 26);
        let current = domain.cpu.current.map(|current| current.vcpu);
        let open = |vcpu: Guard<'_, Vcpu>| vcpu.is_open(&domain.kernel.machine);
        if current.and_then(|id| domain.kernel.vcpus.lock(id)).is_some_and(open) {
            let fault = Fault { vector: PAGE_FAULT, error, address };
            domain.kernel.fault(&mut domain.cpu, fault, &mut context);
        }
        // As a handler does.
        let frame = domain.upcall_frame();
        domain.kernel.machine.write_words(frame, 0, &[0]);
    }
    domain.check_accounts(3000);
}

#[test]
fn damaged_modules_are_refused() {
    let good = module();
    let try_start = |frames, address, bytes: &[u8]| {
        let fake = Fake::<Deadlock>::new(frames + RESERVE, bytes, 1);
        start(fake, Some(BootModule { address, bytes }), Vec::new(), ClockParameters::default()).map(|_| ())
    };
    assert_eq!(try_start(1000, 0, &good), Ok(()));
    assert_eq!(try_start(1000, 8, &good), Err(StartError::UnalignedModule));
    assert_eq!(try_start(30, 0, &good), Err(StartError::NoMemory));
    let cut = StartError::DamagedModule {
        expected_bytes: Some(good.len() as u64),
        found_bytes: good.len() as u64 - 1,
    };
    assert_eq!(try_start(1000, 0, &good[..good.len() - 1]), Err(cut));
    let fake = Fake::<Deadlock>::new(2000, &good, 1);
    assert!(matches!(start(fake, None, Vec::new(), ClockParameters::default()), Err(StartError::NoModule)));
    // Any bit of the header or of the executable's headers: refused or started, and never a panic.
    for byte in (0..32).chain(4096..4096 + 64 + 2 * 56) {
        for bit in 0..8 {
            let mut damaged = good.clone();
            damaged[byte] ^= 1 << bit;
            let _ = try_start(1000, 0, &damaged);
        }
    }
    for length in 0..200 {
        assert!(try_start(1000, 0, &good[..length]).is_err());
    }
}
