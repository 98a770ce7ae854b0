//! The sending half of an endpoint: batches into the TX rings; the kernel's sockets while no daemon runs.
//!
//! Which ring, with several workers: an answer ([`Sender::reply`]) goes to the worker that the datagram came from;
//! everything else by a hash of the destination, so that the datagrams of one flow stay in order. A program that mixes
//! both on one flow gives up that order.

use std::{net::SocketAddr, os::fd::OwnedFd};

use afnet_abi::{
    control::EndpointKind,
    shm::{MAX_PAYLOAD, Record, kind},
};
use afnet_ring::{Producer, Reserved};

use crate::{Datagram, Error, Kind, Membership, Message, claim::Claims, datagram::Bytes, message::mapped};

/// Records after which a batch is published without being told: the worker starts on them while we go on. A quarter
/// of it would double the fences for each record, four times as much delays the first one.
const BATCH: u32 = 64;

/// One worker's TX ring.
#[derive(Debug)]
pub struct Tx {
    /// The tenant's end.
    pub producer: Producer,
    /// Eventfd that wakes the worker. Non-blocking.
    pub doorbell: OwnedFd,
    /// Records committed and not published.
    pub(crate) pending: u32,
}

impl Tx {
    fn flush(&mut self) {
        self.pending = 0;
        if self.producer.publish() {
            ring(&self.doorbell);
        }
    }
}

/// Rings a doorbell. Full (it was rung 2^64 times) and gone are no worse than a lost daemon, which is noticed
/// elsewhere.
fn ring(doorbell: &OwnedFd) {
    let _ = rustix::io::write(doorbell, &1u64.to_ne_bytes());
}

/// Sends without ever blocking. Every endpoint has one; [`crate::Endpoint::recv_batch`] lends it to the visitor.
#[derive(Debug)]
pub struct Sender {
    pub(crate) kind: EndpointKind,
    pub(crate) tx: Vec<Tx>,
    pub(crate) claims: Claims,
    /// What the endpoint hears in groups.
    pub(crate) groups: Vec<Membership>,
    /// Whether a daemon serves the rings.
    pub(crate) connected: bool,
    /// Ring and payload length of the last send that found no room.
    pub(crate) full: Option<(usize, usize)>,
}

impl Sender {
    /// Queues a datagram; it leaves with the batch: after 64 of them, on [`Self::flush`], and before the endpoint
    /// receives or sleeps. While no daemon runs it goes through the kernel at once, without `ttl`, `tos`,
    /// `dont_fragment` and `realm`.
    ///
    /// # Errors
    /// [`Error::WouldBlock`]: no room. [`Error::TooLong`]. [`Error::Invalid`] on a `raw` endpoint.
    /// [`Error::Disconnected`] if no daemon runs and no kernel socket of the claims fits. What becomes of the
    /// datagram later is reported as an [`crate::IcmpError`], if at all.
    pub fn send(&mut self, message: &Message<'_>) -> Result<(), Error> {
        if self.kind != EndpointKind::Udp {
            return Err(Error::Invalid("a raw endpoint sends packets, not datagrams"));
        }
        let len = message.payload.len();
        if len > message.limit() {
            return Err(Error::TooLong(len));
        }
        if !self.connected {
            return self.send_by_kernel(message);
        }
        let ring = self.choose(message.remote);
        self.put(ring, &message.record(), len, |room| room.write(0, message.payload))
    }

    /// Sends a datagram at once through the kernel socket of a claim, also while a daemon runs: the way back for what
    /// came that way ([`Datagram::is_from_kernel`]). Without `ttl`, `tos`, `dont_fragment` and `realm`.
    ///
    /// # Errors
    /// [`Error::Disconnected`] if no kernel socket of the claims fits, [`Error::WouldBlock`], or what the kernel says.
    pub fn send_by_kernel(&self, message: &Message<'_>) -> Result<(), Error> {
        let Message { local, local_port, remote, payload, segment, .. } = *message;
        self.claims.send(local, local_port, remote, payload, segment)
    }

    /// Queues an IP packet, from its header on. The worker drops it unless its source is an address of the
    /// compartment.
    ///
    /// # Errors
    /// As [`Self::send`]; [`Error::Invalid`] on a `udp` endpoint; [`Error::Disconnected`] while no daemon runs.
    pub fn send_packet(&mut self, packet: &[u8]) -> Result<(), Error> {
        if self.kind != EndpointKind::Raw {
            return Err(Error::Invalid("a udp endpoint sends datagrams, not packets"));
        }
        if packet.len() > MAX_PAYLOAD {
            return Err(Error::TooLong(packet.len()));
        }
        if !self.connected {
            return Err(Error::Disconnected);
        }
        // Source and destination address, wherever they are.
        let flow = match packet.first().map(|b| b >> 4) {
            Some(4) => packet.get(12..20),
            _ => packet.get(8..40),
        };
        let ring = self.spread(hash(flow.unwrap_or(&[])));
        let record = Record { kind: kind::PACKET, ..Record::default() };
        self.put(ring, &record, packet.len(), |room| room.write(0, packet))
    }

