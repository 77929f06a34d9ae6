//! Compiled programs, kept: a cache of artifacts under a directory, and the compiler that fills it.
//!
//! A program is compiled once for each (program, compiler, triple, CPU features) and found again by that key. The
//! cache never stands in the way: what is damaged is made anew, and where nothing can be kept, the program is
//! compiled and runs all the same. Whatever is taken is checked from the first byte to the last, against damage. It is
//! not checked against forgery: whoever may write to the directory may decide what runs.

mod child;
mod notice;
mod shelf;

pub use child::{CompileFailure, Identity};
pub use notice::Notice;
pub use shelf::{Entry, Removed};

use bundle::artifact::{Origin, TRAP_HELPER};
use sha2::{Digest, Sha256};
use shelf::{Shelf, TakeError};
use std::fs::File;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Instant;

/// How much the cache keeps if nobody says otherwise: some hundred large programs.
pub const LIMIT_BYTES_DEFAULT: u64 = 4 << 30;

/// The cache, and the compiler.
#[derive(Debug)]
pub struct Store {
    shelf: Shelf,
    compiler: PathBuf,
    identities: OnceLock<(String, Identity)>,
    /// Set when somebody has been told that nothing is kept.
    unkept: OnceLock<()>,
}

/// A compiled program, checked.
#[derive(Debug)]
pub struct Artifact {
    /// At its beginning. It is never written again: safe to be mapped.
    pub file: File,
    /// In bytes.
    pub length: u64,
    /// What it says about itself.
    pub origin: Origin,
}

/// What is to be compiled.
#[derive(Clone, Copy, Debug)]
pub enum Program<'a> {
    /// A WebAssembly module, binary or text.
    Module {
        /// What messages call it.
        name: &'a str,
        /// All of it.
        bytes: &'a [u8],
    },
    /// The module whose one trap ends programs that have none of their own. The compiler has it.
    TrapHelper,
}

impl Program<'_> {
    fn name(&self) -> &str {
        match self {
            Self::Module { name, .. } => name,
            Self::TrapHelper => "the trap helper",
        }
    }

    fn length(&self) -> u64 {
        match self {
            Self::Module { bytes, .. } => bytes.len() as u64,
            Self::TrapHelper => 0,
        }
    }
}

/// What an artifact has to be, to be the one that is asked for.
struct Wanted {
    /// SHA-256 of the program.
    program: [u8; 32],
    identity: Identity,
}

impl Wanted {
    fn is(&self, origin: &Origin) -> bool {
        let Identity { compiler, triple, features } = &self.identity;
        (&origin.compiler, &origin.triple, &origin.features) == (compiler, triple, features)
            && self.program == origin.program
    }

    /// The name of its file. The key itself is in the artifact's header, which is compared.
    fn file_name(&self) -> String {
        let program: String = self.program.iter().map(|byte| format!("{byte:02x}")).collect();
        let Identity { compiler, triple, features } = &self.identity;
        let rest = bundle::checksum(format!("{compiler}\0{triple}\0{features}").as_bytes());
        format!("{program}-{rest:016x}.{}", shelf::EXTENSION)
    }
}

impl Store {
    /// A store in `directory`, which is made when it is needed, with the compiler at `compiler`.
    pub fn new(directory: PathBuf, compiler: PathBuf) -> Self {
        let shelf = Shelf::new(directory, LIMIT_BYTES_DEFAULT);
        Self { shelf, compiler, identities: OnceLock::new(), unkept: OnceLock::new() }
    }

    /// The same store, keeping at most `bytes`. What was just compiled is kept even if it is larger.
    pub fn with_limit(self, bytes: u64) -> Self {
        Self { shelf: self.shelf.with_limit(bytes), ..self }
    }

