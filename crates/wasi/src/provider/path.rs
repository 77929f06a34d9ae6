use crate::Errno;

/// The longest path, in bytes: Linux's PATH_MAX without its NUL.
pub const PATH_BYTES_MAX: usize = 4095;
/// The longest component of a path, in bytes: Linux's NAME_MAX.
pub const NAME_BYTES_MAX: usize = 255;
/// The longest text of a symbolic link, in bytes.
pub const LINK_BYTES_MAX: usize = PATH_BYTES_MAX;

/// A path below a directory handle: UTF-8, not empty, not absolute, without NUL, of bounded length.
///
/// It may hold `.` and `..`: where they lead, with symbolic links on the way, only the provider can tell, and
/// it is the provider that keeps every step inside of the grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path<'a>(&'a str);

impl<'a> Path<'a> {
    /// Checks a path that a program gave.
    ///
    /// # Errors
    /// `EILSEQ` if it is not UTF-8, `ENOENT` if it is empty, `EINVAL` if it holds a NUL, `ENAMETOOLONG`, and
    /// `EPERM` if it begins with a slash.
    pub fn new(bytes: &'a [u8]) -> Result<Self, Errno> {
        if bytes.len() > PATH_BYTES_MAX {
            return Err(Errno::Nametoolong);
        }
        let text = core::str::from_utf8(bytes).map_err(|_| Errno::Ilseq)?;
        if text.is_empty() {
            return Err(Errno::Noent);
        }
        if text.contains('\0') {
            return Err(Errno::Inval);
        }
        if text.starts_with('/') {
            return Err(Errno::Perm);
        }
        if text.split('/').any(|name| name.len() > NAME_BYTES_MAX) {
            return Err(Errno::Nametoolong);
        }
        Ok(Self(text))
    }

    /// The whole path.
    pub const fn as_str(self) -> &'a str {
        self.0
    }

    /// Its components, without empty ones and `.`; `..` is among them.
    pub fn components(self) -> impl DoubleEndedIterator<Item = &'a str> {
        self.0.split('/').filter(|name| !name.is_empty() && *name != ".")
    }

    /// Whether it ends so that it can only name a directory: in a slash, `.` or `..`.
    pub fn names_directory(self) -> bool {
        matches!(self.0.rsplit('/').next(), None | Some("" | "." | ".."))
    }
}
