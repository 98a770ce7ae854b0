//! Endpoints: one for each connection that attached, and the ports it has claimed.
//!
//! An endpoint ends with its connection, so a tenant that dies loses it as soon as the kernel closes its socket.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;

use afnet_abi::control::{AddressState, Answer, ClaimSpec, EndpointKind, Event, MAX_NOTE};
use afnet_abi::shm;
use afnet_dataplane::{self as dp, Scope};
use rustix::io::Errno;

use super::core::Core;
use super::device::{bpf, dataplane_error};
use super::multicast::Heard;
use super::proof::{Proof, own_cookie};
use crate::error::{Context, Refused};
use crate::registry::{Claim, Piece, PortError, Realm, Slot};
use crate::server::{Conn, Outcome};
use crate::system::sysctl;

/// IP protocol number.
const UDP: u8 = 17;

/// What tells the claims of an endpoint apart: first port and scope.
pub type Place = (u16, Scope);

/// An endpoint.
#[derive(Debug)]
pub struct Endpoint {
    /// The dataplane's number for it.
    pub id: u64,
    /// The compartment.
    pub slot: Slot,
    /// Kind.
    pub kind: EndpointKind,
    /// The process that attached.
    pub pid: u32,
    /// Its name then.
    pub command: String,
    /// An administrator named the compartment; else its process lives there.
    by_admin: bool,
    /// What it says about the endpoint.
    pub note: String,
    /// What it hears in groups.
    pub(super) groups: BTreeMap<(Realm, IpAddr), Heard>,
    /// The sockets behind each claim.
    pub(super) proofs: HashMap<Place, Vec<Proof>>,
}

impl Endpoint {
    /// Whether it takes everything.
    pub fn is_raw(&self) -> bool {
        self.kind == EndpointKind::Raw
    }
}

impl Core {
    /// Makes an endpoint for a connection.
    pub(super) fn attach(
        &mut self,
        conn: &Conn,
        kind: EndpointKind,
        name: Option<&str>,
        rx_len: Option<u64>,
        tx_len: Option<u64>,
    ) -> Result<Outcome, Refused> {
        if self.endpoints.contains_key(&conn.id) {
            return Err(Refused::new(Errno::EXIST, "this connection has an endpoint: open one for each"));
        }
        let slot = match name {
            Some(name) => self.registry.slot(name)?,
            None => self.compartment_of(conn)?,
        };
        let named = name.is_some();
        let name = self.name(slot);
        if self.endpoints.values().filter(|e| e.slot == slot).count() >= self.config.limits.endpoints {
            let most = self.config.limits.endpoints;
            let text = format!("{name} has {most} endpoints already: raise limits.endpoints of afnetd");
            return Err(Refused::new(Errno::USERS, text));
        }
        let rx_len = ring_len(rx_len, self.config.limits.rx_ring)?;
        let tx_len = ring_len(tx_len, self.config.limits.tx_ring)?;
        self.introduce(slot)?;
        let wanted = match kind {
            EndpointKind::Udp => dp::EndpointKind::Udp,
            EndpointKind::Raw => dp::EndpointKind::Raw,
        };
        let made = self.dataplane.attach(slot, wanted, rx_len, tx_len);
        let made = made.map_err(|e| dataplane_error(format!("attaching to {name}"), &e))?;
        let endpoint = Endpoint {
            id: made.id,
            slot,
            kind,
            pid: conn.peer.pid,
            command: command(conn),
            by_admin: named,
            note: String::new(),
            groups: BTreeMap::new(),
            proofs: HashMap::new(),
        };
        self.endpoints.insert(conn.id, endpoint);
        if kind == EndpointKind::Raw
            && let Err(e) = self.set_policy(slot)
        {
            self.detach(conn.id, "refused");
            return Err(e);
        }
        let event = Event::Attached { endpoint: made.id, name: name.clone(), pid: conn.peer.pid };
        self.events.push(event);
        let addresses = self.registry.get(slot).map(|c| c.addresses.clone()).unwrap_or_default();
        let answer = Answer::Attached {
            endpoint: made.id,
            addresses: addresses.iter().map(|owned| self.wire_address(&name, owned)).collect(),
            name,
            workers: u32::try_from(self.dataplane.workers()).unwrap_or(u32::MAX),
            rx_len: rx_len as u64,
            tx_len: tx_len as u64,
            copied: self.devices.iter().filter_map(|d| d.live.as_ref()).any(|live| !live.is_zero_copy()),
        };
        let fds = [made.memfd, made.wake].into_iter().chain(made.doorbells).collect();
        Ok(Outcome { answer, fds })
    }

