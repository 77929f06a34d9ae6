//! How fast a process may write to its output streams.

/// How long a process waits that has used up what it might write: long enough that it does not write byte by byte then.
const WAIT_NS: u64 = 100_000_000;

const NS_PER_S: u64 = 1_000_000_000;

/// So many bytes in a second, and as many at once after a second without.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    bytes_per_s: u64,
    /// What may be written now.
    bytes: u64,
    /// When that was so.
    at_ns: u64,
    /// When more may be written, since there was nothing left.
    again_ns: u64,
}

impl Rate {
    /// Of a process that begins now.
    pub fn new(bytes_per_s: u64, now_ns: u64) -> Self {
        Self { bytes_per_s, bytes: bytes_per_s, at_ns: now_ns, again_ns: 0 }
    }

    /// How much may be written now.
    pub fn room(&mut self, now_ns: u64) -> u64 {
        if now_ns < self.again_ns {
            return 0;
        }
        let passed_ns = u128::from(now_ns.saturating_sub(self.at_ns));
        let earned = passed_ns * u128::from(self.bytes_per_s) / u128::from(NS_PER_S);
        if earned > 0 {
            let bytes = u128::from(self.bytes).saturating_add(earned).min(u128::from(self.bytes_per_s));
            (self.bytes, self.at_ns) = (bytes as u64, now_ns);
        }
        if self.bytes == 0 {
            // Of a slow rate one byte takes longer.
            let byte_ns = NS_PER_S.div_ceil(self.bytes_per_s.max(1));
            self.again_ns = now_ns.saturating_add(WAIT_NS.max(byte_ns));
        }
        self.bytes
    }

    /// So much was written.
    pub fn spend(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_sub(bytes as u64);
    }

    /// When there is room again, if there is none.
    pub fn again_ns(&self) -> u64 {
        self.again_ns
    }
}
