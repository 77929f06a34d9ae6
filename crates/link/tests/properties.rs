//! Whatever the split of the stream, the same is decoded; whatever the bytes, nothing panics.

use link::{
    CallFrame, Cause, Crash, CrashBody, CrashHead, Credit, Error, Frame, FromGuest, FromHost, GuestDecoder,
    HostDecoder, Input, Kind, Limits, Measure, PAYLOAD_BYTES_MAX, Process, State, Usage, VERSION, split_body,
};
use proptest::prelude::*;

/// An event with its bytes, pieces of one stream joined.
#[derive(Clone, Debug, PartialEq)]
enum Heard {
    Stream(Kind, Vec<u8>),
    Number(Kind, u32),
    Exit(u8, Cause),
    Usage(Usage),
    Crash(CrashHead),
    Sign(Kind),
    Spawned(u32, Process),
    Lost(Error),
}

/// And whose it is.
type Of = (Process, Heard);

fn note(heard: &mut Vec<Of>, next: Of) {
    match (heard.last_mut(), next) {
        (Some((process, Heard::Stream(kind, bytes))), (next_process, Heard::Stream(next_kind, more)))
            if *kind == next_kind && *process == next_process =>
        {
            bytes.extend(more);
        }
        (_, next) => heard.push(next),
    }
}

fn from_guest(event: FromGuest<'_>) -> Heard {
    match event {
        FromGuest::Hello => Heard::Sign(Kind::Hello),
        FromGuest::Stdout(bytes) => Heard::Stream(Kind::Stdout, bytes.to_vec()),
        FromGuest::Stderr(bytes) => Heard::Stream(Kind::Stderr, bytes.to_vec()),
        FromGuest::Log(bytes) => Heard::Stream(Kind::Log, bytes.to_vec()),
        FromGuest::ExitMessage(bytes) => Heard::Stream(Kind::Exit, bytes.to_vec()),
        FromGuest::StdinCredit { bytes } => Heard::Number(Kind::StdinCredit, bytes),
        FromGuest::Exit { status, cause } => Heard::Exit(status, cause),
        FromGuest::Usage(usage) => Heard::Usage(usage),
        FromGuest::Started => Heard::Sign(Kind::Started),
        FromGuest::CrashBody(bytes) => Heard::Stream(Kind::Crash, bytes.to_vec()),
        FromGuest::Crash(head) => Heard::Crash(head),
        FromGuest::Throttled => Heard::Sign(Kind::Throttled),
        FromGuest::Spawned { program, parent } => Heard::Spawned(program, parent),
    }
}

fn from_host(event: FromHost<'_>) -> Heard {
    match event {
        FromHost::StdinData(bytes) => Heard::Stream(Kind::StdinData, bytes.to_vec()),
        FromHost::StdinEnd => Heard::Sign(Kind::StdinEnd),
        FromHost::Cancel => Heard::Sign(Kind::Cancel),
        FromHost::StdoutClosed => Heard::Sign(Kind::StdoutClosed),
        FromHost::StderrClosed => Heard::Sign(Kind::StderrClosed),
        FromHost::StdoutCredit { bytes } => Heard::Number(Kind::StdoutCredit, bytes),
        FromHost::StderrCredit { bytes } => Heard::Number(Kind::StderrCredit, bytes),
        FromHost::Start { program } => Heard::Number(Kind::Start, program),
        FromHost::Shutdown => Heard::Sign(Kind::Shutdown),
        FromHost::Measure => Heard::Sign(Kind::Measure),
        FromHost::Freed => Heard::Sign(Kind::Freed),
    }
}

/// The pieces that `stream` falls into when cut at `cuts`.
fn pieces<'a>(stream: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (stream.len() + 1)).collect();
    cuts.sort_unstable();
    cuts.push(stream.len());
    let mut from = 0;
    cuts.into_iter().map(|to| &stream[std::mem::replace(&mut from, to)..to]).collect()
}

