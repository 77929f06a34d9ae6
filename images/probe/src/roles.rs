//! What domains do that the first one makes.

use crate::domains::CALLS_EACH;
use crate::probe::{Probe, check, fail, raw_call};
use crate::{abuse, faults, upcalls, vectors};
use abi::{
    Backing, Commit, DomainParameters, Error, Handle, PAGE_SIZE, Protection, Request, Rights, Sharing, Span,
};
use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A role, as the first domain writes it where a scenario's number stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Role {
    /// Ends with its argument.
    Exit = 100,
    /// Reads at its argument, where nothing is.
    Fault = 101,
    /// Runs for ever.
    Spin = 102,
    /// Touches memory until there is none.
    Touch = 103,
    /// Fills its tables, for ever.
    Exhaust = 104,
    /// Fills its tables and ends.
    ExhaustThenEnd = 105,
    /// Makes random requests for ever.
    Random = 106,
    /// Makes some and ends.
    RandomThenEnd = 107,
    /// Rings for ever.
    Flood = 108,
    /// Takes its first tick where there is no code.
    HandlerFaults = 109,
    /// Takes its first tick and never comes back.
    HandlerLoops = 110,
    /// Writes nonsense to its upcall page, and resumes it.
    Corrupt = 111,
    /// Counts up a word each time that it is rung, as often as its argument says, and rings back.
    Echo = 112,
    /// Maps memory that it is given, and gives it back when it is told.
    GivesBack = 113,
    /// The same, but does not.
    Keeps = 114,
    /// Counts up a word for ever; with an argument, it takes upcalls meanwhile.
    Count = 115,
    /// Signals what it is told, for ever.
    Signals = 116,
    /// Asks for the time, for ever.
    Calls = 117,
    /// Raises exceptions, for ever.
    Faults = 118,
    /// Touches pages and gives them back, for ever.
    Pages = 119,
    /// Makes a domain that runs on the CPUs of its argument, and ends it, for ever.
    Children = 120,
    /// Sleeps for as little as it can, for ever.
    Naps = 121,
    /// Raises the exception of this number ([`faults::alone`]), without upcalls.
    Raise = 122,
    /// Counts up a word of each memory that it is told, until it is taken, for ever.
    Uses = 123,
    /// Runs on two virtual CPUs, and when it is told to, unmaps a page for ever.
    Unmaps = 124,
    /// Looks whether its vector registers are fresh.
    Fresh = 125,
    /// The same, then fills them and looks for that again, for ever.
    Fills = 126,
    /// Has [`TURNS`] virtual CPUs run one after the other, for ever.
    Turns = 127,
}

const RING: u64 = 0x6000_0000_0000;
const GIVEN: u64 = 0x6100_0000_0000;
const HEAP: u64 = 0x6200_0000_0000;
const RANG: u32 = 3;
/// What [`Role::Count`] executes to count up by one.
pub const COUNT_INSTRUCTIONS: u64 = 2;

/// Where a domain starts.
pub fn entry() -> u64 {
    unsafe extern "C" {
        fn probe_entry();
    }
    probe_entry as *const () as u64
}

/// Plays it.
pub fn play(probe: &Probe, number: u64, argument: u64) -> ! {
    let is = |role: Role| role as u64 == number;
    if is(Role::Exit) {
        end(probe, argument)
    } else if is(Role::Fault) {
        read(argument)
    } else if is(Role::Spin) {
        spin()
    } else if is(Role::Touch) {
        touch(probe)
    } else if is(Role::Exhaust) || is(Role::ExhaustThenEnd) {
        exhaust(probe);
        while is(Role::Exhaust) {
            exhaust(probe);
        }
        end(probe, 42)
    } else if is(Role::Random) || is(Role::RandomThenEnd) {
        upcalls::start(probe);
        abuse::calls(probe, CALLS_EACH, argument);
        while is(Role::Random) {
            abuse::calls(probe, CALLS_EACH, argument);
        }
        end(probe, 42)
    } else if is(Role::Flood) {
        loop {
            probe.must(Request::Signal { target: probe.info.parent });
        }
    } else if is(Role::HandlerFaults) {
        handler(probe, 0x7000)
    } else if is(Role::HandlerLoops) {
        handler(probe, spin as *const () as u64)
    } else if is(Role::Corrupt) {
        corrupt(probe)
    } else if is(Role::Echo) {
        echo(probe, argument)
    } else if is(Role::GivesBack) || is(Role::Keeps) {
        keep(probe, is(Role::GivesBack))
    } else if is(Role::Count) {
        count(probe, argument != 0)
    } else if is(Role::Signals) {
        let target = Handle::from_raw(told(probe));
        loop {
            probe.must(Request::Signal { target });
        }
    } else if is(Role::Calls) {
        loop {
            probe.now();
        }
    } else if is(Role::Faults) {
        upcalls::start(probe);
        loop {
            faults::raise();
        }
    } else if is(Role::Pages) {
        pages(probe)
    } else if is(Role::Children) {
        children(probe, argument)
    } else if is(Role::Raise) {
        faults::alone(argument)
    } else if is(Role::Uses) {
        uses(probe)
    } else if is(Role::Unmaps) {
        unmaps(probe)
    } else if is(Role::Fresh) {
        vectors::fresh(argument);
        end(probe, 42)
    } else if is(Role::Turns) {
        turns(probe)
    } else if is(Role::Fills) {
        vectors::fresh(argument);
        let [rounds, _] = map_ring(probe);
        for round in 0.. {
            vectors::refill(probe, argument + round, round % 2 == 0);
            rounds.store(round, Relaxed);
        }
    } else if is(Role::Naps) {
        loop {
            let deadline_ns = probe.now() + 10_000;
            probe.must(Request::Wait { vcpu: probe.info.vcpu, deadline_ns });
        }
    }
    check(false, "there is such a role");
    spin()
}

