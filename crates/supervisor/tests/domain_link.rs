//! The link to a domain, with a library OS that keeps to the rules, and with one that does not.

use link::{Cause, Credit, Frame, FromHost, GuestDecoder, OUTPUT_BYTES_MAX, Process, State, Usage};
use proptest::prelude::*;
use std::collections::VecDeque;
use supervisor::*;

const DOMAIN: DomainId = DomainId(1);
const PROCESSES: usize = 3;
/// Numbers that the guest gives.
const CHILDREN: usize = 2;
const ALL: usize = PROCESSES + CHILDREN;
/// What is ready to be sent at a time is no more than this, whatever happens.
const UNSENT_BYTES_MAX: usize = 8 << 10;

/// What happens next. Numbers choose among processes.
#[derive(Clone, Debug)]
enum Step {
    Start(usize),
    End(usize),
    Measure,
    /// So many bytes go to the guest.
    Send(usize),
    /// The guest writes so much, as far as it may.
    Write(usize, usize),
    Exit(usize, u8),
    /// One of the guest's processes starts another, if there is a number for it.
    Spawn,
    /// What the guest has said arrives, in pieces of this size.
    Hear(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let number = || 0..PROCESSES;
    let given = || 0..ALL;
    prop_oneof![
        3 => number().prop_map(Step::Start),
        1 => given().prop_map(Step::End),
        1 => Just(Step::Measure),
        5 => (0..200usize).prop_map(Step::Send),
        4 => (given(), 0..100_000usize).prop_map(|(number, count)| Step::Write(number, count)),
        2 => Just(Step::Spawn),
        2 => (given(), any::<u8>()).prop_map(|(number, status)| Step::Exit(number, status)),
        5 => (1..70_000usize).prop_map(Step::Hear),
    ]
}

/// A process, as the guest has it.
#[derive(Clone, Copy, Debug, Default)]
struct Living {
    /// `None`: there is none.
    credit: Option<Credit>,
    /// It has ended, and its number is not to be given again yet.
    is_leaving: bool,
}

/// A library OS that keeps to the rules.
struct Guest {
    decoder: GuestDecoder,
    processes: [Living; ALL],
    /// What it has said, and has not arrived.
    said: VecDeque<u8>,
    /// What is to come of that, in words.
    expected: VecDeque<String>,
    cancelled: usize,
}

/// The root's side: which processes it takes for alive.
struct World {
    link: DomainLink,
    guest: Guest,
    alive: [bool; ALL],
}

fn id(number: usize) -> ProcessId {
    ProcessId { domain: DOMAIN, number: number as u32 }
}

impl Guest {
    fn say(&mut self, process: Process, frame: Frame<'_>) {
        self.said.extend(frame.head(process).unwrap().as_ref());
        self.said.extend(frame.body());
    }

    fn hear(&mut self, mut bytes: &[u8]) {
        while let Some((process, said)) = self.decoder.next(&mut bytes).expect("the root keeps to the rules")
        {
            match said {
                FromHost::Start { program } => {
                    let living = &mut self.processes[process.0 as usize];
                    assert!(living.credit.is_none(), "it is alive");
                    assert_eq!(program, process.0 + 10);
                    living.credit = Some(Credit::OUTPUT);
                    self.say(process, Frame::Started);
                    self.expected.push_back(format!("started {process}"));
                }
                FromHost::StdoutCredit { bytes } => {
                    // One that has ended may still be given some.
                    if let Some(credit) = &mut self.processes[process.0 as usize].credit {
                        credit.grant(bytes);
                        assert!(credit.bytes() <= u64::from(OUTPUT_BYTES_MAX), "more than it has written");
                    }
                }
                FromHost::Measure => {
                    let usage = Usage {
                        memory_bytes: 1,
                        host_bytes: 4,
                        cpu_ns: 2,
                        switches: 3,
                        migrations: 5,
                        state: State::Waiting,
                    };
                    for number in 0..ALL as u32 {
                        if self.processes[number as usize].credit.is_some() {
                            self.say(Process(number), Frame::Usage(usage));
                            self.expected.push_back(format!("used {}", Process(number)));
                        }
                    }
                }
                FromHost::Cancel => self.cancelled += 1,
                FromHost::Freed => {
                    let leaving = &mut self.processes[process.0 as usize].is_leaving;
                    assert!(std::mem::replace(leaving, false), "{process} has not ended");
                }
                FromHost::StdinEnd => {}
                other => panic!("{other:?}"),
            }
        }
    }

    fn write(&mut self, number: usize, count: usize) {
        let process = Process(number as u32);
        let Some(credit) = &mut self.processes[number].credit else { return };
        let bytes = vec![b'x'; credit.spend(count)];
        for piece in bytes.chunks(link::PAYLOAD_BYTES_MAX) {
            self.say(process, Frame::Stdout(piece));
        }
        if !bytes.is_empty() {
            self.expected.push_back(format!("wrote {process} {}", bytes.len()));
        }
    }

