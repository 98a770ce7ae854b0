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
//! Untagged IPv4 without options and IPv6 without extension headers take paths of a few compares; everything else goes
//! through `slow`. All paths make the same checks and give the same answers.

#![deny(unsafe_code)]

use std::ops::Range;

use afnet_abi::vlan::Vlan;

use super::{
    Address, Drop, Mac, bytes, checksum, extension, extension::Chain, is_multicast, mapped, protocol,
};

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
#[inline(always)]
pub fn parse(frame: &[u8]) -> Result<Packet, Drop> {
    parse_head(frame, frame.len())
}

/// As [`parse`] for a frame of `frame_len` bytes of which `head` is the first buffer only (AF_XDP multi-buffer).
/// All headers must lie in `head`; `end` may lie beyond it.
#[inline(always)]
pub fn parse_head(head: &[u8], frame_len: usize) -> Result<Packet, Drop> {
    let frame_len = frame_len.max(head.len());
    // Ethernet, IPv4, 20 bytes of header, no fragment, unicast to this host: one bounds check for all.
    if let Some(h) = head.first_chunk::<34>() {
        const PLAIN: u32 = u32::from_ne_bytes([8, 0, 0x45, 0]);
        const PLAIN_MASK: u32 = u32::from_ne_bytes([0xff, 0xff, 0xff, 0]);
        const FRAGMENT_MASK: u16 = u16::from_ne_bytes([0x3f, 0xff]);
        let plain = u32::from_ne_bytes(bytes(h, 12)) & PLAIN_MASK == PLAIN;
        let whole = u16::from_ne_bytes(bytes(h, 20)) & FRAGMENT_MASK == 0;
        if plain && whole && h[0] & 1 == 0 {
            return plain_v4(h, frame_len);
        }
        const PLAIN_V6: u32 = u32::from_ne_bytes([0x86, 0xdd, 0x60, 0]);
        const PLAIN_V6_MASK: u32 = u32::from_ne_bytes([0xff, 0xff, 0xf0, 0]);
        if u32::from_ne_bytes(bytes(h, 12)) & PLAIN_V6_MASK == PLAIN_V6
            && h[0] & 1 == 0
            && !extension::is_extension(h[20])
        {
            return plain_v6(head, frame_len);
        }
    }
    slow(head, frame_len)
}

/// As [`parse`] for a frame to a group, which may be broadcast to a subnet: that is no address which would tell.
pub fn parse_group(frame: &[u8]) -> Result<Packet, Drop> {
    tagged(frame, frame.len())
}

/// The rest of [`parse_head`] for plain IPv4.
#[inline(always)]
fn plain_v4(h: &[u8; 34], frame_len: usize) -> Result<Packet, Drop> {
    let total = usize::from(u16::from_be_bytes(bytes(h, 16)));
    if total < 20 || total > frame_len - ETHERNET_LEN {
        return Err(Drop::IpLength);
    }
    if !checksum::is_valid(header_sum(&bytes(h, ETHERNET_LEN))) {
        return Err(Drop::IpChecksum);
    }
    if bad_v4_source(h[26]) {
        return Err(Drop::Source);
    }
    Ok(Packet {
        src: mapped(bytes(h, 26)),
        dst: mapped(bytes(h, 30)),
        src_mac: bytes(h, 6),
        dst_mac: bytes(h, 0),
        vlan: Vlan::NONE,
        l3: ETHERNET_LEN,
        l4: ETHERNET_LEN + 20,
        end: ETHERNET_LEN + total,
        v6: false,
        protocol: h[23],
        ttl: h[22],
        tos: h[15],
        fragment: None,
    })
}

/// The rest of [`parse_head`] for IPv6 without extension headers.
#[inline(never)]
fn plain_v6(head: &[u8], frame_len: usize) -> Result<Packet, Drop> {
    let h = head.first_chunk::<54>().ok_or(Drop::Truncated)?;
    let length = usize::from(u16::from_be_bytes(bytes(h, 18)));
    if length > frame_len - 54 {
        return Err(Drop::IpLength);
    }
    let (src, dst) = (bytes(h, 22), bytes(h, 38));
    if bad_v6_source(&src) || super::is_v4(&dst) {
        return Err(Drop::Source);
    }
    Ok(Packet {
        src,
        dst,
        src_mac: bytes(h, 6),
        dst_mac: bytes(h, 0),
        vlan: Vlan::NONE,
        l3: ETHERNET_LEN,
        l4: 54,
        end: 54 + length,
        v6: true,
        protocol: h[20],
        ttl: h[21],
        tos: h[14] << 4 | h[15] >> 4,
        fragment: None,
    })
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
    let length = u16::from_be_bytes(bytes(header, 4));
    let payload = packet.l4 + 8..packet.l4 + usize::from(length);
    if length < 8 || payload.end > packet.end {
        return Err(Drop::UdpLength);
    }
    let checksum_zero = u16::from_ne_bytes(bytes(header, 6)) == 0;
    if checksum_zero && packet.v6 {
        return Err(Drop::UdpNoChecksum);
    }
    Ok(Udp {
        src_port: u16::from_be_bytes(bytes(header, 0)),
        dst_port: u16::from_be_bytes(bytes(header, 2)),
        payload,
        checksum_zero,
        header_sum: checksum::pseudo_and(&packet.src, &packet.dst, protocol::UDP, length, *header),
    })
}

