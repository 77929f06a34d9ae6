//! What the kernel says.

use core::fmt;

/// How much something that the kernel says matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    /// The machine cannot do what it is for.
    Error,
    /// Something is not as it should be, and the machine goes on.
    Warn,
    /// What it found and what it does, once or seldom.
    Info,
    /// What domains come and go.
    Debug,
}

impl Level {
    const ALL: [(Self, &str); 4] =
        [(Self::Error, "error"), (Self::Warn, "warn"), (Self::Info, "info"), (Self::Debug, "debug")];

    /// The level that a word names.
    pub fn named(word: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, name)| *name == word).map(|(level, _)| *level)
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::ALL[*self as usize].1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    #[test]
    fn levels_have_names_and_an_order() {
        for (level, name) in Level::ALL {
            assert_eq!((level.to_string().as_str(), Level::named(name)), (name, Some(level)));
        }
        assert!(Level::ALL.is_sorted());
        assert_eq!((Level::named(""), Level::named("Warn")), (None, None));
    }
}
