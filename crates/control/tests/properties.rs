//! What is said is heard, however the stream is split; whatever the bytes, nothing panics and nothing grows.

use control::*;
use proptest::prelude::*;
use proptest::sample::select;
use std::fmt::Debug;

fn text() -> impl Strategy<Value = String> {
    ".{0,12}"
}

fn name() -> impl Strategy<Value = ProgramName> {
    (text(), text()).prop_map(|(domain, program)| ProgramName { domain, program })
}

fn names() -> impl Strategy<Value = Vec<ProgramName>> {
    prop::collection::vec(name(), 0..4)
}

fn how() -> impl Strategy<Value = How> {
    select(vec![How::Gracefully, How::AtOnce])
}

fn selector() -> impl Strategy<Value = Selector> {
    prop_oneof![Just(Selector::All), text().prop_map(Selector::Named)]
}

fn request() -> impl Strategy<Value = Request> {
    let from = prop_oneof![Just(From::Start), any::<u64>().prop_map(From::Last)];
    prop_oneof![
        select(vec![Request::List, Request::Trace]),
        (selector(), from, select(vec![Follow::No, Follow::Yes]))
            .prop_map(|(which, from, follow)| Request::Log { which, from, follow }),
        (selector(), how()).prop_map(|(which, how)| Request::Kill { which, how }),
        how().prop_map(|how| Request::Shutdown { how }),
    ]
}

fn line() -> impl Strategy<Value = Line> {
    let stream = select(vec![Stream::Output, Stream::Error, Stream::Event]);
    let end = select(vec![LineEnd::Newline, LineEnd::Cut, LineEnd::End]);
    (any::<u64>(), stream, prop::collection::vec(any::<u8>(), 0..40), end)
        .prop_map(|(at_ns, stream, bytes, end)| Line { at_ns, stream, bytes, end })
}

fn end() -> impl Strategy<Value = End> {
    prop_oneof![
        any::<u8>().prop_map(|status| End::Exited { status }),
        text().prop_map(|how| End::Broken { how }),
        text().prop_map(|why| End::NotStarted { why }),
    ]
}

fn state() -> impl Strategy<Value = State> {
    prop_oneof![
        select(vec![State::Starting, State::Running, State::Stopping, State::Ended, State::Stopped]),
        any::<u64>().prop_map(|until_ns| State::Backoff { until_ns }),
    ]
}

fn program() -> impl Strategy<Value = Program> {
    let log = any::<(u64, u64, u64)>().prop_map(|(lines, bytes, lines_dropped)| LogSize {
        lines,
        bytes,
        lines_dropped,
    });
    let times = any::<(Option<u64>, Option<u64>, u64)>();
    let usage =
        any::<[u64; 6]>().prop_map(|[used_bytes, peak_bytes, host_bytes, cpu_ns, switches, migrations]| {
            ProcessUsage {
                memory: Memory { used_bytes, peak_bytes },
                host_bytes,
                cpu_ns,
                switches,
                migrations,
            }
        });
    (text(), state(), prop::option::of(end()), times, usage, log).prop_map(
        |(name, state, last_end, (started_ns, ended_ns, restarts), usage, log)| Program {
            name,
            state,
            started_ns,
            last_end,
            ended_ns,
            restarts,
            usage,
            log,
        },
    )
}

fn usage() -> impl Strategy<Value = Usage> {
    any::<((u64, u64, u64), [Option<u64>; 4])>().prop_map(
        |((used_bytes, peak_bytes, cpu_ns), [switches, faults, upcalls, requests])| Usage {
            memory: Memory { used_bytes, peak_bytes },
            cpu_ns,
            counters: Counters { switches, faults, upcalls, requests },
        },
    )
}

fn domain() -> impl Strategy<Value = Domain> {
    (text(), any::<(Option<u32>, u64)>(), usage(), prop::collection::vec(program(), 0..3)).prop_map(
        |(name, (process_id, memory_quota_bytes), usage, programs)| Domain {
            name,
            process_id,
            memory_quota_bytes,
            usage,
            programs,
        },
    )
}

fn cpu() -> impl Strategy<Value = Cpu> {
    any::<(u64, u64, u64, u64, bool)>().prop_map(|(run_ns, idle_ns, switches, interrupts, traced)| Cpu {
        run_ns,
        idle_ns,
        switches,
        interrupts,
        traced,
    })
}

