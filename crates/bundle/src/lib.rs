//! What the `selkis` command hands to a library OS: one boot module with a plan, compiled code and files.
//!
//! ```text
//! page 0   abi::ModuleHeader, then the table: magic, version, number of items; kind, offset and length of each
//! ...      items, each on a page boundary: the plan, artifacts, file contents, the library OS's own executable; or the
//!          description of a system, and the bundles of its programs
//! ```
//! Against damage the plan begins with its checksum, an [artifact] has a header with one, and the plan holds one for each
//! file. The executable has none. The kernel reads the module header and the executable; the rest is between those who
//! write (with [`Layout`]: the command and its tools) and the library OS, which reads (with [`Bundle`]).
#![no_std]

extern crate alloc;

pub mod artifact;
mod layout;
mod plan;
pub mod services;
pub mod system;

pub use abi::VCPUS_MAX;
pub use layout::{Bundle, BundleError, Item, Kind, Layout, Module, PROGRAMS_MAX};
pub use plan::{
    Access, Begin, Children, Console, Copied, Directory, DirectorySource, Node, NodeKind, Plan, ProgramPlan,
    Seed, Startable, Terminal, Terminals,
};
pub use system::{Start, System};

/// The checksum against damage that everything in a bundle carries: XXH3, 64 bits, seed 0.
pub fn checksum(bytes: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(bytes)
}

/// [`checksum`] of bytes that come in pieces.
#[derive(Default)]
pub struct Checksum(xxhash_rust::xxh3::Xxh3Default);

impl Checksum {
    /// Takes the next piece.
    pub fn update(&mut self, piece: &[u8]) {
        self.0.update(piece);
    }

    /// Of all pieces so far.
    pub fn finish(&self) -> u64 {
        self.0.digest()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_make_the_checksum_of_the_whole() {
        let bytes: alloc::vec::Vec<u8> = (0..10_000u32).map(|i| ((i * i) >> 3) as u8).collect();
        for size in [1, 7, 256, 4096, 10_000] {
            let mut sum = Checksum::default();
            bytes.chunks(size).for_each(|piece| sum.update(piece));
            assert_eq!(sum.finish(), checksum(&bytes), "{size}");
        }
    }
}
