//! The function through which a hosted library OS reaches what Linux provides: files, streams, clocks.
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
}

impl Services {
    /// Goes up with every change of what is exchanged. Both sides must agree exactly.
    pub const VERSION: u64 = 1;
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
