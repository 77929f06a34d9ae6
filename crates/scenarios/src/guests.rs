//! The guests' sources, which travel in this executable.

use crate::verdict::{Failed, Verdict};

macro_rules! guests {
    ($($name:literal),* $(,)?) => {
        const GUESTS: &[(&str, &str)] = &[$(($name, include_str!(concat!("../guests/", $name, ".wat")))),*];
    };
}

guests![
    "arguments",
    "asks",
    "bomb",
    "cat",
    "child",
    "clock",
    "closes-stdout",
    "count",
    "exceptions",
    "exit",
    "files",
    "fills",
    "four-gib",
    "grow",
    "grows-then-opens",
    "holds",
    "leaks",
    "limits",
    "opens",
    "parent",
    "random",
    "ready-spin",
    "recursion",
    "recursion-host",
    "sleep",
    "spawns",
    "spin",
    "spin-copy",
    "spin-throw",
    "spin-throw-deep",
    "spin-exports",
    "spin-fill",
    "spin-grow",
    "spin-host",
    "spin-import",
    "spin-start",
    "start-grows",
    "step-calls",
    "step-children",
    "step-host",
    "step-memory",
    "step-numbers",
    "step-streams",
    "storm",
    "strange-import",
    "streams",
    "tables",
    "takes",
    "terminals",
    "touches-by-host",
    "traps",
    "uncaught",
    "yes",
];

/// The text of the guest called `name`.
pub fn text(name: &str) -> Verdict<&'static str> {
    let guest = GUESTS.iter().find(|(guest, _)| *guest == name);
    guest.map(|(_, text)| *text).ok_or_else(|| Failed(format!("there is no guest {name}")))
}

/// The guest called `name` in the binary format.
pub fn binary(name: &str) -> Verdict<Vec<u8>> {
    Ok(wat::parse_str(text(name)?)?)
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_guest_is_webassembly() {
        for (name, _) in super::GUESTS {
            assert!(super::binary(name).is_ok(), "{name}");
        }
    }
}
