//! Modules of which there is far too much of something: they run, or it is said why not, and nobody else is hurt.

use crate::guests;
use crate::runner::{Depth, On, Scenario};
use crate::selkis::Context;
use crate::system::Up;
use crate::verdict::{Failed, Verdict, check, check_eq};
use control::{Domain, End, State};
use rustix::process::Signal;
use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;

pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "huge-modules", on: On::Both, run: modules },
    Scenario { name: "huge-data", on: On::Both, run: data },
    Scenario { name: "huge-modules-in-a-domain", on: On::All, run: in_a_domain },
];

/// Each with what it is called.
fn modules(context: &Context) -> Verdict {
    let path = context.file("functions.wat", functions(100_000))?;
    let output = context.program(path).patience(3).run()?;
    output.exits(134)?.ends_well()?.says(&["unreachable", " 0: calls_the_last", "table elements 100000"])?;
    for (name, text) in
        [("imports", imports(10_000)), ("globals", globals(100_000)), ("exports", exports(100_000))]
    {
        let path = context.file(&format!("{name}.wat"), text)?;
        context.program(path).patience(3).run()?.exits(0)?.ends_well()?;
    }
    let path = context.file("strange.wat", strange_imports(10_000))?;
    let output = context.program(path).run()?;
    output.exits(125)?.ends_well()?.says(&["env::f0", "9996 more", "nobody serves"])?;
    let path = context.file("table.wat", "(module (table 10000000 funcref) (func (export \"_start\")))")?;
    let output = context.program(&path).run()?;
    output.exits(125)?.ends_well()?.says(&["10000000 elements", "may have 1048576", "--table-elements"])?;
    let output =
        context.program(path).options(["--memory", "16MiB", "--table-elements", "10000000"]).run()?;
    output.exits(125)?.ends_well()?.says(&["77 MiB", "may have 16 MiB", "--memory"])?;
    Ok(())
}

/// As much as its memory holds, and more than that; and a file of more than any program may have.
fn data(context: &Context) -> Verdict {
    let mib = if context.depth == Depth::Soak { 500 } else { 48 };
    let path = data_segments(context, mib)?;
    let enough = format!("{}MiB", mib + 1);
    let output = context.program(&path).options(["--memory", &enough]).patience(10).run()?;
    output.exits(0)?.ends_well()?.writes("")?;
    let output = context.program(&path).options(["--memory", "16MiB"]).patience(10).run()?;
    output.exits(125)?.ends_well()?.says(&[&format!("{mib} MiB"), "may have 16 MiB", "--memory"])?;
    let path = context.folder().join("gib.wasm");
    File::create(&path)?.set_len(1 << 30)?;
    let output = context.program(&path).options(["--memory", "2GiB"]).run()?;
    output.exits(125)?.ends_well()?.says(&["gib.wasm` is too large for a program: 512 MiB is the most"])?;
    Ok(())
}

/// In a domain that is too small for some of them, beside a program that does not notice.
fn in_a_domain(context: &Context) -> Verdict {
    let modules = [
        ("functions", functions(100_000), &[134, 125][..]),
        ("more-functions", functions(150_000), &[134, 125]),
        ("types", types(60_000), &[125]),
        ("imports", imports(120_000), &[125]),
        ("globals", globals(60_000), &[0, 125]),
        ("exports", exports(200_000), &[125]),
    ];
    let mut text = String::from("[domains.crowd]\nmemory = \"48MiB\"\n");
    context.file("calm.wat", guests::text("ready-spin")?)?;
    let names = modules.iter().map(|(name, ..)| *name);
    for name in ["calm"].into_iter().chain(names) {
        write!(text, "[[domains.crowd.programs]]\nfile = \"{name}.wat\"\nmemory = \"1MiB\"\n")?;
    }
    for (name, module, _) in &modules {
        context.file(&format!("{name}.wat"), module)?;
    }
    let command = context.up(context.file("crowd.toml", text)?).patience(3);
    let mut up = Up::start_command(context, command, "crowd")?;
    up.until("crowd", "started")?;
    let have_ended =
        |domain: &Domain| domain.programs[1..].iter().all(|program| program.state == State::Ended);
    let domain = up.until_domain(have_ended)?;
    check_eq("the calm one", (domain.programs[0].state, domain.programs[0].restarts), (State::Running, 0))?;
    for (program, (name, _, expected)) in domain.programs[1..].iter().zip(&modules) {
        let Some(End::Exited { status }) = program.last_end else {
            return Err(Failed(format!("{name}: {:?}", program.last_end)));
        };
        check(expected.contains(&status), || format!("{name} ended with status {status}"))?;
    }
    up.end(Signal::INT)?.exits(130)?.ends_well()?;
    Ok(())
}

