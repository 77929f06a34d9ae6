//! Programs that do not end by themselves: time limits, Ctrl-C, readers that go away.

use crate::processes::{children, ends_within, only_child, pidfd};
use crate::runner::{On, Platform, Scenario};
use crate::selkis::{Context, Input, Run};
use crate::verdict::{Verdict, check, check_eq};
use rustix::process::{Signal, pidfd_send_signal};
use std::fs;
use std::io::Write;
use std::time::{Duration, Instant};

pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "timeout", on: On::Both, run: timeout },
    Scenario {
        name: "timeout-a-hundred-times",
        on: On::Only(Platform::Hosted),
        run: timeout_a_hundred_times,
    },
    Scenario { name: "timeout-while-waiting", on: On::Both, run: timeout_while_waiting },
    Scenario { name: "cpu-time", on: On::Both, run: cpu_time },
    Scenario { name: "timeout-not-reached", on: On::Both, run: timeout_not_reached },
    Scenario { name: "ctrl-c-in-a-loop", on: On::Both, run: ctrl_c_in_a_loop },
    Scenario { name: "ctrl-c-while-reading", on: On::Both, run: ctrl_c_while_reading },
    Scenario { name: "ctrl-c-at-any-moment", on: On::Both, run: ctrl_c_at_any_moment },
    Scenario { name: "sigterm-and-sighup", on: On::Both, run: sigterm_and_sighup },
    Scenario { name: "compiler-is-leashed", on: On::Only(Platform::Hosted), run: compiler_is_leashed },
    Scenario { name: "reader-is-stuck", on: On::Both, run: reader_is_stuck },
    Scenario { name: "reader-goes-away", on: On::Both, run: reader_goes_away },
    Scenario { name: "closes-stdout", on: On::Both, run: closes_stdout },
    Scenario {
        name: "ctrl-c-on-a-stuck-machine",
        on: On::Only(Platform::Vm),
        run: ctrl_c_on_a_stuck_machine,
    },
    Scenario { name: "machine-dies", on: On::Only(Platform::Vm), run: machine_dies },
    Scenario { name: "nothing-left-behind", on: On::Only(Platform::Vm), run: nothing_left_behind },
];

const EBADF: i32 = 8;
const EPIPE: i32 = 64;

fn times_out(run: Run) -> Verdict {
    run.run()?.exits(124)?.ends_well()?.says(&["time"])?;
    Ok(())
}

fn timeout(context: &Context) -> Verdict {
    for guest in ["spin", "spin-exports", "spin-start", "spin-host"] {
        times_out(context.guest(guest)?.options(["--timeout", "300ms"]))?;
    }
    Ok(())
}

/// The last tick may come when everything is being taken down: it ended 2 runs of 100.
fn timeout_a_hundred_times(context: &Context) -> Verdict {
    for _ in 0..100 {
        times_out(context.guest("spin-host")?.options(["--timeout", "20ms"]))?;
    }
    Ok(())
}

fn timeout_while_waiting(context: &Context) -> Verdict {
    times_out(context.guest("cat")?.options(["--timeout", "300ms"]).input(Input::Open))?;
    times_out(context.guest("sleep")?.options(["--timeout", "300ms"]))
}

/// Running counts, waiting does not: the sleeper waits for 1.5 s.
fn cpu_time(context: &Context) -> Verdict {
    for guest in ["spin", "spin-host"] {
        let run = context.guest(guest)?.options(["--cpu-time", "200ms"]).run()?;
        run.exits(124)?.ends_well()?.says(&["CPU time", "--cpu-time"])?;
    }
    context.guest("sleep")?.options(["--cpu", "1s"]).run()?.exits(0)?;
    Ok(())
}

fn timeout_not_reached(context: &Context) -> Verdict {
    context.guest("exit")?.options(["--timeout", "50s"]).arguments(["5"]).run()?.exits(5)?;
    Ok(())
}

fn ctrl_c_in_a_loop(context: &Context) -> Verdict {
    let mut running = context.guest("ready-spin")?.start()?;
    check_eq("output", running.read_output(6)?, b"ready\n")?;
    running.signal(Signal::INT)?;
    running.finish()?.exits(130)?.ends_well()?.says(&["interrupted"])?;
    Ok(())
}

fn ctrl_c_while_reading(context: &Context) -> Verdict {
    let mut running = context.guest("cat")?.input(Input::Open).start()?;
    running.stdin()?.write_all(b"there?")?;
    check_eq("output", running.read_output(6)?, b"there?")?;
    running.signal(Signal::INT)?;
    running.finish()?.exits(130)?.ends_well()?;
    Ok(())
}

