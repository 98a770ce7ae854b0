//! The chain of IPv6 extension headers (RFC 8200 4), as a receiving end host reads it.
//!
//! Bounds, so that a hostile chain costs little: [`MAX_HEADERS`] headers, [`MAX_LEN`] bytes, [`MAX_OPTIONS`]
//! options in a header (the kernel's default limits are of the same size; RFC 8504 5.3 permits them).

#![deny(unsafe_code)]

use super::{Drop, parse::Fragment};

/// Most extension headers of a packet.
pub const MAX_HEADERS: usize = 8;
/// Most bytes of extension headers of a packet.
pub const MAX_LEN: usize = 512;
/// Most options of one header, padding included.
pub const MAX_OPTIONS: usize = 16;

/// Header numbers (IANA "IPv6 Extension Header Types").
pub mod next {
    /// Hop-by-hop options.
    pub const HOP_BY_HOP: u8 = 0;
    /// Routing.
    pub const ROUTING: u8 = 43;
    /// Fragment.
    pub const FRAGMENT: u8 = 44;
    /// Authentication.
    pub const AUTHENTICATION: u8 = 51;
    /// Destination options.
    pub const DESTINATION: u8 = 60;
}

/// Whether `n` names a header that [`walk`] steps over.
pub const fn is_extension(n: u8) -> bool {
    matches!(n, next::HOP_BY_HOP | next::ROUTING | next::FRAGMENT | next::AUTHENTICATION | next::DESTINATION)
}

/// Where a chain ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chain {
    /// The upper layer, or for a fragment what its header names.
    pub protocol: u8,
    /// Offset behind the chain.
    pub l4: usize,
    /// The chain ended at this fragment header.
    pub fragment: Option<Fragment>,
}

/// Walks the chain that starts at `at` with a header of type `protocol`, announced by the byte at `announced_at`.
/// Headers must lie in `head` and before `end`. Stops behind the header of a fragment that is not atomic.
#[inline]
pub fn walk(
    head: &[u8],
    mut announced_at: usize,
    mut protocol: u8,
    at: usize,
    end: usize,
) -> Result<Chain, Drop> {
    let mut l4 = at;
    let mut count = 0;
    while is_extension(protocol) {
        count += 1;
        if count > MAX_HEADERS || l4 - at > MAX_LEN {
            return Err(Drop::Extension);
        }
        let rest = head.get(l4..).ok_or(Drop::Truncated)?;
        let [next_header, length, b2, b3, b4, b5, b6, b7] =
            *rest.first_chunk::<8>().ok_or(Drop::Truncated)?;
        let length = match protocol {
            next::FRAGMENT => 8,
            next::AUTHENTICATION => usize::from(length) * 4 + 8,
            _ => usize::from(length) * 8 + 8,
        };
        // Checked before options are read; also holds for chains that lie in a first buffer only.
        let header = rest.get(..length).ok_or(Drop::Truncated)?;
        match protocol {
            // Hop-by-hop stands first or nowhere (RFC 8200 4.1).
            next::HOP_BY_HOP if count > 1 => return Err(Drop::Extension),
            next::HOP_BY_HOP | next::DESTINATION => options(header.get(2..).unwrap_or_default())?,
            // We are never the intermediate hop of a source route (RFC 8200 4.4, RFC 5095).
            next::ROUTING if b3 != 0 => return Err(Drop::SourceRoute),
            next::FRAGMENT => {
                let word = u16::from_be_bytes([b2, b3]);
                if word & 0xfff9 != 0 {
                    let fragment = Fragment {
                        id: u32::from_be_bytes([b4, b5, b6, b7]),
                        offset: word & 0xfff8,
                        more: word & 1 != 0,
                        header: l4,
                        announced_at,
                    };
                    let l4 = l4 + length;
                    if l4 > end {
                        return Err(Drop::IpLength);
                    }
                    return Ok(Chain { protocol: next_header, l4, fragment: Some(fragment) });
                }
            }
            _ => {}
        }
        announced_at = l4;
        protocol = next_header;
        l4 += length;
    }
    if l4 > end {
        return Err(Drop::IpLength);
    }
    Ok(Chain { protocol, l4, fragment: None })
}

/// Options that a receiver does not know are skipped or refused by their two highest bits (RFC 8200 4.2). Of those
/// that it might know: Router Alert (5, RFC 2711) is skipped; Jumbo Payload (0xc2) says discard by itself.
fn options(mut rest: &[u8]) -> Result<(), Drop> {
    const PAD1: u8 = 0;
    for _ in 0..=MAX_OPTIONS {
        rest = match rest {
            [] => return Ok(()),
            [PAD1, tail @ ..] => tail,
            [kind, _, ..] if kind & 0xc0 != 0 => return Err(Drop::Extension),
            [_, length, tail @ ..] => tail.get(usize::from(*length)..).ok_or(Drop::Extension)?,
            [_] => return Err(Drop::Extension),
        };
    }
    Err(Drop::Extension)
}
