//! Directories of this machine, granted to a program.
//!
//! Confinement is `cap-primitives`' work: a path is opened by `openat2` with `RESOLVE_BENEATH` (or, where
//! Linux does not allow that, component by component), so that neither `..` nor a symbolic link nor a race
//! with a rename leads out of the directory. Names are made and removed in the directory that such a path
//! leads to, by the last component alone.
//!
//! What differs from a file system that knows only WASI: names that are not UTF-8 are not listed; terminals,
//! pipes and the like in a granted directory are opened without blocking and answer `EAGAIN`.

use crate::clock::nanoseconds;
use bundle::Access;
use cap_fs_ext::{FollowSymlinks, OpenOptionsFollowExt, OpenOptionsSyncExt};
use cap_primitives::fs::{MetadataExt, OpenOptions, OpenOptionsExt, SystemTimeSpec};
use cap_primitives::time::SystemTime;
use rustix::fs::{
    AtFlags, FallocateFlags, FileType, Mode, OFlags, RawDir, SeekFrom, Timestamps, UTIME_NOW, UTIME_OMIT,
};
use rustix::io::{IoSlice, ReadWriteFlags, retry_on_intr};
use rustix::time::Timespec;
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;
use wasi::provider::{
    Appended, Create, Entry, Expect, FileAccess, FileKind, Files, Follow, Handle, Open, Opened, Path,
    SetTime, Stat, Sync, Times, Truncate, Visit,
};
use wasi::{Errno, Result};

/// Room for one call's worth of directory entries; the longest entry takes about 280 bytes.
const ENTRIES_BYTES: usize = 8192;

/// A directory of this machine, as it is granted.
#[derive(Debug)]
pub struct Grant {
    pub(crate) directory: File,
    pub(crate) access: Access,
}

impl Grant {
    /// Opens a directory to grant it, by this process's own rights.
    pub fn open(path: &std::path::Path, access: Access) -> io::Result<Self> {
        let directory = File::open(path)?;
        if directory.metadata()?.is_dir() {
            Ok(Self { directory, access })
        } else {
            Err(io::ErrorKind::NotADirectory.into())
        }
    }
}

/// The granted directories and what is open in them.
#[derive(Debug)]
pub struct LinuxFiles {
    grants: Vec<Grant>,
    open: Vec<Slot>,
    /// The places of `open` in which nothing is.
    free: Vec<usize>,
}

/// A place for something open, with the generation that the handle of what is in it bears.
#[derive(Debug, Default)]
struct Slot {
    generation: u32,
    held: Option<Held>,
}

/// Something open.
#[derive(Debug)]
struct Held {
    file: File,
    kind: FileKind,
    grant: Access,
    access: FileAccess,
}

impl Held {
    /// `EROFS` in a directory that was granted to be read.
    fn changeable(&self) -> Result<(), Errno> {
        match self.grant {
            Access::ReadOnly => Err(Errno::Rofs),
            Access::ReadWrite => Ok(()),
        }
    }

    /// The file, to write to.
    fn writable(&self) -> Result<&File, Errno> {
        if self.access == FileAccess::Read { Err(Errno::Badf) } else { Ok(&self.file) }
    }

    /// Whether it is read and written at offsets.
    fn has_positions(&self) -> bool {
        matches!(self.kind, FileKind::Regular | FileKind::BlockDevice)
    }
}

impl LinuxFiles {
    /// Grants these directories, by their numbers.
    pub fn new(grants: Vec<Grant>) -> Self {
        Self { grants, open: Vec::new(), free: Vec::new() }
    }

    fn held(&self, handle: Handle) -> Result<&Held, Errno> {
        let slot = self.open.get(handle.0 as u32 as usize).ok_or(Errno::Badf)?;
        let current = u64::from(slot.generation) == handle.0 >> 32;
        slot.held.as_ref().filter(|_| current).ok_or(Errno::Badf)
    }

