//! Socket options. The kernel's socket is where they live; what the fast path needs of them is copied, and read anew
//! after each change.
//!
//! | option | on the fast path |
//! |---|---|
//! | known to [`KNOWN`] | followed, or of no matter there |
//! | one of [`OBSTACLES`], set | the socket goes back to the kernel, with the option's name as the reason |
//! | any other | likewise: who knows what it does |

use core::{ffi::c_void, sync::atomic::Ordering};

use libc::{
    IPPROTO_IP, IPPROTO_IPV6, IPPROTO_UDP, SO_RCVTIMEO, SO_SNDTIMEO, SOL_SOCKET, c_int, socklen_t, timeval,
};

use crate::{
    real,
    shared::{Shared, wants},
    sys::len_of,
};

// What the libc crate has not: linux/in.h, linux/in6.h, linux/udp.h, asm-generic/socket.h.
const IP_CHECKSUM: c_int = 23;
const IP_LOCAL_PORT_RANGE: c_int = 51;
const IPV6_ADDR_PREFERENCES: c_int = 72;
const IPV6_RECVERR_RFC4884: c_int = 31;
const IP_RECVERR_RFC4884: c_int = 26;
const UDP_CORK: c_int = 1;
const UDP_SEGMENT: c_int = 103;
const UDP_GRO: c_int = 104;
const SO_TIMESTAMP_NEW: c_int = 63;
const SO_TIMESTAMPNS_NEW: c_int = 64;
const SO_TIMESTAMPING_NEW: c_int = 65;
const SO_RCVTIMEO_NEW: c_int = 66;
const SO_SNDTIMEO_NEW: c_int = 67;
const SO_RESERVE_MEM: c_int = 73;
const SO_TXREHASH: c_int = 74;
/// `SOF_TIMESTAMPING_*`: report software stamps of what is received; nothing of what is sent, nothing of hardware.
pub(crate) const STAMPING_FOLLOWED: c_int = 1 << 3 | 1 << 4;

/// Options that leave a socket on the fast path: they are read below, or concern the kernel's socket alone.
const KNOWN: &[(c_int, &[c_int])] = &[
    (
        SOL_SOCKET,
        &[
            libc::SO_DEBUG,
            libc::SO_REUSEADDR,
            libc::SO_REUSEPORT,
            libc::SO_BROADCAST,
            libc::SO_DONTROUTE,
            libc::SO_SNDBUF,
            libc::SO_RCVBUF,
            libc::SO_SNDBUFFORCE,
            libc::SO_RCVBUFFORCE,
            libc::SO_KEEPALIVE,
            libc::SO_OOBINLINE,
            libc::SO_PRIORITY,
            libc::SO_LINGER,
            libc::SO_PASSCRED,
            libc::SO_RCVLOWAT,
            libc::SO_SNDLOWAT,
            SO_RCVTIMEO,
            SO_SNDTIMEO,
            SO_RCVTIMEO_NEW,
            SO_SNDTIMEO_NEW,
            libc::SO_TIMESTAMP,
            libc::SO_TIMESTAMPNS,
            libc::SO_TIMESTAMPING,
            SO_TIMESTAMP_NEW,
            SO_TIMESTAMPNS_NEW,
            SO_TIMESTAMPING_NEW,
            libc::SO_DETACH_FILTER,
            libc::SO_NO_CHECK,
            libc::SO_RXQ_OVFL,
            libc::SO_WIFI_STATUS,
            libc::SO_SELECT_ERR_QUEUE,
            libc::SO_BUSY_POLL,
            libc::SO_INCOMING_CPU,
            libc::SO_ZEROCOPY,
            SO_RESERVE_MEM,
            SO_TXREHASH,
        ],
    ),
    (
        IPPROTO_IP,
        &[
            libc::IP_TOS,
            libc::IP_TTL,
            libc::IP_PKTINFO,
            libc::IP_MTU_DISCOVER,
            libc::IP_RECVERR,
            libc::IP_RECVTTL,
            libc::IP_RECVTOS,
            libc::IP_FREEBIND,
            libc::IP_ORIGDSTADDR,
            libc::IP_BIND_ADDRESS_NO_PORT,
            libc::IP_MULTICAST_IF,
            libc::IP_MULTICAST_TTL,
            libc::IP_MULTICAST_LOOP,
            libc::IP_ADD_MEMBERSHIP,
            libc::IP_DROP_MEMBERSHIP,
            libc::IP_UNBLOCK_SOURCE,
            libc::IP_BLOCK_SOURCE,
            libc::IP_ADD_SOURCE_MEMBERSHIP,
            libc::IP_DROP_SOURCE_MEMBERSHIP,
            libc::IP_MSFILTER,
            libc::MCAST_JOIN_GROUP,
            libc::MCAST_BLOCK_SOURCE,
            libc::MCAST_UNBLOCK_SOURCE,
            libc::MCAST_LEAVE_GROUP,
            libc::MCAST_JOIN_SOURCE_GROUP,
            libc::MCAST_LEAVE_SOURCE_GROUP,
            libc::MCAST_MSFILTER,
            libc::IP_MULTICAST_ALL,
            libc::IP_UNICAST_IF,
            IP_CHECKSUM,
            IP_LOCAL_PORT_RANGE,
            IP_RECVERR_RFC4884,
        ],
    ),
    (
        IPPROTO_IPV6,
        &[
            libc::IPV6_UNICAST_HOPS,
            libc::IPV6_MULTICAST_IF,
            libc::IPV6_MULTICAST_HOPS,
            libc::IPV6_MULTICAST_LOOP,
            libc::IPV6_ADD_MEMBERSHIP,
            libc::IPV6_DROP_MEMBERSHIP,
            libc::IPV6_MTU_DISCOVER,
            libc::IPV6_RECVERR,
            libc::IPV6_V6ONLY,
            libc::IPV6_JOIN_ANYCAST,
            libc::IPV6_LEAVE_ANYCAST,
            libc::IPV6_MULTICAST_ALL,
            libc::IPV6_RECVPKTINFO,
            libc::IPV6_RECVHOPLIMIT,
            libc::IPV6_RECVTCLASS,
            libc::IPV6_TCLASS,
            libc::IPV6_DONTFRAG,
            libc::IPV6_FREEBIND,
            libc::IPV6_ORIGDSTADDR,
            libc::IPV6_UNICAST_IF,
            libc::MCAST_JOIN_GROUP,
            libc::MCAST_BLOCK_SOURCE,
            libc::MCAST_UNBLOCK_SOURCE,
            libc::MCAST_LEAVE_GROUP,
            libc::MCAST_JOIN_SOURCE_GROUP,
            libc::MCAST_LEAVE_SOURCE_GROUP,
            libc::MCAST_MSFILTER,
            libc::IPV6_AUTOFLOWLABEL,
            IPV6_ADDR_PREFERENCES,
            IPV6_RECVERR_RFC4884,
        ],
    ),
    (IPPROTO_UDP, &[UDP_SEGMENT, UDP_GRO]),
];

