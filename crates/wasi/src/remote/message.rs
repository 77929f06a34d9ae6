use crate::provider::{ClockKind, Follow, Handle, Open, OutputStream, Stream, StreamSet, Sync, Times};
use serde::{Deserialize, Serialize};

/// What can be asked: one variant for each provider method that crosses. Paths and contents travel beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Request {
    MonotonicNs,
    WallNs,
    CpuNs,
    ResolutionNs(ClockKind),
    FillEntropy,
    ReadStream,
    WriteStream(OutputStream),
    Terminal(Stream),
    Wait { streams: StreamSet, deadline_ns: Option<u64> },
    Checkpoint,
    GiveWay,
    OpenGrant(u32),
    OpenAt { directory: Handle, open: Open },
    Close(Handle),
    ReadAt { file: Handle, offset: u64 },
    WriteAt { file: Handle, offset: u64 },
    Append(Handle),
    SetSize { file: Handle, size: u64 },
    Allocate { file: Handle, offset: u64, length: u64 },
    Sync { handle: Handle, what: Sync },
    Stat(Handle),
    StatAt { directory: Handle, follow: Follow },
    SetTimes { handle: Handle, times: Times },
    SetTimesAt { directory: Handle, follow: Follow, times: Times },
    ReadDirectory { directory: Handle, cookie: u64 },
    CreateDirectoryAt(Handle),
    RemoveDirectoryAt(Handle),
    UnlinkAt(Handle),
    RenameAt { from: Handle, to: Handle },
    LinkAt { from: Handle, to: Handle },
    SymlinkAt(Handle),
    ReadLinkAt(Handle),
}

/// Entries of a directory as they travel: the next cookie and the inode, 8 bytes each, the kind, 1 byte, the
/// length of the name, 2 bytes, all little-endian, and the name.
pub(super) mod entries {
    use crate::provider::{Entry, FileKind};

    const HEADER_BYTES: usize = 19;

    /// Room for a page of entries on the asking side's stack; one entry always fits.
    pub const PAGE_BYTES: usize = 2048;

    /// Puts `entry` in front of `into` and answers its length; `None` if it does not fit.
    pub fn encode(entry: Entry<'_>, into: &mut [u8]) -> Option<usize> {
        let length = HEADER_BYTES + entry.name.len();
        let into = into.get_mut(..length)?;
        into[..8].copy_from_slice(&entry.next.to_le_bytes());
        into[8..16].copy_from_slice(&entry.inode.to_le_bytes());
        into[16] = entry.kind as u8;
        into[17..HEADER_BYTES].copy_from_slice(&u16::try_from(entry.name.len()).ok()?.to_le_bytes());
        into[HEADER_BYTES..].copy_from_slice(entry.name.as_bytes());
        Some(length)
    }

    /// The entry in front of `bytes` and what follows it; `None` if there is none.
    pub fn decode(bytes: &[u8]) -> Option<(Entry<'_>, &[u8])> {
        let (next, rest) = bytes.split_first_chunk::<8>()?;
        let (inode, rest) = rest.split_first_chunk::<8>()?;
        let (kind, rest) = rest.split_first()?;
        let (length, rest) = rest.split_first_chunk::<2>()?;
        let (name, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes(*length)))?;
        let entry = Entry {
            next: u64::from_le_bytes(*next),
            inode: u64::from_le_bytes(*inode),
            kind: FileKind::from_code(*kind)?,
            name: core::str::from_utf8(name).ok()?,
        };
        Some((entry, rest))
    }
}
