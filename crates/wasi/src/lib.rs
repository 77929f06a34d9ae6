//! WASI for programs of this system.
#![no_std]

extern crate alloc;

mod errno;
pub mod provider;
pub mod remote;

pub use errno::{Errno, Error, Exit, Result, Stopped};
