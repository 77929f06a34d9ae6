//! Listing directories.

use super::{Memory, State};
use crate::Result;
use crate::provider::{Entry, FileKind, Handle, Host};
use core::ops::ControlFlow;

/// A `dirent`, which the name follows.
const HEADER_BYTES: usize = 24;
/// What the cookies of a provider are moved by, to make room for `.` and `..`: a program's cookie 0 is the
/// beginning, 1 is behind `.`, 2 is behind `..` and a provider's 0.
const COOKIES_BEFORE: u64 = 2;

impl<H: Host> State<H> {
    pub(super) fn fd_readdir(
        &mut self,
        memory: &mut Memory<'_>,
        fd: u32,
        buffer: u32,
        length: u32,
        cookie: u64,
        used: u32,
    ) -> Result<()> {
        let used = memory.place(used, 4)?;
        let directory = self.table.directory(fd)?;
        let mut page = Page { into: memory.bytes_mut(buffer, length)?, used: 0 };
        self.show_entries(directory, cookie, &mut page)?;
        // No longer than `length`, which is 32 bits.
        let total = page.used as u32;
        memory.put(used, total.to_le_bytes());
        Ok(())
    }

    fn show_entries(&mut self, directory: Handle, mut cookie: u64, page: &mut Page<'_>) -> Result<()> {
        if cookie < COOKIES_BEFORE {
            let inode = self.host.files().stat(directory)?.inode;
            // The parent of a granted directory is not the program's business: `..` shows the directory
            // itself.
            for (next, name) in (1..).zip([".", ".."]).skip(cookie as usize) {
                let entry = Entry { next, inode, kind: FileKind::Directory, name };
                if page.put(entry).is_break() {
                    return Ok(());
                }
            }
            cookie = COOKIES_BEFORE;
        }
        loop {
            self.host.wait().checkpoint()?;
            let (mut shown, mut full) = (false, false);
            self.host.files().read_directory(directory, cookie - COOKIES_BEFORE, &mut |entry| {
                let entry = Entry { next: entry.next.saturating_add(COOKIES_BEFORE), ..entry };
                cookie = entry.next;
                shown = true;
                let flow = page.put(entry);
                full = flow.is_break();
                flow
            })?;
            if full || !shown {
                return Ok(());
            }
        }
    }
}

/// The program's buffer, as it fills. The last entry may be cut: that is how a program sees that there is
/// more.
struct Page<'a> {
    into: &'a mut [u8],
    used: usize,
}

impl Page<'_> {
    /// Adds what fits of an entry; breaks when the buffer is full.
    fn put(&mut self, entry: Entry<'_>) -> ControlFlow<()> {
        let mut header = [0; HEADER_BYTES];
        header[..8].copy_from_slice(&entry.next.to_le_bytes());
        header[8..16].copy_from_slice(&entry.inode.to_le_bytes());
        header[16..20].copy_from_slice(&(entry.name.len() as u32).to_le_bytes());
        header[20] = entry.kind as u8;
        for bytes in [&header, entry.name.as_bytes()] {
            let room = &mut self.into[self.used..];
            let fits = bytes.len().min(room.len());
            room[..fits].copy_from_slice(&bytes[..fits]);
            self.used += fits;
        }
        if self.used == self.into.len() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}
