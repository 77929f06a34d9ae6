use super::*;

/// All that was written to a stream.
fn written(program: &mut Program, stream: OutputStream) -> Vec<u8> {
    let pieces = program.fake().written.iter().filter(|(to, _)| *to == stream);
    pieces.flat_map(|(_, bytes)| bytes.clone()).collect()
}

#[test]
fn output_and_error_are_separate() {
    let mut program = Program::new();
    let (first, second) = (program.put(b"one "), program.put(b"two"));
    let (list, count) = program.buffers(&[(first, 4), (0, 0), (second, 3)]);
    program.ok("fd_write", &[1, list, count, 8]);
    assert_eq!(program.u32(8), 7);
    program.ok("fd_write", &[2, list, 1, 8]);
    assert_eq!(written(&mut program, OutputStream::Output), b"one two");
    assert_eq!(written(&mut program, OutputStream::Error), b"one ");
    program.ok("fd_write", &[1, list, 0, 8]);
    assert_eq!(program.u32(8), 0);
}

#[test]
fn a_write_waits_for_room_until_all_is_written() {
    let mut program = Program::new();
    program.fake().room = 0;
    program.fake().room_after_wait = Some(3);
    assert_eq!(program.write(1, b"ten bytes."), Ok(10));
    assert_eq!(written(&mut program, OutputStream::Output), b"ten bytes.");
    assert_eq!(program.fake().waits, vec![(StreamSet::OUTPUT, None); 4]);
}

#[test]
fn a_write_that_must_not_wait_is_cut_short() {
    let mut program = Program::new();
    program.fake().room = 3;
    program.ok("fd_fdstat_set_flags", &[1, 4]);
    assert_eq!(program.write(1, b"ten bytes."), Ok(3));
    assert_eq!(program.write(1, b"ten bytes."), Err(Errno::Again.into()));
    assert!(program.fake().waits.is_empty());
}

#[test]
fn nobody_at_the_other_end_is_epipe() {
    let mut program = Program::new();
    program.fake().room = 3;
    program.fake().room_after_wait = None;
    assert_eq!(program.write(1, b"ten bytes."), Ok(3));
    assert_eq!(program.write(1, b"more"), Err(Errno::Pipe.into()));
}

#[test]
fn a_read_waits_for_the_first_byte_only() {
    let mut program = Program::new();
    program.fake().input = [Step::Wait, Step::Bytes(b"abc"), Step::Bytes(b"de"), Step::Wait].into();
    let (list, count) = program.buffers(&[(100, 2), (110, 0), (120, 5), (130, 5)]);
    program.ok("fd_read", &[0, list, count, 8]);
    assert_eq!(
        (program.u32(8), program.bytes(100, 3), program.bytes(120, 2)),
        (3, &b"ab\0"[..], &b"c\0"[..])
    );
    assert_eq!(program.fake().waits, vec![(StreamSet::INPUT, None)]);
    assert_eq!(program.read(0, 100).unwrap(), b"de");
    program.ok("fd_fdstat_set_flags", &[0, 4]);
    assert_eq!(program.read(0, 100), Err(Errno::Again.into()));
    program.fake().input.clear();
    assert_eq!(program.read(0, 100).unwrap(), b"", "the end");
    assert_eq!(program.fake().waits.len(), 1);
}

#[test]
fn streams_go_one_way_and_have_no_positions() {
    let mut program = Program::new();
    let (list, count) = program.buffers(&[(100, 2)]);
    program.fails("fd_write", &[0, list, count, 8], Errno::Badf);
    program.fails("fd_read", &[1, list, count, 8], Errno::Badf);
    program.fails("fd_pread", &[0, list, count, 0, 8], Errno::Spipe);
    program.fails("fd_pwrite", &[1, list, count, 0, 8], Errno::Spipe);
    program.fails("fd_seek", &[1, 0, 1, 8], Errno::Spipe);
    program.fails("fd_tell", &[0, 8], Errno::Spipe);
    for name in ["fd_sync", "fd_datasync"] {
        program.fails(name, &[1], Errno::Badf);
    }
    program.fails("fd_filestat_set_size", &[1, 0], Errno::Badf);
    program.fails("fd_filestat_set_times", &[1, 0, 0, 0], Errno::Badf);
    program.fails("fd_advise", &[1, 0, 0, 0], Errno::Badf);
    program.fails("fd_allocate", &[1, 0, 1], Errno::Badf);
    program.fails("fd_readdir", &[1, 0, 10, 0, 16], Errno::Notdir);
    program.ok("fd_filestat_get", &[1, 64]);
    assert_eq!(program.bytes(64, 64), [0; 64]);
}

#[test]
fn a_process_can_end_within_a_long_write() {
    let mut program = Program::new();
    program.memory = vec![7; 8 << 20];
    let (list, count) = program.buffers(&[(1 << 20, 7 << 20)]);
    program.fake().checkpoints = 3;
    assert_eq!(program.call("fd_write", &[1, list, count, 8]), Err(Error::Stopped));
    assert!(written(&mut program, OutputStream::Output).len() <= 3 << 20);
}

#[test]
fn one_call_moves_a_bounded_number_of_bytes() {
    let mut program = Program::new();
    // The same 1 MiB, 1,024 times and more; the 1,025th buffer is bad and is not looked at.
    program.memory = vec![0; 2 << 20];
    let buffer = [(1 << 20, 1 << 20)].repeat(1024);
    let (list, _) = program.buffers(&[buffer, vec![(u64::from(u32::MAX), 1)]].concat());
    let file = program.open(ROOT, "new", 1, 64, 0).unwrap();
    program.ok("fd_write", &[file, list, 1025, 8]);
    assert!(u64::from(program.u32(8)) <= TREE_BYTES, "what fits");
    program.fails("fd_write", &[file, list, 1025, 8], Errno::Nospc);
}
