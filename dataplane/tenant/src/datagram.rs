//! What a tenant receives.

use core::fmt;
use std::{
    io,
    net::{IpAddr, SocketAddr, SocketAddrV6},
};

use afnet_abi::{
    shm::{ErrorInfo, Record, flags, kind},
    vlan::Vlan,
};
use afnet_ring::Payload;

use crate::{Realm, message::unmapped};

/// What was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A UDP datagram's payload.
    Datagram,
    /// A whole IP packet (`raw` endpoints).
    Packet,
    /// An ICMP error about something that this endpoint sent: [`Datagram::icmp_error`].
    Error,
}

/// Where the bytes are.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Bytes<'a> {
    /// In worker `.1`'s RX ring.
    Ring(Payload<'a>, usize),
    /// In private memory, from a kernel socket.
    Kernel(&'a [u8]),
}

/// A datagram, packet or ICMP error, in place: valid for the visit.
#[derive(Clone, Copy)]
pub struct Datagram<'a> {
    pub(crate) record: Record,
    pub(crate) bytes: Bytes<'a>,
}

impl Datagram<'_> {
    /// What it is.
    pub fn kind(&self) -> Kind {
        match self.record.kind {
            kind::PACKET => Kind::Packet,
            kind::ERROR => Kind::Error,
            _ => Kind::Datagram,
        }
    }

    /// Address and port of this compartment's side.
    pub fn local(&self) -> SocketAddr {
        self.address(self.record.local, self.record.local_port)
    }

    /// Address and port of the other side.
    pub fn remote(&self) -> SocketAddr {
        self.address(self.record.remote, self.record.remote_port)
    }

    fn address(&self, octets: [u8; 16], port: u16) -> SocketAddr {
        match unmapped(octets) {
            IpAddr::V6(v6) if v6.is_unicast_link_local() => {
                SocketAddr::V6(SocketAddrV6::new(v6, port, 0, self.record.ifindex))
            }
            ip => SocketAddr::new(ip, port),
        }
    }

    /// TTL or hop limit; 0 if it came through a kernel socket.
    pub fn ttl(&self) -> u8 {
        self.record.ttl
    }

    /// TOS or traffic class; 0 if it came through a kernel socket.
    pub fn tos(&self) -> u8 {
        self.record.tos
    }

    /// Device and VLAN it came in by; `None` for local delivery and kernel sockets.
    pub fn realm(&self) -> Option<Realm> {
        let vlan = Vlan::from_raw(self.record.vlan).ok()?;
        (self.record.ifindex != 0).then_some(Realm { ifindex: self.record.ifindex, vlan })
    }

    /// When the worker took its batch from the device, nanoseconds of CLOCK_REALTIME; 0: unknown.
    pub fn timestamp_ns(&self) -> u64 {
        self.record.timestamp_ns
    }

    /// Whether it came from this host, never seen on the wire.
    pub fn is_local(&self) -> bool {
        self.record.flags & flags::LOCAL != 0
    }

    /// Whether it was reassembled from fragments.
    pub fn is_reassembled(&self) -> bool {
        self.record.flags & flags::REASSEMBLED != 0
    }

    /// Whether the sender transmitted no UDP checksum (RFC 768).
    pub fn has_no_checksum(&self) -> bool {
        self.record.flags & flags::NO_CHECKSUM != 0
    }

    /// Whether it came through a kernel socket: no daemon runs, or a local sender used the loopback.
    pub fn is_from_kernel(&self) -> bool {
        matches!(self.bytes, Bytes::Kernel(_))
    }

    /// Bytes of payload.
    #[expect(clippy::len_without_is_empty, reason = "an empty datagram is a datagram; nobody asks")]
    pub fn len(&self) -> usize {
        match self.bytes {
            Bytes::Ring(payload, _) => payload.len(),
            Bytes::Kernel(bytes) => bytes.len(),
        }
    }

    /// Copies the first bytes into `buffer`, as many as fit; returns how many.
    pub fn copy_to(&self, buffer: &mut [u8]) -> usize {
        match self.bytes {
            Bytes::Ring(payload, _) => payload.copy_to(buffer),
            Bytes::Kernel(bytes) => {
                let len = bytes.len().min(buffer.len());
                buffer[..len].copy_from_slice(&bytes[..len]);
                len
            }
        }
    }

    /// A copy of the payload.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.len()];
        self.copy_to(&mut bytes);
        bytes
    }

    /// What the ICMP error says, if this is one.
    pub fn icmp_error(&self) -> Option<IcmpError> {
        const LEN: usize = size_of::<ErrorInfo>();
        let mut b = [0; LEN];
        if self.kind() != Kind::Error || self.copy_to(&mut b) != LEN {
            return None;
        }
        let word = |at: usize| u32::from_ne_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]]);
        let mut offender = [0; 16];
        offender.copy_from_slice(&b[12..]);
        Some(IcmpError {
            errno: i32::try_from(word(0)).unwrap_or(0),
            icmp_type: b[4],
            icmp_code: b[5],
            mtu: word(8),
            offender: (offender != [0; 16]).then(|| unmapped(offender)),
            local: self.local(),
            remote: self.remote(),
        })
    }
}

impl fmt::Debug for Datagram<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Datagram")
            .field("kind", &self.kind())
            .field("local", &self.local())
            .field("remote", &self.remote())
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}

/// What an ICMP error said about a datagram of ours, as `struct sock_extended_err` would.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IcmpError {
    /// errno that a kernel UDP socket reports for it.
    pub errno: i32,
    /// ICMP or ICMPv6 type.
    pub icmp_type: u8,
    /// ICMP or ICMPv6 code.
    pub icmp_code: u8,
    /// Path MTU in bytes where the error is about size, else 0.
    pub mtu: u32,
    /// Who sent it; `None`: this host.
    pub offender: Option<IpAddr>,
    /// Source of our datagram.
    pub local: SocketAddr,
    /// Destination of our datagram.
    pub remote: SocketAddr,
}

impl fmt::Display for IcmpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let error = io::Error::from_raw_os_error(self.errno);
        write!(
            f,
            "datagram to {}: {error} (ICMP type {} code {}",
            self.remote, self.icmp_type, self.icmp_code
        )?;
        match self.offender {
            Some(offender) => write!(f, " from {offender})"),
            None => f.write_str(", this host)"),
        }
    }
}

impl core::error::Error for IcmpError {}

const _: () = {
    use core::mem::offset_of;
    assert!(offset_of!(ErrorInfo, errno) == 0 && offset_of!(ErrorInfo, icmp_type) == 4);
    assert!(offset_of!(ErrorInfo, icmp_code) == 5 && offset_of!(ErrorInfo, mtu) == 8);
    assert!(offset_of!(ErrorInfo, offender) == 12);
};
