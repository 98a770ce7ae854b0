//! The kernel path: tells the confinement's programs about compartments, addresses, cgroups and devices.
//!
//! ```text
//! compartment added, policy changed     -> its entry, without a cgroup
//! cgroup made (somebody enters it)      -> address of its private loopback on lo, then the entry with the cgroup
//! address added, removed                -> owner; candidates for sources
//! ```
//!
//! One daemon for each network namespace does this. Without cgroup v2, or on a kernel that refuses a program, the daemon runs without: processes then cannot enter a
//! compartment, and are told why.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use afnet_abi::control::AddressState;
use afnet_abi::vlan::Vlan;
use afnet_bpf::{Confined, Confinement, ConfinementConfig, Source};
use rustix::io::Errno;

use super::core::Core;
use super::device::bpf;
use super::proof::own_cookie;
use crate::error::Refused;
use crate::netlink::local::LOOPBACK;
use crate::registry::{Owned, Slot};
use crate::system::lock::DeviceLock;

/// The programs, or why there are none.
#[derive(Debug)]
pub struct KernelPath(Result<Loaded, String>);

#[derive(Debug)]
struct Loaded {
    programs: Confinement,
    /// Loopback aliases are of slots, so two daemons would mistake each other's.
    _lock: DeviceLock,
}

impl KernelPath {
    /// Loads the programs; `handle` is an interface index of ours.
    pub fn load(core: &crate::config::LimitsConfig, devices: usize, handle: u32, pins: PathBuf) -> Self {
        let load = || -> Result<Loaded, String> {
            let lock = DeviceLock::take(LOOPBACK, "lo")
                .map_err(|_| "another afnetd does it in this network namespace".to_owned())?;
            let cookie = own_cookie().map_err(|e| e.to_string())?;
            let netns_cookie =
                cookie.ok_or("the kernel does not tell network namespaces apart (SO_NETNS_COOKIE, 5.14)")?;
            let devices = u32::try_from(devices).unwrap_or(u32::MAX);
            let programs = Confinement::load(&ConfinementConfig {
                netns_cookie,
                compartments: core.compartments,
                addresses: core.addresses.saturating_mul(devices),
                prefixes: core.prefixes.saturating_mul(devices),
                pins,
                handle,
            })
            .map_err(|e| e.to_string())?;
            Ok(Loaded { programs, _lock: lock })
        };
        Self(load())
    }

    /// Why there is none.
    pub fn missing(&self) -> Option<&str> {
        self.0.as_ref().err().map(String::as_str)
    }

    /// Ends it: sockets are confined no more.
    pub fn detach(self) {
        if let Ok(loaded) = self.0
            && let Err(e) = loaded.programs.detach()
        {
            tracing::error!("detaching the kernel path: {e}");
        }
    }

    /// The programs, if there are some.
    pub(super) fn programs(&self) -> Option<&Confinement> {
        self.0.as_ref().ok().map(|loaded| &loaded.programs)
    }

    /// The same, to change what they are told.
    pub(super) fn programs_mut(&mut self) -> Option<&mut Confinement> {
        self.0.as_mut().ok().map(|loaded| &mut loaded.programs)
    }
}

/// ::1 of a compartment, as the kernel has it (`loopback6` in bpf/prog/confine.h).
fn loopback(slot: Slot) -> IpAddr {
    let [high, low] = [slot >> 16, slot & 0xffff].map(|half| u16::try_from(half).unwrap_or(0));
    IpAddr::V6(Ipv6Addr::new(0xfdaf, 0x6e65, 0x7400, 0, 0, 0, high, low))
}

/// The slot whose loopback it is.
fn loopback_slot(address: IpAddr) -> Option<Slot> {
    let IpAddr::V6(v6) = address else { return None };
    let [.., high, low] = v6.segments();
    let slot = Slot::from(high) << 16 | Slot::from(low);
    (loopback(slot) == address).then_some(slot)
}

/// Whether ordinary sockets may use it: the kernel takes it for its own, and nobody else has it.
fn on_kernel_path(owned: &Owned) -> bool {
    !owned.fast_only && owned.realm.vlan == Vlan::NONE && owned.state == AddressState::Ok
}

