//! What is taken from a privileged program before `afnet exec` runs it, so that it cannot leave its compartment.
//!
//! | way out | shut by |
//! |---|---|
//! | writing a pid to a `cgroup.procs` | a mount namespace in which `/sys` and every cgroup file system (v1, v2) is read-only |
//! | remounting, mounting anew, entering init's namespaces | no CAP_SYS_ADMIN; a cgroup namespace that ends at the compartment |
//! | removing pins of BPF links, opening BPF maps | empty file systems over bpffs; no CAP_BPF |
//! | `core_pattern`, `uevent_helper` and their like, which run programs outside | `/proc/sys` and others, and `/sys`, read-only |
//! | other addresses, routes, packet sockets | no CAP_NET_ADMIN, no CAP_NET_RAW |
//! | directories that the caller had open | closed |
//! | another process's memory, kernel modules, devices | no CAP_SYS_PTRACE, CAP_SYS_MODULE, CAP_SYS_RAWIO, CAP_MKNOD |
//!
//! What stays open to root: files that root owns (and so cron, service managers and their sockets), signals to root's
//! processes, and those among them that have no capability more. Root that is not trusted needs a container around it
//! or another user id.
//!
//! Needs CAP_SYS_ADMIN and CAP_SETPCAP. Changes the calling thread alone: for programs with one thread that are about
//! to exec.

use std::ffi::{CString, OsStr};
use std::fs;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use afnet_abi::control::Policy;
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::mount::{
    MountFlags, MountPropagationFlags, mount, mount_bind, mount_bind_recursive, mount_change,
};
use rustix::thread::{self as task, CapabilitySet, CapabilitySets, UnshareFlags};

use super::mounts::{self, Mount};
use crate::error::{Context, Refused};

/// What root keeps: that which servers use (changing users, owning files, low ports, chroot, signals). It is the
/// default of container runtimes without CAP_MKNOD, CAP_NET_RAW and CAP_SETFCAP, whose effect would not end at the
/// compartment.
pub const KEPT: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::SYS_CHROOT)
    .union(CapabilitySet::AUDIT_WRITE);

/// Below /proc: what changes the whole machine, as container runtimes see it.
const PROC_READ_ONLY: &[&str] = &["acpi", "bus", "fs", "irq", "sys", "sysrq-trigger"];

/// What a program of a compartment may keep.
pub fn kept(policy: &Policy) -> CapabilitySet {
    match (policy.capabilities, policy.raw_sockets) {
        (true, _) => CapabilitySet::all(),
        (false, true) => KEPT | CapabilitySet::NET_RAW,
        (false, false) => KEPT,
    }
}

/// Whether the caller could leave: one of its user ids is root's, or it may mount.
pub fn privileged() -> Result<bool, Refused> {
    let status = fs::read_to_string("/proc/self/status").refused(|| "reading one's own user ids")?;
    let ids = status.lines().find_map(|l| l.strip_prefix("Uid:")).unwrap_or("0");
    Ok(ids.split_whitespace().any(|id| id == "0") || may_mount()?)
}

/// Whether the caller has CAP_SYS_ADMIN.
pub fn may_mount() -> Result<bool, Refused> {
    let sets = task::capabilities(None).refused(|| "reading one's own capabilities")?;
    Ok(sets.permitted.contains(CapabilitySet::SYS_ADMIN))
}

/// Moves into a mount namespace in which nothing that leads out can be written, and into a cgroup namespace.
pub fn isolate() -> Result<(), Refused> {
    let flags = UnshareFlags::NEWNS | UnshareFlags::NEWCGROUP;
    // SAFETY: the descriptor table stays shared; only mounts and the view of cgroups are unshared.
    unsafe { task::unshare_unsafe(flags) }
        .refused(|| "making a mount and a cgroup namespace (CAP_SYS_ADMIN is needed)")?;
    // What the host mounts later appears here too; what is mounted here stays here.
    mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)
        .refused(|| "making the mounts of / slaves")?;
    let all = mounts::read().refused(|| "reading the table of mounts")?;
    if all.iter().any(|m| m.point == Path::new("/sys")) {
        read_only(Path::new("/sys"))?;
        // No cgroup file system that is mounted below it later comes through.
        mount_change("/sys", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
            .refused(|| "making the mounts of /sys private")?;
    }
    for point in points(&all, &["cgroup", "cgroup2", "sysfs"]) {
        read_only(point)?;
    }
    for point in points(&all, &["bpf"]) {
        let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        mount("tmpfs", point, "tmpfs", flags, c"mode=755,size=4k")
            .refused(|| format!("covering {}", point.display()))?;
    }
    for point in points(&all, &["proc"]) {
        for path in PROC_READ_ONLY.iter().map(|name| point.join(name)).filter(|p| p.exists()) {
            mount_bind_recursive(&path, &path)
                .refused(|| format!("mounting {} on itself", path.display()))?;
            read_only(&path)?;
        }
    }
    close_ways_out().refused(|| "closing inherited directories")
}