    /// `ENOMEM` if there is no room for one more: how many there are is for programs to choose.
    fn hold(&mut self, held: Held) -> Result<Handle, Errno> {
        let index = match self.free.pop() {
            Some(index) => index,
            None => {
                // To close one takes no memory.
                let room = self.free.try_reserve(self.open.len() + 1);
                room.and_then(|()| self.open.try_reserve(1)).map_err(|_| Errno::Nomem)?;
                self.open.push(Slot::default());
                self.open.len() - 1
            }
        };
        let slot = &mut self.open[index];
        slot.held = Some(held);
        Ok(Handle(u64::from(slot.generation) << 32 | index as u64))
    }

    /// The directory that the last component of `path` is in, and that component, with the slashes behind it.
    fn parent<'p>(&self, directory: Handle, path: Path<'p>) -> Result<(Parent<'_>, &'p str), Errno> {
        let held = self.held(directory)?;
        if held.kind != FileKind::Directory {
            return Err(Errno::Notdir);
        }
        let text = path.as_str();
        let end = text.trim_end_matches('/').len();
        let begin = text[..end].rfind('/').map_or(0, |slash| slash + 1);
        if &text[begin..end] == ".." {
            // Where this leads decides whether the program may name it at all.
            stat_below(&held.file, path, Follow::No)?;
        }
        let parent = match &text[..begin] {
            "" => Parent::Held(&held.file),
            above => Parent::Opened(unbroken(|| cap_primitives::fs::open_dir(&held.file, above.as_ref()))?),
        };
        Ok((parent, &text[begin..]))
    }

    /// The same, to change the names there.
    fn parent_to_change<'p>(
        &self,
        directory: Handle,
        path: Path<'p>,
    ) -> Result<(Parent<'_>, &'p str), Errno> {
        let parent = self.parent(directory, path)?;
        self.held(directory)?.changeable()?;
        Ok(parent)
    }
}

/// The directory that a name is in.
enum Parent<'h> {
    Held(&'h File),
    Opened(File),
}

impl AsFd for Parent<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Held(file) => file.as_fd(),
            Self::Opened(file) => file.as_fd(),
        }
    }
}

/// Opens in a directory that may be changed.
fn open_read_write(directory: &File, path: Path<'_>, open: Open) -> Result<File, Errno> {
    let only_reads = open.access == FileAccess::Read && open.truncate == Truncate::Keep;
    if only_reads && open.create == Create::IfMissing && !path.names_directory() {
        // A file that is there can be opened although it may only be read. What Linux says when there is none to open
        // depends on whether it should be made: below, it is asked that.
        if let Ok(file) = linux_open(directory, path, Open { create: Create::Never, ..open }) {
            return if kind(&file)? == FileKind::Directory { Err(Errno::Isdir) } else { Ok(file) };
        }
    }
    linux_open(directory, path, open)
}

/// Opens in a directory that was granted to be read.
fn open_read_only(directory: &File, path: Path<'_>, open: Open) -> Result<File, Errno> {
    let writes = open.access != FileAccess::Read || open.truncate == Truncate::Empty;
    let exclusive = open.create == Create::Exclusively;
    let follow = if exclusive { Follow::No } else { open.follow };
    let plain =
        Open { access: FileAccess::Read, create: Create::Never, truncate: Truncate::Keep, follow, ..open };
    let result = linux_open(directory, path, plain);
    match &result {
        Ok(_) | Err(Errno::Loop) if exclusive => Err(Errno::Exist),
        Err(Errno::Noent) if open.create != Create::Never => Err(Errno::Rofs),
        Ok(file) if writes || open.create != Create::Never => match kind(file)? {
            FileKind::Directory => Err(Errno::Isdir),
            _ if writes => Err(Errno::Rofs),
            _ => result,
        },
        _ => result,
    }
}

fn linux_open(directory: &File, path: Path<'_>, open: Open) -> Result<File, Errno> {
    // Linux makes and empties files for those only who open them to write; the program is still held to
    // `access`.
    let changes = open.create != Create::Never || open.truncate == Truncate::Empty;
    let mut flags = OFlags::NOCTTY;
    if open.expect == Expect::Directory {
        flags |= OFlags::DIRECTORY;
    }
    let mut options = OpenOptions::new();
    options
        .read(open.access != FileAccess::Write)
        .write(open.access != FileAccess::Read || changes)
        .create(open.create == Create::IfMissing)
        .create_new(open.create == Create::Exclusively)
        .truncate(open.truncate == Truncate::Empty)
        .custom_flags(flags.bits().cast_signed())
        .nonblock(true)
        .follow(follow_how(path, open.follow));
    unbroken(|| cap_primitives::fs::open(directory, path.as_str().as_ref(), &options))
}