fn end(probe: &Probe, status: u64) -> ! {
    probe.must(Request::End { domain: probe.info.space, status });
    spin()
}

extern "C" fn spin() -> ! {
    loop {
        core::hint::spin_loop();
    }
}

fn read(address: u64) -> ! {
    // SAFETY: nothing is mapped there: the domain ends here.
    unsafe { (address as *const u64).read_volatile() };
    spin()
}

fn map(probe: &Probe, base: u64, length: u64) {
    let (space, span) = (probe.info.space, Span::new(base, length));
    let (backing, protection, commit) = (Backing::Zero, Protection::ReadWrite, Commit::OnTouch);
    probe.must(Request::Map { space, span, backing, protection, commit });
}

fn touch(probe: &Probe) -> ! {
    map(probe, HEAP, 1 << 30);
    for page in 0.. {
        // SAFETY: mapped, and nobody else's; when there is no memory left the domain ends here.
        unsafe { ((HEAP + page * PAGE_SIZE) as *mut u64).write_volatile(page) }
    }
    spin()
}

/// Takes of everything as much as there is, and gives it back.
fn exhaust(probe: &Probe) {
    let space = probe.info.space;
    let mut taken = [Handle::NONE; 128];
    let mut count = 0;
    let mut until_full = |request: Request| {
        let error = loop {
            match probe.call(request) {
                Ok(handle) => taken[count] = Handle::from_raw(handle),
                Err(error) => break error,
            }
            count += 1;
        };
        check(matches!(error, Error::TableFull | Error::NoMemory), "it says that there is no more");
    };
    until_full(Request::CreateMemory { domain: space, bytes: PAGE_SIZE });
    until_full(Request::CreateChannel { domain: space, bytes: 0 });
    until_full(Request::CreateMemory { domain: space, bytes: 1 << 30 });
    until_full(Request::CreateVcpu { domain: space });
    until_full(Request::Derive { capability: space, rights: Rights::NONE });
    let mut regions = 0;
    let region = |index: u64| Span::new(HEAP + index * 2 * PAGE_SIZE, PAGE_SIZE);
    let (backing, protection, commit) = (Backing::Zero, Protection::ReadWrite, Commit::OnTouch);
    while probe.call(Request::Map { space, span: region(regions), backing, protection, commit }).is_ok() {
        regions += 1;
    }
    check(regions > 10 && count > 20, "there was some of each");
    probe.must(Request::Unmap { space, span: Span::new(HEAP, 1 << 30) });
    for &capability in taken[..count].iter().rev() {
        probe.must(Request::Release { capability });
    }
}

/// Has upcalls go to `entry`, and a tick come.
fn handler(probe: &Probe, entry: u64) -> ! {
    let vcpu = probe.info.vcpu;
    map(probe, upcalls::PAGE, PAGE_SIZE);
    probe.must(Request::SetUpcall { vcpu, page: upcalls::PAGE, entry, stack: 0x0900_0000 - 0x1_0000 });
    probe.must(Request::SetTimer { vcpu, deadline_ns: 0 });
    spin()
}

fn corrupt(probe: &Probe) -> ! {
    upcalls::start(probe);
    let vcpu = probe.info.vcpu;
    let mut random = crate::random::Random::new(probe.now());
    loop {
        for word in 0..PAGE_SIZE / 8 {
            // SAFETY: the page is mapped; what it says concerns this domain alone.
            unsafe { ((upcalls::PAGE + word * 8) as *mut u64).write_volatile(random.next() | 1 << 63) }
        }
        for area in [0, 1, 2] {
            let registers = abi::Registers { number: 6, arguments: [vcpu.raw(), area, 0, 0, 0, 0] };
            check(raw_call(registers).is_err(), "addresses of the kernel are not resumed");
        }
        // Masked by the nonsense: nothing comes in between.
        probe.must(Request::SetTimer { vcpu, deadline_ns: 0 });
    }
}

