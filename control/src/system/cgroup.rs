//! Cgroups v2 of the compartments: `<root>/afnet[-INSTANCE]/NAME`, made when somebody asks for one.
//!
//! A process belongs to the compartment whose directory, or a directory below it, it lives in. The root is the first
//! mount of the whole cgroup v2 tree (`/sys/fs/cgroup`, or `/sys/fs/cgroup/unified` on hybrid systems).
//!
//! All directories and files belong to root and are writable for nobody else, so a process without root's user id can
//! neither leave nor be moved by its like. Root can, unless the file system is read-only for it: see
//! [`super::confine`].

use std::fs;
use std::io;
use std::os::linux::fs::MetadataExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::process::Signal;

use super::mounts::{self, Mount};
use super::process::Process;
use crate::error::{Context, Refused};

/// Levels of cgroups below the instance's, the compartments' included. More are slower to walk; fewer leave tenants
/// less room for an order of their own.
const DEPTH: u32 = 16;

/// The instance's cgroups.
#[derive(Debug)]
pub struct Cgroups {
    /// `<root>/afnet[-INSTANCE]`; absent where there is no cgroup v2.
    base: Option<PathBuf>,
    /// `/afnet[-INSTANCE]/`, as `/proc/PID/cgroup` shows it to us.
    prefix: String,
}

impl Cgroups {
    /// Finds the root; `directory` is [`crate::names::Instance::directory`].
    pub fn find(directory: &str) -> Self {
        let root = root(&mounts::read().unwrap_or_default());
        let (base, above) = match root {
            Some((point, above)) => (Some(point.join(directory)), above),
            None => (None, String::new()),
        };
        Self { base, prefix: format!("{above}/{directory}/") }
    }

    /// Name of the compartment that a path of `/proc/PID/cgroup` lies in.
    pub fn compartment<'a>(&self, path: &'a str) -> Option<&'a str> {
        path.strip_prefix(&self.prefix)?.split('/').next().filter(|name| !name.is_empty())
    }

    /// Name of the compartment that a process lives in. Works for everybody, and within a compartment too.
    pub fn identify(&self, process: &Process) -> io::Result<Option<String>> {
        let path = process.cgroup()?;
        if let Some(name) = self.compartment(&path) {
            return Ok(Some(name.to_owned()));
        }
        // Inside a cgroup namespace paths begin at its root, and the names above are not told: the lists of processes
        // are. Numbered alike only if the pid namespace is.
        if !initial_namespace() || path.starts_with("/..") {
            return Ok(self.names().into_iter().find(|name| self.processes(name).contains(&process.pid())));
        }
        Ok(None)
    }

    /// Whether a compartment has a cgroup (which it gets when the first process enters).
    pub fn exists(&self, name: &str) -> bool {
        self.base.as_ref().is_some_and(|base| base.join(name).is_dir())
    }

    /// The compartment's directory, made if needed.
    pub fn ensure(&self, name: &str) -> Result<PathBuf, Refused> {
        make(self.ensure_base()?.join(name))
    }

    /// The instance's directory, made if needed.
    pub fn ensure_base(&self) -> Result<PathBuf, Refused> {
        let base = self.base()?;
        if !base.exists() {
            make(base.clone())?;
            // Root in a user namespace may make cgroups below its own; so deep that no path names them, it may not.
            if let Err(e) = fs::write(base.join("cgroup.max.depth"), DEPTH.to_string()) {
                tracing::warn!("bounding the depth of {}: {e}", base.display());
            }
        }
        Ok(base.clone())
    }

    fn base(&self) -> Result<&PathBuf, Refused> {
        self.base.as_ref().ok_or_else(|| {
            let text = "no cgroup v2 is mounted: mount -t cgroup2 none /sys/fs/cgroup/unified";
            Refused::new(Errno::OPNOTSUPP, text)
        })
    }

    /// Id of a compartment's cgroup, if there is one: the inode number of its directory (`cgroup_id()` in
    /// include/linux/cgroup.h).
    pub fn id(&self, name: &str) -> Option<u64> {
        fs::metadata(self.base.as_ref()?.join(name)).ok().map(|m| m.st_ino())
    }

    /// Moves a process into a compartment's cgroup, which is made if needed. ESRCH: it has ended.
    pub fn place(&self, name: &str, process: &Process) -> Result<PathBuf, Refused> {
        let path = self.ensure(name)?;
        let what = || format!("moving process {} into {}", process.pid(), path.display());
        let ended = || Refused::new(Errno::SRCH, format!("{}: it has ended", what()));
        if !process.lives().refused(what)? {
            return Err(ended());
        }
        fs::write(path.join("cgroup.procs"), process.pid().to_string()).refused(what)?;
        // By number, so only what still lives was moved for certain. (If it ended between the two calls and its
        // number went to another process at once, that one was: the kernel knows no way by pidfd.)
        if !process.lives().refused(what)? {
            tracing::warn!("process {} ended while it was moved into {name}", process.pid());
            return Err(ended());
        }
        Ok(path)
    }

    /// Processes in a compartment's cgroup and below.
    pub fn processes(&self, name: &str) -> Vec<u32> {
        let mut found = Vec::new();
        if let Some(base) = &self.base {
            walk(&base.join(name), &mut |dir| {
                let procs = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
                found.extend(procs.lines().filter_map(|l| l.parse::<u32>().ok()));
            });
        }
        found
    }

    /// Sends a signal to every process of a compartment.
    pub fn signal(&self, name: &str, signal: Signal) {
        // cgroup.kill (5.14) also catches what forks meanwhile.
        if signal == Signal::KILL
            && let Some(base) = &self.base
            && fs::write(base.join(name).join("cgroup.kill"), "1").is_ok()
        {
            return;
        }
        for process in self.processes(name).into_iter().filter_map(|pid| Process::open(pid).ok()) {
            // Another one that has got the number meanwhile is none of ours.
            if process.cgroup().is_ok_and(|path| self.compartment(&path) == Some(name)) {
                // Gone meanwhile: as wanted.
                let _ = process.signal(signal);
            }
        }
    }

    /// Removes a compartment's cgroup with those below it. EBUSY: processes live in it. None there: fine.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        let Some(base) = &self.base else { return Ok(()) };
        let mut result = Ok(());
        walk(&base.join(name), &mut |dir| {
            if let Err(e) = fs::remove_dir(dir)
                && e.kind() != io::ErrorKind::NotFound
            {
                result = Err(e);
            }
        });
        result
    }

    /// Names of all directories there are.
    pub fn names(&self) -> Vec<String> {
        let entries = self.base.as_ref().and_then(|base| fs::read_dir(base).ok()).into_iter().flatten();
        entries
            .flatten()
            .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()))
            .filter_map(|e| e.file_name().into_string().ok())
            .collect()
    }

    /// Removes the instance's directory when no compartment's is left.
    pub fn remove_base(&self) {
        if let Some(base) = &self.base
            && let Err(e) = fs::remove_dir(base)
            && e.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!("removing {}: {e}", base.display());
        }
    }
}

