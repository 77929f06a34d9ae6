//! What every program does: streams, arguments, environment, exit status, clocks, entropy; and how it fails.

use crate::runner::{On, Platform, Scenario};
use crate::selkis::{Context, Input, run_command};
use crate::verdict::{Verdict, check, check_eq};
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "exit-status", on: On::Both, run: exit_status },
    Scenario { name: "separate-streams", on: On::Both, run: separate_streams },
    Scenario { name: "arguments-and-environment", on: On::Both, run: arguments_and_environment },
    Scenario { name: "options-anywhere", on: On::Both, run: options_anywhere },
    Scenario { name: "stdin-echo", on: On::Both, run: stdin_echo },
    Scenario { name: "terminals", on: On::Both, run: terminals },
    Scenario { name: "traps", on: On::Both, run: traps },
    Scenario { name: "uncaught", on: On::Both, run: uncaught },
    Scenario { name: "endless-recursion", on: On::Both, run: endless_recursion },
    Scenario { name: "strange-import", on: On::Both, run: strange_import },
    Scenario { name: "not-a-module", on: On::Both, run: not_a_module },
    Scenario { name: "sleep-does-not-spin", on: On::Both, run: sleep_does_not_spin },
    Scenario { name: "random-differs", on: On::Both, run: random_differs },
    Scenario { name: "clocks", on: On::Both, run: clocks },
    Scenario { name: "lists", on: On::Only(Platform::Hosted), run: lists },
];

fn exit_status(context: &Context) -> Verdict {
    for code in [0, 1, 2, 42, 124, 125, 127, 128, 134, 255] {
        let output = context.guest("exit")?.arguments([code.to_string()]).run()?;
        output.exits(code)?.writes("")?;
        check_eq("standard error", output.errors(), "")?;
    }
    context.guest("exit")?.run()?.exits(0)?;
    Ok(())
}

fn separate_streams(context: &Context) -> Verdict {
    let output = context.guest("streams")?.run()?;
    output.exits(0)?.writes("out 1\nout 2\n")?;
    check_eq("standard error", output.errors(), "err 1\nerr 2\n")
}

/// `script(1)` gives the command a terminal; here and there it is redirected.
fn terminals(context: &Context) -> Verdict {
    context.guest("terminals")?.run()?.exits(0)?;
    let guest = context.folder().join("terminals.wat");
    let vm = context.on("", "--vm");
    for (redirected, expected) in [("", 7), ("</dev/null", 6), ("2>/dev/null", 3), (">/dev/null", 5)] {
        let line = format!("{} run {vm} {} {redirected}", context.selkis().display(), guest.display());
        let mut script = Command::new("script");
        script.args(["-q", "-e", "-c", &line, "/dev/null"]);
        run_command(&mut script, Duration::from_secs(60))?.exits(expected)?;
    }
    Ok(())
}

fn arguments_and_environment(context: &Context) -> Verdict {
    let run = context
        .guest("arguments")?
        .variable("PASSED_ON", "from outside")
        .variable("NOT_PASSED_ON", "secret")
        .options(["--env", "A=1", "--env", "PASSED_ON", "--env", "EMPTY=", "--env", "A=two = 2"])
        .arguments(["", "with blank", "--vm", "--", "größer", "-x=y"]);
    let expected = "arguments.wat\0\0with blank\0--vm\0--\0größer\0-x=y\0\
                    PASSED_ON=from outside\0EMPTY=\0A=two = 2\0";
    run.run()?.exits(0)?.writes(expected)?;
    let renamed = context.guest("arguments")?.options(["--argv0", "other"]).run()?;
    renamed.exits(0)?.writes("other\0")?;
    Ok(())
}

/// Options stand before or after the program's name.
fn options_anywhere(context: &Context) -> Verdict {
    let path = context.file("exit.wat", crate::guests::text("exit")?)?;
    let vm = context.on("--target-cpu=native", "--vm");
    let words = ["run".as_ref(), vm.as_ref(), "--memory".as_ref(), "1MiB".as_ref(), path.as_os_str()];
    context.command().options(words).options(["--timeout", "60s"]).arguments(["7"]).run()?.exits(7)?;
    let words = ["run".as_ref(), path.as_os_str(), vm.as_ref(), "--timeout=60s".as_ref()];
    context.command().options(words).arguments(["8"]).run()?.exits(8)?;
    Ok(())
}

fn stdin_echo(context: &Context) -> Verdict {
    let bytes: Vec<u8> = (0..200_000u32).map(|index| ((index * 7) >> 3) as u8).collect();
    context.guest("cat")?.input(Input::Bytes(bytes.clone())).run()?.exits(0)?.writes(bytes)?;
    context.guest("cat")?.run()?.exits(0)?.writes("")?;
    Ok(())
}

fn traps(context: &Context) -> Verdict {
    for (letter, function, words) in [
        ("a", "out_of_bounds", "out of bounds memory access"),
        ("b", "far_out_of_bounds", "out of bounds memory access"),
        ("c", "unreachable_code", "unreachable"),
        ("d", "divides_by_zero", "divide by zero"),
        ("e", "overflows", "integer overflow"),
        ("f", "no_integer", "conversion to integer"),
        ("g", "calls_null", "uninitialized element"),
        ("h", "calls_wrong_type", "indirect call type mismatch"),
        ("i", "calls_outside", "undefined element"),
        ("j", "fills_outside", "out of bounds memory access"),
    ] {
        let output = context.guest("traps")?.arguments([letter]).run()?;
        output.exits(134)?.writes("")?.ends_well()?.says(&["traps.wat", words, function])?;
    }
    Ok(())
}

