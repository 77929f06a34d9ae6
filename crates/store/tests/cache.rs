//! The cache, with a compiler that is a script: it answers with artifacts that the test has made, and counts.

mod common;

use common::{Fixture, PROGRAM, bytes_of};
use std::fs::{self, File};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};
use store::{CompileFailure, Notice, Program, Store};

#[test]
fn compiles_once_and_finds_it_again() {
    let fixture = Fixture::new();
    let (first, notices) = fixture.get(PROGRAM);
    assert_eq!(notices.len(), 2, "{notices:?}");
    assert!(notices[0].starts_with("compiling p.wasm (7 B)"), "{notices:?}");
    let (second, notices) = fixture.get(PROGRAM);
    assert!(notices.is_empty(), "{notices:?}");
    assert_eq!(bytes_of(&first), bytes_of(&second));
    assert_eq!(first.origin, second.origin);
    assert_eq!(fixture.compilations(), 1);
}

#[test]
fn another_program_cpu_or_compiler_is_another_artifact() {
    let fixture = Fixture::new();
    fixture.get(PROGRAM);
    fixture.get(b"another");
    let (plain, _) = fixture.get_for(PROGRAM, "x86-64-v2");
    assert_eq!(plain.origin.features, "x86-64-v2");
    fixture.compiler_is("compiler 2");
    let (newer, _) = fixture.get(PROGRAM);
    assert_eq!(newer.origin.compiler, "compiler 2");
    assert_eq!(fixture.compilations(), 4);
    assert_eq!(fixture.store().list().unwrap().len(), 4);
}

#[test]
fn the_trap_helper_is_kept_as_well() {
    let fixture = Fixture::new();
    let helper = |notices: &mut Vec<String>| {
        let mut notify = |notice: store::Notice<'_>| notices.push(notice.to_string());
        fixture.store().artifact(Program::TrapHelper, "native", &mut notify).unwrap()
    };
    let mut notices = Vec::new();
    let first = bytes_of(&helper(&mut notices));
    assert_eq!(notices[0], "compiling the trap helper …");
    notices.clear();
    assert_eq!(bytes_of(&helper(&mut notices)), first);
    assert!(notices.is_empty(), "{notices:?}");
    // Another program's artifact in its place is not taken for it.
    let path = fixture.only_artifact();
    let foreign = bytes_of(&fixture.get(PROGRAM).0);
    fs::remove_file(&path).unwrap();
    fs::write(&path, foreign).unwrap();
    assert_eq!(bytes_of(&helper(&mut notices)), first);
    assert!(notices[0].contains("another program's"), "{notices:?}");
    assert_eq!(fs::read(&path).unwrap(), first);
}

#[test]
fn every_kind_of_damage_is_told_once_and_mended() {
    let fixture = Fixture::new();
    let whole = bytes_of(&fixture.get(PROGRAM).0);
    let path = fixture.only_artifact();
    let foreign = bytes_of(&fixture.get_for(PROGRAM, "x86-64-v2").0);
    let longer = [&whole[..], b"x"].concat();
    for damage in [&b""[..], b"SELKARTF", &whole[..4096], &whole[..whole.len() - 1], &longer, &foreign] {
        fs::remove_file(&path).unwrap();
        fs::write(&path, damage).unwrap();
        let (mended, notices) = fixture.get(PROGRAM);
        assert_eq!(bytes_of(&mended), whole);
        assert_eq!(
            notices.iter().filter(|notice| notice.contains("compiling again")).count(),
            1,
            "{notices:?}"
        );
        assert!(notices[0].contains(&*path.to_string_lossy()), "{notices:?}");
        assert_eq!(fs::read(&path).unwrap(), whole);
    }
}

#[test]
fn a_directory_in_an_artifact_s_place_is_got_around() {
    let fixture = Fixture::new();
    let whole = bytes_of(&fixture.get(PROGRAM).0);
    let path = fixture.only_artifact();
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    let (artifact, notices) = fixture.get(PROGRAM);
    assert_eq!(bytes_of(&artifact), whole);
    assert!(notices.iter().any(|notice| notice.contains("cannot be kept")), "{notices:?}");
}

/// Root writes to read-only directories, so these are places where nobody can.
#[test]
fn a_cache_that_cannot_be_written_is_told_once_and_got_around() {
    let fixture = Fixture::new();
    let file = fixture.path("file");
    fs::write(&file, b"").unwrap();
    let dangling = fixture.path("dangling");
    symlink("/nowhere/at/all", &dangling).unwrap();
    for directory in ["/proc/selkis".into(), file, dangling] {
        let (artifact, notices) = fixture.get_in(&directory, PROGRAM);
        assert_eq!(bytes_of(&artifact), fixture.expected(PROGRAM));
        let unkept: Vec<_> = notices.iter().filter(|notice| notice.contains("cannot be kept in")).collect();
        assert_eq!(unkept.len(), 1, "{notices:?}");
        assert!(unkept[0].contains(&*directory.to_string_lossy()), "{notices:?}");
    }
}

