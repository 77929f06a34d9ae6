//! What a process, or the library OS of a domain, has written, as far as there is room.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use control::{Line, LineEnd, LogSize, Stream};
use core::mem;

/// A longer line is kept in pieces; where there is little room, in shorter ones.
pub const LINE_BYTES_MAX: usize = 8 << 10;

/// What a small block of a heap takes beside its bytes, at most, in the allocators at hand.
const BLOCK_BYTES: usize = 32;

/// The newest lines of one of them, in a bounded number of bytes.
#[derive(Debug)]
pub struct Log {
    kept: VecDeque<Entry>,
    /// What `kept` takes.
    kept_bytes: usize,
    kept_bytes_max: usize,
    /// Of standard output and standard error, what is no whole line yet.
    begun: [Vec<u8>; 2],
    /// Lines and bytes that were written; the lines that are gone are those before `kept`.
    size: LogSize,
}

/// A line with its place among the lines of all.
#[derive(Debug)]
pub struct Entry {
    /// Grows from line to line, over all logs.
    pub sequence: u64,
    /// The line.
    pub line: Line,
}

impl Entry {
    /// What it takes of memory.
    fn bytes(&self) -> usize {
        size_of::<Self>() + BLOCK_BYTES + self.line.bytes.len()
    }
}

/// Numbers lines over all logs.
#[derive(Debug, Default)]
pub struct Sequence(u64);

impl Sequence {
    fn next(&mut self) -> u64 {
        let next = self.0;
        self.0 += 1;
        next
    }
}

impl Log {
    /// Empty, for at most so many bytes.
    pub fn new(kept_bytes_max: usize) -> Self {
        Self {
            kept: VecDeque::new(),
            kept_bytes: 0,
            kept_bytes_max,
            begun: [const { Vec::new() }; 2],
            size: LogSize::default(),
        }
    }

    /// What was written and what is gone.
    pub fn size(&self) -> LogSize {
        self.size
    }

    /// The number of the oldest line that is kept: how many are gone.
    pub fn first(&self) -> u64 {
        self.size.lines_dropped
    }

    /// The line of this number, if it is kept.
    pub fn get(&self, number: u64) -> Option<&Entry> {
        self.kept.get(usize::try_from(number.checked_sub(self.first())?).ok()?)
    }

    /// The lines that are kept, the newest first.
    pub fn newest_first(&self) -> impl Iterator<Item = &Entry> {
        self.kept.iter().rev()
    }

    /// The number of the first line that is kept and has this place or a later one among all lines.
    pub fn number_at(&self, sequence: u64) -> u64 {
        self.first() + self.kept.partition_point(|entry| entry.sequence < sequence) as u64
    }

    /// Adds what the program wrote: any bytes, in any pieces.
    pub fn write(&mut self, stream: Stream, bytes: &[u8], at_ns: u64, sequence: &mut Sequence) {
        self.size.bytes += bytes.len() as u64;
        let mut pieces = bytes.split(|byte| *byte == b'\n').peekable();
        while let Some(piece) = pieces.next() {
            self.extend(stream, piece, at_ns, sequence);
            if pieces.peek().is_some() {
                let line = mem::take(self.begun(stream));
                self.keep(stream, line, LineEnd::Newline, at_ns, sequence);
            }
        }
    }

    /// Adds a line of the system's own.
    pub fn note(&mut self, text: &str, at_ns: u64, sequence: &mut Sequence) {
        self.keep(Stream::Event, text.as_bytes().to_vec(), LineEnd::Newline, at_ns, sequence);
    }

    /// The program writes no more, in this run: what it began is a line.
    pub fn close(&mut self, at_ns: u64, sequence: &mut Sequence) {
        for stream in [Stream::Output, Stream::Error] {
            let line = mem::take(self.begun(stream));
            if !line.is_empty() {
                self.keep(stream, line, LineEnd::End, at_ns, sequence);
            }
        }
    }

    /// Adds to the line that has begun, which is cut each time that it gets too long.
    fn extend(&mut self, stream: Stream, mut piece: &[u8], at_ns: u64, sequence: &mut Sequence) {
        while !piece.is_empty() {
            let line_bytes_max = self.line_bytes_max();
            let begun = self.begun(stream);
            let room = line_bytes_max - begun.len();
            if room == 0 {
                let line = mem::take(begun);
                self.keep(stream, line, LineEnd::Cut, at_ns, sequence);
                continue;
            }
            let (fitting, rest) = piece.split_at(piece.len().min(room));
            begun.extend_from_slice(fitting);
            piece = rest;
        }
    }