fn uncaught(context: &Context) -> Verdict {
    let output = context.guest("uncaught")?.arguments(["throw"]).run()?;
    output.exits(134)?.writes("")?.ends_well()?.says(&["uncaught.wat", "exception that nobody caught"])?;
    let output = context.guest("uncaught")?.run()?;
    output.exits(134)?.writes("")?.ends_well()?.says(&["unreachable", "all is well"])?;
    let forged = |line: &str| line.starts_with("selkis: all is well");
    let errors = output.errors();
    check(!errors.contains('\x1b') && !errors.lines().any(forged), || format!("not escaped: {errors:?}"))
}

fn endless_recursion(context: &Context) -> Verdict {
    let output = context.guest("recursion")?.run()?;
    output.exits(134)?.ends_well()?.says(&["call stack exhausted", "descend"])?;
    let lines = output.errors().lines().count();
    check(lines < 200, || format!("the backtrace has {lines} lines"))
}

fn strange_import(context: &Context) -> Verdict {
    let output = context.guest("strange-import")?.run()?;
    output.exits(125)?.writes("")?.ends_well()?.says(&[
        "strange-import.wat",
        "env::launch_missiles",
        "wasi_snapshot_preview1::fd_levitate",
        "nobody serves",
    ])?;
    check(!output.errors().contains("fd_write"), || String::from("what is served is complained of"))?;
    Ok(())
}

fn not_a_module(context: &Context) -> Verdict {
    for (name, contents) in
        [("empty.wasm", &b""[..]), ("text.wasm", b"hello\n"), ("elf.wasm", b"\x7fELF\x02\x01\x01\0\0\0\0\0")]
    {
        let output = context.program(context.file(name, contents)?).run()?;
        output.exits(125)?.ends_well()?.says(&[name, "WebAssembly"])?;
    }
    let component = context.program(context.file("component.wasm", b"\0asm\x0d\0\x01\0")?).run()?;
    component.exits(125)?.ends_well()?.says(&["component.wasm", "component"])?;
    Ok(())
}

/// The wait is 1.5 s; whoever spins takes as much of the CPU.
fn sleep_does_not_spin(context: &Context) -> Verdict {
    // The first run compiles.
    context.guest("sleep")?.run()?.exits(0)?;
    let baseline = context.guest("exit")?.run()?.cpu;
    let output = context.guest("sleep")?.run()?;
    output.exits(0)?;
    let [errno, events, event_errno, event_type, time @ ..] = output.stdout.as_slice() else {
        return Err(output.failed("expected 12 bytes"));
    };
    check_eq(
        "errno, events, errno and type of the event",
        [*errno, *events, *event_errno, *event_type],
        [0, 1, 0, 0],
    )?;
    let time: [u8; 8] = time.try_into()?;
    let time = Duration::from_nanos(u64::from_le_bytes(time));
    let in_time = (Duration::from_millis(1500)..Duration::from_secs(30)).contains(&time);
    check(in_time, || format!("slept for {time:?} instead of 1.5 s"))?;
    let cpu = output.cpu.saturating_sub(baseline);
    // QEMU itself wakes up now and then.
    let cpu_max = Duration::from_millis(context.on(500, 1000));
    check(cpu < cpu_max, || format!("sleeping took {cpu:?} of the CPU"))
}

fn random_differs(context: &Context) -> Verdict {
    let first = context.guest("random")?.run()?;
    let second = context.guest("random")?.run()?;
    first.exits(0)?;
    second.exits(0)?;
    check_eq("random bytes", first.stdout.len(), 64)?;
    check_eq("random bytes", second.stdout.len(), 64)?;
    let same = first.stdout.iter().zip(&second.stdout).filter(|(a, b)| a == b).count();
    // Each byte is the same with a chance of 1 in 256.
    check(same < 16, || format!("{same} of 64 bytes are the same in two runs"))?;
    let zeros = first.stdout.iter().filter(|byte| **byte == 0).count();
    check(zeros < 16, || format!("{zeros} of 64 random bytes are zero"))
}

fn clocks(context: &Context) -> Verdict {
    let output = context.guest("clock")?.run()?;
    output.exits(0)?.ends_well()?;
    let time = u64::from_le_bytes(output.stdout.as_slice().try_into()?);
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos() as u64;
    let apart = Duration::from_nanos(now.abs_diff(time));
    check(apart < Duration::from_secs(60), || format!("the time of day is {apart:?} wrong"))
}

fn lists(context: &Context) -> Verdict {
    let cache = context.folder().join("cache");
    let text = |words: &[&str]| {
        let output = context.command().options(words).variable("SELKIS_CACHE", &cache).run()?;
        output.exits(0)?;
        Ok::<_, crate::verdict::Failed>(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    check_eq("an empty cache", text(&["cache", "--json"])?.trim(), "[]")?;
    context.guest("exit")?.variable("SELKIS_CACHE", &cache).run()?.exits(0)?;
    // The program and the trap helper.
    check_eq("programs in the cache", text(&["cache", "--json"])?.matches("\"bytes\"").count(), 2)?;
    check(text(&["cache"])?.contains("2 compiled programs"), || "the list does not count two".into())?;
    check(text(&["cache", "prune"])?.starts_with("removed 2"), || "not both were removed".into())?;
    check_eq("an emptied cache", text(&["cache", "--json"])?.trim(), "[]")?;
    for words in [&["programs"][..], &["programs", "--json"]] {
        let list = text(words)?;
        check(list.contains("quickjs.wasm"), || format!("quickjs.wasm is not among {list}"))?;
    }
    Ok(())
}
