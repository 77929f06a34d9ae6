use super::*;

const READ: u8 = 1;
const WRITE: u8 = 2;

/// A clock subscription.
fn clock(user: u64, id: u32, timeout_ns: u64, flags: u16) -> [u8; 48] {
    let mut record = [0; 48];
    record[..8].copy_from_slice(&user.to_le_bytes());
    record[16..20].copy_from_slice(&id.to_le_bytes());
    record[24..32].copy_from_slice(&timeout_ns.to_le_bytes());
    record[40..42].copy_from_slice(&flags.to_le_bytes());
    record
}

/// A subscription to a descriptor.
fn descriptor(user: u64, kind: u8, fd: u64) -> [u8; 48] {
    let mut record = [0; 48];
    record[..8].copy_from_slice(&user.to_le_bytes());
    record[8] = kind;
    record[16..20].copy_from_slice(&(fd as u32).to_le_bytes());
    record
}

/// What happened: user data, errno, kind, bytes, flags.
type Event = (u64, u16, u8, u64, u16);

fn poll(program: &mut Program, subscriptions: &[[u8; 48]]) -> Result<Vec<Event>> {
    let at = program.put(&subscriptions.concat());
    let events = program.put(&vec![0; subscriptions.len() * 32]);
    program.call("poll_oneoff", &[at, events, subscriptions.len() as u64, 8])?;
    let event = |index: u64| {
        let at = events + index * 32;
        let word = program.u32(at + 8);
        (program.u64(at), word as u16, (word >> 16) as u8, program.u64(at + 16), program.u32(at + 24) as u16)
    };
    Ok((0..u64::from(program.u32(8))).map(event).collect())
}

#[test]
fn a_duration_is_slept_once() {
    for id in [0, 1] {
        let mut program = Program::new();
        assert_eq!(poll(&mut program, &[clock(5, id, 1000, 0)]), Ok(vec![(5, 0, 0, 0, 0)]));
        assert_eq!(program.fake().waits, vec![(StreamSet::NONE, Some(BEGIN_NS + 1000))]);
    }
}

#[test]
fn a_time_is_waited_for_on_its_own_clock() {
    let mut program = Program::new();
    let wall = BEGIN_NS + WALL_AHEAD_NS + 300;
    let happened = poll(&mut program, &[clock(1, 0, wall, 1), clock(2, 1, BEGIN_NS + 200, 1)]);
    assert_eq!(happened, Ok(vec![(2, 0, 0, 0, 0)]));
    assert_eq!(program.fake().waits, vec![(StreamSet::NONE, Some(BEGIN_NS + 200))]);
    let happened = poll(&mut program, &[clock(1, 0, wall, 1), clock(2, 1, BEGIN_NS + 200, 1)]);
    assert_eq!(happened, Ok(vec![(2, 0, 0, 0, 0)]), "a time that has passed");
    assert_eq!(poll(&mut program, &[clock(1, 0, wall, 1)]), Ok(vec![(1, 0, 0, 0, 0)]));
    assert_eq!(program.fake().now_ns, BEGIN_NS + 300);
}

#[test]
fn the_longest_duration_does_not_wrap() {
    let mut program = Program::new();
    program.fake().input = [Step::Wait].into();
    let far = [clock(1, 1, u64::MAX, 0), clock(2, 0, u64::MAX, 1), descriptor(3, WRITE, 1)];
    assert_eq!(poll(&mut program, &far), Ok(vec![(3, 0, WRITE, 1, 0)]));
    assert_eq!(program.fake().waits[0].1, Some(u64::MAX - WALL_AHEAD_NS));
}

#[test]
fn input_is_waited_for_beside_the_clock() {
    let mut program = Program::new();
    program.fake().input = [Step::Bytes(b"x")].into();
    let both = [clock(1, 1, 500, 0), descriptor(2, READ, 0)];
    assert_eq!(poll(&mut program, &both), Ok(vec![(2, 0, READ, 1, 0)]));
    program.fake().input = [Step::Wait].into();
    assert_eq!(poll(&mut program, &both), Ok(vec![(1, 0, 0, 0, 0)]));
    assert_eq!(program.fake().waits.last(), Some(&(StreamSet::INPUT, Some(BEGIN_NS + 500))));
    program.fake().input = [Step::Wait].into();
    assert_eq!(poll(&mut program, &both[1..]), Ok(vec![(2, 0, READ, 1, 0)]), "without a deadline");
}

