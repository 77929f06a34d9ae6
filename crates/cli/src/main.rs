//! The `selkis` command: runs a program hosted or in a machine, runs whole systems, and makes disk images.
//!
//! It knows what the user wants, where files are and how to start QEMU; how programs run is the library OS's business.
#![deny(unsafe_code)]

mod arguments;
mod bundle_file;
mod catalogue;
mod client;
mod compiled;
mod crash;
mod environment;
mod exit;
mod failure;
mod grants;
mod image;
mod leash;
mod lists;
mod machine_bundle;
mod parts;
mod plan;
mod report;
mod run;
mod sockets;
mod system_bundle;
mod tree;
mod up;
mod vm;

use arguments::{Command, CommandLine};
use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    let ended = match CommandLine::parse().command {
        Command::Run(arguments) => run::run(&arguments),
        Command::Up(arguments) => up::up(&arguments),
        Command::Image(arguments) => image::image(&arguments).map(|()| 0),
        Command::Ps(arguments) => client::ps(&arguments).map(|()| 0),
        Command::Top(arguments) => client::top(&arguments).map(|()| 0),
        Command::Log(arguments) => client::log(&arguments).map(|()| 0),
        Command::Crash(arguments) => client::crash(&arguments).map(|()| 0),
        Command::Trace(arguments) => client::trace(&arguments).map(|()| 0),
        Command::Kill(arguments) => client::kill(&arguments).map(|()| 0),
        Command::Programs(arguments) => lists::programs(&arguments).map(|()| 0),
        Command::Cache(arguments) => lists::cache(&arguments).map(|()| 0),
        Command::Domain => hosted::domain::serve().map_err(failure::Failure::from),
        Command::Leash(arguments) => {
            let error = leash::become_leashed(arguments.holder, &arguments.command);
            eprintln!("cannot start {}: {error}", arguments.command[0].display());
            Ok(exit::status::FAILED)
        }
    };
    match ended {
        Ok(status) => ExitCode::from(status),
        Err(failure) => {
            report::say_error(&failure);
            ExitCode::from(failure.status())
        }
    }
}
