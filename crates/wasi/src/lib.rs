//! WASI: the functions that programs call, and the providers that answer them.
//!
//! ```text
//! p1        the 46 functions of wasi_snapshot_preview1 and the 4 of selkis_process, over
//! provider  traits: Clock, Entropy, Streams, Files, Wait, Children, gathered by Host. Whoever runs a program brings them
//!
//! tree      Files in memory, made from the directories that travel in a bundle
//! entropy   Entropy of a seeded generator
//! remote    all but Children, carried over one function to somebody who has them
//! ```
//! Nothing here knows the platform: no kernel, no scheduler, no engine but for the linker that `p1` is
//! added to (feature `engine`).
//!
//! # What is not there
//! All functions link. These do less than their names say:
//!
//! | function | answer |
//! |---|---|
//! | `sock_accept`, `sock_recv`, `sock_send`, `sock_shutdown` | `ENOTSOCK`: no descriptor is a socket |
//! | `proc_raise` | `ENOTSUP`: there are no signals |
//! | `fd_fdstat_set_rights` | `ENOTSUP`: what may be done follows from the grants; the rights that `fd_fdstat_get` shows are what the C library expects |
//! | `fd_advise` | success, and nothing is done |
//! | `path_link` that follows symbolic links | `EINVAL` |
//! | `path_symlink` to an absolute path | `EPERM` |
//! | `poll_oneoff` for a clock of CPU time | an event with `ENOTSUP` |
//! | `fdflags` `nonblock` and `rsync` on a file | kept and shown, without effect |
//!
//! The module `wasi_unstable` (preview 0) is not linked: its layouts are others. A program whose memory is
//! not exported as `memory`, or is shared or 64-bit, gets `EFAULT` for each pointer. The arguments of a bad
//! call are an errno, never a trap: `EFAULT` for a pointer to outside of the memory, `EINVAL` for one that is
//! not aligned.
//!
//! # How a process ends
//! `proc_exit` leaves the program as an [`Exit`] with any 32-bit status; being ended from outside as
//! [`Stopped`]. Both are `wasmtime::Error`s that `downcast_ref` finds.
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
