//! What is checked before anything is written: that the image destroys nothing, and that its loader can be one.

use std::fs::{self, File, FileType, Metadata};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::ImageError;

/// Where an image that is to be at `path` is written: `path` itself, or what it is a symbolic link to. What is there
/// already must be a regular file and none of `inputs`, for the image takes its place.
///
/// # Errors
/// [`ImageError::NotAFile`], [`ImageError::IsInput`], [`ImageError::Write`].
pub fn check_output(path: &Path, inputs: &[&Path]) -> Result<PathBuf, ImageError> {
    let failed = |error| ImageError::Write { path: path.to_owned(), error };
    let target = match path.canonicalize() {
        Ok(target) => target,
        Err(error) if error.kind() == io::ErrorKind::NotFound => path.to_owned(),
        Err(error) => return Err(failed(error)),
    };
    let Some(there) = existing(&target).map_err(failed)? else { return Ok(target) };
    if !there.is_file() {
        let kind = kind_name(there.file_type());
        return Err(ImageError::NotAFile { path: path.to_owned(), kind });
    }
    let is_same = |input: &&&Path| {
        input.metadata().is_ok_and(|input| (input.dev(), input.ino()) == (there.dev(), there.ino()))
    };
    match inputs.iter().find(is_same) {
        Some(input) => Err(ImageError::IsInput { path: path.to_owned(), input: input.to_path_buf() }),
        None => Ok(target),
    }
}

fn existing(path: &Path) -> io::Result<Option<Metadata>> {
    match fs::symlink_metadata(path) {
        Ok(metadata) => Ok(Some(metadata)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn kind_name(kind: FileType) -> &'static str {
    match kind {
        kind if kind.is_dir() => "a directory",
        kind if kind.is_block_device() || kind.is_char_device() => "a device",
        kind if kind.is_fifo() => "a named pipe",
        kind if kind.is_socket() => "a socket",
        kind if kind.is_symlink() => "a symbolic link to nothing",
        _ => "no regular file",
    }
}

/// Whether firmware can start the file at `path`: an EFI application for x86-64 (UEFI 2.10, section 2.1.1).
///
/// # Errors
/// [`ImageError::NotALoader`], [`ImageError::Source`].
pub fn check_loader(path: &Path) -> Result<(), ImageError> {
    let failed = |error| ImageError::Source { path: path.to_owned(), error };
    // Opening a named pipe would wait for its writer.
    let is_loader = path.metadata().map_err(failed)?.is_file() && is_efi_application(path).map_err(failed)?;
    if is_loader { Ok(()) } else { Err(ImageError::NotALoader(path.to_owned())) }
}

/// The PE format's headers (Microsoft's "PE Format"): the offset of the signature stands at 0x3c; after the signature come
/// the file header, with the machine at its beginning, and at 24 the optional header, with the subsystem at its 68.
fn is_efi_application(path: &Path) -> io::Result<bool> {
    const AMD64: u16 = 0x8664;
    const PE32_PLUS: u16 = 0x20b;
    const EFI_APPLICATION: u16 = 10;
    let mut file = File::open(path)?;
    let Some(start) = read_at::<64>(&mut file, 0)? else { return Ok(false) };
    let offset = u32::from_le_bytes([start[0x3c], start[0x3d], start[0x3e], start[0x3f]]);
    let Some(headers) = read_at::<94>(&mut file, u64::from(offset))? else { return Ok(false) };
    let word = |at: usize| u16::from_le_bytes([headers[at], headers[at + 1]]);
    Ok(start.starts_with(b"MZ")
        && headers.starts_with(b"PE\0\0")
        && (word(4), word(24), word(24 + 68)) == (AMD64, PE32_PLUS, EFI_APPLICATION))
}

/// `None` where the file is shorter.
fn read_at<const LENGTH: usize>(file: &mut File, offset: u64) -> io::Result<Option<[u8; LENGTH]>> {
    let mut bytes = [0; LENGTH];
    file.seek(SeekFrom::Start(offset))?;
    match file.read_exact(&mut bytes) {
        Ok(()) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}
