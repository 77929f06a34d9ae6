//! What a scenario answers with.

use std::fmt::Debug;

/// Why a scenario failed, for whoever reads the run.
#[derive(Debug)]
pub struct Failed(pub String);

/// Passed, or why not.
pub type Verdict<T = ()> = Result<T, Failed>;

impl<E: std::error::Error> From<E> for Failed {
    fn from(error: E) -> Self {
        Self(error.to_string())
    }
}

/// Fails with `message` unless `condition` holds.
pub fn check(condition: bool, message: impl FnOnce() -> String) -> Verdict {
    if condition { Ok(()) } else { Err(Failed(message())) }
}

/// Fails unless both are the same.
pub fn check_eq<A: Debug + PartialEq<B>, B: Debug>(what: &str, found: A, expected: B) -> Verdict {
    check(found == expected, || format!("{what}: found {found:?}, expected {expected:?}"))
}
