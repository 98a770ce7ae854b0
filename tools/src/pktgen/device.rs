//! A network interface, in this network namespace or a named one: what it is, and whether it may be flooded.
//!
//! Everything that depends on the namespace runs on a thread of its own that has entered it ([`Device::enter`]).

use std::{
    fs::{self, File},
    io,
    net::{IpAddr, UdpSocket},
    os::fd::{AsFd, AsRawFd},
    process::Command,
    str::FromStr,
    thread,
    time::{Duration, Instant},
};

use rustix::{
    net::{AddressFamily, SocketFlags, SocketType, socket_with},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

use super::{
    error::{Error, Result},
    flow::Mac,
};

/// Where `ip netns` keeps namespaces.
const NAMESPACES: &str = "/run/netns";
/// How long the kernel gets to resolve a neighbour.
const RESOLVE: Duration = Duration::from_secs(2);

/// A device as an operator names it: `NAME` or `NAME@NAMESPACE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Interface name.
    pub name: String,
    /// Namespace, as `ip netns` names it; none: ours.
    pub netns: Option<String>,
}

/// What the kernel says about a device.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// Interface index.
    pub ifindex: u32,
    /// Its MAC address.
    pub mac: Mac,
    /// Longest IP packet.
    pub mtu: u32,
    /// Whether it is up.
    pub up: bool,
    /// Whether a default route leaves through it.
    pub default_route: bool,
}

impl FromStr for Device {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (name, netns) = match text.split_once('@') {
            Some((name, netns)) => (name, Some(netns.to_owned())),
            None => (text, None),
        };
        let bad = |part: &str| part.is_empty() || part.contains('/') || part.starts_with('.');
        if bad(name) || name.len() > 15 || netns.as_deref().is_some_and(bad) {
            return Err(Error::Usage(format!(
                "`{text}` is no device such as `eth0` or `veth0@namespace` (at most 15 characters of name)"
            )));
        }
        Ok(Self { name: name.into(), netns })
    }
}

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.netns {
            Some(netns) => write!(f, "{}@{netns}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

impl Device {
    /// Brings the calling thread into the device's namespace, for good.
    ///
    /// # Errors
    /// If there is no such namespace, or without CAP_SYS_ADMIN.
    pub fn enter_thread(&self) -> Result<()> {
        let Some(netns) = &self.netns else { return Ok(()) };
        let path = format!("{NAMESPACES}/{netns}");
        let file = File::open(&path).map_err(Error::io(format!("open the network namespace {path}")))?;
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
            .map_err(|error| Error::io(format!("enter the network namespace {netns}"))(error.into()))
    }

    /// Runs a closure on a thread in the device's namespace.
    ///
    /// # Errors
    /// As [`Self::enter_thread`], and those of `body`.
    pub fn enter<T: Send>(&self, body: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let inside = || {
            self.enter_thread()?;
            body()
        };
        thread::scope(|scope| scope.spawn(inside).join()).unwrap_or(Err(Error::Thread))
    }

    /// Asks the kernel.
    ///
    /// # Errors
    /// If there is no such interface.
    pub fn facts(&self) -> Result<Facts> {
        self.enter(|| {
            let missing = || {
                let place = self.netns.as_ref().map_or("this namespace".into(), |n| format!("namespace {n}"));
                Error::NoDevice(self.name.clone(), place)
            };
            let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
                .map_err(|error| Error::io("open a socket")(error.into()))?;
            let ifindex =
                rustix::net::netdevice::name_to_index(&socket, &self.name).map_err(|_| missing())?;
            let ask = |request, what: &str| {
                ioctl(socket.as_raw_fd(), &self.name, request)
                    .map_err(Error::io(format!("ask for the {what} of {}", self.name)))
            };
            let (address, mtu) = (ask(libc::SIOCGIFHWADDR, "MAC address")?, ask(libc::SIOCGIFMTU, "MTU")?);
            let flags = ask(libc::SIOCGIFFLAGS, "state")?;
            // SAFETY: the kernel has filled the member that the request is for.
            let (data, mtu, flags) = unsafe {
                (address.ifr_ifru.ifru_hwaddr.sa_data, mtu.ifr_ifru.ifru_mtu, flags.ifr_ifru.ifru_flags)
            };
            let up = i32::from(flags) & libc::IFF_UP != 0;
            let mut mac = [0; 6];
            mac.iter_mut().zip(data).for_each(|(to, from)| *to = from.to_ne_bytes()[0]);
            let mtu = u32::try_from(mtu).unwrap_or(1500);
            Ok(Facts { ifindex, mac, mtu, up, default_route: default_route(&self.name) })
        })
    }

    /// As [`Self::facts`], for a device that is about to be used: refuses one that is down, or has the default route unless
    /// forced.
    ///
    /// # Errors
    /// As said.
    pub fn claim(&self, force: bool) -> Result<Facts> {
        let facts = self.facts()?;
        if facts.default_route && !force {
            return Err(Error::DefaultRoute(self.to_string()));
        }
        if !facts.up {
            return Err(Error::Usage(format!("{self} is down: `ip link set {} up`", self.name)));
        }
        Ok(facts)
    }

    /// The MAC address of a neighbour, resolved by the kernel.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn neighbour(&self, address: IpAddr) -> Result<Mac> {
        self.enter(|| {
            let missing = || Error::NoNeighbour(address, self.to_string());
            // A datagram to the discard port makes the kernel ask, if the address is on the link.
            let any: IpAddr = if address.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
            let deadline = Instant::now() + RESOLVE;
            let nudge = UdpSocket::bind((any, 0)).map_err(Error::io("open a socket"))?;
            stay_on(&nudge, &self.name).map_err(Error::io(format!("bind a socket to {}", self.name)))?;
            if nudge.send_to(&[], (address, 9)).is_err() {
                return Err(missing());
            }
            while Instant::now() < deadline {
                if let Some(mac) = known_neighbour(&self.name, address)? {
                    return Ok(mac);
                }
                thread::sleep(Duration::from_millis(10));
            }
            Err(missing())
        })
    }
}

/// Whatever the routes say, the socket sends through this device only.
fn stay_on(socket: &UdpSocket, device: &str) -> io::Result<()> {
    let length = libc::socklen_t::try_from(device.len()).map_err(io::Error::other)?;
    // SAFETY: the name's bytes live through the call, and the length is theirs.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_BINDTODEVICE,
            device.as_ptr().cast(),
            length,
        )
    };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// What the kernel's neighbour table has.
