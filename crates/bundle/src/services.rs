//! The functions through which a hosted library OS reaches what Linux provides: files, streams, clocks, and the wire to
//! its root if it has one.
//!
//! The library OS and its launcher are two executables in one address space, so what passes between them has C
//! layout. [`abi::boot::BootInfo::services`] is the address of a [`Services`].

/// The table that the launcher fills in.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Services {
    /// [`Services::VERSION`].
    pub version: u64,
    /// Carries one exchange; answers how many bytes of the reply were filled.
    pub call: extern "C" fn(exchange: &RawExchange) -> usize,
    /// See [`Services::read_wire`]; negative if the wire is gone.
    pub wire_read: extern "C" fn(into: RawBuffer) -> i64,
    /// See [`Services::write_wire`]; negative if the wire is gone.
    pub wire_write: extern "C" fn(parts: &[RawBytes; 2]) -> i64,
    /// See [`Services::wait_for_wire`].
    pub wire_wait: extern "C" fn(wanted: Readiness, deadline_ns: u64) -> Readiness,
    /// See [`Services::tell_crash`].
    pub crash: extern "C" fn(report: RawBytes),
}

impl Services {
    /// Goes up with every change of what is exchanged. Both sides must agree exactly.
    pub const VERSION: u64 = 3;

    /// Takes bytes off the wire to the root: how many, perhaps none now.
    pub fn read_wire(&self, into: &mut [u8]) -> Result<usize, WireGone> {
        usize::try_from((self.wire_read)(into.into())).map_err(|_| WireGone)
    }

    /// Puts the parts on the wire, one after the other: how many bytes of them, perhaps none now.
    pub fn write_wire(&self, parts: [&[u8]; 2]) -> Result<usize, WireGone> {
        usize::try_from((self.wire_write)(&parts.map(RawBytes::from))).map_err(|_| WireGone)
    }

    /// Tells how the process that ran alone has failed: the payload of a `Crash` frame of the `link` crate.
    pub fn tell_crash(&self, report: &[u8]) {
        (self.crash)(report.into());
    }

    /// Sleeps until the wire is ready for something of what is `wanted`, and answers for what: nothing if an event or the deadline, on
    /// the kernel's clock, came first, or for no reason at all. A wire that is gone is ready.
    pub fn wait_for_wire(&self, wanted: Readiness, deadline_ns: u64) -> Readiness {
        (self.wire_wait)(wanted, deadline_ns)
    }
}

/// Nobody is at the other end of the wire any more, or there is no wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WireGone;

/// What a wire is ready for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Readiness(u64);

impl Readiness {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// To be read: something has come, or nothing ever will.
    pub const READ: Self = Self(1);
    /// To be written: there is room, or nobody reads.
    pub const WRITE: Self = Self(2);

    /// Both.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of `other` is among it.
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// Bytes to read: address and length.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct RawBytes {
    /// Where they are.
    pub address: *const u8,
    /// How many.
    pub length: usize,
}

impl From<&[u8]> for RawBytes {
    fn from(bytes: &[u8]) -> Self {
        Self { address: bytes.as_ptr(), length: bytes.len() }
    }
}

/// Room for bytes: address and length.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct RawBuffer {
    /// Where it is.
    pub address: *mut u8,
    /// How many bytes fit.
    pub length: usize,
}

impl From<&mut [u8]> for RawBuffer {
    fn from(bytes: &mut [u8]) -> Self {
        Self { address: bytes.as_mut_ptr(), length: bytes.len() }
    }
}

/// One exchange of the WASI providers (`wasi::remote::Exchange`), as it crosses.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct RawExchange {
    /// What is asked.
    pub request: RawBytes,
    /// What goes along.
    pub outgoing: [RawBytes; 2],
    /// Where the answer goes.
    pub reply: RawBuffer,
    /// Where bytes that come back go.
    pub incoming: RawBuffer,
}
