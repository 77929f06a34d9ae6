//! One run for each instruction.

use crate::launcher::{Launcher, LauncherHost};
use crate::waiting::{ProcessClock, Ready, Suspend};
use abi::upcall::Kind;
use abi::{Context, Request};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::arch::{asm, x86_64::__cpuid};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use runtime::process::{Guest, Limits};
use runtime::trap::{self, Verdict};
use runtime::{Ending, Platform, Prepared, ProcessId, Program, Stop, System, Usage, current, scheduler};
use wasi::p1::{DESCRIPTORS_MAX, Start, State};
use wasi::provider::{Providers, StreamSet};
use wasmtime::{Engine, Linker};

/// What is done to the program.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Act {
    Kill,
    Preempt,
}

/// What upcalls go by.
struct Stepping {
    kills: AtomicBool,
    /// Instructions so far, and that at which something is done.
    count: AtomicU64,
    at: AtomicU64,
    /// It was done.
    done: AtomicBool,
}

static STEPPING: Stepping = Stepping {
    kills: AtomicBool::new(false),
    count: AtomicU64::new(0),
    at: AtomicU64::new(0),
    done: AtomicBool::new(false),
};

/// The trap flag and the vector of its exception (Intel SDM volume 1, 3.4.3.3; volume 3, table 6-1).
const FLAG_TRAP: u64 = 1 << 8;
const VECTOR_DEBUG: u64 = 1;

/// The kernel's upcall: the library OS's, but for the steps up to the instruction in question.
pub fn upcall(kind: Kind, context: &mut Context) -> Verdict {
    let is_step = kind == Kind::Fault && context.vector == VECTOR_DEBUG && context.rflags & FLAG_TRAP != 0;
    if !is_step || STEPPING.done.load(Relaxed) {
        return trap::upcall(kind, context);
    }
    context.rflags &= !FLAG_TRAP;
    if !current::is_running() {
        // The process is over, and the scheduler is not what is tested.
        return Verdict::Resume;
    }
    let count = STEPPING.count.load(Relaxed) + 1;
    STEPPING.count.store(count, Relaxed);
    if count < STEPPING.at.load(Relaxed) {
        context.rflags |= FLAG_TRAP;
        return Verdict::Resume;
    }
    STEPPING.done.store(true, Relaxed);
    if STEPPING.kills.load(Relaxed) {
        current::want_stop(Stop::Cancelled);
    }
    context.vector = 0;
    trap::upcall(Kind::Event, context)
}

/// Does what `arguments` say; see the crate's first lines.
pub fn run(
    system: &'static System,
    launcher: Launcher,
    engine: &Engine,
    program: &'static Program,
    arguments: &[Vec<u8>],
) -> Result<String, String> {
    let words: Option<Vec<&str>> = arguments.iter().map(|word| core::str::from_utf8(word).ok()).collect();
    let (act, first, stride) = match words.as_deref() {
        Some([_, "kill", first, stride]) => (Act::Kill, number(first)?, number(stride)?),
        Some([_, "preempt", first, stride]) => (Act::Preempt, number(first)?, number(stride)?),
        _ => return Err(String::from("the plan's arguments are not NAME kill|preempt FIRST STRIDE")),
    };
    let prepared = prepare(engine, program).map_err(|error| format!("{error:#}"))?;
    let mut stepper = Stepper { system, launcher, prepared, ending: None, switches: 0 };
    STEPPING.kills.store(act == Act::Kill, Relaxed);
    let (mut at, mut runs, mut reached) = (first.max(1), 0u64, 0u64);
    loop {
        stepper.run_once(act, at).map_err(|why| format!("at instruction {at}: {why}"))?;
        runs += 1;
        if !STEPPING.done.load(Relaxed) {
            let all = STEPPING.count.load(Relaxed);
            return Ok(format!("stepped {all} instructions, {runs} runs, {reached} of them interrupted\n"));
        }
        reached += 1;
        at += stride.max(1);
    }
}

fn number(word: &str) -> Result<u64, String> {
    word.parse().map_err(|_| format!("{word} is no number"))
}

type StepHost = LauncherHost<ProcessClock<Launcher>, Launcher, Suspend<Never>>;

