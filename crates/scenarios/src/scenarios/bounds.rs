//! Memory: what a program may have, what a stream may take, what a machine holds.

use crate::fetch::fetch;
use crate::runner::{On, Platform, Scenario};
use crate::selkis::{Context, Input, pattern};
use crate::verdict::{Verdict, check, check_eq};

pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "large-stdin", on: On::Both, run: large_stdin },
    Scenario { name: "memory-limit", on: On::Both, run: memory_limit },
    Scenario { name: "tables-count-as-memory", on: On::Both, run: tables_count_as_memory },
    Scenario { name: "four-gib", on: On::Both, run: four_gib },
    Scenario { name: "small-machine", on: On::Only(Platform::Vm), run: small_machine },
    Scenario { name: "exhausted-machine", on: On::Only(Platform::Vm), run: exhausted_machine },
    Scenario { name: "exhausted-by-host", on: On::Only(Platform::Vm), run: exhausted_by_host },
];

/// 1 GiB hosted, 64 MiB into the machine; the command itself needs no more memory for it.
fn large_stdin(context: &Context) -> Verdict {
    const COMMAND_BYTES_MAX: u64 = 64 << 20;
    let length: u64 = context.on(1 << 30, 64 << 20);
    let output = context.guest("count")?.input(Input::Pattern(length)).patience(5).run()?;
    output.exits(0)?.ends_well()?;
    let sum = pattern()
        .take((length / 8) as usize)
        .enumerate()
        .fold(0u64, |sum, (index, word)| sum.wrapping_add(word.rotate_left((index % 64) as u32)));
    let expected = [length.to_le_bytes(), sum.to_le_bytes()].concat();
    check_eq("length and sum", &output.stdout, &expected)?;
    let peak = output.peak_bytes;
    check(peak > 0 && peak < COMMAND_BYTES_MAX, || format!("the command used {} MiB of memory", peak >> 20))
}

fn memory_limit(context: &Context) -> Verdict {
    for (option, pages) in [("16MiB", 256u32), ("1MiB", 16), ("64KiB", 1), ("40000KiB", 625)] {
        let output = context.guest("grow")?.options(["--memory", option]).run()?;
        output.exits(0)?.writes(pages.to_le_bytes())?;
    }
    Ok(())
}

fn tables_count_as_memory(context: &Context) -> Verdict {
    context.guest("limits")?.options(["--memory", "16MiB"]).run()?.exits(0)?.ends_well()?;
    Ok(())
}

fn four_gib(context: &Context) -> Verdict {
    let output = context.guest("four-gib")?.run()?;
    output.exits(125)?.ends_well()?.says(&["four-gib.wat", "memory", "--memory"])?;
    Ok(())
}

/// 64 MiB hold QuickJS and its heap. They just hold CPython, and not what it is made to want; 32 MiB do not hold its code.
/// Both are said.
fn small_machine(context: &Context) -> Verdict {
    let small = ["--vm-memory", "64MiB"];
    let quickjs = context.program(fetch("quickjs.wasm")?).options(small);
    quickjs.arguments(["-e", "console.log(6 * 7)"]).patience(3).run()?.exits(0)?.writes("42\n")?;
    let python = context.program(fetch("python.wasm")?).options(small);
    let output = python.arguments(["-c", "print(len(bytearray(150 << 20)))"]).patience(3).run()?;
    output.exits(137)?.ends_well()?.writes("")?.says(&["python.wasm", "out of memory", "--vm-memory"])?;
    let python = context.program(fetch("python.wasm")?).options(["--vm-memory", "32MiB"]);
    let output = python.arguments(["-c", "print(6 * 7)"]).patience(3).run()?;
    output.exits(125)?.writes("")?.says(&["32 MiB", "--vm-memory"])?;
    Ok(())
}

/// The program may have more than the machine has: it is told no, or it is ended, and the machine stops in order.
fn exhausted_machine(context: &Context) -> Verdict {
    let output = context.guest("grow")?.options(["--memory", "512MiB", "--vm-memory", "64MiB"]).run()?;
    output.ends_well()?;
    match output.code() {
        Some(137) => output.says(&["memory"]).map(|_| ()),
        _ => {
            output.exits(0)?;
            let pages = u32::from_le_bytes(output.stdout.as_slice().try_into()?);
            check((16..1024).contains(&pages), || format!("the program got {pages} pages"))
        }
    }
}

/// The last page of the machine is touched by a host function, and still the machine stops in order.
fn exhausted_by_host(context: &Context) -> Verdict {
    let small = ["--memory", "512MiB", "--vm-memory", "64MiB"];
    let output = context.guest("touches-by-host")?.options(small).run()?;
    output.exits(137)?.ends_well()?.writes("")?.says(&["out of memory", "--vm-memory"])?;
    Ok(())
}
