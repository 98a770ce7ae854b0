//! Packets as the wire has them: pure functions and bounded tables, no I/O, no clock, no allocation per packet.
//!
//! ```text
//!  RX  frame -> parse -> udp ----------------------> copy_and_sum -> tenant's ring
//!                 |-> reassembly -> parse_ip -> udp --^      (unclaimed: reinjected, see `reassembly`)
//!                 '-> icmp::error -> ErrorInfo
//!  TX  record -> route_cache -> segment / fragment -> copy_and_sum -> build -> frame
//!      raw    -> raw::validate -> route_cache -> fragment::Refragment / build
//! ```
//!
//! | module | what it is |
//! |---|---|
//! | [`drop`] | [`Drop`]: every reason for which this module refuses a packet, one table |
//! | [`parse`] | frame or IP packet -> [`parse::Packet`], [`parse::Udp`] |
//! | [`extension`] | the IPv6 extension header chain, bounded |
//! | [`checksum`] | RFC 1071 sums, copy and sum in one pass (the only unsafe code here) |
//! | [`build`] | Ethernet, VLAN tags, IPv4, IPv6 and UDP headers |
//! | [`fragment`] | cutting datagrams and packets to an MTU, and fragment identifications |
//! | [`segment`] | UDP_SEGMENT: one send, many equal datagrams |
//! | [`reassembly`] | fragments -> datagrams in bounded memory |
//! | [`icmp`] | ICMP errors to `ErrorInfo`; echo replies and errors of our own |
//! | [`raw`] | what a `raw` tenant may send |
//! | [`route_cache`] | bounded cache of control's route answers, and what waits for them |
//! | [`next_hop`] | next hops learned from received frames, where the kernel has no interface |
//! | [`hash`] | keyed hash of the bounded tables |
//!
//! Everything that arrives is hostile: each function checks all it needs, whatever XDP has checked before, and
//! none can panic (`clippy::indexing_slicing`, `unwrap_used` and `panic` are denied). Addresses are 16 bytes in
//! network order, IPv4 as IPv4-mapped (RFC 4291 2.5.5.2), as in `afnet_abi::shm`; a received IPv6 packet that
//! holds an IPv4-mapped address is therefore refused. Times are nanoseconds of any monotonic clock of the
//! caller's. Tables belong to one worker thread each and are not shared.

#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)
)]

pub mod build;
pub mod checksum;
pub mod drop;
pub mod extension;
pub mod fragment;
pub mod hash;
pub mod icmp;
pub mod next_hop;
pub mod parse;
pub mod raw;
pub mod reassembly;
pub mod route_cache;
pub mod segment;
#[cfg(test)]
mod testing;

pub use drop::Drop;
pub(crate) use drop::net_drops;

/// An IPv4 or IPv6 address as the shared memory has it: 16 bytes in network order, IPv4 as IPv4-mapped.
pub type Address = [u8; 16];
/// An Ethernet address.
pub type Mac = [u8; 6];

/// The IPv4-mapped form of `a`. Made of whole words: written bytewise and read as words it would stall.
#[inline]
pub const fn mapped(a: [u8; 4]) -> Address {
    ((u32::from_le_bytes(a) as u128) << 96 | 0xffff << 80).to_le_bytes()
}

/// The IPv4 address in `a`, if it is an IPv4-mapped one.
#[inline]
pub fn v4(a: &Address) -> Option<[u8; 4]> {
    is_v4(a).then(|| bytes(a, 12))
}

/// Whether `a` is an IPv4 (mapped) address.
#[inline]
pub const fn is_v4(a: &Address) -> bool {
    u128::from_le_bytes(*a) << 32 == 0xffff << 112
}

/// Whether `a` is a loopback address: 127.0.0.0/8 or ::1.
#[inline]
pub fn is_loopback(a: &Address) -> bool {
    match v4(a) {
        Some([first, ..]) => first == 127,
        None => u128::from_be_bytes(*a) == 1,
    }
}

/// Whether `a` is a multicast address (or 255.255.255.255).
#[inline]
pub fn is_multicast(a: &Address) -> bool {
    match v4(a) {
        Some([first, rest @ ..]) => first & 0xf0 == 0xe0 || (first == 255 && rest == [255; 3]),
        None => u128::from_be_bytes(*a) >> 120 == 0xff,
    }
}

/// [`Address`] of a standard one.
#[inline]
pub fn from_ip(ip: std::net::IpAddr) -> Address {
    match ip {
        std::net::IpAddr::V4(a) => mapped(a.octets()),
        std::net::IpAddr::V6(a) => a.octets(),
    }
}

/// The standard form of an [`Address`].
#[inline]
pub fn to_ip(a: &Address) -> std::net::IpAddr {
    match v4(a) {
        Some(four) => four.into(),
        None => (*a).into(),
    }
}

/// `N` bytes from `at` on. With a length and a place that the compiler knows this is one load without a check; bytes
/// outside would read as zero.
#[inline(always)]
pub(crate) fn bytes<const N: usize>(from: &[u8], at: usize) -> [u8; N] {
    from.get(at..).and_then(<[u8]>::first_chunk).copied().unwrap_or([0; N])
}

/// Writes `value` to `at`, likewise; nothing outside of `to`.
#[inline(always)]
pub(crate) fn put<const N: usize>(to: &mut [u8], at: usize, value: [u8; N]) {
    if let Some(place) = to.get_mut(at..).and_then(<[u8]>::first_chunk_mut) {
        *place = value;
    }
}

/// The low 16 bits of a length that the caller has bounded.
#[inline]
pub(crate) const fn low16(n: usize) -> u16 {
    let [.., a, b] = n.to_be_bytes();
    u16::from_be_bytes([a, b])
}

/// The low 32 bits.
#[inline]
pub(crate) const fn low32(n: u64) -> u32 {
    let [.., a, b, c, d] = n.to_be_bytes();
    u32::from_be_bytes([a, b, c, d])
}

/// A place in a table of `mask + 1` places (at most 2^32) for a hash.
#[inline]
pub(crate) const fn place(hash: u64, mask: usize) -> usize {
    low32(hash) as usize & mask
}

/// IP protocol numbers used here (IANA "Protocol Numbers").
pub mod protocol {
    /// ICMP for IPv4.
    pub const ICMP: u8 = 1;
    /// IGMP.
    pub const IGMP: u8 = 2;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// ICMP for IPv6.
    pub const ICMPV6: u8 = 58;
    /// UDP-Lite (RFC 3828).
    pub const UDPLITE: u8 = 136;
}
