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

/// Raises the soft limit of open files to the hard one: an endpoint needs a handful of descriptors.
pub fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let all = Rlimit { current: limit.maximum, maximum: limit.maximum };
        if let Err(e) = setrlimit(Resource::Nofile, all) {
            tracing::warn!("raising the limit of open files: {e}");
        }
    }
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
