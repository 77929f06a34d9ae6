//! Which frames of RAM are free: one bit for each, in memory that nobody else is ever given.
//!
//! No mark lies in a free frame itself, where a device that still writes to it could spoil it. Memory that was never used is handed
//! out in order of address, and its bits are cleared only then, so that starting costs nothing for each frame.
//! Pure logic: frames are numbers here, and nothing is touched but the bits.

use crate::ranges::{RANGES_MAX, Range, RangeKind};
use abi::PAGE_SIZE;

/// A range of RAM. Its frames below `fresh` have bits; those from `fresh` to `limit` are free and have none yet.
#[derive(Clone, Copy)]
struct Piece {
    base: u64,
    end: u64,
    fresh: u64,
    /// The end, or the base as long as the range is not to be used.
    limit: u64,
    /// The word of the bit of the frame that `base` rounded down to 64 is.
    first_word: usize,
}

/// The free frames of the machine.
pub struct Pool<'m> {
    /// A bit for each frame: 1 if it is free.
    words: &'m mut [u64],
    /// A bit for each of the words: 1 if the word is not 0.
    summary: &'m mut [u64],
    /// By address.
    pieces: [Piece; RANGES_MAX],
    piece_count: usize,
    /// Where in the summary the next search begins.
    hint: usize,
    /// Free frames that have bits, and such that have none.
    recycled: u64,
    fresh: u64,
}

impl Piece {
    const NONE: Self = Self { base: 0, end: 0, fresh: 0, limit: 0, first_word: 0 };

    fn new(range: &Range, first_word: usize) -> Self {
        let (base, end) = (first_frame(range), range.end / PAGE_SIZE);
        let limit = if range.kind == RangeKind::Free { end } else { base };
        Self { base, end, fresh: base, limit, first_word }
    }

    const fn word_of(&self, frame: u64) -> usize {
        self.first_word + (frame / 64 - self.base / 64) as usize
    }

    /// One past the last word that was cleared.
    const fn words_end(&self) -> usize {
        if self.fresh == self.base { self.first_word } else { self.word_of(self.fresh - 1) + 1 }
    }
}

/// Frame 0 is never used.
fn first_frame(range: &Range) -> u64 {
    (range.base / PAGE_SIZE).max(1)
}

/// The ranges that may become free: all but the module's.
fn usable(ranges: &[Range]) -> impl Iterator<Item = &Range> {
    let is_usable =
        |range: &&Range| range.kind != RangeKind::Module && first_frame(range) * PAGE_SIZE < range.end;
    ranges.iter().filter(is_usable).take(RANGES_MAX)
}

fn words_for(range: &Range) -> usize {
    ((range.end / PAGE_SIZE).div_ceil(64) - first_frame(range) / 64) as usize
}

/// How many words a [`Pool`] of these ranges needs.
pub fn words_needed(ranges: &[Range]) -> usize {
    let words: usize = usable(ranges).map(words_for).sum();
    words + words.div_ceil(64)
}

impl<'m> Pool<'m> {
    /// No frames.
    pub const fn new() -> Self {
        Self {
            words: &mut [],
            summary: &mut [],
            pieces: [Piece::NONE; RANGES_MAX],
            piece_count: 0,
            hint: 0,
            recycled: 0,
            fresh: 0,
        }
    }

    /// Begins anew with these ranges, which are sorted by address, and [`words_needed`] words for the bits, whatever is in them.
    /// What the loader still uses is free only after [`Pool::release`].
    pub fn begin(&mut self, storage: &'m mut [u64], ranges: &[Range]) {
        let words = usable(ranges).map(words_for).sum();
        (self.words, self.summary) = storage.split_at_mut(words);
        self.summary.fill(0);
        let mut first_word = 0;
        (self.piece_count, self.hint, self.recycled, self.fresh) = (0, 0, 0, 0);
        for (piece, range) in self.pieces.iter_mut().zip(usable(ranges)) {
            *piece = Piece::new(range, first_word);
            first_word += words_for(range);
            self.fresh += piece.limit - piece.fresh;
            self.piece_count += 1;
        }
    }

    /// Frees all that was the loader's.
    pub fn release(&mut self) {
        for piece in &mut self.pieces[..self.piece_count] {
            self.fresh += piece.end - piece.limit;
            piece.limit = piece.end;
        }
    }

    /// How many frames are free.
    pub fn free_count(&self) -> u64 {
        self.recycled + self.fresh
    }

    /// Takes some frames, as many as there is room for in `frames` or fewer. Answers how many.
    pub fn take_some(&mut self, frames: &mut [u64]) -> usize {
        let mut count = 0;
        while count < frames.len() {
            if let Some(frame) = self.take_recycled() {
                frames[count] = frame;
                count += 1;
                continue;
            }
            let pieces = self.pieces[..self.piece_count].iter();
            let room = pieces.map(|piece| piece.limit - piece.fresh).find(|&room| room > 0).unwrap_or(0);
            let run = room.min((frames.len() - count) as u64);
            let Some(first) = self.take_fresh(run).filter(|_| run > 0) else { break };
            for (place, frame) in frames[count..].iter_mut().zip(first..first + run) {
                *place = frame;
            }
            count += run as usize;
        }
        count
    }

