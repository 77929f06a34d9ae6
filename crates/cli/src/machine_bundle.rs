//! What a machine boots with: the plan, the program, the library OS and copies of the granted directories.

use crate::arguments::ProgramArguments;
use crate::bundle_file::{BundleFile, BundleWriter};
use crate::compiled::Compiled;
use crate::failure::Failure;
use crate::grants;
use crate::parts::{self, Part};
use crate::plan::plan;
use crate::tree::{TreeCopier, TreeError};
use bundle::{Console, DirectorySource, Kind, Seed};
use std::fs;
use std::io;

/// Packs everything that `arguments` name.
pub fn pack(
    arguments: &ProgramArguments,
    compiled: &Compiled,
    console: Console,
    seed: Option<Seed>,
) -> Result<BundleFile, Failure> {
    grants::check_names(&arguments.directories)?;
    let runtime = parts::find(Part::Runtime)?;
    let runtime = fs::read(&runtime).map_err(|error| Failure::Open(runtime, error))?;
    let runtime = executable::loaded_part(runtime);
    let write = |error: io::Error| Failure::from(TreeError::Write(error));
    let mut writer = BundleWriter::new().map_err(write)?;
    writer.add_file(Kind::Program, &compiled.program).map_err(write)?;
    writer.add_file(Kind::TrapHelper, &compiled.trap_helper).map_err(write)?;
    writer.add_with(Kind::Image, write, |image| image.write_all(&runtime).map_err(write))?;
    let sources = writer.add_with(Kind::Files, write, |files| {
        let mut copier = TreeCopier::new(files);
        let copy = |grant: &grants::Grant| {
            Ok(DirectorySource::Copy(copier.copy(&grant.open()?, &grant.host)?.into()))
        };
        arguments.directories.iter().map(copy).collect::<Result<Vec<_>, Failure>>()
    })?;
    let plan = plan(arguments, console, sources, seed)?;
    writer.finish(&plan).map_err(write)
}
