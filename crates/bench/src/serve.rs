//! The launcher of a measuring library OS: a process of its own, `selkis-bench serve`, as one run of `selkis` is. It
//! throws away what the program writes and passes on the lines of the measurement.

use crate::Failure;
use bundle::{Console, Plan, ProgramPlan};
use hosted::clock::seed;
use hosted::files::LinuxFiles;
use hosted::host::linux_host;
use hosted::{Launch, Runtime, launch};
use std::fs::File;
use std::path::Path;
use wasi::entropy::Generator;
use wasi::provider::{Input, Output, OutputStream, Stream, Streams, Terminal};
use wasi::{Errno, Result};

/// What the program may have; no more is measured.
const MEMORY_BYTES_MAX: u64 = 1 << 30;

/// Launches the library OS `runtime` with the program and a plan of these words; answers with its status.
///
/// # Errors
/// If it cannot be launched.
pub fn serve(
    runtime: &Path,
    program: &Path,
    helper: &Path,
    words: &[String],
) -> core::result::Result<u8, Failure> {
    let measured = ProgramPlan {
        name: String::from("measured"),
        artifact: 0,
        arguments: words.iter().map(|word| word.as_bytes().to_vec()).collect(),
        environment: Vec::new(),
        memory_bytes_max: MEMORY_BYTES_MAX,
        ..ProgramPlan::default()
    };
    let plan = Plan::of_one(measured, Console::Host, None);
    let entropy = Generator::new(Some(&seed()?), &[])?;
    let host = linux_host(Reader::default(), LinuxFiles::new(Vec::new()), entropy);
    let (artifacts, trap_helper) = (vec![File::open(program)?], File::open(helper)?);
    let (runtime, host) = (Runtime::open(runtime)?, Box::new(host));
    Ok(launch(Launch { runtime, plan, artifacts, trap_helper, host, wire: None, cell: None })?.status)
}

/// Reads the measurement's lines.
#[derive(Default)]
struct Reader {
    resident_at_begin: u64,
}

impl Streams for Reader {
    fn read(&mut self, _into: &mut [u8]) -> Result<Input> {
        Ok(Input::End)
    }

    fn write(&mut self, to: OutputStream, bytes: &[u8]) -> Result<Output> {
        if to == OutputStream::Error {
            self.line(&String::from_utf8_lossy(bytes)).map_err(|_| Errno::Io)?;
        }
        Ok(Output::Bytes(bytes.len()))
    }

    fn terminal(&mut self, _stream: Stream) -> Result<Terminal> {
        Ok(Terminal::No)
    }
}

impl Reader {
    fn line(&mut self, line: &str) -> std::io::Result<()> {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["begin"] => self.resident_at_begin = resident_bytes()?,
            ["alive", count] => {
                let count: u64 = count.parse().map_err(std::io::Error::other)?;
                let more = resident_bytes()?.saturating_sub(self.resident_at_begin);
                println!("bytes_per_instance {}", more / count);
                // They live on until whoever measures has seen all that were to be alive at once.
                std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
            }
            _ => print!("{line}"),
        }
        Ok(())
    }
}

/// What this process holds: its proportional set and its page tables.
fn resident_bytes() -> std::io::Result<u64> {
    let kilobytes = |file: &str, field: &str| -> std::io::Result<u64> {
        let text = std::fs::read_to_string(file)?;
        let line = text.lines().find_map(|line| line.strip_prefix(field));
        let value = line.and_then(|line| line.trim().strip_suffix("kB")).map(str::trim);
        value.and_then(|value| value.parse().ok()).ok_or_else(|| std::io::Error::other(format!("no {field}")))
    };
    Ok((kilobytes("/proc/self/smaps_rollup", "Pss:")? + kilobytes("/proc/self/status", "VmPTE:")?) << 10)
}
