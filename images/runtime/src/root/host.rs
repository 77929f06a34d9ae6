//! The way to the process on the host that has the clients: messages over the machine's console.

use crate::wire::{Lost, VirtioConsole, Wire};
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use control::{Decoder, GREETING, encode};
use supervisor::relay::{FromRoot, ToRoot};

/// What is read from the console at once.
const READ_BYTES: usize = 4 << 10;

/// The console, and messages that are in it in part.
pub struct Host {
    console: VirtioConsole,
    decoder: Decoder<ToRoot>,
    scratch: Vec<u8>,
    /// What the console had no room for yet, from `sent` on.
    out: Vec<u8>,
    sent: usize,
}

impl Host {
    /// Begins with the greeting.
    pub fn new(console: VirtioConsole) -> Self {
        let scratch = vec![0; READ_BYTES];
        Self { console, decoder: Decoder::new(), scratch, out: GREETING.to_vec(), sent: 0 }
    }

    /// The next message from the host, if it has come.
    pub fn hear(&mut self) -> Result<Option<ToRoot>, String> {
        loop {
            if let Some(message) = self.decoder.next().map_err(|error| format!("{error}"))? {
                return Ok(Some(message));
            }
            let count = self.console.read(&mut self.scratch).map_err(lost)?;
            if count == 0 {
                return Ok(None);
            }
            self.decoder.push(&self.scratch[..count]);
        }
    }

    /// Adds a message to what is sent.
    pub fn say(&mut self, message: &FromRoot) {
        match encode(message) {
            Ok(frame) => self.out.extend_from_slice(&frame),
            // What is longer than a frame may be is a reply, and its client is told so.
            Err(_) => {
                if let FromRoot::Reply(ticket, _) = message {
                    let refused = control::Reply::Refused(control::Refusal::TooLong);
                    let frame = encode(&FromRoot::Reply(*ticket, refused));
                    self.out.extend_from_slice(&frame.unwrap_or_default());
                }
            }
        }
    }

    /// Sends what waits; whether all of it is out.
    pub fn flush(&mut self) -> Result<bool, String> {
        while self.sent < self.out.len() {
            let count = self.console.write(&[&self.out[self.sent..]]).map_err(lost)?;
            self.sent += count;
            if count == 0 {
                return Ok(false);
            }
        }
        // The memory of a long reply goes with it.
        (self.out, self.sent) = (Vec::new(), 0);
        Ok(true)
    }

    /// Takes note of the console's event.
    pub fn on_event(&mut self) -> Result<(), String> {
        self.console.on_event().map_err(lost)
    }
}

fn lost(Lost: Lost) -> String {
    String::from("the machine's console has failed")
}
