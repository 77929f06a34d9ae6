//! The part of `limine.conf` that this loader reads (Limine's CONFIG.md).
//!
//! Global options: `timeout` (seconds, or `no`), `serial` (`yes`), `verbose` (`yes`), `default_entry` (a number).
//! Options of an entry: `protocol` (must be `limine`), `path` or `kernel_path`, `cmdline` or `kernel_cmdline`,
//! and, each as often as there are modules, `module_path` with `module_string` or `module_cmdline`. Paths are
//! `boot():/…` only: hashes (`#`), compression (`$`), other volumes and macros are refused where they would matter.
//! Other options are collected in [`Config::ignored`], because the stock loader has a hundred of them.
//!
//! Options of our own make the loader hand over in ways that the protocol allows and that it would not choose by
//! itself, so that a kernel can be tested against them. The stock loader ignores them; here a wrong value is an error.
//!
//! | option | value | effect |
//! |---|---|---|
//! | `selkis_test_hhdm_base` | address, e.g. `0xffff910000000000` | the direct map starts there (higher half, 1 GiB aligned, below the kernel) |
//! | `selkis_test_slide` | bytes, e.g. `0x4200000` | a relocatable kernel is slid up by this (a multiple of its alignment) |
//! | `selkis_test_modules` | `above_4g` | modules are placed at physical addresses of 4 GiB and more |
//! | `selkis_test_kernel` | `above_4g` | so is the kernel |
//! | `selkis_test_base_revision_max` | `0` to `6` | behaves as an older loader that knows no higher base revision |
//! | `selkis_test_memory_map` | `reversed` | the firmware's map is taken from its end, and entries lie in memory last first (the pointers stay sorted) |
//! | | `fragmented` | every entry of usable memory is given as several that touch |
//! | | `overlapping` | adds unaligned reserved entries over memory that is not usable |

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use crate::protocol::BaseRevision;

/// What the file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// How long to wait before the entry is started.
    pub timeout: Timeout,
    /// Whether messages go to the first serial port as well.
    pub serial: Switch,
    /// Whether progress is told.
    pub verbose: Switch,
    /// The entry to start.
    pub entry: Entry,
    /// Options that were not understood, with their line numbers.
    pub ignored: Vec<(usize, String)>,
}

/// Before the entry is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timeout {
    /// Start at once.
    None,
    /// Wait this long or for a key.
    Seconds(u32),
    /// Wait for a key.
    Key,
}

/// An option that is `yes` or anything else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Switch {
    /// `yes`.
    On,
    /// Everything else.
    Off,
}

/// One entry of the menu.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// As the menu shows it.
    pub title: String,
    /// Path of the executable within the volume, with a leading slash.
    pub path: String,
    /// Command line of the executable.
    pub cmdline: String,
    /// In order.
    pub modules: Vec<Module>,
    /// Options of our own.
    pub variants: Variants,
}

/// A module of an entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Module {
    /// Path within the volume, with a leading slash.
    pub path: String,
    /// What the executable finds beside it.
    pub string: String,
}

/// The `selkis_test_…` options.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Variants {
    /// Where the direct map starts.
    pub hhdm_base: Option<u64>,
    /// What a relocatable executable is slid by, in bytes, from where it would stand else.
    pub slide: Option<u64>,
    /// Where modules are placed.
    pub modules: Placement,
    /// Where the executable is placed.
    pub kernel: Placement,
    /// The highest base revision that the loader claims to know.
    pub base_revision_max: Option<BaseRevision>,
    /// What the memory map looks like.
    pub memory_map: MapVariant,
}

/// Where in physical memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Placement {
    /// Below 4 GiB if there is room.
    #[default]
    Low,
    /// At 4 GiB or above, or not at all.
    Above4Gib,
}

/// What the memory map looks like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MapVariant {
    /// Plain: sorted, merged.
    #[default]
    Plain,
    /// Made from the firmware's map in reverse, entries in memory last first.
    Reversed,
    /// Usable memory in several touching pieces.
    Fragmented,
    /// With unaligned reserved entries over others.
    Overlapping,
}