#[test]
fn files_are_always_ready_and_nothing_is_waited_for() {
    let mut program = Program::new();
    program.fake().input = [Step::Wait].into();
    let file = program.open(ROOT, "old", 0, 2 | 64, 0).unwrap();
    program.read(file, 2).unwrap();
    let left = OLD.len() as u64 - 2;
    let all =
        [descriptor(1, READ, file), descriptor(2, WRITE, file), descriptor(3, READ, 0), clock(4, 1, 9, 0)];
    assert_eq!(poll(&mut program, &all), Ok(vec![(1, 0, READ, left, 0), (2, 0, WRITE, 1, 0)]));
    assert_eq!(program.fake().now_ns, BEGIN_NS);
    program.read(file, 100).unwrap();
    assert_eq!(poll(&mut program, &all[..1]), Ok(vec![(1, 0, READ, 0, 1)]), "the end");
}

#[test]
fn a_subscription_without_sense_is_an_event_with_an_errno() {
    let mut program = Program::new();
    let all = [
        descriptor(1, READ, 9),
        descriptor(2, READ, 1),
        descriptor(3, WRITE, 0),
        descriptor(4, READ, ROOT),
        descriptor(5, 3, 0),
        clock(6, 2, 0, 0),
        clock(7, 4, 0, 0),
        clock(8, 1, 0, 2),
        clock(9, 1, 1000, 0),
    ];
    let errnos = [
        Errno::Badf,
        Errno::Badf,
        Errno::Badf,
        Errno::Badf,
        Errno::Inval,
        Errno::Notsup,
        Errno::Inval,
        Errno::Inval,
    ];
    let happened = poll(&mut program, &all).unwrap();
    let expected: Vec<_> = (1..).zip(errnos.map(Errno::code)).collect();
    assert_eq!(happened.iter().map(|event| (event.0, event.1)).collect::<Vec<_>>(), expected);
    assert_eq!(program.fake().now_ns, BEGIN_NS);
}

#[test]
fn lists_are_checked_before_anything_is_waited_for() {
    let mut program = Program::new();
    let at = program.put(&clock(1, 1, 5, 0));
    let end = MEMORY_BYTES as u64;
    program.fails("poll_oneoff", &[at, 1024, 0, 8], Errno::Inval);
    program.fails("poll_oneoff", &[at, end - 31, 1, 8], Errno::Inval);
    program.fails("poll_oneoff", &[at, end - 24, 1, 8], Errno::Fault);
    program.fails("poll_oneoff", &[at + 4, 1024, 1, 8], Errno::Inval);
    program.fails("poll_oneoff", &[at, 1024, 0x0555_5556, 8], Errno::Fault);
    program.fails("poll_oneoff", &[at, 1024, u64::from(u32::MAX), 8], Errno::Fault);
    program.fails("poll_oneoff", &[at, 1024, 1, end], Errno::Fault);
    assert!(program.fake().waits.is_empty());
}

#[test]
fn events_may_lie_over_subscriptions() {
    let mut program = Program::new();
    let both = [descriptor(1, WRITE, 1), descriptor(2, WRITE, 2)].concat();
    let at = program.put(&both);
    program.ok("poll_oneoff", &[at, at, 2, 8]);
    assert_eq!((program.u32(8), program.u64(at), program.u64(at + 32)), (2, 1, 2));
}

#[test]
fn a_process_can_end_among_very_many_subscriptions() {
    let mut program = Program::new();
    program.memory = vec![0; 48 * 5000];
    program.fake().checkpoints = 3;
    assert_eq!(program.call("poll_oneoff", &[0, 0, 5000, 0]), Err(Error::Stopped));
}
