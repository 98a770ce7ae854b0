//! Addresses: the program's `sockaddr`, the ring's 16 bytes, and one type between them.

use core::{ffi::c_void, mem::MaybeUninit, ptr};

use libc::{
    AF_INET, AF_INET6, sa_family_t, sockaddr, sockaddr_in, sockaddr_in6, sockaddr_storage, socklen_t,
};

use crate::sys::len_of;

/// An address as the rings have it: 16 bytes, IPv4 as `::ffff:a.b.c.d`.
pub(crate) type Ip = [u8; 16];

/// Address, port and scope.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Name {
    pub(crate) ip: Ip,
    pub(crate) port: u16,
    /// Interface of a link-local address, else 0.
    pub(crate) scope: u32,
}

const V4_PREFIX: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];

/// `a.b.c.d` in 16 bytes.
#[inline]
pub(crate) fn mapped(v4: [u8; 4]) -> Ip {
    let mut ip = [0; 16];
    ip[..12].copy_from_slice(&V4_PREFIX);
    ip[12..].copy_from_slice(&v4);
    ip
}

#[inline]
pub(crate) fn is_v4(ip: &Ip) -> bool {
    ip[..12] == V4_PREFIX
}

/// The last four bytes.
#[inline]
pub(crate) fn v4(ip: &Ip) -> [u8; 4] {
    [ip[12], ip[13], ip[14], ip[15]]
}

/// `::`, 0.0.0.0.
#[inline]
pub(crate) fn is_unspecified(ip: &Ip) -> bool {
    *ip == [0; 16] || is_v4(ip) && v4(ip) == [0; 4]
}

/// `::1`, 127.0.0.0/8.
#[inline]
pub(crate) fn is_loopback(ip: &Ip) -> bool {
    if is_v4(ip) { ip[12] == 127 } else { *ip == [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1] }
}

/// Multicast, or 255.255.255.255.
#[inline]
pub(crate) fn is_group(ip: &Ip) -> bool {
    if is_v4(ip) { ip[12] >= 224 } else { ip[0] == 0xff }
}

#[inline]
pub(crate) fn is_link_local(ip: &Ip) -> bool {
    ip[0] == 0xfe && ip[1] & 0xc0 == 0x80
}

impl Name {
    /// From what the program, or the kernel, has given. `None` if it is no address of IP, or too short.
    ///
    /// # Safety
    /// `address` points to `len` bytes.
    #[inline]
    pub(crate) unsafe fn read(address: *const c_void, len: socklen_t) -> Option<Self> {
        if address.is_null() || len < len_of::<sa_family_t>() {
            return None;
        }
        // SAFETY: two bytes are there.
        let family = unsafe { address.cast::<sa_family_t>().read_unaligned() };
        match i32::from(family) {
            AF_INET if len >= len_of::<sockaddr_in>() => {
                // SAFETY: that many bytes are there.
                let a = unsafe { address.cast::<sockaddr_in>().read_unaligned() };
                let ip = mapped(a.sin_addr.s_addr.to_ne_bytes());
                Some(Self { ip, port: u16::from_be(a.sin_port), scope: 0 })
            }
            // The kernel takes an address without the scope, too (24 bytes, RFC 2133).
            AF_INET6 if len >= len_of::<sockaddr_in6>() - 4 => {
                let mut a = MaybeUninit::<sockaddr_in6>::zeroed();
                let bytes = (len as usize).min(size_of::<sockaddr_in6>());
                // SAFETY: that many bytes are there, and fit.
                unsafe { ptr::copy_nonoverlapping(address.cast::<u8>(), a.as_mut_ptr().cast(), bytes) };
                // SAFETY: integers.
                let a = unsafe { a.assume_init() };
                let scope = if is_link_local(&a.sin6_addr.s6_addr) { a.sin6_scope_id } else { 0 };
                Some(Self { ip: a.sin6_addr.s6_addr, port: u16::from_be(a.sin6_port), scope })
            }
            _ => None,
        }
    }

