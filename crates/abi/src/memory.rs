use crate::Handle;

/// The size of a page, and what every address and length that goes to the kernel is a multiple of.
pub const PAGE_SIZE: u64 = 4096;

/// A range of addresses. In requests: the domain's own addresses, in whole pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Span {
    /// The first byte's address.
    pub base: u64,
    /// In bytes.
    pub length: u64,
}

impl Span {
    /// `length` bytes from `base`.
    pub const fn new(base: u64, length: u64) -> Self {
        Self { base, length }
    }

    /// One past the last byte; `None` if that address does not exist.
    pub const fn end(self) -> Option<u64> {
        self.base.checked_add(self.length)
    }

    /// Whether the span is whole pages, not empty, and does not wrap.
    pub const fn is_pages(self) -> bool {
        self.base.is_multiple_of(PAGE_SIZE)
            && self.length.is_multiple_of(PAGE_SIZE)
            && self.length != 0
            && self.end().is_some()
    }

    /// Whether all of `inner` lies in this span.
    pub const fn contains(self, inner: Self) -> bool {
        match (self.end(), inner.end()) {
            (Some(end), Some(inner_end)) => self.base <= inner.base && inner_end <= end,
            _ => false,
        }
    }
}

/// What a domain may do with a page. There is no value for writable and executable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Protection {
    /// No access: address space that is taken, a guard.
    None = 0,
    /// To read.
    Read = 1,
    /// To read and write.
    ReadWrite = 2,
    /// To read and execute.
    ReadExecute = 3,
}

impl Protection {
    pub(crate) const fn from_code(code: u64) -> Option<Self> {
        Some(match code {
            0 => Self::None,
            1 => Self::Read,
            2 => Self::ReadWrite,
            3 => Self::ReadExecute,
            _ => return None,
        })
    }
}

/// Where the first contents of a region's pages come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing {
    /// Pages of zeros.
    Zero,
    /// The pages that lie at `source` in the same domain, copied when first written. What lies there must be memory
    /// ([`Backing::Memory`], or the boot module), mapped without the right to write.
    Image {
        /// Address of the byte that appears at the region's first byte; a multiple of the page size.
        source: u64,
    },
    /// A device's memory, uncached.
    Device {
        /// The device.
        device: Handle,
        /// Which of its memory windows ([`crate::boot::DeviceRecord::windows`]).
        window: u32,
    },
    /// Zeroed memory that is physically contiguous and stays where it is, for devices to read and write. The
    /// request answers with its physical address.
    Dma {
        /// The device that will use it.
        device: Handle,
    },
    /// Memory that has a capability: made by [`crate::Request::CreateMemory`], a channel's, or the boot module.
    Memory {
        /// The memory, or one end of a channel. Needs MAP.
        memory: Handle,
        /// Of the byte in it that appears at the region's first byte; a multiple of the page size.
        offset: u64,
        /// Who sees what is written.
        sharing: Sharing,
    },
}

/// What writing to a region of [`Backing::Memory`] does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// Everyone who maps it sees it. To map it writable needs WRITE.
    Shared,
    /// A page is copied when it is first written: nobody else sees it.
    Private,
}

/// When a region's frames are taken from the quota.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Commit {
    /// Each at its first touch.
    OnTouch = 0,
    /// All at once, so that a touch cannot fail: for what the library OS itself runs on. The frames are set aside, with the
    /// tables that map them; each is filled at its first touch.
    Now = 1,
}

/// What [`crate::Request::ReadMarks`] says of a page: bits of a byte.
pub mod mark {
    /// The domain has the page for itself: its zeros were touched, or its copy was made.
    pub const PRIVATE: u8 = 1;
    /// It was read, written to or run since its marks were cleared.
    pub const ACCESSED: u8 = 2;
    /// It was written to since its marks were cleared.
    pub const DIRTY: u8 = 4;
}

/// What becomes of marks that were read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Marks {
    /// They stay.
    Keep = 0,
    /// [`mark::ACCESSED`] and [`mark::DIRTY`] are taken away, on all CPUs when the request returns.
    Clear = 1,
}

impl Marks {
    pub(crate) const fn from_code(code: u64) -> Option<Self> {
        match code {
            0 => Some(Self::Keep),
            1 => Some(Self::Clear),
            _ => None,
        }
    }
}