    /// The artifact of `program` for `cpu` (`native`, `x86-64-v2`, or a list of features): from the cache, or
    /// compiled now. `notify` learns what a person may want to know meanwhile.
    ///
    /// No error is ever about the cache: those are told to `notify`, once each, and got around.
    pub fn artifact(
        &self,
        program: Program<'_>,
        cpu: &str,
        notify: &mut dyn FnMut(Notice<'_>),
    ) -> Result<Artifact, CompileFailure> {
        let digest = match program {
            Program::Module { bytes, .. } => Sha256::digest(bytes),
            Program::TrapHelper => Sha256::digest(TRAP_HELPER),
        };
        let wanted = Wanted { program: digest.into(), identity: self.identity(cpu)? };
        if let Some(artifact) = self.take(&wanted, notify) {
            return Ok(artifact);
        }
        let waiting = || notify(Notice::Waiting { program: program.name() });
        let lock = self.shelf.lock(&wanted.file_name(), waiting);
        match lock {
            // Somebody else may have compiled it while we waited. Damage has been told already.
            Ok(_) => {
                if let Some(artifact) = self.take(&wanted, &mut |_| ()) {
                    return Ok(artifact);
                }
            }
            Err(ref error) => self.tell_unkept(error, notify),
        }
        let compiled = self.compile(program, cpu, &wanted, notify)?;
        if lock.is_err() {
            return Ok(compiled);
        }
        Ok(self.keep(compiled, &wanted, notify))
    }

    /// What is kept, least recently used first. Files that are no artifacts are not listed.
    pub fn list(&self) -> std::io::Result<Vec<Entry>> {
        self.shelf.list()
    }

    /// Removes what was least recently used, until `bytes` or fewer are kept: all of it with 0.
    pub fn prune(&self, bytes: u64) -> std::io::Result<Removed> {
        self.shelf.prune(bytes, None)
    }

    /// Asks the compiler who it is and what `cpu` means here: once, for the first `cpu`, which is nearly always the
    /// only one.
    fn identity(&self, cpu: &str) -> Result<Identity, CompileFailure> {
        if let Some((known, identity)) = self.identities.get()
            && known == cpu
        {
            return Ok(identity.clone());
        }
        let identity = child::identify(&self.compiler, cpu)?;
        // If another thread was faster, its answer stays.
        let _ = self.identities.set((String::from(cpu), identity.clone()));
        Ok(identity)
    }

    fn take(&self, wanted: &Wanted, notify: &mut dyn FnMut(Notice<'_>)) -> Option<Artifact> {
        let name = wanted.file_name();
        let problem = match self.shelf.take(&name) {
            Ok(artifact) if wanted.is(&artifact.origin) => return Some(artifact),
            Ok(_) => TakeError::Foreign,
            Err(TakeError::Missing) => return None,
            Err(problem) => problem,
        };
        notify(Notice::Damaged { path: &self.shelf.directory().join(name), problem: &problem });
        None
    }

    fn compile(
        &self,
        program: Program<'_>,
        cpu: &str,
        wanted: &Wanted,
        notify: &mut dyn FnMut(Notice<'_>),
    ) -> Result<Artifact, CompileFailure> {
        let (name, start) = (program.name(), Instant::now());
        notify(Notice::Compiling { program: name, bytes: program.length() });
        let file = child::compile(&self.compiler, program, cpu)?;
        let artifact = shelf::check(file).map_err(|problem| CompileFailure::Compiler {
            path: self.compiler.clone(),
            reason: format!("what it wrote cannot be used: {problem}"),
        })?;
        if !wanted.is(&artifact.origin) {
            return Err(CompileFailure::Compiler {
                path: self.compiler.clone(),
                reason: String::from("it compiled something else than it was asked to"),
            });
        }
        notify(Notice::Compiled { program: name, bytes: artifact.length, took: start.elapsed() });
        Ok(artifact)
    }

    /// Puts it on the shelf and answers with the copy there, which other runs share; with what was given if there is
    /// no room.
    fn keep(&self, compiled: Artifact, wanted: &Wanted, notify: &mut dyn FnMut(Notice<'_>)) -> Artifact {
        let name = wanted.file_name();
        match self.shelf.keep(&name, &compiled) {
            Ok(file) => Artifact { file, ..compiled },
            Err(error) => {
                self.tell_unkept(&error, notify);
                compiled
            }
        }
    }

    /// Once for all programs: what is wrong is the directory.
    fn tell_unkept(&self, error: &std::io::Error, notify: &mut dyn FnMut(Notice<'_>)) {
        if self.unkept.set(()).is_ok() {
            notify(Notice::Unkept { directory: self.shelf.directory(), error });
        }
    }
}
