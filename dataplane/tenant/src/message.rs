//! What a tenant sends.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use afnet_abi::{
    shm::{Record, flags, kind},
    vlan::Vlan,
};

/// Device and VLAN that a datagram leaves by, where the routing table shall not choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Realm {
    /// Interface index of the device.
    pub ifindex: u32,
    /// VLAN.
    pub vlan: Vlan,
}

/// A datagram to send, or many of equal length to one destination.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// Destination.
    pub remote: SocketAddr,
    /// The content, at most 65,507 bytes over IPv4 and 65,527 over IPv6 (with `segment`: 65,535 in all).
    pub payload: &'a [u8],
    /// Source address; `None` lets afnet choose within the compartment (RFC 6724).
    pub local: Option<IpAddr>,
    /// Source port, one that the endpoint has claimed; 0: its first claim.
    pub local_port: u16,
    /// TTL or hop limit; 0: the host's default, 64, or 1 to a multicast group.
    pub ttl: u8,
    /// TOS or traffic class: DSCP and ECN.
    pub tos: u8,
    /// Cut the payload into datagrams of this many bytes, the last may be shorter (as UDP_SEGMENT); 0: do not.
    pub segment: u16,
    /// Never fragment: a datagram above the path MTU comes back as an [`crate::IcmpError`] with the MTU.
    pub dont_fragment: bool,
    /// To a group: no copies for members on this host (IP_MULTICAST_LOOP off).
    pub no_loop: bool,
    /// Device and VLAN to leave by; `None`: by the routing table.
    pub realm: Option<Realm>,
}

impl<'a> Message<'a> {
    /// A plain datagram from the first claimed port.
    pub const fn new(remote: SocketAddr, payload: &'a [u8]) -> Self {
        Self {
            remote,
            payload,
            local: None,
            local_port: 0,
            ttl: 0,
            tos: 0,
            segment: 0,
            dont_fragment: false,
            no_loop: false,
            realm: None,
        }
    }

    /// Longest payload in bytes.
    pub(crate) fn limit(&self) -> usize {
        match (self.segment, self.remote.ip().to_canonical()) {
            (0, IpAddr::V4(_)) => 65_507,
            (0, IpAddr::V6(_)) => 65_527,
            _ => 65_535,
        }
    }

    /// Its descriptor, `len` apart.
    pub(crate) fn record(&self) -> Record {
        let scope = match self.remote {
            SocketAddr::V6(v6) => v6.scope_id(),
            SocketAddr::V4(_) => 0,
        };
        let (ifindex, vlan) = self.realm.map_or((scope, 0), |r| (r.ifindex, r.vlan.raw()));
        Record {
            kind: kind::DATAGRAM,
            ttl: self.ttl,
            tos: self.tos,
            flags: if self.dont_fragment { flags::DONT_FRAGMENT } else { 0 }
                | if self.no_loop { flags::NO_LOOP } else { 0 },
            segment: self.segment,
            local_port: self.local_port,
            remote_port: self.remote.port(),
            vlan,
            ifindex,
            local: self.local.map_or([0; 16], mapped),
            remote: mapped(self.remote.ip()),
            ..Record::default()
        }
    }
}

/// 16 bytes as in the rings: an IPv4 address is IPv4-mapped.
pub(crate) fn mapped(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// The address of 16 bytes as in the rings.
pub(crate) fn unmapped(octets: [u8; 16]) -> IpAddr {
    Ipv6Addr::from(octets).to_canonical()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_becomes_a_descriptor() {
        let remote: SocketAddr = "192.0.2.1:53".parse().unwrap();
        let record = Message {
            local: Some("192.0.2.9".parse().unwrap()),
            local_port: 7,
            ttl: 3,
            dont_fragment: true,
            ..Message::new(remote, b"x")
        }
        .record();
        assert_eq!(unmapped(record.remote), remote.ip());
        assert_eq!(record.remote[..12], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]);
        assert_eq!((record.remote_port, record.local_port, record.ttl), (53, 7, 3));
        assert_eq!((record.kind, record.flags, record.ifindex), (kind::DATAGRAM, flags::DONT_FRAGMENT, 0));
    }

    #[test]
    fn a_scope_selects_the_device() {
        let remote = SocketAddr::V6(std::net::SocketAddrV6::new("fe80::1".parse().unwrap(), 1, 0, 42));
        assert_eq!(Message::new(remote, b"").record().ifindex, 42);
        let realm = Realm { ifindex: 7, vlan: "10".parse().unwrap() };
        let record = Message { realm: Some(realm), ..Message::new(remote, b"") }.record();
        assert_eq!((record.ifindex, record.vlan), (7, 10));
    }
}