    /// A short log has short pieces, and room for some of them.
    fn line_bytes_max(&self) -> usize {
        LINE_BYTES_MAX.min((self.kept_bytes_max / 4).max(1))
    }

    fn begun(&mut self, stream: Stream) -> &mut Vec<u8> {
        match stream {
            Stream::Output => &mut self.begun[0],
            // The system writes whole lines.
            Stream::Error | Stream::Event => &mut self.begun[1],
        }
    }

    fn keep(
        &mut self,
        stream: Stream,
        mut bytes: Vec<u8>,
        end: LineEnd,
        at_ns: u64,
        sequence: &mut Sequence,
    ) {
        bytes.shrink_to_fit();
        let entry = Entry { sequence: sequence.next(), line: Line { at_ns, stream, bytes, end } };
        self.size.lines += 1;
        self.kept_bytes += entry.bytes();
        self.kept.push_back(entry);
        while self.kept_bytes > self.kept_bytes_max
            && let Some(oldest) = self.kept.pop_front()
        {
            self.kept_bytes -= oldest.bytes();
            self.size.lines_dropped += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(log: &Log) -> Vec<(&[u8], LineEnd)> {
        log.kept.iter().map(|entry| (&entry.line.bytes[..], entry.line.end)).collect()
    }

    #[test]
    fn lines_are_put_together_and_split() {
        let mut log = Log::new(1 << 20);
        let sequence = &mut Sequence::default();
        log.write(Stream::Output, b"a\nb", 1, sequence);
        log.write(Stream::Error, b"\xff\n", 2, sequence);
        log.write(Stream::Output, b"c\n\n", 3, sequence);
        log.write(Stream::Output, b"d", 4, sequence);
        log.close(5, sequence);
        let expected: [(&[u8], _); 5] = [
            (b"a", LineEnd::Newline),
            (b"\xff", LineEnd::Newline),
            (b"bc", LineEnd::Newline),
            (b"", LineEnd::Newline),
            (b"d", LineEnd::End),
        ];
        assert_eq!(lines(&log), expected);
        assert_eq!(log.size(), LogSize { lines: 5, bytes: 9, lines_dropped: 0 });
    }

    #[test]
    fn long_lines_are_cut() {
        let mut log = Log::new(1 << 20);
        let sequence = &mut Sequence::default();
        let long = alloc::vec![b'x'; LINE_BYTES_MAX];
        log.write(Stream::Output, &long, 0, sequence);
        assert_eq!(lines(&log), []);
        log.write(Stream::Output, b"\n", 0, sequence);
        assert_eq!(lines(&log), [(&long[..], LineEnd::Newline)]);
        log.write(Stream::Output, &long, 0, sequence);
        log.write(Stream::Output, b"y\n", 0, sequence);
        assert_eq!(lines(&log)[1..], [(&long[..], LineEnd::Cut), (&b"y"[..], LineEnd::Newline)]);
    }

    #[test]
    fn the_oldest_make_room() {
        let each = size_of::<Entry>() + BLOCK_BYTES + 1;
        let mut log = Log::new(3 * each);
        let sequence = &mut Sequence::default();
        log.write(Stream::Output, b"a\nb\nc\nd\n", 0, sequence);
        log.note("e", 0, sequence);
        assert_eq!(lines(&log).iter().map(|(bytes, _)| bytes[0]).collect::<Vec<_>>(), b"cde");
        assert_eq!((log.first(), log.kept_bytes), (2, 3 * each));
        assert!(log.get(1).is_none() && log.get(5).is_none());
        assert_eq!(log.get(2).map(|entry| entry.sequence), Some(2));
        assert_eq!((log.number_at(0), log.number_at(4), log.number_at(9)), (2, 4, 5));
        // What has no room alone is not kept.
        log.note(&"z".repeat(3 * each), 0, sequence);
        assert_eq!((lines(&log).len(), log.first(), log.kept_bytes), (0, 6, 0));
    }
}
