//! Programs that nobody here wrote, doing real work; what they write is compared with what they write in wasmtime.

use crate::fetch::fetch;
use crate::runner::{On, Scenario};
use crate::selkis::{Context, Output, Run, run_command};
use crate::verdict::{Failed, Verdict, check, check_eq};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "real-clang", on: On::Both, run: clang },
    Scenario { name: "real-python", on: On::Both, run: python },
    Scenario { name: "real-ripgrep", on: On::Both, run: ripgrep },
    Scenario { name: "real-go", on: On::Both, run: go },
    Scenario { name: "real-quickjs", on: On::Both, run: quickjs },
];

/// For what is compiled first, and for what runs on an emulated CPU.
const PATIENCE: u32 = 10;
const REFERENCE_TIME: Duration = Duration::from_secs(600);

/// A program run with directories and arguments, by Selkis and by wasmtime.
struct Work<'a> {
    program: PathBuf,
    argv0: Option<&'a str>,
    /// Each with the program's name for it; for reading.
    directories: Vec<(PathBuf, &'a str)>,
    options: &'a [&'a str],
    arguments: Vec<&'a str>,
}

impl Work<'_> {
    fn on_selkis<'c>(&self, context: &'c Context) -> Run<'c> {
        let mut run = context.program(&self.program).options(self.options).patience(PATIENCE);
        for (host, guest) in &self.directories {
            run = run.grant(host, &format!("::{guest}:ro"));
        }
        if let Some(name) = self.argv0 {
            run = run.options(["--argv0", name]);
        }
        run.arguments(&self.arguments)
    }

    fn on_wasmtime(&self) -> Verdict<Output> {
        let mut command = Command::new(fetch("wasmtime")?);
        command.arg("run");
        for (host, guest) in &self.directories {
            command.arg(format!("--dir={}::{guest}", host.display()));
        }
        if let Some(name) = self.argv0 {
            command.args(["--argv0", name]);
        }
        command.arg(&self.program).args(&self.arguments);
        run_command(&mut command, REFERENCE_TIME)
    }

    /// Runs it on both; what both wrote.
    fn compare(&self, context: &Context) -> Verdict<Vec<u8>> {
        let reference = self.on_wasmtime()?;
        reference.exits(0)?;
        let output = self.on_selkis(context).run()?;
        output.exits(0)?.ends_well()?.writes(&reference.stdout)?;
        check_eq("standard error", output.errors(), reference.errors())?;
        Ok(output.stdout)
    }
}

const PYTHON_SCRIPT: &str = r#"
import hashlib, os, re, sqlite3, sys
total = hashlib.sha256()
words = re.compile(r"\b([a-z]+)-(\d+)\b")
db = sqlite3.connect(":memory:")
db.execute("create table word (file text, name text, number integer)")
for folder, folders, files in os.walk("/data"):
    folders.sort()
    for name in sorted(files):
        path = os.path.join(folder, name)
        with open(path, "rb") as file:
            data = file.read()
        total.update(path.encode() + data)
        found = words.findall(data.decode())
        db.executemany("insert into word values (?, ?, ?)", [(path, n, int(i)) for n, i in found])
print(sys.version_info[:2], total.hexdigest())
for row in db.execute("select name, count(*), sum(number), min(file) from word group by name order by 3 desc, 1"):
    print(*row)
try:
    open("/data/new", "w")
    print("written")
except OSError:
    print("refused")
sys.stderr.write("done\n")
"#;

fn python(context: &Context) -> Verdict {
    let tree = tree(context, 60)?;
    let mut work = Work {
        program: fetch("python.wasm")?,
        argv0: None,
        directories: vec![(tree, "/data")],
        options: &[],
        arguments: vec!["-c", PYTHON_SCRIPT],
    };
    // wasmtime's command has no read-only grant, so it writes where Selkis refuses.
    let reference = work.on_wasmtime()?;
    fs::remove_file(context.folder().join("tree/new"))?;
    let expected = String::from_utf8_lossy(&reference.stdout).replace("written", "refused");
    check(expected.lines().count() == 4, || reference.failed("the reference is too short").0)?;
    let output = work.on_selkis(context).run()?;
    output.exits(0)?.writes(expected)?.says(&["done\n"])?;
    check_eq("standard error", output.errors(), "done\n")?;
    work.arguments = vec!["-c", "import sys; sys.exit(42)"];
    work.on_selkis(context).run()?.exits(42)?.writes("")?;
    work.arguments = vec!["-c", "print(6 * 7); raise ValueError('as intended')"];
    work.on_selkis(context).run()?.exits(1)?.writes("42\n")?.says(&["ValueError: as intended"])?;
    Ok(())
}

const JAVASCRIPT: &str = r#"
const sieve = new Uint8Array(100000);
let primes = [];
for (let i = 2; i < sieve.length; i++) {
  if (sieve[i]) continue;
  primes.push(i);
  for (let j = i * i; j < sieve.length; j += i) sieve[j] = 1;
}
console.log(primes.length, primes.at(-1));
console.log(JSON.stringify("Selkis läuft: α-β 42".match(/(\p{L}+)-(\p{L}+) (\d+)/u)));
console.log((2n ** 521n - 1n).toString(36));
console.log([3, 1, 2].map(Math.sqrt).map(x => x.toFixed(12)).sort().join(" "));
console.log(new Date(0).toISOString(), new Map([["a", 1]]).get("a"), String(new Error("kept")));
"#;