impl Files for LinuxFiles {
    fn open_grant(&mut self, grant: u32) -> Result<Handle> {
        let grant = self.grants.get(grant as usize).ok_or(Errno::Noent)?;
        let file = unbroken(|| grant.directory.try_clone())?;
        let held = Held { file, kind: FileKind::Directory, grant: grant.access, access: FileAccess::Read };
        Ok(self.hold(held)?)
    }

    fn open_at(&mut self, directory: Handle, path: Path<'_>, open: Open) -> Result<Opened> {
        let held = self.held(directory)?;
        let grant = held.grant;
        let file = match grant {
            Access::ReadOnly => open_read_only(&held.file, path, open)?,
            Access::ReadWrite => open_read_write(&held.file, path, open)?,
        };
        let kind = kind(&file)?;
        let handle = self.hold(Held { file, kind, grant, access: open.access })?;
        Ok(Opened { handle, kind })
    }

    fn close(&mut self, handle: Handle) -> Result<()> {
        self.held(handle)?;
        let index = handle.0 as u32 as usize;
        let slot = &mut self.open[index];
        slot.held = None;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(index);
        Ok(())
    }

    fn read_at(&mut self, file: Handle, offset: u64, into: &mut [u8]) -> Result<usize> {
        let held = self.held(file)?;
        match (held.kind, held.access) {
            (FileKind::Directory, _) => return Err(Errno::Isdir.into()),
            (_, FileAccess::Write) => return Err(Errno::Badf.into()),
            (_, FileAccess::Read | FileAccess::ReadWrite) => {}
        }
        Ok(if held.has_positions() {
            linux(|| rustix::io::pread(&held.file, &mut *into, offset))?
        } else {
            linux(|| rustix::io::read(&held.file, &mut *into))?
        })
    }

    fn write_at(&mut self, file: Handle, offset: u64, bytes: &[u8]) -> Result<usize> {
        let held = self.held(file)?;
        let file = held.writable()?;
        Ok(if held.has_positions() {
            linux(|| rustix::io::pwrite(file, bytes, offset))?
        } else {
            linux(|| rustix::io::write(file, bytes))?
        })
    }

    fn append(&mut self, file: Handle, bytes: &[u8]) -> Result<Appended> {
        let held = self.held(file)?;
        let file = held.writable()?;
        if !held.has_positions() {
            let count = linux(|| rustix::io::write(file, bytes))?;
            return Ok(Appended { count, end: 0 });
        }
        let slice = [IoSlice::new(bytes)];
        let count = linux(|| rustix::io::pwritev2(file, &slice, 0, ReadWriteFlags::APPEND))?;
        let end = unbroken(|| file.metadata())?.len();
        Ok(Appended { count, end })
    }

    fn set_size(&mut self, file: Handle, size: u64) -> Result<()> {
        let file = self.held(file)?.writable()?;
        Ok(linux(|| rustix::fs::ftruncate(file, size))?)
    }

    fn allocate(&mut self, file: Handle, offset: u64, length: u64) -> Result<()> {
        let file = self.held(file)?.writable()?;
        Ok(linux(|| rustix::fs::fallocate(file, FallocateFlags::empty(), offset, length))?)
    }

    fn sync(&mut self, handle: Handle, what: Sync) -> Result<()> {
        let file = &self.held(handle)?.file;
        let brought = match what {
            Sync::Data => linux(|| rustix::fs::fdatasync(file)),
            Sync::All => linux(|| rustix::fs::fsync(file)),
        };
        Ok(brought?)
    }

