//! Each mistake is found, at its place, and said in words that help.

use manifest::units::{ByteCount, CpuBudget};
use manifest::{Access, Children, Mitigations, PROGRAMS_MAX, Restart, System};
use std::path::Path;
use std::time::Duration;

fn parse(text: &str) -> Result<System, String> {
    System::parse(text, Path::new("conf/t.toml")).map_err(|mistakes| mistakes.to_string())
}

#[test]
fn a_whole_manifest_is_read() {
    let text = r#"
name = "tenants"
mitigations = "off"

[domains.bob]
memory = "64MiB"
cpu-share = 200
cpu-budget = "150%"
cpus = 2
processes = 3

[[domains.bob.programs]]
name = "web"
file = "bin/python.wasm"
arguments = ["-c", "print(1)"]
environment = { LANG = "C", HOME = "" }
directories = [{ path = "docs", name = "/docs", access = "read-only" }, { path = "data" }]
memory = "16MiB"
instances = 2
timeout = "10s"
cpu-time = "1500ms"
stack = "64KiB"
table-elements = 10
descriptors = 5
log-rate = "1MiB/s"
restart = "on-failure"

[[domains.bob.programs]]
file = "rg.wasm"
memory = 33554432

[domains.alice]
memory = "1MiB"
programs = [{ file = "a.wasm", log-rate = "unlimited" }]
"#;
    let system = parse(text).unwrap();
    assert_eq!((system.name.as_str(), system.mitigations), ("tenants", Mitigations::Off));
    let [bob, alice] = &system.domains[..] else { panic!("two domains, in the order of the file") };
    assert_eq!((bob.name.as_str(), bob.memory, bob.at.line), ("bob", ByteCount(64 << 20), 5));
    assert_eq!(bob.cpu_budget, Some(CpuBudget { ppm: 1_500_000 }));
    assert_eq!((bob.cpu_share, bob.cpus, bob.processes), (200, 2, 3));
    let [web, rg] = &bob.programs[..] else { panic!("two programs") };
    assert_eq!(
        (web.name.as_str(), web.file.as_path(), web.at.line),
        ("web", Path::new("bin/python.wasm"), 12)
    );
    assert_eq!(web.arguments, ["-c", "print(1)"]);
    assert_eq!(web.environment, [("LANG", "C"), ("HOME", "")].map(|(n, v)| (n.to_owned(), v.to_owned())));
    let directories = web.directories.iter();
    let directories: Vec<_> =
        directories.map(|d| (d.path.to_str().unwrap(), d.name.as_str(), d.access)).collect();
    assert_eq!(directories, [("docs", "/docs", Access::ReadOnly), ("data", "data", Access::ReadWrite)]);
    assert_eq!(
        (web.memory, web.instances, web.timeout, web.cpu_time),
        (ByteCount(16 << 20), 2, Some(Duration::from_secs(10)), Some(Duration::from_millis(1500)))
    );
    assert_eq!((web.stack, web.table_elements), (ByteCount(64 << 10), Some(10)));
    assert_eq!((web.descriptors, web.log_rate), (5, Some(ByteCount(1 << 20))));
    assert_eq!((rg.stack, rg.table_elements), (ByteCount(512 << 10), None));
    assert_eq!((rg.descriptors, rg.log_rate), (1024, Some(ByteCount(1 << 20))));
    assert_eq!(alice.programs[0].log_rate, None);
    assert_eq!((web.restart, rg.restart, rg.instances), (Restart::OnFailure, Restart::Never, 1));
    assert_eq!(
        (rg.name.as_str(), rg.memory, rg.timeout, rg.cpu_time),
        ("rg", ByteCount(32 << 20), None, None)
    );
    assert_eq!((alice.cpu_share, alice.cpu_budget, alice.cpus, alice.processes), (100, None, 1, 16));
    assert_eq!((alice.programs[0].name.as_str(), alice.programs[0].memory), ("a", ByteCount(1 << 20)));
    assert_eq!(system.place_of(Path::new("docs")), Path::new("conf/docs"));
    assert_eq!(system.place_of(Path::new("/docs")), Path::new("/docs"));
}