/// Numbers that keep a socket with the kernel, and what they are called.
const OBSTACLES: &[(c_int, c_int, &str)] = &[
    (SOL_SOCKET, libc::SO_MARK, "SO_MARK"),
    (SOL_SOCKET, libc::SO_LOCK_FILTER, "SO_LOCK_FILTER"),
    (IPPROTO_UDP, UDP_CORK, "UDP_CORK"),
    (IPPROTO_UDP, libc::UDP_ENCAP, "UDP_ENCAP"),
    (IPPROTO_IP, libc::IP_MINTTL, "IP_MINTTL"),
    (IPPROTO_IP, libc::IP_TRANSPARENT, "IP_TRANSPARENT"),
    (IPPROTO_IPV6, libc::IPV6_TRANSPARENT, "IPV6_TRANSPARENT"),
    (IPPROTO_IPV6, libc::IPV6_MINHOPCOUNT, "IPV6_MINHOPCOUNT"),
];

/// The number that an option has.
pub(crate) fn number(fd: c_int, level: c_int, name: c_int) -> Option<c_int> {
    let mut value: c_int = 0;
    let mut len = len_of::<c_int>();
    // SAFETY: room for an int, and its length.
    let result = unsafe { real::getsockopt(fd, level, name, (&raw mut value).cast(), &raw mut len) };
    (result == 0 && len == len_of::<c_int>()).then_some(value)
}

/// Name of an option of a socket that the fast path cannot follow.
pub(crate) fn obstacle(fd: c_int) -> Option<&'static str> {
    let set = |&&(level, name, _): &&(c_int, c_int, &str)| number(fd, level, name).is_some_and(|n| n != 0);
    let numbered = OBSTACLES.iter().find(set).map(|o| o.2);
    let stamping = number(fd, SOL_SOCKET, libc::SO_TIMESTAMPING).unwrap_or(0);
    let device = || {
        let (mut device, mut len) = ([0u8; 16], 16);
        // SAFETY: room for a name, and its length.
        let result = unsafe {
            real::getsockopt(fd, SOL_SOCKET, libc::SO_BINDTODEVICE, device.as_mut_ptr().cast(), &raw mut len)
        };
        (result == 0 && len > 1).then_some("SO_BINDTODEVICE")
    };
    let stamps = (stamping & !STAMPING_FOLLOWED & 0xffff != 0).then_some("SO_TIMESTAMPING");
    numbered.or(stamps).or_else(device)
}

/// What a change of an option means: `Some`: it cannot be followed, for this reason.
pub(crate) fn changed(fd: c_int, shared: &Shared, level: c_int, name: c_int) -> Option<String> {
    let known = KNOWN.iter().any(|(l, names)| *l == level && names.contains(&name));
    let listed = OBSTACLES.iter().find(|o| (o.0, o.1) == (level, name));
    if !known && listed.is_none() {
        return Some(format!("socket option {name} of level {level}"));
    }
    if let Some(name) = obstacle(fd) {
        return Some(name.to_owned());
    }
    load(fd, shared);
    None
}

