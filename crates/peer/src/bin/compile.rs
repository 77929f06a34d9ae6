//! `selkis-peer-compile CPU EPOCHS MODULE ARTIFACT`: WebAssembly to the peer's own artifact, ahead of time.

use peer::{Cpu, Epochs};
use std::error::Error;
use std::process::ExitCode;
use wasmtime::Engine;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [cpu, epochs, module, artifact] = arguments.as_slice() else {
        eprintln!("usage: selkis-peer-compile native|x86-64-v2 plain|epochs MODULE ARTIFACT");
        return ExitCode::FAILURE;
    };
    match compile(cpu, epochs, module, artifact) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("selkis-peer-compile: {module}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn compile(cpu: &str, epochs: &str, module: &str, artifact: &str) -> Result<(), Box<dyn Error>> {
    let cpu = Cpu::parse(cpu).ok_or_else(|| format!("there is no CPU named {cpu}"))?;
    let epochs = Epochs::parse(epochs).ok_or_else(|| format!("{epochs} is neither plain nor epochs"))?;
    let engine = Engine::new(&peer::compiler_config(cpu, epochs)?)?;
    let code = engine.precompile_module(&std::fs::read(module)?)?;
    std::fs::write(artifact, code)?;
    Ok(())
}