    /// The compartment whose cgroup the peer lives in.
    fn compartment_of(&self, conn: &Conn) -> Result<Slot, Refused> {
        let path = conn
            .process()
            .and_then(|p| p.cgroup())
            .refused(|| "finding the cgroup of the process that attaches")?;
        let name = self.cgroups.compartment(&path).ok_or_else(|| {
            let text = format!(
                "not permitted: process {} is in no compartment (its cgroup is {path}): start it by `afnet exec NAME -- ...`",
                conn.peer.pid
            );
            Refused::new(Errno::PERM, text)
        })?;
        self.registry.slot(name)
    }

    /// Takes the endpoint of a connection away, with its claims. Without one nothing happens.
    pub(super) fn detach(&mut self, conn: u64, reason: &str) {
        let Some(endpoint) = self.endpoints.get(&conn) else { return };
        for place in endpoint.proofs.keys().copied().collect::<Vec<_>>() {
            self.forget_proofs(conn, place);
        }
        self.forget_groups(conn);
        let Some(endpoint) = self.endpoints.remove(&conn) else { return };
        let slot = endpoint.slot;
        let claims = self.registry.get(slot).map(|c| c.claims.of(endpoint.id)).unwrap_or_default();
        for claim in claims {
            let removed = self.registry.get_mut(slot);
            let removed = removed.and_then(|c| c.claims.remove(endpoint.id, claim.first, claim.scope));
            if let Some((_, pieces)) = removed {
                self.close_ports(slot, &pieces);
            }
        }
        if endpoint.is_raw()
            && let Err(e) = self.set_policy(slot)
        {
            tracing::error!("{e}");
        }
        if let Err(e) = self.dataplane.detach(endpoint.id) {
            tracing::error!("detaching endpoint {}: {e}", endpoint.id);
        }
        let name = self.name(slot);
        self.events.push(Event::Detached { endpoint: endpoint.id, name, reason: reason.to_owned() });
    }

    /// Puts ports of a connection's endpoint on the fast path.
    pub(super) fn claim(
        &mut self,
        conn: u64,
        wanted: &ClaimSpec,
        sockets: Vec<OwnedFd>,
    ) -> Result<Answer, Refused> {
        let ClaimSpec { port, count, address, family, shared } = *wanted;
        let scope = scope(address, family)?;
        // What was given up may be what is claimed now.
        self.released();
        let endpoint = self.endpoint(conn)?;
        let (id, slot, by_admin) = (endpoint.id, endpoint.slot, endpoint.by_admin);
        if endpoint.is_raw() {
            return Err(Refused::new(Errno::OPNOTSUPP, "a raw endpoint has all of its compartment already"));
        }
        let mut proofs = self.proofs(slot, by_admin, sockets)?;
        if let Scope::Address(address) = scope
            && !address.is_loopback()
            && !self.owns(slot, address)
        {
            let text = format!("{address} is no address of {}", self.name(slot));
            return Err(Refused::new(Errno::ADDRNOTAVAIL, text));
        }
        let port = match port {
            0 if count != 1 => {
                return Err(Refused::new(Errno::INVAL, "any free port: for one port, not for a block"));
            }
            0 => self.choose_port(slot, scope, &proofs)?,
            port => port,
        };
        // Blocks come without sockets: nobody binds thousands.
        let proven = count == 1 && self.proves_all(slot, scope, &proofs);
        let claim = Claim { endpoint: id, first: port, count, scope, shared, proven };
        let compartment = self.registry.get(slot).ok_or(Refused::new(Errno::NOENT, "no compartment"))?;
        compartment.claims.check(&claim).map_err(|e| refuse_port(&e))?;
        if count == 1 {
            self.check_proofs(slot, port, scope, &proofs)?;
        }
        let what = || format!("claiming port {port}");
        let ports = dp::PortClaim {
            first: port,
            count,
            scope,
            sharing: match (proven, shared) {
                (false, _) => dp::Sharing::Exclusive,
                (true, false) => dp::Sharing::Newest,
                (true, true) => dp::Sharing::Flows,
            },
            loopback: loopback(scope, &proofs),
        };
        self.dataplane.claim(id, &ports).map_err(|e| dataplane_error(what(), &e))?;
        let entered = self
            .registry
            .get_mut(slot)
            .map_or(Ok(Vec::new()), |c| c.claims.insert(claim).map_err(|e| refuse_port(&e)))
            .and_then(|pieces| self.open_ports(slot, &pieces));
        if let Err(e) = entered {
            self.release(slot, &claim)?;
            return Err(e);
        }
        if let Err(e) = self.watch_proofs(conn, &mut proofs) {
            self.release(slot, &claim)?;
            return Err(e);
        }
        if let Some(endpoint) = self.endpoints.get_mut(&conn) {
            endpoint.proofs.insert((port, scope), proofs);
        }
        Ok(Answer::Claimed { port, count })
    }

