//! What the programs share. They import nothing: whoever runs them takes the time, and a wrong result is a trap.
#![no_std]

/// Ends the program by a trap unless `condition` holds.
pub fn check(condition: Holds) {
    if condition == Holds::No {
        core::arch::wasm32::unreachable()
    }
}

/// Whether something is as it should be.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Holds {
    /// It is.
    Yes,
    /// It is not.
    No,
}

impl From<bool> for Holds {
    fn from(holds: bool) -> Self {
        if holds { Self::Yes } else { Self::No }
    }
}

/// Numbers that look random and are the same each time (xorshift64, Marsaglia 2003).
pub struct Numbers(u64);

impl Numbers {
    /// From the first.
    pub const fn new() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }
}

impl Default for Numbers {
    fn default() -> Self {
        Self::new()
    }
}

impl Iterator for Numbers {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        Some(self.0)
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    core::arch::wasm32::unreachable()
}
