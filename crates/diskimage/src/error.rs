//! Why there is no image.

use std::path::{Path, PathBuf};
use std::{fmt, io};

/// Why an image could not be written.
#[derive(Debug)]
pub enum ImageError {
    /// A file that was to be put in cannot be read.
    Source {
        /// Its path.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// A file that was to be put in changed while it was read.
    SourceChanged(PathBuf),
    /// The image cannot be written.
    Write {
        /// Its path.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// The disk is full.
    DiskFull {
        /// The image's path.
        path: PathBuf,
        /// Bytes that the whole image takes at most.
        bytes: u64,
    },
    /// What is where the image is to be cannot be replaced by a file.
    NotAFile {
        /// The image's path.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// The image would take the place of what it is made from.
    IsInput {
        /// The image's path.
        path: PathBuf,
        /// The other path.
        input: PathBuf,
    },
    /// No UEFI firmware starts this on x86-64.
    NotALoader(PathBuf),
    /// A path on the EFI system partition that cannot be one.
    BadPath(String),
    /// Two files are to stand at one path.
    Duplicate(String),
    /// FAT holds no file so large.
    FileTooLarge {
        /// Path on the EFI system partition.
        path: String,
        /// Its size.
        bytes: u64,
    },
    /// FAT holds no volume so large.
    TooLarge {
        /// Bytes of all files.
        bytes: u64,
    },
}

impl ImageError {
    /// A failed write of an image of `bytes` bytes.
    pub(crate) fn write(path: &Path, bytes: u64, error: io::Error) -> Self {
        let path = path.to_owned();
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull { path, bytes },
            _ => Self::Write { path, error },
        }
    }
}

impl fmt::Display for ImageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Source { path, error } => write!(f, "cannot read {}: {error}", path.display()),
            Self::SourceChanged(path) => {
                write!(f, "{} changed while it was copied; try again", path.display())
            }
            Self::Write { path, error } => write!(f, "cannot write {}: {error}", path.display()),
            Self::DiskFull { path, bytes } => write!(
                f,
                "no room for {}: the image takes up to {} MiB; free some, or write it elsewhere",
                path.display(),
                bytes.div_ceil(1 << 20)
            ),
            Self::NotAFile { path, kind } => write!(
                f,
                "{} is {kind}, and an image is a file\nmake the file, and copy it to where you want it",
                path.display()
            ),
            Self::IsInput { path, input } => write!(
                f,
                "{} would overwrite {}, which it is made from\nname another file",
                path.display(),
                input.display()
            ),
            Self::NotALoader(path) => {
                write!(f, "{} is no UEFI loader: not an EFI application for x86-64", path.display())
            }
            Self::BadPath(path) => {
                write!(
                    f,
                    "{path:?} is no path on an EFI system partition (it looks like /EFI/BOOT/BOOTX64.EFI)"
                )
            }
            Self::Duplicate(path) => {
                write!(f, "two files are to stand at {path} on the EFI system partition")
            }
            Self::FileTooLarge { path, bytes } => {
                write!(f, "{path} has {bytes} bytes; a file on an EFI system partition has less than 4 GiB")
            }
            Self::TooLarge { bytes } => {
                write!(f, "{bytes} bytes do not fit the largest EFI system partition that can be made")
            }
        }
    }
}

impl std::error::Error for ImageError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Source { error, .. } | Self::Write { error, .. } => Some(error),
            _ => None,
        }
    }
}
