use crate::{Error, Kind};

/// The most frames that a report lists.
pub const FRAMES_MAX: usize = 48;

/// The most bytes of a function's name that a report holds.
pub const NAME_BYTES_MAX: usize = 240;

/// The most bytes of the reason that a report holds.
pub const REASON_BYTES_MAX: usize = 2048;

/// The longest body of a report, in bytes.
pub(crate) const BODY_BYTES_MAX: usize =
    LENGTH_BYTES + REASON_BYTES_MAX + FRAMES_MAX * (CallFrame::HEAD_BYTES + NAME_BYTES_MAX);

const LENGTH_BYTES: usize = 2;

/// What a process has used of something, and the most that it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measure {
    /// So much.
    pub used: u64,
    /// [`Measure::NO_LIMIT`] if there is none.
    pub max: u64,
}

impl Measure {
    /// Nobody keeps it from using more.
    pub const NO_LIMIT: u64 = u64::MAX;
}

/// What a process had used when it ended, and what it might have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Linear memories and tables.
    pub memory_bytes: Measure,
    /// Memory of the library OS that serves it.
    pub host_bytes: Measure,
    /// Elements of its tables.
    pub table_elements: Measure,
    /// CPU time.
    pub cpu_ns: Measure,
    /// Time since it began.
    pub time_ns: Measure,
    /// Stack where it was when it ended; 0 if that is not known.
    pub stack_bytes: Measure,
    /// Open descriptors.
    pub descriptors: Measure,
    /// What it has written to its output streams; the most is for a second.
    pub log_bytes: Measure,
}

impl Limits {
    const COUNT: usize = 8;
    const BYTES: usize = Self::COUNT * 16;

    /// The inverse of [`Limits::measures`].
    const fn of(measures: [Measure; Self::COUNT]) -> Self {
        let [memory_bytes, host_bytes, table_elements, cpu_ns, time_ns, stack_bytes, descriptors, log_bytes] =
            measures;
        Self {
            memory_bytes,
            host_bytes,
            table_elements,
            cpu_ns,
            time_ns,
            stack_bytes,
            descriptors,
            log_bytes,
        }
    }

    fn measures(&self) -> [Measure; Self::COUNT] {
        [
            self.memory_bytes,
            self.host_bytes,
            self.table_elements,
            self.cpu_ns,
            self.time_ns,
            self.stack_bytes,
            self.descriptors,
            self.log_bytes,
        ]
    }
}

/// The numbers of a report: what is laid out in the payload's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CrashHead {
    /// What was used, and the most.
    pub limits: Limits,
    /// How many frames were on the stack; the report lists the innermost.
    pub depth: u32,
}

impl CrashHead {
    pub(crate) const BYTES: usize = Limits::BYTES + 4;

    /// As it lies in the payload.
    pub fn to_bytes(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        let words = self.limits.measures().into_iter().flat_map(|measure| [measure.used, measure.max]);
        for (to, word) in bytes.chunks_exact_mut(8).zip(words) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        bytes[Limits::BYTES..].copy_from_slice(&self.depth.to_le_bytes());
        bytes
    }

    /// The inverse: any bytes are one.
    pub(crate) fn from_bytes(bytes: &[u8; Self::BYTES]) -> Self {
        let word = |at: usize| bytes[at..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        let measure = |index: usize| Measure { used: word(16 * index), max: word(16 * index + 8) };
        let depth = bytes[Limits::BYTES..].first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
        Self { limits: Limits::of(core::array::from_fn(measure)), depth }
    }
}

/// A function that was on the stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallFrame<'a> {
    /// Its number in the module.
    pub function: u32,
    /// Where in its compiled code, in bytes.
    pub offset: u32,
    /// What the module calls it; empty if it does not say.
    pub name: &'a str,
}

impl CallFrame<'_> {
    /// What stands before the name, in bytes.
    pub const HEAD_BYTES: usize = 8 + LENGTH_BYTES;
}

/// The body of a report as it is put together: any part that is too long is cut, so it fits a frame.
#[derive(Debug)]
pub struct CrashBody {
    bytes: [u8; BODY_BYTES_MAX],
    length: usize,
    frames: usize,
}

impl CrashBody {
    /// With no frame yet.
    pub fn new(reason: &str) -> Self {
        let mut body = Self { bytes: [0; BODY_BYTES_MAX], length: 0, frames: 0 };
        body.text(reason, REASON_BYTES_MAX);
        body
    }

    /// Adds the next frame, from the innermost on; beyond [`FRAMES_MAX`] none is taken.
    pub fn push(&mut self, frame: CallFrame<'_>) {
        if self.frames < FRAMES_MAX {
            self.frames += 1;
            self.add(&frame.function.to_le_bytes());
            self.add(&frame.offset.to_le_bytes());
            self.text(frame.name, NAME_BYTES_MAX);
        }
    }

    fn text(&mut self, text: &str, bytes_max: usize) {
        let text = &text[..text.floor_char_boundary(bytes_max)];
        self.add(&(text.len() as u16).to_le_bytes());
        self.add(text.as_bytes());
    }

    /// There is room: [`BODY_BYTES_MAX`] is the sum of all that can be added.
    fn add(&mut self, bytes: &[u8]) {
        self.bytes[self.length..self.length + bytes.len()].copy_from_slice(bytes);
        self.length += bytes.len();
    }
}

