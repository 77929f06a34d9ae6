//! Programs, compiled ahead of time for both sides.

use crate::Failure;
use crate::places::Places;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A program as both sides want it.
pub struct Artifacts {
    /// For Selkis.
    pub ours: PathBuf,
    /// For the peer.
    pub peer: PathBuf,
}

/// For which CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cpu {
    /// This one.
    Native,
    /// Every x86-64-v2 CPU: for the emulated one.
    Emulated,
}

impl Cpu {
    fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Emulated => "x86-64-v2",
        }
    }
}

/// Whether the peer's code can be interrupted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Epochs {
    /// It looks at the epoch at each function and loop.
    Checked,
    /// Nothing is in it for that.
    Ignored,
}

impl Epochs {
    fn name(self) -> &'static str {
        match self {
            Self::Checked => "epochs",
            Self::Ignored => "plain",
        }
    }
}

/// Compiles into a folder that is gone afterwards.
pub struct Workshop<'a> {
    places: &'a Places,
    folder: tempfile::TempDir,
}

impl<'a> Workshop<'a> {
    /// An empty folder.
    ///
    /// # Errors
    /// If there is no room.
    pub fn new(places: &'a Places) -> Result<Self, Failure> {
        Ok(Self { places, folder: tempfile::tempdir()? })
    }

    /// A place for a file.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What ends programs that have no trap of their own.
    ///
    /// # Errors
    /// If the compiler fails.
    pub fn trap_helper(&self, cpu: Cpu) -> Result<PathBuf, Failure> {
        let artifact = self.path(&format!("trap.{}.artifact", cpu.name()));
        let mut command = Command::new(self.places.parts.join("selkis-compile"));
        finish(command.args(["--target-cpu", cpu.name(), "--trap-helper", "--output"]).arg(&artifact))?;
        Ok(artifact)
    }

    /// Compiles a module in WebAssembly's text format.
    ///
    /// # Errors
    /// If it is wrong or a compiler fails.
    pub fn compile_text(&self, name: &str, text: &str, cpu: Cpu) -> Result<Artifacts, Failure> {
        let module = self.path(&format!("{name}.wasm"));
        std::fs::write(&module, wat::parse_str(text)?)?;
        self.compile(name, &module, cpu)
    }

    /// Compiles `module` for both sides.
    ///
    /// # Errors
    /// If a compiler fails.
    pub fn compile(&self, name: &str, module: &Path, cpu: Cpu) -> Result<Artifacts, Failure> {
        let ours = self.path(&format!("{name}.{}.artifact", cpu.name()));
        let mut command = Command::new(self.places.parts.join("selkis-compile"));
        finish(command.args(["--target-cpu", cpu.name(), "--json", "--output"]).arg(&ours).arg(module))?;
        Ok(Artifacts { ours, peer: self.compile_peer(name, module, cpu, Epochs::Ignored)? })
    }

    /// Compiles `module` for the peer alone.
    ///
    /// # Errors
    /// If its compiler fails.
    pub fn compile_peer(
        &self,
        name: &str,
        module: &Path,
        cpu: Cpu,
        epochs: Epochs,
    ) -> Result<PathBuf, Failure> {
        let artifact = self.path(&format!("{name}.{}.{}.cwasm", cpu.name(), epochs.name()));
        let mut command = Command::new(self.places.peer.join("selkis-peer-compile"));
        finish(command.args([cpu.name(), epochs.name()]).arg(module).arg(&artifact))?;
        Ok(artifact)
    }
}

/// Runs a command to its end; answers with its standard output.
///
/// # Errors
/// If it fails: with what it said.
pub fn finish(command: &mut Command) -> Result<String, Failure> {
    let program = command.get_program().display().to_string();
    let output = command.output().map_err(|error| format!("cannot start {program}: {error}"))?;
    if !output.status.success() {
        return Err(
            format!("{program}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr)).into()
        );
    }
    Ok(String::from_utf8(output.stdout)?)
}
