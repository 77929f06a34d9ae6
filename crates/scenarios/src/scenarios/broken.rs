//! Broken things: modules, artifacts, caches, parts, boot modules, command lines.

use crate::damage::{self, Damage, flip, numbers};
use crate::guests;
use crate::launcher;
use crate::runner::{Depth, On, Platform, Scenario};
use crate::selkis::{Context, Output, lib, run_command};
use crate::verdict::{Failed, Verdict, check};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "damaged-modules", on: On::Both, run: damaged_modules },
    Scenario { name: "damaged-artifacts", on: On::Both, run: damaged_artifacts },
    Scenario { name: "damaged-boot-module", on: On::Only(Platform::Vm), run: damaged_boot_module },
    Scenario { name: "cache-corrupted", on: On::Both, run: cache_corrupted },
    Scenario { name: "cache-mixed-up", on: On::Both, run: cache_mixed_up },
    Scenario { name: "endless-program", on: On::Only(Platform::Hosted), run: endless_program },
    Scenario { name: "cache-not-writable", on: On::Both, run: cache_not_writable },
    Scenario { name: "cache-full", on: On::Both, run: cache_full },
    Scenario { name: "parts-missing-or-cut", on: On::Both, run: parts_missing_or_cut },
    Scenario { name: "qemu-missing", on: On::Only(Platform::Vm), run: qemu_missing },
    Scenario { name: "wrong-command-lines", on: On::Only(Platform::Hosted), run: wrong_command_lines },
];

/// What the program of these scenarios exits with, if it runs.
const STATUS: &str = "42";
const SEED: u64 = 2;

fn how_many(context: &Context, ordinary: usize) -> usize {
    match context.depth {
        Depth::Ordinary => ordinary,
        Depth::Soak => 1000,
    }
}

/// Half are cut, half have a bit flipped. Some still are programs: those may do whatever a program may.
fn damaged_modules(context: &Context) -> Verdict {
    let names = ["exit", "traps", "count", "files", "sleep"];
    let modules = names.iter().map(|name| guests::binary(name)).collect::<Verdict<Vec<_>>>()?;
    let mut refused = 0;
    let count = how_many(context, context.on(60, 16));
    for (index, number) in numbers(SEED).take(count).enumerate() {
        let mut module = modules[index % modules.len()].clone();
        match index % 2 {
            0 => module.truncate((number % module.len() as u64) as usize),
            _ => flip(&mut module, number),
        }
        let path = context.file("damaged.wasm", &module)?;
        let run = context.program(path).options(["--timeout", "1s", "--memory", "4MiB"]).arguments([STATUS]);
        // A cache of its own: what nobody will ever run again does not belong in the user's.
        let output = run.variable("SELKIS_CACHE", context.folder()).run()?;
        let describe = |failed: Failed| Failed(format!("damage {index}: {}", failed.0));
        output.ends_well().map_err(describe)?;
        if output.code() == Some(125) {
            refused += 1;
            output.says(&["damaged.wasm"]).map_err(describe)?;
        }
    }
    // Nearly every cut makes it no module.
    check(refused >= count / 2 - count / 20, || format!("only {refused} of {count} were refused"))
}

/// In the cache they are made again. What gets past it, the library OS refuses.
fn damaged_artifacts(context: &Context) -> Verdict {
    match context.platform {
        Platform::Hosted => {
            damaged_artifacts_in_the_cache(context)?;
            damaged_artifacts_past_the_cache(context)
        }
        Platform::Vm | Platform::Vm2 | Platform::Vm4 => damaged_artifacts_in_the_machine(context),
    }
}

fn damaged_artifacts_in_the_cache(context: &Context) -> Verdict {
    let cache = context.folder().join("cache");
    for (index, number) in numbers(SEED).take(how_many(context, 40)).enumerate() {
        run_with_cache(context, &cache)?.exits(42)?.writes("")?;
        let artifacts = artifacts_in(&cache)?;
        check(!artifacts.is_empty(), || format!("there is no artifact in {}", cache.display()))?;
        let path = &artifacts[index % artifacts.len()];
        damage_file(path, number)?;
        let output = run_with_cache(context, &cache)?;
        let describe = |failed: Failed| Failed(format!("damage {index} to {}: {}", path.display(), failed.0));
        output.exits(42).and_then(|output| output.writes("")).map_err(describe)?;
    }
    Ok(())
}

fn launch(paths: &[PathBuf; 2]) -> Verdict<Output> {
    launcher::launch("selkis-runtime", paths, &["damaged.wat", STATUS], Duration::from_secs(60))
}

