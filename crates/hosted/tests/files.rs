//! A tree in memory and a directory of Linux, through the same trait: the same operations have the same results.

use bundle::Access;
use hosted::confine::Cell;
use hosted::files::{Grant, LinuxFiles};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{RngSeed, TestRunner};
use std::collections::BTreeMap;
use wasi::provider::{
    Create, Expect, FileAccess, Files, Follow, Handle, Open, Path, SetTime, Stat, Times, Truncate,
};
use wasi::tree::{self, Tree};
use wasi::{Errno, Error};

/// Something that a program may do with files. Handles are numbers of a small table, modulo what is open.
#[derive(Clone, Debug)]
enum Operation {
    Open { directory: usize, path: String, open: Open },
    Close(usize),
    Read { file: usize, offset: u64, length: usize },
    Write { file: usize, offset: u64, bytes: Vec<u8> },
    Append { file: usize, bytes: Vec<u8> },
    SetSize { file: usize, size: u64 },
    Allocate { file: usize, offset: u64, length: u64 },
    Stat(usize),
    StatAt { directory: usize, path: String, follow: Follow },
    SetTimes { file: usize, ns: u64 },
    SetTimesAt { directory: usize, path: String, follow: Follow, ns: u64 },
    List(usize),
    CreateDirectory { directory: usize, path: String },
    RemoveDirectory { directory: usize, path: String },
    Unlink { directory: usize, path: String },
    Rename { from: (usize, String), to: (usize, String) },
    Link { from: (usize, String), to: (usize, String) },
    Symlink { text: String, directory: usize, path: String },
    ReadLink { directory: usize, path: String },
}

/// What an operation answered, without what two file systems may well differ in.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Done,
    Count(usize, u64),
    Bytes(Vec<u8>),
    Seen { kind: u8, size: Option<u64>, links: Option<u64>, modified_ns: Option<u64> },
    Names(BTreeMap<String, u8>),
    Failed(Errno),
}

/// One of the two file systems, with what is open in it.
struct Side<'f> {
    files: &'f mut dyn Files,
    handles: Vec<Handle>,
}

impl<'f> Side<'f> {
    fn new(files: &'f mut dyn Files) -> Self {
        let root = files.open_grant(0).unwrap();
        Self { files, handles: vec![root] }
    }

    fn handle(&self, number: usize) -> Handle {
        self.handles[number % self.handles.len()]
    }

    fn run(&mut self, operation: &Operation) -> Outcome {
        match self.try_run(operation) {
            Ok(outcome) => outcome,
            Err(Error::Errno(errno)) => Outcome::Failed(errno),
            Err(Error::Stopped) => panic!("nobody stops this process"),
        }
    }

    fn try_run(&mut self, operation: &Operation) -> Result<Outcome, Error> {
        match operation {
            Operation::Open { directory, path, open } => {
                let opened = self.files.open_at(self.handle(*directory), name(path), *open)?;
                self.handles.push(opened.handle);
                Ok(seen(&self.files.stat(opened.handle)?))
            }
            // The root stays open, so that there is always something.
            Operation::Close(number) => {
                let index = number % self.handles.len();
                if index > 0 {
                    let handle = self.handles.remove(index);
                    self.files.close(handle)?;
                    assert_eq!(self.files.stat(handle), Err(Errno::Badf.into()), "closed");
                }
                Ok(Outcome::Done)
            }
            Operation::Read { file, offset, length } => {
                let mut bytes = vec![0xee; *length];
                let count = self.files.read_at(self.handle(*file), *offset, &mut bytes)?;
                bytes.truncate(count);
                Ok(Outcome::Bytes(bytes))
            }
            Operation::Write { file, offset, bytes } => {
                Ok(Outcome::Count(self.files.write_at(self.handle(*file), *offset, bytes)?, 0))
            }
            Operation::Append { file, bytes } => {
                let appended = self.files.append(self.handle(*file), bytes)?;
                Ok(Outcome::Count(appended.count, appended.end))
            }
            Operation::SetSize { file, size } => done(self.files.set_size(self.handle(*file), *size)),
            Operation::Allocate { file, offset, length } => {
                done(self.files.allocate(self.handle(*file), *offset, *length))
            }
            Operation::Stat(file) => Ok(seen(&self.files.stat(self.handle(*file))?)),
            Operation::SetTimes { file, ns } => done(self.files.set_times(self.handle(*file), at(*ns))),
            Operation::List(directory) => {
                let directory = self.handle(*directory);
                Ok(Outcome::Names(list(self.files, directory)?))
            }
            _ => self.try_run_on_names(operation),
        }
    }

