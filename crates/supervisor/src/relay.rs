//! What a process of another system, which has the clients, and a root on a machine of its own say to each other: messages in the
//! frames of `control`.
//!
//! The process holds a ticket for each answer that it waits for, and asks for the replies of one at a time. So what is on the way
//! is bounded by the number of tickets, and a client that does not read holds nobody up.

use crate::answer::{Answer, Progress, Trace};
use crate::event::Effect;
use crate::news::News;
use crate::supervisor::{Outcome, Supervisor};
use alloc::vec::Vec;
use control::{Message, REPLY_BYTES_MAX, REQUEST_BYTES_MAX, Refusal, Reply, Request};
use serde::{Deserialize, Serialize};

/// The most answers that are given at a time.
pub const TICKETS_MAX: usize = 256;
/// Room for what stands around a request or a reply.
const AROUND_BYTES: usize = 64;

/// Names an answer; the process chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Ticket(pub u32);

/// What the root is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToRoot {
    /// A client asks for something. The first reply is wanted.
    Ask {
        /// For the answer.
        ticket: Ticket,
        /// What.
        request: Request,
    },
    /// The next reply is wanted.
    Next(Ticket),
    /// No reply is wanted any more.
    Forget(Ticket),
    /// Nobody needs the machine any more.
    PowerOff,
}

/// What the root says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromRoot {
    /// A reply that was wanted.
    Reply(Ticket, Reply),
    /// There is no other: the ticket is free.
    Done(Ticket),
    /// Something has happened to a program.
    News(News),
    /// Everything has ended.
    Ended(Outcome),
}

impl Message for ToRoot {
    const BYTES_MAX: usize = REQUEST_BYTES_MAX + AROUND_BYTES;
}

impl Message for FromRoot {
    const BYTES_MAX: usize = REPLY_BYTES_MAX + AROUND_BYTES;
}

/// The root's side: the answers that are being given.
#[derive(Debug, Default)]
pub struct Relay {
    answers: Vec<Pending>,
    power: Power,
}

/// An answer.
#[derive(Debug)]
struct Pending {
    ticket: Ticket,
    answer: Answer,
    wanted: Wanted,
}

/// Whether its next reply is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    Now,
    NotYet,
}

/// Whether the machine is needed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Power {
    /// It is.
    #[default]
    On,
    /// Nobody needs it any more.
    Off,
}

impl Relay {
    /// Takes what the process says: what is to be done.
    pub fn take(&mut self, message: ToRoot, supervisor: &mut Supervisor, now_ns: u64) -> Vec<Effect> {
        match message {
            ToRoot::Ask { ticket, request } => {
                self.forget(ticket);
                let (answer, effects) = match self.answers.len() < TICKETS_MAX {
                    true => supervisor.ask(request, now_ns),
                    false => (Answer::refused(Refusal::TooManyClients), Vec::new()),
                };
                self.answers.push(Pending { ticket, answer, wanted: Wanted::Now });
                return effects;
            }
            ToRoot::Next(ticket) => {
                for pending in self.answers.iter_mut().filter(|pending| pending.ticket == ticket) {
                    pending.wanted = Wanted::Now;
                }
            }
            ToRoot::Forget(ticket) => self.forget(ticket),
            ToRoot::PowerOff => self.power = Power::Off,
        }
        Vec::new()
    }

    /// The next thing to say to the process, if there is one now.
    pub fn next(&mut self, supervisor: &Supervisor) -> Option<FromRoot> {
        for index in 0..self.answers.len() {
            let Pending { ticket, answer, wanted } = &mut self.answers[index];
            let ticket = *ticket;
            if *wanted == Wanted::NotYet {
                continue;
            }
            match supervisor.next_reply(answer) {
                Progress::Reply(reply) => {
                    *wanted = Wanted::NotYet;
                    return Some(FromRoot::Reply(ticket, reply));
                }
                Progress::NotYet => {}
                Progress::Done => {
                    self.answers.swap_remove(index);
                    return Some(FromRoot::Done(ticket));
                }
            }
        }
        None
    }

    /// Whether anybody traces: only then is anything to be noted down.
    pub fn is_tracing(&self) -> bool {
        self.answers.iter().any(|pending| pending.answer.is_trace())
    }

