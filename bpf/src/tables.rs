//! The tables of a [`Demux`]: addresses, prefixes, compartments, claims, groups.
//!
//! Each method changes one thing and takes effect with the next frame. What the program needs in more than one
//! place is written in an order that never shows it a claim or prefix which is not there.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem::{self, offset_of},
    net::IpAddr,
    sync::atomic::{AtomicU32, Ordering},
};

use afnet_abi::vlan::Vlan;

use crate::{
    AddressEntry, CompartmentConfig, Demux, Error,
    demux::add,
    skel::{
        c,
        types::{
            self, afnet_address, afnet_claim, afnet_compartment, afnet_key4, afnet_key6, afnet_prefix4,
            afnet_prefix6,
        },
    },
};

const UDP: u8 = 17;

/// What the daemon's side remembers.
#[derive(Debug, Default)]
pub(crate) struct Slots {
    /// Compartments that were ever set, or had an address or a claim.
    pub used: BTreeMap<u32, Slot>,
    /// Counters of compartments that were cleared.
    pub retired: Vec<u64>,
    /// Delegated prefixes: VLAN, first address, length.
    prefixes: BTreeSet<(u32, IpAddr, u8)>,
}

/// One compartment.
#[derive(Debug, Default)]
pub(crate) struct Slot {
    config: CompartmentConfig,
    /// Pieces of claims: shift, first port.
    claims: BTreeSet<(u8, u16)>,
}

impl Slot {
    /// The value for the program.
    fn entry(&self) -> afnet_compartment {
        let CompartmentConfig { rate_pps, burst, raw } = self.config;
        let (mut interval, mut tolerance) = (0, 0);
        if rate_pps != 0 {
            let burst = if burst == 0 { (rate_pps / 10).max(1) } else { burst };
            interval = (1_000_000_000 / u64::from(rate_pps)).max(1);
            tolerance = interval * u64::from(burst - 1);
        }
        let shifts = self.claims.iter().fold(0, |shifts, (shift, _)| shifts | 1 << shift);
        let mut single = self.claims.iter().filter(|(shift, _)| *shift == 0).map(|(_, port)| *port);
        let ports = [(); c::PORTS as usize].map(|()| single.next().unwrap_or(0));
        afnet_compartment { flags: if raw { c::RAW } else { 0 }, shifts, ports, interval, tolerance }
    }
}

impl From<AddressEntry> for afnet_address {
    fn from(e: AddressEntry) -> Self {
        let flag = |on, bit| if on { bit } else { 0 };
        Self { slot: e.slot, flags: flag(e.tentative, c::TENTATIVE) | flag(e.fast_only, c::FAST_ONLY) }
    }
}

fn key4(vlan: Vlan, addr: std::net::Ipv4Addr) -> afnet_key4 {
    afnet_key4 { vlan: vlan.raw(), addr: u32::from_ne_bytes(addr.octets()) }
}

fn key6(vlan: Vlan, addr: std::net::Ipv6Addr) -> afnet_key6 {
    let octets = addr.octets();
    let words = octets.as_chunks().0;
    afnet_key6 { vlan: vlan.raw(), addr: std::array::from_fn(|i| u32::from_ne_bytes(words[i])) }
}

impl Demux {
    /// Gives an address to a compartment, or changes its entry.
    pub fn insert_address(&self, vlan: Vlan, addr: IpAddr, e: AddressEntry) -> Result<(), Error> {
        self.check_slot(e.slot)?;
        self.slots.borrow_mut().used.entry(e.slot).or_default();
        match addr.to_canonical() {
            IpAddr::V4(a) => self.maps.addresses4.insert(&key4(vlan, a), &e.into()),
            IpAddr::V6(a) => self.maps.addresses6.insert(&key6(vlan, a), &e.into()),
        }
    }

    /// Takes an address back.
    pub fn remove_address(&self, vlan: Vlan, addr: IpAddr) -> Result<(), Error> {
        let there = match addr.to_canonical() {
            IpAddr::V4(a) => self.maps.addresses4.remove(&key4(vlan, a))?,
            IpAddr::V6(a) => self.maps.addresses6.remove(&key6(vlan, a))?,
        };
        if there { Ok(()) } else { Err(Error::NoAddress { addr, vlan }) }
    }