fn damaged_artifacts_past_the_cache(context: &Context) -> Verdict {
    let paths = launcher::artifacts(context, "exit")?;
    let whole = [fs::read(&paths[0])?, fs::read(&paths[1])?];
    launch(&paths)?.exits(42)?.writes("")?;
    for (index, number) in numbers(SEED).take(how_many(context, 40)).enumerate() {
        let damaged = index / 2 % 2;
        let mut bytes = whole[damaged].clone();
        match index % 2 {
            0 => bytes.truncate(1 + (number % (bytes.len() as u64 - 1)) as usize),
            _ => flip(&mut bytes, number),
        }
        fs::write(&paths[damaged], bytes)?;
        let output = launch(&paths)?;
        fs::write(&paths[damaged], &whole[damaged])?;
        // Between header and payload lies what nobody reads.
        let is_padding = index % 2 == 1 && output.code() == Some(42);
        if !is_padding {
            let describe = |failed: Failed| Failed(format!("damage {index}: {}", failed.0));
            output.ends_well()?.exits(125).and_then(|output| output.writes("")).map_err(describe)?;
            output.says(&["damaged.wat"]).map_err(describe)?;
        }
    }
    Ok(())
}

fn damaged_artifacts_in_the_machine(context: &Context) -> Verdict {
    for number in numbers(SEED).take(how_many(context, 8)) {
        let output = run_damaged(context, Damage::Artifact(number))?;
        // Between header and payload lies what nobody reads.
        let is_padding = output.code() == Some(42);
        if !is_padding {
            output.exits(125)?.writes("")?.ends_well()?.says(&["damaged.wat"])?;
        }
    }
    Ok(())
}

fn damaged_boot_module(context: &Context) -> Verdict {
    for length in [0, 1, 31, 32, 100, 4095, 4096, 5000, 20_000] {
        let output = run_damaged(context, Damage::Cut(length))?;
        check(output.code() == Some(125), || output.failed(&format!("cut to {length} bytes")).0)?;
        output.writes("")?;
        check(!output.stderr.is_empty(), || output.failed("nothing was said").0)?;
    }
    for bit in numbers(SEED).take(3) {
        run_damaged(context, Damage::Plan(bit))?.exits(125)?.writes("")?.says(&["plan"])?;
    }
    Ok(())
}

fn run_damaged(context: &Context, damage: Damage) -> Verdict<Output> {
    let path = context.file("damaged.wat", guests::text("exit")?)?;
    let mut run = context.program(path).arguments([STATUS]);
    for (name, value) in damage::variables(context, damage)? {
        run = run.variable(name, value);
    }
    run.run()
}

fn cache_corrupted(context: &Context) -> Verdict {
    let cache = context.folder().join("cache");
    run_with_cache(context, &cache)?.exits(42)?;
    for contents in [&b""[..], b"SELKARTF", &[0xff; 10_000]] {
        for path in artifacts_in(&cache)? {
            fs::write(path, contents)?;
        }
        run_with_cache(context, &cache)?.exits(42)?.writes("")?;
    }
    Ok(())
}

/// A place where nobody can make a file, whoever asks: a root user writes to read-only folders as well.
fn cache_not_writable(context: &Context) -> Verdict {
    run_with_cache(context, Path::new("/proc/selkis"))?.exits(42)?.writes("")?;
    let file = context.file("a-file", "")?;
    run_with_cache(context, &file)?.exits(42)?.writes("")?;
    Ok(())
}

/// A disk of 16 KiB, which the artifact does not fit on, in a mount namespace of its own.
fn cache_full(context: &Context) -> Verdict {
    let own_mounts = ["--map-root-user", "--mount"];
    let mut probe = Command::new("unshare");
    probe.args(own_mounts).arg("true").stderr(Stdio::null());
    if !probe.status().is_ok_and(|status| status.success()) {
        return context.skip(
            "a full disk is made in a user namespace, which is not to be had here (a chroot, a container)",
        );
    }
    let disk = context.folder().join("disk");
    fs::create_dir(&disk)?;
    let program = context.file("exit.wat", guests::text("exit")?)?;
    let script = "mount -t tmpfs -o size=16k tmpfs \"$SELKIS_CACHE\" && \"$0\" \"$@\"; status=$?; \
                  find \"$SELKIS_CACHE\" -name '*.artifact' >&2; exit $status";
    let mut command = Command::new("unshare");
    command.args(own_mounts).args(["sh", "-c", script]).arg(context.selkis());
    command.arg("run").args(context.on(None, Some("--vm"))).arg(program).args(["--", STATUS]);
    command.env("SELKIS_CACHE", &disk);
    let output = run_command(&mut command, Duration::from_secs(120))?;
    output.exits(42)?.writes("")?.says(&["cannot be kept", "No space left"])?;
    check(!output.errors().contains(".artifact"), || output.failed("half an artifact was left behind").0)
}

fn run_with_cache(context: &Context, cache: &Path) -> Verdict<Output> {
    context.guest("exit")?.arguments([STATUS]).variable("SELKIS_CACHE", cache).run()
}

/// Every file in the cache that is large enough to be an artifact.
fn artifacts_in(folder: &Path) -> Verdict<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        if !folder.is_dir() {
            continue;
        }
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            match path.is_dir() {
                true => folders.push(path),
                false if path.metadata()?.len() > 0 => found.push(path),
                false => {}
            }
        }
    }
    found.sort();
    Ok(found)
}

fn damage_file(path: &Path, number: u64) -> Verdict {
    let mut bytes = fs::read(path)?;
    match number % 2 {
        0 => bytes.truncate((number / 2 % bytes.len() as u64) as usize),
        _ => flip(&mut bytes, number / 2),
    }
    // A new file: another process may have the old one mapped.
    fs::remove_file(path)?;
    Ok(fs::write(path, bytes)?)
}

