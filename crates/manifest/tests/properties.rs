//! No text panics the reader, whatever is wrong with it; and what is written is read.

use manifest::{System, TEXT_BYTES_MAX};
use proptest::prelude::*;
use std::path::Path;

const WHOLE: &str = r#"
name = "tenants"
mitigations = "off"
[domains.bob]
memory = "64MiB"
cpu-share = 200
cpu-budget = "150%"
cpus = 2
processes = 3
[[domains.bob.programs]]
name = "web"
file = "bin/python.wasm"
arguments = ["-c", "print(1)"]
environment = { LANG = "C", HOME = "" }
directories = [{ path = "docs", name = "/docs", access = "read-only" }, { path = "data" }]
memory = "16MiB"
instances = 2
timeout = "10s"
restart = "on-failure"
[domains.alice]
memory = "1MiB"
programs = [{ file = "a.wasm" }]
"#;

/// Reads a text; each mistake must have a place in it and words.
fn check(text: &str) -> Result<(), TestCaseError> {
    if let Err(mistakes) = System::parse(text, Path::new("t.toml")) {
        prop_assert!(mistakes.iter().count() > 0);
        for mistake in mistakes.iter() {
            let line = text.split('\n').nth(mistake.at.line as usize - 1);
            prop_assert!(
                line.is_some_and(|line| mistake.at.column as usize <= line.chars().count() + 1),
                "{mistake:?}"
            );
            prop_assert!(!mistake.wrong.to_string().is_empty());
        }
        prop_assert!(!mistakes.to_string().contains('\u{1b}'), "a message acts on the terminal");
    }
    Ok(())
}

/// Parts of which texts are made that come near to manifests.
fn part() -> impl Strategy<Value = String> {
    const KNOWN: &[&str] = &[
        "[domains.a]\n",
        "[domains.b]\n",
        "[[domains.a.programs]]\n",
        "[domains",
        "domains",
        "programs",
        "name",
        "memory",
        "instances",
        "cpu-budget",
        "cpus",
        "file",
        "directories",
        "environment",
        "timeout",
        "cpu-time",
        "stack",
        "table-elements",
        "descriptors",
        "log-rate",
        "restart",
        "mitigations",
        " = ",
        "=",
        ".",
        "\n",
        "'64MiB'",
        "'150%'",
        "\"on\"",
        "1",
        "-1",
        "1e9",
        "true",
        "[",
        "]",
        "{",
        "}",
        ",",
        "'",
        "\"",
        "\"\"\"",
        "\\",
        "\\u0000",
        "#",
        "\r",
        "\t",
        "é",
        "\u{1b}[2J",
        "\u{feff}",
        "99999999999999999999",
        "1979-05-27",
    ];
    prop_oneof![8 => prop::sample::select(KNOWN).prop_map(str::to_owned), 1 => any::<char>().prop_map(String::from)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn no_text_panics(text in any::<String>()) {
        check(&text)?;
    }

    #[test]
    fn no_text_of_known_parts_panics(parts in prop::collection::vec(part(), 0..40)) {
        check(&parts.concat())?;
    }

    /// A whole manifest with a few places changed.
    #[test]
    fn no_damage_panics(changes in prop::collection::vec((any::<prop::sample::Index>(), 0usize..8, part()), 1..5)) {
        let mut characters: Vec<char> = WHOLE.chars().collect();
        for (at, removed, put) in changes {
            let at = at.index(characters.len());
            let end = (at + removed).min(characters.len() - 1);
            characters.splice(at..end.max(at), put.chars());
        }
        check(&characters.iter().collect::<String>())?;
    }

    #[test]
    fn what_is_written_is_read(
        kibibytes in 1u64..1 << 40,
        share in 1u32..=10_000,
        percent in 1u32..=400,
        processes in 1u32..=32_000,
        arguments in prop::collection::vec("[^\u{0}]*", 0..5),
        seconds in 1u64..1_000_000,
    ) {
        let quoted = arguments.iter().map(|argument| quoted(argument)).collect::<Vec<_>>().join(", ");
        let text = format!(
            "[domains.d]\nmemory = '{kibibytes} KiB'\ncpu-share = {share}\ncpu-budget = '{percent}%'\ncpus = 4\n\
             processes = {processes}\nprograms = [{{ file = 'x.wasm', arguments = [{quoted}], timeout = '{seconds}s' }}]"
        );
        let system = System::parse(&text, Path::new("t.toml")).map_err(|mistakes| TestCaseError::fail(mistakes.to_string()))?;
        let domain = &system.domains[0];
        prop_assert_eq!(domain.memory.0, kibibytes << 10);
        prop_assert_eq!((domain.cpu_share, domain.processes), (share, processes));
        prop_assert_eq!(domain.cpu_budget.unwrap().ppm, percent * 10_000);
        prop_assert_eq!(&domain.programs[0].arguments, &arguments);
        prop_assert_eq!(domain.programs[0].timeout.unwrap().as_secs(), seconds);
    }
}

/// As deep, as long, as many as the longest text allows.
#[test]
fn no_text_is_too_much() {
    let most = |part: &str| part.repeat(TEXT_BYTES_MAX / part.len());
    for text in [
        format!("{}a = 1", most("a.")),
        format!("[{}a]", most("a.")),
        format!("x = {}", most("[")),
        format!("x = {}", most("{a=")),
        format!("domains.d = {{ memory = 1, programs = [{}] }}", most("{},")),
        format!(
            "domains.d = {{ memory = 1, programs = [{{ file = 'x', directories = [{}] }}] }}",
            most("{path='a'},")
        ),
        most("[[domains.a.programs]]\n"),
        most("a = 1\n"),
        most("=\n"),
    ] {
        let message = System::parse(&text, Path::new("t.toml")).unwrap_err().to_string();
        assert!(message.len() < 100_000, "{} bytes", message.len());
    }
}

/// A TOML string (TOML 1.0, "String") with everything but plain ASCII escaped.
fn quoted(text: &str) -> String {
    let escape = |character: char| match character {
        ' '..='~' if !matches!(character, '"' | '\\') => character.to_string(),
        other => format!("\\U{:08x}", u32::from(other)),
    };
    format!("\"{}\"", text.chars().map(escape).collect::<String>())
}