    fn stat(&mut self, handle: Handle) -> Result<Stat> {
        let file = &self.held(handle)?.file;
        let metadata = unbroken(|| file.metadata())?;
        Ok(describe(&cap_primitives::fs::Metadata::from_just_metadata(metadata)))
    }

    fn stat_at(&mut self, directory: Handle, path: Path<'_>, follow: Follow) -> Result<Stat> {
        Ok(stat_below(&self.held(directory)?.file, path, follow)?)
    }

    fn set_times(&mut self, handle: Handle, times: Times) -> Result<()> {
        let held = self.held(handle)?;
        held.changeable()?;
        let times =
            Timestamps { last_access: timespec(times.accessed), last_modification: timespec(times.modified) };
        Ok(linux(|| rustix::fs::futimens(&held.file, &times))?)
    }

    fn set_times_at(
        &mut self,
        directory: Handle,
        path: Path<'_>,
        follow: Follow,
        times: Times,
    ) -> Result<()> {
        let held = self.held(directory)?;
        if let Err(errno) = held.changeable() {
            stat_below(&held.file, path, follow)?;
            return Err(errno.into());
        }
        let set = match follow_how(path, follow) {
            FollowSymlinks::Yes => cap_primitives::fs::set_times,
            FollowSymlinks::No => cap_primitives::fs::set_times_nofollow,
        };
        let path = path.as_str().as_ref();
        Ok(unbroken(|| set(&held.file, path, time_spec(times.accessed), time_spec(times.modified)))?)
    }

