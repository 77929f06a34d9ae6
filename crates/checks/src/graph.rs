//! The dependency graph, as cargo tells it.

use crate::root;
use serde_json::Value;
use std::collections::BTreeSet;
use std::process::Command;

/// A package of the graph.
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its licence expression, if it says one.
    pub license: Option<String>,
    /// Is it one of this repository?
    pub is_member: bool,
}

/// Everything that this repository may be built from, on any platform.
pub struct Graph {
    packages: Vec<Package>,
}

impl Graph {
    /// Asks cargo.
    ///
    /// # Panics
    /// When cargo does not answer: a check that cannot look has failed.
    pub fn read() -> Self {
        let metadata: Value = serde_json::from_str(&cargo(&["metadata", "--format-version=1"]))
            .expect("cargo metadata is JSON");
        let members: BTreeSet<&str> =
            array(&metadata["workspace_members"]).filter_map(Value::as_str).collect();
        let packages = array(&metadata["packages"]).map(|package| Package {
            name: text(&package["name"]).to_owned(),
            version: text(&package["version"]).to_owned(),
            license: package["license"].as_str().map(str::to_owned),
            is_member: members.contains(text(&package["id"])),
        });
        Self { packages: packages.collect() }
    }

    /// Every package.
    pub fn packages(&self) -> impl Iterator<Item = &Package> {
        self.packages.iter()
    }

    /// The packages of this repository.
    pub fn members(&self) -> impl Iterator<Item = &Package> {
        self.packages().filter(|package| package.is_member)
    }
}

/// The names of all that is linked into a package of this repository when it is built for a target, itself not included:
/// with the features of just this build, without build scripts, procedural macros and tests.
///
/// # Panics
/// When cargo does not answer.
pub fn linked_into(package: &str, target: &str) -> BTreeSet<String> {
    let edges = "--edges=normal,no-proc-macro";
    let tree =
        cargo(&["tree", "--package", package, "--target", target, edges, "--prefix=none", "--format={p}"]);
    let names = tree.lines().skip(1).filter_map(|line| line.split(' ').next());
    names.filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

fn cargo(arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO"));
    let output = command.args(arguments).arg("--locked").current_dir(root()).output().expect("cargo runs");
    assert!(output.status.success(), "cargo {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("cargo writes UTF-8")
}

fn array(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().map(Vec::as_slice).unwrap_or_default().iter()
}

fn text(value: &Value) -> &str {
    value.as_str().expect("cargo metadata has a string here")
}
