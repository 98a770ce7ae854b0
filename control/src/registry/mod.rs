//! Who owns what: compartments, their addresses and delegated prefixes by realm, their port claims.
//!
//! ```text
//! names: NAME -> slot          slots[slot] -> Compartment { addresses, claims }
//! realms: (device, VLAN) -> exact addresses and prefixes -> slot
//! ```
//!
//! Pure data without any system call; the control thread owns it. What is accepted here is then told to the kernel,
//! the workers and BPF maps; if one of those refuses, the caller takes the change back.
//!
//! Rules:
//! * One owner for each address of a realm, one for each delegated prefix (same network, same length).
//! * One owner over all devices for what the kernel holds ([`Owned::in_kernel`]): when it delivers it looks at no
//!   device. The same compartment may have it on several devices.
//! * A prefix may lie within another one, and an address within any prefix: the longest match owns (as in a
//!   routing table, and as the XDP program looks it up).
//! * Two claims of one compartment conflict when their ports and addresses overlap, unless sockets prove both.

mod claims;
mod realm;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv6Addr};

use afnet_abi::control::{AddressState, Defend, Policy};
use afnet_abi::vlan::Vlan;
use rustix::io::Errno;

pub use self::claims::{Claim, Claims, Piece, PortError, pieces};
pub use self::realm::{Owners, Prefix};
use crate::error::Refused;
use crate::names;

/// A compartment's number: index in BPF maps and workers. 0 belongs to the host.
pub type Slot = u32;

/// A device and the VLAN tags of its frames. `device` is the daemon's own number for it, which outlives the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Realm {
    /// Index in the daemon's table of devices.
    pub device: u16,
    /// Tags.
    pub vlan: Vlan,
}

/// An address or delegated prefix with its realm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owned {
    /// Where.
    pub realm: Realm,
    /// The address, or the prefix's first one.
    pub address: IpAddr,
    /// Of an address: the on-link prefix. Of a delegation: its length.
    pub prefix_len: u8,
    /// The whole prefix is owned.
    pub delegated: bool,
    /// The kernel does not have it.
    pub fast_only: bool,
    /// What to do when another host uses it, if not what the configuration says.
    pub defend: Option<Defend>,
    /// Used without being probed.
    pub nodad: bool,
    /// Only [`AddressState::Ok`] may be used.
    pub state: AddressState,
}

impl Owned {
    /// What is owned, as a prefix: of an address, all bits.
    pub fn prefix(&self) -> Prefix {
        Prefix {
            address: self.address,
            len: if self.delegated { self.prefix_len } else { bits(self.address) },
        }
    }

    /// Whether the kernel takes it for its own too: an address of the device, or a prefix by a local route.
    pub fn in_kernel(&self) -> bool {
        !self.fast_only && self.realm.vlan == Vlan::NONE
    }

    /// Whether the kernel's device has the address itself.
    pub fn on_device(&self) -> bool {
        self.in_kernel() && !self.delegated
    }

    /// For people: `192.0.2.1/24`.
    pub fn text(&self) -> String {
        format!("{}/{}", self.address, self.prefix_len)
    }
}

/// Length of an address in bits.
pub fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// A compartment.
#[derive(Debug, Default)]
pub struct Compartment {
    /// Its name.
    pub name: String,
    /// What it may do.
    pub policy: Policy,
    /// In the order they were added.
    pub addresses: Vec<Owned>,
    /// Ports on the fast path.
    pub claims: Claims,
}

/// The most there may be of each.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Compartments, the host's slot included.
    pub compartments: u32,
    /// Addresses of one device.
    pub addresses: u32,
    /// Delegated prefixes of one device.
    pub prefixes: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { compartments: 4096, addresses: 65536, prefixes: 4096 }
    }
}

/// The registry.
#[derive(Debug)]
pub struct Registry {
    limits: Limits,
    names: BTreeMap<String, Slot>,
    slots: Vec<Option<Compartment>>,
    free: BTreeSet<Slot>,
    realms: HashMap<Realm, Owners>,
}

