//! Sizes, durations and parts of a CPU as people write them.

use bundle::ProgramPlan;
use std::time::Duration;

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteCount(pub u64);

/// How much CPU time may be used of the time that passes, in millionths of one CPU. More than 1,000,000 is more than one CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CpuBudget {
    /// Millionths of one CPU; not 0.
    pub ppm: u32,
}

/// Why a size, a duration or a part of a CPU was not understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// A size without a number, with an unknown unit, or beyond 64 bits.
    #[error("not a size: write a number of bytes, or one with KiB, MiB or GiB, as in 256MiB")]
    Size,
    /// A duration without a number or with an unknown unit.
    #[error("not a duration: write a number with its unit, as in 500ms, 10s, 2m or 1h")]
    Duration,
    /// A part of a CPU without a number or without a `%`.
    #[error("not a part of a CPU: write a number and %, as in 50%; two CPUs are 200%")]
    CpuBudget,
    /// A size without `/s`.
    #[error("not a rate: write a size for a second, as in 1MiB/s, or \"unlimited\"")]
    Rate,
    /// A stack that is too small or too large, or no whole pages.
    #[error("not a stack: write a size of whole pages from 16KiB to 512KiB, as in 256KiB")]
    Stack,
    /// Zero, where nothing could happen.
    #[error("zero is no limit that anything could keep")]
    Zero,
}

/// A page.
const STACK_STEP_BYTES: u64 = 4096;

const SIZE_UNITS: [(&str, u64); 10] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("K", 1 << 10),
    ("M", 1 << 20),
    ("G", 1 << 30),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("B", 1),
];

const DURATION_UNITS: [(&str, u64); 6] = [
    ("ns", 1),
    ("us", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

impl std::str::FromStr for ByteCount {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let (number, unit) = split(text);
        let factor = match unit {
            "" => 1,
            unit => factor(&SIZE_UNITS, unit).ok_or(UnitError::Size)?,
        };
        match scale(number, factor).ok_or(UnitError::Size)? {
            0 => Err(UnitError::Zero),
            bytes => Ok(Self(bytes)),
        }
    }
}

impl std::fmt::Display for ByteCount {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (unit, name) = match self.0 {
            0x4000_0000.. => (1u64 << 30, "GiB"),
            0x10_0000.. => (1 << 20, "MiB"),
            0x400.. => (1 << 10, "KiB"),
            _ => (1, "bytes"),
        };
        match self.0 % unit {
            0 => write!(f, "{} {name}", self.0 / unit),
            _ => write!(f, "{:.1} {name}", self.0 as f64 / unit as f64),
        }
    }
}

/// Whether a program can be given a stack of this size.
pub fn check_stack(size: ByteCount) -> Result<(), UnitError> {
    let is_whole = size.0.is_multiple_of(STACK_STEP_BYTES);
    if is_whole && ProgramPlan::STACK_RANGE_BYTES.contains(&size.0) { Ok(()) } else { Err(UnitError::Stack) }
}

/// Reads the size of a stack.
pub fn parse_stack(text: &str) -> Result<ByteCount, UnitError> {
    let size = text.parse()?;
    check_stack(size).map(|()| size)
}

/// Reads how many bytes there may be in a second: `1MiB/s`.
pub fn parse_rate(text: &str) -> Result<ByteCount, UnitError> {
    let size = text.strip_suffix("/s").ok_or(UnitError::Rate)?;
    size.trim_end().parse().map_err(|error| if error == UnitError::Zero { error } else { UnitError::Rate })
}

/// Reads a duration with a unit: `10s`, `1.5m`.
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    let (number, unit) = split(text);
    let factor = factor(&DURATION_UNITS, unit).ok_or(UnitError::Duration)?;
    match scale(number, factor).ok_or(UnitError::Duration)? {
        0 => Err(UnitError::Zero),
        nanoseconds => Ok(Duration::from_nanos(nanoseconds)),
    }
}

/// Millionths in a hundredth.
const PPM_PER_PERCENT: u64 = 10_000;

impl std::str::FromStr for CpuBudget {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let (number, unit) = split(text);
        let ppm = scale(number, PPM_PER_PERCENT).filter(|_| unit == "%").ok_or(UnitError::CpuBudget)?;
        match u32::try_from(ppm).map_err(|_| UnitError::CpuBudget)? {
            0 => Err(UnitError::Zero),
            ppm => Ok(Self { ppm }),
        }
    }
}