    /// Sends a datagram's payload back to where it came from: from the address and port it was sent to, by the device
    /// and VLAN, and the worker, that it came by. Copies from ring to ring.
    ///
    /// # Errors
    /// As [`Self::send`]; [`Error::Invalid`] for anything but a datagram.
    pub fn reply(&mut self, to: &Datagram<'_>) -> Result<(), Error> {
        match to.bytes {
            Bytes::Ring(payload, worker) if self.connected && to.kind() == Kind::Datagram => {
                let ring = worker.min(self.tx.len() - 1);
                let record = answer(&to.record, &self.groups);
                self.put(ring, &record, payload.len(), |room| {
                    room.write_payload(&payload);
                })
            }
            Bytes::Ring(..) => self.reply_with(to, &to.to_vec()),
            Bytes::Kernel(payload) => self.reply_with(to, payload),
        }
    }

    /// As [`Self::reply`], with another payload.
    ///
    /// # Errors
    /// As [`Self::reply`].
    pub fn reply_with(&mut self, to: &Datagram<'_>, payload: &[u8]) -> Result<(), Error> {
        if to.kind() != Kind::Datagram {
            return Err(Error::Invalid("only a datagram can be answered"));
        }
        if payload.len() > Message::new(to.remote(), &[]).limit() {
            return Err(Error::TooLong(payload.len()));
        }
        match to.bytes {
            Bytes::Ring(_, worker) if self.connected => {
                let ring = worker.min(self.tx.len() - 1);
                let record = answer(&to.record, &self.groups);
                self.put(ring, &record, payload.len(), |room| room.write(0, payload))
            }
            // By the socket it came through, or would have come through.
            _ => self.claims.send(Some(to.local().ip()), to.local().port(), to.remote(), payload, 0),
        }
    }

    /// Makes everything that was queued visible to the workers, and wakes those that sleep.
    pub fn flush(&mut self) {
        for tx in &mut self.tx {
            if tx.pending != 0 {
                tx.flush();
            }
        }
    }

    fn put(
        &mut self,
        ring: usize,
        record: &Record,
        len: usize,
        write: impl FnOnce(&mut Reserved<'_>),
    ) -> Result<(), Error> {
        let tx = &mut self.tx[ring];
        let Some(mut room) = tx.producer.reserve(len) else {
            // The worker can only make room for what it sees.
            tx.flush();
            self.full = Some((ring, len));
            return Err(Error::WouldBlock);
        };
        write(&mut room);
        room.commit(record, len);
        tx.pending += 1;
        if tx.pending >= BATCH {
            tx.flush();
        }
        Ok(())
    }

    fn choose(&self, remote: SocketAddr) -> usize {
        if self.tx.len() < 2 {
            return 0;
        }
        let port = u64::from(remote.port());
        self.spread(hash(&mapped(remote.ip())) ^ port.wrapping_mul(MULTIPLIER))
    }

    /// A ring for a hash.
    fn spread(&self, hash: u64) -> usize {
        // The upper bits of a product are the mixed ones.
        ((hash >> 32) % self.tx.len() as u64) as usize
    }
}

/// 2^64 divided by the golden ratio: an odd number with well-spread bits (Fibonacci hashing).
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

/// Spreads flows over a few workers; no defence against anybody: senders choose their own worker.
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |h, b| (h ^ u64::from(*b)).wrapping_mul(MULTIPLIER))
}

/// Descriptor of an answer to what was received.
fn answer(received: &Record, groups: &[Membership]) -> Record {
    // Nobody sends from a group's address.
    let to_group = groups.iter().any(|m| mapped(m.group) == received.local);
    Record {
        kind: kind::DATAGRAM,
        local_port: received.local_port,
        remote_port: received.remote_port,
        vlan: received.vlan,
        ifindex: received.ifindex,
        local: if to_group { [0; 16] } else { received.local },
        remote: received.remote,
        ..Record::default()
    }
}

/// Descriptor of a datagram that came through a kernel socket.
pub(crate) fn record_of(local: SocketAddr, remote: SocketAddr) -> Record {
    let scope = |address: SocketAddr| match address {
        SocketAddr::V6(v6) => v6.scope_id(),
        SocketAddr::V4(_) => 0,
    };
    Record {
        kind: kind::DATAGRAM,
        local: mapped(local.ip()),
        remote: mapped(remote.ip()),
        local_port: local.port(),
        remote_port: remote.port(),
        ifindex: scope(remote),
        ..Record::default()
    }
}
