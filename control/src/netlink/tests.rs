//! Against the kernel, in a network namespace of the test thread's own.

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::thread;

use rustix::thread::{UnshareFlags, unshare_unsafe};

use super::addr::KernelAddress;
use super::events::{Event, Events};
use super::host_link::HostLink;
use super::link::VethPair;
use super::local::{LOOPBACK, LocalRoute};
use super::neigh::State;
use super::route::{Kind, RouteQuery};
use super::*;
use crate::registry::Prefix;

/// Runs `test` on a thread with an empty network namespace; it goes with the thread.
pub(super) fn in_namespace(test: impl FnOnce() + Send) {
    thread::scope(|scope| {
        let result = scope
            .spawn(|| {
                // SAFETY: CLONE_NEWNET changes no memory or descriptors of the thread.
                unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.expect("needs root");
                test();
            })
            .join();
        if let Err(panic) = result {
            std::panic::resume_unwind(panic);
        }
    });
}

pub(super) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Waits until the kernel takes an address for its own: IPv6 ones get their route from a work queue.
pub(super) fn is_local(netlink: &mut Netlink, address: IpAddr) {
    let query = RouteQuery { dst: address, src: None, oif: None };
    afnet_tests::wait::until_true("the address to have its route", || {
        netlink.route(&query).is_ok_and(|found| found.kind == Kind::Local)
    });
}

/// A pair `a` - `b`, both up; returns the index of `a`.
fn pair(netlink: &mut Netlink) -> u32 {
    netlink.add_veth(&VethPair { name: "a", peer: "b", queues: 2, mtu: 3000 }).unwrap();
    for name in ["a", "b"] {
        let link = netlink.link(name).unwrap();
        netlink.set_up(link.ifindex).unwrap();
    }
    netlink.link("a").unwrap().ifindex
}

#[test]
fn links_are_made_read_and_removed() {
    in_namespace(|| {
        let mut netlink = Netlink::open().unwrap();
        assert_eq!(netlink.link("a").unwrap_err().errno, Errno::NODEV);
        let index = pair(&mut netlink);
        let link = netlink.link("a").unwrap();
        assert_eq!((link.mtu, link.rx_queues, link.up, link.ethernet), (3000, 2, true, true));
        assert!(link.mac.is_some() && link.xdp.is_none());
        let again = netlink.add_veth(&VethPair { name: "a", peer: "c", queues: 1, mtu: 1500 }).unwrap_err();
        assert_eq!(again.errno, Errno::EXIST);
        let lo = netlink.link("lo").unwrap();
        assert!(!lo.ethernet);
        netlink.del_link(index).unwrap();
        assert_eq!(netlink.links().unwrap().iter().map(|l| l.name.as_str()).collect::<Vec<_>>(), ["lo"]);
    });
}

#[test]
fn addresses_are_marked_as_ours() {
    in_namespace(|| {
        let mut netlink = Netlink::open().unwrap();
        let index = pair(&mut netlink);
        for text in ["192.0.2.10", "2001:db8::10"] {
            netlink.add_address(index, ip(text)).unwrap();
            assert_eq!(netlink.add_address(index, ip(text)).unwrap_err().errno, Errno::EXIST);
            let all = netlink.addresses().unwrap();
            let found = all.iter().find(|a| a.address == ip(text)).unwrap();
            assert!(
                found.ours && found.ifindex == index && found.prefix_len == crate::registry::bits(ip(text))
            );
        }
        netlink.del_address(index, ip("192.0.2.10")).unwrap();
        let gone = netlink.del_address(index, ip("192.0.2.10")).unwrap_err();
        assert_eq!(gone.errno, Errno::ADDRNOTAVAIL);
        let what = gone.refused("taking 192.0.2.10 from a");
        assert!(what.message.starts_with("taking 192.0.2.10 from a: "), "{what}");
    });
}

