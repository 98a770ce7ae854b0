//! From a frame, or an IP packet without link header, to offsets and the fields that workers need.
//!
//! ```text
//! frame  | Ethernet | 0-2 tags | IP header, options, extension headers | payload          | padding |
//!        0                     l3                                      l4                 end
//! ```
//!
//! For a non-initial or initial *fragment* `l4` is where the fragment's data starts and `protocol` is what the
//! fragment header says; an IPv6 atomic fragment (RFC 6946) is parsed as if it had no fragment header.
//!
//! Plain untagged IPv4 without options takes a path of a few compares; everything else goes through `slow`.

#![deny(unsafe_code)]

use std::ops::Range;

use afnet_abi::vlan::Vlan;

use super::{Address, Drop, Mac, checksum, extension, is_multicast, mapped, protocol};

/// Bytes of an Ethernet header without tags.
pub const ETHERNET_LEN: usize = 14;
/// Ethertype of IPv4.
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// Ethertype of IPv6.
pub const ETHERTYPE_IPV6: u16 = 0x86dd;
/// Ethertype of an IEEE 802.1Q tag.
pub const ETHERTYPE_8021Q: u16 = 0x8100;
/// Ethertype of an IEEE 802.1ad tag.
pub const ETHERTYPE_8021AD: u16 = 0x88a8;

/// A parsed packet. Offsets count from the start of the frame (of the IP packet for [`parse_ip`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Source address.
    pub src: Address,
    /// Destination address.
    pub dst: Address,
    /// Source of the frame; zero from [`parse_ip`].
    pub src_mac: Mac,
    /// Destination of the frame; zero from [`parse_ip`].
    pub dst_mac: Mac,
    /// Tags of the frame.
    pub vlan: Vlan,
    /// Offset of the IP header.
    pub l3: usize,
    /// Offset of what follows the IP headers.
    pub l4: usize,
    /// End of the IP packet; bytes after it are padding.
    pub end: usize,
    /// IPv6, or else IPv4.
    pub v6: bool,
    /// Protocol of what stands at `l4`.
    pub protocol: u8,
    /// TTL or hop limit.
    pub ttl: u8,
    /// TOS or traffic class.
    pub tos: u8,
    /// Set if the packet is a fragment (but not an atomic one).
    pub fragment: Option<Fragment>,
}

/// Fragment fields of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// Identification: 16 bits for IPv4, 32 for IPv6.
    pub id: u32,
    /// Where its data belongs in the datagram, in bytes, a multiple of 8.
    pub offset: u16,
    /// More fragments follow.
    pub more: bool,
    /// IPv6: offset of the fragment header. IPv4: offset of the IP header.
    pub header: usize,
    /// IPv6: offset of the next-header byte that announces the fragment header. IPv4: that of the protocol byte.
    pub announced_at: usize,
}

/// A UDP header that passed the length checks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Udp {
    /// Source port.
    pub src_port: u16,
    /// Destination port.
    pub dst_port: u16,
    /// Where the payload is, in the same offsets as the packet's.
    pub payload: Range<usize>,
    /// The sender computed no checksum (IPv4 only).
    pub checksum_zero: bool,
    /// Partial of pseudo header and UDP header: add the payload's and the result must satisfy
    /// [`checksum::is_valid`], unless `checksum_zero`.
    pub header_sum: u32,
}

impl Udp {
    /// Whether the datagram is intact, given the partial of its payload.
    #[inline]
    pub fn verify(&self, payload_sum: u32) -> Result<(), Drop> {
        if self.checksum_zero || checksum::is_valid(self.header_sum + payload_sum) {
            Ok(())
        } else {
            Err(Drop::UdpChecksum)
        }
    }
}

/// Parses an Ethernet frame.
#[inline]
pub fn parse(frame: &[u8]) -> Result<Packet, Drop> {
    parse_head(frame, frame.len())
}

/// As [`parse`] for a frame of `frame_len` bytes of which `head` is the first buffer only (AF_XDP multi-buffer).
/// All headers must lie in `head`; `end` may lie beyond it.
#[inline]
pub fn parse_head(head: &[u8], frame_len: usize) -> Result<Packet, Drop> {
    let frame_len = frame_len.max(head.len());
    // Ethernet, IPv4, 20 bytes of header, no fragment, unicast to this host: one bounds check for all.
    if let Some([d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, 0x08, 0x00, ip @ ..]) =
        head.first_chunk::<34>()
        && let &[0x45, tos, l0, l1, _, _, f0, f1, ttl, protocol, _, _, a, b, c, d, e, f, g, h] = ip
        && f0 & 0x3f | f1 == 0
        && d0 & 1 == 0
    {
        let total = usize::from(u16::from_be_bytes([l0, l1]));
        if total < 20 || total > frame_len - ETHERNET_LEN {
            return Err(Drop::IpLength);
        }
        if !checksum::is_valid(header_sum(ip)) {
            return Err(Drop::IpChecksum);
        }
        if bad_v4_source(a) {
            return Err(Drop::Source);
        }
        return Ok(Packet {
            src: mapped([a, b, c, d]),
            dst: mapped([e, f, g, h]),
            src_mac: [*s0, *s1, *s2, *s3, *s4, *s5],
            dst_mac: [*d0, *d1, *d2, *d3, *d4, *d5],
            vlan: Vlan::NONE,
            l3: ETHERNET_LEN,
            l4: ETHERNET_LEN + 20,
            end: ETHERNET_LEN + total,
            v6: false,
            protocol,
            ttl,
            tos,
            fragment: None,
        });
    }
    slow(head, frame_len)
}