fn quickjs(context: &Context) -> Verdict {
    let folder = context.folder().join("scripts");
    fs::create_dir(&folder)?;
    fs::write(folder.join("script.js"), JAVASCRIPT)?;
    let work = Work {
        program: fetch("quickjs.wasm")?,
        argv0: None,
        directories: vec![(folder, "/scripts")],
        options: &[],
        arguments: vec!["/scripts/script.js"],
    };
    let output = work.compare(context)?;
    check(output.starts_with(b"9592 99991\n"), || "the primes below 100,000 are wrong".into())
}

fn ripgrep(context: &Context) -> Verdict {
    let tree = tree(context, 1000)?;
    let mut work = Work {
        program: fetch("rg.wasm")?,
        argv0: None,
        directories: vec![(tree, "/tree")],
        options: &[],
        arguments: vec!["--sort", "path", "--line-number", r"\bneedle-[0-9]*7\b", "/tree"],
    };
    let output = work.compare(context)?;
    let lines = output.iter().filter(|byte| **byte == b'\n').count();
    check_eq("matches", lines, 100)?;
    work.arguments = vec!["--sort", "path", "--count", "hay", "/tree"];
    work.compare(context)?;
    work.arguments = vec!["not to be found", "/tree"];
    work.on_selkis(context).run()?.exits(1)?.writes("")?;
    Ok(())
}

fn go(context: &Context) -> Verdict {
    let tree = tree(context, 100)?;
    fs::copy(tree.join("folder-0/file-0.txt"), tree.join("copy.txt"))?;
    let mut work = Work {
        program: fetch("inventory.wasm")?,
        argv0: None,
        directories: vec![(tree, "/tree")],
        options: &[],
        arguments: vec!["/tree"],
    };
    let output = work.compare(context)?;
    check(output.starts_with(b"{"), || "the report is no JSON object".into())?;
    work.arguments = vec![];
    work.on_selkis(context).run()?.exits(2)?.writes("")?.says(&["usage"])?;
    Ok(())
}

const C_PROGRAM: &str = r#"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int by_length(const void *a, const void *b) {
    return (int)strlen(*(char *const *)a) - (int)strlen(*(char *const *)b);
}

int main(int count, char **arguments) {
    qsort(arguments + 1, count - 1, sizeof *arguments, by_length);
    for (int i = 1; i < count; i++) printf("%s %.6f\n", arguments[i], sqrt(i));
    fprintf(stderr, "%d arguments\n", count - 1);
    return 40 + count;
}
"#;

/// Compiles and links a C program and runs what comes out. Object and executable go through standard output, since
/// what is written to files in a machine stays there.
fn clang(context: &Context) -> Verdict {
    let sysroot = fetch("wasi-sysroot")?;
    let folder = context.folder().join("c");
    fs::create_dir(&folder)?;
    fs::write(folder.join("program.c"), C_PROGRAM)?;
    let mut work = Work {
        program: fetch("clang.wasm")?,
        argv0: Some("clang"),
        directories: vec![(folder.clone(), "/c"), (sysroot.join("include"), "/sysroot/include")],
        options: &["--memory", "1GiB"],
        arguments:
            "--target=wasm32-wasip1 --sysroot=/sysroot -resource-dir /sysroot -O2 -c /c/program.c -o -"
                .split(' ')
                .collect(),
    };
    let object = work.compare(context)?;
    check(object.starts_with(b"\0asm"), || "the object is no WebAssembly".into())?;
    fs::write(folder.join("program.o"), object)?;

    work.argv0 = Some("wasm-ld");
    work.directories[1] = (sysroot.join("lib"), "/lib");
    work.arguments = "/lib/wasm32-wasip1/crt1-command.o /c/program.o /lib/wasm32-wasip1/libc.a \
                      /lib/wasm32-unknown-wasip1/libclang_rt.builtins.a -o -"
        .split_whitespace()
        .collect();
    let executable = work.compare(context)?;
    let program = context.file("program.wasm", executable)?;

    let work = Work {
        program,
        argv0: None,
        directories: vec![],
        options: &[],
        arguments: vec!["three", "a", "seventeen", "to"],
    };
    let output = work.on_selkis(context).run()?;
    output.exits(45)?.writes("a 1.000000\nto 1.414214\nthree 1.732051\nseventeen 2.000000\n")?;
    check_eq("standard error", output.errors(), "4 arguments\n")?;
    let reference = work.on_wasmtime()?;
    check_eq("wasmtime's output", reference.stdout, output.stdout)
}

/// `count` text files in folders of ten, each with a needle; where the tree is.
fn tree(context: &Context, count: usize) -> Verdict<PathBuf> {
    let tree = context.folder().join("tree");
    for number in 0..count {
        let folder = tree.join(format!("folder-{}", number / 10));
        fs::create_dir_all(&folder)?;
        fs::write(folder.join(format!("file-{number}.txt")), text(number))?;
    }
    exists(&tree)?;
    Ok(tree)
}

fn text(number: usize) -> String {
    let hay = (0..20 + number % 13).map(|line| format!("line {line}: hay-{} and hay again\n", line * number));
    let mut lines: Vec<String> = hay.collect();
    let place = number % lines.len();
    lines.insert(place, format!("here is needle-{number}, in the hay\n"));
    lines.concat()
}

fn exists(path: &Path) -> Verdict {
    check(path.is_dir(), || Failed(format!("{} was not made", path.display())).0)
}
