//! Headers of frames that workers send. Every byte of them is made here, none comes from a tenant.
//!
//! ```text
//! out: | Ethernet | tags | IPv4/IPv6 | UDP | payload, put there before by `copy_and_sum`
//!      0                                   `headers_len`
//! ```
//!
//! Functions write to the front of `out` and return how many bytes they wrote.

#![deny(unsafe_code)]

use afnet_abi::vlan::Vlan;

use super::{
    Address, Drop, Mac, checksum,
    extension::next,
    fragment::Piece,
    is_v4, low16,
    parse::{ETHERNET_LEN, ETHERTYPE_8021AD, ETHERTYPE_8021Q, ETHERTYPE_IPV4, ETHERTYPE_IPV6},
    protocol, put, v4,
};

/// Bytes of an IPv4 header without options.
pub const IPV4_LEN: usize = 20;
/// Bytes of an IPv6 header.
pub const IPV6_LEN: usize = 40;
/// Bytes of an IPv6 fragment header.
pub const FRAGMENT_LEN: usize = 8;
/// Bytes of a UDP header.
pub const UDP_LEN: usize = 8;
/// Most bytes of headers in front of a UDP payload: two tags, IPv6, fragment header, UDP. The headroom to plan for.
pub const MAX_HEADERS: usize = ETHERNET_LEN + 8 + IPV6_LEN + FRAGMENT_LEN + UDP_LEN;

/// Link header of a frame to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Source: the device's address.
    pub src_mac: Mac,
    /// Destination: the next hop's.
    pub dst_mac: Mac,
    /// Tags.
    pub vlan: Vlan,
}

/// IP header of a packet to send. Both addresses of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ip {
    /// Source.
    pub src: Address,
    /// Destination.
    pub dst: Address,
    /// Protocol of the payload.
    pub protocol: u8,
    /// TTL or hop limit.
    pub ttl: u8,
    /// TOS or traffic class.
    pub tos: u8,
    /// IPv4: set Don't Fragment. The identification is then without meaning (RFC 6864 4.1) and sent as 0.
    pub dont_fragment: bool,
    /// IPv4 identification, or IPv6 fragment identification; see [`super::fragment::Ids`].
    pub id: u32,
    /// IPv6 flow label, 20 bits (RFC 6437); 0: none.
    pub flow_label: u32,
}

/// Bytes of Ethernet header and tags.
#[inline]
pub fn link_len(vlan: Vlan) -> usize {
    if vlan == Vlan::NONE { ETHERNET_LEN } else { ETHERNET_LEN + vlan.header_len() }
}

/// Bytes of an IP header without options.
#[inline]
pub const fn ip_len(v6: bool) -> usize {
    if v6 { IPV6_LEN } else { IPV4_LEN }
}

/// Bytes in front of a UDP payload.
#[inline]
pub fn headers_len(vlan: Vlan, v6: bool) -> usize {
    link_len(vlan) + ip_len(v6) + UDP_LEN
}

/// Writes the headers of an unfragmented UDP datagram whose payload of `payload_len` bytes has the partial
/// `payload_sum`. `ip.protocol` is ignored.
#[inline]
pub fn udp_frame(
    out: &mut [u8],
    link: &Link,
    ip: &Ip,
    src_port: u16,
    dst_port: u16,
    payload_len: usize,
    payload_sum: u32,
) -> Result<usize, Drop> {
    let ip = Ip { protocol: protocol::UDP, ..*ip };
    let l3 = write_link(out, link, !is_v4(&ip.dst))?;
    let l4 = l3 + write_ip(out.get_mut(l3..).ok_or(Drop::TxLength)?, &ip, UDP_LEN + payload_len)?;
    let rest = out.get_mut(l4..).ok_or(Drop::TxLength)?;
    Ok(l4 + write_udp(rest, &ip.src, &ip.dst, src_port, dst_port, payload_len, payload_sum)?)
}

/// Writes the headers of a frame that carries `piece` of a datagram: Ethernet, IP and, where needed, the IPv6
/// fragment header. A piece that is the whole datagram gets plain headers.
#[inline]
pub fn piece_frame(out: &mut [u8], link: &Link, ip: &Ip, piece: &Piece) -> Result<usize, Drop> {
    let l3 = write_link(out, link, !is_v4(&ip.dst))?;
    Ok(l3 + write_piece(out.get_mut(l3..).ok_or(Drop::TxLength)?, ip, piece)?)
}

/// Ethernet header and tags.
#[inline]
pub fn write_link(out: &mut [u8], link: &Link, v6: bool) -> Result<usize, Drop> {
    let ethertype = if v6 { ETHERTYPE_IPV6 } else { ETHERTYPE_IPV4 };
    let head = out.first_chunk_mut::<ETHERNET_LEN>().ok_or(Drop::TxLength)?;
    put(head, 0, link.dst_mac);
    put(head, 6, link.src_mac);
    put(head, 12, ethertype.to_be_bytes());
    if link.vlan == Vlan::NONE {
        return Ok(ETHERNET_LEN);
    }
    write_tags(out, link.vlan, ethertype)
}

