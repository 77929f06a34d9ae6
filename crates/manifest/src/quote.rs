//! Text of a manifest in messages.

use std::fmt;

/// How much of it a message shows.
const CHARACTERS_MAX: usize = 40;

/// Shows text on one line, without what could act on a terminal, and not too much of it.
pub struct Quote<'a>(pub &'a str);

impl fmt::Display for Quote<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("`")?;
        let mut characters = self.0.chars();
        for character in characters.by_ref().take(CHARACTERS_MAX) {
            match character {
                '"' | '\'' | '\\' => write!(f, "{character}")?,
                other => write!(f, "{}", other.escape_debug())?,
            }
        }
        f.write_str(if characters.next().is_some() { "…`" } else { "`" })
    }
}

#[cfg(test)]
mod tests {
    use super::Quote;

    #[test]
    fn what_is_shown_is_short_and_harmless() {
        for (text, shown) in [
            ("\"64X\"", "`\"64X\"`"),
            ("a\nb\u{1b}[2J\\", "`a\\nb\\u{1b}[2J\\`"),
            ("", "``"),
            (&"é".repeat(41), &format!("`{}…`", "é".repeat(40))),
        ] {
            assert_eq!(Quote(text).to_string(), shown);
        }
    }
}
