//! The engine's settings of the peer, which its compiler and its runtime must agree on, and the end of its machine.
//!
//! Everything is upstream's default, except what the comparison needs to be the same on both sides.
#![allow(unsafe_code)]

#[cfg(feature = "run")]
pub mod epochs;
#[cfg(feature = "run")]
pub mod handover;

use wasmtime::Config;

/// For which CPU code is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cpu {
    /// The one that compiles.
    Native,
    /// Every x86-64-v2 CPU, as the emulated one.
    X86_64V2,
}

impl Cpu {
    /// Reads what `selkis-compile` calls them as well.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "native" => Some(Self::Native),
            "x86-64-v2" => Some(Self::X86_64V2),
            _ => None,
        }
    }
}

/// Whether code looks at the engine's epoch, by which it can be interrupted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Epochs {
    /// At each function and in each loop.
    Checked,
    /// Never: upstream's default.
    Ignored,
}

impl Epochs {
    /// Reads a word of `selkis-peer-compile`.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "epochs" => Some(Self::Checked),
            "plain" => Some(Self::Ignored),
            _ => None,
        }
    }
}

/// The settings that are in every artifact.
pub fn config(epochs: Epochs) -> Config {
    let mut config = Config::new();
    config.epoch_interruption(epochs == Epochs::Checked);
    config
}

/// The port of QEMU's `isa-debug-exit`, which ends the machine with what is written there.
#[cfg(feature = "run")]
const EXIT_PORT: u16 = 0xf4;

/// Ends the machine, as Linux's init; answers if it did not.
#[cfg(feature = "run")]
pub fn switch_off(status: u8) -> std::io::Error {
    // SAFETY: waits until the serial port has sent everything. Then asks for the one port, and writes to it: nothing but
    // the machine's end comes of that.
    unsafe {
        libc::tcdrain(libc::STDOUT_FILENO);
        if libc::ioperm(EXIT_PORT.into(), 1, 1) != 0 {
            return std::io::Error::last_os_error();
        }
        std::arch::asm!("out dx, al", in("dx") EXIT_PORT, in("al") status, options(nomem, nostack, preserves_flags));
    }
    std::io::Error::other("the machine has no debug exit")
}

/// The settings to compile for `cpu`.
///
/// # Errors
/// If the engine does not know the target.
#[cfg(feature = "compile")]
pub fn compiler_config(cpu: Cpu, epochs: Epochs) -> wasmtime::Result<Config> {
    let mut config = config(epochs);
    if cpu == Cpu::X86_64V2 {
        // With a target named, no feature of this CPU is assumed.
        config.target("x86_64-unknown-linux-gnu")?;
        for flag in ["has_sse3", "has_ssse3", "has_sse41", "has_sse42", "has_popcnt"] {
            // SAFETY: these are names of cranelift's x86 settings; which CPU runs the code is checked when it is loaded.
            unsafe { config.cranelift_flag_enable(flag) };
        }
    }
    Ok(config)
}
