//! Compiled programs, loaded in place.

use crate::System;
use abi::{Protection, Span};
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use bundle::artifact::{self, ArtifactError};
use core::ptr::NonNull;
use spin::Once;
use wasmtime::{CustomCodeMemory, Engine, Instance, Module, OutOfMemory, Store};

/// Why an artifact cannot be run.
#[derive(Debug)]
pub enum LoadError {
    /// It is damaged, or not an artifact.
    Artifact(ArtifactError),
    /// It uses CPU features that this CPU lacks: their names.
    Cpu(String),
    /// The engine refuses it: why.
    Engine(String),
    /// There is no memory for it, or not now: what for.
    Memory(String),
}

impl core::fmt::Display for LoadError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Artifact(error) => error.fmt(f),
            Self::Cpu(features) => {
                write!(f, "it was compiled for a CPU with {features}, which this one lacks")
            }
            Self::Engine(reason) => write!(f, "the engine refuses it: {reason}"),
            Self::Memory(reason) => write!(f, "there is no memory for it: {reason}"),
        }
    }
}

/// A CPU feature question: whether this CPU has the feature that the engine calls by this name; `None` if the
/// name is unknown.
pub type HasFeature = fn(&str) -> Option<bool>;

/// The engine with this platform's settings.
pub fn engine(system: &'static System, has_feature: HasFeature) -> Result<Engine, LoadError> {
    engine_with_stack(system, has_feature, engine::WASM_STACK_BYTES)
}

/// The same, for programs whose code may use so much stack.
pub fn engine_with_stack(
    system: &'static System,
    has_feature: HasFeature,
    stack_bytes: usize,
) -> Result<Engine, LoadError> {
    let mut config = engine::config();
    // The second is not used, but must not be less than the first.
    config.max_wasm_stack(stack_bytes).async_stack_size(stack_bytes);
    config.with_custom_code_memory(Some(Arc::new(CodePages { system })));
    // SAFETY: `has_feature` tells the truth about this CPU, and this executable is built with the hard-float ABI.
    unsafe {
        config.detect_host_feature(has_feature);
        config.x86_float_abi_ok(true);
    }
    Engine::new(&config).map_err(refused)
}

fn refused(error: wasmtime::Error) -> LoadError {
    let reason = alloc::format!("{error:#}");
    match error.is::<OutOfMemory>() || error.is::<CodePagesRefused>() {
        true => LoadError::Memory(reason),
        false => LoadError::Engine(reason),
    }
}

struct CodePages {
    system: &'static System,
}

impl CustomCodeMemory for CodePages {
    fn required_alignment(&self) -> usize {
        abi::PAGE_SIZE as usize
    }

    fn publish_executable(&self, address: *const u8, length: usize) -> wasmtime::Result<()> {
        self.change(address, length, Protection::ReadExecute)
    }

    fn unpublish_executable(&self, address: *const u8, length: usize) -> wasmtime::Result<()> {
        self.change(address, length, Protection::Read)
    }
}

impl CodePages {
    fn change(&self, address: *const u8, length: usize, protection: Protection) -> wasmtime::Result<()> {
        let span = Span::new(address as u64, length as u64);
        let refused = |error| wasmtime::Error::new(CodePagesRefused(protection, error));
        self.system.protect(span, protection).map_err(refused)
    }
}

/// The kernel does not let pages become this.
#[derive(Debug)]
struct CodePagesRefused(Protection, abi::Error);

impl core::fmt::Display for CodePagesRefused {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "cannot make code pages {:?}: {:?}", self.0, self.1)
    }
}

impl core::error::Error for CodePagesRefused {}

/// How many functions are looked at before others may have the virtual CPU.
const FUNCTIONS_AT_A_TIME: usize = 1024;

/// The most of a name that is kept, in bytes.
const NAME_BYTES_MAX: usize = 240;

fn cut(name: &str) -> String {
    String::from(&name[..name.floor_char_boundary(NAME_BYTES_MAX)])
}

/// A function that was on a stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallFrame {
    /// Its number in the module.
    pub function: u32,
    /// Where in its compiled code, in bytes.
    pub offset: u32,
    /// What the module calls it.
    pub name: Option<String>,
}

/// A program: its module, in the engine.
pub struct Program {
    module: Module,
    /// Where its code lies.
    text: Span,
    functions: Once<Span>,
}

