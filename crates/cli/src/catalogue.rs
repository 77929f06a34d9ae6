//! Programs that can be run by name: the set-up's table, through `$SELKIS_FETCH`.

use crate::report::say;
use serde::Serialize;
use std::env;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

/// A program that can be fetched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// What `selkis run` takes.
    pub name: String,
    /// One line about it.
    pub about: String,
}

/// Why there is no such program, or no list of them.
#[derive(Debug, thiserror::Error)]
pub enum CatalogueError {
    /// Neither a file nor a name.
    #[error("there is no file `{path}`{known}")]
    NoSuchFile {
        /// What the user typed.
        path: String,
        /// A way out, or nothing.
        known: String,
    },
    /// Not a file.
    #[error("`{0}` is not a file: name a WebAssembly file")]
    NotAFile(String),
    /// There, and out of reach.
    #[error("cannot open `{path}`: {error}")]
    Open {
        /// Which.
        path: String,
        /// Why.
        error: io::Error,
    },
    /// Outside of a checkout.
    #[error(
        "this `selkis` knows no programs by name\nrun ./selkis from a checkout, or set SELKIS_FETCH to its setup/fetch"
    )]
    NoCatalogue,
    /// `$SELKIS_FETCH` did not start.
    #[error("cannot run `{path}`, which SELKIS_FETCH names: {error}")]
    NotStarted {
        /// What was started.
        path: String,
        /// Why not.
        error: io::Error,
    },
    /// It has said why on standard error.
    #[error("could not get `{name}` ({status})")]
    NotFetched {
        /// Which program.
        name: String,
        /// How the script ended.
        status: ExitStatus,
    },
}

/// The file to run: what `program` names, or what the catalogue has under that name.
pub fn locate(program: &Path) -> Result<PathBuf, CatalogueError> {
    let path = || program.display().to_string();
    match program.metadata() {
        Ok(metadata) if metadata.is_dir() => Err(CatalogueError::NotAFile(path())),
        Ok(_) => Ok(program.to_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let place = fetch(program)?;
            say(&format!("there is no file {} here; running {}", program.display(), place.display()));
            Ok(place)
        }
        Err(error) => Err(CatalogueError::Open { path: path(), error }),
    }
}

/// All programs that can be fetched.
pub fn list() -> Result<Vec<Entry>, CatalogueError> {
    let script = script().ok_or(CatalogueError::NoCatalogue)?;
    let output = run(&script, "--list")?;
    Ok(String::from_utf8_lossy(&output).lines().filter_map(parse_entry).collect())
}

/// What the catalogue has under the name `program`.
pub fn fetch(program: &Path) -> Result<PathBuf, CatalogueError> {
    let path = program.display().to_string();
    let none = |known: &str| CatalogueError::NoSuchFile { path: path.clone(), known: known.to_owned() };
    let is_bare_name = program.components().count() == 1;
    let script = script().filter(|_| is_bare_name).ok_or_else(|| none(""))?;
    if !list()?.iter().any(|entry| entry.name == path) {
        return Err(none(", nor a program of that name\n`selkis programs` lists the names"));
    }
    let output = run(&script, &path)?;
    let line = output.strip_suffix(b"\n").unwrap_or(&output);
    Ok(PathBuf::from(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(line)))
}

fn script() -> Option<OsString> {
    env::var_os("SELKIS_FETCH").filter(|script| !script.is_empty())
}

fn run(script: &OsString, argument: &str) -> Result<Vec<u8>, CatalogueError> {
    let output =
        Command::new(script).arg(argument).stdin(Stdio::null()).stderr(Stdio::inherit()).output().map_err(
            |error| CatalogueError::NotStarted { path: script.to_string_lossy().into_owned(), error },
        )?;
    match output.status.success() {
        true => Ok(output.stdout),
        false => Err(CatalogueError::NotFetched { name: argument.to_owned(), status: output.status }),
    }
}

/// A line of the list: the name, blanks, the rest. The table also has tools and libraries; programs end in `.wasm`.
fn parse_entry(line: &str) -> Option<Entry> {
    let (name, about) = line.split_once(' ')?;
    name.ends_with(".wasm").then(|| Entry { name: name.to_owned(), about: about.trim().to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_told_from_tools() {
        let entry = parse_entry("rg.wasm          ripgrep, compiled here").unwrap();
        assert_eq!((entry.name.as_str(), entry.about.as_str()), ("rg.wasm", "ripgrep, compiled here"));
        assert_eq!(parse_entry("go               the Go toolchain"), None);
        assert_eq!(parse_entry(""), None);
    }
}
