use super::*;

#[test]
fn arguments_and_environment_are_laid_out() {
    let mut program = Program::new();
    program.ok("args_sizes_get", &[0, 4]);
    assert_eq!((program.u32(0), program.u32(4)), (3, 12));
    program.ok("args_get", &[16, 100]);
    assert_eq!([16, 20, 24].map(|at| program.u32(at)), [100, 108, 109]);
    assert_eq!(program.bytes(100, 12), b"program\0\0\xff\xfe\0");
    program.ok("environ_sizes_get", &[0, 4]);
    assert_eq!((program.u32(0), program.u32(4)), (1, 4));
    program.ok("environ_get", &[16, 100]);
    assert_eq!((program.u32(16), program.bytes(100, 4)), (100, &b"A=b\0"[..]));
    let end = MEMORY_BYTES as u64;
    program.fails("args_get", &[end - 8, 100], Errno::Fault);
    program.fails("args_get", &[16, end - 11], Errno::Fault);
    program.fails("args_get", &[18, 100], Errno::Inval);
    program.ok("args_get", &[16, end - 12]);
    program.fails("args_sizes_get", &[0, end], Errno::Fault);
}

#[test]
fn clocks_are_the_hosts() {
    let mut program = Program::new();
    let times = [BEGIN_NS + WALL_AHEAD_NS, BEGIN_NS, BEGIN_NS / 2, BEGIN_NS / 2];
    for (clock, (time, resolution)) in (0..).zip(times.into_iter().zip([1, 2, 3, 3])) {
        program.ok("clock_time_get", &[clock, 0, 8]);
        assert_eq!(program.u64(8), time);
        program.ok("clock_res_get", &[clock, 8]);
        assert_eq!(program.u64(8), resolution);
    }
    for name in ["clock_time_get", "clock_res_get"] {
        let parameters: &[u64] = if name == "clock_time_get" { &[4, 0, 8] } else { &[4, 8] };
        program.fails(name, parameters, Errno::Inval);
    }
    program.fails("clock_time_get", &[0, 0, 4], Errno::Inval);
    program.fails("clock_time_get", &[0, 0, MEMORY_BYTES as u64], Errno::Fault);
}

#[test]
fn random_bytes_fill_the_buffer_and_nothing_else() {
    let mut program = Program::new();
    program.ok("random_get", &[10, 5]);
    assert_eq!(program.bytes(9, 7), [0, 1, 1, 1, 1, 1, 0]);
    program.ok("random_get", &[10, 0]);
    program.fails("random_get", &[10, MEMORY_BYTES as u64], Errno::Fault);
    assert_eq!(program.bytes(9, 7), [0, 1, 1, 1, 1, 1, 0]);
}

#[test]
fn random_bytes_come_in_pieces_between_which_the_process_can_end() {
    let mut program = Program::new();
    program.memory = vec![0; 5 << 20];
    program.fake().checkpoints = 3;
    assert_eq!(program.call("random_get", &[0, 5 << 20]), Err(Error::Stopped));
    assert_eq!(program.fake().random, 2);
}

#[test]
fn yielding_lets_others_run_and_signals_do_not_exist() {
    let mut program = Program::new();
    program.ok("sched_yield", &[]);
    assert_eq!(program.fake().gave_way, 1);
    program.fails("proc_raise", &[6], Errno::Notsup);
}

#[test]
fn nothing_is_a_socket() {
    let mut program = Program::new();
    let calls: [(&str, &[u64]); 4] = [
        ("sock_accept", &[0, 0, 0]),
        ("sock_recv", &[0, 0, 0, 0, 0, 0]),
        ("sock_send", &[0, 0, 0, 0, 0]),
        ("sock_shutdown", &[0, 0]),
    ];
    for (name, parameters) in calls {
        program.fails(name, parameters, Errno::Notsock);
        let mut parameters = parameters.to_vec();
        parameters[0] = 9;
        program.fails(name, &parameters, Errno::Badf);
    }
}

#[test]
fn granted_directories_say_their_names() {
    let mut program = Program::new();
    program.ok("fd_prestat_get", &[READ_ONLY, 8]);
    assert_eq!((program.u32(8), program.u32(12)), (0, 4));
    program.fails("fd_prestat_dir_name", &[READ_ONLY, 16, 3], Errno::Nametoolong);
    program.ok("fd_prestat_dir_name", &[READ_ONLY, 16, 100]);
    assert_eq!(program.bytes(16, 5), b"read\0");
    program.fails("fd_prestat_dir_name", &[READ_ONLY, MEMORY_BYTES as u64 - 3, 4], Errno::Fault);
    for fd in [0, 5, u64::from(u32::MAX)] {
        program.fails("fd_prestat_get", &[fd, 8], Errno::Badf);
        program.fails("fd_prestat_dir_name", &[fd, 16, 100], Errno::Badf);
    }
    let inner = program.open(ROOT, ".", 2, 0, 0).unwrap();
    program.fails("fd_prestat_get", &[inner, 8], Errno::Badf);
}