/// Parses an IP packet that has no link header: a raw tenant's, or one that reassembly made.
pub fn parse_ip(packet: &[u8]) -> Result<Packet, Drop> {
    match packet.first().ok_or(Drop::Truncated)? >> 4 {
        4 => ipv4(packet, 0, packet.len()),
        6 => ipv6(packet, 0, packet.len()),
        _ => Err(Drop::IpVersion),
    }
}

/// The UDP header of an unfragmented packet. The payload's checksum is not looked at: see [`Udp::verify`].
#[inline]
pub fn udp(frame: &[u8], packet: &Packet) -> Result<Udp, Drop> {
    if packet.protocol != protocol::UDP || packet.fragment.is_some() {
        return Err(Drop::Protocol);
    }
    let header = frame.get(packet.l4..).and_then(<[u8]>::first_chunk::<8>).ok_or(Drop::Truncated)?;
    let [s0, s1, d0, d1, l0, l1, c0, c1] = *header;
    let length = u16::from_be_bytes([l0, l1]);
    let payload = packet.l4 + 8..packet.l4 + usize::from(length);
    if length < 8 || payload.end > packet.end {
        return Err(Drop::UdpLength);
    }
    let checksum_zero = c0 | c1 == 0;
    if checksum_zero && packet.v6 {
        return Err(Drop::UdpNoChecksum);
    }
    Ok(Udp {
        src_port: u16::from_be_bytes([s0, s1]),
        dst_port: u16::from_be_bytes([d0, d1]),
        payload,
        checksum_zero,
        header_sum: checksum::sum(header) + checksum::pseudo(&packet.src, &packet.dst, protocol::UDP, length),
    })
}

/// Everything but plain IPv4.
fn slow(head: &[u8], frame_len: usize) -> Result<Packet, Drop> {
    let Some([dst_mac @ .., s0, s1, s2, s3, s4, s5]) = head.first_chunk::<12>() else {
        return Err(Drop::Truncated);
    };
    let (vlan, ethertype, l3) = tags(head)?;
    let mut packet = match ethertype {
        ETHERTYPE_IPV4 => ipv4(head, l3, frame_len)?,
        ETHERTYPE_IPV6 => ipv6(head, l3, frame_len)?,
        _ => return Err(Drop::EtherType),
    };
    let [first, ..] = *dst_mac;
    if first & 1 != 0 && !is_multicast(&packet.dst) {
        return Err(Drop::LinkGroup);
    }
    packet.vlan = vlan;
    packet.src_mac = [*s0, *s1, *s2, *s3, *s4, *s5];
    packet.dst_mac = *dst_mac;
    Ok(packet)
}

/// Tags, the Ethertype behind them and where the payload starts. The same stacks as in `bpf/prog/parse.h`: none,
/// 802.1Q, 802.1ad, or 802.1Q within 802.1ad; VID 0 is no tag.
fn tags(head: &[u8]) -> Result<(Vlan, u16, usize), Drop> {
    let word = |at: usize| {
        head.get(at..)
            .and_then(<[u8]>::first_chunk::<2>)
            .map(|b| u16::from_be_bytes(*b))
            .ok_or(Drop::Truncated)
    };
    let (mut outer, mut inner) = (None, None);
    let mut at = 12;
    let mut ethertype = word(at)?;
    if ethertype == ETHERTYPE_8021AD {
        outer = Some(word(at + 2)? & 0xfff).filter(|v| *v != 0);
        at += 4;
        ethertype = word(at)?;
    }
    if ethertype == ETHERTYPE_8021Q {
        inner = Some(word(at + 2)? & 0xfff).filter(|v| *v != 0);
        at += 4;
        ethertype = word(at)?;
    }
    let vlan = Vlan::new(outer, inner).map_err(|_| Drop::EtherType)?;
    Ok((vlan, ethertype, at + 2))
}