    fn read_directory(&mut self, directory: Handle, cookie: u64, visit: Visit<'_>) -> Result<()> {
        let file = &self.held(directory)?.file;
        linux(|| rustix::fs::seek(file, SeekFrom::Start(cookie)))?;
        let mut buffer = [MaybeUninit::uninit(); ENTRIES_BYTES];
        let mut entries = RawDir::new(file, &mut buffer);
        let mut shown = false;
        // After a whole buffer in which something was shown, the caller decides whether to go on.
        while let Some(entry) = (!shown || !entries.is_buffer_empty()).then(|| entries.next()).flatten() {
            let entry = entry.map_err(|error| errno(error.raw_os_error()))?;
            let Ok(name) = entry.file_name().to_str() else { continue };
            if matches!(name, "." | "..") {
                continue;
            }
            let kind = match entry.file_type() {
                FileType::Unknown => kind_of_name(file, name)?,
                known => file_kind(known),
            };
            shown = true;
            let entry = Entry { next: entry.next_entry_cookie(), inode: entry.ino(), kind, name };
            if visit(entry).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn create_directory_at(&mut self, directory: Handle, path: Path<'_>) -> Result<()> {
        let (parent, name) = self.parent_to_change(directory, path)?;
        Ok(linux(|| rustix::fs::mkdirat(&parent, name, Mode::from(0o777)))?)
    }

    fn remove_directory_at(&mut self, directory: Handle, path: Path<'_>) -> Result<()> {
        let (parent, name) = self.parent_to_change(directory, path)?;
        Ok(linux(|| rustix::fs::unlinkat(&parent, name, AtFlags::REMOVEDIR))?)
    }

    fn unlink_at(&mut self, directory: Handle, path: Path<'_>) -> Result<()> {
        let (parent, name) = self.parent_to_change(directory, path)?;
        Ok(linux(|| rustix::fs::unlinkat(&parent, name, AtFlags::empty()))?)
    }

    fn rename_at(
        &mut self,
        directory: Handle,
        from: Path<'_>,
        to_directory: Handle,
        to: Path<'_>,
    ) -> Result<()> {
        let (from_parent, from) = self.parent_to_change(directory, from)?;
        let (to_parent, to) = self.parent_to_change(to_directory, to)?;
        Ok(linux(|| rustix::fs::renameat(&from_parent, from, &to_parent, to))?)
    }

    fn link_at(
        &mut self,
        directory: Handle,
        from: Path<'_>,
        to_directory: Handle,
        to: Path<'_>,
    ) -> Result<()> {
        if from.names_directory() {
            // Linux would follow a symbolic link before the slash, wherever it leads; and a directory cannot
            // be linked.
            stat_below(&self.held(directory)?.file, from, Follow::Yes)?;
            let (to_parent, to) = self.parent_to_change(to_directory, to)?;
            refuse_slash(&to_parent, to)?;
            return Err(match linux(|| rustix::fs::statat(&to_parent, to, AtFlags::SYMLINK_NOFOLLOW)) {
                Ok(_) => Errno::Exist,
                Err(_) => Errno::Perm,
            }
            .into());
        }
        let (from_parent, from) = self.parent_to_change(directory, from)?;
        let (to_parent, to) = self.parent_to_change(to_directory, to)?;
        linux(|| rustix::fs::statat(&from_parent, from, AtFlags::SYMLINK_NOFOLLOW))?;
        refuse_slash(&to_parent, to)?;
        Ok(linux(|| rustix::fs::linkat(&from_parent, from, &to_parent, to, AtFlags::empty()))?)
    }

    fn symlink_at(&mut self, text: &str, directory: Handle, path: Path<'_>) -> Result<()> {
        if text.starts_with('/') {
            return Err(Errno::Perm.into());
        }
        let (parent, name) = self.parent_to_change(directory, path)?;
        refuse_slash(&parent, name)?;
        Ok(linux(|| rustix::fs::symlinkat(text, &parent, name))?)
    }

    fn read_link_at(&mut self, directory: Handle, path: Path<'_>, into: &mut [u8]) -> Result<usize> {
        let held = self.held(directory)?;
        let text = unbroken(|| cap_primitives::fs::read_link_contents(&held.file, path.as_str().as_ref()))?;
        let text = text.as_os_str().as_encoded_bytes();
        let count = text.len().min(into.len());
        into[..count].copy_from_slice(&text[..count]);
        Ok(count)
    }
}

/// The errors of a name with a slash behind it that cannot become a directory's. Linux says `EEXIST` where
/// something else has the name; other engines, and the conformance tests, say `ENOTDIR`.
fn refuse_slash(parent: &Parent<'_>, name: &str) -> Result<(), Errno> {
    let bare = name.trim_end_matches('/');
    if bare.len() == name.len() {
        return Ok(());
    }
    let stat = linux(|| rustix::fs::statat(parent, bare, AtFlags::SYMLINK_NOFOLLOW))?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => Err(Errno::Exist),
        _ => Err(Errno::Notdir),
    }
}

fn stat_below(directory: &File, path: Path<'_>, follow: Follow) -> Result<Stat, Errno> {
    let follow = follow_how(path, follow);
    let metadata = unbroken(|| cap_primitives::fs::stat(directory, path.as_str().as_ref(), follow))?;
    Ok(describe(&metadata))
}

/// A slash behind a symbolic link makes Linux follow it, whatever else is asked for.
fn follow_how(path: Path<'_>, follow: Follow) -> FollowSymlinks {
    match follow {
        Follow::No if !path.names_directory() => FollowSymlinks::No,
        Follow::No | Follow::Yes => FollowSymlinks::Yes,
    }
}

fn describe(metadata: &cap_primitives::fs::Metadata) -> Stat {
    let time =
        |seconds, nanoseconds_part| nanoseconds(Timespec { tv_sec: seconds, tv_nsec: nanoseconds_part });
    Stat {
        device: metadata.dev(),
        inode: metadata.ino(),
        kind: file_kind(FileType::from_raw_mode(metadata.mode())),
        links: metadata.nlink(),
        size: metadata.size(),
        accessed_ns: time(metadata.atime(), metadata.atime_nsec()),
        modified_ns: time(metadata.mtime(), metadata.mtime_nsec()),
        changed_ns: time(metadata.ctime(), metadata.ctime_nsec()),
    }
}

fn kind(file: &File) -> Result<FileKind, Errno> {
    let stat = linux(|| rustix::fs::fstat(file))?;
    Ok(file_kind(FileType::from_raw_mode(stat.st_mode)))
}

/// Of an entry whose file system does not tell; `Unknown` if it is gone.
fn kind_of_name(directory: &File, name: &str) -> Result<FileKind, Errno> {
    match linux(|| rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)) {
        Ok(stat) => Ok(file_kind(FileType::from_raw_mode(stat.st_mode))),
        Err(Errno::Noent) => Ok(FileKind::Unknown),
        Err(errno) => Err(errno),
    }
}