/// Why a configuration is refused, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// Counted from 1; 0 if no line is to blame.
    pub line: usize,
    /// What is wrong.
    pub kind: ConfigErrorKind,
}

/// What is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigErrorKind {
    /// Not UTF-8.
    NotText,
    /// No line begins an entry.
    NoEntry,
    /// `default_entry` names none.
    NoSuchEntry(usize),
    /// The entry says no `path`.
    NoPath,
    /// The entry says no `protocol`, or another one.
    Protocol(String),
    /// Not `boot():/…`.
    Path(String),
    /// A macro stands in a value that matters.
    Macro(String),
    /// A string belongs to no module.
    StringWithoutModule,
    /// Entries inside entries.
    SubEntry,
    /// One of our own options has a value that is none.
    Value {
        /// The option.
        option: String,
        /// Its value.
        value: String,
    },
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line > 0 {
            write!(f, "line {}: ", self.line)?;
        }
        match &self.kind {
            ConfigErrorKind::NotText => write!(f, "it is not text"),
            ConfigErrorKind::NoEntry => {
                write!(f, "it has no entry (a line such as \"/Selkis\"); was it cut short?")
            }
            ConfigErrorKind::NoSuchEntry(number) => write!(f, "default_entry {number} names no entry"),
            ConfigErrorKind::NoPath => {
                write!(f, "the entry has no \"path: boot():/…\"; was the file cut short?")
            }
            ConfigErrorKind::Protocol(name) if name.is_empty() => {
                write!(f, "the entry has no \"protocol: limine\"; was the file cut short?")
            }
            ConfigErrorKind::Protocol(name) => {
                write!(f, "protocol \"{name}\": this loader knows only \"limine\"")
            }
            ConfigErrorKind::Path(path) => {
                write!(
                    f,
                    "path \"{path}\": this loader reads only \"boot():/…\", without hash or compression"
                )
            }
            ConfigErrorKind::Macro(value) => write!(f, "\"{value}\": this loader knows no macros"),
            ConfigErrorKind::StringWithoutModule => write!(f, "there is no module_path before it"),
            ConfigErrorKind::SubEntry => write!(f, "this loader knows no entries inside entries"),
            ConfigErrorKind::Value { option, value } => write!(f, "\"{value}\" is no value for {option}"),
        }
    }
}

/// Reads a configuration.
///
/// # Errors
/// The first thing that keeps the chosen entry from being started as it is written.
pub fn parse(file: &[u8]) -> Result<Config, ConfigError> {
    let text = core::str::from_utf8(file).map_err(|_| error(0, ConfigErrorKind::NotText))?;
    let lines = || text.split(['\n', '\r']).scan(0, number_lines).map(|(n, line)| (n, line.trim()));
    let mut config = Config {
        timeout: Timeout::Seconds(5), // Limine's own default
        serial: Switch::Off,
        verbose: Switch::Off,
        entry: Entry::default(),
        ignored: Vec::new(),
    };
    let mut wanted = 1usize;
    for (_, name, value) in lines().filter_map(option_of_line) {
        match name.as_str() {
            "timeout" => config.timeout = timeout(value),
            "serial" => config.serial = switch(value),
            "verbose" => config.verbose = switch(value),
            "default_entry" => wanted = value.parse().unwrap_or(1),
            _ => {}
        }
    }
    let titles = lines().filter(|(_, line)| line.starts_with('/'));
    if let Some((line, _)) = titles.clone().find(|(_, line)| line.starts_with("//")) {
        return Err(error(line, ConfigErrorKind::SubEntry));
    }
    if titles.clone().next().is_none() {
        return Err(error(0, ConfigErrorKind::NoEntry));
    }
    let Some((first, title)) = wanted.checked_sub(1).and_then(|index| titles.clone().nth(index)) else {
        return Err(error(0, ConfigErrorKind::NoSuchEntry(wanted)));
    };
    let own = lines().skip_while(|(line, _)| *line <= first).take_while(|(_, line)| !line.starts_with('/'));
    config.entry.title = title.trim_start_matches(['/', '+']).trim().to_string();
    read_entry(own.filter_map(option_of_line), &mut config)?;
    Ok(config)
}

