//! [`Events`], [`Memberships`]: what the XDP program reports, by ring buffers.

use std::{
    net::{IpAddr, Ipv6Addr},
    os::fd::{AsFd, BorrowedFd},
    sync::{
        atomic::{Ordering, fence},
        mpsc,
    },
};

use afnet_abi::vlan::Vlan;
use libbpf_rs::{MapHandle, RingBuffer, RingBufferBuilder};

use crate::{
    Error,
    skel::{Plain, c, types},
};

/// Events taken at once: what happens meanwhile waits for so long (some 100 us). Half would halve that, and add look-ups.
const BURST: usize = 512;

/// What showed that another host uses an address of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConflictKind {
    /// ARP whose sender address is ours (RFC 5227 2.1.1, 2.4).
    ArpSender,
    /// Another host's ARP probe for our tentative address (RFC 5227 2.1.1).
    ArpProbe,
    /// Another host's solicitation from `::` for our tentative address (RFC 4862 5.4.3).
    NsProbe,
    /// A solicitation whose source is our address.
    NsSender,
    /// An advertisement for our address (RFC 4862 5.4.4).
    Na,
}

/// A report of the XDP program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// Another host uses an address of a compartment, or wants to.
    Conflict {
        /// Realm on the device.
        vlan: Vlan,
        /// The compartment.
        slot: u32,
        /// The address: ours.
        addr: IpAddr,
        /// The other host; our own address if our own probe came back.
        mac: [u8; 6],
        /// Nonce of a solicitation (RFC 7527).
        nonce: Option<[u8; 6]>,
        /// What showed it.
        kind: ConflictKind,
    },
}

impl Event {
    /// `None` for a record that this version does not know.
    fn parse(record: &[u8]) -> Option<Self> {
        let e = types::afnet_event::from_bytes(record)?;
        let kind = match e.kind {
            c::EVENT_ARP_SENDER => ConflictKind::ArpSender,
            c::EVENT_ARP_PROBE => ConflictKind::ArpProbe,
            c::EVENT_NS_PROBE => ConflictKind::NsProbe,
            c::EVENT_NS_SENDER => ConflictKind::NsSender,
            c::EVENT_NA => ConflictKind::Na,
            _ => return None,
        };
        let addr = Ipv6Addr::from(e.addr).to_canonical();
        let vlan = Vlan::from_raw(e.vlan).ok()?;
        let nonce = (u32::from(e.flags) & c::EVENT_NONCE != 0).then_some(e.nonce);
        Some(Self::Conflict { vlan, slot: e.slot, addr, mac: e.mac, nonce, kind })
    }
}

/// A query of IGMP or MLD, or a report of their old versions, as it came; or what this host's kernel has said itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    /// The kernel's own report, which has gone no further ([`crate::Demux::take_reports`]).
    pub kernels: bool,
    /// Realm on the device.
    pub vlan: Vlan,
    /// From the IP header on; of the kernel's own what the ring has room for.
    pub packet: Vec<u8>,
}

impl Membership {
    fn parse(record: &[u8]) -> Option<Self> {
        let p = types::afnet_packet::from_bytes(record)?;
        let packet = p.bytes.get(..usize::from(p.length))?.to_vec();
        let kernels = u32::from(p.flags) & c::PACKET_KERNELS != 0;
        Some(Self { kernels, vlan: Vlan::from_raw(p.vlan).ok()?, packet })
    }
}

/// The reading end of an event ring of a device.
#[derive(Debug)]
pub struct Ring<T> {
    map: MapHandle,
    ring: RingBuffer<'static>,
    parsed: mpsc::Receiver<T>,
}

/// Conflicts.
pub type Events = Ring<Event>;
/// Packets of IGMP and MLD.
pub type Memberships = Ring<Membership>;

impl Events {
    pub(crate) fn new(map: MapHandle) -> Result<Self, Error> {
        Self::open(map, Event::parse)
    }
}

impl Memberships {
    pub(crate) fn new(map: MapHandle) -> Result<Self, Error> {
        Self::open(map, Membership::parse)
    }
}

impl<T: 'static> Ring<T> {
    fn open(map: MapHandle, parse: fn(&[u8]) -> Option<T>) -> Result<Self, Error> {
        let (sender, parsed) = mpsc::channel();
        let mut builder = RingBufferBuilder::new();
        builder
            .add(&map, move |record| {
                // The receiver lives as long as the ring.
                parse(record).map_or(0, |event| sender.send(event).map_or(-1, |()| 0))
            })
            .map_err(Error::bpf("open the event ring"))?;
        let ring = builder.build().map_err(Error::bpf("open the event ring"))?;
        Ok(Self { map, ring, parsed })
    }

    /// Hands the events that have arrived to `each`, at most [`BURST`]. Never waits. `true`: there may be more, of which
    /// no readiness event tells; under a flood there always are.
    pub fn drain(&mut self, mut each: impl FnMut(T)) -> Result<bool, Error> {
        let mut total = 0;
        loop {
            let count = self.ring.consume_raw_n(BURST);
            let count = usize::try_from(count).map_err(|_| Error::answer("read the event ring", count))?;
            self.parsed.try_iter().for_each(&mut each);
            total += count;
            if count == 0 || total >= BURST {
                return Ok(total >= BURST);
            }
            // The program calls us only if it sees that we have read all before its record (bpf_ringbuf_commit()). So
            // where we are must be seen before the last look: else both wait for each other, until the ring is full and
            // for ever after.
            fence(Ordering::SeqCst);
        }
    }
}

impl<T> AsFd for Ring<T> {
    /// Readable (poll, epoll) when there are events.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.map.as_fd()
    }
}
