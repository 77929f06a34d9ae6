//! How domains begin and end.

use crate::Test;
use crate::code::Code;
use crate::scene::{self, command, domain, run, start};
use hosted::domain::Reason;
use rustix::process::{Pid, test_kill_process};
use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

pub const TESTS: &[Test] = &[
    ("a_status_is_passed_on", a_status_is_passed_on),
    ("a_domain_can_be_started_again", a_domain_can_be_started_again),
    ("standard_input_is_empty", standard_input_is_empty),
    ("the_wire_reaches_the_library_os", the_wire_reaches_the_library_os),
    ("a_killed_domain_says_so", a_killed_domain_says_so),
    ("a_domain_that_is_let_go_is_killed", a_domain_that_is_let_go_is_killed),
    ("a_killed_parent_ends_its_domain", a_killed_parent_ends_its_domain),
    ("nobody_else_is_a_domain", nobody_else_is_a_domain),
    ("what_it_uses_can_be_seen", what_it_uses_can_be_seen),
];

fn a_status_is_passed_on() {
    let (end, errors) = run(&domain(&Code::new().answer(7)));
    assert_eq!((end.status, end.reason, errors.as_str()), (7, Reason::Exited, ""));
}

fn a_domain_can_be_started_again() {
    let domain = domain(&Code::new().answer(9));
    for _ in 0..10 {
        assert_eq!(run(&domain).0.status, 9);
    }
}

fn standard_input_is_empty() {
    // Onto the handlers' side of the stack: nobody looks at what is read.
    let (end, _) = run(&domain(&Code::new().call(libc::SYS_read, &[0, 0, 0]).answer_error()));
    assert_eq!((end.status, end.reason), (0, Reason::Exited));
}

/// It knows no descriptor's number: it writes to each that it may have, and only the wire takes it.
fn the_wire_reaches_the_library_os() {
    let mut code = Code::new();
    let sign = code.text("!".as_ref());
    for descriptor in 3..32 {
        code = code.call(libc::SYS_write, &[descriptor, sign, 1]);
    }
    let mut running = start(&domain(&code.answer(0)));
    let mut heard = Vec::new();
    running.take_wire().unwrap().read_to_end(&mut heard).unwrap();
    assert_eq!((heard.as_slice(), running.wait().unwrap().status), (&b"!"[..], 0));
}

fn a_killed_domain_says_so() {
    let mut running = start(&domain(&Code::new().spin()));
    assert_eq!(running.try_wait().unwrap(), None);
    running.kill().unwrap();
    let end = running.wait().unwrap().clone();
    assert_eq!((end.status, end.reason), (137, Reason::Signal(libc::SIGKILL)));
    assert_eq!(running.try_wait().unwrap(), Some(&end));
}

fn a_domain_that_is_let_go_is_killed() {
    let mut running = start(&domain(&Code::new().spin()));
    let mut output = running.take_output().unwrap();
    drop(running);
    // Nobody has the other end any more.
    assert_eq!(output.read(&mut [0]).unwrap(), 0);
}

fn a_killed_parent_ends_its_domain() {
    let mut parent = Command::new("/proc/self/exe");
    let mut parent = parent.arg(scene::PARENT).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(parent.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let number = Pid::from_raw(line.trim().parse().unwrap()).unwrap();
    let is_there = || test_kill_process(number).is_ok();
    assert!(is_there());
    parent.kill().unwrap();
    parent.wait().unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while is_there() {
        assert!(Instant::now() < deadline, "{number:?} is still there");
        std::thread::yield_now();
    }
}

fn nobody_else_is_a_domain() {
    let output = command().stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(125));
    assert!(String::from_utf8_lossy(&output.stderr).contains("only `selkis up` can start a domain"));
}

fn what_it_uses_can_be_seen() {
    let mut running = start(&domain(&Code::new().spin()));
    let deadline = Instant::now() + Duration::from_secs(10);
    while running.usage().cpu_ns < 20_000_000 {
        assert!(Instant::now() < deadline);
        std::thread::yield_now();
    }
    assert!(running.usage().memory_bytes < 64 << 20);
    running.kill().unwrap();
    assert!(running.wait().unwrap().usage.cpu_ns >= 20_000_000);
}
