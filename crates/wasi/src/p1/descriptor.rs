//! Descriptors as such: what they are, their flags, their numbers.

use super::table::Descriptor;
use super::types::{fdflags, rights};
use super::{Memory, State};
use crate::provider::{FileKind, Host, Stat, Stream, Terminal};
use crate::{Errno, Result};

impl<H: Host> State<H> {
    pub(super) fn fd_close(&mut self, _: &mut Memory<'_>, fd: u32) -> Result<()> {
        let descriptor = self.table.remove(fd)?;
        self.release(descriptor)
    }

    pub(super) fn fd_renumber(&mut self, _: &mut Memory<'_>, from: u32, to: u32) -> Result<()> {
        match self.table.renumber(from, to)? {
            Some(replaced) => self.release(replaced),
            None => Ok(()),
        }
    }

    pub(super) fn release(&mut self, descriptor: Descriptor) -> Result<()> {
        match descriptor {
            Descriptor::Stream { .. } => Ok(()),
            Descriptor::Directory { handle, .. } => self.host.files().close(handle),
            Descriptor::File(file) => self.host.files().close(file.handle),
        }
    }

    /// Rights are told as the C library expects them; they are not a second system of permissions beside the
    /// grants.
    pub(super) fn fd_fdstat_get(&mut self, memory: &mut Memory<'_>, fd: u32, fdstat: u32) -> Result<()> {
        let place = memory.place(fdstat, 8)?;
        let (kind, flags, base, inheriting) = match self.table.get(fd)? {
            &Descriptor::Stream { stream, flags } => {
                let direction = match stream {
                    Stream::Input => rights::FD_READ,
                    Stream::Output | Stream::Error => rights::FD_WRITE,
                };
                // Without FD_SEEK and FD_TELL: that is how the C library's isatty() knows a terminal.
                let base = direction | rights::FD_FDSTAT_SET_FLAGS | rights::POLL_FD_READWRITE;
                (self.stream_kind(stream)?, flags, base, 0)
            }
            Descriptor::Directory { .. } => (FileKind::Directory, 0, rights::DIRECTORY, rights::BELOW),
            Descriptor::File(file) => (file.kind, file.flags, file.rights(), 0),
        };
        let mut record = [0; 24];
        record[0] = kind as u8;
        record[2..4].copy_from_slice(&flags.to_le_bytes());
        record[8..16].copy_from_slice(&base.to_le_bytes());
        record[16..].copy_from_slice(&inheriting.to_le_bytes());
        memory.put(place, record);
        Ok(())
    }

    pub(super) fn fd_fdstat_set_flags(&mut self, _: &mut Memory<'_>, fd: u32, flags: u32) -> Result<()> {
        let new = checked_fdflags(flags)?;
        match self.table.get_mut(fd)? {
            Descriptor::Stream { flags, .. } => *flags = new,
            Descriptor::File(file) => file.flags = new,
            Descriptor::Directory { .. } if new == 0 => {}
            Descriptor::Directory { .. } => return Err(Errno::Inval.into()),
        }
        Ok(())
    }

    /// Rights follow from the grants and cannot be changed: `ENOTSUP`, as in other current engines.
    pub(super) fn fd_fdstat_set_rights(
        &mut self,
        _: &mut Memory<'_>,
        fd: u32,
        _base: u64,
        _inheriting: u64,
    ) -> Result<()> {
        self.table.get(fd)?;
        Err(Errno::Notsup.into())
    }

    pub(super) fn fd_prestat_get(&mut self, memory: &mut Memory<'_>, fd: u32, prestat: u32) -> Result<()> {
        let place = memory.place(prestat, 4)?;
        let Descriptor::Directory { grant: Some(name), .. } = self.table.get(fd)? else {
            return Err(Errno::Badf.into());
        };
        let length = u32::try_from(name.len()).map_err(|_| Errno::Overflow)?;
        // Tag 0: a directory, the only kind there is.
        let mut record = [0; 8];
        record[4..].copy_from_slice(&length.to_le_bytes());
        memory.put(place, record);
        Ok(())
    }

    pub(super) fn fd_prestat_dir_name(
        &mut self,
        memory: &mut Memory<'_>,
        fd: u32,
        name: u32,
        length: u32,
    ) -> Result<()> {
        let Descriptor::Directory { grant: Some(text), .. } = self.table.get(fd)? else {
            return Err(Errno::Badf.into());
        };
        let text_length = u32::try_from(text.len()).map_err(|_| Errno::Overflow)?;
        if length < text_length {
            return Err(Errno::Nametoolong.into());
        }
        memory.bytes_mut(name, text_length)?.copy_from_slice(text.as_bytes());
        Ok(())
    }

    /// There are no sockets: `ENOTSOCK` for every open descriptor.
    pub(super) fn sock_accept(
        &mut self,
        _: &mut Memory<'_>,
        fd: u32,
        _flags: u32,
        _accepted: u32,
    ) -> Result<()> {
        self.not_a_socket(fd)
    }

    pub(super) fn sock_recv(
        &mut self,
        _: &mut Memory<'_>,
        fd: u32,
        _buffers: u32,
        _count: u32,
        _flags: u32,
        _done: u32,
        _out_flags: u32,
    ) -> Result<()> {
        self.not_a_socket(fd)
    }

    pub(super) fn sock_send(
        &mut self,
        _: &mut Memory<'_>,
        fd: u32,
        _buffers: u32,
        _count: u32,
        _flags: u32,
        _done: u32,
    ) -> Result<()> {
        self.not_a_socket(fd)
    }

    pub(super) fn sock_shutdown(&mut self, _: &mut Memory<'_>, fd: u32, _how: u32) -> Result<()> {
        self.not_a_socket(fd)
    }

    fn not_a_socket(&self, fd: u32) -> Result<()> {
        self.table.get(fd)?;
        Err(Errno::Notsock.into())
    }

    /// What a stream is: a terminal is a character device, of all else nothing is known.
    fn stream_kind(&mut self, stream: Stream) -> Result<FileKind> {
        Ok(match self.host.streams().terminal(stream)? {
            Terminal::Yes => FileKind::CharacterDevice,
            Terminal::No => FileKind::Unknown,
        })
    }

    /// What there is to know about a standard stream; `None` for any other descriptor.
    pub(super) fn stream_stat(&mut self, fd: u32) -> Result<Option<Stat>> {
        let &Descriptor::Stream { stream, .. } = self.table.get(fd)? else {
            return Ok(None);
        };
        let kind = self.stream_kind(stream)?;
        Ok(Some(Stat {
            device: 0,
            inode: 0,
            kind,
            links: 0,
            size: 0,
            accessed_ns: 0,
            modified_ns: 0,
            changed_ns: 0,
        }))
    }
}

/// `EINVAL` for a flag without meaning.
pub(super) fn checked_fdflags(flags: u32) -> Result<u16, Errno> {
    let flags = u16::try_from(flags).map_err(|_| Errno::Inval)?;
    if flags & !fdflags::ALL == 0 { Ok(flags) } else { Err(Errno::Inval) }
}
