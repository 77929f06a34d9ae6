use core::fmt;

/// A process of a domain: the number that its root gave it, free again after its `Exit`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Process(pub u32);

impl Process {
    /// Whose a frame is that is nobody's.
    pub const NONE: Self = Self(u32::MAX);

    /// The only one where a domain runs one program and is over when that is.
    pub const FIRST: Self = Self(0);
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NONE => f.write_str("no process"),
            Self(number) => write!(f, "process {number}"),
        }
    }
}

/// What a living process uses, as its library OS counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Memory of its own, in bytes.
    pub memory_bytes: u64,
    /// Memory of the library OS that serves it, in bytes.
    pub host_bytes: u64,
    /// How long it has run, in nanoseconds.
    pub cpu_ns: u64,
    /// How often it was given a CPU.
    pub switches: u64,
    /// How often that was another than the last time.
    pub migrations: u64,
    /// What it does now.
    pub state: State,
}

/// What a living process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// It runs, or would if the CPU were free.
    Runnable = 0,
    /// It waits for a stream or for a time.
    Waiting = 1,
    /// It is to end, and has not yet.
    Stopping = 2,
}

impl Usage {
    pub(crate) const BYTES: usize = 41;

    pub(crate) fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        let words = [self.memory_bytes, self.host_bytes, self.cpu_ns, self.switches, self.migrations];
        for (to, word) in bytes.chunks_exact_mut(8).zip(words) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        bytes[Self::BYTES - 1] = self.state as u8;
        bytes
    }
}