fn known_neighbour(device: &str, address: IpAddr) -> Result<Option<Mac>> {
    let output = Command::new("ip")
        .args(["-j", "neigh", "show", "to", &address.to_string(), "dev", device])
        .output()
        .map_err(Error::io("run `ip neigh`"))?;
    let table: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    Ok(table[0]["lladdr"].as_str().and_then(|text| parse_mac(text).ok()))
}

/// Reads `aa:bb:cc:dd:ee:ff`.
///
/// # Errors
/// If it is none.
pub fn parse_mac(text: &str) -> std::result::Result<Mac, String> {
    let bytes: Option<Vec<u8>> = text
        .split(':')
        .map(|byte| (byte.len() <= 2).then(|| u8::from_str_radix(byte, 16).ok()).flatten())
        .collect();
    bytes
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(|| format!("`{text}` is no MAC address such as 02:00:00:00:00:01"))
}

/// Whether the routing tables of the calling thread's namespace send the rest of the world through a device.
fn default_route(device: &str) -> bool {
    let read = |name: &str| fs::read_to_string(format!("/proc/thread-self/net/{name}")).unwrap_or_default();
    route4(&read("route"), device) || route6(&read("ipv6_route"), device)
}

/// Lines of `Iface Destination Gateway Flags RefCnt Use Metric Mask ...`.
fn route4(table: &str, device: &str) -> bool {
    table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).any(|words| {
        words.first() == Some(&device)
            && words.get(1) == Some(&"00000000")
            && words.get(7) == Some(&"00000000")
    })
}

/// Lines of `destination length source length gateway metric references use flags device`.
fn route6(table: &str, device: &str) -> bool {
    table
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .any(|words| words.get(9) == Some(&device) && words.get(1) == Some(&"00"))
}

fn ioctl(socket: i32, device: &str, request: libc::Ioctl) -> io::Result<libc::ifreq> {
    // SAFETY: zeroes are a valid ifreq.
    let mut question: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays 0: names have at most 15.
    for (to, from) in question.ifr_name.iter_mut().take(15).zip(device.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    // SAFETY: the request reads the name and writes the union, both of the structure that lives through the call.
    if unsafe { libc::ioctl(socket, request, &raw mut question) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(question)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let device: Device = "veth0@ns".parse().unwrap();
        assert_eq!((device.name.as_str(), device.netns.as_deref()), ("veth0", Some("ns")));
        assert_eq!(device.to_string(), "veth0@ns");
        for text in ["", "@", "a@", "a@../x", "a/b", "sixteencharacters"] {
            assert!(text.parse::<Device>().is_err(), "{text}");
        }
        assert_eq!(parse_mac("02:0:0:0:0:a"), Ok([2, 0, 0, 0, 0, 10]));
        for text in ["", "1:2:3:4:5", "1:2:3:4:5:6:7", "1:2:3:4:5:x", "001:2:3:4:5:6"] {
            assert!(parse_mac(text).is_err(), "{text}");
        }
    }

    #[test]
    fn default_routes() {
        let table = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
            eth0\t00000000\t0100000A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
            eth1\t0000000A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";
        assert!(route4(table, "eth0") && !route4(table, "eth1") && !route4(table, ""));
        let zero = "0".repeat(32);
        let table =
            format!("{zero} 00 {zero} 00 fe80 400 1 0 3 eth0\nfe80 40 {zero} 00 {zero} 100 1 0 1 eth1\n");
        assert!(route6(&table, "eth0") && !route6(&table, "eth1"));
    }
}
