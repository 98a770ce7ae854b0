//! The veth pair between the workers and the host's own stack.
//!
//! ```text
//!  host stack <-> afnetH.. ====veth==== afnetW.. <-> XDP, AF_XDP, workers
//! ```
//!
//! The workers hand to the kernel what is for the host or for nobody on the fast path; the kernel reaches addresses
//! that it does not hold itself (`fast-only`) by routes over its end. That end has no addresses
//! and no ARP: whatever is sent there is for the workers.

use std::net::IpAddr;

use rustix::io::Errno;

use super::link::{Link, VethPair};
use super::{Netlink, ethtool};
use crate::error::{Context, Refused};
use crate::registry::Prefix;
use crate::system::sysctl;

/// The pair.
#[derive(Debug)]
pub struct HostLink {
    /// The kernel's end.
    pub kernel: Link,
    /// The workers' end.
    pub worker: Link,
    /// Queues of each.
    pub queues: u32,
}

impl HostLink {
    /// Makes the pair; one that a killed daemon of the same instance left is replaced.
    pub fn create(
        netlink: &mut Netlink,
        names: (&str, &str),
        queues: u32,
        mtu: u32,
    ) -> Result<Self, Refused> {
        let (kernel, worker) = names;
        let what = || format!("making the veth pair {kernel}, {worker}");
        if let Ok(old) = netlink.link(kernel) {
            netlink.del_link(old.ifindex).map_err(|e| e.refused(format!("removing the old {kernel}")))?;
        }
        let pair = VethPair { name: kernel, peer: worker, queues, mtu };
        netlink.add_veth(&pair).map_err(|e| e.refused(what()))?;
        let configure = |netlink: &mut Netlink| -> Result<Self, Refused> {
            configure(kernel, worker)?;
            let mut ends = Vec::new();
            for name in [kernel, worker] {
                let link = netlink.link(name).map_err(|e| e.refused(what()))?;
                // The workers' end too: the kernel then sends nothing of its own there.
                netlink.set_up_without_arp(link.ifindex).map_err(|e| e.refused(what()))?;
                ends.push(link);
            }
            let worker = ends.pop();
            match (ends.pop(), worker) {
                (Some(kernel), Some(worker)) => Ok(Self { kernel, worker, queues }),
                _ => Err(Refused::new(Errno::NODEV, what())),
            }
        };
        configure(netlink).inspect_err(|_| {
            if let Ok(link) = netlink.link(kernel) {
                let _ = netlink.del_link(link.ifindex);
            }
        })
    }

    /// Removes the pair, with the routes over it.
    pub fn remove(&self, netlink: &mut Netlink) {
        match netlink.del_link(self.kernel.ifindex) {
            Err(e) if e.errno != Errno::NODEV => tracing::warn!("removing {}: {e}", self.kernel.name),
            _ => {}
        }
    }

    /// Lets the host reach `prefix` over the pair, preferably from `src`.
    pub fn add_route(
        &self,
        netlink: &mut Netlink,
        prefix: Prefix,
        src: Option<IpAddr>,
    ) -> Result<(), Refused> {
        let what = || format!("routing {}/{} over {}", prefix.network(), prefix.len, self.kernel.name);
        netlink.add_route(prefix, self.kernel.ifindex, src).map_err(|e| e.refused(what()))
    }

    /// Undoes it.
    pub fn del_route(&self, netlink: &mut Netlink, prefix: Prefix) -> Result<(), super::Error> {
        match netlink.del_route(prefix, self.kernel.ifindex) {
            Err(e) if e.errno == Errno::SRCH => Ok(()),
            other => other,
        }
    }
}

fn configure(kernel: &str, worker: &str) -> Result<(), Refused> {
    for name in [kernel, worker] {
        // No link-local address of its own. Fails where the kernel has no IPv6.
        optional(sysctl::set("ipv6", name, "addr_gen_mode", "1"))?;
        optional(sysctl::set("ipv6", name, "accept_ra", "0"))?;
    }
    optional(sysctl::set("ipv6", worker, "disable_ipv6", "1"))?;
    // What comes from the workers has a compartment's source, which may be the host's as well, or anybody's.
    sysctl::set("ipv4", kernel, "accept_local", "1")?;
    // The stricter one of `all` and the interface's counts: 2 (loose) is numerically above a strict `all`.
    let all = sysctl::get("ipv4", "all", "rp_filter").unwrap_or_default();
    sysctl::set("ipv4", kernel, "rp_filter", if all == "0" { "0" } else { "2" })?;
    ethtool::no_tx_checksum_offload(kernel).refused(|| format!("switching checksum offload of {kernel} off"))
}

fn optional(result: Result<(), Refused>) -> Result<(), Refused> {
    match result {
        Err(e) if e.errno == Errno::NOENT => Ok(()),
        other => other,
    }
}
