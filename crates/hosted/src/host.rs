//! Everything that Linux provides for WASI, in one value.

use crate::clock::LinuxClock;
use crate::files::LinuxFiles;
use crate::streams::{LinuxStreams, LinuxWait};
use wasi::entropy::Generator;
use wasi::provider::Providers;

/// This process's clocks, granted directories and a random generator, and its streams or others.
pub type LinuxHost<S = LinuxStreams> = Providers<LinuxClock, Generator, S, LinuxFiles, LinuxWait>;

/// A host that grants what `files` holds.
pub fn linux_host<S>(streams: S, files: LinuxFiles, entropy: Generator) -> LinuxHost<S> {
    Providers { clock: LinuxClock, entropy, streams, files, wait: LinuxWait }
}
