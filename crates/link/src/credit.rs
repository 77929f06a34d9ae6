use crate::{Error, Kind};

/// How many bytes of a stream may be sent. Its reader grants, its writer spends; both ends keep count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Credit {
    bytes: u64,
}

impl Credit {
    /// Nothing granted yet.
    pub const NONE: Self = Self { bytes: 0 };

    /// What an output stream begins with: [`OUTPUT_BYTES_MAX`](crate::OUTPUT_BYTES_MAX).
    pub const OUTPUT: Self = Self { bytes: crate::OUTPUT_BYTES_MAX as u64 };

    /// Adds what a frame said.
    pub fn grant(&mut self, bytes: u32) {
        self.bytes = self.bytes.saturating_add(u64::from(bytes));
    }

    /// Takes up to `wanted` bytes of credit and says how many.
    #[must_use]
    pub fn spend(&mut self, wanted: usize) -> usize {
        let spent = wanted.min(usize::try_from(self.bytes).unwrap_or(usize::MAX));
        self.bytes -= spent as u64;
        spent
    }

    /// Takes the credit for so many bytes that came; an error if there was less.
    pub fn charge(&mut self, bytes: usize) -> Result<(), Error> {
        if self.spend(bytes) < bytes { Err(Error::OverCredit) } else { Ok(()) }
    }

    /// What is left, in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// How far the standard input of one process has come: what its reader holds the host to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Input {
    credit: Credit,
    phase: InputPhase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum InputPhase {
    Open,
    Ended,
}

impl Input {
    /// What it begins with: nothing granted, nothing come.
    pub const NEW: Self = Self { credit: Credit::NONE, phase: InputPhase::Open };

    /// Allows the host so many bytes more. To be called before the `StdinCredit` frame that says so is sent.
    pub fn grant(&mut self, bytes: u32) {
        self.credit.grant(bytes);
    }

    /// Takes note of bytes that came; an error if they were not granted, or come after the end.
    pub fn take(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.still_open(Kind::StdinData)?;
        self.credit.charge(bytes.len())
    }

    /// Takes note of the end; an error if it is the second.
    pub fn end(&mut self) -> Result<(), Error> {
        self.still_open(Kind::StdinEnd)?;
        self.phase = InputPhase::Ended;
        Ok(())
    }

    /// Whether no more comes.
    pub fn has_ended(&self) -> bool {
        self.phase == InputPhase::Ended
    }

    fn still_open(&self, kind: Kind) -> Result<(), Error> {
        if self.has_ended() { Err(Error::OutOfOrder(kind)) } else { Ok(()) }
    }
}
