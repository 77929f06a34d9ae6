//! `selkis-compile` as its users see it: a person, and the store.

use bundle::artifact;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use store::{CompileFailure, Program, Store};

const HELLO: &str = r#"(module
    (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
    (memory (export "memory") 1)
    (func $main (export "_start") (call $exit (i32.const 0))))"#;

/// As compilers of languages with a collected heap write it: recursive types, fields that change, casts.
const COLLECTED: &str = r#"(module
    (rec (type $object (sub (struct (field $next (mut (ref null $object))))))
         (type $number (sub $object (struct (field (mut (ref null $object))) (field i64)))))
    (memory (export "memory") 1)
    (func (export "_start") (local $list (ref null $object))
        (local.set $list (struct.new $number (local.get $list) (i64.const 1)))
        (drop (ref.test (ref $number) (struct.get $object $next (local.get $list))))))"#;

fn compiler() -> Command {
    Command::new(env!("CARGO_BIN_EXE_selkis-compile"))
}

fn run(folder: &Path, arguments: &[&str]) -> Output {
    compiler().args(arguments).current_dir(folder).stdin(Stdio::null()).output().unwrap()
}

/// A folder with `hello.wat` in it.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("hello.wat"), HELLO).unwrap();
    folder
}

/// It failed with this one line and left nothing behind but what was there.
fn assert_refused(output: &Output, reason: &str) {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let errors = String::from_utf8_lossy(&output.stderr);
    let last = errors.lines().last().unwrap();
    assert!(last.starts_with("selkis-compile: ") && last.contains(reason), "{errors}");
    assert!(errors.lines().count() <= 2, "{errors}");
}

fn names_in(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

#[test]
fn writes_an_artifact_and_says_so() {
    let folder = folder();
    let output = run(folder.path(), &["hello.wat", "-o", "hello.artifact", "--target-cpu", "x86-64-v2"]);
    assert!(output.status.success(), "{output:?}");
    assert!(output.stdout.is_empty());
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.contains("compiling hello.wat") && errors.contains("wrote hello.artifact"), "{errors}");
    let bytes = fs::read(folder.path().join("hello.artifact")).unwrap();
    let (origin, payload) = artifact::parse(&bytes).unwrap();
    assert_eq!(
        (&*origin.triple, &*origin.features),
        ("x86_64-unknown-none", "popcnt,sse3,sse4.1,sse4.2,ssse3")
    );
    assert!(origin.compiler.starts_with("wasmtime 48."), "{}", origin.compiler);
    assert!(payload.starts_with(b"\x7fELF"));
    assert_eq!(names_in(folder.path()), ["hello.artifact", "hello.wat"]);
}

#[test]
fn a_new_file_s_mode_is_the_umask_s() {
    let folder = folder();
    let script = "umask 027; exec \"$0\" hello.wat -o out";
    let program = env!("CARGO_BIN_EXE_selkis-compile");
    let status =
        Command::new("sh").args(["-c", script, program]).current_dir(folder.path()).output().unwrap().status;
    assert!(status.success());
    let mode = fs::metadata(folder.path().join("out")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o640);
}

#[test]
fn reports_imports_and_exports_as_json() {
    let folder = folder();
    let output = run(folder.path(), &["hello.wat", "-o", "out", "--json"]);
    assert!(output.stderr.is_empty(), "{output:?}");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let import = serde_json::json!(
        {"module": "wasi_snapshot_preview1", "name": "proc_exit", "kind": "function"});
    assert_eq!(report["imports"], serde_json::json!([import]));
    assert_eq!(report["exports"][1], serde_json::json!({"name": "_start", "kind": "function"}));
    let artifact = fs::read(folder.path().join("out")).unwrap();
    assert_eq!(report["artifact_bytes"], artifact.len());
    let identity = run(folder.path(), &["--identify", "--json"]);
    let identity: serde_json::Value = serde_json::from_slice(&identity.stdout).unwrap();
    for field in ["compiler", "triple", "features"] {
        assert_eq!(report[field], identity[field], "{field}");
    }
}

#[test]
fn standard_streams_carry_program_and_artifact() {
    let folder = folder();
    let input = File::open(folder.path().join("hello.wat")).unwrap();
    let output = compiler().args(["-", "-o", "-", "--json"]).stdin(input).output().unwrap();
    artifact::parse(&output.stdout).unwrap();
    let report: serde_json::Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!(report["artifact_bytes"], output.stdout.len());
}

