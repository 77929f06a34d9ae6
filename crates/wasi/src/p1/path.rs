//! Files by name.

use super::descriptor::checked_fdflags;
use super::table::{Access, Descriptor, File};
use super::types::{LOOKUP_FOLLOW, filestat, oflags, times};
use super::{Memory, State};
use crate::provider::{
    Create, Expect, FileKind, Follow, Host, LINK_BYTES_MAX, Open, PATH_BYTES_MAX, Path, Truncate,
};
use crate::{Errno, Result};

impl<H: Host> State<H> {
    pub(crate) fn path_open(
        &mut self,
        memory: &mut Memory<'_>,
        fd: u32,
        lookup: u32,
        path: u32,
        length: u32,
        oflags: u32,
        base: u64,
        _inheriting: u64,
        fdflags: u32,
        opened: u32,
    ) -> Result<()> {
        let place = memory.place(opened, 4)?;
        let directory = self.table.directory(fd)?;
        let access = Access::from_rights(base);
        let open = open_how(access, oflags, follow(lookup)?)?;
        let flags = checked_fdflags(fdflags)?;
        let path = path_at(memory, path, length)?;
        self.table.reserve()?;
        let opened = self.host.files().open_at(directory, path, open)?;
        let descriptor = match opened.kind {
            FileKind::Directory => Descriptor::Directory { handle: opened.handle, grant: None },
            kind => Descriptor::File(File { handle: opened.handle, kind, position: 0, flags, access }),
        };
        let number = self.table.insert(descriptor)?;
        memory.put(place, number.to_le_bytes());
        Ok(())
    }

    pub(super) fn path_filestat_get(
        &mut self,
        memory: &mut Memory<'_>,
        fd: u32,
        lookup: u32,
        path: u32,
        length: u32,
        record: u32,
    ) -> Result<()> {
        let place = memory.place(record, 8)?;
        let directory = self.table.directory(fd)?;
        let path = path_at(memory, path, length)?;
        let stat = self.host.files().stat_at(directory, path, follow(lookup)?)?;
        memory.put(place, filestat(&stat));
        Ok(())
    }

    pub(super) fn path_filestat_set_times(
        &mut self,
        memory: &mut Memory<'_>,
        fd: u32,
        lookup: u32,
        path: u32,
        length: u32,
        accessed_ns: u64,
        modified_ns: u64,
        flags: u32,
    ) -> Result<()> {
        let times = times(accessed_ns, modified_ns, flags)?;
        let directory = self.table.directory(fd)?;
        let path = path_at(memory, path, length)?;
        self.host.files().set_times_at(directory, path, follow(lookup)?, times)
    }

    pub(super) fn path_create_directory(
        &mut self,
        memory: &mut Memory<'_>,
        fd: u32,
        path: u32,
        length: u32,
    ) -> Result<()> {
        let directory = self.table.directory(fd)?;
        self.host.files().create_directory_at(directory, path_at(memory, path, length)?)
    }

    pub(super) fn path_remove_directory(
        &mut self,
        memory: &mut Memory<'_>,
        fd: u32,
        path: u32,
        length: u32,
    ) -> Result<()> {
        let directory = self.table.directory(fd)?;
        self.host.files().remove_directory_at(directory, path_at(memory, path, length)?)
    }

    pub(super) fn path_unlink_file(
        &mut self,
        memory: &mut Memory<'_>,
        fd: u32,
        path: u32,
        length: u32,
    ) -> Result<()> {
        let directory = self.table.directory(fd)?;
        self.host.files().unlink_at(directory, path_at(memory, path, length)?)
    }

    /// Only links to what a name is, never to what a symbolic link leads to: `EINVAL`, as in other engines.
    pub(super) fn path_link(
        &mut self,
        memory: &mut Memory<'_>,
        from_fd: u32,
        lookup: u32,
        from: u32,
        from_length: u32,
        to_fd: u32,
        to: u32,
        to_length: u32,
    ) -> Result<()> {
        let (from_directory, to_directory) = (self.table.directory(from_fd)?, self.table.directory(to_fd)?);
        if follow(lookup)? == Follow::Yes {
            return Err(Errno::Inval.into());
        }
        let (from, to) = (path_at(memory, from, from_length)?, path_at(memory, to, to_length)?);
        self.host.files().link_at(from_directory, from, to_directory, to)
    }