impl Core {
    /// Attaches the programs: their maps hold compartments and addresses already.
    pub(super) fn attach_kernel_path(&mut self) {
        let host = self.host.as_ref().map(|h| h.link.kernel.ifindex);
        let devices: Vec<u32> =
            self.devices.iter().filter_map(|d| d.live.as_ref()).map(|l| l.link.ifindex).collect();
        let cgroups = &self.cgroups;
        let Ok(Loaded { programs, .. }) = &mut self.kernel_path.0 else { return };
        let mut attach = || -> Result<(), String> {
            let base = cgroups.ensure_base().map_err(|e| e.message)?;
            let root = base.parent().ok_or("the instance's cgroup is the root")?;
            let open = |path: &std::path::Path| {
                fs::File::open(path).map_err(|e| format!("opening {}: {e}", path.display()))
            };
            let netns = open("/proc/thread-self/ns/net".as_ref())?;
            programs.attach(&open(&base)?, &open(root)?, &netns).map_err(|e| e.to_string())?;
            programs.set_host_link(host.unwrap_or(0));
            let mut all = devices.iter().copied().chain(host);
            all.try_for_each(|ifindex| programs.attach_device(ifindex)).map_err(|e| e.to_string())
        };
        let attached = attach();
        self.tell_host_addresses();
        if let Err(why) = attached {
            let failed = std::mem::replace(&mut self.kernel_path, KernelPath(Err(why)));
            failed.detach();
        }
        if let Some(why) = self.kernel_path.missing() {
            tracing::error!("ordinary sockets cannot be confined to compartments: {why}");
        }
    }

    /// The host's addresses have changed.
    pub(super) fn tell_host_addresses(&mut self) {
        let indices = self.devices.iter().filter_map(|d| d.live.as_ref()).map(|l| l.link.ifindex);
        let [four, six] =
            [false, true].map(|six| indices.clone().find_map(|index| self.mirror.host_source(index, six)));
        if let Some(programs) = self.kernel_path.programs_mut() {
            programs.set_host_address(false, four);
            programs.set_host_address(true, six);
        }
    }

    /// A device has come, or is there again.
    pub(super) fn confine_device(&mut self, ifindex: u32) -> Result<(), Refused> {
        let Some(programs) = self.kernel_path.programs_mut() else { return Ok(()) };
        let what = || format!("attaching the kernel path to interface {ifindex}");
        programs.attach_device(ifindex).map_err(|e| bpf(what(), &e))
    }

    /// A device is gone.
    pub(super) fn unconfine_device(&mut self, ifindex: u32) {
        if let Some(programs) = self.kernel_path.programs_mut()
            && let Err(e) = programs.detach_device(ifindex)
        {
            tracing::debug!("detaching the kernel path from interface {ifindex}: {e}");
        }
    }

    /// The kernel path's part of giving an address to a compartment.
    pub(super) fn confine_address(&mut self, slot: Slot, owned: &Owned) -> Result<(), Refused> {
        self.own_on_kernel_path(slot, owned)?;
        if on_kernel_path(owned) { self.confine(slot) } else { Ok(()) }
    }

    /// The address's own part of it; [`Self::confine`] is the compartment's.
    pub(super) fn own_on_kernel_path(&mut self, slot: Slot, owned: &Owned) -> Result<(), Refused> {
        let Some(programs) = self.kernel_path.programs_mut().filter(|_| on_kernel_path(owned)) else {
            return Ok(());
        };
        let entered = if owned.delegated {
            programs.insert_prefix(owned.address, owned.prefix_len, slot)
        } else {
            programs.insert_address(owned.address, slot)
        };
        entered.map_err(|e| bpf(format!("giving {} to the kernel path", owned.text()), &e))
    }

    /// Undoes it; what was not there is fine. The registry may have the address still, or no more.
    pub(super) fn unconfine_address(&mut self, slot: Slot, owned: &Owned) {
        let Some(programs) = self.kernel_path.programs_mut().filter(|_| on_kernel_path(owned)) else {
            return;
        };
        let removed = if owned.delegated {
            programs.remove_prefix(owned.address, owned.prefix_len)
        } else {
            programs.remove_address(owned.address)
        };
        if let Err(e) = removed {
            tracing::error!("taking {} of compartment {slot} from the kernel path: {e}", owned.text());
        }
        if let Err(e) = self.confine(slot) {
            tracing::error!("{e}");
        }
    }

    /// Tells the programs of a compartment as it is now.
    pub(super) fn confine(&mut self, slot: Slot) -> Result<(), Refused> {
        let Some(compartment) = self.registry.get(slot) else { return Ok(()) };
        let name = compartment.name.clone();
        let entry = Confined {
            cgroup: self.cgroups.id(&name).unwrap_or(0),
            isolated: compartment.policy.isolated,
            raw_sockets: compartment.policy.raw_sockets,
            unprivileged_ports: compartment.policy.unprivileged_ports,
            sockets: compartment.policy.sockets,
            sources: self.sources(&compartment.addresses),
        };
        let Some(programs) = self.kernel_path.programs_mut() else { return Ok(()) };
        programs.set_compartment(slot, &entry).map_err(|e| bpf(format!("confining {name}"), &e))?;
        self.unfollow_elsewhere(slot);
        Ok(())
    }

