//! Duplicate address detection and address conflict detection at work: drives [`crate::dad`].
//!
//! ```text
//! afnet addr add ----> tentative: in the XDP program's map only (nothing is answered, conflicts are reported)
//!   timers ----------> probes, announcements by AF_PACKET
//!   XDP event ring --> another host has it ------------------------> duplicate: event, not used, shown
//!   time is over ----> ok: kernel, workers, XDP program, kernel path
//! ```
//!
//! | who asks | for |
//! |---|---|
//! | we | every IPv4 address (the kernel does not), IPv6 addresses that the kernel has not: `fast-only`, tagged realms |
//! | the kernel | IPv6 addresses that it has; its word comes by rtnetlink (IFA_F_TENTATIVE, IFA_F_DADFAILED) |
//! | nobody | delegated prefixes, `nodad`, all of a daemon with `--no-dad` |
//!
//! * An address of a device that is down or gone stays tentative until it is up. When a device comes up, all of its
//!   addresses are asked for again, and meanwhile taken from the kernel.
//! * What a daemon has found free, the next run of it uses at once, for the XDP program has defended it meanwhile.
//!   What was tentative it asks for again; duplicates stay so until they are added again or the link comes up.
//! * Whoever floods us with conflicts gets one announcement for an address in ten seconds, and one event in a second.
//! * The solicited-node group is joined before the first probe (RFC 4862 5.4.2): by the kernel where it has an interface,
//!   see [`groups`], else by `multicast`.

mod groups;
mod outcome;
mod socket;
mod table;

use std::collections::HashMap;
use std::io;
use std::time::{Duration, Instant};

use afnet_abi::control::{AddressState, Defend};
use afnet_abi::vlan::Vlan;
use rustix::io::Errno;

use self::groups::Groups;
pub use self::outcome::Conflict;
use self::outcome::LOG;
use self::socket::Sender;
use self::table::{Entry, Key, Table};
use super::core::Core;
use crate::config::{Config, Membership};
use crate::dad::{Change, Machine, Send, Timing, frame, splitmix};
use crate::error::{Context, Refused};
use crate::netlink::addr::KernelAddress;
use crate::registry::{Owned, Prefix, Realm, Slot, bits};

/// Steps in one turn of the loop: some milliseconds for which nothing else is served.
const BURST: usize = 256;
/// After a frame that the device had no room for.
const SOON: Duration = Duration::from_millis(10);
/// After a frame that failed otherwise, and an address that the kernel would not take.
const LATER: Duration = Duration::from_secs(1);
/// What there is for it.
#[derive(Debug)]
pub struct Probes {
    enabled: bool,
    defend: Defend,
    table: Table,
    sender: Sender,
    groups: Groups,
    random: u64,
    /// When conflicts of an address were last told, and logged.
    told: HashMap<Key, (Instant, Instant)>,
}

impl Probes {
    /// In the network namespace of the calling thread.
    pub fn open(config: &Config) -> Result<Self, Refused> {
        let mut seed = [0; 8];
        rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty())
            .refused(|| "drawing a random number")?;
        Ok(Self {
            enabled: config.dad.enabled,
            defend: config.dad.defend,
            table: Table::new(Instant::now()),
            sender: Sender::open().refused(|| "opening the socket for probes (AF_PACKET)")?,
            groups: Groups::new(config.membership == Membership::Kernel),
            random: u64::from_ne_bytes(seed),
            told: HashMap::new(),
        })
    }

    /// A number that another run of a daemon does not have.
    pub fn seed(&self) -> u64 {
        self.random
    }

    /// SO_COOKIE of the socket that frames leave by.
    pub fn cookie(&self) -> io::Result<u64> {
        self.sender.cookie()
    }

    /// The state in which an address begins.
    pub fn first_state(&self, owned: &Owned) -> AddressState {
        let asked = self.enabled && !owned.delegated && !owned.nodad;
        if asked { AddressState::Tentative } else { AddressState::Ok }
    }

    /// Whether something is in use that would not be, were it given now.
    fn asks(&self, owned: &Owned) -> bool {
        self.first_state(owned) == AddressState::Tentative
    }

    /// When [`Core::probe`] has something to do.
    pub fn next(&self) -> Option<Instant> {
        self.table.next()
    }

    /// The MAC address of who else has it.
    pub fn rival(&self, owned: &Owned) -> Option<[u8; 6]> {
        self.table.get(&key(owned))?.rival
    }

    /// It is given back.
    pub fn forget(&mut self, owned: &Owned) {
        if !owned.delegated {
            self.table.remove(&key(owned));
            self.groups.leave(owned);
        }
    }

    /// Sends a frame that is no probe.
    pub fn send(&self, ifindex: u32, frame: &[u8]) -> io::Result<()> {
        self.sender.send(ifindex, frame)
    }

    /// Once a second or so.
    pub fn expire(&mut self, now: Instant) {
        self.table.expire(now);
        self.told.retain(|_, (_, logged)| now.duration_since(*logged) < LOG);
    }
}

