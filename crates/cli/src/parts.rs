//! Where the other executables of Selkis lie.

use std::env;
use std::path::{Path, PathBuf};

/// An executable that this command starts, maps or packs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The library OS.
    Runtime,
    /// The kernel.
    Kernel,
    /// The UEFI loader.
    Loader,
}

impl Part {
    fn file_name(self) -> &'static str {
        match self {
            Self::Runtime => "selkis-runtime",
            Self::Kernel => "selkis-kernel",
            Self::Loader => "selkis-boot.efi",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Runtime => "the library OS",
            Self::Kernel => "the kernel",
            Self::Loader => "the UEFI loader",
        }
    }
}

/// A part that is not where it should be.
#[derive(Debug, thiserror::Error)]
#[error(
    "{} is missing: there is no `{}`\nrun ./selkis from a checkout, which builds it, or set SELKIS_LIB to the \
     folder that it is in", part.title(), path.display()
)]
pub struct MissingPart {
    part: Part,
    path: PathBuf,
}

/// The folder with the parts: `$SELKIS_LIB`, or the one that this executable is in.
pub fn folder() -> PathBuf {
    let beside = || env::current_exe().ok().and_then(|own| own.parent().map(Path::to_owned));
    env::var_os("SELKIS_LIB").map(PathBuf::from).or_else(beside).unwrap_or_default()
}

/// Where `part` is.
pub fn find(part: Part) -> Result<PathBuf, MissingPart> {
    let path = folder().join(part.file_name());
    match path.is_file() {
        true => Ok(path),
        false => Err(MissingPart { part, path }),
    }
}
