//! Addresses and delegated prefixes: given to compartments, and taken away.
//!
//! | step of giving | undone by |
//! |---|---|
//! | registry: one owner in a realm | removal |
//! | is it free? Until that is known it is tentative, and of the following only the XDP program knows it (`probe`) | |
//! | kernel's device (/32, /128); of a prefix a local route; a route over the host link if the kernel is not to have it | `del`, after its connections were closed |
//! | workers: what the compartment may send from | the list without it |
//! | XDP program: from now on it answers for the address | removal from its maps |
//! | kernel path: sockets of the compartment may use it | removal from its maps |
//! | state file | the file without it |

use std::net::IpAddr;

use afnet_abi::control::{Address, AddressSpec, AddressState, Event};
use afnet_abi::vlan::Vlan;
use afnet_bpf::AddressEntry;
use afnet_dataplane::{self as dp, OwnedAddress};
use rustix::io::Errno;

use super::core::Core;
use super::device::{bpf, dataplane_error};
use super::probe::by_kernel;
use super::report::mac_text;
use crate::error::Refused;
use crate::netlink::local::LocalRoute;
use crate::netlink::{self, Netlink};
use crate::registry::{Owned, Prefix, Realm, Slot, bits};

impl Core {
    /// Gives an address or prefix to a compartment. Whether it may be used is not known yet, unless the answer says so.
    pub(super) fn add_address(&mut self, name: &str, spec: &AddressSpec) -> Result<Address, Refused> {
        let slot = self.registry.slot(name)?;
        let mut owned = self.owned(spec, AddressState::Ok)?;
        owned.state = self.probes.first_state(&owned);
        if !owned.delegated
            && let Some(host) = self.mirror.host_address(owned.address)
        {
            let text = format!(
                "{}/{} is the host's own: a compartment needs an address that nobody has",
                host.address, host.prefix_len
            );
            return Err(Refused::new(Errno::ADDRINUSE, text));
        }
        self.give(slot, owned, false)
    }

    /// Makes a compartment the owner. `replace`: see [`Self::begin`].
    fn give(&mut self, slot: Slot, owned: Owned, replace: bool) -> Result<Address, Refused> {
        self.registry.add_address(slot, owned)?;
        if let Err(e) = self.install(slot, &owned).and_then(|()| self.save(slot)) {
            self.uninstall(slot, &owned);
            self.registry.remove_address(owned.realm, owned.prefix());
            self.tell_workers(slot).unwrap_or_else(|e| tracing::error!("{e}"));
            return Err(e);
        }
        self.join(&owned);
        self.begin(&owned, replace);
        self.flush_routes_soon();
        let address = self.wire_address(&self.name(slot), &owned);
        self.events.push(Event::Address(address.clone()));
        Ok(address)
    }

    /// Gives one that some compartment has to another one.
    pub(super) fn move_address(&mut self, spec: &AddressSpec, name: &str) -> Result<Address, Refused> {
        let to = self.registry.slot(name)?;
        let (from, owned) = self.find_address(spec)?;
        if from == to {
            return Ok(self.wire_address(name, &owned));
        }
        self.take(from, &owned)?;
        self.give(to, owned, true).inspect_err(|_| {
            if let Err(e) = self.give(from, owned, true) {
                tracing::error!("giving {} back to {}: {e}", owned.text(), self.name(from));
            }
        })
    }

    /// Who owns exactly this address or prefix.
    fn find_address(&self, spec: &AddressSpec) -> Result<(Slot, Owned), Refused> {
        let realm = Realm { device: self.device(&spec.dev)?, vlan: spec.vlan };
        let len = if spec.delegated { spec.prefix_len } else { bits(spec.address) };
        self.registry.find(realm, Prefix { address: spec.address, len }).ok_or_else(|| {
            let what = if spec.delegated { "prefix" } else { "address" };
            let text = format!("no compartment has the {what} {}/{len} on {}", spec.address, spec.dev);
            Refused::new(Errno::ADDRNOTAVAIL, text)
        })
    }

    /// Takes one away.
    pub(super) fn del_address(&mut self, spec: &AddressSpec, name: Option<&str>) -> Result<(), Refused> {
        let (slot, owned) = self.find_address(spec)?;
        let owner = self.name(slot);
        if let Some(name) = name
            && name != owner
        {
            self.registry.slot(name)?;
            let text = format!("{} belongs to {owner}, not to {name}", spec.address);
            return Err(Refused::new(Errno::ADDRNOTAVAIL, text));
        }
        self.take(slot, &owned)
    }

