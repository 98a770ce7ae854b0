//! Where a datagram to some destination goes, and from which address: asked of the kernel once a second, so that a
//! destination without a route, a broadcast or a forbidden one is refused as the kernel refuses it.
//!
//! | destination | way |
//! |---|---|
//! | multicast, broadcast, one that the kernel refuses | the kernel, which does or says what is right |
//! | loopback | the kernel; the rings if all of it shall be accelerated and a socket of this program is there |
//! | what a worker has reported as unreachable | the kernel, for a while |
//! | everything else | the rings, from the address that the kernel would choose |

use core::sync::atomic::{AtomicU64, Ordering};

use libc::{AF_INET, AF_INET6, SOCK_CLOEXEC, SOCK_DGRAM};

use crate::{
    address::{self, Ip, Name, is_group, is_loopback, is_unspecified, is_v4},
    names, options, real, settings, table,
};

/// A power of two. A program that talks to more peers in a second asks more often.
const ENTRIES: usize = 64;
/// How long an answer is believed. Routes change seldom; a tenth would be felt by a program with few peers.
const BELIEVED_NS: u64 = 1_000_000_000;
/// Questions of all sockets in a second: three microseconds each. Beyond that the worker chooses the source, and
/// unreachable destinations are reported late.
const QUESTIONS: u64 = 2000;

/// Sources that are remembered.
const SOURCES: usize = 8;
/// The kernel's loopback interface has this one.
const LOOPBACK_MTU: u32 = 65536;

/// Which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Kernel,
    /// By the rings.
    Ring {
        /// From this address; `::`: the worker chooses.
        source: Ip,
        /// Bytes of the longest packet that gets there whole, as far as the kernel knows.
        mtu: u32,
    },
}

#[derive(Clone, Copy)]
struct Entry {
    ip: Ip,
    source: Ip,
    scope: u32,
    mtu: u32,
    kernel: bool,
    until: u64,
}

/// Answers of the last second. All zero is empty.
pub(crate) struct Known {
    entries: [Entry; ENTRIES],
    /// Sources that the program has named and may use, and until when that is believed.
    sources: [(Ip, u64); SOURCES],
    next_source: usize,
}

impl Known {
    /// The way to a destination of a datagram of this socket, which is bound to `local` (or to all addresses).
    #[inline]
    pub(crate) fn way(&mut self, to: &Name, local: &Ip, now: u64) -> Way {
        if is_group(&to.ip) || is_unspecified(&to.ip) || to.port == 0 {
            return Way::Kernel;
        }
        let bound = !is_unspecified(local);
        if is_loopback(&to.ip) {
            let ring = settings::loopback() && table::hears(to.port) && (!bound || is_loopback(local));
            let source = if bound { *local } else { to.ip };
            return if ring { Way::Ring { source, mtu: LOOPBACK_MTU } } else { Way::Kernel };
        }
        if bound && is_loopback(local) {
            return Way::Kernel;
        }
        let entry = &mut self.entries[slot(&to.ip)];
        if entry.ip != to.ip || entry.scope != to.scope || entry.until < now {
            if !may_ask(now) {
                return Way::Ring { source: *local, mtu: u32::MAX };
            }
            let answer = ask(to);
            let (source, mtu) = answer.unwrap_or_default();
            *entry = Entry {
                ip: to.ip,
                source,
                scope: to.scope,
                mtu,
                kernel: answer.is_none() || is_loopback(&source),
                until: now + BELIEVED_NS,
            };
        }
        match entry.kernel {
            true => Way::Kernel,
            false if bound => Way::Ring { source: *local, mtu: entry.mtu },
            false => Way::Ring { source: entry.source, mtu: entry.mtu },
        }
    }

    /// Whether the program may send from an address that it has named.
    #[inline]
    pub(crate) fn may_be(&mut self, source: &Ip, now: u64) -> bool {
        self.sources.iter().any(|(ip, until)| ip == source && *until >= now) || self.look_up(source, now)
    }

