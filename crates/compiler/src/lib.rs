//! WebAssembly to artifact: the engine's compiler, behind the settings that the library OS loads.
//!
//! Nothing here runs WebAssembly. The input is hostile: whatever it holds ends in an artifact or in a
//! [`CompileError`]. Time and memory are the parent's to bound (the `store` crate starts `selkis-compile` as a
//! process of its own); what this crate bounds is the stack, by compiling on threads of [`STACK_BYTES`].

mod cpu;
mod diagnosis;
mod interface;
mod names;

pub use cpu::{Cpu, CpuError};
pub use diagnosis::CompileError;
pub use interface::{Export, Import, Interface};

use bundle::artifact::{self, Origin, TRAP_HELPER};
use rayon::{ThreadPool, ThreadPoolBuilder};
use sha2::{Digest, Sha256};
use std::borrow::Cow;
use wasmtime::Engine;

/// Stack of each compiling thread: the engine's compiler recurses over expressions in places, and a guest's author
/// chooses how deep.
pub const STACK_BYTES: usize = 64 << 20;

/// A compiler for one kind of CPU.
pub struct Compiler {
    engine: Engine,
    threads: ThreadPool,
    cpu: Cpu,
    identity: String,
}

/// A compiled program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compiled {
    /// What was compiled, by what, for what.
    pub origin: Origin,
    /// The engine's artifact.
    pub payload: Vec<u8>,
    /// What the program asks for and what it offers.
    pub interface: Interface,
}

impl Compiled {
    /// The page that comes before the payload in an artifact file.
    pub fn header(&self) -> Vec<u8> {
        artifact::header(&self.origin, &self.payload)
    }
}

/// Why there is no compiler.
#[derive(Debug)]
pub enum SetupError {
    /// The engine refuses its settings: the engine's own words.
    Engine(String),
    /// No threads to compile on.
    Threads(rayon::ThreadPoolBuildError),
}

impl std::fmt::Display for SetupError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Engine(reason) => write!(f, "the engine refuses these settings: {reason}"),
            Self::Threads(reason) => write!(f, "cannot start threads to compile on: {reason}"),
        }
    }
}

impl std::error::Error for SetupError {}

impl Compiler {
    /// A compiler whose output uses the features of `cpu` and no others.
    pub fn new(cpu: Cpu) -> Result<Self, SetupError> {
        let threads =
            ThreadPoolBuilder::new().stack_size(STACK_BYTES).build().map_err(SetupError::Threads)?;
        Ok(Self { engine: engine(&cpu)?, threads, cpu, identity: identity()? })
    }

    /// Compiles `program`: a binary module, or one in the text format. Its digest is that of the bytes given.
    pub fn compile(&self, program: &[u8]) -> Result<Compiled, CompileError> {
        let module = names::without_long_names(binary(program)?);
        let payload = self
            .threads
            .install(|| self.engine.precompile_module(&module))
            .map_err(|error| diagnosis::diagnose(&module, &self.engine, &error))?;
        Ok(Compiled {
            origin: Origin {
                program: Sha256::digest(program).into(),
                compiler: self.identity.clone(),
                triple: String::from(engine::TRIPLE),
                features: self.cpu.to_string(),
            },
            payload,
            interface: Interface::of(&module)?,
        })
    }

    /// Compiles the trap helper.
    pub fn trap_helper(&self) -> Result<Compiled, CompileError> {
        self.compile(TRAP_HELPER.as_bytes())
    }

    /// Which compiler this is: its version, and a digest of its settings without the CPU's.
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// What it compiles for.
    pub fn cpu(&self) -> &Cpu {
        &self.cpu
    }
}

fn engine(cpu: &Cpu) -> Result<Engine, SetupError> {
    let mut config = engine::config();
    // Nobody unwinds compiled code but the engine, which has tables of its own.
    config.native_unwind_info(false);
    cpu.enable(&mut config);
    Engine::new(&config).map_err(|error| SetupError::Engine(diagnosis::one_line(&error)))
}

/// The engine writes its settings into every artifact, so a digest of the smallest one stands for them all.
fn identity() -> Result<String, SetupError> {
    let helper = wat::parse_str(TRAP_HELPER).expect("our own text");
    let artifact = engine(&Cpu::none())?.precompile_module(&helper);
    let artifact = artifact.map_err(|error| SetupError::Engine(diagnosis::one_line(&error)))?;
    Ok(format!("wasmtime {} {:016x}", wasmtime_environ::VERSION, bundle::checksum(&artifact)))
}

/// The module in the binary format, with the first eight bytes looked at.
fn binary(program: &[u8]) -> Result<Cow<'_, [u8]>, CompileError> {
    let module = match program.starts_with(b"\0asm") {
        true => Cow::Borrowed(program),
        false if looks_like_text(program) => wat::parse_bytes(program)
            .map_err(|error| CompileError::Text { reason: diagnosis::text_error(&error) })?,
        false => return Err(CompileError::NotWebAssembly),
    };
    // The version, and the layer: 0 is a module, 1 a component (Component Model, Binary.md, "component preamble").
    match module.get(4..8) {
        Some([1, 0, 0, 0]) => Ok(module),
        Some([_, _, 1, 0]) => Err(CompileError::Component),
        Some(version) => Err(CompileError::Version {
            version: u32::from_le_bytes([version[0], version[1], version[2], version[3]]),
        }),
        None => Err(CompileError::Invalid {
            offset: module.len(),
            reason: String::from("unexpected end-of-file"),
        }),
    }
}

/// Text begins with a parenthesis or a comment. A binary that does is no module either way.
fn looks_like_text(program: &[u8]) -> bool {
    let text = program.trim_ascii_start();
    text.starts_with(b"(") || text.starts_with(b";;")
}
