//! Orders the executable's code.

fn main() {
    let folder = std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets it");
    println!("cargo:rerun-if-changed=root.ld");
    println!("cargo:rustc-link-arg-bins=-T{folder}/root.ld");
}