    fn take(&mut self, slot: Slot, owned: &Owned) -> Result<(), Refused> {
        self.registry.remove_address(owned.realm, owned.prefix());
        // Before the address goes, since the kernel sends no RST without it; and after, for those that came meanwhile.
        let busy = self.close_connections(slot, owned);
        self.uninstall(slot, owned);
        if busy {
            self.close_connections(slot, owned);
        }
        self.tell_workers(slot)?;
        self.save(slot)?;
        self.flush_routes_soon();
        let address = self.wire_address(&self.name(slot), owned);
        self.events.push(Event::AddressDeleted(address));
        Ok(())
    }

    /// Makes an owned address work: kernel, workers, XDP program, in this order.
    pub(super) fn install(&mut self, slot: Slot, owned: &Owned) -> Result<(), Refused> {
        self.install_kernel(owned)?;
        self.tell_workers(slot)?;
        self.install_demux(slot, owned)?;
        self.confine_address(slot, owned)
    }

    /// The kernel's part: the address on its device, the prefix as its own, or a way to the workers. Having it already
    /// is fine.
    pub(super) fn install_kernel(&mut self, owned: &Owned) -> Result<(), Refused> {
        let Some(live) = self.devices.get(usize::from(owned.realm.device)).and_then(|d| d.live.as_ref())
        else {
            return Ok(());
        };
        let ifindex = live.link.ifindex;
        // Until it is known to be free the kernel has it only if it is the one that asks.
        if owned.state != AddressState::Ok
            && !(owned.state == AddressState::Tentative && by_kernel(owned) && live.link.ready())
        {
            return Ok(());
        }
        if owned.on_device() {
            let name = &live.link.name;
            let added = match owned.state {
                AddressState::Ok => self.netlink.add_address(ifindex, owned.address),
                _ => self.netlink.ask_for_address(ifindex, owned.address),
            };
            return match added {
                Err(e) if e.errno == Errno::EXIST => Ok(()),
                other => other.map_err(|e| e.refused(format!("adding {} to {name}", owned.address))),
            };
        }
        if owned.in_kernel() {
            let what = || format!("making {} the kernel's own", owned.text());
            // Claimed ports of a prefix have no socket of the kernel that could take what exceeds the host link.
            let mtu = self.host.as_ref().map(|host| host.link.kernel.mtu);
            let route = local_route(owned, ifindex);
            return self.netlink.add_local_route(route, mtu).map_err(|e| e.refused(what()));
        }
        // In a tagged realm the host is no member.
        if let Some(host) = &self.host
            && owned.realm.vlan == Vlan::NONE
        {
            let source = self.mirror.host_source(ifindex, owned.address.is_ipv6());
            host.link.add_route(&mut self.netlink, owned.prefix(), source)?;
        }
        Ok(())
    }

    /// The XDP program's part.
    pub(super) fn install_demux(&self, slot: Slot, owned: &Owned) -> Result<(), Refused> {
        let Some(live) = self.devices.get(usize::from(owned.realm.device)).and_then(|d| d.live.as_ref())
        else {
            return Ok(());
        };
        let entry = AddressEntry {
            slot,
            tentative: owned.state != AddressState::Ok,
            // What the kernel does not have, the program has to answer for.
            fast_only: !owned.in_kernel(),
        };
        let vlan = owned.realm.vlan;
        let result = if owned.delegated {
            live.demux.insert_prefix(vlan, owned.address, owned.prefix_len, entry)
        } else {
            live.demux.insert_address(vlan, owned.address, entry)
        };
        result
            .map_err(|e| bpf(format!("giving {} to the XDP program of {}", owned.text(), live.link.name), &e))
    }

    /// Undoes [`Self::install`], but for the workers' list; what is not there any more is fine.
    pub(super) fn uninstall(&mut self, slot: Slot, owned: &Owned) {
        self.probes.forget(owned);
        self.leave(owned);
        self.unconfine_address(slot, owned);
        let Some(live) = self.devices.get(usize::from(owned.realm.device)).and_then(|d| d.live.as_ref())
        else {
            return;
        };
        let vlan = owned.realm.vlan;
        let removed = if owned.delegated {
            live.demux.remove_prefix(vlan, owned.address, owned.prefix_len)
        } else {
            live.demux.remove_address(vlan, owned.address)
        };
        match removed {
            Ok(()) | Err(afnet_bpf::Error::NoAddress { .. }) => {}
            Err(e) => {
                tracing::error!("taking {} of compartment {slot} from the XDP program: {e}", owned.text())
            }
        }
        self.uninstall_kernel(owned);
    }

