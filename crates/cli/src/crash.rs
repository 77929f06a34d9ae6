//! What people are shown of a program that failed.

use crate::client::escaped;
use control::Crash;

/// Where it was and what it had used, in lines.
pub fn details(crash: &Crash) -> String {
    let mut text = String::new();
    crash.write_details(&mut text, usize::MAX, readable).expect("a string takes everything");
    text
}

/// The name of a function as it was written, on one line. C++ programs' are in their modules as they were written, Rust programs' are not.
pub fn readable(name: &str) -> String {
    escaped(&format!("{:#}", rustc_demangle::demangle(name))).replace(['\n', '\t'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_as_they_were_written() {
        for (name, shown) in [
            ("_ZN4core9panicking5panic17h1122334455667788E", "core::panicking::panic"),
            ("_RNvC6_123foo3bar", "123foo::bar"),
            ("main", "main"),
            ("a\n\u{1b}b", "a \\u{1b}b"),
        ] {
            assert_eq!(readable(name), shown);
        }
    }
}
