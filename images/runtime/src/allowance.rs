//! What the library OS may hold for a process beside its memory; and what one that another starts is promised in all.

use crate::{gate, programs};
use bundle::{Children, DirectorySource, ProgramPlan};
use runtime::process;
use wasi::tree;

/// What the library OS may hold for a process.
#[derive(Clone, Copy, Debug)]
pub struct Allowance {
    /// Of files that it writes.
    pub files_bytes: u64,
    /// Of all that is charged to it: the files are a part of this, its tables are not.
    pub host_bytes: u64,
    /// What its tables may take beside their length while they grow; more of it is charged.
    pub growing_tables_bytes: u64,
}

impl Allowance {
    /// Of one that the manifest starts, which may write so much to files.
    pub fn own(plan: &ProgramPlan, files_bytes: u64) -> Self {
        let host_bytes = programs::host_bytes_max(plan, files_bytes).saturating_add(directory_bytes(plan));
        Self { files_bytes, host_bytes, growing_tables_bytes: u64::MAX }
    }

    /// Of one that another starts, where one that the manifest starts might write so much to files. All of this is promised to it, so it is
    /// less; what its functions take of an instance is known.
    pub fn of_child(plan: &ProgramPlan, files_bytes: u64, functions_bytes: u64) -> Self {
        let files_bytes = files_bytes.min(plan.memory_bytes_max);
        let host_bytes = Children::host_bytes(plan.memory_bytes_max)
            .saturating_add(files_bytes)
            .saturating_add(functions_bytes)
            .saturating_add(directory_bytes(plan));
        Self { files_bytes, host_bytes, growing_tables_bytes: 0 }
    }

    /// All that one with this allowance may take of the domain's memory.
    pub fn promise(&self, plan: &ProgramPlan) -> u64 {
        plan.memory_bytes_max
            .saturating_add(stack_bytes(plan))
            .saturating_add(self.host_bytes)
            .saturating_add(string_bytes(plan))
            .saturating_add(Children::PROCESS_BYTES)
    }
}

/// What a process of this program, with so much memory, may take of the domain's at least.
pub fn least(program: &ProgramPlan, memory_bytes: u64) -> u64 {
    Children::process_bytes(memory_bytes, stack_bytes(program))
}

/// What is counted of its stack: what it touches, but Linux counts all that can be touched.
fn stack_bytes(plan: &ProgramPlan) -> u64 {
    match gate::is_bare() {
        true => plan.stack_bytes,
        false => plan.stack_bytes.saturating_add(process::HOST_STACK_BYTES),
    }
}

/// What copies of its directories take.
fn directory_bytes(plan: &ProgramPlan) -> u64 {
    let bytes = plan.directories.iter().map(|directory| match &directory.source {
        DirectorySource::Host(_) => 0,
        DirectorySource::Copy(copied) => tree::planted_bytes(copied),
    });
    bytes.fold(0, u64::saturating_add)
}

/// What a string takes beside its bytes, each time, and how often there is one: in a plan, and in what the process was told.
const STRING_BYTES: u64 = 64;
const STRING_COPIES: u64 = 2;
/// So much of them is among what any process needs ([`Children::PROCESS_BYTES`]).
const SMALL_BYTES: u64 = 16 << 10;

fn string_bytes(plan: &ProgramPlan) -> u64 {
    let strings = plan.arguments.iter().chain(&plan.environment);
    let bytes = strings.map(|string| STRING_COPIES * (string.len() as u64 + STRING_BYTES)).sum::<u64>();
    bytes.saturating_sub(SMALL_BYTES)
}
