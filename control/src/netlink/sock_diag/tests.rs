//! Against the kernel, in a network namespace of the test thread's own. Its kernel has CONFIG_INET_DIAG_DESTROY, or
//! says that it has not.

use std::io::{ErrorKind, Read};
use std::net::{Ipv6Addr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

use rustix::net::sockopt::{set_ipv6_v6only, set_socket_reuseport, socket_error};
use rustix::net::{AddressFamily, SocketType, bind, listen, socket};

use super::*;
use crate::netlink::Netlink;
use crate::netlink::local::LOOPBACK;
use crate::netlink::tests::{in_namespace, ip, is_local};
use crate::registry::bits;

const V4: &str = "192.0.2.10";
const V6: &str = "2001:db8::10";
/// Not to be touched.
const OTHER: &str = "192.0.2.12";
const OTHER6: &str = "2001:db8::11";

fn prefix(text: &str) -> Prefix {
    Prefix { address: ip(text), len: bits(ip(text)) }
}

fn destroy(diag: &mut SockDiag, prefix: Prefix, which: Which) -> Result<usize, Error> {
    diag.destroy_local(prefix, which, |_| true)
}

/// With the addresses on `lo`.
fn in_host(test: impl FnOnce(&mut SockDiag) + Send) {
    in_namespace(|| {
        let mut netlink = Netlink::open().unwrap();
        netlink.set_up(LOOPBACK).unwrap();
        [V4, V6, OTHER, OTHER6].iter().for_each(|a| {
            netlink.add_address(LOOPBACK, ip(a)).unwrap();
            is_local(&mut netlink, ip(a));
        });
        test(&mut SockDiag::open().unwrap());
    });
}

/// A connection from another address: an end that is destroyed resets the other one.
fn connect(to: SocketAddr) -> TcpStream {
    let (family, from) = if to.is_ipv4() || matches!(to.ip(), IpAddr::V6(a) if a.to_ipv4_mapped().is_some()) {
        (AddressFamily::INET, OTHER)
    } else {
        (AddressFamily::INET6, OTHER6)
    };
    let client = socket(family, SocketType::STREAM, None).unwrap();
    bind(&client, &SocketAddr::new(ip(from), 0)).unwrap();
    rustix::net::connect(&client, &SocketAddr::new(to.ip().to_canonical(), to.port())).unwrap();
    client.into()
}

/// A listener and both ends of a connection to it.
fn connection(address: IpAddr) -> (TcpListener, TcpStream, TcpStream) {
    let listener = TcpListener::bind((address, 0)).unwrap();
    let client = connect(listener.local_addr().unwrap());
    let (server, _) = listener.accept().unwrap();
    for stream in [&client, &server] {
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    }
    (listener, client, server)
}

#[track_caller]
fn is_closed(mut stream: TcpStream) {
    let error = stream.read(&mut [0]).expect_err("still open");
    assert!(matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset), "{error}");
}

#[track_caller]
fn is_open(stream: &TcpStream) {
    assert_eq!(socket_error(stream).unwrap(), Ok(()));
    assert!(stream.peer_addr().is_ok());
}

#[test]
fn connections_of_an_address_are_closed_and_no_others() {
    in_host(|diag| {
        let mapped = IpAddr::V6(V4.parse::<std::net::Ipv4Addr>().unwrap().to_ipv6_mapped());
        for (address, of) in [(ip(V4), V4), (mapped, V4), (ip(V6), V6)] {
            let (listener, client, server) = connection(address);
            let (_other_listener, other_client, other_server) = connection(ip(OTHER));
            assert_eq!(destroy(diag, prefix(of), Which::TcpConnections), Ok(1), "{address}");
            is_closed(client);
            is_closed(server);
            is_open(&other_client);
            is_open(&other_server);
            let _again = connect(listener.local_addr().unwrap());
            let all = destroy(diag, prefix(of), Which::Tcp).unwrap();
            assert!(
                (1..=2).contains(&all),
                "{address}: the listener, which takes along what it has not accepted"
            );
            let refused = TcpStream::connect(listener.local_addr().unwrap()).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
            assert_eq!(destroy(diag, prefix(of), Which::Tcp), Ok(0), "{address}");
        }
    });
}

