//! What the kernel says.

use clap::ValueEnum;

/// How much of what the kernel says is shown: what matters as much as this, or more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum KernelLog {
    /// What the machine does not go on after.
    Error,
    /// What is not as it should be.
    Warn,
    /// What it finds, and does once.
    Info,
    /// Which domains come and go, too.
    Debug,
}

impl KernelLog {
    /// For the kernel's command line.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Error => "log=error",
            Self::Warn => "log=warn",
            Self::Info => "log=info",
            Self::Debug => "log=debug",
        }
    }
}