fn system() -> impl Strategy<Value = System> {
    let platform = select(vec![Platform::Hosted, Platform::Machine]);
    let phase = select(vec![Phase::Up, Phase::Ending, Phase::Ended]);
    let parts = (prop::collection::vec(cpu(), 0..3), prop::collection::vec(domain(), 0..4));
    (text(), platform, phase, any::<u64>(), any::<Option<u64>>(), parts).prop_map(
        |(name, platform, phase, uptime_ns, started_unix_ns, (cpus, domains))| System {
            name,
            platform,
            phase,
            uptime_ns,
            started_unix_ns,
            cpus,
            domains,
        },
    )
}

fn refusal() -> impl Strategy<Value = Refusal> {
    prop_oneof![
        (text(), names()).prop_map(|(asked, known)| Refusal::NoSuchName { asked, known }),
        (text(), names()).prop_map(|(asked, matching)| Refusal::Ambiguous { asked, matching }),
        names().prop_map(Refusal::NotRunning),
        select(vec![Refusal::TooLong, Refusal::TooManyClients, Refusal::NotOurKernel]),
        text().prop_map(Refusal::CannotTrace),
    ]
}

fn trace_event() -> impl Strategy<Value = TraceEvent> {
    use TraceEvent::*;
    let plain = vec![Switch, Tick, Event, Revoking, Alarm, Kick, Wake, Made, Destroyed, Revocation];
    let outcome = prop_oneof![
        any::<u64>().prop_map(TraceOutcome::Answered),
        any::<u16>().prop_map(TraceOutcome::Refused),
        select(vec![TraceOutcome::Sleeps, TraceOutcome::Again, TraceOutcome::NoReturn]),
    ];
    let access = select(vec![TraceAccess::Read, TraceAccess::Write, TraceAccess::Execute]);
    prop_oneof![
        select(plain),
        any::<Option<u64>>().prop_map(|until_ns| Idle { until_ns }),
        (any::<u16>(), outcome).prop_map(|(number, outcome)| Request { number, outcome }),
        any::<(u8, u64)>().prop_map(|(vector, address)| Fault { vector, address }),
        (any::<u64>(), access).prop_map(|(address, access)| Touch { address, access }),
        any::<(u32, u32)>().prop_map(|(device, line)| Interrupt { device, line }),
        any::<(u32, u64)>().prop_map(|(served, asked)| Shootdown { served, asked }),
        any::<u32>().prop_map(|from| Steal { from }),
        any::<(bool, u64)>().prop_map(|(faulted, status)| Ended { faulted, status }),
    ]
}

fn trace_piece() -> impl Strategy<Value = TracePiece> {
    let domain = prop_oneof![
        select(vec![TraceDomain::Nobody, TraceDomain::Root]),
        any::<u32>().prop_map(TraceDomain::Named),
        any::<u64>().prop_map(TraceDomain::Other),
    ];
    let record = (any::<(u64, u16, Option<u16>)>(), domain, trace_event())
        .prop_map(|((at_ns, cpu, vcpu), domain, event)| TraceRecord { at_ns, cpu, domain, vcpu, event });
    (prop::collection::vec(record, 0..6), prop::collection::vec(any::<u64>(), 0..3))
        .prop_map(|(records, lost)| TracePiece { records, lost })
}

fn crash() -> impl Strategy<Value = Crash> {
    let measure = any::<(u64, Option<u64>)>().prop_map(|(used, max)| Measure { used, max });
    let limits = prop::collection::vec(measure, 8).prop_map(|measures| CrashLimits {
        memory_bytes: measures[0],
        host_bytes: measures[1],
        table_elements: measures[2],
        cpu_ns: measures[3],
        time_ns: measures[4],
        stack_bytes: measures[5],
        descriptors: measures[6],
        log_bytes: measures[7],
    });
    let frame = (any::<(u32, u32)>(), prop::option::of(text()));
    let frame = frame.prop_map(|((function, offset), name)| CrashFrame { function, offset, name });
    (text(), prop::collection::vec(frame, 0..4), any::<u32>(), limits)
        .prop_map(|(reason, backtrace, depth, limits)| Crash { reason, backtrace, depth, limits })
}

fn crash_report() -> impl Strategy<Value = CrashReport> {
    let line = (any::<u64>(), prop::collection::vec(any::<u8>(), 0..9));
    let line =
        line.prop_map(|(at_ns, bytes)| Line { at_ns, stream: Stream::Error, bytes, end: LineEnd::Cut });
    let lines = prop::collection::vec(line, 0..3);
    (names(), any::<(u64, u64)>(), end(), prop::option::of(crash()), text(), lines).prop_filter_map(
        "it has a name",
        |(names, (at_ns, restarts), end, crash, domain_words, last_lines)| {
            let program = names.into_iter().next()?;
            Some(CrashReport { program, at_ns, restarts, end, crash, domain_words, last_lines })
        },
    )
}

