//! Privileges, checked before anything is touched: a missing one is named instead of an EPERM from the middle.

use rustix::io::Errno;
use rustix::thread::CapabilitySet;

use crate::error::{Context, Refused};

/// What is needed for what. Each line: any one of the set suffices.
const NEEDED: &[(CapabilitySet, &str)] = &[
    (CapabilitySet::NET_ADMIN, "CAP_NET_ADMIN (addresses, XDP, veth)"),
    (CapabilitySet::NET_RAW, "CAP_NET_RAW (AF_XDP sockets)"),
    (CapabilitySet::BPF.union(CapabilitySet::SYS_ADMIN), "CAP_BPF (loading programs and maps)"),
    (CapabilitySet::PERFMON.union(CapabilitySet::SYS_ADMIN), "CAP_PERFMON (the verifier's full rules)"),
];

/// Refuses with the list of what the process lacks.
pub fn check() -> Result<(), Refused> {
    let sets = rustix::thread::capabilities(None).refused(|| "reading the capabilities of afnetd")?;
    let missing = missing(sets.effective);
    if missing.is_empty() {
        return Ok(());
    }
    let text = format!("afnetd lacks {}: run it as root or grant them", missing.join(", "));
    Err(Refused::new(Errno::PERM, text))
}

fn missing(effective: CapabilitySet) -> Vec<&'static str> {
    NEEDED.iter().filter(|(any, _)| !effective.intersects(*any)).map(|(_, name)| *name).collect()
}

/// Raises the limit of open files to what that many endpoints may need, the hard limit too if it must and may be; the
/// kernel's bound for a process is `fs.nr_open`.
pub fn raise_file_limit(connections: usize, workers: usize) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let bound =
        std::fs::read_to_string("/proc/sys/fs/nr_open").ok().and_then(|text| text.trim().parse().ok());
    let wanted = files(connections, workers).min(bound.unwrap_or(u64::MAX)).max(limit.maximum.unwrap_or(0));
    let set = |most: Option<u64>| setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most });
    // The hard one takes CAP_SYS_RESOURCE.
    if limit.maximum.is_some_and(|most| most < wanted) && set(Some(wanted)).is_ok() {
        return;
    }
    if limit.current != limit.maximum
        && let Err(e) = set(limit.maximum)
    {
        tracing::warn!("raising the limit of open files: {e}");
    }
}

/// Descriptors for connections that all have an endpoint (its memory, two for its wake-up, two for each worker's
/// doorbell, a claim's socket), and for everything else.
fn files(connections: usize, workers: usize) -> u64 {
    (connections as u64).saturating_mul(5 + 2 * workers as u64).saturating_add(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named() {
        assert_eq!(missing(CapabilitySet::empty()).len(), NEEDED.len());
        let old = CapabilitySet::NET_ADMIN | CapabilitySet::NET_RAW | CapabilitySet::SYS_ADMIN;
        assert!(missing(old).is_empty(), "before 5.8 CAP_SYS_ADMIN stood for BPF and PERFMON");
        let names = missing(CapabilitySet::NET_ADMIN | CapabilitySet::BPF | CapabilitySet::PERFMON);
        assert!(names.len() == 1 && names[0].contains("CAP_NET_RAW"));
    }
}
