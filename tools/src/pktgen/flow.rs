//! A flow of frames, as an operator describes it, and the [`Pattern`] of it for a size.
//!
//! | kind | frame | what varies |
//! |---|---|---|
//! | `udp` | datagram with stamp | addresses, ports, tags |
//! | `tcp` | SYN, with stamp where the size leaves room | addresses, ports, tags |
//! | `arp` | request, broadcast | sender and target address, tags |
//! | `nd` | neighbour solicitation to the target's solicited-node group | source and target address, tags |
//! | `igmp`, `igmp2` | membership report, version 3 (to 224.0.0.22) or 2 (to the group) | source, group, tags |
//! | `mld`, `mld1` | listener report, version 2 (to ff02::16) or 1 (to the group) | source, group, tags |
//!
//! Destinations turn fastest, then destination ports, sources, source ports, tags.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{
    headers::Headers,
    span::{Addresses, Span},
};
use crate::{
    pattern::{self, Field, HEAD_BYTES, Pattern, flag},
    stamp,
};

/// A MAC address.
pub type Mac = [u8; 6];

/// Smallest and largest frame in bytes, without the frame check sequence.
pub const SIZES: std::ops::RangeInclusive<usize> = 60..=9000;

/// What frames are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// UDP datagrams
    #[default]
    Udp,
    /// TCP SYN
    Tcp,
    /// ARP requests
    Arp,
    /// Neighbour solicitations
    Nd,
    /// IGMPv3 reports
    Igmp,
    /// IGMPv2 reports
    Igmp2,
    /// MLDv2 reports
    Mld,
    /// MLDv1 reports
    Mld1,
}

impl Kind {
    /// The IP version that it is about, if only one.
    pub fn v6(self) -> Option<bool> {
        match self {
            Self::Udp | Self::Tcp => None,
            Self::Arp | Self::Igmp | Self::Igmp2 => Some(false),
            Self::Nd | Self::Mld | Self::Mld1 => Some(true),
        }
    }

    /// Whether the destination MAC address follows from the destination.
    pub fn group(self) -> bool {
        !matches!(self, Self::Udp | Self::Tcp)
    }
}

/// Why a flow cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Source and destination differ, or the kind wants the other one.
    #[error(
        "{0:?} with source {1} and destination {2}: the addresses must be of one family, and of the kind's"
    )]
    Family(Kind, IpAddr, IpAddr),
    /// IGMP and MLD report groups.
    #[error("{0:?} reports multicast groups, {1} is none")]
    Group(Kind, IpAddr),
    /// Out of range.
    #[error("frames of {0} bytes: from 60 to 9000 are possible (without the 4 bytes of the check sequence)")]
    Size(usize),
    /// Too many tags.
    #[error("{0} VLAN tags: at most two")]
    Tags(usize),
    /// Too short, or too much varies.
    #[error(transparent)]
    Pattern(#[from] pattern::Error),
}

/// A flow of frames.
#[derive(Clone, Debug)]
pub struct Flow {
    /// What they are.
    pub kind: Kind,
    /// Ethernet source and destination; the latter is ignored where it follows from the destination address.
    pub macs: (Mac, Mac),
    /// VLAN tags, the outer one first.
    pub tags: Vec<Span>,
    /// Source addresses.
    pub source: Addresses,
    /// Destination addresses: targets of ARP and ND, groups of IGMP and MLD.
    pub destination: Addresses,
    /// Source and destination ports.
    pub ports: (Span, Span),
    /// Time to live, hop limit.
    pub ttl: u8,
    /// Stamps are numbered in this stream; none: no stamps.
    pub stream: Option<u16>,
}

impl Flow {
    /// The plan of frames of `size` bytes.
    ///
    /// # Errors
    /// As said in [`Error`].
    pub fn pattern(&self, size: usize) -> Result<Pattern, Error> {
        self.check(size)?;
        let mut headers = Headers::new(self.macs, self.tags.len());
        let mut fields = Vec::new();
        let (source, destination) = (self.source, self.destination);
        match self.kind {
            Kind::Arp => headers.arp(self.macs.0, source, destination, &mut fields),
            Kind::Nd => headers.nd(self.macs.0, source, destination, &mut fields),
            Kind::Igmp | Kind::Igmp2 => {
                headers.igmp(self.kind == Kind::Igmp, source, destination, &mut fields);
            }
            Kind::Mld | Kind::Mld1 => headers.mld(self.kind == Kind::Mld, source, destination, &mut fields),
            Kind::Udp | Kind::Tcp => self.transport(&mut headers, size, &mut fields),
        }
        for (i, tag) in self.tags.iter().enumerate() {
            fields.push(field(14 + 4 * i, 0, *tag));
        }
        let (mut frame, head, layout) = headers.finish(self.stream);
        // Control messages are as long as they are; a larger size pads them.
        let size = if self.kind.group() { size.max(frame.len()) } else { size };
        if size < frame.len() {
            return Err(pattern::Error::Short { size, needed: frame.len() }.into());
        }
        frame.resize(size, 0);
        Ok(Pattern::new(frame, head, fields, layout)?)
    }

