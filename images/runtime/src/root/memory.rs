//! A little memory that the root fills and a child reads.

use abi::{Backing, BootInfo, Commit, Error, Handle, PAGE_SIZE, Protection, Request, Sharing, Span};
use bundle::Start;
use runtime::System;

/// Memory with a child's [`BootInfo`] in its first page and its [`Start`] in the second. It goes when this does.
pub struct Letter {
    system: &'static System,
    memory: Handle,
}

impl Letter {
    /// Where the [`BootInfo`] lies, and how long it is in memory.
    pub const BOOT_INFO: Span = Span::new(0, PAGE_SIZE);
    /// The same of the [`Start`].
    pub const START: Span = Span::new(PAGE_SIZE, PAGE_SIZE);

    /// Writes one.
    pub fn write(
        system: &'static System,
        own_domain: Handle,
        info: &BootInfo,
        start: &Start,
    ) -> Result<Self, Error> {
        let bytes = Self::BOOT_INFO.length + Self::START.length;
        let memory = system.kernel().call(Request::CreateMemory { domain: own_domain, bytes })?;
        let letter = Self { system, memory: Handle::from_raw(memory) };
        let span = Span::new(system.take_space(bytes).ok_or(Error::NoMemory)?.base, bytes);
        system.map(span, letter.backing(0), Protection::ReadWrite, Commit::OnTouch)?;
        let (first, second) = (span.base as usize, (span.base + Self::START.base) as usize);
        let start = start.to_bytes();
        // SAFETY: two writable pages that were mapped for this, the first large enough for a `BootInfo` (a test of `abi` sees to
        // that). Nobody else has them mapped yet.
        unsafe {
            (first as *mut BootInfo).write(*info);
            (second as *mut u8).copy_from_nonoverlapping(start.as_ptr(), start.len());
        }
        system.unmap(span)?;
        Ok(letter)
    }

    /// The page at `offset`, for who reads it.
    pub fn backing(&self, offset: u64) -> Backing {
        Backing::Memory { memory: self.memory, offset, sharing: Sharing::Shared }
    }
}

impl Drop for Letter {
    fn drop(&mut self) {
        let _ = self.system.kernel().call(Request::Release { capability: self.memory });
    }
}
