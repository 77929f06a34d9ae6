//! `selkis-bench`: the figures of Selkis beside its peers'. `setup/bench` builds both sides and starts this.
//!
//! - `emulated`: guest instructions in QEMU, against Debian's cloud kernel: of the kernel's operations; of boots, and of fresh instances, with several CPUs;
//!   until a program speaks, with wasmtime as the peer's init.
//! - `hosted`: fresh instances, compute, memory, processes under the scheduler, as Linux processes, against wasmtime with its pooling allocator or epochs, and Linux's threads.
//! - `size`: of the kernel.
//!
//! Both sides of a figure are measured in the same run, in turns. Nothing here fails because a figure is bad.

mod artifacts;
mod boot;
mod counted;
mod emulated;
mod figures;
mod firmware;
mod hosted_side;
mod initramfs;
mod instances;
mod machine;
mod machine_bundle;
mod operations;
mod places;
mod processes;
mod replay;
mod serve;
mod size;
mod system_bundle;

use artifacts::Workshop;
use clap::{Parser, Subcommand, ValueEnum};
use figures::Figure;
use hosted_side::Effort;
use places::Places;
use std::path::PathBuf;
use std::process::ExitCode;

/// Why there are no figures, for a person.
pub type Failure = Box<dyn std::error::Error>;

/// Measures Selkis beside its peers.
#[derive(Parser)]
#[command(name = "./selkis bench", version, args_conflicts_with_subcommands = true)]
struct Arguments {
    /// What to measure; everything, if nothing is named
    group: Vec<Group>,
    /// For programs
    #[arg(long)]
    json: bool,
    /// Fewer and shorter measurements
    #[arg(long)]
    quick: bool,
    #[command(subcommand)]
    inner: Option<Inner>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Group {
    /// Guest instructions in QEMU: of the kernel's operations, of boots and fresh instances with several CPUs, until a program speaks
    Emulated,
    /// Fresh instances, compute, memory, and processes under the scheduler, as Linux processes
    Hosted,
    /// Of the kernel
    Size,
}

#[derive(Subcommand)]
enum Inner {
    /// One measurement of Selkis, as a process of its own
    #[command(hide = true)]
    Serve { runtime: PathBuf, program: PathBuf, helper: PathBuf, words: Vec<String> },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match &arguments.inner {
        Some(Inner::Serve { runtime, program, helper, words }) => {
            serve::serve(runtime, program, helper, words)
        }
        None => report(&arguments).map(|()| 0),
    };
    match result {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("selkis bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn report(arguments: &Arguments) -> Result<(), Failure> {
    let places = Places::from_environment()?;
    let workshop = Workshop::new(&places)?;
    let effort = if arguments.quick { Effort::Quick } else { Effort::Full };
    let groups = match arguments.group.as_slice() {
        [] => &[Group::Size, Group::Emulated, Group::Hosted],
        named => named,
    };
    let mut all: Vec<Figure> = Vec::new();
    for group in groups {
        let figures = match group {
            Group::Emulated => emulated::measure(&places, &workshop, effort)?,
            Group::Hosted => hosted_side::measure(&places, &workshop, effort)?,
            Group::Size => size::measure(&places)?,
        };
        if !arguments.json {
            print!("{}", figures::to_table(&figures));
            println!();
        }
        all.extend(figures);
    }
    let notes = notes();
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&figures::to_json(&all, &notes))?);
    } else {
        notes.iter().for_each(|note| println!("{note}"));
    }
    Ok(())
}

/// Tells a person what is under way: a whole run takes minutes.
pub fn progress(what: &str) {
    eprintln!("selkis: measuring {what} …");
}

/// What a reader has to know about how it was measured.
fn notes() -> Vec<String> {
    [
        "Less is better everywhere. The ratio is Selkis' figure as a part of the peer's. ± is half of the distance between the extremes.",
        "Guest instructions are exact (QEMU -icount), counted from the kernel's first; each step of a repeated string instruction counts, and the \
         CPUs have no ERMS, so that both sides clear pages by words. The peer is Debian's cloud kernel, quiet, with a statically linked \
         wasmtime as init and its program compiled ahead of time.",
        "The kernel's operations are counted in ring 3, on one CPU. A domain is made afresh from the executable, a process is forked.",
        "Mitigations: what the round trip takes with them less what it takes without. QEMU's emulated CPUs offer no IBPB, MD_CLEAR or L1D_FLUSH, so it \
         is not what these cost on a CPU that has them; Linux's are those that need nothing of the CPU.",
        "Boots with several CPUs, and instances in QEMU: a plugin of QEMU's counts what all CPUs execute together. Selkis' boots, and Linux' with one CPU, \
         have a clock of instructions (-icount) and are exact; Linux with several does not come up so, and has real time.",
        "Fresh instances in QEMU: for each CPU a domain of Selkis, or a thread in the peer's one process, makes so many and ends them, all at once in \
         real time, each CPU a thread. What all CPUs execute meanwhile is divided by all instances: interrupts and waiting for one another are in \
         it; a CPU that halts executes nothing.",
        "Hosted, on 2 CPUs the peer runs two threads in one process, Selkis two processes of one virtual CPU each.",
        "Preemption: twice SHA-256, by two processes at once on one virtual CPU, in slices of 1 ms, against one after the other; the peer checks epochs, \
         which a thread raises each millisecond, against itself compiled without. The signals come from an interval timer, and their handler returns at once: what a tick costs on this \
         machine before anybody has done anything. CPU time of the whole process, so what else this machine does counts little.",
        "A switch: two processes call sched_yield over and over, which is in it; all time by how often a virtual CPU was given. The peer's two threads \
         are bound to one CPU, and each wakes the other and waits.",
        "The end of a runaway: it has touched 1 MiB and loops; from its deadline, which a timer of the kernel interface's watches, until it has ended and \
         all it had is given back. The peer: from increment_epoch by another thread until its store is dropped, with pooling, in a thread that stays.",
        "A process: WASI state, stack, turn of the scheduler, instance, _start, end, one after the other. The peer: a thread of Linux for each, in it what a \
         fresh instance is.",
        "The same by a program: it starts itself and waits for the end, one after the other, in what runs a domain's programs, but without a root. In a \
         system each comes with two messages to the root and one from it, which take longer than all the rest. The peer as before.",
        "The peer's pool is the fastest of three settings for the program, chosen anew in each run.",
    ]
    .map(String::from)
    .to_vec()
}
