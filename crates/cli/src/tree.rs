//! Copies a granted directory into a bundle.
//!
//! The walk holds each directory open and never follows a link, so that whoever changes the tree meanwhile cannot
//! lead it out of what was granted.

use crate::report::say;
use bundle::{Checksum, Node, NodeKind};
use manifest::units::ByteCount;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, openat, readlinkat, statat};
use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// The most that the copied files may hold together. A boot module lies below 3 GiB in a machine's memory, with
/// room for the program's code.
pub const FILES_BYTES_MAX: u64 = 2 << 30;
/// The deepest directory. The library OS reads the tree with a recursive decoder on a stack of bounded size.
pub const DEPTH_MAX: usize = 64;
const PIECE_BYTES: usize = 256 << 10;

/// Why a tree could not be copied.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// Some file or directory in it.
    #[error("cannot read `{path}` to copy it into the machine: {error}")]
    Read {
        /// Which.
        path: String,
        /// Why.
        error: io::Error,
    },
    /// The bundle.
    #[error("cannot write the bundle: {0}\nis the disk full? TMPDIR names another folder for it")]
    Write(io::Error),
    /// More than [`DEPTH_MAX`].
    #[error("`{0}` is more than {DEPTH_MAX} directories deep: grant a directory further down")]
    TooDeep(String),
    /// More than [`FILES_BYTES_MAX`].
    #[error("`{0}` does not fit: the files of a machine may take {max} together\ngrant smaller directories", max = ByteCount(FILES_BYTES_MAX))]
    TooMuch(String),
}

/// Appends the contents of files to one item of a bundle.
pub struct TreeCopier<'a> {
    files: &'a mut dyn Write,
    offset: u64,
    bytes_max: u64,
    piece: Vec<u8>,
}

impl<'a> TreeCopier<'a> {
    /// Writes contents to `files`.
    pub fn new(files: &'a mut dyn Write) -> Self {
        Self { files, offset: 0, bytes_max: FILES_BYTES_MAX, piece: vec![0; PIECE_BYTES] }
    }

    /// What is in `directory`, which is at `path`, in the order of names.
    pub fn copy(&mut self, directory: &File, path: &Path) -> Result<Vec<Node>, TreeError> {
        let own = directory.try_clone().map_err(|error| read_error(path, error))?;
        self.copy_directory(own.into(), path, 0)
    }

    fn copy_directory(
        &mut self,
        directory: OwnedFd,
        path: &Path,
        depth: usize,
    ) -> Result<Vec<Node>, TreeError> {
        if depth > DEPTH_MAX {
            return Err(TreeError::TooDeep(path.display().to_string()));
        }
        let mut nodes = Vec::new();
        for name in sorted_names(&directory).map_err(|error| read_error(path, error))? {
            nodes.extend(self.copy_entry(directory.as_fd(), &name, path, depth)?);
        }
        Ok(nodes)
    }

    fn copy_entry(
        &mut self,
        directory: impl AsFd,
        name: &CStr,
        parent: &Path,
        depth: usize,
    ) -> Result<Option<Node>, TreeError> {
        let path = parent.join(name.to_string_lossy().as_ref());
        let fail = |error: rustix::io::Errno| read_error(&path, error);
        let Ok(text) = name.to_str() else {
            say(&format!("`{}` is not copied into the machine: its name is not UTF-8", path.display()));
            return Ok(None);
        };
        let stat = statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW).map_err(fail)?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {
                let file = openat(&directory, name, flags, Mode::empty()).map_err(fail)?;
                self.copy_file(File::from(file), &path)?
            }
            FileType::Directory => {
                let inner =
                    openat(&directory, name, flags | OFlags::DIRECTORY, Mode::empty()).map_err(fail)?;
                NodeKind::Directory(self.copy_directory(inner, &path, depth + 1)?)
            }
            FileType::Symlink => {
                match readlinkat(&directory, name, Vec::new()).map_err(fail)?.into_string() {
                    Ok(target) => NodeKind::Symlink(target),
                    Err(_) => {
                        say(&format!(
                            "`{}` is not copied into the machine: it is no UTF-8 link",
                            path.display()
                        ));
                        return Ok(None);
                    }
                }
            }
            other => {
                say(&format!(
                    "`{}` is not copied into the machine: it is a {}",
                    path.display(),
                    title(other)
                ));
                return Ok(None);
            }
        };
        Ok(Some(Node { name: text.to_owned(), modified_ns: modified_ns(&stat), kind }))
    }

    /// Copies to the end of the file, wherever that is by then.
    fn copy_file(&mut self, mut file: File, path: &Path) -> Result<NodeKind, TreeError> {
        let offset = self.offset;
        let mut sum = Checksum::default();
        loop {
            let read = match file.read(&mut self.piece) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(read_error(path, error)),
            };
            self.offset += read as u64;
            if self.offset > self.bytes_max {
                return Err(TreeError::TooMuch(path.display().to_string()));
            }
            sum.update(&self.piece[..read]);
            self.files.write_all(&self.piece[..read]).map_err(TreeError::Write)?;
        }
        Ok(NodeKind::File { offset, length: self.offset - offset, checksum: sum.finish() })
    }
}

