//! Endpoints whose sockets are those of a process in the compartment: rings and claims, by hand.

use std::{
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

use afnet_abi::{
    control::{Answer, Refusal, Request},
    shm::{Record, kind},
};
use afnet_ring::{Consumer, Mapping, Producer};
use afnet_tests::{afnetd::Afnetd, wait};

use crate::bare::Bare;

/// An endpoint with the rings of worker 0.
pub struct Hand {
    pub bare: Bare,
    _mapping: Mapping,
    rx: Consumer,
    tx: Producer,
}

/// A claim that is all default but for the port.
pub fn claim(port: u16) -> Request {
    Request::Claim { port, count: 1, address: None, family: None, shared: false }
}

/// An address as records have it.
pub fn wire(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(a) => a.to_ipv6_mapped().octets(),
        IpAddr::V6(a) => a.octets(),
    }
}

/// The address in a record.
pub fn ip(address: &[u8; 16]) -> IpAddr {
    IpAddr::from(*address).to_canonical()
}

impl Hand {
    #[track_caller]
    pub fn attach(daemon: &Afnetd<'_>, compartment: &str) -> Self {
        let bare = Bare::attach(daemon, compartment);
        let mapping = bare.mapping();
        let (rx, tx) = mapping.tenant_side(0).expect("rings of worker 0");
        Self { bare, _mapping: mapping, rx, tx }
    }

    /// Attaches and claims with a socket.
    #[track_caller]
    pub fn claiming(daemon: &Afnetd<'_>, compartment: &str, request: &Request, socket: &OwnedFd) -> Self {
        let hand = Self::attach(daemon, compartment);
        hand.ask(request, socket).unwrap_or_else(|refusal| panic!("{request:?}: {refusal:?}"));
        hand
    }

    /// A request with a socket.
    #[track_caller]
    pub fn ask(&self, request: &Request, socket: &OwnedFd) -> Result<Answer, Refusal> {
        self.bare.ask(request, &[socket.as_fd()])
    }

    /// What has arrived.
    pub fn try_receive(&mut self) -> Option<(Record, Vec<u8>)> {
        let item = self.rx.peek().expect("the ring is sound")?;
        let found = (item.record, item.payload.to_vec());
        item.consume();
        let _ = self.rx.release();
        Some(found)
    }

    /// The next thing that arrives.
    #[track_caller]
    pub fn receive(&mut self) -> (Record, Vec<u8>) {
        wait::until("something to arrive", || self.try_receive())
    }

    /// Whether nothing arrives for a moment.
    pub fn hears_nothing(&mut self) -> bool {
        wait::within(Duration::from_millis(20), || self.try_receive()).is_none()
    }

    /// Sends a datagram from a claimed port; `change` may alter the record.
    #[track_caller]
    pub fn send(&mut self, port: u16, to: SocketAddr, payload: &[u8], change: impl FnOnce(&mut Record)) {
        let mut record = Record {
            kind: kind::DATAGRAM,
            local_port: port,
            remote: wire(to.ip()),
            remote_port: to.port(),
            ..Record::default()
        };
        change(&mut record);
        let mut room = self.tx.reserve(payload.len()).expect("room in the ring");
        room.write(0, payload);
        room.commit(&record, payload.len());
        if self.tx.publish() {
            rustix::io::write(&self.bare.doorbells[0], &1u64.to_ne_bytes()).expect("ring the doorbell");
        }
    }
}
