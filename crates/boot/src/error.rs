//! Why a kernel could not be started, in words for the person in front of the machine.

use alloc::string::String;
use core::fmt;

use crate::config::ConfigError;
use crate::elf::ElfError;
use crate::requests::RequestError;

/// What kept the loader from handing over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BootError {
    /// The volume that the loader came from cannot be read.
    Volume(Firmware),
    /// There is no configuration at any of the known paths.
    ConfigMissing,
    /// The configuration is not usable.
    Config {
        /// Its path.
        path: &'static str,
        /// What is wrong.
        error: ConfigError,
    },
    /// A file is not there.
    FileMissing {
        /// What it is.
        role: Role,
        /// Its path.
        path: String,
    },
    /// A file cannot be read.
    FileUnreadable {
        /// What it is.
        role: Role,
        /// Its path.
        path: String,
        /// What the firmware says.
        firmware: Firmware,
    },
    /// A file ended before the size that its directory entry states.
    FileCutShort {
        /// What it is.
        role: Role,
        /// Its path.
        path: String,
        /// Bytes that were read.
        read: u64,
        /// Bytes that the directory states.
        stated: u64,
    },
    /// The kernel is not an executable that can be started.
    Executable {
        /// Its path.
        path: String,
        /// What is wrong.
        error: ElfError,
    },
    /// The kernel wants what this loader does not have.
    Request {
        /// Its path.
        path: String,
        /// What.
        error: RequestError,
    },
    /// Not enough memory.
    OutOfMemory {
        /// What for.
        what: Purpose,
        /// How much, in bytes.
        bytes: u64,
    },
    /// The direct map cannot start there.
    DirectMapBase(u64),
    /// The firmware runs with 5-level paging, which this loader cannot leave.
    FiveLevelPaging,
}

/// A status of the firmware (UEFI 2.10, appendix D).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Firmware(pub usize);

/// What a file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// `limine.conf`.
    Config,
    /// The executable.
    Kernel,
    /// A module.
    Module,
}

/// What memory was wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To read a file.
    File,
    /// The kernel's segments.
    Image,
    /// The kernel's stack.
    Stack,
    /// Page tables.
    PageTables,
    /// Answers.
    Responses,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Config => "configuration",
            Self::Kernel => "kernel",
            Self::Module => "module",
        })
    }
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::File => "a file",
            Self::Image => "the kernel's segments",
            Self::Stack => "the kernel's stack",
            Self::PageTables => "page tables",
            Self::Responses => "boot information",
        })
    }
}

impl fmt::Display for Firmware {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const ERROR_BIT: usize = 1 << (usize::BITS - 1);
        let name = match self.0 & !ERROR_BIT {
            2 => "invalid parameter",
            3 => "unsupported",
            7 => "device error",
            9 => "out of resources",
            10 => "volume corrupted",
            12 => "no media",
            13 => "media changed",
            14 => "not found",
            15 => "access denied",
            code => return write!(f, "firmware status {code}"),
        };
        f.write_str(name)
    }
}

impl fmt::Display for BootError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Volume(firmware) => {
                write!(f, "cannot read the volume that the loader came from: {firmware}")
            }
            Self::ConfigMissing => {
                write!(f, "no limine.conf on the EFI system partition; tried")?;
                crate::config_paths().try_for_each(|path| write!(f, " {path}"))
            }
            Self::Config { path, error } => write!(f, "{path}: {error}"),
            Self::FileMissing { role, path } => {
                write!(f, "{role} {path} is not on the EFI system partition; limine.conf names it")
            }
            Self::FileUnreadable { role, path, firmware } => {
                write!(f, "cannot read {role} {path}: {firmware}")
            }
            Self::FileCutShort { role, path, read, stated } => {
                write!(
                    f,
                    "{role} {path} is cut short: {read} bytes of {stated} are there; write the image again"
                )
            }
            Self::Executable { path, error } => write!(f, "kernel {path}: {error}"),
            Self::Request { path, error } => write!(f, "kernel {path}: {error}"),
            Self::OutOfMemory { what, bytes } => {
                write!(f, "out of memory: {} KiB for {what}; give the machine more", bytes.div_ceil(1024))
            }
            Self::DirectMapBase(base) => write!(
                f,
                "selkis_test_hhdm_base {base:#x}: must be in the higher half, 1 GiB aligned, with all memory below the kernel"
            ),
            Self::FiveLevelPaging => {
                write!(
                    f,
                    "the firmware uses 5-level paging, which this loader cannot leave; switch it off there"
                )
            }
        }
    }
}