#[test]
fn a_system_is_named_after_its_file() {
    let system = parse("domains = { a = { memory = 1, programs = [{ file = 'x.wasm' }] } }").unwrap();
    assert_eq!((system.name.as_str(), system.mitigations), ("t", Mitigations::On));
}

/// A manifest of one domain and one program; `{d}` and `{p}` are further lines of each.
fn with(domain: &str, program: &str) -> String {
    format!("[domains.d]\nmemory = '9MiB'\n{domain}\n[[domains.d.programs]]\nfile = 'x.wasm'\n{program}\n")
}

/// The first lines of the messages, without the path.
fn mistakes(text: &str) -> Vec<String> {
    let mistakes = System::parse(text, Path::new("t.toml")).expect_err(text);
    let first = |wrong: String| wrong.lines().next().unwrap().to_owned();
    mistakes.iter().map(|mistake| format!("{} {}", mistake.at, first(mistake.wrong.to_string()))).collect()
}

#[test]
fn mistakes_of_the_system_are_placed() {
    for (text, wrong) in [
        ("", "1:1 there is no domain in it"),
        ("[domains]", "1:1 there is no domain in it"),
        (
            "domains = 1",
            "1:11 `1` is a whole number, and `domains` must be a table for each domain: [domains.some-name]",
        ),
        (
            "name = 'T'\n[domains.d]\nmemory = 1\nprograms=[{file='x'}]",
            "1:8 `T` cannot be the name of a system",
        ),
        (
            "name = 7\n[domains.d]\nmemory = 1\nprograms=[{file='x'}]",
            "1:8 `7` is a whole number, and `name` must be text in quotes",
        ),
        (
            "mitigation = 'on'\n[domains.d]\nmemory = 1\nprograms=[{file='x'}]",
            "1:1 the system has no key `mitigation`; did you mean `mitigations`?",
        ),
        (
            "colour = 'red'\n[domains.d]\nmemory = 1\nprograms=[{file='x'}]",
            "1:1 the system has no key `colour`",
        ),
        (
            "mitigations = 'offf'\n[domains.d]\nmemory = 1\nprograms=[{file='x'}]",
            "1:15 `offf` is nothing that `mitigations` can be; did you mean `off`?",
        ),
        (
            "mitigations = true\n[domains.d]\nmemory = 1\nprograms=[{file='x'}]",
            "1:15 `true` is true or false, and `mitigations` must be text in quotes",
        ),
        (
            "domains.Bob = { memory = 1, programs = [{ file = 'x' }] }",
            "1:9 `Bob` cannot be the name of a domain",
        ),
        ("domains.bob = 1", "1:15 `1` is a whole number, and `bob` must be a table: { … }"),
    ] {
        assert_eq!(mistakes(text), [wrong], "{text}");
    }
    let unnamed = System::parse(&with("", ""), Path::new("My System.toml")).unwrap_err().to_string();
    assert!(
        unnamed.starts_with("My System.toml:1:1: the name of a system would be `My System`, after its file"),
        "{unnamed}"
    );
}

