//! What a granted directory does not let out, on Linux.

use bundle::Access;
use hosted::files::{Grant, LinuxFiles};
use std::fs;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::Path as HostPath;
use wasi::Errno;
use wasi::provider::{
    Create, Expect, FileAccess, FileKind, Files, Follow, Handle, Open, Path, SetTime, Times, Truncate,
};

/// A directory to grant, with a secret beside it.
struct Scene {
    _around: tempfile::TempDir,
    granted: std::path::PathBuf,
    secret: std::path::PathBuf,
}

fn scene() -> Scene {
    let around = tempfile::tempdir().unwrap();
    let granted = around.path().join("granted");
    let secret = around.path().join("secret");
    fs::create_dir(&granted).unwrap();
    fs::create_dir(&secret).unwrap();
    fs::write(secret.join("file"), "secret").unwrap();
    fs::write(granted.join("file"), "mine").unwrap();
    fs::create_dir(granted.join("d")).unwrap();
    symlink(&secret, granted.join("absolute")).unwrap();
    symlink("../secret", granted.join("relative")).unwrap();
    symlink("../../secret/file", granted.join("d/file")).unwrap();
    symlink("../secret/missing", granted.join("dangling")).unwrap();
    Scene { granted, secret, _around: around }
}

fn files(granted: &HostPath, access: Access) -> (LinuxFiles, Handle) {
    let mut files = LinuxFiles::new(vec![Grant::open(granted, access).unwrap()]);
    let root = files.open_grant(0).unwrap();
    (files, root)
}

fn path(text: &str) -> Path<'_> {
    Path::new(text.as_bytes()).unwrap()
}

fn open(access: FileAccess, create: Create) -> Open {
    Open { access, create, truncate: Truncate::Keep, expect: Expect::Any, follow: Follow::Yes }
}

const TIMES: Times = Times { accessed: SetTime::At(1), modified: SetTime::At(1) };

#[test]
fn no_call_reaches_what_is_outside() {
    let scene = scene();
    let (mut files, root) = files(&scene.granted, Access::ReadWrite);
    let before = fs::metadata(scene.secret.join("file")).unwrap().modified().unwrap();
    for outside in ["absolute/file", "relative/file", "d/file", "../secret/file", "d/../../secret/file"] {
        let there = path(outside);
        for access in [FileAccess::Read, FileAccess::Write, FileAccess::ReadWrite] {
            for create in [Create::Never, Create::IfMissing] {
                let opened = files.open_at(root, there, open(access, create));
                assert_eq!(opened, Err(Errno::Perm.into()), "{outside}");
            }
        }
        assert_eq!(files.stat_at(root, there, Follow::Yes), Err(Errno::Perm.into()), "{outside}");
        assert_eq!(files.set_times_at(root, there, Follow::Yes, TIMES), Err(Errno::Perm.into()), "{outside}");
    }
    for outside in ["absolute/new", "relative/new", "../new", "dangling"] {
        let opened = files.open_at(root, path(outside), open(FileAccess::Write, Create::IfMissing));
        assert_eq!(opened, Err(Errno::Perm.into()), "{outside}");
    }
    for outside in ["absolute/file", "relative/file", "../secret/file"] {
        let there = path(outside);
        let perm = Err(Errno::Perm.into());
        assert_eq!(files.unlink_at(root, there), perm, "{outside}");
        assert_eq!(files.remove_directory_at(root, there), perm, "{outside}");
        assert_eq!(files.rename_at(root, there, root, path("stolen")), perm, "{outside}");
        assert_eq!(files.rename_at(root, path("file"), root, there), perm, "{outside}");
        assert_eq!(files.link_at(root, there, root, path("stolen")), perm, "{outside}");
        assert_eq!(files.link_at(root, path("file"), root, there), perm, "{outside}");
        assert_eq!(files.symlink_at("x", root, there), perm, "{outside}");
        assert_eq!(files.create_directory_at(root, there), perm, "{outside}");
        assert_eq!(files.read_link_at(root, there, &mut [0; 9]).map(|_| ()), perm, "{outside}");
    }
    assert_eq!(fs::read_dir(&scene.secret).unwrap().count(), 1);
    assert_eq!(fs::read(scene.secret.join("file")).unwrap(), b"secret");
    assert_eq!(fs::metadata(scene.secret.join("file")).unwrap().modified().unwrap(), before);
}

#[test]
fn a_slash_behind_a_link_does_not_tell_what_is_outside() {
    let scene = scene();
    let (mut files, root) = files(&scene.granted, Access::ReadWrite);
    for outside in ["relative/", "dangling/", "d/file/"] {
        let answer = files.link_at(root, path(outside), root, path("new"));
        assert_eq!(answer, Err(Errno::Perm.into()), "{outside}");
        assert_eq!(files.stat_at(root, path(outside), Follow::No), Err(Errno::Perm.into()), "{outside}");
    }
}

#[test]
fn links_are_removed_and_moved_and_what_they_lead_to_is_not() {
    let scene = scene();
    let (mut files, root) = files(&scene.granted, Access::ReadWrite);
    assert_eq!(files.stat_at(root, path("relative"), Follow::No).unwrap().kind, FileKind::Symlink);
    files.set_times_at(root, path("relative"), Follow::No, TIMES).unwrap();
    files.rename_at(root, path("relative"), root, path("moved")).unwrap();
    files.unlink_at(root, path("moved")).unwrap();
    files.unlink_at(root, path("absolute")).unwrap();
    assert!(scene.secret.join("file").exists());
    assert_eq!(files.symlink_at("/etc", root, path("new")), Err(Errno::Perm.into()));
}

