//! Where everything lies that is measured: `setup/bench` builds or fetches it and says so in environment variables.

use crate::Failure;
use std::path::PathBuf;

/// Paths.
pub struct Places {
    /// The folder with Selkis' executables.
    pub parts: PathBuf,
    /// What counts instructions in QEMU.
    pub counter: PathBuf,
    /// The program that measures the kernel from ring 3.
    pub probe: PathBuf,
    /// The folder with the peer's executables.
    pub peer: PathBuf,
    /// The folder with the measured programs that are compiled from this repository.
    pub guests: PathBuf,
    /// Debian's cloud kernel.
    pub linux: PathBuf,
    /// CPython.
    pub python: PathBuf,
    /// QuickJS.
    pub quickjs: PathBuf,
}

impl Places {
    /// From the environment.
    ///
    /// # Errors
    /// If a variable is missing.
    pub fn from_environment() -> Result<Self, Failure> {
        let variable = |name: &str| {
            let value = std::env::var_os(name).map(PathBuf::from);
            value.ok_or_else(|| format!("{name} is not set: run ./selkis bench, which sets everything up"))
        };
        Ok(Self {
            parts: variable("SELKIS_LIB")?,
            counter: variable("SELKIS_BENCH_COUNTER")?,
            probe: variable("SELKIS_BENCH_PROBE")?,
            peer: variable("SELKIS_BENCH_PEER")?,
            guests: variable("SELKIS_BENCH_GUESTS")?,
            linux: variable("SELKIS_BENCH_LINUX")?,
            python: variable("SELKIS_BENCH_PYTHON")?,
            quickjs: variable("SELKIS_BENCH_QUICKJS")?,
        })
    }
}