    /// The smallest frame, with a stamp where frames of this kind have one.
    pub fn smallest(&self) -> usize {
        let fits = |size: &usize| {
            self.pattern(*size)
                .is_ok_and(|it| it.stamp().is_some() || self.stream.is_none() || self.kind != Kind::Udp)
        };
        (*SIZES.start()..=HEAD_BYTES).find(fits).unwrap_or(*SIZES.start())
    }

    fn check(&self, size: usize) -> Result<(), Error> {
        let Self { kind, source, destination, .. } = self;
        let v6 = kind.v6().unwrap_or(destination.v6());
        if source.v6() != v6 || destination.v6() != v6 {
            return Err(Error::Family(*kind, source.first, destination.first));
        }
        if matches!(kind, Kind::Igmp | Kind::Igmp2 | Kind::Mld | Kind::Mld1)
            && !destination.first.is_multicast()
        {
            return Err(Error::Group(*kind, destination.first));
        }
        if !SIZES.contains(&size) {
            return Err(Error::Size(size));
        }
        if self.tags.len() > 2 {
            return Err(Error::Tags(self.tags.len()));
        }
        Ok(())
    }

    /// IP and UDP or TCP headers, with a payload that fills the frame.
    fn transport(&self, headers: &mut Headers, size: usize, fields: &mut Vec<Field>) {
        let (source, destination) = (self.source, self.destination);
        let tcp = self.kind == Kind::Tcp;
        let (protocol, length) = if tcp { (6, 20) } else { (17, 8) };
        let room = size.saturating_sub(headers.len() + if source.v6() { 40 } else { 20 } + length);
        // A SYN that is too short for a stamp carries nothing, and is padded.
        let payload = if tcp && room < stamp::BYTES { 0 } else { room };
        let net = headers.ip(source, destination, (protocol, self.ttl), length + payload);
        let at = headers.len();
        let (ports, place) = (self.ports, if tcp { at + 16 } else { at + 6 });
        headers.put(&[0; 4]);
        if tcp {
            // Sequence and acknowledgement numbers, 5 words of header and SYN, a window.
            headers.put(&[0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xfa, 0xf0, 0, 0, 0, 0]);
        } else {
            let total = u16::try_from(length + payload).unwrap_or(u16::MAX);
            headers.put(&total.to_be_bytes());
            headers.put(&[0; 2]);
        }
        headers.layout.transport = Some((at, protocol, place));
        if payload >= stamp::BYTES {
            headers.stamp_at = Some(at + length);
        }
        fields.push(headers.address(net, destination, false));
        if destination.first.is_multicast() {
            fields.push(headers.group_mac(destination.first));
        }
        fields.push(field(at + 2, flag::L4, ports.1));
        fields.push(headers.address(net, source, true));
        fields.push(field(at, flag::L4, ports.0));
    }
}

/// A 16-bit field.
fn field(at: usize, flags: u32, span: Span) -> Field {
    let random = if span.random { flag::RANDOM } else { 0 };
    Field { at, flags: flags | random, first: span.first, count: span.count, mask: 0xffff, fixed: 0 }
}

/// The networks of RFC 2544 and RFC 5180 for benchmarks: where a flow goes from and to if nobody says.
pub fn default_addresses(v6: bool) -> (Addresses, Addresses) {
    if v6 {
        let at = |subnet| Addresses::one(Ipv6Addr::new(0x2001, 2, 0, subnet, 0, 0, 0, 1).into());
        (at(0), at(1))
    } else {
        let at = |second| Addresses::one(Ipv4Addr::new(198, second, 0, 1).into());
        (at(18), at(19))
    }
}

#[cfg(test)]
mod tests;