    fn try_run_on_names(&mut self, operation: &Operation) -> Result<Outcome, Error> {
        match operation {
            Operation::StatAt { directory, path, follow } => {
                Ok(seen(&self.files.stat_at(self.handle(*directory), name(path), *follow)?))
            }
            Operation::SetTimesAt { directory, path, follow, ns } => {
                let directory = self.handle(*directory);
                self.files.set_times_at(directory, name(path), *follow, at(*ns))?;
                let stat = self.files.stat_at(directory, name(path), *follow)?;
                assert_eq!(stat.modified_ns, *ns);
                Ok(seen(&stat))
            }
            Operation::CreateDirectory { directory, path } => {
                done(self.files.create_directory_at(self.handle(*directory), name(path)))
            }
            Operation::RemoveDirectory { directory, path } => {
                done(self.files.remove_directory_at(self.handle(*directory), name(path)))
            }
            Operation::Unlink { directory, path } => {
                done(self.files.unlink_at(self.handle(*directory), name(path)))
            }
            Operation::Rename { from, to } => {
                done(self.files.rename_at(self.handle(from.0), name(&from.1), self.handle(to.0), name(&to.1)))
            }
            Operation::Link { from, to } => {
                done(self.files.link_at(self.handle(from.0), name(&from.1), self.handle(to.0), name(&to.1)))
            }
            Operation::Symlink { text, directory, path } => {
                done(self.files.symlink_at(text, self.handle(*directory), name(path)))
            }
            Operation::ReadLink { directory, path } => {
                let mut text = vec![0; 64];
                let count = self.files.read_link_at(self.handle(*directory), name(path), &mut text)?;
                text.truncate(count);
                Ok(Outcome::Bytes(text))
            }
            _ => unreachable!("the others have run"),
        }
    }
}

fn name(path: &str) -> Path<'_> {
    Path::new(path.as_bytes()).unwrap()
}

fn done(result: Result<(), Error>) -> Result<Outcome, Error> {
    result.map(|()| Outcome::Done)
}

/// Sizes and links of directories are a file system's own business.
fn seen(stat: &Stat) -> Outcome {
    let directory = stat.kind == wasi::provider::FileKind::Directory;
    let set = stat.modified_ns < 1_000_000_000_000;
    Outcome::Seen {
        kind: stat.kind as u8,
        size: (!directory).then_some(stat.size),
        links: (!directory).then_some(stat.links),
        modified_ns: set.then_some(stat.modified_ns),
    }
}

fn at(ns: u64) -> Times {
    Times { accessed: SetTime::Keep, modified: SetTime::At(ns) }
}

/// All entries, a few at a time, each of which is shown once.
fn list(files: &mut dyn Files, directory: Handle) -> Result<BTreeMap<String, u8>, Error> {
    let mut names = BTreeMap::new();
    let mut cookie = 0;
    loop {
        let mut shown = 0;
        files.read_directory(directory, cookie, &mut |entry| {
            assert!(names.insert(entry.name.to_owned(), entry.kind as u8).is_none(), "shown twice");
            assert!((1..=i64::MAX as u64).contains(&entry.next));
            cookie = entry.next;
            shown += 1;
            if shown == 3 { std::ops::ControlFlow::Break(()) } else { std::ops::ControlFlow::Continue(()) }
        })?;
        if shown == 0 {
            return Ok(names);
        }
    }
}

