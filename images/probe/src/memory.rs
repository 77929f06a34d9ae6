//! Regions: zeros, copies of the module, protections, resets, quotas.

use crate::probe::{Probe, check};
use crate::upcalls::attempt;
use abi::{Backing, Commit, Error, Handle, Marks, PAGE_SIZE, Protection, Request, Span, mark};

const BASE: u64 = 0x3_0000_0000;
const PAGES: u64 = 64;

extern "C" fn read_byte(address: u64) {
    // SAFETY: either mapped, or the fault is what the caller wants.
    unsafe { core::hint::black_box((address as *const u8).read_volatile()) };
}

extern "C" fn write_byte(address: u64) {
    // SAFETY: either mapped and nobody else's, or the fault is what the caller wants.
    unsafe { (address as *mut u8).write_volatile(0xa5) }
}

pub extern "C" fn run_at(address: u64) {
    // SAFETY: either `ret` is there, or the fault is what the caller wants.
    unsafe { core::mem::transmute::<u64, extern "C" fn()>(address)() }
}

pub fn load(address: u64) -> u64 {
    // SAFETY: the callers mapped it.
    unsafe { (address as *const u64).read_volatile() }
}

pub fn store(address: u64, value: u64) {
    // SAFETY: the callers mapped it, writable.
    unsafe { (address as *mut u64).write_volatile(value) }
}

const fn span(first: u64, pages: u64) -> Span {
    Span::new(BASE + first * PAGE_SIZE, pages * PAGE_SIZE)
}

struct Memory<'p> {
    probe: &'p Probe,
    space: Handle,
}

impl Memory<'_> {
    fn map(&self, span: Span, backing: Backing, protection: Protection, commit: Commit) -> Request {
        Request::Map { space: self.space, span, backing, protection, commit }
    }

    fn zero(&self, span: Span) -> Request {
        self.map(span, Backing::Zero, Protection::ReadWrite, Commit::OnTouch)
    }

    fn protect(&self, span: Span, protection: Protection) -> Request {
        Request::Protect { space: self.space, span, protection }
    }

    fn reset(&self, span: Span) -> Request {
        Request::Reset { space: self.space, span }
    }

    fn unmap(&self, span: Span) -> Request {
        Request::Unmap { space: self.space, span }
    }

    /// A read, write and jump to `address` fault or not, as `allowed` says in this order.
    #[track_caller]
    fn access(&self, address: u64, allowed: [bool; 2]) {
        for (code, allowed, error) in
            [(read_byte as extern "C" fn(u64), allowed[0], 4), (write_byte, allowed[1], 6)]
        {
            match attempt(code, address) {
                None => check(allowed, "the access is not allowed"),
                Some(context) => {
                    check(!allowed, "the access is allowed");
                    check(context.vector == 14 && context.address == address, "it is a page fault there");
                    check(
                        context.error & !1 == error && context.out_of_memory == 0,
                        "its error code is right",
                    );
                }
            }
        }
    }
}

/// Everything about memory.
pub fn run(probe: &Probe) {
    let memory = Memory { probe, space: probe.info.space };
    zeros(&memory);
    images(&memory);
    protections(&memory);
    code(&memory);
    contiguous(&memory);
    ranges(&memory);
    handles(&memory);
    many_regions(&memory);
    marks(&memory);
    what_it_started_with(&memory);
    probe.must(memory.unmap(span(0, PAGES)));
}

