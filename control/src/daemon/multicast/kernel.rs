//! The kernel's part: groups that it reports for us, because sockets of ours are in them with the filter of all members
//! together; who else is in them; and the device's filter of MAC addresses where it reports nothing.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::mem;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use crate::dad::frame;
use crate::multicast::Filter;

/// Between two looks at who else is in our groups: a program of the host that joins one hears it this late at most.
const LOOK: Duration = Duration::from_millis(250);

/// Sources that the kernel is to take for a socket: a filter merged from several members may have many.
const MAX_MSF: u32 = 1024;

/// Options of RFC 3678 (linux/in.h), the same of both families.
const MCAST_JOIN_GROUP: i32 = 42;
const MCAST_JOIN_SOURCE_GROUP: i32 = 46;
const MCAST_MSFILTER: i32 = 48;
const MODE_EXCLUDE: u32 = 0;
const MODE_INCLUDE: u32 = 1;

/// A group on an interface.
type Place = (u32, IpAddr);

/// What the kernel has joined for us.
#[derive(Debug, Default)]
pub struct Kernel {
    /// One socket for each group: what one may join is bounded, and this one has a filter.
    sockets: HashMap<Place, OwnedFd>,
    /// Whether somebody else is in a group, as last seen.
    others: HashMap<Place, bool>,
    next_look: Option<Instant>,
    raised: bool,
}

impl Kernel {
    /// What is wanted of a group from now on.
    pub fn set<A: Copy + Ord + Into<IpAddr>>(
        &mut self,
        ifindex: u32,
        group: IpAddr,
        wanted: &Filter<A>,
    ) -> Result<(), Errno> {
        let place = (ifindex, group);
        if wanted.is_none() {
            // With the socket goes the membership.
            self.sockets.remove(&place);
            return Ok(());
        }
        self.raise_limits();
        let sources: Vec<IpAddr> = wanted.sources().iter().map(|source| (*source).into()).collect();
        let exclude = wanted.excludes();
        if let Some(socket) = self.sockets.get(&place) {
            return set_filter(socket, place, exclude, &sources);
        }
        let family = if group.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let socket = socket_with(family, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
        // In the right mode at once, so that nothing is reported which nobody wants.
        match sources.first().filter(|_| !exclude) {
            Some(first) => join_source(&socket, place, *first)?,
            None => join(&socket, place)?,
        }
        if sources.len() > usize::from(!exclude) {
            set_filter(&socket, place, exclude, &sources)?;
        }
        self.sockets.insert(place, socket);
        Ok(())
    }

    /// An interface is gone, and with it what was joined there.
    pub fn forget(&mut self, ifindex: u32) {
        self.sockets.retain(|(of, _), _| *of != ifindex);
        self.others.retain(|(of, _), _| *of != ifindex);
    }

    /// Whether others than our members are in a group, as last seen.
    pub fn has_others(&self, ifindex: u32, group: IpAddr) -> bool {
        self.others.get(&(ifindex, group)).copied().unwrap_or(false)
    }

    /// Looks whether they are.
    pub fn look(&mut self, place: Place, users: &Users) -> bool {
        let own = u32::from(self.sockets.contains_key(&place));
        let others = users.of(place) > own;
        self.others.insert(place, others);
        others
    }

    /// Nobody of ours is in it any more.
    pub fn unwatch(&mut self, place: Place) {
        self.others.remove(&place);
        if self.others.is_empty() {
            self.next_look = None;
        }
    }

    /// When to look again; never without groups.
    pub fn next_look(&self) -> Option<Instant> {
        self.next_look
    }

    /// Looks again in a while, if there is anything to look at.
    pub fn looked(&mut self, now: Instant) {
        self.next_look = (!self.others.is_empty()).then(|| now + LOOK);
    }

    /// The groups that are looked at.
    pub fn watched(&self) -> Vec<(Place, bool)> {
        self.others.iter().map(|(place, others)| (*place, *others)).collect()
    }

    /// Sources of one socket's filter are 10 and 64 at most by default. If they cannot be raised, the one who wants more
    /// is told.
    fn raise_limits(&mut self) {
        if mem::replace(&mut self.raised, true) {
            return;
        }
        for path in ["/proc/sys/net/ipv4/igmp_max_msf", "/proc/sys/net/ipv6/mld_max_msf"] {
            let now = fs::read_to_string(path).ok().and_then(|text| text.trim().parse::<u32>().ok());
            if now.is_some_and(|now| now < MAX_MSF)
                && let Err(e) = fs::write(path, MAX_MSF.to_string())
            {
                tracing::warn!("writing {MAX_MSF} to {path}: {e}");
            }
        }
    }
}

/// How many are in each group, sockets and the kernel itself, by `/proc/net/igmp` and `/proc/net/igmp6`.
#[derive(Debug, Default)]
pub struct Users(HashMap<Place, u32>);

impl Users {
    /// Reads it, in the network namespace of the calling thread. What cannot be read has nobody.
    pub fn read() -> Self {
        let read =
            |name: &str| fs::read_to_string(format!("/proc/thread-self/net/{name}")).unwrap_or_default();
        Self::parse(&read("igmp"), &read("igmp6"))
    }

