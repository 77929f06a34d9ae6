use crate::shelf::TakeError;
use std::fmt;
use std::io;
use std::path::Path;
use std::time::Duration;

/// What a person may want to know while an artifact is got. Its `Display` is a line for that person.
#[derive(Clone, Copy, Debug)]
pub enum Notice<'a> {
    /// It has not been compiled yet, and is now.
    Compiling {
        /// What the caller called it.
        program: &'a str,
        /// Length of the WebAssembly; 0 where the compiler has it.
        bytes: u64,
    },
    /// It has been compiled.
    Compiled {
        /// What the caller called it.
        program: &'a str,
        /// Length of the artifact.
        bytes: u64,
        /// How long it took.
        took: Duration,
    },
    /// Another run compiles it, or something else under the same lock.
    Waiting {
        /// What the caller called it.
        program: &'a str,
    },
    /// What was kept cannot be used; it is compiled again.
    Damaged {
        /// Where it lies.
        path: &'a Path,
        /// What is wrong with it.
        problem: &'a TakeError,
    },
    /// The directory cannot be written: the artifact is used, and is not kept for next time.
    Unkept {
        /// The cache.
        directory: &'a Path,
        /// Why not.
        error: &'a io::Error,
    },
}

impl fmt::Display for Notice<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Compiling { program, bytes: 0 } => write!(f, "compiling {program} …"),
            Self::Compiling { program, bytes } => write!(f, "compiling {program} ({}) …", Size(*bytes)),
            Self::Compiled { program, bytes, took } => {
                write!(f, "compiled {program} ({}) in {:.1} s", Size(*bytes), took.as_secs_f64())
            }
            Self::Waiting { program } => write!(f, "waiting for another run that compiles {program} …"),
            Self::Damaged { path, problem } => {
                write!(f, "compiling again, because of {}: {problem}", path.display())
            }
            Self::Unkept { directory, error } => {
                write!(f, "compiled programs cannot be kept in {}: {error}", directory.display())
            }
        }
    }
}

/// A length for people.
struct Size(u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            bytes @ 0..1_000 => write!(f, "{bytes} B"),
            bytes @ 1_000..1_000_000 => write!(f, "{} KB", bytes / 1_000),
            bytes => write!(f, "{} MB", bytes / 1_000_000),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_a_person_wants_to_know() {
        let line = |bytes| Notice::Compiling { program: "python.wasm", bytes }.to_string();
        assert_eq!(line(26_267_204), "compiling python.wasm (26 MB) …");
        assert_eq!(line(1_000), "compiling python.wasm (1 KB) …");
        assert_eq!(line(999), "compiling python.wasm (999 B) …");
        assert_eq!(line(0), "compiling python.wasm …");
    }
}
