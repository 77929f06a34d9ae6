//! The entry, the system call, and the way to fail.

use crate::{
    abuse, cpus, devices, domains, elsewhere, faults, figures, memory, roles, tenants, time, trace, upcalls,
    vectors,
};
use abi::{BootInfo, Error, Registers, Request, Span};
use core::arch::{asm, global_asm};
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicPtr, Ordering};

global_asm!(
    ".global probe_entry",
    "probe_entry:",
    "xor ebp, ebp",
    "call {main}",
    "ud2",
    main = sym main,
);

/// What a scenario that passes stops with, if it has no status of its own; `tests/vm.rs` says why it is not 0.
const PASSED: u8 = 42;

/// What scenarios are given.
#[derive(Clone, Copy)]
pub struct Probe {
    pub info: &'static BootInfo,
}

/// What the kernel told, for [`fail`].
static INFO: AtomicPtr<BootInfo> = AtomicPtr::new(core::ptr::null_mut());

extern "C" fn main(info: &'static BootInfo) -> ! {
    let probe = Probe { info };
    INFO.store((&raw const *info).cast_mut(), Ordering::Relaxed);
    check(info.magic == BootInfo::MAGIC && info.version == BootInfo::VERSION, "boot info");
    check(info.gate == 0 && info.services == 0, "bare metal has no gate");
    // SAFETY: the module is mapped where the boot info says, and is longer than its header and these words.
    let [scenario, argument, seed] = unsafe { (info.module.base as *const [u64; 3]).byte_add(32).read() };
    match scenario {
        0 => {
            upcalls::start(&probe);
            memory::run(&probe);
            faults::run(&probe);
            time::run(&probe);
            devices::run(&probe);
            memory::run(&probe);
        }
        1 => faults::masked(&probe),
        2 => faults::without_upcalls(),
        3 => {
            upcalls::start(&probe);
            abuse::run(&probe);
            memory::run(&probe);
        }
        4 => probe.stop(77),
        5 => {
            upcalls::start(&probe);
            memory::exhaust(&probe);
        }
        6 => faults::stack_overflow(),
        7 => domains::run(&probe),
        8 => domains::kill(&probe, argument, seed),
        9 => domains::hostile(&probe, argument, seed),
        10 => cpus::tell(&probe),
        11 => cpus::changes_hold_everywhere(&probe),
        12 => figures::run(&probe),
        13 => trace::run(&probe),
        14 => tenants::share(&probe, argument),
        15 => tenants::neighbours(&probe),
        16 => elsewhere::revoked(&probe),
        17 => elsewhere::unconcerned(&probe),
        18 => vectors::run(&probe),
        role @ 100.. => roles::play(&probe, role, argument),
        _ => check(false, "there is such a scenario"),
    }
    probe.stop(PASSED)
}

impl Probe {
    /// Makes a request.
    pub fn call(&self, request: Request) -> Result<u64, Error> {
        raw_call(request.encode())
    }

    /// Makes a request that must be served.
    #[track_caller]
    pub fn must(&self, request: Request) -> u64 {
        match self.call(request) {
            Ok(value) => value,
            Err(error) => fail(format_args!("{request:?} answered {error:?}")),
        }
    }

    /// Makes a request that must be refused with this error.
    #[track_caller]
    pub fn refused(&self, request: Request, expected: Error) {
        let answer = self.call(request);
        if answer != Err(expected) {
            fail(format_args!("{request:?} answered {answer:?}, not {expected:?}"));
        }
    }

    /// Ends the machine.
    pub fn stop(&self, status: u8) -> ! {
        let _ = self.call(Request::Stop { machine: self.info.machine, status });
        fail(format_args!("the machine did not stop"))
    }

    /// Nanoseconds on the kernel's clock.
    pub fn now(&self) -> u64 {
        self.must(Request::Now { vcpu: self.info.vcpu })
    }
}

/// Makes a system call with any registers.
pub fn raw_call(registers: Registers) -> Result<u64, Error> {
    let Registers { number, arguments: [a, b, c, d, e, f] } = registers;
    let (code, value): (u64, u64);
    // SAFETY: the kernel keeps all registers but these. What a request does to memory is to pages that no Rust object lies in.
    unsafe {
        asm!("syscall", inlateout("rax") number => code, in("rdi") a, in("rsi") b, inlateout("rdx") c => value,
            in("r10") d, in("r8") e, in("r9") f, out("rcx") _, out("r11") _);
    }
    match code {
        0 => Ok(value),
        code => Err(Error::from_code(code).unwrap_or_else(|| fail(format_args!("error code {code:#x}")))),
    }
}

/// Fails unless `truth`.
#[track_caller]
pub fn check(truth: bool, what: &str) {
    if !truth {
        fail(format_args!("{what}"));
    }
}

/// Says what is wrong and stops the machine with status 1.
#[track_caller]
pub fn fail(what: fmt::Arguments<'_>) -> ! {
    let place = core::panic::Location::caller();
    say(format_args!("probe: {place}: {what}"));
    let BootInfo { space, machine, .. } = *info();
    // Or of one that it made, which can only end itself.
    let end = Request::End { domain: space, status: 1 };
    for request in [Request::Stop { machine, status: 1 }, end] {
        let _ = raw_call(request.encode());
    }
    loop {
        core::hint::spin_loop();
    }
}

/// Writes a line to the kernel's log, if the domain may.
pub fn say(what: fmt::Arguments<'_>) {
    let mut text = Text { bytes: [0; 512], length: 0 };
    let _ = writeln!(text, "{what}");
    let span = Span::new(text.bytes.as_ptr() as u64, text.length as u64);
    let _ = raw_call(Request::Print { space: info().space, text: span }.encode());
}

fn info() -> &'static BootInfo {
    // SAFETY: set before anything is said or checked, and the page stays.
    unsafe { &*INFO.load(Ordering::Relaxed) }
}

struct Text {
    bytes: [u8; 512],
    length: usize,
}

impl Write for Text {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = &mut self.bytes[self.length..];
        let count = text.len().min(room.len());
        room[..count].copy_from_slice(&text.as_bytes()[..count]);
        self.length += count;
        Ok(())
    }
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    fail(format_args!("{info}"))
}
