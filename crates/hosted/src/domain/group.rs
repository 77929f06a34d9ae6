//! Quotas as Linux's control groups keep them (version 2; cgroups(7)), where this process may make groups: as the only one of
//! a group that was delegated to it, such as `systemd-run --user --scope -p Delegate=yes` makes, or in the first group of all.
//!
//! ```text
//! BASE                        the group that this process was in
//!   selkis-PID                of this process
//!     root                    this process: with the groups below it, none of those above may hold one
//!     domain-N                each domain
//! ```
//! They are there until this process exits. Those of one that was killed are removed by the next.

use super::Quotas;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What this process's own group is called, before its number.
const PREFIX: &str = "selkis-";
/// What Linux's own side of a process takes, with the launcher's: page tables, descriptors, buffers.
const LAUNCHER_BYTES: u64 = 16 << 20;
/// `cpu.max` has times in microseconds; this is its usual period.
const PERIOD_US: u64 = 100_000;
/// The least time of a period that Linux takes.
const BUDGET_US_MIN: u64 = 1000;

/// A domain's group, removed when dropped: when its process has ended.
#[derive(Debug)]
pub struct Group {
    path: PathBuf,
}

impl Group {
    /// Whether this process can make any.
    pub fn can_be() -> bool {
        home().is_some()
    }

    /// A group with these quotas; `None` where this process cannot make any.
    pub fn new(quotas: &Quotas) -> Option<Self> {
        let home = home()?;
        let number = home.made.fetch_add(1, Relaxed);
        let group = Self { path: home.path.join(format!("domain-{number}")) };
        fs::create_dir(&group.path).ok()?;
        group.set(quotas).ok()?;
        Some(group)
    }

    fn set(&self, quotas: &Quotas) -> io::Result<()> {
        write(&self.path, "cpu.weight", &quotas.cpu_share.weight.clamp(1, 10_000).to_string())?;
        if let Some(permille) = quotas.cpu_budget_permille {
            let budget_us = (u64::from(permille) * PERIOD_US / 1000).max(BUDGET_US_MIN);
            write(&self.path, "cpu.max", &format!("{budget_us} {PERIOD_US}"))?;
        }
        let bytes = quotas.memory_bytes.saturating_add(LAUNCHER_BYTES);
        write(&self.path, "memory.max", &bytes.to_string())
    }

    /// Whoever writes a 0 to this file is in the group.
    pub fn door(&self) -> io::Result<File> {
        OpenOptions::new().write(true).open(self.path.join("cgroup.procs"))
    }

    /// Takes the limits of the CPU away, for a process that is to end: its end takes time, which would be counted.
    pub fn lift_budget(&self) {
        // If that fails it takes longer.
        let _ = write(&self.path, "cpu.max", "max");
    }

    /// Whether Linux has ended a process of it for want of memory.
    pub fn was_out_of_memory(&self) -> bool {
        let text = fs::read_to_string(self.path.join("memory.events")).unwrap_or_default();
        let killed = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        killed.is_some_and(|count| count != "0")
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // If that fails, somebody has put a process there, and it stays until that ends.
        let _ = fs::remove_dir(&self.path);
    }
}

/// This process's groups.
#[derive(Debug)]
struct Home {
    base: PathBuf,
    path: PathBuf,
    /// What the base did not share out before.
    added: Vec<&'static str>,
    /// How many domains have had a group.
    made: AtomicU64,
}

/// What is to be shared out below.
const CONTROLLERS: [&str; 2] = ["cpu", "memory"];
/// The file that says so.
const SHARED_OUT: &str = "cgroup.subtree_control";

impl Home {
    /// Moves this process to a group of its own below `base`, which it is in.
    fn make(base: PathBuf) -> io::Result<Self> {
        if !lacking(&base.join("cgroup.controllers"))?.is_empty() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let lacking = lacking(&base.join(SHARED_OUT))?;
        sweep(&base);
        let path = base.join(format!("{PREFIX}{}", process::id()));
        // One that had this number before may have left them.
        fs::create_dir_all(path.join("root"))?;
        let mut home = Self { base, path, added: Vec::new(), made: AtomicU64::new(0) };
        write(&home.path.join("root"), "cgroup.procs", "0")?;
        // Refused if the base holds another process: then all of this is undone.
        for controller in lacking {
            write(&home.base, SHARED_OUT, &format!("+{controller}"))?;
            home.added.push(controller);
        }
        for controller in CONTROLLERS {
            write(&home.path, SHARED_OUT, &format!("+{controller}"))?;
        }
        Ok(home)
    }