/// Also while nothing runs yet, and while the program runs and has said nothing.
fn ctrl_c_at_any_moment(context: &Context) -> Verdict {
    for milliseconds in [30, 200, 500, 1000, 1500] {
        let running = context.guest("spin")?.start()?;
        std::thread::sleep(Duration::from_millis(milliseconds));
        running.signal(Signal::INT)?;
        let output = running.finish()?;
        // Until the program is compiled, Linux ends the command as it ends any.
        if !output.was_ended_by(Signal::INT) {
            output.exits(130)?.ends_well()?;
        }
    }
    Ok(())
}

fn sigterm_and_sighup(context: &Context) -> Verdict {
    for signal in [Signal::TERM, Signal::HUP] {
        let mut running = context.guest("ready-spin")?.start()?;
        running.read_output(6)?;
        running.signal(signal)?;
        running.finish()?.exits(130)?.ends_well()?;
    }
    Ok(())
}

/// A command that is killed while it waits for the compiler leaves no compiler behind.
fn compiler_is_leashed(context: &Context) -> Verdict {
    let program = context.program(crate::fetch::fetch("python.wasm")?);
    let running = program.variable("SELKIS_CACHE", context.folder().join("cache")).start()?;
    let limit = Instant::now() + Duration::from_secs(60);
    let compiler = loop {
        let compiles = |pid: &i32| {
            let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            words.split(|byte| *byte == 0).any(|word| word == b"--output")
        };
        if let Some(pid) = children(&running)?.into_iter().find(compiles) {
            break pid;
        }
        check(Instant::now() < limit, || "no compiler was started".into())?;
        std::thread::yield_now();
    };
    let compiler = pidfd(compiler)?;
    running.signal(Signal::KILL)?;
    check(ends_within(&compiler, 10)?, || "the compiler outlived the command".into())?;
    running.finish()?;
    Ok(())
}

/// Neither a time limit nor a signal waits for whoever does not read.
fn reader_is_stuck(context: &Context) -> Verdict {
    let started = Instant::now();
    let running = context.guest("yes")?.options(["--timeout", "2s"]).start()?;
    running.finish_unread()?.exits(124)?.ends_well()?.says(&["time"])?;
    for signal in [Signal::TERM, Signal::INT] {
        let running = context.guest("yes")?.start()?;
        running.fill_output()?;
        running.signal(signal)?;
        running.finish_unread()?.exits(130)?.ends_well()?.says(&["interrupted"])?;
    }
    check(started.elapsed() < Duration::from_secs(40), || format!("it took {:?}", started.elapsed()))
}

/// As in `selkis run yes.wat | head`: the program sees EPIPE.
fn reader_goes_away(context: &Context) -> Verdict {
    let mut running = context.guest("yes")?.start()?;
    check_eq("output", running.read_output(4)?, b"y\ny\n")?;
    running.close_output();
    running.finish()?.exits(EPIPE)?.ends_well()?;
    Ok(())
}

fn closes_stdout(context: &Context) -> Verdict {
    context.guest("closes-stdout")?.run()?.exits(EBADF)?.writes("")?.says(&["still here"])?;
    Ok(())
}

/// A machine that cannot react is switched off when its time to stop is over, and at once for a person who presses Ctrl-C
/// again and again.
fn ctrl_c_on_a_stuck_machine(context: &Context) -> Verdict {
    for (presses, time) in [(1, 10..60), (20, 0..8)] {
        let mut running = context.guest("ready-spin")?.start()?;
        running.read_output(6)?;
        let (_, qemu) = only_child(&running)?;
        pidfd_send_signal(&qemu, Signal::STOP)?;
        let started = Instant::now();
        for _ in 0..presses {
            running.signal(Signal::INT)?;
            std::thread::sleep(Duration::from_millis(50));
        }
        running.finish()?.exits(130)?.says(&["switched off"])?;
        let took = started.elapsed().as_secs();
        check(time.contains(&took), || format!("{presses} times Ctrl-C: it took {took} s"))?;
    }
    Ok(())
}

fn machine_dies(context: &Context) -> Verdict {
    let mut running = context.guest("ready-spin")?.start()?;
    running.read_output(6)?;
    let (_, qemu) = only_child(&running)?;
    pidfd_send_signal(&qemu, Signal::KILL)?;
    running.finish()?.exits(125)?.says(&["the machine stopped before the program ended", "SIGKILL"])?;
    Ok(())
}

/// Killed with no chance to clean up, the command takes QEMU with it.
fn nothing_left_behind(context: &Context) -> Verdict {
    let temporary = context.folder().join("temporary");
    fs::create_dir(&temporary)?;
    let mut running = context.guest("ready-spin")?.variable("TMPDIR", &temporary).start()?;
    running.read_output(6)?;
    let (number, qemu) = only_child(&running)?;
    running.signal(Signal::KILL)?;
    let output = running.finish()?;
    check(output.code().is_none(), || output.failed("expected that SIGKILL ends it").0)?;
    check(ends_within(&qemu, 10)?, || format!("QEMU {number} outlived the command"))?;
    check_eq("files left behind", fs::read_dir(&temporary)?.count(), 0)
}