/// On a file system of 8 KiB, which is mounted for this test's second self and is gone with it.
#[test]
fn a_full_disk_leaves_nothing_behind() {
    const FULL: &str = "SELKIS_TEST_FULL_DISK";
    if let Some(directory) = std::env::var_os(FULL) {
        return on_a_full_disk(Path::new(&directory));
    }
    let folder = tempfile::tempdir().unwrap();
    let script = r#"mount -t tmpfs -o size=8k none "$1" || exit 77; shift; exec "$@""#;
    let unshare = ["--map-root-user", "--mount", "sh", "-c", script, "sh"];
    let itself = std::env::current_exe().unwrap();
    let arguments = ["--exact", "a_full_disk_leaves_nothing_behind", "--nocapture"];
    let mut command = Command::new("unshare");
    command.args(unshare).arg(folder.path()).arg(itself).args(arguments).env(FULL, folder.path());
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    if output.status.code() == Some(77) || errors.starts_with("unshare:") {
        println!("skipped: no file system can be mounted here: {errors}");
        return;
    }
    assert!(output.status.success(), "{errors}");
}

fn on_a_full_disk(directory: &Path) {
    let fixture = Fixture::new();
    let (artifact, notices) = fixture.get_in(directory, PROGRAM);
    assert_eq!(bytes_of(&artifact), fixture.expected(PROGRAM));
    assert!(notices.iter().any(|notice| notice.contains("No space left")), "{notices:?}");
    let left: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["locks"]);
}

#[test]
fn runs_at_the_same_time_compile_once() {
    let fixture = Fixture::new();
    fixture.compiler_takes_a_while();
    let expected = fixture.expected(PROGRAM);
    let notices: Vec<Vec<String>> = std::thread::scope(|scope| {
        let runs: Vec<_> = (0..8).map(|_| scope.spawn(|| fixture.get(PROGRAM))).collect();
        let got = runs.into_iter().map(|run| run.join().unwrap());
        got.map(|(artifact, notices)| {
            assert_eq!(bytes_of(&artifact), expected);
            notices
        })
        .collect()
    });
    assert_eq!(fixture.compilations(), 1);
    assert!(notices.iter().flatten().any(|notice| notice.contains("waiting")), "{notices:?}");
}

#[test]
fn the_least_recently_used_goes_first() {
    let fixture = Fixture::new();
    for (age, program) in [(3, b"program a"), (2, b"program b"), (1, b"program c")] {
        fixture.get(program);
        fixture.age(program, Duration::from_secs(age * 60));
    }
    fixture.get(b"program a");
    let length = fixture.expected(b"program a").len() as u64;
    let store = fixture.store().with_limit(3 * length);
    store.artifact(Program::Module { name: "d", bytes: b"program d" }, "native", &mut |_| ()).unwrap();
    let kept: Vec<_> = store.list().unwrap().into_iter().map(|entry| entry.origin.program).collect();
    assert_eq!(kept, [&b"program c"[..], b"program a", b"program d"].map(common::digest));
    let removed = store.prune(length).unwrap();
    assert_eq!((removed.files, removed.bytes), (2, 2 * length));
    assert_eq!(store.list().unwrap()[0].origin.program, common::digest(b"program d"));
    store.prune(0).unwrap();
    assert!(store.list().unwrap().is_empty());
}

#[test]
fn what_is_larger_than_the_limit_is_used_and_kept_alone() {
    let fixture = Fixture::new();
    fixture.get(PROGRAM);
    fixture.age(PROGRAM, Duration::from_secs(60));
    let store = fixture.store().with_limit(1);
    store.artifact(Program::Module { name: "q", bytes: b"another" }, "native", &mut |_| ()).unwrap();
    let kept: Vec<_> = store.list().unwrap().into_iter().map(|entry| entry.origin.program).collect();
    assert_eq!(kept, [common::digest(b"another")]);
}

#[test]
fn what_others_put_there_stays_and_what_died_half_way_goes() {
    let fixture = Fixture::new();
    fixture.get(PROGRAM);
    let (theirs, dead, alive) =
        (fixture.cache("theirs"), fixture.cache(".unfinished-1"), fixture.cache(".unfinished-2"));
    for path in [&theirs, &dead, &alive] {
        File::create(path).unwrap().write_all(b"bytes").unwrap();
    }
    let long_ago = SystemTime::now() - Duration::from_secs(2 * 3600);
    File::open(&dead).unwrap().set_modified(long_ago).unwrap();
    fixture.store().prune(0).unwrap();
    assert_eq!([&theirs, &dead, &alive].map(|path| path.exists()), [true, false, true]);
}