    /// Moves back, and removes what was made.
    fn leave(&self) {
        // As far as it had come. What shares nothing out may hold processes again.
        for controller in CONTROLLERS {
            let _ = write(&self.path, SHARED_OUT, &format!("-{controller}"));
        }
        for controller in &self.added {
            let _ = write(&self.base, SHARED_OUT, &format!("-{controller}"));
        }
        let _ = write(&self.base, "cgroup.procs", "0");
        remove(&self.path);
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        self.leave();
    }
}

/// Which of [`CONTROLLERS`] are not in this file.
fn lacking(file: &Path) -> io::Result<Vec<&'static str>> {
    let text = fs::read_to_string(file)?;
    let is_there = |controller: &&str| text.split_whitespace().any(|word| word == *controller);
    Ok(CONTROLLERS.into_iter().filter(|controller| !is_there(controller)).collect())
}

/// Removes a group and those below it, as far as they hold no process.
fn remove(group: &Path) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&entry.path());
        }
    }
    let _ = fs::remove_dir(group);
}

/// Removes what processes have left that are no more. Linux removes no group that holds a process.
fn sweep(base: &Path) {
    let Ok(entries) = fs::read_dir(base) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.parse::<u32>().ok());
        if number.is_some_and(|number| !Path::new(&format!("/proc/{number}")).exists()) {
            remove(&entry.path());
        }
    }
}

/// This process's groups, from the first domain to its exit: to share controllers out takes Linux some time.
static HOME: OnceLock<Option<Home>> = OnceLock::new();

fn home() -> Option<&'static Home> {
    let make = || {
        let home = Home::make(own_group()?).ok()?;
        // SAFETY: the function can be called at any time, and may be there twice. If it is not, the next process sweeps.
        unsafe { libc::atexit(leave_home) };
        Some(home)
    };
    HOME.get_or_init(make).as_ref()
}

extern "C" fn leave_home() {
    HOME.get().iter().copied().flatten().for_each(Home::leave);
}

/// The folder of the group that this process is in.
fn own_group() -> Option<PathBuf> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    find(&groups, &mounts)
}

/// From the texts of `/proc/self/cgroup` (cgroups(7)) and `/proc/self/mountinfo` (proc(5)).
fn find(groups: &str, mounts: &str) -> Option<PathBuf> {
    let group = Path::new(groups.lines().find_map(|line| line.strip_prefix("0::"))?);
    mounts.lines().find_map(|line| {
        let (mount, file_system) = line.split_once(" - ")?;
        file_system.starts_with("cgroup2 ").then_some(())?;
        let mut fields = mount.split(' ').skip(3);
        let (root, place) = (fields.next()?, fields.next()?);
        Some(Path::new(place).join(group.strip_prefix(root).ok()?))
    })
}

fn write(group: &Path, file: &str, text: &str) -> io::Result<()> {
    use std::io::Write;
    OpenOptions::new().write(true).open(group.join(file))?.write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
22 1 0:20 / /proc rw,relatime - proc proc rw
30 22 0:27 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate
31 22 0:28 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu
";

    #[test]
    fn the_own_group_is_found() {
        let find = |groups, mounts| find(groups, mounts).map(|path| path.display().to_string());
        assert_eq!(find("0::/user/a b.scope\n", MOUNTS).as_deref(), Some("/sys/fs/cgroup/user/a b.scope"));
        assert_eq!(find("3:cpu:/x\n0::/\n", MOUNTS).as_deref(), Some("/sys/fs/cgroup/"));
        assert_eq!(find("3:cpu:/x\n", MOUNTS), None);
        let part = MOUNTS.replace("0:27 / ", "0:27 /part ");
        assert_eq!(find("0::/part/a\n", &part).as_deref(), Some("/sys/fs/cgroup/a"));
        assert_eq!(find("0::/other\n", &part), None);
        assert_eq!(find("0::/a\n", ""), None);
    }

    #[test]
    fn only_what_the_dead_have_left_is_swept() {
        let base = tempfile::tempdir().unwrap();
        let (alive, dead) = (format!("{PREFIX}{}", process::id()), format!("{PREFIX}4294967295"));
        for folder in [&alive, &dead, "selkis-other", "more"] {
            fs::create_dir_all(base.path().join(folder).join("domain-1")).unwrap();
        }
        sweep(base.path());
        let mut left: Vec<_> =
            fs::read_dir(base.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["more", alive.as_str(), "selkis-other"]);
    }

    #[test]
    fn a_folder_that_is_no_group_stays_as_it_is() {
        let base = tempfile::tempdir().unwrap();
        fs::write(base.path().join("cgroup.controllers"), "cpu memory\n").unwrap();
        fs::write(base.path().join(SHARED_OUT), "cpu\n").unwrap();
        Home::make(base.path().to_path_buf()).unwrap_err();
        assert_eq!(fs::read_dir(base.path()).unwrap().count(), 2);
        assert_eq!(fs::read(base.path().join(SHARED_OUT)).unwrap(), b"cpu\n");
    }
}