impl Program {
    /// Loads an artifact where it lies; it must be in the boot module, so that it stays and never changes.
    pub fn load(engine: &Engine, bytes: &'static [u8], has_feature: HasFeature) -> Result<Self, LoadError> {
        let (origin, payload) = artifact::parse(bytes).map_err(LoadError::Artifact)?;
        let lacking = |name: &&str| !name.is_empty() && has_feature(name) != Some(true);
        let missing: Vec<&str> = origin.features.split(',').filter(lacking).collect();
        if !missing.is_empty() {
            return Err(LoadError::Cpu(missing.join(", ")));
        }
        // SAFETY: the payload has the checksum that our compiler gave it, so it is what the engine's compiler wrote;
        // it is page-aligned, and the boot module stays mapped and unchanged for ever.
        let module = unsafe { Module::deserialize_raw(engine, NonNull::from(payload)) }.map_err(refused)?;
        let text = module.text();
        let text = Span::new(text.as_ptr() as u64, text.len() as u64);
        Ok(Self { module, text, functions: Once::new() })
    }

    /// The module.
    pub fn module(&self) -> &Module {
        &self.module
    }

    /// Where its code lies: functions, then the engine's trampolines.
    pub fn text(&self) -> Span {
        self.text
    }

    /// Where its own functions lie, without trampolines: the only code that may be ended between any two
    /// instructions. Empty before [`Self::find_functions`].
    pub fn functions(&self) -> Span {
        self.functions.get().copied().unwrap_or(Span::new(0, 0))
    }

    /// Finds out where they lie, unless that was done. To be called before any of them runs, in a place that may allocate and wait: this walks all
    /// of them, asks `goes_on` now and then, and may be begun anew by another process meanwhile.
    pub fn find_functions(&self, mut goes_on: impl FnMut() -> bool) {
        if self.functions.is_completed() {
            return;
        }
        let (mut start, mut end) = (usize::MAX, 0);
        for (count, function) in self.module.functions().enumerate() {
            if count.is_multiple_of(FUNCTIONS_AT_A_TIME) && !goes_on() {
                return;
            }
            start = start.min(function.offset);
            end = end.max(function.offset + function.len);
        }
        let start = start.min(end);
        self.functions.call_once(|| Span::new(self.text.base + start as u64, (end - start) as u64));
    }

    /// The functions that were on a stack: `addresses` are in their code, the innermost first, those of all others behind a call. What
    /// is in no function is left out. This walks all functions, and calls `pause` now and then.
    pub fn call_frames(&self, addresses: &[u64], mut pause: impl FnMut()) -> Vec<CallFrame> {
        let in_text = |(depth, address): (usize, &u64)| {
            // The call may have been the last instruction of its function.
            let address = if depth == 0 { *address } else { address.wrapping_sub(1) };
            Some(address.checked_sub(self.text.base)? as usize)
        };
        let offsets: Vec<Option<usize>> = addresses.iter().enumerate().map(in_text).collect();
        let mut frames: Vec<Option<CallFrame>> = offsets.iter().map(|_| None).collect();
        for (count, function) in self.module.functions().enumerate() {
            if count.is_multiple_of(FUNCTIONS_AT_A_TIME) {
                pause();
            }
            let range = function.offset..function.offset + function.len;
            for (frame, offset) in frames.iter_mut().zip(&offsets) {
                if let Some(offset) = offset.filter(|offset| range.contains(offset)) {
                    let (index, name) = (function.index.as_u32(), function.name.as_deref().map(cut));
                    let offset = (offset - function.offset) as u32;
                    *frame = Some(CallFrame { function: index, offset, name });
                }
            }
        }
        frames.into_iter().flatten().collect()
    }

    /// Runs the trap helper once, so that its trap is known; see [`crate::trap`].
    pub fn spring(&self, engine: &Engine) -> Result<(), LoadError> {
        let mut store = Store::new(engine, ());
        let instance = Instance::new(&mut store, &self.module, &[]).map_err(refused)?;
        let trap = instance.get_typed_func::<(), ()>(&mut store, "trap").map_err(refused)?;
        match trap.call(&mut store, ()) {
            Err(_) => Ok(()),
            Ok(()) => Err(LoadError::Engine(String::from("the trap helper does not trap"))),
        }
    }
}