    fn exit(&mut self, number: usize, status: u8) {
        let process = Process(number as u32);
        if self.processes[number].credit.take().is_some() {
            self.processes[number].is_leaving = number >= PROCESSES;
            self.say(process, Frame::Exit { status, cause: Cause::Exited, message: "" });
            self.expected.push_back(format!("ended {process} {status}"));
        }
    }

    fn spawn(&mut self) {
        let is_free = |number: &usize| {
            let Living { credit, is_leaving } = self.processes[*number];
            credit.is_none() && !is_leaving
        };
        let Some(number) = (PROCESSES..ALL).find(is_free) else { return };
        let process = Process(number as u32);
        self.processes[number].credit = Some(Credit::OUTPUT);
        self.say(process, Frame::Spawned { program: 7, parent: Process(1) });
        self.expected.push_back(format!("spawned {process}"));
    }
}

impl World {
    fn new() -> Self {
        let mut guest = Guest {
            decoder: GuestDecoder::new(),
            processes: Default::default(),
            said: VecDeque::new(),
            expected: VecDeque::new(),
            cancelled: 0,
        };
        guest.say(Process::NONE, Frame::Hello);
        Self { link: DomainLink::new(DOMAIN, PROCESSES, CHILDREN), guest, alive: [false; ALL] }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Start(number) => {
                if !std::mem::replace(&mut self.alive[number], true) {
                    self.link.start(id(number), number as u32 + 10);
                }
            }
            Step::End(number) => {
                if self.alive[number] {
                    self.link.end(id(number));
                }
            }
            Step::Measure => self.link.measure(),
            Step::Send(count) => self.send(count),
            Step::Write(number, count) => self.guest.write(number, count),
            Step::Exit(number, status) => self.guest.exit(number, status),
            Step::Spawn => self.guest.spawn(),
            Step::Hear(count) => self.hear(count),
        }
        assert!(self.link.unsent().len() <= UNSENT_BYTES_MAX);
    }

    fn send(&mut self, count: usize) {
        let bytes = self.link.unsent();
        let bytes = bytes[..count.min(bytes.len())].to_vec();
        self.link.sent(bytes.len());
        self.guest.hear(&bytes);
    }