#[test]
fn unreadable_input_and_bad_programs_are_refused_in_a_line() {
    let folder = folder();
    fs::write(folder.path().join("text"), "not a module").unwrap();
    fs::write(folder.path().join("component"), b"\0asm\x0d\0\x01\0").unwrap();
    fs::write(folder.path().join("shared.wat"), "(module (memory 1 1 shared))").unwrap();
    fs::write(folder.path().join("memories.wat"), "(module (memory 1) (memory 1))").unwrap();
    fs::write(folder.path().join("gc.wat"), COLLECTED).unwrap();
    let refused = |input, reason| assert_refused(&run(folder.path(), &[input, "-o", "out"]), reason);
    refused("missing.wasm", "cannot read missing.wasm: No such file");
    refused(".", "cannot read .: Is a directory");
    refused("text", "text: not a WebAssembly file");
    refused("component", "components come later");
    refused("shared.wat", "shared.wat: uses a WebAssembly proposal that is off here: threads");
    refused("memories.wat", "memories.wat: uses a WebAssembly proposal that is off here: multi-memory (at");
    refused("gc.wat", "gc.wat: uses a WebAssembly proposal that is off here: gc (at");
    let names = ["component", "gc.wat", "hello.wat", "memories.wat", "shared.wat", "text"];
    assert_eq!(names_in(folder.path()), names);
    let output = run(folder.path(), &["text", "-o", "out", "--json"]);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["error"]["kind"], "not-webassembly");
}

#[test]
fn an_output_that_cannot_be_written_is_refused_and_nothing_is_left() {
    let folder = folder();
    let refused = |output, reason| assert_refused(&run(folder.path(), &["hello.wat", "-o", output]), reason);
    refused("missing/out", "cannot write missing/out: No such file");
    refused(".", "cannot write .: ");
    refused("hello.wat/out", "cannot write hello.wat/out: Not a directory");
    // Nobody makes files there, not even root.
    refused("/proc/out", "cannot write /proc/out: ");
    refused("/dev/full", "No space left on device");
    // Files may grow to 8 KiB; the artifact is larger.
    let script = "trap '' XFSZ; ulimit -f 8; exec \"$0\" hello.wat -o out";
    let program = env!("CARGO_BIN_EXE_selkis-compile");
    let output =
        Command::new("bash").args(["-c", script, program]).current_dir(folder.path()).output().unwrap();
    assert_refused(&output, "cannot write out: File too large");
    assert_eq!(names_in(folder.path()), ["hello.wat"]);
}

#[test]
fn a_device_is_written_to_and_not_replaced() {
    let folder = folder();
    let pipe = folder.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let mut child = compiler();
    child.args(["hello.wat", "-o", "pipe", "--json"]).current_dir(folder.path()).stdout(Stdio::null());
    let mut child = child.spawn().unwrap();
    let mut bytes = Vec::new();
    File::open(&pipe).unwrap().read_to_end(&mut bytes).unwrap();
    assert!(child.wait().unwrap().success());
    artifact::parse(&bytes).unwrap();
    assert_eq!(names_in(folder.path()), ["hello.wat", "pipe"]);
}

#[test]
fn misuse_is_a_usage_error() {
    let folder = folder();
    for arguments in [
        &[][..],
        &["hello.wat"],
        &["hello.wat", "--trap-helper", "-o", "out"],
        &["--identify", "-o", "out"],
        &["hello.wat", "-o", "out", "--target-cpu", "mmx"],
    ] {
        assert_eq!(run(folder.path(), arguments).status.code(), Some(2), "{arguments:?}");
    }
}

/// The store and the real compiler.
#[test]
fn the_store_compiles_finds_again_and_passes_errors_on() {
    let folder = folder();
    let store = Store::new(folder.path().join("cache"), env!("CARGO_BIN_EXE_selkis-compile").into());
    let get = |bytes: &[u8], cpu| {
        let mut notices = 0;
        let program = Program::Module { name: "hello.wat", bytes };
        store.artifact(program, cpu, &mut |_| notices += 1).map(|artifact| (artifact, notices))
    };
    let (first, notices) = get(HELLO.as_bytes(), "native").unwrap();
    assert_eq!((notices, &*first.origin.triple), (2, "x86_64-unknown-none"));
    let (second, notices) = get(HELLO.as_bytes(), "native").unwrap();
    assert_eq!((notices, &second.origin), (0, &first.origin));
    let (plain, _) = get(HELLO.as_bytes(), "x86-64-v2").unwrap();
    assert_eq!(plain.origin.features, "popcnt,sse3,sse4.1,sse4.2,ssse3");
    store.artifact(Program::TrapHelper, "native", &mut |_| ()).unwrap();
    assert_eq!(store.list().unwrap().len(), 3);
    match get(b"nonsense", "native") {
        Err(CompileFailure::Program(reason)) => assert_eq!(reason, "not a WebAssembly file"),
        other => panic!("{other:?}"),
    }
    match get(HELLO.as_bytes(), "mmx") {
        Err(error @ CompileFailure::Compiler { .. }) => assert!(error.to_string().contains("mmx"), "{error}"),
        other => panic!("{other:?}"),
    }
}
