//! Directories: what was granted, and nothing else.

use crate::runner::{On, Platform, Scenario};
use crate::selkis::{Context, Output, run_command};
use crate::verdict::{Verdict, check, check_eq};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "grant-reads", on: On::Both, run: reads },
    Scenario { name: "grant-writes", on: On::Both, run: writes },
    Scenario { name: "grant-read-only", on: On::Both, run: read_only },
    Scenario { name: "grant-confines", on: On::Both, run: confines },
    Scenario { name: "grant-none", on: On::Both, run: none },
    Scenario { name: "grant-errors", on: On::Both, run: errors },
    Scenario { name: "grant-large-tree", on: On::Both, run: large_tree },
];

const EBADF: i32 = 8;
const ENOENT: i32 = 44;
const EPERM: i32 = 63;
/// What a refused change may be called: EACCES, EPERM, EROFS, ENOTCAPABLE.
const REFUSALS: [i32; 4] = [2, EPERM, 69, 76];

/// A folder `granted` with something in it, links that lead out, and a secret beside it.
fn granted(context: &Context) -> Verdict<PathBuf> {
    let granted = context.folder().join("granted");
    fs::create_dir_all(granted.join("sub/deeper"))?;
    fs::write(granted.join("a.txt"), "contents of a\n")?;
    fs::write(granted.join("sub/deeper/b.txt"), "contents of b\n")?;
    fs::write(context.folder().join("secret"), "the secret\n")?;
    symlink("a.txt", granted.join("inside"))?;
    symlink("../../a.txt", granted.join("sub/deeper/up"))?;
    symlink("../secret", granted.join("outside"))?;
    symlink(context.folder().join("secret"), granted.join("outside-absolute"))?;
    symlink("..", granted.join("outside-folder"))?;
    symlink("loop", granted.join("loop"))?;
    Ok(granted)
}

fn files(context: &Context, grant: &str, letter: &str, path: &str) -> Verdict<Output> {
    let granted = context.folder().join("granted");
    context.guest("files")?.grant(&granted, grant).arguments([letter, path]).run()
}

fn reads(context: &Context) -> Verdict {
    granted(context)?;
    for (path, expected) in [
        ("a.txt", "contents of a\n"),
        ("./sub//deeper/b.txt", "contents of b\n"),
        ("sub/deeper/../../a.txt", "contents of a\n"),
        ("inside", "contents of a\n"),
        ("sub/deeper/up", "contents of a\n"),
    ] {
        files(context, "::data:ro", "r", path)?.exits(0)?.writes(expected)?;
    }
    files(context, "", "r", "absent")?.exits(ENOENT)?.writes("")?;
    Ok(())
}

fn writes(context: &Context) -> Verdict {
    let granted = granted(context)?;
    files(context, "", "w", "new.txt")?.exits(0)?;
    files(context, "", "w", "a.txt")?.exits(0)?;
    files(context, "", "m", "folder")?.exits(0)?;
    files(context, "", "d", "sub/deeper/b.txt")?.exits(0)?;
    let text = |name: &str| fs::read_to_string(granted.join(name)).ok();
    // The machine works on a copy.
    let (new, old) = context.on((Some("written\n"), "written\n"), (None, "contents of a\n"));
    check_eq("the new file", text("new.txt").as_deref(), new)?;
    check_eq("the old file", text("a.txt").as_deref(), Some(old))?;
    let is_hosted = context.platform == Platform::Hosted;
    check_eq("the new folder is there", granted.join("folder").is_dir(), is_hosted)?;
    check_eq("the removed file is there", granted.join("sub/deeper/b.txt").exists(), !is_hosted)
}

fn read_only(context: &Context) -> Verdict {
    let granted = granted(context)?;
    for (letter, path) in [("w", "new.txt"), ("w", "a.txt"), ("w", "inside"), ("m", "folder"), ("d", "a.txt")]
    {
        let output = files(context, ":ro", letter, path)?;
        let refused = output.code().is_some_and(|code| REFUSALS.contains(&code));
        check(refused, || output.failed(&format!("{letter} {path} was not refused")).0)?;
    }
    files(context, ":ro", "r", "a.txt")?.exits(0)?.writes("contents of a\n")?;
    check_eq("the file", fs::read_to_string(granted.join("a.txt"))?, "contents of a\n")?;
    check_eq("new things", granted.join("new.txt").exists() || granted.join("folder").exists(), false)
}

fn confines(context: &Context) -> Verdict {
    granted(context)?;
    for path in [
        "../secret",
        "sub/../../secret",
        "sub/deeper/../../../secret",
        "..",
        "/etc/passwd",
        "outside",
        "outside-absolute",
        "outside-folder/secret",
        "outside-folder/granted/a.txt",
    ] {
        files(context, "", "r", path)?.exits(EPERM)?.writes("")?;
    }
    for (letter, path) in [("w", "../new"), ("w", "outside"), ("w", "outside-folder/new"), ("d", "../secret")]
    {
        files(context, "", letter, path)?.exits(EPERM)?;
    }
    let looped = files(context, "", "r", "loop")?;
    check_eq("ELOOP", looped.code(), Some(32))?;
    check_eq("the secret", fs::read_to_string(context.folder().join("secret"))?, "the secret\n")?;
    check_eq("something new outside", context.folder().join("new").exists(), false)
}

fn none(context: &Context) -> Verdict {
    context.guest("files")?.arguments(["r", "a.txt"]).run()?.exits(EBADF)?.writes("")?;
    Ok(())
}

fn errors(context: &Context) -> Verdict {
    let granted = granted(context)?;
    let absent = context.folder().join("absent");
    let output = context.guest("exit")?.grant(&absent, "").run()?;
    output.exits(125)?.says(&["absent", "--dir", "No such file"])?;
    let output = context.guest("exit")?.grant(&granted.join("a.txt"), "").run()?;
    output.exits(125)?.says(&["a.txt", "not a directory"])?;
    // Not opened, where opening would wait for a writer.
    let pipe = context.folder().join("pipe");
    run_command(Command::new("mkfifo").arg(&pipe), Duration::from_secs(10))?.exits(0)?;
    context.guest("exit")?.grant(&pipe, "").run()?.exits(125)?.says(&["pipe", "not a directory"])?;
    let output = context.guest("exit")?.grant(&granted, "::x").grant(&granted.join("sub"), "::x").run()?;
    output.exits(125)?.says(&["`x`"])?;
    Ok(())
}

/// 2,000 files in 40 directories, each found where it should be.
fn large_tree(context: &Context) -> Verdict {
    let granted = context.folder().join("granted");
    for folder in 0..40 {
        let folder = granted.join(format!("folder-{folder}"));
        fs::create_dir_all(&folder)?;
        for file in 0..50 {
            fs::write(folder.join(format!("file-{file}")), format!("{}/{file}\n", folder.display()))?;
        }
    }
    for (folder, file) in [(0, 0), (39, 49), (17, 23)] {
        let expected = format!("{}/folder-{folder}/{file}\n", granted.display());
        files(context, "", "r", &format!("folder-{folder}/file-{file}"))?.exits(0)?.writes(expected)?;
    }
    Ok(())
}