#[test]
fn a_wildcard_listener_stays_and_its_connections_go() {
    in_host(|diag| {
        let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let [four, six, other] = [V4, V6, OTHER].map(|a| connect((ip(a), port).into()));
        let wide = Prefix { address: ip("192.0.2.8"), len: 31 };
        assert_eq!(destroy(diag, wide, Which::Tcp), Ok(0));
        let wide = Prefix { len: 30, ..wide };
        assert_eq!(diag.destroy_local(wide, Which::Tcp, |address| address != ip(V4)), Ok(0));
        assert_eq!(destroy(diag, wide, Which::TcpConnections), Ok(1));
        is_closed(four);
        is_open(&other);
        is_open(&six);
        assert_eq!(destroy(diag, prefix(V6), Which::Tcp), Ok(1));
        is_closed(six);
        connect((ip(V4), port).into());
    });
}

#[test]
fn every_listener_of_a_reuseport_group_is_closed() {
    in_host(|diag| {
        let group: Vec<_> = (0..9)
            .map(|_| {
                let one = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
                set_socket_reuseport(&one, true).unwrap();
                bind(&one, &SocketAddr::new(ip(V4), 8080)).unwrap();
                listen(&one, 1).unwrap();
                one
            })
            .collect();
        assert_eq!(destroy(diag, prefix(V4), Which::Tcp), Ok(group.len()));
        assert!(TcpStream::connect((ip(V4), 8080)).is_err());
    });
}

#[test]
fn udp_sockets_hear_that_their_address_is_gone() {
    in_host(|diag| {
        for address in [V4, V6] {
            let bound = UdpSocket::bind((ip(address), 0)).unwrap();
            let connected = UdpSocket::bind((ip(address), 0)).unwrap();
            connected.connect(bound.local_addr().unwrap()).unwrap();
            let other = UdpSocket::bind((ip(OTHER), 0)).unwrap();
            let wildcard = UdpSocket::bind("[::]:0").unwrap();
            assert_eq!(destroy(diag, prefix(address), Which::UdpConnected), Ok(1));
            assert_eq!(socket_error(&connected).unwrap(), Err(Errno::CONNABORTED));
            assert!(connected.peer_addr().is_err());
            assert_eq!(socket_error(&bound).unwrap(), Ok(()));
            assert_eq!(destroy(diag, prefix(address), Which::Udp), Ok(1), "one has lost its port");
            assert_eq!(socket_error(&bound).unwrap(), Err(Errno::CONNABORTED));
            for socket in [other, wildcard] {
                assert_eq!(socket_error(&socket).unwrap(), Ok(()));
            }
        }
        // IPv4-mapped: bound, and connected.
        let mapped = |a: &str| SocketAddr::new(format!("::ffff:{a}").parse().unwrap(), 0);
        let bound = UdpSocket::bind(mapped(V4)).unwrap();
        let connected = UdpSocket::bind(mapped(V4)).unwrap();
        connected.connect(bound.local_addr().unwrap()).unwrap();
        assert_eq!(destroy(diag, prefix(V4), Which::Udp), Ok(2));
        assert_eq!(socket_error(&connected).unwrap(), Err(Errno::CONNABORTED));
    });
}

#[test]
fn wildcard_udp_sockets_are_listed() {
    in_host(|diag| {
        let four = UdpSocket::bind("0.0.0.0:0").unwrap();
        let six = socket(AddressFamily::INET6, SocketType::DGRAM, None).unwrap();
        set_ipv6_v6only(&six, true).unwrap();
        bind(&six, &"[::]:53".parse::<SocketAddr>().unwrap()).unwrap();
        let exact = UdpSocket::bind((ip(V4), 0)).unwrap();
        let connected = UdpSocket::bind("0.0.0.0:0").unwrap();
        connected.connect((ip(V4), 9)).unwrap();
        let mut all = diag.wildcard_udp().unwrap();
        all.sort_by_key(|s| s.local.is_ipv6());
        let locals: Vec<_> = all.iter().map(|s| s.local).collect();
        assert_eq!(locals, [four.local_addr().unwrap(), "[::]:53".parse().unwrap()]);
        let inode = std::fs::read_link(format!("/proc/self/fd/{}", four.as_raw_fd())).unwrap();
        assert_eq!(inode.to_string_lossy(), format!("socket:[{}]", all[0].inode));
        assert_eq!(all[0].uid, 0);
        drop(exact);
    });
}