    #[cold]
    fn look_up(&mut self, source: &Ip, now: u64) -> bool {
        let family = if is_v4(source) { AF_INET } else { AF_INET6 };
        let (storage, _) = Name { ip: *source, port: 0, scope: 0 }.sockaddr(family);
        // A link-local one needs its scope to be bound: the kernel judges those.
        // SAFETY: an address of that family.
        let ours = !address::is_link_local(source) && unsafe { names::ours((&raw const storage).cast()) };
        if ours {
            self.sources[self.next_source] = (*source, now + BELIEVED_NS);
            self.next_source = (self.next_source + 1) % SOURCES;
        }
        ours
    }

    /// A worker has no way there.
    pub(crate) fn unreachable(&mut self, ip: &Ip, now: u64) {
        let until = now + 10 * BELIEVED_NS;
        self.entries[slot(ip)] = Entry { ip: *ip, source: [0; 16], scope: 0, mtu: 0, kernel: true, until };
    }
}

#[cfg(test)]
impl Known {
    /// What the kernel would say.
    pub(crate) fn learn(&mut self, ip: &Ip, source: &Ip, until: u64) {
        self.entries[slot(ip)] =
            Entry { ip: *ip, source: *source, scope: 0, mtu: 1500, kernel: false, until };
    }
}

fn slot(ip: &Ip) -> usize {
    let hash = ip.iter().fold(0u32, |h, b| (h ^ u32::from(*b)).wrapping_mul(0x0100_0193));
    (hash >> 16) as usize % ENTRIES
}

/// Whether this second has questions left.
fn may_ask(now: u64) -> bool {
    static SECOND: AtomicU64 = AtomicU64::new(0);
    static ASKED: AtomicU64 = AtomicU64::new(0);
    let second = now / BELIEVED_NS;
    if SECOND.swap(second, Ordering::Relaxed) != second {
        ASKED.store(0, Ordering::Relaxed);
    }
    ASKED.fetch_add(1, Ordering::Relaxed) < QUESTIONS
}

/// The address that the kernel would send from, and the path's MTU; `None`: it would not.
fn ask(to: &Name) -> Option<(Ip, u32)> {
    let family = if is_v4(&to.ip) { AF_INET } else { AF_INET6 };
    // SAFETY: plain numbers.
    let fd = unsafe { real::socket(family, SOCK_DGRAM | SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return None;
    }
    let (storage, len) = to.sockaddr(family);
    // SAFETY: `len` bytes of it are there.
    let connected = unsafe { real::connect(fd, (&raw const storage).cast(), len) } == 0;
    let source = if connected { address::ask(fd, false) } else { None };
    let (level, name) = if family == AF_INET {
        (libc::IPPROTO_IP, libc::IP_MTU)
    } else {
        (libc::IPPROTO_IPV6, libc::IPV6_MTU)
    };
    let mtu = options::number(fd, level, name).and_then(|n| u32::try_from(n).ok()).unwrap_or(u32::MAX);
    // SAFETY: made above.
    unsafe { real::close(fd) };
    source.map(|name| (name.ip, mtu)).filter(|(ip, _)| !is_unspecified(ip))
}

const _: () = assert!(ENTRIES.is_power_of_two());

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::mapped;

    #[test]
    fn what_is_not_unicast_is_the_kernels() {
        // SAFETY: all zero is empty.
        let mut known: Known = unsafe { core::mem::MaybeUninit::zeroed().assume_init() };
        let mut way = |ip: Ip| known.way(&Name { ip, port: 7, scope: 0 }, &[0; 16], 1);
        for ip in [mapped([224, 0, 0, 251]), mapped([255; 4]), mapped([127, 0, 0, 1]), [0; 16]] {
            assert_eq!(way(ip), Way::Kernel);
        }
        let ip = mapped([192, 0, 2, 9]);
        known.unreachable(&ip, 1);
        assert_eq!(known.way(&Name { ip, port: 7, scope: 0 }, &[0; 16], 2), Way::Kernel);
    }
}