    /// As a `sockaddr` of a socket of `family`, and its length.
    #[inline]
    pub(crate) fn sockaddr(&self, family: i32) -> (sockaddr_storage, socklen_t) {
        let mut out = MaybeUninit::<sockaddr_storage>::zeroed();
        let len = if family == AF_INET {
            let a = sockaddr_in {
                sin_family: family_of(AF_INET),
                sin_port: self.port.to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4(&self.ip)) },
                sin_zero: [0; 8],
            };
            // SAFETY: it fits.
            unsafe { out.as_mut_ptr().cast::<sockaddr_in>().write(a) };
            len_of::<sockaddr_in>()
        } else {
            let a = sockaddr_in6 {
                sin6_family: family_of(AF_INET6),
                sin6_port: self.port.to_be(),
                sin6_flowinfo: 0,
                sin6_addr: libc::in6_addr { s6_addr: self.ip },
                sin6_scope_id: self.scope,
            };
            // SAFETY: it fits.
            unsafe { out.as_mut_ptr().cast::<sockaddr_in6>().write(a) };
            len_of::<sockaddr_in6>()
        };
        // SAFETY: integers, all of them initialised.
        (unsafe { out.assume_init() }, len)
    }

    /// Writes it where the program wants it, as much as fits.
    ///
    /// # Safety
    /// `to` points to `room` bytes.
    #[inline]
    pub(crate) unsafe fn write(&self, family: i32, to: *mut c_void, room: socklen_t) -> socklen_t {
        let (address, len) = self.sockaddr(family);
        let bytes = len.min(room) as usize;
        // SAFETY: the caller's promise; the source is larger.
        unsafe { ptr::copy_nonoverlapping((&raw const address).cast::<u8>(), to.cast(), bytes) };
        len
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "2 and 10")]
pub(crate) const fn family_of(family: i32) -> sa_family_t {
    family as sa_family_t
}

/// What `getsockname` or `getpeername` says of a descriptor.
pub(crate) fn ask(fd: i32, peer: bool) -> Option<Name> {
    let mut storage = MaybeUninit::<sockaddr_storage>::zeroed();
    let mut len = len_of::<sockaddr_storage>();
    let to = storage.as_mut_ptr().cast::<sockaddr>();
    // SAFETY: room for any address.
    let result = unsafe {
        if peer { libc::getpeername(fd, to, &raw mut len) } else { libc::getsockname(fd, to, &raw mut len) }
    };
    if result != 0 {
        return None;
    }
    // SAFETY: the kernel has written `len` bytes, at most as many as there are.
    unsafe { Name::read(to.cast(), len) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back_as_they_were_written() {
        let four = Name { ip: mapped([192, 0, 2, 1]), port: 53, scope: 0 };
        let mut ip = [0; 16];
        (ip[0], ip[1], ip[15]) = (0xfe, 0x80, 1);
        let six = Name { ip, port: 7, scope: 3 };
        for (name, family) in [(four, AF_INET), (four, AF_INET6), (six, AF_INET6)] {
            let (storage, len) = name.sockaddr(family);
            // SAFETY: `len` bytes of it are there.
            assert_eq!(unsafe { Name::read((&raw const storage).cast(), len) }, Some(name));
            // SAFETY: as above.
            assert_eq!(unsafe { Name::read((&raw const storage).cast(), 7) }, None);
        }
        let mut short = [0u8; 4];
        // SAFETY: four bytes.
        assert_eq!(unsafe { four.write(AF_INET, short.as_mut_ptr().cast(), 4) }, 16);
        assert_eq!(&short[2..], &[0, 53]);
    }

    #[test]
    fn kinds_of_addresses() {
        assert!(is_loopback(&mapped([127, 3, 4, 5])) && !is_loopback(&mapped([128, 0, 0, 1])));
        assert!(
            is_group(&mapped([224, 0, 0, 1])) && is_group(&mapped([255; 4])) && !is_group(&mapped([9; 4]))
        );
        assert!(is_unspecified(&[0; 16]) && is_unspecified(&mapped([0; 4])));
    }
}