/// Streams are asked for in no test.
struct Never;

impl Ready for Never {
    fn of(&mut self, streams: StreamSet) -> StreamSet {
        streams
    }
}

fn prepare(engine: &Engine, program: &'static Program) -> wasmtime::Result<Prepared<State<StepHost>>> {
    let mut linker = Linker::new(engine);
    wasi::p1::add_to_linker(&mut linker, program.module(), |guest: &mut Guest<State<StepHost>>| {
        &mut guest.data
    })?;
    linker.func_wrap("step", "begin", || {
        // SAFETY: sets the trap flag; its exceptions are the upcall's.
        unsafe { asm!("pushfq", "or qword ptr [rsp], 0x100", "popfq") };
    })?;
    Prepared::new(program, &linker)
}

struct Stepper {
    system: &'static System,
    launcher: Launcher,
    prepared: Prepared<State<StepHost>>,
    ending: Option<Ending>,
    switches: u64,
}

impl Stepper {
    fn run_once(&mut self, act: Act, at: u64) -> Result<(), String> {
        STEPPING.count.store(0, Relaxed);
        STEPPING.at.store(at, Relaxed);
        STEPPING.done.store(false, Relaxed);
        let launcher = self.launcher;
        let host = Providers {
            clock: ProcessClock(launcher),
            entropy: launcher,
            streams: launcher,
            files: launcher,
            wait: Suspend(Never),
        };
        let start = Start {
            arguments: Vec::new(),
            environment: Vec::new(),
            directories: Vec::new(),
            descriptors_max: DESCRIPTORS_MAX,
            on_descriptors: |_| {},
        };
        let state = State::new(host, start).map_err(|errno| format!("no state: {errno:?}"))?;
        let limits = Limits { memory_bytes_max: 64 << 20, ..Limits::NONE };
        let started = self.prepared.start(self.system, state, limits);
        started.map_err(|error| format!("not started: {error:?}"))?;
        let (system, mut this) = (self.system, self);
        scheduler::run(system, &mut this);
        let ending = this.ending.take();
        match (ending, act, STEPPING.done.load(Relaxed)) {
            (Some(Ending::Stopped(Stop::Cancelled, _)), Act::Kill, true) => Ok(()),
            // The last instructions are those of its end.
            (Some(Ending::Returned(Ok(()))), _, _) => Ok(()),
            (ending, _, _) => Err(format!("it ended so: {ending:?}")),
        }
    }
}

impl Platform for &mut Stepper {
    /// Leaves nothing in the vector registers that somebody could find there again.
    fn look(&mut self) {
        // AVX, and its state is enabled (SDM volume 2, CPUID; volume 1, 14.3).
        const AVX: u32 = 1 << 28 | 1 << 27;
        if __cpuid(1).ecx & AVX == AVX {
            // SAFETY: the CPU has the instruction, and the registers are declared lost.
            unsafe {
                asm!(
                    "vpcmpeqd xmm0, xmm0, xmm0", "vmovaps ymm1, ymm0", "vmovaps ymm2, ymm0", "vmovaps ymm3, ymm0",
                    "vmovaps ymm4, ymm0", "vmovaps ymm5, ymm0", "vmovaps ymm6, ymm0", "vmovaps ymm7, ymm0",
                    "vmovaps ymm8, ymm0", "vmovaps ymm9, ymm0", "vmovaps ymm10, ymm0", "vmovaps ymm11, ymm0",
                    "vmovaps ymm12, ymm0", "vmovaps ymm13, ymm0", "vmovaps ymm14, ymm0", "vmovaps ymm15, ymm0",
                    out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm4") _, out("xmm5") _,
                    out("xmm6") _, out("xmm7") _, out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
                    out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _,
                    options(nomem, nostack)
                );
            }
        }
    }

    fn sleep(&mut self, _deadline_ns: u64) {}

    fn ended(&mut self, _process: ProcessId, ending: Ending, usage: Usage) {
        self.switches = usage.switches;
        self.ending = Some(ending);
    }

    fn is_over(&self) -> bool {
        self.ending.is_some()
    }
}
