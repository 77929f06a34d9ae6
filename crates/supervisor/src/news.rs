//! What is told of a process, with its last words.

use crate::event::{Next, Notice, ProcessId};
use crate::supervisor::Supervisor;
use alloc::vec::Vec;
use control::{ProgramName, Stream};
use serde::{Deserialize, Serialize};

/// How many lines before an end may be told with it.
const LAST_WORDS_MAX: u64 = 12;

/// Something that has happened to a process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct News {
    /// When, since the system started.
    pub at_ns: u64,
    /// To which.
    pub name: ProgramName,
    /// What.
    pub notice: Notice,
    /// If it failed: what it said last, line by line.
    pub last_words: Vec<Vec<u8>>,
}

impl Supervisor {
    /// A notice as it is told: [`crate::Effect::Notice`].
    pub fn news(&self, id: ProcessId, notice: Notice, now_ns: u64) -> News {
        let last_words = match &notice {
            Notice::Ended { next: Next::Stopped, .. } => Vec::new(),
            Notice::Ended { end, .. } if !end.is_success() => self.last_words(id),
            _ => Vec::new(),
        };
        News { at_ns: now_ns, name: self.name(id), notice, last_words }
    }

    /// What was written to standard error in the run that has just ended, the last of it.
    fn last_words(&self, id: ProcessId) -> Vec<Vec<u8>> {
        let lines = self.last_lines(id, LAST_WORDS_MAX);
        // That it has ended stands there last, and that it was started before all that it wrote.
        let of_this_run = lines.into_iter().rev().skip(1).take_while(|line| line.stream != Stream::Event);
        let errors = of_this_run.filter(|line| line.stream == Stream::Error).map(|line| line.bytes);
        let mut words: Vec<Vec<u8>> = errors.collect();
        words.reverse();
        words
    }
}
