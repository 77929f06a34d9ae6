//! The loader as an application of the firmware.

mod console;
mod files;
mod firmware;
mod handover;
mod load;
mod machine;
mod memory;
mod processors;
#[path = "../../../machine/src/trampoline.rs"]
mod trampoline;

use boot::config::{Config, Timeout};
use boot::error::BootError;
use uefi::Status;

use console::{Console, Wait};

/// How long a message stays before the firmware goes on to its next boot option.
const ERROR_SECONDS: u32 = 10;

#[uefi::entry]
fn main() -> Status {
    let started = machine::time_stamp();
    let mut console = Console::new();
    let error = match start(&mut console, started) {
        Err(error) => error,
        Ok(never) => match never {},
    };
    console.tell_error(&error);
    console.wait(Wait::KeyOrSeconds(ERROR_SECONDS));
    status(&error)
}

/// Loads and hands over.
fn start(console: &mut Console, started: u64) -> Result<core::convert::Infallible, BootError> {
    let mut volume = files::Volume::of_this_image()?;
    let (path, file) = volume.read_config()?;
    let config = boot::config::parse(file.bytes()).map_err(|error| BootError::Config { path, error })?;
    drop(file);
    console.configure(&config);
    console.tell_detail(format_args!("begun at [{started}], configured by {path}"));
    for (line, option) in &config.ignored {
        console.tell_detail(format_args!("{path} line {line}: {option} is not known to this loader"));
    }
    wait_before(console, &config);
    let loaded = load::load(&mut volume, &config, console)?;
    drop(volume);
    loaded.hand_over()
}

fn wait_before(console: &mut Console, config: &Config) {
    let title = &config.entry.title;
    match config.timeout {
        Timeout::None => {}
        Timeout::Seconds(seconds) => {
            console.tell(format_args!("{title} starts in {seconds} s, or with any key"));
            console.wait(Wait::KeyOrSeconds(seconds));
        }
        Timeout::Key => {
            console.tell(format_args!("{title} starts with any key"));
            console.wait(Wait::Key);
        }
    }
}

/// What the firmware is told: anything but success makes it try its next boot option.
fn status(error: &BootError) -> Status {
    match error {
        BootError::ConfigMissing | BootError::FileMissing { .. } => Status::NOT_FOUND,
        BootError::Volume(status) | BootError::FileUnreadable { firmware: status, .. } => Status(status.0),
        BootError::FileCutShort { .. } => Status::VOLUME_CORRUPTED,
        BootError::OutOfMemory { .. } => Status::OUT_OF_RESOURCES,
        BootError::FiveLevelPaging | BootError::Request { .. } => Status::UNSUPPORTED,
        BootError::Config { .. } | BootError::Executable { .. } | BootError::DirectMapBase(_) => {
            Status::LOAD_ERROR
        }
    }
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    // Boot services may be gone: the serial port is all that is left for certain.
    machine::fatal(format_args!("{info}"))
}