#[test]
fn a_race_with_a_rename_does_not_open_the_outside() {
    let scene = scene();
    let (mut files, root) = files(&scene.granted, Access::ReadWrite);
    let stop = std::sync::atomic::AtomicBool::new(false);
    let (real, swapped) = (scene.granted.join("d"), scene.granted.join("other"));
    fs::remove_file(real.join("file")).unwrap();
    fs::write(real.join("file"), "mine").unwrap();
    symlink("../secret", &swapped).unwrap();
    std::thread::scope(|threads| {
        threads.spawn(|| {
            let (a, b, c) = (&real, &swapped, scene.granted.join("third"));
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                for (from, to) in [(a, &c), (b, a), (a, b), (&c, a)] {
                    fs::rename(from, to).unwrap();
                }
            }
        });
        let (mut tries, mut opened) = (0, 0);
        // The other may not run for long while the link lies there.
        while tries < 20_000 || opened == 0 && tries < 20_000_000 {
            tries += 1;
            if let Ok(file) = files.open_at(root, path("d/file"), open(FileAccess::Read, Create::Never)) {
                let mut bytes = [0; 10];
                let count = files.read_at(file.handle, 0, &mut bytes).unwrap();
                assert_eq!(&bytes[..count], b"mine");
                files.close(file.handle).unwrap();
                opened += 1;
            }
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(opened > 0, "the race was never won by the good one");
    });
}

#[test]
fn what_is_granted_to_be_read_stays_as_it_is() {
    let scene = scene();
    let (mut files, root) = files(&scene.granted, Access::ReadOnly);
    let rofs = Errno::Rofs;
    let read = files.open_at(root, path("file"), open(FileAccess::Read, Create::IfMissing)).unwrap().handle;
    assert_eq!(files.write_at(read, 0, b"x"), Err(Errno::Badf.into()));
    assert_eq!(files.set_size(read, 0), Err(Errno::Badf.into()));
    assert_eq!(files.set_times(read, TIMES), Err(rofs.into()));
    for (name, access, create, errno) in [
        ("file", FileAccess::Write, Create::Never, rofs),
        ("file", FileAccess::ReadWrite, Create::IfMissing, rofs),
        ("file", FileAccess::Read, Create::Exclusively, Errno::Exist),
        ("absolute", FileAccess::Read, Create::Exclusively, Errno::Exist),
        ("new", FileAccess::Write, Create::IfMissing, rofs),
        ("new", FileAccess::Read, Create::Exclusively, rofs),
        ("new", FileAccess::Write, Create::Never, Errno::Noent),
        ("d", FileAccess::Write, Create::Never, Errno::Isdir),
    ] {
        assert_eq!(files.open_at(root, path(name), open(access, create)), Err(errno.into()), "{name}");
    }
    let empties = Open { truncate: Truncate::Empty, ..open(FileAccess::Read, Create::Never) };
    assert_eq!(files.open_at(root, path("file"), empties), Err(rofs.into()));
    assert_eq!(files.set_times_at(root, path("file"), Follow::Yes, TIMES), Err(rofs.into()));
    assert_eq!(files.create_directory_at(root, path("new")), Err(rofs.into()));
    assert_eq!(files.remove_directory_at(root, path("d")), Err(rofs.into()));
    assert_eq!(files.unlink_at(root, path("file")), Err(rofs.into()));
    assert_eq!(files.rename_at(root, path("file"), root, path("new")), Err(rofs.into()));
    assert_eq!(files.link_at(root, path("file"), root, path("new")), Err(rofs.into()));
    assert_eq!(files.symlink_at("x", root, path("new")), Err(rofs.into()));
    assert_eq!(fs::read(scene.granted.join("file")).unwrap(), b"mine");
    assert_eq!(fs::read_dir(&scene.granted).unwrap().count(), 5);
}

#[test]
fn names_that_are_not_text_are_not_shown_and_pipes_do_not_block() {
    let scene = scene();
    let strange = HostPath::new(std::ffi::OsStr::from_bytes(b"\xff\xfe"));
    fs::write(scene.granted.join(strange), "").unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, scene.granted.join("pipe"), 0o600.into()).unwrap();
    let (mut files, root) = files(&scene.granted, Access::ReadWrite);
    let mut names = Vec::new();
    files
        .read_directory(root, 0, &mut |entry| {
            names.push((entry.name.to_owned(), entry.kind));
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(names.len(), 6);
    assert!(names.contains(&("pipe".to_owned(), FileKind::Unknown)));
    assert!(names.contains(&("absolute".to_owned(), FileKind::Symlink)));
    let pipe = files.open_at(root, path("pipe"), open(FileAccess::Read, Create::Never)).unwrap();
    assert_eq!(files.read_at(pipe.handle, 0, &mut [0; 4]), Ok(0), "nobody writes");
    let writer = files.open_at(root, path("pipe"), open(FileAccess::Write, Create::Never)).unwrap();
    assert_eq!(files.read_at(pipe.handle, 0, &mut [0; 4]), Err(Errno::Again.into()));
    assert_eq!(files.write_at(writer.handle, 7, b"abc"), Ok(3));
    assert_eq!(files.read_at(pipe.handle, 0, &mut [0; 4]), Ok(3));
}