/// Few names, so that operations meet.
fn path() -> impl Strategy<Value = String> {
    let component = prop_oneof![
        8 => prop::sample::select(vec!["a", "b", "c"]),
        1 => prop::sample::select(vec![".", ".."]),
    ];
    (prop::collection::vec(component, 1..4), prop::sample::select(vec!["", "", "", "", "/", "//"]))
        .prop_map(|(components, end)| components.join("/") + end)
}

fn follow() -> impl Strategy<Value = Follow> {
    prop::sample::select(vec![Follow::No, Follow::Yes])
}

fn open() -> impl Strategy<Value = Open> {
    (
        prop::sample::select(vec![FileAccess::Read, FileAccess::Write, FileAccess::ReadWrite]),
        prop::sample::select(vec![Create::Never, Create::IfMissing, Create::Exclusively]),
        prop::sample::select(vec![Truncate::Keep, Truncate::Keep, Truncate::Empty]),
        prop::sample::select(vec![Expect::Any, Expect::Any, Expect::Directory]),
        follow(),
    )
        .prop_map(|(access, create, truncate, expect, follow)| match expect {
            // A program cannot ask for these together: `path_open` answers EINVAL.
            Expect::Directory => {
                Open { access, create: Create::Never, truncate: Truncate::Keep, expect, follow }
            }
            Expect::Any => Open { access, create, truncate, expect, follow },
        })
}

fn operation() -> impl Strategy<Value = Operation> {
    let small = || 0..20_000u64;
    let bytes = || prop::collection::vec(any::<u8>(), 0..9000);
    let number = || 0..6usize;
    prop_oneof![
        6 => (number(), path(), open()).prop_map(|(directory, path, open)| Operation::Open { directory, path, open }),
        2 => number().prop_map(Operation::Close),
        2 => (number(), small(), 0..9000usize).prop_map(|(file, offset, length)| Operation::Read { file, offset, length }),
        3 => (number(), small(), bytes()).prop_map(|(file, offset, bytes)| Operation::Write { file, offset, bytes }),
        2 => (number(), bytes()).prop_map(|(file, bytes)| Operation::Append { file, bytes }),
        2 => (number(), small()).prop_map(|(file, size)| Operation::SetSize { file, size }),
        1 => (number(), small(), 1..9000u64).prop_map(|(file, offset, length)| Operation::Allocate { file, offset, length }),
        1 => number().prop_map(Operation::Stat),
        3 => (number(), path(), follow()).prop_map(|(directory, path, follow)| Operation::StatAt { directory, path, follow }),
        1 => (number(), small()).prop_map(|(file, ns)| Operation::SetTimes { file, ns }),
        1 => (number(), path(), follow(), small())
            .prop_map(|(directory, path, follow, ns)| Operation::SetTimesAt { directory, path, follow, ns }),
        2 => number().prop_map(Operation::List),
        4 => (number(), path()).prop_map(|(directory, path)| Operation::CreateDirectory { directory, path }),
        2 => (number(), path()).prop_map(|(directory, path)| Operation::RemoveDirectory { directory, path }),
        2 => (number(), path()).prop_map(|(directory, path)| Operation::Unlink { directory, path }),
        4 => ((number(), path()), (number(), path())).prop_map(|(from, to)| Operation::Rename { from, to }),
        2 => ((number(), path()), (number(), path())).prop_map(|(from, to)| Operation::Link { from, to }),
        3 => (path(), number(), path()).prop_map(|(text, directory, path)| Operation::Symlink { text, directory, path }),
        1 => (number(), path()).prop_map(|(directory, path)| Operation::ReadLink { directory, path }),
    ]
}

/// A time after any that the operations set.
fn wall_ns() -> u64 {
    2_000_000_000_000
}

proptest! {
    // Seeded, so that a run says something about the change that it tests; `--soak` takes new histories.
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        rng_seed: if std::env::var_os("SELKIS_SOAK").is_some() { RngSeed::Random } else { RngSeed::Fixed(2) },
        ..ProptestConfig::with_cases(2000)
    })]

    #[test]
    fn a_tree_behaves_as_a_directory_of_linux(operations in prop::collection::vec(operation(), 1..40)) {
        compare(&operations)?;
    }
}

