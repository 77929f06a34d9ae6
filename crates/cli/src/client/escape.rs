//! Bytes of programs, made harmless for a terminal.

use std::fmt::Write;

/// Text in which nothing can act on a terminal, on one line and in the order in which it is read. Line breaks stay.
pub fn escaped(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        push(&mut shown, character);
    }
    shown
}

/// The same of bytes that need not be text.
pub fn escaped_bytes(bytes: &[u8]) -> String {
    let mut shown = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        chunk.valid().chars().for_each(|character| push(&mut shown, character));
        for byte in chunk.invalid() {
            write!(shown, "\\x{byte:02x}").expect("a string takes everything");
        }
    }
    shown
}

fn push(shown: &mut String, character: char) {
    match character {
        '\t' | '\n' => shown.push(character),
        _ if character.is_control() || is_reordering(character) => shown.extend(character.escape_debug()),
        _ => shown.push(character),
    }
}

/// Is it one of the characters that change the order in which others are shown? (Unicode TR9, section 2.) A line with them may
/// look like another one.
fn is_reordering(character: char) -> bool {
    matches!(character, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_acts_on_a_terminal_is_shown() {
        for (bytes, shown) in [
            (&b"plain\ttext"[..], "plain\ttext"),
            ("größer ☃".as_bytes(), "größer ☃"),
            (b"\x1b[2J\x07\r\0\x7f", "\\u{1b}[2J\\u{7}\\r\\0\\u{7f}"),
            (b"\xff\xc3", "\\xff\\xc3"),
            ("\u{9b}31m".as_bytes(), "\\u{9b}31m"),
            ("a\u{202e}b\u{2066}".as_bytes(), "a\\u{202e}b\\u{2066}"),
        ] {
            assert_eq!(escaped_bytes(bytes), shown);
        }
        assert_eq!(escaped("a\u{1b}\nb"), "a\\u{1b}\nb");
    }
}
