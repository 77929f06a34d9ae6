//! What the shell sees when `selkis` ends.

/// The program's own exit status is passed on (0 to 255). These are for the other ends. `run --help` and `up --help` list theirs.
pub mod status {
    /// There is no such system or program to look at, or none that answers.
    pub const NO_ANSWER: u8 = 1;
    /// Selkis could not run the program, as `env(1)` and `docker run` have it.
    pub const FAILED: u8 = 125;
    /// Of the programs of a system some failed.
    pub const SYSTEM_FAILED: u8 = 1;
    /// Ended by Ctrl-C, second press: 128 + SIGINT.
    pub const INTERRUPTED: u8 = 130;
}

/// The table for `--help`.
pub const HELP: &str = "\
Exit status:
  The program's own, 0 to 255, or
  124  the program's time was up (--timeout, --cpu-time)
  125  Selkis could not run it: the message says why
  130  ended by Ctrl-C or SIGTERM
  134  the program trapped: a backtrace is on standard error
  137  the system ran out of memory
    2  the command line was wrong";

/// The table for `up --help`.
pub const UP_HELP: &str = "\
Exit status:
    0  every program ended for good with status 0, or was ended by `selkis kill`
    1  some program ended for good with another
    2  the command line was wrong
  125  Selkis could not run the system: the message says why
  130  ended by Ctrl-C or SIGTERM: programs have 5 seconds to end then, or until the second Ctrl-C";
