//! Directories that the user lets a program use.

use bundle::Access;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// One `--dir`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Where it is.
    pub host: PathBuf,
    /// What the program calls it.
    pub guest: String,
    /// What the program may do there.
    pub access: Access,
}

/// What is wrong with a `--dir`.
#[derive(Debug, thiserror::Error)]
pub enum GrantError {
    /// No host directory.
    #[error("there is no directory in it: write HOST[::GUEST][:ro]")]
    NoHost,
    /// As in `host::`.
    #[error("there is no name after the `::`: write HOST[::GUEST][:ro]")]
    NoGuest,
    /// WASI paths are Unicode.
    #[error("the program's name for it must be UTF-8: write HOST::GUEST")]
    GuestNotUnicode,
    /// Two grants under one name.
    #[error(
        "two directories are granted under the name `{0}`\ngive one of them another name: --dir HOST::GUEST"
    )]
    Twice(String),
    /// Not there, not readable.
    #[error("cannot open the directory `{path}`, which --dir grants: {error}")]
    Open {
        /// Which.
        path: String,
        /// Why.
        error: std::io::Error,
    },
    /// A file, say.
    #[error("`{0}`, which --dir grants, is not a directory\ngrant the directory that it is in")]
    NotADirectory(String),
}

impl Grant {
    /// Reads `HOST[::GUEST][:ro]`.
    pub fn parse(text: OsString) -> Result<Self, GrantError> {
        let bytes = text.as_bytes();
        let (bytes, access) = match bytes.strip_suffix(b":ro") {
            Some(rest) => (rest, Access::ReadOnly),
            None => (bytes, Access::ReadWrite),
        };
        let split = bytes.windows(2).rposition(|two| two == b"::");
        let (host, guest) = match split {
            Some(at) => (&bytes[..at], &bytes[at + 2..]),
            None => (bytes, bytes),
        };
        if host.is_empty() {
            return Err(GrantError::NoHost);
        }
        if guest.is_empty() {
            return Err(GrantError::NoGuest);
        }
        let guest = str::from_utf8(guest).map_err(|_| GrantError::GuestNotUnicode)?.to_owned();
        Ok(Self { host: PathBuf::from(OsStr::from_bytes(host)), guest, access })
    }

    /// Opens the directory, to grant it on this machine.
    pub fn grant(&self) -> Result<hosted::files::Grant, GrantError> {
        self.open()?;
        let path = || self.host.display().to_string();
        hosted::files::Grant::open(&self.host, self.access)
            .map_err(|error| GrantError::Open { path: path(), error })
    }

    /// Opens the directory.
    pub fn open(&self) -> Result<File, GrantError> {
        let path = || self.host.display().to_string();
        // So nothing else is opened at all: a named pipe would keep us waiting.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match rustix::fs::open(&self.host, flags, Mode::empty()) {
            Ok(directory) => Ok(directory.into()),
            Err(Errno::NOTDIR) => Err(GrantError::NotADirectory(path())),
            Err(error) => Err(GrantError::Open { path: path(), error: error.into() }),
        }
    }
}

/// Refuses two grants under one name: the program could not tell them apart.
pub fn check_names(grants: &[Grant]) -> Result<(), GrantError> {
    for (index, grant) in grants.iter().enumerate() {
        if grants[..index].iter().any(|other| other.guest == grant.guest) {
            return Err(GrantError::Twice(grant.guest.clone()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(host: &str, guest: &str, access: Access) -> Grant {
        Grant { host: PathBuf::from(host), guest: String::from(guest), access }
    }

    #[test]
    fn grants_are_read() {
        for (text, expected) in [
            ("docs", grant("docs", "docs", Access::ReadWrite)),
            ("docs:ro", grant("docs", "docs", Access::ReadOnly)),
            ("/srv/a::/b", grant("/srv/a", "/b", Access::ReadWrite)),
            ("/srv/a::/b:ro", grant("/srv/a", "/b", Access::ReadOnly)),
            ("a:b", grant("a:b", "a:b", Access::ReadWrite)),
            ("a::b::c", grant("a::b", "c", Access::ReadWrite)),
        ] {
            assert_eq!(Grant::parse(OsString::from(text)).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn what_names_nothing_is_refused() {
        let parse = |bytes: &[u8]| Grant::parse(OsStr::from_bytes(bytes).to_owned());
        assert!(matches!(parse(b""), Err(GrantError::NoHost)));
        assert!(matches!(parse(b":ro"), Err(GrantError::NoHost)));
        assert!(matches!(parse(b"::x"), Err(GrantError::NoHost)));
        assert!(matches!(parse(b"x::"), Err(GrantError::NoGuest)));
        assert!(matches!(parse(b"x\xff"), Err(GrantError::GuestNotUnicode)));
        assert!(parse(b"x\xff::y").is_ok());
    }

    #[test]
    fn a_name_is_granted_once() {
        let grants = ["a::x", "b::x"].map(|text| Grant::parse(OsString::from(text)).unwrap());
        assert!(matches!(check_names(&grants), Err(GrantError::Twice(name)) if name == "x"));
        assert!(check_names(&grants[..1]).is_ok());
    }

    #[test]
    fn only_directories_are_opened() {
        let open = |path: &str| Grant::parse(OsString::from(path)).unwrap().open();
        assert!(open("/").is_ok());
        assert!(matches!(open("/dev/null"), Err(GrantError::NotADirectory(_))));
        assert!(matches!(open("/nonexistent"), Err(GrantError::Open { .. })));
    }
}
