//! One run for each instruction.

use crate::entry;
use crate::family::Family;
use crate::launcher::Launcher;
use crate::subject::{Accounts, Subject};
use abi::upcall::Kind;
use abi::{Context, Span};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use bundle::ProgramPlan;
use core::arch::{asm, x86_64::__cpuid};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use runtime::trap::{self, Verdict};
use runtime::vcpu::STACK_SPAN;
use runtime::{
    Activity, Ending, Platform, ProcessId, Program, Stop, System, Usage, Vcpu, current, scheduler,
};
use spin::Mutex;
use wasmtime::{Engine, Linker};

/// How long a program that was killed may go on before its end counts as lost.
const TIME_NS_MAX: u64 = 30_000_000_000;

/// How often it is tried to have a program moved.
const TRIES_MAX: u32 = 10;

/// What is done to the program.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Act {
    Kill,
    Preempt,
    /// To another virtual CPU.
    Migrate,
}

/// What upcalls go by, and what they and the program note.
struct Stepping {
    kills: AtomicBool,
    /// Another virtual CPU is to take it.
    moves: AtomicBool,
    /// The section that is stepped through, and how many calls of `step.begin` there were: a section ends with the next.
    section: AtomicU64,
    begun: AtomicU64,
    /// Instructions of it so far, and that at which something is done.
    count: AtomicU64,
    at: AtomicU64,
    /// It was done.
    done: AtomicBool,
    /// It was done where the program cannot end, or go on, as if nothing had been.
    must_show: AtomicBool,
    /// The program has called `step.end`.
    is_at_end: AtomicBool,
    /// Where its own functions lie.
    functions: [AtomicU64; 2],
    /// The number of its stack: each is alone in its stretch.
    stack: AtomicU64,
}

static STEPPING: Stepping = Stepping {
    kills: AtomicBool::new(false),
    moves: AtomicBool::new(false),
    section: AtomicU64::new(0),
    begun: AtomicU64::new(0),
    count: AtomicU64::new(0),
    at: AtomicU64::new(0),
    done: AtomicBool::new(false),
    must_show: AtomicBool::new(false),
    is_at_end: AtomicBool::new(false),
    functions: [const { AtomicU64::new(0) }; 2],
    stack: AtomicU64::new(0),
};

/// The program, for its companion.
static PROGRAM: Mutex<Option<ProcessId>> = Mutex::new(None);

/// How long its companion leaves it to others.
const TAKEN_NS_MAX: u64 = 1_000_000_000;

/// The trap flag and the vector of its exception (Intel SDM volume 1, 3.4.3.3; volume 3, table 6-1).
const FLAG_TRAP: u64 = 1 << 8;
const VECTOR_DEBUG: u64 = 1;

/// The kernel's upcall: the library OS's, but for the steps up to the instruction in question.
pub fn upcall(kind: Kind, context: &mut Context) -> Verdict {
    let is_step = kind == Kind::Fault && context.vector == VECTOR_DEBUG && context.rflags & FLAG_TRAP != 0;
    if !is_step || STEPPING.done.load(Relaxed) {
        return trap::upcall(kind, context);
    }
    if current::is_running() && context.rsp / STACK_SPAN != STEPPING.stack.load(Relaxed) {
        // Another, which the library OS steps to a place where it can be left.
        return trap::upcall(kind, context);
    }
    context.rflags &= !FLAG_TRAP;
    if !current::is_running() {
        // The process is over, and the scheduler is not what is tested.
        return Verdict::Resume;
    }
    if STEPPING.begun.load(Relaxed) > STEPPING.section.load(Relaxed) + 1 {
        return Verdict::Resume;
    }
    let count = STEPPING.count.load(Relaxed) + 1;
    STEPPING.count.store(count, Relaxed);
    if count < STEPPING.at.load(Relaxed) {
        context.rflags |= FLAG_TRAP;
        return Verdict::Resume;
    }
    STEPPING.done.store(true, Relaxed);
    let [base, length] = STEPPING.functions.each_ref().map(|word| word.load(Relaxed));
    let in_program = Span::new(base, length).contains(Span::new(context.rip, 1));
    // The first virtual CPU alone is given up by an event; elsewhere it has moved already.
    let must_go = in_program && Vcpu::current().number() == 0;
    let kills = STEPPING.kills.load(Relaxed);
    STEPPING.must_show.store(must_go || kills && !STEPPING.is_at_end.load(Relaxed), Relaxed);
    if kills {
        current::want_stop(Stop::Cancelled);
    }
    context.vector = 0;
    trap::upcall(Kind::Event, context)
}