/// What a decoder makes of the pieces, to their end or to its first error.
fn hear(
    stream: &[u8],
    cuts: &[usize],
    mut next: impl FnMut(&mut &[u8]) -> Result<Option<Of>, Error>,
) -> Vec<Of> {
    let mut heard = Vec::new();
    for mut piece in pieces(stream, cuts) {
        loop {
            match next(&mut piece) {
                Ok(Some(event)) => note(&mut heard, event),
                Ok(None) => {
                    assert!(piece.is_empty(), "all input is consumed");
                    break;
                }
                Err(error) => {
                    assert_eq!(next(&mut &b"\x82\0\0\0\0\0\0\0"[..]), Err(error), "an error stays");
                    heard.push((Process::NONE, Heard::Lost(error)));
                    return heard;
                }
            }
        }
    }
    heard
}

fn hear_guest(stream: &[u8], cuts: &[usize]) -> Vec<Of> {
    let mut decoder = HostDecoder::new();
    hear(stream, cuts, |piece| Ok(decoder.next(piece)?.map(|(process, event)| (process, from_guest(event)))))
}

fn hear_host(stream: &[u8], cuts: &[usize]) -> Vec<Of> {
    let mut decoder = GuestDecoder::new();
    hear(stream, cuts, |piece| Ok(decoder.next(piece)?.map(|(process, event)| (process, from_host(event)))))
}

