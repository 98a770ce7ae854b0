//! A program in a compartment sees its compartment's addresses: getifaddrs() and SIOCGIFCONF without the others.
//!
//! Which ones are ours is what bind() says: it refuses the addresses of others (see the kernel path). So no daemon is
//! asked, and outside of any compartment all addresses stay.

use core::{ffi::c_void, mem, ptr};

use libc::{
    AF_INET, AF_INET6, SOCK_CLOEXEC, SOCK_DGRAM, ifaddrs, ifconf, ifreq, sockaddr, sockaddr_in, sockaddr_in6,
};

use crate::{real, sys::len_of};

/// Whether an address may be bound, as far as it is one of IP.
///
/// # Safety
/// Null, or a `sockaddr` as the kernel or the C library makes them.
pub(crate) unsafe fn ours(address: *const sockaddr) -> bool {
    if address.is_null() {
        return true;
    }
    // SAFETY: the caller's promise.
    let family = i32::from(unsafe { (*address).sa_family });
    let (mut storage, len) = match family {
        AF_INET => (zeroed(), len_of::<sockaddr_in>()),
        AF_INET6 => (zeroed(), len_of::<sockaddr_in6>()),
        _ => return true,
    };
    // SAFETY: an address of that family is that long, and fits.
    unsafe { ptr::copy_nonoverlapping(address.cast::<u8>(), (&raw mut storage).cast(), len as usize) };
    // The compartments' own ::1 (see the kernel path) is shown as ::1 already.
    if family == AF_INET6 && storage.sin6_addr.s6_addr[..6] == [0xfd, 0xaf, 0x6e, 0x65, 0x74, 0] {
        return false;
    }
    storage.sin6_port = 0;
    // SAFETY: plain numbers, then an address of that length.
    unsafe {
        let fd = real::socket(family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
        if fd < 0 {
            return true;
        }
        let refused = real::bind(fd, (&raw const storage).cast(), len) != 0
            && crate::sys::errno() == libc::EADDRNOTAVAIL;
        real::close(fd);
        !refused
    }
}

fn zeroed() -> sockaddr_in6 {
    // SAFETY: integers.
    unsafe { mem::zeroed() }
}

/// Takes the addresses of others out of a list of getifaddrs(). The list is one block, which freeifaddrs() frees by its
/// first entry: that one stays where it is.
///
/// # Safety
/// A list of getifaddrs().
pub(crate) unsafe fn filter_list(list: *mut *mut ifaddrs) {
    // SAFETY: the caller's promise, here and below.
    unsafe {
        let head = *list;
        if head.is_null() {
            return;
        }
        let mut last = head;
        while let next = (*last).ifa_next
            && !next.is_null()
        {
            if ours((*next).ifa_addr) {
                last = next;
            } else {
                (*last).ifa_next = (*next).ifa_next;
            }
        }
        if !ours((*head).ifa_addr) {
            let second = (*head).ifa_next;
            if second.is_null() {
                (*head).ifa_addr = ptr::null_mut();
            } else {
                *head = second.read();
            }
        }
    }
}

/// The same for SIOCGIFCONF.
///
/// # Safety
/// `argument` is what the kernel has just filled in.
pub(crate) unsafe fn filter_conf(argument: *mut c_void) {
    // SAFETY: the caller's promise, here and below.
    unsafe {
        let conf = argument.cast::<ifconf>();
        let first = (*conf).ifc_ifcu.ifcu_req;
        if first.is_null() {
            // Only the length was asked for: room enough is no lie.
            return;
        }
        let count = usize::try_from((*conf).ifc_len).unwrap_or(0) / size_of::<ifreq>();
        let mut kept = 0;
        for i in 0..count {
            let entry = first.add(i);
            if ours(&raw const (*entry).ifr_ifru.ifru_addr) {
                if kept != i {
                    ptr::copy(entry, first.add(kept), 1);
                }
                kept += 1;
            }
        }
        (*conf).ifc_len = i32::try_from(kept * size_of::<ifreq>()).unwrap_or(0);
    }
}