    /// Checks the sockets that came with a claim of the compartment.
    fn proofs(&self, slot: Slot, by_admin: bool, sockets: Vec<OwnedFd>) -> Result<Vec<Proof>, Refused> {
        if sockets.is_empty() {
            return Ok(Vec::new());
        }
        let cookie = own_cookie().refused(|| "identifying afnetd's network namespace")?;
        let check = |socket| {
            let mut proof = Proof::check(socket, cookie)?;
            match self.registered(&proof)? {
                Some(known) => proof.of_compartment(&known, slot)?,
                None if by_admin => {}
                None => {
                    let text = format!(
                        "a socket that came with the claim was not made in {}: make it there",
                        self.name(slot)
                    );
                    return Err(Refused::new(Errno::BADF, text));
                }
            }
            Ok(proof)
        };
        sockets.into_iter().map(check).collect()
    }

    /// Gives a claim of a connection's endpoint back.
    pub(super) fn unclaim(&mut self, conn: u64, place: Place, reason: Option<&str>) -> Result<(), Refused> {
        let reason = reason.map(checked_note).transpose()?;
        let endpoint = self.endpoint(conn)?;
        let (id, slot) = (endpoint.id, endpoint.slot);
        let claims = self.registry.get(slot).map(|c| c.claims.of(id)).unwrap_or_default();
        let claim = claims.iter().find(|c| (c.first, c.scope) == place).ok_or_else(|| {
            let text = format!("this endpoint has no such claim that starts at port {}", place.0);
            Refused::new(Errno::NOENT, text)
        })?;
        self.release(slot, claim)?;
        self.forget_proofs(conn, place);
        if let Some(endpoint) = self.endpoints.get_mut(&conn)
            && let Some(reason) = reason
        {
            endpoint.note = reason.to_owned();
        }
        Ok(())
    }

    /// Keeps what a process says about its endpoint.
    pub(super) fn note(&mut self, conn: u64, text: &str) -> Result<(), Refused> {
        let text = checked_note(text)?;
        self.endpoint(conn)?;
        if let Some(endpoint) = self.endpoints.get_mut(&conn) {
            endpoint.note = text.to_owned();
        }
        Ok(())
    }

    /// Takes a claim out: XDP program, registry, workers.
    pub(super) fn release(&mut self, slot: Slot, claim: &Claim) -> Result<(), Refused> {
        let removed = self.registry.get_mut(slot);
        let removed = removed.and_then(|c| c.claims.remove(claim.endpoint, claim.first, claim.scope));
        if let Some((_, pieces)) = removed {
            self.close_ports(slot, &pieces);
        }
        let what = || format!("giving port {} back", claim.first);
        let result = self.dataplane.unclaim(claim.endpoint, claim.first, claim.count, claim.scope);
        result.map_err(|e| dataplane_error(what(), &e))
    }