    /// Gives all addresses of a prefix to a compartment, but for those that have an entry of their own or a
    /// longer prefix.
    pub fn insert_prefix(&self, vlan: Vlan, addr: IpAddr, len: u8, e: AddressEntry) -> Result<(), Error> {
        self.check_slot(e.slot)?;
        check_prefix(addr, len)?;
        let mut slots = self.slots.borrow_mut();
        slots.used.entry(e.slot).or_default();
        let key = (vlan.raw(), addr, len);
        let fresh = slots.prefixes.insert(key);
        self.announce_prefixes(&slots);
        let written = match addr {
            IpAddr::V4(a) => {
                let key = afnet_prefix4 { len: 32 + u32::from(len), key: key4(vlan, a) };
                self.maps.prefixes4.insert(&key, &e.into())
            }
            IpAddr::V6(a) => {
                let key = afnet_prefix6 { len: 32 + u32::from(len), key: key6(vlan, a) };
                self.maps.prefixes6.insert(&key, &e.into())
            }
        };
        if written.is_err() && fresh {
            slots.prefixes.remove(&key);
            self.announce_prefixes(&slots);
        }
        written
    }

    /// Takes a prefix back.
    pub fn remove_prefix(&self, vlan: Vlan, addr: IpAddr, len: u8) -> Result<(), Error> {
        check_prefix(addr, len)?;
        let there = match addr {
            IpAddr::V4(a) => {
                let key = afnet_prefix4 { len: 32 + u32::from(len), key: key4(vlan, a) };
                self.maps.prefixes4.remove(&key)?
            }
            IpAddr::V6(a) => {
                let key = afnet_prefix6 { len: 32 + u32::from(len), key: key6(vlan, a) };
                self.maps.prefixes6.remove(&key)?
            }
        };
        let mut slots = self.slots.borrow_mut();
        slots.prefixes.remove(&(vlan.raw(), addr, len));
        self.announce_prefixes(&slots);
        if there { Ok(()) } else { Err(Error::NoAddress { addr, vlan }) }
    }

    /// Sets what a compartment may do. Its claims stay.
    pub fn set_compartment(&self, slot: u32, config: CompartmentConfig) -> Result<(), Error> {
        self.check_slot(slot)?;
        let mut slots = self.slots.borrow_mut();
        let state = slots.used.entry(slot).or_default();
        state.config = config;
        self.maps.compartments.insert(&slot, &state.entry())
    }

    /// Forgets a compartment: its claims, limits and counters. Its addresses are the caller's to remove.
    pub fn clear_compartment(&self, slot: u32) -> Result<(), Error> {
        self.check_slot(slot)?;
        let mut slots = self.slots.borrow_mut();
        // The slot stays in the books: addresses that still name it go on counting.
        let state = mem::take(slots.used.entry(slot).or_default());
        self.maps.compartments.insert(&slot, &afnet_compartment::default())?;
        for (shift, port) in state.claims {
            self.maps.claims.remove(&afnet_claim { slot, port, protocol: UDP, shift })?;
        }
        self.maps.buckets.insert(&slot, &0)?;
        let counters = self.compartment_counters(slot)?;
        slots.retired.resize(counters.len(), 0);
        add(&mut slots.retired, &counters);
        self.maps.counts.set_percpu(&slot, &types::afnet_compartment_counters::default())
    }

    /// Claims `count` UDP ports from `first` on for the fast path. Claims are a set: claiming a port twice is
    /// as good as once, and one `remove_claim` takes it back. Blocks must be removed as they were inserted.
    pub fn insert_claim(&self, slot: u32, protocol: u8, first: u16, count: u16) -> Result<(), Error> {
        self.check_slot(slot)?;
        let pieces = pieces(protocol, first, count)?;
        let mut slots = self.slots.borrow_mut();
        let state = slots.used.entry(slot).or_default();
        for (i, &(shift, port)) in pieces.iter().enumerate() {
            if let Err(e) = self.maps.claims.insert(&afnet_claim { slot, port, protocol, shift }, &1) {
                // Leave nothing of the block behind, but what other claims put there.
                for &(shift, port) in pieces[..i].iter().filter(|piece| !state.claims.contains(piece)) {
                    self.maps.claims.remove(&afnet_claim { slot, port, protocol, shift })?;
                }
                return Err(e);
            }
        }
        state.claims.extend(pieces);
        self.maps.compartments.insert(&slot, &state.entry())
    }

    /// Gives claimed ports back. Nothing happens if they were not claimed.
    pub fn remove_claim(&self, slot: u32, protocol: u8, first: u16, count: u16) -> Result<(), Error> {
        self.check_slot(slot)?;
        let mut slots = self.slots.borrow_mut();
        let state = slots.used.entry(slot).or_default();
        for (shift, port) in pieces(protocol, first, count)? {
            state.claims.remove(&(shift, port));
            self.maps.claims.remove(&afnet_claim { slot, port, protocol, shift })?;
        }
        self.maps.compartments.insert(&slot, &state.entry())
    }

