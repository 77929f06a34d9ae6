//! The library OS: runs WebAssembly programs on what the kernel offers.
//!
//! It sees the kernel only as [`abi::Kernel`] and is given a window of address space, which it lays out itself
//! ([`space`]). On that stand the engine's platform (`engine_hooks`), which recycles the slots of linear memories
//! ([`slots`]), the heap ([`heap`]), guarded stacks and the switch between them ([`stack`], [`thread`]), and processes
//! ([`process`]): a program's instance on a stack of its own, which an upcall ([`trap`]) can leave (`preempt`) or end wherever it is. The [`scheduler`]
//! says which one runs.
//!
//! What it does not know: WASI (crate `wasi`), files, where its bytes come from, and whether a machine or a Linux process
//! is below. `images/runtime` puts the parts together.
//!
//! `unsafe` is in `current`, `engine_hooks`, `heap`, `mem`, `preempt`, `stack`, `thread`, `trap`, `vcpu` and `program`, where the engine and the CPU want it, and in `fake`, the
//! kernel of the unit tests.
#![no_std]

extern crate alloc;

#[allow(unsafe_code)]
pub mod current;
#[allow(unsafe_code)]
mod engine_hooks;
#[cfg(test)]
#[allow(unsafe_code)]
mod fake;
#[allow(unsafe_code)]
pub mod heap;
#[allow(unsafe_code)]
pub mod mem;
mod meter;
#[allow(unsafe_code)]
mod preempt;
pub mod process;
#[allow(unsafe_code)]
pub mod program;
mod queue;
mod rate;
mod reserve;
pub mod scheduler;
pub mod slots;
pub mod space;
#[allow(unsafe_code)]
pub mod stack;
pub mod system;
#[allow(unsafe_code)]
pub mod thread;
#[allow(unsafe_code)]
pub mod trap;
#[allow(unsafe_code)]
pub mod vcpu;

pub use current::Stop;
pub use process::{Ending, Limits, Prepared};
pub use program::{LoadError, Program};
pub use rate::Rate;
pub use scheduler::{Activity, Platform, ProcessId, Processes, Usage};
pub use system::System;
pub use vcpu::Vcpu;
