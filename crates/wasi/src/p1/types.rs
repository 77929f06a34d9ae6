//! Numbers and layouts of preview 1, from `typenames.witx` and the layouts that its documentation derives.

use crate::Errno;
use crate::provider::{SetTime, Stat, Times};

/// `clockid`
pub(super) mod clock {
    pub const REALTIME: u32 = 0;
    pub const MONOTONIC: u32 = 1;
    pub const PROCESS_CPU: u32 = 2;
    pub const THREAD_CPU: u32 = 3;
}

/// `whence`
pub(super) mod whence {
    pub const SET: u32 = 0;
    pub const CURRENT: u32 = 1;
    pub const END: u32 = 2;
}

/// `fdflags`
pub(super) mod fdflags {
    pub const APPEND: u16 = 1;
    pub const DSYNC: u16 = 2;
    pub const NONBLOCK: u16 = 4;
    pub const RSYNC: u16 = 8;
    pub const SYNC: u16 = 16;
    pub const ALL: u16 = APPEND | DSYNC | NONBLOCK | RSYNC | SYNC;
}

/// `oflags`
pub(super) mod oflags {
    pub const CREATE: u32 = 1;
    pub const DIRECTORY: u32 = 2;
    pub const EXCLUSIVE: u32 = 4;
    pub const TRUNCATE: u32 = 8;
    pub const ALL: u32 = 15;
}

/// `lookupflags`: follow a symbolic link at the end of a path.
pub(super) const LOOKUP_FOLLOW: u32 = 1;

/// `advice`: normal, sequential, random, willneed, dontneed, noreuse.
pub(super) const ADVICE_COUNT: u32 = 6;

/// `fstflags`
mod fstflags {
    pub const ACCESSED: u32 = 1;
    pub const ACCESSED_NOW: u32 = 2;
    pub const MODIFIED: u32 = 4;
    pub const MODIFIED_NOW: u32 = 8;
    pub const ALL: u32 = 15;
}

/// `eventtype`
pub(super) mod event {
    pub const CLOCK: u8 = 0;
    pub const FD_READ: u8 = 1;
    pub const FD_WRITE: u8 = 2;
    /// `eventrwflags`: the other end is closed.
    pub const HANGUP: u16 = 1;
}

/// `subclockflags`: the time-out is a time, not a duration.
pub(super) const CLOCK_ABSOLUTE: u16 = 1;

/// `rights`
pub(super) mod rights {
    pub const FD_DATASYNC: u64 = 1 << 0;
    pub const FD_READ: u64 = 1 << 1;
    pub const FD_SEEK: u64 = 1 << 2;
    pub const FD_FDSTAT_SET_FLAGS: u64 = 1 << 3;
    pub const FD_SYNC: u64 = 1 << 4;
    pub const FD_TELL: u64 = 1 << 5;
    pub const FD_WRITE: u64 = 1 << 6;
    pub const FD_ADVISE: u64 = 1 << 7;
    pub const FD_ALLOCATE: u64 = 1 << 8;
    pub const PATH_CREATE_DIRECTORY: u64 = 1 << 9;
    pub const PATH_CREATE_FILE: u64 = 1 << 10;
    pub const PATH_LINK_SOURCE: u64 = 1 << 11;
    pub const PATH_LINK_TARGET: u64 = 1 << 12;
    pub const PATH_OPEN: u64 = 1 << 13;
    pub const FD_READDIR: u64 = 1 << 14;
    pub const PATH_READLINK: u64 = 1 << 15;
    pub const PATH_RENAME_SOURCE: u64 = 1 << 16;
    pub const PATH_RENAME_TARGET: u64 = 1 << 17;
    pub const PATH_FILESTAT_GET: u64 = 1 << 18;
    pub const PATH_FILESTAT_SET_TIMES: u64 = 1 << 20;
    pub const FD_FILESTAT_GET: u64 = 1 << 21;
    pub const FD_FILESTAT_SET_SIZE: u64 = 1 << 22;
    pub const FD_FILESTAT_SET_TIMES: u64 = 1 << 23;
    pub const PATH_SYMLINK: u64 = 1 << 24;
    pub const PATH_REMOVE_DIRECTORY: u64 = 1 << 25;
    pub const PATH_UNLINK_FILE: u64 = 1 << 26;
    pub const POLL_FD_READWRITE: u64 = 1 << 27;

    /// What can be done with any directory.
    pub const DIRECTORY: u64 = FD_FDSTAT_SET_FLAGS
        | FD_SYNC
        | FD_DATASYNC
        | PATH_CREATE_DIRECTORY
        | PATH_CREATE_FILE
        | PATH_LINK_SOURCE
        | PATH_LINK_TARGET
        | PATH_OPEN
        | FD_READDIR
        | PATH_READLINK
        | PATH_RENAME_SOURCE
        | PATH_RENAME_TARGET
        | PATH_FILESTAT_GET
        | PATH_FILESTAT_SET_TIMES
        | FD_FILESTAT_GET
        | FD_FILESTAT_SET_TIMES
        | PATH_SYMLINK
        | PATH_REMOVE_DIRECTORY
        | PATH_UNLINK_FILE;
    /// What can be done with anything that a file is.
    pub const ANY_FILE: u64 = FD_FDSTAT_SET_FLAGS
        | FD_SYNC
        | FD_DATASYNC
        | FD_FILESTAT_GET
        | FD_FILESTAT_SET_TIMES
        | POLL_FD_READWRITE;
    /// What regular files have besides: positions and a size.
    pub const REGULAR: u64 = FD_SEEK | FD_TELL | FD_ADVISE;
    /// What regular files that can be written have besides.
    pub const REGULAR_WRITABLE: u64 = FD_ALLOCATE | FD_FILESTAT_SET_SIZE;
    /// What may be had below a directory.
    pub const BELOW: u64 = DIRECTORY | ANY_FILE | REGULAR | REGULAR_WRITABLE | FD_READ | FD_WRITE;
}

/// `filestat`, 64 bytes.
pub(super) fn filestat(stat: &Stat) -> [u8; 64] {
    let mut record = [0; 64];
    let mut put = |at: usize, value: u64| record[at..at + 8].copy_from_slice(&value.to_le_bytes());
    put(0, stat.device);
    put(8, stat.inode);
    put(16, stat.kind as u64);
    put(24, stat.links);
    put(32, stat.size);
    put(40, stat.accessed_ns);
    put(48, stat.modified_ns);
    put(56, stat.changed_ns);
    record
}

/// New times from `fstflags`. `EINVAL` for a flag without meaning, or a time that is to be two things.
pub(super) fn times(accessed_ns: u64, modified_ns: u64, flags: u32) -> Result<Times, Errno> {
    if flags & !fstflags::ALL != 0 {
        return Err(Errno::Inval);
    }
    let one = |given: u32, now: u32, ns: u64| match (flags & given != 0, flags & now != 0) {
        (true, true) => Err(Errno::Inval),
        (true, false) => Ok(SetTime::At(ns)),
        (false, true) => Ok(SetTime::Now),
        (false, false) => Ok(SetTime::Keep),
    };
    Ok(Times {
        accessed: one(fstflags::ACCESSED, fstflags::ACCESSED_NOW, accessed_ns)?,
        modified: one(fstflags::MODIFIED, fstflags::MODIFIED_NOW, modified_ns)?,
    })
}