/// Mount points of these types, once each, as far as they can be reached.
fn points<'a>(all: &'a [Mount], types: &[&str]) -> Vec<&'a Path> {
    let mut points: Vec<_> =
        all.iter().filter(|m| types.contains(&m.fstype.as_str())).map(|m| m.point.as_path()).collect();
    points.sort_unstable();
    points.dedup();
    points.retain(|p| p.exists());
    points
}

/// Makes a mount and those below it read-only, whatever other flags they have.
fn read_only(point: &Path) -> Result<(), Refused> {
    const MOUNT_ATTR_RDONLY: u64 = 1;
    set_flag(point, MOUNT_ATTR_RDONLY).refused(|| format!("making {} read-only", point.display()))
}

/// Sets a flag of a mount and of those below it (mount_setattr(2), 5.12).
fn set_flag(point: &Path, flag: u64) -> io::Result<()> {
    /// `struct mount_attr` of linux/mount.h.
    #[repr(C)]
    struct Attributes {
        set: u64,
        clear: u64,
        propagation: u64,
        userns_fd: u64,
    }
    const AT_RECURSIVE: libc::c_int = 0x8000;
    let path = CString::new(point.as_os_str().as_bytes())?;
    let attributes = Attributes { set: flag, clear: 0, propagation: 0, userns_fd: 0 };
    // SAFETY: the path is a C string and the structure is of the length that is passed; the kernel reads both only.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            path.as_ptr(),
            AT_RECURSIVE,
            &raw const attributes,
            size_of_val(&attributes),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Programs that do without the capability that distributions give to their files, and fail to start where it cannot be
/// had: ICMP echo goes over ping sockets.
const PING: &[&str] = &["ping", "ping4", "ping6", "fping", "fping6"];

/// Lets programs start whose files demand capabilities that are not kept: such a file is mounted on itself with the flag
/// that makes the kernel ignore the demand. In a mount namespace of our own.
pub fn ignore_demands(program: &OsStr, keep: CapabilitySet) -> Result<(), Refused> {
    let names = PING.iter().map(OsStr::new).chain([program]);
    let mut done = Vec::new();
    for path in names.filter_map(find).filter_map(|path| fs::canonicalize(path).ok()) {
        if done.contains(&path) || !demands(&path, keep) {
            continue;
        }
        const MOUNT_ATTR_NOSUID: u64 = 2;
        mount_bind(&path, &path).refused(|| format!("mounting {} on itself", path.display()))?;
        set_flag(&path, MOUNT_ATTR_NOSUID)
            .refused(|| format!("ignoring the capabilities of {}", path.display()))?;
        done.push(path);
    }
    Ok(())
}

/// Where exec would find a program.
fn find(name: &OsStr) -> Option<PathBuf> {
    if name.as_bytes().contains(&b'/') {
        return Some(name.into());
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|p| p.is_file())
}

/// Whether exec of a file fails unless it gets a capability that is not in `keep`.
fn demands(path: &Path, keep: CapabilitySet) -> bool {
    // struct vfs_ns_cap_data of linux/capability.h: 24 bytes at most.
    let mut data = [0; 24];
    match rustix::fs::getxattr(path, c"security.capability", &mut data) {
        Ok(length) => demanded(&data[..length]).is_some_and(|caps| !keep.contains(caps)),
        Err(_) => false,
    }
}

/// The capabilities that a file must get, by its attribute. (Those that it may get are no hindrance.)
fn demanded(data: &[u8]) -> Option<CapabilitySet> {
    const VFS_CAP_FLAGS_EFFECTIVE: u32 = 1;
    let word = |at: usize| Some(u32::from_le_bytes(data.get(at..at + 4)?.try_into().ok()?));
    let (flags, low, high) = (word(0)?, word(4)?, word(12).unwrap_or(0));
    let permitted = CapabilitySet::from_bits_retain(u64::from(low) | u64::from(high) << 32);
    (flags & VFS_CAP_FLAGS_EFFECTIVE != 0).then_some(permitted)
}

/// Marks inherited descriptors that lead out of the mount namespace: directories, and files of cgroup file systems.
/// They are closed by exec.
fn close_ways_out() -> io::Result<()> {
    const CGROUP: u64 = 0x0027_e0eb;
    const CGROUP2: u64 = 0x6367_7270;
    for entry in fs::read_dir("/proc/self/fd")?.flatten() {
        let path: PathBuf = entry.path();
        let Some(fd) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        // The descriptor of this very listing is among them; it is closed anyway.
        let leads_out = fs::metadata(&path).is_ok_and(|m| m.is_dir())
            || rustix::fs::statfs(&path).is_ok_and(|s| [CGROUP, CGROUP2].contains(&s.f_type.unsigned_abs()));
        if leads_out {
            // SAFETY: it was in the list of this process, whose only thread closes nothing meanwhile but the list.
            let _ = fcntl_setfd(unsafe { BorrowedFd::borrow_raw(fd) }, FdFlags::CLOEXEC);
        }
    }
    Ok(())
}

/// Takes capabilities from the bounding set, so that no program with a set-user-id bit or file capabilities brings
/// them back. Needs CAP_SETPCAP.
pub fn bound(keep: CapabilitySet) -> Result<(), Refused> {
    for bit in 0..u64::BITS {
        let one = CapabilitySet::from_bits_retain(1 << bit);
        if keep.contains(one) {
            continue;
        }
        match task::remove_capability_from_bounding_set(one) {
            Ok(()) => {}
            // Beyond the last one of this kernel.
            Err(rustix::io::Errno::INVAL) => break,
            Err(e) => return Err(e).refused(|| "reducing the bounding set (CAP_SETPCAP is needed)"),
        }
    }
    Ok(())
}

/// Takes capabilities from all sets of the process itself.
pub fn reduce(keep: CapabilitySet) -> Result<(), Refused> {
    let what = || "reducing the capabilities";
    task::clear_ambient_capability_set().refused(what)?;
    let permitted = task::capabilities(None).refused(what)?.permitted & keep;
    let sets = CapabilitySets { permitted, effective: permitted, inheritable: CapabilitySet::empty() };
    task::set_capabilities(None, sets).refused(what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_leads_out_is_never_kept() {
        let out = CapabilitySet::NET_ADMIN
            | CapabilitySet::NET_RAW
            | CapabilitySet::SYS_ADMIN
            | CapabilitySet::SYS_PTRACE
            | CapabilitySet::SYS_MODULE
            | CapabilitySet::SYS_RAWIO
            | CapabilitySet::SYS_BOOT
            | CapabilitySet::BPF
            | CapabilitySet::PERFMON
            | CapabilitySet::MKNOD
            | CapabilitySet::DAC_READ_SEARCH
            | CapabilitySet::CHECKPOINT_RESTORE;
        assert!(!kept(&Policy::default()).intersects(out));
        let raw = Policy { raw_sockets: true, ..Policy::default() };
        assert_eq!(kept(&raw) & out, CapabilitySet::NET_RAW);
        let trusted = Policy { capabilities: true, ..Policy::default() };
        assert!(kept(&trusted).contains(out));
    }

    #[test]
    fn what_a_file_demands() {
        // cap_net_raw=ep and cap_net_raw+p, as setcap(8) writes them.
        let bytes = |flag: u8| {
            let mut data = [0; 20];
            (data[0], data[3], data[5]) = (flag, 2, 0x20);
            data
        };
        assert_eq!(demanded(&bytes(1)), Some(CapabilitySet::NET_RAW));
        assert_eq!(demanded(&bytes(0)), None);
        let mut high = bytes(1);
        high[12] = 0x80;
        assert_eq!(demanded(&high), Some(CapabilitySet::NET_RAW | CapabilitySet::BPF));
        assert_eq!((demanded(&[]), demanded(&[1, 0, 0])), (None, None));
        assert!(!demands(Path::new("/etc/passwd"), KEPT) && !demands(Path::new("/no/such/file"), KEPT));
        assert_eq!(find(OsStr::new("./x")), Some("./x".into()));
        assert!(find(OsStr::new("sh")).is_some_and(|p| p.is_absolute()));
    }

    #[test]
    fn each_mount_point_is_handled_once() {
        let text = "1 0 0:1 / / rw - ext4 d rw\n2 1 0:2 / /proc rw - cgroup2 c rw\n3 1 0:2 / /proc rw - cgroup2 c rw\n\
                    4 1 0:3 / /no/such/place rw - cgroup c rw\n5 1 0:4 / /sys rw - sysfs s rw\n";
        let all = mounts::parse(text);
        assert_eq!(points(&all, &["cgroup", "cgroup2"]), [Path::new("/proc")]);
    }
}
