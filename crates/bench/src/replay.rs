//! QEMU's record of a run, and what it says about time: after how many guest instructions each byte left.
//!
//! With `-icount shift=0,sleep=off,rr=record` QEMU writes down everything that came to the guest from outside or went
//! out through a character device, and between two such events how many instructions the guest executed. That
//! number is exact and the same in every run; it needs nothing in the guest, so it is the same measure for any guest.
//!
//! Format: QEMU 7.2, `replay/replay-internal.h` and `replay-internal.c`; big-endian.

/// The format's version in QEMU 7.2 (`REPLAY_VERSION` in `replay/replay.c`).
const VERSION: u32 = 0x00e0_200c;
/// Version and an offset for snapshots.
const HEADER_BYTES: usize = 12;

/// `enum ReplayEvents` of QEMU 7.2, with the number of kinds that its ranges have.
mod event {
    pub const INSTRUCTION: u8 = 0;
    pub const INTERRUPT: u8 = 1;
    pub const EXCEPTION: u8 = 2;
    pub const ASYNC_BH: u8 = 3;
    pub const ASYNC_BH_ONESHOT: u8 = 4;
    pub const SHUTDOWN: u8 = 10;
    pub const SHUTDOWN_LAST: u8 = 21;
    pub const CHAR_WRITE: u8 = 22;
    pub const RANDOM: u8 = 27;
    pub const CLOCK: u8 = 28;
    pub const CLOCK_LAST: u8 = 29;
    pub const CHECKPOINT: u8 = 30;
    pub const CHECKPOINT_LAST: u8 = 38;
    pub const END: u8 = 39;
}

/// When what happened, in guest instructions from reset.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// For each byte that went out: the instructions before it.
    pub bytes_out: Vec<u64>,
    /// Until the end.
    pub end: u64,
}

/// Why a record cannot be read.
#[derive(Debug, PartialEq, Eq)]
pub enum RecordError {
    /// Of a QEMU that this does not know: the format's version.
    Version(u32),
    /// Shorter than its events say: QEMU did not end by itself.
    CutShort,
    /// An event that this machine should not have: its number, and where in the file.
    Event(u8, usize),
}

impl std::fmt::Display for RecordError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Version(version) => {
                write!(
                    f,
                    "QEMU's record is of format {version:#x}, and {VERSION:#x} (QEMU 7.2) is the one known here"
                )
            }
            Self::CutShort => f.write_str("QEMU's record ends in the middle"),
            Self::Event(number, at) => write!(f, "QEMU's record has an unknown event {number} at byte {at}"),
        }
    }
}

impl Record {
    /// Reads the file that `rrfile` names.
    ///
    /// # Errors
    /// If it is not a whole record of a QEMU that is known.
    pub fn parse(file: &[u8]) -> Result<Self, RecordError> {
        let mut reader = Reader { file, at: 0 };
        let version = reader.word()?;
        if version != VERSION {
            return Err(RecordError::Version(version));
        }
        reader.skip(HEADER_BYTES - 4)?;
        let mut record = Self::default();
        loop {
            let at = reader.at;
            match reader.byte()? {
                event::INSTRUCTION => record.end += u64::from(reader.word()?),
                event::INTERRUPT | event::EXCEPTION => {}
                event::ASYNC_BH | event::ASYNC_BH_ONESHOT | event::CLOCK..=event::CLOCK_LAST => {
                    reader.skip(8)?
                }
                event::SHUTDOWN..=event::SHUTDOWN_LAST | event::CHECKPOINT..=event::CHECKPOINT_LAST => {}
                event::CHAR_WRITE => {
                    // How many bytes were written, and up to which offset.
                    let (written, _) = (reader.word()?, reader.word()?);
                    let written = usize::try_from(written as i32).unwrap_or(0);
                    record.bytes_out.extend(std::iter::repeat_n(record.end, written));
                }
                event::RANDOM => {
                    let (_, length) = (reader.word()?, reader.word()?);
                    reader.skip(length as usize)?;
                }
                event::END => return Ok(record),
                other => return Err(RecordError::Event(other, at)),
            }
        }
    }
}

struct Reader<'a> {
    file: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn byte(&mut self) -> Result<u8, RecordError> {
        let byte = self.file.get(self.at).ok_or(RecordError::CutShort)?;
        self.at += 1;
        Ok(*byte)
    }

    fn word(&mut self) -> Result<u32, RecordError> {
        let bytes = self.file.get(self.at..self.at + 4).ok_or(RecordError::CutShort)?;
        self.at += 4;
        Ok(u32::from_be_bytes(bytes.try_into().expect("four bytes")))
    }

    fn skip(&mut self, bytes: usize) -> Result<(), RecordError> {
        self.at = self.at.checked_add(bytes).ok_or(RecordError::CutShort)?;
        if self.at <= self.file.len() { Ok(()) } else { Err(RecordError::CutShort) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(events: &[&[u8]]) -> Vec<u8> {
        let mut file = VERSION.to_be_bytes().to_vec();
        file.extend([0; 8]);
        events.iter().for_each(|event| file.extend_from_slice(event));
        file
    }

    #[test]
    fn bytes_have_the_instructions_before_them() {
        let file = record(&[
            &[28, 0, 0, 0, 0, 0, 0, 0, 9],
            &[0, 0, 0, 1, 0],
            &[22, 0, 0, 0, 1, 0, 0, 0, 1],
            &[0, 0, 0, 0, 15],
            &[22, 0, 0, 0, 2, 0, 0, 0, 2],
            &[14],
            &[0, 0, 0, 0, 5],
            &[39],
        ]);
        assert_eq!(Record::parse(&file), Ok(Record { bytes_out: vec![256, 271, 271], end: 276 }));
    }

    #[test]
    fn what_is_not_whole_is_refused() {
        let file = record(&[&[0, 0, 0, 1, 0], &[39]]);
        for length in 0..file.len() {
            assert_eq!(Record::parse(&file[..length]), Err(RecordError::CutShort), "{length}");
        }
        assert_eq!(Record::parse(&[0, 0, 0, 1]), Err(RecordError::Version(1)));
        assert_eq!(Record::parse(&record(&[&[200]])), Err(RecordError::Event(200, HEADER_BYTES)));
    }
}
