//! WASI for programs of this system.
#![no_std]

extern crate alloc;

pub mod entropy;
mod errno;
#[cfg(any(feature = "engine", test))]
pub mod p1;
pub mod provider;
pub mod remote;
pub mod tree;

pub use errno::{Errno, Error, Exit, Result, Stopped};
