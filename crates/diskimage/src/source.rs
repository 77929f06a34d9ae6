//! What goes into an image, checked before anything is written.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::error::ImageError;
use crate::open;

/// Where a file's bytes come from.
#[derive(Clone, Debug)]
pub enum Source {
    /// A file of this machine.
    File(PathBuf),
    /// These bytes.
    Bytes(Vec<u8>),
}

impl Source {
    pub(crate) fn path(&self) -> Option<&Path> {
        match self {
            Self::File(path) => Some(path),
            Self::Bytes(_) => None,
        }
    }
}

/// A file that may go onto a FAT volume.
#[derive(Debug)]
pub(crate) struct Checked<'a> {
    /// Without the leading slash.
    pub path: String,
    /// In bytes.
    pub size: u64,
    source: &'a Source,
}

/// All files of an image and what identifies them together.
#[derive(Debug)]
pub(crate) struct Contents<'a> {
    files: Vec<Checked<'a>>,
    digest: [u8; 32],
}

/// Bytes that are copied at once.
const PIECE_BYTES: usize = 1 << 20;
/// The largest file of a FAT volume (its size is a 32-bit number).
const FILE_BYTES_MAX: u64 = u32::MAX as u64;

impl<'a> Contents<'a> {
    /// Checks paths and sizes, and reads everything once.
    pub fn collect(files: &'a [(&str, Source)]) -> Result<Self, ImageError> {
        let mut names = BTreeSet::new();
        let mut checked = Vec::new();
        let mut digest = Sha256::new();
        for (path, source) in files {
            let name = checked_path(path)?;
            if !names.insert(name.to_ascii_uppercase()) {
                return Err(ImageError::Duplicate((*path).to_owned()));
            }
            let (size, hash) = measure(source)?;
            if size > FILE_BYTES_MAX {
                return Err(ImageError::FileTooLarge { path: (*path).to_owned(), bytes: size });
            }
            // Every part has a length of its own, so that no two lists give one text.
            digest.update((name.len() as u64).to_le_bytes());
            digest.update(name.as_bytes());
            digest.update(hash);
            checked.push(Checked { path: name, size, source });
        }
        Ok(Self { files: checked, digest: digest.finalize().into() })
    }

    /// Contents of which only the size is real: to measure, not to write.
    #[cfg(test)]
    pub fn of_size(size: u64, source: &'a Source) -> Self {
        Self { files: vec![Checked { path: "large".to_owned(), size, source }], digest: [7; 32] }
    }

    /// In the order in which they were given.
    pub fn files(&self) -> &[Checked<'a>] {
        &self.files
    }

    /// A GUID of version 8, made from the contents (RFC 9562, section 5.8).
    pub fn guid(&self, purpose: &str) -> [u8; 16] {
        let digest = Sha256::new().chain_update(self.digest).chain_update(purpose).finalize();
        let mut guid: [u8; 16] = std::array::from_fn(|index| digest[index]);
        guid[6] = guid[6] & 0x0f | 0x80;
        guid[8] = guid[8] & 0x3f | 0x80;
        guid
    }

    /// FAT's serial number.
    pub fn volume_id(&self) -> u32 {
        u32::from_le_bytes([0, 1, 2, 3].map(|index: usize| self.digest[index]))
    }
}

impl Checked<'_> {
    /// Hands all bytes to `write` in pieces.
    pub fn copy_to<E>(
        &self,
        write: &mut impl FnMut(&[u8]) -> Result<(), E>,
        wrap: impl Fn(ImageError) -> E,
    ) -> Result<(), E> {
        let mut copied = 0;
        for_each_piece(self.source, &wrap, &mut |piece| {
            copied += piece.len() as u64;
            if copied > self.size {
                return Err(wrap(self.changed()));
            }
            write(piece)
        })?;
        if copied < self.size { Err(wrap(self.changed())) } else { Ok(()) }
    }

    fn changed(&self) -> ImageError {
        match self.source {
            Source::File(path) => ImageError::SourceChanged(path.clone()),
            Source::Bytes(_) => unreachable!("bytes in memory that are borrowed do not change"),
        }
    }
}

fn measure(source: &Source) -> Result<(u64, [u8; 32]), ImageError> {
    let (mut size, mut digest) = (0, Sha256::new());
    for_each_piece(source, &|error| error, &mut |piece| {
        size += piece.len() as u64;
        digest.update(piece);
        Ok(())
    })?;
    Ok((size, digest.finalize().into()))
}

fn for_each_piece<E>(
    source: &Source,
    wrap: &impl Fn(ImageError) -> E,
    visit: &mut impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let path = match source {
        Source::Bytes(bytes) => return visit(bytes),
        Source::File(path) => path,
    };
    let mut file = open(path).map_err(wrap)?;
    let mut buffer = vec![0; PIECE_BYTES];
    loop {
        let read = file.read(&mut buffer);
        match read.map_err(|error| wrap(ImageError::Source { path: path.clone(), error }))? {
            0 => return Ok(()),
            count => visit(&buffer[..count])?,
        }
    }
}

/// `/EFI/BOOT/BOOTX64.EFI` without its first slash, if FAT and firmware take it.
fn checked_path(path: &str) -> Result<String, ImageError> {
    let is_name = |name: &str| {
        let forbidden = |c: char| c.is_control() || "\"*:<>?\\|".contains(c) || !c.is_ascii();
        !name.is_empty() && name.len() <= 255 && !name.ends_with(['.', ' ']) && !name.contains(forbidden)
    };
    let rest = path.strip_prefix('/').filter(|rest| rest.split('/').all(is_name));
    rest.map(str::to_owned).ok_or_else(|| ImageError::BadPath(path.to_owned()))
}
