/// Why the kernel refused a request. The caller can act on each of them; none is the kernel's own fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Error {
    /// The request's number or one of its fields has no meaning.
    Malformed = 1,
    /// The handle names nothing: never given, given back, or of an earlier generation.
    StaleHandle = 2,
    /// The handle names an object of another kind than the request works on.
    WrongKind = 3,
    /// The handle lacks the right that the request needs.
    NoRight = 4,
    /// An address or a length is not page-aligned, is empty, wraps around, or lies outside of the window.
    BadRange = 5,
    /// Nothing is mapped in the range, or what is mapped there does not allow this.
    NotMapped = 6,
    /// Writable and executable at once, or more than the region's source allows.
    Protection = 7,
    /// The domain's quota, or the machine, has no more memory.
    NoMemory = 8,
    /// A table of the domain is full (regions, handles), or a capability was derived too often ([`crate::DERIVED_MAX`]).
    TableFull = 9,
    /// The object is in use already, or the capability is being taken back.
    Busy = 10,
    /// This platform has no such thing.
    Unsupported = 11,
    /// Nobody holds the channel's other end any more.
    Closed = 12,
    /// There is none, or no more, of what was asked for.
    NothingThere = 13,
}

impl Error {
    /// The error with this code, as it comes back in a register.
    pub const fn from_code(code: u64) -> Option<Self> {
        Some(match code {
            1 => Self::Malformed,
            2 => Self::StaleHandle,
            3 => Self::WrongKind,
            4 => Self::NoRight,
            5 => Self::BadRange,
            6 => Self::NotMapped,
            7 => Self::Protection,
            8 => Self::NoMemory,
            9 => Self::TableFull,
            10 => Self::Busy,
            11 => Self::Unsupported,
            12 => Self::Closed,
            13 => Self::NothingThere,
            _ => return None,
        })
    }

    /// The code that [`Error::from_code`] takes. Never 0, which is success.
    pub const fn code(self) -> u64 {
        self as u64
    }
}
