//! Real programs, through the set-up's `$SELKIS_FETCH`.

use crate::verdict::{Failed, Verdict, check};
use std::env;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// The path of the program called `name`; it is got first if it is not there.
pub fn fetch(name: &str) -> Verdict<PathBuf> {
    let script = env::var_os("SELKIS_FETCH")
        .ok_or_else(|| Failed("SELKIS_FETCH is not set: it names the checkout's setup/fetch".into()))?;
    let output = Command::new(script).arg(name).stdin(Stdio::null()).stderr(Stdio::inherit()).output()?;
    check(output.status.success(), || format!("could not fetch {name}: {}", output.status))?;
    let path = String::from_utf8(output.stdout)?;
    Ok(PathBuf::from(path.trim_end_matches('\n')))
}