#[test]
fn routes_are_those_of_the_kernel() {
    in_namespace(|| {
        let mut netlink = Netlink::open().unwrap();
        let index = pair(&mut netlink);
        let query = |dst: &str| RouteQuery { dst: ip(dst), src: None, oif: None };
        assert_eq!(netlink.route(&query("192.0.2.1")).unwrap_err().errno, Errno::NETUNREACH);
        assert_eq!(netlink.route(&query("2001:db8::1")).unwrap_err().errno, Errno::NETUNREACH);
        netlink.add_address(index, ip("192.0.2.10")).unwrap();
        for (prefix, len, dst) in [("192.0.2.0", 24, "192.0.2.1"), ("2001:db8::", 64, "2001:db8::1")] {
            let prefix = Prefix { address: ip(prefix), len };
            netlink.add_route(prefix, index, None).unwrap();
            let found = netlink.route(&query(dst)).unwrap();
            assert_eq!((found.kind, found.oif, found.gateway), (Kind::Unicast, index, None));
            assert_eq!(netlink.fib_prefix(&query(dst)).unwrap(), len);
            netlink.del_route(prefix, index).unwrap();
        }
        assert_eq!(netlink.route(&query("192.0.2.10")).unwrap().kind, Kind::Local);
        let foreign = RouteQuery { src: Some(ip("192.0.2.99")), ..query("192.0.2.10") };
        assert!(netlink.route(&foreign).is_err(), "a source that the kernel does not hold");
    });
}

#[test]
fn a_prefix_is_the_kernels_while_it_has_a_local_route() {
    in_namespace(|| {
        let mut netlink = Netlink::open().unwrap();
        let index = pair(&mut netlink);
        netlink.set_up(LOOPBACK).unwrap();
        let prefix = |text: &str, len| Prefix { address: ip(text), len };
        for (prefix, inside) in [
            (prefix("198.51.100.16", 28), "198.51.100.20:0"),
            (prefix("2001:db8:1::", 64), "[2001:db8:1::5]:0"),
        ] {
            let (here, there) = (LocalRoute { prefix, device: index }, LocalRoute { prefix, device: 99 });
            for route in [here, there, here] {
                netlink.add_local_route(route, Some(1500)).unwrap();
            }
            let mut all = netlink.local_routes().unwrap();
            all.sort_by_key(|r| r.device);
            assert_eq!(all, [here, there]);
            // Either one suffices.
            netlink.del_local_route(there).unwrap();
            netlink.del_local_route(there).unwrap();
            let to: SocketAddr = inside.parse().unwrap();
            let query = RouteQuery { dst: to.ip(), src: None, oif: None };
            let found = netlink.route(&query).unwrap();
            assert_eq!((found.kind, found.mtu), (Kind::Local, Some(1500)));
            let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let server = TcpListener::bind(any).unwrap();
            let to = SocketAddr::new(to.ip(), server.local_addr().unwrap().port());
            let client = TcpStream::connect(to).unwrap();
            assert_eq!(client.peer_addr().unwrap(), to);
            netlink.del_local_route(here).unwrap();
            assert!(netlink.local_routes().unwrap().is_empty());
            assert!(netlink.route(&query).is_err(), "{to}");
        }
        // What others have made is not ours, nor in our way.
        netlink.add_address(LOOPBACK, ip("192.0.2.1")).unwrap();
        let all = LocalRoute { prefix: prefix("192.0.2.1", 32), device: index };
        netlink.add_local_route(all, None).unwrap();
        assert_eq!(netlink.local_routes().unwrap(), [all]);
        netlink.del_local_route(all).unwrap();
        let query = RouteQuery { dst: ip("192.0.2.1"), src: None, oif: None };
        assert_eq!(netlink.route(&query).unwrap().kind, Kind::Local);
    });
}

