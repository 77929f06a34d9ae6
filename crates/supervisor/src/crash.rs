//! What is kept of processes that have failed.

use crate::log::Log;
use alloc::string::String;
use alloc::vec::Vec;
use control::{Crash, CrashFrame, CrashLimits, Line, LineEnd, Measure, Stream};

/// The most lines that a report holds.
const LINES_MAX: usize = 16;
/// The most bytes of each.
const LINE_BYTES_MAX: usize = 256;
/// The most functions that a log names.
const FRAMES_MAX: usize = 8;
/// What is kept of a library OS's last words.
const WORDS_BYTES_MAX: usize = 2 << 10;

/// Reads a report as a library OS puts it in a frame's payload.
///
/// # Errors
/// If it is not one.
pub fn read_crash(payload: &[u8]) -> Result<Crash, link::Error> {
    link::Crash::parse(payload).map(|said| crash(&said))
}

/// What a library OS says, for whoever asks.
pub fn crash(said: &link::Crash<'_>) -> Crash {
    let limits = &said.head.limits;
    let frame = |frame: link::CallFrame<'_>| CrashFrame {
        function: frame.function,
        offset: frame.offset,
        name: Some(String::from(frame.name)).filter(|name| !name.is_empty()),
    };
    Crash {
        reason: String::from(said.reason),
        backtrace: said.frames().map(frame).collect(),
        depth: said.head.depth,
        limits: CrashLimits {
            memory_bytes: measure(limits.memory_bytes),
            host_bytes: measure(limits.host_bytes),
            table_elements: measure(limits.table_elements),
            cpu_ns: measure(limits.cpu_ns),
            time_ns: measure(limits.time_ns),
            stack_bytes: measure(limits.stack_bytes),
            descriptors: measure(limits.descriptors),
            log_bytes: measure(limits.log_bytes),
        },
    }
}

/// What a log has of it, in lines.
pub(crate) fn details(crash: &Crash) -> String {
    let mut text = String::new();
    // A name is the program's own choice; it stays on its line.
    let readable = |name: &str| name.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    // A string takes everything.
    let _ = crash.write_details(&mut text, FRAMES_MAX, readable);
    text
}

fn measure(link::Measure { used, max }: link::Measure) -> Measure {
    Measure { used, max: Some(max).filter(|max| *max != link::Measure::NO_LIMIT) }
}

/// The last that a process wrote in its run, which began then.
pub(crate) fn last_lines(log: &Log, began_ns: u64) -> Vec<Line> {
    let of_this_run = log.newest_first().take_while(|entry| entry.line.at_ns >= began_ns);
    let written = of_this_run.filter(|entry| entry.line.stream != Stream::Event);
    let mut lines: Vec<Line> = written.take(LINES_MAX).map(|entry| cut(&entry.line)).collect();
    lines.reverse();
    lines
}

fn cut(line: &Line) -> Line {
    match line.bytes.get(..LINE_BYTES_MAX) {
        Some(part) if line.bytes.len() > part.len() => {
            Line { bytes: part.to_vec(), end: LineEnd::Cut, ..line.clone() }
        }
        _ => line.clone(),
    }
}

/// The last words of a library OS.
#[derive(Debug, Default)]
pub(crate) struct Words {
    bytes: Vec<u8>,
}

impl Words {
    /// Adds some.
    pub fn add(&mut self, bytes: &[u8]) {
        let new = &bytes[bytes.len().saturating_sub(WORDS_BYTES_MAX)..];
        let gone = (self.bytes.len() + new.len()).saturating_sub(WORDS_BYTES_MAX);
        self.bytes.drain(..gone);
        self.bytes.extend_from_slice(new);
    }

    /// What there is, which is then gone.
    pub fn take(&mut self) -> String {
        String::from_utf8_lossy(&core::mem::take(&mut self.bytes)).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::Sequence;

    #[test]
    fn words_are_the_last() {
        let mut words = Words::default();
        words.add(&[b'a'; 3 * WORDS_BYTES_MAX]);
        words.add(b"end");
        let kept = words.take();
        assert!(kept.len() == WORDS_BYTES_MAX && kept.ends_with("aend"));
        assert_eq!(words.take(), "");
    }

    #[test]
    fn lines_are_of_this_run_and_bounded() {
        let (mut log, sequence) = (Log::new(1 << 20), &mut Sequence::default());
        log.write(Stream::Output, b"before\n", 0, sequence);
        log.note("started", 1, sequence);
        assert_eq!(last_lines(&log, 1), []);
        for number in 0..20u8 {
            log.write(Stream::Error, &[b'A' + number, b'\n'], 2, sequence);
        }
        log.write(Stream::Output, &[b'x'; 1000], 3, sequence);
        log.close(3, sequence);
        let lines = last_lines(&log, 1);
        assert_eq!((lines.len(), &lines[0].bytes[..]), (LINES_MAX, &b"F"[..]));
        let last = &lines[LINES_MAX - 1];
        assert_eq!((last.bytes.len(), last.end), (LINE_BYTES_MAX, LineEnd::Cut));
    }
}
