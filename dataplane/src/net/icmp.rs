//! ICMP and ICMPv6: errors that concern a tenant's datagrams, and the few messages that workers send themselves.
//!
//! [`error`] reads an error message and gives the flow that it is about and what a kernel socket would report.
//! Whom it concerns is the caller's to decide: the quoted source must belong to the compartment that the message
//! was sent to, and its port to one of the endpoint's claims.

#![deny(unsafe_code)]

use core::ops::Range;

use afnet_abi::shm::ErrorInfo;

use super::{
    Address, Drop, build::UDP_LEN, checksum, extension, is_multicast, mapped, parse::Packet, protocol,
};

mod errno {
    //! Linux's numbers, which are what tenants get (asm-generic/errno.h).
    pub const EACCES: u32 = 13;
    pub const EPROTO: u32 = 71;
    pub const ENOPROTOOPT: u32 = 92;
    pub const EOPNOTSUPP: u32 = 95;
    pub const EMSGSIZE: u32 = 90;
    pub const ENETUNREACH: u32 = 101;
    pub const ECONNREFUSED: u32 = 111;
    pub const EHOSTDOWN: u32 = 112;
    pub const EHOSTUNREACH: u32 = 113;
    pub const ENONET: u32 = 64;
}

/// A flow as a quoted packet names it; `src` is the one who sent the packet that caused the error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quoted {
    /// Source address of the quoted packet: ours.
    pub src: Address,
    /// Destination of the quoted packet.
    pub dst: Address,
    /// Its protocol.
    pub protocol: u8,
    /// Source port; 0 unless the protocol is TCP, UDP or UDP-Lite.
    pub src_port: u16,
    /// Destination port, likewise.
    pub dst_port: u16,
}

/// An error message about a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IcmpError {
    /// What the message says.
    pub info: ErrorInfo,
    /// Which packet it is about.
    pub quoted: Quoted,
    /// Where what is quoted of a UDP datagram's contents lies in the frame; may be empty.
    pub contents: Range<usize>,
}

/// Reads the ICMP or ICMPv6 message at `packet.l4`. Its checksum is verified.
///
/// # Errors
/// [`Drop::IcmpIgnored`] for messages that report no error (echo, redirects, ND, source quench: RFC 6633 3).
pub fn error(frame: &[u8], packet: &Packet) -> Result<IcmpError, Drop> {
    if packet.fragment.is_some() {
        return Err(Drop::Protocol);
    }
    let message = frame.get(packet.l4..packet.end).ok_or(Drop::Truncated)?;
    let &[kind, code, _, _, w0, w1, w2, w3] = message.first_chunk::<8>().ok_or(Drop::IcmpLength)?;
    verify(message, packet)?;
    let (errno, mtu) = match (packet.v6, packet.protocol) {
        (false, protocol::ICMP) => v4_error(kind, code, u16::from_be_bytes([w2, w3]), message)?,
        (true, protocol::ICMPV6) => v6_error(kind, code, u32::from_be_bytes([w0, w1, w2, w3]))?,
        _ => return Err(Drop::Protocol),
    };
    let quote = message.get(8..).ok_or(Drop::IcmpQuote)?;
    let (quoted, l4) = if packet.v6 { v6_quote(quote)? } else { v4_quote(quote)? };
    let contents = (packet.l4 + 8 + l4 + UDP_LEN).min(packet.end)..packet.end;
    let info = ErrorInfo { errno, icmp_type: kind, icmp_code: code, reserved: 0, mtu, offender: packet.src };
    Ok(IcmpError { info, quoted, contents })
}

/// Errors of this host's own making, for tenants: a datagram above the path MTU `mtu`.
pub const fn too_big(mtu: u32) -> ErrorInfo {
    ErrorInfo { errno: errno::EMSGSIZE, icmp_type: 0, icmp_code: 0, reserved: 0, mtu, offender: [0; 16] }
}

/// Errors of this host's own making, for tenants: no route or no neighbour; `errno` is the positive number that
/// control's route answer holds.
pub const fn unreachable(errno: u32) -> ErrorInfo {
    ErrorInfo { errno, icmp_type: 0, icmp_code: 0, reserved: 0, mtu: 0, offender: [0; 16] }
}

