//! Times, sizes and states in few words.

use super::escape::escaped;
use control::{End, Program, State};
use manifest::units::ByteCount;

/// What stands where there is nothing to say.
pub const NONE: &str = "—";

const NS_PER_S: u64 = 1_000_000_000;

/// A length of time in its two largest units: `12s`, `3m20s`, `2h05m`, `3d04h`.
pub fn time(ns: u64) -> String {
    let (seconds, minutes, hours) = (ns / NS_PER_S, ns / NS_PER_S / 60, ns / NS_PER_S / 3600);
    match () {
        () if minutes == 0 => format!("{seconds}s"),
        () if hours == 0 => format!("{minutes}m{:02}s", seconds % 60),
        () if hours < 24 => format!("{hours}h{:02}m", minutes % 60),
        () => format!("{}d{:02}h", hours / 24, hours % 24),
    }
}

/// CPU time: below a minute with hundredths of a second.
pub fn cpu_time(ns: u64) -> String {
    if ns < 60 * NS_PER_S {
        format!("{}.{:02}s", ns / NS_PER_S, ns % NS_PER_S / 10_000_000)
    } else {
        time(ns)
    }
}

/// Used, and what may be used.
pub fn memory(used_bytes: u64, quota_bytes: u64) -> String {
    format!("{} / {}", ByteCount(used_bytes), ByteCount(quota_bytes))
}

/// What a program is doing at `now_ns`.
pub fn state(program: &Program, now_ns: u64) -> String {
    match program.state {
        State::Backoff { until_ns } => {
            // Rounded up, so that it does not say 0 seconds for the better part of one.
            let seconds = until_ns.saturating_sub(now_ns).div_ceil(NS_PER_S);
            format!("{} {}", program.state.word(), time(seconds * NS_PER_S))
        }
        state => state.word().to_owned(),
    }
}

/// How long a program has been what it is.
pub fn since(program: &Program, now_ns: u64) -> String {
    let then_ns = match program.state {
        State::Running | State::Stopping => program.started_ns,
        State::Starting => None,
        State::Backoff { .. } | State::Ended | State::Stopped => program.ended_ns,
    };
    then_ns.map_or(NONE.to_owned(), |then_ns| format!("{} ago", time(now_ns.saturating_sub(then_ns))))
}

/// How a program ended last.
pub fn last_end(end: Option<&End>) -> String {
    // On one line, whatever is in it.
    end.map_or(NONE.to_owned(), |end| escaped(&end.to_string()).replace(['\n', '\t'], " "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_two_units() {
        for (seconds, text) in [
            (0, "0s"),
            (59, "59s"),
            (60, "1m00s"),
            (200, "3m20s"),
            (3600, "1h00m"),
            (7500, "2h05m"),
            (86_400, "1d00h"),
            (273_600, "3d04h"),
        ] {
            assert_eq!(time(seconds * NS_PER_S + NS_PER_S / 2), text);
        }
        assert_eq!(cpu_time(1_239_000_000), "1.23s");
        assert_eq!(cpu_time(60 * NS_PER_S), "1m00s");
        assert_eq!(time(u64::MAX), "213503d23h");
    }

    #[test]
    fn a_wait_is_said_from_now() {
        let mut program = super::super::ps::tests::program("x", State::Backoff { until_ns: 12 * NS_PER_S });
        assert_eq!(state(&program, 10 * NS_PER_S + 1), "backoff 2s");
        assert_eq!(state(&program, 20 * NS_PER_S), "backoff 0s");
        program.ended_ns = Some(9 * NS_PER_S);
        assert_eq!(since(&program, 10 * NS_PER_S), "1s ago");
        program.state = State::Starting;
        assert_eq!(since(&program, 10 * NS_PER_S), NONE);
    }

    #[test]
    fn an_end_stays_on_its_line() {
        let end = End::NotStarted { why: "no\nfile\u{1b}".to_owned() };
        assert_eq!(last_end(Some(&end)), "not started: no file\\u{1b}");
        assert_eq!(last_end(None), "—");
    }
}
