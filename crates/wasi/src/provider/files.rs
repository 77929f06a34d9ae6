use super::Path;
use crate::Result;
use core::ops::ControlFlow;
use serde::{Deserialize, Serialize};

/// Files, below granted directories.
///
/// Each call is one message: handles and plain data in, plain data out, bulk bytes in a borrowed buffer. A
/// path is taken relative to a directory handle, and **the provider confines it**: no component, no `..` and
/// no symbolic link leads out of that directory, whatever others do to the tree meanwhile. A path that would:
/// `EPERM`.
///
/// A grant that can only be read answers every change with `EROFS`.
pub trait Files {
    /// Opens granted directory number `grant`. `ENOENT` if there is none.
    fn open_grant(&mut self, grant: u32) -> Result<Handle>;
    /// Opens, and perhaps makes, what `path` names. The last component, if it is a symbolic link that is not
    /// to be followed: `ELOOP`.
    fn open_at(&mut self, directory: Handle, path: Path<'_>, open: Open) -> Result<Opened>;
    /// Gives a handle back. What was unlinked and is open nowhere else is gone after this.
    fn close(&mut self, handle: Handle) -> Result<()>;

    /// Reads at most `into.len()` bytes from `offset`; 0 only at the end of the file (or if `into` is empty).
    /// Things that have no positions (a terminal in a granted directory) ignore `offset`.
    fn read_at(&mut self, file: Handle, offset: u64, into: &mut [u8]) -> Result<usize>;
    /// Writes some bytes of `bytes` from `offset`; what lies between the old end and `offset` becomes zeros.
    fn write_at(&mut self, file: Handle, offset: u64, bytes: &[u8]) -> Result<usize>;
    /// Writes some bytes at the end of the file, wherever that is by then.
    fn append(&mut self, file: Handle, bytes: &[u8]) -> Result<Appended>;
    /// Cuts the file, or extends it by zeros.
    fn set_size(&mut self, file: Handle, size: u64) -> Result<()>;
    /// Makes sure that `length` bytes from `offset` have room in the storage; the file grows to hold them.
    fn allocate(&mut self, file: Handle, offset: u64, length: u64) -> Result<()>;
    /// Brings what was written to the storage.
    fn sync(&mut self, handle: Handle, what: Sync) -> Result<()>;

    /// Describes what is open.
    fn stat(&mut self, handle: Handle) -> Result<Stat>;
    /// Describes what `path` names.
    fn stat_at(&mut self, directory: Handle, path: Path<'_>, follow: Follow) -> Result<Stat>;
    /// Sets times of what is open.
    fn set_times(&mut self, handle: Handle, times: Times) -> Result<()>;
    /// Sets times of what `path` names.
    fn set_times_at(&mut self, directory: Handle, path: Path<'_>, follow: Follow, times: Times)
    -> Result<()>;

    /// Shows entries of a directory to `visit`, from the one after `cookie` (0: from the first), until it
    /// breaks or there are no more; `.` and `..` are not shown. Entries made or removed meanwhile may be
    /// shown or not; every other one is shown once. A call may stop early after at least one entry: it is the
    /// end only if no entry was shown.
    fn read_directory(&mut self, directory: Handle, cookie: u64, visit: Visit<'_>) -> Result<()>;
    /// Makes an empty directory.
    fn create_directory_at(&mut self, directory: Handle, path: Path<'_>) -> Result<()>;
    /// Removes an empty directory.
    fn remove_directory_at(&mut self, directory: Handle, path: Path<'_>) -> Result<()>;
    /// Removes a name that is no directory's. Whoever has the file open keeps it.
    fn unlink_at(&mut self, directory: Handle, path: Path<'_>) -> Result<()>;
    /// Gives what `from` names the name `to`, in place of what had that name.
    fn rename_at(
        &mut self,
        directory: Handle,
        from: Path<'_>,
        to_directory: Handle,
        to: Path<'_>,
    ) -> Result<()>;
    /// Gives the file that `from` names one more name. A symbolic link is not followed.
    fn link_at(
        &mut self,
        directory: Handle,
        from: Path<'_>,
        to_directory: Handle,
        to: Path<'_>,
    ) -> Result<()>;
    /// Makes a symbolic link that says `text` (of at most [`LINK_BYTES_MAX`](super::LINK_BYTES_MAX) bytes,
    /// not empty, no NUL). Where that leads is checked when it is followed; an absolute one is `EPERM` at
    /// once.
    fn symlink_at(&mut self, text: &str, directory: Handle, path: Path<'_>) -> Result<()>;
    /// Copies the text of a symbolic link, cut to `into.len()`; answers how many bytes that is.
    fn read_link_at(&mut self, directory: Handle, path: Path<'_>, into: &mut [u8]) -> Result<usize>;
}

/// Something open, as its provider names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Handle(pub u64);

/// What [`Files::append`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Appended {
    /// How many bytes were written.
    pub count: usize,
    /// Where the file ends now.
    pub end: u64,
}

/// How to open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Open {
    /// What for.
    pub access: FileAccess,
    /// Whether to make a file.
    pub create: Create,
    /// Whether to empty it.
    pub truncate: Truncate,
    /// What it must be.
    pub expect: Expect,
    /// For the last component.
    pub follow: Follow,
}

/// What a file is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FileAccess {
    /// To read; the only one for directories (else `EISDIR`).
    Read,
    /// To write.
    Write,
    /// Both.
    ReadWrite,
}

/// Whether opening makes a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Create {
    /// It must be there.
    Never,
    /// If it is not there.
    IfMissing,
    /// It must not be there, not even as a symbolic link (`EEXIST`).
    Exclusively,
}

/// Whether opening empties a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Truncate {
    /// It keeps its contents.
    Keep,
    /// It loses them; it is opened to write.
    Empty,
}

/// What must be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Expect {
    /// Anything.
    Any,
    /// A directory, or `ENOTDIR`.
    Directory,
}

/// What to do with a symbolic link as the last component; those before are always followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Follow {
    /// The link itself is meant.
    No,
    /// What it leads to is meant.
    Yes,
}

/// What was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opened {
    /// Its name in further calls.
    pub handle: Handle,
    /// What it is.
    pub kind: FileKind,
}

/// What a file is, with preview 1's numbers (`filetype`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[repr(u8)]
pub enum FileKind {
    /// None of the others.
    Unknown = 0,
    /// A block device.
    BlockDevice = 1,
    /// A character device.
    CharacterDevice = 2,
    /// A directory.
    Directory = 3,
    /// A regular file.
    Regular = 4,
    /// A datagram socket.
    SocketDatagram = 5,
    /// A stream socket.
    SocketStream = 6,
    /// A symbolic link.
    Symlink = 7,
}

impl FileKind {
    /// The kind with this number.
    pub const fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            0 => Self::Unknown,
            1 => Self::BlockDevice,
            2 => Self::CharacterDevice,
            3 => Self::Directory,
            4 => Self::Regular,
            5 => Self::SocketDatagram,
            6 => Self::SocketStream,
            7 => Self::Symlink,
            _ => return None,
        })
    }
}

