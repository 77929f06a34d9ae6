//! The open descriptors of a process.

use super::types::{fdflags, rights};
use crate::Errno;
use crate::provider::{FileAccess, FileKind, Handle, Stream};
use alloc::boxed::Box;
use alloc::vec::Vec;

/// Something that a process has open.
#[derive(Debug)]
pub(super) enum Descriptor {
    /// A standard stream.
    Stream {
        stream: Stream,
        /// `fdflags`; only `NONBLOCK` has an effect.
        flags: u16,
    },
    /// A directory.
    Directory {
        handle: Handle,
        /// What a granted directory is called; `None` for one that was opened.
        grant: Option<Box<str>>,
    },
    /// Anything else that was opened.
    File(File),
}

/// An open file.
#[derive(Clone, Copy, Debug)]
pub(super) struct File {
    pub handle: Handle,
    pub kind: FileKind,
    /// Where the next read or write begins.
    pub position: u64,
    /// `fdflags`
    pub flags: u16,
    pub access: Access,
}

/// What a descriptor was opened for. Unlike [`FileAccess`] it can be nothing at all: to look at the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    Neither,
    Read,
    Write,
    Both,
}

impl Access {
    /// What `fs_rights_base` asks for.
    pub const fn from_rights(base: u64) -> Self {
        match (base & rights::FD_READ != 0, base & rights::FD_WRITE != 0) {
            (false, false) => Self::Neither,
            (true, false) => Self::Read,
            (false, true) => Self::Write,
            (true, true) => Self::Both,
        }
    }

    pub const fn rights(self) -> u64 {
        match self {
            Self::Neither => 0,
            Self::Read => rights::FD_READ,
            Self::Write => rights::FD_WRITE,
            Self::Both => rights::FD_READ | rights::FD_WRITE,
        }
    }

    pub const fn for_provider(self) -> FileAccess {
        match self {
            Self::Neither | Self::Read => FileAccess::Read,
            Self::Write => FileAccess::Write,
            Self::Both => FileAccess::ReadWrite,
        }
    }
}

impl File {
    /// `EBADF` if it was not opened to be read.
    pub fn readable(&self) -> Result<(), Errno> {
        if self.access.rights() & rights::FD_READ != 0 { Ok(()) } else { Err(Errno::Badf) }
    }

    /// `EBADF` if it was not opened to be written.
    pub fn writable(&self) -> Result<(), Errno> {
        if self.access.rights() & rights::FD_WRITE != 0 { Ok(()) } else { Err(Errno::Badf) }
    }

    /// `ESPIPE` if it has no positions.
    pub fn seekable(&self) -> Result<(), Errno> {
        match self.kind {
            FileKind::Regular | FileKind::BlockDevice => Ok(()),
            _ => Err(Errno::Spipe),
        }
    }

    /// What can be done with it.
    pub fn rights(&self) -> u64 {
        let mut all = rights::ANY_FILE | self.access.rights();
        if self.seekable().is_ok() {
            all |= rights::REGULAR;
            if self.writable().is_ok() {
                all |= rights::REGULAR_WRITABLE;
            }
        }
        all
    }

    /// Whether each write is to reach the storage before it is answered.
    pub const fn writes_through(&self) -> bool {
        self.flags & (fdflags::SYNC | fdflags::DSYNC) != 0
    }
}

/// Descriptors by number, the lowest free number first.
#[derive(Debug)]
pub(super) struct Table {
    slots: Vec<Option<Descriptor>>,
    /// No number below this is free.
    free_from: usize,
    /// How many are.
    open: usize,
    limit: usize,
}

impl Table {
    pub const fn new(limit: usize) -> Self {
        Self { slots: Vec::new(), free_from: 0, open: 0, limit }
    }

    /// The number that the next [`Table::insert`] will give, or `EMFILE`; makes room for it.
    pub fn reserve(&mut self) -> Result<usize, Errno> {
        let taken = self.slots.iter().skip(self.free_from).take_while(|slot| slot.is_some()).count();
        self.free_from += taken;
        if self.free_from >= self.limit {
            return Err(Errno::Mfile);
        }
        if self.free_from == self.slots.len() {
            self.slots.try_reserve(1).map_err(|_| Errno::Nomem)?;
            self.slots.push(None);
        }
        Ok(self.free_from)
    }

    /// How many are open.
    #[cfg(any(feature = "engine", test))]
    pub const fn open(&self) -> usize {
        self.open
    }

    /// Opens a descriptor.
    pub fn insert(&mut self, descriptor: Descriptor) -> Result<u32, Errno> {
        let number = self.reserve()?;
        self.slots[number] = Some(descriptor);
        self.open += 1;
        u32::try_from(number).map_err(|_| Errno::Mfile)
    }

    pub fn get(&self, number: u32) -> Result<&Descriptor, Errno> {
        self.slots.get(number as usize).and_then(Option::as_ref).ok_or(Errno::Badf)
    }