/// Runs the program again and again, and says how far it came.
pub fn run(
    system: &'static System,
    launcher: Launcher,
    engine: &Engine,
    program: &'static Program,
    plan: &ProgramPlan,
    act: Act,
    numbers: [u64; 3],
) -> Result<String, String> {
    let mut linker = Linker::new(engine);
    linker.func_wrap("step", "begin", begin).map_err(|error| format!("{error:#}"))?;
    linker.func_wrap("step", "end", end).map_err(|error| format!("{error:#}"))?;
    let subject = Subject::new(system, launcher, program, linker)?;
    STEPPING.kills.store(act == Act::Kill, Relaxed);
    STEPPING.moves.store(act == Act::Migrate, Relaxed);
    program.find_functions(|| true);
    let functions = program.functions();
    STEPPING.functions[0].store(functions.base, Relaxed);
    STEPPING.functions[1].store(functions.length, Relaxed);
    if act == Act::Migrate {
        entry::start_vcpus(system, 2).map_err(|error| format!("no second virtual CPU: {error:?}"))?;
    }
    let mut stepper = Stepper { subject, act, family: Family::new(plan), companion: None, ended: None };
    let answer = stepper.run(numbers);
    scheduler::close(system);
    answer
}

/// On which stack the caller is.
fn stack() -> u64 {
    let here = 0u8;
    &raw const here as u64 / STACK_SPAN
}

/// Afterwards nobody is stepped through: neither the program nor its companion.
fn begin() {
    if STEPPING.done.load(Relaxed) {
        let is_companion = STEPPING.stack.load(Relaxed) != stack() && Vcpu::current().number() == 0;
        if STEPPING.moves.load(Relaxed) && is_companion {
            leave_to_others();
        }
        return;
    }
    STEPPING.stack.store(stack(), Relaxed);
    if STEPPING.begun.fetch_add(1, Relaxed) != STEPPING.section.load(Relaxed) {
        return;
    }
    // SAFETY: sets the trap flag; its exceptions are the upcall's.
    unsafe { asm!("pushfq", "or qword ptr [rsp], 0x100", "popfq") };
}

/// Whether the caller is to wait for its end: the program if it was killed, its companion always.
fn end() -> i32 {
    if STEPPING.stack.load(Relaxed) != stack() {
        return 1;
    }
    STEPPING.is_at_end.store(true, Relaxed);
    i32::from(STEPPING.kills.load(Relaxed) && STEPPING.done.load(Relaxed))
}

/// Keeps this virtual CPU until another has taken the program: that may be long in waking, and the companion gives way where the program does.
fn leave_to_others() {
    let (Some(system), Some(program)) = (System::get(), *PROGRAM.lock()) else { return };
    let until_ns = system.now_ns() + TAKEN_NS_MAX;
    let is_left = || {
        let seen = system.processes().lock().look_at(system, program);
        matches!(seen, Some((usage, Activity::Runs)) if usage.migrations == 0)
    };
    while is_left() && system.now_ns() < until_ns {
        (0..1000).for_each(|_| core::hint::spin_loop());
    }
}

struct Stepper {
    subject: Subject,
    act: Act,
    family: Family,
    /// Another process of the program, which has the first virtual CPU instead of it.
    companion: Option<ProcessId>,
    /// How the process has ended, and what it had used.
    ended: Option<(Ending, Usage)>,
}

