//! A store in a temporary directory, whose compiler is a script.

use bundle::artifact::{self, Origin, TRAP_HELPER};
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{Read, Seek};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};
use store::{Artifact, CompileFailure, Program, Store};
use tempfile::TempDir;

pub const PROGRAM: &[u8] = b"program";
const COMPILER: &str = "compiler 1";
const TRIPLE: &str = "x86_64-unknown-none";

/// Answers like `selkis-compile`; the artifact is one of those that the test has put in the folder, by the SHA-256 of
/// what is to be compiled, the CPU and the compiler's name. Some programs make it misbehave.
const SCRIPT: &str = r#"#!/bin/sh
cd "$(dirname "$0")" || exit 9
compiler=$(cat compiler)
case $1 in
--identify)
    printf '{"compiler":"%s","triple":"x86_64-unknown-none","features":"%s"}\n' "$compiler" "$4"
    exit ;;
esac
[ ! -e slow ] || sleep 0.3
echo compiled >>log
case $6 in
--trap-helper) program=helper ;;
*) cat >"program.$$"
   program=$(cat "program.$$")
   rm "program.$$" ;;
esac
case $program in
wrong) echo '{"error":{"kind":"not-webassembly","message":"not a WebAssembly file"}}' >&2; exit 1 ;;
setup) echo '{"error":{"kind":"setup","message":"no threads"}}' >&2; exit 1 ;;
crash) kill -SEGV $$ ;;
abort) echo 'memory allocation of 7 bytes failed' >&2; kill -ABRT $$ ;;
exit) exit 3 ;;
garbage) echo garbage ;;
foreign) cat "artifact.program.$3.$compiler" ;;
*) cat "artifact.$program.$3.$compiler" ;;
esac
"#;

pub struct Fixture {
    folder: TempDir,
}

impl Fixture {
    pub fn new() -> Self {
        let fixture = Self { folder: TempDir::new().unwrap() };
        fs::write(fixture.path("script"), SCRIPT).unwrap();
        // Copied by another process: an executable that this one has open for writing cannot be started, and a
        // thread that forks at the wrong moment would have it open.
        let copied = Command::new("install")
            .args(["-m", "755"])
            .args([fixture.path("script"), fixture.path("compile")])
            .status();
        assert!(copied.unwrap().success());
        fixture.compiler_is(COMPILER);
        fixture.payload_is(10_000);
        fixture
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn cache(&self, name: &str) -> PathBuf {
        match name {
            "" => self.path("cache"),
            name => self.path("cache").join(name),
        }
    }

    pub fn store(&self) -> Store {
        Store::new(self.cache(""), self.path("compile"))
    }

    pub fn compiler_is(&self, name: &str) {
        fs::write(self.path("compiler"), name).unwrap();
    }

    pub fn compiler_takes_a_while(&self) {
        fs::write(self.path("slow"), b"").unwrap();
    }

    /// Makes the artifacts that the script answers with.
    pub fn payload_is(&self, bytes: usize) {
        for compiler in [COMPILER, "compiler 2"] {
            for cpu in ["native", "x86-64-v2"] {
                for program in
                    ["program", "another", "program a", "program b", "program c", "program d", "helper"]
                {
                    let artifact = make(program, cpu, compiler, bytes);
                    fs::write(self.path(&format!("artifact.{program}.{cpu}.{compiler}")), artifact).unwrap();
                }
            }
            if bytes > 1 << 20 {
                break;
            }
        }
    }

    pub fn expected(&self, program: &[u8]) -> Vec<u8> {
        let program = str::from_utf8(program).unwrap();
        fs::read(self.path(&format!("artifact.{program}.native.{COMPILER}"))).unwrap()
    }

    pub fn get(&self, program: &[u8]) -> (Artifact, Vec<String>) {
        self.get_for(program, "native")
    }

    pub fn get_for(&self, program: &[u8], cpu: &str) -> (Artifact, Vec<String>) {
        get(&self.store(), program, cpu)
    }

    pub fn get_in(&self, directory: &Path, program: &[u8]) -> (Artifact, Vec<String>) {
        get(&Store::new(directory.to_owned(), self.path("compile")), program, "native")
    }

    pub fn try_get(&self, program: &[u8]) -> Result<Artifact, CompileFailure> {
        self.store().artifact(Program::Module { name: "p.wasm", bytes: program }, "native", &mut |_| ())
    }

    pub fn compilations(&self) -> usize {
        fs::read_to_string(self.path("log")).unwrap_or_default().lines().count()
    }

    pub fn only_artifact(&self) -> PathBuf {
        let [entry] = &self.store().list().unwrap()[..] else { panic!("more or less than one artifact") };
        entry.path.clone()
    }

    /// Makes the artifact of `program` look as if it had not been used for so long.
    pub fn age(&self, program: &[u8], age: Duration) {
        let entries = self.store().list().unwrap();
        let entry = entries.iter().find(|entry| entry.origin.program == digest(program)).unwrap();
        File::open(&entry.path).unwrap().set_modified(SystemTime::now() - age).unwrap();
    }
}

fn get(store: &Store, program: &[u8], cpu: &str) -> (Artifact, Vec<String>) {
    let mut notices = Vec::new();
    let mut notify = |notice: store::Notice<'_>| notices.push(notice.to_string());
    let artifact = store.artifact(Program::Module { name: "p.wasm", bytes: program }, cpu, &mut notify);
    (artifact.unwrap(), notices)
}

fn make(program: &str, cpu: &str, compiler: &str, payload_bytes: usize) -> Vec<u8> {
    let payload: Vec<u8> = (0..payload_bytes).map(|index| (index * 31 / 8) as u8).collect();
    let origin = Origin {
        program: digest(if program == "helper" { TRAP_HELPER.as_bytes() } else { program.as_bytes() }),
        compiler: String::from(compiler),
        triple: String::from(TRIPLE),
        features: String::from(cpu),
    };
    let mut artifact = artifact::header(&origin, &payload);
    artifact.extend_from_slice(&payload);
    artifact
}

pub fn digest(program: &[u8]) -> [u8; 32] {
    Sha256::digest(program).into()
}

pub fn bytes_of(artifact: &Artifact) -> Vec<u8> {
    let (mut file, mut bytes) = (&artifact.file, Vec::new());
    file.rewind().unwrap();
    file.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes.len() as u64, artifact.length);
    bytes
}
