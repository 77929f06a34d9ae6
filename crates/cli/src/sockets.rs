//! Where running systems listen: one socket for each, in a folder that only its user can enter.

use manifest::Name;
use rustix::fs::{FlockOperation, Mode, OFlags, flock, fstat, stat};
use rustix::process::geteuid;
use std::env;
use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

const SOCKET: &str = "sock";
const LOCK: &str = "lock";

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The folder for sockets.
    #[error(
        "cannot make `{path}`, where running systems listen: {error}\nset XDG_RUNTIME_DIR to a folder of yours",
        path = .0.display(), error = .1
    )]
    Folder(PathBuf, io::Error),
    /// What is in the folder.
    #[error("cannot look into `{path}`, where running systems listen: {error}", path = .0.display(), error = .1)]
    Look(PathBuf, io::Error),
    /// The folder is somebody else's, or open to others.
    #[error(
        "`{path}`, where running systems listen, must be a folder that only you can enter\nremove it, or set XDG_RUNTIME_DIR to a folder of yours",
        path = .0.display()
    )]
    Shared(PathBuf),
    /// Another `selkis up` has the name.
    #[error(
        "a system named `{0}` is running already\nend it (`selkis ps`, `selkis kill`), or give this one another name"
    )]
    Running(Name),
    /// Linux refused.
    #[error("cannot listen at `{path}`: {error}", path = .0.display(), error = .1)]
    Listen(PathBuf, io::Error),
}

/// The folder: `$XDG_RUNTIME_DIR/selkis`, else `/run/selkis` for root and `/tmp/selkis-<uid>` for others.
pub fn folder() -> PathBuf {
    let own = env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_absolute());
    match own {
        Some(own) => own.join("selkis"),
        None if geteuid().is_root() => PathBuf::from("/run/selkis"),
        None => PathBuf::from(format!("/tmp/selkis-{}", geteuid().as_raw())),
    }
}

/// Where the system of this name listens, if it runs.
pub fn path_of(name: &Name) -> PathBuf {
    folder().join(name.as_str()).with_extension(SOCKET)
}

/// The names of all systems that listen now. One that has died may have left its socket.
pub fn running() -> Result<Vec<Name>, SocketError> {
    let folder = folder();
    let entries = match fs::read_dir(&folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(|error| SocketError::Look(folder.clone(), error))?,
    };
    check_owner(&folder)?;
    let names = entries.filter_map(|entry| system_of(&entry.ok()?.path()));
    let mut names: Vec<Name> = names.filter(|name| UnixStream::connect(path_of(name)).is_ok()).collect();
    names.sort();
    Ok(names)
}

/// The system that has its socket there.
fn system_of(path: &Path) -> Option<Name> {
    path.extension().filter(|extension| *extension == SOCKET)?;
    path.file_stem()?.to_str()?.parse().ok()
}

/// A system's name, which nobody else has until this is dropped.
#[derive(Debug)]
pub struct Claim {
    path: PathBuf,
    lock_path: PathBuf,
    _lock: File,
}

impl Claim {
    /// Takes the name.
    pub fn take(name: &Name) -> Result<Self, SocketError> {
        make_folder(&folder())?;
        let path = path_of(name);
        let lock_path = path.with_extension(LOCK);
        let lock = lock(&lock_path).map_err(|error| SocketError::Listen(lock_path.clone(), error))?;
        let lock = lock.ok_or_else(|| SocketError::Running(name.clone()))?;
        Ok(Self { path, lock_path, _lock: lock })
    }

    /// Listens under the name. Accepting does not wait.
    pub fn listen(&self) -> Result<UnixListener, SocketError> {
        let listen = || {
            // Whoever made the one that may be there has died.
            match fs::remove_file(&self.path) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let listener = UnixListener::bind(&self.path)?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        };
        listen().map_err(|error| SocketError::Listen(self.path.clone(), error))
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // In this order: once the lock's name is free, another system may have made its own.
        let _ = fs::remove_file(&self.path);
        let _ = fs::remove_file(&self.lock_path);
    }
}

/// Locks the file, which need not be there; `None` if somebody else has.
fn lock(path: &Path) -> io::Result<Option<File>> {
    loop {
        let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = File::from(rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)?);
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(error) if error == rustix::io::Errno::WOULDBLOCK => return Ok(None),
            result => result?,
        }
        // Between opening and locking its last owner may have removed it.
        let own = fstat(&file)?;
        match stat(path) {
            Ok(there) if (there.st_dev, there.st_ino) == (own.st_dev, own.st_ino) => return Ok(Some(file)),
            Ok(_) | Err(rustix::io::Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn make_folder(folder: &Path) -> Result<(), SocketError> {
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            Err(SocketError::Folder(folder.to_owned(), error))
        }
        _ => check_owner(folder),
    }
}

/// In `/tmp` anybody may have made it.
fn check_owner(folder: &Path) -> Result<(), SocketError> {
    let metadata =
        folder.symlink_metadata().map_err(|error| SocketError::Folder(folder.to_owned(), error))?;
    let is_own = metadata.is_dir() && metadata.uid() == geteuid().as_raw() && metadata.mode() & 0o077 == 0;
    if is_own { Ok(()) } else { Err(SocketError::Shared(folder.to_owned())) }
}