/// IPv4 with everything that may occur (RFC 791).
fn ipv4(head: &[u8], l3: usize, frame_len: usize) -> Result<Packet, Drop> {
    let packet = head.get(l3..).ok_or(Drop::Truncated)?;
    let &[vi, tos, l0, l1, i0, i1, f0, f1, ttl, protocol, _, _, a, b, c, d, e, f, g, h] =
        packet.first_chunk::<20>().ok_or(Drop::Truncated)?;
    if vi >> 4 != 4 {
        return Err(Drop::IpVersion);
    }
    let header_len = usize::from(vi & 0xf) * 4;
    if header_len < 20 {
        return Err(Drop::IpHeader);
    }
    let header = packet.get(..header_len).ok_or(Drop::Truncated)?;
    let total = usize::from(u16::from_be_bytes([l0, l1]));
    if total < header_len || total > frame_len - l3 {
        return Err(Drop::IpLength);
    }
    if !checksum::is_valid(checksum::sum(header)) {
        return Err(Drop::IpChecksum);
    }
    if bad_v4_source(a) {
        return Err(Drop::Source);
    }
    options(header.get(20..).unwrap_or_default())?;
    let word = u16::from_be_bytes([f0, f1]);
    let fragment = (word & 0x3fff != 0).then(|| Fragment {
        id: u32::from(u16::from_be_bytes([i0, i1])),
        offset: (word & 0x1fff) << 3,
        more: word & 0x2000 != 0,
        header: l3,
        announced_at: l3 + 9,
    });
    Ok(Packet {
        src: mapped([a, b, c, d]),
        dst: mapped([e, f, g, h]),
        src_mac: [0; 6],
        dst_mac: [0; 6],
        vlan: Vlan::NONE,
        l3,
        l4: l3 + header_len,
        end: l3 + total,
        v6: false,
        protocol,
        ttl,
        tos,
        fragment,
    })
}

/// Walks IPv4 options: lengths must fit (RFC 791 3.1), source routes are refused (RFC 7126 4.3, 4.4).
fn options(mut rest: &[u8]) -> Result<(), Drop> {
    const END: u8 = 0;
    const NOP: u8 = 1;
    const LSRR: u8 = 131;
    const SSRR: u8 = 137;
    while let [kind, tail @ ..] = rest {
        rest = match *kind {
            END => return Ok(()),
            NOP => tail,
            LSRR | SSRR => return Err(Drop::SourceRoute),
            _ => {
                let length = usize::from(*tail.first().ok_or(Drop::IpHeader)?);
                if length < 2 {
                    return Err(Drop::IpHeader);
                }
                rest.get(length..).ok_or(Drop::IpHeader)?
            }
        };
    }
    Ok(())
}

/// IPv6 and its extension headers (RFC 8200).
fn ipv6(head: &[u8], l3: usize, frame_len: usize) -> Result<Packet, Drop> {
    let packet = head.get(l3..).ok_or(Drop::Truncated)?;
    let header = packet.first_chunk::<40>().ok_or(Drop::Truncated)?;
    let &[v0, v1, _, _, l0, l1, next, ttl, ref addresses @ ..] = header;
    if v0 >> 4 != 6 {
        return Err(Drop::IpVersion);
    }
    let (Some(src), Some(dst)) = (addresses.first_chunk::<16>(), addresses.last_chunk::<16>()) else {
        return Err(Drop::Truncated);
    };
    // A jumbogram (RFC 2675) has length 0 here; without a payload nothing is left to deliver either.
    let length = usize::from(u16::from_be_bytes([l0, l1]));
    if length > frame_len - l3 - 40 {
        return Err(Drop::IpLength);
    }
    let end = l3 + 40 + length;
    if bad_v6_source(src) || super::is_v4(dst) {
        return Err(Drop::Source);
    }
    let chain =
        extension::walk(head.get(..end.min(head.len())).unwrap_or_default(), l3 + 6, next, l3 + 40, end)?;
    Ok(Packet {
        src: *src,
        dst: *dst,
        src_mac: [0; 6],
        dst_mac: [0; 6],
        vlan: Vlan::NONE,
        l3,
        l4: chain.l4,
        end,
        v6: true,
        protocol: chain.protocol,
        ttl,
        tos: v0 << 4 | v1 >> 4,
        fragment: chain.fragment,
    })
}

/// Sum of a header without options.
#[inline]
fn header_sum(header: &[u8; 20]) -> u32 {
    let (words, _) = header.as_chunks::<4>();
    let mut s = 0u64;
    for w in words {
        s += u64::from(u32::from_ne_bytes(*w));
    }
    // Five 32-bit words: below 2^35.
    let s = (s & 0xffff_ffff) + (s >> 32);
    let s = (s & 0xffff) + (s >> 16 & 0xffff) + (s >> 32);
    (s & 0x7fff_ffff) as u32
}

/// 0/8, 127/8, multicast, reserved and broadcast (RFC 1122 3.2.1.3), by the first byte.
#[inline]
const fn bad_v4_source(first: u8) -> bool {
    first == 0 || first == 127 || first >= 224
}

/// Multicast (RFC 4291 2.7), `::1` (2.5.3), `::` (2.5.2: nothing that we deliver has it), IPv4-mapped.
#[inline]
fn bad_v6_source(src: &Address) -> bool {
    let n = u128::from_be_bytes(*src);
    n >> 120 == 0xff || n <= 1 || n >> 32 == 0xffff
}

#[cfg(test)]
mod tests;
