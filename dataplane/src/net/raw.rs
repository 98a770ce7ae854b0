//! What a `raw` tenant may send: checked on the worker's own copy, before it leaves.
//!
//! The packet must be well formed (as strict as for received ones), its source must be the compartment's, and it
//! must not speak for the host: IGMP, MLD, neighbour discovery, redirects and router discovery are central
//! (a tenant that could send them could take other tenants' addresses or groups).

#![deny(unsafe_code)]

use super::{
    Address, Drop, extension, is_multicast,
    parse::{Packet, parse_ip},
    protocol,
};

/// Checks `packet`, one IP packet. `owned` says whether the compartment may send from an address. The view that
/// comes back holds what routing needs; `end` is the packet's length: bytes behind it are not to be sent.
///
/// # Errors
/// [`Drop::TxMalformed`], [`Drop::TxSource`], [`Drop::TxProtocol`].
pub fn validate(packet: &[u8], owned: impl FnOnce(&Address) -> bool) -> Result<Packet, Drop> {
    let parsed = parse_ip(packet).map_err(|_| Drop::TxMalformed)?;
    if !owned(&parsed.src) || is_multicast(&parsed.src) {
        return Err(Drop::TxSource);
    }
    let data = packet.get(parsed.l4..parsed.end).ok_or(Drop::TxMalformed)?;
    let first = parsed.fragment.is_none_or(|f| f.offset == 0);
    match (parsed.v6, parsed.protocol) {
        (_, protocol::IGMP) => Err(Drop::TxProtocol),
        // ICMP in the other family's packet: no receiver reads it, and nobody has checked what it would mean.
        (true, protocol::ICMP) | (false, protocol::ICMPV6) => Err(Drop::TxProtocol),
        (false, protocol::ICMP) if first => match data.first() {
            Some(&kind) if !v4_control(kind) => Ok(parsed),
            _ => Err(Drop::TxProtocol),
        },
        (true, protocol::ICMPV6) if first => match data.first() {
            Some(&kind) if !v6_control(kind) => Ok(parsed),
            _ => Err(Drop::TxProtocol),
        },
        // A chain that goes on inside of fragments could hide what it carries (RFC 7112 1).
        (true, next) if parsed.fragment.is_some() && extension::is_extension(next) => Err(Drop::TxProtocol),
        // Encrypted or authenticated payloads are the tenant's own affair; an AH in clear text was walked.
        _ => Ok(parsed),
    }
}

/// Redirect; router advertisement and solicitation (RFC 1256).
const fn v4_control(kind: u8) -> bool {
    matches!(kind, 5 | 9 | 10)
}

/// MLD 130-132 and 143, ND 133-137, router renumbering 138, inverse ND 141-142, SEND 148-149, multicast router
/// discovery 151-153, duplicate address messages 157-158.
const fn v6_control(kind: u8) -> bool {
    matches!(kind, 130..=138 | 141..=143 | 148 | 149 | 151..=153 | 157 | 158)
}

#[cfg(test)]
mod tests;
