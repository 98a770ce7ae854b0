//! Groups and broadcast on the kernel path: what a worker hands on, and copies that somebody else has made up. Needs root.
//! (Conformance with the kernel: `tests/tests/confine/cases/multicast.txt`.)

mod confined;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use afnet_bpf::{Confinement, Joined};
use afnet_tests::{
    netns::Netns,
    packet::{self, Mac},
    process::Process,
    veth::Veth,
    wait,
    wire::Wire,
};
use confined::{Bed, OWN};

const PORT: u16 = 9;
const GROUPS: [&str; 2] = ["239.1.2.3", "ff05::1234"];

/// In the compartment: a socket on all addresses that has joined the groups, and prints what it hears.
const HEAR: &str = "
import socket, struct
s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
s.bind(('::', 9))
index = socket.if_nametoindex('dev0')
s.setsockopt(socket.IPPROTO_IP, 35, socket.inet_aton('239.1.2.3') + struct.pack('=II', 0, index))
s.setsockopt(socket.IPPROTO_IPV6, 20, socket.inet_pton(socket.AF_INET6, 'ff05::1234') + struct.pack('=I', index))
print('socket', s.fileno(), '.', flush=True)
while True: print('heard', s.recv(100).decode(), '.', flush=True)
";

/// A device with a peer, a host link, a compartment's socket, and one of the host.
struct Groups {
    bed: Bed,
    _peer: Netns,
    confinement: Confinement,
    device: u32,
    /// The peer's end.
    wire: Wire,
    /// The worker's end of the host link.
    worker: Wire,
    /// On the IPv4 group, and on the IPv6 group.
    host: [UdpSocket; 2],
    inside: Process,
}

impl Groups {
    fn new(label: &str) -> Self {
        let (bed, peer) = (Bed::new(label), Netns::new(&format!("{label}-peer")));
        Veth::default().connect((&bed.ns, "dev0"), (&peer, "peer0"));
        Veth::default().bare().connect((&bed.ns, "host0"), (&bed.ns, "work0"));
        bed.ns.ip("addr add 192.0.2.1/24 dev dev0");
        bed.ns.ip("addr add 2001:db8::1/64 dev dev0 nodad");
        let (device, link) = (bed.ns.ifindex("dev0"), bed.ns.ifindex("host0"));
        let mut confinement = bed.load(device);
        bed.attach(&mut confinement);
        confinement.set_host_link(link);
        bed.ns.enter(|| [device, link].map(|ifindex| confinement.attach_device(ifindex).unwrap()));
        let host = bed.ns.enter(|| {
            let socket = |group: IpAddr| UdpSocket::bind(SocketAddr::new(group, PORT)).unwrap();
            let [four, six] = GROUPS.map(|group| socket(group.parse().unwrap()));
            four.join_multicast_v4(&"239.1.2.3".parse().unwrap(), &Ipv4Addr::new(192, 0, 2, 1)).unwrap();
            six.join_multicast_v6(&"ff05::1234".parse().unwrap(), device).unwrap();
            [four, six]
        });
        for socket in &host {
            socket.set_read_timeout(Some(wait::PATIENCE)).unwrap();
        }
        let mut inside = Process::spawn(&mut bed.python(HEAR));
        inside.wait_for_output("socket");
        let (wire, worker) = (Wire::open(&peer, "peer0"), Wire::open(&bed.ns, "work0"));
        Self { bed, _peer: peer, confinement, device, wire, worker, host, inside }
    }

    /// A datagram of the peer's to a group or to broadcast.
    fn datagram(to: &str, mac: Mac, text: &str) -> Vec<u8> {
        let to: IpAddr = to.parse().unwrap();
        let from: IpAddr = if to.is_ipv4() { [192, 0, 2, 100].into() } else { from6().into() };
        packet::udp(([2, 0, 0, 0, 0, 100], mac), (from, 1000).into(), (to, PORT).into(), text.as_bytes())
    }

    /// The address by which a worker says which device it is from.
    fn by_worker(ifindex: u32) -> Mac {
        let [a, b, c, d] = ifindex.to_be_bytes();
        [0x03, 0xaf, a, b, c, d]
    }

    /// What the compartment's socket has heard, once that includes `last`.
    fn heard(&mut self, last: &str) -> Vec<String> {
        self.inside.wait_for_output(&format!("heard {last} ."));
        heard(&self.inside)
    }

