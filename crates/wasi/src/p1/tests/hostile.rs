//! Whatever a program passes: an errno, no panic, bounded memory.

use super::*;
use proptest::prelude::*;

/// Values where mistakes live, for any parameter.
fn hostile() -> impl Strategy<Value = u64> {
    let end = MEMORY_BYTES as u64;
    prop_oneof![
        prop::sample::select(vec![0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 31, 32]),
        prop::sample::select(vec![end - 65, end - 64, end - 8, end - 4, end - 1, end, end + 1]),
        prop::sample::select(vec![0x2000_0000, 0x7fff_ffff, 0x8000_0000, 0xffff_fff8, 0xffff_ffff]),
        prop::sample::select(vec![1 << 32, 1 << 63, i64::MAX as u64, u64::MAX]),
        (0..end / 8).prop_map(|word| word * 8),
        0..end,
    ]
}

fn calls() -> impl Strategy<Value = Vec<(usize, Vec<u64>)>> {
    let call = (0..functions().len())
        .prop_flat_map(|index| (Just(index), prop::collection::vec(hostile(), functions()[index].1.len())));
    prop::collection::vec(call, 1..30)
}

/// Memory in which much is a plausible record, path or descriptor.
fn memory() -> impl Strategy<Value = Vec<u8>> {
    let word = prop_oneof![
        4 => hostile().prop_map(|value| (value as u32).to_le_bytes()),
        1 => Just(*b"old\0"),
        1 => Just(*b"a/b/"),
        1 => Just(*b"../."),
        1 => any::<[u8; 4]>(),
    ];
    prop::collection::vec(word, 64).prop_map(|words| words.concat().repeat(MEMORY_BYTES / 256))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(3000) })]

    #[test]
    fn no_call_panics_or_waits_for_ever(memory in memory(), calls in calls()) {
        let mut program = Program::new();
        program.memory = memory;
        program.state.enter().unwrap();
        for (index, parameters) in calls {
            // A second of nothing arrives on standard input, so that who waits for it goes on.
            program.fake().input = [Step::Wait, Step::Bytes(b"input")].into();
            program.fake().waits.clear();
            program.fake().written.clear();
            let _ = program.call(functions()[index].0, &parameters);
            prop_assert_eq!(program.memory.len(), MEMORY_BYTES);
        }
    }
}

/// For each function: which parameters are addresses of what, and calls that work but for those.
#[test]
fn an_answer_that_has_no_place_is_efault_and_nothing_is_done() {
    let end = MEMORY_BYTES as u64;
    let mut program = Program::new();
    let file = program.open(ROOT, "old", 0, 2 | 64, 0).unwrap();
    let [path, length] = program.path("old");
    let [new, new_length] = program.path("new");
    let (list, count) = program.buffers(&[(100, 3)]);
    let calls: [(&str, &[u64]); 18] = [
        ("args_sizes_get", &[0, end]),
        ("environ_sizes_get", &[end, 0]),
        ("clock_res_get", &[0, end]),
        ("fd_fdstat_get", &[file, end - 16]),
        ("fd_filestat_get", &[file, end - 56]),
        ("fd_pread", &[file, list, count, 0, end]),
        ("fd_prestat_get", &[ROOT, end - 4]),
        ("fd_pwrite", &[file, list, count, 0, end]),
        ("fd_read", &[file, list, count, end]),
        ("fd_readdir", &[ROOT, 0, 100, 0, end]),
        ("fd_seek", &[file, 5, 0, end]),
        ("fd_tell", &[file, end]),
        ("fd_write", &[file, list, count, end]),
        ("path_filestat_get", &[ROOT, 0, path, length, end - 56]),
        ("path_open", &[ROOT, 0, new, new_length, 1, 2, 0, 0, end]),
        ("path_readlink", &[ROOT, path, length, 0, 10, end]),
        ("path_create_directory", &[ROOT, end - 2, 3]),
        ("path_unlink_file", &[ROOT, end, u64::from(u32::MAX)]),
    ];
    for (name, parameters) in calls {
        program.fails(name, parameters, Errno::Fault);
    }
    program.fails("path_filestat_get", &[ROOT, 0, new, new_length, 64], Errno::Noent);
    program.ok("fd_tell", &[file, 8]);
    assert_eq!(program.u64(8), 0, "nothing was read or written");
    assert_eq!(program.read(file, 100).unwrap(), OLD);
}

#[test]
fn lists_of_buffers_are_checked_before_bytes_are_moved() {
    let mut program = Program::new();
    let end = MEMORY_BYTES as u64;
    let (good_and_bad, _) = program.buffers(&[(100, 3), (end - 2, 3)]);
    for (list, count) in [
        (good_and_bad, 2),
        (end - 8, 2),
        (end, 1),
        (0, 0x2000_0000),
        (0, u64::from(u32::MAX)),
        (0xffff_fff8, 1),
    ] {
        program.fails("fd_write", &[1, list, count, 8], Errno::Fault);
        program.fails("fd_read", &[0, list, count, 8], Errno::Fault);
    }
    program.fails("fd_write", &[1, good_and_bad + 2, 1, 8], Errno::Inval);
    assert!(program.fake().written.is_empty());
}

#[test]
fn a_buffer_over_its_own_list_ends_in_an_errno_or_a_short_read() {
    let mut program = Program::new();
    program.fake().input = [Step::Bytes(&[0xff; 64])].into();
    let at = program.put(&[0; 24]);
    let words = [at as u32, 24, at as u32, 24, at as u32, 24].map(u32::to_le_bytes).concat();
    program.memory[at as usize..at as usize + 24].copy_from_slice(&words);
    program.ok("fd_read", &[0, at, 3, 8]);
    assert_eq!(program.u32(8), 24);
}

#[test]
fn a_program_without_memory_gets_errnos() {
    for (name, parameters) in functions() {
        let mut program = Program::new();
        program.memory = Vec::new();
        program.fake().input = [Step::Bytes(b"input")].into();
        let _ = program.call(name, &vec![8; parameters.len()]);
    }
}
