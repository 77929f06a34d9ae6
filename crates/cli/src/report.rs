//! Words for the user, on standard error.

use std::fmt::Display;
use std::io::Write;

/// One line.
pub fn say(message: &str) {
    // Where standard error is closed there is nobody to tell.
    let _ = writeln!(std::io::stderr(), "selkis: {message}");
}

/// An error: what failed in the first line, the way out in those after it.
pub fn say_error(error: &dyn Display) {
    let text = error.to_string();
    let mut lines = text.lines();
    say(&format!("error: {}", lines.next().unwrap_or_default()));
    for line in lines {
        let _ = writeln!(std::io::stderr(), "        {line}");
    }
}

/// Says what is being done, if the user asked for that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verbosity {
    /// Errors only.
    Quiet,
    /// Each step.
    Steps,
}

impl Verbosity {
    /// For `--verbose`.
    pub fn from_flag(verbose: bool) -> Self {
        if verbose { Self::Steps } else { Self::Quiet }
    }

    /// A step.
    pub fn step(self, message: impl FnOnce() -> String) {
        if self == Self::Steps {
            say(&message());
        }
    }
}