#[test]
fn mistakes_of_a_domain_are_placed() {
    for (lines, wrong) in [
        ("cpu_share = 7", "3:1 the domain `d` has no key `cpu_share`; did you mean `cpu-share`?"),
        ("cpu-share = 0", "3:13 `0` is not in the range of `cpu-share`"),
        ("cpu-share = 10001", "3:13 `10001` is not in the range of `cpu-share`"),
        ("cpu-share = 1.5", "3:13 `1.5` is a number with a fraction, and `cpu-share` must be a whole number"),
        ("cpus = -1", "3:8 `-1` is not in the range of `cpus`"),
        ("cpus = 17", "3:8 `17` is not in the range of `cpus`"),
        (
            "processes = 99999999999999999999",
            "3:13 `99999999999999999999` is not in the range of `processes`",
        ),
        ("cpu-budget = '150%'", "3:14 `150%` is more than the domain can use with `cpus = 1`"),
        ("cpus = 2\ncpu-budget = '200.1%'", "4:14 `200.1%` is more than the domain can use with `cpus = 2`"),
        (
            "cpu-budget = '50'",
            "3:14 `50`: not a part of a CPU: write a number and %, as in 50%; two CPUs are 200%",
        ),
        (
            "cpu-budget = 0.5",
            "3:14 `0.5`: not a part of a CPU: write a number and %, as in 50%; two CPUs are 200%",
        ),
        ("cpu-budget = '0%'", "3:14 `0%`: zero is no limit that anything could keep"),
    ] {
        assert_eq!(mistakes(&with(lines, "")), [wrong], "{lines}");
    }
    for (text, wrong) in [
        ("[domains.d]\nprograms = [{ file = 'x' }]", "1:10 the domain `d` has no `memory`"),
        ("[domains.d]\nmemory = 1", "1:10 the domain `d` has no program"),
        ("[domains.d]\nmemory = 1\nprograms = []", "3:12 the domain `d` has no program"),
        (
            "[domains.d]\nmemory = 1\nprograms = 'x'",
            "3:12 `'x'` is text in quotes, and `programs` must be an array of tables: [[domains.some-name.programs]]",
        ),
        (
            "[domains.d]\nmemory = 1\n[domains.d.programs]\nfile = 'x'",
            "3:1 `[domains.d.programs]` is a table, and `programs` must be an array of tables: [[domains.some-name.programs]]",
        ),
        (
            "[domains.d]\nmemory = '64X'\nprograms = [{ file = 'x' }]",
            "2:10 `64X`: not a size: write a number of bytes, or one with KiB, MiB or GiB, as in 256MiB",
        ),
        (
            "[domains.d]\nmemory = 1.5\nprograms = [{ file = 'x' }]",
            "2:10 `1.5`: not a size: write a number of bytes, or one with KiB, MiB or GiB, as in 256MiB",
        ),
        (
            "[domains.d]\nmemory = -5\nprograms = [{ file = 'x' }]",
            "2:10 `-5`: not a size: write a number of bytes, or one with KiB, MiB or GiB, as in 256MiB",
        ),
        (
            "[domains.d]\nmemory = 0\nprograms = [{ file = 'x' }]",
            "2:10 `0`: zero is no limit that anything could keep",
        ),
        (
            "[domains.d]\nmemory = true\nprograms = [{ file = 'x' }]",
            "2:10 `true` is true or false, and `memory` must be text in quotes",
        ),
    ] {
        assert_eq!(mistakes(text), [wrong], "{text}");
    }
}

