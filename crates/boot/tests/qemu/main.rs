//! The loader under OVMF. They are ignored by a plain `cargo test`, because they need what other builds make:
//! `SELKIS_BOOT` (selkis-boot.efi), `SELKIS_LIMINE_CHECK` (the executable limine-check; limine-check-fixed beside it),
//! `qemu-system-x86_64`, and OVMF in /usr/share/OVMF or where `SELKIS_OVMF` says. Run them with `--include-ignored`.
//!
//! The checking kernel ends QEMU with exit code 67 if all is as the protocol promises. Where the loader is to
//! refuse, a second disk holds an image that boots: the firmware goes on to it only if the loader returned an error.

mod errors;
mod machine;
mod variants;