    /// Whether the kernel path has a compartment at an interface: where its sockets hear groups.
    pub(super) fn is_confined_to(&self, slot: Slot, ifindex: u32) -> bool {
        let sources = self.registry.get(slot).map(|c| self.sources(&c.addresses)).unwrap_or_default();
        sources.iter().any(|source| source.ifindex == ifindex)
    }

    /// Candidates for source addresses, in the order in which they were given to the compartment.
    fn sources(&self, addresses: &[Owned]) -> Vec<Source> {
        let source = |owned: &Owned, addr, prefix_len| {
            let live = self.devices.get(usize::from(owned.realm.device))?.live.as_ref()?;
            Some(Source { addr, prefix_len, ifindex: live.link.ifindex })
        };
        let usable = || addresses.iter().filter(|owned| on_kernel_path(owned));
        let mut sources: Vec<Source> = usable()
            .filter(|owned| !owned.delegated)
            .filter_map(|owned| source(owned, owned.address, owned.prefix_len))
            .collect();
        // Who has nothing but a prefix speaks from its first host address. (IPv6 would need IPV6_FREEBIND for it.)
        if !sources.iter().any(|s| s.addr.is_ipv4()) {
            sources.extend(usable().filter(|owned| owned.delegated).find_map(|owned| {
                let IpAddr::V4(first) = owned.address else { return None };
                let host = if owned.prefix_len < 31 { 1 } else { 0 };
                source(owned, IpAddr::V4(Ipv4Addr::from_bits(first.to_bits() + host)), owned.prefix_len)
            }));
        }
        sources
    }

    /// Makes a compartment's cgroup, if need be, and its private loopback: processes may enter.
    pub(super) fn open_compartment(&mut self, name: &str) -> Result<PathBuf, Refused> {
        let slot = self.registry.slot(name)?;
        if let Some(why) = self.kernel_path.missing() {
            let text = format!("processes cannot be confined to {name}: {why}");
            return Err(Refused::new(Errno::OPNOTSUPP, text));
        }
        let path = self.cgroups.ensure(name)?;
        match self.netlink.add_address(LOOPBACK, loopback(slot)) {
            Err(e) if !matches!(e.errno, Errno::EXIST | Errno::OPNOTSUPP | Errno::AFNOSUPPORT) => {
                return Err(e.refused(format!("adding {} to lo", loopback(slot))));
            }
            _ => {}
        }
        self.confine(slot)?;
        Ok(path)
    }

    /// A compartment is no more; its slot may be another's soon.
    pub(super) fn close_compartment(&mut self, slot: Slot) {
        if let Some(programs) = self.kernel_path.programs_mut()
            && let Err(e) = programs.clear_compartment(slot)
        {
            tracing::error!("removing compartment {slot} from the kernel path: {e}");
        }
        self.remove_loopback(slot);
    }

    /// Takes the address of a private loopback from `lo`.
    pub(super) fn remove_loopback(&mut self, slot: Slot) {
        match self.netlink.del_address(LOOPBACK, loopback(slot)) {
            Err(e) if e.errno != Errno::ADDRNOTAVAIL => {
                tracing::debug!("taking {} from lo: {e}", loopback(slot));
            }
            _ => {}
        }
    }

    /// Takes those from `lo` that a former afnetd has left there.
    pub(super) fn remove_stray_loopbacks(&mut self) {
        if self.kernel_path.missing().is_some() {
            return;
        }
        for slot in self.mirror.ours(LOOPBACK).into_iter().filter_map(loopback_slot) {
            if self.registry.get(slot).is_none() {
                self.remove_loopback(slot);
            }
        }
    }

    /// How many sockets the compartment's processes have made that are still there.
    pub(super) fn socket_count(&self, slot: Slot) -> Result<u64, Refused> {
        match self.kernel_path.programs() {
            Some(programs) => programs.sockets(slot).map_err(|e| bpf("counting sockets", &e)),
            None => Ok(0),
        }
    }

    /// What was refused to a compartment, in the order of [`afnet_bpf::Refusal`].
    pub(super) fn refusals(&self, slot: Slot) -> Result<Vec<u64>, Refused> {
        match &self.kernel_path.0 {
            Ok(loaded) => loaded.programs.refusals(slot).map_err(|e| bpf("counters of the kernel path", &e)),
            Err(_) => Ok(Vec::new()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_slot_has_a_loopback_address() {
        assert_eq!(loopback(5), "fdaf:6e65:7400::5".parse::<IpAddr>().unwrap());
        assert_eq!(loopback(0x1_0002), "fdaf:6e65:7400::1:2".parse::<IpAddr>().unwrap());
        assert_eq!(loopback_slot(loopback(0x1_0002)), Some(0x1_0002));
        assert_eq!(loopback_slot("fdaf:6e65:7400:1::5".parse().unwrap()), None);
    }
}