impl Registry {
    /// An empty registry.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            names: BTreeMap::new(),
            slots: vec![None],
            free: BTreeSet::new(),
            realms: HashMap::new(),
        }
    }

    /// Creates a compartment and returns its slot, the lowest free one (or `want` if that is free).
    pub fn add(&mut self, name: &str, policy: Policy, want: Option<Slot>) -> Result<Slot, Refused> {
        names::check_compartment(name).map_err(|e| Refused::new(Errno::INVAL, e.to_string()))?;
        if self.names.contains_key(name) {
            return Err(Refused::new(Errno::EXIST, format!("{name} exists already")));
        }
        let slot = self.free_slot(want).ok_or_else(|| {
            let most = self.limits.compartments - 1;
            Refused::new(
                Errno::NOSPC,
                format!(
                    "there are {most} compartments already: raise limits.compartments and restart afnetd"
                ),
            )
        })?;
        self.slots[slot as usize] =
            Some(Compartment { name: name.to_owned(), policy, ..Compartment::default() });
        self.names.insert(name.to_owned(), slot);
        Ok(slot)
    }

    fn free_slot(&mut self, want: Option<Slot>) -> Option<Slot> {
        if let Some(slot) = want.filter(|s| *s > 0 && *s < self.limits.compartments) {
            while self.slots.len() <= slot as usize {
                self.free.extend(u32::try_from(self.slots.len()));
                self.slots.push(None);
            }
            if self.free.remove(&slot) {
                return Some(slot);
            }
        }
        if let Some(slot) = self.free.pop_first() {
            return Some(slot);
        }
        let slot = u32::try_from(self.slots.len()).ok().filter(|s| *s < self.limits.compartments)?;
        self.slots.push(None);
        Some(slot)
    }

    /// Removes a compartment with everything it owns and returns what it was.
    pub fn remove(&mut self, slot: Slot) -> Option<Compartment> {
        let gone = self.slots.get_mut(slot as usize)?.take()?;
        for owned in &gone.addresses {
            if let Some(owners) = self.realms.get_mut(&owned.realm) {
                owners.remove(owned.prefix());
            }
        }
        self.names.remove(&gone.name);
        self.free.insert(slot);
        Some(gone)
    }

    /// Slot of a name.
    pub fn slot(&self, name: &str) -> Result<Slot, Refused> {
        self.names.get(name).copied().ok_or_else(|| {
            Refused::new(
                Errno::NOENT,
                format!("there is no compartment {name:?}: `afnet add {name}` makes one"),
            )
        })
    }

    /// The compartment of a slot.
    pub fn get(&self, slot: Slot) -> Option<&Compartment> {
        self.slots.get(slot as usize)?.as_ref()
    }

    /// The compartment of a slot, to change its policy or claims. Addresses change by [`Self::add_address`] only.
    pub fn get_mut(&mut self, slot: Slot) -> Option<&mut Compartment> {
        self.slots.get_mut(slot as usize)?.as_mut()
    }

    /// All compartments in order of name.
    pub fn iter(&self) -> impl Iterator<Item = (Slot, &Compartment)> {
        self.names.values().filter_map(|slot| Some((*slot, self.get(*slot)?)))
    }

    /// Number of compartments.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Gives an address or prefix to a compartment.
    pub fn add_address(&mut self, slot: Slot, owned: Owned) -> Result<(), Refused> {
        check_address(&owned)?;
        let prefix = owned.prefix();
        if let Some(owner) = self.realms.get(&owned.realm).and_then(|o| o.exact(prefix)) {
            let name = self.get(owner).map_or("?", |c| c.name.as_str());
            let errno = if owner == slot { Errno::EXIST } else { Errno::ADDRINUSE };
            return Err(Refused::new(errno, format!("{} belongs to {name} already", owned.text())));
        }
        if owned.in_kernel()
            && let Some((owner, _)) = self.kernel_holder(prefix)
            && owner != slot
        {
            let name = self.get(owner).map_or("?", |c| c.name.as_str());
            let text = format!(
                "{} belongs to {name} on another device, and the kernel, which serves both, tells no devices apart: \
                 add it `fast-only`, so that the fast path alone serves it here",
                owned.text()
            );
            return Err(Refused::new(Errno::ADDRINUSE, text));
        }
        let (addresses, prefixes) = self
            .realms
            .iter()
            .filter(|(realm, _)| realm.device == owned.realm.device)
            .fold((0, 0), |(a, p), (_, o)| (a + o.addresses(), p + o.prefixes()));
        let (count, most, key) = if owned.delegated {
            (prefixes, self.limits.prefixes, "prefixes")
        } else {
            (addresses, self.limits.addresses, "addresses")
        };
        if count >= most as usize {
            let text = format!("the device has {most} {key} already: raise limits.{key} and restart afnetd");
            return Err(Refused::new(Errno::NOSPC, text));
        }
        let Some(compartment) = self.slots.get_mut(slot as usize).and_then(Option::as_mut) else {
            return Err(Refused::new(Errno::NOENT, "no such compartment"));
        };
        compartment.addresses.push(owned);
        self.realms.entry(owned.realm).or_default().insert(prefix, slot);
        Ok(())
    }

    /// Takes an address or prefix away and returns its owner and what it was.
    pub fn remove_address(&mut self, realm: Realm, prefix: Prefix) -> Option<(Slot, Owned)> {
        let owners = self.realms.get_mut(&realm)?;
        let slot = owners.remove(prefix)?;
        if owners.is_empty() {
            self.realms.remove(&realm);
        }
        let compartment = self.get_mut(slot)?;
        let at = compartment.addresses.iter().position(|o| o.realm == realm && o.prefix() == prefix)?;
        Some((slot, compartment.addresses.remove(at)))
    }

    /// What is owned by exactly this prefix of a realm.
    pub fn find(&self, realm: Realm, prefix: Prefix) -> Option<(Slot, Owned)> {
        let slot = self.realms.get(&realm)?.exact(prefix)?;
        let owned = self.get(slot)?.addresses.iter().find(|o| o.realm == realm && o.prefix() == prefix)?;
        Some((slot, *owned))
    }

    /// Name of who has exactly this address, in whatever state.
    pub fn owner_of(&self, realm: Realm, address: IpAddr) -> Option<&str> {
        let slot = self.realms.get(&realm)?.exact(Prefix { address, len: bits(address) })?;
        self.get(slot).map(|c| c.name.as_str())
    }

    /// Changes the state of an address and returns its owner and what it is now; `None`: nobody has it, or nothing changes.
    pub fn set_state(&mut self, realm: Realm, address: IpAddr, state: AddressState) -> Option<(Slot, Owned)> {
        let prefix = Prefix { address, len: bits(address) };
        let slot = self.realms.get(&realm)?.exact(prefix)?;
        let all = &mut self.slots.get_mut(slot as usize)?.as_mut()?.addresses;
        let owned = all.iter_mut().find(|o| o.realm == realm && o.prefix() == prefix)?;
        if owned.state == state {
            return None;
        }
        owned.state = state;
        Some((slot, *owned))
    }

    /// Owner of an address in a realm: the address's, else that of the longest prefix. Nobody, if it is not in use yet or
    /// another host has it.
    pub fn owner(&self, realm: Realm, address: IpAddr) -> Option<Slot> {
        let (prefix, slot) = self.realms.get(&realm)?.matches(address).next()?;
        // A prefix is always in use.
        let usable = prefix.len != bits(address)
            || self.find(realm, prefix).is_some_and(|(_, owned)| owned.state == AddressState::Ok);
        usable.then_some(slot)
    }

    /// A link-local IPv6 address of a realm that is in use.
    pub fn link_local(&self, realm: Realm) -> Option<Ipv6Addr> {
        let usable = |address: &Ipv6Addr| {
            let found = self.find(realm, Prefix { address: (*address).into(), len: 128 });
            found.is_some_and(|(_, owned)| owned.state == AddressState::Ok && !owned.delegated)
        };
        self.realms.get(&realm)?.link_local().find(usable)
    }

    /// Who has exactly this prefix or address of those that the kernel holds too; on the first device that has it.
    pub fn kernel_holder(&self, prefix: Prefix) -> Option<(Slot, Owned)> {
        self.untagged().filter_map(|realm| self.find(realm, prefix)).find(|(_, owned)| owned.in_kernel())
    }

    /// What owns an address of those that the kernel holds too, on any device: the longest match, as for the kernel.
    pub fn kernel_match(&self, address: IpAddr) -> Option<(Slot, Owned)> {
        let best = |realm| {
            let mut matches = self.realms.get(&realm)?.matches(address);
            let held = |owned: &Owned| owned.in_kernel() && owned.state == AddressState::Ok;
            matches.find_map(|(prefix, _)| self.find(realm, prefix).filter(|(_, owned)| held(owned)))
        };
        self.untagged().filter_map(best).max_by_key(|(_, owned)| owned.prefix().len)
    }

    /// The compartment of it.
    pub fn kernel_owner(&self, address: IpAddr) -> Option<Slot> {
        self.kernel_match(address).map(|(slot, _)| slot)
    }

    /// The realms that the kernel's devices are in, in order of device.
    fn untagged(&self) -> impl Iterator<Item = Realm> {
        let mut realms: Vec<_> =
            self.realms.keys().filter(|realm| realm.vlan == Vlan::NONE).copied().collect();
        realms.sort_unstable();
        realms.into_iter()
    }
}

/// Whether an address can be owned at all.
fn check_address(owned: &Owned) -> Result<(), Refused> {
    let refuse = |why: &str| Err(Refused::new(Errno::INVAL, format!("{}: {why}", owned.text())));
    let bad = match owned.address {
        IpAddr::V4(a) => a.octets()[0] == 0 || a.is_broadcast(),
        IpAddr::V6(a) => a.is_unspecified() || a.to_ipv4_mapped().is_some(),
    };
    if owned.prefix_len > bits(owned.address) {
        refuse("the prefix is longer than the address")
    } else if bad || owned.address.is_multicast() || owned.address.is_loopback() {
        refuse("not a unicast address that a device can have")
    } else if owned.delegated && owned.prefix_len == bits(owned.address) {
        refuse("a prefix of full length is one address: leave out `delegated`")
    } else if owned.delegated && owned.prefix_len < 8 {
        refuse("a delegated prefix has at least 8 bits")
    } else if owned.delegated && owned.prefix().network() != owned.address {
        refuse(&format!("not the first address of its prefix, that is {}", owned.prefix().network()))
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