    fn parse(four: &str, six: &str) -> Self {
        let mut all = HashMap::new();
        let mut ifindex = 0;
        for line in four.lines().skip(1) {
            let mut words = line.split_whitespace();
            if !line.starts_with(['\t', ' ']) {
                ifindex = words.next().and_then(|word| word.parse().ok()).unwrap_or(0);
            } else if let (Some(group), Some(users)) = (words.next(), words.next())
                && let Ok(group) = u32::from_str_radix(group, 16)
                && let Ok(users) = users.parse()
            {
                // Printed as a number of this machine's byte order.
                all.insert((ifindex, Ipv4Addr::from(group.to_ne_bytes()).into()), users);
            }
        }
        for line in six.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            if let [ifindex, _, group, users, ..] = words[..]
                && let (Ok(ifindex), Ok(users)) = (ifindex.parse(), users.parse())
                && let Ok(group) = u128::from_str_radix(group, 16)
            {
                all.insert((ifindex, Ipv6Addr::from(group).into()), users);
            }
        }
        Self(all)
    }

    /// In a group.
    pub fn of(&self, place: Place) -> u32 {
        self.0.get(&place).copied().unwrap_or(0)
    }
}

/// MAC addresses of groups that a device is to let through where no socket has joined: by a packet socket, which counts
/// them (packet(7), PACKET_MR_MULTICAST).
#[derive(Debug, Default)]
pub struct Filters(Option<OwnedFd>);

impl Filters {
    /// A group was wanted or not, and is or is not.
    pub fn change(&mut self, ifindex: u32, group: IpAddr, before: bool, now: bool) {
        let Some(mac) = frame::group_mac(group).filter(|_| before != now) else { return };
        if let Err(e) = self.apply(ifindex, mac, now) {
            // It is gone with its interface, or the device takes everything anyway.
            tracing::debug!("the MAC address of {group} at interface {ifindex}: {e}");
        }
    }

    fn apply(&mut self, ifindex: u32, mac: [u8; 6], wanted: bool) -> io::Result<()> {
        let socket = match self.0.take() {
            Some(socket) => socket,
            None => socket_with(AddressFamily::PACKET, SocketType::RAW, SocketFlags::CLOEXEC, None)?,
        };
        // `struct packet_mreq`: interface, type, length, address.
        let mut request = ifindex.to_ne_bytes().to_vec();
        for number in [libc::PACKET_MR_MULTICAST, 6] {
            request.extend(u16::try_from(number).unwrap_or_default().to_ne_bytes());
        }
        request.extend(mac);
        request.extend([0; 2]);
        let option = if wanted { libc::PACKET_ADD_MEMBERSHIP } else { libc::PACKET_DROP_MEMBERSHIP };
        let done = set(&socket, libc::SOL_PACKET, option, &request);
        self.0 = Some(socket);
        Ok(done?)
    }
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

/// `struct group_filter`.
fn set_filter(socket: &OwnedFd, place: Place, exclude: bool, sources: &[IpAddr]) -> Result<(), Errno> {
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

fn set(socket: &OwnedFd, level: i32, option: i32, value: &[u8]) -> Result<(), Errno> {
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

    const FOUR: &str = "Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter\n\
        1\tlo        :     1      V3\n\t\t\t\t010000E0     1 0:00000000\t\t0\n\
        7\tdev0      :     2      V2\n\t\t\t\tFB0000E0     3 0:00000000\t\t1\n\t\t\t\t010000E0     1 0:00000000\t\t0\n";
    const SIX: &str = "1    lo              ff020000000000000000000000000001     1 0000000C 0\n\
        7    dev0            ff0200000000000000000000000000fb     2 00000004 0\n";

    #[test]
    fn users_are_read_by_interface() {
        let users = Users::parse(FOUR, SIX);
        let of = |ifindex, group: &str| users.of((ifindex, group.parse().unwrap()));
        assert_eq!((of(7, "224.0.0.251"), of(7, "224.0.0.1"), of(1, "224.0.0.251")), (3, 1, 0));
        assert_eq!((of(7, "ff02::fb"), of(1, "ff02::fb"), of(1, "ff02::1")), (2, 0, 1));
        for (four, six) in [("", ""), (SIX, FOUR), ("x\n\t1", "1 2"), ("h\n\tzz 1\n", "7 dev0 zz 1")] {
            assert!(Users::parse(four, six).0.len() <= 2, "nonsense");
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
