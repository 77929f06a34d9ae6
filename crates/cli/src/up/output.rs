//! What `up` prints: what happens to programs.

use control::{End, How};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, write};
use serde::Serialize;
use std::collections::VecDeque;
use std::io::Stdout;
use std::os::fd::AsFd;
use supervisor::{News, Next, Notice};

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
pub struct Output<To = Stdout> {
    report: Report,
    to: To,
    waiting: VecDeque<u8>,
    /// How many lines have found no room since one has.
    left_out: u64,
}

/// Whether anything was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Written {
    Some,
    Nothing,
}

impl<To: AsFd> Output<To> {
    /// Nothing told yet.
    pub fn new(report: Report, to: To) -> Self {
        Self { report, to, waiting: VecDeque::new(), left_out: 0 }
    }

    /// Waits something to be read?
    pub fn is_busy(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// What to wait for.
    pub fn wait_for<'a>(&'a self, entries: &mut Vec<PollFd<'a>>) {
        if self.is_busy() {
            entries.push(PollFd::new(&self.to, PollFlags::OUT));
        }
    }

    /// Tells what has happened, as far as somebody reads.
    pub fn advance(&mut self, news: Vec<News>) {
        for news in news {
            match self.report {
                Report::Nothing => {}
                Report::Lines => lines(&news).for_each(|line| self.put(&line)),
                Report::Json => self.put(&json(&news)),
            }
        }
        while self.is_busy() && self.is_writable() && self.write() == Written::Some {}
    }

    fn put(&mut self, line: &str) {
        // Room for saying how many were left out is kept.
        if self.waiting.len() + line.len() + PIECE_BYTES > WAITING_BYTES_MAX {
            self.left_out += 1;
            return;
        }
        let left_out = std::mem::take(&mut self.left_out);
        match self.report {
            _ if left_out == 0 => {}
            Report::Json => self.extend(&format!("{{\"event\":\"left-out\",\"lines\":{left_out}}}")),
            _ => self.extend(&format!("({left_out} lines were left out: nobody read them)")),
        }
        self.extend(line);
    }

    fn extend(&mut self, line: &str) {
        self.waiting.extend(line.bytes());
        self.waiting.push_back(b'\n');
    }

    fn is_writable(&self) -> bool {
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut [PollFd::new(&self.to, PollFlags::OUT)], Some(&now)).is_ok_and(|count| count > 0)
    }

    fn write(&mut self) -> Written {
        let (piece, _) = self.waiting.as_slices();
        match write(&self.to, &piece[..piece.len().min(PIECE_BYTES)]) {
            Ok(count) => {
                self.waiting.drain(..count);
                Written::Some
            }
            Err(Errno::AGAIN | Errno::INTR) => Written::Nothing,
            // Nobody will ever read it; the system goes on.
            Err(_) => {
                self.report = Report::Nothing;
                self.waiting.clear();
                Written::Nothing
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
    use std::io::Read;

    fn news(notice: Notice) -> News {
        let name = ProgramName { domain: "alice".into(), program: "web".into() };
        News { at_ns: 7, name, notice, last_words: vec![b"no \x1b[2Jfile\xff".to_vec()] }
    }

    /// More than there is room for, while nobody reads; then all that is there.
    #[test]
    fn what_is_not_read_is_left_out_and_counted() {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let mut output = Output::new(Report::Lines, writer);
        let started = || news(Notice::Cancelled);
        let mut told = 0;
        while output.left_out < 1000 {
            output.advance(vec![started()]);
            told += 1;
        }
        assert!(output.is_busy() && output.waiting.len() < WAITING_BYTES_MAX);
        let left_out = output.left_out as usize;
        let mut text = Vec::new();
        let mut read = |output: &mut Output<_>| {
            let mut buffer = [0; 4096];
            while output.is_busy() {
                let count = rustix::io::read(&reader, &mut buffer).unwrap();
                text.extend_from_slice(&buffer[..count]);
                output.advance(Vec::new());
            }
        };
        read(&mut output);
        output.advance(vec![started()]);
        read(&mut output);
        drop(output);
        std::fs::File::from(reader).read_to_end(&mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        let note = format!("({left_out} lines were left out: nobody read them)");
        let lines: Vec<&str> = text.lines().collect();
        // Each is told in two lines: what happened, and the last words.
        assert_eq!(lines.len(), 2 * told - left_out + 1 + 2);
        assert_eq!(lines.iter().filter(|line| **line == note).count(), 1);
        assert_eq!(lines[lines.len() - 3..], [&*note, lines[0], lines[1]]);
    }

    #[test]
    fn nobody_to_read_is_no_failure() {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        drop(reader);
        let mut output = Output::new(Report::Json, writer);
        output.advance(vec![news(Notice::Overdue)]);
        assert!(!output.is_busy());
        output.advance(vec![news(Notice::Overdue)]);
        assert!(!output.is_busy());
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
