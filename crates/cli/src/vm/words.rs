//! The last words of something that may fail.

use crate::report::Verbosity;
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::thread::{self, JoinHandle};

/// Enough for a panic with registers and a backtrace, and bounded whatever a broken kernel prints.
const KEPT_BYTES: usize = 16 << 10;

/// A thread that reads a stream to its end and keeps the last of it.
#[derive(Debug)]
pub struct LastWords {
    reader: JoinHandle<VecDeque<u8>>,
}

impl LastWords {
    /// Reads `from`; shows what comes if `verbosity` says so.
    pub fn of(from: impl Read + Send + 'static, verbosity: Verbosity) -> io::Result<Self> {
        let reader = thread::Builder::new().name("words".into()).spawn(move || keep(from, verbosity))?;
        Ok(Self { reader })
    }

    /// Waits for the end of the stream; the text begins with a line.
    pub fn text(self) -> String {
        let kept: Vec<u8> = self.reader.join().unwrap_or_default().into();
        String::from_utf8_lossy(&kept).replace('\r', "").trim().to_owned()
    }
}

fn keep(mut from: impl Read, verbosity: Verbosity) -> VecDeque<u8> {
    let mut kept = VecDeque::new();
    let mut piece = [0; 4096];
    loop {
        let read = match from.read(&mut piece) {
            Ok(0) => return kept,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            // The other end is gone, and with it the stream.
            Err(_) => return kept,
        };
        if verbosity == Verbosity::Steps {
            let _ = io::stderr().write_all(&piece[..read]);
        }
        kept.extend(&piece[..read]);
        kept.drain(..kept.len().saturating_sub(KEPT_BYTES));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_is_kept() {
        let stream = [vec![b'a'; KEPT_BYTES], b"\r\nend\r\n".to_vec()].concat();
        let text = LastWords::of(io::Cursor::new(stream), Verbosity::Quiet).unwrap().text();
        assert!(text.ends_with("a\nend") && text.len() < KEPT_BYTES, "{}", text.len());
    }
}