fn key(owned: &Owned) -> Key {
    (owned.realm, owned.address)
}

/// Whether the kernel asks.
pub fn by_kernel(owned: &Owned) -> bool {
    owned.on_device() && owned.address.is_ipv6()
}

impl Core {
    /// Starts what the state of an address asks for: probing, or announcing (`replace`: it may be known elsewhere).
    pub(super) fn begin(&mut self, owned: &Owned, replace: bool) {
        if !self.probes.enabled || owned.delegated {
            return;
        }
        let device = self.devices.get(usize::from(owned.realm.device)).and_then(|d| d.live.as_ref());
        let ready = device.is_some_and(|live| live.link.ready());
        if let Some(live) = device {
            self.probes.groups.join(owned, live.link.ifindex);
        }
        let (timing, now) = (Timing::of(owned.address), Instant::now());
        let defend = owned.defend.unwrap_or(self.probes.defend);
        let earliest = self.probes.table.earliest(&key(owned));
        let entry = match owned.state {
            AddressState::Ok => Entry::new(Machine::used(timing, defend, ready.then_some(now), replace)),
            AddressState::Duplicate => Entry::new(Machine::duplicate(timing, defend)),
            AddressState::Tentative if ready && !by_kernel(owned) => {
                let state = &mut self.probes.random;
                Entry::new(Machine::start(timing, defend, now, earliest, &mut || splitmix(state)))
            }
            AddressState::Tentative => {
                Entry { by_kernel: by_kernel(owned), ..Entry::new(Machine::held(timing, defend)) }
            }
        };
        self.probes.table.set(key(owned), entry);
    }

    /// Starts all that was restored: what was tentative is asked for, what is in use needs its group.
    pub(super) fn begin_all(&mut self) {
        let all: Vec<Owned> = self.registry.iter().flat_map(|(_, c)| c.addresses.clone()).collect();
        for owned in all {
            self.join(&owned);
            let live = self.devices.get(usize::from(owned.realm.device)).and_then(|d| d.live.as_ref());
            match (owned.state, live) {
                (AddressState::Tentative, _) if self.probes.table.get(&key(&owned)).is_none() => {
                    self.begin(&owned, false);
                }
                (AddressState::Ok, Some(live)) if self.probes.asks(&owned) => {
                    self.probes.groups.join(&owned, live.link.ifindex);
                }
                _ => {}
            }
        }
        // The kernel may have found out while nobody listened.
        self.kernel_verdicts();
    }

    /// Does what is due.
    pub(super) fn probe(&mut self, now: Instant) {
        let mut changes = Vec::new();
        for _ in 0..BURST {
            let Some((key, mut entry)) = self.probes.table.take_due(now) else { break };
            let before = entry.machine;
            let state = &mut self.probes.random;
            let step = entry.machine.timer(now, &mut || splitmix(state));
            match step.send.map_or(Ok(()), |send| self.transmit(key, send)) {
                Ok(()) => changes.extend(step.change.map(|change| (key, change))),
                // What could not be sent has asked nobody.
                Err(e) => {
                    let full = [libc::EAGAIN, libc::ENOBUFS].map(Some).contains(&e.raw_os_error());
                    tracing::debug!("probing {}: {e}", key.1);
                    entry.machine = before.postponed(now + if full { SOON } else { LATER });
                }
            }
            self.probes.table.set(key, entry);
        }
        self.apply(changes);
    }

    fn transmit(&self, (realm, address): Key, send: Send) -> io::Result<()> {
        let live = self.devices.get(usize::from(realm.device)).and_then(|d| d.live.as_ref());
        let live = live.ok_or(Errno::NODEV)?;
        let frame = frame::build(send, address, live.mac(), realm.vlan);
        self.probes.sender.send(live.link.ifindex, &frame)
    }

