//! The wire to a domain's library OS: one end of a pair of stream sockets, over which a `DomainLink` speaks.

use rustix::event::{PollFd, PollFlags};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use supervisor::{DomainLink, Event};

/// What is read before others have their turn: of the dearest that a domain can say, some milliseconds' work.
const TURN_BYTES: usize = 16 << 10;
/// What may still be in it when the other end is gone, and no more is read: far more than Linux lets a socket hold.
const REST_BYTES: usize = 64 << 20;
/// Whether a domain's time to be heard has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hearing {
    /// It has.
    Now,
    /// Later.
    NotYet,
}

/// A wire, and what is said over it.
#[derive(Debug)]
pub struct Wire {
    /// What is wanted of the domain.
    pub link: DomainLink,
    stream: UnixStream,
    step: Step,
    buffer: Box<[u8]>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Both ends speak.
    Open,
    /// The domain hears nothing any more. What it has said before can be read.
    Deaf,
    /// Nothing comes any more that is to be believed.
    Over,
}

impl Wire {
    /// Over this socket.
    pub fn new(stream: UnixStream, link: DomainLink) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self { link, stream, step: Step::Open, buffer: vec![0; TURN_BYTES].into() })
    }

    /// What to wait for.
    pub fn wait_for<'a>(&'a self, hearing: Hearing, entries: &mut Vec<PollFd<'a>>) {
        let heard = if hearing == Hearing::Now { PollFlags::IN } else { PollFlags::empty() };
        let wanted = match self.step {
            Step::Open if self.link.is_busy() => heard | PollFlags::OUT,
            Step::Open | Step::Deaf => heard,
            Step::Over => return,
        };
        // That the other end is gone would be told unasked.
        if !wanted.is_empty() {
            entries.push(PollFd::new(&self.stream, wanted));
        }
    }

    /// The descriptor that [`Self::wait_for`] waits for.
    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// Hears a turn's worth of what the domain says, if its time has come, and says what it takes. If what it says breaks the rules: how.
    pub fn advance(&mut self, hearing: Hearing, tell: &mut impl FnMut(Event<'_>)) -> Result<(), link::Error> {
        if hearing == Hearing::Now {
            self.hear(TURN_BYTES, tell)?;
        }
        self.say();
        Ok(())
    }

    /// The other end is gone: hears the rest. What breaks the rules is not told any more.
    pub fn finish(&mut self, tell: &mut impl FnMut(Event<'_>)) {
        // It has ended, so it need not be ended.
        let _ = self.hear(REST_BYTES, tell);
    }

    fn hear(&mut self, bytes_max: usize, tell: &mut impl FnMut(Event<'_>)) -> Result<(), link::Error> {
        let mut heard = 0;
        while self.step != Step::Over && heard < bytes_max {
            match self.stream.read(&mut self.buffer) {
                Ok(0) => self.step = Step::Over,
                Ok(count) => {
                    heard += count;
                    let taken = self.link.take(&self.buffer[..count], tell);
                    taken.inspect_err(|_| self.step = Step::Over)?;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => self.step = Step::Over,
            }
        }
        Ok(())
    }

    fn say(&mut self) {
        while self.step == Step::Open {
            let bytes = self.link.unsent();
            if bytes.is_empty() {
                return;
            }
            match self.stream.write(bytes) {
                Ok(count) => self.link.sent(count),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => self.step = Step::Deaf,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use control::{End, Stream};
    use link::{Cause, Frame, FromHost, GuestDecoder, Process};
    use rustix::event::Timespec;
    use supervisor::{DomainId, ProcessId};

    const DOMAIN: DomainId = DomainId(3);

    fn wire() -> (Wire, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        theirs.set_nonblocking(true).unwrap();
        (Wire::new(ours, DomainLink::new(DOMAIN, 2, 0)).unwrap(), theirs)
    }

    fn bytes(process: Process, frame: Frame<'_>) -> Vec<u8> {
        [frame.head(process).unwrap().as_ref(), frame.body()].concat()
    }

    fn heard(wire: &mut Wire) -> (Vec<String>, Result<(), link::Error>) {
        let mut events = Vec::new();
        let result = wire.advance(Hearing::Now, &mut |event| events.push(format!("{event:?}")));
        (events, result)
    }

    fn process(number: u32) -> ProcessId {
        ProcessId { domain: DOMAIN, number }
    }

    /// A domain that says more than a turn's worth and hears nothing gets no more of this process than that.
    #[test]
    fn a_domain_is_told_and_heard() {
        let (mut wire, mut domain) = wire();
        wire.link.start(process(1), 7);
        assert_eq!(heard(&mut wire), (Vec::new(), Ok(())));
        let mut said = [0; 64];
        let count = domain.read(&mut said).unwrap();
        let (mut decoder, mut input) = (GuestDecoder::new(), &said[..count]);
        assert_eq!(decoder.next(&mut input), Ok(Some((Process(1), FromHost::Start { program: 7 }))));
        assert_eq!(decoder.next(&mut input), Ok(Some((Process(1), FromHost::StdinEnd))));
        assert_eq!(decoder.next(&mut input), Ok(None));
        for frame in [
            Frame::Hello,
            Frame::Started,
            Frame::Stdout(b"42"),
            Frame::Exit { status: 3, cause: Cause::Exited, message: "" },
        ] {
            let process = if frame == Frame::Hello { Process::NONE } else { Process(1) };
            domain.write_all(&bytes(process, frame)).unwrap();
        }
        drop(domain);
        let expected = [
            Event::Started(process(1)),
            Event::Wrote { process: process(1), stream: Stream::Output, bytes: b"42" },
            Event::Ended(process(1), End::Exited { status: 3 }),
        ];
        let (events, result) = heard(&mut wire);
        assert_eq!((events, result), (expected.map(|event| format!("{event:?}")).to_vec(), Ok(())));
        let mut entries = Vec::new();
        wire.wait_for(Hearing::Now, &mut entries);
        assert!(entries.is_empty(), "nothing comes any more");
    }

    /// However much a domain says: before its time it is not waited for, and what is to be said to it is said.
    #[test]
    fn who_is_not_to_be_heard_yet_does_not_wake_anybody() {
        let (mut wire, mut domain) = wire();
        domain.write_all(&bytes(Process::NONE, Frame::Hello)).unwrap();
        let noise = bytes(Process::NONE, Frame::Log(&"\n".repeat(10_000)));
        while domain.write(&noise).is_ok() {}
        let waits_for = |wire: &Wire, hearing| {
            let mut entries = Vec::new();
            wire.wait_for(hearing, &mut entries);
            let nothing = Timespec { tv_sec: 0, tv_nsec: 0 };
            rustix::event::poll(&mut entries, Some(&nothing)).unwrap()
        };
        assert_eq!((waits_for(&wire, Hearing::NotYet), waits_for(&wire, Hearing::Now)), (0, 1));
        let mut lines = 0;
        let mut count = |event: Event<'_>| match event {
            Event::DomainWrote { bytes, .. } => lines += bytes.len(),
            other => panic!("{other:?}"),
        };
        wire.link.measure();
        wire.advance(Hearing::NotYet, &mut count).unwrap();
        assert!(!wire.link.is_busy(), "it is told");
        wire.advance(Hearing::Now, &mut count).unwrap();
        assert!((1..=TURN_BYTES).contains(&lines), "a turn's worth is heard: {lines}");
        drop(domain);
        assert_eq!(waits_for(&wire, Hearing::NotYet), 0, "that it is gone can wait as well");
    }

    #[test]
    fn who_is_deaf_is_heard_to_the_end() {
        let (mut wire, mut domain) = wire();
        domain.write_all(&bytes(Process::NONE, Frame::Hello)).unwrap();
        domain.write_all(&bytes(Process::NONE, Frame::Log("last words"))).unwrap();
        drop(domain);
        wire.link.measure();
        wire.say();
        assert_eq!(wire.step, Step::Deaf);
        let mut events = 0;
        wire.finish(&mut |_| events += 1);
        assert_eq!((events, wire.step), (1, Step::Over));
    }

    #[test]
    fn who_breaks_the_rules_is_not_believed_any_more() {
        let (mut wire, mut domain) = wire();
        domain.write_all(&bytes(Process::NONE, Frame::Hello)).unwrap();
        domain.write_all(&bytes(Process(0), Frame::Stdout(b"nobody started it"))).unwrap();
        assert_eq!(heard(&mut wire), (Vec::new(), Err(link::Error::NoSuchProcess(Process(0)))));
        assert_eq!(heard(&mut wire), (Vec::new(), Ok(())), "it is said once");
    }
}