/// What random histories have found.
#[test]
fn histories_that_once_differed() {
    let symlink = |text: &str, path: &str| Operation::Symlink {
        text: text.to_owned(),
        directory: 0,
        path: path.to_owned(),
    };
    let open = |path: &str, access, create| Operation::Open {
        directory: 0,
        path: path.to_owned(),
        open: Open { access, create, truncate: Truncate::Keep, expect: Expect::Any, follow: Follow::Yes },
    };
    let (read, write) = (FileAccess::Read, FileAccess::Write);
    let histories = [
        // A file cannot be made under a name with a slash behind it, though the slash comes from a link.
        vec![symlink("a/", "a"), open("a", read, Create::IfMissing)],
        vec![open("b", write, Create::IfMissing), symlink("b/", "a"), open("a", read, Create::IfMissing)],
    ];
    for history in histories {
        compare(&history).unwrap();
    }
}

/// Tells the child where to work.
const FOLDER: &str = "SELKIS_FILES_TEST";
/// How many histories a confined process tries, each in a folder of its own.
const CONFINED_CASES: usize = 300;

/// What the files need of Linux, they keep: or Linux would kill the process.
#[test]
fn a_confined_process_is_served_as_any_other() {
    let folder = tempfile::tempdir().unwrap();
    for case in 0..CONFINED_CASES {
        std::fs::create_dir(folder.path().join(case.to_string())).unwrap();
    }
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "the_confined_child", "--nocapture"])
        .env(FOLDER, folder.path())
        // As in `streams.rs`.
        .env("__RUST_TEST_INVOKE", "the_confined_child")
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && errors.contains("good"), "{}: {errors}", output.status);
}

/// What the child does; says "good" if all was as it should be.
#[test]
fn the_confined_child() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let folder = std::path::Path::new(&folder);
    let open = |path: &std::path::Path| Grant::open(path, Access::ReadWrite).unwrap();
    let cell = Cell::new(&[open(folder)]).unwrap();
    let mut runner = TestRunner::new(ProptestConfig { rng_seed: RngSeed::Fixed(5), ..Default::default() });
    let histories = prop::collection::vec(operation(), 1..40);
    let cases: Vec<_> = (0..CONFINED_CASES)
        .map(|case| {
            let history = histories.new_tree(&mut runner).unwrap().current();
            (open(&folder.join(case.to_string())), history)
        })
        .collect();
    cell.close(|| Ok(())).unwrap();
    for (grant, history) in cases {
        if let Err(error) = compare_in(grant, &history) {
            eprintln!("{error}");
            std::process::exit(1);
        }
    }
    eprintln!("good");
    // The other threads are not confined, and may not be waited for from here.
    std::process::exit(0);
}

/// Runs the same operations on both.
fn compare(operations: &[Operation]) -> Result<(), TestCaseError> {
    let directory = tempfile::tempdir().unwrap();
    compare_in(Grant::open(directory.path(), Access::ReadWrite).unwrap(), operations)
}

/// The same, with Linux's side in a directory that is empty.
fn compare_in(grant: Grant, operations: &[Operation]) -> Result<(), TestCaseError> {
    let mut linux = LinuxFiles::new(vec![grant]);
    let grant = tree::Grant { access: Access::ReadWrite, copied: Vec::new().into() };
    let surroundings = tree::Surroundings { wall_ns, checkpoint: || Ok(()), pause: || {} };
    let mut tree = Tree::new(vec![grant], &[], 64 << 20, surroundings).unwrap();
    let (mut linux, mut tree) = (Side::new(&mut linux), Side::new(&mut tree));
    for (number, operation) in operations.iter().enumerate() {
        let (expected, found) = (linux.run(operation), tree.run(operation));
        prop_assert_eq!(expected, found, "Linux and the tree differ at {}: {:?}", number, operation);
    }
    Ok(())
}
