//! Multicast groups. Joining is the kernel's socket's: its errors, its filters, its reports to the network. Which groups an
//! option is about is all that is kept; what the socket hears there afnetd asks the kernel.
//!
//! | options | about the group |
//! |---|---|
//! | `IP_ADD_MEMBERSHIP`, `IP_DROP_MEMBERSHIP`, those with a source, `IP_MSFILTER` | in the first 4 bytes |
//! | `IPV6_ADD_MEMBERSHIP`, `IPV6_DROP_MEMBERSHIP` | in the first 16 bytes |
//! | `MCAST_*`, of either level | in a socket address behind the interface |

use core::{
    ffi::{c_int, c_void},
    mem::offset_of,
};

use libc::{AF_INET, AF_INET6, IPPROTO_IP, IPPROTO_IPV6, sockaddr_in, sockaddr_in6, socklen_t};

use crate::address::{Ip, mapped};

/// Groups that are remembered for each socket: above the kernel's `igmp_max_memberships`, 20. More come by the kernel.
const MOST: usize = 32;
/// Where the `MCAST_*` structures have the group (linux/in.h).
const BEHIND_INTERFACE: usize = align_of::<usize>();

/// Groups that a socket may be in. All zero is none.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Groups {
    list: [Ip; MOST],
    count: usize,
}

impl Groups {
    /// Whether it is remembered.
    pub(crate) fn put(&mut self, group: &Ip) -> bool {
        if self.iter().any(|known| known == *group) {
            return true;
        }
        let Some(place) = self.list.get_mut(self.count) else { return false };
        *place = *group;
        self.count += 1;
        true
    }

    /// The socket has left it.
    pub(crate) fn remove(&mut self, group: &Ip) {
        let found = self.iter().position(|known| known == *group);
        if let Some(at) = found {
            self.count -= 1;
            self.list.swap(at, self.count);
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Ip> {
        self.list.into_iter().take(self.count)
    }
}

/// The group that an option is about, if it is one of those.
///
/// # Safety
/// `len` bytes are at `value`.
pub(crate) unsafe fn of(level: c_int, name: c_int, value: *const c_void, len: socklen_t) -> Option<Ip> {
    let four = |at| {
        // SAFETY: the caller's promise, and `read` looks at the length.
        unsafe { read::<4>(value, len, at) }.map(mapped)
    };
    // SAFETY: as above.
    let six = |at| unsafe { read::<16>(value, len, at) };
    match (level, name) {
        (
            IPPROTO_IP,
            libc::IP_ADD_MEMBERSHIP
            | libc::IP_DROP_MEMBERSHIP
            | libc::IP_ADD_SOURCE_MEMBERSHIP
            | libc::IP_DROP_SOURCE_MEMBERSHIP
            | libc::IP_BLOCK_SOURCE
            | libc::IP_UNBLOCK_SOURCE
            | libc::IP_MSFILTER,
        ) => four(0),
        (IPPROTO_IPV6, libc::IPV6_ADD_MEMBERSHIP | libc::IPV6_DROP_MEMBERSHIP) => six(0),
        (
            IPPROTO_IP | IPPROTO_IPV6,
            libc::MCAST_JOIN_GROUP
            | libc::MCAST_LEAVE_GROUP
            | libc::MCAST_JOIN_SOURCE_GROUP
            | libc::MCAST_LEAVE_SOURCE_GROUP
            | libc::MCAST_BLOCK_SOURCE
            | libc::MCAST_UNBLOCK_SOURCE
            | libc::MCAST_MSFILTER,
        ) => {
            // SAFETY: as above.
            let family = u16::from_ne_bytes(unsafe { read(value, len, BEHIND_INTERFACE) }?);
            match c_int::from(family) {
                AF_INET => four(BEHIND_INTERFACE + offset_of!(sockaddr_in, sin_addr)),
                AF_INET6 => six(BEHIND_INTERFACE + offset_of!(sockaddr_in6, sin6_addr)),
                _ => None,
            }
        }
        _ => None,
    }
}

/// # Safety
/// `len` bytes are at `value`.
unsafe fn read<const N: usize>(value: *const c_void, len: socklen_t, at: usize) -> Option<[u8; N]> {
    // SAFETY: the caller's promise, and they are among them.
    (at + N <= len as usize).then(|| unsafe { value.cast::<u8>().add(at).cast::<[u8; N]>().read_unaligned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(level: c_int, name: c_int, value: &[u8]) -> Option<Ip> {
        // SAFETY: that many bytes are there.
        unsafe { of(level, name, value.as_ptr().cast(), socklen_t::try_from(value.len()).unwrap()) }
    }

    #[test]
    fn options_say_which_group() {
        let four = mapped([239, 1, 2, 3]);
        let six: Ip = core::array::from_fn(|i| if i == 0 { 0xff } else { 3 });
        for len in [8, 12] {
            let mut value = vec![7; len];
            value[..4].copy_from_slice(&[239, 1, 2, 3]);
            assert_eq!(group(IPPROTO_IP, libc::IP_ADD_MEMBERSHIP, &value), Some(four));
            assert_eq!(group(IPPROTO_IP, libc::IP_BLOCK_SOURCE, &value), Some(four));
            assert_eq!(group(IPPROTO_IP, libc::IP_MULTICAST_IF, &value), None);
            assert_eq!(group(IPPROTO_IPV6, libc::IPV6_ADD_MEMBERSHIP, &value), None, "too short");
        }
        let mut value = six.to_vec();
        value.extend([1, 0, 0, 0]);
        assert_eq!(group(IPPROTO_IPV6, libc::IPV6_DROP_MEMBERSHIP, &value), Some(six));
        for (level, family, at, bytes, found) in [
            (IPPROTO_IP, AF_INET, 12, &four[12..], Some(four)),
            (IPPROTO_IPV6, AF_INET6, 16, &six[..], Some(six)),
            (IPPROTO_IP, AF_INET6, 16, &six[..], Some(six)),
            (IPPROTO_IP, 77, 12, &four[12..], None),
        ] {
            let mut value = vec![0; 136];
            value[8..10].copy_from_slice(&u16::try_from(family).unwrap().to_ne_bytes());
            value[at..at + bytes.len()].copy_from_slice(bytes);
            assert_eq!(group(level, libc::MCAST_JOIN_GROUP, &value), found);
            assert_eq!(group(level, libc::MCAST_MSFILTER, &value[..9]), None, "cut");
        }
    }

    #[test]
    fn groups_are_remembered_once_and_up_to_a_number() {
        // SAFETY: all zero is none.
        let mut groups: Groups = unsafe { core::mem::MaybeUninit::zeroed().assume_init() };
        let nth = |n: u8| mapped([239, 0, 0, n]);
        for _ in 0..2 {
            assert!((0..32).all(|n| groups.put(&nth(n))));
        }
        assert!(!groups.put(&nth(32)) && groups.iter().count() == 32);
        groups.remove(&nth(0));
        groups.remove(&nth(77));
        assert!(groups.put(&nth(32)));
        let mut last: Vec<u8> = groups.iter().map(|group| group[15]).collect();
        last.sort_unstable();
        assert!(last.into_iter().eq(1..=32));
    }
}
