//! Next hops: what a worker asks and what control answers.
//!
//! A worker that has no answer for a [`RouteKey`] keeps the datagram in a small bounded queue and sends
//! [`crate::Event::Resolve`]; control looks at its mirror of the kernel's FIB and neighbour tables and calls
//! [`crate::Dataplane::route_reply`]. Answers are cached by the workers until
//! [`crate::Dataplane::flush_routes`].

use std::net::IpAddr;

use afnet_abi::vlan::Vlan;

/// What is to be routed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RouteKey {
    /// The sending compartment.
    pub slot: u32,
    /// Destination.
    pub dst: IpAddr,
    /// Source that the tenant chose (it owns it); `None`: to be chosen by RFC 6724 within the compartment.
    pub src: Option<IpAddr>,
    /// Device that the tenant asked for; 0: any.
    pub ifindex: u32,
    /// VLAN that the tenant asked for; meaningful with `ifindex` only.
    pub vlan: Vlan,
}

/// Where it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// Out of a device.
    Wire {
        /// The device.
        ifindex: u32,
        /// Tags of the realm.
        vlan: Vlan,
        /// Our MAC address there.
        src_mac: [u8; 6],
        /// The next hop's (for multicast and broadcast: the mapped) MAC address.
        dst_mac: [u8; 6],
        /// Path MTU in bytes, IP header included.
        mtu: u32,
        /// The chosen source, or the preferred one if the key has none.
        src: IpAddr,
    },
    /// Out of a device in a realm where the kernel has no interface: the worker fills in the MAC address that it
    /// learned from frames which this compartment received from the destination. Not learned yet: unreachable.
    Learn {
        /// The device.
        ifindex: u32,
        /// Tags of the realm.
        vlan: Vlan,
        /// Our MAC address there.
        src_mac: [u8; 6],
        /// MTU in bytes, IP header included.
        mtu: u32,
        /// As in [`Route::Wire`].
        src: IpAddr,
    },
    /// To another (or the same) compartment of this host, ring to ring.
    Local {
        /// The compartment that owns the destination.
        slot: u32,
        /// As in [`Route::Wire`].
        src: IpAddr,
    },
    /// To the host itself, over the host link.
    Host {
        /// As in [`Route::Wire`].
        src: IpAddr,
    },
    /// The kernel is resolving the neighbour; an answer will follow. What waits keeps waiting, bounded in time.
    Pending,
    /// No way. What waits is dropped and the tenant hears of it.
    Unreachable {
        /// errno as the kernel would give it: EHOSTUNREACH, ENETUNREACH, EADDRNOTAVAIL ...
        errno: i32,
    },
}
