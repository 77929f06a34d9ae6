//! Reading and writing: the standard streams and the way of the bytes. They go straight between the program's
//! memory and the provider; nothing is copied on the way, nothing is allocated.

use super::memory::Buffers;
use super::table::{Descriptor, File};
use super::types::fdflags;
use super::{Memory, PIECE_BYTES, State, TRANSFER_BYTES_MAX};
use crate::provider::{Host, Input, Output, OutputStream, Stream, StreamSet, Sync};
use crate::{Errno, Error, Result};

/// Where in a file.
#[derive(Clone, Copy)]
enum At {
    /// At the descriptor's position, which moves.
    Position,
    /// Here; the position stays.
    Offset(u64),
}

/// What a piece of a transfer came to.
enum Piece {
    /// All of it.
    Whole,
    /// Less, and there is no more to be had now: so many bytes.
    Short(usize),
}

impl<H: Host> State<H> {
    pub(super) fn fd_read(
        &mut self,
        memory: &mut Memory<'_>,
        fd: u32,
        buffers: u32,
        count: u32,
        done: u32,
    ) -> Result<()> {
        self.read(memory, fd, (buffers, count), At::Position, done)
    }

    pub(super) fn fd_pread(
        &mut self,
        memory: &mut Memory<'_>,
        fd: u32,
        buffers: u32,
        count: u32,
        offset: u64,
        done: u32,
    ) -> Result<()> {
        self.read(memory, fd, (buffers, count), At::Offset(offset), done)
    }

    pub(crate) fn fd_write(
        &mut self,
        memory: &mut Memory<'_>,
        fd: u32,
        buffers: u32,
        count: u32,
        done: u32,
    ) -> Result<()> {
        self.write(memory, fd, (buffers, count), At::Position, done)
    }

    pub(super) fn fd_pwrite(
        &mut self,
        memory: &mut Memory<'_>,
        fd: u32,
        buffers: u32,
        count: u32,
        offset: u64,
        done: u32,
    ) -> Result<()> {
        self.write(memory, fd, (buffers, count), At::Offset(offset), done)
    }

    fn read(
        &mut self,
        memory: &mut Memory<'_>,
        fd: u32,
        (buffers, count): (u32, u32),
        at: At,
        done: u32,
    ) -> Result<()> {
        let done = memory.place(done, 4)?;
        let total = match (self.table.get(fd)?, at) {
            (&Descriptor::Stream { stream: Stream::Input, flags }, At::Position) => {
                let buffers = memory.buffers(buffers, count)?;
                transfer(memory, buffers, |memory, at, length, total| {
                    self.read_input(memory.bytes_mut(at, length)?, flags, total)
                })?
            }
            (Descriptor::Stream { stream: Stream::Input, .. }, At::Offset(_)) => {
                return Err(Errno::Spipe.into());
            }
            (&Descriptor::File(file), _) => {
                file.readable()?;
                let start = self.start_of(&file, at)?;
                let buffers = memory.buffers(buffers, count)?;
                let total = transfer(memory, buffers, |memory, at, length, total| {
                    let offset = start.checked_add(u64::from(total)).ok_or(Errno::Overflow)?;
                    self.read_file(&file, memory.bytes_mut(at, length)?, offset)
                })?;
                self.advance(fd, at, start, total)?;
                total
            }
            (Descriptor::Stream { .. } | Descriptor::Directory { .. }, _) => return Err(Errno::Badf.into()),
        };
        memory.put(done, total.to_le_bytes());
        Ok(())
    }

    fn write(
        &mut self,
        memory: &mut Memory<'_>,
        fd: u32,
        (buffers, count): (u32, u32),
        at: At,
        done: u32,
    ) -> Result<()> {
        let done = memory.place(done, 4)?;
        let total = match (self.table.get(fd)?, at) {
            (&Descriptor::Stream { stream, flags }, _) => {
                let to = match stream {
                    Stream::Input => return Err(Errno::Badf.into()),
                    Stream::Output => OutputStream::Output,
                    Stream::Error => OutputStream::Error,
                };
                if let At::Offset(_) = at {
                    return Err(Errno::Spipe.into());
                }
                let buffers = memory.buffers(buffers, count)?;
                transfer(memory, buffers, |memory, at, length, total| {
                    self.write_output(to, memory.bytes(at, length)?, flags, total)
                })?
            }
            (&Descriptor::File(file), _) => {
                file.writable()?;
                let buffers = memory.buffers(buffers, count)?;
                self.write_file(memory, fd, &file, buffers, at)?
            }
            (Descriptor::Directory { .. }, _) => return Err(Errno::Badf.into()),
        };
        memory.put(done, total.to_le_bytes());
        Ok(())
    }

