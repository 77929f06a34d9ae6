//! How the kernel speaks unasked.
//!
//! On a tick, an event or a fault the kernel saves the interrupted context in one of the two areas of the
//! [`UpcallPage`], sets `masked`, and enters the domain at the registered entry with `rsp` at the registered
//! stack, `rdi` = the [`Kind`], `rsi` = the address of the saved [`Context`], the direction flag clear and every other
//! general register zero. Vector registers are left as the interrupted code had them. The handler edits the context as
//! it likes and asks for [`crate::Request::Resume`].
//!
//! While `masked` is set, ticks and events stay pending and come with the next `Resume` (or, if the domain clears
//! `masked` itself, with its next request); a fault ends the domain. An event is told once each time that it is
//! raised; it stays in `pending` until a `Wait` takes it. Of several that are due, the tick comes first, then a revocation, then events.
//! So a handler that is the whole of `entry` can be written as a function that edits a context, and runs
//! the same inside of a Linux signal handler. There the page is not used: the context is on the signal's stack, `masked`
//! and `pending` are neither read nor written, and other upcalls are kept away only while a handler runs.

/// Why the kernel made an upcall.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Kind {
    /// The timer has come to its deadline.
    Tick = 1,
    /// An event that the virtual CPU listens to is pending; [`crate::Request::Wait`] takes it.
    Event = 2,
    /// The domain's code raised an exception that the kernel does not resolve.
    Fault = 3,
    /// A capability of the domain is being revoked: [`crate::Request::NextRevoked`] says which, and until the revoker's deadline it
    /// can be given back in order. Comes to the domain's first virtual CPU, in the area of ticks.
    Revocation = 4,
}

/// The two areas of the upcall page, so that a fault inside of what a tick started loses nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Area {
    /// For [`Kind::Tick`], [`Kind::Event`] and [`Kind::Revocation`].
    Tick = 0,
    /// For [`Kind::Fault`].
    Fault = 1,
}

impl Area {
    pub(crate) const fn from_code(code: u64) -> Option<Self> {
        match code {
            0 => Some(Self::Tick),
            1 => Some(Self::Fault),
            _ => None,
        }
    }
}

/// The general registers of interrupted code. The kernel sanitises what it loads: `rip` and `rsp` must be
/// canonical user addresses, and only the arithmetic, direction and trap bits of `rflags` are taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
#[allow(missing_docs, reason = "registers, named as the CPU's manual names them")]
pub struct Context {
    pub rax: u64,
    pub rbx: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub rbp: u64,
    pub rsp: u64,
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
    pub rip: u64,
    pub rflags: u64,
    /// For a fault: the exception vector (Intel SDM volume 3, table 6-1). Else 0.
    pub vector: u64,
    /// For a fault: the error code that the CPU pushed, or 0.
    pub error: u64,
    /// For a page fault: the address that was touched.
    pub address: u64,
    /// For a page fault: 1 if the access was allowed and the quota or the machine had no frame for it.
    pub out_of_memory: u64,
}

impl Context {
    /// Words in a context.
    pub const WORDS: usize = size_of::<Self>() / 8;

    /// The fields as they lie in memory.
    #[rustfmt::skip]
    pub const fn to_words(&self) -> [u64; Self::WORDS] {
        let &Self {
            rax, rbx, rcx, rdx, rsi, rdi, rbp, rsp, r8, r9, r10, r11, r12, r13, r14, r15, rip, rflags,
            vector, error, address, out_of_memory,
        } = self;
        [
            rax, rbx, rcx, rdx, rsi, rdi, rbp, rsp, r8, r9, r10, r11, r12, r13, r14, r15, rip, rflags,
            vector, error, address, out_of_memory,
        ]
    }

    /// The inverse of [`Context::to_words`].
    #[rustfmt::skip]
    pub const fn from_words(words: [u64; Self::WORDS]) -> Self {
        let [
            rax, rbx, rcx, rdx, rsi, rdi, rbp, rsp, r8, r9, r10, r11, r12, r13, r14, r15, rip, rflags,
            vector, error, address, out_of_memory,
        ] = words;
        Self {
            rax, rbx, rcx, rdx, rsi, rdi, rbp, rsp, r8, r9, r10, r11, r12, r13, r14, r15, rip, rflags,
            vector, error, address, out_of_memory,
        }
    }
}

/// The page that the kernel and a virtual CPU share.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct UpcallPage {
    /// Not 0 while an upcall is being handled. The domain may set it as well, to keep upcalls away.
    pub masked: u64,
    /// Events that are pending, as bits: to look at; [`crate::Request::Wait`] takes them.
    pub pending: u64,
    /// [`Area::Tick`]
    pub tick: Context,
    /// [`Area::Fault`]
    pub fault: Context,
}
