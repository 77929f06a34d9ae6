//! Standard streams that are pipes: this test runs itself as a child whose streams it holds.

use hosted::clock::{LinuxClock, seed};
use hosted::streams::{LinuxStreams, LinuxWait};
use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use wasi::Errno;
use wasi::provider::{
    Clock, ClockKind, Input, Output, OutputStream, Stream, StreamSet, Streams, Terminal, Wait,
};

/// Tells the child what to do; without it, this is not the child.
const ROLE: &str = "SELKIS_STREAMS_TEST";

/// This test's executable again, as `role`.
fn child(role: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "the_child", "--nocapture"])
        .env(ROLE, role)
        // Where tests abort on panic the harness would run it in one more process, without standard input; this is
        // what it tells that process.
        .env("__RUST_TEST_INVOKE", "the_child")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// What the child does; says "good" on standard error if all was as it should be.
#[test]
fn the_child() {
    match std::env::var(ROLE).as_deref() {
        Ok("read") => reads(),
        Ok("write") => writes(),
        _ => return,
    }
    eprintln!("good");
}

fn reads() {
    let (mut streams, mut wait, mut clock) = (LinuxStreams::new(), LinuxWait, LinuxClock);
    let mut bytes = [0; 64];
    assert_eq!(streams.terminal(Stream::Input), Ok(Terminal::No));
    assert_eq!(streams.read(&mut bytes), Ok(Input::NotReady));
    let deadline_ns = clock.monotonic_ns().unwrap() + 30_000_000;
    assert_eq!(wait.wait(StreamSet::INPUT, Some(deadline_ns)), Ok(StreamSet::NONE));
    assert!(clock.monotonic_ns().unwrap() >= deadline_ns);
    eprintln!("waiting");
    assert_eq!(wait.wait(StreamSet::INPUT, None), Ok(StreamSet::INPUT));
    assert_eq!(streams.read(&mut bytes[..2]), Ok(Input::Bytes(2)));
    assert_eq!(wait.wait(StreamSet::INPUT, Some(0)), Ok(StreamSet::INPUT));
    assert_eq!(streams.read(&mut bytes[2..]), Ok(Input::Bytes(3)));
    assert_eq!(&bytes[..5], b"hello");
    eprintln!("closing");
    assert_eq!(wait.wait(StreamSet::INPUT, None), Ok(StreamSet::INPUT));
    assert_eq!(streams.read(&mut bytes), Ok(Input::End));
    assert!(clock.cpu_ns().unwrap() < 1_000_000_000, "waiting takes no CPU time");
}

fn writes() {
    let (mut streams, mut wait) = (LinuxStreams::new(), LinuxWait);
    let bytes = [b'x'; 10_000];
    let mut written = 0;
    while let Output::Bytes(count) = streams.write(OutputStream::Output, &bytes).unwrap() {
        written += count;
    }
    assert_eq!(wait.wait(StreamSet::OUTPUT, Some(0)), Ok(StreamSet::NONE));
    eprintln!("full {written}");
    assert_eq!(wait.wait(StreamSet::OUTPUT, None), Ok(StreamSet::OUTPUT));
    assert!(matches!(streams.write(OutputStream::Output, &bytes), Ok(Output::Bytes(1..))));
    eprintln!("closing");
    loop {
        match streams.write(OutputStream::Output, &bytes) {
            Ok(Output::Bytes(_)) => {}
            Ok(Output::NotReady) => assert_eq!(wait.wait(StreamSet::OUTPUT, None), Ok(StreamSet::OUTPUT)),
            Err(error) => break assert_eq!(error, Errno::Pipe.into()),
        }
    }
}

/// Reads the child's words up to `word`.
fn until(child: &mut Child, word: &str) -> String {
    let mut said = Vec::new();
    let errors = child.stderr.as_mut().unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while !String::from_utf8_lossy(&said).contains(word) {
        let mut byte = [0];
        assert!(Instant::now() < deadline, "no {word:?}");
        let count = errors.read(&mut byte).unwrap();
        assert!(count == 1, "the child ended: {}", String::from_utf8_lossy(&said));
        said.push(byte[0]);
    }
    String::from_utf8(said).unwrap()
}

#[test]
fn input_is_read_as_it_comes_and_ends() {
    let mut child = child("read");
    until(&mut child, "waiting\n");
    child.stdin.as_mut().unwrap().write_all(b"hello").unwrap();
    until(&mut child, "closing\n");
    child.stdin.take();
    until(&mut child, "good\n");
    // Its status is the harness's own business.
    child.wait().unwrap();
}

#[test]
fn output_that_nobody_reads_is_not_ready_and_then_closed() {
    let mut child = child("write");
    let said = until(&mut child, "full ");
    assert!(said.ends_with("full "));
    until(&mut child, "\n");
    let mut output = child.stdout.take().unwrap();
    output.read_exact(&mut [0; 40_000]).unwrap();
    until(&mut child, "closing\n");
    drop(output);
    until(&mut child, "good\n");
    // The harness itself cannot say its result on the closed output, so its status means nothing.
    child.wait().unwrap();
}

#[test]
fn clocks_go_on_and_seeds_differ() {
    let mut clock = LinuxClock;
    let first = clock.monotonic_ns().unwrap();
    assert!(clock.monotonic_ns().unwrap() >= first);
    assert!(clock.wall_ns().unwrap() > 1_700_000_000_000_000_000);
    assert!(clock.cpu_ns().unwrap() > 0);
    for which in [ClockKind::Wall, ClockKind::Monotonic, ClockKind::Cpu] {
        assert!((1..=10_000_000).contains(&clock.resolution_ns(which).unwrap()));
    }
    assert!(seed().unwrap() != seed().unwrap());
}
