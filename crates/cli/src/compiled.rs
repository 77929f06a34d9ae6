//! Programs as code for this machine: from the cache of artifacts, or compiled now.

use crate::arguments::Cpu;
use crate::parts;
use crate::report::{Verbosity, say};
use manifest::units::ByteCount;
use std::env;
use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::path::{Path, PathBuf};
use store::{CompileFailure, Notice, Program, Store};

const COMPILER: &str = "selkis-compile";
/// A larger program is not read into memory. The largest at hand, clang, has 75 MB, and the compiler takes about ten times
/// a program's size of the 8 GiB that it may have.
const PROGRAM_BYTES_MAX: u64 = 512 << 20;

/// A program's artifact and the trap helper's.
#[derive(Debug)]
pub struct Compiled {
    /// The program.
    pub program: File,
    /// What ends programs that have no trap of their own.
    pub trap_helper: File,
}

/// Why there is no artifact.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// The file.
    #[error("cannot read `{path}`: {error}")]
    Read {
        /// Which.
        path: String,
        /// Why.
        error: io::Error,
    },
    /// More than [`PROGRAM_BYTES_MAX`].
    #[error("`{0}` is too large for a program: {max} is the most", max = ByteCount(PROGRAM_BYTES_MAX))]
    TooLarge(String),
    /// It is no program, or no compiler.
    #[error("cannot run `{name}`: {failure}")]
    Compile {
        /// What the user typed.
        name: String,
        /// Why.
        failure: CompileFailure,
    },
}

/// The store of this user.
pub fn store() -> Store {
    Store::new(cache_folder(), parts::folder().join(COMPILER))
}

/// The program at `path`, which the user calls `name`, compiled for `cpu`.
pub fn compile(name: &Path, path: &Path, cpu: Cpu, verbosity: Verbosity) -> Result<Compiled, CompileError> {
    let name = name.display().to_string();
    let bytes = read(path)?;
    let store = store();
    let mut notify = |notice: Notice| {
        if is_wanted(&notice, verbosity) {
            say(&notice.to_string());
        }
    };
    let mut artifact = |program: Program| {
        let artifact = store.artifact(program, cpu.features(), &mut notify);
        artifact.map_err(|failure| CompileError::Compile { name: name.clone(), failure })
    };
    let program = artifact(Program::Module { name: &name, bytes: &bytes })?;
    let trap_helper = artifact(Program::TrapHelper)?;
    Ok(Compiled { program: program.file, trap_helper: trap_helper.file })
}

impl Cpu {
    /// As the compiler calls it.
    fn features(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::X86_64V2 => "x86-64-v2",
        }
    }
}

/// Trouble is always told; that something takes its time only to a person who waits.
fn is_wanted(notice: &Notice, verbosity: Verbosity) -> bool {
    match notice {
        Notice::Damaged { .. } | Notice::Unkept { .. } => true,
        Notice::Compiling { bytes, .. } if *bytes > 1_000_000 => {
            verbosity == Verbosity::Steps || io::stderr().is_terminal()
        }
        Notice::Waiting { .. } => verbosity == Verbosity::Steps || io::stderr().is_terminal(),
        Notice::Compiling { .. } | Notice::Compiled { .. } => verbosity == Verbosity::Steps,
    }
}

fn read(path: &Path) -> Result<Vec<u8>, CompileError> {
    let failed = |error| CompileError::Read { path: path.display().to_string(), error };
    let file = File::open(path).map_err(failed)?;
    let length = file.metadata().map_err(failed)?.len();
    let mut bytes = Vec::new();
    if length <= PROGRAM_BYTES_MAX {
        bytes.reserve_exact(length as usize + 1);
        // A pipe or a device has no length until it ends.
        file.take(PROGRAM_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    }
    match length.max(bytes.len() as u64) {
        0..=PROGRAM_BYTES_MAX => Ok(bytes),
        _ => Err(CompileError::TooLarge(path.display().to_string())),
    }
}

/// Where compiled programs are kept: a folder in the set-up's, which is `$SELKIS_CACHE`, or `selkis` where the user has
/// caches.
pub fn cache_folder() -> PathBuf {
    let variable = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = || variable("HOME").unwrap_or_else(|| PathBuf::from("/root")).join(".cache");
    let selkis = || variable("XDG_CACHE_HOME").unwrap_or_else(home).join("selkis");
    variable("SELKIS_CACHE").unwrap_or_else(selkis).join("artifacts")
}
