//! What sockets join: the options of RFC 3678 (linux/in.h), the same of both families.

use std::io;
use std::mem;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::io::Errno;

const MCAST_JOIN_GROUP: i32 = 42;
const MCAST_JOIN_SOURCE_GROUP: i32 = 46;
const MCAST_MSFILTER: i32 = 48;
const MODE_EXCLUDE: u32 = 0;
const MODE_INCLUDE: u32 = 1;

/// A group on an interface.
pub type Place = (u32, IpAddr);

/// Joins with a filter: all sources but the listed ones, or these alone (at least one), in the right mode at once, so that
/// nothing is reported which nobody wants.
pub fn enter(socket: &OwnedFd, place: Place, exclude: bool, sources: &[IpAddr]) -> Result<(), Errno> {
    match sources.first().filter(|_| !exclude) {
        Some(first) => join_source(socket, place, *first)?,
        None => join(socket, place)?,
    }
    if sources.len() > usize::from(!exclude) {
        set_filter(socket, place, exclude, sources)?;
    }
    Ok(())
}

/// `struct group_req` (linux/in.h), with which the others start: the interface, and a group aligned as a pointer is.
fn request((ifindex, group): Place) -> Vec<u8> {
    let mut bytes = ifindex.to_ne_bytes().to_vec();
    bytes.resize(mem::align_of::<usize>(), 0);
    bytes.extend(storage(group));
    bytes
}

fn join(socket: &OwnedFd, place: Place) -> Result<(), Errno> {
    set(socket, level(place), MCAST_JOIN_GROUP, &request(place))
}

/// `struct group_source_req`.
fn join_source(socket: &OwnedFd, place: Place, source: IpAddr) -> Result<(), Errno> {
    let mut wanted = request(place);
    wanted.extend(storage(source));
    set(socket, level(place), MCAST_JOIN_SOURCE_GROUP, &wanted)
}

/// Another filter of a group that the socket is in (`struct group_filter`); no source at all: it leaves.
pub fn set_filter(socket: &OwnedFd, place: Place, exclude: bool, sources: &[IpAddr]) -> Result<(), Errno> {
    let mode = if exclude { MODE_EXCLUDE } else { MODE_INCLUDE };
    let count = u32::try_from(sources.len()).map_err(|_| Errno::NOBUFS)?;
    let mut wanted = request(place);
    wanted.extend(mode.to_ne_bytes());
    wanted.extend(count.to_ne_bytes());
    sources.iter().for_each(|source| wanted.extend(storage(*source)));
    set(socket, level(place), MCAST_MSFILTER, &wanted)
}

fn level((_, group): Place) -> i32 {
    if group.is_ipv4() { libc::IPPROTO_IP } else { libc::IPPROTO_IPV6 }
}

/// `struct sockaddr_storage` with an address: family, port, (flow,) address.
fn storage(address: IpAddr) -> [u8; mem::size_of::<libc::sockaddr_storage>()] {
    let mut bytes = [0; mem::size_of::<libc::sockaddr_storage>()];
    let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    bytes[..2].copy_from_slice(&u16::try_from(family).unwrap_or_default().to_ne_bytes());
    match address {
        IpAddr::V4(a) => bytes[4..8].copy_from_slice(&a.octets()),
        IpAddr::V6(a) => bytes[8..24].copy_from_slice(&a.octets()),
    }
    bytes
}

/// Any option.
pub fn set(socket: &OwnedFd, level: i32, option: i32, value: &[u8]) -> Result<(), Errno> {
    let len = libc::socklen_t::try_from(value.len()).map_err(|_| Errno::INVAL)?;
    // SAFETY: the value lives through the call and has that many bytes.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, value.as_ptr().cast(), len) };
    if result == 0 {
        return Ok(());
    }
    Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_laid_out_as_the_kernel_has_them() {
        let bytes = request((0x0102_0304, "ff02::fb".parse().unwrap()));
        assert_eq!((bytes.len(), &bytes[..4]), (136, &0x0102_0304_u32.to_ne_bytes()[..]));
        assert_eq!((&bytes[8..10], bytes[16], bytes[31]), (&10_u16.to_ne_bytes()[..], 0xff, 0xfb));
        assert_eq!(request((1, "224.0.0.251".parse().unwrap()))[12..16], [224, 0, 0, 251]);
    }
}
