//! Every dependency may be distributed as part of a GPL-3.0 work.

use checks::Graph;
use spdx::{Expression, ParseMode};

/// Licences that are compatible with GPL-3.0, after the list that the Free Software Foundation keeps.
const COMPATIBLE: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "GPL-3.0-only",
    "GPL-3.0-or-later",
    "ISC",
    "LGPL-3.0-only",
    "LGPL-3.0-or-later",
    "MIT",
    "MIT-0",
    "MPL-2.0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

#[test]
fn every_dependency_is_compatible_with_the_gpl() {
    let graph = Graph::read();
    let wrong: Vec<String> = graph
        .packages()
        .filter(|package| !is_compatible(package.license.as_deref()))
        .map(|package| format!("{} {}: {:?}", package.name, package.version, package.license))
        .collect();
    println!("figure: {} packages of compatible licences", graph.packages().count());
    assert!(wrong.is_empty(), "not known to be compatible with GPL-3.0:\n{}", wrong.join("\n"));
}

#[test]
fn the_rule_refuses_what_it_should() {
    assert!(is_compatible(Some("GPL-2.0-only OR MIT")));
    assert!(is_compatible(Some("Apache-2.0 WITH LLVM-exception OR MIT")));
    assert!(is_compatible(Some("MIT/Apache-2.0")), "the old way to write OR");
    assert!(!is_compatible(Some("MIT AND CDDL-1.0")));
    assert!(!is_compatible(Some("GPL-2.0-only")));
    assert!(!is_compatible(None));
}

fn is_compatible(license: Option<&str>) -> bool {
    let Some(license) = license else { return false };
    Expression::parse_mode(license, ParseMode::LAX).is_ok_and(|expression| {
        expression.evaluate(|one| one.license.id().is_some_and(|id| COMPATIBLE.contains(&id.name)))
    })
}
