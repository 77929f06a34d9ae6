use crate::Artifact;
use bundle::Checksum;
use bundle::artifact::{self, ArtifactError, Origin, PAYLOAD_OFFSET};
use rustix::fs::OFlags;
use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// What artifacts' names end in.
pub const EXTENSION: &str = "artifact";
/// What the names of files that are being written begin with.
const UNFINISHED_PREFIX: &str = ".unfinished-";
/// After which time nobody writes to such a file any more: its writer has died.
const UNFINISHED_AFTER: Duration = Duration::from_secs(3600);
/// What is read at once: it stays in the second-level cache between being read and being checked.
const PIECE_BYTES: usize = 256 << 10;
/// As many locks as there are first bytes of a name's checksum. A lock's file stays, because a file that is locked by
/// one and removed by another locks nobody out.
const LOCKS_FOLDER: &str = "locks";

/// The directory that artifacts are kept in.
#[derive(Debug)]
pub struct Shelf {
    directory: PathBuf,
    bytes_max: u64,
}

/// Why a kept artifact is not used.
#[derive(Debug)]
pub enum TakeError {
    /// There is none.
    Missing,
    /// There is one, and Linux does not let us read it.
    Unreadable(io::Error),
    /// It is a directory, a pipe, or the like.
    NotAFile,
    /// It is damaged, or cut short, or something else.
    Artifact(ArtifactError),
    /// It is whole, and not what its name says.
    Foreign,
}

impl fmt::Display for TakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("it is not there"),
            Self::Unreadable(error) => error.fmt(f),
            Self::NotAFile => f.write_str("it is no regular file"),
            Self::Artifact(error) => error.fmt(f),
            Self::Foreign => f.write_str("it is another program's, or another compiler's"),
        }
    }
}

/// A kept artifact.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its file.
    pub path: PathBuf,
    /// In bytes, with its header.
    pub length: u64,
    /// When it was last taken, or written.
    pub used: SystemTime,
    /// What it says about itself; the payload has not been looked at.
    pub origin: Origin,
}

/// What was removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// How many files.
    pub files: usize,
    /// Their lengths together.
    pub bytes: u64,
}

impl Shelf {
    pub fn new(directory: PathBuf, bytes_max: u64) -> Self {
        Self { directory, bytes_max }
    }