/// Reads all that the fast path needs to know.
pub(crate) fn load(fd: c_int, shared: &Shared) {
    let options = &shared.options;
    let is_v6 = shared.family.load(Ordering::Relaxed) == libc::AF_INET6;
    let mut wanted = 0;
    let on = |level, name| number(fd, level, name).is_some_and(|n| n != 0);
    let mut want = |is: bool, bit: u32| wanted |= if is { bit } else { 0 };
    want(on(IPPROTO_IP, libc::IP_PKTINFO), wants::PKTINFO);
    want(on(IPPROTO_IP, libc::IP_RECVTTL), wants::TTL);
    want(on(IPPROTO_IP, libc::IP_RECVTOS), wants::TOS);
    want(on(IPPROTO_IP, libc::IP_ORIGDSTADDR), wants::ORIGDST);
    want(on(IPPROTO_IP, libc::IP_RECVERR), wants::RECVERR);
    let discover = number(fd, IPPROTO_IP, libc::IP_MTU_DISCOVER).unwrap_or(libc::IP_PMTUDISC_WANT);
    want(matches!(discover, libc::IP_PMTUDISC_DO | libc::IP_PMTUDISC_PROBE), wants::DF);
    want(discover == libc::IP_PMTUDISC_DONT, wants::FRAGMENT);
    if is_v6 {
        want(on(IPPROTO_IPV6, libc::IPV6_V6ONLY), wants::SIX_ONLY);
        want(on(IPPROTO_IPV6, libc::IPV6_RECVPKTINFO), wants::PKTINFO6);
        want(on(IPPROTO_IPV6, libc::IPV6_RECVHOPLIMIT), wants::HOPLIMIT);
        want(on(IPPROTO_IPV6, libc::IPV6_RECVTCLASS), wants::TCLASS);
        want(on(IPPROTO_IPV6, libc::IPV6_ORIGDSTADDR), wants::ORIGDST6);
        want(on(IPPROTO_IPV6, libc::IPV6_RECVERR), wants::RECVERR6);
        let discover = number(fd, IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER).unwrap_or(libc::IP_PMTUDISC_WANT);
        let whole = matches!(discover, libc::IP_PMTUDISC_DO | libc::IP_PMTUDISC_PROBE);
        want(whole || on(IPPROTO_IPV6, libc::IPV6_DONTFRAG), wants::DF6);
    }
    let nano = on(SOL_SOCKET, libc::SO_TIMESTAMPNS) || on(SOL_SOCKET, SO_TIMESTAMPNS_NEW);
    want(nano, wants::STAMPNS);
    want(!nano && (on(SOL_SOCKET, libc::SO_TIMESTAMP) || on(SOL_SOCKET, SO_TIMESTAMP_NEW)), wants::STAMP);
    let stamping = number(fd, SOL_SOCKET, libc::SO_TIMESTAMPING).unwrap_or(0);
    want(stamping & STAMPING_FOLLOWED == STAMPING_FOLLOWED, wants::STAMPING);
    want(on(IPPROTO_UDP, UDP_GRO), wants::GRO);
    options.wants.store(wanted, Ordering::Relaxed);

    let byte = |level, name| u8::try_from(number(fd, level, name).unwrap_or(0)).unwrap_or(0);
    options.ttl.store(byte(IPPROTO_IP, libc::IP_TTL), Ordering::Relaxed);
    options.tos.store(byte(IPPROTO_IP, libc::IP_TOS), Ordering::Relaxed);
    if is_v6 {
        options.hops.store(byte(IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS), Ordering::Relaxed);
        options.tclass.store(byte(IPPROTO_IPV6, libc::IPV6_TCLASS), Ordering::Relaxed);
    }
    let segment = number(fd, IPPROTO_UDP, UDP_SEGMENT).unwrap_or(0);
    options.segment.store(u16::try_from(segment).unwrap_or(0), Ordering::Relaxed);
    options.receive_timeout.store(timeout(fd, SO_RCVTIMEO), Ordering::Relaxed);
    // SAFETY: no pointer goes along.
    let flags = unsafe { real::fcntl(fd, libc::F_GETFL, 0) };
    options.nonblocking.store(flags & libc::O_NONBLOCK != 0, Ordering::Relaxed);
}

/// SO_RCVTIMEO or SO_SNDTIMEO in nanoseconds, 0: for ever.
pub(crate) fn timeout(fd: c_int, name: c_int) -> u64 {
    let mut value = timeval { tv_sec: 0, tv_usec: 0 };
    let mut len: socklen_t = len_of::<timeval>();
    let to: *mut c_void = (&raw mut value).cast();
    // SAFETY: room for a timeval, and its length.
    if unsafe { real::getsockopt(fd, SOL_SOCKET, name, to, &raw mut len) } != 0 {
        return 0;
    }
    let part = |n: i64| u64::try_from(n).unwrap_or(0);
    part(value.tv_sec).saturating_mul(1_000_000_000).saturating_add(part(value.tv_usec) * 1000)
}