/// Tags, outer first, and the Ethertype behind them.
#[inline(never)]
fn write_tags(out: &mut [u8], vlan: Vlan, ethertype: u16) -> Result<usize, Drop> {
    let len = link_len(vlan);
    let head = out.get_mut(..len).ok_or(Drop::TxLength)?;
    let mut at = 12;
    let tags = [(ETHERTYPE_8021AD, vlan.outer()), (ETHERTYPE_8021Q, vlan.inner())];
    for (kind, vid) in tags {
        if let Some(vid) = vid {
            put(head, at, kind.to_be_bytes());
            put(head, at + 2, vid.to_be_bytes());
            at += 4;
        }
    }
    put(head, at, ethertype.to_be_bytes());
    Ok(len)
}

/// IP header for `payload_len` bytes behind it.
#[inline]
pub fn write_ip(out: &mut [u8], ip: &Ip, payload_len: usize) -> Result<usize, Drop> {
    match (v4(&ip.src), v4(&ip.dst)) {
        (Some(src), Some(dst)) => {
            let df = if ip.dont_fragment { 0x4000 } else { 0 };
            ipv4(out, ip, src, dst, if ip.dont_fragment { 0 } else { ip.id }, df, payload_len)
        }
        (None, None) => ipv6(out, ip, ip.protocol, payload_len),
        _ => Err(Drop::TxAddress),
    }
}

/// As [`write_ip`] for a piece of a datagram, with the fragment header if it is IPv6.
#[inline]
pub fn write_piece(out: &mut [u8], ip: &Ip, piece: &Piece) -> Result<usize, Drop> {
    if piece.offset == 0 && !piece.more {
        return write_ip(out, ip, piece.len);
    }
    if !piece.offset.is_multiple_of(8) || piece.offset > 65528 {
        return Err(Drop::TxLength);
    }
    match (v4(&ip.src), v4(&ip.dst)) {
        (Some(src), Some(dst)) => {
            let word = low16(piece.offset / 8) | if piece.more { 0x2000 } else { 0 };
            ipv4(out, ip, src, dst, ip.id, word, piece.len)
        }
        (None, None) => {
            let at = ipv6(out, ip, next::FRAGMENT, FRAGMENT_LEN + piece.len)?;
            let header = out.get_mut(at..).and_then(<[u8]>::first_chunk_mut::<8>).ok_or(Drop::TxLength)?;
            put(header, 0, [ip.protocol, 0]);
            put(header, 2, (low16(piece.offset) | u16::from(piece.more)).to_be_bytes());
            put(header, 4, ip.id.to_be_bytes());
            Ok(at + FRAGMENT_LEN)
        }
        _ => Err(Drop::TxAddress),
    }
}

/// UDP header for a payload that is there already.
#[inline]
pub fn write_udp(
    out: &mut [u8],
    src: &Address,
    dst: &Address,
    src_port: u16,
    dst_port: u16,
    payload_len: usize,
    payload_sum: u32,
) -> Result<usize, Drop> {
    let length = u16::try_from(UDP_LEN + payload_len).map_err(|_| Drop::TxLength)?;
    let header = out.first_chunk_mut::<8>().ok_or(Drop::TxLength)?;
    let s = checksum::pseudo(src, dst, protocol::UDP, length)
        + checksum::word(src_port)
        + checksum::word(dst_port)
        + checksum::word(length)
        + payload_sum;
    put(header, 0, src_port.to_be_bytes());
    put(header, 2, dst_port.to_be_bytes());
    put(header, 4, length.to_be_bytes());
    put(header, 6, checksum::finish_udp(s));
    Ok(UDP_LEN)
}

#[inline]
fn ipv4(
    out: &mut [u8],
    ip: &Ip,
    src: [u8; 4],
    dst: [u8; 4],
    id: u32,
    fragment: u16,
    payload_len: usize,
) -> Result<usize, Drop> {
    let h = out.first_chunk_mut::<20>().ok_or(Drop::TxLength)?;
    let total = u16::try_from(IPV4_LEN + payload_len).map_err(|_| Drop::TxLength)?;
    let id = low16(id as usize);
    // The sum from the numbers, not from the header: what was just written in parts would be slow to read.
    let sum = checksum::word(u16::from_be_bytes([0x45, ip.tos]))
        + checksum::word(total)
        + checksum::word(id)
        + checksum::word(fragment)
        + checksum::word(u16::from_be_bytes([ip.ttl, ip.protocol]))
        + checksum::sum(&src)
        + checksum::sum(&dst);
    put(h, 0, [0x45, ip.tos]);
    put(h, 2, total.to_be_bytes());
    put(h, 4, id.to_be_bytes());
    put(h, 6, fragment.to_be_bytes());
    put(h, 8, [ip.ttl, ip.protocol]);
    put(h, 10, checksum::finish(sum));
    put(h, 12, src);
    put(h, 16, dst);
    Ok(IPV4_LEN)
}

#[inline]
fn ipv6(out: &mut [u8], ip: &Ip, next_header: u8, payload_len: usize) -> Result<usize, Drop> {
    let h = out.first_chunk_mut::<40>().ok_or(Drop::TxLength)?;
    let length = u16::try_from(payload_len).map_err(|_| Drop::TxLength)?;
    let first = 6 << 28 | u32::from(ip.tos) << 20 | ip.flow_label & 0xf_ffff;
    put(h, 0, first.to_be_bytes());
    put(h, 4, length.to_be_bytes());
    put(h, 6, [next_header, ip.ttl]);
    put(h, 8, ip.src);
    put(h, 24, ip.dst);
    Ok(IPV6_LEN)
}

#[cfg(test)]
mod tests;
