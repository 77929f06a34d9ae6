//! A part of a device as a device of its own.

use std::io::{self, Read, Seek, SeekFrom, Write};

/// `length` bytes of a device from `start` on.
#[derive(Debug)]
pub struct Window<D> {
    device: D,
    start: u64,
    length: u64,
    position: u64,
}

impl<D: Read + Write + Seek> Window<D> {
    /// A window whose position is its first byte.
    pub fn new(device: D, start: u64, length: u64) -> Self {
        Self { device, start, length, position: 0 }
    }

    /// The device, wherever its position is.
    pub fn into_inner(self) -> D {
        self.device
    }

    /// Moves the device to the window's position and says how many of `wanted` bytes there are.
    fn approach(&mut self, wanted: usize) -> io::Result<usize> {
        let left = self.length.saturating_sub(self.position);
        self.device.seek(SeekFrom::Start(self.start + self.position))?;
        Ok(usize::try_from(left).unwrap_or(usize::MAX).min(wanted))
    }
}

impl<D: Read + Write + Seek> Read for Window<D> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.approach(buffer.len())?;
        let read = self.device.read(&mut buffer[..count])?;
        self.position += read as u64;
        Ok(read)
    }
}

impl<D: Read + Write + Seek> Write for Window<D> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let count = self.approach(buffer.len())?;
        let written = self.device.write(&buffer[..count])?;
        self.position += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.device.flush()
    }
}

impl<D: Read + Write + Seek> Seek for Window<D> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let target = match to {
            SeekFrom::Start(offset) => Some(offset),
            SeekFrom::Current(offset) => self.position.checked_add_signed(offset),
            SeekFrom::End(offset) => self.length.checked_add_signed(offset),
        };
        self.position = target.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}