/// What CPUs note of pages, and where the kernel writes.
fn marks(memory: &Memory<'_>) {
    const COUNT: usize = 6;
    const ALL: u8 = mark::PRIVATE | mark::ACCESSED | mark::DIRTY;
    let probe = memory.probe;
    let (pages, map) = (span(0, COUNT as u64), span(PAGES - 1, 1).base);
    let request = |into, marks| Request::ReadMarks { space: memory.space, span: pages, into, marks };
    probe.must(memory.unmap(span(0, PAGES)));
    probe.must(memory.zero(span(0, 4)));
    let image = Backing::Image { source: probe.info.module.base };
    probe.must(memory.map(span(4, 2), image, Protection::ReadWrite, Commit::OnTouch));
    probe.must(memory.zero(Span::new(map, PAGE_SIZE)));
    let expect = |marks, expected: [u8; COUNT], what| {
        check(probe.must(request(map, marks)) == COUNT as u64, "all pages were read");
        // SAFETY: mapped, and nobody else's.
        check(unsafe { (map as *const [u8; COUNT]).read_volatile() } == expected, what);
    };
    expect(Marks::Keep, [0; COUNT], "nothing was touched");
    let at = |page| span(page, 1).base;
    store(at(1), 1);
    load(at(2));
    load(at(4));
    store(at(5), 1);
    let read = mark::PRIVATE | mark::ACCESSED;
    let first = [0, ALL, read, 0, mark::ACCESSED, ALL];
    expect(Marks::Keep, first, "what was done is noted");
    probe.refused(request(span(PAGES, 1).base, Marks::Clear), Error::NotMapped);
    expect(Marks::Clear, first, "and stays until it is cleared");
    let cleared = [0, mark::PRIVATE, mark::PRIVATE, 0, 0, mark::PRIVATE];
    expect(Marks::Clear, cleared, "then it is gone");
    store(at(2), 1);
    store(at(4), 1);
    probe.must(request(at(3), Marks::Keep));
    expect(Marks::Clear, [0, mark::PRIVATE, ALL, ALL, ALL, mark::PRIVATE], "and comes anew");
    probe.must(memory.protect(span(1, 1), Protection::None));
    store(at(2), 2);
    probe.must(memory.protect(span(2, 1), Protection::Read));
    probe.must(memory.reset(span(3, 2)));
    expect(Marks::Keep, [0, mark::PRIVATE, ALL, 0, 0, mark::PRIVATE], "whatever may be done with the page");
    probe.must(memory.unmap(span(0, PAGES)));
}

fn zeros(memory: &Memory<'_>) {
    let probe = memory.probe;
    for commit in [Commit::OnTouch, Commit::Now] {
        probe.must(memory.map(span(0, PAGES), Backing::Zero, Protection::ReadWrite, commit));
        for page in 0..PAGES {
            let at = span(page, 1).base;
            check(load(at) == 0 && load(at + PAGE_SIZE - 8) == 0, "first contents are zeros");
            store(at, page + 1);
        }
        probe.must(memory.reset(span(8, 8)));
        for page in 0..PAGES {
            let expected = if (8..16).contains(&page) { 0 } else { page + 1 };
            check(
                load(span(page, 1).base) == expected,
                "a reset takes what it was told to, and nothing else",
            );
        }
        probe.must(memory.zero(span(20, 1)));
        check(load(span(20, 1).base) == 0, "a new region begins anew");
        probe.must(memory.unmap(span(30, 2)));
        memory.access(span(30, 1).base, [false, false]);
        memory.access(span(29, 1).base, [true, true]);
        memory.access(span(32, 1).base, [true, true]);
    }
}

fn images(memory: &Memory<'_>) {
    let probe = memory.probe;
    let module = probe.info.module.base;
    let word = |page: u64| load(module + page * PAGE_SIZE);
    probe.must(memory.map(
        span(0, 3),
        Backing::Image { source: module },
        Protection::ReadWrite,
        Commit::OnTouch,
    ));
    for round in 0..3 {
        for page in 0..3 {
            let at = span(page, 1).base;
            check(
                load(at) == word(page) && load(at + 8) == load(module + page * PAGE_SIZE + 8),
                "the image shows through",
            );
            store(at, !word(page));
            check(
                load(at) == !word(page) && load(at + 8) == load(module + page * PAGE_SIZE + 8),
                "the copy is private",
            );
        }
        check(word(0) == abi::boot::ModuleHeader::MAGIC, "the module is as it was");
        probe.must(memory.reset(span(0, 3)));
        if round == 1 {
            // Write first, without having read.
            store(span(1, 1).base + 16, 7);
            check(load(span(1, 1).base) == word(1), "a copy has the rest");
            probe.must(memory.reset(span(0, 3)));
        }
    }
    let bad = |source| memory.map(span(0, 3), Backing::Image { source }, Protection::Read, Commit::OnTouch);
    for source in [1, module + 1, u64::MAX - 4095, 0xffff_8000_0000_0000] {
        probe.refused(bad(source), Error::BadRange);
    }
    let end = module + probe.info.module.length.next_multiple_of(PAGE_SIZE);
    probe.refused(bad(end - 2 * PAGE_SIZE), Error::BadRange);
    for source in [0, module - PAGE_SIZE] {
        probe.refused(bad(source), Error::NotMapped);
    }
}