fn parts_missing_or_cut(context: &Context) -> Verdict {
    let lib = lib()?;
    let parts: &[&str] = context.on(&["selkis-runtime"], &["selkis-runtime", "selkis-kernel"]);
    for part in parts {
        let whole = fs::read(lib.join(part))?;
        // Executables begin with what is loaded; symbols follow.
        let lengths = [None, Some(0), Some(63), Some(2000), Some(100_000)];
        for length in lengths {
            let folder = tempfile::tempdir_in(context.folder())?;
            for entry in fs::read_dir(&lib)? {
                let entry = entry?;
                if entry.file_name() != *part {
                    symlink(entry.path(), folder.path().join(entry.file_name()))?;
                }
            }
            if let Some(length) = length {
                fs::write(folder.path().join(part), &whole[..length])?;
            }
            let output =
                context.guest("exit")?.arguments([STATUS]).variable("SELKIS_LIB", folder.path()).run()?;
            let describe = |failed: Failed| Failed(format!("{part} cut to {length:?}: {}", failed.0));
            output.exits(125).and_then(|output| output.writes("")).map_err(describe)?;
            check(!output.stderr.is_empty(), || describe(output.failed("nothing was said")).0)?;
            if length.is_none() {
                output.says(&[part, "SELKIS_LIB"])?;
            }
        }
    }
    Ok(())
}

fn qemu_missing(context: &Context) -> Verdict {
    let output = context.guest("exit")?.variable("PATH", "/nonexistent").run()?;
    output.exits(125)?.writes("")?.says(&["qemu-system-x86_64", "apt-get install"])?;
    Ok(())
}

fn wrong_command_lines(context: &Context) -> Verdict {
    let lines: &[(&[&str], &str)] = &[
        (&["run"], "PROGRAM"),
        (&["run", "x.wasm", "--memory", "lots"], "256MiB"),
        (&["run", "x.wasm", "--memory", "0"], "zero"),
        (&["run", "x.wasm", "--timeout", "10"], "10s"),
        (&["run", "x.wasm", "--dir", ""], "HOST"),
        (&["run", "x.wasm", "--env", "=x"], "NAME"),
        (&["run", "x.wasm", "--vm-memory", "64MiB"], "--vm"),
        (&["run", "x.wasm", "--nonsense"], "--nonsense"),
        (&["run", "x.wasm", "argument"], "argument"),
        (&["image", "x.wasm"], "--output"),
        (&["nonsense"], "nonsense"),
    ];
    for (words, part) in lines {
        context.command().options(*words).run()?.exits(2)?.writes("")?.says(&[part])?;
    }
    let absent = context.command().options(["run", "absent.wasm"]).run()?;
    absent.exits(125)?.says(&["absent.wasm", "selkis programs"])?;
    let folder = context.command().options(["run", "."]).run()?;
    folder.exits(125)?.says(&["not a file"])?;
    let unset = context.guest("exit")?.options(["--env", "SURELY_NOT_SET"]).run()?;
    unset.exits(125)?.says(&["SURELY_NOT_SET"])?;
    for command in ["run", "image", "programs", "cache"] {
        let output = context.command().options([command, "--help"]).run()?;
        output.exits(0)?;
        let help = String::from_utf8_lossy(&output.stdout).into_owned();
        check(help.contains("Example"), || format!("there are no examples in the help of {command}"))?;
    }
    Ok(())
}

/// Whole artifacts under each other's names, the program's and the trap helper's, are not run.
fn cache_mixed_up(context: &Context) -> Verdict {
    let cache = context.folder().join("mixed-up");
    let run = || context.guest("exit")?.arguments([STATUS]).variable("SELKIS_CACHE", &cache).run();
    run()?.exits(42)?;
    let files = fs::read_dir(cache.join("artifacts"))?.map(|entry| Ok(entry?.path()));
    let mut files = files.collect::<Verdict<Vec<PathBuf>>>()?;
    files.retain(|path| path.extension().is_some_and(|extension| extension == "artifact"));
    let [one, other] = &files[..] else { return Err(Failed(format!("not two artifacts: {files:?}"))) };
    let contents = (fs::read(one)?, fs::read(other)?);
    for (path, bytes) in [(one, &contents.1), (other, &contents.0)] {
        fs::remove_file(path)?;
        fs::write(path, bytes)?;
    }
    let output = run()?;
    output.exits(42)?;
    let refused = output.errors().matches("compiling again").count();
    check(refused == 2, || output.failed("expected that both are made again").0)?;
    check((fs::read(one)?, fs::read(other)?) == contents, || "they were not mended".into())
}

/// What has no end is not read for ever.
fn endless_program(context: &Context) -> Verdict {
    let output = context.program("/dev/zero").run()?;
    output.exits(125)?.says(&["/dev/zero", "too large for a program"])?;
    check(output.peak_bytes < 1 << 30, || format!("{} bytes of memory", output.peak_bytes))
}