    /// A descriptor of the compartment's socket.
    fn socket(&self) -> OwnedFd {
        let output = self.inside.output();
        let number: i32 = output.split_whitespace().nth(1).expect("its number").parse().unwrap();
        // SAFETY: system calls of numbers alone; the descriptors that they return are owned by nobody else.
        unsafe {
            let process = libc::syscall(libc::SYS_pidfd_open, self.inside.id(), 0);
            let process = OwnedFd::from_raw_fd(i32::try_from(process).unwrap());
            let fd = libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), number, 0);
            OwnedFd::from_raw_fd(i32::try_from(fd).unwrap())
        }
    }
}

/// What the compartment's socket has heard so far.
fn heard(inside: &Process) -> Vec<String> {
    let output = inside.output();
    let lines = output.lines().filter_map(|line| line.strip_prefix("heard ")?.strip_suffix(" ."));
    lines.map(str::to_owned).collect()
}

fn from6() -> Ipv6Addr {
    "2001:db8::100".parse().unwrap()
}

fn mac_of(group: &str) -> Mac {
    match group.parse().unwrap() {
        IpAddr::V4(v4) if v4.is_broadcast() => [0xff; 6],
        IpAddr::V4(v4) => {
            let [_, a, b, c] = v4.octets();
            [0x01, 0x00, 0x5e, a & 0x7f, b, c]
        }
        IpAddr::V6(v6) => packet::multicast_mac(v6),
    }
}

fn received(socket: &UdpSocket) -> String {
    let mut buffer = [0; 100];
    let (length, _) = socket.recv_from(&mut buffer).expect("a datagram at the host's socket");
    String::from_utf8_lossy(&buffer[..length]).into_owned()
}

#[test]
fn a_workers_frame_goes_to_those_who_have_not_had_it() {
    let mut groups = Groups::new("group");
    let cookie = rustix::net::sockopt::socket_cookie(groups.socket()).unwrap();
    for (host, group) in groups.host.iter().zip(GROUPS) {
        let text = |number: u32| format!("{group}-{number}");
        let by_worker = Groups::by_worker(groups.device);
        let say = |wire: &Wire, mac, number| {
            wire.send(&Groups::datagram(group, mac, &text(number)));
            assert_eq!(received(host), text(number));
        };
        say(&groups.worker, by_worker, 1);
        let had = |which: &str, on| {
            groups.confinement.set_replicated(cookie, groups.device, which.parse().unwrap(), on).unwrap();
        };
        had(group, true);
        say(&groups.worker, by_worker, 2);
        // What comes from the wire nobody has had.
        say(&groups.wire, mac_of(group), 3);
        had(group, false);
        // Another group is another matter.
        had("224.0.0.1", true);
        say(&groups.worker, by_worker, 4);
        groups.inside.wait_for_output(&format!("heard {} .", text(4)));
        let heard = heard(&groups.inside);
        let of_group: Vec<&String> = heard.iter().filter(|line| line.starts_with(group)).collect();
        assert_eq!(of_group, [&text(1), &text(3), &text(4)]);
    }
}

#[test]
fn a_socket_is_in_a_group_until_it_leaves() {
    let mut groups = Groups::new("joined");
    let socket = groups.socket();
    let cookie = rustix::net::sockopt::socket_cookie(&socket).unwrap();
    for group in GROUPS {
        let group = group.parse().unwrap();
        let device = groups.device;
        let joined = Joined { slot: 1, cookie, port: PORT, ifindex: device, group };
        let Groups { bed, confinement, .. } = &mut groups;
        // Its own thread there has it for the time.
        let mut ask = |joined: &Joined| {
            let confinement: &mut Confinement = confinement;
            bed.ns.enter(move || confinement.joined(joined))
        };
        let time = ask(&joined);
        assert!(time.is_some() && ask(&joined) == time, "{group}: {time:?}");
        let other = if group.is_ipv4() { "239.1.2.4" } else { "ff05::1235" };
        for wrong in [
            Joined { slot: 2, ..joined },
            Joined { slot: 9999, ..joined },
            Joined { cookie: cookie + 1, ..joined },
            Joined { port: PORT + 1, ..joined },
            Joined { ifindex: 1, ..joined },
            Joined { group: other.parse().unwrap(), ..joined },
        ] {
            assert_eq!(ask(&wrong), None, "{wrong:?}");
        }
        // Left and joined again, at once: another time, and so whenever it is asked.
        for option in [libc::MCAST_LEAVE_GROUP, libc::MCAST_JOIN_GROUP] {
            change(&socket, option, device, group);
            let now = ask(&joined);
            assert_eq!(now.is_some(), option == libc::MCAST_JOIN_GROUP);
            assert_ne!(now, time);
        }
    }
}

