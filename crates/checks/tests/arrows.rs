//! Who may be built from what. The arrows are those of ARCHITECTURE.md.

use checks::{Graph, linked_into};
use std::collections::BTreeMap;

const LINUX: &str = "x86_64-unknown-linux-gnu";
const BARE: &str = "x86_64-unknown-none";
const UEFI: &str = "x86_64-unknown-uefi";

/// A rule: into none of `who`, built for `target`, is any of `never` linked, directly or through others. A name that
/// ends in `*` stands for all that begin so.
struct Rule {
    who: &'static [&'static str],
    target: &'static str,
    never: &'static [&'static str],
    why: &'static str,
}

const RULES: &[Rule] = &[
    Rule {
        who: &["abi"],
        target: BARE,
        never: &["*"],
        why: "the kernel boundary is plain data that everybody can read",
    },
    Rule {
        who: &["ring"],
        target: BARE,
        never: &["*"],
        why: "both sides of a channel agree on a few words and nothing else",
    },
    Rule {
        who: &["kernel", "machine", "image-kernel"],
        target: BARE,
        never: &[
            "wasm*",
            "cranelift*",
            "wasi",
            "engine",
            "runtime",
            "bundle",
            "virtio",
            "link",
            "hosted",
            "store",
        ],
        why: "the kernel knows no WebAssembly, no WASI, no file, no program",
    },
    Rule {
        who: &["kernel"],
        target: BARE,
        never: &["machine"],
        why: "the kernel's logic is tested on the host, over a trait",
    },
    Rule {
        who: &["engine", "runtime", "wasi", "bundle", "link", "ring", "virtio", "image-runtime"],
        target: BARE,
        never: &["kernel", "machine", "boot", "hosted", "cli", "compiler", "store"],
        why: "the library OS sees the kernel only as `abi`, and runs on any that serves it",
    },
    Rule {
        who: &["image-runtime"],
        target: BARE,
        never: &["cranelift-codegen", "rustix", "tokio"],
        why: "the library OS loads compiled code and stands on `abi` alone",
    },
    Rule {
        who: &["control", "supervisor"],
        target: BARE,
        never: &[
            "abi", "bundle", "kernel", "machine", "boot", "hosted", "cli", "store", "runtime", "wasi",
            "wasm*",
        ],
        why: "a system is looked into in the same way wherever it runs, and whatever it runs",
    },
    Rule {
        who: &["hosted", "cli"],
        target: LINUX,
        never: &["kernel", "machine", "runtime", "engine", "cranelift-codegen", "wasmtime"],
        why: "hosted is Linux serving `abi`; the library OS is an executable that it maps",
    },
    Rule {
        who: &["compiler"],
        target: LINUX,
        never: &["kernel", "machine", "runtime", "hosted", "wasi", "cli"],
        why: "the compiler turns bytes into an artifact and runs nothing",
    },
    Rule {
        who: &["boot"],
        target: UEFI,
        never: &["kernel", "machine", "runtime", "engine", "wasi", "wasmtime", "hosted", "cli"],
        why: "the loader starts whatever speaks its protocol",
    },
    Rule {
        who: &["diskimage", "executable", "store"],
        target: LINUX,
        never: &["kernel", "machine", "runtime", "wasi", "wasmtime", "hosted", "cli"],
        why: "they keep and lay out bytes, whatever the bytes are",
    },
    Rule {
        who: &["manifest"],
        target: LINUX,
        never: &["kernel", "machine", "runtime", "wasi", "wasmtime", "hosted", "cli"],
        why: "what a manifest means does not depend on who runs it",
    },
];

/// What is not part of the system: tools and tests, which may look at anything.
const OUTSIDE: &[&str] = &[
    "checks",
    "coverage",
    "scenarios",
    "bench",
    "counter",
    "marker",
    "image-bench-runtime",
    "image-limine-check",
    "image-probe",
    "image-step-runtime",
    "peer",
];

#[test]
fn every_arrow_points_the_right_way() {
    let mut linked = BTreeMap::new();
    let mut wrong = Vec::new();
    for rule in RULES {
        for who in rule.who {
            let names = linked.entry((*who, rule.target)).or_insert_with(|| linked_into(who, rule.target));
            let forbidden = names.iter().filter(|name| rule.never.iter().any(|never| matches(never, name)));
            wrong.extend(forbidden.map(|name| format!("{name} is linked into {who}, but {}", rule.why)));
        }
    }
    println!("figure: {} packages have their arrows right", linked.len());
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// A new crate must be given its place.
#[test]
fn every_crate_has_its_place() {
    let graph = Graph::read();
    let has_place = |name: &str| OUTSIDE.contains(&name) || RULES.iter().any(|rule| rule.who.contains(&name));
    let without: Vec<&str> =
        graph.members().map(|member| member.name.as_str()).filter(|name| !has_place(name)).collect();
    assert!(without.is_empty(), "no rule in {} speaks of {without:?}", file!());
}

fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(beginning) => name.starts_with(beginning),
        None => name == pattern,
    }
}
