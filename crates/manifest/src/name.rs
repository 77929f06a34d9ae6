//! Names of systems, domains and programs.

use std::fmt;
use std::str::FromStr;

/// The longest name, in characters: it is part of a socket's path (108 bytes, unix(7)) and of tables.
const LENGTH_MAX: usize = 32;

/// Small letters, digits and `-`, not at the beginning, 1 to 32 of them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(String);

/// Not a [`Name`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("write at most {LENGTH_MAX} small letters, digits and `-`, the first not a `-`")]
pub struct NameError;

impl Name {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let is_known = |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
        let fits = (1..=LENGTH_MAX).contains(&text.len()) && text.bytes().all(is_known);
        // One that begins with `-` would be an option where a command takes a name.
        if fits && !text.starts_with('-') { Ok(Self(text.to_owned())) } else { Err(NameError) }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Honours a width, for tables.
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_from_other_text() {
        for text in ["a", "7", "web-1", "a-", &"x".repeat(32)] {
            assert_eq!(text.parse::<Name>().unwrap().as_str(), text);
        }
        for text in ["", "-a", "A", "a_b", "a.b", "a/b", "ä", "a b", "a\0", &"x".repeat(33)] {
            assert_eq!(text.parse::<Name>(), Err(NameError), "{text}");
        }
    }
}