fn reply() -> impl Strategy<Value = Reply> {
    let piece = (name(), any::<u64>(), prop::collection::vec(line(), 0..6))
        .prop_map(|(program, lines_dropped, lines)| LogPiece { program, lines_dropped, lines });
    prop_oneof![
        system().prop_map(Reply::List),
        piece.prop_map(Reply::Log),
        select(vec![LogEnd::Newest, LogEnd::Ended]).prop_map(Reply::LogEnd),
        names().prop_map(Reply::Killed),
        select(vec![Reply::ShutDown, Reply::TraceEnd, Reply::CrashEnd]),
        crash_report().prop_map(|report| Reply::Crash(report.into())),
        trace_piece().prop_map(Reply::Trace),
        refusal().prop_map(Reply::Refused),
    ]
}

/// What one side of a connection sends.
fn stream<T: Message>(messages: &[T]) -> Vec<u8> {
    let frames = messages.iter().flat_map(|message| encode(message).expect("it is short"));
    GREETING.into_iter().chain(frames).collect()
}

/// What the other side hears when the bytes come in pieces that end at `cuts`, and how that ends.
fn hear<T: Message>(bytes: &[u8], cuts: &[usize]) -> (Vec<T>, Result<(), FrameError>) {
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).collect();
    cuts.sort_unstable();
    cuts.push(bytes.len());
    let mut decoder = Decoder::new();
    let mut heard = Vec::new();
    let mut from = 0;
    for to in cuts {
        decoder.push(&bytes[std::mem::replace(&mut from, to)..to]);
        loop {
            match decoder.next() {
                Ok(Some(message)) => heard.push(message),
                Ok(None) => break,
                Err(error) => {
                    decoder.push(&GREETING);
                    assert_eq!(decoder.next().err(), Some(error), "an error stays");
                    assert!(!decoder.is_between_messages());
                    return (heard, Err(error));
                }
            }
        }
    }
    (heard, Ok(()))
}

fn comes_through<T: Message + PartialEq + Debug>(said: &[T], cuts: &[usize]) {
    let (heard, end) = hear::<T>(&stream(said), cuts);
    assert_eq!(end, Ok(()));
    assert_eq!(heard, said);
}