fn file_kind(kind: FileType) -> FileKind {
    match kind {
        FileType::RegularFile => FileKind::Regular,
        FileType::Directory => FileKind::Directory,
        FileType::Symlink => FileKind::Symlink,
        FileType::BlockDevice => FileKind::BlockDevice,
        FileType::CharacterDevice => FileKind::CharacterDevice,
        FileType::Socket => FileKind::SocketStream,
        FileType::Fifo | FileType::Unknown => FileKind::Unknown,
    }
}

fn timespec(time: SetTime) -> Timespec {
    match time {
        SetTime::Keep => Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        SetTime::Now => Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
        // Both halves of 64 bits of nanoseconds fit their fields.
        SetTime::At(ns) => {
            Timespec { tv_sec: (ns / 1_000_000_000) as i64, tv_nsec: (ns % 1_000_000_000) as i64 }
        }
    }
}

fn time_spec(time: SetTime) -> Option<SystemTimeSpec> {
    match time {
        SetTime::Keep => None,
        SetTime::Now => Some(SystemTimeSpec::SymbolicNow),
        SetTime::At(ns) => {
            let time = std::time::SystemTime::UNIX_EPOCH + Duration::from_nanos(ns);
            Some(SystemTimeSpec::Absolute(SystemTime::from_std(time)))
        }
    }
}

/// A system call, begun again when a signal cut it short: ticks come as signals.
fn linux<A>(call: impl FnMut() -> rustix::io::Result<A>) -> Result<A, Errno> {
    retry_on_intr(call).map_err(|error| errno(error.raw_os_error()))
}

/// The same for what answers with the standard library's errors.
fn unbroken<A>(mut call: impl FnMut() -> io::Result<A>) -> Result<A, Errno> {
    loop {
        match call() {
            Ok(answer) => return Ok(answer),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                // Without a number it is `cap-primitives`' own: the path leads out of the directory.
                return Err(error.raw_os_error().map_or(Errno::Perm, errno));
            }
        }
    }
}

/// What a program is told of a Linux error.
pub(crate) fn errno(number: i32) -> Errno {
    match number {
        libc::EACCES => Errno::Acces,
        libc::EAGAIN => Errno::Again,
        libc::EBADF => Errno::Badf,
        libc::EBUSY => Errno::Busy,
        libc::EDQUOT => Errno::Dquot,
        libc::EEXIST => Errno::Exist,
        libc::EFBIG => Errno::Fbig,
        libc::EINTR => Errno::Intr,
        libc::EINVAL => Errno::Inval,
        libc::EISDIR => Errno::Isdir,
        libc::ELOOP => Errno::Loop,
        libc::EMFILE => Errno::Mfile,
        libc::EMLINK => Errno::Mlink,
        libc::ENAMETOOLONG => Errno::Nametoolong,
        libc::ENFILE => Errno::Nfile,
        libc::ENODEV => Errno::Nodev,
        libc::ENOENT => Errno::Noent,
        libc::ENOMEM => Errno::Nomem,
        libc::ENOSPC => Errno::Nospc,
        libc::ENOTDIR => Errno::Notdir,
        libc::ENOTEMPTY => Errno::Notempty,
        libc::EOPNOTSUPP => Errno::Notsup,
        libc::ENOTTY => Errno::Notty,
        libc::ENXIO => Errno::Nxio,
        libc::EOVERFLOW => Errno::Overflow,
        libc::EPERM => Errno::Perm,
        libc::EPIPE => Errno::Pipe,
        libc::EROFS => Errno::Rofs,
        libc::ESPIPE => Errno::Spipe,
        libc::ESTALE => Errno::Stale,
        libc::ETXTBSY => Errno::Txtbsy,
        libc::EXDEV => Errno::Xdev,
        // EIO, and whatever a storage or a device may say that programs have no name for.
        _ => Errno::Io,
    }
}
