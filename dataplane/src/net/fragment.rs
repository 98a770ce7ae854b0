//! Fragmentation of what we send, and the identifications that it needs.
//!
//! * [`Pieces`]: a datagram that a worker holds (UDP header and payload) -> ranges and fragment fields; the headers
//!   are written by [`super::build::piece_frame`].
//! * [`Refragment`]: an existing IP packet (a raw tenant's, or a reassembled one on its way to the kernel) -> whole
//!   smaller IP packets.
//! * [`Ids`]: identifications by RFC 7739 5.3 (hash-based, a secret start for each pair of addresses).
//!
//! Never used for datagrams that must not be fragmented: [`Pieces::new`] answers [`Drop::TxTooBig`] then.

#![deny(unsafe_code)]

use super::{
    Address, Drop,
    build::{FRAGMENT_LEN, IPV4_LEN, IPV6_LEN},
    checksum,
    extension::next,
    hash::Key,
    low16, low32,
    parse::Packet,
    place,
};

/// A part of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Offset of its first byte in the datagram (IP payload), a multiple of 8.
    pub offset: usize,
    /// Bytes.
    pub len: usize,
    /// More follow.
    pub more: bool,
}

/// The pieces of a datagram for an MTU, in order.
#[derive(Clone, Debug)]
pub struct Pieces {
    at: usize,
    length: usize,
    step: usize,
    done: bool,
}

impl Pieces {
    /// Cuts an IP payload of `length` bytes (UDP header included) for `mtu`, the largest IP packet in bytes. One
    /// piece if it fits.
    ///
    /// # Errors
    /// [`Drop::TxTooBig`] if it does not fit and must not be fragmented, or the MTU is too small for any fragment;
    /// [`Drop::TxLength`] if no IP packet can hold it.
    #[inline]
    pub fn new(v6: bool, length: usize, mtu: usize, dont_fragment: bool) -> Result<Self, Drop> {
        let header = if v6 { IPV6_LEN } else { IPV4_LEN };
        if header + length <= mtu && length <= 65535 - if v6 { 0 } else { IPV4_LEN } {
            return Ok(Self { at: 0, length, step: length, done: false });
        }
        let header = if v6 { IPV6_LEN + FRAGMENT_LEN } else { IPV4_LEN };
        if length > 65535 - if v6 { 0 } else { IPV4_LEN } {
            return Err(Drop::TxLength);
        }
        if dont_fragment || mtu < header + 8 {
            return Err(Drop::TxTooBig);
        }
        Ok(Self { at: 0, length, step: (mtu - header) & !7, done: false })
    }

    /// Whether there is more than one piece.
    #[inline]
    pub const fn is_fragmented(&self) -> bool {
        self.length > self.step
    }
}

impl Iterator for Pieces {
    type Item = Piece;

    #[inline]
    fn next(&mut self) -> Option<Piece> {
        if self.done {
            return None;
        }
        let offset = self.at;
        let len = self.step.min(self.length - offset);
        self.at += len;
        self.done = self.at >= self.length;
        Some(Piece { offset, len, more: !self.done })
    }
}

/// Source of identifications, one for each worker.
///
/// RFC 7739 5.3: counter of a bucket plus a secret hash of the addresses, so that a peer learns nothing about other
/// flows' numbers except rarely by sharing a bucket; RFC 6864: IPv4 numbers do not repeat for a pair of addresses
/// before 65536 fragmentable datagrams went out in its bucket.
#[derive(Clone, Debug)]
pub struct Ids {
    key: Key,
    counters: Box<[u32; 256]>,
}

impl Ids {
    /// With a secret `key`.
    pub fn new(key: Key) -> Self {
        Self { key, counters: Box::new([0; 256]) }
    }

    /// The next identification for datagrams from `src` to `dst`. IPv4 takes the low 16 bits.
    #[inline]
    pub fn next(&mut self, src: &Address, dst: &Address) -> u32 {
        let hash = self.key.hash(src, dst, 0x1d);
        let Some(counter) = self.counters.get_mut(place(hash, 0xff)) else { return 0 };
        *counter = counter.wrapping_add(1);
        low32(hash >> 32).wrapping_add(*counter)
    }
}

/// Cuts an IP packet into smaller IP packets.
///
/// IPv4: an unfragmented packet or a fragment; options without the copied flag go with the first piece only
/// (RFC 791 3.1), the others keep their place. IPv6: an unfragmented packet; hop-by-hop options and a routing
/// header with what stands before it are repeated in each piece (RFC 8200 4.5).
#[derive(Debug)]
pub struct Refragment<'a> {
    packet: &'a [u8],
    v6: bool,
    /// End of what is repeated in every piece.
    unfragmentable: usize,
    /// Offset of the byte that will announce the fragment header (IPv6).
    announced_at: usize,
    id: u32,
    end: usize,
    at: usize,
    step: usize,
    /// Of a packet that was a fragment already.
    base: usize,
    last_more: bool,
}

