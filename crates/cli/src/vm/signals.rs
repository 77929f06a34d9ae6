//! Ctrl-C and its like.

use super::console::Sender;
use super::qemu::{Ended, Switch};
use crate::report::say;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals as Arriving;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::thread;
use std::time::Duration;

/// From Ctrl-C to the end of the machine, before it is switched off. Ending takes a tick, and on a busy host emulation is slow.
const CANCEL_TIME: Duration = Duration::from_secs(10);

/// Which signals have come.
#[derive(Clone, Debug, Default)]
pub struct Signals(Arc<State>);

#[derive(Debug, Default)]
struct State {
    /// 0: none has come.
    first: AtomicI32,
    forced: AtomicBool,
}

impl Signals {
    /// The first that came.
    pub fn first(&self) -> Option<i32> {
        Some(self.0.first.load(Ordering::SeqCst)).filter(|signal| *signal != 0)
    }

    /// Whether the machine was switched off because of them.
    pub fn forced(&self) -> bool {
        self.0.forced.load(Ordering::SeqCst)
    }

    fn force(&self, switch: &Switch) {
        self.0.forced.store(true, Ordering::SeqCst);
        switch.off();
    }
}

/// From now on: the first signal asks the machine to end the program; the second, or none and no end in
/// [`CANCEL_TIME`], switches it off.
pub fn forward(sender: Sender, switch: Switch) -> io::Result<Signals> {
    let signals = Signals::default();
    let mut arriving = Arriving::new([SIGINT, SIGTERM, SIGHUP])?;
    let state = signals.clone();
    let run = move || {
        for signal in arriving.forever() {
            if state.first().is_some() {
                state.force(&switch);
                continue;
            }
            state.0.first.store(signal, Ordering::SeqCst);
            limit(state.clone(), switch.clone());
            sender.cancel();
        }
    };
    thread::Builder::new().name("signals".into()).spawn(run)?;
    Ok(signals)
}

/// Switches the machine off when it does not end in time.
fn limit(signals: Signals, switch: Switch) {
    let run = move || {
        if matches!(switch.wait(CANCEL_TIME), Ok(Ended::NotYet)) {
            signals.force(&switch);
        }
    };
    if let Err(error) = thread::Builder::new().name("limit".into()).spawn(run) {
        say(&format!("the machine has no time limit to stop in: {error}; Ctrl-C again switches it off"));
    }
}
