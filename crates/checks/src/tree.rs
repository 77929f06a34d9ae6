//! The files of the checkout that git knows. What else lies there is the user's.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A file of the checkout.
pub struct SourceFile {
    /// Relative to the checkout, with `/`.
    pub path: String,
    /// What it holds.
    pub bytes: Vec<u8>,
}

impl SourceFile {
    /// The text; a file that is not UTF-8 is empty here (the style test names it).
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.bytes).unwrap_or("")
    }

    /// Does the name end in `.` and this?
    pub fn has_extension(&self, extension: &str) -> bool {
        Path::new(&self.path).extension().is_some_and(|found| found == extension)
    }

    /// The crate's folder that it lies in, such as `crates/abi`, or nothing.
    pub fn crate_folder(&self) -> Option<&str> {
        let mut slashes = self.path.match_indices('/').map(|(at, _)| at);
        let (_, end) = (slashes.next()?, slashes.next()?);
        (self.path.starts_with("crates/") || self.path.starts_with("images/")).then(|| &self.path[..end])
    }
}

/// The folder of the checkout.
pub fn root() -> PathBuf {
    let checks = Path::new(env!("CARGO_MANIFEST_DIR"));
    checks.ancestors().nth(2).expect("this crate lies two folders deep").to_path_buf()
}

/// Every file that is kept.
///
/// # Panics
/// When git is missing or a file cannot be read: a check that cannot look has failed.
pub fn files() -> Vec<SourceFile> {
    let output = Command::new("git").args(["ls-files", "-z"]).current_dir(root()).output().expect("git runs");
    assert!(output.status.success(), "git ls-files: {}", String::from_utf8_lossy(&output.stderr));
    let names = String::from_utf8(output.stdout).expect("file names are UTF-8");
    let present = names.split_terminator('\0').filter(|name| root().join(name).is_file());
    let read =
        |name: &str| std::fs::read(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    present.map(|name| SourceFile { path: name.to_owned(), bytes: read(name) }).collect()
}