    pub(super) fn endpoint(&self, conn: u64) -> Result<&Endpoint, Refused> {
        self.endpoints
            .get(&conn)
            .ok_or_else(|| Refused::new(Errno::NOTCONN, "this connection has not attached"))
    }

    /// The port of the sockets that came along, else any free one.
    fn choose_port(&self, slot: Slot, scope: Scope, proofs: &[Proof]) -> Result<u16, Refused> {
        if let Some(first) = proofs.first() {
            return Ok(first.port());
        }
        let (low, high) = sysctl::local_port_range();
        let mut random = [0; 2];
        rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())
            .refused(|| "choosing a port")?;
        let start = u16::from_ne_bytes(random);
        let free = self.registry.get(slot).and_then(|c| c.claims.free_port(low, high, start, scope));
        free.ok_or_else(|| Refused::new(Errno::ADDRINUSE, format!("no port from {low} to {high} is free")))
    }

    /// Whether sockets of the compartment are bound to everything that the claim is for, so that the kernel has judged
    /// who may have it.
    fn proves_all(&self, slot: Slot, scope: Scope, proofs: &[Proof]) -> bool {
        let ours = || proofs.iter().filter(|p| p.cookie().is_some());
        let owned = self.registry.get(slot).map(|c| c.addresses.as_slice()).unwrap_or_default();
        let covered =
            |address: IpAddr, whole: bool| ours().any(|p| p.on_all(address) || !whole && p.covers(address));
        match scope {
            Scope::Address(address) => covered(address, false),
            scope => {
                ours().next().is_some()
                    && owned
                        .iter()
                        .filter(|o| scope.contains(o.address))
                        .all(|o| covered(o.address, o.delegated))
            }
        }
    }

    /// Each address that the kernel has too needs a socket that is bound to the port there.
    fn check_proofs(&self, slot: Slot, port: u16, scope: Scope, proofs: &[Proof]) -> Result<(), Refused> {
        if let Some(other) = proofs.iter().find(|p| p.port() != port) {
            let text = format!("a socket bound to port {} is no proof for port {port}", other.port());
            return Err(Refused::new(Errno::BADF, text));
        }
        let compartment = self.registry.get(slot);
        let owned = compartment.map(|c| c.addresses.as_slice()).unwrap_or_default();
        let wanted = owned
            .iter()
            .filter(|o| o.on_device() && o.state == AddressState::Ok && scope.contains(o.address))
            .map(|o| o.address);
        let loopback = match scope {
            Scope::Address(address) if address.is_loopback() => Some(address),
            _ => None,
        };
        for address in wanted.chain(loopback) {
            // Loopback is another one for each compartment, so only a socket of this one knows it.
            let knows = |p: &&Proof| loopback.is_none() || p.cookie().is_some();
            if !proofs.iter().filter(knows).any(|p| p.covers(address)) {
                let text = format!(
                    "claiming port {port} needs a UDP socket bound to {} to come along",
                    std::net::SocketAddr::new(address, port)
                );
                return Err(Refused::new(Errno::ACCESS, text));
            }
        }
        Ok(())
    }

    fn open_ports(&self, slot: Slot, pieces: &[Piece]) -> Result<(), Refused> {
        for live in self.devices.iter().filter_map(|d| d.live.as_ref()) {
            for piece in pieces {
                let what =
                    || format!("entering port {} into the XDP program of {}", piece.first, live.link.name);
                let result = live.demux.insert_claim(slot, UDP, piece.first, piece.count);
                result.map_err(|e| bpf(what(), &e))?;
            }
        }
        Ok(())
    }

    /// Enters all claims into a device that has come (back).
    pub(super) fn reopen_ports(&self, device: u16) -> Result<(), Refused> {
        let Some(live) = self.devices.get(usize::from(device)).and_then(|d| d.live.as_ref()) else {
            return Ok(());
        };
        for (slot, compartment) in self.registry.iter() {
            for piece in compartment.claims.iter().flat_map(Claim::pieces) {
                let result = live.demux.insert_claim(slot, UDP, piece.first, piece.count);
                result.map_err(|e| bpf(format!("entering port {}", piece.first), &e))?;
            }
        }
        Ok(())
    }

    fn close_ports(&self, slot: Slot, pieces: &[Piece]) {
        for live in self.devices.iter().filter_map(|d| d.live.as_ref()) {
            for piece in pieces {
                if let Err(e) = live.demux.remove_claim(slot, UDP, piece.first, piece.count) {
                    tracing::error!("taking port {} from the XDP program: {e}", piece.first);
                }
            }
        }
    }

    /// A worker has stopped serving an endpoint.
    pub(super) fn violation(&mut self, endpoint: u64, reason: &str) {
        let conn =
            self.endpoints.iter().find(|(_, e)| e.id == endpoint).map(|(conn, e)| (*conn, e.pid, e.slot));
        let Some((conn, pid, slot)) = conn else { return };
        tracing::warn!("process {pid} of {} broke the ring protocol: {reason}", self.name(slot));
        self.detach(conn, reason);
        self.kicked.push((conn, Errno::PROTO, format!("the ring protocol was broken: {reason}")));
    }
}

