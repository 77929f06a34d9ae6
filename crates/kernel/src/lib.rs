//! The exokernel's logic: what a domain may have, where its memory comes from, when it is told something.
//!
//! Everything here is ordinary Rust over the [`Machine`] trait, with no `unsafe` and no hardware. The state is a
//! [`Kernel`], which all CPUs share; each entry from ring 3 is one call of it ([`Kernel::system_call`], [`Kernel::fault`],
//! [`Kernel::interrupt`]) with the CPU's own [`Cpu`] and the interrupted [`abi::Context`], and its answer, [`Next`], says how to go on.
//!
//! What the kernel keeps about a domain (its tables, its virtual CPUs' registers) is paid for by that domain's quota of memory, which comes out
//! of its parent's. Besides, the tables of all objects grow to fixed limits; their memory is set aside in [`start()`].
#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod balance;
mod capability;
mod device;
mod domain;
mod elf;
mod kernel;
mod lifecycle;
mod log;
mod machine;
mod memory;
mod objects;
mod region;
mod schedule;
mod serve;
mod start;
mod table;
mod trace;
mod tree;
mod vcpu;

#[cfg(test)]
mod fake;
#[cfg(test)]
mod tests;

pub use device::{ByteRange, Device};
pub use elf::ElfError;
pub use kernel::{Cpu, Fault, Interrupt, Kernel, Next, PAGE_FAULT};
pub use log::Level;
pub use machine::{Access, Cache, Change, Found, Frame, Machine, Mapping, Owner, Page, Shootdowns, Walk};
pub use start::{BootModule, StartError, start};
