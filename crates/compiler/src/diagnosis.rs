use std::fmt;
use wasmtime::Engine;
use wasmtime::wasmparser::{self, Validator, WasmFeatures};

/// Why a program was not compiled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CompileError {
    /// Neither the binary nor the text format.
    NotWebAssembly,
    /// The text format, with a mistake: what and where.
    Text {
        /// What is wrong, with line and column.
        reason: String,
    },
    /// A component, not a module.
    Component,
    /// A version of the binary format that does not exist yet.
    Version {
        /// What the file says.
        version: u32,
    },
    /// Not a valid module.
    Invalid {
        /// Where, in bytes from the beginning.
        offset: usize,
        /// What is wrong there.
        reason: String,
    },
    /// A module that would be valid if a proposal were on that is off.
    Proposal {
        /// The proposal's name; several are separated by commas.
        proposal: String,
        /// Where it is used first, in bytes from the beginning.
        offset: usize,
    },
    /// A valid module that the engine's compiler cannot compile.
    Unsupported {
        /// The engine's own words.
        reason: String,
    },
}

impl fmt::Display for CompileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotWebAssembly => write!(f, "not a WebAssembly file"),
            Self::Text { reason } => write!(f, "not valid WebAssembly text: {reason}"),
            Self::Component => write!(
                f,
                "a WebAssembly component: this version of Selkis runs modules (WASI preview 1), components come later"
            ),
            Self::Version { version } => {
                write!(f, "WebAssembly of version {version:#x}, which is not known here")
            }
            Self::Invalid { offset, reason } => {
                write!(f, "not a valid WebAssembly module: at offset {offset:#x}: {reason}")
            }
            Self::Proposal { proposal, offset } => {
                write!(f, "uses a WebAssembly proposal that is off here: {proposal} (at offset {offset:#x})")
            }
            Self::Unsupported { reason } => write!(f, "the compiler cannot compile this module: {reason}"),
        }
    }
}

impl std::error::Error for CompileError {}

impl CompileError {
    /// Which error this is, for a program that reads `--json`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::NotWebAssembly => "not-webassembly",
            Self::Text { .. } => "text",
            Self::Component => "component",
            Self::Version { .. } => "version",
            Self::Invalid { .. } => "invalid",
            Self::Proposal { .. } => "proposal",
            Self::Unsupported { .. } => "unsupported",
        }
    }
}

impl From<wasmparser::Error> for CompileError {
    fn from(error: wasmparser::Error) -> Self {
        Self::Invalid { offset: error.offset(), reason: first_line(error.message()) }
    }
}

/// Finds out why the engine did not compile `module`. Its error is prose, so the module is validated again.
pub(crate) fn diagnose(module: &[u8], engine: &Engine, error: &wasmtime::Error) -> CompileError {
    let on = engine.get_wasm_features();
    let Err(invalid) = validate(module, on) else {
        return CompileError::Unsupported { reason: one_line(error) };
    };
    match missing(module, on) {
        Some(missing) => CompileError::Proposal { proposal: names(missing), offset: invalid.offset() },
        None => invalid.into(),
    }
}

/// The proposals to be turned on for `module` to be valid; `None` if no proposal helps.
fn missing(module: &[u8], on: WasmFeatures) -> Option<WasmFeatures> {
    let mut needed = WasmFeatures::all();
    validate(module, needed).ok()?;
    for candidate in (WasmFeatures::all() - on).iter() {
        if validate(module, needed - candidate).is_ok() {
            needed -= candidate;
        }
    }
    Some(needed - on)
}

fn validate(module: &[u8], features: WasmFeatures) -> Result<(), wasmparser::Error> {
    Validator::new_with_features(features).validate_all(module).map(drop)
}

fn names(features: WasmFeatures) -> String {
    let names: Vec<_> =
        features.iter_names().map(|(name, _)| name.to_ascii_lowercase().replace('_', "-")).collect();
    names.join(", ")
}

/// An engine's error with its causes, in one line.
pub(crate) fn one_line(error: &wasmtime::Error) -> String {
    let causes: Vec<_> = error.chain().map(|cause| first_line(&cause.to_string())).collect();
    causes.join(": ")
}

/// A text error without its drawing of the line: what, and where.
pub(crate) fn text_error(error: &wat::Error) -> String {
    let error = error.to_string();
    let place = error.lines().find_map(|line| line.trim_start().strip_prefix("--> <anon>:"));
    let what = first_line(&error);
    match place {
        Some(place) => format!("line {}: {what}", place.replacen(':', ", column ", 1)),
        None => what,
    }
}

fn first_line(text: &str) -> String {
    String::from(text.lines().next().unwrap_or_default())
}
