//! See the library.

fn main() -> std::process::ExitCode {
    scenarios::main()
}
