//! WASI preview 1: the functions of `wasi_snapshot_preview1`; and beside them those of [`selkis_process`](children).
//!
//! Each function is a method of [`State`] over the program's [`Memory`], so that it runs without an engine;
//! `link` (cargo feature `engine`) gives them all to a wasmtime linker. Answers are an [`Errno`] for the
//! program, or [`Error::Stopped`](crate::Error::Stopped), which ends it.

// The functions take what preview 1 says that they take.
#![allow(clippy::too_many_arguments)]

pub mod children;
mod descriptor;
mod directory;
mod file;
mod functions;
#[cfg(feature = "engine")]
mod link;
mod memory;
mod path;
mod poll;
mod process;
mod stream;
mod table;
#[cfg(test)]
mod tests;
mod types;

#[cfg(feature = "engine")]
pub use link::add_to_linker;
pub use memory::Memory;

use crate::provider::{Handle, Host, Stream};
use crate::{Errno, Result};
use alloc::boxed::Box;
use alloc::vec::Vec;
use table::{Descriptor, Table};

/// How many descriptors a process may have open, if nobody says otherwise.
pub const DESCRIPTORS_MAX: usize = 1024;

/// The most bytes that one call reads or writes; a longer one is cut short. Linux' MAX_RW_COUNT.
const TRANSFER_BYTES_MAX: u32 = 0x7fff_f000;
/// The most bytes that go to a provider at once; between two such pieces the process can be ended.
const PIECE_BYTES: usize = 256 << 10;

/// What a process begins with.
#[derive(Debug)]
pub struct Start {
    /// `argv`: no argument holds a NUL.
    pub arguments: Vec<Vec<u8>>,
    /// `environ`, each `NAME=value` without a NUL.
    pub environment: Vec<Vec<u8>>,
    /// The granted directories, in the order of their descriptors, 3 and up.
    pub directories: Vec<Preopen>,
    /// The most open descriptors; those of the start count. [`DESCRIPTORS_MAX`] is a good number.
    pub descriptors_max: usize,
    /// Is told how many are open when that has changed: after the call that changed it, and after the first.
    pub on_descriptors: fn(usize),
}

/// What a process has open is closed when it has ended: its host's files may be there for others as well.
impl<H: Host> Drop for State<H> {
    fn drop(&mut self) {
        while let Some(descriptor) = self.table.remove_any() {
            // There is nobody to tell.
            let _ = self.release(descriptor);
        }
    }
}

/// A granted directory.
#[derive(Debug)]
pub struct Preopen {
    /// What the program knows it as.
    pub guest: Box<str>,
    /// From [`Files::open_grant`](crate::provider::Files::open_grant).
    pub handle: Handle,
}

/// What preview 1 keeps for one process.
#[derive(Debug)]
pub struct State<H: Host> {
    host: H,
    arguments: Vec<Vec<u8>>,
    environment: Vec<Vec<u8>>,
    table: Table,
    #[cfg(feature = "engine")]
    on_descriptors: fn(usize),
    /// What it was told last.
    #[cfg(feature = "engine")]
    told_descriptors: usize,
}

impl<H: Host> State<H> {
    /// A process that stands on `host` and has not run yet.
    ///
    /// # Errors
    /// `EMFILE` if `start` opens more than it allows.
    pub fn new(host: H, start: Start) -> Result<Self, Errno> {
        let mut state = Self {
            host,
            arguments: start.arguments,
            environment: start.environment,
            table: Table::new(start.descriptors_max),
            #[cfg(feature = "engine")]
            on_descriptors: start.on_descriptors,
            #[cfg(feature = "engine")]
            told_descriptors: 0,
        };
        let streams = [Stream::Input, Stream::Output, Stream::Error];
        let streams = streams.map(|stream| Descriptor::Stream { stream, flags: 0 });
        let directory = |Preopen { guest, handle }| Descriptor::Directory { handle, grant: Some(guest) };
        let mut fits = Ok(());
        for descriptor in streams.into_iter().chain(start.directories.into_iter().map(directory)) {
            match state.table.reserve() {
                Ok(_) => _ = state.table.insert(descriptor)?,
                Err(errno) => {
                    fits = Err(errno);
                    let _ = state.release(descriptor);
                }
            }
        }
        fits.map(|()| state)
    }

    /// What the process stands on.
    pub const fn host(&mut self) -> &mut H {
        &mut self.host
    }

    /// What happens on the way into every function.
    fn enter(&mut self) -> Result<()> {
        Ok(self.host.wait().checkpoint()?)
    }

    /// What happens on the way out of every function.
    #[cfg(feature = "engine")]
    fn leave(&mut self) -> Result<()> {
        if self.table.open() != self.told_descriptors {
            self.told_descriptors = self.table.open();
            (self.on_descriptors)(self.told_descriptors);
        }
        Ok(self.host.wait().leave()?)
    }
}
