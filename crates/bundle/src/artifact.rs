//! Compiled code in a file: a header page, then the engine's own artifact.
//!
//! ```text
//! offset  0  magic "SELKARTF"      8  version             16  payload length     24  payload checksum
//! offset 32  program digest, 32 bytes (SHA-256 of the WebAssembly module)
//! offset 64  compiler, 64 bytes    128 target triple, 64 bytes    192 CPU features, 512 bytes
//! offset 704 checksum of bytes 0 to 703
//! offset 4096  the payload, loaded in place by the engine
//! ```
//! Text fields are UTF-8, padded with zeros. The CPU features are the names that the engine knows them by,
//! separated by commas, in alphabetical order.

use crate::checksum;
use abi::PAGE_SIZE;
use alloc::string::String;
use alloc::vec::Vec;

const MAGIC: u64 = u64::from_le_bytes(*b"SELKARTF");
const VERSION: u64 = 1;
const HEADER_CHECKED_BYTES: usize = 704;
/// Its one exported function traps. The library OS keeps it loaded: to end a program that has no trap of its own, it
/// reports this one's. It is here for the compiler, and for whoever has to know its artifact by its digest.
pub const TRAP_HELPER: &str = r#"(module (func (export "trap") unreachable))"#;
/// Where the payload begins.
pub const PAYLOAD_OFFSET: usize = PAGE_SIZE as usize;

/// What an artifact says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// SHA-256 of the WebAssembly module.
    pub program: [u8; 32],
    /// Which compiler, with its version and settings; at most 64 bytes.
    pub compiler: String,
    /// Which target triple; at most 64 bytes.
    pub triple: String,
    /// CPU features that the code uses, comma-separated, sorted; at most 512 bytes.
    pub features: String,
}

/// Why an artifact was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArtifactError {
    /// Not an artifact, or of another version of this format.
    NotAnArtifact,
    /// Shorter or longer than its header says.
    Length,
    /// The header or the payload is not what was written.
    Damaged,
}

impl core::fmt::Display for ArtifactError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::NotAnArtifact => "not a compiled program of this version of Selkis",
            Self::Length => "the compiled program was cut short",
            Self::Damaged => "the compiled program is damaged",
        })
    }
}

/// The header page for `payload`.
///
/// # Panics
/// If a text of `origin` is longer than its field: they are the compiler's own constants.
pub fn header(origin: &Origin, payload: &[u8]) -> Vec<u8> {
    let mut header = Vec::with_capacity(PAYLOAD_OFFSET);
    for word in [MAGIC, VERSION, payload.len() as u64, checksum(payload)] {
        header.extend_from_slice(&word.to_le_bytes());
    }
    header.extend_from_slice(&origin.program);
    for (text, bytes) in [(&origin.compiler, 64), (&origin.triple, 64), (&origin.features, 512)] {
        assert!(text.len() <= bytes, "{text:?} is longer than {bytes} bytes");
        let end = header.len() + bytes;
        header.extend_from_slice(text.as_bytes());
        header.resize(end, 0);
    }
    header.extend_from_slice(&checksum(&header).to_le_bytes());
    header.resize(PAYLOAD_OFFSET, 0);
    header
}

/// Reads and checks the header alone; the payload's length and contents are not looked at.
pub fn parse_header(artifact: &[u8]) -> Result<Origin, ArtifactError> {
    let header = artifact.get(..PAYLOAD_OFFSET).ok_or(ArtifactError::NotAnArtifact)?;
    if word(header, 0) != MAGIC || word(header, 1) != VERSION {
        return Err(ArtifactError::NotAnArtifact);
    }
    if checksum(&header[..HEADER_CHECKED_BYTES]) != word(header, HEADER_CHECKED_BYTES / 8) {
        return Err(ArtifactError::Damaged);
    }
    Ok(Origin {
        program: header[32..64].try_into().map_err(|_| ArtifactError::Damaged)?,
        compiler: text(&header[64..128])?,
        triple: text(&header[128..192])?,
        features: text(&header[192..HEADER_CHECKED_BYTES])?,
    })
}

/// What a header says about the payload: its length in bytes and its [`checksum`]. For whoever reads it in pieces,
/// after [`parse_header`].
pub fn payload_facts(header: &[u8]) -> Result<(u64, u64), ArtifactError> {
    let header = header.get(..PAYLOAD_OFFSET).ok_or(ArtifactError::NotAnArtifact)?;
    Ok((word(header, 2), word(header, 3)))
}

/// Reads an artifact and checks all of it: its origin and its payload.
pub fn parse(artifact: &[u8]) -> Result<(Origin, &[u8]), ArtifactError> {
    let origin = parse_header(artifact)?;
    let payload = &artifact[PAYLOAD_OFFSET..];
    let (length, sum) = payload_facts(artifact)?;
    if length != payload.len() as u64 {
        return Err(ArtifactError::Length);
    }
    if sum != checksum(payload) {
        return Err(ArtifactError::Damaged);
    }
    Ok((origin, payload))
}

fn word(header: &[u8], index: usize) -> u64 {
    u64::from_le_bytes(header[index * 8..index * 8 + 8].try_into().expect("eight bytes"))
}

fn text(field: &[u8]) -> Result<String, ArtifactError> {
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    let text = core::str::from_utf8(&field[..end]).map_err(|_| ArtifactError::Damaged)?;
    Ok(String::from(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn artifact() -> (Origin, Vec<u8>) {
        let origin = Origin {
            program: [9; 32],
            compiler: String::from("wasmtime 48.0.8"),
            triple: String::from("x86_64-unknown-none"),
            features: String::from("popcnt,sse4.2"),
        };
        let payload = b"code and data";
        let mut artifact = header(&origin, payload);
        artifact.extend_from_slice(payload);
        (origin, artifact)
    }

    #[test]
    fn what_is_written_is_read() {
        let (origin, artifact) = artifact();
        assert_eq!(parse(&artifact), Ok((origin, &b"code and data"[..])));
    }

    #[test]
    fn every_cut_is_refused() {
        let (_, artifact) = artifact();
        for length in 0..artifact.len() {
            assert!(parse(&artifact[..length]).is_err());
        }
    }

    #[test]
    fn every_flipped_bit_that_is_used_is_found() {
        let (_, whole) = artifact();
        let used = (0..HEADER_CHECKED_BYTES + 8).chain(PAYLOAD_OFFSET..whole.len());
        for bit in used.flat_map(|byte| byte * 8..byte * 8 + 8) {
            let mut artifact = whole.clone();
            artifact[bit / 8] ^= 1 << (bit % 8);
            assert!(parse(&artifact).is_err(), "bit {bit}");
        }
    }
}
