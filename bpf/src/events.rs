//! [`Events`]: what the XDP program reports, by ring buffer.

use std::{
    net::{IpAddr, Ipv6Addr},
    os::fd::{AsFd, BorrowedFd},
    sync::mpsc,
};

use afnet_abi::vlan::Vlan;
use libbpf_rs::{MapHandle, RingBuffer, RingBufferBuilder};

use crate::{
    Error,
    skel::{Plain, c, types},
};

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
        /// The other host.
        mac: [u8; 6],
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
        Some(Self::Conflict { vlan: Vlan::from_raw(e.vlan).ok()?, slot: e.slot, addr, mac: e.mac, kind })
    }
}

/// The reading end of a device's event ring.
#[derive(Debug)]
pub struct Events {
    map: MapHandle,
    ring: RingBuffer<'static>,
    parsed: mpsc::Receiver<Event>,
}

impl Events {
    pub(crate) fn new(map: MapHandle) -> Result<Self, Error> {
        let (sender, parsed) = mpsc::channel();
        let mut builder = RingBufferBuilder::new();
        builder
            .add(&map, move |record| {
                // The receiver lives as long as the ring.
                Event::parse(record).map_or(0, |event| sender.send(event).map_or(-1, |()| 0))
            })
            .map_err(Error::bpf("open the event ring"))?;
        let ring = builder.build().map_err(Error::bpf("open the event ring"))?;
        Ok(Self { map, ring, parsed })
    }

    /// Hands every event that has arrived to `each`. Never waits.
    pub fn drain(&mut self, mut each: impl FnMut(Event)) -> Result<(), Error> {
        self.ring.consume().map_err(Error::bpf("read the event ring"))?;
        self.parsed.try_iter().for_each(&mut each);
        Ok(())
    }
}

impl AsFd for Events {
    /// Readable (poll, epoll) when there are events.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.map.as_fd()
    }
}
