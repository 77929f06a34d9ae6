//! Whatever the split of the stream, the same is decoded; whatever the bytes, nothing panics.

use link::{
    Cause, Error, Frame, FromGuest, FromHost, GuestDecoder, HostDecoder, Kind, PAYLOAD_BYTES_MAX, VERSION,
    split_body,
};
use proptest::prelude::*;

/// An event with its bytes, pieces of one stream joined.
#[derive(Clone, Debug, PartialEq)]
enum Heard {
    Stream(Kind, Vec<u8>),
    Credit(u32),
    CreditOf(Kind, u32),
    Exit(u8, Cause),
    Sign(Kind),
    Lost(Error),
}

fn note(heard: &mut Vec<Heard>, next: Heard) {
    match (heard.last_mut(), next) {
        (Some(Heard::Stream(kind, bytes)), Heard::Stream(next_kind, more)) if *kind == next_kind => {
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
        FromGuest::StdinCredit { bytes } => Heard::Credit(bytes),
        FromGuest::Exit { status, cause } => Heard::Exit(status, cause),
    }
}

fn from_host(event: FromHost<'_>) -> Heard {
    match event {
        FromHost::StdinData(bytes) => Heard::Stream(Kind::StdinData, bytes.to_vec()),
        FromHost::StdinEnd => Heard::Sign(Kind::StdinEnd),
        FromHost::Cancel => Heard::Sign(Kind::Cancel),
        FromHost::StdoutClosed => Heard::Sign(Kind::StdoutClosed),
        FromHost::StderrClosed => Heard::Sign(Kind::StderrClosed),
        FromHost::StdoutCredit { bytes } => Heard::CreditOf(Kind::StdoutCredit, bytes),
        FromHost::StderrCredit { bytes } => Heard::CreditOf(Kind::StderrCredit, bytes),
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

fn hear_guest(stream: &[u8], cuts: &[usize]) -> Vec<Heard> {
    let mut decoder = HostDecoder::new();
    let mut heard = Vec::new();
    for mut piece in pieces(stream, cuts) {
        loop {
            match decoder.next(&mut piece) {
                Ok(Some(event)) => note(&mut heard, from_guest(event)),
                Ok(None) => {
                    assert!(piece.is_empty(), "all input is consumed");
                    break;
                }
                Err(error) => {
                    assert_eq!(decoder.next(&mut &b"\x82\0\0\0"[..]), Err(error), "an error stays");
                    heard.push(Heard::Lost(error));
                    return heard;
                }
            }
        }
    }
    heard
}

fn hear_host(stream: &[u8], cuts: &[usize], credit: u32) -> Vec<Heard> {
    let mut decoder = GuestDecoder::new();
    decoder.grant(credit);
    let mut heard = Vec::new();
    for mut piece in pieces(stream, cuts) {
        loop {
            match decoder.next(&mut piece) {
                Ok(Some(event)) => note(&mut heard, from_host(event)),
                Ok(None) => break,
                Err(error) => {
                    heard.push(Heard::Lost(error));
                    return heard;
                }
            }
        }
    }
    heard
}

fn encoded(frames: &[Frame<'_>]) -> Vec<u8> {
    frames.iter().fold(Vec::new(), |mut stream, frame| {
        stream.extend(frame.head().expect("short enough").as_ref());
        stream.extend(frame.body());
        stream
    })
}

#[derive(Clone, Debug)]
enum Said {
    Bytes(Kind, Vec<u8>),
    Text(String),
    Credit(u32),
}

impl Said {
    fn frame(&self) -> Frame<'_> {
        match self {
            Self::Bytes(Kind::Stdout, bytes) => Frame::Stdout(bytes),
            Self::Bytes(Kind::Stderr, bytes) => Frame::Stderr(bytes),
            Self::Bytes(_, bytes) => Frame::StdinData(bytes),
            Self::Text(text) => Frame::Log(text),
            Self::Credit(bytes) => Frame::StdinCredit { bytes: *bytes },
        }
    }

    fn heard(&self) -> Option<Heard> {
        match self {
            Self::Bytes(kind, bytes) => (!bytes.is_empty()).then(|| Heard::Stream(*kind, bytes.clone())),
            Self::Text(text) => {
                (!text.is_empty()).then(|| Heard::Stream(Kind::Log, text.clone().into_bytes()))
            }
            Self::Credit(bytes) => Some(Heard::Credit(*bytes)),
        }
    }
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        9 => prop::collection::vec(any::<u8>(), 0..40),
        1 => (0..=PAYLOAD_BYTES_MAX, any::<u8>()).prop_map(|(length, byte)| vec![byte; length]),
    ]
}

fn said_by_guest() -> impl Strategy<Value = Said> {
    prop_oneof![
        bytes().prop_map(|bytes| Said::Bytes(Kind::Stdout, bytes)),
        bytes().prop_map(|bytes| Said::Bytes(Kind::Stderr, bytes)),
        ".{0,20}".prop_map(Said::Text),
        any::<u32>().prop_map(Said::Credit),
    ]
}

fn cause() -> impl Strategy<Value = Cause> {
    use Cause::*;
    prop::sample::select(vec![Exited, Trapped, TimedOut, Cancelled, OutOfMemory, FailedToStart])
}

proptest! {
    #[test]
    fn any_split_of_a_guests_stream_decodes_to_what_was_said(
        said in prop::collection::vec(said_by_guest(), 0..12),
        (status, cause, message) in (any::<u8>(), cause(), ".{0,30}"),
        cuts in prop::collection::vec(any::<usize>(), 0..40),
    ) {
        let mut frames = vec![Frame::Hello];
        frames.extend(said.iter().map(Said::frame));
        frames.push(Frame::Exit { status, cause, message: &message });

        let mut expected = vec![Heard::Sign(Kind::Hello)];
        said.iter().filter_map(Said::heard).for_each(|next| note(&mut expected, next));
        if !message.is_empty() {
            expected.push(Heard::Stream(Kind::Exit, message.clone().into_bytes()));
        }
        expected.push(Heard::Exit(status, cause));
        prop_assert_eq!(hear_guest(&encoded(&frames), &cuts), expected);
    }

    #[test]
    fn any_split_of_a_hosts_stream_decodes_to_what_was_said(
        said in prop::collection::vec(bytes(), 0..8),
        cuts in prop::collection::vec(any::<usize>(), 0..40),
    ) {
        let mut frames: Vec<_> = said.iter().map(|bytes| Frame::StdinData(bytes)).collect();
        frames.extend([Frame::StdoutClosed, Frame::StdinEnd, Frame::StderrClosed, Frame::Cancel]);
        frames.extend([Frame::StdoutCredit { bytes: 7 }, Frame::StderrCredit { bytes: u32::MAX }]);
        let all = said.concat();
        let credit = all.len() as u32;
        let mut expected = Vec::new();
        if !all.is_empty() {
            expected.push(Heard::Stream(Kind::StdinData, all));
        }
        let signs = [Kind::StdoutClosed, Kind::StdinEnd, Kind::StderrClosed, Kind::Cancel];
        expected.extend(signs.map(Heard::Sign));
        let credits = [(Kind::StdoutCredit, 7), (Kind::StderrCredit, u32::MAX)];
        expected.extend(credits.map(|(kind, bytes)| Heard::CreditOf(kind, bytes)));
        prop_assert_eq!(hear_host(&encoded(&frames), &cuts, credit), expected);
    }

    #[test]
    fn random_bytes_never_panic_and_fail_the_same_in_any_split(
        noise in prop::collection::vec(prop_oneof![
            any::<u8>(), Just(0), prop::sample::select(vec![1u8, 2, 3, 4, 5, 6, 7, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86])
        ], 0..300),
        cuts in prop::collection::vec(any::<usize>(), 0..20),
    ) {
        let mut greeted = encoded(&[Frame::Hello]);
        greeted.extend(&noise);
        for stream in [&noise, &greeted] {
            prop_assert_eq!(hear_guest(stream, &cuts), hear_guest(stream, &[]));
        }
        // Over credit is noticed at a piece, not at a byte: how much was delivered before depends on the split.
        prop_assert_eq!(hear_host(&noise, &cuts, 1 << 20), hear_host(&noise, &[], 1 << 20));
    }
}

#[test]
fn lost_streams_say_why() {
    let hello = encoded(&[Frame::Hello]);
    let lost = |first: &[u8], then: &[u8]| {
        let stream = [first, then].concat();
        match hear_guest(&stream, &[]).pop() {
            Some(Heard::Lost(error)) => error,
            other => panic!("{stream:?} decoded to {other:?}"),
        }
    };
    assert_eq!(lost(&hello, &[0x87, 0, 0, 0]), Error::UnknownKind(0x87));
    assert_eq!(lost(&hello, &[0x01, 0, 0, 0]), Error::UnknownKind(0x01), "a host's frame from a guest");
    assert_eq!(lost(&hello, &[0x82, 1, 0, 1]), Error::TooLong { kind: Kind::Stdout, length: 65_537 });
    assert_eq!(lost(&hello, &[0x84, 3, 0, 0]), Error::WrongLength { kind: Kind::StdinCredit, length: 3 });
    assert_eq!(lost(&hello, &[0x84, 5, 0, 0]), Error::WrongLength { kind: Kind::StdinCredit, length: 5 });
    assert_eq!(lost(&hello, &[0x85, 1, 0, 0]), Error::WrongLength { kind: Kind::Exit, length: 1 });
    assert_eq!(lost(&hello, &[0x85, 2, 0, 0, 9, 6]), Error::UnknownCause(6));
    assert_eq!(lost(&hello, &hello), Error::OutOfOrder(Kind::Hello));
    assert_eq!(lost(&[], &encoded(&[Frame::Stdout(b"x")])), Error::OutOfOrder(Kind::Stdout));
    assert_eq!(lost(&[], b"\x81\x08\0\0SELF\x01\0\0\0"), Error::NotSelkis);
    assert_eq!(lost(&[], b"\x81\x08\0\0SELK\xff\0\0\0"), Error::WrongVersion(255));
    let ended = encoded(&[Frame::Hello, Frame::Exit { status: 1, cause: Cause::Exited, message: "" }]);
    assert_eq!(lost(&ended, &encoded(&[Frame::Log("x")])), Error::OutOfOrder(Kind::Log));
}

#[test]
fn the_guest_takes_no_more_input_than_it_granted() {
    let stream = encoded(&[Frame::StdinData(b"12345"), Frame::Cancel]);
    let data = |bytes: &[u8]| Heard::Stream(Kind::StdinData, bytes.to_vec());
    assert_eq!(hear_host(&stream, &[], 5), [data(b"12345"), Heard::Sign(Kind::Cancel)]);
    assert_eq!(hear_host(&stream, &[], 4), [Heard::Lost(Error::OverCredit)]);
    let after_end = encoded(&[Frame::StdinEnd, Frame::StdinData(b"")]);
    let lost = Heard::Lost(Error::OutOfOrder(Kind::StdinData));
    assert_eq!(hear_host(&after_end, &[], 4), [Heard::Sign(Kind::StdinEnd), lost]);
}

#[test]
fn the_layout_is_the_documented_one() {
    assert_eq!(encoded(&[Frame::Hello]), b"\x81\x08\0\0SELK\x02\0\0\0");
    assert_eq!(VERSION, 2);
    assert_eq!(encoded(&[Frame::StdinCredit { bytes: 0x0102_0304 }]), b"\x84\x04\0\0\x04\x03\x02\x01");
    let exit = Frame::Exit { status: 137, cause: Cause::TimedOut, message: "late" };
    assert_eq!(encoded(&[exit]), b"\x85\x06\0\0\x89\x02late");
    let longest = vec![7; PAYLOAD_BYTES_MAX];
    assert_eq!(encoded(&[Frame::Stdout(&longest)])[..4], *b"\x82\0\0\x01");
    let longer = vec![7; PAYLOAD_BYTES_MAX + 1];
    let too_long = Error::TooLong { kind: Kind::Stdout, length: PAYLOAD_BYTES_MAX + 1 };
    assert_eq!(Frame::Stdout(&longer).head(), Err(too_long));
    assert_eq!(split_body(&longer), (&longest[..], &[7][..]));
}