    pub fn with_limit(self, bytes_max: u64) -> Self {
        Self { bytes_max, ..self }
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Takes the artifact of that name, and remembers that it was used.
    pub fn take(&self, name: &str) -> Result<Artifact, TakeError> {
        let file = open_promptly(OpenOptions::new().read(true), &self.directory.join(name));
        let file = file.map_err(|error| match error.kind() {
            // Without a directory there is nothing in it; writing will say what is wrong with it.
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => TakeError::Missing,
            _ => TakeError::Unreadable(error),
        })?;
        if !file.metadata().map_err(TakeError::Unreadable)?.is_file() {
            return Err(TakeError::NotAFile);
        }
        let artifact = check(file)?;
        // Fails in a read-only cache, where nothing is evicted either.
        let _ = artifact.file.set_modified(SystemTime::now());
        Ok(artifact)
    }

    /// Keeps a copy under that name, whole or not at all, makes room, and opens the copy.
    pub fn keep(&self, name: &str, artifact: &Artifact) -> io::Result<File> {
        self.make_directory(&self.directory)?;
        let mut copy = tempfile::Builder::new().prefix(UNFINISHED_PREFIX).tempfile_in(&self.directory)?;
        let mut from = &artifact.file;
        let length = io::copy(&mut from, copy.as_file_mut());
        from.rewind()?;
        if length? != artifact.length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let path = self.directory.join(name);
        copy.persist(&path)?;
        // What cannot be removed now will be the next time.
        let _ = self.prune(self.bytes_max, Some(&path));
        File::open(path)
    }

    /// Holds the lock for that name until the answer is dropped. `waiting` is called if somebody else has it.
    pub fn lock(&self, name: &str, waiting: impl FnOnce()) -> io::Result<File> {
        let locks = self.directory.join(LOCKS_FOLDER);
        self.make_directory(&locks)?;
        let number = bundle::checksum(name.as_bytes()) as u8;
        let mut options = OpenOptions::new();
        let options = options.write(true).create(true).truncate(true);
        let file = open_promptly(options, &locks.join(format!("{number:02x}")))?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(TryLockError::WouldBlock) => {
                waiting();
                file.lock()?;
                Ok(file)
            }
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// Artifacts, least recently used first.
    pub fn list(&self) -> io::Result<Vec<Entry>> {
        let entries =
            self.files()?.into_iter().filter(|file| file.path.extension() == Some(OsStr::new(EXTENSION)));
        let entries = entries.filter_map(|file| {
            let mut header = Vec::with_capacity(PAYLOAD_OFFSET);
            File::open(&file.path).ok()?.take(PAYLOAD_OFFSET as u64).read_to_end(&mut header).ok()?;
            let origin = artifact::parse_header(&header).ok()?;
            Some(Entry { path: file.path, length: file.length, used: file.used, origin })
        });
        Ok(entries.collect())
    }

    /// Removes the least recently used, but never `spared`, until `bytes_max` or fewer are left.
    pub fn prune(&self, bytes_max: u64, spared: Option<&Path>) -> io::Result<Removed> {
        let files = self.files()?;
        let mut kept: u64 = files.iter().map(|file| file.length).sum();
        let mut removed = Removed::default();
        for file in files {
            let has_extension = file.path.extension() == Some(OsStr::new(EXTENSION));
            let is_dead = !has_extension && file.used.elapsed().is_ok_and(|age| age > UNFINISHED_AFTER);
            let is_too_much = has_extension && kept > bytes_max && spared != Some(&file.path);
            if (is_dead || is_too_much) && remove(&file.path)? {
                kept -= file.length;
                removed.files += 1;
                removed.bytes += file.length;
            }
        }
        Ok(removed)
    }

    /// Our files, least recently used first.
    fn files(&self) -> io::Result<Vec<KeptFile>> {
        let entries = match fs::read_dir(&self.directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut files = Vec::new();
        for entry in entries {
            let path = entry?.path();
            // Another run may have removed it since.
            let Ok(metadata) = path.symlink_metadata() else { continue };
            let name = path.file_name().unwrap_or_default().as_encoded_bytes();
            let is_ours = path.extension() == Some(OsStr::new(EXTENSION))
                || name.starts_with(UNFINISHED_PREFIX.as_bytes());
            if is_ours && metadata.is_file() {
                files.push(KeptFile { used: metadata.modified()?, length: metadata.len(), path });
            }
        }
        files.sort_by(|a, b| (a.used, &a.path).cmp(&(b.used, &b.path)));
        Ok(files)
    }

    /// Only for its owner: what lies there is run.
    fn make_directory(&self, directory: &Path) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(directory)
    }
}

/// Without waiting for anybody to open the other end, if it is a pipe. Files are opened and read as ever.
fn open_promptly(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    options.custom_flags(OFlags::NONBLOCK.bits() as i32).open(path)
}

struct KeptFile {
    path: PathBuf,
    length: u64,
    used: SystemTime,
}

/// Checks a file from its first byte to its last, and leaves it at its first.
pub fn check(mut file: File) -> Result<Artifact, TakeError> {
    file.rewind().map_err(TakeError::Unreadable)?;
    let mut piece = vec![0; PIECE_BYTES];
    let read = read_fully(&file, &mut piece[..PAYLOAD_OFFSET])?;
    let origin = artifact::parse_header(&piece[..read]).map_err(TakeError::Artifact)?;
    let (payload_bytes, payload_checksum) =
        artifact::payload_facts(&piece[..read]).map_err(TakeError::Artifact)?;
    let (mut checksum, mut payload_read) = (Checksum::default(), 0);
    loop {
        let read = read_fully(&file, &mut piece)?;
        checksum.update(&piece[..read]);
        payload_read += read as u64;
        // A file that grows while it is read is not read for ever.
        if read < piece.len() || payload_read > payload_bytes {
            break;
        }
    }
    if payload_read != payload_bytes {
        return Err(TakeError::Artifact(ArtifactError::Length));
    }
    if checksum.finish() != payload_checksum {
        return Err(TakeError::Artifact(ArtifactError::Damaged));
    }
    file.rewind().map_err(TakeError::Unreadable)?;
    Ok(Artifact { file, length: PAYLOAD_OFFSET as u64 + payload_bytes, origin })
}

/// Fills `piece`, or as much of it as there is left to read.
fn read_fully(mut file: &File, piece: &mut [u8]) -> Result<usize, TakeError> {
    let mut filled = 0;
    while filled < piece.len() {
        match file.read(&mut piece[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(TakeError::Unreadable(error)),
        }
    }
    Ok(filled)
}

/// Whether it was there to be removed: another run may do the same at the same time.
fn remove(path: &Path) -> io::Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};

    fn artifact() -> Vec<u8> {
        let payload: Vec<u8> = (0..10_000u32).map(|index| (index * 31 / 8) as u8).collect();
        let text = |text| String::from(text);
        let origin = Origin {
            program: [9; 32],
            compiler: text("compiler 1"),
            triple: text("x86_64-unknown-none"),
            features: text("avx,sse3"),
        };
        [artifact::header(&origin, &payload), payload].concat()
    }

    /// Half of them cut, half with a flipped bit, from one seed.
    #[test]
    fn a_thousand_damaged_artifacts_never_get_through() {
        /// Between the header's own checksum and the payload lies what nobody reads.
        const PADDING: std::ops::Range<usize> = 712..PAYLOAD_OFFSET;
        let folder = tempfile::tempdir().unwrap();
        let shelf = Shelf::new(folder.path().to_owned(), u64::MAX);
        let whole = artifact();
        let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1000) };
        let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]));
        let run = runner.run(&(any::<bool>(), 0..whole.len() * 8), |(is_cut, bit)| {
            let mut bytes = whole.clone();
            match is_cut {
                true => bytes.truncate(bit / 8),
                false => bytes[bit / 8] ^= 1 << (bit % 8),
            }
            fs::write(folder.path().join("damaged"), &bytes).unwrap();
            let is_harmless = !is_cut && PADDING.contains(&(bit / 8));
            prop_assert_eq!(shelf.take("damaged").is_ok(), is_harmless);
            Ok(())
        });
        run.unwrap();
    }

    /// Read in pieces, it is the same artifact as in one.
    #[test]
    fn lengths_around_a_piece_are_read_to_the_end() {
        for length in [0, 1, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 2 * PIECE_BYTES] {
            let payload = vec![3; length];
            let origin = artifact::parse_header(&artifact()).unwrap();
            let bytes = [artifact::header(&origin, &payload), payload].concat();
            let mut file = tempfile::tempfile().unwrap();
            io::Write::write_all(&mut file, &bytes).unwrap();
            let checked = check(file).unwrap();
            assert_eq!((checked.length, checked.origin), (bytes.len() as u64, origin));
        }
    }
}
