//! Domains as processes, with library OSes that misbehave: this executable is the parent, and, started once more, the
//! process of the domain.

mod code;
mod life;
mod moments;
mod quotas;
mod scene;
mod walls;

use libtest_mimic::{Arguments, Trial};
use std::process::ExitCode;

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some(scene::DOMAIN) => scene::be_domain(),
        Some(scene::PARENT) => scene::be_parent(),
        Some(scene::PARENTS) => scene::be_busy_parent(),
        _ => {
            let trials = [life::TESTS, walls::TESTS, quotas::TESTS, moments::TESTS].into_iter().flatten();
            let trials = trials.map(|(name, test)| {
                Trial::test(*name, || {
                    test();
                    Ok(())
                })
            });
            libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit_code()
        }
    }
}

/// A test and its name.
type Test = (&'static str, fn());
