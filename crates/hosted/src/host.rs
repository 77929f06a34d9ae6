//! Everything that Linux provides for WASI, in one value.

use crate::clock::LinuxClock;
use crate::files::LinuxFiles;
use crate::streams::{LinuxStreams, LinuxWait};
use wasi::entropy::Generator;
use wasi::provider::{Clock, Entropy, Files, Host, Streams, Wait};

/// This process's clocks, streams, granted directories and a random generator.
pub struct LinuxHost {
    clock: LinuxClock,
    entropy: Generator,
    streams: LinuxStreams,
    files: LinuxFiles,
    wait: LinuxWait,
}

impl LinuxHost {
    /// A host that grants what `files` holds.
    pub fn new(files: LinuxFiles, entropy: Generator) -> Self {
        Self { clock: LinuxClock, entropy, streams: LinuxStreams::new(), files, wait: LinuxWait }
    }
}

impl Host for LinuxHost {
    fn clock(&mut self) -> &mut dyn Clock {
        &mut self.clock
    }

    fn entropy(&mut self) -> &mut dyn Entropy {
        &mut self.entropy
    }

    fn streams(&mut self) -> &mut dyn Streams {
        &mut self.streams
    }

    fn files(&mut self) -> &mut dyn Files {
        &mut self.files
    }

    fn wait(&mut self) -> &mut dyn Wait {
        &mut self.wait
    }
}