impl AsRef<[u8]> for CrashBody {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// What became of a process that failed, read from a frame's payload.
#[derive(Clone, Copy, Debug)]
pub struct Crash<'a> {
    /// The numbers.
    pub head: CrashHead,
    /// Why it ended, for a person.
    pub reason: &'a str,
    /// What follows the reason: frames, each of which has been looked at.
    frames: &'a [u8],
}

impl<'a> Crash<'a> {
    /// Reads a whole payload.
    pub fn parse(payload: &'a [u8]) -> Result<Self, Error> {
        let (head, body) = payload
            .split_first_chunk()
            .ok_or(Error::WrongLength { kind: Kind::Crash, length: payload.len() })?;
        Self::read(CrashHead::from_bytes(head), body)
    }

    /// Reads the body that came before this head.
    pub fn read(head: CrashHead, body: &'a [u8]) -> Result<Self, Error> {
        let mut rest = body;
        let reason = take_text(&mut rest, REASON_BYTES_MAX).ok_or(Error::Damaged(Kind::Crash))?;
        let crash = Self { head, reason, frames: rest };
        let mut count = 0;
        while !rest.is_empty() {
            take_frame(&mut rest).filter(|_| count < FRAMES_MAX).ok_or(Error::Damaged(Kind::Crash))?;
            count += 1;
        }
        Ok(crash)
    }

    /// The functions on the stack, the innermost first.
    pub fn frames(&self) -> impl Iterator<Item = CallFrame<'a>> + use<'a> {
        let mut rest = self.frames;
        core::iter::from_fn(move || take_frame(&mut rest))
    }
}

fn take_frame<'a>(rest: &mut &'a [u8]) -> Option<CallFrame<'a>> {
    let function = u32::from_le_bytes(take(rest)?);
    let offset = u32::from_le_bytes(take(rest)?);
    let name = take_text(rest, NAME_BYTES_MAX)?;
    Some(CallFrame { function, offset, name })
}

fn take_text<'a>(rest: &mut &'a [u8], bytes_max: usize) -> Option<&'a str> {
    let length = usize::from(u16::from_le_bytes(take(rest)?));
    let (text, after) = rest.split_at_checked(length).filter(|_| length <= bytes_max)?;
    *rest = after;
    str::from_utf8(text).ok()
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, after) = rest.split_first_chunk::<N>()?;
    *rest = after;
    Some(*taken)
}

#[cfg(test)]
mod tests {
    extern crate alloc;

    use super::*;
    use alloc::vec::Vec;

    const HEAD: CrashHead = {
        const fn measure(used: u64) -> Measure {
            Measure { used, max: Measure::NO_LIMIT - used }
        }
        let measures =
            [measure(0), measure(1), measure(2), measure(3), measure(4), measure(5), measure(6), measure(7)];
        CrashHead { limits: Limits::of(measures), depth: 9 }
    };

    fn payload(body: &CrashBody) -> Vec<u8> {
        [&HEAD.to_bytes()[..], body.as_ref()].concat()
    }

    #[test]
    fn what_is_put_together_is_read() {
        let frames = [
            CallFrame { function: 7, offset: 0x20, name: "größer" },
            CallFrame { function: u32::MAX, offset: 0, name: "" },
        ];
        let mut body = CrashBody::new("unreachable");
        frames.into_iter().for_each(|frame| body.push(frame));
        let payload = payload(&body);
        let crash = Crash::parse(&payload).unwrap();
        assert_eq!((crash.head, crash.reason), (HEAD, "unreachable"));
        assert_eq!(crash.frames().collect::<Vec<_>>(), frames);
    }

    #[test]
    fn what_is_too_long_is_cut_and_fits() {
        let long = "ä".repeat(40_000);
        let mut body = CrashBody::new(&long);
        (0..FRAMES_MAX as u32 + 5)
            .for_each(|function| body.push(CallFrame { function, offset: 1, name: &long }));
        let payload = payload(&body);
        let crash = Crash::parse(&payload).unwrap();
        assert_eq!(crash.reason.len(), REASON_BYTES_MAX);
        assert_eq!(crash.frames().count(), FRAMES_MAX);
        assert!(crash.frames().all(|frame| frame.name.len() == NAME_BYTES_MAX));
        assert!(body.as_ref().len() <= BODY_BYTES_MAX);
    }

    #[test]
    fn what_is_cut_short_or_damaged_is_refused_and_never_more_than_allowed() {
        let mut body = CrashBody::new("why");
        body.push(CallFrame { function: 1, offset: 2, name: "main" });
        let whole = payload(&body);
        let is_whole = |length: usize| length == CrashHead::BYTES + 5 || length == whole.len();
        for length in 0..=whole.len() {
            assert_eq!(Crash::parse(&whole[..length]).is_ok(), is_whole(length), "{length} bytes");
        }
        for at in CrashHead::BYTES..whole.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut damaged = whole.clone();
                damaged[at] = value;
                if let Ok(crash) = Crash::parse(&damaged) {
                    assert!(crash.reason.len() <= REASON_BYTES_MAX && crash.frames().count() <= FRAMES_MAX);
                }
            }
        }
        let frame = &body.as_ref()[5..];
        let many = [&HEAD.to_bytes()[..], &[0, 0], &frame.repeat(FRAMES_MAX + 1)].concat();
        assert!(matches!(Crash::parse(&many), Err(Error::Damaged(Kind::Crash))));
        assert!(Crash::parse(&many[..many.len() - frame.len()]).is_ok());
    }
}