    pub fn get_mut(&mut self, number: u32) -> Result<&mut Descriptor, Errno> {
        self.slots.get_mut(number as usize).and_then(Option::as_mut).ok_or(Errno::Badf)
    }

    /// Takes a descriptor out.
    pub fn remove(&mut self, number: u32) -> Result<Descriptor, Errno> {
        let slot = self.slots.get_mut(number as usize).ok_or(Errno::Badf)?;
        let descriptor = slot.take().ok_or(Errno::Badf)?;
        self.open -= 1;
        self.free_from = self.free_from.min(number as usize);
        Ok(descriptor)
    }

    /// Takes out any that is open, until none is.
    pub fn remove_any(&mut self) -> Option<Descriptor> {
        self.free_from = 0;
        while let Some(slot) = self.slots.pop() {
            if slot.is_some() {
                self.open -= 1;
                return slot;
            }
        }
        None
    }

    /// Gives `from` the number `to`, which is open as well, and answers what had that number; `None` if they
    /// are the same.
    pub fn renumber(&mut self, from: u32, to: u32) -> Result<Option<Descriptor>, Errno> {
        self.get(from)?;
        self.get(to)?;
        if from == to {
            return Ok(None);
        }
        let moved = self.remove(from)?;
        Ok(self.slots[to as usize].replace(moved))
    }

    /// An open file, not a directory (`EBADF`) nor a stream (`EBADF`).
    pub fn file(&self, number: u32) -> Result<&File, Errno> {
        match self.get(number)? {
            Descriptor::File(file) => Ok(file),
            Descriptor::Directory { .. } | Descriptor::Stream { .. } => Err(Errno::Badf),
        }
    }

    /// An open file, to change.
    pub fn file_mut(&mut self, number: u32) -> Result<&mut File, Errno> {
        match self.get_mut(number)? {
            Descriptor::File(file) => Ok(file),
            Descriptor::Directory { .. } | Descriptor::Stream { .. } => Err(Errno::Badf),
        }
    }

    /// A file with positions, not a stream (`ESPIPE`) nor a directory (`EBADF`).
    pub fn seekable_mut(&mut self, number: u32) -> Result<&mut File, Errno> {
        match self.get_mut(number)? {
            Descriptor::File(file) => file.seekable().map(|()| file),
            Descriptor::Stream { .. } => Err(Errno::Spipe),
            Descriptor::Directory { .. } => Err(Errno::Badf),
        }
    }

    /// An open directory, not a file or a stream (`ENOTDIR`).
    pub fn directory(&self, number: u32) -> Result<Handle, Errno> {
        match self.get(number)? {
            Descriptor::Directory { handle, .. } => Ok(*handle),
            Descriptor::File(_) | Descriptor::Stream { .. } => Err(Errno::Notdir),
        }
    }

    /// What the provider knows it by; streams are not the provider's of files (`EBADF`).
    pub fn handle(&self, number: u32) -> Result<Handle, Errno> {
        match self.get(number)? {
            Descriptor::Directory { handle, .. } => Ok(*handle),
            Descriptor::File(file) => Ok(file.handle),
            Descriptor::Stream { .. } => Err(Errno::Badf),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(stream: Stream) -> Descriptor {
        Descriptor::Stream { stream, flags: 0 }
    }

    #[test]
    fn the_lowest_free_number_is_given() {
        let mut table = Table::new(4);
        for number in 0..4 {
            assert_eq!(table.insert(stream(Stream::Input)), Ok(number));
        }
        assert_eq!(table.insert(stream(Stream::Input)), Err(Errno::Mfile));
        table.remove(2).unwrap();
        table.remove(1).unwrap();
        assert_eq!(table.open(), 2);
        assert_eq!(table.remove(1).err(), Some(Errno::Badf));
        assert_eq!(table.insert(stream(Stream::Error)), Ok(1));
        assert_eq!(table.insert(stream(Stream::Error)), Ok(2));
        assert_eq!(table.insert(stream(Stream::Input)), Err(Errno::Mfile));
    }

    #[test]
    fn renumbering_needs_both_and_frees_the_first() {
        let mut table = Table::new(4);
        table.insert(stream(Stream::Input)).unwrap();
        table.insert(stream(Stream::Output)).unwrap();
        assert_eq!(table.renumber(0, 2).err(), Some(Errno::Badf));
        assert_eq!(table.renumber(2, 0).err(), Some(Errno::Badf));
        assert!(table.renumber(1, 1).unwrap().is_none());
        let replaced = table.renumber(1, 0).unwrap();
        assert!(matches!(replaced, Some(Descriptor::Stream { stream: Stream::Input, .. })));
        assert_eq!(table.get(1).err(), Some(Errno::Badf));
        assert!(matches!(table.get(0), Ok(Descriptor::Stream { stream: Stream::Output, .. })));
        assert_eq!(table.insert(stream(Stream::Error)), Ok(1));
    }
}