fn error(line: usize, kind: ConfigErrorKind) -> ConfigError {
    ConfigError { line, kind }
}

/// Gives each piece of text its number; every `\n` and every `\r` ends a piece, so `\r\n` counts double, which
/// only matters for messages.
fn number_lines<'a>(count: &mut usize, line: &'a str) -> Option<(usize, &'a str)> {
    *count += 1;
    Some((*count, line))
}

/// `name: value`, the name in lower case.
fn option_of_line((number, line): (usize, &str)) -> Option<(usize, String, &str)> {
    if line.starts_with(['#', '/']) {
        return None;
    }
    let (name, value) = line.split_once(':')?;
    Some((number, name.trim().to_ascii_lowercase(), value.trim()))
}

fn timeout(value: &str) -> Timeout {
    /// Limine's own cap.
    const SECONDS_MAX: u32 = 9999;
    if value == "no" {
        return Timeout::Key;
    }
    // A fraction is rounded down: the menu that it would be for is not ours.
    let whole = value.split('.').next().unwrap_or_default();
    match whole.parse::<u32>() {
        Ok(0) | Err(_) => Timeout::None,
        Ok(seconds) => Timeout::Seconds(seconds.min(SECONDS_MAX)),
    }
}

fn switch(value: &str) -> Switch {
    if value == "yes" { Switch::On } else { Switch::Off }
}

fn read_entry<'a>(
    options: impl Iterator<Item = (usize, String, &'a str)>,
    config: &mut Config,
) -> Result<(), ConfigError> {
    let entry = &mut config.entry;
    let mut protocol = (0, String::new());
    for (line, name, value) in options {
        match name.as_str() {
            "protocol" => protocol = (line, value.to_ascii_lowercase()),
            "path" | "kernel_path" => entry.path = path(line, value)?,
            "cmdline" | "kernel_cmdline" => entry.cmdline = plain(line, value)?,
            "module_path" => {
                entry.modules.push(Module { path: path(line, value)?, string: String::new() });
            }
            "module_string" | "module_cmdline" => {
                let module = entry.modules.last_mut();
                let module = module.ok_or(error(line, ConfigErrorKind::StringWithoutModule))?;
                module.string = plain(line, value)?;
            }
            "timeout" | "serial" | "verbose" | "default_entry" | "comment" => {}
            _ if name.starts_with("selkis_test_") => variant(line, &name, value, &mut entry.variants)?,
            _ => config.ignored.push((line, name)),
        }
    }
    if protocol.1 != "limine" {
        return Err(error(protocol.0, ConfigErrorKind::Protocol(protocol.1)));
    }
    if entry.path.is_empty() {
        return Err(error(0, ConfigErrorKind::NoPath));
    }
    Ok(())
}

/// `boot():/a/b` to `/a/b`.
fn path(line: usize, value: &str) -> Result<String, ConfigError> {
    let value = plain(line, value)?;
    let within = value.strip_prefix("boot():/").or_else(|| value.strip_prefix("boot:///"));
    match within {
        Some(rest) if !rest.is_empty() && !rest.contains(['#', '\\', '\0']) => {
            Ok(["/", rest.trim_start_matches('/')].concat())
        }
        _ => Err(error(line, ConfigErrorKind::Path(value))),
    }
}

/// A value without macros.
fn plain(line: usize, value: &str) -> Result<String, ConfigError> {
    if value.contains("${") {
        return Err(error(line, ConfigErrorKind::Macro(value.to_string())));
    }
    Ok(value.to_string())
}

