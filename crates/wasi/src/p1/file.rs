//! Files that are open: position, size, times, storage.

use super::types::{ADVICE_COUNT, filestat, times, whence};
use super::{Memory, State};
use crate::provider::{Host, Sync};
use crate::{Errno, Result};

impl<H: Host> State<H> {
    pub(super) fn fd_seek(
        &mut self,
        memory: &mut Memory<'_>,
        fd: u32,
        offset: i64,
        whence: u32,
        position: u32,
    ) -> Result<()> {
        let place = memory.place(position, 8)?;
        let file = *self.table.seekable_mut(fd)?;
        let base = match whence {
            whence::SET => 0,
            whence::CURRENT => file.position,
            whence::END => self.host.files().stat(file.handle)?.size,
            _ => return Err(Errno::Inval.into()),
        };
        let position = base.checked_add_signed(offset).ok_or(Errno::Inval)?;
        if i64::try_from(position).is_err() {
            return Err(Errno::Inval.into());
        }
        self.table.seekable_mut(fd)?.position = position;
        memory.put(place, position.to_le_bytes());
        Ok(())
    }

    pub(super) fn fd_tell(&mut self, memory: &mut Memory<'_>, fd: u32, position: u32) -> Result<()> {
        let place = memory.place(position, 8)?;
        let file = self.table.seekable_mut(fd)?;
        memory.put(place, file.position.to_le_bytes());
        Ok(())
    }

    /// Advice is checked and not taken.
    pub(super) fn fd_advise(
        &mut self,
        _: &mut Memory<'_>,
        fd: u32,
        offset: u64,
        length: u64,
        advice: u32,
    ) -> Result<()> {
        self.table.file(fd)?.seekable()?;
        if advice >= ADVICE_COUNT || offset.checked_add(length).is_none() {
            return Err(Errno::Inval.into());
        }
        Ok(())
    }

    pub(super) fn fd_allocate(
        &mut self,
        _: &mut Memory<'_>,
        fd: u32,
        offset: u64,
        length: u64,
    ) -> Result<()> {
        let file = self.table.file(fd)?;
        file.writable()?;
        file.seekable()?;
        let handle = file.handle;
        if length == 0 || i64::try_from(offset).is_err() {
            return Err(Errno::Inval.into());
        }
        let end = offset.checked_add(length).ok_or(Errno::Fbig)?;
        i64::try_from(end).map_err(|_| Errno::Fbig)?;
        self.host.files().allocate(handle, offset, length)
    }

    pub(super) fn fd_datasync(&mut self, _: &mut Memory<'_>, fd: u32) -> Result<()> {
        let handle = self.table.handle(fd)?;
        self.host.files().sync(handle, Sync::Data)
    }

    pub(super) fn fd_sync(&mut self, _: &mut Memory<'_>, fd: u32) -> Result<()> {
        let handle = self.table.handle(fd)?;
        self.host.files().sync(handle, Sync::All)
    }

    pub(super) fn fd_filestat_get(&mut self, memory: &mut Memory<'_>, fd: u32, record: u32) -> Result<()> {
        let place = memory.place(record, 8)?;
        let stat = match self.stream_stat(fd)? {
            Some(stat) => stat,
            None => {
                let handle = self.table.handle(fd)?;
                self.host.files().stat(handle)?
            }
        };
        memory.put(place, filestat(&stat));
        Ok(())
    }

    pub(super) fn fd_filestat_set_size(&mut self, _: &mut Memory<'_>, fd: u32, size: u64) -> Result<()> {
        let file = *self.table.file(fd)?;
        if file.writable().is_err() || file.seekable().is_err() {
            return Err(Errno::Inval.into());
        }
        i64::try_from(size).map_err(|_| Errno::Inval)?;
        self.host.files().set_size(file.handle, size)
    }

    pub(super) fn fd_filestat_set_times(
        &mut self,
        _: &mut Memory<'_>,
        fd: u32,
        accessed_ns: u64,
        modified_ns: u64,
        flags: u32,
    ) -> Result<()> {
        let handle = self.table.handle(fd)?;
        let times = times(accessed_ns, modified_ns, flags)?;
        self.host.files().set_times(handle, times)
    }
}
