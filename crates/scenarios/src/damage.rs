//! Damage: to modules, to compiled programs, to what a machine boots from.
//!
//! The command never hands a damaged boot module to QEMU. To see what a machine does with one, this executable is
//! put before QEMU in PATH, under QEMU's name: it damages a copy of the module as `$SCENARIOS_DAMAGE` says, and becomes QEMU.

use crate::selkis::Context;
use crate::verdict::{Failed, Verdict};
use bundle::Bundle;
use rustix::io::{FdFlags, fcntl_setfd};
use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, IntoRawFd};
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

const QEMU: &str = "qemu-system-x86_64";
const DAMAGE: &str = "SCENARIOS_DAMAGE";
const REAL_QEMU: &str = "SCENARIOS_QEMU";

/// What is done to a boot module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// It ends after so many bytes.
    Cut(u64),
    /// This bit of the program's artifact, modulo its length, is flipped.
    Artifact(u64),
    /// This bit of the plan, modulo its length, is flipped.
    Plan(u64),
}

impl Damage {
    fn text(self) -> String {
        match self {
            Self::Cut(length) => format!("cut {length}"),
            Self::Artifact(bit) => format!("artifact {bit}"),
            Self::Plan(bit) => format!("plan {bit}"),
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let (word, number) = text.split_once(' ')?;
        let number = number.parse().ok()?;
        match word {
            "cut" => Some(Self::Cut(number)),
            "artifact" => Some(Self::Artifact(number)),
            "plan" => Some(Self::Plan(number)),
            _ => None,
        }
    }

    fn apply(self, module: &mut Vec<u8>) -> io::Result<()> {
        let not_a_bundle = |error: bundle::BundleError| io::Error::other(error.to_string());
        match self {
            Self::Cut(length) => module.truncate(length as usize),
            Self::Artifact(bit) => {
                let bundle = Bundle::parse(module).map_err(not_a_bundle)?;
                // A plan's program has an artifact.
                let program = bundle.artifacts[0];
                let (at, length) = (offset_in(module, program), program.len());
                flip(&mut module[at..at + length], bit);
            }
            Self::Plan(bit) => {
                let bundle = Bundle::parse(module).map_err(not_a_bundle)?;
                let plan = bundle::Layout::encode_plan(&bundle.plan);
                let at = module.windows(plan.len()).position(|bytes| bytes == plan);
                let at = at.ok_or_else(|| io::Error::other("the plan is not in the bundle"))?;
                flip(&mut module[at..at + plan.len()], bit);
            }
        }
        Ok(())
    }
}

/// A folder for PATH in which this executable has QEMU's name, and the variables that make it do `damage`.
pub fn variables(context: &Context, damage: Damage) -> Verdict<[(&'static str, OsString); 3]> {
    let folder = context.folder().join("instead-of-qemu");
    fs::create_dir_all(&folder)?;
    let name = folder.join(QEMU);
    if !name.exists() {
        symlink(env::current_exe()?, &name)?;
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let real = env::split_paths(&path).map(|folder| folder.join(QEMU)).find(|file| file.is_file());
    let real = real.ok_or_else(|| Failed(format!("there is no {QEMU} in PATH")))?;
    let path = env::join_paths([folder].into_iter().chain(env::split_paths(&path)))?;
    Ok([("PATH", path), (REAL_QEMU, real.into()), (DAMAGE, damage.text().into())])
}

/// Flips a bit of `bytes`, counted from the beginning and around.
pub fn flip(bytes: &mut [u8], bit: u64) {
    let bit = bit % (bytes.len() as u64 * 8);
    bytes[(bit / 8) as usize] ^= 1 << (bit % 8);
}

/// Numbers that look random and are the same in every run (SplitMix64, Steele, Lea and Flood 2014).
pub fn numbers(seed: u64) -> impl Iterator<Item = u64> {
    let mut state = seed;
    std::iter::repeat_with(move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    })
}

/// If this was started as QEMU: damages the boot module, becomes QEMU, and returns only if that fails.
pub fn stand_in_for_qemu() -> Option<ExitCode> {
    let mut words = env::args_os();
    let own_name = PathBuf::from(words.next()?);
    if own_name.file_name() != Some(OsStr::new(QEMU)) {
        return None;
    }
    let error = become_qemu(words.collect());
    eprintln!("{QEMU} (the stand-in of the scenario tests): {error}");
    Some(ExitCode::FAILURE)
}

fn become_qemu(mut words: Vec<OsString>) -> io::Error {
    let Some(real) = env::var_os(REAL_QEMU) else { return io::Error::other("there is no real one") };
    let module = words.iter().position(|word| word == "-initrd").and_then(|at| words.get_mut(at + 1));
    let Some(module) = module else { return io::Error::other("there is no boot module") };
    match damaged(Path::new(module)) {
        Ok(path) => *module = path,
        Err(error) => return error,
    }
    Command::new(real).args(words).exec()
}

fn damaged(module: &Path) -> io::Result<OsString> {
    let damage = env::var(DAMAGE).ok().as_deref().and_then(Damage::parse);
    let damage = damage.ok_or_else(|| io::Error::other("no damage is described"))?;
    let mut bytes = fs::read(module)?;
    damage.apply(&mut bytes)?;
    let mut copy = tempfile::tempfile()?;
    copy.write_all(&bytes)?;
    fcntl_setfd(&copy, FdFlags::empty())?;
    let path = format!("/proc/self/fd/{}", copy.as_raw_fd());
    // It must stay open until QEMU has it.
    let _ = copy.into_raw_fd();
    Ok(path.into())
}

fn offset_in(whole: &[u8], part: &[u8]) -> usize {
    part.as_ptr().addr() - whole.as_ptr().addr()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for damage in [Damage::Cut(7), Damage::Artifact(u64::MAX), Damage::Plan(0)] {
            assert_eq!(Damage::parse(&damage.text()), Some(damage));
        }
        assert_eq!(Damage::parse("else 1"), None);
    }

    #[test]
    fn a_flip_changes_one_bit() {
        let mut bytes = [0; 4];
        flip(&mut bytes, 32 + 9);
        assert_eq!(bytes, [0, 2, 0, 0]);
    }
}
