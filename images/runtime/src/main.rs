//! The library OS as one executable, for both platforms: the kernel maps it in ring 3 and it makes system calls;
//! hosted, a launcher maps the same file into a Linux process and serves the same calls by a function.
//!
//! This is the composition root: it puts kernel, engine, WASI and providers together, runs the programs
//! of the plan, and reports how they ended. What it is not: a place for policy or mechanism of its own. If the boot module describes a
//! system, it runs no program and is that system's [`root`] instead.
#![no_std]
#![no_main]
#![allow(unsafe_code)]

extern crate alloc;

mod allowance;
mod children;
mod console;
mod cpu;
mod domain;
mod entry;
mod gate;
mod hosted;
mod launcher;
mod machine;
mod nursery;
mod programs;
mod report;
mod root;
mod waiting;
mod wire;

use abi::BootInfo;
use runtime::System;
use runtime::trap::upcall;

/// Called once, by [`entry`], on the first stack. Answers with the status that the launcher passes on; on bare
/// metal the machine is stopped instead.
fn main(system: &'static System, boot: &'static BootInfo) -> u8 {
    if boot.services != 0 { hosted::main(system, boot) } else { machine::main(system, boot) }
}