proptest! {
    #[test]
    fn requests_come_through(
        said in prop::collection::vec(request(), 0..8),
        cuts in prop::collection::vec(any::<usize>(), 0..20),
    ) {
        comes_through(&said, &cuts);
    }

    #[test]
    fn replies_come_through(
        said in prop::collection::vec(reply(), 0..5),
        cuts in prop::collection::vec(any::<usize>(), 0..20),
    ) {
        comes_through(&said, &cuts);
    }

    /// One byte of a good stream is another.
    #[test]
    fn damage_is_noticed_or_makes_another_message_but_never_panics(
        said in prop::collection::vec(reply(), 1..4),
        (at, mask) in (any::<prop::sample::Index>(), 1..=255u8),
        cuts in prop::collection::vec(any::<usize>(), 0..20),
    ) {
        let mut bytes = stream(&said);
        let at = at.index(bytes.len());
        bytes[at] ^= mask;
        let whole = hear::<Reply>(&bytes, &[]);
        prop_assert_eq!(&hear::<Reply>(&bytes, &cuts), &whole);
        if at < GREETING.len() {
            prop_assert!(whole.1.is_err() && whole.0.is_empty());
        }
        hear::<Request>(&bytes, &cuts).1.ok();
    }

    #[test]
    fn a_stream_that_is_cut_yields_what_was_whole(said in prop::collection::vec(request(), 1..5), at in any::<prop::sample::Index>()) {
        let bytes = stream(&said);
        let at = at.index(bytes.len());
        let mut decoder = Decoder::<Request>::new();
        decoder.push(&bytes[..at]);
        let mut heard = 0;
        while let Some(message) = decoder.next().expect("what came is sound") {
            prop_assert_eq!(&message, &said[heard]);
            heard += 1;
        }
        prop_assert!(heard < said.len());
        let whole = stream(&said[..heard]).len();
        prop_assert_eq!(decoder.is_between_messages(), at == whole || at == 0);
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): the same bytes in every run.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// A hostile peer greets, and then sends frames of noise with plausible lengths: tags and counts are small numbers, so most
/// of the noise is.
#[test]
fn a_hostile_peer_gets_an_error_and_no_memory() {
    let mut noise = Noise(3);
    let mut ends = [0u32; 3];
    for _ in 0..200_000 {
        let mut bytes = GREETING.to_vec();
        let length = noise.next() as usize % 48;
        let claimed = if noise.next().is_multiple_of(8) { noise.next() as u32 } else { length as u32 };
        bytes.extend(claimed.to_le_bytes());
        bytes.extend((0..length).map(|_| match noise.next() {
            word if word & 1 == 0 => (word >> 8) as u8 % 8,
            word => (word >> 8) as u8,
        }));
        for end in [hear::<Request>(&bytes, &[]).1, hear::<Reply>(&bytes, &[]).1] {
            match end {
                Ok(()) => ends[0] += 1,
                Err(FrameError::TooLong(_)) => ends[1] += 1,
                Err(FrameError::Malformed) => ends[2] += 1,
                Err(error) => panic!("{error:?} of {bytes:?}"),
            }
        }
    }
    assert!(ends.iter().all(|count| *count > 100), "the noise reaches only {ends:?}");
}

#[test]
fn lengths_are_checked_before_anything_is_kept() {
    let lost = |length: u32| hear::<Request>(&[&GREETING[..], &length.to_le_bytes()].concat(), &[]).1;
    assert_eq!(lost(REQUEST_BYTES_MAX as u32), Ok(()));
    assert_eq!(lost(REQUEST_BYTES_MAX as u32 + 1), Err(FrameError::TooLong(REQUEST_BYTES_MAX + 1)));
    assert_eq!(lost(u32::MAX), Err(FrameError::TooLong(u32::MAX as usize)));
    assert_eq!(lost(0), Err(FrameError::Malformed));
}

#[test]
fn what_is_too_long_is_not_sent() {
    let named = |length: usize| {
        let which = Selector::Named("x".repeat(length));
        encode(&Request::Log { which, from: From::Start, follow: Follow::Yes })
    };
    // Request, selector, two bytes of length; then two enums.
    let longest = REQUEST_BYTES_MAX - 6;
    assert_eq!(named(longest).map(|frame| frame.len()), Ok(4 + REQUEST_BYTES_MAX));
    assert_eq!(named(longest + 1), Err(FrameError::TooLong(REQUEST_BYTES_MAX + 1)));
}

#[test]
fn another_version_is_told_from_another_protocol() {
    let lost = |bytes: &[u8]| hear::<Request>(bytes, &[]).1;
    let mut newer = GREETING;
    newer[8] += 1;
    assert_eq!(lost(&newer), Err(FrameError::WrongVersion(VERSION + 1)));
    assert_eq!(lost(b"GET"), Err(FrameError::NotSelkis), "at the first byte");
    assert_eq!(lost(b""), Ok(()));
}

/// A change here is a change of the protocol: count the version up.
#[test]
fn the_layout_is_the_documented_one() {
    assert_eq!(GREETING, *b"\x08\0\0\0SLKC\x03\0\0\0");
    let kill = Request::Kill { which: Selector::Named("a/b".into()), how: How::AtOnce };
    assert_eq!(encode(&kill), Ok(b"\x07\0\0\0\x02\x01\x03a/b\x01".to_vec()));
    let piece = LogPiece {
        program: ProgramName { domain: "d".into(), program: "p".into() },
        lines_dropped: 300,
        lines: vec![Line { at_ns: 1, stream: Stream::Error, bytes: vec![0xff], end: LineEnd::Cut }],
    };
    let frame = encode(&Reply::Log(piece));
    assert_eq!(frame, Ok(b"\x0d\0\0\0\x01\x01d\x01p\xac\x02\x01\x01\x01\x01\xff\x01".to_vec()));
    let event = TraceEvent::Request { number: 8, outcome: TraceOutcome::Sleeps };
    let record = TraceRecord { at_ns: 1, cpu: 2, domain: TraceDomain::Named(3), vcpu: Some(4), event };
    let frame = encode(&Reply::Trace(TracePiece { records: vec![record], lost: vec![5] }));
    assert_eq!(frame, Ok(b"\x0d\0\0\0\x05\x01\x01\x02\x02\x03\x01\x04\x02\x08\x02\x01\x05".to_vec()));
}

#[test]
fn refusals_are_for_people() {
    let name = |domain: &str, program: &str| ProgramName { domain: domain.into(), program: program.into() };
    let known = vec![name("alice", "web"), name("bob", "web")];
    let refusal = Refusal::NoSuchName { asked: "carol".into(), known: known.clone() };
    assert_eq!(refusal.to_string(), "nothing here is called `carol`\nthere are: alice/web, bob/web");
    let refusal = Refusal::Ambiguous { asked: "web".into(), matching: known };
    assert_eq!(refusal.to_string(), "`web` is in several domains\nname one of alice/web, bob/web");
}
