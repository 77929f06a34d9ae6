//! A child that cannot outlive its parent.
//!
//! QEMU must be gone when this command is, even if this command is killed with no chance to clean up. Linux does that for
//! a process that asks for it, so QEMU is started through a second instance of this command, which
//! asks and then becomes QEMU. (Asking between fork and exec would need `unsafe`.)

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{self, Command};

use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};

/// A command that starts `program`, to be killed when the thread that starts it ends: start it from
/// the main thread.
pub fn command(program: &Path) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.arg("leash").arg(process::id().to_string()).arg("--").arg(program);
    command
}

/// Becomes `command` on the leash of `holder`, its parent. Returns only if that fails.
pub fn become_leashed(holder: i32, command: &[OsString]) -> io::Error {
    if let Err(error) = set_parent_process_death_signal(Some(Signal::KILL)) {
        return error.into();
    }
    // The holder may have gone before the request was made; then nobody would ever send the signal.
    if getppid().map(Pid::as_raw_pid) != Some(holder) {
        return io::Error::other("the process that started this has ended");
    }
    Command::new(&command[0]).args(&command[1..]).exec()
}