/// Turns the echo request `message` (ICMP header and data, as in a reassembled packet) into its reply, in place.
/// The addresses are the request's, `src` the one who asked.
///
/// # Errors
/// [`Drop::IcmpIgnored`] if it is no echo request; [`Drop::IcmpChecksum`].
pub fn echo_reply(message: &mut [u8], packet: &Packet) -> Result<(), Drop> {
    verify(message, packet)?;
    let [kind, code, c0, c1, ..] = message else { return Err(Drop::IcmpLength) };
    let (request, reply) = match (packet.v6, packet.protocol) {
        (false, protocol::ICMP) => (8, 0),
        (true, protocol::ICMPV6) => (128, 129),
        _ => return Err(Drop::Protocol),
    };
    // RFC 1122 3.2.2.6, RFC 4443 4.2; never for multicast (RFC 1122 3.2.2.6 MAY).
    if *kind != request || *code != 0 || is_multicast(&packet.dst) {
        return Err(Drop::IcmpIgnored);
    }
    *kind = reply;
    // Swapping the addresses changes nothing in the pseudo header's sum.
    let old = u16::from_be_bytes([*c0, *c1]);
    let sum = checksum::update(old, u16::from(request) << 8, u16::from(reply) << 8);
    [*c0, *c1] = sum.to_be_bytes();
    Ok(())
}

/// Most bytes of an error message that [`write_unreachable`] makes: with an IPv4 header 576 (RFC 1812 4.3.2.3), with
/// an IPv6 header 1280 (RFC 4443 2.4 c).
pub const MAX_ERROR: usize = 1280 - 40;

/// Codes for [`write_unreachable`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreachable {
    /// No one listens on the port.
    Port,
    /// The compartment may not be reached.
    Prohibited,
}

/// Writes a Destination Unreachable about `frame` (whose view is `packet`) to the front of `out`: ICMP header and
/// quote, checksum included, to be sent from `packet.dst` to `packet.src`. Returns its length.
///
/// # Errors
/// [`Drop::IcmpIgnored`] where no error may be sent: about errors, fragments but the first, multicast (RFC 1122
/// 3.2.2, RFC 4443 2.4 e). The rate is the caller's to limit.
pub fn write_unreachable(
    frame: &[u8],
    packet: &Packet,
    code: Unreachable,
    out: &mut [u8],
) -> Result<usize, Drop> {
    let later_fragment = packet.fragment.is_some_and(|f| f.offset != 0);
    // A group bit in the link destination: broadcast or multicast there.
    let [first, ..] = packet.dst_mac;
    if later_fragment || first & 1 != 0 || is_multicast(&packet.dst) || is_error(frame, packet) {
        return Err(Drop::IcmpIgnored);
    }
    let (room, kind, code) = match (packet.v6, code) {
        (false, Unreachable::Port) => (576 - 20 - 8, 3, 3),
        (false, Unreachable::Prohibited) => (576 - 20 - 8, 3, 13),
        (true, Unreachable::Port) => (MAX_ERROR - 8, 1, 4),
        (true, Unreachable::Prohibited) => (MAX_ERROR - 8, 1, 1),
    };
    let quote = frame.get(packet.l3..packet.end).ok_or(Drop::Truncated)?;
    let quote = quote.get(..room).unwrap_or(quote);
    let length = 8 + quote.len();
    let message = out.get_mut(..length).ok_or(Drop::TxLength)?;
    let (header, body) = message.split_at_mut(8);
    header.copy_from_slice(&[kind, code, 0, 0, 0, 0, 0, 0]);
    body.copy_from_slice(quote);
    let mut sum = checksum::sum(message);
    if packet.v6 {
        sum += checksum::pseudo(&packet.dst, &packet.src, protocol::ICMPV6, super::low16(length));
    }
    if let Some([_, _, c0, c1]) = message.first_chunk_mut::<4>() {
        [*c0, *c1] = checksum::finish(sum);
    }
    Ok(length)
}

/// Whether the packet is an ICMP message other than a query (or too short to tell).
fn is_error(frame: &[u8], packet: &Packet) -> bool {
    let kind = frame.get(packet.l4).copied();
    match packet.protocol {
        protocol::ICMP if !packet.v6 => !matches!(kind, Some(0 | 8 | 9 | 10 | 13..=18)),
        protocol::ICMPV6 if packet.v6 => !matches!(kind, Some(128..)),
        _ => false,
    }
}

fn verify(message: &[u8], packet: &Packet) -> Result<(), Drop> {
    let mut sum = checksum::sum(message);
    if packet.v6 {
        let length = u16::try_from(message.len()).map_err(|_| Drop::IcmpLength)?;
        sum += checksum::pseudo(&packet.src, &packet.dst, protocol::ICMPV6, length);
    }
    if checksum::is_valid(sum) { Ok(()) } else { Err(Drop::IcmpChecksum) }
}

