//! The QEMU process: its command line, its start, its end.

use super::words::LastWords;
use super::{Machine, Mitigations};
use crate::leash;
use crate::report::Verbosity;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::env;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

const EXECUTABLE: &str = "qemu-system-x86_64";
/// The most memory that a machine is asked for: QEMU's own limit for `microvm` is higher, and the unit is MiB.
const MEMORY_MIB_MAX: u64 = 1 << 20;

/// Why QEMU did not run.
#[derive(Debug, thiserror::Error)]
pub enum QemuError {
    /// Not installed.
    #[error(
        "--vm needs QEMU, and there is no `{EXECUTABLE}` in PATH\napt-get install --no-install-recommends qemu-system-x86"
    )]
    Missing,
    /// Installed, and not to be started.
    #[error("cannot start `{path}`: {error}")]
    NotStarted {
        /// Where it is.
        path: String,
        /// Why.
        error: io::Error,
    },
    /// Its end could not be waited for.
    #[error("lost sight of QEMU: {0}")]
    Lost(io::Error),
    /// The program has ended, and QEMU has not.
    #[error("QEMU did not end after the machine was off; it was killed")]
    Stuck,
    /// No descriptors left, say.
    #[error("cannot use the standard streams: {0}")]
    Streams(io::Error),
    /// No handler for Ctrl-C.
    #[error("cannot catch signals: {0}")]
    Signals(io::Error),
}

/// Where QEMU is.
pub fn find() -> Result<PathBuf, QemuError> {
    find_in(&env::var_os("PATH").unwrap_or_default())
}

fn find_in(path: &OsStr) -> Result<PathBuf, QemuError> {
    let is_executable = |path: &PathBuf| {
        path.metadata().is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
    };
    env::split_paths(path).map(|folder| folder.join(EXECUTABLE)).find(is_executable).ok_or(QemuError::Missing)
}

/// Switches a running QEMU off, by the process itself and not by its number, which may be another's by then.
#[derive(Clone, Debug)]
pub struct Switch(Arc<OwnedFd>);

impl Switch {
    /// Ends QEMU at once.
    pub fn off(&self) {
        // The only error is that it has ended already.
        let _ = pidfd_send_signal(&*self.0, Signal::KILL);
    }

