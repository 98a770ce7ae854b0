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

/// The filter of a socket in a group: whether all sources but the listed ones, and the list, cut behind `most` and one more;
/// `None`: it is not in the group there.
pub fn filter(socket: &OwnedFd, place: Place, most: usize) -> Result<Option<(bool, Vec<IpAddr>)>, Errno> {
    let room = most + 1;
    let mut value = request(place);
    let (mode, first) = (value.len(), value.len() + 8);
    value.extend([0; 4]);
    value.extend(u32::try_from(room).map_err(|_| Errno::INVAL)?.to_ne_bytes());
    value.resize(first + room * STORAGE, 0);
    let mut len = libc::socklen_t::try_from(value.len()).map_err(|_| Errno::INVAL)?;
    // SAFETY: the value lives through the call and has that many bytes.
    let result = unsafe {
        let value = value.as_mut_ptr().cast();
        libc::getsockopt(socket.as_raw_fd(), level(place), MCAST_MSFILTER, value, &raw mut len)
    };
    if result != 0 {
        return match Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO) {
            Errno::ADDRNOTAVAIL => Ok(None),
            e => Err(e),
        };
    }
    let number = |at: usize| value.get(at..at + 4).map(|b| u32::from_ne_bytes([b[0], b[1], b[2], b[3]]));
    let count = number(mode + 4).and_then(|n| usize::try_from(n).ok()).unwrap_or(0).min(room);
    let list = value[first..].chunks_exact(STORAGE).take(count).map(|one| match place.1 {
        IpAddr::V4(_) => IpAddr::from([one[4], one[5], one[6], one[7]]),
        IpAddr::V6(_) => IpAddr::from(<[u8; 16]>::try_from(&one[8..24]).unwrap_or_default()),
    });
    let mut list: Vec<IpAddr> = list.collect();
    list.sort_unstable();
    Ok(Some((number(mode) == Some(MODE_EXCLUDE), list)))
}

fn level((_, group): Place) -> i32 {
    if group.is_ipv4() { libc::IPPROTO_IP } else { libc::IPPROTO_IPV6 }
}

const STORAGE: usize = mem::size_of::<libc::sockaddr_storage>();

/// `struct sockaddr_storage` with an address: family, port, (flow,) address.
fn storage(address: IpAddr) -> [u8; STORAGE] {
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
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

    use super::*;

    #[test]
    fn a_filter_is_read_back() {
        for (family, group, sources) in [
            (AddressFamily::INET, "239.1.2.3", ["192.0.2.1", "192.0.2.2"]),
            (AddressFamily::INET6, "ff15::123", ["2001:db8::1", "2001:db8::2"]),
        ] {
            let socket = socket_with(family, SocketType::DGRAM, SocketFlags::CLOEXEC, None).unwrap();
            let place = (1, group.parse().unwrap());
            let sources = sources.map(|source| source.parse().unwrap());
            assert_eq!(filter(&socket, place, 4), Ok(None));
            for exclude in [true, false] {
                enter(&socket, place, exclude, &sources).unwrap();
                assert_eq!(filter(&socket, place, 4), Ok(Some((exclude, sources.to_vec()))));
                // Longer than is wanted.
                assert_eq!(filter(&socket, place, 1).unwrap().unwrap().1.len(), 2);
                assert_eq!(filter(&socket, place, 0).unwrap().unwrap().1.len(), 1);
                set_filter(&socket, place, false, &[]).unwrap();
            }
        }
    }

    #[test]
    fn requests_are_laid_out_as_the_kernel_has_them() {
        let bytes = request((0x0102_0304, "ff02::fb".parse().unwrap()));
        assert_eq!((bytes.len(), &bytes[..4]), (136, &0x0102_0304_u32.to_ne_bytes()[..]));
        assert_eq!((&bytes[8..10], bytes[16], bytes[31]), (&10_u16.to_ne_bytes()[..], 0xff, 0xfb));
        assert_eq!(request((1, "224.0.0.251".parse().unwrap()))[12..16], [224, 0, 0, 251]);
    }
}