    /// The kernel's word on an address of ours.
    pub(super) fn kernel_verdict(&mut self, address: &KernelAddress) {
        let Some(device) = self.device_by_ifindex(address.ifindex).filter(|_| address.ours) else { return };
        let key = (Realm { device, vlan: Vlan::NONE }, address.address);
        let Some(entry) = self.probes.table.get(&key).filter(|e| e.by_kernel && e.machine.is_held()) else {
            return;
        };
        let mut entry = *entry;
        // Events tell of what was. Since then the address may have been taken away and given again.
        let now = match self.netlink.address(address.ifindex, address.address) {
            Ok(Some(now)) => now,
            Ok(None) => return,
            Err(e) => return tracing::error!("asking the kernel for {}: {e}", address.address),
        };
        let timing = Timing::of(key.1);
        let owned = self.registry.find(key.0, Prefix { address: key.1, len: bits(key.1) });
        let defend = owned.and_then(|(_, o)| o.defend).unwrap_or(self.probes.defend);
        let change = if now.failed {
            entry.machine = Machine::duplicate(timing, defend);
            Change::Lost
        } else if now.tentative {
            return;
        } else {
            entry.machine = Machine::used(timing, defend, Some(Instant::now()), false);
            Change::Usable
        };
        self.probes.table.set(key, entry);
        self.apply(vec![(key, change)]);
    }

    /// Asks the kernel's mirror for verdicts that may have been missed.
    pub(super) fn kernel_verdicts(&mut self) {
        let all: Vec<KernelAddress> = self.mirror.all_ours().collect();
        all.iter().for_each(|address| self.kernel_verdict(address));
    }

    /// A device's link is gone: nobody can be asked.
    pub(super) fn link_lost(&mut self, device: u16) {
        for key in self.probes.table.of_device(device) {
            let found = self.registry.find(key.0, Prefix { address: key.1, len: bits(key.1) });
            match (found, self.probes.table.remove(&key)) {
                (Some((_, owned)), Some(mut entry)) if owned.state != AddressState::Ok => {
                    if owned.state == AddressState::Tentative {
                        let defend = owned.defend.unwrap_or(self.probes.defend);
                        entry = Entry::new(Machine::held(Timing::of(key.1), defend));
                    }
                    self.probes.table.set(key, entry);
                }
                _ => {}
            }
        }
    }

    /// A device's link is there: whoever is at the other end may be another one than before.
    pub(super) fn link_ready(&mut self, device: u16) {
        self.join_again(device);
        let mut again = Vec::new();
        let all: Vec<(Slot, Owned)> = self
            .registry
            .iter()
            .flat_map(|(slot, c)| c.addresses.iter().map(move |owned| (slot, *owned)))
            .filter(|(_, owned)| owned.realm.device == device && !owned.delegated)
            .collect();
        for (slot, owned) in all {
            if self.probes.asks(&owned) {
                // As long as nobody knows whose it is, the kernel must not answer for it either.
                self.registry.set_state(owned.realm, owned.address, AddressState::Tentative);
                let asked = Owned { state: AddressState::Tentative, ..owned };
                if owned.state == AddressState::Ok {
                    self.unconfine_address(slot, &owned);
                }
                if owned.state == AddressState::Ok || by_kernel(&owned) {
                    self.uninstall_kernel(&owned);
                }
                again.push((slot, asked));
            } else if owned.state == AddressState::Ok {
                // The kernel takes IPv6 addresses from interfaces that are set down.
                if let Err(e) = self.install_kernel(&owned) {
                    tracing::error!("{e}");
                }
                self.begin(&owned, true);
            }
        }
        self.publish(&again);
        for (_, owned) in again {
            if let Err(e) = self.install_kernel(&owned) {
                tracing::error!("{e}");
            }
            self.begin(&owned, false);
        }
    }

    /// A device has another MAC address: neighbours are to know (RFC 4861 7.2.6).
    pub(super) fn announce_device(&mut self, device: u16) {
        let all: Vec<Owned> = self.registry.iter().flat_map(|(_, c)| c.addresses.clone()).collect();
        for owned in all.iter().filter(|o| o.realm.device == device && o.state == AddressState::Ok) {
            self.begin(owned, true);
        }
    }

    /// A device is back: its addresses are to be asked for when its link is ready.
    pub(super) fn doubt(&mut self, device: u16) {
        let all: Vec<Owned> = self.registry.iter().flat_map(|(_, c)| c.addresses.clone()).collect();
        for owned in all.iter().filter(|o| o.realm.device == device && self.probes.asks(o)) {
            self.registry.set_state(owned.realm, owned.address, AddressState::Tentative);
        }
    }
}