impl<'a> Refragment<'a> {
    /// Prepares to cut `packet`, of which `parsed` is [`super::parse::parse_ip`]'s view, for `mtu`. `id` is used
    /// for IPv6; IPv4 keeps the packet's.
    ///
    /// # Errors
    /// [`Drop::TxTooBig`]: Don't Fragment is set, an IPv6 packet is a fragment already, or the MTU holds no data.
    pub fn new(packet: &'a [u8], parsed: &Packet, mtu: usize, id: u32) -> Result<Self, Drop> {
        let packet = packet.get(..parsed.end).ok_or(Drop::TxMalformed)?;
        let (unfragmentable, announced_at, extra) = if parsed.v6 {
            if parsed.fragment.is_some() {
                return Err(Drop::TxTooBig);
            }
            let (end, at) = unfragmentable_v6(packet)?;
            (end, at, FRAGMENT_LEN)
        } else {
            if packet.get(6).ok_or(Drop::TxMalformed)? & 0x40 != 0 {
                return Err(Drop::TxTooBig);
            }
            (parsed.l4, 0, 0)
        };
        let step = mtu.saturating_sub(unfragmentable + extra) & !7;
        if step == 0 || unfragmentable > packet.len() {
            return Err(Drop::TxTooBig);
        }
        let (base, last_more) = parsed.fragment.map_or((0, false), |f| (usize::from(f.offset), f.more));
        Ok(Self {
            packet,
            v6: parsed.v6,
            unfragmentable,
            announced_at,
            id,
            end: parsed.end,
            at: unfragmentable,
            step,
            base,
            last_more,
        })
    }

    /// Writes the next piece, a whole IP packet, to the front of `out`; its length, or `None` after the last.
    ///
    /// # Errors
    /// [`Drop::TxLength`] if `out` is too small; the piece is then lost.
    pub fn write_next(&mut self, out: &mut [u8]) -> Option<Result<usize, Drop>> {
        if self.at >= self.end {
            return None;
        }
        let from = self.at;
        let len = self.step.min(self.end - from);
        self.at += len;
        let more = self.at < self.end || self.last_more;
        let offset = self.base + from - self.unfragmentable;
        Some(self.write(out, from, len, offset, more).ok_or(Drop::TxLength))
    }

    fn write(&self, out: &mut [u8], from: usize, len: usize, offset: usize, more: bool) -> Option<usize> {
        let n = self.unfragmentable;
        out.get_mut(..n)?.copy_from_slice(self.packet.get(..n)?);
        let data = self.packet.get(from..from + len)?;
        let head = if self.v6 {
            *out.get_mut(self.announced_at)? = next::FRAGMENT;
            let protocol = *self.packet.get(self.announced_at)?;
            let [w0, w1] = (low16(offset) | u16::from(more)).to_be_bytes();
            let [i0, i1, i2, i3] = self.id.to_be_bytes();
            *out.get_mut(n..)?.first_chunk_mut::<8>()? = [protocol, 0, w0, w1, i0, i1, i2, i3];
            let payload = low16(n + FRAGMENT_LEN + len - IPV6_LEN);
            *out.get_mut(4..)?.first_chunk_mut::<2>()? = payload.to_be_bytes();
            n + FRAGMENT_LEN
        } else {
            let header = out.get_mut(..n)?;
            *header.get_mut(2..)?.first_chunk_mut::<2>()? = low16(n + len).to_be_bytes();
            let word = low16(offset / 8) | if more { 0x2000 } else { 0 };
            *header.get_mut(6..)?.first_chunk_mut::<2>()? = word.to_be_bytes();
            if from != self.unfragmentable {
                blank_uncopied(header.get_mut(20..)?);
            }
            *header.get_mut(10..)?.first_chunk_mut::<2>()? = [0, 0];
            let sum = checksum::finish(checksum::sum(header));
            *header.get_mut(10..)?.first_chunk_mut::<2>()? = sum;
            n
        };
        out.get_mut(head..head + len)?.copy_from_slice(data);
        Some(head + len)
    }
}

/// Turns options without the copied flag into no-operations.
fn blank_uncopied(mut options: &mut [u8]) {
    while let Some(&kind) = options.first() {
        let length = match kind {
            0 => return,
            1 => 1,
            _ => usize::from(options.get(1).copied().unwrap_or(0)),
        };
        if length == 0 || length > options.len() {
            return;
        }
        let (option, rest) = options.split_at_mut(length);
        if kind & 0x80 == 0 {
            option.fill(1);
        }
        options = rest;
    }
}

/// End of the unfragmentable part and the place of the byte that announces what follows it.
fn unfragmentable_v6(packet: &[u8]) -> Result<(usize, usize), Drop> {
    let (mut end, mut announced_at) = (IPV6_LEN, 6);
    let (mut at, mut from) = (IPV6_LEN, 6);
    // At most the headers that `extension::walk` has accepted.
    for _ in 0..super::extension::MAX_HEADERS {
        let kind = *packet.get(from).ok_or(Drop::TxMalformed)?;
        if !matches!(kind, next::HOP_BY_HOP | next::DESTINATION | next::ROUTING) {
            break;
        }
        let length = usize::from(*packet.get(at + 1).ok_or(Drop::TxMalformed)?) * 8 + 8;
        (at, from) = (at + length, at);
        if kind != next::DESTINATION {
            (end, announced_at) = (at, from);
        }
    }
    Ok((end, announced_at))
}

#[cfg(test)]
mod tests;