    /// Fills in what those are to be told who trace and wait. Answers whether some still do: they are to be looked after again soon.
    pub fn feed(&mut self, mut fill: impl FnMut(&mut Trace)) -> bool {
        let waiting = self.answers.iter_mut().filter(|pending| pending.wanted == Wanted::Now);
        let traces =
            waiting.filter_map(|pending| pending.answer.trace()).filter(|trace| trace.next.is_none());
        traces.fold(false, |still, trace| {
            fill(trace);
            still || trace.next.is_none()
        })
    }

    /// Whether the process still needs the machine.
    pub fn power(&self) -> Power {
        self.power
    }

    fn forget(&mut self, ticket: Ticket) {
        self.answers.retain(|pending| pending.ticket != ticket);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DomainId, DomainSetup, Event, ProcessId, ProgramSetup, Restart, Setup};
    use alloc::string::ToString;
    use alloc::vec;
    use control::{Follow, From, How, LogEnd, ProcessUsage, Selector, Stream, TracePiece};

    const PROCESS: ProcessId = ProcessId { domain: DomainId(0), number: 0 };

    fn supervisor() -> Supervisor {
        let program = ProgramSetup { name: "web".to_string(), instances: 1, restart: Restart::Never };
        let domain = DomainSetup {
            name: "alice".to_string(),
            memory_quota_bytes: 1,
            programs: vec![program],
            children: 0,
        };
        let mut supervisor = Supervisor::new(Setup {
            name: "tenants".to_string(),
            platform: control::Platform::Machine,
            started_unix_ns: None,
            log_bytes_max: 1 << 16,
            domains: vec![domain],
        });
        supervisor.handle(Event::Begin, 0);
        supervisor.handle(Event::DomainStarted { domain: PROCESS.domain, process_id: None }, 1);
        supervisor.handle(Event::Started(PROCESS), 1);
        supervisor
    }

    fn ask(number: u32, request: Request) -> ToRoot {
        ToRoot::Ask { ticket: Ticket(number), request }
    }

    #[test]
    fn a_reply_is_made_when_it_is_wanted() {
        let mut supervisor = supervisor();
        let mut relay = Relay::default();
        let log = Request::Log { which: Selector::All, from: From::Start, follow: Follow::Yes };
        relay.take(ask(7, log), &mut supervisor, 2);
        assert!(matches!(relay.next(&supervisor), Some(FromRoot::Reply(Ticket(7), Reply::Log(_)))));
        let bytes = b"hello\n";
        let wrote = Event::Wrote { process: PROCESS, stream: Stream::Output, bytes };
        supervisor.handle(wrote, 3);
        assert_eq!(relay.next(&supervisor), None, "nobody wants it yet");
        relay.take(ToRoot::Next(Ticket(7)), &mut supervisor, 4);
        assert!(matches!(relay.next(&supervisor), Some(FromRoot::Reply(Ticket(7), Reply::Log(_)))));
        relay.take(ToRoot::Next(Ticket(7)), &mut supervisor, 4);
        assert_eq!(relay.next(&supervisor), None, "there is nothing yet");
        let end = control::End::Exited { status: 0 };
        supervisor.handle(Event::Ended(PROCESS, end), 5);
        assert!(matches!(relay.next(&supervisor), Some(FromRoot::Reply(_, Reply::Log(_)))));
        relay.take(ToRoot::Next(Ticket(7)), &mut supervisor, 6);
        let last = FromRoot::Reply(Ticket(7), Reply::LogEnd(LogEnd::Ended));
        assert_eq!(relay.next(&supervisor), Some(last));
        relay.take(ToRoot::Next(Ticket(7)), &mut supervisor, 6);
        assert_eq!(relay.next(&supervisor), Some(FromRoot::Done(Ticket(7))));
        assert_eq!(relay.next(&supervisor), None);
    }

