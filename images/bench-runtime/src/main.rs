//! The library OS with another composition root: it measures the program of the plan instead of running it once.
//!
//! The same engine hooks, slots, WASI and way to the kernel as in `images/runtime`, whose modules are used where they
//! lie; hosted only. The plan's arguments say what to measure; `crates/bench` writes them and reads the answers:
//!
//! ```text
//! NAME instances MILLISECONDS        fresh instance, `_start`, end, over and over
//! NAME time COUNT ARGUMENT…          how long each of so many runs takes
//! NAME idle COUNT                    memory of instances whose `_start` has returned
//! ```
//! Answers are lines on standard error. What the program writes to standard output the launcher throws away.
#![no_std]
#![no_main]
#![allow(unsafe_code)]

extern crate alloc;

#[allow(dead_code)]
#[path = "../../runtime/src/cpu.rs"]
mod cpu;
#[allow(dead_code)]
#[path = "../../runtime/src/entry.rs"]
mod entry;
#[allow(dead_code)]
#[path = "../../runtime/src/gate.rs"]
mod gate;
mod launcher;
mod measure;
#[allow(dead_code)]
#[path = "../../runtime/src/report.rs"]
mod report;

use abi::BootInfo;
use alloc::format;
use alloc::string::String;
use bundle::Bundle;
use bundle::services::Services;
use launcher::Launcher;
use runtime::heap::Heap;
use runtime::{Program, System, program};

#[global_allocator]
static HEAP: Heap = runtime::heap::new();

fn main(boot: &'static BootInfo) -> u8 {
    let kernel = gate::open(boot);
    let heap_span = abi::Span::new(boot.window.base, runtime::system::HEAP_SPAN_BYTES);
    runtime::heap::start(&HEAP, kernel, boot.space, heap_span);
    let system = System::install(kernel, boot);
    match run(system, boot) {
        Ok(()) => 0,
        Err(reason) => {
            gate::print(&format!("selkis-bench-runtime: {reason}\n"));
            report::STATUS_FAILED
        }
    }
}

fn run(system: &'static System, boot: &'static BootInfo) -> Result<(), String> {
    if boot.services == 0 {
        return Err(String::from("this library OS measures hosted only"));
    }
    // SAFETY: hosted, `services` is the address of the launcher's table, which outlives us.
    let services: &'static Services = unsafe { &*(boot.services as usize as *const Services) };
    if services.version != Services::VERSION {
        return Err(String::from("the launcher is of another version"));
    }
    let module = boot.module;
    // SAFETY: the boot module is mapped for ever, and read-only.
    let bytes =
        unsafe { core::slice::from_raw_parts(module.base as usize as *const u8, module.length as usize) };
    let bundle = Bundle::parse(bytes).map_err(|error| format!("the boot module: {error}"))?;
    let engine = program::engine(system, cpu::has_feature).map_err(|error| format!("{error}"))?;
    let program =
        Program::load(&engine, bundle.program, cpu::has_feature).map_err(|error| format!("{error}"))?;
    measure::run(system, Launcher::new(services), &engine, &program, &bundle.plan.arguments)
}