    fn write_file(
        &mut self,
        memory: &mut Memory<'_>,
        fd: u32,
        file: &File,
        buffers: Buffers,
        at: At,
    ) -> Result<u32> {
        let total = if file.flags & fdflags::APPEND != 0 && matches!(at, At::Position) {
            let mut end = file.position;
            let total = transfer(memory, buffers, |memory, at, length, _| {
                self.host.wait().checkpoint()?;
                let bytes = memory.bytes(at, length)?;
                let appended = self.host.files().append(file.handle, bytes)?;
                end = appended.end;
                Ok(piece(appended.count, bytes.len()))
            })?;
            self.table.file_mut(fd)?.position = end;
            total
        } else {
            let start = self.start_of(file, at)?;
            let total = transfer(memory, buffers, |memory, at, length, total| {
                self.host.wait().checkpoint()?;
                let bytes = memory.bytes(at, length)?;
                let offset = start.checked_add(u64::from(total)).ok_or(Errno::Fbig)?;
                Ok(piece(self.host.files().write_at(file.handle, offset, bytes)?, bytes.len()))
            })?;
            self.advance(fd, at, start, total)?;
            total
        };
        if file.writes_through() {
            self.host.files().sync(file.handle, Sync::All)?;
        }
        Ok(total)
    }

    /// Where a transfer begins. Only files with positions have an offset to be named.
    fn start_of(&self, file: &File, at: At) -> Result<u64, Errno> {
        match at {
            At::Position => Ok(file.position),
            At::Offset(offset) => {
                file.seekable()?;
                if i64::try_from(offset).is_ok() { Ok(offset) } else { Err(Errno::Inval) }
            }
        }
    }

    fn advance(&mut self, fd: u32, at: At, start: u64, total: u32) -> Result<(), Errno> {
        if let At::Position = at {
            let file = self.table.file_mut(fd)?;
            if file.seekable().is_ok() {
                file.position = start.checked_add(u64::from(total)).ok_or(Errno::Overflow)?;
            }
        }
        Ok(())
    }

    fn read_file(&mut self, file: &File, into: &mut [u8], offset: u64) -> Result<Piece> {
        self.host.wait().checkpoint()?;
        Ok(piece(self.host.files().read_at(file.handle, offset, into)?, into.len()))
    }

    /// Reads what is there; waits only if nothing has been read yet.
    fn read_input(&mut self, into: &mut [u8], flags: u16, total: u32) -> Result<Piece> {
        loop {
            match self.host.streams().read(into)? {
                Input::Bytes(count) => return Ok(piece(count, into.len())),
                Input::End => return Ok(Piece::Short(0)),
                Input::NotReady if total > 0 => return Ok(Piece::Short(0)),
                Input::NotReady if flags & fdflags::NONBLOCK != 0 => return Err(Errno::Again.into()),
                Input::NotReady => self.host.wait().wait(StreamSet::INPUT, None)?,
            };
        }
    }

    /// Writes all of it, waiting as often as it takes; a program that said not to wait gets what goes at
    /// once.
    fn write_output(&mut self, to: OutputStream, bytes: &[u8], flags: u16, total: u32) -> Result<Piece> {
        let mut written = 0;
        while written < bytes.len() {
            match self.host.streams().write(to, &bytes[written..]) {
                Ok(Output::Bytes(count)) => written += count.clamp(1, bytes.len() - written),
                Ok(Output::NotReady) if flags & fdflags::NONBLOCK == 0 => {
                    self.host.wait().wait(StreamSet::of(to.into()), None)?;
                }
                Ok(Output::NotReady) if written == 0 && total == 0 => return Err(Errno::Again.into()),
                Ok(Output::NotReady) => return Ok(Piece::Short(written)),
                Err(Error::Errno(_)) if written > 0 => return Ok(Piece::Short(written)),
                Err(error) => return Err(error),
            }
            self.host.wait().checkpoint()?;
        }
        Ok(Piece::Whole)
    }
}

fn piece(count: usize, asked: usize) -> Piece {
    if count < asked { Piece::Short(count) } else { Piece::Whole }
}

/// Walks over the buffers in pieces of bounded length, until all are done or one comes short. `step` is given
/// address and length of a piece and how many bytes were done before. An errno after some bytes were done is
/// not told now: the next call meets it again.
fn transfer(
    memory: &mut Memory<'_>,
    buffers: Buffers,
    mut step: impl FnMut(&mut Memory<'_>, u32, u32, u32) -> Result<Piece>,
) -> Result<u32> {
    let mut total = 0;
    for index in 0..buffers.count() {
        let (mut at, mut left) = match memory.buffer(buffers, index) {
            Ok(buffer) => buffer,
            Err(_) if total > 0 => return Ok(total),
            Err(errno) => return Err(errno.into()),
        };
        left = left.min(TRANSFER_BYTES_MAX - total);
        while left > 0 {
            let length = left.min(PIECE_BYTES as u32);
            match step(memory, at, length, total) {
                Ok(Piece::Whole) => total += length,
                Ok(Piece::Short(count)) => return Ok(total + count as u32),
                Err(Error::Errno(_)) if total > 0 => return Ok(total),
                Err(error) => return Err(error),
            }
            left -= length;
            at = at.wrapping_add(length);
        }
    }
    Ok(total)
}