    /// The kernel's part of it.
    pub(super) fn uninstall_kernel(&mut self, owned: &Owned) {
        let Some(live) = self.devices.get(usize::from(owned.realm.device)).and_then(|d| d.live.as_ref())
        else {
            return;
        };
        let gone = if owned.in_kernel() {
            remove_from_kernel(&mut self.netlink, owned, live.link.ifindex)
        } else if let Some(host) = &self.host {
            host.link.del_route(&mut self.netlink, owned.prefix())
        } else {
            Ok(())
        };
        match gone {
            Err(e) if !matches!(e.errno, Errno::ADDRNOTAVAIL | Errno::NODEV) => {
                tracing::error!("taking {} from the kernel: {e}", owned.text());
            }
            _ => {}
        }
    }

    /// Takes the prefixes of a device that is gone from the kernel.
    pub(super) fn remove_local_routes(&mut self, device: u16, ifindex: u32) {
        let realm = Realm { device, vlan: Vlan::NONE };
        for owned in self.registry.iter().flat_map(|(_, c)| &c.addresses) {
            if owned.realm == realm
                && owned.delegated
                && owned.in_kernel()
                && let Err(e) = self.netlink.del_local_route(local_route(owned, ifindex))
            {
                tracing::error!("taking {} from the kernel: {e}", owned.text());
            }
        }
    }

    /// Tells the workers what a compartment is now, if they know it: if it has or had endpoints. Workers need not know
    /// the others: nothing of theirs reaches a worker.
    pub(super) fn tell_workers(&mut self, slot: Slot) -> Result<(), Refused> {
        if self.dataplane.knows(slot) { self.introduce(slot) } else { Ok(()) }
    }

    /// Tells the workers a compartment's addresses, and whether it is isolated.
    pub(super) fn introduce(&mut self, slot: Slot) -> Result<(), Refused> {
        let Some(compartment) = self.registry.get(slot) else { return Ok(()) };
        let addresses: Vec<OwnedAddress> = compartment
            .addresses
            .iter()
            .filter_map(|owned| {
                let live = self.devices.get(usize::from(owned.realm.device))?.live.as_ref()?;
                Some(OwnedAddress {
                    addr: owned.address,
                    prefix_len: owned.prefix_len,
                    ifindex: live.link.ifindex,
                    vlan: owned.realm.vlan,
                    delegated: owned.delegated,
                    usable: owned.state == AddressState::Ok,
                    fast_only: !owned.in_kernel(),
                })
            })
            .collect();
        let what = || format!("telling the workers what {} is", compartment.name);
        let known = dp::Compartment { addresses, isolated: compartment.policy.isolated };
        self.dataplane.set_compartment(slot, known).map_err(|e| dataplane_error(what(), &e))
    }

    /// A specification in the registry's terms.
    pub(super) fn owned(&self, spec: &AddressSpec, state: AddressState) -> Result<Owned, Refused> {
        Ok(Owned {
            realm: Realm { device: self.device(&spec.dev)?, vlan: spec.vlan },
            address: spec.address,
            prefix_len: spec.prefix_len,
            delegated: spec.delegated,
            fast_only: spec.fast_only,
            defend: spec.defend,
            nodad: spec.nodad,
            state,
        })
    }

    /// The other way round.
    pub(super) fn spec(&self, owned: &Owned) -> AddressSpec {
        AddressSpec {
            address: owned.address,
            prefix_len: owned.prefix_len,
            dev: self.device_name(owned.realm).to_owned(),
            vlan: owned.realm.vlan,
            delegated: owned.delegated,
            fast_only: owned.fast_only,
            defend: owned.defend,
            nodad: owned.nodad,
        }
    }

    /// As it is shown.
    pub(super) fn wire_address(&self, name: &str, owned: &Owned) -> Address {
        let rival = self.probes.rival(owned).filter(|_| owned.state == AddressState::Duplicate);
        Address {
            spec: self.spec(owned),
            name: name.to_owned(),
            state: owned.state,
            rival: rival.map(mac_text),
        }
    }

    /// Whether a compartment owns an address in some realm.
    pub(super) fn owns(&self, slot: Slot, address: IpAddr) -> bool {
        self.registry.get(slot).is_some_and(|c| c.addresses.iter().any(|o| o.prefix().contains(address)))
    }
}

fn local_route(owned: &Owned, ifindex: u32) -> LocalRoute {
    LocalRoute { prefix: owned.prefix(), device: ifindex }
}

/// Takes from the kernel what it holds for a device.
pub(super) fn remove_from_kernel(
    netlink: &mut Netlink,
    owned: &Owned,
    ifindex: u32,
) -> Result<(), netlink::Error> {
    if owned.on_device() {
        netlink.del_address(ifindex, owned.address)
    } else {
        netlink.del_local_route(local_route(owned, ifindex))
    }
}
