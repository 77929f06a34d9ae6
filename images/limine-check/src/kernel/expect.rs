//! What the test expects, from the command line: words `name=value`, numbers decimal or with `0x`.
//!
//! `requested`, `followed`, `loader_max`: base revisions. `hhdm`: its start. `slide`: of the kernel. `date`: seconds
//! since 1970, to an hour. `processors`: how many. `module=LENGTH:SUM:STRING`: one word for each module, in order. Words without a value:
//! `modules_above_4g`, `kernel_above_4g`, `map_reversed`, `map_fragmented`, `map_overlapping`.

use crate::check;

/// The most modules of a test.
pub const MODULES_MAX: usize = 4;

/// A module of the test.
#[derive(Clone, Copy, Default)]
pub struct Module {
    pub length: u64,
    pub sum: u64,
    pub string: &'static str,
}

/// All that the command line says.
pub struct Expected {
    pub requested: u64,
    pub followed: u64,
    pub loader_max: u64,
    pub hhdm: u64,
    pub slide: u64,
    pub date: u64,
    pub processors: u64,
    pub modules: [Option<Module>; MODULES_MAX],
    words: &'static str,
}

impl Expected {
    pub fn from_command_line(words: &'static str) -> Self {
        let mut expected = Self {
            requested: number(value(words, "requested").unwrap_or("6")),
            followed: number(value(words, "followed").unwrap_or("6")),
            loader_max: number(value(words, "loader_max").unwrap_or("6")),
            hhdm: number(value(words, "hhdm").unwrap_or("0xffff800000000000")),
            slide: number(value(words, "slide").unwrap_or("0")),
            date: number(value(words, "date").unwrap_or("0")),
            processors: number(value(words, "processors").unwrap_or("1")),
            modules: [None; MODULES_MAX],
            words,
        };
        let modules = words.split(' ').filter_map(|word| word.strip_prefix("module="));
        for (slot, module) in expected.modules.iter_mut().zip(modules) {
            let mut parts = module.splitn(3, ':');
            let mut part = || parts.next().unwrap_or_default();
            *slot = Some(Module { length: number(part()), sum: number(part()), string: part() });
        }
        expected
    }

    /// Whether a word without a value is there.
    pub fn says(&self, word: &str) -> bool {
        self.words.split(' ').any(|other| other == word)
    }
}

fn value(words: &'static str, name: &str) -> Option<&'static str> {
    words.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
}

fn number(text: &str) -> u64 {
    let number = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    check!(number.is_ok(), "the command line has no number but {text:?}");
    number.unwrap_or(0)
}