/// All in a table; the last is called by its place there.
fn functions(count: usize) -> String {
    let mut text = format!("(module (type $f (func (param i32) (result i32))) (table {count} funcref)\n");
    for number in 0..count {
        _ = writeln!(text, "(func (type $f) (i32.add (local.get 0) (i32.const {number})))");
    }
    let numbers: Vec<String> = (0..count).map(|number| number.to_string()).collect();
    _ = writeln!(text, "(elem (i32.const 0) func {})", numbers.join(" "));
    _ = writeln!(
        text,
        "(func $calls_the_last (export \"_start\")
           (drop (call_indirect (type $f) (i32.const 1) (i32.const {}))) (unreachable)))",
        count - 1
    );
    text
}

fn imports(count: usize) -> String {
    let one = "(import \"wasi_snapshot_preview1\" \"sched_yield\" (func (result i32)))\n";
    format!("(module {} (func (export \"_start\") (drop (call {}))))", one.repeat(count), count - 1)
}

fn strange_imports(count: usize) -> String {
    let all: String = (0..count).map(|number| format!("(import \"env\" \"f{number}\" (func))\n")).collect();
    format!("(module {all} (func (export \"_start\")))")
}

fn globals(count: usize) -> String {
    let all: String = (0..count).map(|number| format!("(global (mut i32) (i32.const {number}))\n")).collect();
    format!("(module {all} (func (export \"_start\")))")
}

fn exports(count: usize) -> String {
    let all: String = (0..count).map(|number| format!("(export \"e{number}\" (func 0))\n")).collect();
    format!("(module (func (export \"_start\")) {all})")
}

/// No two of them the same.
fn types(count: usize) -> String {
    let parameters = |number: usize| {
        let words = (0..9).map(|place| ["i32", "i64", "f32", "f64"][number >> (2 * place) & 3]);
        words.collect::<Vec<_>>().join(" ")
    };
    let all: String =
        (0..count).map(|number| format!("(type (func (param {})))\n", parameters(number))).collect();
    format!("(module {all} (func (export \"_start\")))")
}

/// So many segments of a MiB, in the binary format: as text it would be several times as long.
fn data_segments(context: &Context, mib: usize) -> Verdict<PathBuf> {
    const MIB: usize = 1 << 20;
    let section = |id: u8, body: &[u8]| [&[id][..], &leb(body.len()), body].concat();
    let start: Vec<Vec<u8>> = (0..mib)
        .map(|number| [&[0, 0x41][..], &signed_leb(number * MIB), &[0x0b], &leb(MIB)].concat())
        .collect();
    let path = context.folder().join("data.wasm");
    let mut file = File::create(&path)?;
    file.write_all(b"\0asm\x01\0\0\0")?;
    file.write_all(&section(1, &[1, 0x60, 0, 0]))?;
    file.write_all(&section(3, &[1, 0]))?;
    file.write_all(&section(5, &[&[1, 0][..], &leb(mib * 16)].concat()))?;
    file.write_all(&section(7, b"\x01\x06_start\0\0"))?;
    // Traps unless the last byte is what was put there.
    let last = [&[0x41][..], &signed_leb(mib * MIB - 1), &[0x2d, 0, 0, 0x41], &signed_leb(7)].concat();
    let body = [&[0][..], &last, &[0x47, 0x04, 0x40, 0x00, 0x0b, 0x0b]].concat();
    file.write_all(&section(10, &[&[1][..], &leb(body.len()), &body].concat()))?;
    let length = leb(mib).len() + start.iter().map(|start| start.len() + MIB).sum::<usize>();
    file.write_all(&[&[11][..], &leb(length), &leb(mib)].concat())?;
    let bytes = vec![7; MIB];
    for start in start {
        file.write_all(&start)?;
        file.write_all(&bytes)?;
    }
    Ok(path)
}

/// A number as WebAssembly writes it: seven bits to a byte, the lowest first.
fn leb(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = (number & 0x7f) as u8;
        number >>= 7;
        if number == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}

/// The same where a number may be negative: the highest bit is the sign.
fn signed_leb(number: usize) -> Vec<u8> {
    let mut bytes = leb(number);
    if let Some(last) = bytes.last_mut().filter(|last| **last & 0x40 != 0) {
        *last |= 0x80;
        bytes.push(0);
    }
    bytes
}
