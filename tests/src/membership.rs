//! IGMP and MLD messages as tests make and read them, apart from the daemon's own codecs (RFC 3376 4, RFC 3810 5, RFC 2236
//! 2, RFC 2710 3).

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// What a host says.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Said {
    /// A record of a report of the current version: its type, group and sources.
    Record(u8, IpAddr, BTreeSet<IpAddr>),
    /// A report of an old version.
    Old(IpAddr),
    /// A Leave, or Done.
    Leave(IpAddr),
}

/// Reads an IP packet from a host; `None` if it is none, or breaks a rule: destination, TTL or hop limit, Router Alert,
/// checksum.
pub fn read(packet: &[u8]) -> Option<Vec<Said>> {
    if packet.first()? >> 4 == 4 { read4(packet) } else { read6(packet) }
}

fn read4(packet: &[u8]) -> Option<Vec<Said>> {
    let (to, ttl) = (Ipv4Addr::from(*packet.get(16..)?.first_chunk::<4>()?), packet[8]);
    // Six words: an option.
    if packet[0] != 0x46 || packet[9] != 2 || ttl != 1 || packet.get(20..24)? != [0x94, 4, 0, 0] {
        return None;
    }
    let total = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
    let message = packet.get(24..total)?;
    if !is_valid(&[message]) {
        return None;
    }
    let group = |at: usize| Some(Ipv4Addr::from(*message.get(at..)?.first_chunk::<4>()?));
    match message[0] {
        0x22 => (to == Ipv4Addr::new(224, 0, 0, 22)).then(|| records(message, 4)).flatten(),
        0x12 | 0x16 => (group(4)? == to).then(|| vec![Said::Old(to.into())]),
        0x17 => (to == Ipv4Addr::new(224, 0, 0, 2)).then_some(vec![Said::Leave(group(4)?.into())]),
        _ => None,
    }
}

fn read6(packet: &[u8]) -> Option<Vec<Said>> {
    let to = Ipv6Addr::from(*packet.get(24..)?.first_chunk::<16>()?);
    if packet[6] != 0 || packet[7] != 1 || packet.get(40..48)? != [58, 0, 5, 2, 0, 0, 1, 0] {
        return None;
    }
    let length = usize::from(u16::from_be_bytes([packet[4], packet[5]]));
    let message = packet.get(48..40 + length)?;
    let bytes = u32::try_from(message.len()).ok()?.to_be_bytes();
    if !is_valid(&[&packet[8..40], &bytes, &[0, 0, 0, 58], message]) {
        return None;
    }
    let group = |at: usize| Some(Ipv6Addr::from(*message.get(at..)?.first_chunk::<16>()?));
    match message[0] {
        143 => (to == "ff02::16".parse::<Ipv6Addr>().ok()?).then(|| records(message, 16)).flatten(),
        131 => (group(8)? == to).then(|| vec![Said::Old(to.into())]),
        132 => (to == "ff02::2".parse::<Ipv6Addr>().ok()?).then_some(vec![Said::Leave(group(8)?.into())]),
        _ => None,
    }
}

/// The records of a report, whose addresses have `size` bytes.
fn records(message: &[u8], size: usize) -> Option<Vec<Said>> {
    let count = u16::from_be_bytes(*message.get(6..)?.first_chunk()?);
    let mut rest = message.get(8..)?;
    let mut all = Vec::new();
    for _ in 0..count {
        let sources = usize::from(u16::from_be_bytes(*rest.get(2..)?.first_chunk()?));
        // No auxiliary data.
        if rest[1] != 0 {
            return None;
        }
        let mut addresses = rest.get(4..4 + size * (sources + 1))?.chunks(size).filter_map(address);
        let group = addresses.next()?;
        all.push(Said::Record(rest[0], group, addresses.collect()));
        rest = rest.get(4 + size * (sources + 1)..)?;
    }
    rest.is_empty().then_some(all)
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(<[u8; 4]>::try_from(bytes).ok()?.into()),
        _ => Some(<[u8; 16]>::try_from(bytes).ok()?.into()),
    }
}

/// What a router knows of groups that heard everything: whether all but the sources, or these alone (RFC 3376 6.4, without
/// its timers).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Router(pub BTreeMap<IpAddr, (bool, BTreeSet<IpAddr>)>);

impl Router {
    /// Hears.
    pub fn hear(&mut self, said: &Said) {
        let (kind, group, sources) = match said {
            Said::Record(kind, group, sources) => (*kind, *group, sources.clone()),
            Said::Old(group) => (4, *group, BTreeSet::new()),
            Said::Leave(group) => (3, *group, BTreeSet::new()),
        };
        let known = self.0.entry(group).or_default();
        match kind {
            3 => *known = (false, sources),
            2 | 4 => *known = (true, sources),
            // What is wanted is out of an exclusion and into an inclusion; what is blocked the other way round.
            1 | 5 | 6 if (kind != 6) != known.0 => known.1.extend(sources),
            _ => known.1.retain(|source| !sources.contains(source)),
        }
        if *known == (false, BTreeSet::new()) {
            self.0.remove(&group);
        }
    }
}

