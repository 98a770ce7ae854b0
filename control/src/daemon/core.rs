//! All state of the daemon, and the way of a request to its handler. Touched by the control thread alone.

use std::collections::HashMap;
use std::time::Instant;

use afnet_abi::control::{Answer, ClaimSpec, Event, Request};
use afnet_dataplane::{Dataplane, Sources};
use rustix::io::Errno;

use super::compartment::End;
use super::confine::KernelPath;
use super::device::Device;
use super::endpoint::{Endpoint, scope};
use super::host::Host;
use super::mirror::Mirror;
use super::multicast::{Multicast, Wanted};
use super::probe::Probes;
use super::release::Behind;
use super::resolve::Resolver;
use super::sockets::Sockets;
use crate::config::Config;
use crate::error::Refused;
use crate::names::Instance;
use crate::netlink::Netlink;
use crate::registry::{Realm, Registry, Slot};
use crate::server::{Conn, Outcome, Service};
use crate::state::Store;
use crate::system::cgroup::Cgroups;

/// The daemon.
#[derive(Debug)]
pub struct Core {
    pub(super) config: Config,
    pub(super) instance: Instance,
    pub(super) registry: Registry,
    pub(super) store: Store,
    pub(super) cgroups: Cgroups,
    pub(super) kernel_path: KernelPath,
    pub(super) netlink: Netlink,
    pub(super) mirror: Mirror,
    /// In the order of the configuration; a realm's `device` is the index.
    pub(super) devices: Vec<Device>,
    pub(super) host: Option<Host>,
    pub(super) dataplane: Dataplane,
    pub(super) sockets: Sockets,
    /// By connection: each has at most one.
    pub(super) endpoints: HashMap<u64, Endpoint>,
    pub(super) behind: Behind,
    pub(super) resolver: Resolver,
    /// Addresses of which it is not settled whose they are.
    pub(super) probes: Probes,
    pub(super) multicast: Multicast,
    /// Cgroups of removed compartments whose processes are being ended.
    pub(super) dying: Vec<super::compartment::Dying>,
    /// Events for monitors, sent by the loop.
    pub(super) events: Vec<Event>,
    /// Connections to close with a reason, closed by the loop.
    pub(super) kicked: Vec<(u64, Errno, String)>,
    /// When the workers' routes are to be flushed.
    pub(super) flush_at: Option<Instant>,
}

impl Core {
    /// Index of a device that this daemon owns.
    pub(super) fn device(&self, name: &str) -> Result<u16, Refused> {
        let found = self.devices.iter().position(|d| d.config.name == name);
        found.and_then(|i| u16::try_from(i).ok()).ok_or_else(|| {
            let names: Vec<_> = self.devices.iter().map(|d| d.config.name.as_str()).collect();
            let text = format!("{name:?} is no device of this afnetd, which owns {}", names.join(", "));
            Refused::new(Errno::NODEV, text)
        })
    }

    /// Name of a realm's device.
    pub(super) fn device_name(&self, realm: Realm) -> &str {
        self.devices.get(usize::from(realm.device)).map_or("?", |d| d.config.name.as_str())
    }

    /// Index of the device with this interface index, while it is there.
    pub(super) fn device_by_ifindex(&self, ifindex: u32) -> Option<u16> {
        let has = |d: &Device| d.live.as_ref().is_some_and(|l| l.link.ifindex == ifindex);
        self.devices.iter().position(has).and_then(|i| u16::try_from(i).ok())
    }

    /// Name of a compartment.
    pub(super) fn name(&self, slot: Slot) -> String {
        self.registry.get(slot).map_or_else(|| "?".to_owned(), |c| c.name.clone())
    }

    fn admin(conn: &Conn, request: &Request) -> Result<(), Refused> {
        let needed = matches!(
            request,
            Request::Add { .. }
                | Request::Set { .. }
                | Request::Del { .. }
                | Request::AddrAdd { .. }
                | Request::AddrMove { .. }
                | Request::AddrDel { .. }
                | Request::Cgroup { .. }
                | Request::Attach { name: Some(_), .. }
        );
        if needed && !conn.admin() {
            let text = if conn.peer.admin {
                "not permitted: nothing is administered from within a compartment, nor over a connection whose process is gone"
            } else {
                "not permitted: this needs root, or membership of the group of afnetd's configuration, outside of any compartment"
            };
            return Err(Refused::new(Errno::PERM, text));
        }
        Ok(())
    }
}

impl Service for Core {
    fn request(&mut self, conn: &mut Conn, request: Request) -> Result<Outcome, Refused> {
        Self::admin(conn, &request)?;
        match request {
            Request::Add { name, policy } => self.add(&name, policy).map(|()| Answer::Done.into()),
            Request::Set { name, policy } => self.set(&name, policy).map(|()| Answer::Done.into()),
            Request::Del { name, stop, force } => {
                self.del(&name, End::new(stop, force)?).map(|()| Answer::Done.into())
            }
            Request::List {} => Ok(self.list().into()),
            Request::Show { name } => self.show(&name).map(Into::into),
            Request::AddrAdd { address, name } => {
                self.add_address(&name, &address).map(|a| Answer::Addresses(vec![a]).into())
            }
            Request::AddrMove { address, name } => {
                self.move_address(&address, &name).map(|a| Answer::Addresses(vec![a]).into())
            }
            Request::AddrDel { address, name } => {
                self.del_address(&address, name.as_deref()).map(|()| Answer::Done.into())
            }
            Request::AddrList { name, dev, vlan, family } => {
                self.addresses(name.as_deref(), dev.as_deref(), vlan, family).map(Into::into)
            }
            Request::Stats { name } => self.stats(name.as_deref()).map(Into::into),
            Request::Endpoints { name } => self.endpoint_list(name.as_deref()).map(Into::into),
            Request::Maddr {} => Ok(self.maddr().into()),
            Request::Status {} => Ok(self.status().into()),
            Request::Monitor {} => {
                conn.monitor = true;
                Ok(Answer::Done.into())
            }
            Request::Enter { name, pid } => self.place(conn, &name, pid).map(Into::into),
            Request::Cgroup { name } => {
                let path = self.open_compartment(&name)?.display().to_string();
                Ok(Answer::Cgroup { path }.into())
            }
            Request::Attach { kind, name, rx_len, tx_len } => {
                self.attach(conn, kind, name.as_deref(), rx_len, tx_len)
            }
            Request::Claim { port, count, address, family, shared } => {
                let sockets = conn.take_fds();
                let wanted = ClaimSpec { port, count, address, family, shared };
                self.claim(conn.id, &wanted, sockets).map(Into::into)
            }
            Request::Unclaim { port, address, family, reason } => {
                let place = (port, scope(address, family)?);
                self.unclaim(conn.id, place, reason.as_deref()).map(|()| Answer::Done.into())
            }
            Request::Listen { group, dev, vlan, exclude, sources } => {
                let realm = dev.map(|dev| (dev, vlan));
                let sources = Sources { exclude, list: sources };
                self.listen(conn.id, Wanted { group, realm, sources }).map(|()| Answer::Done.into())
            }
            Request::Follow { group } => {
                let sockets = conn.take_fds();
                self.follow(conn.id, group, &sockets).map(Into::into)
            }
            Request::Note { text } => self.note(conn.id, &text).map(|()| Answer::Done.into()),
            // The server answers it.
            Request::Hello { .. } => Err(Refused::new(Errno::PROTO, "hello again")),
        }
    }

    fn closed(&mut self, conn: u64) {
        self.detach(conn, "closed");
    }
}