/// Instance directory and compartment, of whichever instance, that a path of `/proc/PID/cgroup` lies in.
pub fn compartment_of(path: &str) -> Option<(&str, &str)> {
    let mut parts = path.strip_prefix('/')?.split('/').skip_while(|part| *part == "..");
    let (directory, name) = (parts.next()?, parts.next()?);
    let ours = directory == "afnet" || directory.starts_with("afnet-");
    (ours && !name.is_empty()).then_some((directory, name))
}

fn make(path: PathBuf) -> Result<PathBuf, Refused> {
    // Whatever the umask is: who can make a cgroup below owns it.
    let made = fs::DirBuilder::new().recursive(true).mode(0o755).create(&path);
    made.refused(|| format!("making the cgroup {}", path.display()))?;
    Ok(path)
}

/// Visits a directory and those below it, innermost first.
fn walk(dir: &Path, visit: &mut impl FnMut(&Path)) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            walk(&entry.path(), visit);
        }
    }
    visit(dir);
}

/// Mount point of the whole cgroup v2 tree, or the most of it that is mounted; and how `/proc/PID/cgroup` shows its root
/// to us: nothing, or `/..` as often as it is above the root of our cgroup namespace.
fn root(mounts: &[Mount]) -> Option<(PathBuf, String)> {
    let above = |m: &Mount| match m.root.as_str() {
        "/" => Some(String::new()),
        path => path.split('/').skip(1).all(|part| part == "..").then(|| path.to_owned()),
    };
    let whole = mounts.iter().filter(|m| m.fstype == "cgroup2").filter_map(|m| Some((m, above(m)?)));
    // The first of those that reach highest.
    let (mount, above) = whole.min_by_key(|(_, above)| std::cmp::Reverse(above.len()))?;
    Some((mount.point.clone(), above))
}