/// Everything but plain IPv4.
#[inline(never)]
fn slow(head: &[u8], frame_len: usize) -> Result<Packet, Drop> {
    let packet = tagged(head, frame_len)?;
    let [first, ..] = packet.dst_mac;
    if first & 1 != 0 && !is_multicast(&packet.dst) {
        return Err(Drop::LinkGroup);
    }
    Ok(packet)
}

/// Any frame.
fn tagged(head: &[u8], frame_len: usize) -> Result<Packet, Drop> {
    let macs = head.first_chunk::<12>().ok_or(Drop::Truncated)?;
    let (vlan, ethertype, l3) = tags(head)?;
    let mut packet = match ethertype {
        ETHERTYPE_IPV4 => ipv4(head, l3, frame_len)?,
        ETHERTYPE_IPV6 => ipv6(head, l3, frame_len)?,
        _ => return Err(Drop::EtherType),
    };
    packet.vlan = vlan;
    packet.src_mac = bytes(macs, 6);
    packet.dst_mac = bytes(macs, 0);
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
    let h = packet.first_chunk::<20>().ok_or(Drop::Truncated)?;
    if h[0] >> 4 != 4 {
        return Err(Drop::IpVersion);
    }
    let header_len = usize::from(h[0] & 0xf) * 4;
    if header_len < 20 {
        return Err(Drop::IpHeader);
    }
    let header = packet.get(..header_len).ok_or(Drop::Truncated)?;
    let total = usize::from(u16::from_be_bytes(bytes(h, 2)));
    if total < header_len || total > frame_len - l3 {
        return Err(Drop::IpLength);
    }
    let sum = if header_len == 20 { header_sum(h) } else { checksum::sum(header) };
    if !checksum::is_valid(sum) {
        return Err(Drop::IpChecksum);
    }
    // Who has no address yet may ask everybody (RFC 1122 3.2.1.3 (a)).
    let addresses: [u8; 8] = bytes(h, 12);
    if bad_v4_source(h[12]) && addresses != [0, 0, 0, 0, 255, 255, 255, 255] {
        return Err(Drop::Source);
    }
    if header_len != 20 {
        options(header.get(20..).unwrap_or_default())?;
    }
    let word = u16::from_be_bytes(bytes(h, 6));
    let fragment = (word & 0x3fff != 0).then(|| Fragment {
        id: u32::from(u16::from_be_bytes(bytes(h, 4))),
        offset: (word & 0x1fff) << 3,
        more: word & 0x2000 != 0,
        header: l3,
        announced_at: l3 + 9,
    });
    Ok(Packet {
        src: mapped(bytes(h, 12)),
        dst: mapped(bytes(h, 16)),
        src_mac: [0; 6],
        dst_mac: [0; 6],
        vlan: Vlan::NONE,
        l3,
        l4: l3 + header_len,
        end: l3 + total,
        v6: false,
        protocol: h[9],
        ttl: h[8],
        tos: h[1],
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
    let h = packet.first_chunk::<40>().ok_or(Drop::Truncated)?;
    if h[0] >> 4 != 6 {
        return Err(Drop::IpVersion);
    }
    let (src, dst) = (bytes(h, 8), bytes(h, 24));
    // A jumbogram (RFC 2675) has length 0 here; without a payload nothing is left to deliver either.
    let length = usize::from(u16::from_be_bytes(bytes(h, 4)));
    if length > frame_len - l3 - 40 {
        return Err(Drop::IpLength);
    }
    let end = l3 + 40 + length;
    if bad_v6_source(&src) || super::is_v4(&dst) {
        return Err(Drop::Source);
    }
    let mut chain = Chain { protocol: h[6], l4: l3 + 40, fragment: None };
    if extension::is_extension(chain.protocol) {
        let head = head.get(..end.min(head.len())).unwrap_or_default();
        chain = extension::walk(head, l3 + 6, chain.protocol, chain.l4, end)?;
    }
    Ok(Packet {
        src,
        dst,
        src_mac: [0; 6],
        dst_mac: [0; 6],
        vlan: Vlan::NONE,
        l3,
        l4: chain.l4,
        end,
        v6: true,
        protocol: chain.protocol,
        ttl: h[7],
        tos: h[0] << 4 | h[1] >> 4,
        fragment: chain.fragment,
    })
}

/// Sum of a header without options: five 32-bit words, below 2^35.
#[inline]
fn header_sum(header: &[u8; 20]) -> u32 {
    let (words, _) = header.as_chunks::<4>();
    checksum::fold64(words.iter().map(|w| u64::from(u32::from_ne_bytes(*w))).sum())
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
