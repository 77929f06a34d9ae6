//! What a program is told about its surroundings: only what the command line names.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// One `--env`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variable {
    name: OsString,
    /// `None`: the value that it has here.
    value: Option<OsString>,
}

/// What is wrong with an `--env`.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvironmentError {
    /// As in `=value`.
    #[error("there is no name before the `=`: write NAME=VALUE, or NAME alone to pass on its value here")]
    NoName,
    /// Asked to be passed on, and not there.
    #[error("--env {0}: there is no such variable here\nset it, or write --env {0}=VALUE")]
    NotSet(String),
}

impl Variable {
    /// Reads `NAME` or `NAME=VALUE`.
    pub fn parse(text: OsString) -> Result<Self, EnvironmentError> {
        let bytes = text.as_bytes();
        let end = bytes.iter().position(|byte| *byte == b'=').unwrap_or(bytes.len());
        if end == 0 {
            return Err(EnvironmentError::NoName);
        }
        let name = OsStr::from_bytes(&bytes[..end]).to_owned();
        let value = bytes.get(end + 1..).map(|value| OsStr::from_bytes(value).to_owned());
        Ok(Self { name, value })
    }
}

/// The program's environment, as `NAME=value`, in the order given; of two values of one name the last counts.
pub fn resolve(
    variables: &[Variable],
    here: impl Fn(&OsStr) -> Option<OsString>,
) -> Result<Vec<Vec<u8>>, EnvironmentError> {
    let mut environment: Vec<(&OsStr, OsString)> = Vec::new();
    for variable in variables {
        let name = variable.name.as_os_str();
        let value = match &variable.value {
            Some(value) => value.clone(),
            None => {
                here(name).ok_or_else(|| EnvironmentError::NotSet(name.to_string_lossy().into_owned()))?
            }
        };
        environment.retain(|(other, _)| *other != name);
        environment.push((name, value));
    }
    let join = |(name, value): (&OsStr, OsString)| [name.as_bytes(), b"=", &value.into_vec()].concat();
    Ok(environment.into_iter().map(join).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(texts: &[&str]) -> Vec<Variable> {
        texts.iter().map(|text| Variable::parse(OsString::from(text)).unwrap()).collect()
    }

    #[test]
    fn values_are_set_or_passed_on() {
        let given = variables(&["A=1", "HERE", "B=", "A=2=3"]);
        let environment = resolve(&given, |name| (name == "HERE").then(|| OsString::from("there"))).unwrap();
        assert_eq!(environment, [&b"HERE=there"[..], b"B=", b"A=2=3"]);
    }

    #[test]
    fn what_is_not_there_is_named() {
        let error = resolve(&variables(&["NONE"]), |_| None).unwrap_err();
        assert_eq!(error, EnvironmentError::NotSet(String::from("NONE")));
        assert_eq!(Variable::parse(OsString::from("=x")), Err(EnvironmentError::NoName));
        assert_eq!(Variable::parse(OsString::new()), Err(EnvironmentError::NoName));
    }
}
