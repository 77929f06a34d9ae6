//! `selkis image`

use crate::arguments::{Cpu, ImageArguments};
use crate::catalogue;
use crate::compiled;
use crate::failure::Failure;
use crate::machine_bundle;
use crate::parts::{self, Part};
use crate::report::Verbosity;
use bundle::Console;
use diskimage::{BootImage, Module, Source};
use std::os::fd::AsRawFd;

/// Writes the image.
pub fn image(arguments: &ImageArguments) -> Result<(), Failure> {
    let verbosity = Verbosity::from_flag(arguments.verbose);
    let kernel = parts::find(Part::Kernel)?;
    let loader = match &arguments.loader {
        Some(loader) => loader.clone(),
        None => parts::find(Part::Loader)?,
    };
    diskimage::check_loader(&loader)?;
    let program = catalogue::locate(&arguments.program.program)?;
    diskimage::check_output(&arguments.output, &[&program, &loader, &kernel])?;
    let compiled = compiled::compile(&arguments.program.program, &program, Cpu::X86_64V2, verbosity)?;
    // An image is booted any number of times, so no seed may be in it.
    let bundle = machine_bundle::pack(&arguments.program, &compiled, Console::Raw, None)?;
    let boot = BootImage {
        loader: Source::File(loader),
        kernel: Source::File(kernel),
        cmdline: arguments.kernel_log.map_or_else(String::new, |log| log.word().to_owned()),
        modules: vec![Module {
            name: "bundle".to_owned(),
            source: Source::File(format!("/proc/self/fd/{}", bundle.file.as_raw_fd()).into()),
            string: String::new(),
        }],
        options: Vec::new(),
    };
    let conf = boot.conf()?;
    boot.write(&arguments.output, conf)?;
    verbosity.step(|| format!("wrote {}", arguments.output.display()));
    Ok(())
}
