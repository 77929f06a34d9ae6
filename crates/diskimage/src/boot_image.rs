//! Images that boot: a loader, its configuration, a kernel, modules.

use std::fmt;
use std::path::Path;

use crate::{ImageError, Source, write_image};

/// Where firmware looks for the loader of a removable disk (UEFI 2.10, section 3.5.1.1).
const LOADER_PATH: &str = "/EFI/BOOT/BOOTX64.EFI";
/// Where the stock loader and ours look for their configuration, in every version.
const CONF_PATH: &str = "/limine.conf";
const KERNEL_PATH: &str = "/boot/kernel.elf";

/// What an image boots. The loader is ours (`selkis-boot.efi`) or the stock Limine's `BOOTX64.EFI`: the rest of the
/// image is the same for both.
#[derive(Clone, Debug)]
pub struct BootImage {
    /// The UEFI application.
    pub loader: Source,
    /// The kernel.
    pub kernel: Source,
    /// Its command line; no newlines, and no macros (`${`).
    pub cmdline: String,
    /// In order.
    pub modules: Vec<Module>,
    /// Further lines of the entry: option and value.
    pub options: Vec<(String, String)>,
}

/// A module of a boot image.
#[derive(Clone, Debug)]
pub struct Module {
    /// Its name in the directory `/boot`.
    pub name: String,
    /// Its contents.
    pub source: Source,
    /// What the kernel finds beside it.
    pub string: String,
}

/// A value that a configuration cannot express.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfError {
    /// Which option.
    pub option: String,
    /// Its value.
    pub value: String,
}

impl fmt::Display for ConfError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} cannot stand in limine.conf as {}: no newlines, no spaces at its ends, no \"${{\"",
            self.value, self.option
        )
    }
}

impl std::error::Error for ConfError {}

impl BootImage {
    /// The configuration, for Limine 8 and later ones (which spell some options differently) and our own loader.
    ///
    /// # Errors
    /// [`ConfError`].
    pub fn conf(&self) -> Result<String, ConfError> {
        let kernel = format!("boot():{KERNEL_PATH}");
        let mut conf = Conf("timeout: 0\nserial: yes\n\n/Selkis\n".to_owned());
        conf.option("protocol", "limine")?;
        conf.option("path", &kernel)?; // 9 and later
        conf.option("kernel_path", &kernel)?; // 8
        // `cmdline` and `module_cmdline` are known to all.
        conf.option("cmdline", &self.cmdline)?;
        for module in &self.modules {
            conf.option("module_path", &format!("boot():{}", module.path()))?;
            conf.option("module_cmdline", &module.string)?;
        }
        for (option, value) in &self.options {
            conf.option(option, value)?;
        }
        Ok(conf.0)
    }

    /// Writes the image to `path`, as [`write_image`] does.
    ///
    /// # Errors
    /// [`ImageError`].
    pub fn write(&self, path: &Path, conf: String) -> Result<(), ImageError> {
        let modules: Vec<(String, Source)> =
            self.modules.iter().map(|module| (module.path(), module.source.clone())).collect();
        let fixed = [
            (LOADER_PATH, self.loader.clone()),
            (CONF_PATH, Source::Bytes(conf.into_bytes())),
            (KERNEL_PATH, self.kernel.clone()),
        ];
        let modules = modules.iter().map(|(path, source)| (path.as_str(), source.clone()));
        let files: Vec<(&str, Source)> = fixed.into_iter().chain(modules).collect();
        write_image(path, &files)
    }
}

impl Module {
    fn path(&self) -> String {
        format!("/boot/{}", self.name)
    }
}

struct Conf(String);

impl Conf {
    fn option(&mut self, option: &str, value: &str) -> Result<(), ConfError> {
        // Limine cuts values at 4095 characters (CONFIG.md, "Options").
        const VALUE_BYTES_MAX: usize = 4095;
        let plain = !value.contains(['\n', '\r', '\0'])
            && !value.contains("${")
            && value.trim() == value
            && value.len() <= VALUE_BYTES_MAX;
        if !plain {
            return Err(ConfError { option: option.to_owned(), value: value.to_owned() });
        }
        if !value.is_empty() {
            self.0.push_str(&format!("    {option}: {value}\n"));
        }
        Ok(())
    }
}