/// errno and MTU of an ICMP error (the kernel's icmp_err_convert).
fn v4_error(kind: u8, code: u8, mtu: u16, message: &[u8]) -> Result<(u32, u32), Drop> {
    use errno::*;
    let errno = match (kind, code) {
        (3, 0 | 6 | 9 | 11) => ENETUNREACH,
        (3, 1 | 10 | 12..=15) => EHOSTUNREACH,
        (3, 2) => ENOPROTOOPT,
        (3, 3) => ECONNREFUSED,
        (3, 4) => return Ok((EMSGSIZE, path_mtu(mtu, message))),
        (3, 5) => EOPNOTSUPP,
        (3, 7) => EHOSTDOWN,
        (3, 8) => ENONET,
        (11, 0 | 1) => EHOSTUNREACH,
        (12, _) => EPROTO,
        _ => return Err(Drop::IcmpIgnored),
    };
    Ok((errno, 0))
}

/// Path MTU of a Fragmentation Needed: as it says, or by the plateau table of RFC 1191 7 below the length of the
/// quoted packet where an old router says 0; never below 68 (RFC 791 3.2).
fn path_mtu(mtu: u16, message: &[u8]) -> u32 {
    const PLATEAUS: [u16; 10] = [32000, 17914, 8166, 4352, 2002, 1492, 1006, 508, 296, 68];
    if mtu != 0 {
        return u32::from(mtu.max(68));
    }
    let total = match message {
        [_, _, _, _, _, _, _, _, _, _, l0, l1, ..] => u16::from_be_bytes([*l0, *l1]),
        _ => 576,
    };
    u32::from(PLATEAUS.iter().copied().find(|p| *p < total).unwrap_or(68))
}

/// errno and MTU of an ICMPv6 error (the kernel's icmpv6_err_convert).
fn v6_error(kind: u8, code: u8, word: u32) -> Result<(u32, u32), Drop> {
    use errno::*;
    let errno = match (kind, code) {
        (1, 0) => ENETUNREACH,
        (1, 1 | 5 | 6) => EACCES,
        (1, 2 | 3) => EHOSTUNREACH,
        (1, 4) => ECONNREFUSED,
        (1, _) => EPROTO,
        // RFC 8201 4: a Packet Too Big below the minimum link MTU must be discarded.
        (2, _) if word >= 1280 => return Ok((EMSGSIZE, word)),
        (3, _) => EHOSTUNREACH,
        (4, _) => EPROTO,
        _ => return Err(Drop::IcmpIgnored),
    };
    Ok((errno, 0))
}

/// The quoted IPv4 header and at least 8 bytes (RFC 792), and where they are. Its lengths are not trusted: routers cut
/// and change them.
fn v4_quote(quote: &[u8]) -> Result<(Quoted, usize), Drop> {
    let &[vi, _, _, _, _, _, f0, f1, _, protocol, _, _, a, b, c, d, e, f, g, h] =
        quote.first_chunk::<20>().ok_or(Drop::IcmpQuote)?;
    let header_len = usize::from(vi & 0xf) * 4;
    if vi >> 4 != 4 || header_len < 20 || f0 & 0x1f | f1 != 0 {
        return Err(Drop::IcmpQuote);
    }
    let (src_port, dst_port) = ports(protocol, quote.get(header_len..).ok_or(Drop::IcmpQuote)?)?;
    let quoted =
        Quoted { src: mapped([a, b, c, d]), dst: mapped([e, f, g, h]), protocol, src_port, dst_port };
    Ok((quoted, header_len))
}

/// The quoted IPv6 header, its chain and at least the ports, and where these are.
fn v6_quote(quote: &[u8]) -> Result<(Quoted, usize), Drop> {
    let &[v0, _, _, _, _, _, next, _, ref addresses @ ..] =
        quote.first_chunk::<40>().ok_or(Drop::IcmpQuote)?;
    let (Some(src), Some(dst)) = (addresses.first_chunk::<16>(), addresses.last_chunk::<16>()) else {
        return Err(Drop::IcmpQuote);
    };
    if v0 >> 4 != 6 {
        return Err(Drop::IcmpQuote);
    }
    let chain = extension::walk(quote, 6, next, 40, quote.len()).map_err(|_| Drop::IcmpQuote)?;
    if chain.fragment.is_some_and(|f| f.offset != 0) || extension::is_extension(chain.protocol) {
        return Err(Drop::IcmpQuote);
    }
    let (src_port, dst_port) = ports(chain.protocol, quote.get(chain.l4..).ok_or(Drop::IcmpQuote)?)?;
    Ok((Quoted { src: *src, dst: *dst, protocol: chain.protocol, src_port, dst_port }, chain.l4))
}

fn ports(protocol: u8, l4: &[u8]) -> Result<(u16, u16), Drop> {
    match protocol {
        protocol::TCP | protocol::UDP | protocol::UDPLITE => {
            let &[s0, s1, d0, d1] = l4.first_chunk::<4>().ok_or(Drop::IcmpQuote)?;
            Ok((u16::from_be_bytes([s0, s1]), u16::from_be_bytes([d0, d1])))
        }
        _ => Ok((0, 0)),
    }
}

#[cfg(test)]
mod tests;
