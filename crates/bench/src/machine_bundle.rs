//! What the machine boots with: the program, and a plan that has it speak through the serial port.

use crate::Failure;
use bundle::{Console, Item, Kind, Layout, Plan, ProgramPlan, Seed};
use std::path::Path;

/// What `./selkis run --memory` gives if nobody says otherwise.
const MEMORY_BYTES_MAX: u64 = 256 << 20;

/// A bundle of these parts. The seed is fixed, so that every run is the same.
///
/// # Errors
/// If a part cannot be read.
pub fn bundle(arguments: &[&str], program: &Path, helper: &Path, runtime: &Path) -> Result<Vec<u8>, Failure> {
    let measured = ProgramPlan {
        name: arguments.first().copied().unwrap_or_default().to_owned(),
        artifact: 0,
        arguments: arguments.iter().map(|word| word.as_bytes().to_vec()).collect(),
        environment: Vec::new(),
        memory_bytes_max: MEMORY_BYTES_MAX,
        ..ProgramPlan::default()
    };
    let plan = Plan::of_one(measured, Console::Raw, Some(Seed([1; 32])));
    let parts = [
        (Kind::Program, std::fs::read(program)?),
        (Kind::TrapHelper, std::fs::read(helper)?),
        (Kind::Image, std::fs::read(runtime)?),
        (Kind::Plan, Layout::encode_plan(&plan)),
    ];
    let items = parts.each_ref().map(|(kind, bytes)| Item { kind: *kind, length: bytes.len() as u64 });
    let layout = Layout::new(&items);
    let mut bundle = layout.header;
    for ((_, bytes), span) in parts.iter().zip(&layout.spans) {
        bundle.resize(span.base as usize, 0);
        bundle.extend_from_slice(bytes);
    }
    bundle.resize(layout.length as usize, 0);
    Ok(bundle)
}