#[test]
fn mistakes_of_a_program_are_placed() {
    for (lines, wrong) in [
        ("argument = ['a']", "6:1 a program has no key `argument`; did you mean `arguments`?"),
        ("name = 'a b'", "6:8 `a b` cannot be the name of a program"),
        ("arguments = 'a'", "6:13 `'a'` is text in quotes, and `arguments` must be an array: [ … ]"),
        ("arguments = ['a', 1]", "6:19 `1` is a whole number, and `arguments` must be text in quotes"),
        (
            "arguments = [\"a\\u0000\"]",
            "6:14 `\"a\\u0000\"` holds a NUL character, which no program could read",
        ),
        (
            "environment = ['A=1']",
            "6:15 `['A=1']` is an array, and `environment` must be a table: { NAME = \"value\" }",
        ),
        ("environment = { A = 1 }", "6:21 `1` is a whole number, and `A` must be text in quotes"),
        ("environment = { 'A=B' = '1' }", "6:17 `A=B` cannot be the name of a variable"),
        ("environment = { '' = '1' }", "6:17 `` cannot be the name of a variable"),
        (
            "environment = { A = \"\\u0000\" }",
            "6:21 `\"\\u0000\"` holds a NUL character, which no program could read",
        ),
        ("directories = ['a']", "6:16 `'a'` is text in quotes, and `directories` must be a table: { … }"),
        ("directories = [{ name = 'a' }]", "6:16 a directory has no `path`"),
        ("directories = [{ path = '' }]", "6:25 `path` is empty"),
        ("directories = [{ path = 'a', name = '' }]", "6:37 `name` is empty"),
        (
            "directories = [{ path = 'a', access = 'readonly' }]",
            "6:39 `readonly` is nothing that `access` can be; did you mean `read-only`?",
        ),
        ("directories = [{ path = 'a', mode = 'ro' }]", "6:30 a directory has no key `mode`"),
        (
            "directories = [\n  { path = 'a' },\n  { path = 'b', name = 'a' },\n]",
            "8:12 there is a directory `a` already, in line 7",
        ),
        ("memory = '10MiB'", "1:10 the programs of `d` may use 10 MiB, and the domain 9 MiB"),
        (
            "timeout = 10",
            "6:11 `10`: not a duration: write a number with its unit, as in 500ms, 10s, 2m or 1h",
        ),
        (
            "timeout = '10 days'",
            "6:11 `10 days`: not a duration: write a number with its unit, as in 500ms, 10s, 2m or 1h",
        ),
        (
            "cpu-time = '2'",
            "6:12 `2`: not a duration: write a number with its unit, as in 500ms, 10s, 2m or 1h",
        ),
        (
            "stack = '1KiB'",
            "6:9 `1KiB`: not a stack: write a size of whole pages from 16KiB to 512KiB, as in 256KiB",
        ),
        (
            "stack = 1000000",
            "6:9 `1000000`: not a stack: write a size of whole pages from 16KiB to 512KiB, as in 256KiB",
        ),
        ("table-elements = 0", "6:18 `0` is not in the range of `table-elements`"),
        ("descriptors = 2", "6:15 `descriptors` is 2, and its streams and directories alone are 3"),
        ("descriptors = 70000", "6:15 `70000` is not in the range of `descriptors`"),
        (
            "log-rate = '1MiB'",
            "6:12 `1MiB`: not a rate: write a size for a second, as in 1MiB/s, or \"unlimited\"",
        ),
        (
            "log-rate = 1000",
            "6:12 `1000`: not a rate: write a size for a second, as in 1MiB/s, or \"unlimited\"",
        ),
        ("log_rate = '1MiB/s'", "6:1 a program has no key `log_rate`; did you mean `log-rate`?"),
        (
            "restart = 'on_failure'",
            "6:11 `on_failure` is nothing that `restart` can be; did you mean `on-failure`?",
        ),
        ("restart = true", "6:11 `true` is true or false, and `restart` must be text in quotes"),
        (
            "[[domains.d.programs]]\nfile = 'x.wasm'\nmemory = 1",
            "6:1 there is a program `x` already, in line 4",
        ),
    ] {
        assert_eq!(mistakes(&with("", lines)), [wrong], "{lines}");
    }
}

