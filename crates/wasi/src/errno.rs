use serde::{Deserialize, Serialize};

/// Why a call failed, as preview 1 numbers it (`errno` in `wasi_snapshot_preview1.witx`). The ones that this
/// system can answer with; 0, success, is not among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[repr(u16)]
pub enum Errno {
    /// More arguments, or longer ones, than can be passed.
    Toobig = 1,
    /// The host's own permissions forbid it.
    Acces = 2,
    /// Nothing there now, and the descriptor says not to wait.
    Again = 6,
    /// Not an open descriptor, or not open for this.
    Badf = 8,
    /// In use by something else.
    Busy = 10,
    /// Whoever asks is to end.
    Canceled = 11,
    /// No such child, or none at all.
    Child = 12,
    /// The host's quota for a user is used up.
    Dquot = 19,
    /// The name is taken.
    Exist = 20,
    /// A pointer to outside of the program's memory.
    Fault = 21,
    /// The file would be larger than files can be.
    Fbig = 22,
    /// A name that is not UTF-8.
    Ilseq = 25,
    /// Cut short by a signal before it did anything.
    Intr = 27,
    /// An argument that has no meaning.
    Inval = 28,
    /// The storage failed, or its contents are damaged.
    Io = 29,
    /// It is a directory.
    Isdir = 31,
    /// Too many symbolic links, or one where none is to be followed.
    Loop = 32,
    /// The process has as many descriptors open as it may.
    Mfile = 33,
    /// The file has as many names as it can.
    Mlink = 34,
    /// A path or a component that is too long.
    Nametoolong = 37,
    /// The host has as many files open as it may.
    Nfile = 41,
    /// No such device.
    Nodev = 43,
    /// Nothing has that name.
    Noent = 44,
    /// The program cannot be run.
    Noexec = 45,
    /// The host is out of memory.
    Nomem = 48,
    /// The storage is full.
    Nospc = 51,
    /// The function does not exist here.
    Nosys = 52,
    /// It is not a directory.
    Notdir = 54,
    /// The directory has something in it.
    Notempty = 55,
    /// Not a socket.
    Notsock = 57,
    /// The function exists, but not for this.
    Notsup = 58,
    /// Not a terminal.
    Notty = 59,
    /// No such address on the device.
    Nxio = 60,
    /// The result does not fit its field.
    Overflow = 61,
    /// Not permitted: a path that leads out of the granted directory, among others.
    Perm = 63,
    /// Nobody reads the other end.
    Pipe = 64,
    /// The file system, or the grant, can only be read.
    Rofs = 69,
    /// The descriptor has no position.
    Spipe = 70,
    /// No such process.
    Srch = 71,
    /// The file is gone from its server.
    Stale = 72,
    /// The file is being executed.
    Txtbsy = 74,
    /// The two names are on different file systems, or in different grants.
    Xdev = 75,
    /// The descriptor was not given the right to do this.
    Notcapable = 76,
}

impl Errno {
    /// The number that the program sees.
    pub const fn code(self) -> u16 {
        self as u16
    }
}

impl core::fmt::Display for Errno {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{self:?} (errno {})", self.code())
    }
}

/// Why a provider, or a WASI function, did not do what it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Error {
    /// It failed; the program is told why.
    Errno(Errno),
    /// The process is being ended: the program is told nothing more. See [`Stopped`].
    Stopped,
}

impl From<Errno> for Error {
    fn from(errno: Errno) -> Self {
        Self::Errno(errno)
    }
}

impl From<Stopped> for Error {
    fn from(Stopped: Stopped) -> Self {
        Self::Stopped
    }
}

/// What a provider answers.
pub type Result<T, E = Error> = core::result::Result<T, E>;

/// The process is being ended from outside (a kill, a time-out, Ctrl-C). A host function that meets this
/// leaves the program with it as a `wasmtime::Error`; whoever called the program finds it by `downcast_ref`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopped;

impl core::fmt::Display for Stopped {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("the process was ended from outside")
    }
}

impl core::error::Error for Stopped {}

/// The program called `proc_exit` with this status. Leaves the program as a `wasmtime::Error`, like
/// [`Stopped`].
///
/// Any 32-bit status is passed on whole; how much of it the outside sees (Linux: the low 8 bits) is not
/// decided here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit(pub u32);

impl core::fmt::Display for Exit {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "the program exited with status {}", self.0)
    }
}

impl core::error::Error for Exit {}