/// Name of the process at the other end; empty if it cannot be seen. A process may call itself what it likes.
fn command(conn: &Conn) -> String {
    let name = conn.process().and_then(|process| process.read("comm")).unwrap_or_default();
    name.trim_end_matches('\n').chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// A note that may be shown on a terminal.
fn checked_note(text: &str) -> Result<&str, Refused> {
    if text.len() > MAX_NOTE || text.chars().any(char::is_control) {
        let text = format!("a note is one line of at most {MAX_NOTE} bytes without control characters");
        return Err(Refused::new(Errno::INVAL, text));
    }
    Ok(text)
}

/// What a request's words mean.
pub fn scope(address: Option<IpAddr>, family: Option<u8>) -> Result<Scope, Refused> {
    match (address.map(|address| address.to_canonical()), family) {
        (None, None) => Ok(Scope::All),
        (None, Some(4)) => Ok(Scope::V4),
        (None, Some(6)) => Ok(Scope::V6),
        (None, Some(_)) => Err(Refused::new(Errno::INVAL, "the family is 4 or 6")),
        (Some(_), Some(_)) => Err(Refused::new(Errno::INVAL, "either an address or a family")),
        (Some(address), None) => Ok(Scope::Address(address)),
    }
}

/// The request's words for it.
pub fn words(scope: Scope) -> (Option<IpAddr>, Option<u8>) {
    match scope {
        Scope::All => (None, None),
        Scope::V4 => (None, Some(4)),
        Scope::V6 => (None, Some(6)),
        Scope::Address(address) => (Some(address), None),
    }
}

/// The families whose loopback a claim has, too: those that a socket of the compartment is on all addresses of.
fn loopback(scope: Scope, proofs: &[Proof]) -> dp::Families {
    let all = |v4: bool| {
        let any: IpAddr = if v4 { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        scope.contains(any) && proofs.iter().any(|p| p.cookie().is_some() && p.on_all(any))
    };
    dp::Families { v4: all(true), v6: all(false) }
}

fn refuse_port(error: &PortError) -> Refused {
    let errno = match error {
        PortError::Range => Errno::INVAL,
        PortError::InUse(_) => Errno::ADDRINUSE,
    };
    Refused::new(errno, error.to_string())
}

fn ring_len(asked: Option<u64>, default: usize) -> Result<usize, Refused> {
    let Some(asked) = asked else { return Ok(default) };
    usize::try_from(asked).ok().filter(|len| shm::valid_ring_len(*len)).ok_or_else(|| {
        let (low, high) = (shm::MIN_RING_LEN, shm::MAX_RING_LEN);
        Refused::new(Errno::INVAL, format!("a ring has {low} to {high} bytes, a power of two, not {asked}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_one_short_line() {
        for good in ["", "SCM_RIGHTS: passed on", "häßlich", &"x".repeat(MAX_NOTE)] {
            assert_eq!(checked_note(good).unwrap(), good);
        }
        for bad in ["two\nlines", "\u{1b}[31m", "\0", "\u{9b}2J", &"ß".repeat(MAX_NOTE / 2 + 1)] {
            assert_eq!(checked_note(bad).unwrap_err().errno, Errno::INVAL, "{bad:?}");
        }
    }
}