#[test]
fn mistakes_of_a_programs_file_and_of_several_programs_are_placed() {
    let begin = "[domains.d]\nmemory = '8MiB'\n";
    for (text, wrong) in [
        ("[[domains.d.programs]]\nname = 'x'", &["3:1 a program has no `file`"][..]),
        ("[[domains.d.programs]]\nfile = ''", &["4:8 `file` is empty"]),
        (
            "[[domains.d.programs]]\nfile = 'a/Web.App.wasm'",
            &["3:1 the name of a program would be `Web.App`, after its file, and cannot be"],
        ),
        (
            "[[domains.d.programs]]\nfile='a'\n[[domains.d.programs]]\nfile='b'\nmemory='1MiB'",
            &["3:1 the domain `d` has several processes: each program needs a `memory` of its own"],
        ),
        (
            "[[domains.d.programs]]\nfile='a'\nmemory='4MiB'\n[[domains.d.programs]]\nfile='b'\nmemory='5MiB'",
            &["1:10 the programs of `d` may use 9 MiB, and the domain 8 MiB"],
        ),
        (
            "processes = 1\n[[domains.d.programs]]\nfile='a'\nmemory=1\n[[domains.d.programs]]\nfile='b'\nmemory=1",
            &["1:10 the programs of `d` are 2 processes, and it may have 1"],
        ),
        (
            "processes = 4\n[[domains.d.programs]]\nfile='a'\nmemory=1\ninstances=3\n[[domains.d.programs]]\nfile='b'\nmemory=1\ninstances=2",
            &["1:10 the programs of `d` are 5 processes, and it may have 4"],
        ),
        (
            "[[domains.d.programs]]\nfile='a'\ninstances=2",
            &["3:1 the domain `d` has several processes: each program needs a `memory` of its own"],
        ),
        (
            "[[domains.d.programs]]\nfile='a'\ninstances=3\nmemory='3MiB'",
            &["1:10 the programs of `d` may use 9 MiB, and the domain 8 MiB"],
        ),
        ("[[domains.d.programs]]\nfile='a'\ninstances=-1", &["5:11 `-1` is not in the range of `instances`"]),
    ] {
        assert_eq!(mistakes(&format!("{begin}{text}")), wrong, "{text}");
    }
}

/// What may be started.
fn family(domain: &str, parent: &str, child: &str) -> String {
    format!(
        "[domains.d]\nmemory = '16MiB'\n{domain}\n[[domains.d.programs]]\nfile = 'parent'\nmemory = '2MiB'\n{parent}\n\
         [[domains.d.programs]]\nfile = 'child'\nmemory = '3MiB'\n{child}\n\
         [domains.e]\nmemory = '1MiB'\nprograms = [{{ file = 'stranger' }}]\n"
    )
}

#[test]
fn programs_that_others_start_are_read() {
    let system =
        parse(&family("processes = 4", "start = ['child', 'parent']\ninstances = 2", "instances = 0"))
            .unwrap();
    let domain = &system.domains[0];
    let start: Vec<&[usize]> = domain.programs.iter().map(|program| &program.start[..]).collect();
    assert_eq!(start, [&[1, 0][..], &[]]);
    assert_eq!(domain.programs[1].instances, 0);
    // Two of four processes are there from the beginning; a quarter of the memory is for what runs all.
    let own = Children::process_bytes(2 << 20, 512 << 10);
    assert_eq!(own, (2 << 20) + (512 << 10) + (2 << 20) / 8 + (320 << 10));
    let children = Children { first_number: 2, processes_max: 2, memory_bytes_max: (12 << 20) - 2 * own };
    assert_eq!(domain.children(), children);
    assert_eq!(system.domains[1].children(), Children::NONE);
    let own =
        parse("[domains.d]\nmemory = '16MiB'\nprograms = [{ file = 'x', memory = '4MiB', start = ['x'] }]")
            .unwrap();
    assert_eq!(own.domains[0].programs[0].start, [0]);
}