fn protections(memory: &Memory<'_>) {
    let probe = memory.probe;
    probe.must(memory.unmap(span(0, PAGES)));
    probe.must(memory.zero(span(0, 4)));
    store(span(1, 1).base, 42);
    for (protection, allowed) in [
        (Protection::None, [false, false]),
        (Protection::Read, [true, false]),
        (Protection::ReadExecute, [true, false]),
        (Protection::ReadWrite, [true, true]),
    ] {
        // Once touched before, once not.
        probe.must(memory.protect(span(1, 2), protection));
        memory.access(span(1, 1).base + 8, allowed);
        memory.access(span(2, 1).base, allowed);
    }
    check(load(span(1, 1).base) == 42, "contents outlive protections");
    probe.refused(memory.protect(span(3, 2), Protection::Read), Error::NotMapped);
    let module = Span::new(probe.info.module.base, PAGE_SIZE);
    probe.refused(memory.protect(module, Protection::ReadWrite), Error::Protection);
    probe.must(memory.protect(module, Protection::ReadExecute));
    memory.access(module.base, [true, false]);
    probe.must(memory.protect(module, Protection::Read));
    probe.refused(memory.unmap(module), Error::BadRange);
    probe.refused(memory.reset(module), Error::BadRange);
}

fn code(memory: &Memory<'_>) {
    const RETURN: u8 = 0xc3;
    let probe = memory.probe;
    let at = span(5, 1);
    probe.must(memory.zero(at));
    store(at.base, u64::from(RETURN));
    let context = attempt(run_at, at.base);
    check(
        context.is_some_and(|context| context.error == 0x15 && context.rip == at.base),
        "data does not run",
    );
    probe.must(memory.protect(at, Protection::ReadExecute));
    check(attempt(run_at, at.base).is_none(), "code runs");
    memory.access(at.base, [true, false]);
    // The probe's own code and constants.
    memory.access(run as *const () as u64, [true, false]);
}

fn contiguous(memory: &Memory<'_>) {
    let probe = memory.probe;
    let Some(device) = probe.info.devices[..probe.info.device_count as usize].first() else { return };
    let dma = Backing::Dma { device: device.handle };
    for _ in 0..1000 {
        let physical = probe.must(memory.map(span(0, 16), dma, Protection::ReadWrite, Commit::Now));
        check(physical != 0 && physical.is_multiple_of(PAGE_SIZE), "DMA memory has an address");
        check(load(span(0, 1).base) == 0 && load(span(15, 1).base) == 0, "DMA memory is zeroed");
        store(span(0, 1).base, 1);
        store(span(15, 1).base, 1);
        probe.must(memory.reset(span(0, 16)));
        check(load(span(15, 1).base) == 1, "a reset leaves DMA memory alone");
        probe.must(memory.unmap(span(0, 16)));
    }
    probe.refused(memory.map(span(0, 16), dma, Protection::ReadExecute, Commit::Now), Error::Protection);
    let huge = Span::new(BASE, 1 << 40);
    probe.refused(memory.map(huge, dma, Protection::ReadWrite, Commit::Now), Error::BadRange);
    let bad = Backing::Dma { device: probe.info.space };
    probe.refused(memory.map(span(0, 1), bad, Protection::ReadWrite, Commit::Now), Error::WrongKind);
}

fn ranges(memory: &Memory<'_>) {
    let probe = memory.probe;
    let window = probe.info.window;
    let bad = [
        Span::new(BASE + 1, PAGE_SIZE),
        Span::new(BASE, PAGE_SIZE + 1),
        Span::new(BASE, 0),
        Span::new(u64::MAX - 4095, PAGE_SIZE),
        Span::new(BASE, u64::MAX - 4095),
        Span::new(0, PAGE_SIZE),
        Span::new(window.base - PAGE_SIZE, 2 * PAGE_SIZE),
        Span::new(window.base + window.length, PAGE_SIZE),
        Span::new(0x1000_0000, PAGE_SIZE),
        Span::new(0x0800_0000, PAGE_SIZE),
        Span::new(1 << 47, PAGE_SIZE),
        Span::new(0xffff_8000_0000_0000, PAGE_SIZE),
        Span::new(0xffff_ffff_8020_0000, PAGE_SIZE),
    ];
    for span in bad {
        probe.refused(memory.zero(span), Error::BadRange);
        // What a domain starts with it may protect more.
        let answer = probe.call(memory.protect(span, Protection::ReadWrite));
        check(
            answer.is_err() && answer != Err(Error::NoMemory),
            "outside of the window no page becomes writable",
        );
        probe.refused(memory.reset(span), Error::BadRange);
        probe.refused(memory.unmap(span), Error::BadRange);
    }
    let text = |base, length| Request::Print { space: memory.space, text: Span::new(base, length) };
    probe.refused(text(0xffff_8000_0000_0000, 16), Error::BadRange);
    probe.refused(text(u64::MAX - 8, 16), Error::BadRange);
    probe.refused(text(BASE, 513), Error::BadRange);
    probe.refused(text(0, 16), Error::NotMapped);
    probe.must(memory.unmap(span(0, 2)));
    probe.must(memory.zero(span(0, 1)));
    probe.refused(text(span(1, 1).base - 8, 16), Error::NotMapped);
    probe.must(text(BASE, 0));
    let page = crate::upcalls::PAGE;
    for request in [
        memory.unmap(Span::new(page, PAGE_SIZE)),
        memory.zero(Span::new(page, PAGE_SIZE)),
        memory.reset(Span::new(page - 2 * PAGE_SIZE, 4 * PAGE_SIZE)),
        memory.protect(Span::new(page, PAGE_SIZE), Protection::Read),
    ] {
        probe.refused(request, Error::Busy);
    }
}