impl std::fmt::Display for CpuBudget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}%", f64::from(self.ppm) / PPM_PER_PERCENT as f64)
    }
}

fn split(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    (&text[..end], text[end..].trim_start())
}

fn factor(units: &[(&str, u64)], name: &str) -> Option<u64> {
    units.iter().find(|(unit, _)| *unit == name).map(|(_, factor)| *factor)
}

/// `number`, a decimal fraction, times `factor`, exactly, rounded down.
fn scale(number: &str, factor: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let whole = whole.parse::<u64>().ok()?.checked_mul(factor)?;
    let digits = u32::try_from(fraction.len()).ok().filter(|digits| *digits <= 9)?;
    let part = u128::from(fraction.parse::<u64>().ok()?) * u128::from(factor) / 10u128.pow(digits);
    whole.checked_add(u64::try_from(part).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read() {
        for (text, bytes) in [
            ("1", 1),
            ("256MiB", 256 << 20),
            ("256 MiB", 256 << 20),
            ("1.5GiB", 3 << 29),
            ("64K", 64 << 10),
            ("2MB", 2_000_000),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(text.parse(), Ok(ByteCount(bytes)), "{text}");
        }
    }

    #[test]
    fn stacks_are_whole_pages() {
        assert_eq!(parse_stack("256KiB"), Ok(ByteCount(256 << 10)));
        for text in ["8KiB", "65MiB", "17000", "100000GiB"] {
            assert_eq!(parse_stack(text), Err(UnitError::Stack), "{text}");
        }
        assert_eq!(parse_stack("x"), Err(UnitError::Size));
    }

    #[test]
    fn rates_are_for_a_second() {
        assert_eq!(parse_rate("1MiB/s"), Ok(ByteCount(1 << 20)));
        assert_eq!(parse_rate("0/s"), Err(UnitError::Zero));
        for text in ["1MiB", "/s", "fast/s", "1MiB/m"] {
            assert_eq!(parse_rate(text), Err(UnitError::Rate), "{text}");
        }
    }

    #[test]
    fn other_text_is_no_size() {
        for text in ["", "MiB", "-1", "1.MiB", "1..2", "1XiB", "1mib", "99999999999GiB", "٣"] {
            assert_eq!(text.parse::<ByteCount>(), Err(UnitError::Size), "{text}");
        }
        assert_eq!("0".parse::<ByteCount>(), Err(UnitError::Zero));
    }

    #[test]
    fn durations_are_read() {
        for (text, ms) in
            [("500ms", 500), ("10s", 10_000), ("2m", 120_000), ("1.5s", 1500), ("1h", 3_600_000)]
        {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "10", "s", "-1s", "1 day", "1e3s"] {
            assert_eq!(parse_duration(text), Err(UnitError::Duration), "{text}");
        }
        assert_eq!(parse_duration("0s"), Err(UnitError::Zero));
    }

    #[test]
    fn parts_of_a_cpu_are_read_and_written() {
        for (text, ppm) in [("50%", 500_000), ("100 %", 1_000_000), ("0.5%", 5_000), ("400%", 4_000_000)] {
            assert_eq!(text.parse(), Ok(CpuBudget { ppm }), "{text}");
        }
        for text in ["", "50", "%", "-1%", "half", "99999999999%"] {
            assert_eq!(text.parse::<CpuBudget>(), Err(UnitError::CpuBudget), "{text}");
        }
        assert_eq!("0%".parse::<CpuBudget>(), Err(UnitError::Zero));
        assert_eq!("0.00001%".parse::<CpuBudget>(), Err(UnitError::Zero), "below a millionth");
        assert_eq!(CpuBudget { ppm: 125_000 }.to_string(), "12.5%");
    }

    #[test]
    fn sizes_are_written() {
        for (bytes, text) in [(5, "5 bytes"), (64 << 20, "64 MiB"), (3 << 29, "1.5 GiB"), (1 << 30, "1 GiB")]
        {
            assert_eq!(ByteCount(bytes).to_string(), text);
        }
    }
}
