/// How many bytes of standard input may be sent. The guest grants, the host spends; both ends keep count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Credit {
    bytes: u64,
}

impl Credit {
    /// Nothing granted yet.
    pub const NONE: Self = Self { bytes: 0 };

    /// Adds what a `StdinCredit` frame said.
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
