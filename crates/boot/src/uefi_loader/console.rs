//! Messages: on the firmware's console, and on the first serial port where that is not the same.

use core::fmt::{self, Write};
use core::time::Duration;

use boot::config::{Config, Switch};
use boot::error::BootError;
use uefi::boot::{EventType, TimerTrigger, Tpl};
use uefi::runtime::VariableVendor;
use uefi::{boot as services, cstr16, system};

use super::machine::SerialPort;

/// Where messages go.
pub struct Console {
    serial: Switch,
    verbose: Switch,
    covers_serial: bool,
}

/// What to wait for.
#[derive(Clone, Copy)]
pub enum Wait {
    /// A key.
    Key,
    /// A key, or that time passes.
    KeyOrSeconds(u32),
}

impl Console {
    /// Before a configuration is known: the serial port only gets errors.
    pub fn new() -> Self {
        let path = uefi::runtime::get_variable_boxed(cstr16!("ConOut"), &VariableVendor::GLOBAL_VARIABLE);
        let covers_serial = path.is_ok_and(|(path, _)| boot::device_path::leads_to_uart(&path));
        Self { serial: Switch::Off, verbose: Switch::Off, covers_serial }
    }

    /// As the configuration says.
    pub fn configure(&mut self, config: &Config) {
        self.serial = config.serial;
        self.verbose = config.verbose;
    }

    /// A line for the user.
    pub fn tell(&mut self, line: fmt::Arguments<'_>) {
        self.write(self.serial, line);
    }

    /// A line for the curious, with the time-stamp counter: only with `verbose: yes`.
    pub fn tell_detail(&mut self, line: fmt::Arguments<'_>) {
        if self.verbose == Switch::On {
            self.tell(format_args!("[{}] {line}", super::machine::time_stamp()));
        }
    }

    /// What went wrong, on every console there is.
    pub fn tell_error(&mut self, error: &BootError) {
        self.write(Switch::On, format_args!("cannot start: {error}"));
        self.write(Switch::On, format_args!("press a key to go on with the firmware's next boot option"));
    }

    fn write(&self, serial: Switch, line: fmt::Arguments<'_>) {
        // A console that fails has nobody to be told about it.
        system::with_stdout(|output| {
            let _ = writeln!(output, "Selkis loader: {line}");
        });
        if serial == Switch::On && !self.covers_serial {
            let _ = write!(SerialPort, "Selkis loader: {line}\r\n");
        }
    }

    /// Sleeps in the firmware until what is waited for happens; a machine without keys and timers is not waited for.
    pub fn wait(&self, wait: Wait) {
        let key = system::with_stdin(|input| {
            let _ = input.reset(false); // keys from before do not count
            input.wait_for_key_event()
        });
        let timer = match wait {
            Wait::Key => None,
            Wait::KeyOrSeconds(seconds) => start_timer(seconds),
        };
        let mut events = alloc::vec::Vec::from_iter(timer);
        events.extend(key.ok());
        if !events.is_empty() {
            let _ = services::wait_for_event(&events);
        }
    }
}

fn start_timer(seconds: u32) -> Option<uefi::Event> {
    // SAFETY: the event has no notification function, so nothing is called back.
    let event = unsafe { services::create_event(EventType::TIMER, Tpl::APPLICATION, None, None) }.ok()?;
    let trigger = TimerTrigger::Relative(Duration::from_secs(u64::from(seconds)));
    services::set_timer(&event, trigger).ok()?;
    Some(event)
}