    #[test]
    fn who_waits_holds_nobody_up() {
        let mut supervisor = supervisor();
        let mut relay = Relay::default();
        let kill = Request::Kill { which: Selector::All, how: How::Gracefully };
        let effects = relay.take(ask(1, kill), &mut supervisor, 2);
        assert!(effects.contains(&Effect::EndProcess(PROCESS)));
        assert_eq!(relay.next(&supervisor), None);
        relay.take(ask(2, Request::List), &mut supervisor, 3);
        assert_eq!(relay.next(&supervisor), None, "it is measured");
        supervisor.handle(Event::Measured(PROCESS, ProcessUsage::default()), 3);
        assert!(matches!(relay.next(&supervisor), Some(FromRoot::Reply(Ticket(2), Reply::List(_)))));
        relay.take(ToRoot::Forget(Ticket(1)), &mut supervisor, 4);
        let end = control::End::Exited { status: 130 };
        supervisor.handle(Event::Ended(PROCESS, end), 5);
        assert_eq!(relay.next(&supervisor), None, "it was forgotten");
        assert_eq!(relay.power(), Power::On);
        relay.take(ToRoot::PowerOff, &mut supervisor, 6);
        assert_eq!(relay.power(), Power::Off);
    }

    fn tracing() -> (Supervisor, Relay) {
        let (mut supervisor, mut relay) = (supervisor(), Relay::default());
        relay.take(ask(1, Request::Trace), &mut supervisor, 2);
        (supervisor, relay)
    }

    #[test]
    fn who_traces_is_fed_when_it_wants_more() {
        let (mut supervisor, mut relay) = tracing();
        assert!(relay.is_tracing());
        assert_eq!(relay.next(&supervisor), None, "nothing has happened");
        assert!(relay.feed(|_| {}), "it waits");
        let piece = |lost| TracePiece { records: Vec::new(), lost: vec![lost] };
        assert!(!relay.feed(|trace| trace.next = Some(Ok(piece(7)))));
        assert!(!relay.feed(|_| panic!("it has what it is told next")));
        let said = FromRoot::Reply(Ticket(1), Reply::Trace(piece(7)));
        assert_eq!(relay.next(&supervisor), Some(said));
        assert!(!relay.feed(|_| panic!("it does not want more yet")));
        assert_eq!(relay.next(&supervisor), None);
        relay.take(ToRoot::Next(Ticket(1)), &mut supervisor, 3);
        assert!(relay.feed(|trace| trace.cursors = vec![9]));
        assert!(relay.feed(|trace| assert_eq!(trace.cursors, [9])));
        relay.take(ToRoot::Forget(Ticket(1)), &mut supervisor, 4);
        assert!(!relay.is_tracing(), "the last has left");
    }

    #[test]
    fn a_trace_ends_with_the_system_or_with_a_reason() {
        let (supervisor, mut relay) = tracing();
        relay.feed(|trace| trace.next = Some(Err(Refusal::CannotTrace("no memory".to_string()))));
        let refused = Reply::Refused(Refusal::CannotTrace("no memory".to_string()));
        assert_eq!(relay.next(&supervisor), Some(FromRoot::Reply(Ticket(1), refused)));
        assert!(!relay.is_tracing());
        let (mut supervisor, mut relay) = tracing();
        supervisor.handle(Event::Ended(PROCESS, control::End::Exited { status: 0 }), 5);
        supervisor.handle(Event::DomainEnded(DomainId(0), control::End::Exited { status: 0 }), 6);
        assert_eq!(relay.next(&supervisor), Some(FromRoot::Reply(Ticket(1), Reply::TraceEnd)));
        assert!(!relay.is_tracing());
    }

    #[test]
    fn too_many_are_refused() {
        let mut supervisor = supervisor();
        let mut relay = Relay::default();
        let log = Request::Log { which: Selector::All, from: From::Last(0), follow: Follow::Yes };
        for number in 0..TICKETS_MAX as u32 {
            relay.take(ask(number, log.clone()), &mut supervisor, 2);
        }
        relay.take(ask(1000, log), &mut supervisor, 2);
        let refused = Reply::Refused(Refusal::TooManyClients);
        assert_eq!(relay.next(&supervisor), Some(FromRoot::Reply(Ticket(1000), refused)));
    }

    #[test]
    fn messages_travel_in_frames() {
        let mut supervisor = supervisor();
        let mut relay = Relay::default();
        relay.take(ask(1, Request::List), &mut supervisor, 3);
        supervisor.handle(Event::Measured(PROCESS, ProcessUsage::default()), 3);
        let said = relay.next(&supervisor).unwrap();
        let mut decoder = control::Decoder::<FromRoot>::new();
        decoder.push(&control::GREETING);
        decoder.push(&control::encode(&said).unwrap());
        assert_eq!(decoder.next(), Ok(Some(said)));
    }
}
