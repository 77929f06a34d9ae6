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

    /// What is left, in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}