fn sorted_names(directory: &OwnedFd) -> io::Result<Vec<std::ffi::CString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let name = entry?.file_name().to_owned();
        if !matches!(name.as_bytes(), b"." | b"..") {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

fn read_error(path: &Path, error: impl Into<io::Error>) -> TreeError {
    TreeError::Read { path: path.display().to_string(), error: error.into() }
}

fn title(kind: FileType) -> &'static str {
    match kind {
        FileType::Fifo => "pipe",
        FileType::Socket => "socket",
        FileType::CharacterDevice | FileType::BlockDevice => "device",
        _ => "special file",
    }
}

fn modified_ns(stat: &Stat) -> u64 {
    let seconds = u64::try_from(stat.st_mtime).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(u64::from(stat.st_mtime_nsec as u32))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn copy(path: &Path) -> (Result<Vec<Node>, TreeError>, Vec<u8>) {
        let mut files = Vec::new();
        let nodes = TreeCopier::new(&mut files).copy(&File::open(path).unwrap(), path);
        (nodes, files)
    }

    #[test]
    fn a_tree_is_copied_and_links_are_not_followed() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("d")).unwrap();
        fs::write(root.path().join("d/b"), "two").unwrap();
        fs::write(root.path().join("a"), "one").unwrap();
        symlink("/etc/passwd", root.path().join("l")).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, root.path().join("p"), FileType::Fifo, Mode::RWXU, 0).unwrap();
        let (nodes, files) = copy(root.path());
        let nodes = nodes.unwrap();
        assert_eq!(files, b"onetwo");
        assert_eq!(nodes.iter().map(|node| node.name.as_str()).collect::<Vec<_>>(), ["a", "d", "l"]);
        assert_eq!(
            nodes[0].kind,
            NodeKind::File { offset: 0, length: 3, checksum: bundle::checksum(b"one") }
        );
        assert_eq!(nodes[2].kind, NodeKind::Symlink(String::from("/etc/passwd")));
        let NodeKind::Directory(inner) = &nodes[1].kind else { panic!("{nodes:?}") };
        assert_eq!(
            inner[0].kind,
            NodeKind::File { offset: 3, length: 3, checksum: bundle::checksum(b"two") }
        );
        assert!(inner[0].modified_ns > 1_600_000_000_000_000_000);
    }

    #[test]
    fn too_deep_and_too_much_are_refused() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("d/".repeat(DEPTH_MAX + 1))).unwrap();
        assert!(matches!(copy(root.path()).0, Err(TreeError::TooDeep(_))));
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("f"), [0; 1000]).unwrap();
        let copy_with = |bytes_max| {
            let mut files = io::sink();
            let mut copier = TreeCopier { bytes_max, ..TreeCopier::new(&mut files) };
            copier.copy(&File::open(root.path()).unwrap(), root.path())
        };
        assert!(matches!(copy_with(999), Err(TreeError::TooMuch(_))));
        assert!(copy_with(1000).is_ok());
    }
}