    /// Waits for QEMU's end, at most `time`; whether it has come.
    pub fn wait(&self, time: Duration) -> io::Result<Ended> {
        let deadline = std::time::Instant::now() + time;
        loop {
            let left = deadline.saturating_duration_since(std::time::Instant::now());
            let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
            match poll(&mut [PollFd::new(&*self.0, PollFlags::IN)], Some(&left)) {
                Ok(0) => return Ok(Ended::NotYet),
                Ok(_) => return Ok(Ended::Yes),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Whether a process has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It has.
    Yes,
    /// It has not.
    NotYet,
}

/// A running QEMU. Dropping it kills it.
#[derive(Debug)]
pub struct Qemu {
    child: Child,
    switch: Switch,
    console: Option<UnixStream>,
    stderr: Option<LastWords>,
    serial: Option<LastWords>,
}

impl Qemu {
    /// Starts it. Must be called from the main thread: see [`leash`].
    pub fn start(machine: &Machine) -> Result<Self, QemuError> {
        let path = machine.qemu.display().to_string();
        Self::spawn(machine).map_err(|error| QemuError::NotStarted { path, error })
    }

    fn spawn(machine: &Machine) -> io::Result<Self> {
        let (console, console_theirs) = UnixStream::pair()?;
        let (serial, serial_theirs) = UnixStream::pair()?;
        inherit(&console_theirs)?;
        inherit(&serial_theirs)?;
        inherit(&machine.bundle.file)?;
        let arguments = command_line(machine, console_theirs.as_raw_fd(), serial_theirs.as_raw_fd());
        machine.verbosity.step(|| {
            let words = arguments.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>();
            format!("starting {} {}", machine.qemu.display(), words.join(" "))
        });
        // A process group of its own: Ctrl-C at the terminal is for this process to pass on, not for QEMU.
        let mut child = leash::command(machine.qemu)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()?;
        let stderr = child.stderr.take().map(|stderr| LastWords::of(stderr, Verbosity::Quiet)).transpose()?;
        let shown = if machine.log.is_some() { Verbosity::Steps } else { machine.verbosity };
        let serial = Some(LastWords::of(serial, shown)?);
        let pid = Pid::from_child(&child);
        let switch = Switch(Arc::new(pidfd_open(pid, PidfdFlags::empty())?));
        Ok(Self { child, switch, console: Some(console), stderr, serial })
    }

    /// The machine's console.
    ///
    /// # Panics
    /// The second time.
    pub fn take_console(&mut self) -> UnixStream {
        self.console.take().expect("the console is taken once")
    }

    /// To switch it off from another thread.
    pub fn switch(&self) -> Switch {
        self.switch.clone()
    }

    /// Waits for its end; kills it when `time` is up.
    pub fn wait(&mut self, time: Duration) -> Result<ExitStatus, QemuError> {
        let ended = self.switch.wait(time).map_err(QemuError::Lost)?;
        if ended == Ended::NotYet {
            self.switch.off();
        }
        let status = self.child.wait().map_err(QemuError::Lost)?;
        match ended {
            Ended::Yes => Ok(status),
            Ended::NotYet => Err(QemuError::Stuck),
        }
    }

    /// What QEMU and the kernel said last, for an error message. QEMU must have ended.
    pub fn last_words(&mut self) -> String {
        let mut text = String::new();
        for (speaker, words) in [("QEMU", self.stderr.take()), ("the kernel", self.serial.take())] {
            let words = words.map(LastWords::text).unwrap_or_default();
            if !words.is_empty() {
                text.push_str(&format!("\n{speaker} said:\n{words}"));
            }
        }
        text
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        self.switch.off();
        let _ = self.child.wait();
    }
}

/// Lets the descriptor pass to the child. There is one child, and no other thread that starts any.
fn inherit(descriptor: impl AsFd) -> io::Result<()> {
    Ok(fcntl_setfd(descriptor, FdFlags::empty())?)
}

fn command_line(machine: &Machine, console: i32, serial: i32) -> Vec<OsString> {
    let bundle = machine.bundle.file.as_raw_fd();
    let memory = machine.memory.0.div_ceil(1 << 20).min(MEMORY_MIB_MAX);
    let words = [
        // Without ACPI the machine is up 10,000 guest instructions earlier; the kernel finds what it needs without.
        "-M",
        "microvm,acpi=off,rtc=on",
        // The default CPU has no SSE 4.
        "-cpu",
        "max",
        "-m",
        &format!("{memory}M"),
        "-smp",
        &machine.cpus.to_string(),
        "-append",
        &kernel_words(machine),
        "-initrd",
        &format!("/proc/self/fd/{bundle}"),
        "-display",
        "none",
        "-nodefaults",
        "-no-user-config",
        // A triple fault ends QEMU.
        "-no-reboot",
        "-device",
        "isa-debug-exit,iobase=0xf4,iosize=4",
        // virtio 1.2, not the legacy layout.
        "-global",
        "virtio-mmio.force-legacy=false",
        "-chardev",
        &format!("socket,id=serial,fd={serial}"),
        "-serial",
        "chardev:serial",
        "-chardev",
        &format!("socket,id=console,fd={console}"),
        "-device",
        "virtio-serial-device",
        "-device",
        // Not a `virtconsole`: QEMU drops its output when the reader is slower than the guest.
        "virtserialport,nr=1,chardev=console",
    ];
    let mut line = vec![OsString::from("-kernel"), machine.kernel.clone().into_os_string()];
    line.extend(words.map(OsString::from));
    line
}

/// What the kernel is told.
fn kernel_words(machine: &Machine) -> String {
    let mut words = String::from("exit=isa-debug");
    if machine.cpus > 1 {
        words.push_str(&format!(" cpus={}", machine.cpus));
    }
    if machine.mitigations == Mitigations::Off {
        words.push_str(" mitigations=off");
    }
    if let Some(log) = machine.log {
        words.push(' ');
        words.push_str(log.word());
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn qemu_is_found_where_it_is_executable() {
        let folder = tempfile::tempdir().unwrap();
        let path = OsString::from(format!("/nonexistent:{}", folder.path().display()));
        assert!(matches!(find_in(&path), Err(QemuError::Missing)));
        let file = folder.path().join(EXECUTABLE);
        std::fs::write(&file, "").unwrap();
        assert!(matches!(find_in(&path), Err(QemuError::Missing)));
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o755)).unwrap();
        assert_eq!(find_in(&path).unwrap(), file);
    }
}
