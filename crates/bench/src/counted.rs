//! What all CPUs of a machine execute between two moments, counted by our plugin of QEMU's (`crates/counter`).

use crate::Failure;
use crate::artifacts::Workshop;
use crate::machine::Machine;
use crate::places::Places;

/// How time passes in the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Time {
    /// A nanosecond for each instruction, and one CPU at a time: counts are the same in each run.
    OfInstructions,
    /// This machine's, and each CPU is a thread of it.
    Real,
}

/// What was counted.
pub struct Counted {
    /// From the beginning to the end, of all CPUs.
    pub instructions: u64,
    /// What went out through the serial port.
    pub output: String,
}

/// Where counting begins; it ends with a mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// With the kernel's first instruction.
    Entry,
    /// With a mark.
    Mark,
}

/// Runs the machine to its end.
///
/// # Errors
/// If it does not make the marks.
pub fn count(
    places: &Places,
    workshop: &Workshop<'_>,
    machine: &Machine,
    time: Time,
    from: From,
) -> Result<Counted, Failure> {
    let (report, output) = (workshop.path("report"), workshop.path("output"));
    let mut command = machine.qemu(&output);
    match time {
        Time::OfInstructions => command.args(["-icount", "shift=0,sleep=off"]),
        Time::Real => command.args(["-accel", "tcg,thread=multi"]),
    };
    let mut plugin = format!("file={},report={}", places.counter.display(), report.display());
    if from == From::Entry {
        plugin += &format!(",from={:x}", machine.entry);
    }
    let run = command.args(["-plugin", &plugin]).output()?;
    let output = std::fs::read(&output).unwrap_or_default();
    let output = String::from_utf8_lossy(&output).into_owned();
    let report = std::fs::read_to_string(&report).unwrap_or_default();
    let instructions = between(&report).map_err(|error| {
        let (kernel, errors) = (machine.kernel.display(), String::from_utf8_lossy(&run.stderr));
        format!("{kernel}: {error}; it said:\n{output}{errors}")
    })?;
    Ok(Counted { instructions, output })
}

/// What the plugin's report says of the time from the one beginning to the one end.
fn between(report: &str) -> Result<u64, String> {
    let mut moments = [None; 2];
    for line in report.lines() {
        let (what, counts) = line.split_once(' ').ok_or_else(|| format!("no count: {line}"))?;
        let place = match what {
            "begin" => 0,
            "end" => 1,
            "exit" => continue,
            _ => return Err(format!("no moment: {line}")),
        };
        let counts = counts.split(' ').map(str::parse::<u64>);
        let sum = counts.sum::<Result<u64, _>>().map_err(|error| format!("{line}: {error}"))?;
        if moments[place].replace(sum).is_some() {
            return Err(format!("there are several moments `{what}`"));
        }
    }
    match moments {
        [Some(begin), Some(end)] => {
            end.checked_sub(begin).ok_or_else(|| String::from("it ends before it begins"))
        }
        [None, _] => Err(String::from("it does not begin")),
        [_, None] => Err(String::from("it does not end")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_difference_is_of_all_cpus() {
        assert_eq!(between("begin 10 1\nend 30 2\nexit 99 99\n"), Ok(21));
    }

    #[test]
    fn a_moment_is_missing_or_wrong() {
        for report in [
            "",
            "begin 1\n",
            "end 1\n",
            "begin 2\nend 1\n",
            "begin 1\nend 2\nend 3\n",
            "begin\nend 2\n",
            "begin 1\nend x\n",
            "begin 1\nmiddle 1\nend 2\n",
        ] {
            assert!(between(report).is_err(), "{report}");
        }
    }
}