#[test]
fn mistakes_of_what_may_be_started_are_placed() {
    let only_started = "says nothing about a program with `instances = 0`";
    for (domain, parent, child, wrong) in [
        (
            "",
            "start = ['chidl']",
            "",
            "7:10 there is no program `chidl` in the domain `d`; did you mean `child`?",
        ),
        ("", "start = ['child', 'stranger']", "", "7:19 there is no program `stranger` in the domain `d`"),
        ("", "start = ['child', 'child']", "", "7:19 `child` stands in `start` twice"),
        ("", "start = 'child'", "", "7:9 `'child'` is text in quotes, and `start` must be an array: [ … ]"),
        ("", "start = [1]", "", "7:10 `1` is a whole number, and `start` must be text in quotes"),
        (
            "",
            "",
            "instances = 0",
            "8:1 nothing starts `child`: its `instances` is 0, and it is in no `start`",
        ),
        (
            "",
            "start = ['child']",
            "instances = 0\narguments = []",
            &format!("12:13 `arguments` {only_started}"),
        ),
        ("", "start = ['child']", "instances = 0\nstart = []", &format!("12:9 `start` {only_started}")),
        (
            "",
            "start = ['child']",
            "instances = 0\nrestart = 'always'",
            &format!("12:11 `restart` {only_started}"),
        ),
        (
            "processes = 1",
            "start = ['child']",
            "instances = 0",
            "8:1 no process of `d` is left for `child` to be started: it may have 1",
        ),
        (
            "",
            "start = ['child']\ninstances = 3",
            "instances = 0",
            "9:1 `child`, with its stack and what runs it, may use 4.2 MiB, and the other programs of `d` leave 2.8 MiB: it could not be started",
        ),
    ] {
        assert_eq!(mistakes(&family(domain, parent, child)), [wrong], "{parent} {child}");
    }
    let alone = "[domains.d]\nmemory = '8MiB'\n[[domains.d.programs]]\nfile='a'\nstart=['a']";
    let wrong = "3:1 the domain `d` has several processes: each program needs a `memory` of its own";
    assert_eq!(mistakes(alone), [wrong]);
}

#[test]
fn all_mistakes_are_told_in_the_order_of_the_lines() {
    let text = "name = 'N'\n[domains.a]\nmemry = 1\n[[domains.a.programs]]\nfile = 3\nrestart = ''\n[domains.'b c']\nmemory = 1\n";
    let message = System::parse(text, Path::new("x/t.toml")).unwrap_err().to_string();
    let lines: Vec<&str> = message.lines().filter(|line| !line.starts_with("    ")).collect();
    assert_eq!(
        lines,
        [
            "there are 6 mistakes in x/t.toml",
            "x/t.toml:1:8: `N` cannot be the name of a system",
            "x/t.toml:2:10: the domain `a` has no `memory`",
            "x/t.toml:3:1: the domain `a` has no key `memry`; did you mean `memory`?",
            "x/t.toml:5:8: `3` is a whole number, and `file` must be text in quotes",
            "x/t.toml:6:11: `` is nothing that `restart` can be",
            "x/t.toml:7:10: `b c` cannot be the name of a domain",
        ]
    );
    assert!(message.contains("\n    write `never`, `on-failure` or `always`\n"), "{message}");
}

#[test]
fn what_is_no_toml_is_told_with_the_mistakes_in_the_rest() {
    let text =
        "[domains.a]\nmemory = 64M\ncpus = 0\n[domains.a]\n[[domains.a.programs]]\nfile = \"x\nname = 'B'\n";
    let found = mistakes(text);
    let places: Vec<&str> = found.iter().map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(places, ["2:10", "3:8", "4:10", "6:10", "7:8"], "{found:#?}");
    assert!(found[0].ends_with(", and this is `64M`"), "{}", found[0]);
    assert!(found[2].contains("duplicate key"), "{}", found[2]);
}

#[test]
fn a_domain_can_be_given_so_many_programs() {
    let programs: String = (0..=PROGRAMS_MAX)
        .map(|number| format!("[[domains.d.programs]]\nfile='p{number}'\nmemory=1\n"))
        .collect();
    let text = format!("[domains.d]\nmemory = '1MiB'\nprocesses = 1000\n{programs}");
    let line = 4 + 3 * PROGRAMS_MAX;
    assert_eq!(
        mistakes(&text),
        [format!("{line}:1 `p128` would be program 129 of the domain `d`, and 128 is the most")]
    );
}

/// A hundred are enough to see; the others are counted.
#[test]
fn a_flood_of_mistakes_is_cut() {
    let keys: String = (0..1000).map(|number| format!("k{number} = 1\n")).collect();
    let message = System::parse(&keys, Path::new("t.toml")).unwrap_err().to_string();
    assert!(message.starts_with("there are 1001 mistakes in t.toml\n"), "{message}");
    assert!(message.ends_with("\nand 901 more"), "{message}");
}
