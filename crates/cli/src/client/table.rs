//! Tables for people: aligned, never wider than the terminal, with colours only there.

use rustix::termios::tcgetwinsize;
use std::env;
use std::io::{self, IsTerminal};
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// How something stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// Nothing to say about it.
    Plain,
    /// As it should be.
    Good,
    /// Not yet.
    Waiting,
    /// Not as it should be.
    Bad,
    /// Not worth a look.
    Faint,
}

impl Tone {
    /// The parameter of "select graphic rendition" (ECMA-48, 8.3.117).
    fn rendition(self) -> Option<&'static str> {
        match self {
            Self::Plain => None,
            Self::Good => Some("32"),
            Self::Waiting => Some("33"),
            Self::Bad => Some("31"),
            Self::Faint => Some("2"),
        }
    }
}

/// At which side of its column a cell stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// What is to be seen of a table, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// Longer lines are cut.
    pub width: Option<usize>,
    /// Whether tones are seen.
    pub colour: Colour,
}

/// Whether tones are seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colour {
    /// As colours.
    Yes,
    /// Not.
    No,
}

impl Look {
    /// For standard output: a file gets whole lines and no colours.
    pub fn of_output() -> Self {
        let stdout = io::stdout();
        if !stdout.is_terminal() {
            return Self { width: None, colour: Colour::No };
        }
        let columns = tcgetwinsize(&stdout).ok().map(|size| usize::from(size.ws_col));
        Self { width: columns.filter(|columns| *columns > 0), colour: Colour::wanted() }
    }
}

impl Colour {
    /// At a terminal, unless the user asks for none (`NO_COLOR`) or it has none.
    pub fn wanted() -> Self {
        let is_refused = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let has_none = env::var_os("TERM").is_some_and(|value| value == "dumb");
        if is_refused || has_none { Self::No } else { Self::Yes }
    }
}

/// A text with its tone. It is on one line and has nothing in it that acts on a terminal.
pub type Cell = (String, Tone);

/// The lines of a table with the titles of its columns. Each row has a cell for each column.
pub fn lines(columns: &[(&str, Side)], rows: &[Vec<Cell>], look: Look) -> String {
    let titles: Vec<Cell> = columns.iter().map(|(title, _)| ((*title).to_owned(), Tone::Faint)).collect();
    let all: Vec<&Vec<Cell>> = std::iter::once(&titles).chain(rows).collect();
    let width = |column: usize| all.iter().map(|row| row[column].0.width()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    all.iter().map(|row| line(columns, &widths, row, look)).collect()
}

fn line(columns: &[(&str, Side)], widths: &[usize], row: &[Cell], look: Look) -> String {
    const GAP: &str = "  ";
    let mut line = String::new();
    let mut room = look.width.unwrap_or(usize::MAX);
    // What stands between two words, to be written before the second: no line ends in blanks.
    let mut blanks = String::new();
    for (((text, tone), width), (_, side)) in row.iter().zip(widths).zip(columns) {
        let padding = " ".repeat(width - text.width());
        if *side == Side::Right {
            blanks += &padding;
        }
        if !text.is_empty() {
            room = room.saturating_sub(blanks.len());
            let shown = cut(text, room);
            if shown.is_empty() {
                break;
            }
            room -= shown.width();
            line += &std::mem::take(&mut blanks);
            push(&mut line, &shown, *tone, look.colour);
        }
        if *side == Side::Left {
            blanks += &padding;
        }
        blanks += GAP;
    }
    line + "\n"
}

fn push(line: &mut String, text: &str, tone: Tone, colour: Colour) {
    match tone.rendition().filter(|_| colour == Colour::Yes) {
        Some(rendition) => *line += &format!("\x1b[{rendition}m{text}\x1b[0m"),
        None => *line += text,
    }
}

/// As much of a text as fits, with a mark if that is not all.
fn cut(text: &str, room: usize) -> String {
    if text.width() <= room {
        return text.to_owned();
    }
    let Some(mut left) = room.checked_sub(1) else { return String::new() };
    let fits = |character: &char| {
        let width = character.width().unwrap_or(0);
        left.checked_sub(width).map(|rest| left = rest).is_some()
    };
    text.chars().take_while(fits).collect::<String>() + "…"
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: &[(&str, Side)] = &[("NAME", Side::Left), ("SIZE", Side::Right), ("WHY", Side::Left)];

    fn table(look: Look) -> String {
        let row = |name: &str, size: &str, why: &str| {
            vec![(name.to_owned(), Tone::Good), (size.to_owned(), Tone::Plain), (why.to_owned(), Tone::Bad)]
        };
        lines(
            COLUMNS,
            &[row("a", "7", "because of it"), row("größer", "12345", ""), row("漢字", "", "x")],
            look,
        )
    }

    #[test]
    fn columns_are_aligned() {
        let expected = "\
NAME     SIZE  WHY
a           7  because of it
größer  12345
漢字           x
";
        assert_eq!(table(Look { width: None, colour: Colour::No }), expected);
        assert_eq!(
            table(Look { width: Some(28), colour: Colour::No }),
            expected,
            "the longest line is so long"
        );
    }

    #[test]
    fn no_line_is_wider_than_the_terminal() {
        let narrow = table(Look { width: Some(20), colour: Colour::No });
        assert_eq!(narrow, "NAME     SIZE  WHY\na           7  beca…\ngrößer  12345\n漢字           x\n");
        for width in 0..40 {
            let table = table(Look { width: Some(width), colour: Colour::No });
            assert!(table.lines().all(|line| line.width() <= width), "{width}:\n{table}");
            assert_eq!(table.lines().count(), 4);
        }
        assert_eq!(
            table(Look { width: Some(2), colour: Colour::No }),
            "N…\na\ng…\n…\n",
            "漢 needs two columns"
        );
    }

    #[test]
    fn colours_take_no_room() {
        let coloured = table(Look { width: Some(20), colour: Colour::Yes });
        let line = coloured.lines().nth(1).unwrap();
        assert_eq!(line, "\x1b[32ma\x1b[0m           7  \x1b[31mbeca…\x1b[0m");
    }
}