#[test]
fn addresses_of_lo_are_no_sources_by_themselves() {
    in_namespace(|| {
        let mut netlink = Netlink::open().unwrap();
        netlink.set_up(LOOPBACK).unwrap();
        let address = ip("fdaf:6e65:7400::102");
        netlink.add_address(LOOPBACK, address).unwrap();
        assert_eq!(netlink.add_address(LOOPBACK, address).unwrap_err().errno, Errno::EXIST);
        let wanted = KernelAddress {
            ifindex: LOOPBACK,
            address,
            prefix_len: 128,
            ours: true,
            deprecated: true,
            tentative: false,
            failed: false,
        };
        assert!(netlink.addresses().unwrap().contains(&wanted));
        is_local(&mut netlink, address);
        // Usable, but chosen for nobody who has not asked.
        let server = TcpListener::bind((address, 0)).unwrap();
        let client = TcpStream::connect(server.local_addr().unwrap()).unwrap();
        assert_eq!(client.peer_addr().unwrap().ip(), address);
        let client = TcpStream::connect((ip("::1"), server.local_addr().unwrap().port()));
        assert_eq!(client.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        netlink.del_address(LOOPBACK, address).unwrap();
        assert!(!netlink.addresses().unwrap().contains(&wanted));
    });
}

#[test]
fn neighbours_are_resolved_on_demand_and_told() {
    in_namespace(|| {
        let mut netlink = Netlink::open().unwrap();
        let mut events = Events::open().unwrap();
        let index = pair(&mut netlink);
        // Without any address there is no local table, and the kernel takes all of IPv4 for broadcast addresses.
        netlink.add_address(index, ip("192.0.2.10")).unwrap();
        netlink.add_neighbour(index, ip("192.0.2.1"), [2, 0, 0, 0, 0, 1]).unwrap();
        let all = netlink.neighbours().unwrap();
        let known = all.iter().find(|n| n.address == ip("192.0.2.1")).unwrap();
        assert_eq!(known.state, State::Known { mac: [2, 0, 0, 0, 0, 1], stale: false });
        netlink.use_neighbour(index, ip("192.0.2.2")).unwrap();
        netlink.del_neighbour(index, ip("192.0.2.1")).unwrap();
        netlink.del_link(index).unwrap();
        let mut seen = Vec::new();
        events.drain(|event| seen.push(event)).unwrap();
        let neighbour = |address: &str, wanted: State| {
            seen.iter()
                .any(|e| matches!(e, Event::Neighbour(n) if n.address == ip(address) && n.state == wanted))
        };
        assert!(neighbour("192.0.2.1", State::Known { mac: [2, 0, 0, 0, 0, 1], stale: false }));
        // The kernel tells the outcome of resolving, not its start.
        let asked = |e: &Event| matches!(e, Event::NeighbourGone(n) if n.address == ip("192.0.2.2"));
        assert!(seen.iter().any(asked), "{seen:?}");
        assert!(seen.iter().any(|e| matches!(e, Event::Link(l) if l.name == "a" && l.up)));
        assert!(
            seen.iter().any(|e| matches!(e, Event::Address(a) if a.address == ip("192.0.2.10") && a.ours))
        );
        assert!(seen.contains(&Event::LinkGone(index)));
    });
}

#[test]
fn the_host_link_is_made_replaced_and_removed() {
    in_namespace(|| {
        let mut netlink = Netlink::open().unwrap();
        let names = ("afnetHx", "afnetWx");
        let first = HostLink::create(&mut netlink, names, 2, 1500).unwrap();
        let second = HostLink::create(&mut netlink, names, 1, 1500).unwrap();
        assert_ne!(first.kernel.ifindex, second.kernel.ifindex);
        assert_eq!(ethtool::rx_queues("afnetHx"), Some(1));
        for address in ["192.0.2.10", "2001:db8::10"] {
            let prefix = Prefix { address: ip(address), len: crate::registry::bits(ip(address)) };
            second.add_route(&mut netlink, prefix, None).unwrap();
            let query = RouteQuery { dst: ip(address), src: None, oif: None };
            assert_eq!(netlink.route(&query).unwrap().oif, second.kernel.ifindex);
            second.del_route(&mut netlink, prefix).unwrap();
            second.del_route(&mut netlink, prefix).unwrap();
        }
        assert!(netlink.addresses().unwrap().is_empty(), "no link-local address");
        second.remove(&mut netlink);
        assert_eq!(netlink.link("afnetWx").unwrap_err().errno, Errno::NODEV);
        second.remove(&mut netlink);
    });
}

#[test]
fn a_buffer_is_cut_into_messages() {
    let one = |len: u32| [&len.to_ne_bytes()[..], &[0; 16]].concat();
    let mut two = one(18);
    two.extend(one(20));
    let (first, rest) = split(&two).unwrap();
    assert_eq!((first.len(), rest.len()), (18, 20));
    assert_eq!(split(rest).unwrap().1.len(), 0);
    for bad in [0u32, 15, 21, u32::MAX] {
        assert_eq!(split(&one(bad)), None, "{bad}");
    }
    assert_eq!(split(&[1, 2]), None);
}
