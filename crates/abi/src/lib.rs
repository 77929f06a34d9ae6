//! What crosses the kernel boundary, and nothing else.
//!
//! A library OS sees the machine as one trait, [`Kernel`], with one operation: [`Kernel::call`] takes a
//! [`Request`] and answers with a number or an [`Error`]. Every request names a [`Handle`], the capability that
//! allows it. Three things answer: the kernel, by system call; hosted a function of the launcher, which asks Linux; and in the
//! unit tests of the library OS a fake.
//!
//! What the kernel says unasked comes as an [upcall]: it saves the interrupted [`Context`] in a page that
//! it shares with the domain and enters the domain at one address. What the kernel says at the start is a
//! [`BootInfo`].
//!
//! This crate holds plain data: no dependencies, no `unsafe`, no policy.
#![no_std]

pub mod boot;
mod domain;
mod error;
mod handle;
mod kernel;
mod memory;
mod request;
pub mod trace;
pub mod upcall;

pub use boot::BootInfo;
pub use domain::{
    CpuRecord, DERIVED_MAX, DomainParameters, DomainRecord, DomainState, REGIONS_MAX, VCPUS_MAX,
};
pub use error::Error;
pub use handle::{Handle, Rights};
pub use kernel::Kernel;
pub use memory::{Backing, Commit, Marks, PAGE_SIZE, Protection, Sharing, Span, mark};
pub use request::{Registers, Request};
pub use upcall::{Context, UpcallPage};