#[test]
fn a_cache_that_is_not_there_is_empty() {
    let fixture = Fixture::new();
    assert!(fixture.store().list().unwrap().is_empty());
    assert_eq!(fixture.store().prune(0).unwrap().files, 0);
}

#[test]
fn the_cache_is_its_owner_s_only() {
    let fixture = Fixture::new();
    fixture.get(PROGRAM);
    let mode = fs::metadata(fixture.cache("")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}

#[test]
fn what_the_compiler_says_of_a_program_is_passed_on() {
    let fixture = Fixture::new();
    match fixture.try_get(b"wrong") {
        Err(CompileFailure::Program(reason)) => assert_eq!(reason, "not a WebAssembly file"),
        other => panic!("{other:?}"),
    }
    assert!(fixture.store().list().unwrap().is_empty());
}

#[test]
fn a_compiler_that_misbehaves_is_told_from_a_bad_program() {
    let fixture = Fixture::new();
    for (program, words) in [
        (&b"crash"[..], "signal 11"),
        (b"abort", "memory allocation of 7 bytes failed"),
        (b"exit", "exit status: 3"),
        (b"garbage", "cannot be used"),
        (b"foreign", "something else"),
        (b"setup", "no threads"),
    ] {
        match fixture.try_get(program) {
            Err(error @ CompileFailure::Compiler { .. }) => {
                assert!(error.to_string().contains(words), "{error}");
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(fixture.store().list().unwrap().is_empty());
}

#[test]
fn a_missing_compiler_is_named() {
    let fixture = Fixture::new();
    let store = store::Store::new(fixture.cache(""), fixture.path("no-such-compiler"));
    let program = Program::Module { name: "p", bytes: PROGRAM };
    let error = store.artifact(program, "native", &mut |_| ()).unwrap_err();
    assert!(matches!(error, CompileFailure::NotStarted { .. }), "{error}");
    assert!(error.to_string().contains("no-such-compiler"), "{error}");
}

#[test]
fn sixty_megabytes_are_checked_in_milliseconds() {
    let fixture = Fixture::new();
    fixture.payload_is(60 << 20);
    fixture.get(PROGRAM);
    let best = (0..5).map(|_| {
        let start = std::time::Instant::now();
        let (mut artifact, notices) = fixture.get(PROGRAM);
        assert!(notices.is_empty(), "{notices:?}");
        let took = start.elapsed();
        artifact.file.seek(SeekFrom::Start(4096)).unwrap();
        artifact.file.read_exact(&mut [0; 16]).unwrap();
        took
    });
    let best = best.min().unwrap();
    println!(
        "figure: 60 MiB taken and checked in {:.1} ms, with the compiler's answer",
        best.as_secs_f64() * 1e3
    );
    // Ten times what it takes on two busy cores: a rough guard against reading twice or byte by byte.
    assert!(best < Duration::from_millis(300), "{best:?}");
}

#[test]
fn that_nothing_is_kept_is_told_once_for_all_programs() {
    let fixture = Fixture::new();
    let store = Store::new("/proc/selkis".into(), fixture.path("compile"));
    let mut unkept = 0;
    for program in [Program::Module { name: "p.wasm", bytes: PROGRAM }, Program::TrapHelper] {
        let mut notify = |notice: Notice<'_>| unkept += usize::from(matches!(notice, Notice::Unkept { .. }));
        let artifact = store.artifact(program, "native", &mut notify).unwrap();
        // Domains that do not trust one another have it open.
        let refused = [artifact.file.write_at(b"x", 0).err(), artifact.file.set_len(0).err()];
        assert_eq!(
            refused.map(|error| error.map(|error| error.kind())),
            [Some(ErrorKind::PermissionDenied); 2]
        );
    }
    assert_eq!(unkept, 1);
}

/// Whoever opened one would wait for a writer.
#[test]
fn a_pipe_in_place_of_a_file_is_no_obstacle() {
    let fixture = Fixture::new();
    let whole = bytes_of(&fixture.get(PROGRAM).0);
    let path = fixture.only_artifact();
    let pipe = |path: &Path| {
        fs::remove_file(path).unwrap();
        assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
    };
    pipe(&path);
    let (artifact, notices) = fixture.get(PROGRAM);
    assert_eq!(bytes_of(&artifact), whole);
    assert!(notices[0].contains("no regular file"), "{notices:?}");
    assert_eq!(fs::read(&path).unwrap(), whole);
    fs::remove_file(&path).unwrap();
    let lock = fs::read_dir(fixture.cache("locks")).unwrap().next().unwrap().unwrap().path();
    pipe(&lock);
    let (artifact, notices) = fixture.get(PROGRAM);
    assert_eq!(bytes_of(&artifact), whole);
    assert!(notices.iter().any(|notice| notice.contains("cannot be kept")), "{notices:?}");
}