impl Stepper {
    fn run(&mut self, [section, first, stride]: [u64; 3]) -> Result<String, String> {
        let system = self.subject.system;
        // What is made once and kept is made here.
        for at in [u64::MAX, 1] {
            self.run_once(0, at).map_err(|why| format!("at first: {why}"))?;
        }
        let accounts = Accounts::of(system);
        let (mut section, mut at) = (section, first.max(1));
        let (mut all, mut runs, mut reached) = (0, 0u64, 0u64);
        loop {
            let here = |why| format!("in section {section}, at instruction {at}: {why}");
            let mut tries = 0..TRIES_MAX;
            while !self.run_once(section, at).map_err(here)? {
                tries.next().ok_or_else(|| here(String::from("nobody else takes it")))?;
            }
            let balance = match self.act {
                Act::Kill | Act::Preempt => accounts.compare(system),
                Act::Migrate => accounts.compare_nearly(system),
            };
            balance.map_err(here)?;
            if STEPPING.begun.load(Relaxed) <= section {
                return Ok(format!(
                    "stepped {all} instructions in {section} sections, {runs} runs, {reached} of them interrupted\n"
                ));
            }
            runs += 1;
            if STEPPING.done.load(Relaxed) {
                reached += 1;
                at += stride.max(1);
            } else {
                all += STEPPING.count.load(Relaxed);
                // Strides that begin elsewhere in each.
                (section, at) = (section + 1, 1 + section % stride.max(1));
            }
        }
    }

    /// Whether it could be seen: that another virtual CPU takes it before its companion gives way is likely, and not sure.
    fn run_once(&mut self, section: u64, at: u64) -> Result<bool, String> {
        STEPPING.section.store(section, Relaxed);
        STEPPING.begun.store(0, Relaxed);
        STEPPING.count.store(0, Relaxed);
        STEPPING.at.store(at, Relaxed);
        for flag in [&STEPPING.done, &STEPPING.must_show, &STEPPING.is_at_end] {
            flag.store(false, Relaxed);
        }
        *PROGRAM.lock() = Some(self.family.begin(&self.subject, TIME_NS_MAX)?);
        let (system, mut this) = (self.subject.system, self);
        scheduler::run(system, &mut this);
        let (ending, usage) = this.ended.take().ok_or("it has not ended")?;
        let must_show = STEPPING.must_show.load(Relaxed);
        match (&ending, this.act) {
            (Ending::Stopped(Stop::Cancelled, _), Act::Kill) if STEPPING.done.load(Relaxed) => Ok(true),
            // The last instructions are those of its end.
            (Ending::Returned(Ok(())), Act::Kill) if !must_show => Ok(true),
            (Ending::Returned(Ok(())), Act::Preempt) if !must_show || usage.switches > 1 => Ok(true),
            (Ending::Returned(Ok(())), Act::Migrate) => Ok(!must_show || usage.migrations > 0),
            _ => Err(format!("it ended so, after {usage:?}: {ending:?}")),
        }
    }

    /// What was preempted is left to the other virtual CPU.
    fn take_first_vcpu(&mut self) {
        if self.act == Act::Migrate
            && STEPPING.done.load(Relaxed)
            && self.ended.is_none()
            && self.companion.is_none()
        {
            self.companion = self.subject.start(TIME_NS_MAX, Vec::new(), None).ok();
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
        self.take_first_vcpu();
    }

    fn serve(&mut self) {
        self.family.serve(&self.subject, TIME_NS_MAX);
    }

    fn sleep(&mut self, _deadline_ns: u64) {}

    fn ended(&mut self, process: ProcessId, ending: Ending, usage: Usage) {
        if self.companion.take_if(|companion| *companion == process).is_some() {
            return;
        }
        if self.family.ended(&self.subject, process) {
            self.ended = Some((ending, usage));
            let system = self.subject.system;
            self.companion.iter().for_each(|id| system.processes().lock().stop(system, *id, Stop::Cancelled));
        }
    }

    fn is_over(&self) -> bool {
        self.family.is_over() && self.companion.is_none()
    }
}