fn variant(line: usize, option: &str, value: &str, variants: &mut Variants) -> Result<(), ConfigError> {
    let known = match option {
        "selkis_test_hhdm_base" => number(value).map(|base| variants.hhdm_base = Some(base)),
        "selkis_test_slide" => number(value).map(|slide| variants.slide = Some(slide)),
        "selkis_test_modules" => placement(value).map(|place| variants.modules = place),
        "selkis_test_kernel" => placement(value).map(|place| variants.kernel = place),
        "selkis_test_base_revision_max" => number(value)
            .and_then(BaseRevision::new)
            .map(|revision| variants.base_revision_max = Some(revision)),
        "selkis_test_memory_map" => map_variant(value).map(|map| variants.memory_map = map),
        _ => None,
    };
    known.ok_or_else(|| {
        error(line, ConfigErrorKind::Value { option: option.to_string(), value: value.to_string() })
    })
}

/// Decimal, or hexadecimal with `0x`.
fn number(value: &str) -> Option<u64> {
    match value.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => value.parse().ok(),
    }
}

fn placement(value: &str) -> Option<Placement> {
    match value {
        "low" => Some(Placement::Low),
        "above_4g" => Some(Placement::Above4Gib),
        _ => None,
    }
}

fn map_variant(value: &str) -> Option<MapVariant> {
    match value {
        "plain" => Some(MapVariant::Plain),
        "reversed" => Some(MapVariant::Reversed),
        "fragmented" => Some(MapVariant::Fragmented),
        "overlapping" => Some(MapVariant::Overlapping),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use proptest::prelude::*;

    const BOTH_SPELLINGS: &str = "timeout: 0\nserial: yes\n\n/Selkis\n    protocol: limine\n    \
        path: boot():/kernel\n    kernel_path: boot():/kernel\n    cmdline: a b=c\n    \
        module_path: boot():/boot/bundle\n    module_cmdline: one\n    module_path: boot():/two\n";

    fn kind(text: &str) -> ConfigErrorKind {
        parse(text.as_bytes()).expect_err(text).kind
    }

    #[test]
    fn an_entry_is_read() {
        let config = parse(BOTH_SPELLINGS.as_bytes()).unwrap();
        assert_eq!((config.timeout, config.serial, config.verbose), (Timeout::None, Switch::On, Switch::Off));
        assert_eq!(config.entry.title, "Selkis");
        assert_eq!(config.entry.path, "/kernel");
        assert_eq!(config.entry.cmdline, "a b=c");
        let module = |path: &str, string: &str| Module { path: path.to_string(), string: string.to_string() };
        assert_eq!(config.entry.modules, vec![module("/boot/bundle", "one"), module("/two", "")]);
        assert!(config.ignored.is_empty());
    }

    #[test]
    fn spellings_of_version_8_and_of_later_ones_mean_the_same() {
        let eight = "/x\nPROTOCOL: limine\nKERNEL_PATH: boot():/k\nkernel_cmdline: c\nmodule_path: boot():/m\nmodule_cmdline: s";
        let later = "# comment\r\n/x\r\n protocol:limine\r\n path: boot():/k\r\n cmdline: c\r\n module_path: boot():/m\r\n module_string: s\r\n";
        assert_eq!(parse(eight.as_bytes()).unwrap().entry, parse(later.as_bytes()).unwrap().entry);
    }

    #[test]
    fn the_default_entry_is_chosen() {
        let two = "/a\nprotocol: limine\npath: boot():/a\n/b\nprotocol: limine\npath: boot():/b\ndefault_entry: 2\n";
        assert_eq!(parse(two.as_bytes()).unwrap().entry.path, "/b");
        assert_eq!(kind(&two.replace(": 2", ": 3")), ConfigErrorKind::NoSuchEntry(3));
        assert_eq!(kind(&two.replace(": 2", ": 0")), ConfigErrorKind::NoSuchEntry(0));
    }

    #[test]
    fn variants_are_read_and_checked() {
        let with = |line: &str| format_entry(line);
        let variants = |line: &str| parse(with(line).as_bytes()).unwrap().entry.variants;
        assert_eq!(
            variants("selkis_test_hhdm_base: 0xffff900000000000").hhdm_base,
            Some(0xffff_9000_0000_0000)
        );
        assert_eq!(variants("selkis_test_slide: 4096").slide, Some(4096));
        assert_eq!(variants("selkis_test_modules: above_4g").modules, Placement::Above4Gib);
        assert_eq!(variants("selkis_test_kernel: above_4g").kernel, Placement::Above4Gib);
        assert_eq!(variants("selkis_test_base_revision_max: 3").base_revision_max, BaseRevision::new(3));
        assert_eq!(variants("selkis_test_memory_map: reversed").memory_map, MapVariant::Reversed);
        for wrong in ["selkis_test_slide: x", "selkis_test_base_revision_max: 7", "selkis_test_else: 1"] {
            assert!(matches!(kind(&with(wrong)), ConfigErrorKind::Value { .. }), "{wrong}");
        }
    }

    fn format_entry(line: &str) -> String {
        ["/x\nprotocol: limine\npath: boot():/k\n", line, "\n"].concat()
    }

    #[test]
    fn what_cannot_be_started_is_refused() {
        assert_eq!(kind(""), ConfigErrorKind::NoEntry);
        assert_eq!(kind("timeout: 3"), ConfigErrorKind::NoEntry);
        assert_eq!(kind("/x\nprotocol: limine"), ConfigErrorKind::NoPath);
        assert_eq!(kind("/x\npath: boot():/k"), ConfigErrorKind::Protocol(String::new()));
        assert_eq!(kind("/x\nprotocol: linux"), ConfigErrorKind::Protocol("linux".to_string()));
        assert_eq!(kind("/x\n//y\nprotocol: limine"), ConfigErrorKind::SubEntry);
        assert_eq!(kind("/x\nmodule_string: s"), ConfigErrorKind::StringWithoutModule);
        for path in ["/k", "hdd(1:1):/k", "boot():/", "boot(2):/k", "boot():/k#00", "$boot():/k"] {
            let text = ["/x\nprotocol: limine\npath: ", path].concat();
            assert_eq!(kind(&text), ConfigErrorKind::Path(path.to_string()));
        }
        assert!(matches!(kind("/x\ncmdline: ${A}"), ConfigErrorKind::Macro(_)));
        assert_eq!(parse(b"/x\xff").unwrap_err().kind, ConfigErrorKind::NotText);
    }

    #[test]
    fn timeouts() {
        assert_eq!(timeout("no"), Timeout::Key);
        assert_eq!(timeout("0"), Timeout::None);
        assert_eq!(timeout("0.25"), Timeout::None);
        assert_eq!(timeout("3"), Timeout::Seconds(3));
        assert_eq!(timeout("100000"), Timeout::Seconds(9999));
        assert_eq!(timeout("junk"), Timeout::None);
    }

    #[test]
    fn every_cut_ends_well() {
        for length in 0..BOTH_SPELLINGS.len() {
            // A cut after the kernel's path leaves a whole, shorter file; a cut before it must be an error.
            let result = parse(&BOTH_SPELLINGS.as_bytes()[..length]);
            let path_begins = BOTH_SPELLINGS.find("boot():/k").unwrap();
            assert!(length > path_begins || result.is_err(), "{length}");
        }
    }

    proptest! {
        #[test]
        fn damaged_files_never_panic(flips in prop::collection::vec((0usize..4096, any::<u8>()), 0..40)) {
            let mut file = BOTH_SPELLINGS.as_bytes().to_vec();
            for (place, byte) in flips {
                let place = place % file.len();
                file[place] = byte;
            }
            let _ = parse(&file);
        }

        #[test]
        fn noise_never_panics(file in prop::collection::vec(any::<u8>(), 0..512)) {
            let _ = parse(&file);
        }
    }
}