/// A query of a router.
#[derive(Clone, Debug)]
pub struct Query<'a> {
    /// 1, 2 or 3 of IGMP, 1 or 2 of MLD.
    pub version: u8,
    /// Who asks; MLD: a link-local address.
    pub from: IpAddr,
    /// For which group; `None`: all.
    pub group: Option<IpAddr>,
    /// For which of its sources.
    pub sources: &'a [IpAddr],
    /// Milliseconds in which answers are to come: hundreds.
    pub response: u16,
    /// TTL or hop limit; a router's is 1.
    pub ttl: u8,
}

impl Query<'_> {
    /// Its IP packet.
    ///
    /// # Panics
    /// If its addresses are of two families.
    pub fn packet(&self) -> Vec<u8> {
        let sources: Vec<u8> = self.sources.iter().flat_map(octets).collect();
        let count = u16::try_from(self.sources.len()).expect("few sources").to_be_bytes();
        // Robustness 2; again in 125 s.
        let rest = [&[2, 125], &count[..], &sources].concat();
        match (self.from, self.group.unwrap_or(self.everybody())) {
            (IpAddr::V4(from), IpAddr::V4(group)) => {
                let code = if self.version == 1 {
                    0
                } else {
                    u8::try_from(self.response / 100).expect("a short time")
                };
                let mut message = [&[0x11, code, 0, 0][..], &octets(&group.into())].concat();
                if self.group.is_none() {
                    message[4..8].fill(0);
                }
                if self.version == 3 {
                    message.extend(rest);
                }
                finish(&mut message, 2, &[]);
                let to = self.group.map_or(Ipv4Addr::new(224, 0, 0, 1), |_| group);
                let total = u16::try_from(24 + message.len()).expect("short").to_be_bytes();
                let mut header = vec![0x46, 0xc0, total[0], total[1], 0, 0, 0, 0, self.ttl, 2, 0, 0];
                header.extend([from.octets(), to.octets()].concat());
                header.extend([0x94, 4, 0, 0]);
                finish(&mut header, 10, &[]);
                [header, message].concat()
            }
            (IpAddr::V6(from), IpAddr::V6(group)) => {
                let [high, low] = self.response.to_be_bytes();
                let mut message = vec![130, 0, 0, 0, high, low, 0, 0];
                message.extend(if self.group.is_none() { [0; 16] } else { group.octets() });
                if self.version == 2 {
                    message.extend(rest);
                }
                let to = self.group.map_or("ff02::1".parse().expect("an address"), |_| group);
                let length = u32::try_from(message.len()).expect("short").to_be_bytes();
                let pseudo = [&from.octets()[..], &to.octets(), &length, &[0, 0, 0, 58]];
                finish(&mut message, 2, &pseudo);
                let length = u16::try_from(8 + message.len()).expect("short").to_be_bytes();
                let mut packet = vec![0x60, 0, 0, 0, length[0], length[1], 0, self.ttl];
                packet.extend([from.octets(), to.octets()].concat());
                packet.extend([58, 0, 5, 2, 0, 0, 1, 0]);
                [packet, message].concat()
            }
            (from, group) => panic!("{from} and {group} are of two families"),
        }
    }

    fn everybody(&self) -> IpAddr {
        if self.from.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() }
    }

    /// Its frame, from a MAC address.
    ///
    /// # Panics
    /// As [`Self::packet`].
    pub fn frame(&self, mac: crate::packet::Mac) -> Vec<u8> {
        let packet = self.packet();
        let (to, ethertype) = if self.from.is_ipv4() {
            (address(&packet[16..20]), 0x0800)
        } else {
            (address(&packet[24..40]), 0x86dd)
        };
        let to = crate::packet::group_mac(to.expect("an address"));
        crate::packet::ethernet(mac, to, ethertype, &packet)
    }
}

fn octets(address: &IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}

/// Puts the checksum of the message, and of what counts before it, to `at`.
fn finish(message: &mut [u8], at: usize, before: &[&[u8]]) {
    let parts: Vec<&[u8]> = before.iter().copied().chain([&*message]).collect();
    let sum = !sum(&parts);
    message[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

fn is_valid(parts: &[&[u8]]) -> bool {
    sum(parts) == 0xffff
}

/// RFC 1071; all parts but the last have an even number of bytes.
fn sum(parts: &[&[u8]]) -> u16 {
    let words = parts.iter().flat_map(|part| part.chunks(2));
    let mut total: u32 =
        words.map(|pair| u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]))).sum();
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    u16::try_from(total).unwrap_or(0)
}