    pub(super) fn path_rename(
        &mut self,
        memory: &mut Memory<'_>,
        from_fd: u32,
        from: u32,
        from_length: u32,
        to_fd: u32,
        to: u32,
        to_length: u32,
    ) -> Result<()> {
        let (from_directory, to_directory) = (self.table.directory(from_fd)?, self.table.directory(to_fd)?);
        let (from, to) = (path_at(memory, from, from_length)?, path_at(memory, to, to_length)?);
        self.host.files().rename_at(from_directory, from, to_directory, to)
    }

    pub(super) fn path_symlink(
        &mut self,
        memory: &mut Memory<'_>,
        text: u32,
        text_length: u32,
        fd: u32,
        path: u32,
        length: u32,
    ) -> Result<()> {
        let directory = self.table.directory(fd)?;
        let text = link_text(memory.bytes(text, text_length)?)?;
        self.host.files().symlink_at(text, directory, path_at(memory, path, length)?)
    }

    pub(super) fn path_readlink(
        &mut self,
        memory: &mut Memory<'_>,
        fd: u32,
        path: u32,
        length: u32,
        buffer: u32,
        buffer_length: u32,
        used: u32,
    ) -> Result<()> {
        let used = memory.place(used, 4)?;
        let directory = self.table.directory(fd)?;
        // The path and the buffer may be the same bytes, so the path is copied out of the way.
        let bytes = memory.bytes(path, length)?;
        Path::new(bytes)?;
        let mut copy = [0; PATH_BYTES_MAX];
        let copy = &mut copy[..bytes.len()];
        copy.copy_from_slice(bytes);
        let into = memory.bytes_mut(buffer, buffer_length)?;
        let count = self.host.files().read_link_at(directory, Path::new(copy)?, into)?;
        let count = u32::try_from(count).map_err(|_| Errno::Overflow)?;
        memory.put(used, count.to_le_bytes());
        Ok(())
    }
}

fn path_at<'m>(memory: &'m Memory<'_>, path: u32, length: u32) -> Result<Path<'m>, Errno> {
    Path::new(memory.bytes(path, length)?)
}

fn follow(lookup: u32) -> Result<Follow, Errno> {
    match lookup {
        0 => Ok(Follow::No),
        LOOKUP_FOLLOW => Ok(Follow::Yes),
        _ => Err(Errno::Inval),
    }
}

fn open_how(access: Access, flags: u32, follow: Follow) -> Result<Open, Errno> {
    let has = |flag: u32| flags & flag != 0;
    let makes = has(oflags::CREATE | oflags::EXCLUSIVE | oflags::TRUNCATE);
    if flags & !oflags::ALL != 0 || (has(oflags::DIRECTORY) && makes) {
        return Err(Errno::Inval);
    }
    Ok(Open {
        access: access.for_provider(),
        create: match (has(oflags::CREATE), has(oflags::EXCLUSIVE)) {
            (false, _) => Create::Never,
            (true, false) => Create::IfMissing,
            (true, true) => Create::Exclusively,
        },
        truncate: if has(oflags::TRUNCATE) { Truncate::Empty } else { Truncate::Keep },
        expect: if has(oflags::DIRECTORY) { Expect::Directory } else { Expect::Any },
        follow,
    })
}

/// The text of a symbolic link to be made.
fn link_text(bytes: &[u8]) -> Result<&str, Errno> {
    if bytes.len() > LINK_BYTES_MAX {
        return Err(Errno::Nametoolong);
    }
    let text = core::str::from_utf8(bytes).map_err(|_| Errno::Ilseq)?;
    match text {
        "" => Err(Errno::Noent),
        _ if text.contains('\0') => Err(Errno::Inval),
        _ if text.starts_with('/') => Err(Errno::Perm),
        _ => Ok(text),
    }
}