fn handles(memory: &Memory<'_>) {
    let probe = memory.probe;
    let info = probe.info;
    let forged = [
        0,
        1,
        u64::MAX,
        info.space.raw() ^ 1 << 32,
        info.space.raw() | 0xffff,
        1 << 63,
        0xffff_8000_0000_0000,
    ];
    for handle in forged.map(Handle::from_raw) {
        let requests = [
            Request::Unmap { space: handle, span: span(0, 1) },
            Request::Now { vcpu: handle },
            Request::CpuTime { vcpu: handle },
            Request::Stop { machine: handle, status: 3 },
            Request::Wait { vcpu: handle, deadline_ns: 0 },
            Request::OpenPorts { device: handle },
            Request::Print { space: handle, text: span(0, 1) },
        ];
        requests.into_iter().for_each(|request| probe.refused(request, Error::StaleHandle));
    }
    probe.refused(Request::Now { vcpu: info.space }, Error::WrongKind);
    probe.refused(Request::Stop { machine: info.vcpu, status: 3 }, Error::WrongKind);
    probe.refused(Request::Unmap { space: info.machine, span: span(0, 1) }, Error::WrongKind);
    probe.refused(Request::ReadConfig { device: info.vcpu, offset: 0 }, Error::WrongKind);
}

/// Fills the region table, with a hole between each two.
fn many_regions(memory: &Memory<'_>) {
    const MANY: u64 = 20_000;
    let probe = memory.probe;
    let at = |index: u64| Span::new(BASE + (1 << 32) + index * 2 * PAGE_SIZE, PAGE_SIZE);
    let full = (0..MANY).find(|&index| probe.call(memory.zero(at(index))) == Err(Error::TableFull));
    check(full.is_some_and(|count| count > 10_000), "the region table fills up, and takes many");
    probe.refused(memory.zero(at(MANY)), Error::TableFull);
    probe.must(memory.zero(at(0)));
    probe.must(memory.unmap(Span::new(at(0).base, at(MANY).base - at(0).base)));
    probe.must(memory.zero(at(MANY)));
    probe.must(memory.unmap(at(MANY)));
}

fn what_it_started_with(memory: &Memory<'_>) {
    let info = memory.probe.info;
    let stack = 0x0900_0000 - abi::BootInfo::STACK_BYTES;
    memory.access(stack, [true, true]);
    memory.access(stack - 1, [false, false]);
    memory.access(info as *const _ as u64, [true, false]);
    for address in [
        0,
        0x1000,
        0xffff_8000_0000_0000,
        0xffff_8000_0010_0000,
        0xffff_ffff_8020_0000,
        0xffff_c000_0000_0000,
    ] {
        for code in [read_byte, write_byte, run_at] {
            let context = attempt(code as extern "C" fn(u64), address);
            check(context.is_some_and(|context| context.vector == 14), "the kernel's memory is closed");
        }
    }
}

/// Uses the whole quota up, in each way, and gets it all back each time.
pub fn exhaust(probe: &Probe) {
    let memory = Memory { probe, space: probe.info.space };
    let quota = probe.info.quota_bytes;
    let all = Span::new(BASE, quota);
    probe.refused(memory.map(all, Backing::Zero, Protection::ReadWrite, Commit::Now), Error::NoMemory);
    for _ in 0..2 {
        let most = Span::new(BASE, quota * 9 / 10 / PAGE_SIZE * PAGE_SIZE);
        probe.must(memory.map(most, Backing::Zero, Protection::ReadWrite, Commit::Now));
        probe.must(memory.unmap(most));
        probe.must(memory.zero(all));
        let mut touched = 0;
        let last = loop {
            match attempt(write_byte, BASE + touched * PAGE_SIZE) {
                None => touched += 1,
                Some(context) => break context,
            }
        };
        check(last.vector == 14 && last.out_of_memory == 1, "the last touch finds no memory");
        check(touched > quota / PAGE_SIZE * 9 / 10, "the quota is what was promised");
        probe.must(memory.reset(all));
        check(load(BASE) == 0, "after a reset there is memory again");
        probe.must(memory.unmap(all));
    }
}
