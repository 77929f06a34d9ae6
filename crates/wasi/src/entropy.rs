//! The random generator: ChaCha20 under a key that is made of every source there is.

use crate::Result;
use crate::provider::Entropy;
use chacha20::ChaCha20Rng;
use chacha20::rand_core::{Rng, SeedableRng};
use sha2::{Digest, Sha256};

/// How many samples of the hardware's generator make a key without any other source: 512 bits of RDRAND, to
/// which Intel's software guide for its random number generator gives a strength of 128 bits, or of RDSEED.
pub const HARDWARE_SAMPLES_MIN: usize = 8;

/// Sets the key apart from any other use of the same seed.
const PURPOSE: &[u8] = b"selkis wasi entropy 1";

/// A seeded generator.
pub struct Generator {
    stream: ChaCha20Rng,
}

/// There is neither a seed nor hardware to make a key from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoSource;

impl core::fmt::Display for NoSource {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(
            "no source of random numbers: neither a seed was handed over nor has the CPU RDRAND or RDSEED",
        )
    }
}

impl core::error::Error for NoSource {}

impl Generator {
    /// A generator keyed by the seed, which nobody else has seen or will use again, and by samples of RDSEED
    /// or RDRAND; either suffices.
    ///
    /// # Errors
    /// If there is no seed and no good set of samples: fewer than [`HARDWARE_SAMPLES_MIN`], or all the same,
    /// as a broken RDRAND is known to answer.
    pub fn new(seed: Option<&[u8; 32]>, hardware: &[u64]) -> core::result::Result<Self, NoSource> {
        let varied = hardware.windows(2).any(|pair| pair[0] != pair[1]);
        if seed.is_none() && (hardware.len() < HARDWARE_SAMPLES_MIN || !varied) {
            return Err(NoSource);
        }
        let mut key = Sha256::new_with_prefix(PURPOSE);
        key.update([u8::from(seed.is_some())]);
        key.update(seed.unwrap_or(&[0; 32]));
        for sample in hardware {
            key.update(sample.to_le_bytes());
        }
        Ok(Self { stream: ChaCha20Rng::from_seed(key.finalize().into()) })
    }

    /// A generator of its own for somebody else: its key is what this one says next, and nobody else hears that.
    #[must_use]
    pub fn split(&mut self) -> Self {
        let mut key = [0; 32];
        self.stream.fill_bytes(&mut key);
        Self { stream: ChaCha20Rng::from_seed(key) }
    }
}

impl Entropy for Generator {
    fn fill(&mut self, into: &mut [u8]) -> Result<()> {
        self.stream.fill_bytes(into);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(seed: Option<&[u8; 32]>, hardware: &[u64]) -> [u8; 40] {
        let mut bytes = [0; 40];
        Generator::new(seed, hardware).unwrap().fill(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn without_a_source_there_is_no_generator() {
        assert!(Generator::new(None, &[]).is_err());
        assert!(Generator::new(None, &[1, 2, 3, 4, 5, 6, 7]).is_err(), "too few samples");
        assert!(Generator::new(None, &[u64::MAX; 100]).is_err(), "a broken RDRAND");
        assert!(Generator::new(None, &[1, 2, 3, 4, 5, 6, 7, 8]).is_ok());
        assert!(Generator::new(Some(&[0; 32]), &[]).is_ok());
    }

    #[test]
    fn every_source_changes_the_output() {
        let seed = [1; 32];
        let samples = [1, 2, 3, 4, 5, 6, 7, 8];
        let outputs = [
            output(Some(&seed), &[]),
            output(Some(&[2; 32]), &[]),
            output(Some(&seed), &samples),
            output(Some(&seed), &samples[..7]),
            output(None, &samples),
            output(Some(&[0; 32]), &samples),
        ];
        for (index, one) in outputs.iter().enumerate() {
            assert!(outputs[..index].iter().all(|other| other != one), "{index}");
        }
        assert_eq!(output(Some(&seed), &samples), outputs[2], "the same sources give the same output");
    }

    #[test]
    fn nobody_shares_what_was_split_off() {
        let mut generator = Generator::new(Some(&[3; 32]), &[]).unwrap();
        let mut others = [generator.split(), generator.split(), generator];
        let bytes = others.each_mut().map(|other| {
            let mut bytes = [0; 40];
            other.fill(&mut bytes).unwrap();
            bytes
        });
        assert!(bytes[0] != bytes[1] && bytes[1] != bytes[2] && bytes[0] != bytes[2]);
        let mut again = Generator::new(Some(&[3; 32]), &[]).unwrap();
        let mut whole = [0; 104];
        again.fill(&mut whole).unwrap();
        assert!(!bytes[..2].iter().any(|bytes| whole.windows(32).any(|window| window == &bytes[..32])));
    }

    #[test]
    fn the_stream_goes_on() {
        let mut generator = Generator::new(Some(&[3; 32]), &[]).unwrap();
        let mut pieces = [[0; 7]; 3];
        for piece in &mut pieces {
            generator.fill(piece).unwrap();
        }
        assert!(pieces[0] != pieces[1] && pieces[1] != pieces[2]);
    }
}
