//! Style that a machine can check. The rest is in the reviewer's eye.

use checks::{Graph, SourceFile, files};

const LINES_MAX: usize = 700;

/// Complains about each file that `fault` finds something in.
fn expect_none(what: &str, fault: impl Fn(&SourceFile) -> Option<String>) {
    let found: Vec<String> = files()
        .iter()
        .filter_map(|file| fault(file).map(|fault| format!("{}: {fault}", file.path)))
        .collect();
    assert!(found.is_empty(), "{what}:\n{}", found.join("\n"));
}

fn is_code(file: &SourceFile) -> bool {
    ["rs", "sh", "go"].iter().any(|extension| file.has_extension(extension)) || file.text().starts_with("#!/")
}

/// The first line that holds one of `needles`, with its number.
fn first_line_with(text: &str, needles: &[String]) -> Option<String> {
    let holds = |line: &&str| needles.iter().any(|needle| line.contains(needle.as_str()));
    let (number, line) = text.lines().enumerate().find(|(_, line)| holds(line))?;
    Some(format!("line {}: {}", number + 1, line.trim()))
}

#[test]
fn files_can_be_read_in_a_sitting() {
    expect_none("longer than a file should be", |file| {
        let lines = file.text().lines().count();
        (is_code(file) && lines > LINES_MAX).then(|| format!("{lines} lines"))
    });
}

#[test]
fn nothing_binary_is_kept() {
    expect_none("not text", |file| {
        let binary = file.bytes.contains(&0) || std::str::from_utf8(&file.bytes).is_err();
        binary.then(|| format!("{} bytes", file.bytes.len()))
    });
}

/// Written in two halves so that this file does not hold them.
#[test]
fn what_is_to_be_done_has_an_issue() {
    let marks = [["TO", "DO"].concat(), ["FIX", "ME"].concat()];
    let macros = [["to", "do!("].concat(), ["unimple", "mented!("].concat()];
    expect_none("left open without an issue number", |file| {
        let is_open = |line: &&str| {
            let marked = marks.iter().any(|mark| line.contains(mark.as_str())) && !line.contains("(#");
            marked || macros.iter().any(|name| line.contains(name.as_str()))
        };
        is_code(file).then(|| file.text().lines().find(is_open).map(str::to_owned)).flatten()
    });
}

/// Packages are asked for by name; where a registry is, the client's configuration knows.
#[test]
fn no_registry_is_named_by_its_host() {
    let hosts: Vec<String> = [
        &["index", "crates", "io"][..],
        &["static", "crates", "io"],
        &["pypi", "org"],
        &["files", "pythonhosted", "org"],
        &["registry", "npmjs", "org"],
        &["deb", "debian", "org"],
        &["security", "debian", "org"],
        &["proxy", "golang", "org"],
    ]
    .iter()
    .map(|parts| parts.join("."))
    .collect();
    expect_none("names the host of a package registry", |file| first_line_with(file.text(), &hosts));
}

#[test]
fn every_crate_has_a_front_page() {
    const WORDS_MIN: usize = 15;
    expect_none("says too little about itself", |file| {
        let folder = file.crate_folder()?;
        let inside = &file.path[folder.len()..];
        let has_library = files().iter().any(|other| other.path == format!("{folder}/src/lib.rs"));
        let is_front = inside == "/src/lib.rs" || (inside == "/src/main.rs" && !has_library);
        let page = file.text().lines().filter_map(|line| line.strip_prefix("//!"));
        let words = page.flat_map(str::split_whitespace).count();
        (is_front && words < WORDS_MIN).then(|| format!("{words} words of front page"))
    });
}

/// A crate that may hold `unsafe` writes the lints out with that one changed.
#[test]
fn every_crate_takes_the_workspace_lints_and_licence() {
    let own = ["unsafe_op_in_unsafe_fn = \"deny\"", "missing_docs = \"warn\"", "_unsafe_blocks = \"deny\""];
    expect_none("does not take them", |file| {
        let is_manifest =
            file.crate_folder().is_some_and(|folder| file.path == format!("{folder}/Cargo.toml"));
        let takes_lints = file.text().contains("[lints]\nworkspace = true")
            || own.iter().all(|lint| file.text().contains(lint));
        let takes_both = takes_lints && file.text().contains("license.workspace = true");
        (is_manifest && !takes_both).then(|| "lacks the lints or license.workspace = true".to_owned())
    });
}

#[test]
fn a_package_is_named_as_its_folder() {
    let graph = Graph::read();
    expect_none("named otherwise", |file| {
        let folder = file.crate_folder().filter(|folder| file.path == format!("{folder}/Cargo.toml"))?;
        let name = match folder.split_once('/')? {
            ("images", image) => format!("image-{image}"),
            (_, name) => name.to_owned(),
        };
        let known = graph.members().any(|member| member.name == name);
        (!known).then(|| format!("the workspace has no package {name}"))
    });
}

/// A checksum that is not one would make `setup/fetch` refuse everything, or, if empty, check nothing.
#[test]
fn every_program_is_pinned() {
    let table =
        files().into_iter().find(|file| file.path == "setup/programs.toml").expect("the table is there");
    let mut pins = 0;
    for line in table.text().lines() {
        let Some((key, value)) = line.split_once(" = ") else { continue };
        if key == "download" || key == "sha256" {
            let value = value.trim_matches('"');
            let is_digest = value.len() == 64 && value.bytes().all(|byte| byte.is_ascii_hexdigit());
            assert!(is_digest, "{line}: not a SHA-256");
            pins += 1;
        }
    }
    assert!(pins > 0);
}