/// Maps the channel to whoever made the domain, listens to it, and says so.
fn open_ring(probe: &Probe) -> &'static AtomicU64 {
    let [word, _] = map_ring(probe);
    let source = probe.info.parent;
    probe.must(Request::Listen { source, index: 0, vcpu: probe.info.vcpu, event: RANG });
    answer(probe, word);
    word
}

/// Maps it: the first two words.
fn map_ring(probe: &Probe) -> &'static [AtomicU64; 2] {
    let backing = Backing::Memory { memory: probe.info.parent, offset: 0, sharing: Sharing::Shared };
    let (space, span, protection) = (probe.info.space, Span::new(RING, PAGE_SIZE), Protection::ReadWrite);
    probe.must(Request::Map { space, span, backing, protection, commit: Commit::OnTouch });
    // SAFETY: mapped for as long as the domain lives; both sides use atomics, or volatile words.
    unsafe { &*(RING as *const [AtomicU64; 2]) }
}

/// The second word, as soon as there is one.
fn told(probe: &Probe) -> u64 {
    let [_, word] = map_ring(probe);
    loop {
        match word.load(Relaxed) {
            0 => core::hint::spin_loop(),
            told => return told,
        }
    }
}

/// Counts the word up, and rings.
fn answer(probe: &Probe, word: &AtomicU64) {
    word.fetch_add(1, Relaxed);
    probe.must(Request::Signal { target: probe.info.parent });
}

fn wait(probe: &Probe) -> u64 {
    probe.must(Request::Wait { vcpu: probe.info.vcpu, deadline_ns: Request::NEVER })
}

fn echo(probe: &Probe, rounds: u64) -> ! {
    let word = open_ring(probe);
    for _ in 0..rounds {
        wait(probe);
        answer(probe, word);
    }
    end(probe, 42)
}

fn keep(probe: &Probe, gives_back: bool) -> ! {
    upcalls::start(probe);
    let word = open_ring(probe);
    // SAFETY: the same page.
    let given = unsafe { &*((RING + 8) as *const AtomicU64) };
    wait(probe);
    let memory = Handle::from_raw(given.load(Relaxed));
    let (space, backing) =
        (probe.info.space, Backing::Memory { memory, offset: 0, sharing: Sharing::Shared });
    let (span, protection) = (Span::new(GIVEN, PAGE_SIZE), Protection::ReadWrite);
    probe.must(Request::Map { space, span, backing, protection, commit: Commit::OnTouch });
    answer(probe, word);
    loop {
        // SAFETY: mapped until it is given back or taken; then the domain ends here.
        unsafe { (GIVEN as *mut u64).write_volatile(1) }
        // QEMU 7.2 with -icount runs no other CPU as long as one executes all that it may until the next timer.
        core::hint::spin_loop();
        if upcalls::REVOCATIONS.load(Relaxed) > 0 {
            if gives_back {
                check(probe.must(Request::NextRevoked { domain: space }) == memory.raw(), "it is told which");
                probe.refused(Request::NextRevoked { domain: space }, Error::NothingThere);
                probe.must(Request::Unmap { space, span });
                probe.must(Request::Release { capability: memory });
                end(probe, 42)
            }
            // No fault is told: the domain ends with it.
            upcalls::set_masked(1);
        }
    }
}

fn count(probe: &Probe, takes_upcalls: bool) -> ! {
    let [word, _] = map_ring(probe);
    if takes_upcalls {
        upcalls::start(probe);
    }
    const { assert!(COUNT_INSTRUCTIONS == 2) }
    // SAFETY: the word is mapped, and this domain alone writes to it.
    unsafe { asm!("2: inc qword ptr [{}]", "jmp 2b", in(reg) word.as_ptr(), options(noreturn)) }
}

/// Counts up a word for ever.
#[unsafe(naked)]
extern "C" fn count_at(_: u64) {
    core::arch::naked_asm!("2: inc qword ptr [rdi]", "jmp 2b")
}

fn uses(probe: &Probe) -> ! {
    upcalls::start(probe);
    let [rounds, told] = map_ring(probe);
    let (space, span, protection) = (probe.info.space, Span::new(GIVEN, PAGE_SIZE), Protection::ReadWrite);
    loop {
        let memory = Handle::from_raw(told.swap(0, Relaxed));
        if memory == Handle::NONE {
            core::hint::spin_loop();
            continue;
        }
        let backing = Backing::Memory { memory, offset: 0, sharing: Sharing::Shared };
        let map = Request::Map { space, span, backing, protection, commit: Commit::OnTouch };
        probe.must(map);
        let fault = upcalls::attempt(count_at, GIVEN);
        check(fault.is_some_and(|fault| (fault.vector, fault.address) == (14, GIVEN)), "a fault there");
        probe.refused(map, Error::StaleHandle);
        rounds.fetch_add(1, Relaxed);
    }
}