/// Kind, flags, rights and inherited rights of a descriptor.
fn fdstat(program: &mut Program, fd: u64) -> (u8, u8, u64, u64) {
    program.ok("fd_fdstat_get", &[fd, 8]);
    (program.memory[8], program.memory[10], program.u64(16), program.u64(24))
}

#[test]
fn descriptors_say_what_they_are() {
    const READ: u64 = 1 << 1;
    const SEEK_AND_TELL: u64 = 1 << 2 | 1 << 5;
    const WRITE: u64 = 1 << 6;
    let mut program = Program::new();
    let (kind, _, rights, _) = fdstat(&mut program, 0);
    assert_eq!((kind, rights & (READ | WRITE | SEEK_AND_TELL)), (0, READ));
    program.fake().terminal = Terminal::Yes;
    let (kind, _, rights, _) = fdstat(&mut program, 1);
    assert_eq!((kind, rights & (READ | WRITE | SEEK_AND_TELL)), (2, WRITE), "what isatty() looks for");
    let (kind, _, rights, inheriting) = fdstat(&mut program, ROOT);
    assert_eq!((kind, rights & (READ | WRITE | 1 << 2)), (3, 0));
    assert_eq!(inheriting & (READ | WRITE | SEEK_AND_TELL), READ | WRITE | SEEK_AND_TELL);
    let file = program.open(ROOT, "old", 0, READ | WRITE, 1 | 4).unwrap();
    let (kind, flags, rights, _) = fdstat(&mut program, file);
    assert_eq!((kind, flags), (4, 5));
    assert_eq!(rights & (READ | WRITE | SEEK_AND_TELL), READ | WRITE | SEEK_AND_TELL);
    program.ok("fd_fdstat_set_flags", &[file, 16]);
    assert_eq!(fdstat(&mut program, file).1, 16);
    program.fails("fd_fdstat_set_flags", &[file, 32], Errno::Inval);
    program.fails("fd_fdstat_set_flags", &[file, 0x1_0000], Errno::Inval);
    program.fails("fd_fdstat_set_rights", &[file, 0, 0], Errno::Notsup);
    program.fails("fd_fdstat_set_rights", &[15, 0, 0], Errno::Badf);
    program.fails("fd_fdstat_get", &[file, 4], Errno::Inval);
}

#[test]
fn closed_and_renumbered_descriptors_are_gone() {
    let mut program = Program::new();
    let file = program.open(ROOT, "old", 0, 2, 0).unwrap();
    assert_eq!(program.read(file, 3).unwrap(), b"old");
    program.fails("fd_renumber", &[file, 9], Errno::Badf);
    program.fails("fd_renumber", &[9, file], Errno::Badf);
    program.ok("fd_renumber", &[file, file]);
    program.ok("fd_renumber", &[file, 0]);
    assert_eq!(program.read(0, 3).unwrap(), b" co", "the position moved along");
    assert_eq!(program.read(file, 3), Err(Errno::Badf.into()));
    assert_eq!(program.open(ROOT, "old", 0, 2, 0), Ok(file), "the number is free again");
    program.ok("fd_close", &[0]);
    program.fails("fd_close", &[0], Errno::Badf);
    program.ok("fd_close", &[ROOT]);
    assert_eq!(program.open(ROOT, "old", 0, 2, 0), Err(Errno::Badf.into()));
    for fd in [17, 0x8000_0000, u64::from(u32::MAX)] {
        program.fails("fd_close", &[fd], Errno::Badf);
    }
}

#[test]
fn descriptors_are_limited() {
    let mut program = Program::new();
    for fd in 5..16 {
        assert_eq!(program.open(ROOT, "old", 0, 2, 0), Ok(fd));
    }
    assert_eq!(program.open(ROOT, "new", 1, 2, 0), Err(Errno::Mfile.into()));
    program.ok("fd_close", &[7]);
    assert_eq!(program.open(ROOT, "new", 0, 2, 0), Err(Errno::Noent.into()), "it was not made");
    assert_eq!(program.open(ROOT, "old", 0, 2, 0), Ok(7));
}