/// What is known about a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stat {
    /// Which file system it is on.
    pub device: u64,
    /// Which one it is there.
    pub inode: u64,
    /// What it is.
    pub kind: FileKind,
    /// How many names it has.
    pub links: u64,
    /// In bytes; of a symbolic link: the length of its text.
    pub size: u64,
    /// Last read, in nanoseconds since 1970.
    pub accessed_ns: u64,
    /// Last written, in nanoseconds since 1970.
    pub modified_ns: u64,
    /// Last changed in any way, in nanoseconds since 1970.
    pub changed_ns: u64,
}

/// New times for a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Times {
    /// Last read.
    pub accessed: SetTime,
    /// Last written.
    pub modified: SetTime,
}

/// A new time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SetTime {
    /// As it was.
    Keep,
    /// Now.
    Now,
    /// In nanoseconds since 1970.
    At(u64),
}

/// How much to bring to the storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Sync {
    /// The contents, and what is needed to find them.
    Data,
    /// Times and the like as well.
    All,
}

/// One entry of a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// The cookie of what follows: from 1 to `i64::MAX`.
    pub next: u64,
    /// As in [`Stat::inode`]; 0 if it would have to be looked up.
    pub inode: u64,
    /// What it is, the link itself if it is one.
    pub kind: FileKind,
    /// Its name: one component.
    pub name: &'a str,
}

/// Who is shown the entries of a directory.
pub type Visit<'a> = &'a mut dyn FnMut(Entry<'_>) -> ControlFlow<()>;
