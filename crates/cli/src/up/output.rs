//! What `up` prints: what happens to programs.

use super::ready::Ready;
use super::system::{News, System};
use control::{End, How};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, write};
use serde::Serialize;
use std::collections::VecDeque;
use std::io::{Stdout, stdout};
use supervisor::{Next, Notice};

/// What a pipe that `poll` calls writable takes without blocking (pipe(7): PIPE_BUF).
const PIECE_BYTES: usize = 4096;
/// What waits to be read. What happens beyond that is not told.
const WAITING_BYTES_MAX: usize = 256 << 10;

/// How things are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    /// Not.
    Nothing,
    /// A line each, for people.
    Lines,
    /// A line of JSON each.
    Json,
}

/// Standard output, which need not be read for the system to go on.
#[derive(Debug)]
pub struct Output {
    report: Report,
    stdout: Stdout,
    waiting: VecDeque<u8>,
}

impl Output {
    /// Nothing told yet.
    pub fn new(report: Report) -> Self {
        Self { report, stdout: stdout(), waiting: VecDeque::new() }
    }

    /// Waits something to be read?
    pub fn is_busy(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// What to wait for.
    pub fn wait_for<'a>(&'a self, entries: &mut Vec<PollFd<'a>>) {
        if self.is_busy() {
            entries.push(PollFd::new(&self.stdout, PollFlags::OUT));
        }
    }

    /// Tells what has happened, as far as somebody reads.
    pub fn advance(&mut self, ready: &Ready, system: &mut System) {
        for news in system.take_news() {
            match self.report {
                Report::Nothing => {}
                Report::Lines => lines(&news).for_each(|line| self.put(&line)),
                Report::Json => self.put(&json(&news)),
            }
        }
        // What has just come is tried at once; what waits, when there is room.
        if self.is_busy() && (ready.has(&self.stdout) || self.is_writable()) {
            self.write();
        }
    }

    fn put(&mut self, line: &str) {
        if self.waiting.len() + line.len() < WAITING_BYTES_MAX {
            self.waiting.extend(line.bytes());
            self.waiting.push_back(b'\n');
        }
    }

    fn is_writable(&self) -> bool {
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut [PollFd::new(&self.stdout, PollFlags::OUT)], Some(&now)).is_ok_and(|count| count > 0)
    }

    fn write(&mut self) {
        let (piece, _) = self.waiting.as_slices();
        match write(&self.stdout, &piece[..piece.len().min(PIECE_BYTES)]) {
            Ok(count) => drop(self.waiting.drain(..count)),
            Err(Errno::AGAIN | Errno::INTR) => {}
            // Nobody will ever read it; the system goes on.
            Err(_) => {
                self.report = Report::Nothing;
                self.waiting.clear();
            }
        }
    }
}

/// For people: what happened, and what the program said last if it failed.
fn lines(News { name, notice, last_words, .. }: &News) -> impl Iterator<Item = String> {
    let words = last_words.iter().map(move |words| format!("{name}:     {}", printable(words)));
    std::iter::once(format!("{name}: {notice}")).chain(words)
}

/// A program's words, which may be any bytes, without what would move a terminal's cursor or worse.
fn printable(words: &[u8]) -> String {
    let words = String::from_utf8_lossy(words);
    words.chars().map(|character| if character.is_control() { ' ' } else { character }).collect()
}

/// For scripts.
#[derive(Serialize)]
struct Line<'a> {
    at_ns: u64,
    domain: &'a str,
    program: &'a str,
    #[serde(flatten)]
    event: Event<'a>,
}

#[derive(Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
enum Event<'a> {
    Started {
        restarts: u64,
    },
    Stopping {
        how: How,
    },
    Overdue,
    Cancelled,
    Ended {
        #[serde(skip_serializing_if = "Option::is_none")]
        status: Option<u8>,
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<&'a str>,
        next: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        restart_after_ns: Option<u64>,
    },
}

fn json(News { at_ns, name, notice, .. }: &News) -> String {
    let event = match notice {
        Notice::Started { restarts } => Event::Started { restarts: *restarts },
        Notice::Stopping(how) => Event::Stopping { how: *how },
        Notice::Overdue => Event::Overdue,
        Notice::Cancelled => Event::Cancelled,
        Notice::Ended { end, next } => {
            let (status, reason) = match end {
                End::Exited { status } => (Some(*status), None),
                End::Broken { how } => (None, Some(&**how)),
                End::NotStarted { why } => (None, Some(&**why)),
            };
            let (next, restart_after_ns) = match next {
                Next::Nothing => ("nothing", None),
                Next::Stopped => ("stopped", None),
                Next::Restart { after_ns } => ("restart", Some(*after_ns)),
            };
            Event::Ended { status, reason, next, restart_after_ns }
        }
    };
    let line = Line { at_ns: *at_ns, domain: &name.domain, program: &name.program, event };
    serde_json::to_string(&line).expect("a line can be written to memory")
}

#[cfg(test)]
mod tests {
    use super::*;
    use control::ProgramName;

    fn news(notice: Notice) -> News {
        let name = ProgramName { domain: "alice".into(), program: "web".into() };
        News { at_ns: 7, name, notice, last_words: vec![b"no \x1b[2Jfile\xff".to_vec()] }
    }

    #[test]
    fn people_read_lines() {
        let end = End::Exited { status: 3 };
        let lines: Vec<String> = lines(&news(Notice::Ended { end, next: Next::Nothing })).collect();
        assert_eq!(lines, ["alice/web: exit status 3", "alice/web:     no  [2Jfile\u{fffd}"]);
    }

    #[test]
    fn scripts_read_json() {
        for (notice, text) in [
            (Notice::Started { restarts: 2 }, r#""event":"started","restarts":2"#),
            (Notice::Stopping(How::AtOnce), r#""event":"stopping","how":"at-once""#),
            (
                Notice::Ended { end: End::Exited { status: 3 }, next: Next::Restart { after_ns: 5 } },
                r#""event":"ended","status":3,"next":"restart","restart_after_ns":5"#,
            ),
            (
                Notice::Ended { end: End::Broken { how: "SIGKILL".into() }, next: Next::Nothing },
                r#""event":"ended","reason":"SIGKILL","next":"nothing""#,
            ),
        ] {
            let expected = format!(r#"{{"at_ns":7,"domain":"alice","program":"web",{text}}}"#);
            assert_eq!(json(&news(notice)), expected);
        }
    }
}
