//! Why a command of this executable failed: one enum over those of its parts.

use crate::catalogue::CatalogueError;
use crate::client::ClientError;
use crate::compiled::CompileError;
use crate::environment::EnvironmentError;
use crate::exit::status;
use crate::grants::GrantError;
use crate::parts::MissingPart;
use crate::sockets::SocketError;
use crate::tree::TreeError;
use crate::vm::{QemuError, VmError};
use std::io;
use std::path::PathBuf;

/// Each message's first line says what failed, on what; further lines are the way out.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// A running system.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// No such program.
    #[error(transparent)]
    Catalogue(#[from] CatalogueError),
    /// Not compiled.
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// `--env`
    #[error(transparent)]
    Environment(#[from] EnvironmentError),
    /// `--dir`
    #[error(transparent)]
    Grant(#[from] GrantError),
    /// Runtime, kernel or loader.
    #[error(transparent)]
    Part(#[from] MissingPart),
    /// Copying a directory.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// The library OS did not start.
    #[error(transparent)]
    Launch(#[from] hosted::LaunchError),
    /// Rights that could not be given up.
    #[error(transparent)]
    Confine(#[from] hosted::confine::ConfineError),
    /// The manifest of `up` cannot be read.
    #[error(transparent)]
    Manifest(#[from] manifest::ReadError),
    /// What it says cannot be.
    #[error(transparent)]
    Mistakes(#[from] manifest::Mistakes),
    /// The control socket.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// Ctrl-C would not be noticed.
    #[error("cannot catch signals: {0}")]
    Signals(io::Error),
    /// `--cpus`, hosted.
    #[error(
        "--cpus asks for {asked} CPUs, and there are {there} here\nask for at most {there}, or add --vm: a machine can have more"
    )]
    TooManyCpus {
        /// What was asked for.
        asked: u32,
        /// What this process may use.
        there: u32,
    },
    /// The same, and Linux does not say or do it.
    #[error("cannot choose CPUs: {0}")]
    Affinity(io::Error),
    /// Nothing would be.
    #[error("cannot wait for what happens: {0}")]
    Wait(io::Error),
    /// A domain of `up`.
    #[error(transparent)]
    Domain(#[from] hosted::domain::ServeError),
    /// `--vm`
    #[error(transparent)]
    Vm(#[from] VmError),
    /// QEMU is missing.
    #[error(transparent)]
    Qemu(#[from] QemuError),
    /// A file of ours.
    #[error("cannot open `{path}`: {error}", path = .0.display(), error = .1)]
    Open(PathBuf, io::Error),
    /// A file for what comes out.
    #[error("cannot write `{path}`: {error}", path = .0.display(), error = .1)]
    Create(PathBuf, io::Error),
    /// The disk image.
    #[error("cannot make the image: {0}")]
    Image(#[from] diskimage::ImageError),
    /// The image's configuration.
    #[error("cannot make the image: {0}")]
    ImageConfiguration(#[from] diskimage::ConfError),
    /// Compiled programs.
    #[error("cannot look into the cache of compiled programs: {0}")]
    Cache(io::Error),
    /// Standard output.
    #[error("cannot write to standard output: {0}")]
    Output(io::Error),
    /// No source of random numbers.
    #[error("{0}")]
    NoSource(wasi::entropy::NoSource),
    /// No entropy.
    #[error("Linux gives no random numbers: {0}")]
    Entropy(io::Error),
}

impl Failure {
    /// What to exit with.
    pub fn status(&self) -> u8 {
        match self {
            Self::Vm(VmError::Killed | VmError::Unread) => status::INTERRUPTED,
            Self::Client(_) => status::NO_ANSWER,
            _ => status::FAILED,
        }
    }
}
