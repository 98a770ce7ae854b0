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

use super::process::Process;
use crate::error::{Context, Refused};

/// The instance's cgroups.
#[derive(Debug)]
pub struct Cgroups {
    /// `<root>/afnet[-INSTANCE]`; absent where there is no cgroup v2.
    base: Option<PathBuf>,
    /// `/afnet[-INSTANCE]/`, as `/proc/PID/cgroup` shows it.
    prefix: String,
}

impl Cgroups {
    /// Finds the root; `directory` is [`crate::names::Instance::directory`].
    pub fn find(directory: &str) -> Self {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let base = root(&mounts).map(|root| root.join(directory));
        Self { base, prefix: format!("/{directory}/") }
    }

    /// Name of the compartment that a path of `/proc/PID/cgroup` lies in.
    pub fn compartment<'a>(&self, path: &'a str) -> Option<&'a str> {
        path.strip_prefix(&self.prefix)?.split('/').next().filter(|name| !name.is_empty())
    }

    /// The compartment's directory, made if needed.
    pub fn ensure(&self, name: &str) -> Result<PathBuf, Refused> {
        make(self.base()?.join(name))
    }

    /// The instance's directory, made if needed.
    pub fn ensure_base(&self) -> Result<PathBuf, Refused> {
        make(self.base()?.clone())
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
    let mut parts = path.strip_prefix('/')?.split('/');
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

/// Mount point of the whole cgroup v2 tree, from the text of mountinfo (proc_pid_mountinfo(5)).
fn root(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (front, back) = line.split_once(" - ")?;
        let mut fields = front.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        (back.split(' ').next()? == "cgroup2" && root == "/").then(|| PathBuf::from(point))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_is_found_on_hybrid_and_unified_systems() {
        let hybrid = "30 25 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
                      31 30 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                      40 30 0:36 / /sys/fs/cgroup/unified rw,relatime shared:5 - cgroup2 cgroup2 rw\n";
        assert_eq!(root(hybrid).unwrap(), Path::new("/sys/fs/cgroup/unified"));
        let bind =
            "40 30 0:36 /a /mnt rw - cgroup2 cgroup2 rw\n41 30 0:36 / /sys/fs/cgroup rw - cgroup2 c rw\n";
        assert_eq!(root(bind).unwrap(), Path::new("/sys/fs/cgroup"));
        assert_eq!(root("1 2 0:1 / / rw - ext4 /dev/sda rw\n"), None);
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
    fn directories_are_made_and_removed() {
        let name = format!("afnet-unit-{}", std::process::id());
        let cgroups = Cgroups::find(&name);
        let path = cgroups.ensure("a").unwrap();
        assert_eq!(cgroups.names(), ["a"]);
        fs::create_dir(path.join("below")).unwrap();
        let mut child = std::process::Command::new("sleep").arg("100").spawn().unwrap();
        fs::write(path.join("below/cgroup.procs"), child.id().to_string()).unwrap();
        assert_eq!(cgroups.processes("a"), [child.id()]);
        assert_eq!(cgroups.remove("a").unwrap_err().raw_os_error(), Some(libc::EBUSY));
        cgroups.signal("a", Signal::KILL);
        child.wait().unwrap();
        while cgroups.remove("a").is_err() {
            std::thread::yield_now();
        }
        cgroups.remove("a").unwrap();
        cgroups.remove_base();
        assert!(!path.parent().unwrap().exists());
    }
}
