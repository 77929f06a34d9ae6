//! The same commands at a terminal, which is this test's.

use crate::fake::{Machine, Then, list, nothing, piece};
use control::{LogEnd, Reply, Stream};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::process::{Child, Command, ExitStatus};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

/// A command at a terminal of its own.
struct AtTerminal {
    child: Child,
    keyboard: File,
    /// What comes on the screen.
    pieces: Receiver<Vec<u8>>,
    screen: Vec<u8>,
}

impl AtTerminal {
    fn start(mut command: Command, columns: u16) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        tcsetwinsize(&master, Winsize { ws_row: 24, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let name = std::ffi::OsStr::from_bytes(name.to_bytes());
        let open = || OpenOptions::new().read(true).write(true).open(name).unwrap();
        let child = command.stdin(open()).stdout(open()).stderr(open()).spawn().unwrap();
        let mut screen = File::from(master);
        let keyboard = screen.try_clone().unwrap();
        let (send, pieces) = channel();
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            // When the last program has left a terminal, reading fails (EIO).
            while let Ok(length @ 1..) = screen.read(&mut bytes) {
                let Ok(()) = send.send(bytes[..length].to_vec()) else { return };
            }
        });
        Self { child, keyboard, pieces, screen: Vec::new() }
    }

    /// Reads until the screen was sent this.
    fn wait_for(&mut self, text: &str) {
        const LONG: Duration = Duration::from_secs(60);
        while !self.shown().contains(text) {
            let piece = self.pieces.recv_timeout(LONG);
            self.screen.extend(piece.unwrap_or_else(|_| panic!("no `{text}` in {:?}", self.shown())));
        }
    }

    fn shown(&self) -> String {
        String::from_utf8_lossy(&self.screen).into_owned()
    }

    fn press(&mut self, key: &[u8]) {
        match self.keyboard.write_all(key) {
            Err(error) if error.kind() != ErrorKind::BrokenPipe => panic!("{error}"),
            _ => {}
        }
    }

    /// All that was shown, and how it ended.
    fn end(mut self) -> (String, ExitStatus) {
        let status = self.child.wait().unwrap();
        drop(self.keyboard);
        self.screen.extend(self.pieces.iter().flatten());
        (String::from_utf8_lossy(&self.screen).into_owned(), status)
    }
}

/// Leaves the screen that `top` draws on (xterm's private modes, as the others here).
const LEAVE_SCREEN: &str = "\x1b[?1049l";

fn assert_restored(shown: &str) {
    let (entered, left) = (shown.find("\x1b[?1049h"), shown.rfind(LEAVE_SCREEN));
    assert!(entered.is_some() && left > entered, "not put right: {shown:?}");
    assert!(shown.rfind("\x1b[?25h") > shown.rfind("\x1b[?25l"), "no cursor: {shown:?}");
}

#[test]
fn top_draws_and_leaves_the_terminal_as_it_was() {
    for key in [&b"q"[..], b"\x03", b"\x1b"] {
        let machine = Machine::new().start("tenants", nothing);
        let mut top = AtTerminal::start(machine.selkis(&["top", "--interval", "50ms"]), 100);
        top.wait_for("alice");
        top.wait_for("q quits");
        top.press(key);
        let (shown, status) = top.end();
        assert_eq!(status.code(), Some(0), "{shown:?}");
        assert_restored(&shown);
    }
}

#[test]
fn top_leaves_the_terminal_as_it_was_when_it_is_ended() {
    for (signal, status) in [(Signal::TERM, 143), (Signal::HUP, 129), (Signal::INT, 130)] {
        let machine = Machine::new().start("tenants", nothing);
        let mut top = AtTerminal::start(machine.selkis(&["top"]), 100);
        top.wait_for("q quits");
        kill_process(Pid::from_child(&top.child), signal).unwrap();
        let (shown, ended) = top.end();
        assert_eq!(ended.code(), Some(status), "{shown:?}");
        assert_restored(&shown);
    }
}

/// The message is on the terminal that it had before.
#[test]
fn top_says_when_the_system_has_gone() {
    let left = AtomicUsize::new(3);
    let machine = Machine::new().start_stepwise("tenants", move |_, say| {
        say(list("tenants"));
        if left.fetch_sub(1, Ordering::Relaxed) > 1 { Then::Waits } else { Then::Ends }
    });
    let top = AtTerminal::start(machine.selkis(&["top", "--interval", "10ms"]), 100);
    let (shown, status) = top.end();
    assert_eq!(status.code(), Some(1), "{shown:?}");
    assert_restored(&shown);
    let message = shown.find("the connection to the system `tenants` was lost");
    assert!(message > shown.rfind(LEAVE_SCREEN), "{shown:?}");
}

#[test]
fn ps_fits_the_terminal_and_has_colours_there() {
    let machine = Machine::new().start("tenants", nothing);
    let (shown, _) = AtTerminal::start(machine.selkis(&["ps"]), 30).end();
    assert!(shown.contains("\x1b[32mrunning\x1b[0m"), "{shown:?}");
    let mut plain = machine.selkis(&["ps"]);
    plain.env("NO_COLOR", "1");
    let (shown, _) = AtTerminal::start(plain, 30).end();
    assert!(!shown.contains('\x1b'), "{shown:?}");
    assert_eq!(shown.lines().count(), 3);
    assert!(shown.lines().all(|line| line.chars().count() <= 30), "{shown:?}");
}

#[test]
fn nothing_that_a_program_wrote_acts_on_the_terminal() {
    let answer = |_: &control::Request| {
        let replies = vec![
            piece(Stream::Output, &["\x1b]0;title\x07\x1b[2Jred\r"]),
            piece(Stream::Error, &["\u{9b}31m"]),
            Reply::LogEnd(LogEnd::Newest),
        ];
        (replies, Then::Waits)
    };
    let machine = Machine::new().start("tenants", answer);
    let mut log = machine.selkis(&["log", "alice"]);
    log.env("NO_COLOR", "1");
    let (shown, status) = AtTerminal::start(log, 80).end();
    assert_eq!(status.code(), Some(0));
    assert_eq!(shown, "\\u{1b}]0;title\\u{7}\\u{1b}[2Jred\\r\r\n\\u{9b}31m\r\n");
}