/// Joins or leaves: `struct group_req`.
fn change(socket: &OwnedFd, option: i32, ifindex: u32, group: IpAddr) {
    let mut request = [0u8; 136];
    request[..4].copy_from_slice(&ifindex.to_ne_bytes());
    let (level, family) = match group {
        IpAddr::V4(group) => {
            request[12..16].copy_from_slice(&group.octets());
            (libc::IPPROTO_IP, libc::AF_INET)
        }
        IpAddr::V6(group) => {
            request[16..32].copy_from_slice(&group.octets());
            (libc::IPPROTO_IPV6, libc::AF_INET6)
        }
    };
    request[8..10].copy_from_slice(&u16::try_from(family).unwrap().to_ne_bytes());
    // SAFETY: the request is as long as is said, and lives through the call.
    let answer = unsafe {
        let request: *const u8 = request.as_ptr();
        libc::setsockopt(socket.as_raw_fd(), level, option, request.cast(), 136)
    };
    assert_eq!(answer, 0, "{}", std::io::Error::last_os_error());
}

#[test]
fn a_workers_broadcast_arrives() {
    let mut groups = Groups::new("broadcast");
    let by_worker = Groups::by_worker(groups.device);
    for to in ["255.255.255.255", "192.0.2.255"] {
        groups.worker.send(&Groups::datagram(to, by_worker, to));
        groups.heard(to);
    }
}

#[test]
fn a_workers_frame_goes_nowhere_else() {
    let mut groups = Groups::new("nowhere");
    let datagram = |ifindex| Groups::datagram(GROUPS[0], Groups::by_worker(ifindex), "lost");
    // Devices that there are not, and that are not ours.
    for ifindex in [0, 9999, u32::MAX, groups.bed.ns.ifindex("work0")] {
        groups.worker.send(&datagram(ifindex));
    }
    // Of a realm that the kernel path does not serve.
    groups.worker.send(&packet::tag(datagram(groups.device), &[(0x8100, 5)]));
    groups.wire.send(&packet::tag(Groups::datagram(GROUPS[0], mac_of(GROUPS[0]), "lost"), &[(0x8100, 5)]));
    // From the wire this address says nothing.
    groups.wire.send(&Groups::datagram("239.1.2.4", Groups::by_worker(groups.device), "lost"));
    groups.worker.send(&Groups::datagram(GROUPS[0], Groups::by_worker(groups.device), "last"));
    assert_eq!(groups.heard("last"), ["last"]);
    assert_eq!(received(&groups.host[0]), "last");
}

#[test]
fn copies_that_somebody_makes_up_give_nothing_away() {
    let mut groups = Groups::new("forged");
    let copy = |flags: u8, slot: u16| {
        let [a, b] = slot.to_be_bytes();
        [0x07, 0xaf, 0, flags, a, b]
    };
    for flags in 0..8 {
        for slot in [0, 1, 2, 3, 15, 16, 4096, u16::MAX] {
            // A group that only the host has joined is none of the compartment's business.
            groups.wire.send(&Groups::datagram("224.0.0.251", copy(flags, slot), "forged"));
            // With slot 0 it is as any frame.
            if slot != 0 {
                groups.wire.send(&Groups::datagram(OWN, copy(flags, slot), "forged"));
            }
        }
    }
    groups.wire.send(&Groups::datagram(GROUPS[0], copy(0, 1), "once"));
    groups.wire.send(&Groups::datagram(GROUPS[0], mac_of(GROUPS[0]), "last"));
    let heard = groups.heard("last");
    assert_eq!(heard.iter().filter(|text| *text == "once").count(), 1, "{heard:?}");
    assert_eq!(heard.last().map(String::as_str), Some("last"));
    assert!(!heard.iter().any(|text| text == "forged"), "{heard:?}");
}
