//! Linux as a platform: maps the library OS into this process and serves it.
//!
//! - [`launch`](launch()) maps the executable that bare metal boots as well (`elf`), puts a boot module together, and calls it.
//! - `gate` serves the kernel boundary, `abi`, with memory mappings, a timer and an event descriptor; `signals`
//!   makes upcalls of Linux's signals; `vcpus` are threads. `wire` is its way to its root.
//! - [`files`], [`streams`] and [`clock`], together a [`host`], answer for what is not the kernel's: WASI's providers on Linux.
//!
//! - [`confine`] gives up what the process does not need of Linux; [`domain`] makes a process of each domain of a system.
//!
//! WebAssembly and the grants keep the programs in; confinement is the second wall, for the day the first has a hole.
#![allow(unsafe_code)]

pub mod clock;
pub mod confine;
pub mod domain;
mod elf;
pub mod files;
mod gate;
pub mod host;
mod launch;
mod signals;
pub mod streams;
mod vcpus;
mod wire;

pub use elf::ElfError;
pub use gate::{EVENT_CANCEL, is_pending, now_ns, wake_descriptor};
pub use launch::{Launch, LaunchError, Runtime, launch};
