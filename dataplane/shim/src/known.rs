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
    real, settings, table,
};

/// A power of two. A program that talks to more peers in a second asks more often.
const ENTRIES: usize = 64;
/// How long an answer is believed. Routes change seldom; a tenth would be felt by a program with few peers.
const BELIEVED_NS: u64 = 1_000_000_000;
/// Questions of all sockets in a second: three microseconds each. Beyond that the worker chooses the source, and
/// unreachable destinations are reported late.
const QUESTIONS: u64 = 2000;

/// Which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Kernel,
    /// By the rings, from this address (`::`: the worker chooses).
    Ring(Ip),
}

#[derive(Clone, Copy)]
struct Entry {
    ip: Ip,
    source: Ip,
    scope: u32,
    kernel: bool,
    until: u64,
}

/// Answers of the last second. All zero is empty.
pub(crate) struct Known([Entry; ENTRIES]);

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
            return if ring { Way::Ring(to.ip) } else { Way::Kernel };
        }
        if bound && is_loopback(local) {
            return Way::Kernel;
        }
        let entry = &mut self.0[slot(&to.ip)];
        if entry.ip != to.ip || entry.scope != to.scope || entry.until < now {
            if !may_ask(now) {
                return Way::Ring(*local);
            }
            let source = ask(to);
            *entry = Entry {
                ip: to.ip,
                source: source.unwrap_or_default(),
                scope: to.scope,
                kernel: source.is_none_or(|s| is_loopback(&s)),
                until: now + BELIEVED_NS,
            };
        }
        match entry.kernel {
            true => Way::Kernel,
            false if bound => Way::Ring(*local),
            false => Way::Ring(entry.source),
        }
    }

    /// A worker has no way there.
    pub(crate) fn unreachable(&mut self, ip: &Ip, now: u64) {
        let until = now + 10 * BELIEVED_NS;
        self.0[slot(ip)] = Entry { ip: *ip, source: [0; 16], scope: 0, kernel: true, until };
    }
}

#[cfg(test)]
impl Known {
    /// What the kernel would say.
    pub(crate) fn learn(&mut self, ip: &Ip, source: &Ip, until: u64) {
        self.0[slot(ip)] = Entry { ip: *ip, source: *source, scope: 0, kernel: false, until };
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

/// The address that the kernel would send from; `None`: it would not.
fn ask(to: &Name) -> Option<Ip> {
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
    // SAFETY: made above.
    unsafe { real::close(fd) };
    source.map(|name| name.ip).filter(|ip| !is_unspecified(ip))
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
