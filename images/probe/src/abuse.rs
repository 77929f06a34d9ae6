//! Random system calls, from a fixed seed.

use crate::probe::{Probe, check, raw_call};
use crate::random::Random;
use crate::upcalls;
use abi::{Context, PAGE_SIZE, Registers, Request};

const CALLS: u64 = 100_000;
const SEED: u64 = 0x5e1f_1c4a_0b5e_55ed;

/// Numbers of requests that need care, as the abi encodes them.
const MEMORY_FIRST: u64 = 1;
const MEMORY_LAST: u64 = 4;
const SET_UPCALL: u64 = 5;
const RESUME: u64 = 6;
const SET_TIMER: u64 = 7;
const WAIT: u64 = 8;
const PRINT: u64 = 15;
const STOP: u64 = 16;
const RELEASE: u64 = 19;
const REVOKE: u64 = 20;
const START: u64 = 24;
const END: u64 = 25;

/// More handles than a domain of the probe has.
const HANDLES_MAX: u32 = 1 << 12;
/// From here on the window is free.
const FREE: u64 = 0x3_0000_0000;

/// Makes them, and touches what they mapped.
pub fn run(probe: &Probe) {
    calls(probe, CALLS, SEED);
}

/// Makes so many, and cleans up.
pub fn calls(probe: &Probe, count: u64, seed: u64) {
    let mut random = Random::new(seed);
    let (mut served, mut refused) = (0, 0);
    for _ in 0..count {
        let registers = registers(probe, &mut random);
        let answer = raw_call(registers);
        match answer {
            Ok(_) => served += 1,
            Err(_) => refused += 1,
        }
        if registers.number == SET_UPCALL && answer.is_ok() {
            // Back to the page that the handler knows.
            upcalls::register(probe.info.vcpu);
        }
        if random.below(8) == 0 {
            touch(address(&mut random) & !7);
        }
    }
    check(served > 1000 && refused > 1000, "some were served and some refused");
    let vcpu = probe.info.vcpu;
    probe.must(Request::SetTimer { vcpu, deadline_ns: Request::NEVER });
    upcalls::set_masked(0);
    while probe.must(Request::Wait { vcpu, deadline_ns: 0 }) != 0 {}
    probe.must(Request::Unmap { space: probe.info.space, span: abi::Span::new(FREE, 1 << 34) });
}

extern "C" fn read_and_write(address: u64) {
    // SAFETY: what is mapped in the window belongs to nobody; the rest faults.
    unsafe {
        let word = (address as *const u64).read_volatile();
        (address as *mut u64).write_volatile(word.wrapping_add(1));
    }
}

/// Reads and writes, mapped or not.
fn touch(address: u64) {
    // Not the upcall page, nor what the probe itself lies in.
    if address >= FREE {
        let _: Option<Context> = upcalls::attempt(read_and_write, address);
    }
}

fn registers(probe: &Probe, random: &mut Random) -> Registers {
    let number = if random.below(50) == 0 { random.next() } else { random.below(33) };
    let mut arguments = [0; 6];
    for argument in &mut arguments {
        *argument = argument_of(probe, random);
    }
    arguments[0] = if random.below(4) > 0 { handle(probe, random) } else { arguments[0] };
    if number == 1 && random.below(2) == 0 {
        // A whole mapping that may be served.
        arguments[0] = probe.info.space.raw();
        arguments[1] = FREE + random.below(1 << 13) * PAGE_SIZE;
        arguments[2] = (1 + random.below(64)) * PAGE_SIZE;
        arguments[3] = random.below(4) | random.below(4) << 8 | random.below(2) << 16;
        arguments[4] = if random.below(2) == 0 { probe.info.module.base } else { handle(probe, random) };
        arguments[5] = random.below(7);
    }
    match number {
        // What the probe itself lies on stays.
        MEMORY_FIRST..=MEMORY_LAST if arguments[1] < FREE => arguments[1] += FREE,
        // These two would end it, or go on elsewhere.
        STOP if arguments[0] == probe.info.machine.raw() => arguments[0] = probe.info.vcpu.raw(),
        RESUME if arguments[0] == probe.info.vcpu.raw() => arguments[0] = probe.info.space.raw(),
        SET_UPCALL => (arguments[2], arguments[3]) = upcalls::entry(),
        // Any capability that it has may be one to itself that it derived.
        END if arguments[0] as u32 <= HANDLES_MAX => arguments[0] = probe.info.vcpu.raw(),
        // What the probe itself needs stays; what others would have to give back first is not waited for.
        RELEASE if own(probe).contains(&arguments[0]) => arguments[0] = 0,
        REVOKE => arguments[1] = 0,
        // Another virtual CPU at any place would fault, and end it.
        START => arguments[1] |= 1 << 63,
        // Without end, or endlessly often.
        WAIT => arguments[1] = random.below(1 << 20),
        SET_TIMER => arguments[1] = probe.now() + 1_000_000 + random.below(1 << 30),
        // Said too often, it drowns what matters.
        PRINT => arguments[2] = 0,
        _ => (),
    }
    Registers { number, arguments }
}

fn handle(probe: &Probe, random: &mut Random) -> u64 {
    let info = probe.info;
    let fixed = [info.space, info.vcpu, info.machine];
    let count = info.device_count as usize;
    let choice = random.below(10 + count as u64) as usize;
    match choice {
        0..6 => fixed[choice % 3].raw(),
        // Whatever it has made itself of these.
        6..10 => abi::Handle::new(random.below(40) as u32, 1 + random.below(3) as u32).raw(),
        choice => info.devices[choice - 10].handle.raw(),
    }
}

/// What it cannot do without.
fn own(probe: &Probe) -> [u64; 3] {
    [probe.info.space.raw(), probe.info.vcpu.raw(), probe.info.parent.raw()]
}

fn address(random: &mut Random) -> u64 {
    match random.below(6) {
        0 => random.next(),
        1 => 0xffff_8000_0000_0000 + random.below(1 << 32),
        2 => 0xffff_ffff_8020_0000 + random.below(1 << 20),
        3 => 0x7100_0000_0000 + random.below(1 << 16) * PAGE_SIZE,
        _ => FREE + random.below(1 << 13) * PAGE_SIZE,
    }
}

fn argument_of(probe: &Probe, random: &mut Random) -> u64 {
    match random.below(8) {
        0 => random.next(),
        1 => random.below(70),
        2 => handle(probe, random),
        3 => (1 + random.below(1 << 12)) * PAGE_SIZE,
        4 => 1 << random.below(64),
        _ => address(random),
    }
}
