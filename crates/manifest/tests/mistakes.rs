//! Each mistake is found, at its place, and said in words that help.

use manifest::units::{ByteCount, CpuBudget};
use manifest::{Access, Mitigations, Restart, System};
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
memory = "32MiB"
timeout = "10s"
restart = "on-failure"

[[domains.bob.programs]]
file = "rg.wasm"
memory = 33554432

[domains.alice]
memory = "1MiB"
programs = [{ file = "a.wasm" }]
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
    assert_eq!((web.memory, web.timeout), (ByteCount(32 << 20), Some(Duration::from_secs(10))));
    assert_eq!((web.restart, rg.restart), (Restart::OnFailure, Restart::Never));
    assert_eq!((rg.name.as_str(), rg.memory, rg.timeout), ("rg", ByteCount(32 << 20), None));
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