/// Whether this process is in the machine's first cgroup namespace.
fn initial_namespace() -> bool {
    // PROC_CGROUP_INIT_INO of linux/proc_ns.h.
    fs::read_link("/proc/self/ns/cgroup").is_ok_and(|link| link == Path::new("cgroup:[4026531835]"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_is_found_on_hybrid_and_unified_systems() {
        let hybrid = "30 25 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
                      31 30 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                      40 30 0:36 / /sys/fs/cgroup/unified rw,relatime shared:5 - cgroup2 cgroup2 rw\n";
        let root = |text| root(&mounts::parse(text)).map(|(p, above)| (p.display().to_string(), above));
        let at = |point: &str, above: &str| Some((point.to_owned(), above.to_owned()));
        assert_eq!(root(hybrid), at("/sys/fs/cgroup/unified", ""));
        let bind =
            "40 30 0:36 /a /mnt rw - cgroup2 cgroup2 rw\n41 30 0:36 / /sys/fs/cgroup rw - cgroup2 c rw\n";
        assert_eq!(root(bind), at("/sys/fs/cgroup", ""));
        assert_eq!(root("1 2 0:1 / / rw - ext4 /dev/sda rw\n"), None);
        let inside =
            "40 30 0:36 / /mnt rw - cgroup2 c rw\n41 30 0:36 /../.. /sys/fs/cgroup ro - cgroup2 c rw\n";
        assert_eq!(root(inside), at("/sys/fs/cgroup", "/../.."));
    }

    #[test]
    fn a_process_belongs_to_the_directory_it_lives_below() {
        let cgroups = Cgroups { base: None, prefix: "/afnet-x/".to_owned() };
        assert_eq!(cgroups.compartment("/afnet-x/a"), Some("a"));
        assert_eq!(cgroups.compartment("/afnet-x/a/b/c"), Some("a"));
        for path in ["/", "/afnet-x", "/afnet-x/", "/afnet/a", "/y/afnet-x/a"] {
            assert_eq!(cgroups.compartment(path), None, "{path}");
        }
        assert_eq!(cgroups.ensure("a").unwrap_err().errno, Errno::OPNOTSUPP);
    }

    #[test]
    fn compartments_of_every_instance_are_told() {
        assert_eq!(compartment_of("/afnet/a"), Some(("afnet", "a")));
        assert_eq!(compartment_of("/afnet-x/a/b"), Some(("afnet-x", "a")));
        assert_eq!(compartment_of("/../../afnet-x/a"), Some(("afnet-x", "a")));
        for path in ["/", "", "/afnet", "/afnet-x/", "/afnets/a", "/y/afnet/a", "/..", "afnet/a"] {
            assert_eq!(compartment_of(path), None, "{path}");
        }
    }

    #[test]
    fn directories_are_made_and_removed() {
        let name = format!("afnet-unit-{}", std::process::id());
        let cgroups = Cgroups::find(&name);
        let path = cgroups.ensure("a").unwrap();
        assert_eq!(cgroups.names(), ["a"]);
        fs::create_dir(path.join("below")).unwrap();
        let deep = |levels: usize| path.join(vec!["d"; levels].join("/"));
        fs::create_dir_all(deep(DEPTH as usize - 1)).unwrap();
        assert!(fs::create_dir(deep(DEPTH as usize)).is_err());
        let mut child = std::process::Command::new("sleep").arg("100").spawn().unwrap();
        fs::write(path.join("below/cgroup.procs"), child.id().to_string()).unwrap();
        assert_eq!(cgroups.processes("a"), [child.id()]);
        let process = Process::open(child.id()).unwrap();
        assert_eq!(cgroups.identify(&process).unwrap().as_deref(), Some("a"));
        cgroups.place("a", &process).unwrap();
        assert_eq!(fs::read_to_string(path.join("cgroup.procs")).unwrap(), format!("{}\n", child.id()));
        assert_eq!(cgroups.remove("a").unwrap_err().raw_os_error(), Some(libc::EBUSY));
        cgroups.signal("a", Signal::TERM);
        child.wait().unwrap();
        assert_eq!(cgroups.place("a", &process).unwrap_err().errno, Errno::SRCH);
        while cgroups.remove("a").is_err() {
            std::thread::yield_now();
        }
        cgroups.remove("a").unwrap();
        cgroups.remove_base();
        assert!(!path.parent().unwrap().exists());
    }
}
