//! bpffs: mounted where distributions mount it, by the daemon if nobody has.

use std::fs;
use std::path::Path;

use rustix::fs::statfs;
use rustix::mount::{MountFlags, mount};

use crate::error::{Context, Refused};
use crate::names::BPFFS;

/// BPF_FS_MAGIC of linux/magic.h.
const MAGIC: u32 = 0xcafe_4a11;

/// Makes sure that bpffs is mounted and that `dir` (below it) exists.
pub fn prepare(dir: &Path) -> Result<(), Refused> {
    let mounted = || statfs(BPFFS).is_ok_and(|s| u32::try_from(s.f_type).is_ok_and(|t| t == MAGIC));
    if !mounted() {
        fs::create_dir_all(BPFFS).refused(|| format!("making {BPFFS}"))?;
        mount("bpf", BPFFS, "bpf", MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC, None)
            .refused(|| format!("mounting bpffs at {BPFFS}"))?;
    }
    fs::create_dir_all(dir).refused(|| format!("making {}", dir.display()))
}

/// Removes the directory of pins if nothing is pinned any more.
pub fn remove(dir: &Path) {
    if let Err(e) = fs::remove_dir(dir)
        && e.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!("removing {}: {e}", dir.display());
    }
}