    fn hear(&mut self, count: usize) {
        let bytes: Vec<u8> = self.guest.said.drain(..count.min(self.guest.said.len())).collect();
        let (alive, expected) = (&mut self.alive, &mut self.guest.expected);
        let mut tell = |event: Event<'_>| {
            let number = |id: ProcessId| Process(id.number);
            let words = match event {
                Event::Started(id) => format!("started {}", number(id)),
                Event::Spawned { process, program, parent } => {
                    assert_eq!((program, parent), (7, 1));
                    assert!(!std::mem::replace(&mut alive[process.number as usize], true), "it is alive");
                    format!("spawned {}", number(process))
                }
                Event::Measured(id, _) => format!("used {}", number(id)),
                Event::Ended(id, control::End::Exited { status }) => {
                    alive[id.number as usize] = false;
                    format!("ended {} {status}", number(id))
                }
                Event::Wrote { process, bytes, .. } => {
                    // Pieces come as they come: what was expected becomes less.
                    let front = expected.front_mut().expect("nothing was written");
                    let (words, left) = front.rsplit_once(' ').unwrap();
                    assert_eq!(words, format!("wrote {}", number(process)));
                    let left = left.parse::<usize>().unwrap() - bytes.len();
                    *front = format!("{words} {left}");
                    if left > 0 {
                        return;
                    }
                    front.clone()
                }
                other => panic!("{other:?}"),
            };
            assert_eq!(expected.pop_front(), Some(words));
        };
        self.link.take(&bytes, &mut tell).expect("the guest keeps to the rules");
    }

    /// Everything arrives.
    fn settle(&mut self) {
        while self.link.is_busy() || !self.guest.said.is_empty() {
            self.send(usize::MAX);
            self.hear(usize::MAX);
        }
    }

    /// Every process ends, and both sides agree.
    fn finish(mut self) {
        self.settle();
        assert!(self.guest.expected.is_empty());
        for number in 0..ALL {
            assert_eq!(self.guest.processes[number].credit.is_some(), self.alive[number]);
            if let Some(credit) = self.guest.processes[number].credit {
                assert!(credit.bytes() >= u64::from(OUTPUT_BYTES_MAX) / 2, "it can go on: {credit:?}");
            }
            self.guest.exit(number, 0);
        }
        self.settle();
        assert_eq!(self.alive, [false; ALL]);
        assert!(self.guest.processes.iter().all(|process| !process.is_leaving));
        let cancelled = self.guest.cancelled;
        self.link.start(id(0), 10);
        self.link.end(id(0));
        self.settle();
        assert_eq!(self.guest.cancelled, cancelled + 1);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn both_sides_agree(steps in prop::collection::vec(step(), 0..300)) {
        let mut world = World::new();
        for step in steps {
            world.step(step);
        }
        world.finish();
    }

    /// Frames that no library OS of ours would say, to processes that there are and are not.
    #[test]
    fn nothing_that_a_domain_says_panics_or_grows(
        frames in prop::collection::vec((0u8..11, 0u32..6, 0usize..3000), 0..400),
        noise in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let mut link = DomainLink::new(DOMAIN, PROCESSES, CHILDREN);
        link.start(id(0), 0);
        link.start(id(1), 1);
        let count = link.unsent().len();
        link.sent(count);
        link.start(id(2), 2);
        let text = vec![b'a'; 3000];
        let mut bytes = Frame::Hello.head(Process::NONE).unwrap().as_ref().to_vec();
        for (kind, number, length) in frames {
            let frame = match kind {
                0 => Frame::Started,
                1 => Frame::Exit { status: 1, cause: Cause::Trapped, message: "no" },
                2 => Frame::StdinCredit { bytes: u32::MAX },
                3 => {
                    let (cpu_ns, switches, migrations) = (0, 0, 0);
                    let (memory_bytes, host_bytes, state) = (u64::MAX, 0, State::Runnable);
                    Frame::Usage(Usage { memory_bytes, host_bytes, cpu_ns, switches, migrations, state })
                }
                4 => Frame::Stderr(&text[..length]),
                5 => Frame::Spawned { program: length as u32, parent: Process(number) },
                _ => Frame::Stdout(&text[..length]),
            };
            bytes.extend(frame.head(Process(number)).unwrap().as_ref());
            bytes.extend(frame.body());
        }
        bytes.extend(noise);
        let mut alive = [true, true, false, false, false];
        let mut tell = |event: Event<'_>| match event {
            Event::Wrote { process, .. } | Event::Started(process) | Event::Measured(process, _) => {
                assert!(alive[process.number as usize], "{event:?}");
            }
            Event::Ended(process, _) => {
                assert!(std::mem::replace(&mut alive[process.number as usize], false), "ended twice");
            }
            Event::Spawned { process, .. } => {
                let place = process.number as usize;
                assert!(place >= PROCESSES && !std::mem::replace(&mut alive[place], true), "{event:?}");
            }
            Event::DomainWrote { .. } => {}
            other => panic!("{other:?}"),
        };
        let mut left = &bytes[..];
        while !left.is_empty() {
            let (piece, rest) = left.split_at(left.len().min(997));
            left = rest;
            if link.take(piece, &mut tell).is_err() {
                break;
            }
        }
        prop_assert!(link.unsent().len() <= UNSENT_BYTES_MAX);
    }
}

/// Numbers are the guest's to give only as they were agreed upon.
#[test]
fn a_child_has_a_number_that_is_free() {
    use link::Error::{NoSuchProcess, OutOfOrder};
    let spawned = |number| (Process(number), Frame::Spawned { program: 0, parent: Process(0) });
    let exit = |number| (Process(number), Frame::Exit { status: 0, cause: Cause::Exited, message: "" });
    let taken = |frames: &[(Process, Frame<'_>)], answer: &mut dyn FnMut(&mut DomainLink)| {
        let mut link = DomainLink::new(DOMAIN, PROCESSES, CHILDREN);
        let hello = (Process::NONE, Frame::Hello);
        let mut taken = Ok(());
        for (process, frame) in std::iter::once(&hello).chain(frames) {
            let bytes = [frame.head(*process).unwrap().as_ref(), frame.body()].concat();
            taken = link.take(&bytes, &mut |_| {});
            answer(&mut link);
        }
        taken
    };
    let silent = &mut |_: &mut DomainLink| {};
    let answers = &mut |link: &mut DomainLink| {
        let count = link.unsent().len();
        link.sent(count);
    };
    assert_eq!(taken(&[spawned(3), spawned(4)], silent), Ok(()));
    assert_eq!(taken(&[spawned(2)], silent), Err(NoSuchProcess(Process(2))), "the root's to give");
    assert_eq!(taken(&[spawned(4)], silent), Err(NoSuchProcess(Process(4))), "not the lowest");
    assert_eq!(taken(&[spawned(3), spawned(4), spawned(5)], silent), Err(NoSuchProcess(Process(5))));
    assert_eq!(taken(&[spawned(3), spawned(3)], silent), Err(OutOfOrder(link::Kind::Spawned)));
    assert_eq!(taken(&[spawned(3), exit(3), spawned(3)], silent), Err(OutOfOrder(link::Kind::Spawned)));
    assert_eq!(taken(&[spawned(3), exit(3), spawned(3)], answers), Ok(()), "it was told that it is free");
}
