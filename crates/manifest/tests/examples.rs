//! The manifests that come with the project are ones.

use manifest::units::ByteCount;
use manifest::{Machine, System};
use std::fs;
use std::path::Path;

#[test]
fn every_manifest_of_the_project_can_be_started() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap();
    let catalogue = fs::read_to_string(root.join("setup/programs.toml")).unwrap();
    let names: Vec<&str> =
        catalogue.lines().filter_map(|line| line.strip_prefix("[\"")?.strip_suffix("\"]")).collect();
    // What the README asks for, on a machine that anybody has.
    let machine = Machine { memory: ByteCount(1 << 30), cpus: 1, processes_max: 100 };
    let mut count = 0;
    for entry in fs::read_dir(root.join("systems")).unwrap() {
        let path = entry.unwrap().path();
        let system = System::read(&path).unwrap_or_else(|error| panic!("{error}"));
        system.check(machine).unwrap_or_else(|mistakes| panic!("{mistakes}"));
        system.check_files(|name| names.contains(&name)).unwrap_or_else(|mistakes| panic!("{mistakes}"));
        count += 1;
    }
    assert!(count > 0);
}

#[test]
fn the_manifest_on_the_front_page_is_one() {
    let page = include_str!("../src/lib.rs").lines().map_while(|line| line.strip_prefix("//!"));
    let example = page.skip_while(|line| *line != " ```toml").skip(1).take_while(|line| *line != " ```");
    let text: Vec<&str> = example.collect();
    let system =
        System::parse(&text.join("\n"), Path::new("x.toml")).unwrap_or_else(|mistakes| panic!("{mistakes}"));
    assert_eq!(system.name.as_str(), "tenants");
}