fn encoded(frames: &[(Process, Frame<'_>)]) -> Vec<u8> {
    frames.iter().fold(Vec::new(), |mut stream, (process, frame)| {
        stream.extend(frame.head(*process).expect("short enough, and its own").as_ref());
        stream.extend(frame.body());
        stream
    })
}

/// A frame that owns what it says.
#[derive(Clone, Debug)]
enum Said {
    Bytes(Kind, Vec<u8>),
    Number(Kind, u32),
    Exit(u8, Cause, String),
    Usage(Usage),
    Crash(CrashHead, Vec<u8>),
    Spawned(u32, Process),
    Sign(Kind),
}

impl Said {
    fn frame(&self) -> Frame<'_> {
        match self {
            Self::Bytes(Kind::Stdout, bytes) => Frame::Stdout(bytes),
            Self::Bytes(Kind::Stderr, bytes) => Frame::Stderr(bytes),
            Self::Bytes(Kind::Log, text) => Frame::Log(std::str::from_utf8(text).expect("made of text")),
            Self::Bytes(_, bytes) => Frame::StdinData(bytes),
            Self::Number(Kind::StdinCredit, bytes) => Frame::StdinCredit { bytes: *bytes },
            Self::Number(Kind::StdoutCredit, bytes) => Frame::StdoutCredit { bytes: *bytes },
            Self::Number(Kind::StderrCredit, bytes) => Frame::StderrCredit { bytes: *bytes },
            Self::Number(_, program) => Frame::Start { program: *program },
            Self::Exit(status, cause, message) => Frame::Exit { status: *status, cause: *cause, message },
            Self::Usage(usage) => Frame::Usage(*usage),
            Self::Sign(Kind::StdinEnd) => Frame::StdinEnd,
            Self::Sign(Kind::Cancel) => Frame::Cancel,
            Self::Sign(Kind::StdoutClosed) => Frame::StdoutClosed,
            Self::Sign(Kind::StderrClosed) => Frame::StderrClosed,
            Self::Sign(Kind::Shutdown) => Frame::Shutdown,
            Self::Sign(Kind::Measure) => Frame::Measure,
            Self::Sign(Kind::Freed) => Frame::Freed,
            Self::Spawned(program, parent) => Frame::Spawned { program: *program, parent: *parent },
            Self::Crash(head, body) => Frame::Crash { head: *head, body },
            Self::Sign(Kind::Throttled) => Frame::Throttled,
            Self::Sign(_) => Frame::Started,
        }
    }

    /// Whose it is, if `process` says it: the frames that are nobody's are.
    fn of(&self, process: u32) -> Process {
        match self {
            Self::Bytes(Kind::Log, _) | Self::Sign(Kind::Shutdown | Kind::Measure) => Process::NONE,
            _ => Process(process),
        }
    }

    fn heard(&self) -> Vec<Heard> {
        match self.clone() {
            Self::Bytes(_, bytes) if bytes.is_empty() => Vec::new(),
            Self::Bytes(kind, bytes) => vec![Heard::Stream(kind, bytes)],
            Self::Number(kind, number) => vec![Heard::Number(kind, number)],
            Self::Exit(status, cause, message) => {
                let message = (!message.is_empty()).then(|| Heard::Stream(Kind::Exit, message.into_bytes()));
                message.into_iter().chain([Heard::Exit(status, cause)]).collect()
            }
            Self::Usage(usage) => vec![Heard::Usage(usage)],
            Self::Crash(head, body) => vec![Heard::Stream(Kind::Crash, body), Heard::Crash(head)],
            Self::Spawned(program, parent) => vec![Heard::Spawned(program, parent)],
            Self::Sign(kind) => vec![Heard::Sign(kind)],
        }
    }
}

/// What these say, and what is to be heard of it.
fn conversation(said: &[(u32, Said)]) -> (Vec<(Process, Frame<'_>)>, Vec<Of>) {
    let mut heard = Vec::new();
    for (process, said) in said {
        said.heard().into_iter().for_each(|next| note(&mut heard, (said.of(*process), next)));
    }
    (said.iter().map(|(process, said)| (said.of(*process), said.frame())).collect(), heard)
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        9 => prop::collection::vec(any::<u8>(), 0..40),
        1 => (0..=PAYLOAD_BYTES_MAX, any::<u8>()).prop_map(|(length, byte)| vec![byte; length]),
    ]
}

fn cause() -> impl Strategy<Value = Cause> {
    use Cause::*;
    prop::sample::select(vec![Exited, Trapped, TimedOut, Cancelled, OutOfMemory, FailedToStart])
}

fn usage() -> impl Strategy<Value = Usage> {
    let state = prop::sample::select(vec![State::Runnable, State::Waiting, State::Stopping]);
    (any::<[u64; 5]>(), state).prop_map(
        |([memory_bytes, host_bytes, cpu_ns, switches, migrations], state)| Usage {
            memory_bytes,
            host_bytes,
            cpu_ns,
            switches,
            migrations,
            state,
        },
    )
}

/// A report as a library OS makes it.
fn crash() -> impl Strategy<Value = Said> {
    let frames = prop::collection::vec((any::<u32>(), any::<u32>(), ".{0,300}"), 0..60);
    (any::<[(u64, u64); 8]>(), any::<u32>(), ".{0,40}", frames).prop_map(|(pairs, depth, reason, frames)| {
        let [memory_bytes, host_bytes, table_elements, cpu_ns, time_ns, stack_bytes, descriptors, log_bytes] =
            pairs.map(|(used, max)| Measure { used, max });
        let limits = Limits {
            memory_bytes,
            host_bytes,
            table_elements,
            cpu_ns,
            time_ns,
            stack_bytes,
            descriptors,
            log_bytes,
        };
        let mut body = CrashBody::new(&reason);
        for (function, offset, name) in &frames {
            body.push(CallFrame { function: *function, offset: *offset, name });
        }
        let head = CrashHead { limits, depth };
        let read = Crash::read(head, body.as_ref()).expect("what was put together can be read");
        assert_eq!((read.reason, read.frames().count()), (reason.as_str(), frames.len().min(48)));
        Said::Crash(head, body.as_ref().to_vec())
    })
}

/// Few, so that some say several things, and the largest there is.
fn process() -> impl Strategy<Value = u32> {
    prop_oneof![9 => 0..3u32, 1 => Just(u32::MAX - 1)]
}

fn said_by_guest() -> impl Strategy<Value = (u32, Said)> {
    let said = prop_oneof![
        bytes().prop_map(|bytes| Said::Bytes(Kind::Stdout, bytes)),
        bytes().prop_map(|bytes| Said::Bytes(Kind::Stderr, bytes)),
        ".{0,20}".prop_map(|text| Said::Bytes(Kind::Log, text.into_bytes())),
        any::<u32>().prop_map(|bytes| Said::Number(Kind::StdinCredit, bytes)),
        (any::<u8>(), cause(), ".{0,30}").prop_map(|(status, cause, text)| Said::Exit(status, cause, text)),
        usage().prop_map(Said::Usage),
        crash(),
        any::<[u32; 2]>().prop_map(|[program, parent]| Said::Spawned(program, Process(parent))),
        prop::sample::select(vec![Kind::Started, Kind::Throttled]).prop_map(Said::Sign),
    ];
    (process(), said)
}

fn said_by_host() -> impl Strategy<Value = (u32, Said)> {
    use Kind::*;
    let said = prop_oneof![
        bytes().prop_map(|bytes| Said::Bytes(StdinData, bytes)),
        (prop::sample::select(vec![StdoutCredit, StderrCredit, Start]), any::<u32>())
            .prop_map(|(kind, number)| Said::Number(kind, number)),
        prop::sample::select(vec![StdinEnd, Cancel, StdoutClosed, StderrClosed, Shutdown, Measure, Freed])
            .prop_map(Said::Sign),
    ];
    (process(), said)
}

proptest! {
    #[test]
    fn any_split_of_a_guests_stream_decodes_to_what_was_said(
        said in prop::collection::vec(said_by_guest(), 0..12),
        cuts in prop::collection::vec(any::<usize>(), 0..40),
    ) {
        let (mut frames, mut expected) = conversation(&said);
        frames.insert(0, (Process::NONE, Frame::Hello));
        expected.insert(0, (Process::NONE, Heard::Sign(Kind::Hello)));
        prop_assert_eq!(hear_guest(&encoded(&frames), &cuts), expected);
    }

    #[test]
    fn any_split_of_a_hosts_stream_decodes_to_what_was_said(
        said in prop::collection::vec(said_by_host(), 0..12),
        cuts in prop::collection::vec(any::<usize>(), 0..40),
    ) {
        let (frames, expected) = conversation(&said);
        prop_assert_eq!(hear_host(&encoded(&frames), &cuts), expected);
    }

    #[test]
    fn random_bytes_never_panic_and_fail_the_same_in_any_split(
        noise in prop::collection::vec(prop_oneof![
            2 => any::<u8>(), 4 => Just(0), 2 => Just(0xff), 1 => 1..=0x0a_u8, 1 => 0x81..=0x8a_u8,
        ], 0..300),
        cuts in prop::collection::vec(any::<usize>(), 0..20),
    ) {
        let mut greeted = encoded(&[(Process::NONE, Frame::Hello)]);
        greeted.extend(&noise);
        for stream in [&noise, &greeted] {
            prop_assert_eq!(hear_guest(stream, &cuts), hear_guest(stream, &[]));
        }
        prop_assert_eq!(hear_host(&noise, &cuts), hear_host(&noise, &[]));
    }

    /// Whatever comes, no more is believed than was granted, and nothing after the end.
    #[test]
    fn input_is_taken_to_its_credit_and_to_its_end(
        steps in prop::collection::vec((0..3u8, 0..9usize), 0..30),
    ) {
        let mut input = Input::NEW;
        let (mut granted, mut taken, mut ended) = (0, 0, false);
        for (what, bytes) in steps {
            match what {
                0 => {
                    input.grant(bytes as u32);
                    granted += bytes;
                }
                1 => {
                    let result = input.take(&vec![0; bytes]);
                    let expected = match ended {
                        true => Err(Error::OutOfOrder(Kind::StdinData)),
                        false if taken + bytes > granted => Err(Error::OverCredit),
                        false => Ok(()),
                    };
                    prop_assert_eq!(result, expected);
                    if result.is_err() {
                        return Ok(());
                    }
                    taken += bytes;
                }
                _ => {
                    let expected = if ended { Err(Error::OutOfOrder(Kind::StdinEnd)) } else { Ok(()) };
                    prop_assert_eq!(input.end(), expected);
                    ended = true;
                }
            }
            prop_assert_eq!(input.has_ended(), ended);
        }
    }
}

/// All that a decoder keeps lies in it, so no stream can make it grow.
#[test]
fn a_decoder_is_small() {
    const _: () = assert!(size_of::<HostDecoder>() <= 256 && size_of::<GuestDecoder>() <= 256);
}

#[test]
fn lost_streams_say_why() {
    let hello = encoded(&[(Process::NONE, Frame::Hello)]);
    let reason = |heard: Vec<Of>| match heard.last() {
        Some((_, Heard::Lost(error))) => *error,
        _ => panic!("decoded to {heard:?}"),
    };
    let lost = |first: &[u8], then: &[u8]| reason(hear_guest(&[first, then].concat(), &[]));
    assert_eq!(lost(&hello, b"\x8c\0\0\0\0\0\0\0"), Error::UnknownKind(0x8c));
    assert_eq!(lost(&hello, b"\x01\0\0\0\0\0\0\0"), Error::UnknownKind(0x01), "a host's frame from a guest");
    let too_long = Error::TooLong { kind: Kind::Stdout, length: 65_537 };
    assert_eq!(lost(&hello, b"\x82\x01\0\x01\0\0\0\0"), too_long);
    let wrong = |kind, length| Error::WrongLength { kind, length };
    assert_eq!(lost(&hello, b"\x84\x03\0\0\0\0\0\0"), wrong(Kind::StdinCredit, 3));
    assert_eq!(lost(&hello, b"\x84\x05\0\0\0\0\0\0"), wrong(Kind::StdinCredit, 5));
    assert_eq!(lost(&hello, b"\x85\x01\0\0\0\0\0\0"), wrong(Kind::Exit, 1));
    assert_eq!(lost(&hello, b"\x87\x20\0\0\0\0\0\0"), wrong(Kind::Usage, 32));
    assert_eq!(lost(&hello, b"\x89\x83\0\0\0\0\0\0"), wrong(Kind::Crash, 131));
    assert_eq!(lost(&hello, b"\x89\0\xff\0\0\0\0\0"), wrong(Kind::Crash, 0xff00));
    assert_eq!(lost(&hello, b"\x85\x02\0\0\0\0\0\0\x09\x06"), Error::UnknownCause(6));
    let usage = [&b"\x87\x29\0\0\0\0\0\0"[..], &[0; 40], &[3]].concat();
    assert_eq!(lost(&hello, &usage), Error::UnknownState(3));
    assert_eq!(lost(&hello, &hello), Error::OutOfOrder(Kind::Hello));
    assert_eq!(lost(&[], &encoded(&[(Process(0), Frame::Started)])), Error::OutOfOrder(Kind::Started));
    assert_eq!(lost(&[], b"\x81\x08\0\0\xff\xff\xff\xffSELF\x04\0\0\0"), Error::NotSelkis);
    assert_eq!(lost(&[], b"\x81\x08\0\0\xff\xff\xff\xffSELK\xff\0\0\0"), Error::WrongVersion(255));
    let lost_by_host = |stream: &[u8]| reason(hear_host(stream, &[]));
    assert_eq!(lost_by_host(b"\x0c\0\0\0\0\0\0\0"), Error::UnknownKind(0x0c));
    assert_eq!(lost_by_host(b"\x81\0\0\0\0\0\0\0"), Error::UnknownKind(0x81), "a guest's frame from a host");
    assert_eq!(lost_by_host(b"\x08\x03\0\0\0\0\0\0"), wrong(Kind::Start, 3));
    assert_eq!(lost_by_host(b"\x0a\x01\0\0\xff\xff\xff\xff"), wrong(Kind::Measure, 1));
}

#[test]
fn a_frame_is_a_processs_or_nobodys_as_its_kind_says() {
    let none = Process::NONE;
    let wrong = |kind, process| Error::WrongProcess { kind, process };
    assert_eq!(Frame::Hello.head(Process(0)), Err(wrong(Kind::Hello, Process(0))));
    assert_eq!(Frame::Log("x").head(Process(1)), Err(wrong(Kind::Log, Process(1))));
    assert_eq!(Frame::Shutdown.head(Process(2)), Err(wrong(Kind::Shutdown, Process(2))));
    assert_eq!(Frame::Measure.head(Process(3)), Err(wrong(Kind::Measure, Process(3))));
    assert_eq!(Frame::Stdout(b"x").head(none), Err(wrong(Kind::Stdout, none)));
    let lost = |error| vec![(none, Heard::Lost(error))];
    let hello = b"\x81\x08\0\0\0\0\0\0SELK\x05\0\0\0";
    assert_eq!(hear_guest(hello, &[]), lost(wrong(Kind::Hello, Process(0))));
    assert_eq!(hear_host(b"\x03\0\0\0\xff\xff\xff\xff", &[]), lost(wrong(Kind::Cancel, none)));
    assert_eq!(hear_host(b"\x09\0\0\0\x07\0\0\0", &[]), lost(wrong(Kind::Shutdown, Process(7))));
}

#[test]
fn a_process_may_begin_again_after_its_exit() {
    let (one, two) = (Process(1), Process(2));
    let exit = Frame::Exit { status: 1, cause: Cause::Exited, message: "" };
    let frames = [
        (Process::NONE, Frame::Hello),
        (one, Frame::Started),
        (two, Frame::Started),
        (one, exit),
        (two, Frame::Stdout(b"x")),
        (one, Frame::Started),
    ];
    let heard = [
        (Process::NONE, Heard::Sign(Kind::Hello)),
        (one, Heard::Sign(Kind::Started)),
        (two, Heard::Sign(Kind::Started)),
        (one, Heard::Exit(1, Cause::Exited)),
        (two, Heard::Stream(Kind::Stdout, b"x".to_vec())),
        (one, Heard::Sign(Kind::Started)),
    ];
    assert_eq!(hear_guest(&encoded(&frames), &[]), heard);
}

#[test]
fn no_more_is_charged_than_there_is() {
    let mut credit = Credit::NONE;
    credit.grant(5);
    assert_eq!((credit.charge(3), credit.bytes()), (Ok(()), 2));
    assert_eq!(credit.charge(3), Err(Error::OverCredit));
}

#[test]
fn the_layout_is_the_documented_one() {
    assert_eq!(encoded(&[(Process::NONE, Frame::Hello)]), b"\x81\x08\0\0\xff\xff\xff\xffSELK\x05\0\0\0");
    assert_eq!(VERSION, 5);
    let one = |frame| encoded(&[(Process(0x0a0b_0c0d), frame)]);
    let credit = Frame::StdinCredit { bytes: 0x0102_0304 };
    assert_eq!(one(credit), b"\x84\x04\0\0\x0d\x0c\x0b\x0a\x04\x03\x02\x01");
    assert_eq!(one(Frame::Start { program: 0x0201 }), b"\x08\x04\0\0\x0d\x0c\x0b\x0a\x01\x02\0\0");
    let spawned = Frame::Spawned { program: 0x0201, parent: Process(0x0403) };
    assert_eq!(one(spawned), b"\x8b\x08\0\0\x0d\x0c\x0b\x0a\x01\x02\0\0\x03\x04\0\0");
    assert_eq!(one(Frame::Freed), b"\x0b\0\0\0\x0d\x0c\x0b\x0a");
    let exit = Frame::Exit { status: 137, cause: Cause::TimedOut, message: "late" };
    assert_eq!(one(exit), b"\x85\x06\0\0\x0d\x0c\x0b\x0a\x89\x02late");
    let usage = Usage {
        memory_bytes: 0x0201,
        host_bytes: 5,
        cpu_ns: 3,
        switches: 4,
        migrations: 6,
        state: State::Stopping,
    };
    let words: Vec<u8> = [0x0201u64, 5, 3, 4, 6].into_iter().flat_map(u64::to_le_bytes).chain([2]).collect();
    assert_eq!(one(Frame::Usage(usage)), [&b"\x87\x29\0\0\x0d\x0c\x0b\x0a"[..], &words].concat());
    assert_eq!(one(Frame::Started), b"\x88\0\0\0\x0d\x0c\x0b\x0a");
    assert_eq!(encoded(&[(Process::NONE, Frame::Measure)]), b"\x0a\0\0\0\xff\xff\xff\xff");
    let longest = vec![7; PAYLOAD_BYTES_MAX];
    assert_eq!(one(Frame::Stdout(&longest))[..4], *b"\x82\0\0\x01");
    let longer = vec![7; PAYLOAD_BYTES_MAX + 1];
    let too_long = Error::TooLong { kind: Kind::Stdout, length: PAYLOAD_BYTES_MAX + 1 };
    assert_eq!(Frame::Stdout(&longer).head(Process(0)), Err(too_long));
    assert_eq!(split_body(&longer), (&longest[..], &[7][..]));
}
