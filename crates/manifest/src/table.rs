//! Tables of a TOML text, read key by key, with all mistakes and their places.

use crate::mistake::{Mistake, Position, Wrong};
use std::ops::Range;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A value with its place.
pub type Value<'t> = Spanned<DeValue<'t>>;

/// The text, and what was found wrong with it so far.
pub struct Reader<'t> {
    text: &'t str,
    /// Where each line begins.
    lines: Vec<usize>,
    /// In no order.
    pub mistakes: Vec<Mistake>,
}

impl<'t> Reader<'t> {
    /// For a text.
    pub fn new(text: &'t str) -> Self {
        let after_breaks = text.match_indices('\n').map(|(at, _)| at + 1);
        Self { text, lines: std::iter::once(0).chain(after_breaks).collect(), mistakes: Vec::new() }
    }

    /// The place of a byte of the text.
    pub fn position(&self, byte: usize) -> Position {
        let line = self.lines.partition_point(|start| *start <= byte) - 1;
        let before = self.text.get(self.lines[line]..byte).unwrap_or_default();
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        Position { line: count(line + 1), column: count(before.chars().count() + 1) }
    }

    /// What the text has there.
    pub fn source(&self, span: Range<usize>) -> String {
        self.text.get(span).unwrap_or_default().to_owned()
    }

    /// Notes a mistake at a byte of the text.
    pub fn wrong(&mut self, byte: usize, wrong: Wrong) {
        let at = self.position(byte);
        self.mistakes.push(Mistake { at, wrong });
    }

    /// Notes that a value is of another type than `wanted`.
    pub fn wrong_type(&mut self, key: &str, value: &Value, wanted: &'static str) {
        let found = match value.get_ref() {
            DeValue::String(_) => "text in quotes",
            DeValue::Integer(_) => "a whole number",
            DeValue::Float(_) => "a number with a fraction",
            DeValue::Boolean(_) => "true or false",
            DeValue::Datetime(_) => "a date or a time",
            DeValue::Array(_) => "an array",
            DeValue::Table(_) => "a table",
        };
        let text = self.source(value.span());
        self.wrong(value.span().start, Wrong::Type { key: key.to_owned(), text, found, wanted });
    }

    /// The text of a value that must be one.
    pub fn text<'v>(&mut self, key: &str, value: &'v Value) -> Option<&'v str> {
        let text = value.get_ref().as_str();
        if text.is_none() {
            self.wrong_type(key, value, "text in quotes");
        }
        text
    }

    /// The table that a value must be; every key in it must be one of `known`.
    pub fn table<'v>(
        &mut self,
        key: &str,
        value: &'v Value<'t>,
        of: String,
        known: &'static [&'static str],
    ) -> Option<Table<'v, 't>> {
        let Some(entries) = value.get_ref().as_table() else {
            self.wrong_type(key, value, "a table: { … }");
            return None;
        };
        Some(self.known_table(entries, value.span().start, of, known))
    }

    /// A table; every key in it must be one of `known`.
    pub fn known_table<'v>(
        &mut self,
        entries: &'v DeTable<'t>,
        start: usize,
        of: String,
        known: &'static [&'static str],
    ) -> Table<'v, 't> {
        for key in entries.keys().filter(|key| !known.contains(&key.get_ref().as_ref())) {
            let text = key.get_ref().to_string();
            let nearest = nearest(&text, known.iter().copied());
            self.wrong(key.span().start, Wrong::UnknownKey { key: text, of: of.clone(), nearest, known });
        }
        Table { entries, start, of }
    }
}

/// A table whose keys are known.
pub struct Table<'v, 't> {
    entries: &'v DeTable<'t>,
    /// Where it begins.
    pub start: usize,
    /// What it describes, as in "the domain `alice`".
    of: String,
}

impl<'v, 't> Table<'v, 't> {
    /// The value of `key`, if there is one.
    pub fn get(&self, key: &str) -> Option<&'v Value<'t>> {
        self.entries.get(key)
    }

    /// The value of `key`; that there is none is a mistake.
    pub fn needed(
        &self,
        reader: &mut Reader,
        key: &'static str,
        example: &'static str,
    ) -> Option<&'v Value<'t>> {
        let value = self.get(key);
        if value.is_none() {
            reader.wrong(self.start, Wrong::Missing { key, of: self.of.clone(), example });
        }
        value
    }
}

/// The known word that `text` is nearest to, if it is near at all.
pub fn nearest<'a>(text: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    /// Of 1: below this it takes goodwill to see what was meant.
    const LIKENESS_MIN: f64 = 0.8;
    /// Longer than any word that we know: not worth the time to compare.
    const LENGTH_MAX: usize = 64;
    if text.len() > LENGTH_MAX {
        return None;
    }
    let text = text.to_lowercase().replace('_', "-");
    let rated = known.map(|word| (strsim::jaro_winkler(&text, word), word));
    let (likeness, best) = rated.max_by(|(one, _), (other, _)| one.total_cmp(other))?;
    (likeness >= LIKENESS_MIN).then_some(best)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_counted_in_characters() {
        let reader = Reader::new("a\nöbc\r\n\nd");
        for (byte, line, column) in
            [(0, 1, 1), (1, 1, 2), (2, 2, 1), (4, 2, 2), (8, 3, 1), (9, 4, 1), (10, 4, 2)]
        {
            assert_eq!(reader.position(byte), Position { line, column }, "byte {byte}");
        }
    }

    #[test]
    fn a_near_word_is_found_and_a_far_one_is_not() {
        let known = ["memory", "cpu-share", "cpu-budget", "cpus"];
        for (text, word) in [
            ("memroy", Some("memory")),
            ("Memory", Some("memory")),
            ("cpu_share", Some("cpu-share")),
            ("cpu-buget", Some("cpu-budget")),
            ("colour", None),
            ("", None),
        ] {
            assert_eq!(nearest(text, known.into_iter()), word, "{text}");
        }
        assert_eq!(nearest("x", [].into_iter()), None);
    }
}
