//! A whole system in one boot module: what its root starts, and what each domain finds.

use crate::{Seed, checksum};
use abi::Protection;
use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// What a library OS declares of regions for itself, with some to spare.
pub const REGIONS: u64 = 1024;
/// The same for a process: a stack whose upper end is a region of its own, and a slot of four.
pub const REGIONS_OF_PROCESS: u64 = 8;
/// The most processes that a domain can have: the kernel has no more regions for it.
pub const PROCESSES_MAX: u32 = ((abi::REGIONS_MAX - REGIONS) / REGIONS_OF_PROCESS) as u32;

/// What a root starts. Offsets are in the boot module that holds this, in bytes; they and lengths are multiples of the page size.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct System {
    /// From its manifest.
    pub name: String,
    /// Entropy, used once only: the root's, which gives each start of a domain its own.
    pub seed: Seed,
    /// The library OS, the same for all.
    pub image: Image,
    /// How much memory the root gives the log of a process at most. What the logs take is the machine's, beside what the domains have.
    pub log_bytes_max: u64,
    /// In the manifest's order.
    pub domains: Vec<Domain>,
}

/// An executable, ready to be mapped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// Its first instruction.
    pub entry: u64,
    /// In the order of their addresses.
    pub regions: Vec<Region>,
}

/// A part of an executable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Region {
    /// Where it is to be.
    pub address: u64,
    /// In bytes.
    pub length: u64,
    /// What it begins with.
    pub contents: Contents,
    /// What may be done with it.
    pub access: ImageAccess,
}

/// What a part of an executable begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Contents {
    /// The pages at this offset.
    Module(u64),
    /// Nothing.
    Zeros,
}

/// What may be done with a part of an executable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ImageAccess {
    /// Look at it.
    Read,
    /// Change it, each domain for itself.
    Write,
    /// Run it.
    Execute,
}

impl From<ImageAccess> for Protection {
    fn from(access: ImageAccess) -> Self {
        match access {
            ImageAccess::Read => Self::Read,
            ImageAccess::Write => Self::ReadWrite,
            ImageAccess::Execute => Self::ReadExecute,
        }
    }
}

/// A domain and its programs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Domain {
    /// Its name.
    pub name: String,
    /// All memory that it may use.
    pub memory_bytes: u64,
    /// How many virtual CPUs it may have, 1 to [`crate::VCPUS_MAX`].
    pub vcpus: u32,
    /// Its weight against the others.
    pub share: u64,
    /// CPU time in each [`abi::DomainParameters::PERIOD_NS`]; 0: no limit.
    pub budget_ns: u64,
    /// Its programs, in the order of its plan.
    pub programs: Vec<Program>,
    /// How many numbers its library OS has for processes that programs start ([`crate::Children::numbers`]).
    pub children: u32,
    /// What it finds as its boot module: a [`crate::Bundle`], put together of these.
    pub parts: Vec<Part>,
    /// Where in that its [`Start`] goes, a page of its own.
    pub start_at: u64,
    /// How long that is.
    pub module_bytes: u64,
}

/// What a root has to know of a program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// Its name.
    pub name: String,
    /// How many processes of it the root starts.
    pub instances: u32,
    /// When one is started again.
    pub restart: Restart,
}

/// Some pages of a domain's boot module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Where they appear in the domain's module.
    pub at: u64,
    /// Where they lie in this one.
    pub offset: u64,
    /// In bytes.
    pub length: u64,
}

/// When a program that has ended by itself is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Restart {
    /// Never.
    Never,
    /// Unless it ended with status 0.
    OnFailure,
    /// However it ended.
    Always,
}

/// What is known only when a domain starts: its starter adds it to the domain's bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    /// The date at 0 on the kernel's clock, in nanoseconds since 1970.
    pub epoch_ns: u64,
    /// Entropy for this run alone.
    pub seed: Seed,
}

impl Start {
    /// Its size in the bundle.
    pub const BYTES: u64 = 48;

    /// As it lies there, after its checksum.
    pub fn to_bytes(&self) -> [u8; Self::BYTES as usize] {
        let mut bytes = [0; Self::BYTES as usize];
        bytes[8..16].copy_from_slice(&self.epoch_ns.to_le_bytes());
        bytes[16..].copy_from_slice(&self.seed.0);
        let sum = checksum(&bytes[8..]);
        bytes[..8].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// The inverse; `None` if it is damaged.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; Self::BYTES as usize] = bytes.try_into().ok()?;
        let (sum, body) = bytes.split_first_chunk::<8>()?;
        let (epoch_ns, seed) = body.split_first_chunk::<8>()?;
        let start = Self { epoch_ns: u64::from_le_bytes(*epoch_ns), seed: Seed(seed.try_into().ok()?) };
        (checksum(body) == u64::from_le_bytes(*sum)).then_some(start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_is_checked() {
        let start = Start { epoch_ns: 77, seed: Seed([9; 32]) };
        let bytes = start.to_bytes();
        assert_eq!(Start::parse(&bytes), Some(start));
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Start::parse(&damaged), None, "{bit}");
        }
        assert_eq!(Start::parse(&bytes[1..]), None);
    }
}