fn unmaps(probe: &Probe) -> ! {
    let (space, page) = (probe.info.space, HEAP + 2 * PAGE_SIZE);
    let [runs, go] = map_ring(probe);
    map(probe, HEAP, PAGE_SIZE);
    // SAFETY: mapped, and only accessed so.
    let counted = unsafe { &*(HEAP as *const AtomicU64) };
    let vcpu = Handle::from_raw(probe.must(Request::CreateVcpu { domain: space }));
    let entry = count_at as *const () as u64;
    probe.must(Request::Start { vcpu, entry, stack: HEAP, argument: HEAP });
    while counted.load(Relaxed) == 0 {
        core::hint::spin_loop();
    }
    runs.store(1, Relaxed);
    while go.load(Relaxed) == 0 {
        core::hint::spin_loop();
    }
    loop {
        map(probe, page, PAGE_SIZE);
        // SAFETY: mapped, and nobody else's.
        unsafe { (page as *mut u64).write_volatile(1) }
        probe.must(Request::Unmap { space, span: Span::new(page, PAGE_SIZE) });
    }
}

/// How many virtual CPUs of [`Role::Turns`] take turns, and how long each runs.
pub const TURNS: u64 = 4;
const TURN_NS: u64 = 2_000_000;

fn turns(probe: &Probe) -> ! {
    map(probe, HEAP, TURNS * PAGE_SIZE);
    for number in 1..TURNS {
        let vcpu = probe.must(Request::CreateVcpu { domain: probe.info.space });
        // As after a call.
        let stack = HEAP + (number + 1) * PAGE_SIZE - 8;
        let (vcpu, entry) = (Handle::from_raw(vcpu), take_turns as *const () as u64);
        probe.must(Request::Start { vcpu, entry, stack, argument: vcpu.raw() });
    }
    take_turns(probe.info.vcpu.raw())
}

extern "C" fn take_turns(vcpu: u64) -> ! {
    let vcpu = Handle::from_raw(vcpu);
    let ask =
        |request: Request| raw_call(request.encode()).unwrap_or_else(|error| fail(format_args!("{error:?}")));
    loop {
        let until_ns = ask(Request::Now { vcpu }) + TURN_NS;
        while ask(Request::Now { vcpu }) < until_ns {}
        ask(Request::Wait { vcpu, deadline_ns: until_ns + (TURNS - 1) * TURN_NS });
    }
}

fn pages(probe: &Probe) -> ! {
    const PAGES: u64 = 64;
    let (space, span) = (probe.info.space, Span::new(HEAP, PAGES * PAGE_SIZE));
    map(probe, span.base, span.length);
    loop {
        for page in 0..PAGES {
            // SAFETY: mapped, and nobody else's.
            unsafe { ((HEAP + page * PAGE_SIZE) as *mut u64).write_volatile(page) }
        }
        probe.must(Request::Reset { space, span });
    }
}

fn children(probe: &Probe, cpus: u64) -> ! {
    const CODE: u64 = HEAP + PAGE_SIZE;
    // jmp $
    const SPIN: u64 = 0xfeeb;
    let space = probe.info.space;
    let parameters = DomainParameters {
        memory_bytes: 64 << 10,
        capabilities_max: 1,
        regions_max: 1,
        vcpus_max: 1,
        share: 1,
        cpus,
        ..DomainParameters::default()
    };
    let memory = Handle::from_raw(probe.must(Request::CreateMemory { domain: space, bytes: PAGE_SIZE }));
    let map_code = |space, protection| {
        let backing = Backing::Memory { memory, offset: 0, sharing: Sharing::Shared };
        let span = Span::new(CODE, PAGE_SIZE);
        probe.must(Request::Map { space, span, backing, protection, commit: Commit::OnTouch });
    };
    map(probe, HEAP, PAGE_SIZE);
    map_code(space, Protection::ReadWrite);
    // SAFETY: mapped, and nobody else's.
    unsafe {
        (HEAP as *mut [u64; DomainParameters::WORDS]).write_volatile(parameters.to_words());
        (CODE as *mut u64).write_volatile(SPIN);
    }
    loop {
        let domain = Handle::from_raw(probe.must(Request::CreateDomain { parent: space, parameters: HEAP }));
        map_code(domain, Protection::ReadExecute);
        let vcpu = Handle::from_raw(probe.must(Request::CreateVcpu { domain }));
        probe.must(Request::Start { vcpu, entry: CODE, stack: CODE, argument: 0 });
        probe.must(Request::End { domain, status: 0 });
    }
}
