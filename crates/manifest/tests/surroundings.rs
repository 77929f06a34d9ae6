//! What a manifest is checked against: its file, the machine, the files that it names.

use manifest::units::ByteCount;
use manifest::{Machine, ReadError, System, TEXT_BYTES_MAX};
use std::fs;
use std::path::Path;

const TEXT: &str = "\
[domains.a]
memory = '3MiB'
cpus = 2
[[domains.a.programs]]
file = 'a.wasm'
memory = 1
directories = [{ path = 'docs' }, { path = 'none', name = '/n' }, { path = 'a.wasm', name = '/f' }]
[[domains.a.programs]]
file = 'known.wasm'
memory = 1
[domains.b]
memory = '2MiB'
[[domains.b.programs]]
file = 'docs'
[domains.c]
memory = '1MiB'
[[domains.c.programs]]
file = 'bin/known.wasm'
";

fn lines(mistakes: Result<(), manifest::Mistakes>) -> Vec<String> {
    let mistakes = mistakes.expect_err("there are mistakes");
    let first = |text: String| text.lines().next().unwrap().to_owned();
    mistakes.iter().map(|mistake| format!("{} {}", mistake.at, first(mistake.wrong.to_string()))).collect()
}

fn machine(mebibytes: u64, cpus: u32) -> Machine {
    Machine { memory: ByteCount(mebibytes << 20), cpus, processes_max: 1920 }
}

#[test]
fn a_machine_must_have_what_is_promised() {
    let system = System::parse(TEXT, Path::new("t.toml")).unwrap();
    assert_eq!(system.check(machine(6, 2)), Ok(()));
    assert_eq!(
        lines(system.check(machine(4, 1))),
        [
            "1:10 the domain `a` wants 2 CPUs, and the machine has 1",
            "11:10 with the domain `b` the memory of all is 5 MiB, and the machine has 4 MiB",
        ]
    );
    let exabytes = TEXT.replace("'3MiB'", "18446744073709551615").replace("'2MiB'", "18446744073709551615");
    let system = System::parse(&exabytes, Path::new("t.toml")).unwrap();
    assert_eq!(lines(system.check(machine(6, 2))).len(), 1, "sums beyond 64 bits are no wonder");
}

#[test]
fn a_machine_may_have_room_for_fewer_processes() {
    let check = |processes| {
        let text = TEXT.replace("cpus = 2", &format!("processes = {processes}"));
        System::parse(&text, Path::new("t.toml")).unwrap().check(machine(6, 2))
    };
    assert_eq!(check(1920), Ok(()));
    let first = "1:10 the domain `a` may have 1921 processes, and in a machine of Selkis' own kernel 1920 is the most";
    assert_eq!(lines(check(1921)), [first]);
}

#[test]
fn files_and_directories_must_be_there() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("docs")).unwrap();
    fs::write(folder.path().join("a.wasm"), "").unwrap();
    fs::write(folder.path().join("t.toml"), TEXT).unwrap();
    let system = System::read(&folder.path().join("t.toml")).unwrap();
    assert_eq!(
        lines(system.check_files(|name| name == "known.wasm")),
        [
            "7:44 there is no directory `none`",
            "7:76 `a.wasm` is not a directory",
            "14:8 `docs` is not a file: name a WebAssembly file",
            "18:8 there is no file `bin/known.wasm`, nor a program of that name",
        ]
    );
}

#[test]
fn what_is_no_manifest_at_all_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.toml");
    let read = || System::read(&path).unwrap_err();
    assert!(matches!(read(), ReadError::Open(..)));
    assert!(matches!(System::read(folder.path()).unwrap_err(), ReadError::Open(..)), "a folder");
    fs::write(&path, b"name = 'a'\nx = '\xff'").unwrap();
    let error = read();
    assert!(matches!(error, ReadError::NotUtf8(_, at) if (at.line, at.column) == (2, 6)), "{error}");
    fs::write(&path, vec![b'#'; TEXT_BYTES_MAX + 1]).unwrap();
    assert!(matches!(read(), ReadError::TooLong(_)));
    assert!(read().to_string().ends_with("is longer than a manifest can be (256 KiB)"));
    fs::write(&path, TEXT).unwrap();
    assert_eq!(System::read(&path).unwrap().name.as_str(), "t");
    assert!(
        matches!(System::read(Path::new("/dev/zero")).unwrap_err(), ReadError::TooLong(_)),
        "it never ends"
    );
}
