//! Runs a program on Selkis' own kernel, in QEMU.
//!
//! The machine has two channels to the outside. The console carries the frames of the `link` crate: the
//! program's streams and its end. The serial port carries the kernel's own words, which are kept aside and shown if
//! the machine fails. Both are sockets that QEMU inherits; the bundle is a file without a name that it inherits as
//! well. So nothing is left behind in the file system, and QEMU ends when this process does.

mod console;
mod log;
mod output;
mod qemu;
mod signals;
mod words;

pub use log::KernelLog;
pub use qemu::{Qemu, QemuError, find as find_qemu};

use crate::bundle_file::BundleFile;
use crate::report::Verbosity;
use console::{Console, ConsoleError, Streams};
use manifest::units::ByteCount;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What the kernel, the library OS and their tables take, with some room for files that the program writes.
const SYSTEM_BYTES: u64 = 64 << 20;
/// The least that the kernel and the library OS start with, besides the bundle.
const SYSTEM_BYTES_MIN: u64 = 16 << 20;
/// From the program's last word to the end of QEMU. It takes milliseconds.
pub const POWER_OFF_TIME: Duration = Duration::from_secs(10);

/// What to boot.
#[derive(Debug)]
pub struct Machine<'a> {
    /// QEMU.
    pub qemu: &'a Path,
    /// The kernel.
    pub kernel: PathBuf,
    /// The boot module.
    pub bundle: BundleFile,
    /// How much memory it gets.
    pub memory: ByteCount,
    /// How many CPUs.
    pub cpus: u32,
    /// Whether its kernel scrubs what CPUs could leak.
    pub mitigations: Mitigations,
    /// Whether steps are told, and the kernel's words shown as they come.
    pub verbosity: Verbosity,
    /// Which of the kernel's words; they are shown as they come.
    pub log: Option<KernelLog>,
}

/// Whether a kernel scrubs what a CPU could leak when it goes from one domain to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mitigations {
    /// As the CPU says it needs.
    On,
    /// Not.
    Off,
}

/// Why the machine did not run the program to its end.
#[derive(Debug, thiserror::Error)]
pub enum VmError {
    /// Not enough for what has to be there before the program starts.
    #[error(
        "a machine with {given} of memory cannot hold this program: its code and files take {bundle}\ngive it \
         more, --vm-memory {needed}, or leave --vm-memory out"
    )]
    MemoryTooSmall {
        /// `--vm-memory`
        given: ByteCount,
        /// The boot module.
        bundle: ByteCount,
        /// Enough.
        needed: String,
    },
    /// QEMU itself.
    #[error(transparent)]
    Qemu(#[from] QemuError),
    /// The machine stopped without saying how the program ended.
    #[error("the machine stopped before the program ended (QEMU: {status}){words}")]
    Died {
        /// Of QEMU.
        status: std::process::ExitStatus,
        /// QEMU's and the kernel's last, each after a line break.
        words: String,
    },
    /// What came over the console made no sense, or a stream of ours failed.
    #[error("{error}{words}")]
    Console {
        /// What.
        error: ConsoleError,
        /// QEMU's and the kernel's last, each after a line break.
        words: String,
    },
    /// What the root of a system said made no sense.
    #[error("{error}{words}")]
    Root {
        /// What.
        error: control::FrameError,
        /// QEMU's and the kernel's last, each after a line break.
        words: String,
    },
    /// Ctrl-C after the program's end.
    #[error("interrupted before all that the program wrote was read")]
    Unread,
    /// Ctrl-C, and the machine did not react.
    #[error("interrupted; the machine did not stop in time and was switched off")]
    Killed,
}

/// The memory that a machine needs for a program that may use `program` and a bundle of `bundle_bytes`.
pub fn memory_for(program: ByteCount, bundle_bytes: u64) -> ByteCount {
    ByteCount(program.0.saturating_add(bundle_bytes).saturating_add(SYSTEM_BYTES))
}

/// Refuses a machine that could not even load its boot module.
pub fn check_memory(given: ByteCount, bundle_bytes: u64) -> Result<(), VmError> {
    let least = bundle_bytes + SYSTEM_BYTES_MIN;
    if given.0 >= least {
        return Ok(());
    }
    let needed = format!("{}MiB", (bundle_bytes + SYSTEM_BYTES).div_ceil(1 << 20));
    Err(VmError::MemoryTooSmall { given, bundle: ByteCount(bundle_bytes), needed })
}

/// Boots, passes the streams on, and gives the status to exit with.
pub fn run(machine: Machine) -> Result<u8, VmError> {
    let mut qemu = Qemu::start(&machine)?;
    let streams = Streams::own().map_err(QemuError::Streams)?;
    let (console, input) =
        Console::new(qemu.take_console(), streams).map_err(|error| fail(&mut qemu, error))?;
    let signals = signals::forward(input.sender(), qemu.switch()).map_err(QemuError::Signals)?;
    input.start();
    let end = console.run();
    let end = match end {
        Ok(end) => end,
        Err(ConsoleError::HungUp) if signals.forced() => {
            qemu.wait(POWER_OFF_TIME)?;
            return Err(VmError::Killed);
        }
        Err(ConsoleError::HungUp) => {
            let status = qemu.wait(POWER_OFF_TIME)?;
            return Err(VmError::Died { status, words: qemu.last_words() });
        }
        Err(ConsoleError::Interrupted) => {
            qemu.wait(POWER_OFF_TIME)?;
            return Err(VmError::Unread);
        }
        Err(error) => return Err(fail(&mut qemu, error)),
    };
    let status = qemu.wait(POWER_OFF_TIME)?;
    machine.verbosity.step(|| format!("the machine is off (QEMU: {status})"));
    Ok(end.status)
}

fn fail(qemu: &mut Qemu, error: ConsoleError) -> VmError {
    qemu.switch().off();
    match qemu.wait(POWER_OFF_TIME) {
        Ok(_) => VmError::Console { error, words: qemu.last_words() },
        Err(error) => error.into(),
    }
}
