//! The kernel's part: groups that it reports for us, because sockets of ours are in them with the filter of all members
//! together; who else is in them; and the device's filter of MAC addresses where it reports nothing.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::mem;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use crate::dad::frame;
use crate::multicast::Filter;
use crate::system::membership::{self, Place};

/// Between two looks at who else is in our groups: a program of the host that joins one hears it this late at most.
const LOOK: Duration = Duration::from_millis(250);

/// Sources that the kernel is to take for a socket: a filter merged from several members may have many.
const MAX_MSF: u32 = 1024;

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
            return membership::set_filter(socket, place, exclude, &sources);
        }
        let family = if group.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let socket = socket_with(family, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
        membership::enter(&socket, place, exclude, &sources)?;
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

    /// Looks whether they are. `followed`: members whose sockets have joined by themselves.
    pub fn look(&mut self, place: Place, users: &Users, followed: u32) -> bool {
        let own = u32::from(self.sockets.contains_key(&place));
        let others = users.of(place) > own + followed;
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

    /// All groups of an interface that somebody is in.
    pub fn groups(&self, ifindex: u32) -> impl Iterator<Item = IpAddr> {
        let there = self.0.iter().filter(move |((of, _), users)| *of == ifindex && **users > 0);
        there.map(|((_, group), _)| *group)
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
        let done = membership::set(&socket, libc::SOL_PACKET, option, &request);
        self.0 = Some(socket);
        Ok(done?)
    }
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
}
