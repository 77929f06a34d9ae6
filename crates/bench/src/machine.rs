//! The machines that are measured. Both sides get the same QEMU command line but for `-kernel`, `-initrd` and `-append`.

use crate::places::Places;
use crate::{Failure, firmware};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// How long a machine may take, in seconds of this machine; Linux with CPython takes about half a minute.
const SECONDS_MAX: &str = "900";
/// Where Linux's real-mode code is entered: QEMU's `linuxboot_dma` loads it to 0x10000 and jumps 0x200 behind
/// (Linux, Documentation/arch/x86/boot.rst, "Running the kernel").
const LINUX_ENTRY: u64 = 0x1_0200;
/// Without ERMS, which Linux answers by clearing pages byte by byte: QEMU counts each step of a repeated string instruction, and
/// that would be 4096 where clearing by words, as Selkis does always, is 512.
const CPU: &str = "max,-erms";
/// CPython's initramfs is unpacked beside itself.
const MEMORY_MIB: u32 = 512;

/// What machine QEMU plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Board {
    /// The smallest, with one CPU.
    MicroVm,
    /// A PC with a firmware and its tables.
    Q35,
}

/// A machine to boot.
pub struct Machine {
    /// `-M`
    pub board: Board,
    /// `-smp`
    pub cpus: u32,
    /// `-m`
    pub memory_mib: u32,
    /// `-kernel`
    pub kernel: PathBuf,
    /// `-initrd`
    pub initrd: PathBuf,
    /// `-append`
    pub append: String,
    /// The address of the kernel's first instruction.
    pub entry: u64,
}

impl Machine {
    /// Selkis' kernel with this boot module.
    ///
    /// # Errors
    /// If the kernel cannot be read.
    pub fn selkis(places: &Places, initrd: PathBuf) -> Result<Self, Failure> {
        let kernel = places.parts.join("selkis-kernel");
        let entry = firmware::pvh_entry(&kernel)?;
        Ok(Self::new(kernel, initrd, "exit=isa-debug", entry))
    }

    /// Debian's cloud kernel with this initramfs.
    pub fn linux(places: &Places, initrd: PathBuf) -> Self {
        // If init fails, the machine ends by a triple fault, as nothing else ends this one.
        Self::new(places.linux.clone(), initrd, "console=ttyS0 quiet panic=-1 reboot=t", LINUX_ENTRY)
    }

    fn new(kernel: PathBuf, initrd: PathBuf, append: &str, entry: u64) -> Self {
        let (board, cpus, memory_mib) = (Board::MicroVm, 1, MEMORY_MIB);
        Self { board, cpus, memory_mib, kernel, initrd, append: append.to_owned(), entry }
    }

    /// QEMU with the machine; its serial port goes to `output`.
    ///
    /// It ends with the thread that starts it and with the command's own process, even if they are killed: `setpriv` asks Linux
    /// for that, for `timeout` and for QEMU below it.
    pub fn qemu(&self, output: &Path) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "timeout", SECONDS_MAX]);
        command.args(["setpriv", "--pdeathsig", "KILL", "qemu-system-x86_64"]);
        command.args(match self.board {
            Board::MicroVm => ["-M", "microvm,acpi=off,rtc=on"],
            Board::Q35 => ["-M", "q35"],
        });
        command.args(["-cpu", CPU, "-smp", &self.cpus.to_string(), "-m", &self.memory_mib.to_string()]);
        command.args(["-display", "none", "-nodefaults", "-no-user-config", "-no-reboot"]);
        // RDRAND and the real-time clock say the same in each run, so that Linux takes the same way.
        command.args(["-seed", "1", "-rtc", "base=2026-01-01T00:00:00,clock=vm"]);
        command.args(["-device", "isa-debug-exit,iobase=0xf4,iosize=4", "-serial", "chardev:serial"]);
        command.arg("-chardev").arg(format!("file,id=serial,path={}", output.display()));
        command.arg("-kernel").arg(&self.kernel).arg("-initrd").arg(&self.initrd);
        command.args(["-append", &self.append]).stdin(Stdio::null());
        command
    }
}
