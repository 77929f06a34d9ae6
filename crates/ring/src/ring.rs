//! One ring, from either side.

use crate::memory::Memory;

/// Whether the other side has asked to be told.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bell {
    /// It has: its bell is to be rung.
    Ring,
    /// It has not.
    Silent,
}

/// The other side has stored a position that cannot be: nothing more comes or goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken;

/// Where the parts of a ring lie in the memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    /// The control words: see below.
    pub words: usize,
    /// The bytes in flight.
    pub bytes: usize,
    /// How many fit: a power of two.
    pub capacity: u32,
}

/// Each control word has a cache line of its own, since either side stores to two of them.
const LINE_BYTES: usize = 64;
/// How many bytes were written.
const WRITTEN: usize = 0;
/// How many bytes were read.
const READ: usize = LINE_BYTES;
/// Not 0: the reader wants to be told of bytes.
const READER_ASKS: usize = 2 * LINE_BYTES;
/// Not 0: the writer wants to be told of room.
const WRITER_ASKS: usize = 3 * LINE_BYTES;
/// What the control words take.
pub(crate) const WORDS_BYTES: usize = 4 * LINE_BYTES;

/// The side that reads.
#[derive(Debug)]
pub struct Reader<M> {
    memory: M,
    place: Place,
    read: u32,
    /// Our question may be there still.
    has_asked: bool,
    broken: Option<Broken>,
}

/// The side that writes.
#[derive(Debug)]
pub struct Writer<M> {
    memory: M,
    place: Place,
    written: u32,
    has_asked: bool,
    broken: Option<Broken>,
}

impl<M: Memory> Reader<M> {
    /// For a ring that nobody has written to.
    pub(crate) fn new(memory: M, place: Place) -> Self {
        Self { memory, place, read: 0, has_asked: false, broken: None }
    }

    /// Takes bytes out, and says how many and whether to ring the writer's bell. If they do not fill `into`, the writer
    /// rings ours when there are more.
    pub fn read(&mut self, into: &mut [u8]) -> Result<(usize, Bell), Broken> {
        let mut count = self.take(into)?;
        if count < into.len() {
            self.memory.store(self.place.words + READER_ASKS, 1);
            self.memory.barrier();
            self.has_asked = true;
            count += self.take(&mut into[count..])?;
        } else if core::mem::take(&mut self.has_asked) {
            self.memory.store(self.place.words + READER_ASKS, 0);
        }
        if count == 0 {
            return Ok((0, Bell::Silent));
        }
        self.memory.barrier();
        Ok((count, heard(&self.memory, self.place.words + WRITER_ASKS)))
    }

    fn take(&mut self, into: &mut [u8]) -> Result<usize, Broken> {
        let there = self.there()?;
        let count = into.len().min(there as usize);
        let (first, second) = self.place.split(self.read, count);
        self.memory.copy_out(first.0, &mut into[..first.1]);
        self.memory.copy_out(second.0, &mut into[first.1..count]);
        if count > 0 {
            self.read = self.read.wrapping_add(count as u32);
            self.memory.store(self.place.words + READ, self.read);
        }
        Ok(count)
    }

    /// How many bytes are there.
    fn there(&mut self) -> Result<u32, Broken> {
        self.broken.map_or(Ok(()), Err)?;
        let there = self.memory.load(self.place.words + WRITTEN).wrapping_sub(self.read);
        if there > self.place.capacity {
            self.broken = Some(Broken);
            return Err(Broken);
        }
        Ok(there)
    }
}

impl<M: Memory> Writer<M> {
    /// For a ring that nobody has written to.
    pub(crate) fn new(memory: M, place: Place) -> Self {
        Self { memory, place, written: 0, has_asked: false, broken: None }
    }

    /// Puts in as much of `parts`, one after the other, as there is room for, and says how much and whether to ring the reader's
    /// bell. If that is not all, the reader rings ours when there is room again.
    pub fn write(&mut self, parts: &[&[u8]]) -> Result<(usize, Bell), Broken> {
        let wanted = parts.iter().map(|part| part.len()).sum();
        let mut count = self.put(parts, 0)?;
        if count < wanted {
            self.memory.store(self.place.words + WRITER_ASKS, 1);
            self.memory.barrier();
            self.has_asked = true;
            count += self.put(parts, count)?;
        } else if core::mem::take(&mut self.has_asked) {
            self.memory.store(self.place.words + WRITER_ASKS, 0);
        }
        if count == 0 {
            return Ok((0, Bell::Silent));
        }
        self.memory.barrier();
        Ok((count, heard(&self.memory, self.place.words + READER_ASKS)))
    }

    /// How many bytes a [`Writer::write`] would take at once.
    pub fn room(&mut self) -> Result<usize, Broken> {
        self.broken.map_or(Ok(()), Err)?;
        let waiting = self.written.wrapping_sub(self.memory.load(self.place.words + READ));
        match self.place.capacity.checked_sub(waiting) {
            Some(room) => Ok(room as usize),
            None => {
                self.broken = Some(Broken);
                Err(Broken)
            }
        }
    }

    /// Writes as much of `parts`, without their first `done` bytes, as there is room for.
    fn put(&mut self, parts: &[&[u8]], done: usize) -> Result<usize, Broken> {
        let room = self.room()?;
        let (mut skipped, mut count) = (done, 0);
        for part in parts {
            let skip = skipped.min(part.len());
            skipped -= skip;
            let part = &part[skip..];
            let part = &part[..part.len().min(room - count)];
            let (first, second) = self.place.split(self.written.wrapping_add(count as u32), part.len());
            self.memory.copy_in(first.0, &part[..first.1]);
            self.memory.copy_in(second.0, &part[first.1..]);
            count += part.len();
        }
        if count > 0 {
            self.written = self.written.wrapping_add(count as u32);
            self.memory.store(self.place.words + WRITTEN, self.written);
        }
        Ok(count)
    }
}

impl Place {
    /// Where `count` bytes from a position on lie, as offset and length each: up to the end, and from the beginning on.
    fn split(&self, position: u32, count: usize) -> ((usize, usize), (usize, usize)) {
        let at = (position & (self.capacity - 1)) as usize;
        let first = count.min(self.capacity as usize - at);
        ((self.bytes + at, first), (self.bytes, count - first))
    }
}

/// Takes the other side's question away, if there is one. Our position is out.
fn heard<M: Memory>(memory: &M, question: usize) -> Bell {
    match memory.load(question) != 0 && memory.swap(question, 0) != 0 {
        true => Bell::Ring,
        false => Bell::Silent,
    }
}