    /// Takes `count` frames that lie side by side in one range of RAM: wherever there are as many they are found.
    pub fn take_run(&mut self, count: u64) -> Option<u64> {
        if count == 0 || count > self.free_count() {
            return None;
        }
        if let Some(frame) = self.take_recycled_run(count).or_else(|| self.take_fresh(count)) {
            return Some(frame);
        }
        // A run may begin with recycled frames and go on with fresh ones.
        self.recycle_fresh();
        self.take_recycled_run(count)
    }

    /// Gives `count` frames back, from `first`.
    ///
    /// # Panics
    /// If they are not all taken.
    pub fn give(&mut self, first: u64, count: u64) {
        let pieces = &self.pieces[..self.piece_count];
        let piece = pieces.partition_point(|piece| piece.base <= first).checked_sub(1).map(|at| pieces[at]);
        let piece = piece.filter(|piece| first + count <= piece.fresh);
        let piece = piece.unwrap_or_else(|| panic!("{count} frames from {first:#x} were never taken"));
        self.for_each_word(&piece, first, count, |bits, mask| {
            assert!(*bits & mask == 0, "frames near {first:#x} are free already");
            *bits |= mask;
        });
        self.recycled += count;
    }

    fn take_recycled(&mut self) -> Option<u64> {
        if self.recycled == 0 {
            return None;
        }
        let (before, behind) = self.summary.split_at(self.hint);
        let group = match behind.iter().position(|group| *group != 0) {
            Some(at) => self.hint + at,
            None => before.iter().position(|group| *group != 0)?,
        };
        self.hint = group;
        let word = group * 64 + self.summary[group].trailing_zeros() as usize;
        let pieces = &self.pieces[..self.piece_count];
        let piece = &pieces[pieces.partition_point(|piece| piece.first_word <= word) - 1];
        let bit = self.words[word].trailing_zeros();
        let frame = (piece.base / 64 + (word - piece.first_word) as u64) * 64 + u64::from(bit);
        self.words[word] &= !(1 << bit);
        if self.words[word] == 0 {
            self.summary[group] &= !(1 << (word % 64));
        }
        self.recycled -= 1;
        Some(frame)
    }

    fn take_fresh(&mut self, count: u64) -> Option<u64> {
        let pieces = &mut self.pieces[..self.piece_count];
        let piece = pieces.iter_mut().find(|piece| piece.limit - piece.fresh >= count)?;
        let (frame, first) = (piece.fresh, piece.words_end());
        piece.fresh += count;
        self.words[first..piece.words_end()].fill(0);
        self.fresh -= count;
        Some(frame)
    }

    fn take_recycled_run(&mut self, count: u64) -> Option<u64> {
        if self.recycled < count {
            return None;
        }
        let pieces = &self.pieces[..self.piece_count];
        let (piece, frame) = pieces.iter().find_map(|piece| Some((*piece, self.find_run(piece, count)?)))?;
        self.for_each_word(&piece, frame, count, |bits, mask| *bits &= !mask);
        self.recycled -= count;
        Some(frame)
    }

    /// The first of `count` free frames side by side that have bits.
    fn find_run(&self, piece: &Piece, count: u64) -> Option<u64> {
        let (mut start, mut length) = (0, 0);
        for (at, &bits) in (0..).zip(&self.words[piece.first_word..piece.words_end()]) {
            let mut bit = 0;
            while bit < 64 {
                let rest = bits >> bit;
                let ones = rest.trailing_ones().min(64 - bit);
                if length == 0 {
                    start = (piece.base / 64 + at) * 64 + u64::from(bit);
                }
                length += u64::from(ones);
                if length >= count {
                    return Some(start);
                }
                bit += ones;
                if bit < 64 {
                    length = 0;
                    bit += (bits >> bit).trailing_zeros().min(64 - bit);
                }
            }
        }
        None
    }

    /// Gives all fresh frames bits.
    fn recycle_fresh(&mut self) {
        for at in 0..self.piece_count {
            let piece = self.pieces[at];
            let count = piece.limit - piece.fresh;
            if count > 0 {
                self.pieces[at].fresh = piece.limit;
                let words = piece.words_end()..self.pieces[at].words_end();
                self.words[words].fill(0);
                self.fresh -= count;
                self.give(piece.fresh, count);
            }
        }
    }

    /// Changes the words in which the bits of `count` frames from `first` lie; `change` gets each word and the bits in it.
    fn for_each_word(&mut self, piece: &Piece, first: u64, count: u64, change: impl Fn(&mut u64, u64)) {
        let (mut frame, end) = (first, first + count);
        while frame < end {
            let length = (64 - frame % 64).min(end - frame);
            let mask = (u64::MAX >> (64 - length)) << (frame % 64);
            let word = piece.word_of(frame);
            change(&mut self.words[word], mask);
            let bit = 1 << (word % 64);
            match self.words[word] {
                0 => self.summary[word / 64] &= !bit,
                _ => self.summary[word / 64] |= bit,
            }
            frame += length;
        }
    }
}