    /// Frames to a group, or to a broadcast address, go to the sockets of slot 0. As good as once if done twice.
    pub fn insert_group(&self, vlan: Vlan, group: IpAddr) -> Result<(), Error> {
        match group {
            IpAddr::V4(a) => self.maps.groups4.insert(&key4(vlan, a), &1),
            IpAddr::V6(a) => self.maps.groups6.insert(&key6(vlan, a), &1),
        }
    }

    /// They go to the kernel again. Nothing happens if they did.
    pub fn remove_group(&self, vlan: Vlan, group: IpAddr) -> Result<(), Error> {
        let removed = match group {
            IpAddr::V4(a) => self.maps.groups4.remove(&key4(vlan, a)),
            IpAddr::V6(a) => self.maps.groups6.remove(&key6(vlan, a)),
        };
        removed.map(|_| ())
    }

    fn check_slot(&self, slot: u32) -> Result<(), Error> {
        if (1..self.limits().compartments).contains(&slot) { Ok(()) } else { Err(Error::Slot(slot)) }
    }

    /// Tells the program how many prefixes there are: with none it saves the look-up.
    fn announce_prefixes(&self, slots: &Slots) {
        let v4 = slots.prefixes.iter().filter(|(_, addr, _)| addr.is_ipv4()).count();
        for (offset, count) in [
            (offset_of!(types::bss, has_prefixes4), v4),
            (offset_of!(types::bss, has_prefixes6), slots.prefixes.len() - v4),
        ] {
            let word: &[AtomicU32] = self.globals().atomics(offset, 1);
            word[0].store(u32::from(count != 0), Ordering::Relaxed);
        }
    }
}

fn check_prefix(addr: IpAddr, len: u8) -> Result<(), Error> {
    let rest = match addr {
        IpAddr::V4(a) if len <= 32 => u128::from(u32::from(a).checked_shl(len.into()).unwrap_or(0)),
        IpAddr::V6(a) if len <= 128 => u128::from(a).checked_shl(len.into()).unwrap_or(0),
        _ => 1,
    };
    if rest == 0 { Ok(()) } else { Err(Error::Prefix { addr, len }) }
}

/// Cuts a block into aligned pieces of 2^shift ports: (shift, first port) each.
fn pieces(protocol: u8, first: u16, count: u16) -> Result<Vec<(u8, u16)>, Error> {
    let (mut at, end) = (u32::from(first), u32::from(first) + u32::from(count));
    if protocol != UDP || count == 0 || end > 1 << 16 {
        return Err(Error::Claim { protocol, first, count });
    }
    let mut pieces = Vec::new();
    while at < end {
        let shift = at.trailing_zeros().min((end - at).ilog2());
        let (Ok(small), Ok(port)) = (u8::try_from(shift), u16::try_from(at)) else {
            return Err(Error::Claim { protocol, first, count });
        };
        pieces.push((small, port));
        at += 1 << shift;
    }
    Ok(pieces)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_the_block_exactly() {
        for (first, count) in
            [(0, 1), (53, 1), (0, 65535), (1, 65535), (1000, 1000), (65535, 1), (32768, 32768), (7, 2)]
        {
            let mut at = u32::from(first);
            for (shift, port) in pieces(UDP, first, count).unwrap() {
                assert_eq!(u32::from(port), at, "{first}+{count}");
                assert_eq!(at % (1 << shift), 0, "aligned");
                at += 1 << shift;
            }
            assert_eq!(at, u32::from(first) + u32::from(count));
        }
        assert!(pieces(UDP, 65535, 2).is_err() && pieces(UDP, 1, 0).is_err() && pieces(6, 1, 1).is_err());
    }

    #[test]
    fn a_prefix_has_no_bits_beyond_its_length() {
        for (text, len, good) in [
            ("192.0.2.0", 24, true),
            ("192.0.2.1", 24, false),
            ("0.0.0.0", 0, true),
            ("192.0.2.1", 32, true),
            ("192.0.2.1", 33, false),
            ("2001:db8::", 32, true),
            ("2001:db8::1", 64, false),
            ("::", 0, true),
            ("2001:db8::1", 128, true),
            ("2001:db8::1", 129, false),
        ] {
            assert_eq!(check_prefix(text.parse().unwrap(), len).is_ok(), good, "{text}/{len}");
        }
    }
}
